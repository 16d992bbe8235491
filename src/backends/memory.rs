//! A store inside the process: for tests and for trying the service out.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use async_trait::async_trait;

use super::{BackendError, SecretBackend, SecretPage, VersionEntry};
use crate::secret::{
    NameEncoding, NameGrammar, SecretName, SecretRecord, SecretValue, SecretVersion,
};

/// Names in one page of a listing.
const PAGE: usize = 100;

/// Versions kept of one secret, so that a busy writer does not fill the memory.
const KEPT_VERSIONS: usize = 100;

/// Secrets in this process, gone when it ends.
///
/// Versions are numbered from "1"; `previous` is the last but one. Deleting is
/// always for good, and a secret made anew starts at "1" again. Every call is
/// atomic. Values may be empty.
#[derive(Default)]
pub struct MemoryBackend {
    secrets: Mutex<BTreeMap<SecretName, Versions>>,
}

/// The versions of one secret, oldest first; never empty.
#[derive(Default)]
struct Versions {
    /// How many older versions have been dropped.
    dropped: usize,
    kept: VecDeque<(SecretValue, SystemTime)>,
}

// === impl MemoryBackend ===

impl MemoryBackend {
    /// The names this store accepts: those of AWS.
    pub const GRAMMAR: NameGrammar = NameGrammar::new("/_+=.@-", 512);

    /// A store that holds the given secrets, each at version "1"; of a name that
    /// is given more than once the last value is kept, with a higher number.
    #[must_use]
    pub fn new(initial: impl IntoIterator<Item = (SecretName, SecretValue)>) -> Self {
        let mut secrets = BTreeMap::<_, Versions>::new();
        for (name, value) in initial {
            secrets.entry(name).or_default().push(value);
        }
        Self { secrets: Mutex::new(secrets) }
    }

    /// A panic under the lock leaves whole entries behind, so poison is ignored.
    fn secrets(&self) -> MutexGuard<'_, BTreeMap<SecretName, Versions>> {
        self.secrets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl SecretBackend for MemoryBackend {
    async fn get(
        &self,
        name: &SecretName,
        version: &SecretVersion,
    ) -> Result<SecretRecord, BackendError> {
        self.secrets().get(name).and_then(|held| held.find(version)).ok_or(BackendError::NotFound)
    }

    async fn list(&self, cursor: Option<&str>) -> Result<SecretPage, BackendError> {
        let start = match cursor {
            Some(last) => Bound::Excluded(
                Self::GRAMMAR
                    .canonical(last, NameEncoding::Plain)
                    .map_err(|_| BackendError::Invalid("unknown cursor".to_owned()))?,
            ),
            None => Bound::Unbounded,
        };
        let secrets = self.secrets();
        let rest = secrets.range((start, Bound::Unbounded)).map(|(name, _)| name.clone());
        Ok(SecretPage::first(rest, PAGE))
    }

    async fn create(
        &self,
        name: &SecretName,
        value: &SecretValue,
    ) -> Result<Arc<str>, BackendError> {
        let mut secrets = self.secrets();
        if secrets.contains_key(name) {
            return Err(BackendError::Conflict);
        }
        Ok(secrets.entry(name.clone()).or_default().push(value.clone()))
    }

    async fn update(
        &self,
        name: &SecretName,
        value: &SecretValue,
    ) -> Result<Arc<str>, BackendError> {
        let mut secrets = self.secrets();
        let held = secrets.get_mut(name).ok_or(BackendError::NotFound)?;
        Ok(held.push(value.clone()))
    }

    async fn delete(&self, name: &SecretName, _force: bool) -> Result<(), BackendError> {
        self.secrets().remove(name).map(|_| ()).ok_or(BackendError::NotFound)
    }

    async fn update_if(
        &self,
        name: &SecretName,
        value: &SecretValue,
        current: &str,
    ) -> Result<Arc<str>, BackendError> {
        let mut secrets = self.secrets();
        let held = secrets.get_mut(name).ok_or(BackendError::NotFound)?;
        held.must_be(current)?;
        Ok(held.push(value.clone()))
    }

    async fn delete_if(
        &self,
        name: &SecretName,
        _force: bool,
        current: &str,
    ) -> Result<(), BackendError> {
        let mut secrets = self.secrets();
        secrets.get(name).ok_or(BackendError::NotFound)?.must_be(current)?;
        secrets.remove(name);
        Ok(())
    }

    async fn versions(&self, name: &SecretName) -> Result<Vec<VersionEntry>, BackendError> {
        self.secrets().get(name).map(Versions::entries).ok_or(BackendError::NotFound)
    }
}

impl fmt::Debug for MemoryBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryBackend").finish_non_exhaustive()
    }
}

