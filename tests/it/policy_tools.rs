//! `policy test` over the sample that ships, `policy replay` of what the running service
//! recorded, and what `can-i` supposes.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::timeout;

use crate::harness::{Mesh, Service, repository};

fn run(directory: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vaultmux-mesh"))
        .args(arguments)
        .current_dir(directory)
        .env_clear()
        .output()
        .expect("the program runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("text")
}

/// The sample, in a directory where it can be changed.
fn sample() -> TempDir {
    fn copy(from: &Path, to: &Path) {
        fs::create_dir_all(to).expect("make a directory");
        for entry in fs::read_dir(from).expect("readable") {
            let path = entry.expect("an entry").path();
            let target = to.join(path.file_name().expect("a name"));
            if path.is_dir() {
                copy(&path, &target);
            } else {
                fs::copy(&path, target).expect("copy");
            }
        }
    }
    let directory = tempfile::tempdir().expect("make a directory");
    copy(&repository("examples/policies"), directory.path());
    directory
}

const TABLES: [&str; 2] = ["secrets.test.yaml", "traffic.test.yaml"];

/// Changes a file of the sample.
fn change(directory: &TempDir, file: &str, from: &str, to: &str) {
    let path = directory.path().join(file);
    let before = fs::read_to_string(&path).expect("text");
    assert!(before.contains(from), "{file} does not hold {from}");
    fs::write(path, before.replace(from, to)).expect("write");
}

#[test]
fn the_sample_passes_and_leaves_no_rule_untouched() {
    let directory = sample();
    let arguments = ["policy", "test", TABLES[0], TABLES[1], "--fail-uncovered"];
    let output = run(directory.path(), &arguments);
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{said}{}", text(&output.stderr));
    assert!(said.contains("17 cases passed, 0 failed, of "), "{said}");
    assert!(said.ends_with("vaultmux.yaml: 6 of 6 rules decided a question\n"), "{said}");
    let config = run(directory.path(), &["check", "--config", "vaultmux.yaml"]);
    assert_eq!(config.status.code(), Some(0), "{}", text(&config.stdout));
}

#[test]
fn a_case_that_fails_says_what_was_decided_and_where() {
    let directory = sample();
    change(&directory, "policies/secrets.yaml", "verbs: [get, list]}", "verbs: [list]}");
    let output = run(directory.path(), &["policy", "test", TABLES[0], TABLES[1]]);
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{said}");
    for line in [
        "  FAIL  a namespace reads its own area, however the secret is named (4 of 8 questions), secrets.test.yaml:7",
        "    payments/api (mtls) get secret://aws-prod/payments/db",
        "      expected: allowed",
        "      expected: decided by policy own-area",
        "      but it is denied: no_match",
        "      nearest rule that would allow: own-area, spec.to[0] (policies/secrets.yaml:9)",
        "        but verb get is not among list",
    ] {
        assert!(said.lines().any(|found| found == line), "{line}\nis not in\n{said}");
    }
    let json = run(directory.path(), &["policy", "test", TABLES[0], "--output", "json"]);
    let json: Value = serde_json::from_slice(&json.stdout).expect("JSON");
    let failed = &json["suites"][0]["cases"][0]["failed"][0];
    assert_eq!(
        (&failed["operation"], &failed["nearest"]["line"], &json["coverage"][0]["rules"]),
        (&json!("get secret://aws-prod/payments/db"), &json!(9), &json!(6))
    );
    assert_eq!(json["failed"], 2, "{json}");
}

#[test]
fn expectations_beyond_the_outcome_count() {
    for (from, to, unmet) in [
        ("policy: own-area", "policy: charge-cards", "decided by policy charge-cards"),
        ("reason: missing_attribute", "reason: no_match", "denied: no_match"),
        ("policy: roots-stay-put", "policy: own-area", "decided by policy own-area"),
    ] {
        let directory = sample();
        change(&directory, TABLES[0], from, to);
        let output = run(directory.path(), &["policy", "test", TABLES[0]]);
        let said = text(&output.stdout);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(&format!("expected: {unmet}\n")), "{said}");
    }
    let directory = sample();
    change(&directory, "policies/traffic.yaml", "  mode: Audit\n", "  mode: Enforce\n");
    let said = text(&run(directory.path(), &["policy", "test", TABLES[1]]).stdout);
    for line in ["expected: allowed", "expected: matched by audit policy no-exports"] {
        assert!(said.contains(line), "{said}");
    }
}

