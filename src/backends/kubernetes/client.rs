//! The way to an API server: where it is, who we are, one HTTP call.
//!
//! kube reads the configuration and makes TLS of it. Its default stack is not used: it
//! retries, and logs paths, which hold names of secrets.

use std::{
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{Method, Request, header};
use http_body_util::BodyExt;
use hyper_util::{
    client::legacy::{Client as HttpClient, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use kube::{
    Config,
    client::{Body, ConfigExt},
    config::{KubeConfigOptions, Kubeconfig, KubeconfigError},
};
use tower::{BoxError, ServiceBuilder};
use zeroize::Zeroizing;

use super::{
    KubernetesSetupError as SetupError,
    error::{Answer, Refusal},
    token::TokenFile,
};
use crate::backends::{BackendError, failure, is_loopback};

/// A live API server connects within a round trip or two.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Idle connections go before load balancers forget them.
const IDLE: Duration = Duration::from_secs(60);

/// The longest answer, in bytes: a page full of the largest objects.
const MAX_ANSWER: usize = 16 << 20;

/// The longest refusal of which more than the status is read.
const MAX_REFUSAL: usize = 256 << 10;

const AGENT: &str = concat!("vaultmux-mesh/", env!("CARGO_PKG_VERSION"));

/// Objects without their values: what writes are to answer with.
const METADATA_ONLY: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";

/// A client of one API server.
pub(super) struct Cluster {
    client: kube::Client,
    token: Option<TokenFile>,
    timeout: Duration,
}

/// Reads what says where the cluster is.
pub(super) async fn configuration(
    path: Option<PathBuf>,
    context: Option<String>,
) -> Result<Config, SetupError> {
    let Some(path) = path else {
        return Config::incluster().map_err(|error| SetupError::NotInCluster(error.to_string()));
    };
    let failed = |error| SetupError::Kubeconfig {
        path: path.display().to_string(),
        message: kubeconfig_message(&path, &error),
    };
    let kubeconfig = Kubeconfig::read_from(&path).map_err(failed)?;
    let has_proxy = chosen_cluster_has_proxy(&kubeconfig, context.as_deref());
    let options = KubeConfigOptions { context, ..KubeConfigOptions::default() };
    let config = Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(failed)?;
    match &config {
        _ if has_proxy => Err(SetupError::Unsupported("a proxy-url: proxies are not supported")),
        Config { accept_invalid_certs: true, .. } => Err(SetupError::Unsupported(
            "insecure-skip-tls-verify, which is refused: give the certificate-authority",
        )),
        Config { auth_info, .. }
            if auth_info.exec.is_some() || auth_info.auth_provider.is_some() =>
        {
            Err(SetupError::Unsupported(
                "credentials of a plugin (exec or auth-provider), which is refused: \
                 give a token, a tokenFile or a client certificate",
            ))
        }
        _ => Ok(config),
    }
}

/// The error without what the parser quotes of the file, which holds credentials.
fn kubeconfig_message(path: &Path, error: &KubeconfigError) -> String {
    match error {
        KubeconfigError::ReadConfig(error, _) => error.to_string(),
        KubeconfigError::Parse(_) => format!("{} is not a kubeconfig", path.display()),
        other => other.to_string(),
    }
}

/// kube would also take a proxy for everything else from the environment.
fn chosen_cluster_has_proxy(kubeconfig: &Kubeconfig, context: Option<&str>) -> bool {
    let find = || {
        let name = context.or(kubeconfig.current_context.as_deref())?;
        let context = kubeconfig.contexts.iter().find(|named| named.name == name)?;
        let cluster = &context.context.as_ref()?.cluster;
        let cluster = kubeconfig.clusters.iter().find(|named| named.name == *cluster)?;
        cluster.cluster.as_ref()?.proxy_url.as_ref()
    };
    find().is_some_and(|url| !url.is_empty())
}

// === impl Cluster ===

impl Cluster {
    pub(super) fn new(mut config: Config, timeout: Duration) -> Result<Self, SetupError> {
        let failed = |error: kube::Error| SetupError::Client(failure::chain(&error).to_string());
        // kube would send a line break at the end of the file along, and does not say
        // when the token expires.
        let token = match &config.auth_info.token {
            Some(_) => None,
            None => config.auth_info.token_file.take(),
        };
        if config.cluster_url.scheme_str() != Some("https")
            && !config.cluster_url.host().is_some_and(is_loopback)
        {
            return Err(SetupError::InTheClear);
        }
        let mut connector = HttpConnector::new();
        connector.enforce_http(false);
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT.min(timeout)));
        let connector = config.rustls_https_connector_with_connector(connector).map_err(failed)?;
        let client: HttpClient<_, Body> = HttpClient::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE)
            .pool_timer(TokioTimer::new())
            .build(connector);
        let service = ServiceBuilder::new()
            .layer(config.base_uri_layer())
            .option_layer(config.auth_layer().map_err(failed)?)
            .layer(config.extra_headers_layer().map_err(failed)?)
            .map_err(BoxError::from)
            .service(client);
        Ok(Self {
            client: kube::Client::new(service, config.default_namespace),
            token: token.map(|path| TokenFile::new(path.into())),
            timeout,
        })
    }

    /// As [`crate::backends::SecretBackend::credentials_expire`].
    pub(super) fn credentials_expire(&self) -> Option<SystemTime> {
        self.token.as_ref()?.expires()
    }

    /// Bounds a method with all its calls.
    pub(super) async fn in_time<T>(
        &self,
        method: impl Future<Output = Result<T, BackendError>>,
    ) -> Result<T, BackendError> {
        tokio::time::timeout(self.timeout, method).await.unwrap_or(Err(BackendError::TimedOut))
    }

    pub(super) async fn get(
        &self,
        target: &str,
        object: &str,
    ) -> Result<Zeroizing<Vec<u8>>, Refusal> {
        let request = request(Method::GET, target, "application/json", None);
        self.call(request, object, false).await
    }

    pub(super) async fn post(
        &self,
        collection: &str,
        object: &str,
        body: Bytes,
    ) -> Result<Zeroizing<Vec<u8>>, Refusal> {
        let target = format!("{collection}?fieldManager=vaultmux-mesh");
        let body = ("application/json", body);
        self.call(request(Method::POST, &target, METADATA_ONLY, Some(body)), object, true).await
    }

    /// Sends a change in the language of RFC 7396.
    pub(super) async fn patch(
        &self,
        path: &str,
        object: &str,
        patch: Bytes,
    ) -> Result<Zeroizing<Vec<u8>>, Refusal> {
        let target = format!("{path}?fieldManager=vaultmux-mesh");
        let body = ("application/merge-patch+json", patch);
        self.call(request(Method::PATCH, &target, METADATA_ONLY, Some(body)), object, true).await
    }

    pub(super) async fn delete(
        &self,
        path: &str,
        object: &str,
        precondition: Bytes,
    ) -> Result<(), Refusal> {
        let body = ("application/json", precondition);
        let request = request(Method::DELETE, path, METADATA_ONLY, Some(body));
        // Whatever it says, the object is gone or going.
        self.call(request, object, true).await.map(drop)
    }

    async fn call(
        &self,
        request: Result<Request<Body>, http::Error>,
        object: &str,
        write: bool,
    ) -> Result<Zeroizing<Vec<u8>>, Refusal> {
        let mut request = request
            .map_err(|_| BackendError::Invalid("the request could not be built".to_owned()))?;
        if let Some(token) = &self.token {
            request.headers_mut().insert(header::AUTHORIZATION, token.header().await?);
        }
        let answer = self.client.send(request).await;
        let (head, mut rest) = answer.map_err(|error| unreachable(&error))?.into_parts();
        if head.status.is_success() {
            return Ok(collect(&mut rest, MAX_ANSWER).await?);
        }
        if let (401, Some(token)) = (head.status.as_u16(), &self.token) {
            token.doubt();
        }
        // Where the body is cut short or endless, the status says enough.
        let body = collect(&mut rest, MAX_REFUSAL).await.unwrap_or_default();
        let text = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok());
        let answer = Answer {
            status: head.status.as_u16(),
            retry_after: text("retry-after").and_then(failure::retry_after),
            audit_id: text("audit-id").unwrap_or_default(),
            body: &body,
            write,
            object,
        };
        Err(answer.sort())
    }
}

fn request(
    method: Method,
    target: &str,
    accept: &str,
    body: Option<(&str, Bytes)>,
) -> Result<Request<Body>, http::Error> {
    let request = Request::builder()
        .method(method)
        .uri(target)
        .header(header::ACCEPT, accept)
        .header(header::USER_AGENT, AGENT);
    match body {
        None => request.body(Body::empty()),
        Some((kind, body)) => request.header(header::CONTENT_TYPE, kind).body(Body::from(body)),
    }
}

fn unreachable(error: &kube::Error) -> BackendError {
    BackendError::Unavailable(Some(failure::chain(error)))
}

/// Gathers a body in a buffer that is wiped, also where it outgrows one.
async fn collect(body: &mut Body, limit: usize) -> Result<Zeroizing<Vec<u8>>, BackendError> {
    let mut whole = Zeroizing::new(Vec::with_capacity(16 << 10));
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| unreachable(&error))?;
        let Some(data) = frame.data_ref() else { continue };
        let length = whole.len() + data.len();
        if length > limit {
            return Err(BackendError::Invalid("the answer is too long".to_owned()));
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

#[cfg(test)]
mod tests;
