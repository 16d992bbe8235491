//! One fetch for all who want the same thing at the same time.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

/// The fetches under way, by what they fetch.
pub(crate) struct Flights<K, T> {
    running: Arc<Mutex<HashMap<K, watch::Receiver<Option<T>>>>>,
}

/// A fetch under way, to wait for.
pub(crate) struct Flight<T> {
    outcome: watch::Receiver<Option<T>>,
    /// Whether it was started by this call.
    pub(crate) started: bool,
}

/// Why a wait ended without an outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lost {
    /// The caller's deadline passed.
    Deadline,
    /// The fetch panicked.
    Panicked,
}

/// Takes a fetch off the list when it ends, by a panic too.
struct Landing<K: Eq + Hash, T> {
    running: Arc<Mutex<HashMap<K, watch::Receiver<Option<T>>>>>,
    key: K,
}

// === impl Flights ===

impl<K, T> Clone for Flights<K, T> {
    fn clone(&self) -> Self {
        Self { running: Arc::clone(&self.running) }
    }
}

impl<K, T> Flights<K, T>
where
    K: Clone + Eq + Hash + Send + 'static,
    T: Clone + Send + Sync + 'static,
{
    pub(crate) fn new() -> Self {
        Self { running: Arc::default() }
    }

    /// Joins the fetch of `key` that is under way, or starts one. It runs in a task
    /// of its own: a caller that gives up does not end it for the others. What it
    /// finds must be stored before it ends: whoever comes later looks there.
    pub(crate) fn join<F>(&self, key: &K, fetch: impl FnOnce() -> F) -> Flight<T>
    where
        F: Future<Output = T> + Send + 'static,
    {
        let mut running = lock(&self.running);
        if let Some(outcome) = running.get(key) {
            return Flight { outcome: outcome.clone(), started: false };
        }
        let (sender, outcome) = watch::channel(None);
        running.insert(key.clone(), outcome.clone());
        let landing = Landing { running: Arc::clone(&self.running), key: key.clone() };
        let fetch = fetch();
        tokio::spawn(async move {
            let found = fetch.await;
            // Off the list first: who finds it there must also hear of its end.
            drop(landing);
            let _ = sender.send(Some(found));
        });
        Flight { outcome, started: true }
    }

    /// The fetch of `key` that is under way, without starting one.
    pub(crate) fn running(&self, key: &K) -> Option<Flight<T>> {
        let outcome = lock(&self.running).get(key)?.clone();
        Some(Flight { outcome, started: false })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No code that can panic runs under the lock.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl Flight ===

impl<T: Clone> Flight<T> {
    /// The outcome, if it comes before the deadline.
    pub(crate) async fn wait(mut self, deadline: Instant) -> Result<T, Lost> {
        match timeout_at(deadline, self.outcome.wait_for(Option::is_some)).await {
            Err(_) => Err(Lost::Deadline),
            Ok(Err(_)) => Err(Lost::Panicked),
            Ok(Ok(found)) => found.clone().ok_or(Lost::Panicked),
        }
    }
}

// === impl Landing ===

impl<K: Eq + Hash, T> Drop for Landing<K, T> {
    fn drop(&mut self) {
        lock(&self.running).remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::atomic::AtomicUsize, time::Duration};

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(30)
    }

    #[tokio::test(start_paused = true)]
    async fn a_fetch_that_panics_is_not_waited_for_and_not_joined_again() {
        let flights = Flights::<u8, u8>::new();
        let doomed = flights.join(&1, || async { panic!("on purpose") });
        assert_eq!(doomed.wait(soon()).await, Err(Lost::Panicked));
        let next = flights.join(&1, || async { 7 });
        assert!(next.started);
        assert_eq!(next.wait(soon()).await, Ok(7));
    }

    #[tokio::test(start_paused = true)]
    async fn callers_wait_as_long_as_they_like_for_one_fetch() {
        let flights = Flights::<u8, usize>::new();
        let runs = Arc::new(AtomicUsize::new(0));
        let fetch = || {
            let runs = Arc::clone(&runs);
            async move {
                tokio::time::sleep(Duration::from_secs(2)).await;
                runs.fetch_add(1, std::sync::atomic::Ordering::SeqCst) + 1
            }
        };
        let (first, second) = (flights.join(&1, fetch), flights.join(&1, fetch));
        assert!(first.started && !second.started);
        let hasty = first.wait(Instant::now() + Duration::from_secs(1)).await;
        assert_eq!(hasty, Err(Lost::Deadline));
        assert_eq!(second.wait(soon()).await, Ok(1));
    }
}
