//! In whose name the store is called, and for how long.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use aws_config::{SdkConfig, sts::AssumeRoleProvider};
use aws_credential_types::{
    Credentials,
    provider::{ProvideCredentials, SharedCredentialsProvider, future},
};

use super::AssumeRole;

/// What CloudTrail shows when a role is assumed, unless configured otherwise.
const SESSION_NAME: &str = "vaultmux-mesh";

/// When the credentials run out that were fetched last.
#[derive(Clone, Debug, Default)]
pub(super) struct Expiry(Arc<Mutex<Option<SystemTime>>>);

/// Hands out what another provider gives, and remembers when it runs out. The SDK
/// caches what it gets from here, so this is asked once per lifetime of credentials.
#[derive(Debug)]
struct Remembering {
    inner: SharedCredentialsProvider,
    expiry: Expiry,
}

/// The default chain's credentials, or those of a role that is assumed with them;
/// `None` if the chain was left out.
pub(super) async fn provider(
    base: &SdkConfig,
    role: Option<AssumeRole>,
    expiry: Expiry,
) -> Option<SharedCredentialsProvider> {
    let inner = match role {
        None => base.credentials_provider()?,
        Some(AssumeRole { role_arn, external_id, session_name }) => {
            let mut provider = AssumeRoleProvider::builder(role_arn)
                .session_name(session_name.as_deref().unwrap_or(SESSION_NAME))
                .configure(base);
            if let Some(id) = external_id {
                provider = provider.external_id(id);
            }
            SharedCredentialsProvider::new(provider.build().await)
        }
    };
    Some(SharedCredentialsProvider::new(Remembering { inner, expiry }))
}

// === impl Expiry ===

impl Expiry {
    pub(super) fn get(&self) -> Option<SystemTime> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, expiry: Option<SystemTime>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = expiry;
    }
}

// === impl Remembering ===

impl ProvideCredentials for Remembering {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(async {
            let credentials = self.inner.provide_credentials().await?;
            self.expiry.set(credentials.expiry());
            Ok(credentials)
        })
    }

    fn fallback_on_interrupt(&self) -> Option<Credentials> {
        // The shared handle itself does not pass this on.
        self.inner.as_ref().fallback_on_interrupt()
    }
}
