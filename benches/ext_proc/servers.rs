//! Who is asked: our service, and servers that answer every message with an empty answer.

use std::{net::SocketAddr, pin::Pin};

use envoy_types::pb::envoy::service::ext_proc::v3::{
    BodyResponse, CommonResponse, HeadersResponse, ProcessingRequest, ProcessingResponse,
    TrailersResponse,
    external_processor_server::{ExternalProcessor, ExternalProcessorServer},
    processing_request::Request as Phase,
    processing_response::Response as Answer,
};
use futures_util::{Stream, StreamExt as _};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tonic::{
    Request, Response, Status, Streaming,
    transport::{Server, server::TcpIncoming},
};
use vaultmux_mesh::{
    app::App,
    config::{Address, Config, Environment},
    telemetry,
};

/// Our service, with rules about one destination.
pub(crate) struct Service {
    app: App,
    // Holds the configuration's files.
    _directory: TempDir,
}

/// Answers as soon as it has read.
struct Floor;

pub(crate) const CONFIG: &str = r#"
mode: development
telemetry: {log: {level: error}}
audit: {sink: "file:{directory}/audit.jsonl"}
listeners:
  grpc: {address: "127.0.0.1:0"}
  rest: {address: "127.0.0.1:0"}
  admin: {address: "127.0.0.1:0"}
identity:
  trust_domains: [cluster.local]
backends:
  local: {type: memory, secrets: {stripe: sk-live-4711-4711-4711-4711}}
default_backend: local
policies: [policies.yaml]
secret_routes: [{hosts: [vaultmux.test], prefix: /v1/secrets}]
ext_proc:
  tls_clusters: [payment]
  substitutions:
    - name: stripe
      match: {hosts: [api.stripe.test], clusters: [payment]}
      surfaces: {json: inert, text: inert}
"#;

pub(crate) const POLICIES: &str = r#"
apiVersion: vaultmux.dev/v1alpha1
kind: AccessPolicy
metadata: {name: api}
spec:
  effect: Allow
  from: [{serviceAccounts: [prod/api]}]
  to:
    - secrets:
        names: [stripe]
        verbs: [use]
        destinations: [{hosts: [api.stripe.test], clusters: [payment]}]
"#;

// === impl Service ===

impl Service {
    pub(crate) async fn start() -> Self {
        let directory = tempfile::tempdir().expect("make a directory");
        let here = directory.path().to_str().expect("a plain path");
        for (name, text) in [("config.yaml", CONFIG), ("policies.yaml", POLICIES)] {
            let text = text.replace("{directory}", here);
            std::fs::write(directory.path().join(name), text).expect("write a file");
        }
        let environment = Environment::of_process();
        let config = Config::load(&directory.path().join("config.yaml"), &environment);
        let config = config.expect("a configuration");
        let log_level = telemetry::start(&config.log).expect("a level");
        let app = App::start(config, environment, log_level).await.expect("started");
        Self { app, _directory: directory }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        match &self.app.addresses().grpc {
            Address::Tcp(address) => *address,
            Address::Unix(_) => unreachable!("not in this configuration"),
        }
    }
}

// === impl Floor ===

/// Starts a bare server.
pub(crate) async fn floor() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind a port");
    let address = listener.local_addr().expect("bound");
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let server = Server::builder().add_service(ExternalProcessorServer::new(Floor));
    tokio::spawn(server.serve_with_incoming(incoming));
    address
}

#[tonic::async_trait]
impl ExternalProcessor for Floor {
    type ProcessStream = Pin<Box<dyn Stream<Item = Result<ProcessingResponse, Status>> + Send>>;

    async fn process(
        &self,
        request: Request<Streaming<ProcessingRequest>>,
    ) -> Result<Response<Self::ProcessStream>, Status> {
        let answers = request.into_inner().map(|message| Ok(empty(&message?)));
        Ok(Response::new(Box::pin(answers)))
    }
}

/// "Go on as it is", of the kind that the message wants.
fn empty(message: &ProcessingRequest) -> ProcessingResponse {
    let headers = || HeadersResponse { response: Some(CommonResponse::default()) };
    let body = || BodyResponse { response: Some(CommonResponse::default()) };
    let answer = match &message.request {
        Some(Phase::RequestHeaders(_)) => Answer::RequestHeaders(headers()),
        Some(Phase::ResponseHeaders(_)) => Answer::ResponseHeaders(headers()),
        Some(Phase::RequestBody(_)) => Answer::RequestBody(body()),
        Some(Phase::ResponseBody(_)) => Answer::ResponseBody(body()),
        Some(Phase::RequestTrailers(_)) => Answer::RequestTrailers(TrailersResponse::default()),
        Some(Phase::ResponseTrailers(_)) | None => {
            Answer::ResponseTrailers(TrailersResponse::default())
        }
    };
    ProcessingResponse { response: Some(answer), ..ProcessingResponse::default() }
}
