//! Policies that cannot be used, as `check` tells of them and as a running service meets
//! them: file, line and reason, and nothing changes.

use std::{
    fs,
    os::unix::{fs::symlink, net::UnixListener},
    path::Path,
    process::{Command, Output},
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::harness::Service;

const CONFIG: &str = r#"
mode: development
listeners:
  grpc: {address: "127.0.0.1:0"}
  rest: {address: "127.0.0.1:0"}
  admin: {address: "127.0.0.1:0"}
identity: {local: {namespace: prod, service_account: api}}
backends:
  local: {type: memory, secrets: {prod/key: v1, other/key: v1}}
policies: [policies]
"#;

const GOOD: &str = "\
apiVersion: vaultmux.dev/v1alpha1
kind: AccessPolicy
metadata: {name: good}
spec:
  effect: Allow
  from: [{namespaces: [prod]}]
  to: [{secrets: {prefixes: [prod/], verbs: [get]}}]
";

/// A policy with `from` on line 6 and `to` on line 7.
fn policy(from: &str, to: &str) -> String {
    GOOD.replace("name: good", "name: bad")
        .replace("{namespaces: [prod]}", from)
        .replace("{secrets: {prefixes: [prod/], verbs: [get]}}", to)
}

fn secrets(fields: &str) -> String {
    policy("{namespaces: [prod]}", &format!("{{secrets: {{{fields}}}}}"))
}

/// A file of that content, and what is said of it after its name.
fn bad_texts() -> Vec<(String, &'static str)> {
    let template = "which only names and prefixes of secrets may";
    let nested = format!("{}{}", "[".repeat(100), "]".repeat(100));
    let mut laughs = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for n in 1..9 {
        let aliases = vec![format!("*a{}", n - 1); 10].join(", ");
        laughs += &format!("a{n}: &a{n} [{aliases}]\n");
    }
    let http = |fields: &str| policy("{namespaces: [prod]}", &format!("{{http: {{{fields}}}}}"));
    let toward =
        |fields: &str| secrets(&format!("names: [k], verbs: [use], destinations: [{{{fields}}}]"));
    vec![
        // Unknown fields and wrong kinds.
        (
            GOOD.replace("  effect", "  efect: Allow\n  effect"),
            ":5: policy \"good\": spec.efect: unknown field",
        ),
        (
            policy("{namespace: [prod]}", "{}"),
            ":6: policy \"bad\": spec.from[0].namespace: unknown field",
        ),
        (policy("prod", "{}"), ":6: policy \"bad\": spec.from[0]: must be a mapping"),
        (
            GOOD.replace("effect: Allow", "effect: [Allow]"),
            ":5: policy \"good\": spec.effect: must be text",
        ),
        (
            GOOD.replace("kind: AccessPolicy", "kind: Policy"),
            ":2: policy \"good\": kind: \"Policy\"",
        ),
        (GOOD.replace("v1alpha1", "v2"), ":1: policy \"good\": apiVersion: "),
        // Entries that mean nothing.
        (
            GOOD.replace("[{namespaces: [prod]}]", "[]"),
            ":6: policy \"good\": spec.from: an empty list matches nothing",
        ),
        (
            GOOD.replace("[{secrets: {prefixes: [prod/], verbs: [get]}}]", "[]"),
            ":7: policy \"good\": spec.to: an empty list matches nothing",
        ),
        (GOOD.replace("  from: [{namespaces: [prod]}]\n", ""), "spec.from: is missing"),
        // Placeholders where nothing expands them.
        (policy("{namespaces: ['{namespace}']}", "{}"), template),
        (policy("{serviceAccounts: ['prod/{serviceAccount}']}", "{}"), template),
        (policy("{namespaces: [prod], trustDomains: ['{Namespace}']}", "{}"), template),
        (secrets("backends: ['{namespace}'], names: [k], verbs: [get]"), template),
        (secrets("names: [k], verbs: [get], fields: ['{namespace}']"), template),
        (toward("clusters: ['out-{namespace}']"), template),
        (toward("routes: ['{namespace}']"), template),
        (toward("clusters: [c], hosts: ['{namespace}.test']"), template),
        (toward("clusters: [c], snis: ['{namespace}.test']"), template),
        (http("hosts: ['{namespace}.test']"), template),
        (http("paths: ['/{namespace}/']"), template),
        (http("methods: ['{namespace}']"), template),
        (http("destinations: ['{namespace}/api']"), template),
        // Names that nothing can have.
        (
            secrets("prefixes: [prod], verbs: [get]"),
            ":7: policy \"bad\": spec.to[0].secrets.prefixes[0]: \"prod\" is refused: a prefix must end in one of / - _ .",
        ),
        (secrets("prefixes: [prod//], verbs: [get]"), "can never match: local: "),
        (secrets("prefixes: [/prod/], verbs: [get]"), "can never match: local: "),
        (secrets("names: [prod/], verbs: [get]"), "can never match: local: "),
        (secrets("prefixes: [../], verbs: [get]"), "can never match: local: "),
        (secrets("names: ['a b'], verbs: [get]"), "can never match: local: "),
        (
            secrets(&format!("names: [{}], verbs: [get]", "k".repeat(5000))),
            "can never match: local: secret name cannot exceed",
        ),
        (
            secrets(&format!("prefixes: [{}/], verbs: [get]", "k".repeat(5000))),
            "can never match: local: secret name cannot exceed",
        ),
        (
            secrets("backends: [gone], names: [k], verbs: [get]"),
            "\"gone\" is not a backend, known are local",
        ),
        // One name twice; the good file is read first.
        (GOOD.to_owned(), ":3: policy \"good\": metadata.name: another policy has this name, at "),
        // YAML that is more than it seems, or none.
        (laughs, "cannot be read as YAML"),
        (nested, ":1: cannot be read as YAML"),
        (
            format!("{}<<: {{a: b}}\n", GOOD.replace("good", "bad")),
            ":8: policy \"bad\": <<: unknown field",
        ),
        (GOOD.replace("good", &"n".repeat(1 << 20)), "metadata.name: must be 1 to 253"),
        (policy(&format!("{{namespaces: [{}]}}", "N".repeat(1 << 20)), "{}"), "is not a namespace"),
        (format!("{}{}: 1\n", GOOD.replace("good", "bad"), "k".repeat(1 << 20)), "cannot be read"),
        ("a: [".to_owned(), ":1: cannot be read as YAML"),
        ("\u{0}\u{1}\u{2}".to_owned(), "cannot be read as YAML"),
        (String::new(), ": cannot be read: is empty"),
    ]
}

fn check(directory: &Path, more: &[&str]) -> Output {
    // A file that makes the program wait fails the test instead of holding it up.
    Command::new("timeout")
        .args(["60", env!("CARGO_BIN_EXE_vaultmux-mesh"), "check", "--config", "config.yaml"])
        .args(more)
        .current_dir(directory)
        .output()
        .expect("the program runs")
}

fn directory() -> TempDir {
    let directory = tempfile::tempdir().expect("make a directory");
    fs::write(directory.path().join("config.yaml"), CONFIG).expect("write");
    fs::create_dir(directory.path().join("policies")).expect("make");
    fs::write(directory.path().join("policies/a.yaml"), GOOD).expect("write");
    directory
}

/// The lines that `check` says are errors; it must have told them all and ended.
fn errors(directory: &Path) -> Vec<String> {
    let output = check(directory, &[]);
    let said = String::from_utf8(output.stdout).expect("text");
    let logged = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}{logged}");
    said.lines().filter_map(|line| line.strip_prefix("error: ")).map(str::to_owned).collect()
}

