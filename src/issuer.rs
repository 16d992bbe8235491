//! One call to an issuer: of keys that tokens are checked by, or of tokens.
//!
//! Such calls are rare, and what they bring decides whom and what this service trusts. So
//! each has a client of its own, which reads its authorities anew, follows nothing and tries
//! once. A leaf: names no other module of ours.

use std::{error::Error as StdError, net::IpAddr, path::PathBuf, time::Duration};

use reqwest::{Certificate, Client, RequestBuilder, StatusCode, Url, redirect::Policy};
use zeroize::Zeroizing;

/// The longest a whole call takes.
const TIMEOUT: Duration = Duration::from_secs(5);
/// A live server connects within a round trip or two.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Where an issuer is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Address {
    url: Url,
    /// Certificates to trust instead of the system's.
    ca_file: Option<PathBuf>,
}

/// Why nothing may be called there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unfit {
    /// Not a URL.
    NoUrl,
    /// Another scheme than HTTP, or no host.
    NotHttp,
    /// A user or password in it, which would be logged.
    Credentials,
    /// `http` to another machine: what is sent could be read, and the answer changed.
    ClearText,
}

/// What the issuer said.
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) body: Zeroizing<Vec<u8>>,
}

// === impl Address ===

impl Address {
    /// Calls nobody and reads no file yet.
    pub(crate) fn parse(address: &str, ca_file: Option<PathBuf>) -> Result<Self, Unfit> {
        let url = Url::parse(address).map_err(|_| Unfit::NoUrl)?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Unfit::Credentials);
        }
        let host = url.host_str().unwrap_or_default();
        if host.is_empty() || !matches!(url.scheme(), "http" | "https") {
            return Err(Unfit::NotHttp);
        }
        if url.scheme() == "http" && !is_loopback(host) {
            return Err(Unfit::ClearText);
        }
        Ok(Self { url, ca_file })
    }

    pub(crate) fn url(&self) -> &Url {
        &self.url
    }

    /// The same issuer at a path below.
    pub(crate) fn below(&self, path: &str) -> Self {
        let mut url = self.url.clone();
        let path = format!("{}{path}", url.path().trim_end_matches('/'));
        url.set_path(&path);
        Self { url, ca_file: self.ca_file.clone() }
    }

    /// Asks, and reads an answer of up to `limit` bytes. The error is one line, without the
    /// address and without anything that was sent or received.
    pub(crate) async fn call(
        &self,
        limit: usize,
        request: impl FnOnce(&Client, Url) -> RequestBuilder,
    ) -> Result<Reply, String> {
        let failed = |error: reqwest::Error| chain(&error.without_url());
        let request = request(&self.client().await?, self.url.clone());
        let mut response = request.send().await.map_err(failed)?;
        // What a vector leaves behind where it grows is not wiped: this one does not.
        let mut body = Zeroizing::new(Vec::with_capacity(limit));
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            if body.len() + chunk.len() > limit {
                return Err(match limit {
                    0..0x10_0000 => format!("the answer is larger than {} KiB", limit >> 10),
                    _ => format!("the answer is larger than {} MiB", limit >> 20),
                });
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Reply { status: response.status(), body })
    }

    async fn client(&self) -> Result<Client, String> {
        let mut builder = Client::builder()
            .user_agent(concat!("vaultmux-mesh/", env!("CARGO_PKG_VERSION")))
            // What is trusted is this address, not where it points.
            .redirect(Policy::none())
            .referer(false)
            // Callers retry, with a backoff.
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
