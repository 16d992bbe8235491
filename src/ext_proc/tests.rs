//! The service as a proxy sees it: a real server, driven by a real client.

mod bodies;
mod headers;
mod identity;
mod patience;
mod retries;
mod signing;
mod streams;

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use envoy_types::pb::{
    envoy::{
        config::core::v3::{HeaderMap, HeaderValue, Metadata},
        service::ext_proc::v3::{
            HttpHeaders, ProcessingRequest, ProcessingResponse,
            external_processor_client::ExternalProcessorClient, processing_request::Request,
            processing_response::Response,
        },
    },
    google::protobuf::{Struct, Value, value::Kind},
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Status, Streaming, transport::Server};

use super::{ExtProc, ExtProcSettings, PhaseSettings, Processor};
use crate::{
    backends::{BackendError, SecretBackend, SecretPage, VersionEntry},
    fixture::catalog,
    identity::{Evidence, GrantKeys, GrantScope, SpiffeId, TrustDomain},
    injection::{CheckInjection, InjectedValue, Injection, InjectionMatch, Template, Upstreams},
    metrics::Metrics,
    operation::{SecretRoute, SecretRoutes},
    policy::{Policies, PolicySet},
    resolver::{CacheSettings, Lifetimes, Resolver, ResolverSettings},
    secret::{BackendName, SecretName, SecretRecord, SecretValue, SecretVersion},
    snapshot::{Current, Snapshot},
};

const API: &str = "spiffe://cluster.local/ns/prod/sa/api";
const CANARY: &str = "canary-4711";
const CLUSTER: &str = "outbound|443||api.stripe.com";

const POLICY: &str = r#"
apiVersion: vaultmux.dev/v1alpha1
kind: AccessPolicy
metadata: {name: api}
spec:
  effect: Allow
  from: [{serviceAccounts: ["prod/api"]}]
  to:
    - secrets: {names: ["readable", "absent"], verbs: [get]}
    - secrets:
        prefixes: ["use/"]
        verbs: [use]
        destinations: [{hosts: ["api.stripe.com"], clusters: ["outbound|443||api.stripe.com"]}]
"#;

/// A store whose secrets are in its code: `<name>` holds the value below.
struct Secrets;

fn grants() -> GrantKeys {
    let key = "test AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n";
    GrantKeys::parse(key, Duration::from_secs(30)).expect("valid")
}

fn snapshot(metrics: &Arc<Metrics>) -> Snapshot {
    let catalog = Arc::new(catalog());
    let policies = Policies::parse(&[("test.yaml".into(), POLICY.into())], &catalog);
    let backends = HashMap::from([(BackendName::parse("local").expect("valid"), Secrets.into())]);
    let cache = CacheSettings { lifetimes: Lifetimes::none(), ..CacheSettings::default() };
    let settings = ResolverSettings { cache, ..ResolverSettings::default() };
    let injection = Injection {
        name: "stripe".into(),
        matcher: InjectionMatch { paths: vec!["/inject".into()], ..InjectionMatch::default() },
        headers: vec![(
            http::header::AUTHORIZATION,
            InjectedValue::Text(
                Template::parse("Bearer {{secret://local/use/key}}", &catalog).expect("valid"),
            ),
        )],
        query: Vec::new(),
        signers: Vec::new(),
    };
    Snapshot {
        policies: Arc::new(PolicySet::compile(&policies.expect("valid policy"), 1)),
        load: crate::snapshot::Load::now(),
        catalog,
        resolver: Resolver::new(backends, settings, Arc::clone(metrics)),
        trust_domains: Arc::new([TrustDomain::parse("cluster.local").expect("valid")]),
        local: None,
        forwarded: None,
        proxies_are_workloads: false,
        tokens: None,
        grants: Arc::new(grants()),
        secret_routes: SecretRoutes::new(vec![
            SecretRoute::new(&["vaultmux.*".to_owned()], "/v1/secrets").expect("valid"),
        ]),
        injections: Arc::new([injection]),
        substitutions: crate::injection::Substitutions::default(),
        upstreams: Upstreams::new(vec![CLUSTER.to_owned()], Vec::new()).expect("valid"),
        check_injection: CheckInjection::default(),
        suspect_statuses: Arc::new([]),
        limits: crate::snapshot::Limits::default(),
        shares: crate::snapshot::Shares::default(),
        webhooks: Arc::default(),
        audit: crate::audit::AuditLog::off(),
    }
}

