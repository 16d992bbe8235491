//! Who we are to Google: Google's own credentials, made when first needed and made
//! anew when they have failed.
//!
//! Google's start to fetch a token as soon as they are made, and stop for good
//! after a first refusal, as while a new binding has not reached every server. A
//! key or token file that was replaced is not read again either.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use futures_util::FutureExt;
use google_cloud_auth::{
    build_errors::Error as BuildError,
    credentials::{
        self, CacheableResource, Credentials, CredentialsProvider, EntityTag, external_account,
        impersonated, service_account, user_account,
    },
    errors::CredentialsError,
};
use http::{Extensions, HeaderMap};
use zeroize::Zeroizing;

use super::error::unquoted;

/// How long credentials that failed stay, and the longest that this grows to while
/// they keep failing. What is made anew costs a call to an identity endpoint.
const PATIENCE: Duration = Duration::from_secs(10);
const MOST_PATIENCE: Duration = Duration::from_secs(60);

/// Where credentials come from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum GcpCredentials {
    /// Application default credentials: the file that
    /// `GOOGLE_APPLICATION_CREDENTIALS` names, gcloud's own file, or the metadata
    /// server, which is GKE's Workload Identity on GKE.
    #[default]
    ApplicationDefault,
    /// A file: the key of a service account, a user's login, workload identity
    /// federation (`external_account`) or impersonation.
    File(PathBuf),
    /// None at all: for emulators.
    Anonymous,
}

/// How credentials are made. May be called again and again.
pub(super) type Source = Box<dyn Fn() -> Result<Credentials, CredentialsError> + Send + Sync>;

/// Credentials that outlive their own failures.
pub(super) struct Renewing {
    source: Source,
    state: Mutex<State>,
}

/// What the SDK's client holds.
#[derive(Clone, Debug)]
pub(super) struct Shared(pub(super) Arc<Renewing>);

struct State {
    current: Option<Result<Credentials, CredentialsError>>,
    doubt: Option<Doubt>,
    since: Instant,
    patience: Duration,
    /// Of the token in use, by the SDK's mark for it.
    expiry: Option<(EntityTag, Option<SystemTime>)>,
}

/// Why the current credentials may be of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doubt {
    /// Nobody waited long enough for a token.
    Silent,
    /// They said that they would never get one.
    Refused,
    /// The store did not accept what they got.
    Rejected,
}

/// Doubts the credentials if a caller stops waiting.
struct Waiting<'a>(Option<&'a Renewing>);

/// The source that settings describe.
pub(super) fn source(credentials: GcpCredentials, impersonate: Option<String>) -> Source {
    Box::new(move || {
        let own = match &credentials {
            GcpCredentials::ApplicationDefault => credentials::Builder::default().build(),
            GcpCredentials::File(path) => return impersonating(from_file(path)?, &impersonate),
            GcpCredentials::Anonymous => Ok(credentials::anonymous::Builder::new().build()),
        };
        impersonating(own.map_err(unusable)?, &impersonate)
    })
}

fn impersonating(
    own: Credentials,
    account: &Option<String>,
) -> Result<Credentials, CredentialsError> {
    let Some(account) = account else { return Ok(own) };
    let builder = impersonated::Builder::from_source_credentials(own);
    builder.with_target_principal(account).build().map_err(unusable)
}

/// The SDK reads the file of its default chain alone.
fn from_file(path: &Path) -> Result<Credentials, CredentialsError> {
    let refused = |text: &str| {
        CredentialsError::from_msg(false, format!("credentials file {}: {text}", path.display()))
    };
    let text = std::fs::read_to_string(path).map_err(|error| refused(&error.to_string()))?;
    let text = Zeroizing::new(text);
    let json: serde_json::Value =
        serde_json::from_str(&text).map_err(|error| refused(&unquoted(&error.to_string())))?;
    let kind = json.get("type").and_then(serde_json::Value::as_str).unwrap_or_default().to_owned();
    let built = match &*kind {
        "authorized_user" => user_account::Builder::new(json).build(),
        "service_account" => service_account::Builder::new(json).build(),
        "external_account" => external_account::Builder::new(json).build(),
        "impersonated_service_account" => impersonated::Builder::new(json).build(),
        _ => return Err(refused("unknown or missing type")),
    };
    built.map_err(unusable)
}

/// Why no credentials could be made. The parser's texts quote what they met.
fn unusable(error: BuildError) -> CredentialsError {
    let text = match error.is_parsing() {
        true => format!("cannot parse the credentials file: {}", unquoted(&error.to_string())),
        false => error.to_string(),
    };
    CredentialsError::from_msg(false, text)
}

