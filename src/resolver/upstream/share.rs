//! How much of a store one principal may keep busy, so that its burst does not stand
//! before everyone else's calls.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, error::Elapsed, timeout_at},
};

/// One of this many parts of a store's slots.
const PART: usize = 4;

/// The slots that each principal holds or waits for.
pub(super) struct Shares {
    size: usize,
    held: Mutex<HashMap<Arc<str>, Arc<Semaphore>>>,
}

/// One slot of a principal's share, given back when dropped.
pub(super) struct Share<'a> {
    shares: &'a Shares,
    principal: Arc<str>,
    slot: Option<OwnedSemaphorePermit>,
}

// === impl Shares ===

impl Shares {
    pub(super) fn new(slots: usize) -> Self {
        Self { size: slots.div_ceil(PART), held: Mutex::default() }
    }

    /// Waits until the principal has less than its share under way.
    pub(super) async fn take(
        &self,
        principal: &Arc<str>,
        deadline: Instant,
    ) -> Result<Share<'_>, Elapsed> {
        let slots = {
            let mut held = self.held();
            let new = || Arc::new(Semaphore::new(self.size));
            Arc::clone(held.entry(Arc::clone(principal)).or_insert_with(new))
        };
        // From here on its drop cleans up, also after a wait that was given up.
        let mut share = Share { shares: self, principal: Arc::clone(principal), slot: None };
        let slot = timeout_at(deadline, slots.acquire_owned()).await?;
        share.slot = Some(slot.expect("never closed"));
        Ok(share)
    }

    fn held(&self) -> MutexGuard<'_, HashMap<Arc<str>, Arc<Semaphore>>> {
        // Nothing that can panic runs under the lock.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        let mut held = self.shares.held();
        self.slot = None;
        // Ours is the only one left: whoever waits or holds has a clone.
        if held.get(&self.principal).is_some_and(|slots| Arc::strong_count(slots) == 1) {
            held.remove(&self.principal);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_principal_has_a_share_and_leaves_nothing_behind() {
        let shares = Shares::new(8);
        let (busy, calm): (Arc<str>, Arc<str>) = ("busy".into(), "calm".into());
        let soon = || Instant::now() + Duration::from_secs(1);
        let first = shares.take(&busy, soon()).await.expect("a slot");
        let second = shares.take(&busy, soon()).await.expect("another");
        assert!(shares.take(&busy, soon()).await.is_err(), "a quarter of eight is two");
        let other = shares.take(&calm, soon()).await.expect("a share of its own");
        drop(first);
        let third = shares.take(&busy, soon()).await.expect("given back");
        drop((second, third, other));
        assert!(shares.held().is_empty());
    }
}
