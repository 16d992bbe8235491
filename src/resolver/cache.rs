//! Values and known refusals, for a while, within a byte bound.
//!
//! A value goes through three ages: fresh, stale but served while someone fetches
//! it anew, and kept only for the case that its store cannot answer. A write makes
//! everything that was fetched before it unreachable, also what is still under way.

use std::{
    hash::{BuildHasher, RandomState},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use moka::{Expiry, sync::Cache as MokaCache};
use tokio::time::Instant;

use super::{
    settings::{CacheSettings, Lifetimes},
    suspect::{INTERVAL, Suspicion},
};
use crate::backends::BackendError;
use crate::secret::{BackendName, SecretName, SecretRecord, SecretRef, SecretVersion};

/// How many counters tell written names apart. Two names that share one only
/// cost each other a fetch after a write; nobody can tell which do. 512 KiB.
const EPOCHS: usize = 1 << 16;
/// The same for what stores tell of several names at once.
const SEGMENTS: usize = 1 << 12;
const STORES: usize = 1 << 6;
/// What an entry costs beyond its value and name, roughly.
const ENTRY_OVERHEAD: usize = 256;
/// How long a stale value is served after its store failed before it is asked for
/// again, unless the store named a time.
const RETRY_AFTER_FAILURE: Duration = Duration::from_secs(1);
/// The longest that a store can put off being asked again.
const LONGEST_RETRY: Duration = Duration::from_secs(60);

/// What a fetch found.
#[derive(Clone, Debug)]
pub(super) enum Lookup {
    Found(SecretRecord),
    /// Missing, denied, disabled or deleted.
    Refused(BackendError),
}

/// Identifies a version of a secret; never the caller, who was authorised before.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) backend: BackendName,
    /// Which opened store: another under the same name may hold something else.
    pub(super) store: u64,
    /// Only for stores whose secrets live in their callers' namespaces.
    pub(super) namespace: Option<Arc<str>>,
    pub(super) name: SecretName,
    pub(super) version: SecretVersion,
}

/// Counts the writes of a name, and of those that share its counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Epoch(u64);

/// What the cache knows of a key at this moment.
#[derive(Debug)]
pub(super) enum Age {
    /// Serve it.
    Fresh { found: Lookup, freshness: Freshness },
    /// Serve it, and fetch it anew in the background if `refresh` says so.
    Stale { record: SecretRecord, freshness: Freshness, refresh: bool },
    /// Fetch it; if the store cannot answer, serve this.
    Spare { record: SecretRecord, freshness: Freshness },
    /// Fetch it.
    Absent,
}

/// How old a cached value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Freshness {
    /// Since the store gave it.
    pub age: Duration,
    /// How long it is still fresh; zero if it is not.
    pub left: Duration,
    /// How long it has not been.
    pub late: Duration,
}

pub(super) struct Cache {
    pub(super) settings: CacheSettings,
    entries: MokaCache<Key, Held>,
    /// Outlives this cache: a write that began before a reload still counts.
    pub(super) epochs: Arc<Epochs>,
}

/// Counters of writes, and of what stores tell by themselves.
pub(super) struct Epochs {
    counters: Box<[AtomicU64]>,
    /// Of all names with one first segment.
    segments: Box<[AtomicU64]>,
    /// Of all names of a store.
    stores: Box<[AtomicU64]>,
    /// Whether any of the last two ever counted.
    told: AtomicBool,
    hasher: RandomState,
}

#[derive(Clone, Debug)]
struct Held {
    found: Lookup,
    epoch: Epoch,
    fetched: Instant,
    fresh_until: Instant,
    stale_until: Instant,
    spare_until: Instant,
    /// The store failed: it is not asked again before.
    retry_at: Option<Instant>,
    /// A destination refused the value, or the one before it.
    suspected_at: Option<Instant>,
}

/// Bounds the memory; what may be served is for [`Cache::age`] to say.
struct Remaining;

// === impl Cache ===

impl Cache {
    pub(super) fn new(settings: CacheSettings, epochs: Arc<Epochs>) -> Self {
        let entries = MokaCache::builder()
            .max_capacity(settings.max_bytes)
            .weigher(|key: &Key, held: &Held| {
                let value = match &held.found {
                    Lookup::Found(record) => record.value.len(),
                    Lookup::Refused(_) => 0,
                };
                let namespace = key.namespace.as_deref().map_or(0, str::len);
                let text = key.name.as_str().len() + key.version.as_str().len() + namespace;
                u32::try_from(value + text + ENTRY_OVERHEAD).unwrap_or(u32::MAX)
            })
            .expire_after(Remaining)
            .build();
        Self { settings, entries, epochs }
    }

