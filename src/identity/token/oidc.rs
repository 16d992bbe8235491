//! Tokens of one account of an OIDC issuer that is not the cluster: whoever has to be it
//! shows one.

use std::sync::Arc;

use jsonwebtoken::{DecodingKey, Validation};
use serde::Deserialize;
use tokio::time::Instant;

use super::{
    Bearer, KeyLocation, TokenError, TokenRefusal, TokenSetupError,
    jwks::{FileSource, HttpsSource, KeySet, KeySource, Signed, refusal},
    unverified::{MAX_TOKEN, key_id},
};

/// Whose tokens count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OidcSettings {
    /// Who issues them, as in `iss`.
    pub issuer: String,
    /// Whom they must be for.
    pub audience: String,
    /// The account's address, which the issuer must have verified.
    pub email: String,
    /// Where the issuer's keys are.
    pub keys: KeyLocation,
}

/// Says whether a token is of the account.
pub struct OidcVerifier {
    email: String,
    keys: Arc<KeySet>,
}

/// A token of which nothing is believed but its key's name.
struct Shown<'t> {
    text: &'t str,
    key_id: Option<String>,
    email: &'t str,
}

#[derive(Deserialize)]
struct Claims {
    email: String,
    email_verified: bool,
}

// === impl OidcVerifier ===

impl OidcVerifier {
    /// Calls nobody yet.
    ///
    /// # Errors
    /// [`TokenSetupError`] for keys that must not be fetched from where they are.
    pub fn new(settings: OidcSettings) -> Result<Self, TokenSetupError> {
        let source: Box<dyn KeySource> = match settings.keys {
            KeyLocation::Cluster => {
                return Err(TokenSetupError::new("the cluster's keys are not this issuer's"));
            }
            KeyLocation::File(path) => Box::new(FileSource::new(path)),
            KeyLocation::Https { url, ca_file } => {
                Box::new(HttpsSource::new(&url, ca_file).map_err(TokenSetupError::new)?)
            }
        };
        let audiences = Arc::from([settings.audience]);
        let keys = Arc::new(KeySet::new(source, Some(settings.issuer), audiences));
        Ok(Self { email: settings.email, keys })
    }

    /// Whether the token was signed by the issuer, for our audience, is valid now, and is
    /// the account's.
    ///
    /// # Errors
    /// [`TokenError::Unavailable`] if there are no keys to tell by before `deadline`.
    pub async fn verify(&self, bearer: Bearer<'_>, deadline: Instant) -> Result<(), TokenError> {
        let text = bearer.as_str();
        if text.len() > MAX_TOKEN {
            return Err(TokenRefusal::TooLong.into());
        }
        let shown = Shown { text, key_id: key_id(text)?, email: &self.email };
        self.keys.verify(&shown, deadline).await
    }
}

impl std::fmt::Debug for OidcVerifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OidcVerifier").field("email", &self.email).finish_non_exhaustive()
    }
}

// === impl Shown ===

impl Signed for Shown<'_> {
    fn key_id(&self) -> Option<&str> {
        self.key_id.as_deref()
    }

    fn judge(&self, key: &DecodingKey, validation: &Validation) -> Result<(), TokenRefusal> {
        let verified = jsonwebtoken::decode::<Claims>(self.text, key, validation);
        let claims = verified.map_err(|error| refusal(error.kind()))?.claims;
        match claims.email_verified && claims.email == self.email {
            true => Ok(()),
            // Good, and somebody else's.
            false => Err(TokenRefusal::Subject),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::{Value, json};

    use super::*;
    use crate::identity::mint::{Mint, now};

    const EMAIL: &str = "push@project.iam.gserviceaccount.com";

    #[tokio::test]
    async fn only_the_accounts_own_tokens_count() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("keys.json");
        let mint = Mint::rsa("oidc");
        std::fs::write(&path, mint.jwks()).expect("written");
        let verifier = OidcVerifier::new(OidcSettings {
            issuer: "https://accounts.google.com".to_owned(),
            audience: "https://vaultmux.test/webhooks/gcp".to_owned(),
            email: EMAIL.to_owned(),
            keys: KeyLocation::File(path),
        })
        .expect("settings");
        let token = |header: Value, changes: Value| {
            let mut claims = json!({
                "iss": "https://accounts.google.com", "aud": "https://vaultmux.test/webhooks/gcp",
                "sub": "113774264463038321964", "email": EMAIL, "email_verified": true,
                "iat": now(), "exp": now() + 3600,
            });
            for (key, value) in changes.as_object().expect("an object") {
                claims[key] = value.clone();
            }
            mint.sign(&header.to_string(), &claims.to_string())
        };
        let header = || json!({"alg": "RS256", "kid": "oidc", "typ": "JWT"});
        let stranger = Mint::rsa("stranger").with_id("oidc");
        let payload = json!({
            "iss": "https://accounts.google.com", "aud": "https://vaultmux.test/webhooks/gcp",
            "sub": "1", "email": EMAIL, "email_verified": true, "exp": now() + 3600,
        });
        for (token, expected) in [
            (token(header(), json!({"iss": "https://evil.test"})), Some(TokenRefusal::Issuer)),
            (token(header(), json!({"aud": "https://other.test"})), Some(TokenRefusal::Audience)),
            (token(header(), json!({"exp": now() - 60})), Some(TokenRefusal::Expired)),
            (token(header(), json!({"nbf": now() + 600})), Some(TokenRefusal::NotYetValid)),
            (token(header(), json!({"email": "other@p"})), Some(TokenRefusal::Subject)),
            (token(header(), json!({"email_verified": false})), Some(TokenRefusal::Subject)),
            (token(header(), json!({"email_verified": "true"})), Some(TokenRefusal::Malformed)),
            (token(header(), json!({"email": null})), Some(TokenRefusal::Malformed)),
            (token(json!({"alg": "none"}), json!({})), Some(TokenRefusal::Algorithm)),
            (
                token(json!({"alg": "HS256", "kid": "oidc"}), json!({})),
                Some(TokenRefusal::Algorithm),
            ),
            (
                token(json!({"alg": "RS256", "kid": "unknown"}), json!({})),
                Some(TokenRefusal::UnknownKey),
            ),
            (
                token(
                    json!({"alg": "RS256", "kid": "oidc", "jku": "https://evil.test"}),
                    json!({}),
                ),
                Some(TokenRefusal::Malformed),
            ),
            (
                stranger.sign(&header().to_string(), &payload.to_string()),
                Some(TokenRefusal::Signature),
            ),
            ("x".to_owned(), Some(TokenRefusal::Malformed)),
            ("x".repeat(9000), Some(TokenRefusal::TooLong)),
            (token(header(), json!({})), None),
        ] {
            let value = format!("Bearer {token}");
            let bearer = Bearer::find([value.as_bytes()]).expect("one").expect("a token");
            let deadline = Instant::now() + Duration::from_secs(20);
            let found = verifier.verify(bearer, deadline).await;
            let found = match found {
                Ok(()) => None,
                Err(TokenError::Refused(refusal)) => Some(refusal),
                Err(TokenError::Unavailable) => panic!("keys are there"),
            };
            assert_eq!(found, expected, "{token}");
        }
    }
}
