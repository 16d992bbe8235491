//! One fetch of one version: from its store, or from those that stand in for it.

use std::sync::Arc;

use tokio::time::Instant;

use super::{
    Place, Shared,
    cache::{Age, Epoch, Key, Lookup},
    upstream::{Class, Operation},
};
use crate::{
    backends::BackendError,
    flight,
    secret::{BackendName, NameEncoding, SecretName, SecretRecord, SecretVersion},
};

/// The request and the principal that a fetch is made for first.
pub(super) type Asked = (Option<Arc<str>>, Arc<str>);

// === impl Shared ===

impl Shared {
    /// Fetches a version and keeps what is found; joins a fetch that is under way.
    pub(super) fn fetch(
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
                if !refresh && let Age::Fresh { found, .. } = shared.cache.age(&key, epoch) {
                    return Ok(found);
                }
                let result = shared.ask(&key, &asked).await;
                match &result {
                    Ok(found) => {
                        shared.cache.insert(&key, epoch, found.clone());
                        shared.note(&key, found);
                        shared.listen(&key.backend);
                    }
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

    /// Notes the current version for those who watch.
    fn note(&self, key: &Key, found: &Lookup) {
        let version = match found {
            Lookup::Found(record) => Some(&record.version),
            Lookup::Refused(
                BackendError::NotFound | BackendError::Disabled | BackendError::PendingDeletion,
            ) => None,
            // Says nothing about the secret.
            Lookup::Refused(_) => return,
        };
        if key.version == SecretVersion::Latest {
            let (backend, namespace) = (key.backend.clone(), key.namespace.clone());
            self.changes.found(|| Place { backend, namespace, name: key.name.clone() }, version);
        }
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
