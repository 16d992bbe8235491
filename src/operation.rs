//! Which HTTP requests are operations on secrets, and on which secret.
//!
//! `ext_authz`, `ext_proc` and REST all ask here, so that what was authorised is
//! what is done.

mod parameters;
mod path;

use std::borrow::Cow;

use crate::{
    policy::{Destination, HttpRequest, InvalidRequest, Question, Verb, canonical_host},
    secret::{BackendName, Catalog, InvalidReference, NameEncoding, SecretRef},
};

use self::parameters::Parameters;
pub use self::{
    parameters::PageParameters,
    path::{SECRETS_PATH, SecretPath},
};

/// Where the mesh sees secret operations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SecretRoutes(Vec<SecretRoute>);

/// Requests to one of `hosts` whose path is [`SecretPath::find`]'s.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretRoute {
    hosts: Vec<HostPattern>,
    prefix: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum HostPattern {
    Any,
    Exact(String),
    /// `vaultmux.*`: the part up to and with the dot.
    Under(String),
}

/// A configured route that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRoute {
    /// Not a host, `*`, or a host that ends in `.*`.
    #[error("host {0:?} is not a host name, `*`, or a name that ends in `.*`")]
    Host(String),
    /// Not an absolute path without trailing slash.
    #[error("prefix {0:?} is not an absolute path without trailing slash")]
    Prefix(String),
    /// A route without hosts would match nothing.
    #[error("a route needs at least one host, `*` means any")]
    NoHost,
}

/// What a request does to secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretOperation {
    /// Lists one backend.
    List {
        /// The backend that the request named; the default one without.
        backend: Option<BackendName>,
        /// Which part of the listing.
        page: PageParameters,
    },
    /// Creates a secret whose name is in the body.
    Create,
    /// Reads secrets whose names are in the body.
    BatchGet,
    /// Tells which versions of one secret there are. Needs `get`: what is told of a
    /// secret, its values aside, is for those who may read it, and not for those who
    /// may list names.
    Versions {
        /// Which secret.
        secret: SecretRef,
    },
    /// Does something to one secret.
    Item {
        /// `get`, `update` or `delete`.
        verb: Verb,
        /// Which secret.
        secret: SecretRef,
        /// `?force=true` of a delete: beyond recovery.
        force: bool,
        /// `?refresh=true` of a read: past the cache.
        refresh: bool,
    },
}

/// A request under a secret route that is not an operation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidOperation {
    /// The method does nothing here; these do.
    #[error("method not allowed")]
    Method {
        /// For the `Allow` header.
        allow: &'static str,
    },
    /// The name, backend, version or field is malformed.
    #[error(transparent)]
    Reference(#[from] InvalidReference),
    /// A known parameter that is given twice or has an impossible value.
    #[error("invalid parameter {0}")]
    Parameter(&'static str),
}

// === impl SecretRoutes ===

impl SecretRoutes {
    /// Routes in the order in which they are tried.
    #[must_use]
    pub fn new(routes: Vec<SecretRoute>) -> Self {
        Self(routes)
    }

    /// What the path is to the first route that matches, if one does.
    /// `host` is canonical; `path` is as sent, without query.
    #[must_use]
    pub fn below<'p>(&self, host: &str, path: &'p str) -> Option<SecretPath<'p>> {
        self.0.iter().find_map(|route| route.below(host, path))
    }
}

impl SecretRoute {
    /// A route from configuration.
    ///
    /// # Errors
    /// [`InvalidRoute`].
    pub fn new(hosts: &[String], prefix: &str) -> Result<Self, InvalidRoute> {
        let valid = prefix.starts_with('/')
            && !prefix.ends_with('/')
            && crate::policy::canonical_path(prefix) == Ok(prefix);
        if !valid {
            return Err(InvalidRoute::Prefix(prefix.to_owned()));
        }
        if hosts.is_empty() {
            return Err(InvalidRoute::NoHost);
        }
        let hosts = hosts.iter().map(|host| HostPattern::parse(host)).collect::<Result<_, _>>()?;
        Ok(Self { hosts, prefix: prefix.to_owned() })
    }

    fn below<'p>(&self, host: &str, path: &'p str) -> Option<SecretPath<'p>> {
        let found = SecretPath::find(&self.prefix, path)?;
        self.hosts.iter().any(|pattern| pattern.matches(host)).then_some(found)
    }
}

// === impl HostPattern ===

