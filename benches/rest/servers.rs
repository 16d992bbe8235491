//! Who is asked: our service, and a server that answers as many bytes without looking.

use std::{convert::Infallible, net::SocketAddr};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tempfile::TempDir;
use tokio::net::TcpListener;
use vaultmux_mesh::{
    app::App,
    config::{Address, Config, Environment},
    telemetry,
};

/// What is read.
pub(crate) const VALUE: &str = "0123456789abcdef0123456789abcdef";

/// Our service.
pub(crate) struct Service {
    app: App,
    // Holds the configuration's files.
    _directory: TempDir,
}

/// What the service's own metrics say.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) requests: f64,
    pub(crate) misses: f64,
    pub(crate) audited: f64,
    pub(crate) dropped: f64,
}

const CONFIG: &str = r#"
mode: development
telemetry: {log: {level: error}}
listeners:
  grpc: {address: "127.0.0.1:0"}
  rest: {address: "127.0.0.1:0"}
  admin: {address: "127.0.0.1:0"}
identity:
  trust_domains: [cluster.local]
  local: {namespace: prod, service_account: api}
  service_account_tokens:
    audiences: [vaultmux]
    watch: false
    verify: jwks
    jwks: {issuer: "https://kubernetes.default.svc.cluster.local", source: "file:keys.json"}
backends:
  local: {type: memory, secrets: {prod/key: VALUE}}
cache: {ttl: 1h}
policies: [policies.yaml]
"#;

const AUDIT: &str = "audit: {sink: \"file:audit.jsonl\"}\n";

const POLICIES: &str = r#"
apiVersion: vaultmux.dev/v1alpha1
kind: AccessPolicy
metadata: {name: own}
spec:
  effect: Allow
  from: [{namespaces: ["*"]}]
  to: [{secrets: {prefixes: ["{namespace}/"], verbs: [get]}}]
"#;

// === impl Service ===

/// The configuration's files, in a directory of their own.
pub(crate) fn files(keys: &str) -> TempDir {
    let directory = tempfile::tempdir().expect("make a directory");
    let config = format!("{}{AUDIT}", CONFIG.replace("VALUE", VALUE));
    for (name, text) in
        [("config.yaml", &*config), ("policies.yaml", POLICIES), ("keys.json", keys)]
    {
        std::fs::write(directory.path().join(name), text).expect("write a file");
    }
    directory
}

impl Service {
    pub(crate) async fn start(keys: &str) -> Self {
        let directory = files(keys);
        let environment = Environment::of_process();
        let config = Config::load(&directory.path().join("config.yaml"), &environment);
        let config = config.expect("a configuration");
        let log_level = telemetry::start(&config.log).expect("a level");
        let app = App::start(config, environment, log_level).await.expect("started");
        Self { app, _directory: directory }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        tcp(&self.app.addresses().rest)
    }

    pub(crate) async fn seen(&self) -> Seen {
        let url = format!("http://{}/metrics", tcp(&self.app.addresses().admin));
        let text = reqwest::get(url).await.expect("an answer").text().await.expect("text");
        let value = |series: &str| {
            let found = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
            found.map_or(0.0, |value| value.parse().expect("a number"))
        };
        Seen {
            requests: value(r#"vaultmux_requests_total{method="GET",status="200"}"#),
            misses: value(r#"vaultmux_cache_lookups_total{result="miss"}"#),
            audited: value("vaultmux_audit_written_total"),
            dropped: value("vaultmux_audit_dropped_total"),
        }
    }
}

fn tcp(address: &Address) -> SocketAddr {
    match address {
        Address::Tcp(address) => *address,
        Address::Unix(_) => unreachable!("not in this configuration"),
    }
}

/// Starts a bare server that gives this answer to everybody.
pub(crate) async fn bare(answer: Vec<u8>) -> SocketAddr {
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("a head") + 4;
    let head = std::str::from_utf8(&answer[..end]).expect("ASCII");
    let mut headers = HeaderMap::new();
    for (name, value) in head.lines().skip(1).filter_map(|line| line.split_once(": ")) {
        // The server's own.
        if !["content-length", "date"].contains(&name) {
            let name: HeaderName = name.parse().expect("a name");
            headers.insert(name, HeaderValue::from_str(value).expect("a value"));
        }
    }
    let body = Bytes::copy_from_slice(&answer[end..]);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind a port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.expect("accepted");
            stream.set_nodelay(true).expect("set");
            let (headers, body) = (headers.clone(), body.clone());
            let answer = service_fn(move |_: Request<Incoming>| {
                let mut response = Response::new(Full::new(body.clone()));
                *response.headers_mut() = headers.clone();
                std::future::ready(Ok::<_, Infallible>(response))
            });
            let mut server = http1::Builder::new();
            let server = server.timer(TokioTimer::new());
            tokio::spawn(server.serve_connection(TokioIo::new(stream), answer));
        }
    });
    address
}
