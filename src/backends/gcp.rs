//! GCP Secret Manager through the official SDK: one call to the store for each
//! method but create, no retries, no call before the first one that is asked for.

mod api;
mod credentials;
mod error;
mod resource;

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use bytes::Bytes;
use google_cloud_auth::credentials::{Credentials, anonymous};
use google_cloud_gax::retry_policy::NeverRetry;
use google_cloud_secretmanager_v1::{client::SecretManagerService, model::SecretPayload};
use tracing::Instrument;
use zeroize::Zeroizing;

pub use self::credentials::GcpCredentials;
use self::{
    api::Api,
    credentials::{Renewing, Shared},
    error::Asked,
    resource::{Parent, Selector, filter, full_id, secret_id, version_number},
};
use super::{BackendError, SecretBackend, SecretPage, VersionEntry, failure};
use crate::secret::{
    NameEncoding, NameGrammar, SecretName, SecretRecord, SecretValue, SecretVersion,
};

/// Names in one page of a listing.
const PAGE: i32 = 250;

/// The longest value that GCP stores.
const MAX_VALUE: usize = 64 << 10;

/// Where the secrets are and in whose name they are read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GcpSettings {
    /// The project, by id or number.
    pub project: String,
    /// A region, for regional secrets; global ones without.
    pub location: Option<String>,
    /// Goes before every name, without a separator of its own.
    pub prefix: String,
    /// Address of Secret Manager alone, such as that of an emulator or of Private
    /// Service Connect. Tokens are fetched from where they always are.
    pub endpoint_url: Option<String>,
    /// E-mail address of a service account to act as.
    pub impersonate: Option<String>,
    /// Our own credentials.
    pub credentials: GcpCredentials,
}

/// Why the client could not be set up.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GcpSetupError {
    /// No project has this id or number.
    #[error("project {0:?} is neither a project's id nor its number")]
    Project(String),
    /// No region is called so.
    #[error("location {0:?} is not a region")]
    Location(String),
    /// The store's names cannot begin so.
    #[error("prefix {0:?} must be at most 254 letters, digits, hyphens or underscores")]
    Prefix(String),
    /// Not the address of a service account.
    #[error("impersonate {0:?} is not the e-mail address of a service account")]
    Account(String),
    /// The SDK refused the settings or the environment.
    #[error("the client cannot be set up: {0}")]
    Client(String),
}

/// GCP Secret Manager in one project, global or of one region.
///
/// Tokens are fetched when first needed, cached and renewed. Credentials that were
/// refused are made anew, ten seconds later at the earliest.
///
/// - Versions: `latest`, a number, or an alias. GCP has no word for the version
///   before the latest. `latest` is the newest in whatever state: if that one is
///   disabled or destroyed, reading is [`BackendError::Disabled`].
/// - Values are bytes up to 64 KiB, with a checksum in both directions; what does
///   not match its own is not served, and may be fetched again.
/// - A secret that has no version, by whomever it was made, is not found by get;
///   update gives it its first version and delete deletes it.
/// - Deleting is at once and for good, with `force` and without.
pub struct GcpBackend {
    api: Api,
    parent: Parent,
    prefix: String,
    page: i32,
}

// === impl GcpSettings ===

impl GcpSettings {
    /// Whether any call could succeed with these.
    ///
    /// # Errors
    /// [`GcpSetupError`] names the setting that is wrong.
    pub fn check(&self) -> Result<(), GcpSetupError> {
        let plain = |text: &str, others: &str| {
            text.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
                && text
                    .chars()
                    .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || others.contains(c))
                && !text.contains("..")
        };
        // Old projects are called example.com:name.
        if !plain(&self.project, "-.:") {
            return Err(GcpSetupError::Project(self.project.clone()));
        }
        if let Some(location) = self.location.as_ref().filter(|location| !plain(location, "-")) {
            return Err(GcpSetupError::Location(location.clone()));
        }
        let prefix = &self.prefix;
        let grammar = GcpBackend::GRAMMAR;
        if prefix.len() >= grammar.max_len || !prefix.chars().all(|c| grammar.allows(c)) {
            return Err(GcpSetupError::Prefix(prefix.clone()));
        }
        let account = |text: &str| {
            text.split_once('@').is_some_and(|(name, host)| plain(name, "-") && plain(host, "-."))
        };
        if let Some(wrong) = self.impersonate.as_ref().filter(|text| !account(text)) {
            return Err(GcpSetupError::Account(wrong.clone()));
        }
        Ok(())
    }

    /// A region's secrets are at an address of its own, and nowhere else.
    fn endpoint(&self) -> Option<String> {
        let regional =
            |location: &String| format!("https://secretmanager.{location}.rep.googleapis.com");
        self.endpoint_url.clone().or_else(|| self.location.as_ref().map(regional))
    }
}

