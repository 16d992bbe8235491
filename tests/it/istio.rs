//! What istiod makes of `istio/`, in a real Envoy: requests are allowed, refused and given
//! secrets as the manifests promise.
//!
//! The bootstraps beside this file are istiod's own translation, which `make conformance`
//! makes anew and compares.

#[allow(dead_code, reason = "some are for istiod itself")]
mod checks;
#[allow(dead_code, reason = "some are for istiod itself")]
mod world;

use std::{
    collections::hash_map::RandomState,
    fs,
    hash::{BuildHasher, Hasher},
    net::Ipv4Addr,
};

use world::{HBONE, HTTP, HTTPS, OUTBOUND, PORTS, Proxy, Situation, World};

use crate::harness::{Envoy, repository};

/// The proxy of a situation, as istiod configured it when the bootstrap was made.
async fn proxy(situation: &Situation, world: &World) -> Proxy {
    world.proxy_is(situation.account);
    for directory in situation.manifests {
        let file = repository("istio").join(directory).join("kustomization.yaml");
        assert!(file.exists(), "the bootstrap was made of {directory}");
    }
    let path = repository("tests/it/istio").join(situation.name).join("bootstrap.yaml");
    let mut text = fs::read_to_string(path).expect("the situation has a bootstrap");
    // Istio's filter chains name their port, so it cannot be any. The address is our own.
    let address = format!("address: {}", loopback());
    let tls = world.tls().display().to_string();
    let mut edits = vec![
        ("address: 0.0.0.0".to_owned(), address.clone()),
        ("/etc/envoy/tls".to_owned(), tls),
        ("port_value: 9901".to_owned(), "port_value: 0".to_owned()),
        // The workload's own listener.
        (
            format!("address: 127.0.0.1\n        port_value: {OUTBOUND}"),
            format!("{address}\n        port_value: {OUTBOUND}"),
        ),
    ];
    for (stands_for, port) in PORTS.iter().zip(world.ports()) {
        edits.push((format!("port_value: {stands_for}"), format!("port_value: {port}")));
    }
    for (from, to) in edits {
        text = text.replace(&from, &to);
    }
    let https = if situation.ambient { HBONE } else { HTTPS };
    Proxy { envoy: Envoy::start(&text).await, http: HTTP, https, outbound: OUTBOUND }
}

/// An address of this machine that no other test has.
fn loopback() -> Ipv4Addr {
    let [a, b, c, ..] = RandomState::new().build_hasher().finish().to_ne_bytes();
    Ipv4Addr::new(127, 64 | (a & 63), b, c.clamp(1, 254))
}

#[tokio::test(flavor = "multi_thread")]
async fn sidecars_ask_about_what_comes_in() {
    // ext_proc puts the secrets in.
    let world = World::start(&[("inject: true", "inject: false")], HTTPS).await;
    let proxy = proxy(&world::SIDECAR, &world).await;
    checks::sidecar(world, proxy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn gateways_ask_about_what_comes_in() {
    let world = World::start(&[], HTTPS).await;
    let proxy = proxy(&world::GATEWAY, &world).await;
    checks::gateway(world, proxy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn gateways_of_the_gateway_api_ask_and_put_secrets_in() {
    let world = World::start(&[("inject: true", "inject: false")], HTTPS).await;
    let proxy = proxy(&world::GATEWAY_API, &world).await;
    checks::gateway_api(world, proxy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn egress_gateways_put_keys_in() {
    let world = World::start(&[], HTTPS).await;
    let proxy = proxy(&world::EGRESS_GATEWAY, &world).await;
    checks::egress_gateway(world, proxy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sidecars_put_keys_into_what_leaves_for_one_host() {
    let world = World::start(&[], HTTPS).await;
    let proxy = proxy(&world::EGRESS_SIDECAR, &world).await;
    checks::egress_sidecar(world, proxy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn waypoints_ask_about_what_comes_in() {
    let world = World::start(&[], HTTPS).await;
    let proxy = proxy(&world::WAYPOINT, &world).await;
    checks::waypoint(world, proxy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn egress_waypoints_put_keys_in() {
    let world = World::start(&[], HTTPS).await;
    let proxy = proxy(&world::EGRESS_WAYPOINT, &world).await;
    checks::egress_waypoint(world, proxy).await;
}
