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

    /// File, line and key, where there are any, and what is wrong there.
    #[must_use]
    pub fn parts(&self) -> (&Path, Option<u64>, Option<&str>, &str) {
        let Self { file, line, key, message } = self;
        (file, *line, (!key.is_empty()).then_some(key), message)
    }

    /// What the YAML reader refused, and under which key.
    pub(super) fn yaml(file: &Path, key: String, error: &serde_saphyr::Error) -> Self {
        let error = error.without_snippet();
        let text = error.to_string();
        // The position stands in front of the message already.
        let text = text.split(" at line ").next().unwrap_or_default();
        // Advice to a programmer, which an operator cannot follow.
        let text = text.split(", set DuplicateKeyPolicy").next().unwrap_or_default();
        let line = error.location().map(|location| location.line());
        // The path is `.` for the document, and ends in `?` where serde lost it. What
        // has its line noted shows as a step `value` that no file has.
        let key = key.trim_end_matches(['.', '?']).replace(".value.", ".");
        let key = match key.strip_suffix(".value") {
            Some(noted) if !key.contains("set_headers") => noted.to_owned(),
            _ => key,
        };
        Self { file: file.to_owned(), line, key, message: text.replace('\n', " ") }
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
