//! `secret://<backend>/<name>[?version=<v>][#<field>]`: parse and print.

use std::{fmt, sync::Arc};

use super::name::{InvalidName, SecretName};

/// Longest reference in bytes.
const MAX_REFERENCE: usize = 512;
const MAX_VERSION: usize = 256;
pub(super) const SCHEME: &str = "secret://";

/// The configured name of a store: lower-case letters, digits and inner hyphens.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BackendName(Arc<str>);

/// Which version of a secret is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub enum SecretVersion {
    /// The store's current version.
    #[default]
    Latest,
    /// A version number or id, or a stage or alias of the store
    /// (`AWSPENDING`, `previous`).
    Selected(Arc<str>),
}

/// One part of a value that is a JSON document.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum SecretField {
    /// A top-level key.
    Key(Arc<str>),
    /// A JSON pointer (RFC 6901), which starts with `/`.
    Pointer(Arc<str>),
}

/// Backend, canonical name, version and optional field: all that is needed to
/// decide about a secret and to fetch it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SecretRef {
    /// The store that holds it.
    pub backend: BackendName,
    /// Canonical, without the backend's prefix.
    pub name: SecretName,
    /// Which version.
    pub version: SecretVersion,
    /// Which part of a JSON value, if not the whole.
    pub field: Option<SecretField>,
}

/// Why a reference was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidReference {
    /// Not of the form `secret://<backend>/<name>`.
    #[error("secret reference is not of the form secret://<backend>/<name>")]
    Shape,
    /// More than 512 bytes.
    #[error("secret reference cannot exceed {MAX_REFERENCE} bytes")]
    TooLong,
    /// The backend is not configured.
    #[error("unknown backend")]
    UnknownBackend,
    /// No backend was named and none is the default.
    #[error("no backend was named and there is no default backend")]
    NoBackend,
    /// The name breaks its store's grammar.
    #[error(transparent)]
    Name(#[from] InvalidName),
    /// The version is empty, too long or has a character no store uses.
    #[error("secret version must be 1 to {MAX_VERSION} letters, digits or _+=.@/-")]
    Version,
    /// The field is empty or has a brace or control character.
    #[error("secret field must be a JSON key or an RFC 6901 pointer without braces")]
    Field,
    /// Query parameters other than one `version`.
    #[error("secret reference takes no parameter but version")]
    Parameter,
}

// === impl InvalidReference ===

impl InvalidReference {
    /// The word in metrics.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::TooLong => "too_long",
            Self::UnknownBackend | Self::NoBackend => "foreign",
            Self::Shape | Self::Name(_) | Self::Version | Self::Field | Self::Parameter => {
                "malformed"
            }
        }
    }
}

/// The parts of a reference before its backend's grammar is known.
pub(super) struct RawReference<'a> {
    pub(super) backend: &'a str,
    pub(super) name: &'a str,
    pub(super) version: SecretVersion,
    pub(super) field: Option<SecretField>,
}

// === impl RawReference ===

impl<'a> RawReference<'a> {
    pub(super) fn parse(text: &'a str) -> Result<Self, InvalidReference> {
        if text.len() > MAX_REFERENCE {
            return Err(InvalidReference::TooLong);
        }
        let rest = text.strip_prefix(SCHEME).ok_or(InvalidReference::Shape)?;
        let (rest, field) = match rest.split_once('#') {
            Some((rest, field)) => (rest, Some(SecretField::parse(field)?)),
            None => (rest, None),
        };
        let (path, version) = match rest.split_once('?') {
            Some((path, query)) => {
                let version = query.strip_prefix("version=").ok_or(InvalidReference::Parameter)?;
                (path, SecretVersion::parse(version)?)
            }
            None => (rest, SecretVersion::Latest),
        };
        let (backend, name) = path.split_once('/').ok_or(InvalidReference::Shape)?;
        Ok(Self { backend, name, version, field })
    }
}

// === impl BackendName ===

impl BackendName {
    /// Parses a backend's configured name; `None` if it is not 1 to 63
    /// lower-case letters, digits or inner hyphens.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let (first, last) = (text.bytes().next()?, text.bytes().last()?);
        let valid = text.len() <= 63
            && inner(first)
            && inner(last)
            && text.bytes().all(|b| inner(b) || b == b'-');
        valid.then(|| Self(text.into()))
    }

    /// The configured text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for BackendName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for BackendName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for BackendName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BackendName({})", self.0)
    }
}

// === impl SecretVersion ===

impl SecretVersion {
    /// Parses a version selector; `latest` is [`SecretVersion::Latest`].
    ///
    /// # Errors
    /// [`InvalidReference::Version`].
    pub fn parse(text: &str) -> Result<Self, InvalidReference> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"_+=.@/-".contains(&b);
        if text.is_empty() || text.len() > MAX_VERSION || !text.bytes().all(allowed) {
            return Err(InvalidReference::Version);
        }
        Ok(if text == "latest" { Self::Latest } else { Self::Selected(text.into()) })
    }

    /// The selector as it stands in a reference.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Latest => "latest",
            Self::Selected(text) => text,
        }
    }
}

// === impl SecretField ===

impl SecretField {
    /// Parses a field selector.
    ///
    /// # Errors
    /// [`InvalidReference::Field`].
    pub fn parse(text: &str) -> Result<Self, InvalidReference> {
        let refused = |c: char| c.is_control() || c == '{' || c == '}';
        if text.is_empty() || text.len() > MAX_REFERENCE || text.contains(refused) {
            return Err(InvalidReference::Field);
        }
        Ok(match text.starts_with('/') {
            true => Self::Pointer(text.into()),
            false => Self::Key(text.into()),
        })
    }

    /// The selector as it stands in a reference.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Key(text) | Self::Pointer(text) => text,
        }
    }
}

// === impl SecretRef ===

impl SecretRef {
    /// The latest version of a whole secret.
    #[must_use]
    pub fn latest(backend: BackendName, name: SecretName) -> Self {
        Self { backend, name, version: SecretVersion::Latest, field: None }
    }
}

impl fmt::Display for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}/{}", self.backend, self.name)?;
        if let SecretVersion::Selected(version) = &self.version {
            write!(f, "?version={version}")?;
        }
        if let Some(field) = &self.field {
            write!(f, "#{}", field.as_str())?;
        }
        Ok(())
    }
}
