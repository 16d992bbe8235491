//! Asking the API server whether a token is good: a TokenReview.
//!
//! The API server knows what no signature shows: whether the service account and the pod
//! still exist. Its answer is believed only as far as it names the service account that
//! the token claims. Nothing is tried twice, and no token is logged.

mod status;

use std::{
    num::NonZeroU32,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use governor::{
    DefaultDirectRateLimiter, Quota, RateLimiter,
    clock::{Clock, DefaultClock},
};
use http::{Request, header};
use serde::Serialize;
use tokio::time::{Instant, sleep};
use zeroize::Zeroizing;

use self::status::Review;
use super::{Pod, TokenError, TokenRefusal};
use crate::{
    apiserver::{Answer, ApiServer, CallError},
    identity::ServiceAccount,
    telemetry::Seldom,
};

const PATH: &str = "/apis/authentication.k8s.io/v1/tokenreviews";

/// The longest answer, in bytes: the token once more, a user and its groups.
const MAX_ANSWER: usize = 256 << 10;

/// How long a server that throttles is left alone where it does not say.
const PAUSE: Duration = Duration::from_secs(1);

/// The longest that it is believed.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// What is asked, and how often.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReviewSettings {
    /// A token must be for one of these. None are no question: every token is refused.
    pub audiences: Vec<Arc<str>>,
    /// The API server's share of calls from here.
    pub per_second: NonZeroU32,
    /// How many calls may come at once.
    pub burst: NonZeroU32,
    /// For a review, with waiting for its turn.
    pub timeout: Duration,
}

/// What the API server says about the bearer of a good token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reviewed {
    /// The service account's uid.
    pub account_uid: Option<Arc<str>>,
    /// The pod that the token is bound to.
    pub pod: Option<Pod>,
    /// The node that the pod runs on.
    pub node: Option<Arc<str>>,
    /// The token's own id.
    pub credential_id: Option<Arc<str>>,
}

/// Asks one API server about tokens.
pub struct Reviewer {
    api: ApiServer,
    audiences: Vec<Arc<str>>,
    limiter: DefaultDirectRateLimiter,
    timeout: Duration,
    /// Until when the server asked to be left alone.
    paused: Mutex<Option<Instant>>,
    outages: Seldom,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Question<'a> {
    api_version: &'a str,
    kind: &'a str,
    spec: Spec<'a>,
}

#[derive(Serialize)]
struct Spec<'a> {
    audiences: Vec<&'a str>,
    token: &'a str,
}

/// A review without a verdict.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("reviews of tokens wait for their turn longer than they may take")]
    Limited,
    #[error("the API server asked to be left alone")]
    Paused,
    #[error("no answer in time")]
    TimedOut,
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("the API server does not accept our own credentials (status 401, audit {audit:?})")]
    Unauthorized { audit: String },
    #[error(
        "we may not review tokens (status 403, audit {audit:?}): the verb create on tokenreviews \
         in the group authentication.k8s.io is missing, as the role system:auth-delegator has it"
    )]
    Forbidden { audit: String },
    #[error("the API server throttles (status 429, audit {audit:?})")]
    Throttled { audit: String },
    #[error("the API server failed (status {status}, audit {audit:?})")]
    Status { status: u16, audit: String },
    #[error("the answer is no TokenReview (status {status}, audit {audit:?})")]
    Unreadable { status: u16, audit: String },
}

// === impl ReviewSettings ===

impl ReviewSettings {
    /// How long a review may take unless something else is set.
    pub const TIMEOUT: Duration = Duration::from_secs(5);
}

// === impl Reviewer ===

impl Reviewer {
    /// Calls nobody yet.
    #[must_use]
    pub fn new(api: ApiServer, settings: ReviewSettings) -> Self {
        let ReviewSettings { audiences, per_second, burst, timeout } = settings;
        let quota = Quota::per_second(per_second).allow_burst(burst);
        Self {
            api,
            audiences,
            limiter: RateLimiter::direct(quota),
            timeout,
            paused: Mutex::default(),
            outages: Seldom::default(),
        }
    }

