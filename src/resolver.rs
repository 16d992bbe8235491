//! From a permit to a value: cache, single flight, retries, failover, deadlines.
//!
//! Every method takes a permit, so nothing is fetched that was not authorised
//! first. Of N concurrent reads of a cold secret one calls the store. A value whose
//! store cannot answer is served stale for a while; one that its store refuses or
//! no longer has never is. A write makes all cached versions of its name
//! unreachable, also to a fetch that is still in flight. Uses [`crate::policy`],
//! [`crate::secret`] and the backend trait.

mod cache;
mod field;
mod flight;
mod refresh;
mod settings;
mod upstream;

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::time::{Instant, timeout_at};

use self::{
    cache::{Age, Cache, Epoch, Key, Lookup},
    flight::{Flights, Lost},
    refresh::RefreshLimit,
    upstream::{Class, Operation, Upstream},
};
pub use self::{
    settings::{CacheOverride, CacheSettings, Lifetimes, ResolverSettings, Standby},
    upstream::BackendStatus,
};
pub use crate::backends::BackendError;
use crate::{
    backends::{SecretBackend, Store, VersionEntry},
    metrics::{BackendGauges, CacheLookup, Metrics},
    policy::{CollectionPermit, Permit, Verb},
    secret::{BackendName, NameEncoding, SecretName, SecretRecord, SecretRef, SecretValue},
};

/// Reads and writes secrets for edges that hold a permit.
#[derive(Clone)]
pub struct Resolver {
    shared: Arc<Shared>,
}

