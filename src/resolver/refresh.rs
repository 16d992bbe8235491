//! How often one principal may ask for a value past the cache: each time is a call
//! to a store, and the stores' own limits are shared by all.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter, clock::Clock, clock::DefaultClock};

/// One bucket for each principal.
pub(super) struct RefreshLimit {
    pub(super) per_minute: NonZeroU32,
    limiter: DefaultKeyedRateLimiter<Arc<str>>,
}

// === impl RefreshLimit ===

impl RefreshLimit {
    pub(super) fn new(per_minute: NonZeroU32) -> Self {
        Self { per_minute, limiter: RateLimiter::dashmap(Quota::per_minute(per_minute)) }
    }

    /// Takes one refresh from the principal's share, or says how long to wait.
    pub(super) fn take(&self, principal: &str) -> Result<(), Duration> {
        self.limiter
            .check_key(&principal.into())
            .map_err(|not_yet| not_yet.wait_time_from(DefaultClock::default().now()))
    }

    /// Forgets principals whose share is whole again.
    pub(super) fn tidy(&self) {
        self.limiter.retain_recent();
        self.limiter.shrink_to_fit();
    }
}
