//! Stores of secrets: one narrow trait, and an implementation per store.
//!
//! A backend works on canonical names and knows nothing of callers, policies or
//! caches. It adds its own prefix, makes the fewest calls that the store's API
//! allows, and reports errors by kind. Uses [`crate::secret`] only.

#[cfg(feature = "aws")]
pub mod aws;
#[cfg(feature = "azure")]
pub mod azure;
mod change;
pub mod conformance;
mod context;
#[cfg_attr(
    not(all(feature = "aws", feature = "vault")),
    allow(dead_code, reason = "each store uses its part")
)]
mod failure;
#[cfg(test)]
pub(crate) mod fake;
#[cfg(test)]
pub(crate) mod faults;
pub mod file;
#[cfg(feature = "gcp")]
pub mod gcp;
#[cfg(feature = "kubernetes")]
pub mod kubernetes;
pub mod memory;
#[cfg(feature = "plugin")]
pub mod plugin;
#[cfg(feature = "vault")]
pub mod vault;

use std::{
    error::Error as StdError,
    net::IpAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;

pub use self::{
    change::{Change, Changes},
    context::CallContext,
};

use crate::secret::{SecretName, SecretRecord, SecretValue, SecretVersion};

/// A store of secrets.
///
/// Every method may be called concurrently. A method that is dropped before it
/// finishes leaves the store as the store's own API does. Deadlines, retries,
/// caching and authorisation are the resolver's.
#[async_trait]
pub trait SecretBackend: Send + Sync + 'static {
    /// Fetches one version, in one call to the store.
    async fn get(
        &self,
        name: &SecretName,
        version: &SecretVersion,
    ) -> Result<SecretRecord, BackendError>;

    /// Lists names, without values, in the store's order. `cursor` is what the
    /// previous page returned; names that the store holds but this service's
    /// grammar refuses are left out.
    async fn list(&self, cursor: Option<&str>) -> Result<SecretPage, BackendError>;

    /// Creates a secret and returns its version. Of several concurrent calls
    /// with one name exactly one succeeds; the others get
    /// [`BackendError::Conflict`].
    async fn create(
        &self,
        name: &SecretName,
        value: &SecretValue,
    ) -> Result<Arc<str>, BackendError>;

    /// Adds a new version to an existing secret and returns it; never creates.
    async fn update(
        &self,
        name: &SecretName,
        value: &SecretValue,
    ) -> Result<Arc<str>, BackendError>;

    /// Deletes a secret: recoverably where the store can, or for good with `force`.
    async fn delete(&self, name: &SecretName, force: bool) -> Result<(), BackendError>;

    /// As [`SecretBackend::update`], but only while `current`, which the store has just
    /// called its current version, still is; else [`BackendError::Conflict`]. A store
    /// that cannot tell updates all the same: then a write that comes between is lost.
    async fn update_if(
        &self,
        name: &SecretName,
        value: &SecretValue,
        _current: &str,
    ) -> Result<Arc<str>, BackendError> {
        self.update(name, value).await
    }

    /// As [`SecretBackend::delete`], under the condition of [`SecretBackend::update_if`].
    async fn delete_if(
        &self,
        name: &SecretName,
        force: bool,
        _current: &str,
    ) -> Result<(), BackendError> {
        self.delete(name, force).await
    }

    /// Lists the versions that the store still has of one secret, newest first as
    /// far as the store says, without values. A store that keeps no history
    /// answers with the one current version.
    async fn versions(&self, name: &SecretName) -> Result<Vec<VersionEntry>, BackendError>;

    /// Whether the store could have such a version. Others are not asked for: what
    /// is refused without a call says nothing about the store's health.
    fn can_have(&self, _version: &SecretVersion) -> bool {
        true
    }

    /// Whether the store takes such a value: not empty where it must not be, not too
    /// long. Asked before a create or update, so that those are calls.
    ///
    /// # Errors
    /// [`BackendError::Invalid`], with the rule.
    fn accepts(&self, _value: &SecretValue) -> Result<(), BackendError> {
        Ok(())
    }

    /// When the credentials in use run out; `None` if they do not, or if none have
    /// been fetched yet. Answers at once, from memory.
    fn credentials_expire(&self) -> Option<SystemTime> {
        None
    }

    /// Begins to tell of changes, also of those that others make; `None` from a store that
    /// never can.
    ///
    /// # Errors
    /// [`BackendError::PermissionDenied`] or [`BackendError::Invalid`] where this one
    /// cannot, until somebody changes that.
    async fn watch(&self) -> Result<Option<Changes>, BackendError> {
        Ok(None)
    }
}

/// A store whose secrets live in the namespaces of their callers.
pub trait NamespacedBackend: Send + Sync + 'static {
    /// The secrets of one namespace. Cheap: no call, no connection of its own.
    fn within(&self, namespace: &str) -> Arc<dyn SecretBackend>;

    /// As [`SecretBackend::credentials_expire`].
    fn credentials_expire(&self) -> Option<SystemTime> {
        None
    }

    /// As [`SecretBackend::watch`], for all namespaces. Answers at once.
    fn watch(&self) -> Option<Changes> {
        None
    }
}

