//! The HTTP clients under the SDK: one to the vault and to Entra ID, one to the
//! machine's own identity endpoint.

use std::{path::Path, sync::Arc, time::Duration};

use async_trait::async_trait;
use azure_core::{
    error::{Error, ErrorKind, Result},
    http::{AsyncRawResponse, HttpClient, Request, Transport},
};
use reqwest::{Certificate, Client, ClientBuilder, redirect::Policy};

use super::AzureSetupError;

/// A live endpoint connects within a round trip or two.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// The SDK's transports.
pub(super) struct Transports {
    /// To the vault and to Entra ID.
    pub(super) remote: Transport,
    /// To the identity endpoint, which is a link-local or loopback address.
    pub(super) local: Transport,
}

/// Keeps the SDK from repeating calls to the identity endpoint: for minutes, and
/// whatever it is told. The resolver repeats.
#[derive(Debug)]
struct Once(Client);

// === impl Transports ===

/// Prepares both; connects nowhere.
pub(super) fn build(
    ca_file: Option<&Path>,
    timeout: Duration,
) -> std::result::Result<Transports, AzureSetupError> {
    let certificates = ca_file.map(read_certificates).transpose()?.unwrap_or_default();
    // Redirects: Azure has none, and our token is not for other hosts.
    let client = || {
        Client::builder()
            .connect_timeout(CONNECT_TIMEOUT.min(timeout))
            .redirect(Policy::none())
            .tls_certs_merge(certificates.clone())
    };
    let finish = |client: ClientBuilder| {
        client.build().map_err(|error| {
            AzureSetupError::Tls(crate::backends::failure::chain(&error).to_string())
        })
    };
    Ok(Transports {
        remote: Transport::new(Arc::new(finish(client())?)),
        // A proxy would be on another machine, and get its identity instead.
        local: local(finish(client().no_proxy())?),
    })
}

/// A transport to the identity endpoint.
pub(super) fn local(client: Client) -> Transport {
    Transport::new(Arc::new(Once(client)))
}

fn read_certificates(path: &Path) -> std::result::Result<Vec<Certificate>, AzureSetupError> {
    let refuse =
        |message: String| AzureSetupError::CaFile { path: path.display().to_string(), message };
    let text = std::fs::read(path).map_err(|error| refuse(error.to_string()))?;
    let found = Certificate::from_pem_bundle(&text)
        .map_err(|_| refuse("is not a PEM file of certificates".to_owned()))?;
    if found.is_empty() { Err(refuse("holds no certificate".to_owned())) } else { Ok(found) }
}

// === impl Once ===

#[async_trait]
impl HttpClient for Once {
    async fn execute_request(&self, request: &Request) -> Result<AsyncRawResponse> {
        let response = self.0.execute_request(request).await.map_err(|error| {
            // The SDK repeats what is of kind `Io` or `Connection`.
            Error::with_error(ErrorKind::Other, error, "the identity endpoint was not reached")
        })?;
        let status = response.status();
        if !(status.is_server_error() || [404, 410, 429].contains(&u16::from(status))) {
            return Ok(response);
        }
        let raw = response.try_into_raw_response().await?;
        let kind =
            ErrorKind::HttpResponse { status, error_code: None, raw_response: Some(Box::new(raw)) };
        Err(Error::with_message(kind, format!("the identity endpoint answered {status}")))
    }
}
