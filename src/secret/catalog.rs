//! Which backends exist, which grammar each has, and which of them a bare name
//! belongs to.

use std::collections::BTreeMap;

use super::{
    name::{NameEncoding, NameGrammar},
    reference::{
        BackendName, InvalidReference, RawReference, SecretField, SecretRef, SecretVersion,
    },
};

/// The configured backends as far as naming goes. Everything that accepts a
/// secret name or reference from outside asks the catalog for its canonical form.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Catalog {
    backends: BTreeMap<BackendName, CatalogEntry>,
    default: Option<BackendName>,
    /// Longest prefix first.
    routes: Vec<NameRoute>,
}

/// What the catalog knows of one backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CatalogEntry {
    /// Accepted names, with room left for the backend's prefix.
    pub grammar: NameGrammar,
}

/// Names that start with `prefix` belong to `backend`, without the prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameRoute {
    /// Ends in a separator.
    pub prefix: String,
    /// A configured backend.
    pub backend: BackendName,
}

/// A catalog that contradicts itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CatalogError {
    /// `default_backend` is not configured.
    #[error("{0:?} is not one of the backends")]
    UnknownDefault(String),
    /// A route leads to a backend that is not configured.
    #[error("route {prefix:?} leads to backend {backend:?}, which is not one of the backends")]
    UnknownRoute {
        /// The route's prefix.
        prefix: String,
        /// The missing backend.
        backend: String,
    },
    /// A route's prefix is empty or could match half a word.
    #[error("route prefix {0:?} must end in one of / - _ .")]
    RoutePrefix(String),
}

// === impl Catalog ===

impl Catalog {
    /// Builds a catalog and checks that its parts agree.
    ///
    /// # Errors
    /// [`CatalogError`] names the part that refers to nothing.
    pub fn new(
        backends: BTreeMap<BackendName, CatalogEntry>,
        default: Option<BackendName>,
        mut routes: Vec<NameRoute>,
    ) -> Result<Self, CatalogError> {
        if let Some(name) = default.as_ref().filter(|name| !backends.contains_key(*name)) {
            return Err(CatalogError::UnknownDefault(name.to_string()));
        }
        for route in &routes {
            if !route.prefix.ends_with(['/', '-', '_', '.']) {
                return Err(CatalogError::RoutePrefix(route.prefix.clone()));
            }
            if !backends.contains_key(&route.backend) {
                return Err(CatalogError::UnknownRoute {
                    prefix: route.prefix.clone(),
                    backend: route.backend.to_string(),
                });
            }
        }
        routes.sort_by_key(|route| std::cmp::Reverse(route.prefix.len()));
        Ok(Self { backends, default, routes })
    }

    /// The configured backend of that name.
    #[must_use]
    pub fn backend(&self, name: &str) -> Option<(&BackendName, &CatalogEntry)> {
        self.backends.get_key_value(name)
    }

    /// All configured backends, by name.
    pub fn backends(&self) -> impl Iterator<Item = (&BackendName, &CatalogEntry)> {
        self.backends.iter()
    }

    /// The backend that bare names belong to when no route claims them.
    #[must_use]
    pub fn default_backend(&self) -> Option<&BackendName> {
        self.default.as_ref()
    }

    /// Parses `secret://<backend>/<name>[?version=<v>][#<field>]`.
    ///
    /// # Errors
    /// [`InvalidReference`] says what is wrong with it.
    pub fn parse_reference(&self, text: &str) -> Result<SecretRef, InvalidReference> {
        let raw = RawReference::parse(text)?;
        let (backend, entry) = self.backend(raw.backend).ok_or(InvalidReference::UnknownBackend)?;
        Ok(SecretRef {
            backend: backend.clone(),
            name: entry.grammar.canonical(raw.name, NameEncoding::Percent)?,
            version: raw.version,
            field: raw.field,
        })
    }

    /// Finds the secret that a bare name means: in `backend` if one is named,
    /// else where the longest matching route leads, else in the default backend.
    ///
    /// # Errors
    /// [`InvalidReference`] says what is wrong with it.
    pub fn locate(
        &self,
        raw: &str,
        encoding: NameEncoding,
        backend: Option<&str>,
    ) -> Result<SecretRef, InvalidReference> {
        if let Some(wanted) = backend {
            let (backend, entry) = self.backend(wanted).ok_or(InvalidReference::UnknownBackend)?;
            let name = entry.grammar.canonical(raw, encoding)?;
            return Ok(SecretRef::latest(backend.clone(), name));
        }
        if self.routes.is_empty() {
            let backend = self.default.as_ref().ok_or(InvalidReference::NoBackend)?;
            return self.locate(raw, encoding, Some(backend.as_str()));
        }
        // Routes are compared with the decoded name, so that `gcp%2Fa` and
        // `gcp/a` lead to the same secret. This grammar admits all that any
        // store does; the store's own is applied to what is left.
        const WIDEST: NameGrammar = NameGrammar::new("/_+=.@-", 1024);
        let whole = WIDEST.canonical(raw, encoding)?;
        let (backend, rest) =
            match self.routes.iter().find_map(|route| {
                Some((&route.backend, whole.as_str().strip_prefix(&*route.prefix)?))
            }) {
                Some(found) => found,
                None => (self.default.as_ref().ok_or(InvalidReference::NoBackend)?, whole.as_str()),
            };
        self.locate(rest, NameEncoding::Plain, Some(backend.as_str()))
    }

