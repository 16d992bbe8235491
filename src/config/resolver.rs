//! `cache`, `limits` of the stores, and `failover`.

use std::{
    collections::{BTreeMap, HashMap},
    num::NonZeroU32,
    time::Duration,
};

use schemars::JsonSchema;
use serde::Deserialize;
use serde_saphyr::Spanned;

use super::{
    BackendSettings, ConfigError,
    error::line,
    schema::{self, Between, LongerThanZero},
    value::{Context, Period, Size},
};
use crate::{
    net::serve::ConnectionLimits,
    resolver::{CacheOverride, CacheSettings, Lifetimes, ResolverSettings, Standby},
    secret::BackendName,
    snapshot::Limits,
};

type Backends = [(BackendName, BackendSettings)];

/// How long values are kept.
#[derive(Deserialize, Default, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Cache")]
pub(super) struct CacheFile {
    /// How long a value serves; `60s` by default, `0` asks the store for every read.
    ttl: Option<Period>,
    /// How long it counts that a secret is not there; `5s` by default.
    negative_ttl: Option<Period>,
    /// How much longer a value serves while it is fetched anew; `30s` by default.
    stale_while_revalidate: Option<Period>,
    /// How much longer a value serves while its store cannot answer; `10m` by default.
    stale_if_error: Option<Period>,
    /// Memory for values; `64MiB` by default.
    max_bytes: Option<Size>,
    /// What holds for some secrets instead; the longest match counts.
    #[schemars(with = "Vec<OverrideFile>")]
    overrides: Vec<Spanned<OverrideFile>>,
}

/// Lifetimes of some secrets. What is left out is as for all.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "CacheOverride")]
struct OverrideFile {
    /// A backend, or a backend and the beginning of names, as in `aws-prod/db/`.
    #[schemars(with = "schema::Area")]
    r#match: String,
    /// How long a value serves.
    ttl: Option<Period>,
    /// How long it counts that a secret is not there.
    negative_ttl: Option<Period>,
    /// How much longer a value serves while it is fetched anew.
    stale_while_revalidate: Option<Period>,
    /// How much longer a value serves while its store cannot answer.
    stale_if_error: Option<Period>,
}

/// Bounds on work and memory.
#[derive(Deserialize, Default, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Limits")]
pub(super) struct LimitsFile {
    /// The largest body of a request to the secrets API; `1MiB` by default.
    request_body: Option<Size>,
    /// How long a store may take for one call; `5s` by default.
    #[schemars(with = "Option<LongerThanZero>")]
    backend_timeout: Option<Spanned<Period>>,
    /// Calls to a store at once, 1 to 10000; 64 by default.
    #[schemars(with = "Option<Between<1, 10_000>>")]
    backend_concurrency: Option<Spanned<usize>>,
    /// How often a minute a caller may read past the cache; 30 by default.
    #[schemars(with = "Option<Between<1, { u32::MAX as u64 }>>")]
    refreshes_per_minute: Option<Spanned<u32>>,
    /// Requests to the secrets API that a caller may make in a second, with twice as many at
    /// once; `0`, which is the default, for any number. `/health` does not count.
    per_principal_rps: Option<u32>,
    /// Connections to the REST listener, 1 to 1000000; 4096 by default. Beyond, the one that
    /// has waited longest without a request is closed. Read at start only.
    #[schemars(with = "Option<Between<1, 1_000_000>>")]
    connections: Option<Spanned<usize>>,
    /// How long the head of a request to the REST listener may take; `10s` by default. Read
    /// at start only.
    #[schemars(with = "Option<LongerThanZero>")]
    header_timeout: Option<Spanned<Period>>,
    /// How long a connection to the REST listener may be without a request; `5m` by default.
    /// Read at start only.
    #[schemars(with = "Option<LongerThanZero>")]
    idle_timeout: Option<Spanned<Period>>,
    /// Clients that may watch secrets at once; 1000 by default.
    watches: Option<usize>,
    /// Those of one caller; 100 by default.
    watches_per_principal: Option<usize>,
    /// How often a client that watches hears something at least, `1s` or longer; `15s` by
    /// default. As often its rights are looked at.
    #[schemars(with = "Option<LongerThanZero>")]
    watch_heartbeat: Option<Spanned<Period>>,
}

