//! Tokens that issuers gave, kept until shortly before they expire, or until a destination
//! refuses them. One fetch for all who need the same token at the same time; the fetch goes
//! on when a caller's time is up.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use aws_lc_rs::hmac;
use moka::sync::Cache;
use tokio::time::Instant;

use crate::{
    flight::{Flights, Lost},
    resolver::{SUSPICION_INTERVAL, Suspicion},
    secret::SecretValue,
};

/// More tokens than rules and rotations have.
const MOST: u64 = 10_000;
/// Time for a request to arrive while its token is valid.
const MARGIN: Duration = Duration::from_secs(60);
/// How long an issuer that refused is not asked again: it counts failures.
const REFUSED_FOR: Duration = Duration::from_secs(5);
/// How long one that could not be asked is left alone.
const UNAVAILABLE_FOR: Duration = Duration::from_secs(1);
/// The longest a token is kept, whatever its issuer says.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// All tokens that were issued to this process. Cheap to clone. Without `Debug`.
#[derive(Clone)]
pub struct AccessTokens {
    kept: Cache<TokenKey, Kept>,
    flights: Flights<TokenKey, Result<AccessToken, IssueError>>,
    /// How many were issued.
    issued: Arc<AtomicU64>,
    /// Tells apart whose token it is without keeping a secret for that.
    digest: hmac::Key,
}

/// Settings and secrets that a token is given for.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct TokenKey([u8; 32]);

/// A token that is put into requests. Without `Debug`.
#[derive(Clone)]
pub struct AccessToken {
    value: SecretValue,
    key: TokenKey,
    /// Tells it from those that were issued before and after.
    number: u64,
}

#[derive(Clone)]
struct Kept {
    state: State,
    /// When a destination refused one of these tokens for the last time that counted.
    suspected_at: Option<Instant>,
}

#[derive(Clone)]
enum State {
    /// Serves from `until` to `end` only if its issuer has no other.
    Token {
        token: AccessToken,
        renew_from: Instant,
        until: Instant,
        end: Instant,
    },
    Failure {
        error: IssueError,
        until: Instant,
    },
}

/// A token as its issuer gave it.
pub(super) struct Issued {
    pub(super) value: SecretValue,
    pub(super) lifetime: Duration,
}

/// Why there is no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IssueError {
    /// The issuer does not accept what it was shown.
    #[error("the issuer of tokens refused")]
    Refused,
    /// What it answered holds no token.
    #[error("the issuer of tokens gave none")]
    NoToken,
    /// It cannot be reached, or fails.
    #[error("the issuer of tokens is unavailable")]
    Unavailable,
    /// The caller's time is up; the fetch goes on.
    #[error("no token in time")]
    Deadline,
    /// Our own fault.
    #[error("internal error")]
    Internal,
}

// === impl AccessTokens ===

impl Default for AccessTokens {
    fn default() -> Self {
        let mut seed = [0; 32];
        // Not being secret would cost nothing but what a heap dump shows anyway.
        let _ = aws_lc_rs::rand::fill(&mut seed);
        Self {
            kept: Cache::builder().max_capacity(MOST).time_to_idle(LONGEST).build(),
            flights: Flights::new(),
            issued: Arc::default(),
            digest: hmac::Key::new(hmac::HMAC_SHA256, &seed),
        }
    }
}

