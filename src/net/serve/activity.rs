//! What each connection is doing, and which of them has to go.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::body::{Body, HttpBody};
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use tokio::{sync::Notify, time::Instant};

use super::ConnectionLimits;
use crate::metrics::Metrics;

/// What a connection is doing now. Times are in milliseconds since it was accepted, plus
/// one; 0 is not at all.
pub(super) struct Activity {
    accepted: Instant,
    /// Requests that are not answered to their end.
    requests: AtomicUsize,
    /// Since when there is none.
    idle_since: AtomicU64,
    /// When the first byte of a head arrived that has not ended yet, or when the answer
    /// before it ended.
    head_since: AtomicU64,
    /// Since when the client does not read.
    stalled_since: AtomicU64,
    /// A request was looked at, and not all of its answer has been written.
    answering: AtomicBool,
    /// It was sent a request with two lengths.
    ambiguous: AtomicBool,
    /// HTTP/2: nothing else arrives before a head has ended, whatever is being answered.
    frames: AtomicBool,
    evicted: Notify,
}

/// Why we closed a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// A head that did not end.
    SlowHead,
    /// No request.
    Idle,
    /// A client that does not read.
    Stalled,
    /// To make room for another.
    Evicted,
}

/// Marks a connection as busy until its answer has been written, or given up.
pub(super) struct Busy(Arc<Activity>);

/// A body that keeps its connection busy.
pub(super) struct Sending {
    body: Body,
    _busy: Busy,
}

/// Where connections come in.
pub(super) struct Door {
    most: usize,
    inside: Mutex<HashMap<u64, Arc<Activity>>>,
    next: AtomicU64,
    metrics: Arc<Metrics>,
}

/// A connection that was let in; leaves when it is dropped.
pub(super) struct Admitted {
    pub(super) activity: Arc<Activity>,
    number: u64,
    door: Arc<Door>,
}

// === impl Activity ===

impl Activity {
    pub(super) fn new() -> Self {
        Self {
            accepted: Instant::now(),
            requests: AtomicUsize::new(0),
            idle_since: AtomicU64::new(1),
            head_since: AtomicU64::new(0),
            stalled_since: AtomicU64::new(0),
            answering: AtomicBool::new(false),
            ambiguous: AtomicBool::new(false),
            frames: AtomicBool::new(false),
            evicted: Notify::new(),
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.accepted.elapsed().as_millis()).unwrap_or(u64::MAX - 1) + 1
    }

    /// The first byte of a head has come, or its last.
    pub(super) fn head(&self, has_begun: bool) {
        let since = if has_begun { self.now() } else { 0 };
        self.head_since.store(since, Ordering::Relaxed);
    }

    /// It speaks HTTP/2.
    pub(super) fn has_frames(&self) {
        self.frames.store(true, Ordering::Relaxed);
    }

    /// The client takes what we write, or does not.
    pub(super) fn wrote(&self, blocked: bool) {
        match blocked {
            false => self.stalled_since.store(0, Ordering::Relaxed),
            true if self.stalled_since.load(Ordering::Relaxed) == 0 => {
                self.stalled_since.store(self.now(), Ordering::Relaxed);
            }
            true => {}
        }
    }

    /// All that was to be written has been.
    pub(super) fn flushed(&self) {
        if self.requests.load(Ordering::Acquire) == 0 {
            self.answering.store(false, Ordering::Relaxed);
        }
    }

    /// Whether what is written now cannot be an answer of ours.
    pub(super) fn has_nothing_to_say(&self) -> bool {
        !self.answering.load(Ordering::Relaxed) && !self.frames.load(Ordering::Relaxed)
    }

    /// A request with two lengths was seen.
    pub(super) fn set_ambiguous(&self) {
        self.ambiguous.store(true, Ordering::Release);
    }

    pub(super) fn is_ambiguous(&self) -> bool {
        self.ambiguous.load(Ordering::Acquire)
    }

