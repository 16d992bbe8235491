//! `envoy/sidecar-inbound.yaml`, with the service behind a unix socket.

use crate::harness::{Certificates, Client, Envoy, Received, Service, Upstream};

const CONFIG: &str = r#"
mode: development
listeners:
  grpc: {address: "unix:{directory}/grpc.sock"}
  rest: {address: "127.0.0.1:0"}
  admin: {address: "127.0.0.1:0"}
identity:
  trust_domains: [cluster.local]
backends: {local: {type: memory}}
policies: [policy.yaml]
"#;

const POLICY: &str = r#"
apiVersion: vaultmux.dev/v1alpha1
kind: AccessPolicy
metadata: {name: orders}
spec:
  effect: Allow
  from: [{serviceAccounts: [payments/api]}]
  to: [{http: {methods: [GET], paths: [/orders/], destinations: [shop/orders]}}]
"#;

#[tokio::test(flavor = "multi_thread")]
async fn sidecar_admits_by_service_account() {
    let directory = tempfile::tempdir().expect("make a directory");
    let certificates = Certificates::create(directory.path());
    // The proxy's own certificate says which workload is being called.
    certificates.proxy("spiffe://cluster.local/ns/shop/sa/orders");
    let mut service = Service::start(&[("config.yaml", CONFIG), ("policy.yaml", POLICY)]).await;
    let socket = service.path("grpc.sock").display().to_string();
    assert_eq!(service.grpc(), format!("unix:{socket}"));
    let app = Upstream::start().await;
    let envoy = Envoy::start(&Envoy::bootstrap(
        "sidecar-inbound.yaml",
        &[
            ("/etc/envoy/tls".into(), certificates.directory().display().to_string()),
            ("path: /run/vaultmux/grpc.sock".into(), format!("path: {socket}")),
            ("port_value: 9901}".into(), "port_value: 0}".into()),
            ("port_value: 8443}".into(), "port_value: 0}".into()),
            ("port_value: 8000}".into(), format!("port_value: {}}}", app.address.port())),
        ],
    ))
    .await;
    let client = |identity| Client::tls(envoy.address("inbound"), &certificates, Some(identity));

    let answer = client(certificates.workload("payments", "api")).get("orders", "/orders/1").await;
    let received: Received = answer.json();
    let api = "spiffe://cluster.local/ns/payments/sa/api";
    assert_eq!(received.header("x-vaultmux-principal"), [format!("{api};proofs=mtls")]);
    let xfcc = received.header("x-forwarded-client-cert");
    assert!(xfcc.len() == 1 && xfcc[0].contains(&format!("URI={api}")), "{xfcc:?}");

    for (identity, path, status) in [
        (certificates.workload("payments", "other"), "/orders/1", 403),
        (certificates.workload("payments", "api"), "/admin", 403),
        (certificates.workload("payments", "api"), "/orders/%2e%2e/admin", 403),
        // Refused by Envoy itself.
        (certificates.workload("payments", "api"), "/orders/..%2Fadmin", 400),
    ] {
        let request = format!("GET {path} HTTP/1.1\r\nhost: orders\r\nconnection: close\r\n\r\n");
        let got = client(identity).raw(request.as_bytes()).await.expect("an answer");
        assert_eq!(got, status, "{path}");
    }
    // Other trust domains do not get past the handshake, nor do those with no SPIFFE ID.
    for identity in [
        certificates.with_uris(&["spiffe://cluster.local.evil/ns/payments/sa/api"]),
        certificates.with_dns(&["cluster.local"]),
    ] {
        let body = crate::harness::sized("");
        let sent = client(identity).try_send("GET", "orders", "/orders/1", &[], body).await;
        assert!(sent.is_err(), "{sent:?}");
    }
    assert_eq!(app.received().len(), 1);

    service.kill().await;
    let gone = client(certificates.workload("payments", "api")).get("orders", "/orders/1").await;
    assert_eq!(gone.status, 503);
    assert_eq!(app.received().len(), 1);
}
