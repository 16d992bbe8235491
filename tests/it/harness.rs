//! A real Envoy, the real binary and echoing upstreams, started per test.
//!
//! `examples/demo.rs` uses this module too, by path. Everything is bound to port 0 on
//! loopback, and everything ends with its handle, or with the test process if that is
//! killed first.

// The paths are spelled out because a module that is included by path looks for its
// children beside itself, and one that is included by name does not.
#[path = "harness/api_server.rs"]
mod api_server;
#[path = "harness/browser.rs"]
mod browser;
#[path = "harness/certificates.rs"]
mod certificates;
#[path = "harness/client.rs"]
mod client;
#[path = "harness/envoy.rs"]
mod envoy;
#[path = "harness/mesh.rs"]
mod mesh;
#[path = "../../src/identity/token/mint.rs"]
pub(crate) mod mint;
#[path = "harness/openapi.rs"]
mod openapi;
#[path = "harness/process.rs"]
mod process;
#[path = "harness/service.rs"]
mod service;
#[path = "harness/store.rs"]
mod store;
#[path = "harness/upstream.rs"]
mod upstream;

pub(crate) use api_server::{ApiServer, Review};
pub(crate) use browser::Browser;
pub(crate) use certificates::{Certificates, Identity};
pub(crate) use client::{Answer, Body, Client, chunked, sized, with_trailers};
pub(crate) use envoy::{Edit, Envoy};
pub(crate) use mesh::{Edge, Mesh, MeshBuilder, encrypted};
pub(crate) use openapi::check_events;
pub(crate) use process::Process;
pub(crate) use service::Service;
pub(crate) use store::Store;
pub(crate) use upstream::{Received, Upstream, sha256};

use std::path::{Path, PathBuf};

/// Whoever holds this may bind the default ports: not every start lets one choose.
pub(crate) async fn default_ports() -> tokio::sync::MutexGuard<'static, ()> {
    static PORTS: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    PORTS.lock().await
}

/// An emulated AWS, with an empty store.
pub(crate) async fn moto() -> (Process, String) {
    let program = repository("target/tools/bin/moto_server");
    assert!(program.exists(), "target/tools/bin/moto_server is missing: run `make tools`");
    let process = Process::start(program.as_os_str(), &["-H", "127.0.0.1", "-p", "0"]).await;
    let url = |line: &str| Some(line.split_once("Running on ")?.1.trim().to_owned());
    let url = process.wait_stderr("address", url).await;
    (process, url)
}

/// A file of this repository.
pub(crate) fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}
