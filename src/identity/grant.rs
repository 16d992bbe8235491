//! Grants: short-lived proofs that our `ext_authz` gives to our other edges.
//!
//! A grant is a JWT (HS256) bound to a principal, a method, a host and a path.
//! `ext_proc` and REST accept it as proof of identity, so that a filter that was
//! skipped or bypassed never opens a secret; both decide again by policy.

mod tags;

use std::{
    collections::HashMap,
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{
    evidence::{Evidence, Principal, ProofKind, ProofSet},
    spiffe::SpiffeId,
    token::{Binding, Pod},
};

pub use self::tags::{Tag, TagPurpose, Tags};

const ISSUER: &str = "vaultmux-mesh";
/// HS256 needs a key at least as long as its hash (RFC 7518, section 3.2).
const MIN_KEY: usize = 32;
/// Longest grant that is looked at.
const MAX_GRANT: usize = 8 * 1024;
/// Replicas' clocks may differ by this much.
const LEEWAY: Duration = Duration::from_secs(5);

/// The keys that seal and open grants, and how long a grant lives.
pub struct GrantKeys {
    signing_id: String,
    signing: EncodingKey,
    opening: HashMap<String, DecodingKey>,
    validation: Validation,
    ttl: Duration,
    tags: Tags,
}

/// What a grant is good for besides its principal.
#[derive(Clone, Copy, Debug)]
pub struct GrantScope<'a> {
    /// The request's method, exactly.
    pub method: &'a str,
    /// The request's authority, exactly.
    pub host: &'a str,
    /// The request's path without its query, exactly.
    pub path: &'a str,
}

/// Why a grant or a key file was refused.
#[derive(Debug, thiserror::Error)]
pub enum GrantError {
    /// Not a grant that one of our keys sealed, or expired.
    #[error("grant is not valid")]
    Token(#[source] jsonwebtoken::errors::Error),
    /// Sealed by us, but for another request.
    #[error("grant is for another request")]
    Scope,
    /// Sealed by us, but its claims cannot be read.
    #[error("grant has malformed claims")]
    Claims,
    /// The operating system gave no random bytes.
    #[error("no random bytes for a grant key")]
    Random,
    /// A key file line that is not `<key id> <base64>`.
    #[error("line {line}: expected `<key id> <base64 of at least {MIN_KEY} bytes>`")]
    KeyFile {
        /// Counted from 1.
        line: usize,
    },
    /// A key file without any key.
    #[error("no key in the file")]
    NoKey,
}

#[derive(Serialize, Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    exp: u64,
    proofs: Vec<String>,
    method: String,
    host: String,
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pod: Option<PodClaim>,
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    credential_id: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct PodClaim {
    name: String,
    uid: String,
}

// === impl GrantKeys ===

impl GrantKeys {
    /// One random key, known to this process alone.
    ///
    /// # Errors
    /// [`GrantError::Random`].
    pub fn random(ttl: Duration) -> Result<Self, GrantError> {
        let mut key = Zeroizing::new([0_u8; MIN_KEY]);
        aws_lc_rs::rand::fill(key.as_mut_slice()).map_err(|_| GrantError::Random)?;
        Ok(Self::new([("process".to_owned(), key.as_slice())].into_iter(), ttl)
            .expect("one key was given"))
    }

    /// Keys shared among replicas: one `<key id> <base64>` a line, `#` starts a
    /// comment. The first key seals, all of them open, so a key is rotated by
    /// adding the new one below, moving it up, and removing the old one.
    ///
    /// # Errors
    /// [`GrantError::KeyFile`] names the line, never its content.
    pub fn parse(text: &str, ttl: Duration) -> Result<Self, GrantError> {
        let mut keys = Vec::new();
        for (at, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let malformed = || GrantError::KeyFile { line: at + 1 };
            let (id, encoded) = line.split_once(char::is_whitespace).ok_or_else(malformed)?;
            let key = STANDARD.decode(encoded.trim()).map_err(|_| malformed())?;
            if key.len() < MIN_KEY || keys.iter().any(|(seen, _)| seen == id) {
                return Err(malformed());
            }
            keys.push((id.to_owned(), Zeroizing::new(key)));
        }
        Self::new(keys.iter().map(|(id, key)| (id.clone(), key.as_slice())), ttl)
            .ok_or(GrantError::NoKey)
    }