/// An opened store.
#[derive(Clone)]
pub enum Store {
    /// All callers see the same secrets under the same names.
    Shared(Arc<dyn SecretBackend>),
    /// Each caller sees the secrets of its own namespace.
    PerNamespace(Arc<dyn NamespacedBackend>),
}

/// What a store says about one version of a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VersionEntry {
    /// The store's id or number; [`SecretBackend::get`] accepts it.
    pub id: Arc<str>,
    /// Stages or aliases that lead to it.
    pub stages: Vec<Arc<str>>,
    /// When it was made, if the store says.
    pub created_at: Option<SystemTime>,
    /// Whether it can be read: not disabled, destroyed or deleted.
    pub enabled: bool,
}

/// One page of names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SecretPage {
    /// Canonical names without the backend's prefix.
    pub names: Vec<SecretName>,
    /// Where the next page starts; `None` at the end.
    pub cursor: Option<String>,
}

/// The cause of a backend error, for the log. Stores put account names and
/// request details in their texts: never send one to a caller.
pub type Cause = Arc<dyn StdError + Send + Sync>;

/// What went wrong in a store, by what a caller can do about it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum BackendError {
    /// No such secret or version.
    #[error("secret or version does not exist")]
    NotFound,
    /// The store refused our own credentials.
    #[error("the store denied access")]
    PermissionDenied(#[source] Option<Cause>),
    /// The name is taken.
    #[error("secret already exists")]
    Conflict,
    /// The version exists but is switched off.
    #[error("secret version is disabled")]
    Disabled,
    /// Deleted, but recoverable: it can be neither read nor created anew.
    #[error("secret is marked for deletion")]
    PendingDeletion,
    /// The store asks for fewer calls.
    #[error("the store is throttling")]
    Throttled {
        /// How long the store asks to wait.
        retry_after: Option<Duration>,
    },
    /// The store cannot be reached or is failing.
    #[error("the store is unavailable")]
    Unavailable(#[source] Option<Cause>),
    /// No answer in time.
    #[error("the store did not answer in time")]
    TimedOut,
    /// The store refused the request itself or answered nonsense.
    #[error("the store refused the request: {0}")]
    Invalid(String),
}

/// Whether a host, as it stands in a URL, is this machine.
#[must_use]
pub fn is_loopback(host: &str) -> bool {
    let host = host.trim_matches(['[', ']']);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

// === impl SecretPage ===

impl SecretPage {
    /// The first `size` of these names, which are in order; the last one is the
    /// cursor if there are more.
    fn first(mut rest: impl Iterator<Item = SecretName>, size: usize) -> Self {
        let names: Vec<_> = rest.by_ref().take(size).collect();
        let more = rest.next().is_some();
        let cursor = names.last().filter(|_| more).map(ToString::to_string);
        Self { names, cursor }
    }
}

// === impl Store ===

impl Store {
    /// The store as callers of one namespace see it.
    #[must_use]
    pub fn within(&self, namespace: &str) -> Arc<dyn SecretBackend> {
        match self {
            Self::Shared(store) => Arc::clone(store),
            Self::PerNamespace(store) => store.within(namespace),
        }
    }

    /// Whether callers of different namespaces see different secrets.
    #[must_use]
    pub fn is_per_namespace(&self) -> bool {
        matches!(self, Self::PerNamespace(_))
    }

    /// As [`SecretBackend::credentials_expire`].
    #[must_use]
    pub fn credentials_expire(&self) -> Option<SystemTime> {
        match self {
            Self::Shared(store) => store.credentials_expire(),
            Self::PerNamespace(store) => store.credentials_expire(),
        }
    }

    /// As [`SecretBackend::watch`].
    ///
    /// # Errors
    /// As there.
    pub async fn watch(&self) -> Result<Option<Changes>, BackendError> {
        match self {
            Self::Shared(store) => store.watch().await,
            Self::PerNamespace(store) => Ok(store.watch()),
        }
    }
}

impl<B: SecretBackend> From<B> for Store {
    fn from(backend: B) -> Self {
        Self::Shared(Arc::new(backend))
    }
}

// === impl BackendError ===

impl BackendError {
    /// The word for this kind in metrics, `/backends` and tables.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::PermissionDenied(_) => "permission_denied",
            Self::Conflict => "conflict",
            Self::Disabled => "disabled",
            Self::PendingDeletion => "pending_deletion",
            Self::Throttled { .. } => "throttled",
            Self::Unavailable(_) => "unavailable",
            Self::TimedOut => "timed_out",
            Self::Invalid(_) => "invalid",
        }
    }

    /// Whether the same call may succeed later without anyone changing anything.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Throttled { .. } | Self::Unavailable(_) | Self::TimedOut => true,
            Self::NotFound
            | Self::PermissionDenied(_)
            | Self::Conflict
            | Self::Disabled
            | Self::PendingDeletion
            | Self::Invalid(_) => false,
        }
    }
}
