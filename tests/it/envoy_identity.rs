//! What ext_proc believes about the caller when ext_authz said nothing, or could not.

use crate::harness::{Mesh, MeshBuilder, Received};

const REFERENCE: (&str, &str) = ("x-api-key", "{{secret://local/zq-stripe}}");
const VALUE: &str = "canary-stripe-9Lm";
const ORDERS: &str = "/v1/secrets/zq-orders";

/// The filter is there and does nothing, as after a mistake in a route.
fn without_ext_authz() -> MeshBuilder {
    let filter = "          - name: envoy.filters.http.ext_authz\n";
    // A route's own settings would switch the filter on again.
    let route = "check_settings: {context_extensions: {vaultmux.grant: forward}}";
    Mesh::builder()
        .edit(filter, &format!("{filter}            disabled: true\n"))
        .edit(route, "disabled: true")
}

const FORWARDING: &str = "                  untyped: [envoy.filters.http.ext_authz]\n";
const CERTIFICATE: &str = "              - connection.uri_san_peer_certificate\n";

#[tokio::test(flavor = "multi_thread")]
async fn certificate_is_enough_and_policy_still_decides() {
    let mesh = without_ext_authz().start().await;
    let (api, web) = (mesh.api(), mesh.client("shop", "web"));
    let received: Received = api.request("GET", "api.stripe.test", "/", &[REFERENCE]).await.json();
    assert_eq!(received.header("x-api-key"), [VALUE]);
    assert_eq!(api.get("vaultmux.test", ORDERS).await.status, 200);
    assert_eq!(web.request("GET", "api.stripe.test", "/", &[REFERENCE]).await.status, 403);
    assert_eq!(web.get("vaultmux.test", ORDERS).await.status, 403);
    assert_eq!(mesh.payment.received().len(), 1);
    mesh.finish().await;
}

/// REST gets no grant then, and a proxy's address is not the pod's own.
#[tokio::test(flavor = "multi_thread")]
async fn rest_behind_the_proxy_trusts_no_one_without_a_grant() {
    let mesh = without_ext_authz()
        .edit("request_header_mode: SEND", "request_header_mode: SKIP")
        .start()
        .await;
    for (method, path) in [("GET", ORDERS), ("POST", "/v1/secrets"), ("DELETE", ORDERS)] {
        let claims = [("x-vaultmux-principal", "spiffe://cluster.local/ns/payments/sa/api")];
        let answer = mesh.api().request(method, "vaultmux.test", path, &claims).await;
        assert_eq!(answer.status, 401, "{method}: {}", answer.text());
    }
    mesh.finish().await;
}

/// Either way of knowing the caller is enough. With neither there is still a certificate,
/// whose name was not sent: it names nobody.
#[tokio::test(flavor = "multi_thread")]
async fn grant_or_certificate() {
    for (grant, certificate, status) in
        [(true, false, 200), (false, true, 200), (true, true, 200), (false, false, 403)]
    {
        let mut mesh = Mesh::builder();
        if !grant {
            mesh = mesh.edit(FORWARDING, "                  untyped: [elsewhere]\n");
        }
        if !certificate {
            mesh = mesh.edit(CERTIFICATE, "");
        }
        let mesh = mesh.start().await;
        let what = format!("grant {grant}, certificate {certificate}");
        let answer = mesh.api().request("GET", "api.stripe.test", "/", &[REFERENCE]).await;
        assert_eq!(answer.status, status, "{what}: {}", answer.text());
        assert_eq!(mesh.api().get("vaultmux.test", ORDERS).await.status, status, "{what}");
        assert_eq!(mesh.payment.received().len(), usize::from(status == 200), "{what}");
        mesh.finish().await;
    }
}

/// Names that are no service account open nothing there either. Of several URI names
/// ext_proc sees only the first; that there is a second, ext_authz alone can tell.
#[tokio::test(flavor = "multi_thread")]
async fn other_certificates_are_refused_without_ext_authz_too() {
    let mesh = without_ext_authz().start().await;
    for identity in [
        mesh.certificates.with_dns(&["api.payments.svc"]),
        mesh.certificates.with_subject("spiffe://cluster.local/ns/payments/sa/api"),
        mesh.certificates.with_uris(&["spiffe://other.local/ns/payments/sa/api"]),
        mesh.certificates.with_uris(&["spiffe://cluster.local/ns/payments/sa/api/x"]),
    ] {
        let client = mesh.client_with(identity);
        for (host, path) in [("api.stripe.test", "/"), ("vaultmux.test", ORDERS)] {
            let answer = client.request("GET", host, path, &[REFERENCE]).await;
            assert!(matches!(answer.status, 401 | 403), "{host}: {}", answer.text());
        }
    }
    assert!(mesh.payment.received().is_empty());
    mesh.finish().await;
}

/// A refused request costs no stream and no secret.
#[tokio::test(flavor = "multi_thread")]
async fn refused_request_never_gets_to_ext_proc() {
    let mesh = Mesh::start().await;
    let web = mesh.client("shop", "web");
    assert_eq!(web.request("GET", "api.stripe.test", "/", &[REFERENCE]).await.status, 403);
    assert_eq!(mesh.envoy.counter("ext_proc.streams_started").await, 0);
    mesh.finish().await;
}
