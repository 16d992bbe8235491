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

use serde_json::Value;
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

/// The kustomize directories below one, by their paths from `istio/`.
fn kustomizations() -> Vec<(String, Value)> {
    let root = repository("istio");
    let mut found = Vec::new();
    let mut pending = vec![root.clone()];
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(&directory).expect("readable") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                pending.push(path);
            } else if path.ends_with("kustomization.yaml") {
                let text = fs::read_to_string(&path).expect("text");
                let name = directory.strip_prefix(&root).expect("below it").display().to_string();
                found.push((name, serde_saphyr::from_str(&text).expect("YAML")));
            }
        }
    }
    found.sort_by(|(a, _), (b, _)| a.cmp(b));
    found
}

#[test]
fn overlays_name_a_base_and_what_is_there() {
    let readme = fs::read_to_string(repository("istio/README.md")).expect("text");
    let mut of_base = Vec::new();
    let found = kustomizations();
    for (name, kustomization) in &found {
        assert!(readme.contains(&format!("({name})")), "{name} is not in the README");
        let list = |key: &str| kustomization[key].as_array().cloned().unwrap_or_default();
        let patches = list("patches").into_iter().map(|patch| patch["path"].clone());
        let named = [list("resources"), list("components"), patches.collect()].concat();
        for path in named.iter().filter_map(Value::as_str) {
            let path = repository("istio").join(name).join(path);
            let path =
                path.canonicalize().unwrap_or_else(|error| panic!("{name}: {error}: {path:?}"));
            if path == repository("istio/base").canonicalize().expect("it is there") {
                of_base.push(&**name);
            }
        }
    }
    assert_eq!(of_base, ["service/behind-sidecar", "service/own-tls"]);
    assert!(found.len() > 10, "{} kustomizations", found.len());
}
