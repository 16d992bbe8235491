//! Keys as they were fetched, each with the checks that go with it.

use std::fmt;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, UnparsedPublicKey};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{
    Algorithm, DecodingKey, Validation,
    errors::ErrorKind,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse},
};
use serde::Deserialize;
use tokio::time::Instant;

use super::{FetchedKeys, MAX_SET};
use crate::identity::token::{
    LEEWAY, TokenRefusal,
    unverified::{Claims, UnverifiedToken},
};

/// RSA moduli in bits: what NIST SP 800-131A asks for, and what is not yet absurd.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// The usable keys of a set.
pub(super) struct Keys {
    keys: Vec<Key>,
    /// When they were fetched.
    pub(super) fetched: Instant,
}

struct Key {
    id: Option<String>,
    decoding: DecodingKey,
    /// With the algorithms of this key alone.
    validation: Validation,
}

/// A token that a key can be held against.
pub(in crate::identity::token) trait Signed {
    /// Which key it says it is signed with.
    fn key_id(&self) -> Option<&str>;

    /// Whether it is, and says nothing that `validation` does not allow.
    fn judge(&self, key: &DecodingKey, validation: &Validation) -> Result<(), TokenRefusal>;
}

/// One broken key does not spoil the others.
#[derive(Deserialize)]
struct Set {
    keys: Vec<serde_json::Value>,
}

// === impl Keys ===

