//! Key sets in files and at addresses.

use std::{error::Error as StdError, net::IpAddr, path::PathBuf, time::Duration};

use async_trait::async_trait;
use reqwest::{Certificate, Url, redirect::Policy};
use tokio::io::AsyncReadExt;

use super::{FetchedKeys, KeySource, MAX_SET};

/// The longest a whole fetch takes.
const TIMEOUT: Duration = Duration::from_secs(5);
/// A live server connects within a round trip or two.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// A file, read anew each time.
pub(in crate::identity::token) struct FileSource {
    path: PathBuf,
}

/// An address that anyone may read, such as a cluster's `jwks_uri`.
pub(in crate::identity::token) struct HttpsSource {
    url: Url,
    /// Certificates to trust instead of the system's, read anew each time.
    ca_file: Option<PathBuf>,
}

/// An address that keys must not be fetched from.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::identity::token) enum SourceError {
    /// Nothing that can be called, or nothing that should be.
    #[error("address {address:?} {why}")]
    Address {
        /// What was configured.
        address: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Credentials where they would be logged.
    #[error("address must not have a user or password in it")]
    Credentials,
}

// === impl FileSource ===

impl FileSource {
    /// Reads nothing yet.
    pub(in crate::identity::token) fn new(path: PathBuf) -> Self {
        Self { path }
    }
}

#[async_trait]
impl KeySource for FileSource {
    async fn fetch(&self) -> Result<FetchedKeys, String> {
        let failed = |error| format!("{}: {error}", self.path.display());
        let file = tokio::fs::File::open(&self.path).await.map_err(failed)?;
        let mut keys = Vec::new();
        // One byte more than allowed tells a file that is too long.
        file.take(MAX_SET as u64 + 1).read_to_end(&mut keys).await.map_err(failed)?;
        Ok(FetchedKeys { issuer: None, keys })
    }
}

// === impl HttpsSource ===

impl HttpsSource {
    /// Calls nobody and reads no file yet.
    ///
    /// # Errors
    /// [`SourceError`] if the address is not `https`; `http` is for loopback alone,
    /// as whoever could change the answer on the way could sign tokens.
    pub(in crate::identity::token) fn new(
        address: &str,
        ca_file: Option<PathBuf>,
    ) -> Result<Self, SourceError> {
        let wrong = |why| SourceError::Address { address: address.to_owned(), why };
        let url = Url::parse(address).map_err(|_| wrong("is not a URL"))?;
        if !url.username().is_empty() || url.password().is_some() {
            // Not repeated: it holds credentials.
            return Err(SourceError::Credentials);
        }
        let host = url.host_str().unwrap_or_default();
        if host.is_empty() || !matches!(url.scheme(), "http" | "https") {
            return Err(wrong("is not an http(s) URL"));
        }
        if url.scheme() == "http" && !is_loopback(host) {
            return Err(wrong("could be forged on the way: use https"));
        }
        Ok(Self { url, ca_file })
    }

    /// A client for one fetch: they are rare, and a rotated authority counts at once.
    async fn client(&self) -> Result<reqwest::Client, String> {
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("vaultmux-mesh/", env!("CARGO_PKG_VERSION")))
            // Keys are from this address, not from where it points.
            .redirect(Policy::none())
            .referer(false)
            // The key set retries, with a backoff.
            .retry(reqwest::retry::never())
            .no_proxy()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(TIMEOUT);
        match &self.ca_file {
            Some(path) => {
                let failed = |why: &str| format!("ca_file {}: {why}", path.display());
                let pem = tokio::fs::read(path).await;
                let pem = pem.map_err(|error| failed(&error.to_string()))?;
                let trusted = Certificate::from_pem_bundle(&pem).unwrap_or_default();
                if trusted.is_empty() {
                    return Err(failed("does not hold a certificate"));
                }
                builder = builder.tls_certs_only(trusted);
            }
            // Needs no authority, not even where the system has none.
            None if self.url.scheme() == "http" => builder = builder.tls_certs_only([]),
            None => {}
        }
        builder.build().map_err(|error| chain(&error))
    }
}

#[async_trait]
impl KeySource for HttpsSource {
    async fn fetch(&self) -> Result<FetchedKeys, String> {
        let failed = |error: reqwest::Error| chain(&error.without_url());
        let call = self.client().await?.get(self.url.clone());
        let mut response = call.send().await.map_err(failed)?;
        if response.status() != http::StatusCode::OK {
            return Err(format!("status {}", response.status().as_u16()));
        }
        let mut keys = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            if keys.len() + chunk.len() > MAX_SET {
                return Err(format!("the answer is larger than {} MiB", MAX_SET >> 20));
            }
            keys.extend_from_slice(&chunk);
        }
        Ok(FetchedKeys { issuer: None, keys })
    }
}

/// Whether a host, as it stands in a URL, is this machine.
fn is_loopback(host: &str) -> bool {
    let host = host.trim_matches(['[', ']']);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// The texts of an error and its causes on one line; never their `Debug`.
fn chain(error: &(dyn StdError + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| (*error).source());
    let texts: Vec<_> = causes.map(ToString::to_string).collect();
    texts.join(": ").replace(char::is_control, " ")
}
