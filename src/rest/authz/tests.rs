//! Checks over HTTP, driven without a socket: the same answers as over gRPC.

use std::sync::Arc;

use axum::{body::Body, extract::ConnectInfo};
use http::Request;
use http_body_util::BodyExt;
use serde_json::Value;
use tower::ServiceExt;

use super::*;
use crate::{
    fixture,
    identity::{ForwardedClientCert, ForwardedPosition, Peer, PeerAddress, PeerPatterns, SpiffeId},
    metrics::Metrics,
    net::RemotePeer,
    rest::RestSettings,
    snapshot::Current,
};

const API: &str = "spiffe://cluster.local/ns/prod/sa/api";
const XFCC: (&str, &str) =
    ("x-forwarded-client-cert", "By=x;URI=spiffe://cluster.local/ns/prod/sa/api");

/// Asks from this address, of which 10.0.0.1 is the proxy.
async fn ask(
    from: &str,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
) -> (u16, HeaderMap, Value) {
    let metrics = Arc::new(Metrics::default());
    let mut snapshot = fixture::snapshot(&metrics);
    // A local identity would stand for whoever the proxy says nothing about.
    snapshot.local = Some(SpiffeId::parse(API).expect("valid"));
    snapshot.forwarded = Some(ForwardedClientCert {
        trusted_proxies: PeerPatterns::parse(&["10.0.0.1/32".to_owned()]).expect("valid"),
        position: ForwardedPosition::Last,
    });
    let settings = RestSettings { local_listener: true, require_request_header: false };
    let router = Rest::new(Current::new(snapshot), metrics, settings).into_router();
    let mut request = Request::builder().method(method).uri(target);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let address = PeerAddress::of_ip(from.parse().expect("an address"));
    let peer = RemotePeer(Arc::new(Peer::new(address, None)));
    let request = request.extension(ConnectInfo(peer)).body(Body::empty()).expect("valid");
    let response = router.oneshot(request).await.expect("never fails");
    let (head, body) = response.into_parts();
    let body = body.collect().await.expect("a body").to_bytes();
    (head.status.as_u16(), head.headers, serde_json::from_slice(&body).unwrap_or(Value::Null))
}

#[tokio::test]
async fn the_answers_are_those_of_the_grpc_service() {
    for (method, host, path, expected) in [
        ("GET", "orders.test", "/orders/1", 200),
        ("GET", "ORDERS.test:8080", "/orders/1?x=/../y", 200),
        ("POST", "orders.test", "/orders/1", 403),
        ("GET", "orders.test", "/ordersx/1", 403),
        ("GET", "orders.test", "/", 403),
        ("GET", "other.test", "/orders/1", 403),
        ("GET", "orders.test", "/orders/../admin", 400),
        ("GET", "orders.test", "//orders/1", 400),
        ("GET", "orders.test", "/orders/%2e%2e/x", 400),
        ("GET", "orders.test", "/orders%2F1", 400),
        ("GET", "orders.test", "/orders;x/1", 400),
        ("GET", "vaultmux.test", "/v1/secrets/prod/key", 200),
        ("GET", "vaultmux.test", "/v1/secrets/prod%2Fkey?version=1", 200),
        ("DELETE", "vaultmux.test", "/v1/secrets/prod/key", 200),
        ("POST", "vaultmux.test", "/v1/secrets", 200),
        ("GET", "vaultmux.test", "/v1/secrets/other/key", 403),
        ("GET", "vaultmux.test", "/v1/secrets/shared/stripe", 403),
        ("PATCH", "vaultmux.test", "/v1/secrets/prod/key", 400),
    ] {
        let target = format!("/authz{path}");
        let (status, headers, body) =
            ask("10.0.0.1", method, &target, &[("host", host), XFCC]).await;
        assert_eq!(status, expected, "{method} {host}{path}");
        assert!(headers.contains_key("x-vaultmux-decision-id"));
        if status != 200 {
            assert!(!headers.contains_key("x-vaultmux-principal"));
            assert_eq!(headers["content-type"], "application/json");
            let fields: Vec<&String> = body.as_object().expect("an object").keys().collect();
            assert_eq!(fields, ["code", "decision_id", "error"], "{body}");
        }
    }
}