#[test]
fn rules_that_no_case_touches_are_named() {
    let directory = sample();
    let arguments = ["policy", "test", TABLES[1], "--fail-uncovered"];
    let output = run(directory.path(), &arguments);
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("vaultmux.yaml: 2 of 6 rules decided a question\n"), "{said}");
    assert!(said.contains("  not charge-cards, spec.to[0] (policies/secrets.yaml:27)\n"), "{said}");
    assert_eq!(run(directory.path(), &arguments[..3]).status.code(), Some(0));
}

#[test]
fn junit_has_a_suite_a_table_and_a_case_a_case() {
    let directory = sample();
    change(&directory, "policies/secrets.yaml", "verbs: [get, list]}", "verbs: [list]}");
    let output =
        run(directory.path(), &["policy", "test", TABLES[0], TABLES[1], "--junit", "report.xml"]);
    assert_eq!(output.status.code(), Some(1));
    let xml = fs::read_to_string(directory.path().join("report.xml")).expect("written");
    let report = quick_junit::Report::deserialize_from_str(&xml).expect("JUnit XML");
    let suites: Vec<_> = report
        .test_suites
        .iter()
        .map(|suite| (suite.name.as_str(), suite.tests, suite.failures, suite.test_cases.len()))
        .collect();
    assert_eq!(suites, [("secrets", 12, 2, 12), ("traffic", 5, 0, 5)]);
    assert_eq!((report.tests, report.failures, report.errors), (17, 2, 0));
    let first = &report.test_suites[0].test_cases[0];
    assert_eq!(first.classname.as_ref().map(|name| name.as_str()), Some("secrets"));
    assert!(xml.contains("but verb get is not among list"), "{xml}");
}

#[test]
fn junit_fails_for_rules_that_must_be_covered() {
    let directory = sample();
    let arguments = ["policy", "test", TABLES[1], "--junit", "report.xml"];
    let read = || {
        let xml = fs::read_to_string(directory.path().join("report.xml")).expect("written");
        quick_junit::Report::deserialize_from_str(&xml).expect("JUnit XML")
    };
    assert_eq!(run(directory.path(), &arguments).status.code(), Some(0));
    assert_eq!((read().tests, read().failures), (5, 0));
    let output = run(directory.path(), &[&arguments[..], &["--fail-uncovered"]].concat());
    assert_eq!(output.status.code(), Some(1));
    let report = read();
    assert_eq!((report.tests, report.failures), (9, 4));
    let suite = report.test_suites.last().expect("suites");
    assert_eq!((suite.name.as_str(), suite.failures), ("coverage of vaultmux.yaml", 4));
    let names: Vec<_> = suite.test_cases.iter().map(|case| case.name.as_str()).collect();
    assert!(names.contains(&"charge-cards, spec.to[0]"), "{names:?}");
}

#[test]
fn a_report_of_an_earlier_run_does_not_stay() {
    let directory = sample();
    let report = directory.path().join("report.xml");
    for table in ["none.yaml", "large.yaml", "latin.yaml"] {
        fs::write(&report, "<testsuites/>").expect("write");
        let large = fs::File::create(directory.path().join("large.yaml")).expect("a file");
        large.set_len(64 << 20).expect("room");
        fs::write(directory.path().join("latin.yaml"), b"# caf\xe9\n").expect("write");
        let output =
            run(directory.path(), &["policy", "test", TABLES[0], table, "--junit", "report.xml"]);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.starts_with(&format!("error: {table}: cannot be read: ")), "{said}");
        assert!(!report.exists(), "{table}");
        let too_large = said.contains("is larger than 8 MiB");
        assert_eq!(too_large, table == "large.yaml", "{said}");
    }
}

