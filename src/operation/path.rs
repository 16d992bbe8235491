//! Which paths of a secret route are what.

/// Path under which REST serves secrets.
pub const SECRETS_PATH: &str = "/v1/secrets";

const BATCH_GET: &str = ":batchGet";

/// A path under a secret route, by what it is for. Names are percent-encoded as sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecretPath<'p> {
    /// `/v1/secrets`, with or without slash at its end.
    Collection,
    /// `/v1/secrets/{name}`.
    Item(&'p str),
    /// `/v1/secrets:batchGet`.
    BatchGet,
    /// `/v1/versions/{name}`.
    Versions(&'p str),
}

// === impl SecretPath ===

impl<'p> SecretPath<'p> {
    /// What a path is below a route's prefix. Versions are found beside it: below
    /// `/v1/versions` for `/v1/secrets`. A prefix of another last segment has none.
    #[must_use]
    pub fn find(prefix: &str, path: &'p str) -> Option<Self> {
        if let Some(rest) = path.strip_prefix(prefix) {
            return match rest {
                "" | "/" => Some(Self::Collection),
                BATCH_GET => Some(Self::BatchGet),
                rest => rest.strip_prefix('/').map(Self::Item),
            };
        }
        let parent = prefix.strip_suffix("secrets").filter(|parent| parent.ends_with('/'))?;
        let name = path.strip_prefix(parent)?.strip_prefix("versions/")?;
        (!name.is_empty()).then_some(Self::Versions(name))
    }

    /// The methods that do something there, as in an `Allow` header.
    #[must_use]
    pub fn methods(self) -> &'static str {
        match self {
            Self::Collection => "GET, HEAD, POST, OPTIONS",
            Self::Item(_) => "GET, HEAD, PUT, DELETE, OPTIONS",
            Self::BatchGet => "POST, OPTIONS",
            Self::Versions(_) => "GET, HEAD, OPTIONS",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_end_where_segments_do() {
        use SecretPath as P;
        for (prefix, path, expected) in [
            (SECRETS_PATH, "/v1/secrets", Some(P::Collection)),
            (SECRETS_PATH, "/v1/secrets/", Some(P::Collection)),
            (SECRETS_PATH, "/v1/secrets/a/b", Some(P::Item("a/b"))),
            (SECRETS_PATH, "/v1/secrets//", Some(P::Item("/"))),
            (SECRETS_PATH, "/v1/secrets/:batchGet", Some(P::Item(":batchGet"))),
            (SECRETS_PATH, "/v1/secrets:batchGet", Some(P::BatchGet)),
            (SECRETS_PATH, "/v1/versions/a%2Fb", Some(P::Versions("a%2Fb"))),
            (SECRETS_PATH, "/v1/secrets:batchGet/", None),
            (SECRETS_PATH, "/v1/secrets:batchget", None),
            (SECRETS_PATH, "/v1/secrets%3AbatchGet", None),
            (SECRETS_PATH, "/v1/secretsx", None),
            (SECRETS_PATH, "/v1/versions", None),
            (SECRETS_PATH, "/v1/versions/", None),
            (SECRETS_PATH, "/v1/versionsx/a", None),
            (SECRETS_PATH, "/versions/a", None),
            ("/team/secrets", "/team/versions/a", Some(P::Versions("a"))),
            ("/secrets", "/versions/a", Some(P::Versions("a"))),
            ("/mysecrets", "/myversions/a", None),
            ("/vault", "/versions/a", None),
        ] {
            assert_eq!(P::find(prefix, path), expected, "{path} under {prefix}");
        }
    }
}
