//! KV version 2: numbered versions, check-and-set, deletes that can be undone.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use humantime::parse_rfc3339_weak as parse_time;
use serde::Deserialize;

use super::{
    api::Api,
    buffer::Buffer,
    client::{Answer, Request},
    error::{from_answer, is_stale},
    value::{Object, to_object},
};
use crate::{
    backends::{BackendError, VersionEntry, failure::cause},
    secret::{SecretName, SecretRecord, SecretValue, SecretVersion},
};

/// How far Vault's clock may be ahead of ours. What it has just deleted must not
/// look as if it were yet to be; what is to be deleted so soon may look deleted.
const SKEW: Duration = Duration::from_secs(60);

/// How often an update starts over because another one came first.
const ATTEMPTS: usize = 3;

/// A mount of version 2.
pub(super) struct Kv2(pub(super) Api);

#[derive(Deserialize)]
struct ReadAnswer {
    data: Read,
}

#[derive(Deserialize)]
struct Read {
    data: Option<Object>,
    metadata: Version,
}

#[derive(Deserialize)]
struct WriteAnswer {
    data: Version,
}

#[derive(Deserialize)]
struct MetadataAnswer {
    data: Metadata,
}

/// All that is known of a secret but its values.
#[derive(Deserialize)]
struct Metadata {
    current_version: u64,
    versions: BTreeMap<u64, Version>,
}

#[derive(Deserialize)]
struct Version {
    #[serde(default)]
    version: u64,
    #[serde(default)]
    created_time: String,
    #[serde(default)]
    deletion_time: String,
    #[serde(default)]
    destroyed: bool,
}

/// What becomes of a read of a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Readable,
    /// Until it is undeleted.
    Deleted,
    Destroyed,
}

// === impl Kv2 ===

impl Kv2 {
    pub(super) async fn get(
        &self,
        name: &SecretName,
        version: &SecretVersion,
    ) -> Result<SecretRecord, BackendError> {
        let mut target = self.0.path("data/", name);
        let wanted = match version {
            SecretVersion::Latest => None,
            // Whatever else Vault makes of it, as of 0 and 010, is not that version.
            SecretVersion::Selected(text) => Some(number(text).ok_or(BackendError::NotFound)?),
        };
        if let Some(number) = wanted {
            target += &format!("?version={number}");
        }
        let answer = self.0.get(target).await?;
        let Read { data, metadata } = read(&answer)?;
        if wanted.is_some_and(|wanted| wanted != metadata.version) {
            return Err(BackendError::Invalid("another version was returned".to_owned()));
        }
        let object = data.ok_or_else(|| metadata.state().error())?;
        Ok(SecretRecord {
            value: object.into_value(),
            version: metadata.version.to_string().into(),
            created_at: parse_time(&metadata.created_time).ok(),
        })
    }

    pub(super) async fn create(
        &self,
        name: &SecretName,
        value: &SecretValue,
    ) -> Result<Arc<str>, BackendError> {
        let refused = match self.write(name, value, 0).await? {
            Ok(version) => return Ok(version),
            Err(refused) => refused,
        };
        // Of a name that is taken: a token that may only create is denied.
        if !is_stale(&refused) && refused.status != 403 {
            return Err(from_answer(&refused));
        }
        match self.metadata(name).await {
            Ok(metadata) => match metadata.state() {
                State::Readable => Err(BackendError::Conflict),
                State::Deleted => Err(BackendError::PendingDeletion),
                // Nothing is left to be read, and nothing can be brought back.
                State::Destroyed => {
                    match self.write(name, value, metadata.current_version).await? {
                        Ok(version) => Ok(version),
                        Err(refused) if is_stale(&refused) => Err(BackendError::Conflict),
                        Err(refused) => Err(from_answer(&refused)),
                    }
                }
            },
            // Gone again, or not ours to see: the refusal stands.
            Err(_) if is_stale(&refused) => Err(BackendError::Conflict),
            Err(_) => Err(from_answer(&refused)),
        }
    }

    pub(super) async fn update(
        &self,
        name: &SecretName,
        value: &SecretValue,
    ) -> Result<Arc<str>, BackendError> {
        for _ in 0..ATTEMPTS {
            // A write alone would create.
            let metadata = self.metadata(name).await?;
            metadata.readable()?;
            match self.write(name, value, metadata.current_version).await? {
                Ok(version) => return Ok(version),
                Err(refused) if is_stale(&refused) => {}
                Err(refused) => return Err(from_answer(&refused)),
            }
        }
        // Not that the name is taken: the same call may succeed once the others are done.
        Err(BackendError::Unavailable(Some(cause("other updates kept coming first".to_owned()))))
    }