impl HostPattern {
    fn parse(text: &str) -> Result<Self, InvalidRoute> {
        if text == "*" {
            return Ok(Self::Any);
        }
        let (name, under) = match text.strip_suffix(".*") {
            Some(name) => (name, true),
            None => (text, false),
        };
        let host = canonical_host(name).ok().filter(|host| host.eq_ignore_ascii_case(name));
        let host = host.ok_or_else(|| InvalidRoute::Host(text.to_owned()))?;
        Ok(if under { Self::Under(format!("{host}.")) } else { Self::Exact(host.into_owned()) })
    }

    fn matches(&self, host: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(name) => host == name,
            Self::Under(start) => host.starts_with(start.as_str()),
        }
    }
}

// === impl SecretOperation ===

impl SecretOperation {
    /// Reads the operation from a method, the path and the query.
    ///
    /// # Errors
    /// [`InvalidOperation`].
    pub fn parse(
        method: &str,
        path: SecretPath<'_>,
        query: Option<&str>,
        catalog: &Catalog,
    ) -> Result<Self, InvalidOperation> {
        let refused = InvalidOperation::Method { allow: path.methods() };
        let parameters = Parameters::parse(query)?;
        let backend = parameters.backend.as_deref();
        let (name, verb) = match (path, method) {
            (SecretPath::Collection, "GET" | "HEAD") => {
                let known = |name| {
                    let known = catalog.backend(name).map(|(name, _)| name.clone());
                    known.ok_or(InvalidReference::UnknownBackend)
                };
                let backend = backend.map(known).transpose()?;
                return Ok(Self::List { backend, page: parameters.page });
            }
            (SecretPath::Collection, "POST") => return Ok(Self::Create),
            (SecretPath::BatchGet, "POST") => return Ok(Self::BatchGet),
            (SecretPath::Item(name), "GET" | "HEAD") => (name, Verb::Get),
            (SecretPath::Item(name), "PUT") => (name, Verb::Update),
            (SecretPath::Item(name), "DELETE") => (name, Verb::Delete),
            (SecretPath::Versions(name), "GET" | "HEAD") => {
                if parameters.version.is_some() || parameters.field.is_some() {
                    return Err(InvalidOperation::Parameter("version or field of all versions"));
                }
                let secret = catalog.locate(name, NameEncoding::Percent, backend)?;
                return Ok(Self::Versions { secret });
            }
            (
                SecretPath::Collection
                | SecretPath::BatchGet
                | SecretPath::Item(_)
                | SecretPath::Versions(_),
                _,
            ) => return Err(refused),
        };
        let Parameters { version, field, force, refresh, .. } = &parameters;
        let secret = catalog.locate_version(name, backend, version.as_deref(), field.as_deref())?;
        if verb != Verb::Get && (version.is_some() || field.is_some()) {
            return Err(InvalidOperation::Parameter("version or field of a write"));
        }
        Ok(Self::Item { verb, secret, force: *force, refresh: *refresh })
    }
}

impl SecretOperation {
    /// What the policies are to be asked before it is done, if a request in the mesh is `by`
    /// what it is asked for. To create something, or to get several, is a question of its
    /// own: names are in the body, and whoever reads that asks again.
    #[must_use]
    pub fn question<'a>(&'a self, by: Option<HttpRequest<'a>>) -> Question<'a> {
        match self {
            Self::List { .. } => Question::Collection { verb: Verb::List, by },
            Self::Create => Question::Collection { verb: Verb::Create, by },
            Self::BatchGet => Question::Collection { verb: Verb::Get, by },
            Self::Versions { secret } => Question::Secret {
                verb: Verb::Get,
                secret: Cow::Borrowed(secret),
                destination: Destination::default(),
                by,
            },
            Self::Item { verb, secret, .. } => Question::Secret {
                verb: *verb,
                secret: Cow::Borrowed(secret),
                destination: Destination::default(),
                by,
            },
        }
    }
}

/// Splits a request target into path and query.
#[must_use]
pub fn split_query(target: &str) -> (&str, Option<&str>) {
    target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)))
}

