//! The key set of a token issuer: fetched when first needed, refreshed, and asked
//! whether a token is what it says.
//!
//! Verifying with a key that is held takes no lock and waits for nothing. Callers
//! choose the key id of their tokens, so an id that is not in the set costs at most
//! one fetch in [`COOL_DOWN`], whoever asks and how often.

mod keys;
mod source;
#[cfg(test)]
mod tests;

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use async_trait::async_trait;
use tokio::time::{Instant, timeout};

use self::keys::Keys;
pub(super) use self::keys::{Signed, refusal};
pub(super) use self::source::{FileSource, HttpsSource};
use super::{TokenError, TokenRefusal};
use crate::flight::{Flight, Flights};

/// Keys older than this are fetched anew, while they go on being used.
const MAX_AGE: Duration = Duration::from_secs(600);
/// How long an id that the newest set does not have is refused without a fetch.
const COOL_DOWN: Duration = Duration::from_secs(30);
/// The longest fetch, whatever its source allows.
const FETCH_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a source that failed is left alone: first, and at most.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// The largest set that is read; a cluster's has a few KiB.
const MAX_SET: usize = 1 << 20;

/// Where keys come from.
#[async_trait]
pub(super) trait KeySource: Send + Sync + 'static {
    /// Reads the whole set. The error is a cause for the log, on one line.
    async fn fetch(&self) -> Result<FetchedKeys, String>;
}

/// What a source gave.
pub(super) struct FetchedKeys {
    /// Whose keys these are, if the source can tell.
    pub(super) issuer: Option<String>,
    /// A JWK set, RFC 7517.
    pub(super) keys: Vec<u8>,
}

/// The keys of one issuer.
pub(super) struct KeySet {
    source: Box<dyn KeySource>,
    issuer: Option<String>,
    audiences: Arc<[String]>,
    held: ArcSwapOption<Keys>,
    flights: Flights<(), bool>,
    schedule: Mutex<Schedule>,
    /// When the keys are to be refreshed, in milliseconds since `created`.
    refresh_at: AtomicU64,
    created: Instant,
    succeeded: AtomicU64,
    failed: AtomicU64,
}

/// When the source may be asked for an id that is not in the set.
struct Schedule {
    next: Instant,
    /// Fetches that failed since one succeeded.
    failures: u32,
    /// Whether someone with such an id waits for the fetch under way.
    awaited: bool,
}

/// How often keys were fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fetches {
    /// With keys that can be used.
    pub(super) succeeded: u64,
    /// Without.
    pub(super) failed: u64,
}

// === impl KeySet ===

impl KeySet {
    /// A set of which nothing is known yet; calls nobody. The source's own issuer
    /// counts where none is configured.
    pub(super) fn new(
        source: Box<dyn KeySource>,
        issuer: Option<String>,
        audiences: Arc<[String]>,
    ) -> Self {
        let now = Instant::now();
        Self {
            source,
            issuer,
            audiences,
            held: ArcSwapOption::empty(),
            flights: Flights::new(),
            schedule: Mutex::new(Schedule { next: now, failures: 0, awaited: false }),
            refresh_at: AtomicU64::new(u64::MAX),
            created: now,
            succeeded: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        }
    }

    /// Whether the token was signed by the issuer, for one of our audiences, and is
    /// valid now.
    ///
    /// # Errors
    /// [`TokenError::Refused`] says what is wrong with it; `Unavailable` that no keys
    /// could be had at all before `deadline`. Where some are held, a key that cannot be
    /// found is the token's fault: callers choose its name, and must not turn it into an
    /// outage, after which a proxy might let them pass.
    pub(super) async fn verify(
        self: &Arc<Self>,
        token: &impl Signed,
        deadline: Instant,
    ) -> Result<(), TokenError> {
        if self.is_due() {
            self.refresh();
        }
        if let Some(verdict) = self.judge(token) {
            return Ok(verdict?);
        }
        if let Some(flight) = self.search() {
            // Whether it succeeded shows in what is held.
            let _ = flight.wait(deadline).await;
        }
        // Also without a wait: a fetch may have ended since the first look.
        match self.judge(token) {
            Some(verdict) => Ok(verdict?),
            None if self.held.load().is_some() => Err(TokenRefusal::UnknownKey.into()),
            None => Err(TokenError::Unavailable),
        }
    }

