//! Who this service is to Microsoft Entra ID, and until when.
//!
//! The SDK has no chain of credentials: the configuration says which one it is.

use std::{
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use azure_core::{
    credentials::{AccessToken, Secret, TokenCredential, TokenRequestOptions},
    error::{Error, ErrorKind, Result},
    http::{ClientMethodOptions, ClientOptions, Transport},
};
use azure_identity::{
    ClientAssertion, ClientAssertionCredential, ClientAssertionCredentialOptions,
    ClientSecretCredential, ClientSecretCredentialOptions, ManagedIdentityCredential,
    ManagedIdentityCredentialOptions, UserAssignedId,
};
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::AzureSetupError;
use crate::secret::SecretValue;

/// How long before it runs out the SDK renews a token.
const RENEWAL: Duration = Duration::from_secs(300);

/// How soon after one token another is asked for, when the vault refuses the first.
const REFUSED_WAIT: Duration = Duration::from_secs(60);

/// How this service shows who it is. What is `None` was found neither in the
/// configuration nor in the environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AzureCredential {
    /// A Kubernetes service account's token, exchanged for one of Entra ID.
    WorkloadIdentity {
        /// The directory.
        tenant_id: Option<String>,
        /// The application or user-assigned identity that trusts the account.
        client_id: Option<String>,
        /// The projected token.
        token_file: Option<PathBuf>,
    },
    /// The identity of the machine, or one assigned to it.
    ManagedIdentity {
        /// Which one, if not the machine's own.
        client_id: Option<String>,
    },
    /// A service principal with a password.
    ClientSecret {
        /// The directory.
        tenant_id: Option<String>,
        /// The application.
        client_id: Option<String>,
        /// Its password.
        secret: Option<ClientSecret>,
    },
}

/// Where the password of a service principal stands.
#[derive(Clone, Debug)]
pub enum ClientSecret {
    /// Here.
    Text(SecretValue),
    /// In a file, which is read for each token.
    File(PathBuf),
}

/// Credentials of the SDK, made anew when the password has changed or a token was
/// refused, and until when the last token is good.
pub(super) struct Credential {
    identity: Identity,
    options: ClientOptions,
    current: tokio::sync::Mutex<Option<Current>>,
    expires: Mutex<Option<SystemTime>>,
}

/// [`AzureCredential`] with all that it needs.
enum Identity {
    Workload { tenant_id: String, client_id: String, token_file: PathBuf },
    Managed { client_id: Option<String> },
    Principal { tenant_id: String, client_id: String, secret: ClientSecret },
}

/// The SDK keeps a token until it runs out, whatever the vault says to it.
struct Current {
    credential: Arc<dyn TokenCredential>,
    secret: Option<Secret>,
    since: Instant,
}

/// The SDK's own workload identity reads the file when it is made, and then at most
/// every ten minutes; this one for each exchange, so what the kubelet wrote last counts.
#[derive(Debug)]
struct TokenFile(PathBuf);

// === impl Credential ===

impl Credential {
    /// Prepares a credential; calls no one and reads no file.
    pub(super) fn new(
        credential: AzureCredential,
        options: &ClientOptions,
        local: Transport,
    ) -> std::result::Result<Self, AzureSetupError> {
        let identity = Identity::complete(credential)?;
        let mut options = options.clone();
        if let Identity::Managed { .. } = identity {
            options.transport = Some(local);
        }
        // What the SDK refuses it refuses now; the password may come later.
        identity
            .make(&options, Some(Secret::new("unread")))
            .map_err(|error| AzureSetupError::Credential(error.to_string()))?;
        Ok(Self { identity, options, current: Default::default(), expires: Mutex::default() })
    }