    /// In one call: the store compares.
    pub(super) async fn update_if(
        &self,
        name: &SecretName,
        value: &SecretValue,
        current: &str,
    ) -> Result<Arc<str>, BackendError> {
        let current = number(current).ok_or(BackendError::Conflict)?;
        match self.write(name, value, current).await? {
            Ok(version) => Ok(version),
            Err(refused) if is_stale(&refused) => Err(BackendError::Conflict),
            Err(refused) => Err(from_answer(&refused)),
        }
    }

    pub(super) async fn delete(&self, name: &SecretName, force: bool) -> Result<(), BackendError> {
        // Vault reports success for what never was.
        let metadata = self.metadata(name).await?;
        if force {
            return self.0.delete(self.0.path("metadata/", name)).await;
        }
        metadata.readable()?;
        self.0.delete(self.0.path("data/", name)).await
    }

    pub(super) async fn versions(
        &self,
        name: &SecretName,
    ) -> Result<Vec<VersionEntry>, BackendError> {
        let metadata = self.metadata(name).await?;
        let entry = |(number, version): (&u64, &Version)| VersionEntry {
            id: number.to_string().into(),
            stages: match *number == metadata.current_version {
                true => vec!["latest".into()],
                false => Vec::new(),
            },
            created_at: parse_time(&version.created_time).ok(),
            enabled: version.state() == State::Readable,
        };
        Ok(metadata.versions.iter().rev().map(entry).collect())
    }

    /// Writes a version if `current` is the one there is; the refusal otherwise.
    async fn write(
        &self,
        name: &SecretName,
        value: &SecretValue,
        current: u64,
    ) -> Result<Result<Arc<str>, Answer>, BackendError> {
        let object = to_object(value);
        let mut body = Buffer::with_capacity(object.as_slice().len() + 64);
        body.extend(format!("{{\"options\":{{\"cas\":{current}}},\"data\":").as_bytes());
        body.extend(object.as_slice());
        body.extend(b"}");
        let answer = self.0.call(Request::post(self.0.path("data/", name), body)).await?;
        if !answer.is_success() {
            return Ok(Err(answer));
        }
        if answer.body.as_slice().is_empty() {
            // A mount of version 1 has just stored it under another name.
            return Err(BackendError::Invalid("the mount is not of KV version 2".to_owned()));
        }
        let WriteAnswer { data } = answer.json()?;
        Ok(Ok(data.version.to_string().into()))
    }

    async fn metadata(&self, name: &SecretName) -> Result<Metadata, BackendError> {
        let answer = self.0.get(self.0.path("metadata/", name)).await?;
        if !answer.is_success() {
            return Err(from_answer(&answer));
        }
        let MetadataAnswer { data } = answer.json()?;
        Ok(data)
    }
}

/// The body of a read; a deleted version comes with 404 and one.
fn read(answer: &Answer) -> Result<Read, BackendError> {
    if answer.is_success() {
        let ReadAnswer { data } = answer.json()?;
        return Ok(data);
    }
    match answer.json::<ReadAnswer>() {
        Ok(ReadAnswer { data }) if answer.status == 404 => Err(data.metadata.state().error()),
        _ => Err(from_answer(answer)),
    }
}

/// Whether there can be such a version.
pub(super) fn can_have(version: &SecretVersion) -> bool {
    match version {
        SecretVersion::Latest => true,
        SecretVersion::Selected(text) => number(text).is_some(),
    }
}

/// A version's number, in the one form that has it.
fn number(text: &str) -> Option<u64> {
    let number: u32 = text.parse().ok()?;
    (number > 0 && number.to_string() == text).then_some(number.into())
}

// === impl Metadata ===

impl Metadata {
    fn state(&self) -> State {
        match self.versions.get(&self.current_version) {
            Some(version) => version.state(),
            // Only described so far; or all of it was removed.
            None => State::Destroyed,
        }
    }

    fn readable(&self) -> Result<(), BackendError> {
        match self.state() {
            State::Readable => Ok(()),
            state => Err(state.error()),
        }
    }
}

// === impl Version ===

impl Version {
    fn state(&self) -> State {
        match self.destroyed {
            true => State::Destroyed,
            false if is_past(&self.deletion_time) => State::Deleted,
            false => State::Readable,
        }
    }
}

/// Whether this time has come; versions can be set to be deleted later.
fn is_past(time: &str) -> bool {
    match parse_time(time) {
        Ok(time) => time <= SystemTime::now() + SKEW,
        Err(_) => !time.is_empty(),
    }
}

// === impl State ===

impl State {
    /// Why it cannot be read.
    fn error(self) -> BackendError {
        match self {
            Self::Deleted => BackendError::PendingDeletion,
            Self::Readable | Self::Destroyed => BackendError::NotFound,
        }
    }
}