impl AccessTokens {
    /// What tells a token apart: all that its issuer is shown.
    pub(super) fn key<'p>(&self, parts: impl IntoIterator<Item = &'p str>) -> TokenKey {
        let mut context = hmac::Context::with_key(&self.digest);
        for part in parts {
            context.update(&part.len().to_be_bytes());
            context.update(part.as_bytes());
        }
        let mut key = [0; 32];
        key.copy_from_slice(context.sign().as_ref());
        TokenKey(key)
    }

    /// The token that is kept, or a new one.
    pub(super) async fn get<F>(
        &self,
        key: TokenKey,
        deadline: Instant,
        issue: impl FnOnce() -> F,
    ) -> Result<AccessToken, IssueError>
    where
        F: Future<Output = Result<Issued, IssueError>> + Send + 'static,
    {
        let now = Instant::now();
        let (valid, spare) = match self.kept.get(&key).map(|kept| kept.state) {
            Some(State::Token { token, renew_from, .. }) if now < renew_from => return Ok(token),
            Some(State::Token { token, until, .. }) if now < until => (Some(token), None),
            Some(State::Token { token, end, .. }) if now < end => (None, Some(token)),
            Some(State::Failure { error, until }) if now < until => return Err(error),
            _ => (None, None),
        };
        let flight = self.flights.join(&key, || {
            let (tokens, issue) = (self.clone(), issue());
            async move {
                let issued = issue.await;
                tokens.keep(key, issued)
            }
        });
        // Renewed in time, by the first who comes late.
        if let Some(token) = valid {
            return Ok(token);
        }
        let issued = flight.wait(deadline).await.unwrap_or_else(|lost| {
            Err(match lost {
                Lost::Deadline => IssueError::Deadline,
                Lost::Panicked => IssueError::Internal,
            })
        });
        issued.or_else(|error| spare.ok_or(error))
    }

    /// Says that a destination refused this token. Whoever needs one next waits for another,
    /// and gets this one only if its issuer has none. A destination that refuses everything
    /// gains nothing: one is asked for every now and then only.
    pub fn suspect(&self, refused: &AccessToken) -> Suspicion {
        let kept = self.kept.get(&refused.key);
        let Some(Kept { state: State::Token { token, end, .. }, suspected_at }) = kept else {
            return Suspicion::Outdated;
        };
        let now = Instant::now();
        if token.number != refused.number || end <= now {
            return Suspicion::Outdated;
        }
        if suspected_at.is_some_and(|at| now < at + SUSPICION_INTERVAL) {
            return Suspicion::Recent;
        }
        let state = State::Token { token, renew_from: now, until: now, end };
        self.kept.insert(refused.key, Kept { state, suspected_at: Some(now) });
        Suspicion::Refreshing
    }

    /// Keeps what came of asking: the token that serves now, if there is one.
    fn keep(
        &self,
        key: TokenKey,
        issued: Result<Issued, IssueError>,
    ) -> Result<AccessToken, IssueError> {
        let now = Instant::now();
        let before = self.kept.get(&key);
        let suspected_at = before.as_ref().and_then(|kept| kept.suspected_at);
        let (state, outcome) = match issued {
            Ok(Issued { value, lifetime }) => {
                let lifetime = lifetime.min(LONGEST);
                let margin = MARGIN.min(lifetime / 4);
                let number = self.issued.fetch_add(1, Ordering::Relaxed);
                let token = AccessToken { value, key, number };
                let until = now + (lifetime - margin);
                let renew_from = until - margin;
                let state = State::Token { token: token.clone(), renew_from, until, end: until };
                (state, Ok(token))
            }
            Err(error) => {
                let pause = match error {
                    IssueError::Refused | IssueError::NoToken => REFUSED_FOR,
                    IssueError::Unavailable | IssueError::Deadline | IssueError::Internal => {
                        UNAVAILABLE_FOR
                    }
                };
                match before.map(|kept| kept.state) {
                    // It is good to its end, or may be; only the next attempt waits.
                    Some(State::Token { token, end, .. }) if now < end => {
                        let renew_from = (now + pause).min(end);
                        let serving = token.clone();
                        (State::Token { token, renew_from, until: end, end }, Ok(serving))
                    }
                    _ => (State::Failure { error, until: now + pause }, Err(error)),
                }
            }
        };
        self.kept.insert(key, Kept { state, suspected_at });
        outcome
    }
}

// === impl AccessToken ===

impl AccessToken {
    /// The token itself.
    #[must_use]
    pub fn value(&self) -> &SecretValue {
        &self.value
    }
}

// === impl IssueError ===

impl IssueError {
    /// The word in response details.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "issuer_refused",
            Self::NoToken => "issuer_no_token",
            Self::Unavailable => "issuer_unavailable",
            Self::Deadline => "budget_exceeded",
            Self::Internal => "internal",
        }
    }
}
