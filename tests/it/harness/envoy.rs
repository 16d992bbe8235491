//! A real Envoy with one of our bootstraps.

use std::{collections::HashMap, ffi::OsString, fs, net::SocketAddr, path::Path, time::Duration};

use serde_json::Value;
use tempfile::TempDir;

use super::{Process, client::Client, repository};

/// How often to look whether Envoy is there: it has no way to tell.
const POLL: Duration = Duration::from_millis(10);

/// A running Envoy.
pub(crate) struct Envoy {
    process: Process,
    admin: Client,
    listeners: HashMap<String, SocketAddr>,
    // Holds the bootstrap.
    _directory: TempDir,
}

/// One textual change to a bootstrap: what stands there, and what shall.
pub(crate) type Edit = (String, String);

// === impl Envoy ===

impl Envoy {
    /// Reads a bootstrap from `envoy/` and makes these changes. Each must apply, so that
    /// the tests cannot drift away from the files that users get.
    pub(crate) fn bootstrap(name: &str, edits: &[Edit]) -> String {
        let path = repository("envoy").join(name);
        let mut text = fs::read_to_string(path).expect("read the bootstrap");
        for (from, to) in edits {
            assert!(text.contains(from), "envoy/{name} has no `{from}`");
            text = text.replace(from, to);
        }
        text
    }

    /// Starts Envoy and returns when it serves.
    pub(crate) async fn start(bootstrap: &str) -> Self {
        let program = repository("target/tools/bin/envoy");
        assert!(program.exists(), "target/tools/bin/envoy is missing: run `make tools`");
        let directory = tempfile::tempdir().expect("make a directory");
        let file = directory.path().join("envoy.yaml");
        fs::write(&file, bootstrap).expect("write the bootstrap");
        let admin = directory.path().join("admin");
        let arguments: Vec<OsString> = vec![
            "--config-path".into(),
            file.into(),
            "--concurrency".into(),
            "1".into(),
            // Several run at once.
            "--disable-hot-restart".into(),
            "--file-flush-interval-msec".into(),
            "50".into(),
            "--log-level".into(),
            "warning".into(),
            "--admin-address-path".into(),
            admin.clone().into(),
        ];
        let process = Process::start(program.as_os_str(), &arguments).await;
        let admin = Client::plain(admin_address(&process, &admin).await);
        let mut envoy = Self { process, admin, listeners: HashMap::new(), _directory: directory };
        envoy.wait_ready().await;
        envoy.listeners = envoy.find_listeners().await;
        envoy
    }

    async fn wait_ready(&self) {
        for _ in 0..1000 {
            if self.admin.get("admin", "/ready").await.status == 200 {
                return;
            }
            tokio::time::sleep(POLL).await;
        }
        panic!("envoy is not ready:\n{}", self.process.stderr().join("\n"));
    }

    async fn find_listeners(&self) -> HashMap<String, SocketAddr> {
        let list: Value = self.admin.get("admin", "/listeners?format=json").await.json();
        let found = list["listener_statuses"].as_array().expect("a list").iter();
        let found = found.filter_map(|listener| {
            let address = &listener["local_address"]["socket_address"];
            // Those within Envoy have none.
            let ip = address["address"].as_str()?;
            let address = format!("{ip}:{}", address["port_value"]).parse().expect("a socket");
            Some((listener["name"].as_str().expect("a name").to_owned(), address))
        });
        found.collect()
    }

    /// Where a listener really listens.
    pub(crate) fn address(&self, listener: &str) -> SocketAddr {
        self.listeners[listener]
    }

    /// The listener at this port, whatever its name.
    pub(crate) fn listening(&self, port: u16) -> Option<SocketAddr> {
        self.listeners.values().copied().find(|address| address.port() == port)
    }

    /// The sum of all counters whose name ends like this.
    pub(crate) async fn counter(&self, suffix: &str) -> u64 {
        let stats: Value = self.admin.get("admin", "/stats?format=json").await.json();
        let stats = stats["stats"].as_array().expect("a list").iter();
        stats
            .filter(|stat| stat["name"].as_str().is_some_and(|name| name.ends_with(suffix)))
            .filter_map(|stat| stat["value"].as_u64())
            .sum()
    }

    /// The access log's line about the request with this number, from 0: the reason for
    /// its status is there. Envoy writes it some time after the answer.
    pub(crate) async fn access(&self, number: usize) -> Value {
        for _ in 0..1000 {
            if let Some(line) = self.process.stdout().get(number) {
                return serde_json::from_str(line).expect("the access log is JSON");
            }
            tokio::time::sleep(POLL).await;
        }
        panic!("no access log line {number}: {:?}", self.process.stdout());
    }
}

/// Envoy writes the port it got to a file.
async fn admin_address(process: &Process, file: &Path) -> SocketAddr {
    for _ in 0..1000 {
        let address = fs::read_to_string(file).ok().and_then(|text| text.trim().parse().ok());
        match address {
            Some(address) => return address,
            None if process.ended() => break,
            None => tokio::time::sleep(POLL).await,
        }
    }
    panic!("envoy did not start:\n{}", process.stderr().join("\n"));
}
