//! Every store for real: backends against the servers that `make servers` builds; the clients
//! that are made from the OpenAPI document; and the manifests for Istio, as istiod sees them.
//!
//! Slower than the rest, so `cargo test` leaves it out; `make conformance` runs it.

mod apiserver;
mod azure;
mod chart;
mod clients;
mod envoy_gateway;
mod gcp;
#[path = "../it/harness.rs"]
#[allow(dead_code, unused_imports, reason = "other tests use the rest")]
mod harness;
mod istio;
mod kubernetes;
mod kubernetes_watch;
mod servers;
mod tokens;
mod vault;