    /// As [`Catalog::locate`], with version and field as they stand in a URL.
    ///
    /// # Errors
    /// [`InvalidReference`] says what is wrong with it.
    pub fn locate_version(
        &self,
        raw: &str,
        backend: Option<&str>,
        version: Option<&str>,
        field: Option<&str>,
    ) -> Result<SecretRef, InvalidReference> {
        let mut secret = self.locate(raw, NameEncoding::Percent, backend)?;
        secret.version = version.map(SecretVersion::parse).transpose()?.unwrap_or_default();
        secret.field = field.map(SecretField::parse).transpose()?;
        Ok(secret)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::InvalidName;

    fn catalog(routes: &[(&str, &str)]) -> Catalog {
        let backend = |name: &str| BackendName::parse(name).expect("valid backend name");
        let entry = |punctuation| CatalogEntry { grammar: NameGrammar::new(punctuation, 255) };
        let backends = [(backend("aws-prod"), entry("/_+=.@-")), (backend("gcp"), entry("-_"))];
        let routes = routes
            .iter()
            .map(|(prefix, name)| NameRoute { prefix: (*prefix).into(), backend: backend(name) })
            .collect();
        Catalog::new(backends.into(), Some(backend("aws-prod")), routes).expect("valid catalog")
    }

    #[test]
    fn malformed_references_are_refused() {
        use InvalidReference as E;
        let long = format!("secret://aws-prod/{}", "a".repeat(500));
        let cases = [
            ("", E::Shape),
            ("secret:/aws-prod/a", E::Shape),
            ("SECRET://aws-prod/a", E::Shape),
            ("secret://aws-prod", E::Shape),
            (long.as_str(), E::TooLong),
            ("secret://nowhere/a", E::UnknownBackend),
            ("secret:///a", E::UnknownBackend),
            ("secret://aws-prod/", E::Name(InvalidName::Empty)),
            ("secret://aws-prod/../b", E::Name(InvalidName::Traversal)),
            ("secret://gcp/a/b", E::Name(InvalidName::Separator('/'))),
            ("secret://aws-prod/a?version=", E::Version),
            ("secret://aws-prod/a?version=1&version=2", E::Version),
            ("secret://aws-prod/a?stage=x", E::Parameter),
            ("secret://aws-prod/a#", E::Field),
            ("secret://aws-prod/a#{x}", E::Field),
        ];
        let catalog = catalog(&[]);
        for (text, expected) in cases {
            assert_eq!(catalog.parse_reference(text), Err(expected), "{text}");
        }
    }

    #[test]
    fn references_survive_parse_and_print() {
        let catalog = catalog(&[]);
        for text in [
            "secret://aws-prod/stripe",
            "secret://aws-prod/pay/db?version=AWSPENDING",
            "secret://aws-prod/pay/db?version=previous#password",
            "secret://gcp/db#/users/0/name",
        ] {
            let parsed = catalog.parse_reference(text).expect(text);
            assert_eq!(parsed.to_string(), text);
        }
        let explicit = catalog.parse_reference("secret://gcp/db?version=latest").expect("valid");
        assert_eq!(explicit.to_string(), "secret://gcp/db");
    }

    #[test]
    fn longest_route_wins_and_its_prefix_is_removed() {
        let catalog = catalog(&[("g/", "gcp"), ("g/aws/", "aws-prod")]);
        let located = |raw| {
            let found = catalog.locate(raw, NameEncoding::Percent, None).expect(raw);
            format!("{}:{}", found.backend, found.name)
        };
        assert_eq!(located("g/key"), "gcp:key");
        assert_eq!(located("g%2Fkey"), "gcp:key");
        assert_eq!(located("g/aws/key"), "aws-prod:key");
        assert_eq!(located("key"), "aws-prod:key");
        assert_eq!(located("ga/key"), "aws-prod:ga/key");
        assert_eq!(
            catalog.locate("g/a/b", NameEncoding::Percent, None),
            Err(InvalidReference::Name(InvalidName::Separator('/')))
        );
    }
}
