//! From a permit to a value: cache, single flight, deadlines.
//!
//! Every method takes a permit, so nothing is fetched that was not authorised
//! first. Of N concurrent reads of a cold secret one calls the store. A write
//! makes all cached versions of its name unreachable, also to a fetch that is
//! still in flight. Uses [`crate::policy`], [`crate::secret`] and the backend
//! trait.

mod cache;
mod field;

use std::{collections::HashMap, error::Error as StdError, sync::Arc, time::Duration};

use tokio::time::{Instant, timeout_at};

pub use self::cache::CacheSettings;
use self::cache::{Cache, Key, Lookup};
pub use crate::backends::BackendError;
use crate::{
    backends::{SecretBackend, Store},
    metrics::{CacheLookup, Metrics},
    policy::{CollectionPermit, Permit, Verb},
    secret::{BackendName, SecretName, SecretRecord, SecretRef, SecretValue},
};

/// Reads and writes secrets for edges that hold a permit.
#[derive(Clone)]
pub struct Resolver {
    shared: Arc<Shared>,
}

struct Shared {
    backends: HashMap<BackendName, Store>,
    cache: Cache,
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
    /// The caller's deadline passed first.
    #[error("deadline passed")]
    Deadline,
    /// A permit for something else, a backend that is gone, or a bug.
    #[error("internal error")]
    Internal,
}

// === impl Resolver ===

impl Resolver {
    /// A resolver over the given stores. `backend_timeout` bounds every call to
    /// a store, whatever time the caller has.
    #[must_use]
    pub fn new(
        backends: HashMap<BackendName, Store>,
        cache: CacheSettings,
        backend_timeout: Duration,
        metrics: Arc<Metrics>,
    ) -> Self {
        let cache = Cache::new(cache);
        Self { shared: Arc::new(Shared { backends, cache, backend_timeout, metrics }) }
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
        if !matches!(permit.verb(), Verb::Get | Verb::Use) {
            return Err(ResolveError::Internal);
        }
        let secret = permit.secret();
        let record = self.record(permit, deadline).await?;
        match &secret.field {
            None => Ok(record),
            Some(field) => field::extract(record, field).ok_or(ResolveError::NoField),
        }
    }

    async fn record(
        &self,
        permit: &Permit,
        deadline: Instant,
    ) -> Result<SecretRecord, ResolveError> {
        let (shared, secret) = (&self.shared, permit.secret());
        let failed = |error| ResolveError::Backend { backend: secret.backend.clone(), error };
        let key = shared.cache.key(secret, shared.namespace_of(permit)?);
        match shared.cache.get(&key).await {
            Some(Lookup::Found(record)) => {
                shared.metrics.cache_lookup(CacheLookup::Hit);
                return Ok(record);
            }
            Some(Lookup::Missing) => {
                shared.metrics.cache_lookup(CacheLookup::NegativeHit);
                return Err(failed(BackendError::NotFound));
            }
            None => shared.metrics.cache_lookup(CacheLookup::Miss),
        }
        // In a task of its own: a caller that gives up must not cancel the fetch
        // that others wait for.
        let fetch = tokio::spawn(Arc::clone(shared).fetch(key));
        match timeout_at(deadline, fetch).await {
            Err(_) => Err(ResolveError::Deadline),
            Ok(Err(_)) => Err(ResolveError::Internal),
            Ok(Ok(Err(error))) => Err(failed(error)),
            Ok(Ok(Ok(Lookup::Missing))) => Err(failed(BackendError::NotFound)),
            Ok(Ok(Ok(Lookup::Found(record)))) => Ok(record),
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
        let store = self.shared.store(backend, permit.principal().namespace())?;
        let mut names = Vec::new();
        let mut cursor: Option<String> = None;
        loop {
            let page = store.list(cursor.as_deref());
            let page = self.shared.call(backend, None, "list", deadline, page).await?;
            names.extend(page.names.into_iter().filter(|name| permit.admits(backend, name)));
            match page.cursor {
                Some(next) => cursor = Some(next),
                None => return Ok(names),
            }
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
        deadline: Instant,
    ) -> Result<Arc<str>, ResolveError> {
        let (secret, store) = self.write_target(permit, Verb::Create)?;
        self.write(secret, "create", deadline, store.create(&secret.name, value)).await
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
        let (secret, store) = self.write_target(permit, Verb::Update)?;
        self.write(secret, "update", deadline, store.update(&secret.name, value)).await
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
        let (secret, store) = self.write_target(permit, Verb::Delete)?;
        self.write(secret, "delete", deadline, store.delete(&secret.name, force)).await
    }

    fn write_target<'a>(
        &self,
        permit: &'a Permit,
        verb: Verb,
    ) -> Result<(&'a SecretRef, Arc<dyn SecretBackend>), ResolveError> {
        if permit.verb() != verb {
            return Err(ResolveError::Internal);
        }
        let secret = permit.secret();
        Ok((secret, self.shared.store(&secret.backend, permit.principal().namespace())?))
    }

    async fn write<T>(
        &self,
        secret: &SecretRef,
        operation: &'static str,
        deadline: Instant,
        call: impl Future<Output = Result<T, BackendError>>,
    ) -> Result<T, ResolveError> {
        let (backend, name) = (&secret.backend, &secret.name);
        let result = self.shared.call(backend, Some(name), operation, deadline, call).await;
        // Also after a failure: a call that timed out may have taken effect.
        self.shared.cache.invalidate(backend, name);
        result
    }
}

// === impl Shared ===

impl Shared {
    fn store(
        &self,
        name: &BackendName,
        namespace: &str,
    ) -> Result<Arc<dyn SecretBackend>, ResolveError> {
        Ok(self.backends.get(name).ok_or(ResolveError::Internal)?.within(namespace))
    }

