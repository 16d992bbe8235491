//! Azure Key Vault through the official SDK: the fewest calls that its API allows,
//! no retries, no call before the first one that is asked for.

mod content;
mod credential;
mod error;
mod list;
mod lock;
mod transport;

use std::{
    fmt,
    future::Future,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use azure_core::{
    cloud::{CloudConfiguration, CustomConfiguration},
    http::{ClientOptions, RetryOptions, Url},
};
use azure_security_keyvault_secrets::{
    ResourceExt, SecretClient, SecretClientOptions,
    models::{Secret, SecretClientGetSecretOptions, SecretProperties, SetSecretParameters},
};
use tokio::time::{sleep, timeout};

pub use self::credential::{AzureCredential, ClientSecret};
use self::{
    credential::Credential,
    error::{from_sdk, is_under_way},
    list::List,
    lock::NameLocks,
};
use super::{BackendError, SecretBackend, SecretPage, VersionEntry};
use crate::secret::{
    NameEncoding, NameGrammar, SecretName, SecretRecord, SecretValue, SecretVersion,
};

/// How long a purge waits before it asks again whether the deletion is done, at
/// first and at most.
const PURGE_WAIT: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(1)];

/// Where the secrets are and in whose name they are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AzureSettings {
    /// `https://<vault>.vault.azure.net`, or its like in another cloud.
    pub vault_url: String,
    /// Goes before every name, without a separator of its own.
    pub prefix: String,
    /// Who this service is to Microsoft Entra ID.
    pub credential: AzureCredential,
    /// Where tokens are issued, if not in the public cloud; https.
    pub authority_host: Option<String>,
    /// PEM file of certificates to trust besides the system's.
    pub ca_file: Option<PathBuf>,
    /// Whether the vault may ask only for tokens of its own domain. Turned off,
    /// whoever answers at `vault_url` gets a token for whatever it names.
    pub verify_challenge_resource: bool,
}

/// Why the client could not be set up.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AzureSetupError {
    /// Not an https URL of a host and nothing more.
    #[error("vault_url {0:?} must be https://<host>, without path or query")]
    VaultUrl(String),
    /// The store's names cannot begin so.
    #[error("prefix {0:?} must be at most 126 letters, digits or hyphens")]
    Prefix(String),
    /// Something that the credential needs is neither configured nor in the
    /// environment.
    #[error("no Azure {0}")]
    Missing(&'static str),
    /// The SDK refuses the credential.
    #[error("credential: {0}")]
    Credential(String),
    /// The file of certificates cannot be used.
    #[error("ca_file {path}: {message}")]
    CaFile {
        /// Which file.
        path: String,
        /// Why not.
        message: String,
    },
    /// No TLS client could be made.
    #[error("set up TLS failed: {0}")]
    Tls(String),
}

/// One Azure Key Vault.
///
/// Tokens are fetched when first needed, cached and renewed; the files that they
/// come from are read again each time.
///
/// - Versions: only `latest` and ids of 32 hexadecimal digits. Azure knows no
///   stages.
/// - Values are text of up to 25 KB. Those that are not UTF-8 are stored as base64
///   with the content type `application/octet-stream;base64`; what has exactly this
///   type is decoded, all else is returned as it is.
/// - Creating is two calls, because Azure's own write replaces: this object lets one
///   of several concurrent calls win, but another process can come between.
/// - Updating is two calls, because Azure's write would create, and drop tags,
///   content type and dates: they are carried over. A date of expiry that has passed
///   is not, the new value would be born expired.
/// - Deleting leaves the vault's own time (7 to 90 days) to recover; until then the
///   name is [`BackendError::PendingDeletion`] to writes and
///   [`BackendError::NotFound`] to reads. With `force` it is purged as soon as Azure
///   has finished the deletion, which takes seconds: if that is longer than the
///   timeout, the same call made again carries on.
pub struct AzureBackend {
    client: SecretClient,
    credential: Arc<Credential>,
    prefix: String,
    timeout: Duration,
    writes: NameLocks,
}

// === impl AzureBackend ===

impl AzureBackend {
    /// The names that Azure accepts.
    pub const GRAMMAR: NameGrammar = NameGrammar::new("-", 127).ignoring_case();

