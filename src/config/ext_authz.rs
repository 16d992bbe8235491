//! What `ext_authz` does beside deciding: secrets in requests that it lets pass.

use schemars::JsonSchema;
use serde::Deserialize;
use serde_saphyr::Spanned;

use super::{
    error::{ConfigError, line},
    schema,
    value::Context,
};
use crate::{
    identity::PeerPatterns,
    injection::{CheckInjection, StatedDestination},
    json_schema::shape::NonEmpty,
};

/// What `ext_authz` does beside deciding.
#[derive(Deserialize, Default, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "ExtAuthz")]
pub(super) struct ExtAuthzFile {
    /// Whether its answer puts secrets into headers of requests that it lets pass, by the rules
    /// of `ext_proc.injections` and by references that clients send; false by default. A
    /// secret goes only where a route says that it leads, or `destinations` below.
    inject: Option<bool>,
    /// Whether secrets that `ext_proc` will need for a request are fetched while it is decided;
    /// true by default.
    prefetch: Option<bool>,
    /// Where requests go, for proxies whose routes cannot say it. Trust only proxies that send
    /// these hosts nowhere else.
    #[schemars(with = "Vec<DestinationFile>")]
    destinations: Vec<Spanned<DestinationFile>>,
}

/// Certain proxies send certain hosts to one destination. Needs `cluster`, `route` or both.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(
    rename = "StatedDestination",
    extend("anyOf" = schema::any_of(&["cluster", "route"]))
)]
struct DestinationFile {
    /// SPIFFE IDs of the proxies; the service account may be `*`.
    #[schemars(with = "NonEmpty<schema::ProxyId>")]
    proxies: Vec<String>,
    /// Hosts as clients send them, with a port if they send one.
    #[schemars(with = "NonEmpty<schema::Authority>")]
    hosts: Vec<String>,
    /// The cluster that these requests are routed to, as policies name it.
    #[schemars(with = "Option<schema::SomeText>")]
    cluster: Option<String>,
    /// The route that they take, as policies name it.
    #[schemars(with = "Option<schema::SomeText>")]
    route: Option<String>,
}

// === impl ExtAuthzFile ===

impl ExtAuthzFile {
    pub(super) fn check(self, context: &Context<'_>) -> Result<CheckInjection, ConfigError> {
        let stated = self.destinations.into_iter().map(|file| {
            let at = line(&file);
            let refuse =
                |message| ConfigError::key(context.path, at, "ext_authz.destinations", message);
            file.value.check().map_err(refuse)
        });
        let default = CheckInjection::default();
        Ok(CheckInjection {
            inject: self.inject.unwrap_or(default.inject),
            prefetch: self.prefetch.unwrap_or(default.prefetch),
            destinations: stated.collect::<Result<_, _>>()?,
        })
    }
}

impl DestinationFile {
    fn check(self) -> Result<StatedDestination, String> {
        let proxies =
            PeerPatterns::parse(&self.proxies).map_err(|why| format!("proxies: {why}"))?;
        if proxies.is_empty() || proxies.name_networks() || proxies.name_unix() {
            return Err("proxies needs SPIFFE IDs, and nothing else: an address is no proof of \
                        how a proxy routes"
                .into());
        }
        if self.hosts.is_empty() {
            return Err("hosts needs at least one".into());
        }
        if let Some(host) = self.hosts.iter().find(|host| !StatedDestination::is_authority(host)) {
            return Err(format!(
                "hosts: {host:?} is not a host name in lower case, with or without \
                                a port"
            ));
        }
        if self.cluster.is_none() && self.route.is_none() {
            return Err("needs cluster or route: nothing else binds a secret".into());
        }
        let mut names = self.cluster.iter().chain(&self.route);
        if names.any(|name| name.is_empty() || name.contains(char::is_control)) {
            return Err("cluster and route are names, if given".into());
        }
        let Self { hosts, cluster, route, .. } = self;
        Ok(StatedDestination { proxies, hosts, cluster, route })
    }
}
