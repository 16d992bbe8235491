//! Checked settings: from a YAML file, from the environment as vaultmux-server
//! read it, or the built-in development setup.
//!
//! Only `app` and `cli` use this module, and only this module reads the
//! environment. Every error is one line that names file, line and key.

mod audit;
mod backend;
mod environment;
mod error;
mod ext_authz;
mod ext_proc;
mod file;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod identity;
mod listener;
mod resolver;
mod schema;
mod value;
mod webhook;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

pub use self::{
    backend::{BackendSettings, ConfiguredSecret},
    environment::Environment,
    error::ConfigError,
    ext_proc::{ConfiguredMode, ConfiguredModes, ExtProcConfig},
    identity::{GrantConfig, IdentityConfig},
    listener::{Address, ClientCa, ListenerConfig, Listeners, TlsConfig},
    schema::json_schema,
    webhook::WebhookConfig,
};
use crate::{
    audit::AuditSettings,
    identity::{PeerPatterns, TokenSettings},
    injection::{CheckInjection, Injection, Substitutions, Upstreams},
    net::serve::ConnectionLimits,
    operation::SecretRoutes,
    resolver::ResolverSettings,
    secret::{BackendName, Catalog},
    snapshot::Limits,
};

/// How much the surroundings are trusted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum Mode {
    /// Shared by many workloads: default deny, cloud stores only.
    #[default]
    Cluster,
    /// One workload's own: loopback and unix listeners only.
    Sidecar,
    /// On a developer's machine: memory and file backends allowed.
    Development,
}

/// Everything that `serve` needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// The file it came from, to be watched and read again.
    pub path: Option<PathBuf>,
    /// How much the surroundings are trusted.
    pub mode: Mode,
    /// Where to listen.
    pub listeners: Listeners,
    /// Whose identities count.
    pub identity: IdentityConfig,
    /// The stores, by name.
    pub backends: Vec<(BackendName, BackendSettings)>,
    /// Those of them that were found in a directory.
    pub plugins: DiscoveredPlugins,
    /// Names, references and routes of the stores.
    pub catalog: Arc<Catalog>,
    /// How secrets are fetched and for how long they are kept.
    pub resolver: ResolverSettings,
    /// Bounds on work and memory.
    pub limits: Limits,
    /// Bounds on connections to the REST listener.
    pub connections: ConnectionLimits,
    /// Policy files and directories.
    pub policies: Vec<PathBuf>,
    /// Policies that are built in, as YAML; the development sample.
    pub embedded_policies: Option<&'static str>,
    /// Where the mesh sees secret operations.
    pub secret_routes: SecretRoutes,
    /// How `ext_proc` behaves.
    pub ext_proc: ExtProcConfig,
    /// Secrets put into requests without a reference.
    pub injections: Arc<[Injection]>,
    /// Who may tell that secrets have changed, by name.
    pub webhooks: BTreeMap<String, WebhookConfig>,
    /// References that clients send, beyond those in header values.
    pub substitutions: Substitutions,
    /// Toward which clusters secrets may go at all.
    pub upstreams: Upstreams,
    /// What `ext_authz` does about them.
    pub check_injection: CheckInjection,
    /// By which statuses destinations refuse secrets.
    pub suspect_statuses: Arc<[u16]>,
    /// What is logged, and how.
    pub log: LogConfig,
    /// Where decisions are written, if they are.
    pub audit: Option<AuditSettings>,
    /// How long a shutdown waits for requests in flight.
    pub shutdown_grace: Duration,
}

/// What was found in the directory of plugins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiscoveredPlugins {
    /// The directory, if there is to be one.
    pub directory: Option<PathBuf>,
    /// The backends that its sockets are.
    pub names: Vec<BackendName>,
    /// What was left out, a sentence each.
    pub warnings: Vec<String>,
}

/// What is logged, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// JSON for machines, text for people.
    pub format: LogFormat,
    /// A level, or directives as in `info,vaultmux_mesh=debug`.
    pub level: String,
}

/// The form of a log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum LogFormat {
    /// One JSON object a line.
    #[default]
    Json,
    /// For reading.
    Text,
}

