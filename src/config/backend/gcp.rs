//! GCP Secret Manager in the configuration.

use std::path::PathBuf;

use serde::Deserialize;

use super::http_url;
use crate::{
    backends::gcp::{GcpCredentials, GcpSettings},
    config::value::Context,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct GcpFile {
    project: String,
    location: Option<String>,
    #[serde(default)]
    prefix: String,
    endpoint_url: Option<String>,
    impersonate: Option<String>,
    credentials_file: Option<PathBuf>,
    credentials: Option<Kind>,
}

#[derive(Clone, Copy, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
enum Kind {
    /// `credentials_file` if there is one, application default credentials if not.
    Default,
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
        let settings =
            GcpSettings { project, location, prefix, endpoint_url, impersonate, credentials };
        settings.check().map_err(|error| error.to_string())?;
        Ok(settings)
    }
}

/// Whether a URL is plain HTTP to another host: a proxy beside us may well do TLS.
fn is_in_the_clear(url: &str) -> bool {
    let Ok(url) = url.parse::<http::Uri>() else { return true };
    let host = url.host().unwrap_or_default().trim_matches(['[', ']']);
    let loopback = host == "localhost"
        || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    url.scheme_str() != Some("https") && !loopback
}
