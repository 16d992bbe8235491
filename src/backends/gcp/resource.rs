//! Resource names of Secret Manager: what is sent, and what an answer may name.
//!
//! The SDK puts them into the path of a URL as they are, so nothing goes in here
//! that could leave its segment.

use std::sync::Arc;

use crate::{
    backends::BackendError,
    secret::{SecretName, SecretVersion},
};

/// Longest alias of a version.
const MAX_ALIAS: usize = 63;

/// Longest version number: they are 64-bit.
const MAX_DIGITS: usize = 19;

/// Where the secrets are: `projects/p`, or `projects/p/locations/l`.
#[derive(Clone, Debug)]
pub(super) struct Parent {
    path: Arc<str>,
    pub(super) regional: bool,
}

/// Which version is asked for, in the words of Secret Manager.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Selector<'a> {
    Latest,
    Number(&'a str),
    Alias(&'a str),
}

// === impl Parent ===

impl Parent {
    pub(super) fn new(project: &str, location: Option<&str>) -> Self {
        let path = match location {
            None => format!("projects/{project}"),
            Some(location) => format!("projects/{project}/locations/{location}"),
        };
        Self { path: path.into(), regional: location.is_some() }
    }

    pub(super) fn as_str(&self) -> &str {
        &self.path
    }

    pub(super) fn secret(&self, id: &str) -> String {
        format!("{}/secrets/{id}", self.path)
    }
}

/// The id that a listed secret has in its project.
pub(super) fn secret_id(name: &str) -> Option<&str> {
    let (_, id) = name.rsplit_once("/secrets/")?;
    Some(id)
}

/// The number of a version that an answer names, which must be one of secret `id`:
/// another secret's value must not be passed off as its own. Answers name the
/// project by its number, whatever was asked, so that is not compared.
pub(super) fn version_number(name: &str, id: &str) -> Result<Arc<str>, BackendError> {
    let wrong = || BackendError::Invalid("another secret was returned".to_owned());
    let (secret, number) = name.rsplit_once("/versions/").ok_or_else(wrong)?;
    if secret_id(secret) != Some(id) || !is_number(number) {
        return Err(wrong());
    }
    Ok(number.into())
}

/// The full id of a secret.
pub(super) fn full_id(prefix: &str, name: &SecretName) -> String {
    format!("{prefix}{name}")
}

/// The filter that leaves out most names without this prefix: it matches them
/// anywhere in the name. Empty for all names.
pub(super) fn filter(prefix: &str) -> String {
    // A hyphen in front would be an operator; those are sorted out here alone.
    match prefix.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        true => format!("name:{prefix}"),
        false => String::new(),
    }
}

fn is_number(text: &str) -> bool {
    (1..=MAX_DIGITS).contains(&text.len())
        && !text.starts_with('0')
        && text.bytes().all(|b| b.is_ascii_digit())
}

fn is_alias(text: &str) -> bool {
    text.len() <= MAX_ALIAS
        && text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

// === impl Selector ===

impl<'a> Selector<'a> {
    /// `None` for what cannot be a version of Secret Manager; selectors of other
    /// stores have slashes and dots.
    pub(super) fn of(version: &'a SecretVersion) -> Option<Self> {
        match version {
            SecretVersion::Latest => Some(Self::Latest),
            SecretVersion::Selected(text) if is_number(text) => Some(Self::Number(text)),
            SecretVersion::Selected(text) if is_alias(text) => Some(Self::Alias(text)),
            SecretVersion::Selected(_) => None,
        }
    }

    pub(super) fn as_str(self) -> &'a str {
        match self {
            Self::Latest => "latest",
            Self::Number(text) | Self::Alias(text) => text,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_stay_in_their_segment() {
        let long = format!("a{}", "b".repeat(63));
        for text in
            ["../../other/versions/1", "1/..", ".", "a.b", "0", "007", "1a", "-a", "a+b", &long]
        {
            let version = SecretVersion::parse(text).expect("some store has such versions");
            assert_eq!(Selector::of(&version), None, "{text}");
        }
        for (text, expected) in [
            ("latest", Selector::Latest),
            ("7", Selector::Number("7")),
            ("previous", Selector::Alias("previous")),
            ("Blue_2-x", Selector::Alias("Blue_2-x")),
        ] {
            let version = SecretVersion::parse(text).expect("valid selector");
            assert_eq!(Selector::of(&version), Some(expected), "{text}");
        }
    }

    #[test]
    fn answers_must_name_the_secret_that_was_asked_for() {
        for name in [
            "projects/4711/secrets/db/versions/3",
            "projects/4711/locations/europe-west3/secrets/db/versions/3",
        ] {
            assert_eq!(&*version_number(name, "db").expect("the same"), "3", "{name}");
        }
        for name in [
            "",
            "projects/4711/secrets/db",
            "projects/4711/secrets/db2/versions/3",
            "projects/4711/secrets/DB/versions/3",
            "projects/4711/secrets/db/versions/",
            "projects/4711/secrets/db/versions/latest",
            "projects/4711/secrets/db/versions/3/..",
        ] {
            let refused = version_number(name, "db");
            assert!(matches!(refused, Err(BackendError::Invalid(_))), "{name}: {refused:?}");
        }
    }
}