impl Keys {
    /// Reads a set for tokens of the configured issuer, or else of the source's.
    /// The error is a cause for the log and quotes nothing.
    pub(super) fn read(
        fetched: &FetchedKeys,
        issuer: Option<&str>,
        audiences: &[String],
    ) -> Result<Self, String> {
        if fetched.keys.len() > MAX_SET {
            return Err(format!("the key set is larger than {} MiB", MAX_SET >> 20));
        }
        let issuer = issuer.or(fetched.issuer.as_deref()).filter(|issuer| !issuer.is_empty());
        let issuer = issuer.ok_or("the source does not say who the issuer is")?;
        let set: Set = serde_json::from_slice(&fetched.keys).map_err(|error| {
            format!("not a JSON key set, line {} column {}", error.line(), error.column())
        })?;
        let keys: Vec<_> =
            set.keys.into_iter().filter_map(|jwk| Key::read(jwk, issuer, audiences)).collect();
        match keys.is_empty() {
            true => Err("no key in the set can be used".to_owned()),
            false => Ok(Self { keys, fetched: Instant::now() }),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether the token is what it says; `None` if there is no key of its id.
    pub(super) fn judge(&self, token: &impl Signed) -> Option<Result<(), TokenRefusal>> {
        let Some(id) = token.key_id() else {
            // No guessing, and no later set would say more.
            return Some(match self.keys.as_slice() {
                [key] => token.judge(&key.decoding, &key.validation),
                _ => Err(TokenRefusal::UnknownKey),
            });
        };
        let mut verdict = None;
        for key in self.keys.iter().filter(|key| key.id.as_deref() == Some(id)) {
            match token.judge(&key.decoding, &key.validation) {
                Err(TokenRefusal::Algorithm) if verdict.is_some() => {}
                // Ids are not unique (RFC 7517, section 4.5): perhaps the next one.
                wrong @ Err(TokenRefusal::Algorithm | TokenRefusal::Signature) => {
                    verdict = Some(wrong);
                }
                other => return Some(other),
            }
        }
        verdict
    }
}

// === impl Key ===

impl Key {
    /// `None` if no token of a service account can be verified with it.
    fn read(jwk: serde_json::Value, issuer: &str, audiences: &[String]) -> Option<Self> {
        let jwk: Jwk = serde_json::from_value(jwk).ok()?;
        let common = &jwk.common;
        if common.public_key_use.as_ref().is_some_and(|of| *of != PublicKeyUse::Signature) {
            return None;
        }
        let operations = common.key_operations.as_ref();
        if operations.is_some_and(|operations| !operations.contains(&KeyOperations::Verify)) {
            return None;
        }
        let mut algorithms = algorithms(&jwk.algorithm)?;
        if let Some(only) = common.key_algorithm {
            let only = Algorithm::try_from(only).ok()?;
            algorithms.retain(|algorithm| *algorithm == only);
        }
        let mut validation = Validation::new(*algorithms.first()?);
        validation.algorithms = algorithms;
        validation.leeway = LEEWAY.as_secs();
        validation.validate_nbf = true;
        validation.set_required_spec_claims(&["exp", "aud", "iss", "sub"]);
        validation.set_issuer(&[issuer]);
        validation.set_audience(audiences);
        let decoding = DecodingKey::from_jwk(&jwk).ok()?;
        Some(Self { id: jwk.common.key_id, decoding, validation })
    }
}

impl Signed for UnverifiedToken<'_> {
    fn key_id(&self) -> Option<&str> {
        self.key_id.as_deref()
    }

    fn judge(&self, key: &DecodingKey, validation: &Validation) -> Result<(), TokenRefusal> {
        let verified = jsonwebtoken::decode::<Claims>(self.text(), key, validation);
        let claims = verified.map_err(|error| refusal(error.kind()))?.claims;
        if claims != self.claims {
            return Err(TokenRefusal::Malformed);
        }
        let latest = jsonwebtoken::get_current_timestamp() + LEEWAY.as_secs();
        match claims.issued {
            Some(issued) if issued > latest => Err(TokenRefusal::NotYetValid),
            _ => Ok(()),
        }
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("len", &self.keys.len()).finish_non_exhaustive()
    }
}

/// What a key of this kind can verify; `None` if it is of no use.
fn algorithms(key: &AlgorithmParameters) -> Option<Vec<Algorithm>> {
    match key {
        AlgorithmParameters::RSA(key) => {
            let modulus = URL_SAFE_NO_PAD.decode(&key.n).ok()?;
            let modulus: Vec<u8> = modulus.into_iter().skip_while(|byte| *byte == 0).collect();
            let bits = modulus.len() * 8 - modulus.first()?.leading_zeros() as usize;
            RSA_BITS
                .contains(&bits)
                .then(|| vec![Algorithm::RS256, Algorithm::RS384, Algorithm::RS512])
        }
        AlgorithmParameters::EllipticCurve(key) => {
            let (algorithm, verification, coordinate) = match key.curve {
                EllipticCurve::P256 => (Algorithm::ES256, &ECDSA_P256_SHA256_FIXED, 32),
                EllipticCurve::P384 => (Algorithm::ES384, &ECDSA_P384_SHA384_FIXED, 48),
                _ => return None,
            };
            let [x, y] = [&key.x, &key.y].map(|it| URL_SAFE_NO_PAD.decode(it).ok());
            let (x, y) = (x?, y?);
            if x.len() != coordinate || y.len() != coordinate {
                return None;
            }
            let point = [&[4][..], &x, &y].concat();
            // Refuses a point that is not on the curve.
            UnparsedPublicKey::new(verification, point).parse().ok()?;
            Some(vec![algorithm])
        }
        _ => None,
    }
}

/// What the library's word for a defect is in ours.
pub(in crate::identity::token) fn refusal(kind: &ErrorKind) -> TokenRefusal {
    match kind {
        ErrorKind::InvalidAlgorithm | ErrorKind::UnsupportedAlgorithm => TokenRefusal::Algorithm,
        ErrorKind::ExpiredSignature => TokenRefusal::Expired,
        ErrorKind::ImmatureSignature => TokenRefusal::NotYetValid,
        ErrorKind::InvalidIssuer => TokenRefusal::Issuer,
        ErrorKind::InvalidAudience => TokenRefusal::Audience,
        ErrorKind::MissingRequiredClaim(_)
        | ErrorKind::InvalidClaimFormat(_)
        | ErrorKind::InvalidToken
        | ErrorKind::Json(_) => TokenRefusal::Malformed,
        _ => TokenRefusal::Signature,
    }
}
