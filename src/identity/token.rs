//! Service-account tokens: what they say, and whether it is true.

#![allow(dead_code, unused_imports, reason = "no edge asks for tokens yet")]

mod jwks;
#[cfg(test)]
pub(crate) mod mint;
mod unverified;

use std::{sync::Arc, time::Duration};

/// How far clocks may differ.
const LEEWAY: Duration = Duration::from_secs(10);

/// The pod that a token is bound to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Its name in the service account's namespace.
    pub name: Arc<str>,
    /// Its UID, which no other pod ever has.
    pub uid: Arc<str>,
}

/// Why a token was refused. Callers are told one fixed phrase; this goes to logs and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenRefusal {
    /// Several tokens, or a comma in one.
    #[error("several tokens")]
    Ambiguous,
    /// Over 8 KiB.
    #[error("token is too long")]
    TooLong,
    /// Not a JWT with the claims of a service account's token.
    #[error("token is malformed")]
    Malformed,
    /// None, HMAC, or not that of the key.
    #[error("token has an algorithm that is not accepted")]
    Algorithm,
    /// Signed with a key that is not in the set.
    #[error("token is signed with an unknown key")]
    UnknownKey,
    /// Not signed with the key that it names.
    #[error("token has a wrong signature")]
    Signature,
    /// Not issued by the cluster.
    #[error("token is from another issuer")]
    Issuer,
    /// None of ours, or one that is refused.
    #[error("token is for another audience")]
    Audience,
    /// Its time is over.
    #[error("token has expired")]
    Expired,
    /// `nbf` or `iat` in the future.
    #[error("token is not yet valid")]
    NotYetValid,
    /// `exp` - `iat` over the maximum.
    #[error("token lives too long")]
    Lifetime,
    /// A token from a Secret: never expires.
    #[error("token from a Secret never expires")]
    Legacy,
    /// The API server says no.
    #[error("token is not accepted by the API server")]
    Unauthenticated,
    /// The API server names someone who is not that service account.
    #[error("token is another user's")]
    OtherUser,
    /// Service account or pod was deleted.
    #[error("token's service account or pod was deleted")]
    Revoked,
}

/// Why a token proves nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It is known to be bad.
    #[error(transparent)]
    Refused(#[from] TokenRefusal),
    /// It cannot be told now: API server or key source is down, slow or throttling. The cause is logged where it arises.
    #[error("token cannot be verified now")]
    Unavailable,
}