#[test]
fn check_tells_file_line_and_reason() {
    let directory = directory();
    for (text, reason) in bad_texts() {
        fs::write(directory.path().join("policies/b.yaml"), &text).expect("write");
        let errors = errors(directory.path());
        let start: String = text.chars().take(300).collect();
        let found = errors.iter().find(|error| error.contains(reason));
        let Some(error) = found else { panic!("{errors:?}\n  not: {reason}\n{start}") };
        assert!(error.contains("policies/b.yaml:"), "{error}");
        assert!(error.len() < 1_000, "{} bytes for {reason}", error.len());
    }
}

/// What may lie in a directory under the name of a policy file.
fn bad_entries(path: &Path) -> Vec<(&'static str, &'static str)> {
    let at = |name: &str| path.join(name);
    let made = Command::new("mkfifo").arg(at("fifo.yaml")).status().expect("mkfifo runs");
    assert!(made.success());
    drop(UnixListener::bind(at("socket.yaml")).expect("bind"));
    symlink("/dev/zero", at("device.yaml")).expect("link");
    symlink("loop.yml", at("loop.yaml")).expect("link");
    symlink("loop.yaml", at("loop.yml")).expect("link");
    symlink("nowhere", at("dangling.yaml")).expect("link");
    fs::write(at("binary.yaml"), b"a: b\nc: \xff\xfe\n").expect("write");
    // Fifty megabytes of nothing: no room on disk, and none in memory either.
    fs::File::create(at("huge.yaml")).and_then(|file| file.set_len(50 << 20)).expect("write");
    vec![
        ("fifo.yaml", ": cannot be read: not a regular file"),
        ("socket.yaml", ": cannot be read: not a regular file"),
        ("device.yaml", ": cannot be read: not a regular file"),
        ("loop.yaml", ": cannot be read: "),
        ("loop.yml", ": cannot be read: "),
        ("dangling.yaml", ": cannot be read: No such file"),
        ("binary.yaml", ":2: cannot be read: is not UTF-8 text"),
        ("huge.yaml", ": cannot be read: is larger than 8 MiB"),
    ]
}

#[test]
fn what_is_no_file_is_named_and_never_waited_for() {
    let directory = directory();
    let expected = bad_entries(&directory.path().join("policies"));
    let errors = errors(directory.path());
    assert_eq!(errors.len(), expected.len(), "{errors:#?}");
    for (name, reason) in expected {
        let told = format!("policies/{name}{reason}");
        assert!(errors.iter().any(|error| error.contains(&told)), "{errors:#?}\n{told}");
    }
}