#[test]
fn a_path_of_more_than_one_reading_is_a_question_with_an_answer() {
    let directory = sample();
    let url = "\"http://orders.shop/orders/1\"";
    let urls = "[\"http://orders.shop/a/../orders/1\", \"http://orders.shop/orders%2F1\"]";
    let whole = fs::read_to_string(directory.path().join(TABLES[1])).expect("text");
    let case = whole.split("    - name: nobody changes them").next().expect("a case");
    let denied = case.replace(url, urls).replace("expect: allow", "expect: deny");
    let denied = denied.replace("policy: read-orders", "reason: malformed_request");
    fs::write(directory.path().join("t.yaml"), denied).expect("write");
    let output = run(directory.path(), &["policy", "test", "t.yaml"]);
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{said}{}", text(&output.stderr));
    assert!(said.contains("1 cases passed, 0 failed, of 4 questions"), "{said}");
    fs::write(directory.path().join("t.yaml"), case.replace(url, urls)).expect("write");
    let said = text(&run(directory.path(), &["policy", "test", "t.yaml"]).stdout);
    let line =
        "      but it is denied: malformed_request, since its path has more than one reading";
    assert!(said.lines().any(|found| found == line), "{said}");
    assert!(said.contains("GET http://orders.shop/a/../orders/1 of shop/orders"), "{said}");
}

