//! The real binary with a configuration of its own.

use std::{ffi::OsString, fs, net::SocketAddr, path::PathBuf, time::Duration};

use serde_json::Value;
use tempfile::TempDir;

use super::{Process, client::Client};

/// A running `vaultmux-mesh serve`.
pub(crate) struct Service {
    process: Process,
    directory: TempDir,
    grpc: String,
    rest: String,
    admin: String,
}

// === impl Service ===

impl Service {
    /// Starts it as vaultmux-server was started: with variables and nothing else.
    pub(crate) async fn start_by_environment(variables: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().expect("make a directory");
        let mut arguments: Vec<OsString> = vec!["-i".into()];
        arguments.extend(variables.iter().map(|(key, value)| format!("{key}={value}").into()));
        arguments.extend([binary().into_os_string(), "serve".into()]);
        Self::running(Process::start("/usr/bin/env".as_ref(), &arguments).await, directory).await
    }

    /// Starts it with these files, of which `config.yaml` is the configuration, and
    /// returns when all three listeners are bound. `{directory}` in it stands for the
    /// files' directory.
    pub(crate) async fn start(files: &[(&str, &str)]) -> Self {
        let directory = write(files);
        let config = directory.path().join("config.yaml");
        let arguments: Vec<OsString> = vec!["serve".into(), "--config".into(), config.into()];
        Self::running(Process::start(binary().as_os_str(), &arguments).await, directory).await
    }

    /// The same with these variables and no others. `{directory}` may stand in them too.
    pub(crate) async fn start_with(files: &[(&str, &str)], variables: &[(&str, &str)]) -> Self {
        let directory = write(files);
        let here = directory.path().to_str().expect("a plain path");
        let mut arguments: Vec<OsString> = vec!["-i".into()];
        let set =
            |(key, value): &(&str, &str)| format!("{key}={value}").replace("{directory}", here);
        arguments.extend(variables.iter().map(|variable| set(variable).into()));
        let config = directory.path().join("config.yaml");
        arguments.extend([binary().into_os_string(), "serve".into(), "--config".into()]);
        arguments.push(config.into());
        Self::running(Process::start("/usr/bin/env".as_ref(), &arguments).await, directory).await
    }

    async fn running(process: Process, directory: TempDir) -> Self {
        let grpc = bound(&process, "grpc").await;
        let rest = bound(&process, "rest").await;
        let admin = bound(&process, "admin").await;
        Self { process, directory, grpc, rest, admin }
    }

    /// Where gRPC listens: `ip:port` or `unix:/path`.
    pub(crate) fn grpc(&self) -> &str {
        &self.grpc
    }

    /// Where REST listens.
    pub(crate) fn rest(&self) -> SocketAddr {
        self.rest.parse().expect("REST listens on a port")
    }

    /// Where the admin page is.
    pub(crate) fn admin(&self) -> &str {
        &self.admin
    }

    /// A client of the REST API, past any proxy.
    pub(crate) fn rest_client(&self) -> Client {
        Client::plain(self.rest())
    }

    /// A client of the admin listener.
    pub(crate) fn admin_client(&self) -> Client {
        Client::plain(self.admin.parse().expect("admin listens on a port"))
    }

    /// A file that was given to [`Service::start`].
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// All log lines so far.
    pub(crate) fn logs(&self) -> Vec<String> {
        self.process.stderr()
    }

    /// All that went to standard output: the audit stream, if configured there.
    pub(crate) fn stdout(&self) -> Vec<String> {
        self.process.stdout()
    }

    /// The most memory that it has had at once, in bytes.
    pub(crate) fn peak_memory(&self) -> u64 {
        self.process.peak_memory()
    }

    /// Asks it to stop, without waiting.
    pub(crate) fn terminate(&self) {
        self.process.signal("TERM");
    }

    /// Asks it to read its files again.
    pub(crate) fn hang_up(&self) {
        self.process.signal("HUP");
    }

    /// Waits for a log line that holds all of these.
    pub(crate) async fn logged(&self, words: &[&str]) -> Value {
        let find = |line: &str| {
            let found = words.iter().all(|word| line.contains(word));
            found.then(|| serde_json::from_str(line).expect("JSON lines"))
        };
        self.process.wait_stderr(&format!("line with {words:?}"), find).await
    }

    /// A metric's value, by its name and labels.
    pub(crate) async fn metric(&self, series: &str) -> Option<f64> {
        let text = self.admin_client().get("admin", "/metrics").await.text();
        let value = |line: &str| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok();
        text.lines().find_map(value)
    }

    /// Waits until so many loads took effect, with that of the start.
    pub(crate) async fn reloaded(&self, times: usize) {
        self.counted(r#"vaultmux_reloads_total{result="ok"}"#, times).await;
    }

    /// Waits until so many loads were refused.
    pub(crate) async fn refused(&self, times: usize) {
        self.counted(r#"vaultmux_reloads_total{result="error"}"#, times).await;
    }

    async fn counted(&self, series: &str, times: usize) {
        let counted = async {
            while self.metric(series).await.unwrap_or_default() < times as f64 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let counted = tokio::time::timeout(Duration::from_secs(30), counted).await;
        assert!(counted.is_ok(), "{series} never was {times}:\n{}", self.logs().join("\n"));
    }

    /// Waits for it to end by itself.
    pub(crate) async fn exit_code(&mut self) -> i32 {
        self.process.exit_code().await
    }

    /// Ends it without warning.
    pub(crate) async fn kill(&mut self) {
        self.process.kill().await;
    }
}

fn write(files: &[(&str, &str)]) -> TempDir {
    let directory = tempfile::tempdir().expect("make a directory");
    for (name, text) in files {
        let path = directory.path().join(name);
        fs::create_dir_all(path.parent().expect("below the directory")).expect("make it");
        let here = directory.path().to_str().expect("a plain path");
        fs::write(path, text.replace("{directory}", here)).expect("write a file");
    }
    directory
}

fn binary() -> PathBuf {
    // Cargo tells tests where the binary is, and examples nothing: theirs is one up.
    match option_env!("CARGO_BIN_EXE_vaultmux-mesh") {
        Some(path) => path.into(),
        None => {
            let example = std::env::current_exe().expect("know our own path");
            let profile = example.parent().and_then(|directory| directory.parent());
            profile.expect("below the target directory").join("vaultmux-mesh")
        }
    }
}

async fn bound(process: &Process, listener: &str) -> String {
    let address = |line: &str| {
        let line: Value = serde_json::from_str(line).ok()?;
        let listening = line["message"] == "listening" && line["listener"] == listener;
        listening.then(|| line["address"].as_str().map(str::to_owned)).flatten()
    };
    process.wait_stderr(&format!("`listening` line of {listener}"), address).await
}
