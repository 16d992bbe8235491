//! All that a reload can change, in one immutable piece.
//!
//! Edges load the current snapshot once per request, so that a decision never
//! mixes two configurations.

mod load;

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use arc_swap::{ArcSwap, Guard};
use tokio::time::Instant;

use crate::{
    audit::AuditLog,
    identity::{
        Bearer, Evidence, ForwardedClientCert, GrantKeys, IdentityError, Principal, SpiffeId,
        TokenError, TokenVerifier, TrustDomain,
    },
    injection::{CheckInjection, Injection, Substitutions, Upstreams},
    operation::SecretRoutes,
    policy::PolicySet,
    rate::RateLimit,
    resolver::Resolver,
    secret::Catalog,
    webhook::Webhooks,
};

pub use self::load::{Load, Refusal};

/// One configuration in force.
#[derive(Clone)]
pub struct Snapshot {
    /// Backends and names.
    pub catalog: Arc<Catalog>,
    /// Who may do what.
    pub policies: Arc<PolicySet>,
    /// Since when, and what came after and could not be used.
    pub load: Load,
    /// Reads and writes secrets.
    pub resolver: Resolver,
    /// Trust domains whose identities count; no alias is implied.
    pub trust_domains: Arc<[TrustDomain]>,
    /// Who loopback and unix callers are, in sidecar and development mode.
    pub local: Option<SpiffeId>,
    /// Whose word about their clients is believed; nobody's without.
    pub forwarded: Option<ForwardedClientCert>,
    /// Whether the certificate with which a proxy connects to us is that of the workload
    /// that sends through it, on outbound listeners.
    pub proxies_are_workloads: bool,
    /// Verifies service accounts' tokens; they prove nothing without.
    pub tokens: Option<Arc<TokenVerifier>>,
    /// Seals and opens grants.
    pub grants: Arc<GrantKeys>,
    /// Where the mesh sees secret operations.
    pub secret_routes: SecretRoutes,
    /// Secrets put into requests without a reference.
    pub injections: Arc<[Injection]>,
    /// References that clients send, beyond those in header values.
    pub substitutions: Substitutions,
    /// Toward which clusters secrets may go at all.
    pub upstreams: Upstreams,
    /// What `ext_authz` does about them.
    pub check_injection: CheckInjection,
    /// By which statuses destinations refuse secrets; none if responses are not looked at.
    pub suspect_statuses: Arc<[u16]>,
    /// Bounds on work and memory.
    pub limits: Limits,
    /// How many requests each caller has left.
    pub shares: Shares,
    /// Who may tell that secrets have changed.
    pub webhooks: Arc<Webhooks>,
    /// Where decisions are written.
    pub audit: AuditLog,
}

/// How many requests each caller has left.
#[derive(Clone, Default)]
pub struct Shares(Option<Arc<RateLimit>>);

/// Whoever could confirm an identity cannot be asked now. An outage of ours: neither an
/// allow nor a deny.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the identity cannot be verified now")]
pub struct IdentityUnavailable;

/// Bounds on work and memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest REST request body, in bytes.
    pub request_body: usize,
    /// Longest call to a store.
    pub backend_timeout: Duration,
    /// Requests to the secrets API that a caller may make in a second; any number without.
    pub per_principal_rps: Option<NonZeroU32>,
    /// Clients that watch secrets, in all.
    pub watches: usize,
    /// Those of one caller.
    pub watches_per_principal: usize,
    /// How often a watcher hears at least something.
    pub watch_heartbeat: Duration,
}

/// The snapshot in force; cheap to share and to read.
#[derive(Clone)]
pub struct Current(Arc<ArcSwap<Snapshot>>);

impl Default for Limits {
    fn default() -> Self {
        Self {
            request_body: 1 << 20,
            backend_timeout: Duration::from_secs(5),
            per_principal_rps: None,
            watches: 1000,
            watches_per_principal: 100,
            watch_heartbeat: Duration::from_secs(15),
        }
    }
}

// === impl Snapshot ===

impl Snapshot {
    /// Judges evidence by the configured trust domains.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub fn principal(&self, evidence: Evidence) -> Result<Principal, IdentityError> {
        evidence.principal(&self.trust_domains)
    }

    /// Whether this is the identity of a proxy that speaks for its clients.
    #[must_use]
    pub fn trusts_proxy(&self, id: &str) -> bool {
        self.forwarded.as_ref().is_some_and(|forwarded| {
            SpiffeId::parse(id).is_ok_and(|id| forwarded.trusted_proxies.admit_id(&id))
        })
    }

    /// Adds the service account's token among the values of `Authorization` to the
    /// evidence, good or refused, and tells whether there was one. Tokens of others are
    /// the application's business.
    ///
    /// # Errors
    /// [`IdentityUnavailable`] if there is one and nobody could tell before `deadline`.
    pub async fn add_token<'v>(
        &self,
        evidence: &mut Evidence,
        values: impl Iterator<Item = &'v [u8]>,
        deadline: Instant,
    ) -> Result<bool, IdentityUnavailable> {
        let Some(tokens) = &self.tokens else { return Ok(false) };
        let found = match Bearer::find(values) {
            Ok(None) => return Ok(false),
            Ok(Some(bearer)) => tokens.verify(bearer, deadline).await,
            Err(refusal) => Err(refusal.into()),
        };
        match found {
            Ok(None) => return Ok(false),
            Ok(Some(proof)) => evidence.add_token(&proof),
            Err(TokenError::Refused(refusal)) => {
                tracing::debug!(token.refusal = refusal.as_str(), "token refused");
                evidence.add_refused_token(refusal);
            }
            Err(TokenError::Unavailable) => return Err(IdentityUnavailable),
        }
        Ok(true)
    }
}

// === impl Shares ===

impl Shares {
    /// What `limits` say, with what is left of the shares before if they said the same.
    #[must_use]
    pub fn succeeding(limits: &Limits, before: Option<&Self>) -> Self {
        let Some(rps) = limits.per_principal_rps else { return Self(None) };
        let new = RateLimit::per_second(rps);
        let kept = before.and_then(|before| before.0.as_ref()).filter(|old| old.is_like(&new));
        Self(Some(kept.map_or_else(|| Arc::new(new), Arc::clone)))
    }

    /// Takes one request from the caller's share.
    ///
    /// # Errors
    /// How long to wait for the next.
    pub fn take(&self, principal: &Principal) -> Result<(), Duration> {
        match &self.0 {
            None => Ok(()),
            Some(limit) => limit.take(&principal.id().to_string()),
        }
    }

    /// Forgets callers whose share is whole again.
    pub fn tidy(&self) {
        if let Some(limit) = &self.0 {
            limit.tidy();
        }
    }
}

// === impl Current ===

impl Current {
    /// Starts with this snapshot.
    #[must_use]
    pub fn new(snapshot: Snapshot) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(snapshot)))
    }

    /// The snapshot in force, without counting a reference. Do not hold the
    /// guard across an await; use [`Current::load_full`] there.
    #[must_use]
    pub fn load(&self) -> Guard<Arc<Snapshot>> {
        self.0.load()
    }

    /// The snapshot in force, to keep for a whole request.
    #[must_use]
    pub fn load_full(&self) -> Arc<Snapshot> {
        self.0.load_full()
    }

    /// Puts another snapshot in force.
    pub fn store(&self, snapshot: Snapshot) {
        self.0.store(Arc::new(snapshot));
    }
}

#[cfg(test)]
mod tests;