struct Shared {
    upstreams: HashMap<BackendName, Upstream>,
    failover: HashMap<BackendName, Vec<Standby>>,
    cache: Cache,
    flights: Flights<(Key, Epoch), Result<Lookup, BackendError>>,
    refreshes: RefreshLimit,
    backend_timeout: Duration,
    metrics: Arc<Metrics>,
}

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
            (name, upstream)
        };
        let upstreams = stores.into_iter().map(upstream).collect();
        let shared = Shared {
            upstreams,
            failover: settings.failover,
            cache: Cache::new(settings.cache),
            flights: Flights::new(),
            refreshes: RefreshLimit::new(settings.refreshes_per_minute),
            backend_timeout: settings.backend_timeout,
            metrics,
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
        deadline: Instant,
    ) -> Result<SecretRecord, ResolveError> {
        self.read(permit, deadline, false).await
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
        deadline: Instant,
    ) -> Result<SecretRecord, ResolveError> {
        self.shared
            .refreshes
            .take(&permit.principal().id().to_string())
            .map_err(|retry_after| ResolveError::RefreshLimit { retry_after })?;
        self.read(permit, deadline, true).await
    }

    async fn read(
        &self,
        permit: &Permit,
        deadline: Instant,
        refresh: bool,
    ) -> Result<SecretRecord, ResolveError> {
        if !matches!(permit.verb(), Verb::Get | Verb::Use) {
            return Err(ResolveError::Internal);
        }
        let record = self.record(permit, deadline, refresh).await?;
        match &permit.secret().field {
            None => Ok(record),
            Some(field) => field::extract(record, field).ok_or(ResolveError::NoField),
        }
    }

    async fn record(
        &self,
        permit: &Permit,
        deadline: Instant,
        refresh: bool,
    ) -> Result<SecretRecord, ResolveError> {
        let (shared, secret) = (&self.shared, permit.secret());
        let failed = |error| ResolveError::Backend { backend: secret.backend.clone(), error };
        let lookup = |lookup| shared.metrics.cache_lookup(lookup);
        let (key, epoch) = shared.cache.key(secret, shared.namespace_of(permit)?);
        let age = if refresh { Age::Absent } else { shared.cache.age(&key, epoch) };
        let spare = match age {
            Age::Fresh(Lookup::Found(record)) => {
                lookup(CacheLookup::Hit);
                return Ok(record);
            }
            Age::Fresh(Lookup::Missing) => {
                lookup(CacheLookup::NegativeHit);
                return Err(failed(BackendError::NotFound));
            }
            Age::Stale { record, refresh } => {
                lookup(CacheLookup::Stale);
                if refresh {
                    // Nobody waits for it; who comes next finds what it found.
                    shared.fetch(key, epoch, false);
                }
                return Ok(record);
            }
            Age::Spare(record) => Some(record),
            Age::Absent => None,
        };
        let flight = shared.fetch(key, epoch, refresh);
        lookup(if flight.started { CacheLookup::Miss } else { CacheLookup::Shared });
        match (flight.wait(deadline).await, spare) {
            (Ok(Ok(Lookup::Found(record))), _) => Ok(record),
            (Ok(Ok(Lookup::Missing)), _) => Err(failed(BackendError::NotFound)),
            (Ok(Err(error)), Some(spare)) if error.is_transient() => {
                lookup(CacheLookup::Stale);
                Ok(spare)
            }
            (Ok(Err(error)), _) => Err(failed(error)),
            // The store is slower than the caller's patience.
            (Err(Lost::Deadline), Some(spare)) => {
                lookup(CacheLookup::Stale);
                Ok(spare)
            }
            (Err(Lost::Deadline), None) => Err(ResolveError::Deadline),
            (Err(Lost::Panicked), _) => Err(ResolveError::Internal),
        }
    }

    /// Lists the names in one backend that the permit admits.
    ///
    /// # Errors
    /// [`ResolveError`].
    pub async fn list(
        &self,
        permit: &CollectionPermit,
        backend: &BackendName,
        deadline: Instant,
    ) -> Result<Vec<SecretName>, ResolveError> {
        if permit.verb() != Verb::List {
            return Err(ResolveError::Internal);
        }
        let upstream = self.shared.upstream(backend)?;
        let store = upstream.store.within(permit.principal().namespace());
        let operation =
            Operation { word: "list", class: Class::List, name: None, repeatable: true };
        let all = async {
            let mut names = Vec::new();
            let mut cursor: Option<String> = None;
            loop {
                let page = || store.list(cursor.as_deref());
                let page = upstream.call(operation, self.shared.until(), page).await?;
                names.extend(page.names.into_iter().filter(|name| permit.admits(backend, name)));
                match page.cursor {
                    // A store that goes in circles would keep us until the deadline.
                    Some(next) if cursor.as_ref() == Some(&next) => {
                        let text = "its listing does not move on".to_owned();
                        return Err(BackendError::Invalid(text));
                    }
                    Some(next) => cursor = Some(next),
                    None => return Ok(names),
                }
            }
        };
        let failed = |error| ResolveError::Backend { backend: backend.clone(), error };
        timeout_at(deadline, all).await.map_err(|_| ResolveError::Deadline)?.map_err(failed)
    }

    /// Lists the versions of the secret that a `get` permit is for.
    ///
    /// # Errors
    /// [`ResolveError`].
    pub async fn versions(
        &self,
        permit: &Permit,
        deadline: Instant,
    ) -> Result<Vec<VersionEntry>, ResolveError> {
        if permit.verb() != Verb::Get {
            return Err(ResolveError::Internal);
        }
        let secret = permit.secret();
        let upstream = self.shared.upstream(&secret.backend)?;
        let store = upstream.store.within(permit.principal().namespace());
        let operation = Operation {
            word: "versions",
            class: Class::List,
            name: Some(&secret.name),
            repeatable: true,
        };
        let until = deadline.min(self.shared.until());
        let versions = upstream.call(operation, until, || store.versions(&secret.name)).await;
        versions.map_err(|error| ResolveError::Backend { backend: secret.backend.clone(), error })
    }

    /// Creates the secret that a `create` permit is for; returns its version.
    ///
    /// # Errors
    /// [`ResolveError`]; a name that is taken is [`BackendError::Conflict`].
    pub async fn create(
        &self,
        permit: &Permit,
        value: &SecretValue,
        deadline: Instant,
    ) -> Result<Arc<str>, ResolveError> {
        let value = value.clone();
        let call = move |store: Arc<dyn SecretBackend>, name| async move {
            store.create(&name, &value).await
        };
        self.write(permit, Verb::Create, "create", deadline, call).await
    }

    /// Adds a version to the secret that an `update` permit is for; returns it.
    ///
    /// # Errors
    /// [`ResolveError`].
    pub async fn update(
        &self,
        permit: &Permit,
        value: &SecretValue,
        deadline: Instant,
    ) -> Result<Arc<str>, ResolveError> {
        let value = value.clone();
        let call = move |store: Arc<dyn SecretBackend>, name| async move {
            store.update(&name, &value).await
        };
        self.write(permit, Verb::Update, "update", deadline, call).await
    }

    /// Deletes the secret that a `delete` permit is for; for good with `force`.
    ///
    /// # Errors
    /// [`ResolveError`].
    pub async fn delete(
        &self,
        permit: &Permit,
        force: bool,
        deadline: Instant,
    ) -> Result<(), ResolveError> {
        let call = move |store: Arc<dyn SecretBackend>, name| async move {
            store.delete(&name, force).await
        };
        self.write(permit, Verb::Delete, "delete", deadline, call).await
    }

    /// Writes once, never again: a repeated write could undo someone else's. It runs
    /// to its end even if the caller gives up, and what was cached is gone then.
    async fn write<T, F>(
        &self,
        permit: &Permit,
        verb: Verb,
        word: &'static str,
        deadline: Instant,
        call: impl FnOnce(Arc<dyn SecretBackend>, SecretName) -> F + Send + 'static,
    ) -> Result<T, ResolveError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, BackendError>> + Send,
    {
        if permit.verb() != verb {
            return Err(ResolveError::Internal);
        }
        let secret: &SecretRef = permit.secret();
        let (backend, name) = (secret.backend.clone(), secret.name.clone());
        let store = self.shared.upstream(&backend)?.store.within(permit.principal().namespace());
        let (shared, until) = (Arc::clone(&self.shared), self.shared.until());
        let writing = tokio::spawn(async move {
            let Ok(upstream) = shared.upstream(&backend) else {
                return Err(ResolveError::Internal);
            };
            let operation =
                Operation { word, class: Class::Write, name: Some(&name), repeatable: false };
            let mut once = Some(call);
            let result = upstream.call(operation, until, || {
                let call = once.take().expect("a write is tried once");
                call(Arc::clone(&store), name.clone())
            });
            let result = result.await;
            // Also after a failure: a call that timed out may have taken effect.
            shared.cache.invalidate(&backend, &name);
            result.map_err(|error| ResolveError::Backend { backend, error })
        });
        match timeout_at(deadline, writing).await {
            Err(_) => Err(ResolveError::Deadline),
            Ok(Err(_)) => Err(ResolveError::Internal),
            Ok(Ok(result)) => result,
        }
    }

    /// Makes all that is cached of a name unreachable, also to fetches under way:
    /// for whoever hears that the store has something newer.
    pub fn invalidate(&self, backend: &BackendName, name: &SecretName) {
        self.shared.cache.invalidate(backend, name);
    }

    /// The opened store of a backend, to go on with in a new resolver.
    #[must_use]
    pub fn store(&self, backend: &BackendName) -> Option<Store> {
        self.shared.upstreams.get(backend).map(|upstream| upstream.store.clone())
    }

    /// How each store is doing, by name.
    #[must_use]
    pub fn status(&self) -> Vec<BackendStatus> {
        let mut status: Vec<_> = self.shared.upstreams.values().map(Upstream::status).collect();
        status.sort_by(|a, b| a.name.cmp(&b.name));
        status
    }

    /// Drops values that are too old to be served, so that they do not stay in
    /// memory. Call it from time to time.
    pub fn tidy(&self) {
        self.shared.cache.tidy();
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

// === impl Shared ===

impl Shared {
    fn upstream(&self, name: &BackendName) -> Result<&Upstream, ResolveError> {
        self.upstreams.get(name).ok_or(ResolveError::Internal)
    }

    /// When an operation that starts now has taken too long.
    fn until(&self) -> Instant {
        Instant::now() + self.backend_timeout
    }

    /// The caller's namespace where the store tells callers apart by it.
    fn namespace_of<'a>(&self, permit: &'a Permit) -> Result<Option<&'a str>, ResolveError> {
        let upstream = self.upstream(&permit.secret().backend)?;
        Ok(upstream.store.is_per_namespace().then(|| permit.principal().namespace()))
    }

    /// Fetches a version and keeps what is found; joins a fetch that is under way.
    fn fetch(
        self: &Arc<Self>,
        key: Key,
        epoch: Epoch,
        refresh: bool,
    ) -> flight::Flight<Result<Lookup, BackendError>> {
        let shared = Arc::clone(self);
        self.flights.join(&(key.clone(), epoch), move || async move {
            // The fetch that this one would have joined may just have ended.
            if !refresh && let Age::Fresh(found) = shared.cache.age(&key, epoch) {
                return Ok(found);
            }
            let result = shared.ask(&key).await;
            match &result {
                Ok(found) => shared.cache.insert(&key, epoch, found.clone()),
                Err(error) if error.is_transient() => {
                    let wait = match error {
                        BackendError::Throttled { retry_after } => *retry_after,
                        _ => None,
                    };
                    shared.cache.failed(&key, epoch, wait);
                }
                // Refused: no older value may be served either.
                Err(_) => shared.cache.remove(&key),
            }
            result
        })
    }

    /// Asks the store, then those that stand in for it. Each gets its share of the
    /// time, so that one that hangs leaves some for the next.
    async fn ask(&self, key: &Key) -> Result<Lookup, BackendError> {
        let until = self.until();
        let others = self.failover.get(&key.backend).map(Vec::as_slice).unwrap_or_default();
        // A name that a stand-in's store would refuse, or read as a path, stays here.
        let others = others.iter().filter_map(|standby| {
            let name = standby.grammar.canonical(key.name.as_str(), NameEncoding::Plain).ok()?;
            Some((&standby.backend, name))
        });
        let stores: Vec<_> =
            std::iter::once((&key.backend, key.name.clone())).chain(others).collect();
        let mut first = None;
        for (at, (backend, name)) in stores.iter().enumerate() {
            let left = u32::try_from(stores.len() - at).unwrap_or(u32::MAX);
            let share = until.saturating_duration_since(Instant::now()) / left;
            match self.ask_one(backend, name, key, Instant::now() + share).await {
                Ok(record) => {
                    if first.is_some() {
                        self.metrics.failover(key.backend.as_str());
                    }
                    return Ok(Lookup::Found(record));
                }
                // Its own store knows; another may lag behind or hold fewer.
                Err(BackendError::NotFound) if first.is_none() => return Ok(Lookup::Missing),
                Err(error) if first.is_none() && !error.is_transient() => return Err(error),
                Err(error) => first = Some(first.unwrap_or(error)),
            }
        }
        Err(first.unwrap_or(BackendError::TimedOut))
    }

    async fn ask_one(
        &self,
        backend: &BackendName,
        name: &SecretName,
        key: &Key,
        deadline: Instant,
    ) -> Result<SecretRecord, BackendError> {
        let upstream = self
            .upstream(backend)
            .map_err(|_| BackendError::Invalid("backend is gone".to_owned()))?;
        let store = upstream.store.within(key.namespace.as_deref().unwrap_or_default());
        let operation =
            Operation { word: "get", class: Class::Read, name: Some(name), repeatable: true };
        upstream.call(operation, deadline, || store.get(name, &key.version)).await
    }
}

#[cfg(test)]
mod tests;