    /// Starts fetching, so that the first caller need not wait.
    pub(super) fn prefetch(self: &Arc<Self>) {
        let mut schedule = self.schedule();
        if self.flights.running(&()).is_none() {
            drop(self.start(&mut schedule));
        }
    }

    /// How long ago the keys were fetched that are held.
    pub(super) fn age(&self) -> Option<Duration> {
        self.held.load().as_ref().map(|keys| keys.fetched.elapsed())
    }

    /// Whether keys are held.
    #[cfg(test)]
    pub(super) fn ready(&self) -> bool {
        self.held.load().is_some()
    }

    /// How often keys were fetched.
    pub(super) fn fetches(&self) -> Fetches {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Fetches { succeeded: count(&self.succeeded), failed: count(&self.failed) }
    }

    /// `None` if there is no key of that id.
    fn judge(&self, token: &impl Signed) -> Option<Result<(), TokenRefusal>> {
        self.held.load().as_ref()?.judge(token)
    }

    /// The fetch to wait for with an id that is not in the set; none where the newest set
    /// is held, or the source failed a moment ago.
    fn search(self: &Arc<Self>) -> Option<Flight<bool>> {
        let mut schedule = self.schedule();
        let under_way = self.flights.running(&());
        if under_way.is_none() && Instant::now() < schedule.next {
            return None;
        }
        schedule.awaited = true;
        Some(under_way.unwrap_or_else(|| self.start(&mut schedule)))
    }

    fn is_due(&self) -> bool {
        self.now() >= self.refresh_at.load(Ordering::Relaxed)
    }

    fn refresh(self: &Arc<Self>) {
        let mut schedule = self.schedule();
        // Another may have been faster.
        if self.is_due() && self.flights.running(&()).is_none() {
            drop(self.start(&mut schedule));
        }
    }

    fn start(self: &Arc<Self>, schedule: &mut Schedule) -> Flight<bool> {
        // Counts as failed until it has succeeded: it could panic.
        schedule.failures = schedule.failures.saturating_add(1);
        let backoff = BACKOFF.0 * 2_u32.pow((schedule.failures - 1).min(5));
        let backoff = backoff.min(BACKOFF.1);
        schedule.next = Instant::now() + backoff;
        self.refresh_in(FETCH_TIMEOUT + backoff);
        let set = Arc::clone(self);
        self.flights.join(&(), || async move { set.fetch(backoff).await })
    }

    /// Whether new keys are held now.
    async fn fetch(&self, backoff: Duration) -> bool {
        let fetched = timeout(FETCH_TIMEOUT, self.source.fetch()).await;
        let fetched = fetched.unwrap_or_else(|_| Err("no answer in time".to_owned()));
        let keys = fetched
            .and_then(|fetched| Keys::read(&fetched, self.issuer.as_deref(), &self.audiences));
        let mut schedule = self.schedule();
        let now = Instant::now();
        let awaited = std::mem::take(&mut schedule.awaited);
        match keys {
            Ok(keys) => {
                tracing::debug!(keys = keys.len(), "token keys fetched");
                // Before the schedule says that the newest are held.
                self.held.store(Some(Arc::new(keys)));
                self.succeeded.fetch_add(1, Ordering::Relaxed);
                schedule.failures = 0;
                schedule.next = if awaited { now + COOL_DOWN } else { now };
                self.refresh_in(MAX_AGE);
                true
            }
            Err(cause) => {
                tracing::warn!(cause, "token keys could not be fetched");
                self.failed.fetch_add(1, Ordering::Relaxed);
                schedule.next = now + backoff;
                self.refresh_in(backoff);
                false
            }
        }
    }

    fn refresh_in(&self, wait: Duration) {
        let at = self.now().saturating_add(wait.as_millis() as u64);
        self.refresh_at.store(at, Ordering::Relaxed);
    }

    fn now(&self) -> u64 {
        self.created.elapsed().as_millis() as u64
    }

    fn schedule(&self) -> MutexGuard<'_, Schedule> {
        self.schedule.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
