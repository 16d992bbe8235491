//! One call to an issuer of tokens.

use std::{error::Error as StdError, net::IpAddr, path::PathBuf, time::Duration};

use http::{HeaderMap, StatusCode, header};
use reqwest::{Certificate, Url, redirect::Policy};
use zeroize::Zeroizing;

/// The longest a whole call takes.
const TIMEOUT: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// No answer with a token is longer.
const MAX_ANSWER: usize = 64 * 1024;

/// Where an issuer is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    url: Url,
    ca_file: Option<PathBuf>,
}

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

/// What the issuer said.
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) body: Zeroizing<Vec<u8>>,
}

// === impl Endpoint ===

impl Endpoint {
    /// An address, and certificates to trust in place of the system's.
    ///
    /// # Errors
    /// [`InvalidEndpoint`].
    pub fn parse(address: &str, ca_file: Option<PathBuf>) -> Result<Self, InvalidEndpoint> {
        let url = Url::parse(address).map_err(|_| InvalidEndpoint::Url)?;
        let host = url.host_str().unwrap_or_default();
        let bare = url.username().is_empty() && url.password().is_none();
        if !bare
            || host.is_empty()
            || !matches!(url.scheme(), "http" | "https")
            || url.query().is_some()
            || url.fragment().is_some()
        {
            return Err(InvalidEndpoint::Url);
        }
        if url.scheme() == "http" && !is_loopback(host) {
            return Err(InvalidEndpoint::ClearText);
        }
        Ok(Self { url, ca_file })
    }

    /// The same issuer at a path below.
    pub(super) fn below(&self, path: &str) -> Self {
        let mut url = self.url.clone();
        let path = format!("{}{path}", url.path().trim_end_matches('/'));
        url.set_path(&path);
        Self { url, ca_file: self.ca_file.clone() }
    }

    pub(super) fn as_str(&self) -> &str {
        self.url.as_str()
    }

    /// Posts to it and reads the answer. An error is text without any of it.
    pub(super) async fn post(
        &self,
        headers: HeaderMap,
        body: Zeroizing<String>,
    ) -> Result<Reply, String> {
        let failed = |error: reqwest::Error| chain(&error.without_url());
        let call = self.client().await?.post(self.url.clone());
        let call = call.headers(headers).body(std::mem::take(&mut *{ body }));
        let mut response = call.send().await.map_err(failed)?;
        let mut body = Zeroizing::new(Vec::with_capacity(MAX_ANSWER));
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            if body.len() + chunk.len() > MAX_ANSWER {
                return Err(format!("the answer is larger than {} KiB", MAX_ANSWER >> 10));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Reply { status: response.status(), body })
    }

    /// A client for one call: they are rare, and a rotated authority counts at once.
    async fn client(&self) -> Result<reqwest::Client, String> {
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("vaultmux-mesh/", env!("CARGO_PKG_VERSION")))
            // A secret goes to this address, not to where it points.
            .redirect(Policy::none())
            .referer(false)
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
