//! One line that says what is wrong, and where.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use serde_saphyr::{Location, Spanned};

/// A configuration that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    file: PathBuf,
    line: Option<u64>,
    key: String,
    message: String,
}

impl ConfigError {
    /// Something about the file as a whole.
    pub(super) fn file(file: &Path, message: impl Into<String>) -> Self {
        Self { file: file.to_owned(), line: None, key: String::new(), message: message.into() }
    }

    /// Something about one key, whose line is known or not.
    pub(super) fn key(
        file: &Path,
        line: Option<u64>,
        key: impl Into<String>,
        message: impl fmt::Display,
    ) -> Self {
        Self { file: file.to_owned(), line, key: key.into(), message: message.to_string() }
    }

    /// What the YAML reader refused.
    pub(super) fn yaml(file: &Path, error: &serde_saphyr::Error) -> Self {
        let error = error.without_snippet();
        let text = error.to_string();
        // The position stands in front of the message already.
        let message = text.split(" at line ").next().unwrap_or_default().replace('\n', " ");
        let line = error.location().map(|location| location.line());
        Self { file: file.to_owned(), line, key: String::new(), message }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if !self.key.is_empty() {
            write!(f, ": {}", self.key)?;
        }
        write!(f, ": {}", self.message)
    }
}

impl std::error::Error for ConfigError {}

/// The line on which a value stands.
pub(super) fn line<T>(value: &Spanned<T>) -> Option<u64> {
    (value.referenced != Location::UNKNOWN).then(|| value.referenced.line())
}
