//! The YAML file: its shape, and the checks that need more than one key.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use schemars::JsonSchema;
use serde::Deserialize;
use serde_saphyr::Spanned;
use tracing_subscriber::EnvFilter;

use super::{
    Config, DiscoveredPlugins, Environment, LogConfig, LogFormat, Mode,
    audit::AuditFile,
    backend::BackendFile,
    error::{ConfigError, line},
    ext_authz::ExtAuthzFile,
    ext_proc::ExtProcFile,
    identity::IdentityFile,
    listener::ListenersFile,
    resolver::{self, CacheFile, FailoverFile, LimitsFile},
    schema::{self, BackendName as NameText, RouteHost, RoutePrefix, SomeText, by_mode},
    value::{Context, Period},
    webhook::{self, WebhookFile},
};
use crate::{
    json_schema::shape::{ByName, List},
    operation::{SecretRoute, SecretRoutes},
    secret::{BackendName, Catalog, CatalogEntry, NameRoute},
};

/// A configuration is written by people; a megabyte of it is a mistake.
const MAX_FILE: usize = 1 << 20;

/// # Configuration of vaultmux-mesh
/// What `serve` and the other commands take as `--config`. Relative paths are relative to the
/// file. Plain values may hold `${VARIABLE}` or `${VARIABLE:-default}`.
#[derive(Deserialize, Default, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("allOf" = by_mode()))]
pub(super) struct File {
    /// How much the surroundings are trusted; `cluster` by default. Read at start only.
    mode: Mode,
    /// Where to listen. Addresses are read at start only.
    listeners: ListenersFile,
    /// Whose identities count, and how they are proven.
    identity: IdentityFile,
    /// The stores, by name. Policies, routes and references call them by it.
    #[schemars(with = "ByName<NameText, BackendFile>")]
    backends: BTreeMap<String, Spanned<BackendFile>>,
    /// A directory of sockets, each of which is a backend.
    #[cfg(feature = "plugin")]
    #[schemars(with = "Option<super::backend::PluginsFile>")]
    plugins: Option<Spanned<super::backend::PluginsFile>>,
    /// The backend of names that none is given for. The only one, if there is one alone.
    #[schemars(with = "Option<NameText>")]
    default_backend: Option<Spanned<String>>,
    /// Backends of names that begin in a certain way; the longest prefix counts.
    #[schemars(with = "Option<Vec<RouteFile>>")]
    routes: Option<Spanned<Vec<RouteFile>>>,
    /// How long values are kept.
    cache: CacheFile,
    /// Bounds on work and memory.
    limits: LimitsFile,
    /// Backends that answer reads in order while the one that is named cannot.
    #[schemars(with = "ByName<NameText, std::collections::BTreeSet<NameText>>")]
    failover: FailoverFile,
    /// Policy files, and directories of `*.yaml` and `*.yml` files. Watched. Without any,
    /// everything is denied (in sidecar mode: left to the pod's cloud identity).
    policies: Vec<PathBuf>,
    /// Requests in the mesh that are secret operations. None by default.
    #[schemars(with = "Option<Vec<SecretRouteFile>>")]
    secret_routes: Option<Vec<Spanned<SecretRouteFile>>>,
    /// What `ext_authz` does beside deciding.
    ext_authz: ExtAuthzFile,
    /// How `ext_proc` behaves, and what it injects.
    ext_proc: ExtProcFile,
    /// Senders that tell when a secret has changed, by the name in their path:
    /// `/webhooks/<name>`. None by default.
    #[schemars(with = "ByName<NameText, WebhookFile>")]
    webhooks: BTreeMap<String, Spanned<WebhookFile>>,
    /// What is told about the service's work.
    telemetry: TelemetryFile,
    /// A stream of all decisions. None by default.
    audit: Option<AuditFile>,
    /// How the service ends.
    shutdown: ShutdownFile,
}

/// Names that begin with `prefix` are in `backend`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Route")]
struct RouteFile {
    /// The beginning of the names, with its separator at the end.
    #[schemars(with = "schema::NamePrefix")]
    prefix: String,
    /// The backend that has them.
    #[schemars(with = "NameText")]
    backend: String,
}

/// Requests to any of the hosts, below the prefix.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "SecretRoute")]
struct SecretRouteFile {
    /// Hosts of the requests. The caller chooses the host: list exact ones.
    #[schemars(with = "List<RouteHost>")]
    hosts: Vec<String>,
    /// The beginning of their paths, such as `/v1/secrets`.
    #[schemars(with = "RoutePrefix")]
    prefix: String,
}

/// What is told about the service's work.
#[derive(Deserialize, Default, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Telemetry")]
struct TelemetryFile {
    /// The log, on standard error.
    log: LogFile,
}

/// The log.
#[derive(Deserialize, Default, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Log")]
struct LogFile {
    /// The form of a line; `json` by default.
    format: LogFormat,
    /// A level, or directives such as `info,vaultmux_mesh=debug`; `info` by default.
    #[schemars(with = "Option<SomeText>")]
    level: Option<Spanned<String>>,
}

/// How the service ends.
#[derive(Deserialize, Default, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Shutdown")]
struct ShutdownFile {
    /// How long requests in flight are waited for; `25s` by default.
    grace: Option<Period>,
}