    /// The key and the epoch of a lookup that starts now.
    pub(super) fn key(
        &self,
        secret: &SecretRef,
        store: u64,
        namespace: Option<&str>,
    ) -> (Key, Epoch) {
        let key = Key {
            backend: secret.backend.clone(),
            store,
            namespace: namespace.map(Into::into),
            name: secret.name.clone(),
            version: secret.version.clone(),
        };
        let epoch = self.epochs.of(&key);
        (key, epoch)
    }

    pub(super) fn age(&self, key: &Key, epoch: Epoch) -> Age {
        let Some(held) = self.entries.get(key).filter(|held| held.epoch == epoch) else {
            return Age::Absent;
        };
        let now = Instant::now();
        let freshness = Freshness {
            age: now.saturating_duration_since(held.fetched),
            left: held.fresh_until.saturating_duration_since(now),
            late: now.saturating_duration_since(held.fresh_until),
        };
        if now < held.fresh_until {
            return Age::Fresh { found: held.found, freshness };
        }
        // A failed fetch is not repeated by every reader that comes after it.
        let waiting = held.retry_at.is_some_and(|at| now < at);
        match held.found {
            Lookup::Refused(_) => Age::Absent,
            Lookup::Found(record) if now < held.stale_until => {
                Age::Stale { record, freshness, refresh: !waiting }
            }
            Lookup::Found(record) if now < held.spare_until => match waiting {
                true => Age::Stale { record, freshness, refresh: false },
                false => Age::Spare { record, freshness },
            },
            Lookup::Found(_) => Age::Absent,
        }
    }

    /// Keeps what a fetch found that started in `epoch`.
    pub(super) fn insert(&self, key: &Key, epoch: Epoch, found: Lookup) {
        let Lifetimes { ttl, negative_ttl, stale_while_revalidate, stale_if_error } =
            self.settings.lifetimes(&key.backend, &key.name);
        let (fresh, stale, spare) = match &found {
            Lookup::Refused(_) => (negative_ttl, Duration::ZERO, Duration::ZERO),
            // Off means off: no value outlives the read that fetched it.
            Lookup::Found(_) if ttl.is_zero() => (ttl, ttl, ttl),
            Lookup::Found(_) => (shortened(ttl), stale_while_revalidate, stale_if_error),
        };
        if fresh.is_zero() {
            return self.entries.invalidate(key);
        }
        // What was written since is newer; a reader would refuse this anyway.
        if self.epochs.of(key) != epoch {
            return;
        }
        let fetched = Instant::now();
        let fresh_until = fetched + fresh;
        // A new value does not make the destination any more trustworthy.
        let suspected_at = self.entries.get(key).and_then(|before| before.suspected_at);
        let held = Held {
            found,
            epoch,
            fetched,
            fresh_until,
            stale_until: fresh_until + stale,
            spare_until: fresh_until + stale.max(spare),
            retry_at: None,
            suspected_at,
        };
        self.entries.insert(key.clone(), held);
    }

    /// Ends the time of a version that a destination refused: from now on it serves only if
    /// its store cannot answer.
    pub(super) fn suspect(&self, key: &Key, epoch: Epoch, version: &str) -> Suspicion {
        let held = self.entries.get(key).filter(|held| held.epoch == epoch);
        let Some(held) = held.filter(|held| match &held.found {
            Lookup::Found(record) => *record.version == *version,
            Lookup::Refused(_) => false,
        }) else {
            return Suspicion::Outdated;
        };
        let now = Instant::now();
        if held.suspected_at.is_some_and(|at| now < at + INTERVAL) {
            return Suspicion::Recent;
        }
        let (fresh_until, stale_until, retry_at, suspected_at) = (now, now, None, Some(now));
        let held = Held { fresh_until, stale_until, retry_at, suspected_at, ..held };
        self.entries.insert(key.clone(), held);
        Suspicion::Refreshing
    }

    /// Puts off the next fetch of a value that is still served although its store
    /// failed.
    pub(super) fn failed(&self, key: &Key, epoch: Epoch, retry_after: Option<Duration>) {
        let Some(held) = self.entries.get(key).filter(|held| held.epoch == epoch) else { return };
        let wait = retry_after.unwrap_or(RETRY_AFTER_FAILURE).min(LONGEST_RETRY);
        // Up to a tenth longer, so that replicas and names do not come back as one.
        let wait = wait.mul_f64(1.0 + fastrand::f64() / 10.0);
        let retry_at = Some(Instant::now() + wait);
        self.entries.insert(key.clone(), Held { retry_at, ..held });
    }

