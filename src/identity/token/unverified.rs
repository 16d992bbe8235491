//! What a token says of itself, before anybody has checked that it is true.
//!
//! Reading is strict, because a claim that two readers take for different things
//! is what bypasses are made of: times are integers, names are not repeated, and a
//! header that brings its own key is refused. No I/O, no clock.

mod claims;
mod json;
#[cfg(test)]
mod tests;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::Deserialize;

pub(super) use self::claims::Claims;
use self::{
    claims::{RawClaims, SUBJECT},
    json::{Outline, Present, text},
};
use super::TokenRefusal;

/// Longest token that is looked at; those of clusters have one or two KiB.
pub(super) const MAX_TOKEN: usize = 8 * 1024;
/// What a token from a Secret names as its issuer, in every cluster.
const LEGACY_ISSUER: &str = "kubernetes/serviceaccount";

/// A token's own words, believed by nobody yet.
pub(super) struct UnverifiedToken<'t> {
    text: &'t str,
    /// Which key it says it is signed with.
    pub(super) key_id: Option<String>,
    /// What it says.
    pub(super) claims: Claims,
}

/// JOSE header, RFC 7515, section 4.1.
#[derive(Deserialize)]
struct Header {
    alg: String,
    #[serde(default, deserialize_with = "text")]
    kid: Option<String>,
    #[serde(default)]
    jku: Present,
    #[serde(default)]
    jwk: Present,
    #[serde(default)]
    x5u: Present,
    #[serde(default)]
    x5c: Present,
    #[serde(default)]
    crit: Present,
}

/// Reads a bearer token; `None` if it does not claim to be a service account's and
/// hence is somebody else's to judge: of an OIDC user, or no JWT at all.
///
/// # Errors
/// [`TokenRefusal`] for every defect of a token that does claim it.
pub(super) fn read(token: &str) -> Result<Option<UnverifiedToken<'_>>, TokenRefusal> {
    if token.len() > MAX_TOKEN {
        return Err(TokenRefusal::TooLong);
    }
    let mut segments = token.split('.');
    let (Some(header), Some(payload), Some(signature), None) =
        (segments.next(), segments.next(), segments.next(), segments.next())
    else {
        return Ok(None);
    };
    let Ok(payload) = URL_SAFE_NO_PAD.decode(payload) else { return Ok(None) };
    let Some(outline) = Outline::read(&payload) else { return Ok(None) };
    if !outline.texts("sub").any(|subject| subject.starts_with(SUBJECT)) {
        return Ok(None);
    }
    // From here on it claims to be one of ours.
    if outline.repeats {
        return Err(TokenRefusal::Malformed);
    }
    let key_id = read_header(header)?;
    if signature.is_empty() || URL_SAFE_NO_PAD.decode(signature).is_err() {
        return Err(TokenRefusal::Malformed);
    }
    if !outline.has("exp") && outline.texts("iss").any(|issuer| issuer == LEGACY_ISSUER) {
        return Err(TokenRefusal::Legacy);
    }
    let claims: RawClaims =
        serde_json::from_slice(&payload).map_err(|_| TokenRefusal::Malformed)?;
    Ok(Some(UnverifiedToken { text: token, key_id, claims: claims.try_into()? }))
}

/// The key id in the header of a token of any issuer.
///
/// # Errors
/// [`TokenRefusal`] for what is no signed JWT.
pub(super) fn key_id(token: &str) -> Result<Option<String>, TokenRefusal> {
    match token.split('.').collect::<Vec<_>>()[..] {
        [header, _, signature] if !signature.is_empty() || read_header(header).is_err() => {
            read_header(header)
        }
        _ => Err(TokenRefusal::Malformed),
    }
}

/// The key id, of a header that asks for nothing odd.
fn read_header(encoded: &str) -> Result<Option<String>, TokenRefusal> {
    let malformed = TokenRefusal::Malformed;
    let json = URL_SAFE_NO_PAD.decode(encoded).map_err(|_| malformed)?;
    if Outline::read(&json).is_none_or(|outline| outline.repeats) {
        return Err(malformed);
    }
    let header: Header = serde_json::from_slice(&json).map_err(|_| malformed)?;
    // A key that comes with the token proves nothing, and `crit` asks for what we
    // do not understand (RFC 7515, section 4.1.11).
    if [&header.jku, &header.jwk, &header.x5u, &header.x5c, &header.crit].iter().any(|it| it.0) {
        return Err(malformed);
    }
    // Neither `none` nor HMAC, for which a public key would be the secret. Which of these
    // it may be is up to the key.
    match header.alg.as_str() {
        "RS256" | "RS384" | "RS512" | "ES256" | "ES384" => Ok(header.kid),
        _ => Err(TokenRefusal::Algorithm),
    }
}

// === impl UnverifiedToken ===

impl<'t> UnverifiedToken<'t> {
    /// The token itself, for those who verify it.
    pub(super) fn text(&self) -> &'t str {
        self.text
    }
}