pub(super) fn parse(
    text: &str,
    path: &Path,
    environment: &Environment,
    plugins: &DiscoveredPlugins,
) -> Result<Config, ConfigError> {
    if text.len() > MAX_FILE {
        return Err(ConfigError::file(path, "is larger than 1 MiB"));
    }
    let options = serde_saphyr::options! {}.with_properties(environment.variables().clone());
    let mut key = String::new();
    let read = serde_saphyr::with_deserializer_from_str_with_options(text, options, |yaml| {
        serde_path_to_error::deserialize(yaml).map_err(|error| {
            key = error.path().to_string();
            error.into_inner()
        })
    });
    let file: File = read.map_err(|error| ConfigError::yaml(path, key, &error))?;
    file.check(&Context { path, environment, plugins })
}

// === impl File ===

impl File {
    fn check(self, context: &Context<'_>) -> Result<Config, ConfigError> {
        let path = context.path;
        let mode = self.mode;
        let listeners = self.listeners.check(mode, context)?;
        let identity = self.identity.check(mode, context)?;

        let mut backends = Vec::new();
        for (name, entry) in self.backends {
            let at = line(&entry);
            let key = format!("backends.{name}");
            let refuse = |message: String| ConfigError::key(path, at, &key, message);
            let name = BackendName::parse(&name).ok_or_else(|| {
                refuse("a backend's name is 1 to 63 lower-case letters, digits or hyphens".into())
            })?;
            backends.push((name, entry.value.check(mode, context).map_err(refuse)?));
        }
        // Plugins that are found do not count here: they come and go, and which backend
        // is the default must not.
        let only = (backends.len() == 1).then(|| backends[0].0.to_string());
        #[cfg(feature = "plugin")]
        let plugins = match self.plugins {
            Some(plugins) => {
                let at = line(&plugins);
                let found = plugins.value.discover(&mut backends, context);
                found.map_err(|error| ConfigError::key(path, at, "plugins", error))?
            }
            None => DiscoveredPlugins::default(),
        };
        #[cfg(not(feature = "plugin"))]
        let plugins = DiscoveredPlugins::default();
        if backends.is_empty() && plugins.directory.is_none() {
            return Err(ConfigError::key(path, None, "backends", "at least one is needed"));
        }

        let catalog = {
            let entries = backends
                .iter()
                .map(|(name, settings)| {
                    (name.clone(), CatalogEntry { grammar: settings.grammar() })
                })
                .collect();
            // The only backend is the default one without saying so.
            let (default, at) = match &self.default_backend {
                Some(name) => (Some(name.value.clone()), line(name)),
                None => (only, None),
            };
            let known = |name: &str, key: &str, at| {
                BackendName::parse(name).ok_or_else(|| {
                    ConfigError::key(path, at, key, format!("{name:?} is not one of the backends"))
                })
            };
            let default = default.map(|name| known(&name, "default_backend", at)).transpose()?;
            let at_routes = self.routes.as_ref().and_then(line);
            let routes = self.routes.map(|routes| routes.value).unwrap_or_default();
            let routes = routes.into_iter().map(|route| {
                let backend = known(&route.backend, "routes", at_routes)?;
                Ok(NameRoute { prefix: route.prefix, backend })
            });
            let routes = routes.collect::<Result<_, ConfigError>>()?;
            Catalog::new(entries, default, routes).map_err(|error| {
                let key = if at.is_some() { "default_backend" } else { "routes" };
                ConfigError::key(path, at.or(at_routes), key, error)
            })?
        };

        let secret_routes = match self.secret_routes {
            // None by default: the caller chooses the Host header, so which hosts mean
            // the secrets API is for the operator to say.
            None => SecretRoutes::default(),
            Some(routes) => {
                let check = |route: Spanned<SecretRouteFile>| {
                    SecretRoute::new(&route.value.hosts, &route.value.prefix).map_err(|error| {
                        ConfigError::key(path, line(&route), "secret_routes", error)
                    })
                };
                SecretRoutes::new(routes.into_iter().map(check).collect::<Result<_, _>>()?)
            }
        };
        let resolver =
            resolver::check(self.cache, &self.limits, self.failover, &backends, context)?;
        let limits = self.limits.bounds(resolver.backend_timeout, context)?;
        let connections = self.limits.connections(context)?;
        let check_injection = self.ext_authz.check(context)?;
        let rules = self.ext_proc.check(&catalog, context)?;

        let webhooks = webhook::check(self.webhooks, &backends, context)?;

        Ok(Config {
            path: None,
            mode,
            listeners,
            identity,
            backends,
            plugins,
            catalog: Arc::new(catalog),
            resolver,
            limits,
            connections,
            policies: self.policies.iter().map(|path| context.resolve(path)).collect(),
            embedded_policies: None,
            secret_routes,
            ext_proc: rules.config,
            injections: rules.injections,
            substitutions: rules.substitutions,
            upstreams: rules.upstreams,
            suspect_statuses: rules.suspect_statuses,
            webhooks,
            check_injection,
            log: self.telemetry.log.check(context)?,
            audit: self.audit.map(|audit| audit.check(context)).transpose()?,
            shutdown_grace: self.shutdown.grace.map_or(Duration::from_secs(25), |grace| grace.0),
        })
    }
}

impl LogFile {
    fn check(self, context: &Context<'_>) -> Result<LogConfig, ConfigError> {
        let level = match self.level {
            None => LogConfig::default().level,
            Some(level) if EnvFilter::try_new(&level.value).is_err() => {
                let message = "is neither a level nor a list of directives";
                let message = format!("{:?} {message}", level.value);
                let (at, key) = (line(&level), "telemetry.log.level");
                return Err(ConfigError::key(context.path, at, key, message));
            }
            Some(level) => level.value,
        };
        Ok(LogConfig { format: self.format, level })
    }
}
