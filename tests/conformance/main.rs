//! Every store for real: backends against the servers that `make servers` builds.
//!
//! Slower than the rest, so `cargo test` leaves it out; `make conformance` runs it.

mod apiserver;
mod azure;
mod gcp;
mod kubernetes;
mod servers;
mod tokens;
mod vault;
