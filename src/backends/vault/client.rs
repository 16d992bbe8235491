//! One HTTP request to Vault: bounded in time and size, no retries, no redirects.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{HeaderValue, Method};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{Certificate, Url, redirect::Policy};

use super::{VaultSettings, VaultSetupError, buffer::Buffer};
use crate::backends::{
    BackendError,
    failure::{chain, retry_after},
    is_loopback,
};

/// A live server connects within a round trip or two.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// The longest answer that is read. A value of [`super::MAX_VALUE`] fits in it
/// however much of it Vault escapes, and so do some 200,000 names of a folder.
const MAX_ANSWER: usize = 8 << 20;

const NO_CERTIFICATE: &str = "does not hold a certificate";

/// What stands in a path as it is; slashes part its segments.
const SEGMENT: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// Where a Vault is, and how to speak to it.
pub(super) struct Client {
    http: ArcSwap<reqwest::Client>,
    /// Ends in `/v1/`.
    base: Url,
    namespace: Option<HeaderValue>,
    ca: Option<Authority>,
    timeout: Duration,
}

/// The file of the authority that signs the server's certificate.
struct Authority {
    path: PathBuf,
    /// What was in it last time.
    pem: Mutex<Vec<u8>>,
}

/// A request without its token.
#[derive(Clone)]
pub(super) struct Request {
    method: Method,
    /// Below `/v1/`, encoded; with a query.
    target: String,
    body: Option<Bytes>,
    /// Whether the body holds credentials, not a value.
    login: bool,
}

/// An answer of any status.
#[derive(Default)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) retry_after: Option<Duration>,
    pub(super) body: Buffer,
    /// Whether its texts may be quoted: nothing that was sent can be in them.
    pub(super) quotable: bool,
}

/// Encodes what stands between slashes for a URL.
pub(super) fn encode(path: &str) -> String {
    utf8_percent_encode(path, SEGMENT).to_string()
}