/// A running service.
struct Service {
    address: SocketAddr,
    metrics: Arc<Metrics>,
    shutdown: tokio_util::sync::CancellationToken,
}

/// One stream to it.
struct Exchange {
    requests: mpsc::Sender<ProcessingRequest>,
    answers: Streaming<ProcessingResponse>,
}

// === impl Service ===

impl Service {
    async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    async fn start_with(change: impl FnOnce(&mut Snapshot)) -> Self {
        let metrics = Arc::new(Metrics::default());
        let mut snapshot = snapshot(&metrics);
        change(&mut snapshot);
        let current = Current::new(snapshot);
        let phases = PhaseSettings { mode_override: true, ..PhaseSettings::default() };
        let settings = ExtProcSettings { phases, ..ExtProcSettings::default() };
        Self::serve(ExtProc::new(current, Arc::clone(&metrics), settings), metrics).await
    }

    async fn serve<P: Processor>(service: ExtProc<P>, metrics: Arc<Metrics>) -> Self {
        let shutdown = tokio_util::sync::CancellationToken::new();
        let service = service.ending_on(shutdown.clone()).into_server();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let incoming = TcpListenerStream::new(listener);
        tokio::spawn(Server::builder().add_service(service).serve_with_incoming(incoming));
        Self { address, metrics, shutdown }
    }

    async fn open(&self) -> Exchange {
        let client = ExternalProcessorClient::connect(format!("http://{}", self.address)).await;
        let (requests, receiver) = mpsc::channel(64);
        let response = client
            .expect("the server accepts")
            .max_encoding_message_size(usize::MAX)
            .process(ReceiverStream::new(receiver))
            .await;
        Exchange { requests, answers: response.expect("a stream").into_inner() }
    }

    /// The answer to one message on a stream of its own.
    async fn ask(&self, message: ProcessingRequest) -> Result<ProcessingResponse, Status> {
        let mut exchange = self.open().await;
        exchange.send(message).await;
        exchange.answer().await.map(|answer| answer.expect("an answer"))
    }

    fn counts(&self, line: &str) -> bool {
        self.metrics.encode().expect("text").lines().any(|found| found == line)
    }
}

// === impl Exchange ===

impl Exchange {
    async fn send(&self, message: ProcessingRequest) {
        self.requests.send(message).await.expect("the stream is open");
    }

    /// The next answer; none at the end of a stream with status OK.
    async fn answer(&mut self) -> Result<Option<ProcessingResponse>, Status> {
        let limit = Duration::from_secs(10);
        tokio::time::timeout(limit, self.answers.message()).await.expect("in time")
    }
}

// === messages ===

/// A request with certificate and destination, as Envoy describes it.
fn request(target: &str, headers: &[(&str, &str)]) -> ProcessingRequest {
    let mut message = anonymous("GET", "api.stripe.com", target, headers);
    let attributes = [
        ("connection.mtls", Kind::BoolValue(true)),
        ("connection.uri_san_peer_certificate", Kind::StringValue(API.into())),
        ("xds.cluster_name", Kind::StringValue(CLUSTER.into())),
    ];
    message.attributes = attributes_of(attributes);
    message
}

fn attributes_of<const N: usize>(fields: [(&str, Kind); N]) -> HashMap<String, Struct> {
    HashMap::from([("envoy.filters.http.ext_proc".to_owned(), fields_of(fields))])
}

fn fields_of<const N: usize>(fields: [(&str, Kind); N]) -> Struct {
    let field = |(name, kind): (&str, Kind)| (name.to_owned(), Value { kind: Some(kind) });
    Struct { fields: fields.into_iter().map(field).collect() }
}