/// Stores that stand in for another, in order.
#[derive(Deserialize, Default)]
#[serde(transparent)]
pub(super) struct FailoverFile(BTreeMap<String, Spanned<Vec<String>>>);

/// Checks what the three sections say together with the backends.
pub(super) fn check(
    cache: CacheFile,
    limits: &LimitsFile,
    failover: FailoverFile,
    backends: &Backends,
    context: &Context<'_>,
) -> Result<ResolverSettings, ConfigError> {
    let default = ResolverSettings::default();
    let refuse =
        |at, key: &str, message: String| Err(ConfigError::key(context.path, at, key, message));
    let backend_timeout = match &limits.backend_timeout {
        None => default.backend_timeout,
        Some(timeout) if timeout.value.0.is_zero() => {
            return refuse(line(timeout), "limits.backend_timeout", "must be longer than 0".into());
        }
        Some(timeout) => timeout.value.0,
    };
    let backend_concurrency = match &limits.backend_concurrency {
        None => default.backend_concurrency,
        Some(number) if !(1..=10_000).contains(&number.value) => {
            return refuse(
                line(number),
                "limits.backend_concurrency",
                format!("{} is not between 1 and 10000", number.value),
            );
        }
        Some(number) => number.value,
    };
    let refreshes_per_minute = match &limits.refreshes_per_minute {
        None => default.refreshes_per_minute,
        Some(number) => match NonZeroU32::new(number.value) {
            Some(number) => number,
            None => {
                let key = "limits.refreshes_per_minute";
                return refuse(line(number), key, "must be at least 1".into());
            }
        },
    };
    Ok(ResolverSettings {
        cache: cache.check(backends, context)?,
        backend_timeout,
        backend_concurrency,
        refreshes_per_minute,
        failover: failover.check(backends, context)?,
    })
}

// === impl LimitsFile ===

impl LimitsFile {
    /// Bounds on what callers may ask for.
    pub(super) fn bounds(
        &self,
        backend_timeout: Duration,
        context: &Context<'_>,
    ) -> Result<Limits, ConfigError> {
        let default = Limits::default();
        let watch_heartbeat = match &self.watch_heartbeat {
            None => default.watch_heartbeat,
            Some(period) if period.value.0 < Duration::from_secs(1) => {
                let (at, key) = (line(period), "limits.watch_heartbeat");
                return Err(ConfigError::key(context.path, at, key, "must be 1s or longer"));
            }
            Some(period) => period.value.0,
        };
        Ok(Limits {
            request_body: self
                .request_body
                .map_or(default.request_body, |size| usize::try_from(size.0).unwrap_or(usize::MAX)),
            backend_timeout,
            per_principal_rps: self.per_principal_rps.and_then(NonZeroU32::new),
            watches: self.watches.unwrap_or(default.watches),
            watches_per_principal: self
                .watches_per_principal
                .unwrap_or(default.watches_per_principal),
            watch_heartbeat,
        })
    }

    /// Bounds on connections to the REST listener.
    pub(super) fn connections(
        &self,
        context: &Context<'_>,
    ) -> Result<ConnectionLimits, ConfigError> {
        let default = ConnectionLimits::default();
        let refuse = |at, key: &str, message: String| {
            ConfigError::key(context.path, at, format!("limits.{key}"), message)
        };
        let period = |period: &Option<Spanned<Period>>, key, default| match period {
            None => Ok(default),
            Some(period) if period.value.0.is_zero() => {
                Err(refuse(line(period), key, "must be longer than 0".into()))
            }
            Some(period) => Ok(period.value.0),
        };
        let connections = match &self.connections {
            None => default.connections,
            Some(number) if !(1..=1_000_000).contains(&number.value) => {
                let message = format!("{} is not between 1 and 1000000", number.value);
                return Err(refuse(line(number), "connections", message));
            }
            Some(number) => number.value,
        };
        Ok(ConnectionLimits {
            connections,
            header_timeout: period(&self.header_timeout, "header_timeout", default.header_timeout)?,
            idle_timeout: period(&self.idle_timeout, "idle_timeout", default.idle_timeout)?,
            ..default
        })
    }
}

