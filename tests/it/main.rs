//! The program from outside: its commands, its listeners, a real Envoy in front.

mod aws_identity;
mod aws_proxy;
mod cli;
mod demo;
mod descriptors;
mod environment;
mod envoy_authz;
mod envoy_bodies;
mod envoy_failure;
mod envoy_identity;
mod envoy_injection;
mod envoy_panic;
mod envoy_secrets;
mod envoy_sidecar;
mod envoy_traps;
mod gcp_identity;
mod harness;
mod listeners;
mod outages;
mod plugin;
mod plugin_proto;
mod readme;
mod reload;
mod stores_docs;
mod stub;
mod tidy;
