//! AWS Secrets Manager through the official SDK: one call to the store for each
//! method, no retries, no call before the first one that is asked for.

mod credentials;
mod error;
mod http;

use std::{
    collections::BTreeMap,
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use aws_config::{
    BehaviorVersion, ConfigLoader, Region, SdkConfig, retry::RetryConfig, timeout::TimeoutConfig,
};
use aws_sdk_secretsmanager::{
    Client,
    primitives::Blob,
    types::{Filter, FilterNameStringType, SecretVersionsListEntry, Tag},
};

use self::{credentials::Expiry, error::from_sdk};
use super::{BackendError, SecretBackend, SecretPage, VersionEntry};
use crate::secret::{
    NameEncoding, NameGrammar, SecretName, SecretRecord, SecretValue, SecretVersion,
};

/// Names in one page of a listing; the most that the store gives.
const PAGE: i32 = 100;

/// The longest value that AWS stores.
const MAX_VALUE: usize = 64 << 10;

/// A live endpoint connects within a round trip or two.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// The instance's metadata answers at once, or is not there.
const REGION_TIMEOUT: Duration = Duration::from_secs(3);

/// Where the secrets are and in whose name they are read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AwsSettings {
    /// Region of the store; by default that of environment, profile or instance.
    pub region: Option<String>,
    /// Goes before every name, without a separator of its own.
    pub prefix: String,
    /// Address of Secrets Manager alone, such as that of a VPC endpoint. Other
    /// services (STS, the instance's own) keep theirs.
    pub endpoint_url: Option<String>,
    /// A role to assume with the credentials of the default chain.
    pub assume_role: Option<AssumeRole>,
    /// Tags of secrets that are created here.
    pub tags: BTreeMap<String, String>,
    /// Key (id, ARN or alias) that encrypts secrets created here; by default the
    /// account's `aws/secretsmanager`.
    pub kms_key_id: Option<String>,
    /// Days in which a deleted secret can be restored, 7 to 30; by default 30.
    pub recovery_window_days: Option<u8>,
}

/// A role in this account or another one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AssumeRole {
    /// Its ARN.
    pub role_arn: String,
    /// What its trust policy may ask for, if another company owns it.
    pub external_id: Option<String>,
    /// What CloudTrail shows as the session; by default `vaultmux-mesh`.
    pub session_name: Option<String>,
}

/// Why the client could not be set up.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AwsSetupError {
    /// No region was configured or found.
    #[error("no AWS region: set `region`, AWS_REGION or a profile with one")]
    NoRegion,
    /// The store's names cannot begin so.
    #[error("prefix {0:?} must be at most 511 letters, digits or /_+=.@-")]
    Prefix(String),
}

/// AWS Secrets Manager in one account and region.
///
/// Credentials come from the SDK's default chain (environment, profile, web
/// identity as in IRSA, container endpoint as in EKS Pod Identity and ECS,
/// instance metadata), are fetched when first needed, cached and renewed.
///
/// - Versions: `current`, `previous` and `pending` are the stages of AWS; 32 to
///   64 letters, digits and hyphens are a version id; all else is a stage label.
/// - Values that are UTF-8 are stored as strings, others as binary. AWS refuses
///   empty ones and those above 64 KiB.
/// - Deleting leaves days to restore; until then reading, updating, creating and
///   deleting again are [`BackendError::PendingDeletion`]. With `force` AWS
///   deletes for good and reports success for a secret that never was.
/// - Every call has its own idempotency token: a create that is repeated after
///   a timeout may find its own first try and report [`BackendError::Conflict`].
pub struct AwsBackend {
    client: Client,
    prefix: String,
    tags: Vec<Tag>,
    kms_key_id: Option<String>,
    recovery_window_days: Option<u8>,
    timeout: Duration,
    expiry: Expiry,
}

/// The two kinds of value that AWS knows.
enum Payload {
    Text(String),
    Binary(Blob),
}