    /// Completes when another connection needs the place.
    pub(super) async fn evicted(&self) {
        self.evicted.notified().await;
    }

    /// Whether it took too long for anything.
    pub(super) fn overdue(&self, limits: &ConnectionLimits) -> Option<Ended> {
        let over = |since: u64, limit: Duration| {
            since != 0 && u128::from(self.now().saturating_sub(since)) >= limit.as_millis()
        };
        if over(self.stalled_since.load(Ordering::Relaxed), limits.stall_timeout) {
            return Some(Ended::Stalled);
        }
        let busy = self.requests.load(Ordering::Acquire) > 0;
        let reads = !busy || self.frames.load(Ordering::Relaxed);
        if reads && over(self.head_since.load(Ordering::Relaxed), limits.header_timeout) {
            return Some(Ended::SlowHead);
        }
        if busy {
            return None;
        }
        over(self.idle_since.load(Ordering::Relaxed), limits.idle_timeout).then_some(Ended::Idle)
    }

    /// How long it has been without a request: `None` with one. Heads that do not end go
    /// before connections that have served.
    fn spare(&self) -> Option<(bool, u64)> {
        if self.requests.load(Ordering::Acquire) > 0 {
            return None;
        }
        let served = self.idle_since.load(Ordering::Relaxed) > 1;
        let waits = self.now().saturating_sub(self.idle_since.load(Ordering::Relaxed));
        Some((!served, waits))
    }
}

// === impl Ended ===

impl Ended {
    /// The word in metrics.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::SlowHead => "slow_head",
            Self::Idle => "idle",
            Self::Stalled => "stalled",
            Self::Evicted => "evicted",
        }
    }
}

// === impl Busy ===

impl Busy {
    pub(super) fn new(activity: Arc<Activity>) -> Self {
        activity.requests.fetch_add(1, Ordering::AcqRel);
        activity.answering.store(true, Ordering::Relaxed);
        Self(activity)
    }

    pub(super) fn activity(&self) -> &Activity {
        &self.0
    }

    pub(super) fn until_sent(self, body: Body) -> Sending {
        Sending { body, _busy: self }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        // More than 1, which says that it has never served.
        let now = self.0.now().max(2);
        self.0.idle_since.store(now, Ordering::Relaxed);
        // A head that came with the request, or while it was being answered, could not
        // be read on until now.
        let begun = self.0.head_since.load(Ordering::Relaxed) != 0;
        if begun && !self.0.frames.load(Ordering::Relaxed) {
            self.0.head_since.store(now, Ordering::Relaxed);
        }
        self.0.requests.fetch_sub(1, Ordering::AcqRel);
    }
}

// === impl Sending ===

impl HttpBody for Sending {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

// === impl Door ===

impl Door {
    pub(super) fn new(most: usize, metrics: Arc<Metrics>) -> Self {
        Self { most, inside: Mutex::default(), next: AtomicU64::new(0), metrics }
    }

    /// Lets a connection in, if need be in place of one that has no request.
    pub(super) fn admit(self: &Arc<Self>) -> Option<Admitted> {
        let mut inside = self.inside();
        if inside.len() >= self.most {
            let longest = inside
                .iter()
                .filter_map(|(number, activity)| Some((activity.spare()?, *number)))
                .max();
            let Some((_, number)) = longest else {
                self.metrics.connection_closed("refused");
                return None;
            };
            if let Some(activity) = inside.remove(&number) {
                activity.evicted.notify_one();
            }
        }
        let activity = Arc::new(Activity::new());
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        inside.insert(number, Arc::clone(&activity));
        self.metrics.connections(inside.len());
        Some(Admitted { activity, number, door: Arc::clone(self) })
    }

    fn inside(&self) -> MutexGuard<'_, HashMap<u64, Arc<Activity>>> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut inside = self.door.inside();
        inside.remove(&self.number);
        self.door.metrics.connections(inside.len());
    }
}