#[test]
fn files_that_are_too_large_together_are_refused_unread() {
    let directory = directory();
    for n in 0..40 {
        let path = directory.path().join(format!("policies/{n}.yaml"));
        fs::File::create(path).and_then(|file| file.set_len(8 << 20)).expect("write");
    }
    let errors = errors(directory.path());
    let [error] = errors.as_slice() else { panic!("{errors:?}") };
    assert!(error.ends_with("all files together are larger than 256 MiB"), "{error}");
}

#[test]
fn thousands_of_mistakes_are_told_by_a_hundred_and_a_number() {
    let directory = directory();
    let many = "a: b\n---\n".repeat(50_000);
    fs::write(directory.path().join("policies/b.yaml"), many).expect("write");
    let errors = errors(directory.path());
    assert_eq!(errors.len(), 101, "{:?}", errors.last());
    assert_eq!(errors[100], "and at least 9900 more problems");
}

#[test]
fn a_hundred_thousand_files_are_nothing_special() {
    let directory = directory();
    let file = |n: usize| directory.path().join(format!("policies/{n}.txt"));
    (0..100_000).for_each(|n| fs::write(file(n), "").expect("write"));
    let begun = Instant::now();
    let output = check(directory.path(), &[]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("1 policies"), "{said}");
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
}

async fn statuses(service: &Service) -> [u16; 2] {
    let client = service.rest_client();
    let read =
        async |name: &str| client.get("vaultmux.test", &format!("/v1/secrets/{name}")).await.status;
    [read("prod/key").await, read("other/key").await]
}

async fn metric(service: &Service, name: &str) -> u64 {
    let text = service.admin_client().get("admin", "/metrics").await.text();
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    value.unwrap_or_default()
}

/// Asks for a reload, and waits until one more was refused.
async fn refused(service: &Service) {
    const REFUSED: &str = r#"vaultmux_reloads_total{result="error"}"#;
    let before = metric(service, REFUSED).await;
    service.hang_up();
    let counted = async {
        while metric(service, REFUSED).await == before {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), counted).await.expect("counted");
}

/// Waits until the log and `/policies` tell of a mistake in that line of `b.yaml`. The reason is
/// left to `check`: it may quote names of secrets.
async fn told(service: &Service, line: Option<u64>) {
    let about = |problem: &Value| {
        problem["file"].as_str().is_some_and(|file| file.ends_with("policies/b.yaml"))
            && line.is_none_or(|line| problem["line"] == line)
    };
    let seen = async {
        loop {
            let said: Value = service.admin_client().get("admin", "/policies").await.json();
            let problems = said["last_refusal"]["problems"].as_array();
            if problems.is_some_and(|problems| problems.iter().any(about)) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), seen).await.expect("told");
    let place = line.map_or_else(|| "b.yaml:".to_owned(), |line| format!("b.yaml:{line}:"));
    let line: Value = service.logged(&["reload refused", &place]).await;
    assert_eq!(line["level"], "ERROR");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_service_keeps_what_it_has() {
    let service = Service::start(&[("config.yaml", CONFIG), ("policies/a.yaml", GOOD)]).await;
    assert_eq!(statuses(&service).await, [200, 403]);
    for (text, reason) in bad_texts() {
        // Written elsewhere and moved: half a file is another kind of bad.
        fs::write(service.path("new"), &text).expect("write");
        fs::rename(service.path("new"), service.path("policies/b.yaml")).expect("move");
        refused(&service).await;
        let line = reason.strip_prefix(':').and_then(|rest| rest.split_once(':')?.0.parse().ok());
        told(&service, line).await;
        assert_eq!(statuses(&service).await, [200, 403], "{reason}");
        assert_eq!(metric(&service, "vaultmux_policy_generation").await, 1, "{reason}");
    }
    fs::remove_file(service.path("policies/b.yaml")).expect("remove");
    for (name, reason) in bad_entries(&service.path("policies")) {
        refused(&service).await;
        service.logged(&["reload refused", &format!("policies/{name}{reason}")]).await;
        assert_eq!(statuses(&service).await, [200, 403], "{name}");
        fs::remove_file(service.path("policies").join(name)).expect("remove");
    }
    // All is well again: what was refused left nothing behind.
    let more = GOOD.replace("good", "more").replace("prod/", "other/");
    fs::write(service.path("policies/b.yaml"), more).expect("write");
    service.hang_up();
    service.logged(&["policies in force", r#""policy.generation":2"#]).await;
    assert_eq!(statuses(&service).await, [200, 200]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_disappears_takes_no_policies_along() {
    let service = Service::start(&[("config.yaml", CONFIG), ("policies/a.yaml", GOOD)]).await;
    fs::rename(service.path("policies"), service.path("gone")).expect("move");
    refused(&service).await;
    service.logged(&["reload refused", "policies: cannot be read: No such file"]).await;
    assert_eq!(statuses(&service).await, [200, 403]);
}
