//! Whose identities count, who local callers are, and how grants are sealed.

mod tokens;

use std::{path::PathBuf, time::Duration};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_saphyr::Spanned;

use self::tokens::TokensFile;
use super::{
    Mode,
    error::{ConfigError, line},
    schema,
    value::{Context, Period},
};
use crate::{
    identity::{
        ForwardedClientCert, ForwardedPosition, PeerPatterns, ServiceAccount, SpiffeId,
        TokenSettings, TrustDomain,
    },
    json_schema::shape::NonEmpty,
};

/// Where Kubernetes mounts a pod's own token by default.
const POD_TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

/// Whose identities count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityConfig {
    /// Trust domains; no alias is implied.
    pub trust_domains: Vec<TrustDomain>,
    /// Who loopback and unix callers are; sidecar and development mode only.
    pub local: Option<SpiffeId>,
    /// Whose `x-forwarded-client-cert` is believed.
    pub forwarded: Option<ForwardedClientCert>,
    /// Whether the proxies that ask are sidecars, whose certificates are their workloads'.
    pub proxies_are_workloads: bool,
    /// How service accounts' tokens are verified; they prove nothing without.
    pub tokens: Option<TokenSettings>,
    /// How grants are sealed.
    pub grant: GrantConfig,
}

/// How grants are sealed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrantConfig {
    /// Keys shared among replicas; without, a random key of this process.
    pub key_file: Option<PathBuf>,
    /// How long a grant is good.
    pub ttl: Duration,
}

/// Whose identities count, and how they are proven.
#[derive(Deserialize, Default, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Identity")]
pub(super) struct IdentityFile {
    /// Trust domains whose identities count; `[cluster.local]` by default. An explicit list:
    /// no alias is implied.
    #[schemars(with = "Option<NonEmpty<schema::TrustDomain>>")]
    trust_domains: Option<Spanned<Vec<String>>>,
    /// Who loopback and unix callers are; in sidecar and development mode only. In a sidecar by
    /// default the pod's own service account.
    #[schemars(with = "Option<LocalFile>")]
    local: Option<Spanned<LocalFile>>,
    /// Whose `x-forwarded-client-cert` is believed. Nobody's by default.
    #[schemars(with = "Option<ForwardedFile>")]
    forwarded_client_cert: Option<Spanned<ForwardedFile>>,
    /// Whether the proxies that ask are sidecars, whose certificates are their workloads';
    /// false by default.
    #[serde(default)]
    proxies_are_workloads: bool,
    /// How service accounts' tokens are verified. Without, tokens prove nothing.
    service_account_tokens: Option<TokensFile>,
    /// How grants are sealed: what `ext_authz` proves to `ext_proc` and REST.
    grant: GrantFile,
}

/// Whose `x-forwarded-client-cert` is believed, and which part of it.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "ForwardedClientCert")]
struct ForwardedFile {
    /// Proxies that drop what they were sent or append to it, and never pass it on: SPIFFE
    /// IDs, networks, or `unix`.
    #[schemars(with = "NonEmpty<schema::Peer>")]
    trusted_proxies: Vec<String>,
    /// Which element counts; `last` by default.
    #[schemars(with = "Option<schema::Position>")]
    position: Option<String>,
}

/// Who local callers are.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Local")]
struct LocalFile {
    /// Their namespace.
    #[schemars(with = "schema::Namespace")]
    namespace: String,
    /// The name of their service account.
    #[schemars(with = "schema::AccountName")]
    service_account: String,
}

/// How grants are sealed.
#[derive(Deserialize, Default, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Grant")]
struct GrantFile {
    /// Keys that replicas share. Without, a random key of the process.
    key_file: Option<PathBuf>,
    /// How long a grant is good, from `1s` to `5m`; `30s` by default.
    #[schemars(with = "Option<schema::LongerThanZero>")]
    ttl: Option<Spanned<Period>>,
}

// === impl IdentityFile ===

