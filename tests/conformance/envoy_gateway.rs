//! Envoy Gateway's own translation of `docs/envoy-gateway.md` and of what the chart writes for
//! it, in a real Envoy.
//!
//! `UPDATE_ENVOY_GATEWAY=1` writes the bootstraps that `tests/it` runs without it.

mod bootstrap;
#[path = "../it/envoy_gateway/checks.rs"]
mod checks;
mod standalone;
mod translation;
#[path = "../it/envoy_gateway/world.rs"]
mod world;

use std::{env, fs};

use translation::{Translation, rendered};
use world::{ORDERS_KEY, World};

use crate::harness::{Client, repository};

/// Compares a file beside `tests/it/envoy_gateway.rs` with what was made, or writes it.
fn assert_kept(name: &str, made: &str) {
    let kept = repository("tests/it/envoy_gateway").join(name);
    if env::var_os("UPDATE_ENVOY_GATEWAY").is_some() {
        fs::write(&kept, made).expect("write the file");
    }
    let kept = fs::read_to_string(kept).unwrap_or_default();
    assert!(kept == made, "{name}: not what is made: UPDATE_ENVOY_GATEWAY=1 writes it");
}

#[test]
fn bootstraps_are_what_envoy_gateway_makes() {
    let manifests = rendered();
    let config = manifests.iter().find_map(|object| object["data"]["vaultmux.yaml"].as_str());
    let config = config.expect("the chart writes a configuration");
    assert_kept("vaultmux.yaml", &format!("{}\n", config.trim_end()));
    let made = Translation::of(&[]);
    made.assert_accepted();
    for gateway in ["edge", "egress"] {
        assert_kept(&format!("{gateway}/bootstrap.json"), &made.bootstrap(gateway));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn gateways_ask_and_put_secrets_in() {
    let _turn = standalone::turn().await;
    let world = World::start().await;
    let gateway = standalone::gateway(&world, &checks::EDGE, &[]).await;
    checks::edge(world, gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn egress_gateways_put_keys_in() {
    let _turn = standalone::turn().await;
    let world = World::start().await;
    let gateway = standalone::gateway(&world, &checks::EGRESS, &[]).await;
    checks::egress(world, gateway).await;
}

/// What is missing or wrong lets nobody in.
#[tokio::test(flavor = "multi_thread")]
async fn mistakes_refuse_everything() {
    let granted = r#"{"group":"gateway.envoyproxy.io","kind":"SecurityPolicy","namespace":"edge"}"#;
    let elsewhere = r#"{"group":"gateway.envoyproxy.io","kind":"SecurityPolicy","namespace":"x"}"#;
    let shown = "  backendTLS: {clientCertificateRef: {kind: Secret, name: edge-client}}\n";
    let checked = r#""hostname":"vaultmux-mesh.vaultmux-system.svc""#;
    for (what, change, sound) in [
        ("no ReferenceGrant", (granted, elsewhere), false),
        ("no certificate of the gateway's", (shown, "  concurrency: 1\n"), true),
        ("another name of the service", (checked, r#""hostname":"other.svc""#), true),
        ("no authority", (r#""name":"vaultmux-ca""#, r#""name":"none""#), false),
    ] {
        let made = Translation::of(&[change]);
        assert_eq!(made.refused().is_empty(), sound, "{what}: {:?}", made.refused());
        let world = World::start().await;
        let gateway = world.gateway(&made.bootstrap("edge"), &checks::EDGE).await;
        let token = world.bearer("shop/web");
        let headers = [("authorization", token.as_str())];
        for client in [
            world.client(&gateway, checks::EDGE[1], "shop/web"),
            Client::plain(gateway.address(checks::EDGE[0])),
        ] {
            let answer = client.request("GET", "orders.example.com", "/orders/1", &headers).await;
            // A policy that is accepted says what an outage is; Envoy Gateway says what a refused
            // one is.
            let status = if sound { 503 } else { 500 };
            assert_eq!(answer.status, status, "{what}: {}", answer.text());
        }
        assert!(world.app.received().is_empty(), "{what}: it arrived");
    }
}

/// The page warns of it: a route's own policy takes the place of its gateway's, unless it says
/// that the two are merged.
#[tokio::test(flavor = "multi_thread")]
async fn a_policy_of_a_route_takes_the_place_of_the_gateways() {
    let route = "kind: HTTPRoute\nmetadata: {name: orders, namespace: shop}";
    for (merge, status) in [("", 200), ("  mergeType: StrategicMerge\n", 401)] {
        let policy = format!(
            "kind: SecurityPolicy\nmetadata: {{name: own, namespace: shop}}\nspec:\n{merge}  \
             targetRefs: [{{group: gateway.networking.k8s.io, kind: HTTPRoute, name: orders}}]\n  \
             cors: {{allowOrigins: [\"https://shop.example.com\"]}}\n"
        );
        let both = format!("{policy}---\napiVersion: gateway.networking.k8s.io/v1\n{route}");
        let with = format!("apiVersion: gateway.networking.k8s.io/v1\n{route}");
        let both = format!("apiVersion: gateway.envoyproxy.io/v1alpha1\n{both}");
        let made = Translation::of(&[(&with, &both)]);
        made.assert_accepted();
        let world = World::start().await;
        let gateway = world.gateway(&made.bootstrap("edge"), &checks::EDGE).await;
        let public = Client::plain(gateway.address(checks::EDGE[0]));
        let reference = [("x-api-key", "{{secret://aws-prod/shared/orders}}")];
        let answer = public.request("GET", "orders.example.com", "/orders/1", &[]).await;
        assert_eq!(answer.status, status, "{merge}: {}", answer.text());
        // Nobody who is not known gets a secret by it.
        let answer = public.request("GET", "orders.example.com", "/orders/1", &reference).await;
        assert!(matches!(answer.status, 401 | 403), "{merge}: {}", answer.text());
        assert!(!answer.text().contains(ORDERS_KEY), "{}", answer.text());
        // A certificate is proof enough.
        for (account, status) in [("shop/web", 200), ("shop/other", 403)] {
            let client = world.client(&gateway, checks::EDGE[1], account);
            let answer = client.request("GET", "orders.example.com", "/orders/1", &reference).await;
            assert_eq!(answer.status, status, "{merge} {account}: {}", answer.text());
            assert_eq!(answer.text().contains(ORDERS_KEY), status == 200, "{}", answer.text());
        }
    }
}

/// The page says so: Envoy Gateway delivers its certificate for `ext_authz` only.
#[tokio::test(flavor = "multi_thread")]
async fn ext_proc_alone_never_reaches_the_service() {
    let _turn = standalone::turn().await;
    let world = World::start().await;
    let edge =
        r#""targetRefs":[{"group":"gateway.networking.k8s.io","kind":"Gateway","name":"edge"}]"#;
    let asks = format!(r#""timeout":"1s"}},{edge}"#);
    let none = asks.replace("edge", "none");
    let gateway = standalone::gateway(&world, &checks::EDGE, &[(&asks, &none)]).await;
    let web = world.client(&gateway, checks::EDGE[1], "shop/web");
    let answer = web.request("GET", "orders.example.com", "/orders/1", &[]).await;
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert!(world.app.received().is_empty(), "it arrived");
}
