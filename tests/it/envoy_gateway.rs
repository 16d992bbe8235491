//! What Envoy Gateway makes of `docs/envoy-gateway.md` and of the chart, in a real Envoy:
//! requests are allowed, refused and given secrets as the page promises.
//!
//! The bootstraps beside this file are Envoy Gateway's own translation, which `make conformance`
//! makes anew and compares.

mod checks;
mod world;

use std::fs;

use world::World;

use crate::harness::repository;

/// A gateway's configuration, as Envoy Gateway made it.
fn bootstrap(gateway: &str) -> String {
    let path = repository("tests/it/envoy_gateway").join(gateway).join("bootstrap.json");
    fs::read_to_string(path).expect("the gateway has a bootstrap")
}

#[tokio::test(flavor = "multi_thread")]
async fn gateways_ask_and_put_secrets_in() {
    let world = World::start().await;
    let gateway = world.gateway(&bootstrap("edge"), &checks::EDGE).await;
    checks::edge(world, gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn egress_gateways_put_keys_in() {
    let world = World::start().await;
    let gateway = world.gateway(&bootstrap("egress"), &checks::EGRESS).await;
    checks::egress(world, gateway).await;
}
