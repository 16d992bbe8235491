//! From a permit to a value: cache, single flight, retries, failover, deadlines.
//!
//! Every method takes a permit, so nothing is fetched that was not authorised
//! first. Of N concurrent reads of a cold secret one calls the store. A value whose
//! store cannot answer is served stale for a while; one that its store refuses or
//! no longer has never is. A write makes all cached versions of its name
//! unreachable, also to a fetch that is still in flight. Uses [`crate::policy`],
//! [`crate::secret`] and the backend trait.

mod batch;
mod cache;
mod changes;
mod fetch;
mod field;
mod list;
mod listen;
mod prefetch;
mod resolved;
mod settings;
mod suspect;
mod upstream;
mod write;

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::{sync::Semaphore, time::Instant};

pub(crate) use self::suspect::INTERVAL as SUSPICION_INTERVAL;
pub use self::{
    cache::Freshness,
    changes::{Lagged, Missed, News, Place, Watch},
    list::{NamePage, Page},
    prefetch::Prefetch,
    resolved::{Origin, Resolved},
    settings::{CacheOverride, CacheSettings, Lifetimes, ResolverSettings, Standby},
    suspect::Suspicion,
    upstream::BackendStatus,
    write::Condition,
};
use self::{
    cache::{Age, Cache, Epoch, Key, Lookup},
    changes::Changes,
    list::Listings,
    upstream::Upstream,
};
pub use crate::backends::{BackendError, VersionEntry};
use crate::{
    backends::Store,
    flight::{Flights, Lost},
    identity::Principal,
    metrics::{BackendGauges, CacheLookup, Metrics},
    policy::{Permit, Verb},
    rate::RateLimit,
    secret::{BackendName, SecretName, SecretRecord, SecretRef},
};

/// Reads and writes secrets for edges that hold a permit.
#[derive(Clone)]
pub struct Resolver {
    shared: Arc<Shared>,
}

struct Shared {
    upstreams: HashMap<BackendName, Arc<Upstream>>,
    failover: HashMap<BackendName, Vec<Standby>>,
    cache: Arc<Cache>,
    changes: Arc<Changes>,
    flights: Flights<(Key, Epoch), Result<Lookup, BackendError>>,
    listings: Listings,
    refreshes: Arc<RateLimit>,
    prefetches: Arc<Semaphore>,
    backend_timeout: Duration,
    metrics: Arc<Metrics>,
}

/// A store for a resolver that takes over from another.
pub enum Opened {
    /// The one that the other resolver has, with what is cached and known of it.
    Kept,
    /// A new one.
    New(Store),
}

/// For whom and until when something is done.
#[derive(Clone, Debug)]
pub struct Call {
    /// Nobody waits any longer.
    pub deadline: Instant,
    /// Ties what stores say to the request.
    pub request_id: Option<Arc<str>>,
}

/// How long a reader waits for a store before it takes the value that is kept for the
/// case of an outage.
const PATIENCE: Duration = Duration::from_millis(300);
/// The most names that one listing collects; what is more is no store for this API.
const MOST_NAMES: usize = 100_000;

/// Why a permitted operation did not succeed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ResolveError {
    /// The store could not do it.
    #[error("backend {backend}: {error}")]
    Backend {
        /// Which store.
        backend: BackendName,
        /// What went wrong there.
        error: BackendError,
    },
    /// The value is not a JSON document, or has no such field.
    #[error("the secret has no such field")]
    NoField,
    /// The secret is not as the condition of a write has it.
    #[error("the secret is not in the state that the write asks for")]
    Changed,
    /// The principal asked for fresh values too often.
    #[error("too many refreshes")]
    RefreshLimit {
        /// How long to wait.
        retry_after: Duration,
    },
    /// The caller's deadline passed first.
    #[error("deadline passed")]
    Deadline,
    /// A permit for something else, a backend that is gone, or a bug.
    #[error("internal error")]
    Internal,
}

// === impl Resolver ===

