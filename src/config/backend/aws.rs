//! AWS Secrets Manager in the configuration.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::{Mode, http_url, is_in_the_clear};
use crate::{
    backends::aws::{AssumeRole, AwsBackend, AwsSettings},
    config::schema::{self, Between},
    json_schema::shape::ByName,
};

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend(
    "dependencies" = {"external_id": ["assume_role"], "session_name": ["assume_role"]}
))]
pub(in crate::config) struct AwsFile {
    /// Region of the store, such as `eu-central-1`. By default `AWS_REGION`, the profile's, the
    /// instance's.
    #[schemars(with = "Option<schema::AwsRegion>")]
    region: Option<String>,
    /// Goes before every name, as it is; callers and policies never see it. None by default.
    #[serde(default)]
    #[schemars(with = "Option<schema::AnyPrefix>")]
    prefix: String,
    /// Another address of Secrets Manager: a VPC endpoint, an emulator. The region's by default.
    #[schemars(with = "Option<schema::HttpUrl>")]
    endpoint_url: Option<String>,
    /// ARN of a role to assume with the credentials that were found.
    #[schemars(with = "Option<schema::RoleArn>")]
    assume_role: Option<String>,
    /// What that role's trust policy asks for: 2 to 1224 letters, digits or `_+=,.@:/-`.
    #[schemars(with = "Option<schema::ExternalId>")]
    external_id: Option<String>,
    /// The session that CloudTrail shows for the role; `vaultmux-mesh` by default.
    #[schemars(with = "Option<schema::SessionName>")]
    session_name: Option<String>,
    /// Tags that are put on secrets created here, 50 at most.
    #[serde(default)]
    #[schemars(
        with = "Option<ByName<schema::TagKey, schema::TagValue>>",
        extend("maxProperties" = 50)
    )]
    tags: BTreeMap<String, String>,
    /// Id, ARN or alias of the key for secrets created here; `aws/secretsmanager` by default.
    #[schemars(with = "Option<schema::KmsKey>")]
    kms_key_id: Option<String>,
    /// How many days a deleted secret can be restored, 7 to 30; 30 by default.
    #[schemars(with = "Option<Between<7, 30>>")]
    recovery_window_days: Option<u8>,
}

// === impl AwsFile ===

impl AwsFile {
    pub(super) fn check(self, mode: Mode) -> Result<AwsSettings, String> {
        let Self { region, prefix, endpoint_url, tags, kms_key_id, recovery_window_days, .. } =
            self;
        if !prefix.chars().all(|c| AwsBackend::GRAMMAR.allows(c)) || prefix.len() > 255 {
            return Err(format!("prefix {prefix:?} is no part of an AWS secret name"));
        }
        // It becomes a part of the host's name.
        if let Some(region) = &region
            && !matches(region, 1..=63, "-")
        {
            return Err(format!("region {region:?} is not a region such as eu-central-1"));
        }
        if let Some(url) = &endpoint_url {
            http_url("endpoint_url", url)?;
            if is_in_the_clear(url) && mode != Mode::Development {
                return Err(format!(
                    "endpoint_url {url:?} would send values in the clear to another machine: use \
                     https, or `mode: development` for an emulator"
                ));
            }
        }
        let assume_role = match (self.assume_role, self.external_id, self.session_name) {
            (Some(role), external_id, session_name) => {
                Some(assume_role(role, external_id, session_name)?)
            }
            (None, None, None) => None,
            (None, Some(_), _) => return Err("external_id needs assume_role".to_owned()),
            (None, _, Some(_)) => return Err("session_name needs assume_role".to_owned()),
        };
        check_tags(&tags)?;
        if let Some(key) = &kms_key_id
            && !matches(key, 1..=2048, ":/_-")
        {
            return Err(format!("kms_key_id {key:?} is not the id, ARN or alias of a key"));
        }
        if let Some(days) = recovery_window_days
            && !(7..=30).contains(&days)
        {
            return Err(format!("recovery_window_days {days} is not within 7 to 30"));
        }
        Ok(AwsSettings {
            region,
            prefix,
            endpoint_url,
            assume_role,
            tags,
            kms_key_id,
            recovery_window_days,
        })
    }
}

/// Checks as IAM and STS would, who would say so on the first call.
fn assume_role(
    role_arn: String,
    external_id: Option<String>,
    session_name: Option<String>,
) -> Result<AssumeRole, String> {
    if !role_arn.starts_with("arn:") || !role_arn.contains(":role/") {
        return Err(format!("assume_role {role_arn:?} is not the ARN of a role"));
    }
    if let Some(id) = &external_id
        && !matches(id, 2..=1224, "_+=,.@:/-")
    {
        // It is no secret, but some treat it as one.
        return Err("external_id must be 2 to 1224 letters, digits or _+=,.@:/-".to_owned());
    }
    if let Some(name) = &session_name
        && !matches(name, 2..=64, "_+=,.@-")
    {
        let allowed = "is not 2 to 64 letters, digits or _+=,.@-";
        return Err(format!("session_name {name:?} {allowed}"));
    }
    Ok(AssumeRole { role_arn, external_id, session_name })
}

fn check_tags(tags: &BTreeMap<String, String>) -> Result<(), String> {
    if tags.len() > 50 {
        return Err("tags: a secret has at most 50".to_owned());
    }
    for (key, value) in tags {
        let (long_key, long_value) = (key.chars().count() > 128, value.chars().count() > 256);
        if key.is_empty() || long_key || key.to_ascii_lowercase().starts_with("aws:") {
            return Err(format!("tags: {key:?} is not 1 to 128 characters, or begins with aws:"));
        }
        if long_value {
            return Err(format!("tags.{key}: is longer than 256 characters"));
        }
    }
    Ok(())
}

/// ASCII letters, digits and `punctuation`, of a length in this range.
fn matches(text: &str, len: std::ops::RangeInclusive<usize>, punctuation: &str) -> bool {
    len.contains(&text.len())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || punctuation.contains(c))
}
