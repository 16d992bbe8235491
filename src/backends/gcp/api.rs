//! Calls of Secret Manager, each within its time, and the methods that are more than
//! one of them.

use std::{
    future::Future,
    sync::Arc,
    time::{Duration, SystemTime},
};

use google_cloud_gax::error::Error;
use google_cloud_secretmanager_v1::{
    client::SecretManagerService,
    model::{
        Replication, Secret, SecretPayload, SecretVersion, replication::Automatic,
        secret_version::State,
    },
};

use super::{
    credentials::Renewing,
    error::{Asked, from_sdk, is_unauthenticated},
    resource::{Parent, version_number},
};
use crate::backends::{BackendError, VersionEntry};

/// Versions in one page.
const PAGE: i32 = 1000;

/// The client and what bounds its calls.
#[derive(Clone)]
pub(super) struct Api {
    pub(super) client: SecretManagerService,
    pub(super) credentials: Option<Arc<Renewing>>,
    pub(super) timeout: Duration,
}

// === impl Api ===

impl Api {
    /// One call, with the wait for a token in it.
    pub(super) async fn call<T>(
        &self,
        asked: Asked,
        call: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, BackendError> {
        let answer = tokio::time::timeout(self.timeout, call).await;
        let answer = answer.map_err(|_| BackendError::TimedOut)?;
        answer.map_err(|error| {
            if let Some(credentials) =
                self.credentials.as_ref().filter(|_| is_unauthenticated(&error))
            {
                credentials.reject();
            }
            from_sdk(&error, asked)
        })
    }

    /// Makes the secret, which only one of many callers can, and then its first
    /// version. Where the store refuses that one the secret goes again: without, the
    /// name would be taken and nothing under it. Where nobody knows whether it arrived
    /// the secret stays, for it may hold the value.
    pub(super) async fn create(
        self,
        parent: Parent,
        id: String,
        payload: SecretPayload,
    ) -> Result<Arc<str>, BackendError> {
        let mut secret = Secret::new();
        // Those of a region say by their name where they are.
        if !parent.regional {
            secret = secret.set_replication(Replication::new().set_automatic(Automatic::new()));
        }
        let call = self.client.create_secret().set_parent(parent.as_str()).set_secret_id(&id);
        let made = self.call(Asked::Parent, call.set_secret(secret).send()).await?;
        let path = parent.secret(&id);
        let added = self.add_version(path.clone(), payload).await;
        let left = match &added {
            Ok(_) => None,
            Err(refused) if is_refusal(refused) => {
                // The etag is for whoever deleted our secret and made their own since.
                let call = self.client.delete_secret().set_name(path).set_etag(made.etag).send();
                self.call(Asked::Secret, call).await.err()
            }
            Err(unknown) => Some(unknown.clone()),
        };
        if let Some(error) = left {
            // Neither the name nor Google's text, which holds it.
            tracing::warn!(
                kind = error.kind(),
                "a secret that may have no version was left behind; an update repairs it"
            );
        }
        version_number(&added?.name, &id)
    }

    pub(super) async fn add(
        &self,
        path: String,
        id: &str,
        payload: SecretPayload,
    ) -> Result<Arc<str>, BackendError> {
        version_number(&self.add_version(path, payload).await?.name, id)
    }

    async fn add_version(
        &self,
        path: String,
        payload: SecretPayload,
    ) -> Result<SecretVersion, BackendError> {
        let call = self.client.add_secret_version().set_parent(path).set_payload(payload).send();
        self.call(Asked::Secret, call).await
    }

    pub(super) async fn versions(
        &self,
        path: String,
        id: String,
    ) -> Result<Vec<VersionEntry>, BackendError> {
        let mut found = Vec::new();
        let mut token = String::new();
        loop {
            let call = self.client.list_secret_versions().set_parent(&path);
            let call = call.set_page_size(PAGE).set_page_token(token).send();
            let page = self.call(Asked::Secret, call).await?;
            for listed in page.versions {
                let number = version_number(&listed.name, &id)?;
                found.push((number.parse::<u64>().unwrap_or_default(), entry(number, listed)));
            }
            token = page.next_page_token;
            if token.is_empty() {
                break;
            }
        }
        found.sort_by_key(|(number, _)| std::cmp::Reverse(*number));
        let mut entries: Vec<_> = found.into_iter().map(|(_, entry)| entry).collect();
        // GCP's own alias for the newest, in whatever state. The others stand with
        // the secret, which is another call and another permission.
        if let Some(newest) = entries.first_mut() {
            newest.stages.push("latest".into());
        }
        Ok(entries)
    }
}

/// Whether a write certainly had no effect.
fn is_refusal(error: &BackendError) -> bool {
    match error {
        BackendError::PermissionDenied(_)
        | BackendError::Throttled { .. }
        | BackendError::Invalid(_)
        | BackendError::NotFound => true,
        BackendError::Conflict
        | BackendError::Disabled
        | BackendError::PendingDeletion
        | BackendError::Unavailable(_)
        | BackendError::TimedOut => false,
    }
}

fn entry(id: Arc<str>, listed: SecretVersion) -> VersionEntry {
    VersionEntry {
        id,
        stages: Vec::new(),
        created_at: listed.create_time.and_then(|time| SystemTime::try_from(time).ok()),
        enabled: listed.state == State::Enabled,
    }
}