// === impl GcpBackend ===

impl GcpBackend {
    /// The names that GCP accepts.
    pub const GRAMMAR: NameGrammar = NameGrammar::new("-_", 255);

    /// Prepares a client; `timeout` is for one method with everything in it.
    ///
    /// Calls no one and reads no file: a store that is down, or a token file that
    /// is not there yet, does not keep the service from starting.
    ///
    /// # Errors
    /// [`GcpSetupError`], for settings that no call could succeed with.
    pub async fn connect(settings: GcpSettings, timeout: Duration) -> Result<Self, GcpSetupError> {
        let credentials = match &settings.credentials {
            GcpCredentials::Anonymous => None,
            own => {
                let source = credentials::source(own.clone(), settings.impersonate.clone());
                Some(Renewing::new(source))
            }
        };
        Self::new(settings, credentials, timeout).await
    }

    /// As [`Self::connect`], with these credentials; none are anonymous.
    async fn new(
        settings: GcpSettings,
        credentials: Option<Arc<Renewing>>,
        timeout: Duration,
    ) -> Result<Self, GcpSetupError> {
        settings.check()?;
        let own = match &credentials {
            Some(renewing) => Credentials::from(Shared(Arc::clone(renewing))),
            None => anonymous::Builder::new().build(),
        };
        // The resolver retries, with a budget over all callers. Timeouts of the SDK
        // do not cover the wait for a token, so none is set: ours are around it.
        let mut builder =
            SecretManagerService::builder().with_credentials(own).with_retry_policy(NeverRetry);
        if let Some(url) = settings.endpoint() {
            builder = builder.with_endpoint(url);
        }
        let client = builder
            .build()
            .await
            .map_err(|error| GcpSetupError::Client(failure::chain(&error).to_string()))?;
        let parent = Parent::new(&settings.project, settings.location.as_deref());
        let api = Api { client, credentials, timeout };
        Ok(Self { api, parent, prefix: settings.prefix, page: PAGE })
    }

    fn id(&self, name: &SecretName) -> String {
        full_id(&self.prefix, name)
    }

    fn secret(&self, name: &SecretName) -> String {
        self.parent.secret(&self.id(name))
    }
}

#[async_trait]
impl SecretBackend for GcpBackend {
    async fn get(
        &self,
        name: &SecretName,
        version: &SecretVersion,
    ) -> Result<SecretRecord, BackendError> {
        let selector = Selector::of(version).ok_or(BackendError::NotFound)?;
        let asked = match selector {
            Selector::Latest | Selector::Number(_) => Asked::Version,
            Selector::Alias(_) => Asked::Alias,
        };
        let path = format!("{}/versions/{}", self.secret(name), selector.as_str());
        let call = self.api.client.access_secret_version().set_name(path).send();
        let found = self.api.call(asked, call).await?;
        // Taken over at once, so that it is wiped whatever comes next.
        let payload = found.payload.ok_or_else(no_payload)?;
        let (sum, value) = (payload.data_crc32c, SecretValue::new(Vec::from(payload.data)));
        // Damaged on the way, most likely: another try may bring it whole, and until
        // then a value that is known may be used on.
        if sum.is_some_and(|sum| sum != checksum(&value)) {
            let text = "the value does not match its checksum".to_owned();
            return Err(BackendError::Unavailable(Some(failure::cause(text))));
        }
        let number = version_number(&found.name, &self.id(name))?;
        match selector {
            Selector::Number(asked) if asked != &*number => {
                Err(BackendError::Invalid("another version was returned".to_owned()))
            }
            _ => Ok(SecretRecord { value, version: number, created_at: None }),
        }
    }

