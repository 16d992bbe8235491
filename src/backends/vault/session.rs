//! The token in use: fetched when first needed, once for all who wait, renewed
//! before it runs out, replaced when Vault no longer knows it.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use futures_util::{
    FutureExt as _,
    future::{BoxFuture, Shared},
};
use http::HeaderValue;
use tokio::time::Instant;

use super::{VaultAuth, auth, client::Client};
use crate::backends::BackendError;

/// How long a token is believed after it was made or looked up: a path that is
/// denied must not make for a login with every call.
const BELIEVED: Duration = Duration::from_secs(10);

/// Between attempts to renew a token that is still good.
const RENEW_AGAIN: Duration = Duration::from_secs(10);

/// How long a refused login counts for all who need one.
const REFUSED: Duration = Duration::from_secs(5);

/// The same for one that failed for other reasons.
const FAILED: Duration = Duration::from_secs(1);
/// However long a server asks to be left alone: nobody waits for an hour.
const LONGEST_HOLD: Duration = Duration::from_secs(60);

/// A token as it is sent, and how long it can be used.
pub(super) struct Token {
    header: HeaderValue,
    made: Instant,
    ttl: Option<Duration>,
    expires: Option<SystemTime>,
    renewable: bool,
    marks: Mutex<Marks>,
}

struct Marks {
    /// Not to be doubted before.
    believed_until: Instant,
    /// Not to be renewed before.
    renew_at: Option<Instant>,
}

/// The token of one configured login, shared by all calls.
pub(super) struct Session {
    client: Arc<Client>,
    auth: VaultAuth,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    token: Option<Arc<Token>>,
    /// The login under way, or the look at a token that was denied.
    flight: Option<Flight>,
    /// The last login failed, and counts until then.
    failed: Option<(BackendError, Instant)>,
}

type Flight = Shared<BoxFuture<'static, Result<Arc<Token>, BackendError>>>;

// === impl Token ===

impl Token {
    pub(super) fn new(
        header: HeaderValue,
        made: Instant,
        ttl: Option<Duration>,
        renewable: bool,
    ) -> Self {
        // A lifetime beyond what a clock can tell is none.
        let expires = ttl.and_then(|ttl| SystemTime::now().checked_add(ttl));
        let ttl = ttl.filter(|ttl| made.checked_add(*ttl).is_some());
        let renew_at = ttl.map(|ttl| made + ttl * 2 / 3);
        let marks = Marks { believed_until: made + BELIEVED, renew_at };
        Self { header, made, ttl, expires, renewable, marks: Mutex::new(marks) }
    }

    pub(super) fn header(&self) -> &HeaderValue {
        &self.header
    }

    fn is_expired(&self, now: Instant) -> bool {
        self.ttl.is_some_and(|ttl| now.duration_since(self.made) >= ttl)
    }

    /// Whether it is time to renew it; true for one caller at a time.
    fn claim_renewal(&self, now: Instant) -> bool {
        let mut marks = self.marks();
        let due = marks.renew_at.is_some_and(|at| now >= at);
        if due {
            marks.renew_at = Some(now + RENEW_AGAIN);
        }
        due
    }

    /// Whether what it is denied may be its own fault.
    fn is_doubtful(&self, now: Instant) -> bool {
        now >= self.marks().believed_until
    }

    fn believe(&self, now: Instant) {
        self.marks().believed_until = now + BELIEVED;
    }

    fn marks(&self) -> MutexGuard<'_, Marks> {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Session ===

impl Session {
    pub(super) fn new(client: Arc<Client>, auth: VaultAuth) -> Arc<Self> {
        Arc::new(Self { client, auth, state: Mutex::default() })
    }

    /// A token that should be good: the one at hand, at once, while it lives.
    pub(super) async fn token(self: &Arc<Self>) -> Result<Arc<Token>, BackendError> {
        let flight = {
            let (mut state, now) = (self.state(), Instant::now());
            match &state.token {
                Some(token) if !token.is_expired(now) => {
                    if token.claim_renewal(now) {
                        tokio::spawn(Arc::clone(self).renew(Arc::clone(token)));
                    }
                    return Ok(Arc::clone(token));
                }
                _ => self.start(&mut state, None)?,
            }
        };
        flight.await
    }

