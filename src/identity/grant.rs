//! Grants: short-lived proofs that our `ext_authz` gives to our other edges.
//!
//! A grant is a JWT (HS256) bound to a principal, a method, a host and a path.
//! `ext_proc` and REST accept it as proof of identity, so that a filter that was
//! skipped or bypassed never opens a secret; both decide again by policy.

mod seals;
mod tags;

use std::{
    borrow::Cow,
    collections::HashMap,
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::hmac;
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use jsonwebtoken::{Algorithm, DecodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{
    evidence::{Evidence, Principal, ProofKind, ProofSet},
    spiffe::SpiffeId,
    token::{Binding, Pod},
};

pub use self::seals::Seals;
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
    /// The encoded header of every grant, with the id of the key that seals.
    header: String,
    /// Prepared once: every allow seals a grant.
    signing: hmac::Key,
    opening: HashMap<String, DecodingKey>,
    validation: Validation,
    ttl: Duration,
    tags: Tags,
    seals: Seals,
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

/// Borrowed while sealing, owned once opened.
#[derive(Serialize, Deserialize)]
struct Claims<'a> {
    iss: Cow<'a, str>,
    sub: Cow<'a, str>,
    exp: u64,
    proofs: Vec<Cow<'a, str>>,
    method: Cow<'a, str>,
    host: Cow<'a, str>,
    path: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pod: Option<PodClaim<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    credential_id: Option<Cow<'a, str>>,
}

#[derive(Serialize, Deserialize)]
struct PodClaim<'a> {
    name: Cow<'a, str>,
    uid: Cow<'a, str>,
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
        let seals = Seals::new(keys.iter().map(|(_, key)| *key));
        let header = Header { kid: Some(signing_id), ..Header::new(Algorithm::HS256) };
        let header = serde_json::to_vec(&header).expect("strings are always JSON");
        let mut validation = Validation::new(Algorithm::HS256);
        validation.set_issuer(&[ISSUER]);
        validation.set_required_spec_claims(&["exp", "iss", "sub"]);
        validation.leeway = LEEWAY.as_secs();
        Some(Self {
            header: URL_SAFE_NO_PAD.encode(header),
            signing: hmac::Key::new(hmac::HMAC_SHA256, first),
            opening: keys
                .into_iter()
                .map(|(id, key)| (id, DecodingKey::from_secret(key)))
                .collect(),
            validation,
            ttl,
            tags,
            seals,
        })
    }

    /// Tags by the same keys, for what is no grant.
    #[must_use]
    pub fn tags(&self) -> &Tags {
        &self.tags
    }

    /// Seals by the same keys, for what is no grant.
    #[must_use]
    pub fn seals(&self) -> &Seals {
        &self.seals
    }

    /// Seals a grant for `principal` that is good for one kind of request.
    ///
    /// # Errors
    /// [`GrantError::Token`] if the claims cannot be written.
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
            iss: ISSUER.into(),
            sub: principal.to_string().into(),
            exp: principal.expires().map_or(latest, |expires| latest.min(expires)),
            proofs: principal.proofs().iter().map(|kind| kind.as_str().into()).collect(),
            method: scope.method.into(),
            host: scope.host.into(),
            path: scope.path.into(),
            pod: principal
                .pod()
                .map(|pod| PodClaim { name: (&*pod.name).into(), uid: (&*pod.uid).into() }),
            node: principal.node().map(Into::into),
            credential_id: principal.credential_id().map(Into::into),
        };
        let claims =
            serde_json::to_vec(&claims).map_err(|error| GrantError::Token(error.into()))?;
        // RFC 7515, section 7.1: header, claims and signature, with dots between.
        let signature_len = 44;
        let len = self.header.len() + claims.len() / 3 * 4 + 5 + signature_len;
        let mut grant = String::with_capacity(len);
        grant.push_str(&self.header);
        grant.push('.');
        URL_SAFE_NO_PAD.encode_string(claims, &mut grant);
        let signature = hmac::sign(&self.signing, grant.as_bytes());
        grant.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut grant);
        Ok(grant)
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
        let claims = jsonwebtoken::decode::<Claims<'static>>(grant, key, &self.validation)
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
