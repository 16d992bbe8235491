//! Several proofs, which must agree, and the principal that follows from them.

use std::{fmt, sync::Arc};

use super::{
    certificate::{self, CertificateError},
    forwarded::InvalidForwarded,
    spiffe::{InvalidSpiffeId, ServiceAccount, SpiffeId, TrustDomain},
    token::{Binding, Pod, TokenProof, TokenRefusal},
};

/// How an identity was shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ProofKind {
    /// A client certificate that Envoy validated.
    Mtls = 1,
    /// A client certificate that a trusted proxy says it validated.
    Waypoint = 1 << 1,
    /// A service account's token.
    Token = 1 << 2,
    /// A grant sealed by our own `ext_authz`.
    Grant = 1 << 3,
    /// A loopback or unix listener in sidecar or development mode.
    Local = 1 << 4,
}

/// The proofs that stand behind a principal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ProofSet(u8);

/// An authenticated caller: a service account in a configured trust domain, and
/// how that was proven. Made by [`Evidence::principal`] alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    id: SpiffeId,
    proofs: ProofSet,
    binding: Option<Binding>,
}

/// What a request shows about its caller, not yet judged.
#[derive(Debug, Default)]
pub struct Evidence {
    proofs: Vec<Proof>,
}

#[derive(Debug)]
struct Proof {
    kinds: ProofSet,
    claim: Result<SpiffeId, IdentityError>,
    binding: Option<Binding>,
}

/// Why evidence does not make a principal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// Nothing was shown.
    #[error("no identity")]
    Missing,
    /// Something was shown that is not the SPIFFE ID of a service account.
    #[error("malformed identity: {0}")]
    Malformed(#[from] InvalidSpiffeId),
    /// A certificate that does not support the identity it came with.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// A forwarded client certificate that cannot be relied on.
    #[error(transparent)]
    Forwarded(#[from] InvalidForwarded),
    /// A token that was refused.
    #[error(transparent)]
    Token(#[from] TokenRefusal),
    /// The trust domain is not configured.
    #[error("trust domain is not configured")]
    ForeignTrustDomain,
    /// Two proofs name different service accounts.
    #[error("proofs name different identities")]
    Mismatch,
}

// === impl ProofKind ===

impl ProofKind {
    /// Every kind, in the order in which they are printed.
    pub const ALL: [Self; 5] = [Self::Mtls, Self::Waypoint, Self::Token, Self::Grant, Self::Local];

    /// The word used in policies, metadata and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Mtls => "mtls",
            Self::Waypoint => "waypoint",
            Self::Token => "token",
            Self::Grant => "grant",
            Self::Local => "local",
        }
    }

    /// The kind of that name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }
}

// === impl ProofSet ===

impl ProofSet {
    /// This set and one kind more.
    #[must_use]
    pub fn with(self, kind: ProofKind) -> Self {
        Self(self.0 | kind as u8)
    }

    /// The kinds of both sets.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether every kind of `other` is in this set.
    #[must_use]
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The kinds in the set.
    pub fn iter(self) -> impl Iterator<Item = ProofKind> {
        ProofKind::ALL.into_iter().filter(move |kind| self.0 & *kind as u8 != 0)
    }
}

impl From<ProofKind> for ProofSet {
    fn from(kind: ProofKind) -> Self {
        Self::default().with(kind)
    }
}

impl FromIterator<ProofKind> for ProofSet {
    fn from_iter<T: IntoIterator<Item = ProofKind>>(kinds: T) -> Self {
        kinds.into_iter().fold(Self::default(), Self::with)
    }
}

impl fmt::Display for ProofSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, kind) in self.iter().enumerate() {
            let between = if at == 0 { "" } else { "+" };
            write!(f, "{between}{}", kind.as_str())?;
        }
        Ok(())
    }
}

// === impl Evidence ===

impl Evidence {
    /// Adds the principal that Envoy took from a validated client certificate,
    /// and the certificate itself (percent-encoded PEM) where it was sent along.
    /// Empty strings are what Envoy sends for "none" and prove nothing.
    pub fn add_mtls(&mut self, principal: &str, certificate: &str) {
        if principal.is_empty() && certificate.is_empty() {
            return;
        }
        self.push(ProofKind::Mtls, certified(principal, certificate));
    }

    /// Adds what was read of a certificate, as by [`certified`]; an error spoils the evidence.
    pub fn add_certificate(&mut self, claim: Result<SpiffeId, IdentityError>) {
        self.push(ProofKind::Mtls, claim);
    }

    /// Adds the client that a trusted proxy names.
    pub(super) fn add_waypoint(&mut self, claim: Result<SpiffeId, IdentityError>) {
        self.push(ProofKind::Waypoint, claim);
    }

    /// Adds the static identity of a loopback or unix listener.
    pub fn add_local(&mut self, id: SpiffeId) {
        self.push(ProofKind::Local, Ok(id));
    }

    /// Adds a token that was verified.
    pub fn add_token(&mut self, proof: &Arc<TokenProof>) {
        self.push(ProofKind::Token, Ok(proof.id().clone()));
        if let Some(last) = self.proofs.last_mut() {
            last.binding = Some(proof.binding().clone());
        }
    }