// === impl Renewing ===

impl Renewing {
    pub(super) fn new(source: Source) -> Arc<Self> {
        let state = State {
            current: None,
            doubt: None,
            since: Instant::now(),
            patience: PATIENCE,
            expiry: None,
        };
        Arc::new(Self { source, state: Mutex::new(state) })
    }

    /// The store did not accept the token: next time there is to be another.
    pub(super) fn reject(&self) {
        self.doubt(Doubt::Rejected);
    }

    /// When the token in use runs out, where it says so itself: one that was made
    /// from a service account's key. Of the others the SDK knows and does not tell.
    pub(super) fn expire(&self) -> Option<SystemTime> {
        self.state().expiry.as_ref().and_then(|(_, at)| *at)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn doubt(&self, doubt: Doubt) {
        let mut state = self.state();
        // What was rejected stays rejected; it has a token, and no use of it.
        if state.doubt != Some(Doubt::Rejected) {
            state.doubt = Some(doubt);
        }
    }

    /// The current credentials, or new ones if these have failed long enough.
    fn current(&self) -> Result<Credentials, CredentialsError> {
        let mut state = self.state();
        let over = state.since.elapsed() >= state.patience;
        match (&state.current, state.doubt) {
            (Some(current), None) => return current.clone(),
            (Some(current), Some(_)) if !over => return current.clone(),
            // Late, but there.
            (Some(Ok(current)), Some(Doubt::Silent)) if has_token(current) => {
                return Ok(current.clone());
            }
            (Some(_), Some(_)) => state.patience = (state.patience * 2).min(MOST_PATIENCE),
            (None, _) => {}
        }
        let made = (self.source)();
        state.doubt = made.is_err().then_some(Doubt::Refused);
        state.since = Instant::now();
        state.current = Some(made.clone());
        made
    }

    async fn headers(
        &self,
        extensions: Extensions,
    ) -> Result<CacheableResource<HeaderMap>, CredentialsError> {
        let current = self.current()?;
        let waiting = Waiting(Some(self));
        let found = current.headers(extensions).await;
        waiting.over();
        match &found {
            Ok(CacheableResource::New { entity_tag, data }) => self.found(entity_tag, data),
            Ok(CacheableResource::NotModified) => {}
            Err(error) if error.is_transient() => {}
            Err(_) => self.doubt(Doubt::Refused),
        }
        found
    }

    fn found(&self, tag: &EntityTag, headers: &HeaderMap) {
        let mut state = self.state();
        if state.doubt != Some(Doubt::Rejected) {
            state.doubt = None;
            state.patience = PATIENCE;
        }
        if state.expiry.as_ref().is_none_or(|(known, _)| known != tag) {
            state.expiry = Some((tag.clone(), expiry(headers)));
        }
    }
}

impl CredentialsProvider for Shared {
    async fn headers(
        &self,
        extensions: Extensions,
    ) -> Result<CacheableResource<HeaderMap>, CredentialsError> {
        self.0.headers(extensions).await
    }

    /// The default one. To ask would be a call to the metadata server at start.
    async fn universe_domain(&self) -> Option<String> {
        None
    }
}

impl std::fmt::Debug for Renewing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Renewing").finish_non_exhaustive()
    }
}

/// Whether credentials have a token by now, without waiting for it.
fn has_token(credentials: &Credentials) -> bool {
    credentials.headers(Extensions::new()).now_or_never().is_some_and(|found| found.is_ok())
}

/// The end of a token that is a JWT. It is our own, so nothing is verified.
fn expiry(headers: &HeaderMap) -> Option<SystemTime> {
    #[derive(serde::Deserialize)]
    struct Claims {
        exp: u64,
    }
    let token = headers.get(http::header::AUTHORIZATION)?.to_str().ok()?;
    let mut parts = token.strip_prefix("Bearer ")?.split('.');
    let (_, claims, _) = (parts.next()?, parts.next()?, parts.next()?);
    let claims = BASE64_URL_SAFE_NO_PAD.decode(claims).ok()?;
    let claims: Claims = serde_json::from_slice(&claims).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(claims.exp))
}

// === impl Waiting ===

impl Waiting<'_> {
    fn over(mut self) {
        self.0 = None;
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(credentials) = self.0 {
            credentials.doubt(Doubt::Silent);
        }
    }
}

#[cfg(test)]
mod tests;
