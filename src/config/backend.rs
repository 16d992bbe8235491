//! The stores, by type.

#[cfg(feature = "aws")]
mod aws;
#[cfg(feature = "azure")]
mod azure;
#[cfg(feature = "gcp")]
mod gcp;
#[cfg(feature = "kubernetes")]
mod kubernetes;
#[cfg(feature = "plugin")]
mod plugin;
#[cfg(feature = "vault")]
mod vault;

use std::{collections::BTreeMap, fmt, path::PathBuf};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer,
    de::{self, Visitor},
};

#[cfg(feature = "plugin")]
pub(super) use self::plugin::PluginsFile;
use super::{Mode, schema::by_type, value::Context};
use crate::secret::{NameEncoding, NameGrammar, SecretName, SecretValue};

/// What is needed to open a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackendSettings {
    /// Secrets in this process; development only.
    Memory {
        /// What it holds at start.
        secrets: Vec<(SecretName, ConfiguredSecret)>,
    },
    /// One file per secret; development only.
    File {
        /// The directory.
        path: PathBuf,
    },
    /// AWS Secrets Manager.
    #[cfg(feature = "aws")]
    Aws(crate::backends::aws::AwsSettings),
    /// Azure Key Vault.
    #[cfg(feature = "azure")]
    Azure(crate::backends::azure::AzureSettings),
    /// GCP Secret Manager.
    #[cfg(feature = "gcp")]
    Gcp(crate::backends::gcp::GcpSettings),
    /// Secrets of a Kubernetes cluster.
    #[cfg(feature = "kubernetes")]
    Kubernetes(crate::backends::kubernetes::KubernetesSettings),
    /// A plugin behind a unix socket.
    #[cfg(feature = "plugin")]
    Plugin(crate::backends::plugin::PluginSettings),
    /// HashiCorp Vault or OpenBao.
    #[cfg(feature = "vault")]
    Vault(crate::backends::vault::VaultSettings),
}

/// A secret that stands in the configuration, for development.
#[derive(Clone, Debug)]
pub struct ConfiguredSecret(SecretValue);

/// A store, and how it is reached. Which keys there are depends on its `type`.
#[derive(Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
#[schemars(rename = "Backend", transform = by_type)]
pub(super) enum BackendFile {
    /// Secrets in the service's memory; in development mode only.
    Memory {
        /// What it holds at start: values by name.
        #[serde(default)]
        secrets: BTreeMap<String, ConfiguredSecret>,
    },
    /// A file for each secret; in development mode only.
    File {
        /// The directory.
        path: PathBuf,
    },
    /// AWS Secrets Manager.
    #[cfg(feature = "aws")]
    AwsSecretsManager(aws::AwsFile),
    /// Azure Key Vault.
    #[cfg(feature = "azure")]
    AzureKeyVault(azure::AzureFile),
    /// GCP Secret Manager.
    #[cfg(feature = "gcp")]
    GcpSecretManager(gcp::GcpFile),
    /// Secrets of a Kubernetes cluster.
    #[cfg(feature = "kubernetes")]
    KubernetesSecrets(kubernetes::KubernetesFile),
    /// A store in another process, behind a unix socket.
    #[cfg(feature = "plugin")]
    Plugin(plugin::PluginFile),
    /// HashiCorp Vault or OpenBao, KV version 1 or 2.
    #[cfg(feature = "vault")]
    VaultKv(vault::VaultFile),
}

// === impl BackendFile ===