    fn new<'a>(keys: impl Iterator<Item = (String, &'a [u8])>, ttl: Duration) -> Option<Self> {
        let keys: Vec<_> = keys.collect();
        let (signing_id, first) = keys.first()?.clone();
        let tags = Tags::new(keys.iter().map(|(_, key)| *key));
        let mut validation = Validation::new(Algorithm::HS256);
        validation.set_issuer(&[ISSUER]);
        validation.set_required_spec_claims(&["exp", "iss", "sub"]);
        validation.leeway = LEEWAY.as_secs();
        Some(Self {
            signing_id,
            signing: EncodingKey::from_secret(first),
            opening: keys
                .into_iter()
                .map(|(id, key)| (id, DecodingKey::from_secret(key)))
                .collect(),
            validation,
            ttl,
            tags,
        })
    }

    /// Tags by the same keys, for what is no grant.
    #[must_use]
    pub fn tags(&self) -> &Tags {
        &self.tags
    }

    /// Seals a grant for `principal` that is good for one kind of request.
    ///
    /// # Errors
    /// [`GrantError::Token`] if the cryptography library refuses to sign.
    pub fn seal(
        &self,
        principal: &Principal,
        scope: GrantScope<'_>,
        now: SystemTime,
    ) -> Result<String, GrantError> {
        let since_epoch = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        // It proves nothing for longer than what it was made from.
        let latest = (since_epoch + self.ttl).as_secs();
        let claims = Claims {
            iss: ISSUER.to_owned(),
            sub: principal.to_string(),
            exp: principal.expires().map_or(latest, |expires| latest.min(expires)),
            proofs: principal.proofs().iter().map(|kind| kind.as_str().to_owned()).collect(),
            method: scope.method.to_owned(),
            host: scope.host.to_owned(),
            path: scope.path.to_owned(),
            pod: principal
                .pod()
                .map(|pod| PodClaim { name: pod.name.to_string(), uid: pod.uid.to_string() }),
            node: principal.node().map(str::to_owned),
            credential_id: principal.credential_id().map(str::to_owned),
        };
        let header = Header { kid: Some(self.signing_id.clone()), ..Header::new(Algorithm::HS256) };
        jsonwebtoken::encode(&header, &claims, &self.signing).map_err(GrantError::Token)
    }

    /// Opens a grant that came with a request and adds what it proves to
    /// `evidence`.
    ///
    /// # Errors
    /// [`GrantError`] if it is not ours, expired, or for another request. The
    /// caller must then deny: a bad grant is not the absence of one.
    pub fn open(
        &self,
        grant: &str,
        scope: GrantScope<'_>,
        evidence: &mut Evidence,
    ) -> Result<(), GrantError> {
        let invalid = |kind: jsonwebtoken::errors::ErrorKind| GrantError::Token(kind.into());
        if grant.len() > MAX_GRANT {
            return Err(invalid(jsonwebtoken::errors::ErrorKind::InvalidToken));
        }
        let header = jsonwebtoken::decode_header(grant).map_err(GrantError::Token)?;
        let key = header
            .kid
            .and_then(|id| self.opening.get(&id))
            .ok_or_else(|| invalid(jsonwebtoken::errors::ErrorKind::InvalidSignature))?;
        let claims = jsonwebtoken::decode::<Claims>(grant, key, &self.validation)
            .map_err(GrantError::Token)?
            .claims;
        if claims.method != scope.method || claims.host != scope.host || claims.path != scope.path {
            return Err(GrantError::Scope);
        }
        let id = SpiffeId::parse(&claims.sub).map_err(|_| GrantError::Claims)?;
        let proofs: Option<ProofSet> =
            claims.proofs.iter().map(|proof| ProofKind::parse(proof)).collect();
        let pod = claims.pod.map(|pod| Pod { name: pod.name.into(), uid: pod.uid.into() });
        let binding = Binding {
            pod,
            node: claims.node.map(Into::into),
            credential_id: claims.credential_id.map(Into::into),
            expires: claims.exp,
        };
        evidence.add_grant(id, proofs.ok_or(GrantError::Claims)?, binding);
        Ok(())
    }
}

impl fmt::Debug for GrantKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut ids: Vec<_> = self.opening.keys().collect();
        ids.sort();
        f.debug_struct("GrantKeys").field("ids", &ids).field("ttl", &self.ttl).finish()
    }
}

#[cfg(test)]
mod tests;
