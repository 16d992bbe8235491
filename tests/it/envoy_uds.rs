//! `envoy/uds-sidecar.yaml`: the pod's own service on unix sockets, no certificates but the
//! destination's.

use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{Certificates, Client, Edit, Envoy, Service, Upstream};

const CONFIG: &str = r#"
mode: development
listeners:
  grpc: {address: "unix:{directory}/grpc.sock"}
  rest: {address: "unix:{directory}/rest.sock"}
  admin: {address: "127.0.0.1:0"}
identity:
  trust_domains: [cluster.local]
  local: {namespace: payments, service_account: api}
backends:
  local:
    type: memory
    secrets: {zq-stripe: canary-stripe-9Lm, zq-orders: canary-orders-7Qx, zq-hidden: canary-hidden}
default_backend: local
policies: [policy.yaml]
ext_proc: {tls_clusters: [payment]}
secret_routes: [{hosts: [vaultmux.test], prefix: /v1/secrets}]
"#;

const POLICY: &str = r#"
apiVersion: vaultmux.dev/v1alpha1
kind: AccessPolicy
metadata: {name: own}
spec:
  effect: Allow
  from: [{serviceAccounts: [payments/api], require: [local]}]
  to:
    - secrets: {backends: [local], names: [zq-orders], verbs: [get]}
    - secrets:
        backends: [local]
        names: [zq-stripe]
        verbs: [use]
        destinations: [{hosts: [api.stripe.test], clusters: [payment]}]
    - http: {hosts: [api.stripe.test]}
"#;

const REFERENCE: (&str, &str) = ("x-api-key", "{{secret://local/zq-stripe}}");

struct Pod {
    service: Service,
    payment: Upstream,
    envoy: Envoy,
    _directory: TempDir,
}

// === impl Pod ===

impl Pod {
    /// `server` is the name in the destination's certificate.
    async fn start(server: &str) -> Self {
        let service = Service::start(&[("config.yaml", CONFIG), ("policy.yaml", POLICY)]).await;
        let directory = tempfile::tempdir().expect("make a directory");
        let certificates = Certificates::create(directory.path());
        let payment = Upstream::start_tls(certificates.server(server)).await;
        let socket = |name: &str| -> Edit {
            let path = service.path(name).display().to_string();
            (format!("path: /run/vaultmux/{name}}}"), format!("path: {path}}}"))
        };
        let port =
            |from: u16, to: u16| (format!("port_value: {from}}}"), format!("port_value: {to}}}"));
        let edits = [
            ("/etc/envoy/tls".into(), certificates.directory().display().to_string()),
            // Long enough for a machine that is busy with other things.
            ("                timeout: 1s\n".into(), "                timeout: 15s\n".into()),
            ("message_timeout: 1s".into(), "message_timeout: 15s".into()),
            socket("grpc.sock"),
            socket("rest.sock"),
            port(9901, 0),
            port(10080, 0),
            port(8444, payment.address.port()),
        ];
        let envoy = Envoy::start(&Envoy::bootstrap("uds-sidecar.yaml", &edits)).await;
        Self { service, payment, envoy, _directory: directory }
    }

    /// The application, which has nothing to show.
    fn app(&self) -> Client {
        Client::plain(self.envoy.address("egress"))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pod_is_who_is_asking() {
    let mut pod = Pod::start("api.stripe.test").await;
    let app = pod.app();
    // Injected where the policy binds it to, and only there.
    let answer = app.request("GET", "api.stripe.test", "/v1/charges", &[REFERENCE]).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let received = pod.payment.received().pop().expect("arrived");
    assert_eq!(received.header("x-api-key"), ["canary-stripe-9Lm"]);
    for ours in ["x-vaultmux-principal", "x-vaultmux-decision-id", "x-forwarded-client-cert"] {
        assert!(received.header(ours).is_empty(), "{ours} is nobody's business: {received:?}");
    }
    let elsewhere = app.request("GET", "other.test", "/", &[REFERENCE]).await;
    assert_eq!(elsewhere.status, 403);
    let foreign = ("x-api-key", "{{secret://local/zq-orders}}");
    let denied = app.request("GET", "api.stripe.test", "/v1/charges", &[foreign]).await;
    assert_eq!(denied.status, 403, "it may be read, and not used there");
    assert_eq!(pod.payment.received().len(), 1);

    // Read through the same proxy, with a claim that nobody believes.
    let claim = ("x-vaultmux-principal", "spiffe://cluster.local/ns/a/sa/admin");
    let read = app.request("GET", "vaultmux.test", "/v1/secrets/zq-orders", &[claim]).await;
    assert_eq!(read.status, 200, "{}", read.text());
    assert_eq!(read.json::<Value>()["value"], "canary-orders-7Qx");
    for hidden in ["zq-hidden", "zq-stripe", "zq-none"] {
        let path = format!("/v1/secrets/{hidden}");
        assert_eq!(app.get("vaultmux.test", &path).await.status, 403, "{hidden}");
    }

    pod.service.kill().await;
    for (host, path) in
        [("api.stripe.test", "/v1/charges"), ("vaultmux.test", "/v1/secrets/zq-orders")]
    {
        let answer = app.request("GET", host, path, &[REFERENCE]).await;
        assert_eq!(answer.status, 503, "{host}: {}", answer.text());
    }
    assert_eq!(pod.payment.received().len(), 1);
    for line in pod.service.logs() {
        assert!(!line.contains("canary-"), "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destination_that_cannot_prove_its_name_gets_nothing() {
    let pod = Pod::start("evil.test").await;
    let answer = pod.app().request("GET", "api.stripe.test", "/v1/charges", &[REFERENCE]).await;
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert!(pod.payment.received().is_empty());
}
