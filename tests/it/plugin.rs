//! Plugins: the sample in Python, checked, served, killed and started again, and
//! sockets that come and go.

use std::{
    ffi::OsString,
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Output},
    time::Duration,
};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::{Process, Service, repository, sized};

const CONFIG: &str = r#"
mode: development
listeners:
  grpc: {address: "127.0.0.1:0"}
  rest: {address: "127.0.0.1:0"}
  admin: {address: "127.0.0.1:0"}
identity: {local: {namespace: prod, service_account: api}}
backends:
  sqlite: {type: plugin, socket: "{directory}/run/sqlite.sock"}
plugins: {directory: run}
cache: {ttl: 0, negative_ttl: 0}
policies: [policies.yaml]
"#;

const POLICIES: &str = "\
apiVersion: vaultmux.dev/v1alpha1
kind: AccessPolicy
metadata: {name: all}
spec:
  effect: Allow
  from: [{namespaces: [prod]}]
  to: [{secrets: {names: [\"*\"], verbs: [get, list, create, update, delete]}}]
";

const CANARY: &str = "canary-66b0d2";

/// The sample, ready to answer.
async fn start_sample(socket: &Path, database: &Path) -> Process {
    let python = repository("target/tools/bin/python");
    assert!(python.exists(), "Python is not installed for the tests: run `make tools`");
    let sample = repository("examples/plugin-python/plugin.py");
    let arguments: Vec<OsString> =
        vec![sample.into(), "--socket".into(), socket.into(), "--database".into(), database.into()];
    let process = Process::start(python.as_os_str(), &arguments).await;
    process.wait_stdout("`listening` line", |line| line.contains("listening").then_some(())).await;
    process
}

/// A service that expects the sample at `run/sqlite.sock`.
async fn start_service() -> Service {
    let files = [("config.yaml", CONFIG), ("policies.yaml", POLICIES), ("run/keep", "")];
    let service = Service::start(&files).await;
    let mode = fs::Permissions::from_mode(0o755);
    fs::set_permissions(service.path("run"), mode).expect("set");
    service
}

async fn read(service: &Service, path: &str) -> (u16, String) {
    let answer = service.rest_client().get("vaultmux.test", &format!("/v1/secrets{path}")).await;
    (answer.status, answer.text())
}

async fn create(service: &Service, body: &str) -> u16 {
    let body = sized(body.to_owned());
    service.rest_client().send("POST", "vaultmux.test", "/v1/secrets", &[], body).await.status
}

/// Asks until the answer is the expected one: some things take a moment.
async fn becomes(service: &Service, path: &str, status: u16) {
    let arrives = async {
        while read(service, path).await.0 != status {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let arrived = tokio::time::timeout(Duration::from_secs(30), arrives).await;
    assert!(arrived.is_ok(), "{path} never was {status}: {:?}", read(service, path).await);
}

fn plugin_test(arguments: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = Command::new(env!("CARGO_BIN_EXE_vaultmux-mesh"))
        .args(["plugin", "test"])
        .args(arguments)
        .output()
        .expect("the program runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    (status.code(), text(stdout), text(stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sample_passes_every_check() {
    let directory = tempfile::tempdir().expect("make a directory");
    let socket = directory.path().join("sqlite.sock");
    let path = socket.to_str().expect("a plain path");
    let (code, said, error) = plugin_test(&[path]);
    assert_eq!((code, said.as_str()), (Some(2), ""), "nobody is there");
    assert!(error.starts_with(&format!("error: {path}: the store is unavailable: ")), "{error}");

    let _sample = start_sample(&socket, &directory.path().join("db")).await;
    let (code, said, error) = plugin_test(&[path]);
    assert_eq!((code, error.as_str()), (Some(0), ""), "{said}");
    for line in [
        "plugin        sqlite-sample 1.0.0",
        "protocol      1 (it speaks 1 to 1)",
        "passed   the health service says SERVING",
        "passed   of many concurrent creates one wins",
        "passed   every name is listed once, over all pages",
        "skipped  deleted secrets are pending (deletes are final)",
        "passed   a watch begins at once and tells of writes",
        "20 passed, 2 skipped, 0 failed",
    ] {
        assert!(said.lines().any(|said| said == line), "{line} is not in\n{said}");
    }
    let (code, said, _) = plugin_test(&[path, "--output", "json", "--prefix", "scratch/"]);
    let report: serde_json::Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!((code, report["failed"].as_u64()), (Some(0), Some(0)), "{said}");
    assert_eq!(report["prefix"], "scratch/");
    let (code, _, error) = plugin_test(&[path, "--allow-uid", "4242424"]);
    assert_eq!(code, Some(2));
    assert!(error.contains("the store denied access: "), "{error}");
    assert_eq!(plugin_test(&[path, "--prefix", "a b"]).0, Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_may_come_late_die_and_come_again() {
    let service = start_service().await;
    let (status, body) = read(&service, "/before").await;
    assert_eq!(status, 503, "{body}");
    assert!(body.contains("backend_unavailable"), "{body}");

    let (socket, database) = (service.path("run/sqlite.sock"), service.path("db"));
    let mut sample = start_sample(&socket, &database).await;
    service.logged(&["plugin socket appeared"]).await;
    becomes(&service, "/before", 404).await;
    let body = format!(r#"{{"name": "api/key", "value": "{CANARY}"}}"#);
    assert_eq!(create(&service, &body).await, 201);
    let (status, body) = read(&service, "/api/key").await;
    assert_eq!(status, 200, "{body}");
    assert!(body.contains(CANARY), "{body}");
    service.logged(&["plugin connected", "sqlite-sample"]).await;

    sample.kill().await;
    let (status, body) = read(&service, "/other").await;
    assert_eq!(status, 503, "{body}");
    let _again = start_sample(&socket, &database).await;
    becomes(&service, "/other", 404).await;
    becomes(&service, "/api/key", 200).await;
    for line in service.logs() {
        assert!(!line.contains(CANARY), "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_in_the_directory_is_a_backend_from_then_on() {
    let service = start_service().await;
    assert_eq!(read(&service, "/key?backend=late").await.0, 400, "no such backend");
    let sample = start_sample(&service.path("run/late.sock"), &service.path("db")).await;
    let found = service.logged(&["backend configured", r#""secret.backend":"late""#]).await;
    assert_eq!(found["kind"], "plugin");
    becomes(&service, "/key?backend=late", 404).await;
    assert_eq!(create(&service, r#"{"name": "key", "value": "x", "backend": "late"}"#).await, 201);
    becomes(&service, "/key?backend=late", 200).await;
    let check = Command::new(env!("CARGO_BIN_EXE_vaultmux-mesh"))
        .args(["check", "--config"])
        .arg(service.path("config.yaml"))
        .output()
        .expect("the program runs");
    let said = String::from_utf8(check.stdout).expect("text");
    assert!(said.lines().any(|line| line == "plugin found: late"), "{said}");

    std::os::unix::net::UnixListener::bind(service.path("run/Not-a-name.sock")).expect("bound");
    service.logged(&["WARN", "Not-a-name.sock is left out"]).await;
    sample.signal("TERM");
    // It takes its socket with it, but what names it keeps its meaning.
    becomes(&service, "/other?backend=late", 503).await;
    let _again = start_sample(&service.path("run/late.sock"), &service.path("db")).await;
    becomes(&service, "/other?backend=late", 404).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_is_gone_holds_no_policy_back() {
    let service = start_service().await;
    let sample = start_sample(&service.path("run/late.sock"), &service.path("db")).await;
    becomes(&service, "/key?backend=late", 404).await;
    let policies = POLICIES.replace("secrets: {", "secrets: {backends: [late], ");
    fs::write(service.path("new"), policies).expect("write");
    fs::rename(service.path("new"), service.path("policies.yaml")).expect("move");
    becomes(&service, "/key", 403).await;
    sample.signal("TERM");
    becomes(&service, "/other?backend=late", 503).await;
    let deny = "\n---\napiVersion: vaultmux.dev/v1alpha1\nkind: AccessPolicy\n\
                metadata: {name: stop}\nspec:\n  effect: Deny\n  from: [{namespaces: ['*']}]\n  \
                to: [{secrets: {backends: [late], names: ['*'], verbs: ['*']}}]\n";
    fs::write(service.path("new"), format!("{POLICIES}{deny}")).expect("write");
    fs::rename(service.path("new"), service.path("policies.yaml")).expect("move");
    becomes(&service, "/other?backend=late", 403).await;
    becomes(&service, "/key", 503).await;
    assert!(!service.logs().iter().any(|line| line.contains("reload refused")));
}

/// Changes the sample's file as nobody but its owner can: past the plugin.
fn rotate(database: &Path, name: &str, value: &str) {
    let script = "import sqlite3, sys, time\n\
                  database = sqlite3.connect(sys.argv[1])\n\
                  database.execute('INSERT INTO versions SELECT name, max(version) + 1, ?, ? \
                  FROM versions WHERE name = ?', (sys.argv[3].encode(), time.time(), sys.argv[2]))\n\
                  database.commit()\n";
    let output = Command::new(repository("target/tools/bin/python"))
        .args(["-c", script])
        .arg(database)
        .args([name, value])
        .output()
        .expect("Python runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Asks until the answer holds this.
async fn holds(service: &Service, path: &str, wanted: &str) {
    let arrives = async {
        while !read(service, path).await.1.contains(wanted) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let arrived = tokio::time::timeout(Duration::from_secs(60), arrives).await;
    assert!(arrived.is_ok(), "{path} never was {wanted}: {:?}", read(service, path).await);
}

/// Nothing is read anew within the test but for what the plugin tells.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_plugin_tells_is_read_anew_at_once_and_told_to_watchers() {
    let config = CONFIG
        .replace("cache: {ttl: 0, negative_ttl: 0}", "cache: {ttl: 1h}")
        .replace("  sqlite: {type: plugin,", "  sqlite: {type: plugin, prefix: own/,")
        .replace("plugins: {directory: run}\n", "");
    let files = [("config.yaml", &*config), ("policies.yaml", POLICIES), ("run/keep", "")];
    let service = Service::start(&files).await;
    let mode = fs::Permissions::from_mode(0o755);
    fs::set_permissions(service.path("run"), mode).expect("set");
    let (socket, database) = (service.path("run/sqlite.sock"), service.path("db"));
    let mut sample = start_sample(&socket, &database).await;
    assert_eq!(create(&service, r#"{"name": "key", "value": "first"}"#).await, 201);
    assert_eq!(create(&service, r#"{"name": "other", "value": "untouched"}"#).await, 201);
    holds(&service, "/key", "first").await;
    service.logged(&["the store tells of changes", "sqlite"]).await;
    let mut watcher = tokio::net::TcpStream::connect(service.rest()).await.expect("connected");
    let ask = "GET /v1/watch?name=key&name=other HTTP/1.1\r\nhost: a\r\n\r\n";
    watcher.write_all(ask.as_bytes()).await.expect("sent");
    let mut events = String::new();
    told(&mut watcher, &mut events, "\"name\":\"key\",\"backend\":\"sqlite\",\"version\":\"1\"")
        .await;
    told(&mut watcher, &mut events, "\"name\":\"other\",\"backend\":\"sqlite\",\"version\":\"1\"")
        .await;

    rotate(&database, "own/key", "second");
    told(&mut watcher, &mut events, "\"name\":\"key\",\"backend\":\"sqlite\",\"version\":\"2\"")
        .await;
    holds(&service, "/key", "second").await;
    let one = r#"vaultmux_backend_changes_total{backend="sqlite",kind="one"}"#;
    assert!(service.metric(one).await.is_some_and(|count| count >= 1.0));

    // What changes while the plugin is away is seen when it is back.
    sample.kill().await;
    rotate(&database, "own/key", "third");
    let _again = start_sample(&socket, &database).await;
    told(&mut watcher, &mut events, "\"name\":\"key\",\"backend\":\"sqlite\",\"version\":\"3\"")
        .await;
    holds(&service, "/key", "third").await;
    assert!(!events.contains("\"name\":\"other\",\"backend\":\"sqlite\",\"version\":\"2\""));
    assert!(service.logs().iter().all(|line| !line.contains("own/key")));
}

/// Waits for this among the events.
async fn told(watcher: &mut tokio::net::TcpStream, events: &mut String, wanted: &str) {
    let arrives = async {
        while !events.contains(wanted) {
            let mut bytes = [0; 4096];
            match watcher.read(&mut bytes).await {
                Ok(read @ 1..) => events.push_str(&String::from_utf8_lossy(&bytes[..read])),
                _ => return false,
            }
        }
        true
    };
    let arrived = tokio::time::timeout(Duration::from_secs(60), arrives).await;
    assert!(matches!(arrived, Ok(true)), "no {wanted} in\n{events}");
}

/// A directory that is made later, with a socket in it at once.
#[tokio::test(flavor = "multi_thread")]
async fn the_directory_itself_may_come_late() {
    let config = CONFIG.replace("directory: run", "directory: later/plugins").replace(
        "sqlite: {type: plugin, socket: \"{directory}/run/sqlite.sock\"}",
        "local: {type: memory}",
    );
    let files = [("config.yaml", config.as_str()), ("policies.yaml", POLICIES), ("later/keep", "")];
    let service = Service::start(&files).await;
    service.logged(&["WARN", "later/plugins does not exist yet"]).await;
    let directory = service.path("later/plugins");
    fs::create_dir(&directory).expect("make");
    let _socket =
        std::os::unix::net::UnixListener::bind(directory.join("hung.sock")).expect("bound");
    service.logged(&["backend configured", r#""secret.backend":"hung""#]).await;
}

#[test]
fn the_configurations_of_the_manual_pass_the_check() {
    let text = fs::read_to_string(repository("docs/plugins.md")).expect("docs/plugins.md");
    let blocks: Vec<_> = text
        .split("```yaml\n")
        .skip(1)
        .filter_map(|rest| rest.split_once("```"))
        .map(|(block, _)| block)
        .filter(|block| block.starts_with("# vaultmux.yaml\n"))
        .collect();
    assert!(!blocks.is_empty());
    for block in blocks {
        let directory = tempfile::tempdir().expect("make a directory");
        fs::write(directory.path().join("vaultmux.yaml"), block).expect("write");
        let output = Command::new(env!("CARGO_BIN_EXE_vaultmux-mesh"))
            .args(["check", "--config", "vaultmux.yaml"])
            .current_dir(directory.path())
            .output()
            .expect("the program runs");
        let said = String::from_utf8(output.stdout).expect("text");
        assert!(output.status.success(), "{block}\n{said}");
    }
}
