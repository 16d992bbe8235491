//! Tests from outside: the real binary, mostly behind a real Envoy.

mod demo;
mod envoy_authz;
mod envoy_bodies;
mod envoy_failure;
mod envoy_injection;
mod envoy_secrets;
mod envoy_sidecar;
mod envoy_traps;
mod harness;
mod stub;