#[test]
fn tables_that_cannot_be_read_name_file_and_line() {
    let whole =
        fs::read_to_string(repository("examples/policies/traffic.test.yaml")).expect("text");
    for (from, to, expected) in [
        ("      expect: allow\n", "", "t.yaml:7: spec.cases[0].expect: is missing"),
        (
            "kind: PolicyTest",
            "kind: AccessPolicy",
            "t.yaml:2: kind: \"AccessPolicy\" is not one of PolicyTest",
        ),
        ("methods: GET", "verbs: GET", "t.yaml:9: spec.cases[0].http.verbs: unknown field"),
        (
            "      expect: allow\n",
            "      expect: maybe\n",
            "t.yaml:10: spec.cases[0].expect: \"maybe\" is not one of allow, deny",
        ),
        (
            "      expect: allow\n",
            "      expect: allow\n      reason: no_match\n",
            "spec.cases[0].reason: only a denial has a reason",
        ),
        (
            "as: [payments/api, support/desk]",
            "as: payments",
            "t.yaml:8: spec.cases[0].as: \"payments\" is not a service account",
        ),
        (
            "as: [payments/api, support/desk]",
            "as: []",
            "spec.cases[0].as: an empty list matches nothing",
        ),
        (
            "as: [payments/api, support/desk]",
            "as: a/b\n      trustDomain: other.test",
            "trust domain is not configured",
        ),
        (
            "as: [payments/api, support/desk]",
            "as: a/b\n      boundTo: pod",
            "only a token is bound to a pod",
        ),
        (
            "as: [payments/api, support/desk]",
            "as: a/b\n      proofs: [dna]",
            "\"dna\" is not a known proof",
        ),
        (
            "http: {methods: GET, urls: \"http://orders.shop/orders/1\", destinations: shop/orders}",
            "secrets: {verbs: get, names: ../x}",
            "t.yaml:9: spec.cases[0].secrets.names: \"../x\": ",
        ),
        (
            "http: {methods: GET, urls: \"http://orders.shop/orders/1\", destinations: shop/orders}",
            "secrets: {verbs: get, names: \"secret://none/x\"}",
            "unknown backend",
        ),
        (
            "http: {methods: GET, urls: \"http://orders.shop/orders/1\", destinations: shop/orders}",
            "secrets: {verbs: get, names: x, destinations: [{host: a}]}",
            "only `use` has a destination",
        ),
        ("\"http://orders.shop/orders/1\"", "orders.shop/orders", "is not a URL"),
        ("\"http://orders.shop/orders/1\"", "\"http://u@orders.shop/a\"", "malformed host"),
        (
            "name: nobody changes them",
            "name: payments and support read orders",
            "another case is called",
        ),
        ("  config: vaultmux.yaml\n", "", "names no configuration: give --config FILE"),
        ("config: vaultmux.yaml", "config: none.yaml", "none.yaml: cannot be read"),
        (
            "config: vaultmux.yaml",
            "policies: [none.yaml]\n  config: vaultmux.yaml",
            "none.yaml: cannot be read",
        ),
        ("apiVersion", "a: [", "cannot be read as YAML"),
    ] {
        let directory = sample();
        assert!(whole.contains(from), "{from}");
        fs::write(directory.path().join("t.yaml"), whole.replacen(from, to, 1)).expect("write");
        let output = run(directory.path(), &["policy", "test", "t.yaml"]);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{to}: {said}{}", text(&output.stdout));
        assert!(
            said.starts_with("error: ") && said.contains(expected),
            "{said}\ndoes not hold\n{expected}"
        );
    }
    let directory = sample();
    let many = |what: &str| (0..400).map(|n| format!("{what}{n}")).collect::<Vec<_>>().join(", ");
    let table = format!(
        "apiVersion: vaultmux.dev/v1alpha1\nkind: PolicyTest\nmetadata: {{name: t}}\nspec:\n  \
         config: vaultmux.yaml\n  cases:\n    - name: n\n      expect: deny\n      \
         as: [{}]\n      secrets: {{verbs: get, names: [{}]}}\n",
        many("a/n"),
        many("n")
    );
    fs::write(directory.path().join("t.yaml"), table).expect("write");
    let said = text(&run(directory.path(), &["policy", "test", "t.yaml"]).stderr);
    assert!(said.contains("t.yaml:7: spec.cases[0]: its lists multiply to more than"), "{said}");
    let none = tempfile::tempdir().expect("make a directory");
    assert_eq!(run(none.path(), &["policy", "test", "none.yaml"]).status.code(), Some(2));
    assert_eq!(run(none.path(), &["policy", "test"]).status.code(), Some(2));
}

