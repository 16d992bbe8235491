//! One store as the resolver calls it: bounded in time and number, retried within a
//! budget, left alone while it is down or throttling, measured, logged where it
//! failed.

mod budget;
mod circuit;
mod share;

use std::{
    error::Error as StdError,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::{Instant, sleep, timeout_at},
};

pub(super) use self::circuit::Class;
use self::{
    budget::Budget,
    circuit::{Circuit, Closed, Health},
    share::Shares,
};
use super::listen::Listening;
use crate::{
    backends::{BackendError, CallContext, Store},
    metrics::Metrics,
    secret::{BackendName, SecretName},
};

/// The most that one operation tries.
const TRIES: u32 = 3;
/// The longest wait before the first retry; doubles for the second.
const BACKOFF: Duration = Duration::from_millis(50);

/// One of this many slots may be a listing's.
const LISTINGS: usize = 8;

/// A store and what is known of its health.
pub(super) struct Upstream {
    /// Tells what was fetched from this store from what another of its name held.
    pub(super) id: u64,
    pub(super) name: BackendName,
    pub(super) store: Store,
    pub(super) concurrency: usize,
    slots: Semaphore,
    /// Listings hold whole pages in memory: few at a time.
    listings: Semaphore,
    shares: Shares,
    /// Begun with the first read that the store answered.
    pub(super) listening: OnceLock<Listening>,
    state: Mutex<State>,
    metrics: Arc<Metrics>,
}

/// How a store is doing, for `/backends`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendStatus {
    /// Its configured name.
    pub name: BackendName,
    /// `unknown` before the first call, `up`, `failing` or `refusing` after a last call
    /// that did or was, `throttled` or `down` while calls are held back.
    pub state: &'static str,
    /// Calls under way.
    pub in_flight: usize,
    /// When it last answered.
    pub last_answer: Option<SystemTime>,
    /// The last failure, by kind, and when it was.
    pub last_failure: Option<(&'static str, SystemTime)>,
    /// When the credentials in use run out, where that is known.
    pub credentials_expire: Option<SystemTime>,
}

/// What is asked of a store.
#[derive(Clone)]
pub(super) struct Operation<'a> {
    /// The word in metrics and logs.
    pub(super) word: &'static str,
    pub(super) class: Class,
    /// Taken out of what is logged.
    pub(super) name: Option<&'a SecretName>,
    /// Whether doing it twice is as good as once.
    pub(super) repeatable: bool,
    /// Of the request that it is for.
    pub(super) request_id: Option<Arc<str>>,
    /// Who asked first.
    pub(super) principal: Arc<str>,
}

#[derive(Default)]
struct State {
    circuit: Circuit,
    budget: Budget,
    last_answer: Option<SystemTime>,
    last_failure: Option<(&'static str, SystemTime)>,
}

/// A call that was let through; tells the circuit if it is dropped half way.
struct Admitted<'a> {
    upstream: &'a Upstream,
    /// Whether it tries if the store is back.
    probe: bool,
    /// Whether it has less time left than it spent in the queue: that it takes longer
    /// is not the store's doing.
    short: bool,
    told: bool,
}