    /// Forgets one version, whose store refused it.
    pub(super) fn remove(&self, key: &Key) {
        self.entries.invalidate(key);
    }

    /// Makes all that is known of a name unreachable, also to fetches under way.
    pub(super) fn invalidate(
        &self,
        backend: &BackendName,
        namespace: Option<&str>,
        name: &SecretName,
    ) {
        self.epochs.advance(backend, namespace, name);
    }

    /// Drops what is too old to be served, so that it does not stay in memory
    /// until someone comes by.
    pub(super) fn tidy(&self) {
        let now = Instant::now();
        let outdated = self
            .entries
            .iter()
            .filter(|(key, held)| held.spare_until <= now || held.epoch != self.epochs.of(key));
        let outdated: Vec<_> = outdated.map(|(key, _)| key).collect();
        for key in outdated {
            self.entries.invalidate(&*key);
        }
        self.entries.run_pending_tasks();
    }

    /// Entries and their bytes.
    pub(super) fn size(&self) -> (u64, u64) {
        (self.entries.entry_count(), self.entries.weighted_size())
    }
}

// === impl Epochs ===

impl Epochs {
    /// The sum of what only ever grows: another one, whichever of them has counted.
    fn of(&self, key: &Key) -> Epoch {
        let (backend, namespace) = (&key.backend, key.namespace.as_deref());
        let own = self.counter(backend, namespace, &key.name).load(Ordering::Acquire);
        if !self.told.load(Ordering::Acquire) {
            return Epoch(own);
        }
        let segment = self.segment(backend, namespace, first_segment(&key.name));
        let store = self.store(backend).load(Ordering::Acquire);
        Epoch(own.wrapping_add(segment.load(Ordering::Acquire)).wrapping_add(store))
    }

    /// One secret may have changed.
    pub(super) fn advance(
        &self,
        backend: &BackendName,
        namespace: Option<&str>,
        name: &SecretName,
    ) {
        self.counter(backend, namespace, name).fetch_add(1, Ordering::AcqRel);
    }

    /// All secrets whose names begin with this segment may have changed.
    pub(super) fn advance_segment(
        &self,
        backend: &BackendName,
        namespace: Option<&str>,
        segment: &str,
    ) {
        self.told.store(true, Ordering::Release);
        self.segment(backend, namespace, segment).fetch_add(1, Ordering::AcqRel);
    }

    /// All secrets of a store may have changed.
    pub(super) fn advance_all(&self, backend: &BackendName) {
        self.told.store(true, Ordering::Release);
        self.store(backend).fetch_add(1, Ordering::AcqRel);
    }

    fn segment(&self, backend: &BackendName, namespace: Option<&str>, segment: &str) -> &AtomicU64 {
        let hash = self.hasher.hash_one((backend, namespace, segment));
        &self.segments[hash as usize % SEGMENTS]
    }

    fn store(&self, backend: &BackendName) -> &AtomicU64 {
        &self.stores[self.hasher.hash_one(backend) as usize % STORES]
    }

    fn counter(
        &self,
        backend: &BackendName,
        namespace: Option<&str>,
        name: &SecretName,
    ) -> &AtomicU64 {
        let hash = self.hasher.hash_one((backend, namespace, name));
        &self.counters[hash as usize % EPOCHS]
    }
}

impl Default for Epochs {
    fn default() -> Self {
        Self {
            counters: (0..EPOCHS).map(|_| AtomicU64::new(0)).collect(),
            segments: (0..SEGMENTS).map(|_| AtomicU64::new(0)).collect(),
            stores: (0..STORES).map(|_| AtomicU64::new(0)).collect(),
            told: AtomicBool::new(false),
            hasher: RandomState::new(),
        }
    }
}

/// What a store that tells of whole objects calls the object.
pub(super) fn first_segment(name: &SecretName) -> &str {
    name.as_str().split('/').next().unwrap_or_default()
}

/// Up to a tenth less.
fn shortened(ttl: Duration) -> Duration {
    ttl.mul_f64(1.0 - fastrand::f64() / 10.0)
}

// === impl Remaining ===

impl Expiry<Key, Held> for Remaining {
    fn expire_after_create(&self, _: &Key, held: &Held, _: std::time::Instant) -> Option<Duration> {
        Some(held.spare_until.saturating_duration_since(Instant::now()))
    }

    fn expire_after_update(
        &self,
        _: &Key,
        held: &Held,
        _: std::time::Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        Some(held.spare_until.saturating_duration_since(Instant::now()))
    }
}
