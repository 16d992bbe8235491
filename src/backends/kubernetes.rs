//! Secrets of a Kubernetes cluster: a secret is one key of a Secret object, named
//! `object/key`.
//!
//! Talks to the [`ApiServer`], but reads answers itself: kube's own types show values
//! in `Debug`, its errors lose Retry-After, and it logs an answer that it cannot read,
//! with the values in it.

mod client;
mod error;
mod object;
mod watch;

use std::{
    fmt,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;

use self::{
    client::Cluster,
    error::Refusal,
    object::{MAX_VALUE, Object, SecretList, Written},
};
use super::{
    BackendError, Changes, NamespacedBackend, SecretBackend, SecretPage, Store, VersionEntry,
    failure,
};
use crate::{
    apiserver::{ApiServer, SetupError},
    secret::{NameGrammar, SecretName, SecretRecord, SecretValue, SecretVersion},
};

/// Objects in one page of a listing, each of up to a mebibyte and more.
const PAGE: usize = 10;

/// How often a write starts over because another one came between its read and
/// itself. Each time somebody else has got further.
const ATTEMPTS: u32 = 12;

/// Which cluster, and whose secrets of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KubernetesSettings {
    /// The namespace that names are looked up in.
    pub namespace: NamespaceScope,
    /// Where the cluster is and who we are; without, the cluster that this runs in and
    /// the pod's own service account. No other file is looked for.
    pub kubeconfig: Option<PathBuf>,
    /// A context of the kubeconfig, other than its current one.
    pub context: Option<String>,
}

/// The namespace that names are looked up in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NamespaceScope {
    /// Each caller's own.
    OfCaller,
    /// One for all callers.
    Fixed(Arc<str>),
}

/// The Secrets of one namespace.
///
/// - Version: the object's resourceVersion, the current one alone. It changes with
///   every change of the object, of its other keys and its labels too.
/// - Values have up to 1 MiB, with all keys of an object together; none is too short.
/// - A deleted secret is gone for good; so is the object with its last key, if it was
///   made here.
/// - Objects that hold credentials for the cluster itself, or a Helm release with the
///   values of other secrets in it, are not secrets of this store: they are neither
///   listed nor found.
/// - Immutable objects can be read, and deleted with their last key.
#[derive(Clone)]
pub struct KubernetesBackend {
    cluster: Arc<Cluster>,
    namespace: Arc<str>,
}

/// The Secrets of each caller's own namespace.
struct OfCallers(Arc<Cluster>);

/// Prepares a client; `timeout` is for one method with all its calls. Reads files, and
/// calls nobody: an API server that is down does not keep the service from starting.
///
/// # Errors
/// [`SetupError`].
pub async fn connect(settings: KubernetesSettings, timeout: Duration) -> Result<Store, SetupError> {
    let api = ApiServer::connect(settings.kubeconfig, settings.context, timeout).await?;
    let cluster = Arc::new(Cluster { api, timeout });
    Ok(match settings.namespace {
        NamespaceScope::OfCaller => Store::PerNamespace(Arc::new(OfCallers(cluster))),
        NamespaceScope::Fixed(namespace) => KubernetesBackend { cluster, namespace }.into(),
    })
}

// === impl NamespaceScope ===

impl NamespaceScope {
    /// Reads `{namespace}` or a namespace's name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "{namespace}" => Some(Self::OfCaller),
            name => is_namespace(name).then(|| Self::Fixed(name.into())),
        }
    }
}

/// Whether this is a DNS label (RFC 1123), as namespaces are.
fn is_namespace(text: &str) -> bool {
    let end = |b: Option<u8>| b.is_some_and(|b| b != b'-');
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    text.len() <= 63
        && end(text.bytes().next())
        && end(text.bytes().last())
        && text.bytes().all(inner)
}

// === impl OfCallers ===

impl NamespacedBackend for OfCallers {
    fn within(&self, namespace: &str) -> Arc<dyn SecretBackend> {
        Arc::new(KubernetesBackend { cluster: Arc::clone(&self.0), namespace: namespace.into() })
    }

    fn credentials_expire(&self) -> Option<SystemTime> {
        self.0.credentials_expire()
    }

    fn watch(&self) -> Option<Changes> {
        Some(watch::changes(self.0.api.clone(), "/api/v1/secrets".to_owned(), true))
    }
}

// === impl KubernetesBackend ===

impl KubernetesBackend {
    /// Names as `object/key`.
    pub const GRAMMAR: NameGrammar = NameGrammar::new("/-_.", 507).of_object_keys();

