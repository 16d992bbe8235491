//! Who is asked: our service, and a server that says yes without looking.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use axum::{
    Json, Router,
    extract::State,
    routing::{get, post},
};
use envoy_types::pb::envoy::service::auth::v3::{
    CheckRequest, CheckResponse,
    authorization_server::{Authorization, AuthorizationServer},
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tonic::{
    Request, Response, Status,
    transport::{Server, server::TcpIncoming},
};
use vaultmux_mesh::{
    app::App,
    config::{Address, Config, Environment},
    telemetry,
};

use crate::mint;

/// Our service.
pub(crate) struct Service {
    app: App,
    // Holds the configuration's files.
    _directory: TempDir,
}

/// A stand-in for the API server. It confirms whatever it is asked, so that garbage
/// that got as far as here would pass.
#[derive(Clone)]
pub(crate) struct Cluster {
    pub(crate) address: SocketAddr,
    reviews: Arc<AtomicUsize>,
    keys: Arc<str>,
}

struct Floor;

const CONFIG: &str = r#"
mode: development
telemetry: {log: {level: error}}
listeners:
  grpc: {address: "127.0.0.1:0"}
  rest: {address: "127.0.0.1:0"}
  admin: {address: "127.0.0.1:0"}
identity:
  trust_domains: [cluster.local]
  service_account_tokens:
    audiences: [vaultmux]
    watch: false
"#;

const STORES: &str = r#"
backends: {local: {type: memory}}
policies: [policies.yaml]
"#;

const POLICIES: &str = r#"
apiVersion: vaultmux.dev/v1alpha1
kind: AccessPolicy
metadata: {name: traffic}
spec:
  effect: Allow
  from: [{serviceAccounts: [prod/api]}]
  to: [{http: {hosts: [app.test], methods: [GET], paths: [/public/]}}]
"#;

/// The verdict holds for the whole run: nobody is asked twice about a good token.
const REVIEWED: &str = r#"
    verify: both
    kubeconfig: kubeconfig
    cache: {ttl: 1h}
"#;

/// Next to nothing is remembered: a token that was seen thousands of others ago is
/// verified like a new one.
const FORGETFUL: &str = r#"
    verify: jwks
    jwks: {issuer: "https://kubernetes.default.svc.cluster.local", source: "file:keys.json"}
    cache: {max_entries: 1}
"#;

// === impl Service ===

impl Service {
    /// Asks the keys first and then the API server, and remembers.
    pub(crate) async fn reviewed(cluster: &Cluster) -> Self {
        let kubeconfig = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
             contexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n\
             clusters: [{{name: c, cluster: {{server: \"http://{}\"}}}}]\n\
             users: [{{name: u, user: {{token: none}}}}]\n",
            cluster.address
        );
        Self::start(REVIEWED, &[("kubeconfig", &*kubeconfig)]).await
    }

    /// Asks the keys alone, at every request.
    pub(crate) async fn forgetful(cluster: &Cluster) -> Self {
        Self::start(FORGETFUL, &[("keys.json", &*cluster.keys)]).await
    }

    async fn start(tokens: &str, files: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().expect("make a directory");
        let config = format!("{}{}{STORES}", CONFIG.trim_end(), tokens);
        for (name, text) in
            [("config.yaml", &*config), ("policies.yaml", POLICIES)].iter().chain(files)
        {
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
        tcp(&self.app.addresses().grpc)
    }

    /// How many tokens it knew already, by its own metrics.
    pub(crate) async fn remembered(&self) -> u64 {
        let url = format!("http://{}/metrics", tcp(&self.app.addresses().admin));
        let text = reqwest::get(url).await.expect("an answer").text().await.expect("text");
        let line = "vaultmux_token_verifications_total{result=\"cached\"} ";
        let count = text.lines().find_map(|found| found.strip_prefix(line));
        count.map_or(0, |count| count.parse().expect("a number"))
    }
}

fn tcp(address: &Address) -> SocketAddr {
    match address {
        Address::Tcp(address) => *address,
        Address::Unix(_) => unreachable!("not in this configuration"),
    }
}

// === impl Cluster ===

impl Cluster {
    pub(crate) async fn start(keys: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind a port");
        let address = listener.local_addr().expect("bound");
        let cluster = Self { address, reviews: Arc::default(), keys: keys.into() };
        let router = Router::new()
            .route(
                "/.well-known/openid-configuration",
                get(async || Json(json!({"issuer": mint::ISSUER}))),
            )
            .route("/openid/v1/jwks", get(async |State(it): State<Self>| it.keys.to_string()))
            .route("/apis/authentication.k8s.io/v1/tokenreviews", post(review))
            .with_state(cluster.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        cluster
    }

    /// How many tokens it was asked about so far.
    pub(crate) fn reviews(&self) -> usize {
        self.reviews.load(Ordering::Relaxed)
    }
}

async fn review(State(cluster): State<Cluster>) -> Json<Value> {
    cluster.reviews.fetch_add(1, Ordering::Relaxed);
    let user = json!({
        "username": "system:serviceaccount:prod:api",
        "uid": mint::ACCOUNT_UID,
        "groups": ["system:serviceaccounts", "system:serviceaccounts:prod", "system:authenticated"],
        "extra": {
            "authentication.kubernetes.io/node-name": [mint::NODE],
            "authentication.kubernetes.io/pod-name": [mint::POD],
            "authentication.kubernetes.io/pod-uid": [mint::POD_UID],
        },
    });
    let status = json!({"authenticated": true, "audiences": [mint::AUDIENCE], "user": user});
    Json(json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "status": status,
    }))
}

// === impl Floor ===

/// Starts a bare server that allows everything.
pub(crate) async fn floor() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind a port");
    let address = listener.local_addr().expect("bound");
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let server = Server::builder().add_service(AuthorizationServer::new(Floor));
    tokio::spawn(server.serve_with_incoming(incoming));
    address
}

#[tonic::async_trait]
impl Authorization for Floor {
    async fn check(&self, _: Request<CheckRequest>) -> Result<Response<CheckResponse>, Status> {
        let status = Some(envoy_types::pb::google::rpc::Status::default());
        Ok(Response::new(CheckResponse { status, ..CheckResponse::default() }))
    }
}
