//! The way to a cluster's API server: where it is, who we are, one HTTP call.
//!
//! kube reads the configuration and makes TLS of it. Its default stack is not used: it
//! retries, and logs paths, which hold names of secrets. What answers mean is up to who
//! asks. Depends on nothing else in the crate.

mod configuration;
mod lines;
mod token;

use std::{
    error::Error as StdError,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderMap, HeaderValue, Request, Response, header};
use http_body_util::BodyExt;
use hyper_util::{
    client::legacy::{Client as HttpClient, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use kube::{
    Config,
    client::{Body, ConfigExt},
};
use tower::{BoxError, Service, ServiceBuilder, ServiceExt, service_fn};
use zeroize::Zeroizing;

pub use self::lines::Lines;
use self::token::TokenFile;

/// A live API server connects within a round trip or two.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Idle connections go before load balancers forget them.
const IDLE: Duration = Duration::from_secs(60);

/// When a connection without traffic is probed: a watch may be silent for long, also
/// because nobody is there any more.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// The longest refusal of which more than the status is read.
const MAX_REFUSAL: usize = 256 << 10;

const AGENT: HeaderValue =
    HeaderValue::from_static(concat!("vaultmux-mesh/", env!("CARGO_PKG_VERSION")));

/// A client of one API server. Clones share its connections and its token.
#[derive(Clone)]
pub struct ApiServer {
    client: kube::Client,
    token: Option<Arc<TokenFile>>,
}

/// What the server answered. The body is wiped when dropped.
pub struct Answer {
    /// Its status; the body of a refusal may be missing.
    pub status: u16,
    /// The `Retry-After` header, as sent.
    pub retry_after: Option<String>,
    /// What the server's audit log calls this call; empty if it does not say.
    pub audit_id: String,
    /// The whole body.
    pub body: Zeroizing<Vec<u8>>,
}

/// Settings that no call could succeed with. Its texts quote no file's content.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SetupError {
    /// Plain HTTP to another machine.
    #[error("the API server's address is plain http: tokens and values would travel in the clear")]
    InTheClear,
    /// No kubeconfig, and no pod's service account.
    #[error("this is no pod with a service account, and no kubeconfig is named: {0}")]
    NotInCluster(String),
    /// A kubeconfig that cannot be read or has no such context.
    #[error("kubeconfig {path}: {message}")]
    Kubeconfig {
        /// Which file.
        path: String,
        /// What is wrong with it.
        message: String,
    },
    /// A kubeconfig that asks for what is not done here.
    #[error("kubeconfig has {0}")]
    Unsupported(&'static str),
    /// Certificates or credentials that cannot be used.
    #[error("no client can be made of the credentials: {0}")]
    Client(String),
}

/// A call without an answer. Its texts are for the log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// Our own token cannot be read.
    #[error("{0}")]
    Credentials(String),
    /// No connection, or one that broke.
    #[error("{0}")]
    Unreachable(String),
    /// Nothing came in time.
    #[error("no answer in time")]
    TimedOut,
    /// The answer is longer than the caller takes.
    #[error("the answer is too long")]
    TooLong,
}

// === impl ApiServer ===

impl ApiServer {
    /// Prepares a client of the cluster that a kubeconfig names, or of the one that this
    /// runs in, as the pod's own service account. No other file is looked for. Reads
    /// files, and calls nobody.
    ///
    /// `timeout` is for an answer to begin; bounding all of it is up to the caller.
    ///
    /// # Errors
    /// [`SetupError`].
    pub async fn connect(
        kubeconfig: Option<PathBuf>,
        context: Option<String>,
        timeout: Duration,
    ) -> Result<Self, SetupError> {
        Self::new(configuration::read(kubeconfig, context).await?, timeout)
    }

    fn new(mut config: Config, timeout: Duration) -> Result<Self, SetupError> {
        let failed = |error: kube::Error| SetupError::Client(chain(&error));
        // kube would send a line break at the end of the file along, and does not say
        // when the token expires.
        let token = match &config.auth_info.token {
            Some(_) => None,
            None => config.auth_info.token_file.take(),
        };
        let token = token.map(|path| Arc::new(TokenFile::new(path.into())));
        if configuration::is_in_the_clear(&config) {
            return Err(SetupError::InTheClear);
        }
        let mut connector = HttpConnector::new();
        connector.enforce_http(false);
        connector.set_nodelay(true);
        connector.set_keepalive(Some(KEEPALIVE));
        connector.set_keepalive_interval(Some(KEEPALIVE));
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT.min(timeout)));
        let connector = config.rustls_https_connector_with_connector(connector).map_err(failed)?;
        let client: HttpClient<_, Body> = HttpClient::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE)
            .pool_timer(TokioTimer::new())
            .build(connector);
        let calls = ServiceBuilder::new()
            .layer(config.base_uri_layer())
            .option_layer(config.auth_layer().map_err(failed)?)
            .layer(config.extra_headers_layer().map_err(failed)?)
            .map_err(BoxError::from)
            .service(client);
        let own = token.clone();
        let service =
            service_fn(move |request| call(calls.clone(), own.clone(), timeout, request).boxed());
        Ok(Self { client: kube::Client::new(service, config.default_namespace), token })
    }

    /// A client of a server without credentials.
    #[cfg(test)]
    pub(crate) fn at(url: &str, timeout: Duration) -> Self {
        Self::new(Config::new(url.parse().expect("a URL")), timeout).expect("a client")
    }

    /// When our own credentials run out; `None` if they do not, or if none have been
    /// read yet.
    #[must_use]
    pub fn credentials_expire(&self) -> Option<SystemTime> {
        self.token.as_ref()?.expires()
    }

    /// The same server for kube's own calls, which watches need. kube logs answers that
    /// it cannot read as they are.
    #[must_use]
    pub fn client(&self) -> kube::Client {
        self.client.clone()
    }

    /// Sends one request and takes the whole answer, of up to `longest` bytes. Every
    /// status is an answer; nothing is tried twice.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn send(&self, request: Request<Bytes>, longest: usize) -> Result<Answer, CallError> {
        let answer = self.client.send(request.map(Body::from)).await;
        let (head, mut rest) = answer.map_err(|error| CallError::from(&error))?.into_parts();
        let body = match head.status.is_success() {
            true => collect(&mut rest, longest).await?,
            // Where the body is cut short or endless, the status says enough.
            false => collect(&mut rest, MAX_REFUSAL).await.unwrap_or_default(),
        };
        Ok(Answer {
            status: head.status.as_u16(),
            retry_after: text(&head.headers, "retry-after"),
            audit_id: text(&head.headers, "audit-id").unwrap_or_default(),
            body,
        })
    }
}