/// Which parameter of GetSecretValue a version selector fills.
#[derive(Debug, PartialEq, Eq)]
enum Selector<'a> {
    Current,
    Stage(&'a str),
    Id(&'a str),
}

// === impl AwsBackend ===

impl AwsBackend {
    /// The names that AWS accepts.
    pub const GRAMMAR: NameGrammar = NameGrammar::new("/_+=.@-", 512);

    /// Prepares a client; `timeout` is for one call with everything in it.
    ///
    /// Reads environment and profile files, and asks the instance metadata
    /// service for a region if nothing else names one. It calls neither Secrets
    /// Manager nor STS: a store that is down does not keep the service from
    /// starting.
    ///
    /// # Errors
    /// [`AwsSetupError`], for settings that no call could succeed with.
    pub async fn connect(settings: AwsSettings, timeout: Duration) -> Result<Self, AwsSetupError> {
        let base = match &settings.region {
            Some(region) => loader().region(Region::new(region.clone())).load().await,
            None => tokio::time::timeout(REGION_TIMEOUT, loader().load())
                .await
                .map_err(|_| AwsSetupError::NoRegion)?,
        };
        Self::new(base, settings, timeout).await
    }

    /// As [`Self::connect`], with what the environment says already read.
    async fn new(
        base: SdkConfig,
        settings: AwsSettings,
        timeout: Duration,
    ) -> Result<Self, AwsSetupError> {
        if base.region().is_none() {
            return Err(AwsSetupError::NoRegion);
        }
        let AwsSettings { prefix, endpoint_url, assume_role, tags, .. } = settings;
        if prefix.len() >= Self::GRAMMAR.max_len || !prefix.chars().all(|c| Self::GRAMMAR.allows(c))
        {
            return Err(AwsSetupError::Prefix(prefix));
        }
        let expiry = Expiry::default();
        let provider = credentials::provider(&base, assume_role, expiry.clone()).await;
        let mut config = aws_sdk_secretsmanager::config::Builder::from(&base)
            // The resolver retries, with a budget over all callers. Fetching
            // credentials keeps the SDK's retries, within the same timeout.
            .retry_config(RetryConfig::disabled())
            .timeout_config(
                TimeoutConfig::builder()
                    .connect_timeout(CONNECT_TIMEOUT.min(timeout))
                    .operation_attempt_timeout(timeout)
                    .operation_timeout(timeout)
                    .build(),
            );
        config.set_credentials_provider(provider);
        if let Some(url) = endpoint_url {
            config = config.endpoint_url(url);
        }
        let tag = |(key, value)| Tag::builder().key(key).value(value).build();
        Ok(Self {
            client: Client::from_conf(config.build()),
            prefix,
            tags: tags.into_iter().map(tag).collect(),
            kms_key_id: settings.kms_key_id,
            recovery_window_days: settings.recovery_window_days,
            timeout,
            expiry,
        })
    }

    fn full_name(&self, name: &SecretName) -> String {
        format!("{}{name}", self.prefix)
    }

    async fn all_versions(&self, name: &SecretName) -> Result<Vec<VersionEntry>, BackendError> {
        let mut versions = Vec::new();
        let mut token = None;
        loop {
            let call = self.client.list_secret_version_ids().secret_id(self.full_name(name));
            let call = call.max_results(PAGE).set_next_token(token);
            let page = call.send().await.map_err(from_sdk)?;
            versions.extend(page.versions.unwrap_or_default().into_iter().filter_map(entry));
            token = page.next_token.filter(|token| !token.is_empty());
            if token.is_none() {
                return Ok(versions);
            }
        }
    }
}

#[async_trait]
impl SecretBackend for AwsBackend {
    async fn get(
        &self,
        name: &SecretName,
        version: &SecretVersion,
    ) -> Result<SecretRecord, BackendError> {
        let full_name = self.full_name(name);
        let call = self.client.get_secret_value().secret_id(&full_name);
        let call = match Selector::of(version) {
            Selector::Current => call,
            Selector::Stage(stage) => call.version_stage(stage),
            Selector::Id(id) => call.version_id(id),
        };
        let found = call.send().await.map_err(from_sdk)?;
        // AWS also takes ends of ARNs for names: what policy allowed is one
        // name, and another secret's value must not be passed off as its own.
        if found.name.as_ref().is_some_and(|found| *found != full_name) {
            return Err(BackendError::Invalid("another secret was returned".to_owned()));
        }
        let value = match (found.secret_string, found.secret_binary) {
            (Some(text), _) => SecretValue::new(text),
            (None, Some(blob)) => SecretValue::new(blob.into_inner()),
            (None, None) => return Err(BackendError::NotFound),
        };
        let created_at = found.created_date.and_then(|date| SystemTime::try_from(date).ok());
        Ok(SecretRecord { value, version: version_id(found.version_id)?, created_at })
    }

    async fn list(&self, cursor: Option<&str>) -> Result<SecretPage, BackendError> {
        let mut call = self.client.list_secrets().max_results(PAGE);
        if !self.prefix.is_empty() {
            call = call.filters(
                Filter::builder().key(FilterNameStringType::Name).values(&self.prefix).build(),
            );
        }
        let page = call.set_next_token(cursor.map(Into::into)).send().await.map_err(from_sdk)?;
        let names = page.secret_list.unwrap_or_default().into_iter().filter_map(|entry| {
            let rest = entry.name.as_deref()?.strip_prefix(&self.prefix)?;
            Self::GRAMMAR.canonical(rest, NameEncoding::Plain).ok()
        });
        Ok(SecretPage {
            names: names.collect(),
            cursor: page.next_token.filter(|token| !token.is_empty()),
        })
    }

    async fn create(
        &self,
        name: &SecretName,
        value: &SecretValue,
    ) -> Result<Arc<str>, BackendError> {
        let call = self
            .client
            .create_secret()
            .name(self.full_name(name))
            .set_kms_key_id(self.kms_key_id.clone())
            .set_tags(Some(self.tags.clone()).filter(|tags| !tags.is_empty()));
        let call = match Payload::of(value)? {
            Payload::Text(text) => call.secret_string(text),
            Payload::Binary(blob) => call.secret_binary(blob),
        };
        version_id(call.send().await.map_err(from_sdk)?.version_id)
    }

    async fn update(
        &self,
        name: &SecretName,
        value: &SecretValue,
    ) -> Result<Arc<str>, BackendError> {
        let call = self.client.put_secret_value().secret_id(self.full_name(name));
        let call = match Payload::of(value)? {
            Payload::Text(text) => call.secret_string(text),
            Payload::Binary(blob) => call.secret_binary(blob),
        };
        version_id(call.send().await.map_err(from_sdk)?.version_id)
    }

    async fn delete(&self, name: &SecretName, force: bool) -> Result<(), BackendError> {
        let call = self.client.delete_secret().secret_id(self.full_name(name));
        let call = match force {
            true => call.force_delete_without_recovery(true),
            false => call.set_recovery_window_in_days(self.recovery_window_days.map(Into::into)),
        };
        call.send().await.map(|_| ()).map_err(from_sdk)
    }

    async fn versions(&self, name: &SecretName) -> Result<Vec<VersionEntry>, BackendError> {
        // One timeout for all pages: there may be no end to them.
        let pages = tokio::time::timeout(self.timeout, self.all_versions(name)).await;
        let mut versions = pages.unwrap_or(Err(BackendError::TimedOut))?;
        versions.sort_by_key(|entry| std::cmp::Reverse(entry.created_at));
        Ok(versions)
    }

    fn accepts(&self, value: &SecretValue) -> Result<(), BackendError> {
        storable(value)
    }

    fn credentials_expire(&self) -> Option<SystemTime> {
        self.expiry.get()
    }
}

impl fmt::Debug for AwsBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AwsBackend").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

fn entry(listed: SecretVersionsListEntry) -> Option<VersionEntry> {
    Some(VersionEntry {
        id: listed.version_id?.into(),
        stages: listed.version_stages.unwrap_or_default().into_iter().map(Into::into).collect(),
        created_at: listed.created_date.and_then(|date| SystemTime::try_from(date).ok()),
        enabled: true,
    })
}

/// The SDK's default chain.
fn loader() -> ConfigLoader {
    aws_config::defaults(BehaviorVersion::latest())
        .http_client(http::client())
        .timeout_config(TimeoutConfig::builder().connect_timeout(CONNECT_TIMEOUT).build())
}

fn version_id(id: Option<String>) -> Result<Arc<str>, BackendError> {
    id.map(Into::into).ok_or_else(|| BackendError::Invalid("no version was returned".to_owned()))
}

/// AWS would name neither the value nor its length in its refusal.
#[expect(clippy::disallowed_methods, reason = "text is measured by what it says")]
fn storable(value: &SecretValue) -> Result<(), BackendError> {
    if value.is_empty() {
        return Err(BackendError::Invalid("it takes no empty value".to_owned()));
    }
    // AWS says bytes in one place and characters in another: what might be meant is its
    // to refuse.
    let length = match str::from_utf8(value.expose_secret()) {
        Ok(text) => text.chars().count(),
        Err(_) => value.len(),
    };
    match length > MAX_VALUE {
        true => Err(BackendError::Invalid("it takes no value above 64 KiB".to_owned())),
        false => Ok(()),
    }
}

// === impl Payload ===

impl Payload {
    #[expect(clippy::disallowed_methods, reason = "this is where the value is sent to its store")]
    fn of(value: &SecretValue) -> Result<Self, BackendError> {
        storable(value)?;
        Ok(match str::from_utf8(value.expose_secret()) {
            Ok(text) => Self::Text(text.to_owned()),
            Err(_) => Self::Binary(Blob::new(value.expose_secret())),
        })
    }
}

// === impl Selector ===

impl<'a> Selector<'a> {
    fn of(version: &'a SecretVersion) -> Self {
        let SecretVersion::Selected(text) = version else { return Self::Current };
        let id_like = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        match &**text {
            "current" => Self::Stage("AWSCURRENT"),
            "previous" => Self::Stage("AWSPREVIOUS"),
            "pending" => Self::Stage("AWSPENDING"),
            id if (32..=64).contains(&id.len()) && id.bytes().all(id_like) => Self::Id(id),
            stage => Self::Stage(stage),
        }
    }
}

#[cfg(test)]
mod tests;
