//! Envoy-native authorisation of Kubernetes service accounts and resolution of
//! secrets from cloud stores. ARCHITECTURE.md has the map.

// core
pub mod identity;
pub mod policy;
pub mod secret;

// backends
pub mod backends;
