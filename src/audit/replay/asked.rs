//! From a line back to the question that it answers.

use std::{borrow::Cow, fmt};

use crate::{
    audit::{AuditLine, AuditedDestination, AuditedHttp, AuditedPrincipal, Operation},
    identity::{IdentityError, Principal, ProofKind, ServiceAccount, Supposed, TrustDomain},
    policy::{Connection, Destination, HttpRequest, Question, Verb},
    secret::{Catalog, InvalidReference, NameEncoding, SecretField, SecretRef, SecretVersion},
};

/// Why a line is not asked again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NotAsked {
    /// No policy had a say: nobody was proven, or the request has more than one reading.
    NoPolicy,
    /// Its trust domain is not configured.
    TrustDomain,
    /// Its backend is not configured.
    Backend,
    /// Its name is none in the store.
    Name,
    /// The path went on, and rules may depend on how.
    PathCut,
    /// Something in it is unknown here: a newer version's, or nobody's.
    Unknown,
}

// === impl NotAsked ===

impl NotAsked {
    /// The word for programs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoPolicy => "no_policy_asked",
            Self::TrustDomain => "foreign_trust_domain",
            Self::Backend => "unknown_backend",
            Self::Name => "invalid_name",
            Self::PathCut => "path_cut",
            Self::Unknown => "unknown",
        }
    }
}

impl fmt::Display for NotAsked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoPolicy => "refused before any policy was asked",
            Self::TrustDomain => "the trust domain is not configured",
            Self::Backend => "the backend is not configured",
            Self::Name => "the store has no such names",
            Self::PathCut => "the path is longer than what was written of it",
            Self::Unknown => "principal or operation is not known here",
        })
    }
}

// === impl AuditLine ===

impl AuditLine {
    /// Who asked, and what.
    ///
    /// # Errors
    /// [`NotAsked`] if policies cannot be asked that.
    pub(super) fn asked(
        &self,
        catalog: &Catalog,
        trust_domains: &[TrustDomain],
    ) -> Result<(Principal, Question<'_>), NotAsked> {
        // What was refused before the policies has no generation, whoever it was.
        let (Some(principal), Some(operation), 1..) =
            (&self.principal, &self.operation, self.generation)
        else {
            return Err(NotAsked::NoPolicy);
        };
        Ok((principal.supposed(trust_domains)?, operation.question(catalog)?))
    }
}

// === impl AuditedPrincipal ===

impl AuditedPrincipal {
    fn supposed(&self, trust_domains: &[TrustDomain]) -> Result<Principal, NotAsked> {
        let unknown = |_| NotAsked::Unknown;
        let proofs = self.proofs.iter().map(|proof| ProofKind::parse(proof));
        let supposed = Supposed {
            service_account: ServiceAccount::new(&self.namespace, &self.service_account)
                .map_err(unknown)?,
            trust_domain: Some(TrustDomain::parse(&self.trust_domain).map_err(unknown)?),
            proofs: proofs.collect::<Option<_>>().ok_or(NotAsked::Unknown)?,
            bound_to_pod: self.pod.is_some(),
        };
        supposed.principal(trust_domains).map_err(|error| match error {
            IdentityError::ForeignTrustDomain => NotAsked::TrustDomain,
            IdentityError::Missing
            | IdentityError::Malformed(_)
            | IdentityError::Certificate(_)
            | IdentityError::Forwarded(_)
            | IdentityError::Token(_)
            | IdentityError::Mismatch => NotAsked::Unknown,
        })
    }
}

// === impl Operation ===

impl Operation {
    fn question(&self, catalog: &Catalog) -> Result<Question<'_>, NotAsked> {
        match self {
            Self::Secret { verb, backend, secret, version, field, destination, http } => {
                let mut located = located(catalog, backend, secret)?;
                located.version = SecretVersion::parse(version).map_err(|_| NotAsked::Unknown)?;
                located.field = field
                    .as_deref()
                    .map(SecretField::parse)
                    .transpose()
                    .map_err(|_| NotAsked::Unknown)?;
                let destination = destination.as_deref().map(AuditedDestination::toward);
                let destination = destination.transpose()?;
                Ok(Question::Secret {
                    verb: Verb::parse(verb).ok_or(NotAsked::Unknown)?,
                    secret: Cow::Owned(located),
                    destination: destination.unwrap_or_default(),
                    by: http.as_ref().map(AuditedHttp::request).transpose()?,
                })
            }
            Self::Collection { verb, http, .. } => Ok(Question::Collection {
                verb: Verb::parse(verb).ok_or(NotAsked::Unknown)?,
                by: http.as_ref().map(AuditedHttp::request).transpose()?,
            }),
            Self::Http(http) => Ok(Question::Http(http.request()?)),
            Self::Connection { destination } => {
                let destination = workload(destination.as_deref())?;
                Ok(Question::Connection(Connection { destination }))
            }
        }
    }
}

fn located(catalog: &Catalog, backend: &str, secret: &str) -> Result<SecretRef, NotAsked> {
    let located = catalog.locate(secret, NameEncoding::Plain, Some(backend));
    located.map_err(|error| match error {
        InvalidReference::UnknownBackend | InvalidReference::NoBackend => NotAsked::Backend,
        InvalidReference::Name(_)
        | InvalidReference::Shape
        | InvalidReference::TooLong
        | InvalidReference::Version
        | InvalidReference::Field
        | InvalidReference::Parameter => NotAsked::Name,
    })
}

fn workload(text: Option<&str>) -> Result<Option<ServiceAccount>, NotAsked> {
    text.map(ServiceAccount::parse).transpose().map_err(|_| NotAsked::Unknown)
}

// === impl AuditedHttp ===

impl AuditedHttp {
    fn request(&self) -> Result<HttpRequest<'_>, NotAsked> {
        if self.path_cut {
            return Err(NotAsked::PathCut);
        }
        let destination = workload(self.destination.as_deref())?;
        HttpRequest::new(&self.method, &self.host, &self.path, destination)
            .map_err(|_| NotAsked::Unknown)
    }
}

// === impl AuditedDestination ===

impl AuditedDestination {
    fn toward(&self) -> Result<Destination<'_>, NotAsked> {
        if self.path_cut {
            return Err(NotAsked::PathCut);
        }
        Ok(Destination {
            host: self.host.as_deref(),
            cluster: self.cluster.as_deref(),
            route: self.route.as_deref(),
            sni: self.sni.as_deref(),
            port: self.port.as_deref(),
            scheme: self.scheme.as_deref(),
            method: self.method.as_deref(),
            path: self.path.as_deref(),
        })
    }
}