    /// When the last token runs out.
    pub(super) fn expire(&self) -> Option<SystemTime> {
        *self.expires.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn current(&self) -> Result<Arc<dyn TokenCredential>> {
        let secret = self.identity.secret().await?;
        let mut current = self.current.lock().await;
        match &*current {
            Some(known) if known.secret == secret && !self.was_refused(known) => {
                Ok(Arc::clone(&known.credential))
            }
            _ => {
                let credential = self.identity.make(&self.options, secret.clone())?;
                let made = Arc::clone(&credential);
                *current = Some(Current { credential, secret, since: Instant::now() });
                Ok(made)
            }
        }
    }

    /// Who comes back for a token before its last one is to be renewed was refused
    /// with it. A vault that refuses every token costs one exchange a minute.
    fn was_refused(&self, known: &Current) -> bool {
        let good = self.expire().is_some_and(|at| at > SystemTime::now() + RENEWAL);
        good && known.since.elapsed() >= REFUSED_WAIT
    }
}

#[async_trait]
impl TokenCredential for Credential {
    async fn get_token(
        &self,
        scopes: &[&str],
        options: Option<TokenRequestOptions<'_>>,
    ) -> Result<AccessToken> {
        let token = self.current().await?.get_token(scopes, options).await?;
        *self.expires.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(SystemTime::from(token.expires_on));
        Ok(token)
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential").field("expires", &self.expire()).finish_non_exhaustive()
    }
}

// === impl Identity ===

impl Identity {
    fn complete(credential: AzureCredential) -> std::result::Result<Self, AzureSetupError> {
        let needed = |id: Option<String>, what| id.ok_or(AzureSetupError::Missing(what));
        let tenant = |id| needed(id, "tenant: set `tenant_id` or AZURE_TENANT_ID");
        let client = |id| needed(id, "client: set `client_id` or AZURE_CLIENT_ID");
        Ok(match credential {
            AzureCredential::ManagedIdentity { client_id } => Self::Managed { client_id },
            AzureCredential::WorkloadIdentity { tenant_id, client_id, token_file } => {
                Self::Workload {
                    tenant_id: tenant(tenant_id)?,
                    client_id: client(client_id)?,
                    token_file: token_file.ok_or(AzureSetupError::Missing(
                        "service account token: set `token_file` or AZURE_FEDERATED_TOKEN_FILE",
                    ))?,
                }
            }
            AzureCredential::ClientSecret { tenant_id, client_id, secret } => Self::Principal {
                tenant_id: tenant(tenant_id)?,
                client_id: client(client_id)?,
                secret: secret.ok_or(AzureSetupError::Missing(
                    "client secret: set `client_secret_file`, `client_secret` or \
                     AZURE_CLIENT_SECRET",
                ))?,
            },
        })
    }

    /// The password as it is now, where there is one.
    #[expect(clippy::disallowed_methods, reason = "this is where the secret goes to the SDK")]
    async fn secret(&self) -> Result<Option<Secret>> {
        let Self::Principal { secret, .. } = self else { return Ok(None) };
        let text = match secret {
            ClientSecret::File(path) => read(path, "client secret").await?,
            ClientSecret::Text(value) => {
                Zeroizing::new(String::from_utf8_lossy(value.expose_secret()).into_owned())
            }
        };
        Ok(Some(Secret::new(text.trim().to_owned())))
    }

    fn make(
        &self,
        options: &ClientOptions,
        secret: Option<Secret>,
    ) -> Result<Arc<dyn TokenCredential>> {
        let client_options = options.clone();
        Ok(match self {
            Self::Workload { tenant_id, client_id, token_file } => ClientAssertionCredential::new(
                tenant_id.clone(),
                client_id.clone(),
                TokenFile(token_file.clone()),
                Some(ClientAssertionCredentialOptions { client_options }),
            )?,
            Self::Managed { client_id } => {
                ManagedIdentityCredential::new(Some(ManagedIdentityCredentialOptions {
                    user_assigned_id: client_id.clone().map(UserAssignedId::ClientId),
                    client_options,
                }))?
            }
            Self::Principal { tenant_id, client_id, .. } => ClientSecretCredential::new(
                tenant_id,
                client_id.clone(),
                secret.unwrap_or_else(|| Secret::new("")),
                Some(ClientSecretCredentialOptions { client_options }),
            )?,
        })
    }
}

// === impl TokenFile ===

#[async_trait]
impl ClientAssertion for TokenFile {
    async fn secret(&self, _: Option<ClientMethodOptions<'_>>) -> Result<String> {
        Ok(read(&self.0, "service account token").await?.trim().to_owned())
    }
}

async fn read(path: &PathBuf, what: &str) -> Result<Zeroizing<String>> {
    let text = tokio::fs::read_to_string(path).await.map_err(|error| {
        let message = format!("read the {what} in {} failed", path.display());
        Error::with_error(ErrorKind::Credential, error, message)
    })?;
    Ok(Zeroizing::new(text))
}

// === impl ClientSecret ===

impl PartialEq for ClientSecret {
    #[expect(clippy::disallowed_methods, reason = "a reload asks whether anything changed")]
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Text(one), Self::Text(other)) => one.expose_secret() == other.expose_secret(),
            (Self::File(one), Self::File(other)) => one == other,
            _ => false,
        }
    }
}

impl Eq for ClientSecret {}
