//! Fetches ahead of requests that will most likely ask.
//!
//! Nobody waits for them and nothing is shown: who asks later joins the fetch that is under
//! way, or finds what it found.

use std::sync::Arc;

use super::{Resolver, cache::Age, share_of};
use crate::policy::PrefetchPermit;

/// Fetches ahead that may be under way at a time. More are left out: whoever asks fetches
/// for itself, within the bounds that hold for it.
pub(super) const MOST: usize = 64;

/// What came of a fetch ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prefetch {
    /// It was started.
    Started,
    /// It is under way already.
    Shared,
    /// The cache has what it would find.
    Hot,
    /// Nothing is cached of this secret, so it would be of no use.
    Uncached,
    /// Too many are under way.
    Full,
}

// === impl Prefetch ===

impl Prefetch {
    /// The word in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::Shared => "shared",
            Self::Hot => "hot",
            Self::Uncached => "uncached",
            Self::Full => "full",
        }
    }
}

// === impl Resolver ===

impl Resolver {
    /// Starts to fetch a secret, unless it is known or being fetched. Returns at once.
    pub fn prefetch(&self, permit: &PrefetchPermit, request_id: Option<&str>) -> Prefetch {
        let outcome = self.fetch_ahead(permit, request_id);
        self.shared.metrics.prefetch(outcome.as_str());
        outcome
    }

    fn fetch_ahead(&self, permit: &PrefetchPermit, request_id: Option<&str>) -> Prefetch {
        let (shared, secret) = (&self.shared, permit.secret());
        if shared.cache.settings.lifetimes(&secret.backend, &secret.name).ttl.is_zero() {
            return Prefetch::Uncached;
        }
        let Ok((store, namespace)) = shared.place_of(permit.principal(), secret) else {
            return Prefetch::Uncached;
        };
        let (key, epoch) = shared.cache.key(secret, store, namespace);
        match shared.cache.age(&key, epoch) {
            Age::Fresh { .. } | Age::Stale { refresh: false, .. } => return Prefetch::Hot,
            Age::Stale { refresh: true, .. } | Age::Spare { .. } | Age::Absent => {}
        }
        let Ok(slot) = Arc::clone(&shared.prefetches).try_acquire_owned() else {
            return Prefetch::Full;
        };
        let asked = || (request_id.map(Into::into), share_of(permit.principal()));
        let flight = shared.fetch(key, epoch, asked, false);
        if !flight.started {
            return Prefetch::Shared;
        }
        let until = shared.until();
        tokio::spawn(async move {
            let _ = flight.wait(until).await;
            drop(slot);
        });
        Prefetch::Started
    }
}