    /// Adds a token that was refused: it spoils the evidence.
    pub fn add_refused_token(&mut self, refusal: TokenRefusal) {
        self.push(ProofKind::Token, Err(refusal.into()));
    }

    /// Adds the identity in an opened grant, the proofs that it was made from, and what
    /// they were bound to.
    pub(super) fn add_grant(&mut self, id: SpiffeId, proofs: ProofSet, binding: Binding) {
        let kinds = proofs.with(ProofKind::Grant);
        self.proofs.push(Proof { kinds, claim: Ok(id), binding: Some(binding) });
    }

    /// Adds an identity that nobody has shown: for questions about policies by whoever may
    /// read them, never for a request. `pod` is the one that a token would be bound to.
    pub fn suppose(&mut self, id: SpiffeId, proofs: ProofSet, pod: Option<Pod>) {
        let bound = |pod| Binding { pod: Some(pod), node: None, credential_id: None, expires: 0 };
        self.proofs.push(Proof { kinds: proofs, claim: Ok(id), binding: pod.map(bound) });
    }

    fn push(&mut self, kind: ProofKind, claim: Result<SpiffeId, IdentityError>) {
        self.proofs.push(Proof { kinds: kind.into(), claim, binding: None });
    }

    /// Whether nothing was shown so far.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.proofs.is_empty()
    }

    /// Judges the evidence: every proof must be valid, in one of
    /// `trust_domains`, and name the same identity.
    ///
    /// # Errors
    /// [`IdentityError`] says what is wrong; one bad proof spoils good ones.
    pub fn principal(self, trust_domains: &[TrustDomain]) -> Result<Principal, IdentityError> {
        let mut agreed: Option<Principal> = None;
        for proof in self.proofs {
            let id = proof.claim?;
            if !trust_domains.contains(&id.trust_domain) {
                return Err(IdentityError::ForeignTrustDomain);
            }
            agreed = Some(match agreed {
                None => Principal { id, proofs: proof.kinds, binding: proof.binding },
                Some(seen) if seen.id == id => Principal {
                    id,
                    proofs: seen.proofs.union(proof.kinds),
                    binding: join(seen.binding, proof.binding)?,
                },
                Some(_) => return Err(IdentityError::Mismatch),
            });
        }
        agreed.ok_or(IdentityError::Missing)
    }
}

/// The identity that Envoy took from a validated client certificate, held against the
/// certificate itself (percent-encoded PEM) where it was sent along.
///
/// # Errors
/// [`IdentityError`] if it is not of a service account, or not what the certificate says.
pub fn certified(principal: &str, certificate: &str) -> Result<SpiffeId, IdentityError> {
    let id = SpiffeId::parse(principal)?;
    if !certificate.is_empty() {
        certificate::supports(principal, certificate)?;
    }
    Ok(id)
}

/// What both proofs are bound to. They must not be of different pods.
fn join(one: Option<Binding>, other: Option<Binding>) -> Result<Option<Binding>, IdentityError> {
    let (one, other) = match (one, other) {
        (Some(one), Some(other)) => (one, other),
        (one, other) => return Ok(one.or(other)),
    };
    if one.pod.as_ref().zip(other.pod.as_ref()).is_some_and(|(one, other)| one.uid != other.uid) {
        return Err(IdentityError::Mismatch);
    }
    Ok(Some(Binding {
        pod: one.pod.or(other.pod),
        node: one.node.or(other.node),
        credential_id: one.credential_id.or(other.credential_id),
        expires: one.expires.min(other.expires),
    }))
}

// === impl Principal ===

impl Principal {
    /// The SPIFFE ID.
    #[must_use]
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// The trust domain that vouches for the service account.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.id.trust_domain
    }

    /// The service account.
    #[must_use]
    pub fn service_account(&self) -> &ServiceAccount {
        &self.id.service_account
    }

    /// Its namespace.
    #[must_use]
    pub fn namespace(&self) -> &str {
        self.id.service_account.namespace()
    }

    /// How the identity was proven.
    #[must_use]
    pub fn proofs(&self) -> ProofSet {
        self.proofs
    }

    /// The pod that one of the proofs is bound to.
    #[must_use]
    pub fn pod(&self) -> Option<&Pod> {
        self.binding.as_ref()?.pod.as_ref()
    }

    /// The node that the pod is on.
    #[must_use]
    pub fn node(&self) -> Option<&str> {
        self.binding.as_ref()?.node.as_deref()
    }

    /// What the cluster's audit log calls the token.
    #[must_use]
    pub fn credential_id(&self) -> Option<&str> {
        self.binding.as_ref()?.credential_id.as_deref()
    }

    /// When the first of the proofs ends that do, in seconds since the epoch.
    #[must_use]
    pub fn expires(&self) -> Option<u64> {
        self.binding.as_ref().map(|binding| binding.expires)
    }

    /// Whether one of the proofs is a token that is bound to a pod.
    #[must_use]
    pub fn is_bound_to_pod(&self) -> bool {
        self.pod().is_some()
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.id.fmt(f)
    }
}

#[cfg(test)]
mod tests;
