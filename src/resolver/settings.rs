//! What an operator can set: lifetimes, bounds, failover.

use std::{collections::HashMap, num::NonZeroU32, time::Duration};

use crate::secret::{BackendName, NameGrammar, SecretName};

/// How the resolver works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolverSettings {
    /// How long values are kept.
    pub cache: CacheSettings,
    /// The longest that one operation may keep a store busy, retries and failover
    /// included.
    pub backend_timeout: Duration,
    /// Calls that one store has to serve at a time; others wait for their turn.
    pub backend_concurrency: usize,
    /// How often one principal may ask for a value past the cache.
    pub refreshes_per_minute: NonZeroU32,
    /// Where a read is tried, in order, when its own store cannot answer.
    pub failover: HashMap<BackendName, Vec<Standby>>,
}

/// A store that stands in for another, under the same names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standby {
    /// The backend.
    pub backend: BackendName,
    /// Names that it accepts; others are not asked of it.
    pub grammar: NameGrammar,
}

/// How long the cache holds what, and how much.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheSettings {
    /// For secrets that no override is for.
    pub lifetimes: Lifetimes,
    /// The longest prefix that matches wins.
    pub overrides: Vec<CacheOverride>,
    /// The sum of names and values held, in bytes.
    pub max_bytes: u64,
}

/// For how long a value serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetimes {
    /// How long a value is served without asking again, less up to a tenth so that
    /// values fetched together do not expire together; zero turns caching off.
    pub ttl: Duration,
    /// How long a missing name is known to be missing; zero turns that off.
    pub negative_ttl: Duration,
    /// How long after its TTL a value is still served while it is fetched anew.
    pub stale_while_revalidate: Duration,
    /// How long after its TTL a value is still served when its store cannot
    /// answer; never when the store refuses it or no longer has it.
    pub stale_if_error: Duration,
}

/// Other lifetimes for names that begin with a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheOverride {
    /// The backend.
    pub backend: BackendName,
    /// Ends in a separator; empty for the whole backend.
    pub prefix: String,
    /// What holds there.
    pub lifetimes: Lifetimes,
}

// === impl ResolverSettings ===

impl Default for ResolverSettings {
    fn default() -> Self {
        Self {
            cache: CacheSettings::default(),
            backend_timeout: Duration::from_secs(5),
            backend_concurrency: 64,
            refreshes_per_minute: NonZeroU32::new(30).expect("not zero"),
            failover: HashMap::new(),
        }
    }
}

// === impl CacheSettings ===

impl Default for CacheSettings {
    fn default() -> Self {
        Self { lifetimes: Lifetimes::default(), overrides: Vec::new(), max_bytes: 64 << 20 }
    }
}

impl CacheSettings {
    /// The lifetimes of one secret. Asked once for each fetch, never for a read.
    pub(super) fn lifetimes(&self, backend: &BackendName, name: &SecretName) -> Lifetimes {
        let matching = self.overrides.iter().filter(|entry| {
            entry.backend == *backend && name.as_str().starts_with(entry.prefix.as_str())
        });
        let longest = matching.max_by_key(|entry| entry.prefix.len());
        longest.map_or(self.lifetimes, |entry| entry.lifetimes)
    }
}

// === impl Lifetimes ===

impl Default for Lifetimes {
    fn default() -> Self {
        Self {
            ttl: Duration::from_secs(60),
            negative_ttl: Duration::from_secs(5),
            stale_while_revalidate: Duration::from_secs(30),
            stale_if_error: Duration::from_secs(600),
        }
    }
}

impl Lifetimes {
    /// Nothing is kept: every read asks the store.
    #[must_use]
    pub fn none() -> Self {
        let zero = Duration::ZERO;
        Self { ttl: zero, negative_ttl: zero, stale_while_revalidate: zero, stale_if_error: zero }
    }
}
