//! Values and known-missing names, for a while, within a byte bound.

use std::{
    hash::{BuildHasher, RandomState},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use moka::{Expiry, future::Cache as MokaCache};

use crate::{
    backends::BackendError,
    secret::{BackendName, SecretName, SecretRecord, SecretRef, SecretVersion},
};

/// How many counters tell written names apart. Two names that share one only
/// cost each other a fetch after a write.
const EPOCHS: usize = 1024;
/// What an entry costs beyond its value and name, roughly.
const ENTRY_OVERHEAD: usize = 256;

/// How long the cache holds what, and how much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheSettings {
    /// How long a value is served without asking again; zero turns caching off.
    pub ttl: Duration,
    /// How long a missing name is known to be missing; zero turns that off.
    pub negative_ttl: Duration,
    /// The sum of names and values held, in bytes.
    pub max_bytes: u64,
}

/// What a fetch found.
#[derive(Clone, Debug)]
pub(super) enum Lookup {
    Found(SecretRecord),
    Missing,
}

/// Identifies a cached version; never the caller, who was authorised before.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) backend: BackendName,
    /// Only for stores whose secrets live in their callers' namespaces.
    pub(super) namespace: Option<Arc<str>>,
    pub(super) name: SecretName,
    pub(super) version: SecretVersion,
    /// Read when the lookup starts. A write raises the counter, so neither held
    /// entries nor a fetch that is still under way are found again.
    epoch: u64,
}

pub(super) struct Cache {
    entries: MokaCache<Key, Lookup>,
    epochs: Box<[AtomicU64]>,
    hasher: RandomState,
}

struct Lifetimes {
    ttl: Duration,
    negative_ttl: Duration,
}

// === impl Cache ===

impl Cache {
    pub(super) fn new(settings: CacheSettings) -> Self {
        let entries = MokaCache::builder()
            .max_capacity(settings.max_bytes)
            .weigher(|key: &Key, found: &Lookup| {
                let value = match found {
                    Lookup::Found(record) => record.value.len(),
                    Lookup::Missing => 0,
                };
                u32::try_from(value + key.name.as_str().len() + ENTRY_OVERHEAD).unwrap_or(u32::MAX)
            })
            .expire_after(Lifetimes { ttl: settings.ttl, negative_ttl: settings.negative_ttl })
            .build();
        Self {
            entries,
            epochs: (0..EPOCHS).map(|_| AtomicU64::new(0)).collect(),
            hasher: RandomState::new(),
        }
    }

    pub(super) fn key(&self, secret: &SecretRef, namespace: Option<&str>) -> Key {
        let (backend, name) = (secret.backend.clone(), secret.name.clone());
        let epoch = self.epoch(&backend, &name).load(Ordering::Acquire);
        let namespace = namespace.map(Into::into);
        Key { backend, namespace, name, version: secret.version.clone(), epoch }
    }

    pub(super) async fn get(&self, key: &Key) -> Option<Lookup> {
        self.entries.get(key).await
    }

    /// What is held, or what `fetch` finds; of several concurrent callers with
    /// one key only one runs its `fetch`. Errors are not held.
    pub(super) async fn get_or_fetch(
        &self,
        key: Key,
        fetch: impl Future<Output = Result<Lookup, BackendError>>,
    ) -> Result<Lookup, BackendError> {
        self.entries
            .try_get_with(key, fetch)
            .await
            .map_err(|error: Arc<BackendError>| (*error).clone())
    }

    pub(super) fn invalidate(&self, backend: &BackendName, name: &SecretName) {
        self.epoch(backend, name).fetch_add(1, Ordering::AcqRel);
    }

    fn epoch(&self, backend: &BackendName, name: &SecretName) -> &AtomicU64 {
        let hash = self.hasher.hash_one((backend, name));
        &self.epochs[hash as usize % EPOCHS]
    }
}

impl Expiry<Key, Lookup> for Lifetimes {
    fn expire_after_create(&self, _: &Key, found: &Lookup, _: Instant) -> Option<Duration> {
        Some(match found {
            Lookup::Found(_) => self.ttl,
            Lookup::Missing => self.negative_ttl,
        })
    }
}
