//! A directory tree as a store, one file per secret: for local runs and for
//! directories that something else fills, such as mounted Kubernetes secrets.

mod tree;

use std::{
    fmt, io,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;

use self::tree::Tree;
use super::{BackendError, SecretBackend, SecretPage, VersionEntry};
use crate::secret::{NameGrammar, SecretName, SecretRecord, SecretValue, SecretVersion};

/// Names in one page of a listing.
const PAGE: usize = 100;

/// Files below one directory; the secret `a/b` is the file `a/b`, byte for byte.
///
/// Only the current content can be read. Its version is a prefix of the hash
/// of name and content, so it stays the same over restarts and copies. Like any
/// unkeyed hash it confirms a guess of a weak value to whoever sees it.
///
/// Names with a segment that starts with a dot do not exist and cannot be made.
/// Links that lead out of the directory are refused. A reader never sees a half
/// written file; creating is atomic among processes, while of updates and
/// deletes by several processes at once the last one wins. Deleting is for good.
#[derive(Clone)]
pub struct FileBackend {
    tree: Arc<Tree>,
    /// Makes "exists, then replace" one step within this process.
    writer: Arc<Mutex<()>>,
}

// === impl FileBackend ===

impl FileBackend {
    /// The names this store accepts: those of AWS.
    pub const GRAMMAR: NameGrammar = NameGrammar::new("/_+=.@-", 512);

    /// Opens a directory that exists. Blocks for one look at it.
    ///
    /// # Errors
    /// The directory is missing, not a directory or not accessible.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self, io::Error> {
        Ok(Self { tree: Arc::new(Tree::open(&dir.into())?), writer: Arc::default() })
    }

    /// Runs file I/O where it may block.
    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Tree) -> Result<T, BackendError> + Send + 'static,
    ) -> Result<T, BackendError> {
        let tree = Arc::clone(&self.tree);
        tokio::task::spawn_blocking(move || work(&tree))
            .await
            .unwrap_or_else(|error| Err(BackendError::Unavailable(Some(Arc::new(error)))))
    }

    /// As [`Self::read`], one at a time.
    async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Tree) -> Result<T, BackendError> + Send + 'static,
    ) -> Result<T, BackendError> {
        let writer = Arc::clone(&self.writer);
        self.read(move |tree| {
            // The lock guards no data that a panic could have left half done.
            let _one_at_a_time = writer.lock().unwrap_or_else(PoisonError::into_inner);
            work(tree)
        })
        .await
    }
}

#[async_trait]
impl SecretBackend for FileBackend {
    async fn get(
        &self,
        name: &SecretName,
        version: &SecretVersion,
    ) -> Result<SecretRecord, BackendError> {
        let name = name.clone();
        let record = self.read(move |tree| tree.read(&name)).await?;
        match version {
            SecretVersion::Latest => Ok(record),
            SecretVersion::Selected(wanted) if *wanted == record.version => Ok(record),
            SecretVersion::Selected(_) => Err(BackendError::NotFound),
        }
    }

    async fn list(&self, cursor: Option<&str>) -> Result<SecretPage, BackendError> {
        let all = self.read(Tree::names).await?;
        let rest = all.into_iter().filter(|name| cursor.is_none_or(|last| name.as_str() > last));
        Ok(SecretPage::first(rest, PAGE))
    }

    async fn create(
        &self,
        name: &SecretName,
        value: &SecretValue,
    ) -> Result<Arc<str>, BackendError> {
        let (name, value) = (name.clone(), value.clone());
        self.write(move |tree| tree.create(&name, &value)).await
    }

    async fn update(
        &self,
        name: &SecretName,
        value: &SecretValue,
    ) -> Result<Arc<str>, BackendError> {
        let (name, value) = (name.clone(), value.clone());
        self.write(move |tree| tree.replace(&name, &value)).await
    }

    async fn delete(&self, name: &SecretName, _force: bool) -> Result<(), BackendError> {
        let name = name.clone();
        self.write(move |tree| tree.remove(&name)).await
    }

    async fn update_if(
        &self,
        name: &SecretName,
        value: &SecretValue,
        current: &str,
    ) -> Result<Arc<str>, BackendError> {
        let (name, value, current) = (name.clone(), value.clone(), current.to_owned());
        self.write(move |tree| {
            tree.must_be(&name, &current)?;
            tree.replace(&name, &value)
        })
        .await
    }

    async fn delete_if(
        &self,
        name: &SecretName,
        _force: bool,
        current: &str,
    ) -> Result<(), BackendError> {
        let (name, current) = (name.clone(), current.to_owned());
        self.write(move |tree| {
            tree.must_be(&name, &current)?;
            tree.remove(&name)
        })
        .await
    }

    async fn versions(&self, name: &SecretName) -> Result<Vec<VersionEntry>, BackendError> {
        let name = name.clone();
        let record = self.read(move |tree| tree.read(&name)).await?;
        Ok(vec![VersionEntry {
            id: record.version,
            stages: vec!["latest".into()],
            created_at: record.created_at,
            enabled: true,
        }])
    }
}

impl fmt::Debug for FileBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileBackend").field("tree", &self.tree).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