/// Refuses what no reader should see in a path under a secret route, before a
/// name is taken from it; encoded separators are the name's own business.
///
/// # Errors
/// [`InvalidRequest::Path`].
pub fn check_target(path: &str) -> Result<(), InvalidRequest> {
    let visible = path.bytes().all(|b| (0x21..=0x7e).contains(&b) && b != b'#' && b != b'\\');
    if path.starts_with('/') && visible { Ok(()) } else { Err(InvalidRequest::Path) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::{CatalogEntry, NameGrammar};

    fn catalog() -> Catalog {
        let backend = BackendName::parse("local").expect("valid");
        let grammar = NameGrammar::new("/_+=.@-", 512);
        let backends = [(backend.clone(), CatalogEntry { grammar })];
        Catalog::new(backends.into(), Some(backend), vec![]).expect("valid")
    }

    fn parse(method: &str, below: &str) -> Result<SecretOperation, InvalidOperation> {
        at(method, &format!("{SECRETS_PATH}{below}"))
    }

    fn at(method: &str, target: &str) -> Result<SecretOperation, InvalidOperation> {
        let (path, query) = split_query(target);
        let path = SecretPath::find(SECRETS_PATH, path).expect("below the route");
        SecretOperation::parse(method, path, query, &catalog())
    }

    #[test]
    fn what_is_not_an_operation_is_refused() {
        let refused = [
            ("PATCH", "/a"),
            ("get", "/a"),
            ("POST", "/a"),
            ("DELETE", ""),
            ("PUT", "/"),
            ("GET", "/a//b"),
            ("GET", "//"),
            ("GET", "/../a"),
            ("GET", "/%2e%2e"),
            ("GET", "/a/"),
            ("GET", "/a?backend=other"),
            ("GET", "?backend=other"),
            ("GET", "/a?version=1&version=2"),
            ("GET", "/a?version="),
            ("PUT", "/a?version=1"),
            ("DELETE", "/a?field=x"),
            ("DELETE", "/a?force=yes"),
            ("GET", "?limit=0"),
            ("GET", "?limit=1001"),
            ("GET", "?limit=+1"),
            ("GET", "?limit="),
            ("GET", "?limit=1&limit=1"),
            ("GET", ":batchGet"),
            ("PUT", ":batchGet"),
        ];
        for (method, target) in refused {
            assert!(parse(method, target).is_err(), "{method} {target}");
        }
    }

    #[test]
    fn versions_are_their_secrets() {
        let SecretOperation::Item { secret, .. } = parse("GET", "/pay/db").expect("valid") else {
            panic!("a read");
        };
        for target in ["/v1/versions/pay/db", "/v1/versions/pay%2Fdb?backend=local"] {
            let versions = SecretOperation::Versions { secret: secret.clone() };
            assert_eq!(at("GET", target), Ok(versions), "{target}");
        }
        for (method, target) in [
            ("POST", "/v1/versions/a"),
            ("GET", "/v1/versions/a/"),
            ("GET", "/v1/versions/../a"),
            ("GET", "/v1/versions/a?version=1"),
            ("GET", "/v1/versions/a?field=x"),
            ("GET", "/v1/versions/a?backend=other"),
        ] {
            assert!(at(method, target).is_err(), "{method} {target}");
        }
        assert_eq!(parse("POST", ":batchGet"), Ok(SecretOperation::BatchGet));
    }

    #[test]
    fn spellings_of_one_name_are_one_operation() {
        let plain = parse("GET", "/pay/db").expect("valid");
        for target in ["/pay%2Fdb", "/pay%2fdb", "/pay/db?x=1", "/pay/db?backend=local"] {
            assert_eq!(parse("GET", target).as_ref(), Ok(&plain), "{target}");
        }
        assert_eq!(parse("HEAD", "/pay/db"), Ok(plain));
    }

    #[test]
    fn routes_end_at_segments_and_hosts_at_dots() {
        let route = |hosts: &[&str]| {
            let hosts: Vec<_> = hosts.iter().map(|host| (*host).to_owned()).collect();
            SecretRoutes::new(vec![SecretRoute::new(&hosts, "/v1/secrets").expect("valid")])
        };
        let named = route(&["vaultmux.*", "secrets.test"]);
        assert_eq!(named.below("vaultmux.svc", "/v1/secrets/a"), Some(SecretPath::Item("a")));
        assert_eq!(named.below("secrets.test", "/v1/secrets"), Some(SecretPath::Collection));
        for (host, path) in [
            ("vaultmux", "/v1/secrets/a"),
            ("vaultmuxer.svc", "/v1/secrets/a"),
            ("secrets.test.evil", "/v1/secrets/a"),
            ("secrets.test", "/v1/secretsx"),
            ("secrets.test", "/v1"),
        ] {
            assert_eq!(named.below(host, path), None, "{host}{path}");
        }
        assert_eq!(route(&["*"]).below("any", "/v1/secrets"), Some(SecretPath::Collection));
        for (hosts, prefix) in [
            (vec![], "/a"),
            (vec!["a*".into()], "/a"),
            (vec!["a".into()], "/a/"),
            (vec!["a".into()], "a"),
        ] {
            assert!(SecretRoute::new(&hosts, prefix).is_err(), "{hosts:?} {prefix}");
        }
    }
}
