//! The audit stream of the program: one line a decision, wherever it was made.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    process::{Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    time::timeout,
};

use crate::harness::{Client, Mesh, Service};

const CONFIG: &str = r#"
mode: development
listeners:
  grpc: {address: "127.0.0.1:0"}
  rest: {address: "127.0.0.1:0"}
  admin: {address: "127.0.0.1:0"}
identity: {local: {namespace: prod, service_account: api}}
backends:
  local: {type: memory, secrets: {prod/key: canary-1, other/key: canary-2}}
policies: [policies]
audit: {sink: "file:{directory}/audit.jsonl"}
"#;

const POLICY: &str = "
apiVersion: vaultmux.dev/v1alpha1
kind: AccessPolicy
metadata: {name: own}
spec:
  effect: Allow
  from: [{namespaces: [prod]}]
  to: [{secrets: {prefixes: [prod/], verbs: [get, list]}}]
";

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

async fn start() -> Service {
    Service::start(&[("config.yaml", CONFIG), ("policies/a.yaml", POLICY)]).await
}

async fn read(service: &Service, path: &str, id: &str) -> u16 {
    let traceparent = format!("00-{TRACE}-00f067aa0ba902b7-01");
    let headers = [("x-request-id", id), ("traceparent", &traceparent)];
    service.rest_client().request("GET", "vaultmux.test", path, &headers).await.status
}

fn lines(text: &str) -> Vec<Value> {
    assert!(!text.contains("canary"), "{text}");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON lines")).collect()
}