    /// Where the namespace's Secrets are. What goes into the path is checked here once
    /// more: it decides whose secrets are read.
    fn collection(&self) -> Result<String, BackendError> {
        match is_namespace(&self.namespace) {
            true => Ok(format!("/api/v1/namespaces/{}/secrets", self.namespace)),
            false => Err(BackendError::Invalid("no such namespace can be".to_owned())),
        }
    }

    /// Reads an object and hands it over while its buffer lives.
    async fn read<T>(
        &self,
        object: &str,
        take: impl FnOnce(Object<'_>) -> Result<T, BackendError>,
    ) -> Result<T, Refusal> {
        let path = format!("{}/{object}", self.collection()?);
        let body = self.cluster.get(&path, object).await?;
        let found = Object::parse(&body)?;
        found.must_be(&self.namespace, object)?;
        if found.is_out_of_bounds() {
            return Err(Refusal::OutOfBounds);
        }
        Ok(take(found)?)
    }

    async fn try_create(
        &self,
        object: &str,
        key: &str,
        value: &SecretValue,
    ) -> Result<Arc<str>, BackendError> {
        let collection = self.collection()?;
        for attempt in 0..ATTEMPTS {
            pause(attempt).await;
            match self.cluster.post(&collection, object, object::new(object, key, value)?).await {
                Ok(body) => return Written::version(&body),
                Err(Refusal::AlreadyExists) => {}
                // The namespace is not there; no secret can be made in it.
                Err(Refusal::NotFound) => {
                    return Err(BackendError::Invalid("the namespace does not exist".to_owned()));
                }
                Err(refusal) => return Err(refusal.into()),
            }
            // The object may be there without the key: then it is added, unless the
            // object has changed since it was read.
            let seen = self.read(object, |found| {
                Ok((!found.has(key)).then(|| (found.version(), found.immutable)))
            });
            let seen = match seen.await {
                Ok(seen) => seen,
                // Deleted meanwhile.
                Err(Refusal::NotFound) => continue,
                Err(Refusal::OutOfBounds) => return Err(BackendError::Conflict),
                Err(refusal) => return Err(refusal.into()),
            };
            let Some((version, immutable)) = seen else { return Err(BackendError::Conflict) };
            if immutable {
                return Err(error::immutable());
            }
            let patch = object::with_key(&version, key, Some(value))?;
            match self.cluster.patch(&format!("{collection}/{object}"), object, patch).await {
                Ok(body) => return Written::version(&body),
                Err(Refusal::Changed(_) | Refusal::NotFound) => {}
                Err(refusal) => return Err(refusal.into()),
            }
        }
        Err(kept_changing())
    }

    /// Reads first, though a patch alone could tell a key that is missing: no patch
    /// sees the object's type.
    async fn try_update(
        &self,
        object: &str,
        key: &str,
        value: &SecretValue,
        current: Option<&str>,
    ) -> Result<Arc<str>, BackendError> {
        let path = format!("{}/{object}", self.collection()?);
        for attempt in 0..ATTEMPTS {
            pause(attempt).await;
            let seen = self.read(object, |found| match found.has(key) {
                false => Err(BackendError::NotFound),
                true => Ok((found.version(), found.immutable)),
            });
            let (version, immutable) = seen.await?;
            must_be(&version, current)?;
            if immutable {
                return Err(error::immutable());
            }
            let patch = object::with_key(&version, key, Some(value))?;
            match self.cluster.patch(&path, object, patch).await {
                Ok(body) => return Written::version(&body),
                Err(Refusal::Changed(_)) => {}
                Err(refusal) => return Err(refusal.into()),
            }
        }
        Err(kept_changing())
    }

    async fn try_delete(
        &self,
        object: &str,
        key: &str,
        current: Option<&str>,
    ) -> Result<(), BackendError> {
        let path = format!("{}/{object}", self.collection()?);
        for attempt in 0..ATTEMPTS {
            pause(attempt).await;
            let seen = self.read(object, |found| {
                if !found.has(key) {
                    return Err(BackendError::NotFound);
                }
                let whole = found.data.len() == 1 && found.is_ours();
                Ok((whole, found.version(), found.immutable))
            });
            let (whole, version, immutable) = seen.await?;
            must_be(&version, current)?;
            let done = if whole {
                self.cluster.delete(&path, object, object::precondition(&version)?).await
            } else if immutable {
                return Err(error::immutable());
            } else {
                let patch = object::with_key(&version, key, None)?;
                self.cluster.patch(&path, object, patch).await.map(drop)
            };
            match done {
                Err(Refusal::Changed(_)) => {}
                done => return Ok(done?),
            }
        }
        Err(kept_changing())
    }
}

/// The store then sees to it that it still is when it is written.
fn must_be(version: &str, current: Option<&str>) -> Result<(), BackendError> {
    match current.is_none_or(|current| current == version) {
        true => Ok(()),
        false => Err(BackendError::Conflict),
    }
}

fn kept_changing() -> BackendError {
    BackendError::Unavailable(Some(failure::cause("the Secret kept changing".to_owned())))
}

/// Waits a little before a write starts over, and not all writers equally long.
async fn pause(attempt: u32) {
    if attempt > 0 {
        let longest = u64::from(5 * attempt);
        tokio::time::sleep(Duration::from_millis(fastrand::u64(0..=longest))).await;
    }
}

/// The object's name and the key.
fn parts(name: &SecretName) -> Result<(&str, &str), BackendError> {
    name.as_str()
        .split_once('/')
        .ok_or_else(|| BackendError::Invalid("the name has no key".to_owned()))
}

#[async_trait]
impl SecretBackend for KubernetesBackend {
    async fn get(
        &self,
        name: &SecretName,
        version: &SecretVersion,
    ) -> Result<SecretRecord, BackendError> {
        let (object, key) = parts(name)?;
        let read = self.read(object, |found| {
            let current = found.version();
            match version {
                SecretVersion::Selected(wanted) if *wanted != current => {
                    return Err(BackendError::NotFound);
                }
                SecretVersion::Selected(_) | SecretVersion::Latest => {}
            }
            let value = found.value(key)?;
            Ok(SecretRecord { value, version: current, created_at: found.changed_at() })
        });
        self.cluster.in_time(async { Ok(read.await?) }).await
    }

