//! Blocking file I/O below one directory, which no path may leave.

use std::{
    fs::{self, DirBuilder, File},
    io::{self, Read as _, Write as _},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use aws_lc_rs::digest;
use tempfile::NamedTempFile;

use super::FileBackend;
use crate::{
    backends::BackendError,
    secret::{NameEncoding, SecretName, SecretRecord, SecretValue},
};

/// Longest value in bytes; the clouds allow 64 KiB.
const MAX_VALUE: u64 = 1 << 20;

/// A directory and the secrets in it.
#[derive(Debug)]
pub(super) struct Tree {
    /// Canonical, so that what is below it can be told from what is not.
    root: PathBuf,
}

// === impl Tree ===

impl Tree {
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        let root = fs::canonicalize(dir)?;
        // Fails unless it is a directory that can be read.
        fs::read_dir(&root)?;
        Ok(Self { root })
    }

    pub(super) fn read(&self, name: &SecretName) -> Result<SecretRecord, BackendError> {
        let path = self.existing(name)?;
        let file = File::open(&path).map_err(from_io)?;
        let metadata = file.metadata().map_err(from_io)?;
        let created_at = metadata.modified().ok();
        // Room for all of it: a buffer that grows leaves copies behind.
        let mut bytes = Vec::with_capacity(metadata.len().min(MAX_VALUE) as usize + 1);
        file.take(MAX_VALUE + 1).read_to_end(&mut bytes).map_err(from_io)?;
        if bytes.len() as u64 > MAX_VALUE {
            return Err(BackendError::Invalid("the file is larger than 1 MiB".to_owned()));
        }
        let version = version(name, &bytes);
        Ok(SecretRecord { value: SecretValue::new(bytes), version, created_at })
    }

    /// All names in order. Linked files are listed, linked directories are not:
    /// a link to a parent would make the tree endless.
    pub(super) fn names(&self) -> Result<Vec<SecretName>, BackendError> {
        let (mut names, mut dirs) = (Vec::new(), vec![self.root.clone()]);
        while let Some(dir) = dirs.pop() {
            let entries = match fs::read_dir(&dir) {
                Ok(entries) => entries,
                // Deleted since its parent was read.
                Err(error) if error.kind() == io::ErrorKind::NotFound && dir != self.root => {
                    continue;
                }
                Err(error) => return Err(from_io(error)),
            };
            for entry in entries {
                let path = entry.map_err(from_io)?.path();
                let Some(name) = self.name_of(&path) else { continue };
                match fs::symlink_metadata(&path) {
                    Ok(metadata) if metadata.is_dir() => dirs.push(path),
                    Ok(_) if self.existing(&name).is_ok() => names.push(name),
                    Ok(_) | Err(_) => {}
                }
            }
        }
        names.sort();
        Ok(names)
    }

    pub(super) fn create(
        &self,
        name: &SecretName,
        value: &SecretValue,
    ) -> Result<Arc<str>, BackendError> {
        let path = self.path_of(name).ok_or_else(|| {
            BackendError::Invalid("a segment of the name starts with a dot".to_owned())
        })?;
        let parent = path.parent().unwrap_or(&self.root);
        let parent = self.make_dir(parent)?;
        if path.is_dir() {
            return Err(BackendError::Invalid("the name is a directory".to_owned()));
        }
        let file = write_aside(&parent, value)?;
        file.persist_noclobber(&path).map_err(|failed| from_io(failed.error))?;
        Ok(version_of(name, value))
    }

    pub(super) fn must_be(&self, name: &SecretName, version: &str) -> Result<(), BackendError> {
        match *self.read(name)?.version == *version {
            true => Ok(()),
            false => Err(BackendError::Conflict),
        }
    }

    pub(super) fn replace(
        &self,
        name: &SecretName,
        value: &SecretValue,
    ) -> Result<Arc<str>, BackendError> {
        let path = self.existing(name)?;
        let file = write_aside(path.parent().unwrap_or(&self.root), value)?;
        file.persist(&path).map_err(|failed| from_io(failed.error))?;
        Ok(version_of(name, value))
    }

    /// Removes the file, or the link to it, and directories left empty: they
    /// would stand in the way of a secret of their name.
    pub(super) fn remove(&self, name: &SecretName) -> Result<(), BackendError> {
        self.existing(name)?;
        let path = self.path_of(name).ok_or(BackendError::NotFound)?;
        fs::remove_file(&path).map_err(from_io)?;
        for dir in path.ancestors().skip(1).take_while(|dir| **dir != self.root) {
            if fs::remove_dir(dir).is_err() {
                break;
            }
        }
        Ok(())
    }

    /// Makes a directory and those above it, and returns its real path.
    fn make_dir(&self, dir: &Path) -> Result<PathBuf, BackendError> {
        // Looked at first: a link on the way must not make directories elsewhere.
        let there = dir.ancestors().find(|dir| dir.exists()).unwrap_or(&self.root);
        self.inside(there)?;
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|error| {
            match error.kind() {
                io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory => {
                    BackendError::Invalid("a part of the name is a secret itself".to_owned())
                }
                _ => from_io(error),
            }
        })?;
        self.inside(dir)
    }

    /// Where a secret of that name is kept; `None` if it would be a dotfile or
    /// in a hidden directory.
    fn path_of(&self, name: &SecretName) -> Option<PathBuf> {
        let hidden = name.as_str().split('/').any(|segment| segment.starts_with('.'));
        (!hidden).then(|| self.root.join(name.as_str()))
    }

    /// The name that belongs to a path; `None` if no secret can be called so.
    fn name_of(&self, path: &Path) -> Option<SecretName> {
        let text = path.strip_prefix(&self.root).ok()?.to_str()?;
        let name = FileBackend::GRAMMAR.canonical(text, NameEncoding::Plain).ok()?;
        self.path_of(&name).map(|_| name)
    }

    /// The file behind a name, links followed.
    fn existing(&self, name: &SecretName) -> Result<PathBuf, BackendError> {
        let path = self.inside(&self.path_of(name).ok_or(BackendError::NotFound)?)?;
        // Reading a pipe or a device might never end.
        match fs::metadata(&path).map_err(from_io)?.is_file() {
            true => Ok(path),
            false => Err(BackendError::NotFound),
        }
    }

    /// Follows links and refuses what they lead to outside of the directory.
    fn inside(&self, path: &Path) -> Result<PathBuf, BackendError> {
        let real = fs::canonicalize(path).map_err(from_io)?;
        match real.starts_with(&self.root) {
            true => Ok(real),
            false => Err(BackendError::Invalid("the name leads out of the directory".to_owned())),
        }
    }
}

