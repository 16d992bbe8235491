//! OAuth 2.0 client credentials (RFC 6749, section 4.4).

use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD};
use http::HeaderName;
use serde::Deserialize;
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::{
    AccessTokens, Endpoint, IssueError, Signed, SigningError, Values,
    endpoint::{self, Reply},
    fill::fill,
    issued::Issued,
};
use crate::{injection::Template, secret::SecretValue};

/// What a token counts as whose issuer does not say how long it is valid.
const UNSAID: Duration = Duration::from_secs(60);

/// How to get a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OAuth2 {
    /// The token endpoint.
    pub endpoint: Endpoint,
    /// Who asks.
    pub client_id: Template,
    /// What proves it.
    pub client_secret: Template,
    /// Where both stand.
    pub authentication: ClientAuthentication,
    /// Scopes, separated by spaces.
    pub scope: Option<String>,
    /// Whom the token is for, as some issuers call it.
    pub audience: Option<String>,
    /// Whom the token is for (RFC 8707).
    pub resource: Option<String>,
    /// The header with the token.
    pub header: HeaderName,
}

/// Where a client shows who it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientAuthentication {
    /// In the header (`client_secret_basic`).
    #[default]
    Basic,
    /// In the form (`client_secret_post`).
    Post,
}

#[derive(Deserialize)]
struct Answer {
    access_token: Zeroizing<String>,
    token_type: String,
    #[serde(default)]
    expires_in: Option<Seconds>,
}

/// Some issuers write numbers as text.
#[derive(Deserialize)]
#[serde(untagged)]
enum Seconds {
    Number(f64),
    Text(String),
}

// === impl OAuth2 ===

impl OAuth2 {
    pub(super) async fn sign(
        &self,
        values: Values<'_>,
        tokens: &AccessTokens,
        deadline: Instant,
    ) -> Result<Signed, SigningError> {
        let id = fill(&self.client_id, values)?;
        let secret = fill(&self.client_secret, values)?;
        let optional = [&self.scope, &self.audience, &self.resource];
        let optional = optional.map(|part| part.as_deref().unwrap_or_default());
        let method = match self.authentication {
            ClientAuthentication::Basic => "basic",
            ClientAuthentication::Post => "post",
        };
        let key = tokens.key(
            ["oauth2", self.endpoint.as_str(), method, &*id, &*secret].into_iter().chain(optional),
        );
        let issue = || self.issue(id, secret);
        let token = tokens.get(key, deadline, issue).await?;
        let value = bearer(token.value());
        let headers = vec![(self.header.clone(), value)];
        Ok(Signed { headers, issued: Some(token), ..Signed::default() })
    }

    /// Asks the issuer. Runs without the request that needs the token.
    fn issue(
        &self,
        id: Zeroizing<String>,
        secret: Zeroizing<String>,
    ) -> impl Future<Output = Result<Issued, IssueError>> + Send + 'static {
        let endpoint = self.endpoint.clone();
        let mut form = form_urlencoded::Serializer::new(String::with_capacity(64 * 1024));
        form.append_pair("grant_type", "client_credentials");
        let mut authorization = None;
        match self.authentication {
            ClientAuthentication::Basic => authorization = Some(basic(&id, &secret)),
            ClientAuthentication::Post => {
                form.append_pair("client_id", &id).append_pair("client_secret", &secret);
            }
        }
        let optional =
            [("scope", &self.scope), ("audience", &self.audience), ("resource", &self.resource)];
        for (name, value) in optional {
            if let Some(value) = value {
                form.append_pair(name, value);
            }
        }
        let body = Zeroizing::new(form.finish());
        async move {
            let headers = endpoint::headers(
                "application/x-www-form-urlencoded",
                "application/json",
                authorization.as_ref().map(|value| value.as_str()),
            );
            let reply = endpoint.post(headers.ok_or(IssueError::Internal)?, body).await;
            let issued = reply.map_err(|why| (IssueError::Unavailable, why)).and_then(read);
            issued.map_err(|(error, why)| {
                tracing::warn!(issuer = endpoint.as_str(), why, "no OAuth 2.0 token: {error}");
                error
            })
        }
    }
}

/// RFC 6749, 2.3.1: both are form-encoded before they become Basic credentials.
fn basic(id: &str, secret: &str) -> Zeroizing<String> {
    let encode = |text: &str| -> Zeroizing<String> {
        Zeroizing::new(form_urlencoded::byte_serialize(text.as_bytes()).collect())
    };
    let credentials = Zeroizing::new(format!("{}:{}", *encode(id), *encode(secret)));
    Zeroizing::new(format!("Basic {}", STANDARD.encode(credentials.as_bytes())))
}

/// The value of a header with this token.
#[expect(clippy::disallowed_methods, reason = "the header that the token was issued for")]
pub(super) fn bearer(token: &SecretValue) -> SecretValue {
    SecretValue::new([b"Bearer ", token.expose_secret()].concat())
}

/// A token that a header can hold.
pub(super) fn token(text: &str) -> Option<SecretValue> {
    let fits =
        !text.is_empty() && text.len() <= 16 * 1024 && text.bytes().all(|b| b.is_ascii_graphic());
    fits.then(|| SecretValue::new(text))
}

fn read(Reply { status, body }: Reply) -> Result<Issued, (IssueError, String)> {
    if status != http::StatusCode::OK {
        return Err(failure(status, error_code(&body)));
    }
    let no_token = |why: &str| (IssueError::NoToken, why.to_owned());
    let answer: Answer = serde_json::from_slice(&body)
        .map_err(|_| no_token("the answer is not a token response"))?;
    if !answer.token_type.eq_ignore_ascii_case("bearer") {
        return Err(no_token("the token is not a bearer token"));
    }
    let value =
        token(&answer.access_token).ok_or_else(|| no_token("no header can hold the token"))?;
    let seconds = match answer.expires_in {
        None => None,
        Some(Seconds::Number(seconds)) => Some(seconds),
        Some(Seconds::Text(text)) => text.parse().ok(),
    };
    let lifetime = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    Ok(Issued { value, lifetime: lifetime.unwrap_or(UNSAID) })
}

pub(super) fn failure(status: http::StatusCode, code: &str) -> (IssueError, String) {
    let error = match status.is_client_error() && status != http::StatusCode::TOO_MANY_REQUESTS {
        true => IssueError::Refused,
        false if status.is_server_error() || status.is_client_error() => IssueError::Unavailable,
        // A redirect, most often: the secret is not sent there.
        false => IssueError::NoToken,
    };
    (error, format!("status {} {code}", status.as_u16()).trim_end().to_owned())
}

/// RFC 6749's own words alone: whatever else is in an answer may be a secret.
fn error_code(body: &[u8]) -> &'static str {
    #[derive(Deserialize)]
    struct Failure {
        error: String,
    }
    const CODES: [&str; 6] = [
        "invalid_request",
        "invalid_client",
        "invalid_grant",
        "unauthorized_client",
        "unsupported_grant_type",
        "invalid_scope",
    ];
    let failure = serde_json::from_slice::<Failure>(body).ok();
    let code = failure.and_then(|failure| CODES.into_iter().find(|code| *code == failure.error));
    code.unwrap_or_default()
}
