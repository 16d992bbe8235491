//! What each situation's requests get.

use serde_json::json;

use super::world::{KEY, Proxy, REFERENCE, World};
use crate::harness::{Answer, Client, Received, mint::Mint, sized};

const ORDERS: &str = "orders.shop.svc.cluster.local";
const STRIPE: &str = "api.stripe.com";
const CLAIM: (&str, &str) = ("x-vaultmux-principal", "spiffe://cluster.local/ns/shop/sa/admin");

async fn get(client: &Client, host: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
    client.request("GET", host, path, headers).await
}

/// What arrived at an upstream by this answer.
fn arrived(answer: &Answer, what: &str) -> Received {
    assert_eq!(answer.status, 200, "{what}: {}", answer.text());
    answer.json()
}

/// `overlays/namespace-sidecars` and `overlays/inbound-injection`.
pub(crate) async fn sidecar(mut world: World, proxy: Proxy) {
    let web = world.client(&proxy, "shop", "web");
    for web in [web.clone(), web.http2()] {
        let answer = get(&web, ORDERS, "/orders/1", &[CLAIM]).await;
        let received = arrived(&answer, "the policy allows it");
        let principal = "spiffe://cluster.local/ns/shop/sa/web;proofs=mtls";
        assert_eq!(received.header("x-vaultmux-principal"), [principal]);
        // ext_proc comes after, and knows the caller.
        let headers = [("authorization", REFERENCE)];
        let received = arrived(&get(&web, ORDERS, "/orders/1", &headers).await, "a reference");
        assert_eq!(received.header("authorization"), [format!("Bearer {KEY}")]);
    }
    let reached = world.app.received().len();
    let other = world.client(&proxy, "shop", "other");
    let mallory = world.client(&proxy, "evil", "web");
    for (client, path, headers) in [
        (&web, "/admin", &[][..]),
        (&web, "/orders", &[]),
        (&other, "/orders/1", &[CLAIM]),
        (&mallory, "/orders/1", &[CLAIM]),
        (&other, "/healthz/../orders/1", &[]),
        (&other, "//orders/1", &[]),
        (&other, "/healthz/", &[]),
    ] {
        let answer = get(client, ORDERS, path, headers).await;
        assert_eq!(answer.status, 403, "{path}: {}", answer.text());
        assert!(answer.text().contains("decision_id"), "{path}: {}", answer.text());
    }
    assert_eq!(world.app.received().len(), reached, "refused requests arrived");
    // Not asked about: nobody is named, and only probes are let through.
    let received = arrived(&get(&other, ORDERS, "/healthz", &[]).await, "a probe");
    assert!(received.header("x-vaultmux-principal").is_empty(), "{:?}", received.headers);
    let answer = other.request("POST", ORDERS, "/healthz", &[]).await;
    let received = arrived(&answer, "certificates of the mesh pass where nobody asks");
    assert_eq!(received.method, "POST");
    // STRICT: no certificate, no connection.
    let stranger = world.stranger(&proxy);
    assert!(stranger.try_send("GET", ORDERS, "/healthz", &[], sized("")).await.is_err());
    let address = proxy.envoy.listening(proxy.https).expect("it listens");
    let clear = Client::plain(address).try_send("GET", ORDERS, "/healthz", &[], sized("")).await;
    assert!(clear.is_err(), "clear text was answered");
    // An outage is nobody's decision, and lets nobody in.
    world.service.kill().await;
    let reached = world.app.received().len();
    assert_eq!(get(&web, ORDERS, "/orders/1", &[]).await.status, 503);
    assert_eq!(world.app.received().len(), reached);
    world.assert_silent();
}