/// Writes a hidden file that only the owner may read, ready to be given its name.
#[expect(clippy::disallowed_methods, reason = "this is where the value is written to its store")]
fn write_aside(dir: &Path, value: &SecretValue) -> Result<NamedTempFile, BackendError> {
    // Mode 0600 and a name that starts with a dot are this crate's defaults; a
    // file that is dropped without being persisted is deleted.
    let mut file = NamedTempFile::new_in(dir).map_err(from_io)?;
    file.write_all(value.expose_secret()).map_err(from_io)?;
    file.as_file().sync_all().map_err(from_io)?;
    Ok(file)
}

#[expect(clippy::disallowed_methods, reason = "the version is a hash of the value")]
fn version_of(name: &SecretName, value: &SecretValue) -> Arc<str> {
    version(name, value.expose_secret())
}

/// The name is part of the hash: equal values of two secrets do not show.
fn version(name: &SecretName, value: &[u8]) -> Arc<str> {
    let mut hash = digest::Context::new(&digest::SHA256);
    hash.update(name.as_str().as_bytes());
    hash.update(&[0]);
    hash.update(value);
    hash.finish().as_ref()[..8].iter().map(|byte| format!("{byte:02x}")).collect::<String>().into()
}

fn from_io(error: io::Error) -> BackendError {
    use io::ErrorKind as Kind;
    match error.kind() {
        // `a/b` where `a` is a file.
        Kind::NotFound | Kind::NotADirectory => BackendError::NotFound,
        Kind::AlreadyExists => BackendError::Conflict,
        Kind::PermissionDenied | Kind::ReadOnlyFilesystem => {
            BackendError::PermissionDenied(Some(Arc::new(error)))
        }
        Kind::InvalidFilename => {
            BackendError::Invalid("the file system cannot hold the name".to_owned())
        }
        _ => BackendError::Unavailable(Some(Arc::new(error))),
    }
}
