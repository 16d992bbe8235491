//! Key sets in files and at addresses.

use std::path::PathBuf;

use async_trait::async_trait;
use tokio::io::AsyncReadExt;

use super::{FetchedKeys, KeySource, MAX_SET};
use crate::issuer::{Address, Unfit};

/// A file, read anew each time.
pub(in crate::identity::token) struct FileSource {
    path: PathBuf,
}

/// An address that anyone may read, such as a cluster's `jwks_uri`.
pub(in crate::identity::token) struct HttpsSource(Address);

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
        let why = match Address::parse(address, ca_file) {
            Ok(address) => return Ok(Self(address)),
            // Not repeated: it holds credentials.
            Err(Unfit::Credentials) => return Err(SourceError::Credentials),
            Err(Unfit::NoUrl) => "is not a URL",
            Err(Unfit::NotHttp) => "is not an http(s) URL",
            Err(Unfit::ClearText) => "could be forged on the way: use https",
        };
        Err(SourceError::Address { address: address.to_owned(), why })
    }
}

#[async_trait]
impl KeySource for HttpsSource {
    async fn fetch(&self) -> Result<FetchedKeys, String> {
        let mut reply = self.0.call(MAX_SET, |client, url| client.get(url)).await?;
        if reply.status != http::StatusCode::OK {
            return Err(format!("status {}", reply.status.as_u16()));
        }
        Ok(FetchedKeys { issuer: None, keys: std::mem::take(&mut *reply.body) })
    }
}
