//! Shares of work, one bucket for each principal.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter, clock::Clock, clock::DefaultClock};

/// How often each principal may do something.
pub(crate) struct RateLimit {
    quota: Quota,
    limiter: DefaultKeyedRateLimiter<Arc<str>>,
}

// === impl RateLimit ===

impl RateLimit {
    pub(crate) fn new(quota: Quota) -> Self {
        Self { quota, limiter: RateLimiter::dashmap(quota) }
    }

    /// So many a minute, all of them at once if need be.
    pub(crate) fn per_minute(number: NonZeroU32) -> Self {
        Self::new(Quota::per_minute(number))
    }

    /// So many a second, and twice as many at once, as vaultmux-server has it.
    pub(crate) fn per_second(number: NonZeroU32) -> Self {
        Self::new(Quota::per_second(number).allow_burst(number.saturating_mul(TWO)))
    }

    /// Whether it lets the same through.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        self.quota == other.quota
    }

    /// Takes one from the principal's share, or says how long to wait.
    pub(crate) fn take(&self, principal: &str) -> Result<(), Duration> {
        self.limiter
            .check_key(&principal.into())
            .map_err(|not_yet| not_yet.wait_time_from(DefaultClock::default().now()))
    }

    /// Forgets principals whose share is whole again.
    pub(crate) fn tidy(&self) {
        self.limiter.retain_recent();
        self.limiter.shrink_to_fit();
    }
}

const TWO: NonZeroU32 = NonZeroU32::new(2).expect("not zero");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_principal_has_a_share_of_its_own() {
        let limit = RateLimit::per_second(NonZeroU32::new(3).expect("not zero"));
        for _ in 0..6 {
            assert_eq!(limit.take("a"), Ok(()));
        }
        let wait = limit.take("a").expect_err("used up");
        assert!(wait <= Duration::from_secs(1) && wait > Duration::ZERO, "{wait:?}");
        assert_eq!(limit.take("b"), Ok(()));
    }
}
