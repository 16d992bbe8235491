//! Listens to stores that tell when secrets change: what is cached of those is forgotten
//! at once, and their watchers look.
//!
//! It begins with the first answer of a store, so that nobody is called at start and none
//! that nobody uses. While a store cannot tell, changes are seen as those of any other.

use std::{sync::Arc, time::Duration};

use futures_util::StreamExt;
use tokio::{
    task::AbortHandle,
    time::{Instant, sleep},
};

use super::{
    Shared,
    cache::Epochs,
    changes::{Changes, Place},
};
use crate::{
    backends::{BackendError, Change, Store},
    metrics::Metrics,
    secret::BackendName,
};

/// How soon it is tried again after the first failure; doubles with each.
const FIRST: Duration = Duration::from_secs(1);
/// The longest wait after failures that end by themselves.
const LONGEST: Duration = Duration::from_secs(30);
/// How soon it is tried again what the store does not do, or refuses.
const REFUSED: Duration = Duration::from_secs(300);
/// A stream that lived so long was a good one.
const GOOD: Duration = Duration::from_secs(60);

/// Ends with the store that is listened to.
#[derive(Debug)]
pub(super) struct Listening(AbortHandle);

/// What was last said of it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Starting,
    Listening,
    Refused,
    Failing,
}

struct Listener {
    backend: BackendName,
    store: Store,
    epochs: Arc<Epochs>,
    changes: Arc<Changes>,
    metrics: Arc<Metrics>,
    state: State,
    wait: Duration,
    /// Since when nothing has failed.
    good_since: Option<Instant>,
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.0.abort();
    }
}

// === impl Shared ===

impl Shared {
    /// Begins to listen to a store that has just answered, unless that was begun.
    pub(super) fn listen(&self, backend: &BackendName) {
        let Some(upstream) = self.upstreams.get(backend) else { return };
        upstream.listening.get_or_init(|| {
            let listener = Listener {
                backend: backend.clone(),
                store: upstream.store.clone(),
                epochs: Arc::clone(&self.cache.epochs),
                changes: Arc::clone(&self.changes),
                metrics: Arc::clone(&self.metrics),
                state: State::Starting,
                wait: FIRST,
                good_since: None,
            };
            Listening(tokio::spawn(listener.run()).abort_handle())
        });
    }
}

// === impl Listener ===

impl Listener {
    async fn run(mut self) {
        loop {
            match self.store.watch().await {
                Ok(None) => return,
                Err(error) => self.pause(Some(&error)).await,
                Ok(Some(mut stream)) => {
                    let mut paused = false;
                    while let Some(change) = stream.next().await {
                        paused = change.is_err();
                        match change {
                            Ok(change) => self.take(change),
                            Err(error) => self.pause(Some(&error)).await,
                        }
                    }
                    if !paused {
                        self.pause(None).await;
                    }
                }
            }
        }
    }

    /// Waits before it is tried again.
    async fn pause(&mut self, error: Option<&BackendError>) {
        if self.good_since.take().is_some_and(|since| since.elapsed() >= GOOD) {
            self.wait = FIRST;
        }
        let pause = match error {
            Some(error @ (BackendError::PermissionDenied(_) | BackendError::Invalid(_))) => {
                self.becomes(State::Refused, error.kind());
                REFUSED
            }
            Some(BackendError::Throttled { retry_after: Some(pause) }) => *pause,
            Some(error) => {
                self.becomes(State::Failing, error.kind());
                self.wait
            }
            None => self.wait,
        };
        self.wait = (self.wait * 2).min(LONGEST);
        // Not all replicas at once.
        sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
    }

    fn take(&mut self, change: Change) {
        self.becomes(State::Listening, "");
        self.good_since.get_or_insert_with(Instant::now);
        let backend = &self.backend;
        match change {
            Change::Secret(name) => {
                self.metrics.store_change(backend.as_str(), "one");
                self.epochs.advance(backend, None, &name);
                self.changes.outdated(|| Place {
                    backend: backend.clone(),
                    namespace: None,
                    name: name.clone(),
                });
            }
            Change::Segment { namespace, segment } => {
                self.metrics.store_change(backend.as_str(), "one");
                self.epochs.advance_segment(backend, namespace.as_deref(), &segment);
                self.changes.outdated_segment(backend, namespace.as_deref(), &segment);
            }
            Change::Any => {
                self.metrics.store_change(backend.as_str(), "any");
                self.epochs.advance_all(backend);
                self.changes.outdated_all(backend);
            }
            Change::None => {}
        }
    }

    /// Says what has changed, once.
    fn becomes(&mut self, next: State, kind: &str) {
        if self.state == next {
            return;
        }
        let backend = self.backend.as_str();
        match next {
            State::Listening => {
                tracing::info!(secret.backend = backend, "the store tells of changes");
            }
            State::Refused => tracing::info!(
                secret.backend = backend,
                error.kind = kind,
                "the store does not tell of changes: they are seen when cached values are over"
            ),
            State::Failing => tracing::warn!(
                secret.backend = backend,
                error.kind = kind,
                "the store does not tell of changes at present"
            ),
            State::Starting => {}
        }
        self.state = next;
    }
}