/// Sends a request as ourselves, and waits for the head of the answer.
async fn call<B>(
    calls: impl Service<Request<Body>, Response = Response<B>, Error = BoxError>,
    token: Option<Arc<TokenFile>>,
    timeout: Duration,
    mut request: Request<Body>,
) -> Result<Response<B>, BoxError> {
    let headers = request.headers_mut();
    headers.insert(header::USER_AGENT, AGENT);
    if let Some(token) = &token {
        headers.insert(header::AUTHORIZATION, token.header().await?);
    }
    let answer = tokio::time::timeout(timeout, calls.oneshot(request)).await;
    let answer = answer.map_err(|_| CallError::TimedOut)??;
    if let (401, Some(token)) = (answer.status().as_u16(), &token) {
        token.doubt();
    }
    Ok(answer)
}

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
}

/// Gathers a body in a buffer that is wiped, also where it outgrows one.
async fn collect(body: &mut Body, limit: usize) -> Result<Zeroizing<Vec<u8>>, CallError> {
    let mut whole = Zeroizing::new(Vec::with_capacity(16 << 10));
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| CallError::from(&error))?;
        let Some(data) = frame.data_ref() else { continue };
        let length = whole.len() + data.len();
        if length > limit {
            return Err(CallError::TooLong);
        }
        if length > whole.capacity() {
            let mut larger = Zeroizing::new(Vec::with_capacity(2 * length));
            larger.extend_from_slice(&whole);
            whole = larger;
        }
        whole.extend_from_slice(data);
    }
    Ok(whole)
}

// === impl CallError ===

impl From<&kube::Error> for CallError {
    fn from(error: &kube::Error) -> Self {
        let ours = match error {
            kube::Error::Service(error) => error.downcast_ref::<Self>().cloned(),
            _ => None,
        };
        ours.unwrap_or_else(|| Self::Unreachable(chain(error)))
    }
}

/// The texts of an error and its causes; never their `Debug`.
fn chain(error: &(dyn StdError + 'static)) -> String {
    let errors = std::iter::successors(Some(error), |error| (*error).source());
    errors.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

#[cfg(test)]
mod tests;