impl BackendFile {
    pub(super) fn check(
        self,
        mode: Mode,
        context: &Context<'_>,
    ) -> Result<BackendSettings, String> {
        let development_only = |kind: &str| match mode {
            Mode::Development => Ok(()),
            Mode::Cluster | Mode::Sidecar => Err(format!(
                "a {kind} backend keeps secrets outside any store and is refused outside \
                 `mode: development`"
            )),
        };
        match self {
            Self::Memory { secrets } => {
                development_only("memory")?;
                let canonical = |(name, value): (String, ConfiguredSecret)| {
                    crate::backends::memory::MemoryBackend::GRAMMAR
                        .canonical(&name, NameEncoding::Plain)
                        .map(|name| (name, value))
                        .map_err(|error| format!("secrets.{name}: {error}"))
                };
                let secrets = secrets.into_iter().map(canonical).collect::<Result<_, _>>()?;
                Ok(BackendSettings::Memory { secrets })
            }
            Self::File { path } => {
                development_only("file")?;
                Ok(BackendSettings::File { path: context.resolve(&path) })
            }
            #[cfg(feature = "aws")]
            Self::AwsSecretsManager(file) => Ok(BackendSettings::Aws(file.check(mode)?)),
            #[cfg(feature = "azure")]
            Self::AzureKeyVault(file) => Ok(BackendSettings::Azure(file.check(mode, context)?)),
            #[cfg(feature = "gcp")]
            Self::GcpSecretManager(file) => Ok(BackendSettings::Gcp(file.check(context)?)),
            #[cfg(feature = "kubernetes")]
            Self::KubernetesSecrets(file) => Ok(BackendSettings::Kubernetes(file.check(context)?)),
            #[cfg(feature = "plugin")]
            Self::Plugin(file) => Ok(BackendSettings::Plugin(file.check(context)?)),
            #[cfg(feature = "vault")]
            Self::VaultKv(file) => Ok(BackendSettings::Vault(file.check(context)?)),
        }
    }
}

/// Whether a URL is plain HTTP to another host: a proxy beside us may well do TLS.
#[cfg(any(feature = "aws", feature = "gcp"))]
fn is_in_the_clear(url: &str) -> bool {
    let Ok(url) = url.parse::<http::Uri>() else { return true };
    url.scheme_str() != Some("https") && !url.host().is_some_and(crate::backends::is_loopback)
}

/// Refuses what is not an http or https URL with a host.
#[cfg(any(feature = "aws", feature = "gcp"))]
fn http_url(key: &str, text: &str) -> Result<(), String> {
    let valid = text.parse::<http::Uri>().is_ok_and(|url| {
        url.host().is_some() && matches!(url.scheme_str(), Some("http" | "https"))
    });
    if valid { Ok(()) } else { Err(format!("{key} {text:?} is not an http(s) URL")) }
}

// === impl BackendSettings ===

impl BackendSettings {
    /// Names that the store accepts, with room left for its prefix.
    #[must_use]
    pub fn grammar(&self) -> NameGrammar {
        match self {
            Self::Memory { .. } => crate::backends::memory::MemoryBackend::GRAMMAR,
            Self::File { .. } => crate::backends::file::FileBackend::GRAMMAR,
            #[cfg(feature = "aws")]
            Self::Aws(settings) => {
                crate::backends::aws::AwsBackend::GRAMMAR.with_prefix_len(settings.prefix.len())
            }
            #[cfg(feature = "azure")]
            Self::Azure(settings) => {
                crate::backends::azure::AzureBackend::GRAMMAR.with_prefix_len(settings.prefix.len())
            }
            #[cfg(feature = "gcp")]
            Self::Gcp(settings) => {
                crate::backends::gcp::GcpBackend::GRAMMAR.with_prefix_len(settings.prefix.len())
            }
            #[cfg(feature = "kubernetes")]
            Self::Kubernetes(_) => crate::backends::kubernetes::KubernetesBackend::GRAMMAR,
            #[cfg(feature = "plugin")]
            Self::Plugin(settings) => crate::backends::plugin::PluginBackend::GRAMMAR
                .with_prefix_len(settings.prefix.len()),
            #[cfg(feature = "vault")]
            Self::Vault(settings) => {
                crate::backends::vault::VaultBackend::GRAMMAR.with_prefix_len(settings.prefix.len())
            }
        }
    }