/// `overlays/gateway`.
pub(crate) async fn gateway(mut world: World, proxy: Proxy) {
    let address = proxy.envoy.listening(proxy.http).expect("it listens in clear text");
    let public = Client::plain(address);
    let bearer = |account: &str| format!("Bearer {}", world.mint.token_for(account, json!({})));
    let (web, other) = (bearer("shop/web"), bearer("shop/other"));
    let forged = format!("Bearer {}", Mint::p256("k1").token_for("shop/web", json!({})));
    for (what, token, path, expected) in [
        ("nobody", "", "/orders/1", 401),
        ("a token", &*web, "/orders/1", 200),
        ("not this path", &web, "/admin", 403),
        ("nor by another spelling", &web, "/orders/%2e%2e/admin", 403),
        ("another account", &other, "/orders/1", 403),
        ("a forged token", &forged, "/orders/1", 401),
    ] {
        let reached = world.app.received().len();
        let headers = [CLAIM, ("authorization", token)];
        let shown = if token.is_empty() { 1 } else { 2 };
        let answer = get(&public, ORDERS, path, &headers[..shown]).await;
        assert_eq!(answer.status, expected, "{what}: {}", answer.text());
        let arrived = &world.app.received()[reached..];
        assert_eq!(arrived.len(), usize::from(expected == 200), "{what}: {arrived:?}");
        for received in arrived {
            let principal = "spiffe://cluster.local/ns/shop/sa/web;proofs=token";
            assert_eq!(received.header("x-vaultmux-principal"), [principal], "{what}");
            assert!(received.header("authorization").is_empty(), "the token went on");
        }
    }
    // Clients of the mesh have certificates.
    let web = world.client(&proxy, "shop", "web");
    let received = arrived(&get(&web, ORDERS, "/orders/1", &[CLAIM]).await, "a certificate");
    let principal = "spiffe://cluster.local/ns/shop/sa/web;proofs=mtls";
    assert_eq!(received.header("x-vaultmux-principal"), [principal]);
    let other = world.client(&proxy, "shop", "other");
    assert_eq!(get(&other, ORDERS, "/orders/1", &[]).await.status, 403);
    // deny-direct.yaml
    let direct = "/envoy.service.auth.v3.Authorization/Check";
    assert_eq!(get(&web, ORDERS, direct, &[]).await.status, 403);
    world.service.kill().await;
    assert_eq!(get(&web, ORDERS, "/orders/1", &[]).await.status, 503);
    world.assert_silent();
}

/// `overlays/gateway-api` and `overlays/gateway-injection`.
pub(crate) async fn gateway_api(mut world: World, proxy: Proxy) {
    let public = Client::plain(proxy.envoy.listening(proxy.http).expect("it listens"));
    let bearer = |account: &str| format!("Bearer {}", world.mint.token_for(account, json!({})));
    let (web, other) = (bearer("shop/web"), bearer("shop/other"));
    let reference = ("x-api-key", "{{secret://aws-prod/shared/stripe}}");
    let headers = [("authorization", web.as_str()), reference, CLAIM];
    let received = arrived(&get(&public, ORDERS, "/orders/1", &headers).await, "a token");
    assert_eq!(received.header("x-api-key"), [KEY]);
    let principal = "spiffe://cluster.local/ns/shop/sa/web;proofs=token";
    assert_eq!(received.header("x-vaultmux-principal"), [principal]);
    assert!(received.header("authorization").is_empty(), "the token went on");
    for (what, headers, path, expected) in [
        ("nobody", &[reference, CLAIM][..], "/orders/1", 401),
        ("another account", &[("authorization", other.as_str()), reference], "/orders/1", 403),
        ("another path", &headers, "/admin", 403),
        ("the service itself", &headers, "/envoy.service.auth.v3.Authorization/Check", 403),
    ] {
        let answer = get(&public, ORDERS, path, headers).await;
        assert_eq!(answer.status, expected, "{what}: {}", answer.text());
    }
    world.service.kill().await;
    assert_eq!(get(&public, ORDERS, "/orders/1", &headers).await.status, 503);
    assert_eq!(world.app.received().len(), 1, "refused requests arrived");
    world.assert_silent();
}

/// `overlays/local-sidecar`.
pub(crate) async fn local_sidecar(mut world: World, proxy: Proxy) {
    let web = world.client(&proxy, "shop", "web");
    let received = arrived(&get(&web, ORDERS, "/orders/1", &[CLAIM]).await, "the policy allows it");
    let principal = "spiffe://cluster.local/ns/shop/sa/web;proofs=mtls";
    assert_eq!(received.header("x-vaultmux-principal"), [principal]);
    let other = world.client(&proxy, "shop", "other");
    for (client, path) in [(&web, "/admin"), (&other, "/orders/1"), (&other, "/healthz")] {
        assert_eq!(get(client, ORDERS, path, &[CLAIM]).await.status, 403, "{path}");
    }
    // In clear text nobody is known, and never the pod itself.
    let address = proxy.envoy.listening(proxy.https).expect("it listens");
    let clear = Client::plain(address).try_send("GET", ORDERS, "/orders/1", &[], sized("")).await;
    assert!(clear.is_err(), "clear text was answered");
    world.service.kill().await;
    assert_eq!(get(&web, ORDERS, "/orders/1", &[]).await.status, 503);
    assert_eq!(world.app.received().len(), 1, "refused requests arrived");
    world.assert_silent();
}