// === impl Versions ===

impl Versions {
    /// Adds a version and returns its number.
    fn push(&mut self, value: SecretValue) -> Arc<str> {
        if self.kept.len() == KEPT_VERSIONS {
            self.kept.pop_front();
            self.dropped += 1;
        }
        self.kept.push_back((value, SystemTime::now()));
        (self.dropped + self.kept.len()).to_string().into()
    }

    fn must_be(&self, current: &str) -> Result<(), BackendError> {
        match (self.dropped + self.kept.len()).to_string() == current {
            true => Ok(()),
            false => Err(BackendError::Conflict),
        }
    }

    fn find(&self, version: &SecretVersion) -> Option<SecretRecord> {
        let at = match version {
            SecretVersion::Latest => self.kept.len().checked_sub(1),
            SecretVersion::Selected(text) => match &**text {
                "previous" => self.kept.len().checked_sub(2),
                // "01" and "+1" would be second names of one version.
                number if number.starts_with(['0', '+']) => None,
                number => number.parse::<usize>().ok()?.checked_sub(self.dropped + 1),
            },
        }?;
        let (value, created_at) = self.kept.get(at)?;
        Some(SecretRecord {
            value: value.clone(),
            version: (self.dropped + at + 1).to_string().into(),
            created_at: Some(*created_at),
        })
    }

    fn entries(&self) -> Vec<VersionEntry> {
        let last = self.kept.len() - 1;
        let entry = |(at, (_, created_at)): (usize, &(SecretValue, SystemTime))| VersionEntry {
            id: (self.dropped + at + 1).to_string().into(),
            stages: match last - at {
                0 => vec!["latest".into()],
                1 => vec!["previous".into()],
                _ => Vec::new(),
            },
            created_at: Some(*created_at),
            enabled: true,
        };
        self.kept.iter().enumerate().rev().map(entry).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backends::conformance::{self, Profile};

    #[tokio::test]
    async fn memory_conforms() {
        let odd_names = &["of.a_secret+1=2@x-y", "a/b/c/d"];
        let profile = Profile { odd_names, names: 205, ..Profile::new(MemoryBackend::GRAMMAR) };
        conformance::assert_conforms(&MemoryBackend::new([]), profile).await;
    }

    #[tokio::test]
    async fn conditional_writes_need_the_current_version() {
        let name = conformance::name(MemoryBackend::GRAMMAR, "kept");
        let backend = MemoryBackend::new([(name.clone(), SecretValue::new("1"))]);
        let value = SecretValue::new("2");
        conformance::conditional_writes(&backend, &name, &value).await;
    }

    #[tokio::test]
    async fn versions_are_numbers_and_the_oldest_are_dropped() {
        let name = conformance::name(MemoryBackend::GRAMMAR, "counted");
        let backend = MemoryBackend::new([(name.clone(), SecretValue::new("1"))]);
        for round in 2..=150 {
            let made = backend.update(&name, &SecretValue::new(round.to_string())).await;
            assert_eq!(&*made.expect("updated"), round.to_string());
        }
        for (selector, expected) in [
            ("0", None),
            ("50", None),
            ("051", None),
            ("+51", None),
            ("151", None),
            ("18446744073709551616", None),
            ("51", Some("51")),
            ("150", Some("150")),
            ("previous", Some("149")),
        ] {
            let version = SecretVersion::parse(selector).expect("valid selector");
            let found = backend.get(&name, &version).await.ok().map(|record| record.version);
            assert_eq!(found.as_deref(), expected, "{selector}");
        }
    }
}
