//! May this principal do that? Pure: no I/O, no clock.
//!
//! [`PolicySet::authorize`] and its siblings are the only source of a [`Permit`],
//! and the resolver takes nothing else. Default deny; Deny overrides Allow; order
//! never matters; a missing attribute never satisfies an Allow and always
//! satisfies a Deny. Uses [`crate::identity`] and [`crate::secret`].

mod content;
mod decision;
mod diff;
mod document;
mod explain;
mod holders;
mod index;
mod loader;
mod problem;
mod question;
mod reach;
mod region;
mod request;
mod review;
mod rule;
mod schema;
mod source;
mod suite;
mod template;
#[cfg(test)]
mod tests;
mod yaml;

use std::{
    collections::HashSet,
    fmt,
    sync::{Arc, OnceLock},
};

pub use decision::{AuditMatch, Decision, DecisionId, Denial, Generation, Reason};
pub use diff::{Change, diff};
pub use document::json_schema;
pub use explain::{Explanation, NearMiss, Place};
pub use holders::{Deed, Denied, Holder};
pub use loader::{Loader, load, load_suites};
pub use problem::{LoadFailure, PolicyProblem, Subjects, Unquoted};
pub use question::{Question, Unasked};
pub use reach::{Exception, Needs, Reachable};
pub use region::{Ask, Piece, RuleRef, Span, TooMuch, Toward, Whom};
pub use request::{
    Attribute, Connection, Destination, HttpRequest, InvalidRequest, Verb, canonical_host,
    canonical_method, canonical_path, canonical_port, is_token, split_url,
};
pub use review::{Finding, FindingKind, Surroundings, unread_files};
pub use source::{Policies, PolicyFile};
pub use suite::{Case, CaseReport, Check, Coverage, Suite};

use self::rule::Target;
use crate::{
    identity::Principal,
    secret::{SecretName, SecretRef},
};

/// An immutable, compiled set of policies.
pub struct PolicySet {
    generation: Generation,
    policies: Policies,
    denied: Option<index::Denied>,
    /// Hosts toward which some rule allows `use`; built when it is first asked for.
    receivers: OnceLock<Receivers>,
}

