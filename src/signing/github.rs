//! GitHub Apps: a JSON Web Token signed with the app's key, and the installation token
//! that it is exchanged for.
//!
//! The token is put together here, because a key must stay in memory that is wiped, which
//! the library for tokens does not promise.

use std::time::{Duration, SystemTime};

use aws_lc_rs::{rand::SystemRandom, rsa::KeyPair, signature::RSA_PKCS1_SHA256};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use rustls::pki_types::{PrivateKeyDer, pem::PemObject};
use serde::Deserialize;
use tokio::time::Instant;
use zeroize::{Zeroize, Zeroizing};

use super::{
    AccessTokens, Endpoint, IssueError, Signed, SigningError, Values,
    endpoint::{self, Reply},
    fill,
    issued::Issued,
    oauth2::{bearer, failure, token},
};
use crate::{injection::Template, secret::SecretValue};

/// GitHub's clock may be behind ours.
const BACKDATED: u64 = 60;
/// From now; GitHub accepts ten minutes at most, from the backdated start.
const VALID_FOR: u64 = 480;

/// How to get an app's token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GitHubApp {
    /// The API, `https://api.github.com` unless it is a server of one's own.
    pub api: Endpoint,
    /// The app's id or its client id.
    pub app_id: String,
    /// The PEM that GitHub gave, one reference alone.
    pub private_key: Template,
    /// Where the app is installed; without it requests carry the app's own token.
    pub installation_id: Option<u64>,
    /// Only these of the installation's repositories, by name; all if none.
    pub repositories: Vec<String>,
    /// Only these of the installation's permissions; all if none.
    pub permissions: Vec<(String, String)>,
    /// How the token stands in `Authorization`.
    pub scheme: TokenScheme,
}

/// How a token stands in `Authorization`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TokenScheme {
    /// For the API.
    #[default]
    Bearer,
    /// As the password of `x-access-token`, for Git over HTTPS.
    Basic,
}

#[derive(Deserialize)]
struct Answer {
    token: Zeroizing<String>,
    expires_at: String,
}

// === impl GitHubApp ===

impl GitHubApp {
    pub(super) async fn sign(
        &self,
        now: SystemTime,
        values: Values<'_>,
        tokens: &AccessTokens,
        deadline: Instant,
    ) -> Result<Signed, SigningError> {
        let (pem, unfit) = fill::key(&self.private_key, values)?;
        let pem = std::str::from_utf8(pem).map_err(|_| unfit.clone())?;
        let key = tokens.key(["github", self.api.as_str(), &self.app_id, pem, &*self.asked()]);
        let issue = || self.issue(now, pem);
        let token = match tokens.get(key, deadline, issue).await {
            // It cannot be a key, which is known before anyone is asked.
            Err(IssueError::Internal) if signing_key(pem).is_none() => return Err(unfit),
            token => token?,
        };
        let value = match self.scheme {
            TokenScheme::Bearer => bearer(token.value()),
            TokenScheme::Basic => basic(token.value()),
        };
        let headers = vec![(http::header::AUTHORIZATION, value)];
        Ok(Signed { headers, issued: Some(token), ..Signed::default() })
    }

    /// What the token is to be for.
    fn asked(&self) -> String {
        let mut asked = serde_json::Map::new();
        if !self.repositories.is_empty() {
            asked.insert("repositories".to_owned(), self.repositories.clone().into());
        }
        if !self.permissions.is_empty() {
            let permissions = self.permissions.iter();
            let permissions: serde_json::Map<_, _> =
                permissions.map(|(name, level)| (name.clone(), level.clone().into())).collect();
            asked.insert("permissions".to_owned(), permissions.into());
        }
        let installation = self.installation_id.map(|id| id.to_string()).unwrap_or_default();
        format!("{installation} {}", serde_json::Value::Object(asked))
    }