    async fn list(&self, cursor: Option<&str>) -> Result<SecretPage, BackendError> {
        let call = self.api.client.list_secrets().set_parent(self.parent.as_str());
        let call = call.set_page_size(self.page).set_filter(filter(&self.prefix));
        let call = call.set_page_token(cursor.unwrap_or_default()).send();
        let page = self.api.call(Asked::Parent, call).await?;
        let names = page.secrets.iter().filter_map(|secret| {
            let rest = secret_id(&secret.name)?.strip_prefix(&self.prefix)?;
            Self::GRAMMAR.canonical(rest, NameEncoding::Plain).ok()
        });
        Ok(SecretPage {
            names: names.collect(),
            cursor: Some(page.next_page_token).filter(|token| !token.is_empty()),
        })
    }

    async fn create(
        &self,
        name: &SecretName,
        value: &SecretValue,
    ) -> Result<Arc<str>, BackendError> {
        let making = self.api.clone().create(self.parent.clone(), self.id(name), payload(value)?);
        // On its own: a caller that goes away between the two calls must not leave a
        // secret without a version.
        let making = tokio::spawn(making.in_current_span());
        match tokio::time::timeout(self.api.timeout, making).await {
            Ok(Ok(made)) => made,
            Ok(Err(_)) => Err(BackendError::Unavailable(None)),
            Err(_) => Err(BackendError::TimedOut),
        }
    }

    async fn update(
        &self,
        name: &SecretName,
        value: &SecretValue,
    ) -> Result<Arc<str>, BackendError> {
        self.api.add(self.secret(name), &self.id(name), payload(value)?).await
    }

    async fn delete(&self, name: &SecretName, _force: bool) -> Result<(), BackendError> {
        let call = self.api.client.delete_secret().set_name(self.secret(name)).send();
        self.api.call(Asked::Secret, call).await
    }

    async fn versions(&self, name: &SecretName) -> Result<Vec<VersionEntry>, BackendError> {
        let reading = self.api.versions(self.secret(name), self.id(name));
        // Of all pages together; each has its own bound, which is the same.
        let read = tokio::time::timeout(self.api.timeout, reading).await;
        read.unwrap_or(Err(BackendError::TimedOut))
    }

    fn can_have(&self, version: &SecretVersion) -> bool {
        Selector::of(version).is_some()
    }

    fn accepts(&self, value: &SecretValue) -> Result<(), BackendError> {
        storable(value)
    }

    fn credentials_expire(&self) -> Option<SystemTime> {
        self.api.credentials.as_ref()?.expire()
    }
}

impl fmt::Debug for GcpBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (parent, prefix) = (self.parent.as_str(), &self.prefix);
        f.debug_struct("GcpBackend")
            .field("parent", &parent)
            .field("prefix", prefix)
            .finish_non_exhaustive()
    }
}

fn no_payload() -> BackendError {
    BackendError::Invalid("no payload was returned".to_owned())
}

/// GCP might repeat in its refusal what it was sent.
fn storable(value: &SecretValue) -> Result<(), BackendError> {
    match value.len() > MAX_VALUE {
        true => Err(BackendError::Invalid("it takes no value above 64 KiB".to_owned())),
        false => Ok(()),
    }
}

#[expect(clippy::disallowed_methods, reason = "this is where the value is sent to its store")]
fn payload(value: &SecretValue) -> Result<SecretPayload, BackendError> {
    storable(value)?;
    let data = Bytes::from_owner(Zeroizing::new(value.expose_secret().to_vec()));
    Ok(SecretPayload::new().set_data(data).set_data_crc32c(checksum(value)))
}

#[expect(clippy::disallowed_methods, reason = "a checksum is of the value itself")]
fn checksum(value: &SecretValue) -> i64 {
    crc32c::crc32c(value.expose_secret()).into()
}

#[cfg(test)]
mod fake;
#[cfg(test)]
mod tests;
