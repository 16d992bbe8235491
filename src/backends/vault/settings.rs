//! What is configured of a Vault, and what cannot work.

use std::path::PathBuf;

use super::{VaultBackend, client};
use crate::{
    backends::failure::chain,
    secret::{NameEncoding, SecretValue},
};

/// Where the secrets are and in whose name they are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VaultSettings {
    /// URL of the server; `http` for loopback alone.
    pub address: String,
    /// Namespace of login and mount, for servers that have them.
    pub namespace: Option<String>,
    /// Path of the KV mount, without slashes around it.
    pub mount: String,
    /// Version of the KV mount.
    pub version: KvVersion,
    /// Goes before every name, without a separator of its own.
    pub prefix: String,
    /// Certificates to trust instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// How to get a token.
    pub auth: VaultAuth,
}

/// The two kinds of KV mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvVersion {
    /// Only the current value.
    One,
    /// Numbered versions.
    Two,
}

/// How to get a token. Files are read anew for every login.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VaultAuth {
    /// A token that stands in the configuration; renewed while it can be.
    Token(Credential),
    /// A token that someone else keeps fresh in a file.
    TokenFile(PathBuf),
    /// AppRole.
    AppRole {
        /// Path of the auth mount.
        mount: String,
        /// Names the role.
        role_id: String,
        /// Proves it, unless it is in a file or the role asks for none.
        secret_id: Option<Credential>,
        /// The file that it is in.
        secret_id_file: Option<PathBuf>,
    },
    /// A service account's token, which Vault shows to the cluster.
    Kubernetes {
        /// Path of the auth mount.
        mount: String,
        /// Name of the role.
        role: String,
        /// The service account's token.
        token_file: PathBuf,
    },
    /// A JWT, whose signature Vault checks.
    Jwt {
        /// Path of the auth mount.
        mount: String,
        /// Name of the role.
        role: String,
        /// The JWT.
        token_file: PathBuf,
    },
}

/// A secret that is ours; `Debug` does not show it.
#[derive(Clone, Debug)]
pub struct Credential(SecretValue);

/// Why the client could not be set up.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VaultSetupError {
    /// No address that can be called, or none that should be.
    #[error("address {address:?} {why}")]
    Address {
        /// What was configured.
        address: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Credentials where they would be logged.
    #[error("address must not have a user or password in it")]
    AddressWithCredentials,
    /// Not what a header can say.
    #[error("namespace has characters that no header can have")]
    Namespace,
    /// No path of an engine.
    #[error("{key} {path:?} is no mount path, such as secret or team/kv")]
    Mount {
        /// Which setting.
        key: &'static str,
        /// What was configured.
        path: String,
    },
    /// Names cannot begin so.
    #[error("prefix {0:?} is no beginning of a path")]
    Prefix(String),
    /// A file of certificates that cannot be used.
    #[error("ca_file {path}: {why}", path = .path.display())]
    Authority {
        /// Which file.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// TLS cannot be set up, as where the system has no certificates.
    #[error("the HTTP client cannot be set up: {0}")]
    Client(String),
}

// === impl VaultSettings ===

impl VaultSettings {
    /// Whether a call could succeed with them, as far as can be said without
    /// reading a file or calling anyone.
    ///
    /// # Errors
    /// [`VaultSetupError`] names the first setting that is wrong.
    pub fn check(&self) -> Result<(), VaultSetupError> {
        client::base(&self.address)?;
        let path = |path: &str| VaultBackend::GRAMMAR.canonical(path, NameEncoding::Plain).is_ok();
        let mount = |key, mount: &str| match path(mount) {
            true => Ok(()),
            false => Err(VaultSetupError::Mount { key, path: mount.to_owned() }),
        };
        mount("mount", &self.mount)?;
        match &self.auth {
            VaultAuth::Token(_) | VaultAuth::TokenFile(_) => {}
            VaultAuth::AppRole { mount: at, .. } => mount("auth.app_role.mount", at)?,
            VaultAuth::Kubernetes { mount: at, .. } => mount("auth.kubernetes.mount", at)?,
            VaultAuth::Jwt { mount: at, .. } => mount("auth.jwt.mount", at)?,
        }
        // A dot at its end could become `..` with a name; Vault refuses that.
        let prefix = &self.prefix;
        let begins = prefix.is_empty() || path(&format!("{prefix}x")) && !prefix.ends_with('.');
        if !begins || prefix.len() > VaultBackend::GRAMMAR.max_len / 2 {
            return Err(VaultSetupError::Prefix(prefix.clone()));
        }
        let namespace = self.namespace.as_deref().unwrap_or("x");
        if namespace.is_empty() || http::HeaderValue::from_str(namespace).is_err() {
            return Err(VaultSetupError::Namespace);
        }
        Ok(())
    }
}

// === impl VaultSetupError ===

impl VaultSetupError {
    pub(super) fn client(error: reqwest::Error) -> Self {
        Self::Client(chain(&error).to_string())
    }
}

// === impl Credential ===

impl Credential {
    /// Takes a secret from the configuration.
    #[must_use]
    pub fn new(secret: SecretValue) -> Self {
        Self(secret)
    }

    pub(super) fn value(&self) -> &SecretValue {
        &self.0
    }
}

impl PartialEq for Credential {
    #[expect(clippy::disallowed_methods, reason = "a reload asks whether anything changed")]
    fn eq(&self, other: &Self) -> bool {
        self.0.expose_secret() == other.0.expose_secret()
    }
}

impl Eq for Credential {}