    /// The caller's namespace where the store tells callers apart by it.
    fn namespace_of<'a>(&self, permit: &'a Permit) -> Result<Option<&'a str>, ResolveError> {
        let store = self.backends.get(&permit.secret().backend).ok_or(ResolveError::Internal)?;
        Ok(store.is_per_namespace().then(|| permit.principal().namespace()))
    }

    async fn fetch(self: Arc<Self>, key: Key) -> Result<Lookup, BackendError> {
        let fetch = async {
            let store = self
                .store(&key.backend, key.namespace.as_deref().unwrap_or_default())
                .map_err(|_| BackendError::Invalid("backend is gone".into()))?;
            let deadline = Instant::now() + self.backend_timeout;
            let call = store.get(&key.name, &key.version);
            match self.call(&key.backend, Some(&key.name), "get", deadline, call).await {
                Ok(record) => Ok(Lookup::Found(record)),
                Err(ResolveError::Backend { error: BackendError::NotFound, .. }) => {
                    Ok(Lookup::Missing)
                }
                Err(ResolveError::Backend { error, .. }) => Err(error),
                Err(_) => Err(BackendError::TimedOut),
            }
        };
        self.cache.get_or_fetch(key.clone(), fetch).await
    }

    /// One call to a store: bounded, measured, and logged where it failed.
    async fn call<T>(
        &self,
        backend: &BackendName,
        name: Option<&SecretName>,
        operation: &'static str,
        deadline: Instant,
        call: impl Future<Output = Result<T, BackendError>>,
    ) -> Result<T, ResolveError> {
        let started = Instant::now();
        let limit = deadline.min(started + self.backend_timeout);
        let result = timeout_at(limit, call).await.unwrap_or(Err(BackendError::TimedOut));
        let took = started.elapsed();
        let failed = result.as_ref().is_err_and(is_failure);
        self.metrics.backend_call(backend.as_str(), operation, took, failed);
        result.map_err(|error| {
            if failed {
                log_failure(backend, name, operation, took, &error);
            }
            ResolveError::Backend { backend: backend.clone(), error }
        })
    }
}

/// Whether an error says something about the store, rather than about what the
/// caller asked for.
fn is_failure(error: &BackendError) -> bool {
    match error {
        BackendError::NotFound
        | BackendError::Conflict
        | BackendError::Disabled
        | BackendError::PendingDeletion => false,
        BackendError::PermissionDenied(_)
        | BackendError::Throttled { .. }
        | BackendError::Unavailable(_)
        | BackendError::TimedOut
        | BackendError::Invalid(_) => true,
    }
}

/// Logs a store's own words, with the secret's name taken out of them.
fn log_failure(
    backend: &BackendName,
    name: Option<&SecretName>,
    operation: &'static str,
    took: Duration,
    error: &BackendError,
) {
    let mut cause = String::new();
    let mut source = error.source();
    while let Some(error) = source {
        if !cause.is_empty() {
            cause.push_str(": ");
        }
        cause.push_str(&error.to_string());
        source = error.source();
    }
    if let Some(name) = name {
        cause = cause.replace(name.as_str(), "<name>");
    }
    tracing::warn!(
        secret.backend = %backend,
        operation,
        duration_ms = took.as_millis() as u64,
        cause,
        "call to backend failed: {error}"
    );
}

#[cfg(test)]
mod tests;