fn anonymous(
    method: &str,
    authority: &str,
    target: &str,
    headers: &[(&str, &str)],
) -> ProcessingRequest {
    let pseudo = [(":method", method), (":authority", authority), (":path", target)];
    let header = |(key, value): &(&str, &str)| HeaderValue {
        key: (*key).to_owned(),
        value: String::new(),
        raw_value: value.as_bytes().to_vec(),
    };
    let headers = pseudo.iter().chain(headers).map(header).collect();
    let headers = HttpHeaders { headers: Some(HeaderMap { headers }), ..HttpHeaders::default() };
    ProcessingRequest {
        request: Some(Request::RequestHeaders(headers)),
        ..ProcessingRequest::default()
    }
}

fn with_grant(message: &mut ProcessingRequest, grant: Kind) {
    let filter = ("envoy.filters.http.ext_authz".to_owned(), fields_of([("grant", grant)]));
    let filter_metadata = HashMap::from([filter]);
    message.metadata_context = Some(Metadata { filter_metadata, ..Metadata::default() });
}

/// A grant for GET of this path.
fn grant(id: &str, host: &str, path: &str) -> Kind {
    let mut evidence = Evidence::default();
    evidence.add_mtls(id, "");
    let domain = TrustDomain::parse("cluster.local").expect("valid");
    let principal = evidence.principal(&[domain]).expect("valid");
    let scope = GrantScope { method: "GET", host, path };
    Kind::StringValue(grants().seal(&principal, scope, SystemTime::now()).expect("sealed"))
}

/// What an answer does to the request: sets these headers, in order.
fn mutated(answer: &ProcessingResponse) -> Vec<(String, String)> {
    let Some(Response::RequestHeaders(headers)) = &answer.response else {
        panic!("not an answer to request headers: {}", status(answer).0);
    };
    let mutation = headers.response.as_ref().and_then(|common| common.header_mutation.as_ref());
    let options = mutation.into_iter().flat_map(|mutation| &mutation.set_headers);
    let headers = options.filter_map(|option| option.header.as_ref());
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
    headers.map(|header| (header.key.clone(), text(&header.raw_value))).collect()
}

/// Status, details and body of an immediate response.
fn status(answer: &ProcessingResponse) -> (i32, &str, String) {
    match &answer.response {
        Some(Response::ImmediateResponse(response)) => {
            let body = String::from_utf8(response.body.clone()).expect("text");
            assert!(!response.details.contains(CANARY), "{}", response.details);
            (response.status.as_ref().map_or(0, |s| s.code), &response.details, body)
        }
        _ => (0, "", String::new()),
    }
}

// === impl Secrets ===

#[async_trait]
impl SecretBackend for Secrets {
    async fn get(
        &self,
        name: &SecretName,
        _: &SecretVersion,
    ) -> Result<SecretRecord, BackendError> {
        let value = match name.as_str() {
            "readable" | "use/key" => CANARY,
            "use/newline" => "canary-4711\n",
            "use/split" => "canary-4711\r\nx-admin: 1",
            "use/odd" => "a&b=/+%",
            "use/json" => r#"{"user": "canary-4711"}"#,
            "use/slow" => {
                tokio::time::sleep(Duration::from_secs(5)).await;
                CANARY
            }
            "use/down" => return Err(BackendError::Unavailable(None)),
            "use/refused" => return Err(BackendError::PermissionDenied(None)),
            "use/busy" => return Err(BackendError::Throttled { retry_after: None }),
            _ => return Err(BackendError::NotFound),
        };
        Ok(SecretRecord { value: SecretValue::new(value), version: "1".into(), created_at: None })
    }

    async fn list(&self, _: Option<&str>) -> Result<SecretPage, BackendError> {
        Ok(SecretPage::default())
    }

    async fn create(&self, _: &SecretName, _: &SecretValue) -> Result<Arc<str>, BackendError> {
        Err(BackendError::Conflict)
    }

    async fn update(&self, _: &SecretName, _: &SecretValue) -> Result<Arc<str>, BackendError> {
        Err(BackendError::Conflict)
    }

    async fn delete(&self, _: &SecretName, _: bool) -> Result<(), BackendError> {
        Ok(())
    }

    async fn versions(&self, _: &SecretName) -> Result<Vec<VersionEntry>, BackendError> {
        Err(BackendError::NotFound)
    }
}