#[tokio::test]
async fn only_a_trusted_proxy_is_believed() {
    let host = ("host", "orders.test");
    for from in ["10.0.0.2", "127.0.0.1"] {
        let (status, _, body) = ask(from, "GET", "/authz/orders/1", &[host, XFCC]).await;
        assert_eq!((status, &body["error"]), (403, &"peer is not trusted".into()), "{from}");
    }
    // Whom it names nobody for is nobody, not the pod itself.
    let (status, headers, body) = ask("10.0.0.1", "GET", "/authz/orders/1", &[host]).await;
    assert_eq!((status, &body["code"]), (401, &"no_identity".into()));
    assert!(headers.contains_key("www-authenticate"));
    let forged = ("x-forwarded-client-cert", "URI=spiffe://cluster.local/ns/shop/sa/web");
    let (status, ..) = ask("10.0.0.1", "GET", "/authz/orders/1", &[host, forged]).await;
    assert_eq!(status, 403);
}

#[tokio::test]
async fn other_words_for_path_host_and_method_are_not_looked_at() {
    let host = ("host", "orders.test");
    for (name, value) in [
        ("x-forwarded-uri", "/orders/1"),
        ("x-original-url", "/orders/1"),
        ("x-original-uri", "/orders/1"),
        ("x-envoy-original-path", "/orders/1"),
        ("x-rewrite-url", "/orders/1"),
    ] {
        let headers = [host, XFCC, (name, value)];
        let (status, ..) = ask("10.0.0.1", "GET", "/authz/admin", &headers).await;
        assert_eq!(status, 403, "{name}");
    }
    for (name, value) in [
        ("x-forwarded-method", "GET"),
        ("x-http-method-override", "GET"),
        ("x-original-method", "GET"),
    ] {
        let headers = [host, XFCC, (name, value)];
        let (status, ..) = ask("10.0.0.1", "POST", "/authz/orders/1", &headers).await;
        assert_eq!(status, 403, "{name}");
    }
    let headers = [("host", "evil.test"), XFCC, ("x-forwarded-host", "orders.test")];
    let (status, ..) = ask("10.0.0.1", "GET", "/authz/orders/1", &headers).await;
    assert_eq!(status, 403);
    // Two hosts, or two that differ.
    let headers = [host, ("host", "evil.test"), XFCC];
    let (status, ..) = ask("10.0.0.1", "GET", "/authz/orders/1", &headers).await;
    assert_eq!(status, 400);
    let headers = [("host", "evil.test"), XFCC];
    let (status, ..) = ask("10.0.0.1", "GET", "http://orders.test/authz/orders/1", &headers).await;
    assert_eq!(status, 400);
    for target in ["/authz", "/authzx/orders/1", "/authz*"] {
        let (status, ..) = ask("10.0.0.1", "GET", target, &[host, XFCC]).await;
        assert_eq!(status, 404, "{target}");
    }
}

#[tokio::test]
async fn an_ok_answer_replaces_what_the_client_claims() {
    let headers = [
        ("host", "vaultmux.test"),
        XFCC,
        ("x-vaultmux-principal", "forged"),
        ("x-vaultmux-grant", "forged"),
        ("x-vaultmux-other", "forged"),
        ("x_vaultmux_principal", "forged"),
        ("x-app", "kept"),
    ];
    let (status, headers, _) = ask("10.0.0.1", "GET", "/authz/v1/secrets/prod/key", &headers).await;
    assert_eq!(status, 200);
    assert_eq!(headers["x-vaultmux-principal"], format!("{API};proofs=waypoint").as_str());
    assert_eq!(
        headers["x-envoy-auth-headers-to-remove"],
        "x-vaultmux-grant,x-vaultmux-other,x_vaultmux_principal"
    );
    assert!(!headers.contains_key("x-vaultmux-grant"), "nobody else may have it");
}
