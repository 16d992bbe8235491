//! Envoy-native authorisation of Kubernetes service accounts and resolution of
//! secrets from cloud stores. ARCHITECTURE.md has the map.

// core
pub mod audit;
pub mod identity;
pub mod injection;
pub mod operation;
pub mod policy;
pub mod resolver;
pub mod secret;
pub mod signing;
pub mod snapshot;
pub mod webhook;

// backends
pub mod backends;

// edges
pub mod admin;
pub mod api;
pub mod cli;
pub mod ext_authz;
pub mod ext_proc;
pub mod rest;

// wiring
pub mod app;
pub mod config;

#[cfg(test)]
mod fixture;

// below all layers
pub mod apiserver;
mod flight;
mod issuer;
mod json_schema;
pub mod lint;
pub mod metrics;
pub mod net;
mod rate;
pub mod readiness;
pub mod telemetry;