    /// Whether callers see the secrets of their own namespace only.
    #[must_use]
    pub fn is_per_namespace(&self) -> bool {
        match self {
            Self::Memory { .. } | Self::File { .. } => false,
            #[cfg(feature = "aws")]
            Self::Aws(_) => false,
            #[cfg(feature = "azure")]
            Self::Azure(_) => false,
            #[cfg(feature = "gcp")]
            Self::Gcp(_) => false,
            #[cfg(feature = "kubernetes")]
            Self::Kubernetes(settings) => {
                settings.namespace == crate::backends::kubernetes::NamespaceScope::OfCaller
            }
            #[cfg(feature = "plugin")]
            Self::Plugin(_) => false,
            #[cfg(feature = "vault")]
            Self::Vault(_) => false,
        }
    }

    /// What all names begin with in the store, and not here.
    #[must_use]
    pub fn prefix(&self) -> &str {
        match self {
            Self::Memory { .. } | Self::File { .. } => "",
            #[cfg(feature = "aws")]
            Self::Aws(settings) => &settings.prefix,
            #[cfg(feature = "azure")]
            Self::Azure(settings) => &settings.prefix,
            #[cfg(feature = "gcp")]
            Self::Gcp(settings) => &settings.prefix,
            #[cfg(feature = "kubernetes")]
            Self::Kubernetes(_) => "",
            #[cfg(feature = "plugin")]
            Self::Plugin(_) => "",
            #[cfg(feature = "vault")]
            Self::Vault(settings) => &settings.prefix,
        }
    }

    /// The word for its kind in the configuration.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Memory { .. } => "memory",
            Self::File { .. } => "file",
            #[cfg(feature = "aws")]
            Self::Aws(_) => "aws_secrets_manager",
            #[cfg(feature = "azure")]
            Self::Azure(_) => "azure_key_vault",
            #[cfg(feature = "gcp")]
            Self::Gcp(_) => "gcp_secret_manager",
            #[cfg(feature = "kubernetes")]
            Self::Kubernetes(_) => "kubernetes_secrets",
            #[cfg(feature = "plugin")]
            Self::Plugin(_) => "plugin",
            #[cfg(feature = "vault")]
            Self::Vault(_) => "vault_kv",
        }
    }
}

// === impl ConfiguredSecret ===

impl ConfiguredSecret {
    /// The value.
    #[must_use]
    pub fn value(&self) -> &SecretValue {
        &self.0
    }
}

impl<'de> Deserialize<'de> for ConfiguredSecret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextOnly)
    }
}

impl JsonSchema for ConfiguredSecret {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "ConfiguredSecret".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string"})
    }
}

/// YAML takes `yes` and `0123` for something else than text. The usual error for
/// that quotes the value; this one does not.
struct TextOnly;

impl Visitor<'_> for TextOnly {
    type Value = ConfiguredSecret;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a secret as text")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<ConfiguredSecret, E> {
        Ok(ConfiguredSecret(SecretValue::new(text)))
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<ConfiguredSecret, E> {
        Err(not_text())
    }

    fn visit_i64<E: de::Error>(self, _: i64) -> Result<ConfiguredSecret, E> {
        Err(not_text())
    }

    fn visit_u64<E: de::Error>(self, _: u64) -> Result<ConfiguredSecret, E> {
        Err(not_text())
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<ConfiguredSecret, E> {
        Err(not_text())
    }
}

fn not_text<E: de::Error>() -> E {
    E::custom("a secret must be text: put it in quotes")
}

impl PartialEq for ConfiguredSecret {
    #[expect(clippy::disallowed_methods, reason = "a reload asks whether anything changed")]
    fn eq(&self, other: &Self) -> bool {
        self.0.expose_secret() == other.0.expose_secret()
    }
}

impl Eq for ConfiguredSecret {}

impl fmt::Display for BackendSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind())
    }
}