#[test]
fn can_i_supposes_the_proofs_that_it_is_told() {
    let directory = sample();
    let ask = |flags: &[&str]| {
        let mut all = vec!["can-i", "team-a/rotator", "get", "keys/team-a/rotator/tls"];
        all.extend(["--config", "vaultmux.yaml"]);
        all.extend(flags);
        let output = run(directory.path(), &all);
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let plain = ask(&[]);
    assert_eq!(plain.0, Some(1), "{plain:?}");
    assert!(
        plain.1.ends_with(
            "nearest rule that would allow: rotate-own-keys, spec.to[0] (policies/secrets.yaml:18)\n  \
         but the identity is not proven by token\n  \
         but the identity is not proven by a token that is bound to a pod\n\
         supposed: an identity proven by mtls; --proofs and --bound-to-pod suppose others\n"
        ),
        "{plain:?}"
    );
    let unbound = ask(&["--proofs", "mtls,token"]);
    assert_eq!(unbound.0, Some(1), "{unbound:?}");
    let bound = ask(&["--proofs", "mtls,token", "--bound-to-pod"]);
    assert_eq!(bound.0, Some(0), "{bound:?}");
    for (flags, why) in [
        (&["--bound-to-pod"][..], "--bound-to-pod goes with --proofs token"),
        (&["--proofs", "dna"], "--proofs: \"dna\" is not a proof"),
        (&["--trust-domain", "other.test"], "trust domain is not configured"),
    ] {
        let answer = ask(flags);
        assert_eq!(answer.0, Some(2), "{answer:?}");
        assert!(answer.2.contains(why), "{answer:?}");
    }
    // Where proofs are what is missing, the answer says which were supposed.
    change(
        &directory,
        "policies/secrets.yaml",
        "effect: Allow\n  from: [{namespaces: [\"*\"]",
        "effect: Allow\n  from: [{namespaces: [payments]",
    );
    let missing = ask(&["--proofs", "mtls,token"]);
    assert!(
        missing.1.ends_with(
            "  but the identity is not proven by a token that is bound to a pod\n\
         supposed: an identity proven by mtls+token; --proofs and --bound-to-pod suppose others\n"
        ),
        "{missing:?}"
    );
    let json = ask(&["--proofs", "mtls,token", "--output", "json"]);
    let json: Value = serde_json::from_str(&json.1).expect("JSON");
    assert_eq!(
        (&json["proofs"], &json["nearest"]["file"], &json["nearest"]["line"]),
        (&json!(["mtls", "token"]), &json!("policies/secrets.yaml"), &json!(18))
    );
}

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

/// Waits until the file has so many lines.
async fn written(file: PathBuf, count: usize) {
    let there = async {
        while fs::read_to_string(&file).map_or(0, |text| text.lines().count()) < count {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(30), there).await.expect("the lines are written");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_service_recorded_is_asked_again() {
    let service = Service::start(&[("config.yaml", CONFIG), ("policies/a.yaml", POLICY)]).await;
    for (path, status) in [
        ("/v1/secrets/prod/key", 200),
        ("/v1/secrets/prod/key", 200),
        ("/v1/secrets/prod/none", 404),
        ("/v1/secrets/other/key", 403),
        ("/v1/secrets", 200),
    ] {
        assert_eq!(service.rest_client().get("a", path).await.status, status, "{path}");
    }
    let forged = [("x-vaultmux-grant", "canary")];
    let forged = service.rest_client().request("GET", "a", "/v1/secrets/a", &forged).await;
    assert_eq!(forged.status, 403);
    written(service.path("audit.jsonl"), 6).await;

    let here = service.path("");
    let replay = |policies: &str, more: &[&str]| {
        let mut all = vec!["policy", "replay", "--audit", "audit.jsonl", policies];
        all.extend(["--config", "config.yaml"]);
        all.extend(more);
        let output = run(&here, &all);
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let same = replay("policies", &[]);
    assert_eq!(same.0, Some(0), "{same:?}");
    let counts =
        "5 of 6 lines were asked again: 0 would change, 0 would be decided by another rule\n";
    assert!(same.1.starts_with(counts), "{same:?}");
    assert!(
        same.1.contains("not asked: 1, refused before any policy was asked (line 6 is the first)"),
        "{same:?}"
    );

    let other = POLICY.replace("prefixes: [prod/]", "names: [prod/none, other/key]");
    fs::write(service.path("new.yaml"), other).expect("write");
    let other = replay("new.yaml", &[]);
    assert_eq!(other.0, Some(1), "{other:?}");
    let expected = "newly denied: 2\n  \
        2x spiffe://cluster.local/ns/prod/sa/api (local) get secret://local/prod/key\n    \
        was allowed by policy own, spec.to[0]\n    now denied: no_match\n    such as ";
    assert!(other.1.starts_with(expected), "{}", other.1);
    for line in [
        "newly allowed: 1",
        "    was denied: no_match",
        "    now allowed by policy own, spec.to[0] (new.yaml:8)",
        "5 of 6 lines were asked again: 3 would change, 0 would be decided by another rule",
    ] {
        assert!(other.1.lines().any(|found| found == line), "{line}\nis not in\n{}", other.1);
    }
    let json = replay("new.yaml", &["--output", "json"]);
    let json: Value = serde_json::from_str(&json.1).expect("JSON");
    let denied = &json["newly_denied"][0];
    let recorded = fs::read_to_string(service.path("audit.jsonl")).expect("text");
    let first: Value = serde_json::from_str(recorded.lines().next().expect("one")).expect("JSON");
    assert_eq!(
        (&denied["count"], &denied["example"]["line"], &denied["example"]["decision_id"]),
        (&json!(2), &json!(1), &first["decision_id"])
    );
    assert_eq!(
        (&denied["was"]["policy"], &denied["now"]["reason"]),
        (&json!("own"), &json!("no_match"))
    );
    assert_eq!(json["not_asked"][0]["why"], "no_policy_asked");

    // A last line that was cut is counted; a file of nothing else cannot be read.
    fs::write(service.path("audit.jsonl"), &recorded[..recorded.len() - 9]).expect("write");
    let cut = replay("policies", &[]);
    assert_eq!(cut.0, Some(0), "{cut:?}");
    assert!(cut.1.contains("not readable: 1\n  line 6: "), "{cut:?}");
    fs::write(service.path("audit.jsonl"), POLICY).expect("write");
    let none = replay("policies", &[]);
    assert_eq!(none.0, Some(2), "{none:?}");
    assert!(none.2.contains("audit.jsonl:2: no line is an audit line: "), "{none:?}");
    fs::write(service.path("new.yaml"), "a: [").expect("write");
    assert_eq!(replay("new.yaml", &[]).0, Some(2));
    assert_eq!(replay("gone.yaml", &[]).0, Some(2));
}

/// What Envoy asked for is decided again as it was, with the Deny for the request.
#[tokio::test(flavor = "multi_thread")]
async fn what_envoy_asked_for_is_asked_again() {
    let mut mesh = Mesh::builder().config("audit: {sink: stdout}\n").start().await;
    let api = mesh.api();
    assert_eq!(api.get("vaultmux.test", "/v1/secrets/zq-orders").await.status, 200);
    assert_eq!(api.get("vaultmux.test", "/v1/secrets/zq-hidden").await.status, 403);
    let used = [("x-api-key", "{{secret://local/zq-stripe}}")];
    assert_eq!(api.request("GET", "api.stripe.test", "/v1/charges", &used).await.status, 200);
    mesh.service.terminate();
    assert_eq!(mesh.service.exit_code().await, 0);
    let recorded = mesh.service.stdout().join("\n") + "\n";
    fs::write(mesh.service.path("audit.jsonl"), &recorded).expect("write");
    let here = mesh.service.path("");
    let replay = |policies: &str| {
        let arguments =
            ["policy", "replay", "--audit", "audit.jsonl", policies, "--config", "config.yaml"];
        let output = run(&here, &arguments);
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let same = replay("policies");
    assert_eq!(same.0, Some(0), "{same:?}\n{recorded}");
    assert!(same.1.contains(": 0 would change, 0 would be decided by another rule"), "{same:?}");
    let deny = "
apiVersion: vaultmux.dev/v1alpha1
kind: AccessPolicy
metadata: {name: closed}
spec:
  effect: Deny
  from: [{namespaces: [payments]}]
  to: [{http: {hosts: [vaultmux.test], paths: [/v1/secrets/zq-orders]}}]
";
    fs::write(mesh.service.path("policies/closed.yaml"), deny).expect("write");
    let closed = replay("policies");
    assert_eq!(closed.0, Some(1), "{closed:?}");
    // At the filter that has the request; the other one was asked by name alone.
    assert!(closed.1.starts_with("newly denied: 1\n"), "{}", closed.1);
    assert!(closed.1.contains("(mtls) get secret://local/zq-orders\n"), "{}", closed.1);
    assert!(closed.1.contains("now denied by policy closed, spec.to[0]: denied_by_policy"));
    mesh.assert_silent();
}