/// The development setup: what `serve --dev` runs.
const DEVELOPMENT: &str = include_str!("config/development.yaml");
/// The policies of the development setup.
const DEVELOPMENT_POLICIES: &str = include_str!("config/development-policies.yaml");

impl Default for LogConfig {
    fn default() -> Self {
        Self { format: LogFormat::default(), level: "info".to_owned() }
    }
}

// === impl Config ===

impl Config {
    /// Reads and checks a configuration file. Relative paths in it are relative
    /// to the file.
    ///
    /// # Errors
    /// [`ConfigError`]: the first thing that is wrong, as `file:line: key: why`.
    pub fn load(path: &Path, environment: &Environment) -> Result<Self, ConfigError> {
        Self::load_again(path, environment, &DiscoveredPlugins::default())
    }

    /// As [`Config::load`], for a service that runs: plugins that were in the directory
    /// before and are gone stay backends, which are down. Policies and callers that name
    /// them do not change their meaning because a plugin restarts.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn load_again(
        path: &Path,
        environment: &Environment,
        before: &DiscoveredPlugins,
    ) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| ConfigError::file(path, format!("cannot be read: {error}")))?;
        Self::parse_again(&text, path, environment, before)
    }

    /// Checks the text of a configuration file that lies at `path`.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(text: &str, path: &Path, environment: &Environment) -> Result<Self, ConfigError> {
        Self::parse_again(text, path, environment, &DiscoveredPlugins::default())
    }

    fn parse_again(
        text: &str,
        path: &Path,
        environment: &Environment,
        before: &DiscoveredPlugins,
    ) -> Result<Self, ConfigError> {
        let mut config = file::parse(text, path, environment, before)?;
        config.path = Some(path.to_owned());
        Ok(config)
    }

    /// The built-in development setup: an embedded backend and sample policies.
    #[must_use]
    pub fn development(environment: &Environment) -> Self {
        let none = DiscoveredPlugins::default();
        let mut config = file::parse(DEVELOPMENT, Path::new("(--dev)"), environment, &none)
            .expect("a test loads the embedded configuration");
        config.embedded_policies = Some(DEVELOPMENT_POLICIES);
        config
    }

    /// What is allowed but most likely not meant, a sentence each.
    #[must_use]
    pub fn warnings(&self) -> Vec<&str> {
        let mut warnings: Vec<_> = self.plugins.warnings.iter().map(String::as_str).collect();
        if self.mode == Mode::Cluster && self.policies.is_empty() {
            warnings.push("no policies are configured: every request is denied");
        }
        if self.identity.tokens.as_ref().is_some_and(TokenSettings::names_api_server) {
            warnings.push(
                "identity.service_account_tokens.audiences holds what looks like the API server's \
                 own: tokens that pods have by default would do, and whoever receives one could \
                 use it at the API server; choose one of the service's own, such as vaultmux",
            );
        }
        let grpc = &self.listeners.grpc;
        if !grpc.address.is_local() && grpc.trusted_peers.is_none() {
            let client_ca = grpc.tls.as_ref().and_then(|tls| tls.client_ca.as_ref());
            warnings.push(match client_ca {
                Some(ClientCa { required: true, .. }) => {
                    "listeners.grpc is open beyond this machine without trusted_peers: every \
                     workload with a certificate of tls.client_ca_file can claim any identity; \
                     set trusted_peers to the proxies' own"
                }
                _ => {
                    "listeners.grpc is open beyond this machine without client certificates or \
                     trusted_peers: whoever reaches it can claim any identity; set both, or use \
                     a unix socket"
                }
            });
        }
        if !grpc.address.is_local()
            && grpc.tls.as_ref().is_none_or(|tls| tls.client_ca.is_none())
            && grpc.trusted_peers.as_ref().is_some_and(PeerPatterns::name_networks)
        {
            warnings.push(
                "listeners.grpc.trusted_peers trusts addresses alone: whoever has one of them can \
                 claim any identity; client certificates (tls.client_ca_file) tell proxies from \
                 workloads",
            );
        }
        warnings
    }
}

#[cfg(test)]
mod tests;