/// A call that was not made because calls before it failed.
#[derive(Debug, thiserror::Error)]
#[error("not called: the last calls failed ({0}), it is left alone for a moment")]
struct LeftAlone(&'static str);

// === impl Upstream ===

impl Upstream {
    pub(super) fn new(
        name: BackendName,
        store: Store,
        concurrency: usize,
        metrics: Arc<Metrics>,
    ) -> Self {
        static OPENED: AtomicU64 = AtomicU64::new(0);
        let id = OPENED.fetch_add(1, Ordering::Relaxed);
        let slots = Semaphore::new(concurrency);
        let listings = Semaphore::new(concurrency.div_ceil(LISTINGS));
        let shares = Shares::new(concurrency);
        Self {
            id,
            name,
            store,
            concurrency,
            slots,
            listings,
            shares,
            listening: OnceLock::new(),
            state: Mutex::default(),
            metrics,
        }
    }

    /// Calls the store, again if that is likely to help, until `deadline`.
    pub(super) async fn call<T, F>(
        &self,
        operation: Operation<'_>,
        deadline: Instant,
        mut attempt: impl FnMut() -> F,
    ) -> Result<T, BackendError>
    where
        F: Future<Output = Result<T, BackendError>>,
    {
        self.state().budget.deposit();
        let mut tries = 1;
        loop {
            let started = Instant::now();
            let error = match self.attempt(&operation, deadline, attempt()).await {
                Err(error @ BackendError::Unavailable(_)) if operation.repeatable => error,
                outcome => return outcome,
            };
            // Full jitter, so that callers who failed together do not return together.
            let wait = (BACKOFF * tries).mul_f64(fastrand::f64());
            // What took longer than there is left would not come to an end again.
            let left = deadline.saturating_duration_since(Instant::now() + wait);
            let late = left.is_zero() || left < started.elapsed();
            if tries == TRIES || late || !self.may_retry() {
                return Err(error);
            }
            sleep(wait).await;
            tries += 1;
            self.metrics.backend_retry(self.name.as_str());
        }
    }

    fn may_retry(&self) -> bool {
        let mut state = self.state();
        state.circuit.state() != "down" && state.budget.withdraw()
    }

    async fn attempt<T>(
        &self,
        operation: &Operation<'_>,
        deadline: Instant,
        call: impl Future<Output = Result<T, BackendError>>,
    ) -> Result<T, BackendError> {
        let asked = Instant::now();
        // What ends in this queue says nothing about the store.
        let _share = self
            .shares
            .take(&operation.principal, deadline)
            .await
            .map_err(|_| BackendError::TimedOut)?;
        let _listing = match operation.class {
            Class::List => Some(slot(&self.listings, deadline).await?),
            Class::Read | Class::Write => None,
        };
        let _slot = slot(&self.slots, deadline).await?;
        let started = Instant::now();
        let mut admitted = self.admit(operation.class)?;
        admitted.short = deadline.saturating_duration_since(started) < started - asked;
        let context = CallContext { request_id: operation.request_id.clone(), deadline };
        let result = timeout_at(deadline, context.scope(call)).await;
        let result = result.unwrap_or(Err(BackendError::TimedOut));
        let took = started.elapsed();
        admitted.told(operation.class, &result);
        let failure = result.as_ref().err().filter(|error| is_failure(error));
        self.metrics.backend_call(self.name.as_str(), operation.word, took, failure.is_some());
        if let Some(error) = failure {
            self.log_failure(operation, took, error);
        }
        result
    }

    fn admit(&self, class: Class) -> Result<Admitted<'_>, BackendError> {
        let mut state = self.state();
        match state.circuit.admit(class) {
            Ok(probe) => Ok(Admitted { upstream: self, probe, short: false, told: false }),
            Err(Closed::Throttled(wait)) => {
                Err(BackendError::Throttled { retry_after: Some(wait) })
            }
            Err(Closed::Down(_)) => {
                let kind = state.last_failure.map_or("before", |(kind, _)| kind);
                Err(BackendError::Unavailable(Some(Arc::new(LeftAlone(kind)))))
            }
        }
    }

    pub(super) fn status(&self) -> BackendStatus {
        let state = self.state();
        BackendStatus {
            name: self.name.clone(),
            state: state.word(),
            in_flight: self.concurrency - self.slots.available_permits(),
            last_answer: state.last_answer,
            last_failure: state.last_failure,
            credentials_expire: self.store.credentials_expire(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Plain fields: a panic leaves nothing half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Logs a store's own words, with the secret's name taken out of them.
    fn log_failure(&self, operation: &Operation<'_>, took: Duration, error: &BackendError) {
        let mut cause = String::new();
        let mut source = error.source();
        while let Some(error) = source {
            if !cause.is_empty() {
                cause.push_str(": ");
            }
            cause.push_str(&error.to_string());
            source = error.source();
        }
        if let Some(name) = operation.name {
            cause = cause.replace(name.as_str(), "<name>");
        }
        tracing::warn!(
            secret.backend = %self.name,
            operation = operation.word,
            duration_ms = took.as_millis() as u64,
            request_id = operation.request_id.as_deref(),
            cause,
            "call to backend failed: {error}"
        );
    }
}

// === impl State ===

impl State {
    /// The word for `/backends`: what the circuit says, or else how the last call ended.
    fn word(&self) -> &'static str {
        let circuit = self.circuit.state();
        match (self.last_answer, self.last_failure) {
            (None, None) => "unknown",
            (answer, Some((kind, failed)))
                if circuit == "up" && answer.is_none_or(|answer| answer < failed) =>
            {
                if matches!(kind, "permission_denied" | "invalid") { "refusing" } else { "failing" }
            }
            _ => circuit,
        }
    }
}

// === impl Admitted ===

impl Admitted<'_> {
    fn told<T>(mut self, class: Class, result: &Result<T, BackendError>) {
        self.told = true;
        let health = match result {
            Err(BackendError::Throttled { retry_after }) => Health::Throttling(*retry_after),
            // A write or listing may fail for what it carries or how long it is, which
            // the caller chooses; reads are all alike.
            Err(BackendError::Unavailable(_) | BackendError::TimedOut)
                if class == Class::Read && !self.short || self.probe =>
            {
                Health::Failing
            }
            Err(BackendError::Unavailable(_) | BackendError::TimedOut) => Health::Unclear,
            Ok(_) | Err(_) => Health::Alive,
        };
        let mut state = self.upstream.state();
        state.circuit.record(class, health, self.probe);
        let now = SystemTime::now();
        match result {
            Err(BackendError::TimedOut) if self.short => {}
            Err(error) if is_failure(error) => state.last_failure = Some((error.kind(), now)),
            Ok(_) | Err(_) => state.last_answer = Some(now),
        }
    }
}

impl Drop for Admitted<'_> {
    fn drop(&mut self) {
        if !self.told {
            self.upstream.state().circuit.abandon(self.probe);
        }
    }
}

async fn slot(slots: &Semaphore, deadline: Instant) -> Result<SemaphorePermit<'_>, BackendError> {
    let slot = timeout_at(deadline, slots.acquire()).await.map_err(|_| BackendError::TimedOut)?;
    Ok(slot.expect("never closed"))
}

/// Whether an error says something about the store, rather than about what the
/// caller asked for.
fn is_failure(error: &BackendError) -> bool {
    match error {
        BackendError::NotFound
        | BackendError::Conflict
        | BackendError::Disabled
        | BackendError::PendingDeletion => false,
        BackendError::PermissionDenied(_)
        | BackendError::Throttled { .. }
        | BackendError::Unavailable(_)
        | BackendError::TimedOut
        | BackendError::Invalid(_) => true,
    }
}