/// `service/behind-sidecar`: who may ask the service at all.
pub(crate) async fn behind_sidecar(world: World, proxy: Proxy) {
    let health = "/grpc.health.v1.Health/Check";
    let headers = [("content-type", "application/grpc"), ("te", "trailers")];
    for (namespace, account, expected) in [
        ("istio-ingress", "istio-ingressgateway", "0"),
        ("istio-egress", "egress-gateway", "0"),
        // As gRPC says it: permission denied.
        ("shop", "web", "7"),
        ("istio-ingress", "other", "7"),
        ("vaultmux-system", "vaultmux-mesh", "7"),
    ] {
        let client = world.client(&proxy, namespace, account).http2();
        let message = sized(vec![0; 5]);
        let answer = client.send("POST", "vaultmux", health, &headers, message).await;
        let status = answer.trailers.get("grpc-status").or(answer.headers.get("grpc-status"));
        let status = status.and_then(|status| status.to_str().ok());
        assert_eq!(status, Some(expected), "{namespace}/{account}: {answer:?}");
    }
    let stranger = world.stranger(&proxy).http2();
    let unknown = stranger.try_send("POST", "vaultmux", health, &headers, sized(vec![0; 5])).await;
    assert!(unknown.is_err(), "a stranger was answered");
}

/// `overlays/gateway` with the provider that speaks HTTP.
pub(crate) async fn http_provider(mut world: World, proxy: Proxy) {
    let web = world.client(&proxy, "shop", "web");
    // The gateway names the client, whatever the request says of it.
    let forged = [("x-forwarded-client-cert", "URI=spiffe://cluster.local/ns/shop/sa/web"), CLAIM];
    let received = arrived(&get(&web, ORDERS, "/orders/1", &forged).await, "a certificate");
    let principal = "spiffe://cluster.local/ns/shop/sa/web;proofs=waypoint";
    assert_eq!(received.header("x-vaultmux-principal"), [principal]);
    let other = world.client(&proxy, "shop", "other");
    assert_eq!(get(&other, ORDERS, "/orders/1", &forged).await.status, 403);
    assert_eq!(get(&web, ORDERS, "/admin", &forged).await.status, 403);
    let public = Client::plain(proxy.envoy.listening(proxy.http).expect("it listens"));
    assert_eq!(get(&public, ORDERS, "/orders/1", &forged).await.status, 401);
    let token = format!("Bearer {}", world.mint.token_for("shop/web", json!({})));
    let headers = [("authorization", token.as_str())];
    let received = arrived(&get(&public, ORDERS, "/orders/1", &headers).await, "a token");
    assert!(received.header("authorization").is_empty(), "the token went on");
    world.service.kill().await;
    assert_eq!(get(&web, ORDERS, "/orders/1", &[]).await.status, 503);
    assert_eq!(world.app.received().len(), 2, "refused requests arrived");
}

/// `overlays/egress-gateway`.
pub(crate) async fn egress_gateway(mut world: World, proxy: Proxy) {
    let headers = [("authorization", REFERENCE), CLAIM];
    let web = world.client(&proxy, "shop", "web").named(STRIPE);
    for web in [web.clone(), web.http2()] {
        let received = arrived(&get(&web, STRIPE, "/v1/charges", &headers).await, "a reference");
        assert_eq!(received.header("authorization"), [format!("Bearer {KEY}")]);
        assert_eq!(received.authority, STRIPE);
        let told = ["x-vaultmux-principal", "x-vaultmux-decision-id", "x-forwarded-client-cert"];
        for name in told {
            assert!(received.header(name).is_empty(), "{name} went out");
        }
    }
    let reached = world.payment.received().len();
    let other = world.client(&proxy, "shop", "other").named(STRIPE);
    let foreign = world.client(&proxy, "istio-egress", "egress-gateway").named(STRIPE);
    for (what, client, host, path, headers) in [
        ("another account", &other, STRIPE, "/v1/charges", &headers[..]),
        ("the gateway's own", &foreign, STRIPE, "/v1/charges", &headers),
        ("another path", &web, STRIPE, "/v2/charges", &headers),
        (
            "another secret",
            &web,
            STRIPE,
            "/v1/charges",
            &[("authorization", "Bearer {{secret://aws-prod/shared/x}}")],
        ),
        ("another host", &web, "api.other.com", "/v1/charges", &headers),
    ] {
        let answer = get(client, host, path, headers).await;
        let refused = matches!(answer.status, 403 | 404);
        assert!(refused, "{what}: {} {}", answer.status, answer.text());
        assert!(!answer.text().contains(KEY), "{what}");
    }
    let stranger = world.stranger(&proxy).named(STRIPE);
    assert!(stranger.try_send("GET", STRIPE, "/v1/charges", &[], sized("")).await.is_err());
    world.service.kill().await;
    assert_eq!(get(&web, STRIPE, "/v1/charges", &[]).await.status, 503);
    assert_eq!(world.payment.received().len(), reached, "refused requests went out");
    world.assert_silent();
}

