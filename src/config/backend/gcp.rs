//! GCP Secret Manager in the configuration.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;

use super::{http_url, is_in_the_clear};
use crate::{
    backends::gcp::{GcpCredentials, GcpSettings},
    config::{Environment, schema, value::Context},
};

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("allOf" = schema::by_credentials()))]
pub(in crate::config) struct GcpFile {
    /// Id or number of the project.
    #[schemars(with = "schema::GcpProject")]
    project: String,
    /// A region such as `europe-west3`, for its regional secrets. Global secrets by default.
    #[schemars(with = "Option<schema::GcpLocation>")]
    location: Option<String>,
    /// Goes before every name: letters, digits, `-` and `_`. None by default.
    #[serde(default)]
    #[schemars(with = "Option<schema::GcpPrefix>")]
    prefix: String,
    /// Another address of Secret Manager: Private Service Connect, an emulator.
    #[schemars(with = "Option<schema::HttpUrl>")]
    endpoint_url: Option<String>,
    /// E-mail address of a service account to act as.
    #[schemars(with = "Option<schema::GcpAccount>")]
    impersonate: Option<String>,
    /// A file of type `service_account`, `external_account`, `authorized_user` or
    /// `impersonated_service_account`. Application default credentials by default.
    credentials_file: Option<PathBuf>,
    /// Whether to have credentials at all; `default` by default.
    credentials: Option<Kind>,
}

#[derive(Clone, Copy, Deserialize, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
enum Kind {
    /// `credentials_file` if there is one, application default credentials if not.
    Default,
    /// None, for an emulator at `endpoint_url`.
    Anonymous,
}

// === impl GcpFile ===

impl GcpFile {
    pub(super) fn check(self, context: &Context<'_>) -> Result<GcpSettings, String> {
        let Self { project, location, prefix, endpoint_url, impersonate, .. } = self;
        let anonymous = self.credentials == Some(Kind::Anonymous);
        let credentials = match (self.credentials_file, anonymous) {
            (None, false) => GcpCredentials::ApplicationDefault,
            (Some(path), false) => GcpCredentials::File(context.resolve(&path)),
            (None, true) if impersonate.is_none() => GcpCredentials::Anonymous,
            (_, true) => {
                return Err("`credentials: anonymous` goes with neither credentials_file nor \
                            impersonate"
                    .to_owned());
            }
        };
        match &endpoint_url {
            None if anonymous => {
                return Err("`credentials: anonymous` is for emulators: set endpoint_url".into());
            }
            Some(url) => {
                http_url("endpoint_url", url)?;
                if !anonymous && is_in_the_clear(url) {
                    return Err(format!(
                        "endpoint_url {url:?} would send access tokens in the clear: use https, \
                         or `credentials: anonymous` for an emulator"
                    ));
                }
            }
            None => {}
        }
        // The SDK asks the metadata server through whatever proxy is set: that one could
        // answer with an identity of its own, and would see the token.
        let metadata_may_be_asked = credentials == GcpCredentials::ApplicationDefault
            && context.environment.get("GOOGLE_APPLICATION_CREDENTIALS").is_none();
        if metadata_may_be_asked && proxied(context.environment) {
            return Err("HTTP_PROXY would be asked for the metadata server's tokens: set \
                        NO_PROXY=metadata.google.internal,169.254.169.254"
                .to_owned());
        }
        let settings =
            GcpSettings { project, location, prefix, endpoint_url, impersonate, credentials };
        settings.check().map_err(|error| error.to_string())?;
        Ok(settings)
    }
}

/// Whether plain HTTP to the metadata server goes through a proxy, as far as its hosts are
/// not excepted.
fn proxied(environment: &Environment) -> bool {
    let set = |names: [&str; 2]| names.iter().find_map(|name| environment.get(name));
    let proxy = ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"];
    if !proxy.iter().any(|name| environment.get(name).is_some()) {
        return false;
    }
    let excepted = set(["no_proxy", "NO_PROXY"]).unwrap_or_default();
    let excepted: Vec<_> = excepted.split(',').map(str::trim).collect();
    let covers = |host: &str| {
        excepted.iter().any(|entry| {
            let entry = entry.trim_start_matches('.');
            entry == "*"
                || entry == host
                || !entry.is_empty() && host.ends_with(&format!(".{entry}"))
        })
    };
    !(covers("metadata.google.internal") && covers("169.254.169.254"))
}