// === impl CacheFile ===

impl CacheFile {
    fn check(
        self,
        backends: &Backends,
        context: &Context<'_>,
    ) -> Result<CacheSettings, ConfigError> {
        let default = CacheSettings::default();
        let or = |period: Option<Period>, other| period.map_or(other, |period| period.0);
        let lifetimes = Lifetimes {
            ttl: or(self.ttl, default.lifetimes.ttl),
            negative_ttl: or(self.negative_ttl, default.lifetimes.negative_ttl),
            stale_while_revalidate: or(
                self.stale_while_revalidate,
                default.lifetimes.stale_while_revalidate,
            ),
            stale_if_error: or(self.stale_if_error, default.lifetimes.stale_if_error),
        };
        let check = |entry: Spanned<OverrideFile>| {
            let (at, entry) = (line(&entry), entry.value);
            let refuse =
                |message| Err(ConfigError::key(context.path, at, "cache.overrides.match", message));
            let (backend, prefix) = entry.r#match.split_once('/').unwrap_or((&entry.r#match, ""));
            let Some((backend, _)) = backends.iter().find(|(name, _)| name.as_str() == backend)
            else {
                return refuse(format!(
                    "{:?} does not begin with one of the backends and a slash",
                    entry.r#match
                ));
            };
            // As in policies: `db` must not mean `dbase` too.
            if !prefix.is_empty() && !prefix.ends_with(['/', '-', '_', '.']) {
                return refuse(format!("prefix {prefix:?} must end in one of / - _ ."));
            }
            Ok(CacheOverride {
                backend: backend.clone(),
                prefix: prefix.to_owned(),
                lifetimes: Lifetimes {
                    ttl: or(entry.ttl, lifetimes.ttl),
                    negative_ttl: or(entry.negative_ttl, lifetimes.negative_ttl),
                    stale_while_revalidate: or(
                        entry.stale_while_revalidate,
                        lifetimes.stale_while_revalidate,
                    ),
                    stale_if_error: or(entry.stale_if_error, lifetimes.stale_if_error),
                },
            })
        };
        Ok(CacheSettings {
            lifetimes,
            overrides: self.overrides.into_iter().map(check).collect::<Result<_, _>>()?,
            max_bytes: self.max_bytes.map_or(default.max_bytes, |size| size.0),
        })
    }
}

// === impl FailoverFile ===

impl FailoverFile {
    fn check(
        self,
        backends: &Backends,
        context: &Context<'_>,
    ) -> Result<HashMap<BackendName, Vec<Standby>>, ConfigError> {
        let find = |name: &str, at, key: &str| {
            let found = backends.iter().find(|(known, _)| known.as_str() == name);
            let (name, settings) = found.ok_or_else(|| {
                let message = format!("{name:?} is not one of the backends");
                ConfigError::key(context.path, at, key, message)
            })?;
            // The caller's namespace is part of the name in one, and not in the other.
            if settings.is_per_namespace() {
                let message = format!("{name} holds secrets of its callers' namespaces");
                return Err(ConfigError::key(context.path, at, key, message));
            }
            Ok((name, settings))
        };
        let mut failover = HashMap::new();
        for (name, standbys) in self.0 {
            let (at, key) = (line(&standbys), format!("failover.{name}"));
            let (primary, _) = find(&name, at, &key)?;
            let mut checked: Vec<Standby> = Vec::new();
            for standby in standbys.value {
                let (backend, settings) = find(&standby, at, &key)?;
                if backend == primary || checked.iter().any(|known| known.backend == *backend) {
                    let message = format!("{standby:?} is there already");
                    return Err(ConfigError::key(context.path, at, &key, message));
                }
                checked.push(Standby { backend: backend.clone(), grammar: settings.grammar() });
            }
            failover.insert(primary.clone(), checked);
        }
        Ok(failover)
    }
}