/// Waits until the file has so many lines.
async fn written(service: &Service, file: &str, count: usize) -> Vec<Value> {
    let there = async {
        loop {
            let text = fs::read_to_string(service.path(file)).unwrap_or_default();
            if text.lines().count() >= count && text.ends_with('\n') {
                return lines(&text);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let lines = timeout(Duration::from_secs(30), there).await;
    let lines = lines.unwrap_or_else(|_| panic!("{file} has no {count} lines"));
    assert_eq!(lines.len(), count, "{lines:?}");
    lines
}

#[tokio::test(flavor = "multi_thread")]
async fn every_decision_of_rest_is_a_line() {
    let service = start().await;
    for (path, id, status) in [
        ("/v1/secrets/prod/key?x=canary", "r-1", 200),
        ("/v1/secrets/other/key", "r-2", 403),
        ("/v1/secrets", "r-3", 200),
    ] {
        assert_eq!(read(&service, path, id).await, status, "{path}");
    }
    // A proof that does not hold is a decision too.
    let forged = [("x-vaultmux-grant", "canary"), ("x-request-id", "r-4")];
    let forged = service.rest_client().request("GET", "a", "/v1/secrets/prod/key", &forged).await;
    assert_eq!(forged.status, 403);
    let lines = written(&service, "audit.jsonl", 4).await;
    let seen = |line: &Value| {
        json!([line["request_id"], line["allowed"], line["policy"], line["principal"]["proofs"]])
    };
    let seen: Vec<_> = lines.iter().map(seen).collect();
    let expected = [
        json!(["r-1", true, "own", ["local"]]),
        json!(["r-2", false, null, ["local"]]),
        json!(["r-3", true, "own", ["local"]]),
        json!(["r-4", false, null, null]),
    ];
    assert_eq!(seen, expected);
    assert_eq!(lines[0]["trace_id"], TRACE);
    assert_eq!(
        (&lines[1]["reason"], &lines[1]["operation"]["secret"]),
        (&json!("no_match"), &json!("other/key"))
    );
    let answer = service.admin_client().get("admin", "/metrics").await.text();
    for line in ["vaultmux_audit_written_total 4", "vaultmux_audit_dropped_total 0"] {
        assert!(answer.lines().any(|found| found == line), "{line} in {answer}");
    }
    assert!(service.stdout().is_empty(), "{:?}", service.stdout());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_was_renamed_is_followed_by_another() {
    let service = start().await;
    assert_eq!(read(&service, "/v1/secrets/prod/key", "a").await, 200);
    written(&service, "audit.jsonl", 1).await;
    fs::rename(service.path("audit.jsonl"), service.path("audit.1")).expect("rename");
    assert_eq!(read(&service, "/v1/secrets/prod/key", "b").await, 200);
    written(&service, "audit.1", 2).await;
    service.hang_up();
    service.reloaded(2).await;
    assert_eq!(read(&service, "/v1/secrets/prod/key", "c").await, 200);
    assert_eq!(written(&service, "audit.jsonl", 1).await[0]["request_id"], "c");

    // Nor does rotation wait for a policy to be mended.
    fs::rename(service.path("audit.jsonl"), service.path("audit.2")).expect("rename");
    fs::write(service.path("policies/a.yaml"), "a: [").expect("write");
    service.hang_up();
    service.logged(&["reload refused"]).await;
    assert_eq!(read(&service, "/v1/secrets/prod/key", "d").await, 200);
    assert_eq!(written(&service, "audit.jsonl", 1).await[0]["request_id"], "d");
    written(&service, "audit.1", 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_that_cannot_be_opened_leaves_the_old_one() {
    let service = start().await;
    let config = fs::read_to_string(service.path("config.yaml")).expect("text");
    fs::write(service.path("new"), config.replace("audit.jsonl", "none/audit")).expect("write");
    fs::rename(service.path("new"), service.path("config.yaml")).expect("rename");
    service.logged(&["reload refused", "audit.sink: file:/", "its directory: No such file"]).await;
    assert_eq!(read(&service, "/v1/secrets/prod/key", "a").await, 200);
    written(&service, "audit.jsonl", 1).await;
    fs::write(service.path("new"), config.replace("audit.jsonl", "other")).expect("write");
    fs::rename(service.path("new"), service.path("config.yaml")).expect("rename");
    service.reloaded(2).await;
    assert_eq!(read(&service, "/v1/secrets/prod/key", "b").await, 200);
    written(&service, "other", 1).await;
    written(&service, "audit.jsonl", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_answered_before_sigterm_is_written() {
    let mut service = start().await;
    let answered = Arc::new(Mutex::new(BTreeSet::new()));
    let count = Arc::new(AtomicUsize::new(0));
    let ask = |caller: usize| {
        let client = service.rest_client();
        let (answered, count) = (Arc::clone(&answered), Arc::clone(&count));
        async move {
            for number in 0.. {
                let id = format!("r-{caller}-{number}");
                let headers = [("x-request-id", &*id)];
                let body = crate::harness::sized("");
                let path = "/v1/secrets/prod/key";
                let answer = client.try_send("GET", "vaultmux.test", path, &headers, body).await;
                let Ok(answer) = answer else { return };
                assert_eq!(answer.status, 200);
                answered.lock().expect("not poisoned").insert(id);
                count.fetch_add(1, Ordering::SeqCst);
            }
        }
    };
    let callers: Vec<_> = (0..8).map(|caller| tokio::spawn(ask(caller))).collect();
    let busy = async {
        while count.load(Ordering::SeqCst) < 200 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(Duration::from_secs(30), busy).await.expect("answers");
    service.terminate();
    assert_eq!(service.exit_code().await, 0);
    for caller in callers {
        caller.await.expect("every answer was good");
    }
    let text = fs::read_to_string(service.path("audit.jsonl")).expect("text");
    let id = |line: Value| line["request_id"].as_str().expect("an id").to_owned();
    let kept: BTreeSet<String> = lines(&text).into_iter().map(id).collect();
    let answered = answered.lock().expect("not poisoned").clone();
    let lost: Vec<_> = answered.difference(&kept).collect();
    assert!(lost.is_empty(), "{} of {}: {lost:?}", lost.len(), answered.len());
}

/// More than the pipe holds waits inside the service when it is asked to stop.
#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_is_slow_delays_the_end_and_no_request() {
    let directory = tempfile::tempdir().expect("make a directory");
    let file = |name: &str| directory.path().join(name);
    fs::create_dir(file("policies")).expect("make");
    fs::write(file("policies/a.yaml"), POLICY).expect("write");
    let config = CONFIG.replace("file:{directory}/audit.jsonl", "stdout");
    fs::write(file("config.yaml"), config).expect("write");
    let mut service = tokio::process::Command::new(env!("CARGO_BIN_EXE_vaultmux-mesh"))
        .args(["serve", "--config"])
        .arg(file("config.yaml"))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("starts");
    let mut said = BufReader::new(service.stderr.take().expect("piped")).lines();
    let rest = loop {
        let line = said.next_line().await.expect("text").expect("it listens before it ends");
        let line: Value = serde_json::from_str(&line).expect("JSON lines");
        if line["message"] == "listening" && line["listener"] == "rest" {
            break line["address"].as_str().expect("text").parse().expect("an address");
        }
    };
    let (told, mut draining) = tokio::sync::watch::channel(false);
    let listen = tokio::spawn(async move {
        while let Ok(Some(line)) = said.next_line().await {
            if line.contains("draining") {
                let _ = told.send(true);
            }
        }
    });
    let client = Client::plain(rest);
    for number in 0..500 {
        let (id, body) = (format!("r-{number}"), crate::harness::sized(""));
        let path = "/v1/secrets/prod/key";
        let headers = [("x-request-id", &*id)];
        let answer = client.try_send("GET", "a", path, &headers, body).await;
        assert_eq!(answer.expect("an answer").status, 200);
    }
    let id = service.id().expect("it runs").to_string();
    let kill = Command::new("bash").args(["-c", r#"kill -s TERM "$0""#, &id]).status();
    assert!(kill.expect("start bash").success());
    let drains = draining.wait_for(|draining| *draining);
    timeout(Duration::from_secs(30), drains).await.expect("in time").expect("it drains");
    let mut text = String::new();
    let mut stdout = service.stdout.take().expect("piped");
    let all = stdout.read_to_string(&mut text);
    timeout(Duration::from_secs(30), all).await.expect("in time").expect("text");
    let status = timeout(Duration::from_secs(30), service.wait()).await;
    assert!(status.expect("in time").expect("it ends").success());
    listen.await.expect("no panic");
    assert!(text.len() > 128 << 10, "more than a pipe holds: {}", text.len());
    let id = |line: &Value| line["request_id"].as_str().expect("an id").to_owned();
    let kept: Vec<String> = lines(&text).iter().map(id).collect();
    let sent: Vec<String> = (0..500).map(|number| format!("r-{number}")).collect();
    assert_eq!(kept, sent);
}

#[test]
fn a_sink_that_cannot_be_opened_is_found_at_once() {
    let directory = tempfile::tempdir().expect("make a directory");
    let path = directory.path().join("config.yaml");
    let config = CONFIG.replace("{directory}", "none").replace("policies: [policies]", "");
    fs::write(&path, config).expect("write");
    for (command, code) in [("serve", 2), ("check", 1)] {
        let mut program = Command::new(env!("CARGO_BIN_EXE_vaultmux-mesh"));
        let output = program.arg(command).arg("--config").arg(&path).output().expect("runs");
        let said = format!("{output:?}");
        assert_eq!(output.status.code(), Some(code), "{said}");
        let expected = format!("audit.sink: file:{}", directory.path().join("none").display());
        assert!(said.contains(&expected) && said.contains("its directory: No such file"), "{said}");
    }
    assert!(!directory.path().join("none").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_of_one_request_write_a_line_each() {
    let mut mesh = Mesh::builder().config("audit: {sink: stdout}\n").start().await;
    let api = mesh.api();
    let secret = api.get("vaultmux.test", "/v1/secrets/zq-orders?x=canary-x").await;
    assert_eq!(secret.status, 200, "{}", secret.text());
    let traceparent = format!("00-{TRACE}-00f067aa0ba902b7-01");
    let headers = [
        ("x-api-key", "{{secret://local/zq-stripe}}"),
        ("cookie", "canary-x"),
        ("traceparent", &traceparent),
    ];
    let used = api.request("GET", "api.stripe.test", "/v1/charges?canary-x", &headers).await;
    assert_eq!(used.status, 200, "{}", used.text());
    let refused = api.request("GET", "app.test", "/public/", &headers).await;
    assert_eq!(refused.status, 403, "{}", refused.text());
    let other = mesh.client("shop", "web").get("app.test", "/public/").await;
    assert_eq!(other.status, 403);
    mesh.service.terminate();
    assert_eq!(mesh.service.exit_code().await, 0);
    mesh.assert_silent();

    let lines = lines(&mesh.service.stdout().join("\n"));
    let seen = |line: &Value| {
        let operation = &line["operation"];
        let what =
            if operation["kind"] == "http" { &operation["host"] } else { &operation["secret"] };
        json!([
            line["edge"],
            operation["kind"],
            what,
            line["allowed"],
            line["policy"],
            line["principal"]["service_account"],
            line["principal"]["proofs"],
            line["trace_id"],
        ])
    };
    let seen: Vec<_> = lines.iter().map(seen).collect();
    let granted = ["mtls", "grant"];
    let expected = [
        json!(["ext_authz", "secret", "zq-orders", true, "api-reads", "api", ["mtls"], null]),
        json!(["ext_proc", "secret", "zq-orders", true, "api-reads", "api", granted, null]),
        json!(["ext_authz", "http", "api.stripe.test", true, "traffic", "api", ["mtls"], TRACE]),
        json!(["ext_proc", "secret", "zq-stripe", true, "api-uses", "api", granted, TRACE]),
        json!(["ext_authz", "http", "app.test", true, "traffic", "api", ["mtls"], TRACE]),
        json!(["ext_proc", "secret", "zq-stripe", false, null, "api", granted, TRACE]),
        json!(["ext_authz", "http", "app.test", false, null, "web", ["mtls"], null]),
    ];
    assert_eq!(seen, expected, "{lines:#?}");
    // Envoy's own request id ties both to one another.
    let mut by_request: BTreeMap<&str, usize> = BTreeMap::new();
    for line in &lines {
        *by_request.entry(line["request_id"].as_str().expect("Envoy gives one")).or_default() += 1;
    }
    let mut together: Vec<_> = by_request.into_values().collect();
    together.sort_unstable();
    assert_eq!(together, [1, 2, 2, 2]);
    let destination = &lines[3]["operation"]["destination"];
    assert_eq!(
        (&destination["host"], &destination["cluster"]),
        (&json!("api.stripe.test"), &json!("payment"))
    );
}