/// The address of a server, with which paths below `/v1/` can be joined.
pub(super) fn base(address: &str) -> Result<Url, VaultSetupError> {
    let wrong = |why| VaultSetupError::Address { address: address.to_owned(), why };
    let mut url = Url::parse(address).map_err(|_| wrong("is not a URL"))?;
    let host = url.host_str().unwrap_or_default();
    if host.is_empty() || !matches!(url.scheme(), "http" | "https") {
        return Err(wrong("is not an http(s) URL"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        // Not repeated: it holds credentials.
        return Err(VaultSetupError::AddressWithCredentials);
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(wrong("must have no query or fragment"));
    }
    if url.scheme() == "http" && !is_loopback(host) {
        return Err(wrong("would send the token in clear text: use https"));
    }
    let path = format!("{}/v1/", url.path().trim_end_matches('/'));
    url.set_path(&path);
    Ok(url)
}

// === impl Client ===

impl Client {
    pub(super) fn new(
        settings: &VaultSettings,
        timeout: Duration,
    ) -> Result<Self, VaultSetupError> {
        let base = base(&settings.address)?;
        let namespace = settings.namespace.as_deref().map(HeaderValue::from_str);
        let namespace = namespace.transpose().map_err(|_| VaultSetupError::Namespace)?;
        let authority = |path: &PathBuf| {
            let failed = |why| VaultSetupError::Authority { path: path.clone(), why };
            let pem = std::fs::read(path).map_err(|error| failed(error.to_string()))?;
            let trusted = certificates(&pem).ok_or_else(|| failed(NO_CERTIFICATE.to_owned()))?;
            Ok((Authority { path: path.clone(), pem: Mutex::new(pem) }, trusted))
        };
        let (ca, trusted) = match settings.ca_file.as_ref().map(authority).transpose()? {
            Some((ca, trusted)) => (Some(ca), Some(trusted)),
            // Needs no authority, not even where the system has none.
            None if base.scheme() == "http" => (None, Some(Vec::new())),
            None => (None, None),
        };
        let http = build(trusted, timeout).map_err(VaultSetupError::client)?;
        Ok(Self { http: ArcSwap::from_pointee(http), base, namespace, ca, timeout })
    }

    /// Sends a request once.
    pub(super) async fn send(
        &self,
        request: &Request,
        token: Option<&HeaderValue>,
    ) -> Result<Answer, BackendError> {
        let url = self.base.join(&request.target);
        let url = url.map_err(|_| BackendError::Invalid("the path is no URL".to_owned()))?;
        let mut call = self.http.load().request(request.method.clone(), url);
        call = call.header("x-vault-request", "true").timeout(self.timeout);
        if let Some(namespace) = &self.namespace {
            call = call.header("x-vault-namespace", namespace);
        }
        if let Some(token) = token {
            call = call.header("x-vault-token", token);
        }
        if let Some(body) = &request.body {
            call = call.header("content-type", "application/json").body(body.clone());
        }
        let mut response = match call.send().await {
            Ok(response) => response,
            Err(error) => {
                if error.is_connect() {
                    self.read_authority_again().await;
                }
                return Err(from_reqwest(error));
            }
        };
        let status = response.status().as_u16();
        let wait = response.headers().get("retry-after");
        let retry_after = wait.and_then(|wait| retry_after(wait.to_str().ok()?));
        let mut body = Buffer::default();
        while let Some(chunk) = response.chunk().await.map_err(from_reqwest)? {
            if body.as_slice().len() + chunk.len() > MAX_ANSWER {
                return Err(BackendError::Invalid("its answer is too long".to_owned()));
            }
            body.extend(&chunk);
        }
        let quotable = status >= 400 && request.quotable(body.as_slice(), token);
        Ok(Answer { status, retry_after, body, quotable })
    }

    /// The authority's file may have been replaced, as when it is rotated: the
    /// next connection trusts what is in it now.
    async fn read_authority_again(&self) {
        let Some(ca) = &self.ca else { return };
        let Ok(pem) = tokio::fs::read(&ca.path).await else { return };
        let mut last = ca.pem.lock().unwrap_or_else(PoisonError::into_inner);
        if *last != pem
            && let Some(trusted) = certificates(&pem)
            && let Ok(http) = build(Some(trusted), self.timeout)
        {
            self.http.store(http.into());
            *last = pem;
        }
    }
}

/// A client that trusts these authorities, or the system's.
fn build(trusted: Option<Vec<Certificate>>, timeout: Duration) -> reqwest::Result<reqwest::Client> {
    let mut builder = reqwest::Client::builder()
        .user_agent(concat!("vaultmux-mesh/", env!("CARGO_PKG_VERSION")))
        // A standby node sends on to the active one, at any address it likes:
        // the token must not go there.
        .redirect(Policy::none())
        .referer(false)
        // The resolver retries, with a budget over all callers.
        .retry(reqwest::retry::never())
        // A token is for this address only, not for what HTTP_PROXY says.
        .no_proxy()
        .connect_timeout(CONNECT_TIMEOUT.min(timeout));
    if let Some(trusted) = trusted {
        builder = builder.tls_certs_only(trusted);
    }
    builder.build()
}

/// The certificates in a file; `None` if there are none, as while it is written.
fn certificates(pem: &[u8]) -> Option<Vec<Certificate>> {
    Certificate::from_pem_bundle(pem).ok().filter(|found| !found.is_empty())
}

fn from_reqwest(error: reqwest::Error) -> BackendError {
    if error.is_timeout() {
        return BackendError::TimedOut;
    }
    // The URL has the secret's name in it.
    BackendError::Unavailable(Some(chain(&error.without_url())))
}

// === impl Request ===

impl Request {
    pub(super) fn new(method: Method, target: String) -> Self {
        Self { method, target, body: None, login: false }
    }

    pub(super) fn get(target: String) -> Self {
        Self::new(Method::GET, target)
    }

    pub(super) fn post(target: String, body: Buffer) -> Self {
        Self { body: Some(body.into_bytes()), ..Self::new(Method::POST, target) }
    }

    /// A POST of credentials instead of a value.
    pub(super) fn login(target: String, body: Buffer) -> Self {
        Self { login: true, ..Self::post(target, body) }
    }

    /// Whether texts of a refusal can be shown: none repeats what was secret in
    /// the request.
    fn quotable(&self, answer: &[u8], token: Option<&HeaderValue>) -> bool {
        let holds = |secret: &[u8]| {
            !secret.is_empty() && answer.windows(secret.len()).any(|window| window == secret)
        };
        if token.is_some_and(|token| holds(token.as_bytes())) {
            return false;
        }
        match &self.body {
            None => true,
            Some(_) if !self.login => false,
            Some(body) => serde_json::from_slice::<BTreeMap<&str, &str>>(body).is_ok_and(|sent| {
                sent.iter().all(|(key, text)| key.starts_with("role") || !holds(text.as_bytes()))
            }),
        }
    }
}

// === impl Answer ===

impl Answer {
    #[cfg(test)]
    pub(super) fn new(status: u16, body: &str) -> Self {
        let body = Buffer::from(body.as_bytes());
        Self { status, retry_after: None, body, quotable: true }
    }

    pub(super) fn is_success(&self) -> bool {
        (200..=299).contains(&self.status)
    }

    /// The answer's JSON. No cause: a parser's text may quote it.
    pub(super) fn json<'a, T: serde::Deserialize<'a>>(&'a self) -> Result<T, BackendError> {
        serde_json::from_slice(self.body.as_slice()).map_err(|_| BackendError::Unavailable(None))
    }
}