    /// Asks GitHub. Runs without the request that needs the token.
    fn issue(
        &self,
        now: SystemTime,
        pem: &str,
    ) -> impl Future<Output = Result<Issued, IssueError>> + Send + 'static {
        let (app_id, pem) = (self.app_id.clone(), Zeroizing::new(pem.to_owned()));
        let call = self.installation_id.map(|id| {
            let endpoint = self.api.below(&format!("/app/installations/{id}/access_tokens"));
            let asked = self.asked();
            let (_, body) = asked.split_once(' ').unwrap_or_default();
            (endpoint, Zeroizing::new(body.to_owned()))
        });
        async move {
            let jwt = jwt(&app_id, now, &pem).ok_or(IssueError::Internal)?;
            let Some((endpoint, body)) = call else {
                let value = token(&jwt).ok_or(IssueError::Internal)?;
                return Ok(Issued { value, lifetime: Duration::from_secs(VALID_FOR) });
            };
            let authorization = Zeroizing::new(format!("Bearer {}", *jwt));
            let accept = "application/vnd.github+json";
            let headers = endpoint::headers("application/json", accept, Some(&authorization));
            let reply = endpoint.post(headers.ok_or(IssueError::Internal)?, body).await;
            let issued =
                reply.map_err(|why| (IssueError::Unavailable, why)).and_then(|r| read(r, now));
            issued.map_err(|(error, why)| {
                tracing::warn!(issuer = endpoint.as_str(), why, "no installation token: {error}");
                error
            })
        }
    }
}

/// The app's own token.
fn jwt(app_id: &str, now: SystemTime, pem: &str) -> Option<Zeroizing<String>> {
    let now = now.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs();
    let claims = serde_json::json!({
        "iat": now.saturating_sub(BACKDATED), "exp": now + VALID_FOR, "iss": app_id,
    });
    rs256(unsigned(r#"{"alg":"RS256","typ":"JWT"}"#, &claims.to_string()), &signing_key(pem)?)
}

/// The key in a PEM of either form.
pub(super) fn signing_key(pem: &str) -> Option<KeyPair> {
    let mut key = PrivateKeyDer::from_pem_slice(pem.as_bytes()).ok()?;
    let pair = match &key {
        PrivateKeyDer::Pkcs1(der) => KeyPair::from_der(der.secret_pkcs1_der()).ok(),
        PrivateKeyDer::Pkcs8(der) => KeyPair::from_pkcs8(der.secret_pkcs8_der()).ok(),
        _ => None,
    };
    key.zeroize();
    pair
}

/// Header and claims as they are signed (RFC 7515, section 7.1).
pub(super) fn unsigned(header: &str, claims: &str) -> String {
    format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims))
}

pub(super) fn rs256(unsigned: String, key: &KeyPair) -> Option<Zeroizing<String>> {
    let mut signature = vec![0; key.public_modulus_len()];
    let random = SystemRandom::new();
    key.sign(&RSA_PKCS1_SHA256, &random, unsigned.as_bytes(), &mut signature).ok()?;
    Some(Zeroizing::new(format!("{unsigned}.{}", URL_SAFE_NO_PAD.encode(signature))))
}

#[expect(clippy::disallowed_methods, reason = "the header that the token was issued for")]
fn basic(token: &SecretValue) -> SecretValue {
    let credentials = Zeroizing::new([b"x-access-token:", token.expose_secret()].concat());
    SecretValue::new(format!("Basic {}", STANDARD.encode(&*credentials)))
}

fn read(Reply { status, body }: Reply, now: SystemTime) -> Result<Issued, (IssueError, String)> {
    if status != http::StatusCode::CREATED {
        return Err(failure(status, ""));
    }
    let no_token = |why: &str| (IssueError::NoToken, why.to_owned());
    let answer: Answer =
        serde_json::from_slice(&body).map_err(|_| no_token("the answer is not a token"))?;
    let value = token(&answer.token).ok_or_else(|| no_token("no header can hold the token"))?;
    let expires = humantime::parse_rfc3339(&answer.expires_at)
        .map_err(|_| no_token("the token's end is not a time"))?;
    let lifetime = expires.duration_since(now).unwrap_or_default();
    Ok(Issued { value, lifetime })
}