impl IdentityFile {
    pub(super) fn check(
        self,
        mode: Mode,
        context: &Context<'_>,
    ) -> Result<IdentityConfig, ConfigError> {
        let trust_domains = match self.trust_domains {
            None => vec![TrustDomain::parse("cluster.local").expect("constant is valid")],
            Some(names) => {
                let refuse = |message: String| {
                    let key = "identity.trust_domains";
                    ConfigError::key(context.path, line(&names), key, message)
                };
                if names.value.is_empty() {
                    return Err(refuse("at least one trust domain is needed".to_owned()));
                }
                let parse = |name: &String| {
                    TrustDomain::parse(name)
                        .map_err(|_| refuse(format!("{name:?} is not a trust domain")))
                };
                names.value.iter().map(parse).collect::<Result<_, _>>()?
            }
        };
        let local = match (self.local, mode) {
            (Some(local), Mode::Cluster) => {
                let message = "only sidecar and development mode have local callers";
                return Err(ConfigError::key(
                    context.path,
                    line(&local),
                    "identity.local",
                    message,
                ));
            }
            (Some(local), Mode::Sidecar | Mode::Development) => {
                let account =
                    ServiceAccount::new(&local.value.namespace, &local.value.service_account);
                Some(account.map_err(|_| {
                    let message = "namespace and service_account must be Kubernetes names";
                    ConfigError::key(context.path, line(&local), "identity.local", message)
                })?)
            }
            (None, Mode::Sidecar) => Some(pods_own_account().ok_or_else(|| {
                let message = format!(
                    "is needed, because there is no service account token at {POD_TOKEN} to \
                     tell who this pod is"
                );
                ConfigError::key(context.path, None, "identity.local", message)
            })?),
            (None, Mode::Cluster | Mode::Development) => None,
        };
        let local = local.map(|service_account| SpiffeId {
            trust_domain: trust_domains[0].clone(),
            service_account,
        });
        let ttl = match self.grant.ttl {
            None => Duration::from_secs(30),
            // A grant outlives the deletion of its pod by this much.
            Some(ttl)
                if ttl.value.0 < Duration::from_secs(1)
                    || ttl.value.0 > Duration::from_secs(300) =>
            {
                let message = "must be from 1s to 5m";
                return Err(ConfigError::key(
                    context.path,
                    line(&ttl),
                    "identity.grant.ttl",
                    message,
                ));
            }
            Some(ttl) => ttl.value.0,
        };
        let key_file = self.grant.key_file.map(|path| context.resolve(&path));
        let forwarded = self.forwarded_client_cert.map(|file| {
            let at = line(&file);
            let refuse = |key: &str, why: String| {
                let key = format!("identity.forwarded_client_cert.{key}");
                ConfigError::key(context.path, at, key, why)
            };
            file.value.check().map_err(|(key, why)| refuse(key, why))
        });
        let tokens = self.service_account_tokens.map(|tokens| tokens.check(context));
        Ok(IdentityConfig {
            trust_domains,
            local,
            forwarded: forwarded.transpose()?,
            proxies_are_workloads: self.proxies_are_workloads,
            tokens: tokens.transpose()?,
            grant: GrantConfig { key_file, ttl },
        })
    }
}

impl ForwardedFile {
    fn check(self) -> Result<ForwardedClientCert, (&'static str, String)> {
        if self.trusted_proxies.is_empty() {
            return Err(("trusted_proxies", "an empty list would believe nobody".to_owned()));
        }
        let trusted_proxies =
            PeerPatterns::parse(&self.trusted_proxies).map_err(|why| ("trusted_proxies", why))?;
        let position = match self.position {
            None => ForwardedPosition::Last,
            Some(text) => ForwardedPosition::parse(&text).ok_or_else(|| {
                let known = ForwardedPosition::ALL.map(ForwardedPosition::as_str).join(", ");
                ("position", format!("{text:?} is not one of {known}"))
            })?,
        };
        if position == ForwardedPosition::BeforeLast && !trusted_proxies.name_certificates() {
            let why = "before_last needs the SPIFFE ID of the proxy before in trusted_proxies";
            return Err(("position", why.to_owned()));
        }
        Ok(ForwardedClientCert { trusted_proxies, position })
    }
}

/// The service account in the pod's own projected token. The token is read from
/// our own file system and says who we are, not who a caller is: its signature
/// is the API server's business.
pub(super) fn pods_own_account() -> Option<ServiceAccount> {
    #[derive(Deserialize)]
    struct Claims {
        sub: String,
    }
    let token = std::fs::read_to_string(POD_TOKEN).ok()?;
    let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    let claims: Claims = serde_json::from_slice(&payload).ok()?;
    let (namespace, name) = claims.sub.strip_prefix("system:serviceaccount:")?.split_once(':')?;
    ServiceAccount::new(namespace, name).ok()
}