    /// Another token in place of one that was denied something; `None` if that
    /// was not for the token.
    pub(super) async fn replacement(
        self: &Arc<Self>,
        denied: &Arc<Token>,
    ) -> Result<Option<Arc<Token>>, BackendError> {
        if !self.auth.can_log_in_again() {
            return Ok(None);
        }
        let flight = {
            let (mut state, now) = (self.state(), Instant::now());
            match &state.token {
                Some(current) if !Arc::ptr_eq(current, denied) => {
                    return Ok(Some(Arc::clone(current)));
                }
                _ if state.flight.is_none() && !denied.is_doubtful(now) => return Ok(None),
                _ => self.start(&mut state, Some(Arc::clone(denied)))?,
            }
        };
        let found = flight.await?;
        Ok((!Arc::ptr_eq(&found, denied)).then_some(found))
    }

    /// When the token in use runs out.
    pub(super) fn expires(&self) -> Option<SystemTime> {
        self.state().token.as_ref().and_then(|token| token.expires)
    }

    /// Joins what is under way, or starts to look at `doubted` and log in.
    fn start(
        self: &Arc<Self>,
        state: &mut State,
        doubted: Option<Arc<Token>>,
    ) -> Result<Flight, BackendError> {
        if let Some(flight) = &state.flight {
            return Ok(flight.clone());
        }
        if let Some((error, until)) = &state.failed
            && Instant::now() < *until
        {
            return Err(error.clone());
        }
        // In a task of its own: a caller that gives up must not end it for others.
        let task = tokio::spawn(Arc::clone(self).log_in(doubted));
        let session = Arc::clone(self);
        let flight = async move {
            task.await.unwrap_or_else(|_| {
                session.state().flight = None;
                Err(BackendError::Unavailable(None))
            })
        };
        let flight = flight.boxed().shared();
        state.flight = Some(flight.clone());
        Ok(flight)
    }

    async fn log_in(
        self: Arc<Self>,
        doubted: Option<Arc<Token>>,
    ) -> Result<Arc<Token>, BackendError> {
        let result = self.confirmed_or_new(doubted).await;
        let (mut state, now) = (self.state(), Instant::now());
        state.flight = None;
        match &result {
            Ok(token) => {
                state.token = Some(Arc::clone(token));
                state.failed = None;
            }
            Err(error) => {
                let hold = match error {
                    BackendError::PermissionDenied(_) | BackendError::Invalid(_) => REFUSED,
                    BackendError::Throttled { retry_after } => {
                        retry_after.map_or(FAILED, |wait| wait.min(LONGEST_HOLD))
                    }
                    _ => FAILED,
                };
                state.failed = Some((error.clone(), now + hold));
            }
        }
        result
    }

    async fn confirmed_or_new(
        &self,
        doubted: Option<Arc<Token>>,
    ) -> Result<Arc<Token>, BackendError> {
        if let Some(token) = doubted {
            if auth::is_alive(&self.client, &token).await? {
                token.believe(Instant::now());
                return Ok(token);
            }
            // Nobody else needs to try it.
            self.state().token = None;
        }
        self.auth.log_in(&self.client).await.map(Arc::new)
    }

    /// Renews a token, or gets a new one where that cannot be; others use the
    /// old one meanwhile.
    async fn renew(self: Arc<Self>, old: Arc<Token>) {
        let renewed = match old.renewable {
            true => auth::renew(&self.client, &old).await.map(Some),
            false => Ok(None),
        };
        let result = match renewed {
            // Near the end of its longest life less is granted each time.
            Ok(Some(new)) if new.ttl >= old.ttl.map(|ttl| ttl / 2) => Ok(new),
            Err(error) if error.is_transient() => Err(error),
            Ok(_) | Err(_) if self.auth.can_log_in_again() => self.auth.log_in(&self.client).await,
            Ok(Some(new)) => Ok(new),
            Ok(None) => return,
            Err(error) => Err(error),
        };
        match result {
            Ok(new) => {
                let mut state = self.state();
                let current = state.token.as_ref().is_some_and(|token| Arc::ptr_eq(token, &old));
                if current {
                    state.token = Some(Arc::new(new));
                }
            }
            Err(error) => tracing::warn!(
                kind = error.kind(),
                cause = std::error::Error::source(&error).map(ToString::to_string),
                "a Vault token could not be renewed and is used until it expires"
            ),
        }
    }

    /// A panic under the lock leaves whole values behind, so poison is ignored.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
