//! Where lines go: standard output, or a file of its own.

use std::{
    fmt,
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

/// Where lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sink {
    /// Standard output; logs go to standard error.
    Stdout,
    /// The end of this file.
    File(PathBuf),
}

/// A sink that cannot be written to.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("audit.sink: {sink}: {message}")]
pub struct InvalidSink {
    sink: String,
    message: String,
}

// === impl Sink ===

impl Sink {
    /// Whether the file can be there, without making it.
    ///
    /// # Errors
    /// [`InvalidSink`].
    pub fn check(&self) -> Result<(), InvalidSink> {
        let Self::File(path) = self else { return Ok(()) };
        let refuse =
            |message: &str| InvalidSink { sink: self.to_string(), message: message.into() };
        match fs::metadata(path) {
            // A pipe would hold up whoever opens it until someone reads.
            Ok(found) if !found.is_file() => Err(refuse("is not a regular file")),
            Ok(_) => Ok(()),
            Err(_) => match fs::metadata(directory(path)) {
                Ok(found) if found.is_dir() => Ok(()),
                Ok(_) => Err(refuse("its directory is not a directory")),
                Err(error) => Err(refuse(&format!("its directory: {error}"))),
            },
        }
    }

    /// Opens it to add lines. A new file is for its owner alone.
    ///
    /// # Errors
    /// [`InvalidSink`].
    pub(super) fn open(&self) -> Result<Box<dyn Write + Send>, InvalidSink> {
        self.check()?;
        match self {
            Self::Stdout => Ok(Box::new(io::stdout())),
            Self::File(path) => {
                let opened = OpenOptions::new().append(true).create(true).mode(0o600).open(path);
                Ok(Box::new(opened.map_err(|error| InvalidSink::new(self, &error))?))
            }
        }
    }
}

impl fmt::Display for Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdout => f.write_str("stdout"),
            Self::File(path) => write!(f, "file:{}", path.display()),
        }
    }
}

fn directory(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

// === impl InvalidSink ===

impl InvalidSink {
    pub(super) fn new(sink: &Sink, error: &io::Error) -> Self {
        Self { sink: sink.to_string(), message: error.to_string() }
    }
}
