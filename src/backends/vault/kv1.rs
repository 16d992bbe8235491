//! KV version 1: one value per secret, no history, no conditional writes.

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::Arc,
};

use aws_lc_rs::digest;
use serde::Deserialize;
use tokio::sync::{Mutex, MutexGuard};

use super::{
    api::Api,
    client::Request,
    error::from_answer,
    value::{Object, to_object},
};
use crate::{
    backends::{BackendError, VersionEntry},
    secret::{SecretName, SecretRecord, SecretValue, SecretVersion},
};

/// Locks for writes: enough that two names seldom share one.
const LOCKS: usize = 64;

/// Bytes of a hash that stand for a version.
const HASH_LEN: usize = 8;

/// A mount of version 1.
pub(super) struct Kv1 {
    api: Api,
    /// Vault has no write that depends on what is there: looking first is all
    /// there is, and only writers of this process wait for each other.
    locks: Box<[Mutex<()>; LOCKS]>,
}

#[derive(Deserialize)]
struct ReadAnswer {
    data: Object,
}

/// Whether a version can be one of ours, which are hashes.
pub(super) fn can_have(version: &SecretVersion) -> bool {
    let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    match version {
        SecretVersion::Latest => true,
        SecretVersion::Selected(text) => text.len() == 2 * HASH_LEN && text.bytes().all(is_digit),
    }
}

// === impl Kv1 ===

impl Kv1 {
    pub(super) fn new(api: Api) -> Self {
        Self { api, locks: Box::new(std::array::from_fn(|_| Mutex::default())) }
    }

    pub(super) fn api(&self) -> &Api {
        &self.api
    }

    pub(super) async fn get(
        &self,
        name: &SecretName,
        version: &SecretVersion,
    ) -> Result<SecretRecord, BackendError> {
        if !can_have(version) {
            return Err(BackendError::NotFound);
        }
        let answer = self.api.get(self.api.path("", name)).await?;
        if !answer.is_success() {
            return Err(from_answer(&answer));
        }
        let ReadAnswer { data } = answer.json()?;
        let value = data.into_value();
        let found = self.version(name, &value);
        match version {
            SecretVersion::Selected(wanted) if *wanted != found => Err(BackendError::NotFound),
            SecretVersion::Selected(_) | SecretVersion::Latest => {
                Ok(SecretRecord { value, version: found, created_at: None })
            }
        }
    }

    pub(super) async fn create(
        &self,
        name: &SecretName,
        value: &SecretValue,
    ) -> Result<Arc<str>, BackendError> {
        let _one_at_a_time = self.lock(name).await;
        match self.get(name, &SecretVersion::Latest).await {
            Ok(_) => Err(BackendError::Conflict),
            Err(BackendError::NotFound) => self.write(name, value).await,
            Err(error) => Err(error),
        }
    }

    pub(super) async fn update(
        &self,
        name: &SecretName,
        value: &SecretValue,
    ) -> Result<Arc<str>, BackendError> {
        let _one_at_a_time = self.lock(name).await;
        self.get(name, &SecretVersion::Latest).await?;
        self.write(name, value).await
    }

    pub(super) async fn delete(&self, name: &SecretName) -> Result<(), BackendError> {
        let _one_at_a_time = self.lock(name).await;
        self.get(name, &SecretVersion::Latest).await?;
        self.api.delete(self.api.path("", name)).await
    }

    pub(super) async fn versions(
        &self,
        name: &SecretName,
    ) -> Result<Vec<VersionEntry>, BackendError> {
        let record = self.get(name, &SecretVersion::Latest).await?;
        Ok(vec![VersionEntry {
            id: record.version,
            stages: vec!["latest".into()],
            created_at: None,
            enabled: true,
        }])
    }

    async fn write(
        &self,
        name: &SecretName,
        value: &SecretValue,
    ) -> Result<Arc<str>, BackendError> {
        let request = Request::post(self.api.path("", name), to_object(value));
        let answer = self.api.call(request).await?;
        match answer.is_success() {
            true => Ok(self.version(name, value)),
            false => Err(from_answer(&answer)),
        }
    }

    async fn lock(&self, name: &SecretName) -> MutexGuard<'_, ()> {
        let mut hash = DefaultHasher::new();
        name.hash(&mut hash);
        self.locks[(hash.finish() % LOCKS as u64) as usize].lock().await
    }

    /// A hash of the value stands for a version. The path is part of it: equal
    /// values of two secrets do not show.
    #[expect(clippy::disallowed_methods, reason = "the version is a hash of the value")]
    fn version(&self, name: &SecretName, value: &SecretValue) -> Arc<str> {
        let mut hash = digest::Context::new(&digest::SHA256);
        hash.update(self.api.path("", name).as_bytes());
        hash.update(&[0]);
        hash.update(value.expose_secret());
        let hash = hash.finish();
        hash.as_ref()[..HASH_LEN]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>()
            .into()
    }
}
