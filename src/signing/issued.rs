//! Tokens that issuers gave, kept until shortly before they expire. One fetch for all who
//! need the same token at the same time; the fetch goes on when a caller's time is up.

use std::time::Duration;

use aws_lc_rs::hmac;
use moka::sync::Cache;
use tokio::time::Instant;

use crate::{
    flight::{Flights, Lost},
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
    flights: Flights<TokenKey, Result<SecretValue, IssueError>>,
    /// Tells apart whose token it is without keeping a secret for that.
    digest: hmac::Key,
}

/// Settings and secrets that a token is given for.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct TokenKey([u8; 32]);

#[derive(Clone)]
enum Kept {
    Token { value: SecretValue, renew_from: Instant, until: Instant },
    Failure { error: IssueError, until: Instant },
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
    ) -> Result<SecretValue, IssueError>
    where
        F: Future<Output = Result<Issued, IssueError>> + Send + 'static,
    {
        let now = Instant::now();
        let valid = match self.kept.get(&key) {
            Some(Kept::Token { value, renew_from, .. }) if now < renew_from => return Ok(value),
            Some(Kept::Token { value, until, .. }) if now < until => Some(value),
            Some(Kept::Failure { error, until }) if now < until => return Err(error),
            _ => None,
        };
        let kept = self.kept.clone();
        let flight = self.flights.join(&key, || {
            let issue = issue();
            async move {
                let issued = issue.await;
                keep(&kept, key, &issued);
                issued.map(|issued| issued.value)
            }
        });
        // Renewed in time, by the first who comes late.
        if let Some(value) = valid {
            return Ok(value);
        }
        flight.wait(deadline).await.map_err(|lost| match lost {
            Lost::Deadline => IssueError::Deadline,
            Lost::Panicked => IssueError::Internal,
        })?
    }
}

fn keep(kept: &Cache<TokenKey, Kept>, key: TokenKey, issued: &Result<Issued, IssueError>) {
    let now = Instant::now();
    match issued {
        Ok(Issued { value, lifetime }) => {
            let lifetime = (*lifetime).min(LONGEST);
            let margin = MARGIN.min(lifetime / 4);
            let value = value.clone();
            let until = now + (lifetime - margin);
            kept.insert(key, Kept::Token { value, renew_from: until - margin, until });
        }
        Err(error) => {
            let pause = match error {
                IssueError::Refused | IssueError::NoToken => REFUSED_FOR,
                IssueError::Unavailable | IssueError::Deadline | IssueError::Internal => {
                    UNAVAILABLE_FOR
                }
            };
            match kept.get(&key) {
                // It is good to its end; only the next attempt waits.
                Some(Kept::Token { value, until, .. }) if now < until => {
                    let renew_from = (now + pause).min(until);
                    kept.insert(key, Kept::Token { value, renew_from, until });
                }
                _ => kept.insert(key, Kept::Failure { error: *error, until: now + pause }),
            }
        }
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
