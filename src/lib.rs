//! Envoy-native authorisation of Kubernetes service accounts and resolution of
//! secrets from cloud stores. ARCHITECTURE.md has the map.

// core
pub mod identity;
pub mod injection;
pub mod operation;
pub mod policy;
pub mod resolver;
pub mod secret;
pub mod snapshot;

// backends
pub mod backends;

// edges
pub mod api;
pub mod ext_proc;

// below all layers
pub mod metrics;
