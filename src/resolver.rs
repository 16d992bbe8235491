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

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

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
    identity::Principal,
    metrics::{BackendGauges, CacheLookup, Metrics},
    policy::{CollectionPermit, Permit, Verb},
    secret::{
        BackendName, NameEncoding, SecretName, SecretRecord, SecretRef, SecretValue, SecretVersion,
    },
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
    flights: Flights<(Key, Epoch), Result<Lookup, BackendError>>,
    refreshes: Arc<RefreshLimit>,
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
            flights: Flights::new(),
            refreshes: Arc::new(RefreshLimit::new(settings.refreshes_per_minute)),
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
        let refreshes = match before.refreshes.per_minute == settings.refreshes_per_minute {
            true => Arc::clone(&before.refreshes),
            false => Arc::new(RefreshLimit::new(settings.refreshes_per_minute)),
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
            refreshes,
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
        self.read(permit, call.into(), false).await
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
        self.shared
            .refreshes
            .take(&permit.principal().id().to_string())
            .map_err(|retry_after| ResolveError::RefreshLimit { retry_after })?;
        self.read(permit, call.into(), true).await
    }

    async fn read(
        &self,
        permit: &Permit,
        call: Call,
        refresh: bool,
    ) -> Result<SecretRecord, ResolveError> {
        if !matches!(permit.verb(), Verb::Get | Verb::Use) {
            return Err(ResolveError::Internal);
        }
        let record = self.record(permit, call, refresh).await?;
        match &permit.secret().field {
            None => Ok(record),
            Some(field) => field::extract(record, field).ok_or(ResolveError::NoField),
        }
    }

    async fn record(
        &self,
        permit: &Permit,
        call: Call,
        refresh: bool,
    ) -> Result<SecretRecord, ResolveError> {
        let (shared, secret) = (&self.shared, permit.secret());
        let failed = |error| ResolveError::Backend { backend: secret.backend.clone(), error };
        let lookup = |lookup| shared.metrics.cache_lookup(lookup);
        let (store, namespace) = shared.place_of(permit)?;
        let (key, epoch) = shared.cache.key(secret, store, namespace);
        let age = if refresh { Age::Absent } else { shared.cache.age(&key, epoch) };
        let asked = || (call.request_id.clone(), share_of(permit.principal()));
        let spare = match age {
            Age::Fresh(Lookup::Found(record)) => {
                lookup(CacheLookup::Hit);
                return Ok(record);
            }
            Age::Fresh(Lookup::Refused(error)) => {
                lookup(CacheLookup::NegativeHit);
                return Err(failed(error));
            }
            Age::Stale { record, refresh } => {
                lookup(CacheLookup::Stale);
                if refresh {
                    // Nobody waits for it; who comes next finds what it found.
                    shared.fetch(key, epoch, asked, false);
                }
                return Ok(record);
            }
            Age::Spare(record) => Some(record),
            Age::Absent => None,
        };
        let flight = shared.fetch(key, epoch, asked, refresh);
        lookup(if flight.started { CacheLookup::Miss } else { CacheLookup::Shared });
        let deadline = match spare {
            None => call.deadline,
            Some(_) => call.deadline.min(Instant::now() + PATIENCE),
        };
        match (flight.wait(deadline).await, spare) {
            (Ok(Ok(Lookup::Found(record))), _) => Ok(record),
            (Ok(Ok(Lookup::Refused(error))), _) => Err(failed(error)),
            // The store cannot answer, or is slower than a reader has to wait.
            (Ok(Err(error)), Some(spare)) if error.is_transient() => {
                lookup(CacheLookup::Stale);
                Ok(spare)
            }
            (Err(Lost::Deadline), Some(spare)) => {
                lookup(CacheLookup::Stale);
                Ok(spare)
            }
            (Ok(Err(error)), _) => Err(failed(error)),
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
        call: impl Into<Call>,
    ) -> Result<Vec<SecretName>, ResolveError> {
        if permit.verb() != Verb::List {
            return Err(ResolveError::Internal);
        }
        let call = call.into();
        let upstream = Arc::clone(self.shared.upstream(backend)?);
        let store = upstream.store.within(permit.principal().namespace());
        let (mut names, mut listed) = (Vec::new(), 0);
        let mut cursor: Option<Arc<str>> = None;
        loop {
            let (store, from) = (Arc::clone(&store), cursor.clone());
            let page = move || {
                let (store, from) = (Arc::clone(&store), from.clone());
                async move { store.list(from.as_deref()).await }
            };
            let page =
                self.ask_once(&upstream, "list", None, (&call, permit.principal()), page).await?;
            listed += page.names.len();
            names.extend(page.names.into_iter().filter(|name| permit.admits(backend, name)));
            let next = page.cursor.map(Arc::from);
            let refused = |text: &str| ResolveError::Backend {
                backend: backend.clone(),
                error: BackendError::Invalid(text.to_owned()),
            };
            match next {
                None => return Ok(names),
                // A store that goes in circles would keep us until the deadline.
                Some(next) if cursor.as_ref() == Some(&next) => {
                    return Err(refused("its listing does not move on"));
                }
                Some(_) if listed > MOST_NAMES => {
                    return Err(refused("it lists more than 100000 names"));
                }
                Some(next) => cursor = Some(next),
            }
        }
    }

    /// Lists the versions of the secret that a `get` permit is for.
    ///
    /// # Errors
    /// [`ResolveError`].
    pub async fn versions(
        &self,
        permit: &Permit,
        call: impl Into<Call>,
    ) -> Result<Vec<VersionEntry>, ResolveError> {
        if permit.verb() != Verb::Get {
            return Err(ResolveError::Internal);
        }
        let (secret, call) = (permit.secret(), call.into());
        let upstream = Arc::clone(self.shared.upstream(&secret.backend)?);
        let (store, name) =
            (upstream.store.within(permit.principal().namespace()), secret.name.clone());
        let versions = move || {
            let (store, name) = (Arc::clone(&store), name.clone());
            async move { store.versions(&name).await }
        };
        let asked = (&call, permit.principal());
        self.ask_once(&upstream, "versions", Some(&secret.name), asked, versions).await
    }

    /// Asks something that is not cached. In a task of its own: a caller that gives up
    /// says nothing about the store.
    async fn ask_once<T, F>(
        &self,
        upstream: &Arc<Upstream>,
        word: &'static str,
        name: Option<&SecretName>,
        (call, principal): (&Call, &Principal),
        ask: impl Fn() -> F + Send + Sync + 'static,
    ) -> Result<T, ResolveError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, BackendError>> + Send,
    {
        let (upstream, until) = (Arc::clone(upstream), self.shared.until());
        let (name, request_id) = (name.cloned(), call.request_id.clone());
        let principal = share_of(principal);
        let asking = tokio::spawn(async move {
            let operation = Operation {
                word,
                class: Class::List,
                name: name.as_ref(),
                repeatable: true,
                request_id,
                principal,
            };
            let answer = upstream.call(operation, until, ask).await;
            answer.map_err(|error| ResolveError::Backend { backend: upstream.name.clone(), error })
        });
        match timeout_at(call.deadline, asking).await {
            Err(_) => Err(ResolveError::Deadline),
            Ok(Err(_)) => Err(ResolveError::Internal),
            Ok(Ok(answer)) => answer,
        }
    }

    /// Creates the secret that a `create` permit is for; returns its version.
    ///
    /// # Errors
    /// [`ResolveError`]; a name that is taken is [`BackendError::Conflict`].
    pub async fn create(
        &self,
        permit: &Permit,
        value: &SecretValue,
        call: impl Into<Call>,
    ) -> Result<Arc<str>, ResolveError> {
        let kept = value.clone();
        let write = move |store: Arc<dyn SecretBackend>, name| async move {
            store.create(&name, &kept).await
        };
        self.write(permit, Verb::Create, "create", Some(value), call.into(), write).await
    }

    /// Adds a version to the secret that an `update` permit is for; returns it.
    ///
    /// # Errors
    /// [`ResolveError`].
    pub async fn update(
        &self,
        permit: &Permit,
        value: &SecretValue,
        call: impl Into<Call>,
    ) -> Result<Arc<str>, ResolveError> {
        let kept = value.clone();
        let write = move |store: Arc<dyn SecretBackend>, name| async move {
            store.update(&name, &kept).await
        };
        self.write(permit, Verb::Update, "update", Some(value), call.into(), write).await
    }

    /// Deletes the secret that a `delete` permit is for; for good with `force`.
    ///
    /// # Errors
    /// [`ResolveError`].
    pub async fn delete(
        &self,
        permit: &Permit,
        force: bool,
        call: impl Into<Call>,
    ) -> Result<(), ResolveError> {
        let write = move |store: Arc<dyn SecretBackend>, name| async move {
            store.delete(&name, force).await
        };
        self.write(permit, Verb::Delete, "delete", None, call.into(), write).await
    }

    /// Writes once, never again: a repeated write could undo someone else's. It runs
    /// to its end even if the caller gives up, and what was cached is gone then.
    async fn write<T, F>(
        &self,
        permit: &Permit,
        verb: Verb,
        word: &'static str,
        value: Option<&SecretValue>,
        call: Call,
        write: impl FnOnce(Arc<dyn SecretBackend>, SecretName) -> F + Send + 'static,
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
        let upstream = Arc::clone(self.shared.upstream(&backend)?);
        let store = upstream.store.within(permit.principal().namespace());
        let failed = move |error| ResolveError::Backend { backend: backend.clone(), error };
        value.map_or(Ok(()), |value| store.accepts(value)).map_err(&failed)?;
        let (_, namespace) = self.shared.place_of(permit)?;
        let mut outdated = Outdated {
            cache: Arc::clone(&self.shared.cache),
            secret: secret.clone(),
            namespace: namespace.map(Into::into),
            sent: Arc::default(),
        };
        let (until, request_id) = (self.shared.until(), call.request_id);
        let principal = share_of(permit.principal());
        let writing = tokio::spawn(async move {
            // Also after a failure or panic: a call that timed out may have taken effect.
            let sent = Arc::clone(&outdated.sent);
            let operation = Operation {
                word,
                class: Class::Write,
                name: Some(&name),
                repeatable: false,
                request_id,
                principal,
            };
            let mut once = Some(write);
            let result = upstream.call(operation, until, || {
                let write = once.take().expect("a write is tried once");
                let write = write(Arc::clone(&store), name.clone());
                let sent = Arc::clone(&sent);
                async move {
                    // Polled: the store is asked now.
                    sent.store(true, Ordering::Release);
                    write.await
                }
            });
            let result = result.await;
            outdated.settle(&result);
            result
        });
        match timeout_at(call.deadline, writing).await {
            Err(_) => Err(ResolveError::Deadline),
            Ok(Err(_)) => Err(ResolveError::Internal),
            Ok(Ok(result)) => result.map_err(failed),
        }
    }

    /// Makes all that is cached of a name unreachable, also to fetches under way:
    /// for whoever hears that the store has something newer. `namespace` is that of
    /// the callers, for stores that tell them apart by it.
    pub fn invalidate(&self, backend: &BackendName, namespace: Option<&str>, name: &SecretName) {
        self.shared.cache.invalidate(backend, namespace, name);
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

/// The request and the principal that a fetch is made for first.
type Asked = (Option<Arc<str>>, Arc<str>);

/// The name under which a principal has its share of a store.
fn share_of(principal: &Principal) -> Arc<str> {
    principal.id().to_string().into()
}

/// Makes what was cached of a secret unreachable when it goes.
struct Outdated {
    cache: Arc<Cache>,
    secret: SecretRef,
    namespace: Option<Arc<str>>,
    /// Whether the store was asked at all.
    sent: Arc<AtomicBool>,
}

// === impl Call ===

impl From<Instant> for Call {
    fn from(deadline: Instant) -> Self {
        Self { deadline, request_id: None }
    }
}

// === impl Outdated ===

impl Outdated {
    /// A store that refused has changed nothing.
    fn settle<T>(&mut self, result: &Result<T, BackendError>) {
        let refused = matches!(
            result,
            Err(BackendError::PermissionDenied(_)
                | BackendError::Throttled { .. }
                | BackendError::Invalid(_))
        );
        if refused {
            self.sent.store(false, Ordering::Release);
        }
    }
}

impl Drop for Outdated {
    fn drop(&mut self) {
        if self.sent.load(Ordering::Acquire) {
            let Self { cache, secret, namespace, .. } = self;
            cache.invalidate(&secret.backend, namespace.as_deref(), &secret.name);
        }
    }
}

// === impl Shared ===

impl Shared {
    fn upstream(&self, name: &BackendName) -> Result<&Arc<Upstream>, ResolveError> {
        self.upstreams.get(name).ok_or(ResolveError::Internal)
    }

    /// When an operation that starts now has taken too long.
    fn until(&self) -> Instant {
        Instant::now() + self.backend_timeout
    }

    /// Which opened store a permit is for, and the caller's namespace where that store
    /// tells callers apart by it.
    fn place_of<'a>(&self, permit: &'a Permit) -> Result<(u64, Option<&'a str>), ResolveError> {
        let upstream = self.upstream(&permit.secret().backend)?;
        let namespace = upstream.store.is_per_namespace().then(|| permit.principal().namespace());
        Ok((upstream.id, namespace))
    }

    /// Fetches a version and keeps what is found; joins a fetch that is under way.
    fn fetch(
        self: &Arc<Self>,
        key: Key,
        epoch: Epoch,
        asked: impl FnOnce() -> Asked,
        refresh: bool,
    ) -> flight::Flight<Result<Lookup, BackendError>> {
        let shared = Arc::clone(self);
        self.flights.join(&(key.clone(), epoch), move || {
            let asked = asked();
            async move {
                // The fetch that this one would have joined may just have ended.
                if !refresh && let Age::Fresh(found) = shared.cache.age(&key, epoch) {
                    return Ok(found);
                }
                let result = shared.ask(&key, &asked).await;
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
            }
        })
    }

    /// Asks the store, then those that stand in for it. Each gets its share of the
    /// time, so that one that hangs leaves some for the next.
    async fn ask(&self, key: &Key, asked: &Asked) -> Result<Lookup, BackendError> {
        let until = self.until();
        // A version's number or id means something else in another store.
        let others = match key.version {
            SecretVersion::Latest => self.failover.get(&key.backend),
            SecretVersion::Selected(_) => None,
        };
        let others = others.map(Vec::as_slice).unwrap_or_default();
        // A name that a stand-in's store would refuse, or read as a path, stays here.
        let others = others.iter().filter_map(|standby| {
            let name = standby.grammar.canonical(key.name.as_str(), NameEncoding::Plain).ok()?;
            // Another spelling is another secret: policies have not been asked about it.
            (name == key.name).then_some((&standby.backend, name))
        });
        let stores: Vec<_> =
            std::iter::once((&key.backend, key.name.clone())).chain(others).collect();
        let mut first = None;
        for (at, (backend, name)) in stores.iter().enumerate() {
            let left = u32::try_from(stores.len() - at).unwrap_or(u32::MAX);
            let share = until.saturating_duration_since(Instant::now()) / left;
            let deadline = Instant::now() + share;
            match self.ask_one(backend, name, key, deadline, asked).await {
                Ok(record) => {
                    if first.is_some() {
                        self.metrics.failover(key.backend.as_str());
                    }
                    return Ok(Lookup::Found(record));
                }
                // Its own store knows; another may lag behind or hold fewer.
                Err(error) if first.is_none() && is_refusal(&error) => {
                    return Ok(Lookup::Refused(error));
                }
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
        (request_id, principal): &Asked,
    ) -> Result<SecretRecord, BackendError> {
        let upstream = self
            .upstream(backend)
            .map_err(|_| BackendError::Invalid("backend is gone".to_owned()))?;
        let store = upstream.store.within(key.namespace.as_deref().unwrap_or_default());
        if !store.can_have(&key.version) {
            return Err(BackendError::NotFound);
        }
        let operation = Operation {
            word: "get",
            class: Class::Read,
            name: Some(name),
            repeatable: true,
            request_id: request_id.clone(),
            principal: Arc::clone(principal),
        };
        upstream.call(operation, deadline, || store.get(name, &key.version)).await
    }
}

/// What a store says of one secret, which is worth remembering for a moment.
fn is_refusal(error: &BackendError) -> bool {
    match error {
        BackendError::NotFound
        | BackendError::PermissionDenied(_)
        | BackendError::Disabled
        | BackendError::PendingDeletion => true,
        BackendError::Conflict
        | BackendError::Throttled { .. }
        | BackendError::Unavailable(_)
        | BackendError::TimedOut
        | BackendError::Invalid(_) => false,
    }
}

#[cfg(test)]
mod tests;
