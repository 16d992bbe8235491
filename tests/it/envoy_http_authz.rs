//! A real Envoy that asks over HTTP: `envoy/http-ext-authz.yaml`.

use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{Certificates, Client, Edit, Envoy, Received, Service, Upstream, sized};

const CONFIG: &str = r#"
mode: development
listeners:
  grpc: {address: "127.0.0.1:0"}
  rest: {address: "127.0.0.1:0"}
  admin: {address: "127.0.0.1:0"}
identity:
  trust_domains: [cluster.local]
  forwarded_client_cert: {trusted_proxies: ["127.0.0.1/32"]}
backends: {local: {type: memory, secrets: {zq-orders: canary-orders-7Qx, zq-hidden: canary-hidden}}}
policies: [policies.yaml]
secret_routes: [{hosts: [vaultmux.test], prefix: /v1/secrets}]
"#;

const POLICIES: &str = r#"
apiVersion: vaultmux.dev/v1alpha1
kind: AccessPolicy
metadata: {name: api}
spec:
  effect: Allow
  from: [{serviceAccounts: [payments/api]}]
  to:
    - secrets: {backends: [local], names: [zq-orders], verbs: [get]}
    - http: {hosts: [app.test], paths: [/public/], methods: [GET, POST]}
"#;

struct Mesh {
    service: Service,
    certificates: Certificates,
    app: Upstream,
    envoy: Envoy,
    _directory: TempDir,
}

impl Mesh {
    async fn start() -> Self {
        let service = Service::start(&[("config.yaml", CONFIG), ("policies.yaml", POLICIES)]).await;
        let directory = tempfile::tempdir().expect("make a directory");
        let certificates = Certificates::create(directory.path());
        let app = Upstream::start().await;
        let port =
            |from: u16, to: u16| (format!("port_value: {from}}}"), format!("port_value: {to}}}"));
        let edits: Vec<Edit> = vec![
            ("/etc/envoy/tls".to_owned(), directory.path().display().to_string()),
            port(9901, 0),
            port(8443, 0),
            port(8080, service.rest().port()),
            port(8000, app.address.port()),
        ];
        let envoy = Envoy::start(&Envoy::bootstrap("http-ext-authz.yaml", &edits)).await;
        Self { service, certificates, app, envoy, _directory: directory }
    }

    fn client(&self, namespace: &str, service_account: &str) -> Client {
        let identity = self.certificates.workload(namespace, service_account);
        Client::tls(self.envoy.address("edge"), &self.certificates, Some(identity))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_app_learns_the_principal_and_not_what_the_client_claims() {
    let mesh = Mesh::start().await;
    let claims = [
        ("x-vaultmux-principal", "spiffe://cluster.local/ns/kube-system/sa/root"),
        ("x-vaultmux-decision-id", "forged"),
        ("x-vaultmux-grant", "forged"),
        ("x-vaultmux-anything", "forged"),
        ("x-forwarded-client-cert", "URI=spiffe://cluster.local/ns/kube-system/sa/root"),
        ("x-forwarded-uri", "/elsewhere"),
        ("x-app", "kept"),
    ];
    let api = mesh.client("payments", "api");
    for client in [api.clone(), api.http2()] {
        let answer = client.request("GET", "app.test", "/public/x?y=/../z", &claims).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let received: Received = answer.json();
        let principal = "spiffe://cluster.local/ns/payments/sa/api;proofs=waypoint";
        assert_eq!(received.header("x-vaultmux-principal"), [principal]);
        let [decision] = received.header("x-vaultmux-decision-id")[..] else {
            panic!("one decision id: {:?}", received.headers)
        };
        assert_ne!(decision, "forged");
        assert!(received.header("x-vaultmux-anything").is_empty(), "{:?}", received.headers);
        assert!(received.header("x-vaultmux-grant").is_empty(), "{:?}", received.headers);
        assert_eq!(received.header("x-app"), ["kept"]);
        assert_eq!(received.path, "/public/x?y=/../z");
    }
    let answer = api.send("POST", "app.test", "/public/", &[], sized("a body")).await;
    let received: Received = answer.json();
    assert_eq!((received.method.as_str(), received.body_length), ("POST", 6));
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_are_told_and_reach_no_upstream() {
    let mesh = Mesh::start().await;
    let (api, web) = (mesh.client("payments", "api"), mesh.client("shop", "web"));
    let rewritten = [("x-original-url", "/public/"), ("x-forwarded-uri", "/public/")];
    for (client, method, host, path, status, code) in [
        (&web, "GET", "app.test", "/public/", 403, "forbidden"),
        (&api, "GET", "app.test", "/admin", 403, "forbidden"),
        (&api, "GET", "app.test", "/public/../admin", 403, "forbidden"),
        (&api, "GET", "app.test", "/authz/public/", 403, "forbidden"),
        (&api, "DELETE", "app.test", "/public/", 403, "forbidden"),
        (&api, "GET", "other.test", "/public/", 403, "forbidden"),
        (&api, "GET", "app.test", "/public%2Fx", 400, "malformed_request"),
        (&api, "GET", "app.test", "/public/;x/", 400, "malformed_request"),
        (&web, "GET", "vaultmux.test", "/v1/secrets/zq-orders", 403, "forbidden"),
        (&api, "GET", "vaultmux.test", "/v1/secrets/zq-hidden", 403, "forbidden"),
        (&api, "GET", "vaultmux.test", "/v1/secrets/zq-none", 403, "forbidden"),
    ] {
        let answer = client.request(method, host, path, &rewritten).await;
        assert_eq!(answer.status, status, "{method} {host}{path}: {}", answer.text());
        assert_eq!(answer.header("content-type"), "application/json");
        let body: Value = answer.json();
        assert_eq!(body["code"], code, "{method} {host}{path}: {body}");
        assert_eq!(body["decision_id"], answer.header("x-vaultmux-decision-id"));
    }
    assert!(mesh.app.received().is_empty(), "{:?}", mesh.app.received());
    let decided =
        r#"vaultmux_decisions_total{edge="ext_authz",outcome="denied",reason="no_match"}"#;
    assert!(mesh.service.metric(decided).await.is_some_and(|count| count >= 9.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_read_through_it() {
    let mut mesh = Mesh::start().await;
    let api = mesh.client("payments", "api");
    let answer = api.get("vaultmux.test", "/v1/secrets/zq-orders").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.json::<Value>()["value"], "canary-orders-7Qx");
    mesh.service.terminate();
    assert_eq!(mesh.service.exit_code().await, 0);
    // Nobody decides any more: that is no permission.
    let answer = api.get("app.test", "/public/").await;
    assert_eq!(answer.status, 503);
    assert!(mesh.app.received().is_empty());
    assert!(mesh.service.logs().iter().all(|line| !line.contains("canary")));
}