/// Where rules allow to send secrets, as far as hosts tell.
struct Receivers {
    hosts: HashSet<Arc<str>>,
    /// Whether a rule does not name hosts.
    any: bool,
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

/// The right to have a secret fetched before it is asked for. Shows it to nobody.
#[derive(Clone, Debug)]
pub struct PrefetchPermit(Permit);

/// The right of one principal to list what it may list, to create what it may create,
/// or to get what it may get. Every single name is decided again by [`CollectionPermit::admits`].
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
        Self {
            generation: Generation::default(),
            policies: Policies::empty(),
            denied: None,
            receivers: OnceLock::new(),
        }
    }

    /// Puts policies in force; `number` says which load of this process they are.
    #[must_use]
    pub fn compile(policies: &Policies, number: u64) -> Self {
        Self::compile_denying(policies, &[], number)
    }

    /// Puts policies in force, and denies everything to the subjects of Deny policies
    /// that cannot be read, with [`Reason::PolicyInvalid`].
    #[must_use]
    pub fn compile_denying(policies: &Policies, denied: &[Subjects], number: u64) -> Self {
        let generation = Generation { number, hash: policies.hash().clone() };
        let denied = (!denied.is_empty()).then(|| index::Denied::new(denied));
        let receivers = OnceLock::new();
        Self { generation, policies: policies.clone(), denied, receivers }
    }

    /// Which load of the policy files this set came from.
    #[must_use]
    pub fn generation(&self) -> &Generation {
        &self.generation
    }

    /// The hash of what decided; none for refusals that no policy was asked about.
    #[must_use]
    pub fn hash_of(&self, decision: &Decision) -> Option<&str> {
        (decision.generation == self.generation.number).then_some(&*self.generation.hash)
    }

    /// What it was compiled from.
    #[must_use]
    pub fn policies(&self) -> &Policies {
        &self.policies
    }

    /// Whether any rule allows anyone to use a secret toward this host, as canonical as in
    /// rules. None is any host.
    #[must_use]
    pub fn may_use_toward(&self, host: Option<&str>) -> bool {
        let Receivers { hosts, any } = self.receivers.get_or_init(|| self.receivers());
        *any || host.map_or(!hosts.is_empty(), |host| hosts.contains(host))
    }

    fn receivers(&self) -> Receivers {
        let mut receivers = Receivers { hosts: HashSet::new(), any: false };
        let allows = self.policies.policies.iter().filter(|one| one.allow && !one.audit);
        for target in allows.flat_map(|policy| &policy.to) {
            let Target::Secrets(rule) = target else { continue };
            if !rule.verbs.contains(Verb::Use) {
                continue;
            }
            for destination in &rule.destinations {
                receivers.any |= destination.hosts.listed().is_empty();
                receivers.hosts.extend(destination.hosts.listed().iter().cloned());
            }
        }
        receivers
    }

    /// Decides about one secret. `use` needs a destination and is decided by
    /// [`PolicySet::authorize_use`]; here it is always denied.
    ///
    /// # Errors
    /// [`Denial`], with the reason.
    pub fn authorize(
        &self,
        principal: &Principal,
        verb: Verb,
        secret: &SecretRef,
    ) -> Result<Permit, Denial> {
        if verb == Verb::Use {
            return Err(self.no_match());
        }
        self.permit(principal, verb, secret, &Destination::default())
    }

    /// Decides whether a secret may be injected toward `destination`.
    ///
    /// # Errors
    /// [`Denial`]; [`Reason::MissingAttribute`] where a rule would have allowed
    /// it had the proxy sent that attribute.
    pub fn authorize_use(
        &self,
        principal: &Principal,
        secret: &SecretRef,
        destination: &Destination<'_>,
    ) -> Result<Permit, Denial> {
        self.permit(principal, Verb::Use, secret, destination)
    }

    /// Decides whether a secret may be fetched ahead, since its injection toward
    /// `destination` is permitted, or would be if what the proxy has not told yet is what
    /// some rule asks for.
    #[must_use]
    pub fn authorize_prefetch(
        &self,
        principal: &Principal,
        secret: &SecretRef,
        destination: &Destination<'_>,
    ) -> Option<PrefetchPermit> {
        match self.permit(principal, Verb::Use, secret, destination) {
            Ok(permit) => Some(permit.into()),
            Err(Denial { reason: Reason::MissingAttribute(_), decision }) => {
                let (principal, secret) = (principal.clone(), secret.clone());
                Some(PrefetchPermit(Permit { principal, verb: Verb::Use, secret, decision }))
            }
            Err(_) => None,
        }
    }

    fn permit(
        &self,
        principal: &Principal,
        verb: Verb,
        secret: &SecretRef,
        destination: &Destination<'_>,
    ) -> Result<Permit, Denial> {
        let index = self.index(principal)?;
        let decision =
            index.secret(principal, verb, secret, destination, self.generation.number)?;
        Ok(Permit { principal: principal.clone(), verb, secret: secret.clone(), decision })
    }

    /// Decides whether the principal may list, create or get *anything*: some Allow
    /// covers the verb for some name, and no Deny covers it for every name. Other
    /// verbs have no collection and are always denied.
    ///
    /// # Errors
    /// [`Denial`], with the reason.
    pub fn authorize_collection(
        self: &Arc<Self>,
        principal: &Principal,
        verb: Verb,
    ) -> Result<CollectionPermit, Denial> {
        if !matches!(verb, Verb::List | Verb::Create | Verb::Get) {
            return Err(self.no_match());
        }
        let decision =
            self.index(principal)?.collection(principal, verb, self.generation.number)?;
        Ok(CollectionPermit {
            policies: self.clone(),
            principal: principal.clone(),
            verb,
            decision,
        })
    }

    /// Decides about an HTTP request in the mesh.
    ///
    /// # Errors
    /// [`Denial`], with the reason.
    pub fn authorize_http(
        &self,
        principal: &Principal,
        request: &HttpRequest<'_>,
    ) -> Result<Decision, Denial> {
        self.index(principal)?.http(principal, request, self.generation.number)
    }

    /// Decides about a TCP connection: only rules that ask for nothing but the
    /// destination workload can allow it.
    ///
    /// # Errors
    /// [`Denial`], with the reason.
    pub fn authorize_connection(
        &self,
        principal: &Principal,
        connection: &Connection,
    ) -> Result<Decision, Denial> {
        self.index(principal)?.connection(principal, connection, self.generation.number)
    }

    /// What decides, unless this principal is denied everything.
    fn index(&self, principal: &Principal) -> Result<&index::Index, Denial> {
        match &self.denied {
            Some(denied) if denied.contains(principal) => Err(self.deny(Reason::PolicyInvalid)),
            _ => Ok(&self.policies.index),
        }
    }

    fn no_match(&self) -> Denial {
        self.deny(Reason::NoMatch)
    }

    fn deny(&self, reason: Reason) -> Denial {
        let mut denial = Denial::new(reason);
        denial.decision.generation = self.generation.number;
        denial
    }
}

impl fmt::Debug for PolicySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PolicySet").field("generation", &self.generation).finish_non_exhaustive()
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

// === impl PrefetchPermit ===

impl PrefetchPermit {
    /// For whom.
    #[must_use]
    pub fn principal(&self) -> &Principal {
        self.0.principal()
    }

    /// Which secret.
    #[must_use]
    pub fn secret(&self) -> &SecretRef {
        self.0.secret()
    }
}

/// Who may have it may have it fetched.
impl From<Permit> for PrefetchPermit {
    fn from(permit: Permit) -> Self {
        Self(permit)
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
