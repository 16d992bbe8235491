//! HashiCorp Vault and OpenBao, KV version 1 and 2, over a thin client of our own.
//!
//! No call before the first one that is asked for, no retries, no redirects. The
//! usual Rust client has no default timeout, cannot renew its token, drops
//! headers such as Retry-After and shows its token in `Debug`.

mod api;
mod auth;
mod buffer;
mod client;
mod error;
mod kv1;
mod kv2;
mod list;
mod session;
mod settings;
mod value;

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;

pub use self::settings::{Credential, KvVersion, VaultAuth, VaultSettings, VaultSetupError};
use self::{
    api::Api,
    client::{Client, encode},
    kv1::Kv1,
    kv2::Kv2,
    list::Folders,
    session::Session,
};
use super::{BackendError, SecretBackend, SecretPage, VersionEntry};
use crate::secret::{NameGrammar, SecretName, SecretRecord, SecretValue, SecretVersion};

/// The longest value, in bytes: what Vault's own storage takes by default.
const MAX_VALUE: usize = 1 << 20;

/// A KV mount of a Vault or OpenBao server.
///
/// The token is fetched by the first call that needs it and shared by all.
/// From two thirds of its life on it is renewed, or replaced, in the background;
/// nobody waits while the old one is good. If Vault no longer knows it, one login
/// follows and the denied call is sent once more.
///
/// - Values that Vault would not give back as they were are wrapped in an object
///   of `encoding` and `value`; other objects are stored and read as they are.
/// - Version 2: versions are numbers. A deleted version is
///   [`BackendError::PendingDeletion`], a destroyed one is not found. Creating is
///   atomic; updating reads the current version's number first and starts over
///   if another update comes between.
/// - Version 1: a hash of the value stands for the version. Creating, updating
///   and deleting look first, and are atomic among the calls of one process only.
///   Deletes are for good.
pub struct VaultBackend {
    kv: Kv,
    timeout: Duration,
}

enum Kv {
    One(Kv1),
    Two(Kv2),
}

// === impl VaultBackend ===

impl VaultBackend {
    /// The names that are accepted: those of AWS, which all are Vault paths.
    pub const GRAMMAR: NameGrammar = NameGrammar::new("/_+=.@-", 512);

    /// Prepares a client; `timeout` is for one call with everything in it.
    ///
    /// Reads the file of certificates, but calls no one.
    ///
    /// # Errors
    /// [`VaultSetupError`], for settings that no call could succeed with.
    pub fn connect(settings: VaultSettings, timeout: Duration) -> Result<Self, VaultSetupError> {
        settings.check()?;
        let client = Arc::new(Client::new(&settings, timeout)?);
        let session = Session::new(Arc::clone(&client), settings.auth);
        let api = Api { client, session, mount: encode(&settings.mount), prefix: settings.prefix };
        let kv = match settings.version {
            KvVersion::One => Kv::One(Kv1::new(api)),
            KvVersion::Two => Kv::Two(Kv2(api)),
        };
        Ok(Self { kv, timeout })
    }

    fn api(&self) -> &Api {
        match &self.kv {
            Kv::One(kv) => kv.api(),
            Kv::Two(kv) => &kv.0,
        }
    }

    async fn bounded<T>(
        &self,
        call: impl Future<Output = Result<T, BackendError>>,
    ) -> Result<T, BackendError> {
        tokio::time::timeout(self.timeout, call).await.unwrap_or(Err(BackendError::TimedOut))
    }
}

#[async_trait]
impl SecretBackend for VaultBackend {
    async fn get(
        &self,
        name: &SecretName,
        version: &SecretVersion,
    ) -> Result<SecretRecord, BackendError> {
        self.bounded(async {
            match &self.kv {
                Kv::One(kv) => kv.get(name, version).await,
                Kv::Two(kv) => kv.get(name, version).await,
            }
        })
        .await
    }

    async fn list(&self, cursor: Option<&str>) -> Result<SecretPage, BackendError> {
        self.bounded(list::page(&Self::GRAMMAR, &self.api().prefix, cursor, &self.kv)).await
    }

    async fn create(
        &self,
        name: &SecretName,
        value: &SecretValue,
    ) -> Result<Arc<str>, BackendError> {
        storable(value)?;
        self.bounded(async {
            match &self.kv {
                Kv::One(kv) => kv.create(name, value).await,
                Kv::Two(kv) => kv.create(name, value).await,
            }
        })
        .await
    }

    async fn update(
        &self,
        name: &SecretName,
        value: &SecretValue,
    ) -> Result<Arc<str>, BackendError> {
        storable(value)?;
        self.bounded(async {
            match &self.kv {
                Kv::One(kv) => kv.update(name, value).await,
                Kv::Two(kv) => kv.update(name, value).await,
            }
        })
        .await
    }

    async fn update_if(
        &self,
        name: &SecretName,
        value: &SecretValue,
        current: &str,
    ) -> Result<Arc<str>, BackendError> {
        storable(value)?;
        self.bounded(async {
            match &self.kv {
                Kv::One(kv) => kv.update(name, value).await,
                Kv::Two(kv) => kv.update_if(name, value, current).await,
            }
        })
        .await
    }

    async fn delete(&self, name: &SecretName, force: bool) -> Result<(), BackendError> {
        self.bounded(async {
            match &self.kv {
                Kv::One(kv) => kv.delete(name).await,
                Kv::Two(kv) => kv.delete(name, force).await,
            }
        })
        .await
    }

    async fn versions(&self, name: &SecretName) -> Result<Vec<VersionEntry>, BackendError> {
        self.bounded(async {
            match &self.kv {
                Kv::One(kv) => kv.versions(name).await,
                Kv::Two(kv) => kv.versions(name).await,
            }
        })
        .await
    }

    fn can_have(&self, version: &SecretVersion) -> bool {
        match &self.kv {
            Kv::One(_) => kv1::can_have(version),
            Kv::Two(_) => kv2::can_have(version),
        }
    }

    fn accepts(&self, value: &SecretValue) -> Result<(), BackendError> {
        storable(value)
    }

    fn credentials_expire(&self) -> Option<SystemTime> {
        self.api().session.expires()
    }
}

impl Folders for Kv {
    async fn keys(&self, folder: &str) -> Result<Vec<String>, BackendError> {
        match self {
            Self::One(kv) => kv.api().keys(folder).await,
            Self::Two(kv) => kv.0.keys(&format!("metadata/{folder}")).await,
        }
    }
}

impl fmt::Debug for VaultBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let api = self.api();
        f.debug_struct("VaultBackend")
            .field("mount", &api.mount)
            .field("prefix", &api.prefix)
            .finish_non_exhaustive()
    }
}

fn storable(value: &SecretValue) -> Result<(), BackendError> {
    match value.len() > MAX_VALUE {
        true => Err(BackendError::Invalid("it takes no value above 1 MiB".to_owned())),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests;
