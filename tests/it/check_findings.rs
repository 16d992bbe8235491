//! What `check` warns of, as people and programs read it.

use std::{fs, path::Path, process::Command};

use serde_json::{Value, json};
use tempfile::TempDir;

const CONFIG: &str = "\
mode: development
listeners:
  grpc: {address: '127.0.0.1:0'}
  rest: {address: '127.0.0.1:0'}
  admin: {address: '127.0.0.1:0'}
backends:
  local: {type: memory, secrets: {prod/key: canary}}
policies: [policies]
";

const POLICIES: &str = "\
apiVersion: vaultmux.dev/v1alpha1
kind: AccessPolicy
metadata: {name: own}
spec:
  effect: Allow
  from:
    - namespaces: [prod]
      require: [token]
    - namespaces: [prod]
  to:
    - secrets: {prefixes: [prod/], verbs: [get]}
    - secrets: {names: [prod/key], verbs: [get]}
";

fn directory(config: &str, policies: &str) -> TempDir {
    let directory = tempfile::tempdir().expect("make a directory");
    fs::write(directory.path().join("vaultmux.yaml"), config).expect("write");
    fs::create_dir(directory.path().join("policies")).expect("make");
    fs::write(directory.path().join("policies/a.yaml"), policies).expect("write");
    directory
}

fn check(directory: &Path, more: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_vaultmux-mesh"))
        .args(["check", "--config", "vaultmux.yaml"])
        .args(more)
        .current_dir(directory)
        .env_clear()
        .output()
        .expect("the program runs");
    (output.status.code(), String::from_utf8(output.stdout).expect("text"))
}

/// The codes of all warnings, in order.
fn codes(said: &str) -> Vec<&str> {
    let lines = said.lines().filter(|line| line.starts_with("warning: "));
    let code = |line: &'_ str| line.rfind('[');
    lines.map(|line| &line[code(line).expect("a code")..]).collect()
}

#[test]
fn warnings_have_a_line_a_code_and_an_exit_code_if_wanted() {
    let directory = directory(CONFIG, POLICIES);
    let (code, said) = check(directory.path(), &[]);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(codes(&said), ["[duplicate_subject]", "[unused_subject]", "[shadowed_rule]"]);
    let expected = "warning: policies/a.yaml:12: policy \"own\": spec.to[1]: changes nothing: it \
                    is inside policy \"own\", spec.to[0], at policies/a.yaml:11, which is wider; \
                    remove one of them [shadowed_rule]";
    assert!(said.lines().any(|line| line == expected), "{said}");
    assert!(said.contains("vaultmux.yaml: ok, "), "{said}");
    let (code, again) = check(directory.path(), &["--deny-warnings"]);
    assert_eq!((code, again), (Some(1), said));
    let clean = POLICIES.replace("    - secrets: {names: [prod/key], verbs: [get]}\n", "");
    let clean = clean.replace("    - namespaces: [prod]\n      require: [token]\n", "");
    fs::write(directory.path().join("policies/a.yaml"), clean).expect("write");
    let (code, said) = check(directory.path(), &["--deny-warnings"]);
    assert_eq!(code, Some(0), "{said}");
}

#[test]
fn programs_get_objects_and_texts() {
    let directory = directory(CONFIG, POLICIES);
    let (_, said) = check(directory.path(), &["--output", "json"]);
    let said: Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!(said["valid"], true);
    let findings = said["findings"].as_array().expect("a list");
    assert_eq!(findings.len(), 3);
    assert_eq!(said["warnings"].as_array().expect("a list").len(), 3);
    let mut last = findings[2].clone();
    let message = last.as_object_mut().expect("an object").remove("message").expect("a message");
    assert!(message.as_str().is_some_and(|text| text.starts_with("changes nothing")));
    let expected = json!({
        "code": "shadowed_rule",
        "file": "policies/a.yaml",
        "line": 12,
        "policy": "own",
        "rule": 1,
        "key": "spec.to[1]",
    });
    assert_eq!(last, expected);
}

#[test]
fn proofs_that_others_may_seal_are_not_warned_of() {
    let keys = "one MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=\n";
    let config = format!("{CONFIG}identity: {{grant: {{key_file: keys}}}}\n");
    let directory = directory(&config, POLICIES);
    fs::write(directory.path().join("keys"), keys).expect("write");
    let (_, said) = check(directory.path(), &[]);
    assert_eq!(codes(&said), ["[duplicate_subject]", "[shadowed_rule]"], "{said}");
}

#[test]
fn files_that_look_like_policies_and_are_not_read_are_named() {
    let policies = POLICIES.split("    - secrets: {names").next().expect("a policy");
    let policies = policies.replace("    - namespaces: [prod]\n      require: [token]\n", "");
    let directory = directory(CONFIG, &policies);
    let at = |name: &str| directory.path().join("policies").join(name);
    for name in ["b.YAML", "notes.txt", "c.yaml.bak", "d.json", ".hidden.YML"] {
        fs::write(at(name), "x").expect("write");
    }
    for (name, file) in [("team", "e.yaml"), ("..data", "e.yaml"), ("docs", "f.txt")] {
        fs::create_dir(at(name)).expect("make");
        fs::write(at(name).join(file), "x").expect("write");
    }
    let (code, said) = check(directory.path(), &[]);
    assert_eq!(code, Some(0), "{said}");
    let warnings: Vec<_> = said.lines().filter(|line| line.starts_with("warning: ")).collect();
    assert_eq!(codes(&said), ["[unread_file]"; 2], "{said}");
    assert!(warnings[0].starts_with("warning: policies/b.YAML: is not read"), "{said}");
    assert!(warnings[1].starts_with("warning: policies/team: is not read"), "{said}");
}