    /// Prepares a client; `timeout` is for one method with all its calls.
    ///
    /// Reads `ca_file`, calls no one: a store that is down does not keep the service
    /// from starting.
    ///
    /// # Errors
    /// [`AzureSetupError`], for settings that no call could succeed with.
    pub fn new(settings: AzureSettings, timeout: Duration) -> Result<Self, AzureSetupError> {
        let AzureSettings { vault_url, prefix, authority_host, ca_file, .. } = settings;
        if !is_vault(&vault_url) {
            return Err(AzureSetupError::VaultUrl(vault_url));
        }
        if prefix.len() >= Self::GRAMMAR.max_len || !prefix.chars().all(|c| Self::GRAMMAR.allows(c))
        {
            return Err(AzureSetupError::Prefix(prefix));
        }
        let transports = transport::build(ca_file.as_deref(), timeout)?;
        // The resolver retries, with a budget over all callers.
        let mut options = ClientOptions {
            retry: RetryOptions::none(),
            transport: Some(transports.remote),
            ..ClientOptions::default()
        };
        if let Some(host) = authority_host {
            let mut cloud = CustomConfiguration::default();
            cloud.authority_host = host;
            options.cloud = Some(Arc::new(CloudConfiguration::from(cloud)));
        }
        let credential = Credential::new(settings.credential, &options, transports.local)?;
        let credential = Arc::new(credential);
        let client = SecretClient::new(
            &vault_url,
            Arc::clone(&credential) as Arc<_>,
            Some(SecretClientOptions {
                client_options: options,
                verify_challenge_resource: Some(settings.verify_challenge_resource),
                ..SecretClientOptions::default()
            }),
        );
        let client = client.map_err(|_| AzureSetupError::VaultUrl(vault_url))?;
        let prefix = prefix.to_ascii_lowercase();
        Ok(Self { client, credential, prefix, timeout, writes: NameLocks::default() })
    }

    fn full_name(&self, name: &SecretName) -> String {
        format!("{}{name}", self.prefix)
    }

    /// Ends a method in time, whatever it waits for.
    async fn bounded<T>(
        &self,
        method: impl Future<Output = Result<T, BackendError>>,
    ) -> Result<T, BackendError> {
        timeout(self.timeout, method).await.unwrap_or(Err(BackendError::TimedOut))
    }

    async fn fetch(&self, full_name: &str, version: Option<&str>) -> Result<Secret, BackendError> {
        let options = SecretClientGetSecretOptions {
            secret_version: version.map(str::to_owned),
            ..SecretClientGetSecretOptions::default()
        };
        let found = self.client.get_secret(full_name, Some(options)).await.map_err(from_sdk)?;
        found.into_model().map_err(from_sdk)
    }

    async fn set(
        &self,
        full_name: &str,
        parameters: SetSecretParameters,
    ) -> Result<Arc<str>, BackendError> {
        let body = parameters.try_into().map_err(from_sdk)?;
        let made = self.client.set_secret(full_name, body, None).await.map_err(from_sdk)?;
        version_of(&made.into_model().map_err(from_sdk)?, full_name)
    }

    /// Deletes for good: at once if the deletion is done, else when it is. The purge
    /// itself tells, which needs no right to look at deleted secrets.
    async fn purge(&self, full_name: &str) -> Result<(), BackendError> {
        let deleted = self.client.delete_secret(full_name, None).await.map(drop);
        let deleting = match deleted {
            Ok(()) => true,
            Err(error) if is_under_way(&error) => true,
            // Missing, or deleted before: the purge knows.
            Err(error) => match from_sdk(error) {
                BackendError::NotFound => false,
                error => return Err(error),
            },
        };
        let mut wait = PURGE_WAIT[0];
        loop {
            let Err(error) = self.client.purge_deleted_secret(full_name, None).await else {
                return Ok(());
            };
            let under_way = is_under_way(&error);
            match from_sdk(error) {
                BackendError::NotFound if deleting => {}
                _ if under_way => {}
                error => return Err(error),
            }
            sleep(wait).await;
            wait = PURGE_WAIT[1].min(wait * 2);
        }
    }
}

#[async_trait]
impl SecretBackend for AzureBackend {
    async fn get(
        &self,
        name: &SecretName,
        version: &SecretVersion,
    ) -> Result<SecretRecord, BackendError> {
        let full_name = self.full_name(name);
        let id = match version {
            // The SDK puts it into the path.
            _ if !self.can_have(version) => return Err(BackendError::NotFound),
            SecretVersion::Latest => None,
            SecretVersion::Selected(text) => Some(text.to_ascii_lowercase()),
        };
        let found = self.bounded(self.fetch(&full_name, id.as_deref())).await?;
        let version = version_of(&found, &full_name)?;
        if id.is_some_and(|id| id != *version) {
            return Err(another());
        }
        let created_at = found.attributes.as_ref().and_then(|attributes| attributes.created);
        let value = content::value_of(found)?;
        Ok(SecretRecord { value, version, created_at: created_at.map(SystemTime::from) })
    }