    async fn list(&self, cursor: Option<&str>) -> Result<SecretPage, BackendError> {
        let collection = self.collection()?;
        let page = async {
            let path = |cursor| object::page(&collection, PAGE, cursor);
            let body = match self.cluster.get(&path(cursor), "").await {
                // The snapshot that the pages came from is gone. The store offers to
                // go on from here in a newer one, so every name still comes once.
                Err(Refusal::Expired { next: Some(next) }) => {
                    self.cluster.get(&path(Some(&next)), "").await
                }
                answer => answer,
            };
            Ok(SecretList::parse(&body?)?.into_page(Self::GRAMMAR))
        };
        self.cluster.in_time(page).await
    }

    async fn create(
        &self,
        name: &SecretName,
        value: &SecretValue,
    ) -> Result<Arc<str>, BackendError> {
        let (object, key) = parts(name)?;
        self.accepts(value)?;
        self.cluster.in_time(self.try_create(object, key, value)).await
    }

    async fn update(
        &self,
        name: &SecretName,
        value: &SecretValue,
    ) -> Result<Arc<str>, BackendError> {
        let (object, key) = parts(name)?;
        self.accepts(value)?;
        self.cluster.in_time(self.try_update(object, key, value, None)).await
    }

    async fn delete(&self, name: &SecretName, _force: bool) -> Result<(), BackendError> {
        let (object, key) = parts(name)?;
        self.cluster.in_time(self.try_delete(object, key, None)).await
    }

    async fn update_if(
        &self,
        name: &SecretName,
        value: &SecretValue,
        current: &str,
    ) -> Result<Arc<str>, BackendError> {
        let (object, key) = parts(name)?;
        self.accepts(value)?;
        self.cluster.in_time(self.try_update(object, key, value, Some(current))).await
    }

    async fn delete_if(
        &self,
        name: &SecretName,
        _force: bool,
        current: &str,
    ) -> Result<(), BackendError> {
        let (object, key) = parts(name)?;
        self.cluster.in_time(self.try_delete(object, key, Some(current))).await
    }

    async fn versions(&self, name: &SecretName) -> Result<Vec<VersionEntry>, BackendError> {
        let (object, key) = parts(name)?;
        let read = self.read(object, |found| match found.has(key) {
            false => Err(BackendError::NotFound),
            true => Ok(VersionEntry {
                id: found.version(),
                stages: vec!["latest".into()],
                created_at: found.changed_at(),
                enabled: true,
            }),
        });
        self.cluster.in_time(async { Ok(vec![read.await?]) }).await
    }

    fn accepts(&self, value: &SecretValue) -> Result<(), BackendError> {
        match value.len() <= MAX_VALUE {
            true => Ok(()),
            false => Err(BackendError::Invalid("it takes no value above 1 MiB".to_owned())),
        }
    }

    fn credentials_expire(&self) -> Option<SystemTime> {
        self.cluster.credentials_expire()
    }

    async fn watch(&self) -> Result<Option<Changes>, BackendError> {
        Ok(Some(watch::changes(self.cluster.api.clone(), self.collection()?, false)))
    }
}

impl fmt::Debug for KubernetesBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KubernetesBackend")
            .field("namespace", &self.namespace)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
