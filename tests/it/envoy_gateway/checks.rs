//! What requests through each gateway of the page get.

use super::world::{Gateway, ORDERS_KEY, STRIPE_KEY, World};
use crate::harness::{Answer, Client, Received, sized};

/// The listeners of each gateway.
pub(crate) const EDGE: [&str; 2] = ["edge/edge/http", "edge/edge/https"];
pub(crate) const EGRESS: [&str; 1] = ["egress/egress/https"];

const ORDERS: &str = "orders.example.com";
const STRIPE: &str = "stripe.egress.internal";
/// What a caller may not say of itself.
const FORGED: [(&str, &str); 2] = [
    ("x-vaultmux-principal", "spiffe://cluster.local/ns/shop/sa/web"),
    ("x-forwarded-client-cert", "URI=spiffe://cluster.local/ns/shop/sa/web"),
];
const REFERENCE: (&str, &str) = ("x-api-key", "{{secret://aws-prod/shared/orders}}");

async fn get(client: &Client, host: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
    client.request("GET", host, path, headers).await
}

/// What arrived at an upstream by this answer.
fn arrived(answer: &Answer, what: &str) -> Received {
    assert_eq!(answer.status, 200, "{what}: {}", answer.text());
    answer.json()
}

/// `gateway.yaml` with what the chart adds.
pub(crate) async fn edge(mut world: World, gateway: Gateway) {
    let web = world.client(&gateway, EDGE[1], "shop/web");
    let headers = [FORGED[0], FORGED[1], REFERENCE];
    for web in [web.clone(), web.http2()] {
        let received = arrived(&get(&web, ORDERS, "/orders/1", &headers).await, "a certificate");
        let principal = "spiffe://cluster.local/ns/shop/sa/web;proofs=mtls";
        assert_eq!(received.header("x-vaultmux-principal"), [principal]);
        assert_eq!(received.header("x-api-key"), [ORDERS_KEY]);
    }
    let public = Client::plain(gateway.address(EDGE[0]));
    let token = world.bearer("shop/web");
    let by_token = [("authorization", token.as_str()), FORGED[0], FORGED[1], REFERENCE];
    let received = arrived(&get(&public, ORDERS, "/orders/1", &by_token).await, "a token");
    let principal = "spiffe://cluster.local/ns/shop/sa/web;proofs=token";
    assert_eq!(received.header("x-vaultmux-principal"), [principal]);
    assert_eq!(received.header("x-api-key"), [ORDERS_KEY]);
    assert!(received.header("authorization").is_empty(), "the token went on");

    let reached = world.app.received().len();
    let other = world.client(&gateway, EDGE[1], "shop/other");
    let foreign = world.bearer("shop/other");
    let by_foreign = [("authorization", foreign.as_str()), FORGED[0], FORGED[1]];
    let hidden = [("x-api-key", "{{secret://aws-prod/shared/stripe}}")];
    for (what, client, host, path, headers, expected) in [
        ("another account", &other, ORDERS, "/orders/1", &headers[..], 403),
        ("another path", &web, ORDERS, "/admin", &headers, 403),
        ("a path around", &web, ORDERS, "/orders/../admin", &headers, 403),
        ("another secret", &web, ORDERS, "/orders/1", &hidden, 403),
        ("no route", &web, "other.example.com", "/orders/1", &headers, 404),
        ("a header with _", &public, ORDERS, "/orders/1", &[("x_user", "admin")], 400),
        ("nobody", &public, ORDERS, "/orders/1", &headers, 401),
        ("another account's token", &public, ORDERS, "/orders/1", &by_foreign, 403),
        ("another path by token", &public, ORDERS, "/admin", &by_token, 403),
    ] {
        let answer = get(client, host, path, headers).await;
        assert_eq!(answer.status, expected, "{what}: {}", answer.text());
        assert!(!answer.text().contains("canary"), "{what}: {}", answer.text());
    }
    let stranger = world.stranger(&gateway, EDGE[1]);
    let unknown = stranger.try_send("GET", ORDERS, "/orders/1", &headers, sized("")).await;
    assert!(unknown.is_err(), "without a certificate");
    world.service.kill().await;
    for (client, headers) in [(&web, &headers[..]), (&public, &by_token)] {
        let answer = get(client, ORDERS, "/orders/1", headers).await;
        assert_eq!(answer.status, 503, "without the service: {}", answer.text());
    }
    assert_eq!(world.app.received().len(), reached, "refused requests arrived");
    world.assert_silent();
}

/// `egress.yaml`.
pub(crate) async fn egress(mut world: World, gateway: Gateway) {
    let listener = EGRESS[0];
    let bearer = "Bearer {{secret://aws-prod/shared/stripe}}";
    let headers = [("authorization", bearer), FORGED[0], FORGED[1]];
    let web = world.client(&gateway, listener, "shop/web");
    for web in [web.clone(), web.http2()] {
        let received = arrived(&get(&web, STRIPE, "/v1/charges", &headers).await, "a reference");
        assert_eq!(received.header("authorization"), [format!("Bearer {STRIPE_KEY}")]);
        assert_eq!(received.authority, "api.stripe.com");
        assert_eq!(received.header("x-forwarded-host"), [STRIPE]);
        let told = ["x-vaultmux-principal", "x-vaultmux-decision-id", "x-forwarded-client-cert"];
        for name in told {
            assert!(received.header(name).is_empty(), "{name} went out");
        }
    }
    let reached = world.payment.received().len();
    let other = world.client(&gateway, listener, "shop/other");
    let hidden = [("authorization", "Bearer {{secret://aws-prod/shared/orders}}")];
    let token = world.bearer("shop/web");
    let by_token = [("authorization", token.as_str()), ("x-api-key", bearer)];
    for (what, client, host, path, headers, expected) in [
        ("another account", &other, STRIPE, "/v1/charges", &headers[..], 403),
        ("another account with a token", &other, STRIPE, "/v1/charges", &by_token, 403),
        ("another path", &web, STRIPE, "/v2/charges", &headers, 403),
        ("another secret", &web, STRIPE, "/v1/charges", &hidden, 403),
        ("another host", &web, "api.stripe.com", "/v1/charges", &headers, 404),
    ] {
        let answer = get(client, host, path, headers).await;
        assert_eq!(answer.status, expected, "{what}: {}", answer.text());
        assert!(!answer.text().contains("canary"), "{what}: {}", answer.text());
    }
    let stranger = world.stranger(&gateway, listener);
    let unknown = stranger.try_send("GET", STRIPE, "/v1/charges", &headers, sized("")).await;
    assert!(unknown.is_err(), "without a certificate");
    world.service.kill().await;
    for headers in [&headers[..], &[]] {
        let answer = get(&web, STRIPE, "/v1/charges", headers).await;
        assert_eq!(answer.status, 503, "without the service: {}", answer.text());
    }
    assert_eq!(world.payment.received().len(), reached, "refused requests went out");
    world.assert_silent();
}
