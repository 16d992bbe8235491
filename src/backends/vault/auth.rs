//! Logging in: from configured credentials to a token and its lifetime.

use std::{path::Path, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Method};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::{
    VaultAuth,
    buffer::Buffer,
    client::{Answer, Client, Request, encode},
    error::{from_answer, from_login},
    session::Token,
};
use crate::{
    backends::{BackendError, failure::cause},
    secret::SecretValue,
};

/// The longest token, JWT or secret id.
const MAX_CREDENTIAL: u64 = 64 << 10;

#[derive(Serialize)]
struct AppRole<'a> {
    role_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    secret_id: Option<&'a str>,
}

#[derive(Serialize)]
struct Jwt<'a> {
    role: &'a str,
    jwt: &'a str,
}

#[derive(Deserialize)]
struct LoginAnswer {
    auth: Option<Granted>,
}

#[derive(Deserialize)]
struct Granted {
    client_token: Zeroizing<String>,
    #[serde(default)]
    lease_duration: u64,
    #[serde(default)]
    renewable: bool,
}

#[derive(Deserialize)]
struct LookupAnswer {
    data: Lookup,
}

#[derive(Deserialize)]
struct Lookup {
    #[serde(default)]
    ttl: u64,
    #[serde(default)]
    renewable: bool,
}

// === impl VaultAuth ===

impl VaultAuth {
    /// Whether logging in again can give another token.
    pub(super) fn can_log_in_again(&self) -> bool {
        match self {
            Self::Token(_) => false,
            Self::TokenFile(_)
            | Self::AppRole { .. }
            | Self::Kubernetes { .. }
            | Self::Jwt { .. } => true,
        }
    }

    /// Gets a token. One call, with files read anew: they are rotated.
    pub(super) async fn log_in(&self, client: &Client) -> Result<Token, BackendError> {
        match self {
            Self::Token(token) => adopt(client, text(token.value())?, true).await,
            // Whoever writes the file renews what is in it.
            Self::TokenFile(path) => adopt(client, read(path).await?, false).await,
            Self::AppRole { mount, role_id, secret_id, secret_id_file } => {
                let secret_id = match (secret_id, secret_id_file) {
                    (Some(secret), _) => Some(text(secret.value())?),
                    (None, Some(path)) => Some(read(path).await?),
                    (None, None) => None,
                };
                let secret_id = secret_id.as_ref().map(|text| text.as_str());
                log_in(client, mount, &AppRole { role_id, secret_id }).await
            }
            Self::Kubernetes { mount, role, token_file }
            | Self::Jwt { mount, role, token_file } => {
                let jwt = read(token_file).await?;
                log_in(client, mount, &Jwt { role, jwt: &jwt }).await
            }
        }
    }
}

/// Asks for more time for a token.
pub(super) async fn renew(client: &Client, token: &Token) -> Result<Token, BackendError> {
    let started = Instant::now();
    let body = Buffer::from(&b"{}"[..]);
    let request = Request::login("auth/token/renew-self".to_owned(), body);
    let answer = client.send(&request, Some(token.header())).await?;
    granted(&answer, started)
}

/// Whether a token is still accepted.
pub(super) async fn is_alive(client: &Client, token: &Token) -> Result<bool, BackendError> {
    let request = Request::get("auth/token/lookup-self".to_owned());
    let answer = client.send(&request, Some(token.header())).await?;
    match answer.status {
        200..=299 => Ok(true),
        401 | 403 => Ok(false),
        _ => Err(from_answer(&answer)),
    }
}

async fn log_in(
    client: &Client,
    mount: &str,
    credentials: &(impl Serialize + Sync),
) -> Result<Token, BackendError> {
    let started = Instant::now();
    let mut body = Buffer::with_capacity(4 << 10);
    serde_json::to_writer(&mut body, credentials)
        .map_err(|_| BackendError::Invalid("the login could not be written".to_owned()))?;
    let request = Request::login(format!("auth/{}/login", encode(mount)), body);
    granted(&client.send(&request, None).await?, started)
}

fn granted(answer: &Answer, started: Instant) -> Result<Token, BackendError> {
    if !answer.is_success() {
        return Err(from_login(answer));
    }
    let LoginAnswer { auth } = answer.json()?;
    match auth {
        Some(Granted { client_token, lease_duration, renewable }) if !client_token.is_empty() => {
            Ok(Token::new(header(client_token)?, started, lifetime(lease_duration), renewable))
        }
        // As when a second factor is asked for.
        _ => Err(BackendError::PermissionDenied(Some(cause("the login gave no token".to_owned())))),
    }
}

/// Takes a token that others made, and finds out how long it lives.
async fn adopt(
    client: &Client,
    token: Zeroizing<String>,
    renew: bool,
) -> Result<Token, BackendError> {
    let (started, header) = (Instant::now(), header(token)?);
    let request = Request::new(Method::GET, "auth/token/lookup-self".to_owned());
    let answer = client.send(&request, Some(&header)).await?;
    match answer.status {
        200..=299 => {
            let LookupAnswer { data } = answer.json()?;
            Ok(Token::new(header, started, lifetime(data.ttl), renew && data.renewable))
        }
        // Its policies may keep it from asking; the next call shows if it is bad.
        403 => Ok(Token::new(header, started, None, false)),
        _ => Err(from_login(&answer)),
    }
}

fn lifetime(seconds: u64) -> Option<Duration> {
    (seconds > 0).then(|| Duration::from_secs(seconds))
}

fn header(token: Zeroizing<String>) -> Result<HeaderValue, BackendError> {
    // Shared with what sends it, and wiped with the last of them.
    let header = HeaderValue::from_maybe_shared(Bytes::from_owner(Wiped(token)));
    let mut header = header.map_err(|_| unusable("the token is no header value"))?;
    header.set_sensitive(true);
    Ok(header)
}

/// A string as the bytes that it is.
struct Wiped(Zeroizing<String>);

impl AsRef<[u8]> for Wiped {
    fn as_ref(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

#[expect(clippy::disallowed_methods, reason = "our own credentials are sent to the store")]
fn text(secret: &SecretValue) -> Result<Zeroizing<String>, BackendError> {
    trimmed(secret.expose_secret()).ok_or_else(|| unusable("the credential is empty or no text"))
}

async fn read(path: &Path) -> Result<Zeroizing<String>, BackendError> {
    let failed = |why: String| unusable(&format!("{}: {why}", path.display()));
    let size = tokio::fs::metadata(path).await.map_err(|error| failed(error.to_string()))?.len();
    if size > MAX_CREDENTIAL {
        return Err(failed("is too long for a credential".to_owned()));
    }
    let bytes = tokio::fs::read(path).await.map_err(|error| failed(error.to_string()))?;
    trimmed(&Zeroizing::new(bytes)).ok_or_else(|| failed("is empty or no text".to_owned()))
}

fn trimmed(bytes: &[u8]) -> Option<Zeroizing<String>> {
    let text = str::from_utf8(bytes).ok()?.trim();
    (!text.is_empty()).then(|| Zeroizing::new(text.to_owned()))
}

fn unusable(why: &str) -> BackendError {
    BackendError::PermissionDenied(Some(cause(why.to_owned())))
}
