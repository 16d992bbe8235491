//! Where access tokens are issued.

use std::path::PathBuf;

use http::{HeaderMap, header};
use zeroize::Zeroizing;

pub(super) use crate::issuer::Reply;
use crate::issuer::{Address, Unfit};

/// No answer with a token is longer.
const MAX_ANSWER: usize = 64 * 1024;

/// Where an issuer is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint(Address);

/// An address that secrets must not be sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidEndpoint {
    /// Nothing that can be called.
    #[error("is not an http(s) URL without user, query and fragment")]
    Url,
    /// `http` is for loopback alone.
    #[error("would send secrets in clear text: use https")]
    ClearText,
}

// === impl Endpoint ===

impl Endpoint {
    /// An address, and certificates to trust in place of the system's.
    ///
    /// # Errors
    /// [`InvalidEndpoint`].
    pub fn parse(address: &str, ca_file: Option<PathBuf>) -> Result<Self, InvalidEndpoint> {
        let parsed = Address::parse(address, ca_file).map_err(|unfit| match unfit {
            Unfit::ClearText => InvalidEndpoint::ClearText,
            Unfit::NoUrl | Unfit::NotHttp | Unfit::Credentials => InvalidEndpoint::Url,
        })?;
        if parsed.url().query().is_some() || parsed.url().fragment().is_some() {
            return Err(InvalidEndpoint::Url);
        }
        Ok(Self(parsed))
    }

    /// The same issuer at a path below.
    pub(super) fn below(&self, path: &str) -> Self {
        Self(self.0.below(path))
    }

    pub(super) fn as_str(&self) -> &str {
        self.0.url().as_str()
    }

    /// Posts to it and reads the answer. An error is text without any of it.
    pub(super) async fn post(
        &self,
        headers: HeaderMap,
        body: Zeroizing<String>,
    ) -> Result<Reply, String> {
        let body = std::mem::take(&mut *{ body });
        let call =
            self.0.call(MAX_ANSWER, |client, url| client.post(url).headers(headers).body(body));
        call.await
    }
}

/// Headers of a call, with the credentials marked as what they are.
pub(super) fn headers(
    content_type: &'static str,
    accept: &'static str,
    authorization: Option<&str>,
) -> Option<HeaderMap> {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, http::HeaderValue::from_static(content_type));
    headers.insert(header::ACCEPT, http::HeaderValue::from_static(accept));
    if let Some(value) = authorization {
        let mut value = http::HeaderValue::from_str(value).ok()?;
        value.set_sensitive(true);
        headers.insert(header::AUTHORIZATION, value);
    }
    Some(headers)
}
