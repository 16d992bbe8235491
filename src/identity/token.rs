//! Service-account tokens: whose one is, and why one is refused.
//!
//! [`TokenVerifier`] is the way in. What a token says is believed by nobody until the
//! issuer's keys, the API server or both have confirmed it.

mod bearer;
mod cluster;
mod jwks;
#[cfg(test)]
pub(crate) mod mint;
mod oidc;
mod review;
mod revocation;
mod settings;
mod unverified;
mod verifier;

use std::{sync::Arc, time::Duration};

use super::SpiffeId;

pub use bearer::Bearer;
pub use oidc::{OidcSettings, OidcVerifier};
pub use review::{ReviewSettings, Reviewed, Reviewer};
pub use revocation::{Revocations, WatchGuard};
pub use settings::{KeyLocation, TokenSettings, TokenVerification};
pub use verifier::{TokenSetupError, TokenVerifier};

/// How far clocks may differ.
const LEEWAY: Duration = Duration::from_secs(10);

/// The pod that a token is bound to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Its name, in the service account's namespace.
    pub name: Arc<str>,
    /// Its uid, which no other pod ever has.
    pub uid: Arc<str>,
}

/// What ties a proof to more than a service account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// The pod that the token is bound to; it ends with it.
    pub pod: Option<Pod>,
    /// The node that the pod is on.
    pub node: Option<Arc<str>>,
    /// What the cluster's audit log calls the token.
    pub credential_id: Option<Arc<str>>,
    /// When the proof ends, in seconds since the epoch.
    pub expires: u64,
}

/// What a good token proves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenProof {
    id: SpiffeId,
    /// The service account's uid.
    account_uid: Option<Arc<str>>,
    binding: Binding,
}

/// Why a token was refused. Callers are told one fixed phrase; this goes to logs and
/// metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenRefusal {
    /// Several tokens, or a comma in one.
    #[error("more than one token")]
    Ambiguous,
    /// Over 8 KiB.
    #[error("token is too long")]
    TooLong,
    /// Not a JWT with the claims of a service account's token.
    #[error("not a service account's token")]
    Malformed,
    /// None, HMAC, or not that of the key.
    #[error("signature algorithm is not accepted")]
    Algorithm,
    /// No key of the issuer has that id.
    #[error("signed with an unknown key")]
    UnknownKey,
    /// The signature is not the key's.
    #[error("signature is wrong")]
    Signature,
    /// Another issuer.
    #[error("issuer is not accepted")]
    Issuer,
    /// None of ours, or one that is refused.
    #[error("audience is not accepted")]
    Audience,
    /// Its time is over.
    #[error("token has expired")]
    Expired,
    /// `nbf` or `iat` in the future.
    #[error("token is not valid yet")]
    NotYetValid,
    /// Valid for longer than tokens may be.
    #[error("token lives too long")]
    Lifetime,
    /// From a Secret: never expires.
    #[error("token never expires")]
    Legacy,
    /// The API server says no.
    #[error("the API server does not accept the token")]
    Unauthenticated,
    /// The API server names someone who is not that service account.
    #[error("the API server names someone else")]
    OtherUser,
    /// Of another account than it has to be.
    #[error("the token is of another account")]
    Subject,
    /// Service account or pod was deleted.
    #[error("service account or pod was deleted")]
    Revoked,
}

/// Why a token proves nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// The token is no good.
    #[error(transparent)]
    Refused(#[from] TokenRefusal),
    /// It cannot be told now: API server or key source is down, slow or throttling. The
    /// cause is logged where it arises.
    #[error("it cannot be told now whether the token is good")]
    Unavailable,
}

// === impl TokenRefusal ===

impl TokenRefusal {
    /// The word used in logs and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ambiguous => "ambiguous",
            Self::TooLong => "too_long",
            Self::Malformed => "malformed",
            Self::Algorithm => "algorithm",
            Self::UnknownKey => "unknown_key",
            Self::Signature => "signature",
            Self::Issuer => "issuer",
            Self::Audience => "audience",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::Lifetime => "lifetime",
            Self::Legacy => "legacy",
            Self::Unauthenticated => "unauthenticated",
            Self::OtherUser => "other_user",
            Self::Subject => "subject",
            Self::Revoked => "revoked",
        }
    }
}

// === impl TokenError ===

impl TokenError {
    /// The word used in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Refused(refusal) => refusal.as_str(),
            Self::Unavailable => "unavailable",
        }
    }
}

// === impl TokenProof ===

impl TokenProof {
    /// As if a token of `id` had been verified, bound to a pod of this uid or to none.
    #[cfg(test)]
    pub(crate) fn assumed(id: SpiffeId, pod_uid: Option<&str>) -> Arc<Self> {
        let pod = pod_uid.map(|uid| Pod { name: "pod".into(), uid: uid.into() });
        let expires = mint::now() + 3600;
        Self::bound(id, Binding { pod, node: None, credential_id: None, expires })
    }

    /// As if a token of `id` with this binding had been verified.
    #[cfg(test)]
    pub(crate) fn bound(id: SpiffeId, binding: Binding) -> Arc<Self> {
        Arc::new(Self { id, account_uid: None, binding })
    }

    /// Whose the token is.
    #[must_use]
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// What it is bound to.
    #[must_use]
    pub fn binding(&self) -> &Binding {
        &self.binding
    }

    /// The pod that it is bound to.
    #[must_use]
    pub fn pod(&self) -> Option<&Pod> {
        self.binding.pod.as_ref()
    }
}
