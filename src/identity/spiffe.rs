//! SPIFFE IDs of Kubernetes service accounts: parse and print.
//!
//! The shape is Istio's: `spiffe://<trust domain>/ns/<namespace>/sa/<service
//! account>`. It is matched exactly; there is no normalisation, because two
//! spellings of one identity are what bypasses are made of. Grammar: SPIFFE-ID
//! section 2, and the Kubernetes name rules (RFC 1123 label and subdomain).

use std::{fmt, sync::Arc};

/// SPIFFE-ID, section 2.3: implementations support at least this many bytes.
const MAX_ID: usize = 2048;
const SCHEME: &str = "spiffe://";

/// The name of a mesh or cluster whose certificates are trusted.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrustDomain(Arc<str>);

/// A Kubernetes service account.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceAccount {
    namespace: Arc<str>,
    name: Arc<str>,
}

/// A service account in a trust domain: an identity that someone claims.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SpiffeId {
    /// The domain that vouches for the name.
    pub trust_domain: TrustDomain,
    /// The service account.
    pub service_account: ServiceAccount,
}

/// The text is not the SPIFFE ID of a service account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not of the form spiffe://<trust domain>/ns/<namespace>/sa/<service account>")]
pub struct InvalidSpiffeId;

// === impl TrustDomain ===

impl TrustDomain {
    /// Parses a trust domain: lower-case letters, digits, `.`, `-` and `_`.
    ///
    /// # Errors
    /// [`InvalidSpiffeId`] for anything else.
    pub fn parse(text: &str) -> Result<Self, InvalidSpiffeId> {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b);
        let valid = !text.is_empty() && text.len() <= 255 && text.bytes().all(allowed);
        valid.then(|| Self(text.into())).ok_or(InvalidSpiffeId)
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// === impl ServiceAccount ===

impl ServiceAccount {
    /// A service account by its parts.
    ///
    /// # Errors
    /// [`InvalidSpiffeId`] if the namespace is not an RFC 1123 label or the name
    /// not an RFC 1123 subdomain.
    pub fn new(namespace: &str, name: &str) -> Result<Self, InvalidSpiffeId> {
        if !is_namespace(namespace) || !is_subdomain(name) {
            return Err(InvalidSpiffeId);
        }
        Ok(Self { namespace: namespace.into(), name: name.into() })
    }

    /// Parses `namespace/name`.
    ///
    /// # Errors
    /// As [`ServiceAccount::new`].
    pub fn parse(text: &str) -> Result<Self, InvalidSpiffeId> {
        let (namespace, name) = text.split_once('/').ok_or(InvalidSpiffeId)?;
        Self::new(namespace, name)
    }

    /// Its namespace.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Its name within the namespace.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for ServiceAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

// === impl SpiffeId ===

impl SpiffeId {
    /// Parses exactly one form; see the module's documentation.
    ///
    /// # Errors
    /// [`InvalidSpiffeId`] for everything else.
    pub fn parse(text: &str) -> Result<Self, InvalidSpiffeId> {
        if text.len() > MAX_ID {
            return Err(InvalidSpiffeId);
        }
        let rest = text.strip_prefix(SCHEME).ok_or(InvalidSpiffeId)?;
        let mut segments = rest.split('/');
        let mut next = || segments.next().ok_or(InvalidSpiffeId);
        let trust_domain = TrustDomain::parse(next()?)?;
        if next()? != "ns" {
            return Err(InvalidSpiffeId);
        }
        let namespace = next()?;
        if next()? != "sa" {
            return Err(InvalidSpiffeId);
        }
        let service_account = ServiceAccount::new(namespace, next()?)?;
        match segments.next() {
            Some(_) => Err(InvalidSpiffeId),
            None => Ok(Self { trust_domain, service_account }),
        }
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ServiceAccount { namespace, name } = &self.service_account;
        write!(f, "{SCHEME}{}/ns/{namespace}/sa/{name}", self.trust_domain)
    }
}

/// Whether `text` is an RFC 1123 label, as every Kubernetes namespace is.
#[must_use]
pub fn is_namespace(text: &str) -> bool {
    text.len() <= 63 && is_label(text)
}

fn is_label(text: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let ends = [text.bytes().next(), text.bytes().last()];
    ends.iter().all(|end| end.is_some_and(alphanumeric))
        && text.bytes().all(|b| alphanumeric(b) || b == b'-')
}

fn is_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_the_exact_form_is_an_identity() {
        let long = format!("spiffe://cluster.local/ns/prod/sa/{}", "a".repeat(2048));
        let refused = [
            "",
            "spiffe://",
            "spiffe://cluster.local",
            "spiffe://cluster.local/ns/prod/sa/",
            "spiffe://cluster.local/ns/prod/sa/api/",
            "spiffe://cluster.local/ns/prod/sa/api/x",
            "spiffe://cluster.local//ns/prod/sa/api",
            "spiffe://cluster.local/ns//sa/api",
            "spiffe:///ns/prod/sa/api",
            "/ns/prod/sa/api",
            "spiffe://CLUSTER.local/ns/prod/sa/api",
            "SPIFFE://cluster.local/ns/prod/sa/api",
            "Spiffe://cluster.local/ns/prod/sa/api",
            "spiffe://cluster.local/ns/prod/sa/%61pi",
            "spiffe://cluster.local/ns/prod/sa/api?x",
            "spiffe://cluster.local/ns/prod/sa/api#x",
            "spiffe://cluster.local:443/ns/prod/sa/api",
            "spiffe://user@cluster.local/ns/prod/sa/api",
            "spiffe://cluster.local/ns/prod/../sa/api",
            "spiffe://cluster.local/ns/../sa/api",
            "spiffe://cluster.local/ns/./sa/api",
            "spiffe://cluster.local/ns/prod/sa/ap\u{ef}",
            "spiffe://cluster.local/ns/prod/sa/ap!",
            "spiffe://cluster.local/ns/prod/sa/api\0",
            "spiffe://cluster.local/ns/a.b/sa/api",
            "spiffe://cluster.local/NS/prod/sa/api",
            "spiffe://cluster.local/ns/prod/SA/api",
            "spiffe://cluster.local/ns/Prod/sa/api",
            "spiffe://cluster.local/sa/api/ns/prod",
            " spiffe://cluster.local/ns/prod/sa/api",
            "spiffe://cluster.local/ns/prod/sa/api ",
            "CN=api,O=prod",
            "api.prod.svc",
            long.as_str(),
        ];
        for text in refused {
            assert_eq!(SpiffeId::parse(text), Err(InvalidSpiffeId), "{text:?}");
        }
    }

    #[test]
    fn names_with_dots_and_dashes_stay_distinct() {
        let id = |name: &str| {
            SpiffeId::parse(&format!("spiffe://cluster.local/ns/prod/sa/{name}")).expect(name)
        };
        assert_ne!(id("cert-manager.io"), id("cert-manager-io"));
        assert_eq!(id("cert-manager.io").service_account.name(), "cert-manager.io");
    }

    proptest! {
        #[test]
        fn what_parses_prints_as_itself(text in "spiffe://[a-z._-]{0,9}/ns/[a-z.-]{0,5}/sa/[a-z.-]{0,5}") {
            if let Ok(id) = SpiffeId::parse(&text) {
                prop_assert_eq!(id.to_string(), text);
            }
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in "\\PC*") {
            let _ = SpiffeId::parse(&text);
        }
    }
}
