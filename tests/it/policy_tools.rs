//! `policy test` over the sample that ships, and what `can-i` supposes.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::repository;

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
        ("\"http://orders.shop/orders/1\"", "\"http://orders.shop/a/../b\"", "ambiguous path"),
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
            "nearest rule that would allow: own-area, spec.to[0] (policies/secrets.yaml:9)\n  \
         but name keys/team-a/rotator/tls matches none of prefixes {namespace}/\n"
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
