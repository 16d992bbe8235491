//! Service accounts and pods that were deleted: their tokens are no good any more,
//! whatever their signatures and the caches say.
//!
//! The API server tells of every deletion as it happens; only the uids of what is gone
//! are kept. Where a deletion may have gone unseen, the epoch goes up, and whoever holds
//! a verdict of an earlier epoch has to ask again.

mod watch;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use k8s_openapi::api::core::v1 as core;
use kube::{ResourceExt, runtime::watcher::Event};
use moka::{policy::EvictionPolicy, sync::Cache};
use tokio::task::JoinSet;

/// How many uids are kept, the last ones. About 30 MB where somebody deletes so much
/// within the life of a token.
const MAX_UIDS: u64 = 1 << 17;

/// More than any token lives.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// The uids of service accounts and pods that were deleted of late.
#[derive(Debug)]
pub struct Revocations {
    uids: Cache<Arc<str>, ()>,
    epoch: AtomicU64,
}

/// Watches the cluster until it is dropped.
#[must_use = "the watch ends when this is dropped"]
#[derive(Debug)]
pub struct WatchGuard {
    _tasks: JoinSet<()>,
}

// === impl Revocations ===

impl Revocations {
    /// Nothing is revoked yet. `ttl` is the longest life of a token: what was deleted
    /// longer ago has no valid ones.
    #[must_use]
    pub fn new(ttl: Duration) -> Self {
        let uids = Cache::builder()
            .max_capacity(MAX_UIDS)
            // The default may keep out new ones in favour of those that are asked for.
            .eviction_policy(EvictionPolicy::lru())
            .time_to_live(ttl.min(LONGEST))
            .build();
        Self { uids, epoch: AtomicU64::new(0) }
    }

    /// Whether the service account or pod with this uid is known to be gone.
    #[must_use]
    pub fn is_revoked(&self, uid: &str) -> bool {
        self.uids.contains_key(uid)
    }

    /// Counts the times at which deletions may have gone unseen: whenever all objects
    /// had to be listed, the first time included, since no watch was there before. Take
    /// it before a review; the verdict holds as long as it stays the same. A review may
    /// still say yes for the ten seconds that the API server remembers a good token.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Watches the service accounts and pods of the whole cluster, which takes the
    /// permissions to list and watch both. Without them, and while the API server is
    /// away, nothing is revoked and nothing else is lost.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn watch(self: &Arc<Self>, client: kube::Client) -> WatchGuard {
        let mut tasks = JoinSet::new();
        tasks.spawn(watch::follow::<core::ServiceAccount>(Arc::clone(self), client.clone()));
        tasks.spawn(watch::follow::<core::Pod>(Arc::clone(self), client));
        WatchGuard { _tasks: tasks }
    }

    /// Takes in what has happened; objects that are still there are not kept.
    fn take<K: ResourceExt>(&self, event: &Event<K>) {
        match event {
            Event::Delete(object) => match object.uid() {
                Some(uid) => self.uids.insert(uid.into(), ()),
                // Something is gone, and nobody knows what.
                None => self.bump(),
            },
            // From here on the watch tells of every deletion. Verdicts from before, also
            // from while the list was made, may be of something deleted before it.
            Event::InitDone => self.bump(),
            Event::Init | Event::InitApply(_) | Event::Apply(_) => {}
        }
    }

    pub(super) fn bump(&self) {
        self.epoch.fetch_add(1, Ordering::AcqRel);
    }

    /// As if the deletion had been seen.
    #[cfg(test)]
    pub(super) fn revoke(&self, uid: &str) {
        self.uids.insert(uid.into(), ());
    }
}

#[cfg(test)]
mod tests;
