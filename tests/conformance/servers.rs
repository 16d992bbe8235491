//! Starting and ending third-party servers.

use std::{
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use tempfile::TempDir;
use tokio::process::{Child, Command};
use vaultmux_mesh::{
    backends::{
        SecretBackend,
        conformance::{self, Outcome, Profile},
    },
    secret::{NameEncoding, NameGrammar, SecretName},
};

/// The longest that any of the servers takes to come up.
const START: Duration = Duration::from_secs(60);

/// A running server, in a directory of its own; ends when dropped.
pub(crate) struct Server {
    process: Child,
    log: PathBuf,
    pub(crate) dir: TempDir,
}

/// A program that `make servers` built.
pub(crate) fn program(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/servers/bin").join(name);
    assert!(path.exists(), "{} is missing: run `make servers`", path.display());
    path
}

/// A loopback port that was free a moment ago, for servers that cannot choose one.
pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
    let address: SocketAddr = listener.local_addr().expect("bound");
    address.port()
}

/// The YAML block of a page whose first line is this file's name.
pub(crate) fn documented(page: &str, file: &str) -> String {
    let text = Path::new(env!("CARGO_MANIFEST_DIR")).join(page);
    let text = std::fs::read_to_string(text).unwrap_or_else(|error| panic!("{page}: {error}"));
    let start = format!("```yaml\n# {file}\n");
    let (_, rest) = text.split_once(&start).unwrap_or_else(|| panic!("no {file}"));
    rest.split_once("```").expect("a closed block").0.to_owned()
}

/// Runs the whole suite and panics with a table if anything failed.
pub(crate) async fn assert_conforms(backend: &dyn SecretBackend, profile: Profile) {
    let checks = conformance::run(backend, profile).await;
    let table: Vec<_> = checks.iter().map(ToString::to_string).collect();
    eprintln!("{}", table.join("\n"));
    let failed = checks.iter().any(|check| matches!(check.outcome, Outcome::Failed(_)));
    assert!(!failed, "\n{}", table.join("\n"));
}

/// The canonical form of a name that a test chose.
pub(crate) fn name(grammar: NameGrammar, raw: &str) -> SecretName {
    grammar.canonical(raw, NameEncoding::Plain).expect("valid name")
}

/// Waits for a condition; panics with `what` if it does not come true in time.
pub(crate) async fn until<T>(what: &str, mut found: impl AsyncFnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = found().await {
            return found;
        }
        assert!(started.elapsed() < START, "{what}: not within {START:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn spawn(
    directory: &Path,
    program: &Path,
    arguments: impl FnOnce(&Path) -> Vec<String>,
) -> (Child, PathBuf) {
    let log = directory.join("log");
    let output = std::fs::File::create(&log).expect("log made");
    let process = Command::new(program)
        .args(arguments(directory))
        .current_dir(directory)
        .env("HOME", directory)
        .stdin(std::process::Stdio::null())
        .stdout(output.try_clone().expect("log shared"))
        .stderr(output)
        .kill_on_drop(true)
        .spawn()
        .unwrap_or_else(|error| panic!("{}: {error}", program.display()));
    (process, log)
}

// === impl Server ===

impl Server {
    /// Starts a program; what it says goes to a file in its directory.
    pub(crate) fn start(program: &Path, arguments: impl FnOnce(&Path) -> Vec<String>) -> Self {
        Self::start_in(TempDir::new().expect("temporary directory"), program, arguments)
    }

    /// As [`Self::start`], in a directory that was prepared.
    pub(crate) fn start_in(
        dir: TempDir,
        program: &Path,
        arguments: impl FnOnce(&Path) -> Vec<String>,
    ) -> Self {
        let (process, log) = spawn(dir.path(), program, arguments);
        Self { process, log, dir }
    }

    /// Ends the program and starts it again where it was.
    pub(crate) async fn restart(
        &mut self,
        program: &Path,
        arguments: impl FnOnce(&Path) -> Vec<String>,
    ) {
        self.process.kill().await.expect("ended");
        (self.process, self.log) = spawn(self.dir.path(), program, arguments);
    }

    /// What the server said so far.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until `ready` finds what it looks for; panics with the log if the
    /// server ends first.
    pub(crate) async fn ready<T>(&mut self, mut ready: impl AsyncFnMut(&str) -> Option<T>) -> T {
        let started = Instant::now();
        loop {
            let log = self.log();
            if let Some(found) = ready(&log).await {
                return found;
            }
            let ended = self.process.try_wait().expect("process is ours");
            assert!(ended.is_none() && started.elapsed() < START, "not ready: {ended:?}\n{log}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}
