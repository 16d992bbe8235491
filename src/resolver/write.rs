//! Create, update and delete: made once, to their end, and what was cached before them
//! unreachable after them.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tokio::time::timeout_at;

use super::{
    Call, ResolveError, Resolver, Shared, share_of,
    upstream::{Class, Operation},
};
use crate::{
    backends::{BackendError, SecretBackend},
    policy::{Permit, Verb},
    secret::{SecretName, SecretRecord, SecretRef, SecretValue, SecretVersion},
};

/// Makes what was cached of a secret unreachable when it goes.
struct Outdated {
    shared: Arc<Shared>,
    secret: SecretRef,
    namespace: Option<Arc<str>>,
    /// Whether the store was asked at all.
    sent: Arc<AtomicBool>,
}

/// What has to hold of the current version for it to be written over. The store is asked
/// for it: what is cached may be older.
pub type Condition = Box<dyn Fn(&SecretRecord) -> bool + Send + Sync>;

// === impl Resolver ===

impl Resolver {
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
        self.update_if(permit, value, None, call).await
    }

    /// The same, if `condition` holds.
    ///
    /// # Errors
    /// [`ResolveError::Changed`] if it does not.
    pub async fn update_if(
        &self,
        permit: &Permit,
        value: &SecretValue,
        condition: Option<Condition>,
        call: impl Into<Call>,
    ) -> Result<Arc<str>, ResolveError> {
        let (kept, conditional) = (value.clone(), condition.is_some());
        let write = move |store: Arc<dyn SecretBackend>, name| async move {
            match condition {
                None => store.update(&name, &kept).await,
                Some(holds) => {
                    let current = held(&*store, &name, &holds).await?;
                    store.update_if(&name, &kept, &current).await
                }
            }
        };
        let written =
            self.write(permit, Verb::Update, "update", Some(value), call.into(), write).await;
        written.map_err(|error| changed(error, conditional))
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
        self.delete_if(permit, force, None, call).await
    }

    /// The same, if `condition` holds.
    ///
    /// # Errors
    /// [`ResolveError::Changed`] if it does not.
    pub async fn delete_if(
        &self,
        permit: &Permit,
        force: bool,
        condition: Option<Condition>,
        call: impl Into<Call>,
    ) -> Result<(), ResolveError> {
        let conditional = condition.is_some();
        let write = move |store: Arc<dyn SecretBackend>, name| async move {
            match condition {
                None => store.delete(&name, force).await,
                Some(holds) => {
                    let current = held(&*store, &name, &holds).await?;
                    store.delete_if(&name, force, &current).await
                }
            }
        };
        let deleted = self.write(permit, Verb::Delete, "delete", None, call.into(), write).await;
        deleted.map_err(|error| changed(error, conditional))
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
        let (_, namespace) = self.shared.place_of(permit.principal(), permit.secret())?;
        let mut outdated = Outdated {
            shared: Arc::clone(&self.shared),
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
}

/// The current version, if the condition holds of it.
async fn held(
    store: &dyn SecretBackend,
    name: &SecretName,
    holds: &Condition,
) -> Result<Arc<str>, BackendError> {
    let current = store.get(name, &SecretVersion::Latest).await?;
    match holds(&current) {
        true => Ok(current.version),
        false => Err(BackendError::Conflict),
    }
}

/// What a conflict means where there is a condition.
fn changed(error: ResolveError, conditional: bool) -> ResolveError {
    match error {
        ResolveError::Backend { error: BackendError::Conflict, .. } if conditional => {
            ResolveError::Changed
        }
        error => error,
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
            let Self { shared, secret, namespace, .. } = self;
            shared.outdated(&secret.backend, namespace.as_deref(), &secret.name);
        }
    }
}