    /// Asks once whether a token is good for one of our audiences and is that of the
    /// service account which it claims.
    ///
    /// # Errors
    /// [`TokenError`]; whatever gives no clear verdict is [`TokenError::Unavailable`].
    pub async fn review(
        &self,
        token: &str,
        expected: &ServiceAccount,
    ) -> Result<Reviewed, TokenError> {
        if self.audiences.is_empty() {
            // The API server would take its own audience for ours.
            return Err(TokenRefusal::Audience.into());
        }
        let asked = tokio::time::timeout(self.timeout, self.ask(token));
        match asked.await.unwrap_or(Err(Failure::TimedOut)) {
            Ok(review) => Ok(review.verdict(&self.audiences, expected)?),
            Err(failure) => {
                if let Some(left_out) = self.outages.permit() {
                    tracing::warn!(cause = %failure, left_out, "tokens cannot be reviewed");
                }
                Err(TokenError::Unavailable)
            }
        }
    }

    async fn ask(&self, token: &str) -> Result<Review, Failure> {
        self.turn().await?;
        let audiences = self.audiences.iter().map(|audience| &**audience).collect();
        let question = Question {
            api_version: "authentication.k8s.io/v1",
            kind: "TokenReview",
            spec: Spec { audiences, token },
        };
        let request = Request::post(PATH)
            .header(header::ACCEPT, "application/json")
            .header(header::CONTENT_TYPE, "application/json")
            .body(question.into_body())
            .expect("a request of constants");
        let answer = self.api.send(request, MAX_ANSWER).await?;
        if answer.status == 429 || (answer.retry_after.is_some() && answer.status >= 400) {
            self.pause(&answer);
        }
        let Answer { status, audit_id: audit, body, .. } = answer;
        match status {
            200..=299 => Review::parse(&body).ok_or(Failure::Unreadable { status, audit }),
            401 => Err(Failure::Unauthorized { audit }),
            403 => Err(Failure::Forbidden { audit }),
            429 => Err(Failure::Throttled { audit }),
            _ => Err(Failure::Status { status, audit }),
        }
    }

    /// Waits until one call more is no burden, or says at once that this takes too long.
    async fn turn(&self) -> Result<(), Failure> {
        let deadline = Instant::now() + self.timeout;
        loop {
            let now = Instant::now();
            let paused = *self.paused();
            if let Some(until) = paused.filter(|until| *until > now) {
                if until >= deadline {
                    return Err(Failure::Paused);
                }
                tokio::time::sleep_until(until).await;
                continue;
            }
            let Err(not_yet) = self.limiter.check() else { return Ok(()) };
            let wait = not_yet.wait_time_from(DefaultClock::default().now());
            if now + wait >= deadline {
                return Err(Failure::Limited);
            }
            sleep(wait).await;
        }
    }

    fn pause(&self, answer: &Answer) {
        // The API server says seconds; a date could only be of somebody on the way.
        let asked = answer.retry_after.as_deref().and_then(|text| text.trim().parse().ok());
        let wait = asked.map_or(PAUSE, Duration::from_secs).min(LONGEST_PAUSE);
        let until = Instant::now() + wait;
        let mut paused = self.paused();
        *paused = Some(paused.map_or(until, |earlier| earlier.max(until)));
    }

    fn paused(&self) -> MutexGuard<'_, Option<Instant>> {
        self.paused.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Question ===

impl Question<'_> {
    /// As JSON, in a buffer that is wiped when it was sent.
    fn into_body(self) -> Bytes {
        let texts = self.spec.audiences.iter().chain([&self.spec.token]);
        // What escapes take at most: the buffer never moves.
        let longest = texts.map(|text| 6 * text.len() + 3).sum::<usize>() + 256;
        let mut buffer = Zeroizing::new(Vec::with_capacity(longest));
        serde_json::to_writer(&mut *buffer, &self).expect("texts are JSON");
        Bytes::from_owner(buffer)
    }
}

#[cfg(test)]
mod tests;
