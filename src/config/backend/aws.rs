//! AWS Secrets Manager in the configuration.

use serde::Deserialize;

use super::http_url;
use crate::backends::aws::{AwsBackend, AwsSettings};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct AwsFile {
    region: Option<String>,
    #[serde(default)]
    prefix: String,
    endpoint_url: Option<String>,
    assume_role: Option<String>,
}

// === impl AwsFile ===

impl AwsFile {
    pub(super) fn check(self) -> Result<AwsSettings, String> {
        let Self { region, prefix, endpoint_url, assume_role } = self;
        if !prefix.chars().all(|c| AwsBackend::GRAMMAR.allows(c)) || prefix.len() > 255 {
            return Err(format!("prefix {prefix:?} is no part of an AWS secret name"));
        }
        if let Some(url) = &endpoint_url {
            http_url("endpoint_url", url)?;
        }
        Ok(AwsSettings { region, prefix, endpoint_url, assume_role })
    }
}