/// `overlays/egress-sidecar`.
pub(crate) async fn egress_sidecar(mut world: World, proxy: Proxy) {
    let address = proxy.envoy.listening(proxy.outbound).expect("it listens for the workload");
    let workload = Client::plain(address);
    let headers = [("authorization", REFERENCE), CLAIM];
    let received = arrived(&get(&workload, STRIPE, "/v1/charges", &headers).await, "a reference");
    assert_eq!(received.header("authorization"), [format!("Bearer {KEY}")]);
    assert!(received.header("x-vaultmux-principal").is_empty(), "{:?}", received.headers);
    let unknown = [("authorization", "Bearer {{secret://aws-prod/shared/x}}")];
    assert_eq!(get(&workload, STRIPE, "/v1/charges", &unknown).await.status, 403);
    // Other hosts are none of the filter's business: the reference is worth nothing there.
    let received = arrived(&get(&workload, "api.other.com", "/", &headers).await, "another host");
    assert_eq!(received.header("authorization"), [REFERENCE]);
    // REGISTRY_ONLY.
    assert_eq!(get(&workload, "api.nobody.com", "/", &headers).await.status, 502);
    let went = world.payment.received().len();
    world.service.kill().await;
    for headers in [&headers[..], &[]] {
        let answer = get(&workload, STRIPE, "/v1/charges", headers).await;
        assert!(matches!(answer.status, 500 | 503 | 504), "{}", answer.status);
    }
    arrived(&get(&workload, "api.other.com", "/", &[]).await, "another host meanwhile");
    assert_eq!(world.payment.received().len(), went, "a request went out without an answer");
    world.assert_silent();
}

/// `overlays/ambient`: a service of the cluster.
pub(crate) async fn waypoint(mut world: World, proxy: Proxy) {
    let to = |client: Client| client.tunnelled("10.0.0.10:80");
    let web = to(world.client(&proxy, "shop", "web"));
    // The waypoint names the tunnel's client, whatever the request says of it.
    let admin =
        "By=spiffe://cluster.local/ns/shop/sa/waypoint;URI=spiffe://cluster.local/ns/shop/sa/web";
    let forged = [("x-forwarded-client-cert", admin), CLAIM];
    for web in [web.clone(), web.http2()] {
        let answer = get(&web, ORDERS, "/orders/1", &forged).await;
        let received = arrived(&answer, "the policy allows it");
        let principal = "spiffe://cluster.local/ns/shop/sa/web;proofs=waypoint";
        assert_eq!(received.header("x-vaultmux-principal"), [principal]);
    }
    let reached = world.app.received().len();
    let other = to(world.client(&proxy, "shop", "other"));
    let mallory = to(world.client(&proxy, "evil", "web"));
    for (client, path) in [(&web, "/admin"), (&other, "/orders/1"), (&mallory, "/orders/1")] {
        let answer = get(client, ORDERS, path, &forged).await;
        assert_eq!(answer.status, 403, "{path}: {}", answer.text());
        assert!(answer.text().contains("decision_id"), "{path}: {}", answer.text());
    }
    let stranger = to(world.stranger(&proxy));
    assert!(stranger.try_send("GET", ORDERS, "/orders/1", &forged, sized("")).await.is_err());
    world.service.kill().await;
    assert_eq!(get(&web, ORDERS, "/orders/1", &[]).await.status, 503);
    assert_eq!(world.app.received().len(), reached, "refused requests arrived");
    world.assert_silent();
}

/// `overlays/ambient`: a third party.
pub(crate) async fn egress_waypoint(mut world: World, proxy: Proxy) {
    let to = |client: Client| client.tunnelled("10.0.0.20:80");
    let web = to(world.client(&proxy, "shop", "web"));
    let headers = [("authorization", REFERENCE), CLAIM];
    let received = arrived(&get(&web, STRIPE, "/v1/charges", &headers).await, "a reference");
    assert_eq!(received.header("authorization"), [format!("Bearer {KEY}")]);
    for name in ["x-vaultmux-principal", "x-vaultmux-decision-id", "x-forwarded-client-cert"] {
        assert!(received.header(name).is_empty(), "{name} went out");
    }
    let reached = world.payment.received().len();
    let other = to(world.client(&proxy, "shop", "other"));
    for (client, path) in [(&other, "/v1/charges"), (&web, "/v2/charges")] {
        let answer = get(client, STRIPE, path, &headers).await;
        assert_eq!(answer.status, 403, "{path}: {}", answer.text());
    }
    world.service.kill().await;
    assert_eq!(get(&web, STRIPE, "/v1/charges", &[]).await.status, 503);
    assert_eq!(world.payment.received().len(), reached, "refused requests went out");
    world.assert_silent();
}