    async fn list(&self, cursor: Option<&str>) -> Result<SecretPage, BackendError> {
        let (found, cursor) = self.bounded(self.page(List::Names, cursor)).await?;
        let names = found.into_iter().filter_map(|entry| {
            let disabled = entry.attributes.as_ref().and_then(|of| of.enabled) == Some(false);
            // The key pairs of certificates are theirs, and renewed by them.
            if disabled || entry.managed == Some(true) {
                return None;
            }
            let name = entry.resource_id().ok()?.name.to_ascii_lowercase();
            let rest = name.strip_prefix(&self.prefix)?;
            Self::GRAMMAR.canonical(rest, NameEncoding::Plain).ok()
        });
        Ok(SecretPage { names: names.collect(), cursor })
    }

    async fn create(
        &self,
        name: &SecretName,
        value: &SecretValue,
    ) -> Result<Arc<str>, BackendError> {
        self.accepts(value)?;
        let full_name = self.full_name(name);
        let create = async {
            let _alone = self.writes.lock(&full_name).await;
            match self.fetch(&full_name, None).await {
                Err(BackendError::NotFound) => {}
                // It is there; that it cannot be read does not make the name free.
                Ok(_) | Err(BackendError::Disabled) => return Err(BackendError::Conflict),
                Err(error) => return Err(error),
            }
            self.set(&full_name, content::created(value)).await
        };
        self.bounded(create).await
    }

    async fn update(
        &self,
        name: &SecretName,
        value: &SecretValue,
    ) -> Result<Arc<str>, BackendError> {
        self.accepts(value)?;
        let full_name = self.full_name(name);
        let update = async {
            let _alone = self.writes.lock(&full_name).await;
            let before = self.fetch(&full_name, None).await?;
            version_of(&before, &full_name)?;
            self.set(&full_name, content::updated(value, before)).await
        };
        self.bounded(update).await
    }

    async fn delete(&self, name: &SecretName, force: bool) -> Result<(), BackendError> {
        let full_name = self.full_name(name);
        let delete = async {
            let _alone = self.writes.lock(&full_name).await;
            match force {
                true => self.purge(&full_name).await,
                false => {
                    self.client.delete_secret(&full_name, None).await.map(drop).map_err(from_sdk)
                }
            }
        };
        self.bounded(delete).await
    }

    async fn versions(&self, name: &SecretName) -> Result<Vec<VersionEntry>, BackendError> {
        let full_name = self.full_name(name);
        let read = async {
            let (mut versions, mut cursor) = (Vec::new(), None::<String>);
            loop {
                let page = self.page(List::VersionsOf(&full_name), cursor.as_deref()).await?;
                versions.extend(page.0.into_iter().filter_map(|listed| entry(listed, &full_name)));
                cursor = page.1;
                if cursor.is_none() {
                    return Ok(versions);
                }
            }
        };
        let mut versions = self.bounded(read).await?;
        // No secret is without versions; whether Azure says 404 depends on its own
        // caches.
        if versions.is_empty() {
            return Err(BackendError::NotFound);
        }
        versions.sort_by_key(|entry| std::cmp::Reverse(entry.created_at));
        Ok(versions)
    }

    fn can_have(&self, version: &SecretVersion) -> bool {
        match version {
            SecretVersion::Latest => true,
            SecretVersion::Selected(text) => is_version(text),
        }
    }

    fn accepts(&self, value: &SecretValue) -> Result<(), BackendError> {
        content::storable(value)
    }

    fn credentials_expire(&self) -> Option<SystemTime> {
        self.credential.expire()
    }
}

impl fmt::Debug for AzureBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let vault = self.client.endpoint().as_str();
        f.debug_struct("AzureBackend")
            .field("vault", &vault)
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

/// Whether a URL is that of a vault: https, a host, nothing below it.
fn is_vault(url: &str) -> bool {
    Url::parse(url).is_ok_and(|url| {
        url.scheme() == "https"
            && url.has_host()
            && url.username().is_empty()
            && url.password().is_none()
            && url.path() == "/"
            && url.query().is_none()
            && url.fragment().is_none()
    })
}

fn is_version(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// The id of a version, if it is one of the secret that was asked for: what policy
/// allowed is one name.
fn version_of(found: &impl ResourceExt, full_name: &str) -> Result<Arc<str>, BackendError> {
    let id = found.resource_id().map_err(|_| another())?;
    match id.version {
        Some(version) if id.name.eq_ignore_ascii_case(full_name) && is_version(&version) => {
            Ok(version.to_ascii_lowercase().into())
        }
        _ => Err(another()),
    }
}

fn another() -> BackendError {
    BackendError::Invalid("another secret was returned".to_owned())
}

fn entry(listed: SecretProperties, full_name: &str) -> Option<VersionEntry> {
    let id = version_of(&listed, full_name).ok()?;
    let attributes = listed.attributes.unwrap_or_default();
    Some(VersionEntry {
        id,
        stages: Vec::new(),
        created_at: attributes.created.map(SystemTime::from),
        enabled: attributes.enabled.unwrap_or(true),
    })
}

#[cfg(test)]
mod tests;
