//! `envoy/egress-injection.yaml` and `envoy/upstream-retry.yaml`: a workload that holds no
//! keys, behind a real Envoy that puts them in and checks whom it sends them to.

use std::{
    convert::Infallible,
    fs,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use http::{Request, Response};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::harness::{
    Answer, Body, Certificates, Client, Edit, Envoy, Received, Service, Upstream, encrypted, sized,
};

pub(crate) const WORKLOAD: &str = "spiffe://cluster.local/ns/agents/sa/assistant";
const REFERENCE: &str = "Bearer {{secret://local/shared/stripe}}";
const KEY: &str = "canary-stripe-9Lm";

const CONFIG: &str = r#"
mode: development
listeners:
  grpc:
    address: 127.0.0.1:0
    tls:
      cert_file: /etc/vaultmux/tls/vaultmux.crt
      key_file: /etc/vaultmux/tls/vaultmux.key
      client_ca_file: /etc/vaultmux/tls/ca.crt
    trusted_peers: ["spiffe://cluster.local/ns/agents/sa/*"]
  rest: {address: 127.0.0.1:0}
  admin: {address: 127.0.0.1:0}
identity: {trust_domains: [cluster.local], proxies_are_workloads: true}
policies: [policies.yaml]
"#;

const MEMORY: &str = r#"
backends:
  local: {type: memory, secrets: {shared/stripe: canary-stripe-9Lm, shared/other: canary-other}}
"#;

const POLICIES: &str = r#"
apiVersion: vaultmux.dev/v1alpha1
kind: AccessPolicy
metadata: {name: assistant}
spec:
  effect: Allow
  from: [{serviceAccounts: [agents/assistant], require: [mtls]}]
  to:
    - secrets:
        names: [shared/stripe]
        verbs: [use]
        destinations: [{hosts: [api.stripe.test], clusters: [payment]}]
"#;

/// A workload's way out, and two APIs at its end.
pub(crate) struct Egress {
    pub(crate) service: Service,
    pub(crate) envoy: Envoy,
    pub(crate) payment: Upstream,
    pub(crate) storage: Upstream,
    // Holds the certificates.
    _directory: TempDir,
}

/// What differs from the ordinary.
#[derive(Clone, Copy)]
struct Setup {
    workload: &'static str,
    /// The name in the certificate of the payment API.
    payment: &'static str,
    edit: Option<(&'static str, &'static str)>,
}

const ORDINARY: Setup = Setup { workload: WORKLOAD, payment: "api.stripe.test", edit: None };

/// Certificates of the workload's proxy and of the service.
fn certificates(workload: &str) -> (TempDir, Certificates) {
    let directory = tempfile::tempdir().expect("make a directory");
    let certificates = Certificates::create(directory.path());
    certificates.proxy(workload);
    certificates.save("vaultmux", &certificates.with_dns(&["vaultmux.test"]));
    (directory, certificates)
}

async fn serve(directory: &TempDir, config: &str, policies: &str) -> Service {
    let tls = directory.path().display().to_string();
    let config = encrypted(&config.replace("/etc/vaultmux/tls", &tls), "payment, storage");
    Service::start(&[("config.yaml", &config), ("policies.yaml", policies)]).await
}

fn edits(directory: &TempDir, service: &Service, ports: &[(u16, SocketAddr)]) -> Vec<Edit> {
    let port =
        |from: u16, to: u16| (format!("port_value: {from}}}"), format!("port_value: {to}}}"));
    let grpc: SocketAddr = service.grpc().parse().expect("gRPC listens on a port");
    let mut edits = vec![
        ("/etc/envoy/tls".to_owned(), directory.path().display().to_string()),
        port(9901, 0),
        port(10080, 0),
        port(9191, grpc.port()),
    ];
    edits.extend(ports.iter().map(|(from, to)| port(*from, to.port())));
    edits
}

// === impl Egress ===

impl Egress {
    /// Of `agents/assistant`, with a service of this configuration.
    pub(crate) async fn start(config: &str, policies: &str) -> Self {
        Self::with(ORDINARY, config, policies).await
    }

    async fn with(setup: Setup, config: &str, policies: &str) -> Self {
        let (directory, certificates) = certificates(setup.workload);
        let service = serve(&directory, config, policies).await;
        let payment = Upstream::start_tls(certificates.server(setup.payment)).await;
        let storage = Upstream::start_tls(certificates.server("storage.test")).await;
        let ports = [(8444, payment.address), (8445, storage.address)];
        let mut edits = edits(&directory, &service, &ports);
        edits.extend(setup.edit.map(|(from, to)| (from.to_owned(), to.to_owned())));
        let envoy = Envoy::start(&Envoy::bootstrap("egress-injection.yaml", &edits)).await;
        Self { service, envoy, payment, storage, _directory: directory }
    }

    /// The workload, which speaks clear text.
    fn workload(&self) -> Client {
        Client::plain(self.envoy.address("egress"))
    }

    async fn charge(&self, authorization: &str) -> Answer {
        let headers = [("authorization", authorization)];
        self.workload().request("GET", "api.stripe.test", "/v1/charges", &headers).await
    }

    /// Nothing that the service printed shows a value.
    fn assert_silent(&self) {
        for line in self.service.logs() {
            assert!(!line.contains("canary"), "{line}");
        }
    }

    fn assert_nothing_went_out(&self, what: &str) {
        assert!(self.payment.received().is_empty(), "{what}: {:?}", self.payment.received());
        assert!(self.storage.received().is_empty(), "{what}: {:?}", self.storage.received());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_put_in_on_the_way_out() {
    let egress = Egress::start(&(CONFIG.to_owned() + MEMORY), POLICIES).await;
    for client in [egress.workload(), egress.workload().http2()] {
        let headers = [("authorization", REFERENCE), ("x-vaultmux-principal", "me")];
        let answer = client.request("GET", "api.stripe.test", "/v1/charges?a=b", &headers).await;
        let received: Received = answer.json();
        assert_eq!(received.header("authorization"), [format!("Bearer {KEY}")]);
        assert_eq!(
            (received.authority.as_str(), received.path.as_str()),
            ("api.stripe.test", "/v1/charges?a=b")
        );
        // Nothing tells the API about the mesh.
        let told = |(name, _): &&(String, String)| {
            ["x-envoy-", "x-forwarded-", "x-vaultmux-", "x-request-id"]
                .iter()
                .any(|prefix| name.starts_with(prefix))
        };
        assert_eq!(received.headers.iter().find(told), None);
    }
    // Without a reference nothing is done to a request.
    let received: Received = egress.charge("Bearer own").await.json();
    assert_eq!(received.header("authorization"), ["Bearer own"]);
    egress.assert_silent();
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_do_not_go_elsewhere() {
    let egress = Egress::start(&(CONFIG.to_owned() + MEMORY), POLICIES).await;
    let rows = [
        ("storage.test", REFERENCE, 403),
        ("evil.test", REFERENCE, 403),
        ("evil.test", "Bearer own", 403),
        ("api.stripe.test.evil.test", REFERENCE, 403),
        ("api.stripe.test", "Bearer {{secret://local/shared/other}}", 403),
        ("api.stripe.test", "Bearer {{secret://local/shared/nothing}}", 403),
    ];
    for (host, authorization, status) in rows {
        let headers = [("authorization", authorization)];
        let answer = egress.workload().request("GET", host, "/", &headers).await;
        assert_eq!(answer.status, status, "{host} {authorization}: {}", answer.text());
        assert!(!answer.text().contains("canary"), "{}", answer.text());
        egress.assert_nothing_went_out(host);
    }
    egress.assert_silent();
}

/// Whatever policies say: a key goes to no cluster that may be reached in clear text.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_said_to_be_encrypted_gets_nothing() {
    for (more, status) in [
        ("tls_clusters: []", 403),
        ("tls_clusters: [storage]", 403),
        ("cleartext_clusters: [storage]", 403),
        ("cleartext_clusters: [payment]", 200),
        ("cleartext_clusters: ['*']", 200),
    ] {
        let config = format!("{CONFIG}{MEMORY}ext_proc: {{{more}}}\n");
        let egress = Egress::start(&config, POLICIES).await;
        let answer = egress.charge(REFERENCE).await;
        assert_eq!(answer.status, status, "{more}: {}", answer.text());
        if status == 403 {
            egress.assert_nothing_went_out(more);
            let details = "vaultmux_clear_text_upstream:ext_proc.tls_clusters";
            assert_eq!(egress.envoy.access(0).await["details"], details, "{more}");
        }
    }
}

/// Whoever answers for the API without its name gets nothing.
#[tokio::test(flavor = "multi_thread")]
async fn upstreams_with_another_name_get_nothing() {
    let setup = Setup { payment: "evil.test", ..ORDINARY };
    let egress = Egress::with(setup, &(CONFIG.to_owned() + MEMORY), POLICIES).await;
    assert_eq!(egress.charge(REFERENCE).await.status, 503);
    egress.assert_nothing_went_out("another name");
}

#[tokio::test(flavor = "multi_thread")]
async fn other_workloads_and_other_directions_are_refused() {
    let outbound = "    traffic_direction: OUTBOUND\n";
    let rows = [
        (Setup { workload: "spiffe://cluster.local/ns/agents/sa/other", ..ORDINARY }, 403),
        (Setup { edit: Some((outbound, "    traffic_direction: INBOUND\n")), ..ORDINARY }, 401),
        (Setup { edit: Some((outbound, "")), ..ORDINARY }, 401),
        // Envoy cannot ask, so the service's words do not matter.
        (Setup { workload: "spiffe://cluster.local/ns/else/sa/assistant", ..ORDINARY }, 500),
    ];
    for (setup, status) in rows {
        let egress = Egress::with(setup, &(CONFIG.to_owned() + MEMORY), POLICIES).await;
        let answer = egress.charge(REFERENCE).await;
        assert_eq!(answer.status, status, "{}: {}", setup.workload, answer.text());
        egress.assert_nothing_went_out(setup.workload);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_goes_out_while_the_service_is_gone() {
    let mut egress = Egress::start(&(CONFIG.to_owned() + MEMORY), POLICIES).await;
    egress.service.kill().await;
    for authorization in [REFERENCE, "Bearer own"] {
        let answer = egress.charge(authorization).await;
        assert!(matches!(answer.status, 500 | 503 | 504), "{}", answer.status);
        egress.assert_nothing_went_out(authorization);
    }
}

/// A signature made with keys of no value becomes a good one, in headers and in a URL.
#[cfg(feature = "aws")]
#[tokio::test(flavor = "multi_thread")]
async fn signatures_for_aws_are_made_anew() {
    const SIGNED: &str = r#"
backends: {local: {type: memory, secrets: {shared/aws: canary-aws-key}}}
ext_proc:
  injections:
    - name: storage
      match: {hosts: [storage.test], clusters: [storage]}
      sigv4:
        access_key_id: AKIAREAL
        secret_access_key: "{{secret://local/shared/aws}}"
        regions: [us-east-1]
        services: [s3]
"#;
    let policies = POLICIES
        .replace("shared/stripe", "shared/aws")
        .replace("hosts: [api.stripe.test], clusters: [payment]", "clusters: [storage]");
    let egress = Egress::start(&(CONFIG.to_owned() + SIGNED), &policies).await;
    let dummy = |scope: &str| {
        format!(
            "AWS4-HMAC-SHA256 Credential=AKIADUMMY/20200101/{scope}/aws4_request, \
             SignedHeaders=host;x-amz-content-sha256;x-amz-date;x-custom, Signature=00"
        )
    };
    let get = |target: &'static str, authorization: String, content: &'static str| {
        let client = egress.workload();
        async move {
            let headers = [
                ("authorization", authorization.as_str()),
                ("x-amz-content-sha256", content),
                ("x-amz-date", "20200101T000000Z"),
                ("x-custom", "a  b"),
                ("x-amz-security-token", "dummy"),
            ];
            client.request("GET", "storage.test", target, &headers).await
        }
    };
    let answer =
        get("/bucket/a%20b?list-type=2&prefix=x", dummy("us-east-1/s3"), "UNSIGNED-PAYLOAD").await;
    let received: Received = answer.json();
    crate::sigv4::verify(&received, "AKIAREAL", "canary-aws-key");
    assert!(received.header("x-amz-security-token").is_empty());

    let presigned = "/bucket/key?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Expires=600\
                     &X-Amz-Credential=AKIADUMMY%2F20200101%2Fus-east-1%2Fs3%2Faws4_request\
                     &X-Amz-Date=20200101T000000Z&X-Amz-SignedHeaders=host&X-Amz-Signature=00\
                     &versionId=7";
    let answer = egress.workload().get("storage.test", presigned).await;
    crate::sigv4::verify_url(&answer.json(), "AKIAREAL", "canary-aws-key");
    let count = egress.storage.received().len();
    assert_eq!(count, 2);
    for (authorization, content, status) in [
        (dummy("us-east-1/iam"), "UNSIGNED-PAYLOAD", 403),
        (dummy("eu-west-1/s3"), "UNSIGNED-PAYLOAD", 403),
        (dummy("us-east-1/s3"), "STREAMING-AWS4-HMAC-SHA256-PAYLOAD", 400),
        ("Bearer own".to_owned(), "UNSIGNED-PAYLOAD", 400),
    ] {
        let answer = get("/bucket/key", authorization, content).await;
        assert_eq!(answer.status, status, "{}", answer.text());
    }
    assert_eq!(egress.storage.received().len(), count);
    egress.assert_silent();
}

/// An issuer of tokens that numbers them, and how often it was asked.
async fn issuer() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind a port");
    let address = listener.local_addr().expect("bound");
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let count = Arc::clone(&count);
            let service = service_fn(move |request: Request<Incoming>| {
                let shown = request.headers().get("authorization").cloned();
                // `vaultmux:canary-client`
                let good = shown.is_some_and(|it| it == "Basic dmF1bHRtdXg6Y2FuYXJ5LWNsaWVudA==");
                let number = count.fetch_add(1, Ordering::SeqCst) + 1;
                let token = format!(
                    r#"{{"access_token":"canary-token-{number}","token_type":"Bearer","expires_in":3600}}"#
                );
                let answer = match good {
                    true => Response::builder().body(sized(token)),
                    false => Response::builder().status(401).body(sized("")),
                };
                async move { Ok::<Response<Body>, Infallible>(answer.expect("valid")) }
            });
            tokio::spawn(async move {
                let builder = Builder::new(TokioExecutor::new());
                let _ = builder.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    (address, asked)
}

/// The workload asks for nothing, and the API gets a token that only the service has seen.
#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_fetched_once_and_put_in() {
    const TOKENS: &str = r#"
backends: {local: {type: memory, secrets: {shared/stripe: canary-client}}}
ext_proc:
  message_budget: 20s
  injections:
    - name: payment
      match: {hosts: [api.stripe.test], clusters: [payment]}
      oauth2:
        token_url: http://127.0.0.1:1/token
        client_id: vaultmux
        client_secret: "{{secret://local/shared/stripe}}"
"#;
    let (address, asked) = issuer().await;
    let tokens = TOKENS.replace("127.0.0.1:1/", &format!("{address}/"));
    // The first request has to wait for the issuer, on a machine that may be busy.
    let edit = Some(("message_timeout: 1s", "message_timeout: 25s"));
    let setup = Setup { edit, ..ORDINARY };
    let egress = Egress::with(setup, &(CONFIG.to_owned() + &tokens), POLICIES).await;
    for _ in 0..3 {
        let received: Received = egress.charge("Bearer own").await.json();
        assert_eq!(received.header("authorization"), ["Bearer canary-token-1"]);
    }
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    let answer = egress.workload().get("storage.test", "/").await;
    let received: Received = answer.json();
    assert!(received.header("authorization").is_empty(), "it is for one destination");
    egress.assert_silent();
}

/// A token that the API no longer takes is replaced, and a hostile API makes nobody fetch
/// tokens in a loop.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_the_api_refuses_is_fetched_anew_once() {
    const TOKENS: &str = r#"
backends: {local: {type: memory, secrets: {shared/stripe: canary-client}}}
ext_proc:
  message_budget: 20s
  suspect_statuses: [401]
  injections:
    - name: payment
      match: {hosts: [api.stripe.test], clusters: [payment]}
      oauth2:
        token_url: http://127.0.0.1:1/token
        client_id: vaultmux
        client_secret: "{{secret://local/shared/stripe}}"
        header: x-api-key
"#;
    let (address, asked) = issuer().await;
    let tokens = TOKENS.replace("127.0.0.1:1/", &format!("{address}/"));
    let edit = Some(("message_timeout: 1s", "message_timeout: 25s"));
    let setup = Setup { edit, ..ORDINARY };
    let egress = Egress::with(setup, &(CONFIG.to_owned() + &tokens), POLICIES).await;
    let ask = async |wanted: &str| {
        let headers = [("x-wants", wanted)];
        egress.workload().request("GET", "api.stripe.test", "/", &headers).await.status
    };
    let asked = || asked.load(Ordering::SeqCst);
    assert_eq!((ask("Bearer canary-token-1").await, asked()), (200, 1));
    // Revoked. The client hears what the API says, and the next request has another token.
    assert_eq!((ask("Bearer canary-token-2").await, asked()), (401, 1));
    assert_eq!((ask("Bearer canary-token-2").await, asked()), (200, 2));
    for _ in 0..20 {
        assert_eq!((ask("Bearer canary-never").await, asked()), (401, 2));
    }
    let count = async |result: &str| {
        let series = format!("vaultmux_suspicions_total{{result=\"{result}\"}}");
        egress.service.metric(&series).await.unwrap_or_default()
    };
    // The secret that the token is issued for is suspected beside it.
    assert_eq!(count("refreshing").await, 2.0);
    assert_eq!(count("recent").await, 40.0);
    egress.assert_silent();
}

/// An API that accepts the new key alone, which is in the store once it refused the old one.
struct Rotating {
    address: SocketAddr,
    asked: Arc<std::sync::Mutex<Vec<String>>>,
}

impl Rotating {
    async fn start(tls: Arc<rustls::ServerConfig>, secret: PathBuf) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind a port");
        let address = listener.local_addr().expect("bound");
        let asked = Arc::new(std::sync::Mutex::new(Vec::new()));
        let record = Arc::clone(&asked);
        tokio::spawn(async move {
            let tls = TlsAcceptor::from(tls);
            while let Ok((stream, _)) = listener.accept().await {
                let (tls, record, secret) = (tls.clone(), Arc::clone(&record), secret.clone());
                tokio::spawn(async move {
                    let Ok(stream) = tls.accept(stream).await else { return };
                    let service = service_fn(move |request: Request<Incoming>| {
                        let key = request.headers().get("authorization").cloned();
                        let key = key.map(|key| key.to_str().expect("text").to_owned());
                        let accepted = key.as_deref() == Some("Bearer canary-new");
                        record.lock().expect("no panic").push(key.unwrap_or_default());
                        if !accepted {
                            fs::write(&secret, "canary-new").expect("rotate");
                        }
                        let status = if accepted { 200 } else { 401 };
                        let answer = Response::builder().status(status).body(sized("done"));
                        async move { Ok::<Response<Body>, Infallible>(answer.expect("valid")) }
                    });
                    let builder = Builder::new(TokioExecutor::new());
                    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { address, asked }
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock().expect("no panic"))
    }
}

/// The second attempt is given the key anew, since the filter runs for each.
#[tokio::test(flavor = "multi_thread")]
async fn requests_refused_for_an_old_key_are_sent_again_with_the_new_one() {
    const ROTATED: &str = r#"
backends: {local: {type: file, path: "{directory}/secrets"}}
cache: {ttl: 0}
ext_proc:
  injections:
    - name: stripe
      match: {hosts: [api.stripe.test], clusters: [payment], paths: [/v1/charges]}
      set_headers: [{name: authorization, value: "Bearer {{secret://local/shared/stripe}}"}]
"#;
    let (directory, certificates) = certificates(WORKLOAD);
    let tls = directory.path().display().to_string();
    let config = (CONFIG.to_owned() + ROTATED).replace("/etc/vaultmux/tls", &tls);
    let config = encrypted(&config, "payment");
    let files = [
        ("config.yaml", config.as_str()),
        ("policies.yaml", POLICIES),
        ("secrets/shared/stripe", "canary-old"),
    ];
    let service = Service::start(&files).await;
    let secret = service.path("secrets/shared/stripe");
    let api = Rotating::start(certificates.server("api.stripe.test"), secret.clone()).await;
    let edits = edits(&directory, &service, &[(8444, api.address)]);
    let envoy = Envoy::start(&Envoy::bootstrap("upstream-retry.yaml", &edits)).await;
    let workload = Client::plain(envoy.address("egress"));
    for (method, body) in [("GET", ""), ("POST", "amount=1")] {
        fs::write(&secret, "canary-old").expect("write the old key");
        let answer =
            workload.send(method, "api.stripe.test", "/v1/charges", &[], sized(body)).await;
        assert_eq!(answer.status, 200, "{method}: {}", answer.text());
        assert_eq!(api.asked(), ["Bearer canary-old", "Bearer canary-new"], "{method}");
    }
    // One more attempt and no third: a key that stays wrong is not tried in a loop.
    let wrong = [("authorization", "Bearer own")];
    let answer = workload.request("GET", "api.stripe.test", "/other", &wrong).await;
    assert_eq!((answer.status, api.asked().len()), (401, 2));
    // Refused in front of the upstream, and answered: nothing waits, nothing goes out.
    let forbidden = [("authorization", "Bearer {{secret://local/shared/other}}")];
    let answer = workload.request("GET", "api.stripe.test", "/other", &forbidden).await;
    assert_eq!((answer.status, api.asked().len()), (403, 0), "{}", answer.text());
    assert_eq!(workload.get("evil.test", "/").await.status, 403);
}