impl Resolver {
    /// A resolver over the given stores.
    #[must_use]
    pub fn new(
        stores: HashMap<BackendName, Store>,
        settings: ResolverSettings,
        metrics: Arc<Metrics>,
    ) -> Self {
        let upstream = |(name, store): (BackendName, Store)| {
            let concurrency = settings.backend_concurrency;
            let upstream = Upstream::new(name.clone(), store, concurrency, Arc::clone(&metrics));
            (name, Arc::new(upstream))
        };
        let shared = Shared {
            upstreams: stores.into_iter().map(upstream).collect(),
            failover: settings.failover,
            cache: Arc::new(Cache::new(settings.cache, Arc::default())),
            changes: Changes::new(),
            flights: Flights::new(),
            listings: Listings::new(),
            refreshes: Arc::new(RateLimit::per_minute(settings.refreshes_per_minute)),
            prefetches: Arc::new(Semaphore::new(prefetch::MOST)),
            backend_timeout: settings.backend_timeout,
            metrics,
        };
        Self { shared: Arc::new(shared) }
    }

    /// A resolver that takes over from this one after a reload. What did not change goes
    /// on: stores with their state, values of these stores, shares of refreshes. Writes
    /// that this one still has under way count for the other too.
    #[must_use]
    pub fn succeeded_by(
        &self,
        stores: HashMap<BackendName, Opened>,
        settings: ResolverSettings,
    ) -> Self {
        let before = &self.shared;
        let upstream = |(name, opened): (BackendName, Opened)| {
            let known = before.upstreams.get(&name);
            let store = match (opened, known) {
                (Opened::New(store), _) => store,
                (Opened::Kept, Some(known))
                    if known.concurrency == settings.backend_concurrency =>
                {
                    return Some((name, Arc::clone(known)));
                }
                (Opened::Kept, Some(known)) => known.store.clone(),
                (Opened::Kept, None) => return None,
            };
            let (concurrency, metrics) =
                (settings.backend_concurrency, Arc::clone(&before.metrics));
            Some((name.clone(), Arc::new(Upstream::new(name, store, concurrency, metrics))))
        };
        let cache = match before.cache.settings == settings.cache {
            true => Arc::clone(&before.cache),
            false => Arc::new(Cache::new(settings.cache, Arc::clone(&before.cache.epochs))),
        };
        let refreshes = RateLimit::per_minute(settings.refreshes_per_minute);
        let refreshes = match before.refreshes.is_like(&refreshes) {
            true => Arc::clone(&before.refreshes),
            false => Arc::new(refreshes),
        };
        let shared = Shared {
            upstreams: stores.into_iter().filter_map(upstream).collect(),
            failover: settings.failover,
            // With another cache no fetch that began before is joined: it fills the old one.
            flights: match Arc::ptr_eq(&cache, &before.cache) {
                true => before.flights.clone(),
                false => Flights::new(),
            },
            cache,
            changes: Arc::clone(&before.changes),
            listings: before.listings.clone(),
            refreshes,
            prefetches: Arc::clone(&before.prefetches),
            backend_timeout: settings.backend_timeout,
            metrics: Arc::clone(&before.metrics),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Fetches the value that a `get` or `use` permit is for.
    ///
    /// # Errors
    /// [`ResolveError`]; a missing secret is [`BackendError::NotFound`].
    pub async fn resolve(
        &self,
        permit: &Permit,
        call: impl Into<Call>,
    ) -> Result<SecretRecord, ResolveError> {
        Ok(self.read(permit, false, call).await?.record)
    }

    /// As [`Resolver::resolve`], past the cache: the value is one that the store
    /// gave after this call, or that was being fetched when it came. An outage is an
    /// error here, never a stale value.
    ///
    /// # Errors
    /// [`ResolveError::RefreshLimit`] when the principal does so too often.
    pub async fn refresh(
        &self,
        permit: &Permit,
        call: impl Into<Call>,
    ) -> Result<SecretRecord, ResolveError> {
        Ok(self.read(permit, true, call).await?.record)
    }

    /// As [`Resolver::refresh`] or [`Resolver::resolve`], and tells how the value was had.
    ///
    /// # Errors
    /// Theirs.
    pub async fn read(
        &self,
        permit: &Permit,
        refresh: bool,
        call: impl Into<Call>,
    ) -> Result<Resolved, ResolveError> {
        if refresh {
            self.shared
                .refreshes
                .take(&permit.principal().id().to_string())
                .map_err(|retry_after| ResolveError::RefreshLimit { retry_after })?;
        }
        if !matches!(permit.verb(), Verb::Get | Verb::Use) {
            return Err(ResolveError::Internal);
        }
        self.whole(permit, &call.into(), refresh).await?.part(permit)
    }

    /// Fetches the value, without regard to the field.
    async fn whole(
        &self,
        permit: &Permit,
        call: &Call,
        refresh: bool,
    ) -> Result<Resolved, ResolveError> {
        let (shared, secret) = (&self.shared, permit.secret());
        let failed = |error| ResolveError::Backend { backend: secret.backend.clone(), error };
        let lookup = |lookup| shared.metrics.cache_lookup(lookup);
        let (store, namespace) = shared.place_of(permit.principal(), secret)?;
        let (key, epoch) = shared.cache.key(secret, store, namespace);
        let age = if refresh { Age::Absent } else { shared.cache.age(&key, epoch) };
        let asked = || (call.request_id.clone(), share_of(permit.principal()));
        let spare = match age {
            Age::Fresh { found: Lookup::Found(record), freshness } => {
                lookup(CacheLookup::Hit);
                return Ok(Resolved { record, origin: Origin::Cache(freshness) });
            }
            Age::Fresh { found: Lookup::Refused(error), .. } => {
                lookup(CacheLookup::NegativeHit);
                return Err(failed(error));
            }
            Age::Stale { record, freshness, refresh } => {
                lookup(CacheLookup::Stale);
                if refresh {
                    // Nobody waits for it; who comes next finds what it found.
                    shared.fetch(key, epoch, asked, false);
                }
                return Ok(Resolved { record, origin: Origin::Cache(freshness) });
            }
            Age::Spare { record, freshness } => Some((record, freshness)),
            Age::Absent => None,
        };
        let flight = shared.fetch(key, epoch, asked, refresh);
        let joined = !flight.started;
        lookup(if joined { CacheLookup::Shared } else { CacheLookup::Miss });
        let deadline = match spare {
            None => call.deadline,
            Some(_) => call.deadline.min(Instant::now() + PATIENCE),
        };
        let stale = |(record, freshness)| {
            lookup(CacheLookup::Stale);
            Ok(Resolved { record, origin: Origin::Spare(freshness) })
        };
        match (flight.wait(deadline).await, spare) {
            (Ok(Ok(Lookup::Found(record))), _) => {
                Ok(Resolved { record, origin: Origin::Store { joined, past_cache: refresh } })
            }
            (Ok(Ok(Lookup::Refused(error))), _) => Err(failed(error)),
            // The store cannot answer, or is slower than a reader has to wait.
            (Ok(Err(error)), Some(spare)) if error.is_transient() => stale(spare),
            (Err(Lost::Deadline), Some(spare)) => stale(spare),
            (Ok(Err(error)), _) => Err(failed(error)),
            (Err(Lost::Deadline), None) => Err(ResolveError::Deadline),
            (Err(Lost::Panicked), _) => Err(ResolveError::Internal),
        }
    }

    /// Makes all that is cached of a name unreachable, also to fetches under way, and tells
    /// its watchers: for whoever hears that the store has something newer. In stores that
    /// tell callers apart by namespace it is the secret of `namespace`.
    pub fn invalidate(&self, backend: &BackendName, namespace: Option<&str>, name: &SecretName) {
        let upstream = self.shared.upstreams.get(backend);
        let namespace = namespace
            .filter(|_| upstream.is_some_and(|upstream| upstream.store.is_per_namespace()));
        self.shared.outdated(backend, namespace, name);
    }

    /// Follows the secrets that `get` permits are for. `last` is the id of the last change
    /// that the watcher heard of.
    ///
    /// # Errors
    /// [`ResolveError::Internal`] for another permit, or a store that is gone.
    pub fn watch(
        &self,
        permits: &[Permit],
        last: Option<&str>,
    ) -> Result<(Watch, Missed), ResolveError> {
        let places = permits.iter().map(|permit| self.place(permit)).collect::<Result<_, _>>()?;
        Ok(self.shared.changes.watch(places, last))
    }

    /// Where the secret is that a `get` permit is for.
    ///
    /// # Errors
    /// As [`Resolver::watch`].
    pub fn place(&self, permit: &Permit) -> Result<Place, ResolveError> {
        if permit.verb() != Verb::Get {
            return Err(ResolveError::Internal);
        }
        let (_, namespace) = self.shared.place_of(permit.principal(), permit.secret())?;
        let secret = permit.secret();
        let (backend, name) = (secret.backend.clone(), secret.name.clone());
        Ok(Place { backend, namespace: namespace.map(Into::into), name })
    }

    /// How long a value serves before its store is asked again.
    #[must_use]
    pub fn ttl(&self, backend: &BackendName, name: &SecretName) -> Duration {
        self.shared.cache.settings.lifetimes(backend, name).ttl
    }

    /// Whether it has a store of that name.
    #[must_use]
    pub fn has(&self, backend: &BackendName) -> bool {
        self.shared.upstreams.contains_key(backend)
    }

    /// How each store is doing, by name.
    #[must_use]
    pub fn status(&self) -> Vec<BackendStatus> {
        let mut status: Vec<_> =
            self.shared.upstreams.values().map(|upstream| upstream.status()).collect();
        status.sort_by(|a, b| a.name.cmp(&b.name));
        status
    }

    /// Drops values that are too old to be served, so that they do not stay in
    /// memory. Call it from time to time.
    pub fn tidy(&self) {
        self.shared.cache.tidy();
        self.shared.changes.tidy();
        self.shared.listings.tidy();
        self.shared.refreshes.tidy();
    }

    /// Brings gauges up to date: what the stores' credentials and the cache are at.
    pub fn measure(&self) {
        let metrics = &self.shared.metrics;
        let status = self.status();
        metrics.backends(status.iter().map(|status| BackendGauges {
            backend: status.name.as_str(),
            up: !matches!(status.state, "down" | "throttled"),
            in_flight: status.in_flight,
            credentials_expire: status.credentials_expire,
        }));
        let (entries, bytes) = self.shared.cache.size();
        metrics.cache_size(entries, bytes);
    }
}

/// The name under which a principal has its share of a store.
fn share_of(principal: &Principal) -> Arc<str> {
    principal.id().to_string().into()
}

// === impl Call ===

impl From<Instant> for Call {
    fn from(deadline: Instant) -> Self {
        Self { deadline, request_id: None }
    }
}

// === impl Shared ===

impl Shared {
    fn upstream(&self, name: &BackendName) -> Result<&Arc<Upstream>, ResolveError> {
        self.upstreams.get(name).ok_or(ResolveError::Internal)
    }

    /// Makes what is cached of a name unreachable, and has its watchers look.
    fn outdated(&self, backend: &BackendName, namespace: Option<&str>, name: &SecretName) {
        self.cache.invalidate(backend, namespace, name);
        self.changes.outdated(|| Place {
            backend: backend.clone(),
            namespace: namespace.map(Into::into),
            name: name.clone(),
        });
    }

    /// When an operation that starts now has taken too long.
    fn until(&self) -> Instant {
        Instant::now() + self.backend_timeout
    }

    /// Which opened store has a secret, and the caller's namespace where that store tells
    /// callers apart by it.
    fn place_of<'a>(
        &self,
        principal: &'a Principal,
        secret: &SecretRef,
    ) -> Result<(u64, Option<&'a str>), ResolveError> {
        let upstream = self.upstream(&secret.backend)?;
        let namespace = upstream.store.is_per_namespace().then(|| principal.namespace());
        Ok((upstream.id, namespace))
    }
}

#[cfg(test)]
mod tests;
