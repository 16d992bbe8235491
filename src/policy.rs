//! May this principal do that? Pure: no I/O, no clock.
//!
//! [`PolicySet::authorize`] and its siblings are the only source of a [`Permit`],
//! and the resolver takes nothing else. Default deny; Deny overrides Allow; order
//! never matters; a missing attribute never satisfies an Allow and always
//! satisfies a Deny. Uses [`crate::identity`] and [`crate::secret`].

mod decision;
mod request;

use std::sync::Arc;

pub use decision::{AuditMatch, Decision, DecisionId, Denial, Generation, Reason};
pub use request::{
    Attribute, Connection, Destination, HttpRequest, InvalidRequest, Verb, canonical_host,
    canonical_path,
};

use crate::{
    identity::Principal,
    secret::{SecretName, SecretRef},
};

/// An immutable, compiled set of policies.
#[derive(Debug)]
pub struct PolicySet {
    generation: Generation,
}

/// The right of one principal to do one thing with one secret. Only
/// [`PolicySet`] makes one; the resolver takes nothing else.
#[derive(Clone, Debug)]
pub struct Permit {
    principal: Principal,
    verb: Verb,
    secret: SecretRef,
    decision: Decision,
}

/// The right of one principal to list what it may list, or to create what it may
/// create. Every single name is decided again by [`CollectionPermit::admits`].
#[derive(Clone, Debug)]
pub struct CollectionPermit {
    policies: Arc<PolicySet>,
    principal: Principal,
    verb: Verb,
    decision: Decision,
}

// === impl PolicySet ===

impl PolicySet {
    /// The set that denies everything.
    #[must_use]
    pub fn deny_all() -> Self {
        Self { generation: Generation::default() }
    }

    /// Which load of the policy files this set came from.
    #[must_use]
    pub fn generation(&self) -> &Generation {
        &self.generation
    }

    /// Decides about one secret. `use` needs a destination and is decided by
    /// [`PolicySet::authorize_use`]; here it is always denied.
    ///
    /// # Errors
    /// [`Denial`], with the reason.
    pub fn authorize(
        &self,
        _principal: &Principal,
        _verb: Verb,
        _secret: &SecretRef,
    ) -> Result<Permit, Denial> {
        Err(Denial::new(Reason::NoMatch))
    }

    /// Decides whether a secret may be injected toward `destination`.
    ///
    /// # Errors
    /// [`Denial`]; [`Reason::MissingAttribute`] where a rule would have allowed
    /// it had the proxy sent that attribute.
    pub fn authorize_use(
        &self,
        _principal: &Principal,
        _secret: &SecretRef,
        _destination: &Destination<'_>,
    ) -> Result<Permit, Denial> {
        Err(Denial::new(Reason::NoMatch))
    }

    /// Decides whether the principal may list or create *anything*: some Allow
    /// covers the verb for some name, and no Deny covers it for every name.
    ///
    /// # Errors
    /// [`Denial`], with the reason.
    pub fn authorize_collection(
        self: &Arc<Self>,
        _principal: &Principal,
        _verb: Verb,
    ) -> Result<CollectionPermit, Denial> {
        Err(Denial::new(Reason::NoMatch))
    }

    /// Decides about an HTTP request in the mesh.
    ///
    /// # Errors
    /// [`Denial`], with the reason.
    pub fn authorize_http(
        &self,
        _principal: &Principal,
        _request: &HttpRequest<'_>,
    ) -> Result<Decision, Denial> {
        Err(Denial::new(Reason::NoMatch))
    }

    /// Decides about a TCP connection: only rules that ask for nothing but the
    /// destination workload can allow it.
    ///
    /// # Errors
    /// [`Denial`], with the reason.
    pub fn authorize_connection(
        &self,
        _principal: &Principal,
        _connection: &Connection,
    ) -> Result<Decision, Denial> {
        Err(Denial::new(Reason::NoMatch))
    }
}

// === impl Permit ===

impl Permit {
    /// Who may.
    #[must_use]
    pub fn principal(&self) -> &Principal {
        &self.principal
    }

    /// What may be done.
    #[must_use]
    pub fn verb(&self) -> Verb {
        self.verb
    }

    /// With which secret.
    #[must_use]
    pub fn secret(&self) -> &SecretRef {
        &self.secret
    }

    /// Why.
    #[must_use]
    pub fn decision(&self) -> &Decision {
        &self.decision
    }
}

// === impl CollectionPermit ===

impl CollectionPermit {
    /// Who may.
    #[must_use]
    pub fn principal(&self) -> &Principal {
        &self.principal
    }

    /// What may be done.
    #[must_use]
    pub fn verb(&self) -> Verb {
        self.verb
    }

    /// Why.
    #[must_use]
    pub fn decision(&self) -> &Decision {
        &self.decision
    }

    /// Whether the permit covers this name in this backend.
    #[must_use]
    pub fn admits(&self, backend: &crate::secret::BackendName, name: &SecretName) -> bool {
        let secret = SecretRef::latest(backend.clone(), name.clone());
        self.policies.authorize(&self.principal, self.verb, &secret).is_ok()
    }
}
