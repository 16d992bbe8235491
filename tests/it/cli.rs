//! The program as an operator meets it: exit codes, one clear line per mistake,
//! `check` and `can-i`.

use std::{
    net::TcpListener,
    path::Path,
    process::{Command, Output},
};

use serde_json::Value;
use tempfile::TempDir;

const CONFIG: &str = "\
mode: development
listeners:
  grpc: {address: '127.0.0.1:0'}
  rest: {address: '127.0.0.1:0'}
  admin: {address: '127.0.0.1:0'}
backends:
  local: {type: memory, secrets: {prod/key: canary}}
policies: [policies.yaml]
secret_routes: [{hosts: [vaultmux.test], prefix: /v1/secrets}]
";

const POLICIES: &str = r#"apiVersion: vaultmux.dev/v1alpha1
kind: AccessPolicy
metadata: {name: own-namespace}
spec:
  effect: Allow
  from: [{namespaces: ["*"]}]
  to:
    - secrets:
        prefixes: ["{namespace}/"]
        verbs: [get]
    - http: {hosts: [orders.test], methods: [GET], paths: ["/orders/"]}
    - secrets:
        names: [shared/stripe]
        verbs: [use]
        destinations: [{hosts: [api.stripe.test], clusters: [stripe]}]
"#;

fn directory(files: &[(&str, &str)]) -> TempDir {
    let directory = TempDir::new().expect("a directory");
    for (name, text) in files {
        std::fs::write(directory.path().join(name), text).expect("a file");
    }
    directory
}

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

/// Runs a command that must fail with exit code 2 and one clear line.
fn refusal(directory: &Path, arguments: &[&str]) -> String {
    let output = run(directory, arguments);
    let errors = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {errors}");
    assert!(!errors.contains("panicked") && !errors.contains("backtrace"), "{errors}");
    let lines: Vec<_> = errors.lines().filter(|line| line.starts_with("error: ")).collect();
    assert_eq!(lines.len(), 1, "{errors}");
    lines[0].trim_start_matches("error: ").to_owned()
}

#[test]
fn mistakes_are_one_line_with_exit_code_2() {
    let without_separator = POLICIES.replace("{namespace}/\"", "prod\"");
    let policy_line = "policies.yaml:9: ";
    let cases: &[(&str, &str, &str)] = &[
        ("mode: [", POLICIES, "vaultmux.yaml:1: "),
        ("modus: cluster\n", POLICIES, "vaultmux.yaml:1: modus: unknown field `modus`"),
        (&CONFIG.replace("development", "cluster"), POLICIES, "vaultmux.yaml:7: backends.local: a memory backend"),
        (CONFIG, &without_separator, policy_line),
        (CONFIG, "a: [", "policies.yaml:1: "),
        (&CONFIG.replace("policies.yaml", "none.yaml"), POLICIES, "none.yaml: "),
        (
            &CONFIG.replace("rest: {address: '127.0.0.1:0'}", "rest: {address: '127.0.0.1:0', tls: {cert_file: none.pem, key_file: none.key}}"),
            POLICIES,
            "listeners.rest: none.pem: cannot read a certificate: ",
        ),
        (
            &CONFIG.replace("rest: {address: '127.0.0.1:0'}", "rest: {address: '127.0.0.1:0', tls: {cert_file: policies.yaml, key_file: policies.yaml}}"),
            POLICIES,
            "listeners.rest: policies.yaml: does not hold a certificate",
        ),
        (&format!("{CONFIG}identity: {{grant: {{key_file: none.key}}}}\n"), POLICIES, "identity.grant.key_file none.key: "),
        (&format!("{CONFIG}telemetry: {{log: {{level: 'a=b=c'}}}}\n"), POLICIES, "vaultmux.yaml:10: telemetry.log.level: \"a=b=c\" is neither"),
    ];
    for (config, policies, expected) in cases {
        let directory = directory(&[("vaultmux.yaml", config), ("policies.yaml", policies)]);
        let error = refusal(directory.path(), &["serve", "--config", "vaultmux.yaml"]);
        assert!(error.contains(expected), "{error}\n  does not hold\n{expected}");
        assert!(!error.contains("canary"), "{error}");
    }
}

#[test]
fn a_missing_file_and_a_taken_port_are_named() {
    let directory = directory(&[("policies.yaml", POLICIES)]);
    let error = refusal(directory.path(), &["serve", "--config", "none.yaml"]);
    assert!(error.starts_with("none.yaml: cannot be read: "), "{error}");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    let config = CONFIG
        .replace("admin: {address: '127.0.0.1:0'}", &format!("admin: {{address: '{address}'}}"));
    std::fs::write(directory.path().join("vaultmux.yaml"), config).expect("a file");
    let error = refusal(directory.path(), &["serve", "--config", "vaultmux.yaml"]);
    assert!(
        error.starts_with(&format!("listeners.admin: cannot listen on {address}: ")),
        "{error}"
    );
}

#[test]
fn serve_without_anything_to_serve_says_what_to_give() {
    let directory = directory(&[]);
    let error = refusal(directory.path(), &["serve"]);
    for hint in ["--config", "--dev", "VAULTMUX_BACKEND"] {
        assert!(error.contains(hint), "{error}");
    }
    let output = run(directory.path(), &["serve", "--dev", "--config", "x"]);
    assert_eq!(output.status.code(), Some(2), "they exclude each other");
}

#[test]
fn check_tells_good_from_bad() {
    let directory = directory(&[("vaultmux.yaml", CONFIG), ("policies.yaml", POLICIES)]);
    let good = run(directory.path(), &["check", "--config", "vaultmux.yaml"]);
    assert_eq!(good.status.code(), Some(0), "{}", text(&good.stdout));
    assert!(text(&good.stdout).starts_with("vaultmux.yaml: ok, 1 backends, 1 policies ("));
    let bad = POLICIES.replace("{namespace}/\"", "prod\"").replace("[GET]", "[]");
    std::fs::write(directory.path().join("policies.yaml"), bad).expect("a file");
    let bad = run(directory.path(), &["check", "--config", "vaultmux.yaml"]);
    let found = text(&bad.stdout);
    assert_eq!(bad.status.code(), Some(1), "{found}");
    assert_eq!(found.lines().filter(|line| line.starts_with("error: ")).count(), 2, "{found}");
    let json = run(directory.path(), &["check", "--config", "vaultmux.yaml", "--output", "json"]);
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).expect("JSON");
    assert_eq!(json["valid"], false);
    let errors = json["errors"].as_array().expect("a list");
    assert_eq!(errors.len(), 2);
    assert_eq!(errors[0]["file"], "policies.yaml");
    assert_eq!(errors[0]["policy"], "own-namespace");
    assert_eq!(errors[0]["key"], "spec.to[0].secrets.prefixes[0]");
    assert_eq!(errors[0]["line"], 9);
    assert!(errors[0]["message"].as_str().is_some_and(|text| text.contains("must end in")));
    let broken = CONFIG.replace("policies:", "policy:");
    std::fs::write(directory.path().join("broken.yaml"), broken).expect("a file");
    let json = run(directory.path(), &["check", "--config", "broken.yaml", "--output", "json"]);
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).expect("JSON");
    let error = &json["errors"][0];
    assert_eq!((&error["file"], &error["policy"]), (&"broken.yaml".into(), &Value::Null));
    assert!(error["line"].is_u64(), "{error}");
    assert!(
        error["message"].as_str().is_some_and(|text| text.contains("unknown field")),
        "{error}"
    );
    let missing = run(directory.path(), &["check", "--config", "none.yaml"]);
    assert_eq!(missing.status.code(), Some(2));
}

#[test]
fn can_i_answers_with_the_rule_that_says_so() {
    let directory = directory(&[("vaultmux.yaml", CONFIG), ("policies.yaml", POLICIES)]);
    let ask = |arguments: &[&str]| {
        let mut all = vec!["can-i"];
        all.extend(arguments);
        all.extend(["--config", "vaultmux.yaml"]);
        let output = run(directory.path(), &all);
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let allowed = ask(&["prod/api", "get", "prod/key"]);
    assert_eq!(allowed.0, Some(0), "{allowed:?}");
    assert_eq!(allowed.1, "allowed by policy own-namespace, spec.to[0] (policies.yaml:8)\n");
    let denied = ask(&["prod/api", "get", "other/key"]);
    assert_eq!(denied.0, Some(1), "{denied:?}");
    assert!(denied.1.starts_with("denied: no_match\n"), "{denied:?}");
    assert!(
        denied.1.contains("nearest rule that would allow: own-namespace, spec.to[0]"),
        "{denied:?}"
    );
    let reference = "secret://local/shared/stripe#key";
    let used = ask(&[
        "prod/api",
        "use",
        reference,
        "--cluster",
        "stripe",
        "--host",
        "API.stripe.test:443",
    ]);
    assert_eq!(
        (used.0, used.1.as_str()),
        (Some(0), "allowed by policy own-namespace, spec.to[2] (policies.yaml:12)\n")
    );
    let elsewhere =
        ask(&["prod/api", "use", reference, "--cluster", "evil", "--host", "api.stripe.test"]);
    assert_eq!(elsewhere.0, Some(1), "{elsewhere:?}");
    let unknown = ask(&["prod/api", "use", reference, "--host", "api.stripe.test"]);
    assert!(unknown.1.contains("missing_attribute\n"), "{unknown:?}");
    assert!(unknown.1.contains("but destination cluster is not known\n"), "{unknown:?}");
    assert_eq!(ask(&["prod/api", "GET", "http://orders.test:80/orders/1"]).0, Some(0));
    assert_eq!(ask(&["prod/api", "POST", "http://orders.test/orders/1"]).0, Some(1));
    let json = ask(&["prod/api", "get", "other/key", "--output", "json"]);
    let json: serde_json::Value = serde_json::from_str(&json.1).expect("JSON");
    assert_eq!(json["allowed"], false);
    assert_eq!(json["nearest"]["policy"], "own-namespace");
    assert_eq!(json["nearest"]["line"], 8);
    assert_eq!(ask(&["prod/api", "GET", "http://vaultmux.test/v1/secrets/a"]).0, Some(2));
    for wrong in [
        ["prod", "get", "prod/key"],
        ["prod/api", "read", "prod/key"],
        ["prod/api", "get", "../key"],
        ["prod/api", "get", "secret://none/key"],
        ["prod/api", "get", "http://orders.test/"],
    ] {
        let answer = ask(&wrong);
        assert_eq!(answer.0, Some(2), "{wrong:?}");
        assert!(answer.2.starts_with("error: "), "{answer:?}");
    }
}

#[test]
fn questions_that_no_request_asks_are_refused() {
    let directory = directory(&[("vaultmux.yaml", CONFIG), ("policies.yaml", POLICIES)]);
    let ask = |arguments: &[&str]| {
        let output = run(directory.path(), &[arguments, &["--config", "vaultmux.yaml"]].concat());
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let (key, url) = ("secret://local/prod/key", "http://orders.test/orders/1");
    let part = "version and field go with get and use";
    let is = "the destination of a request is --destination NS/SA; --cluster goes with use";
    for (question, refusal) in [
        (&["delete", "secret://local/prod/key#field"][..], part),
        (&["list", "secret://local/prod/key#field"], part),
        (&["update", "secret://local/prod/key?version=3"], part),
        (&["create", "secret://local/prod/key#field"], part),
        (&["get", key, "--cluster", "c"], "only use has a destination"),
        (&["get", key, "--host", "a.test"], "only use has a destination"),
        (&["use", key, "--destination", "shop/orders"], "--destination goes with a URL"),
        (&["get", key, "--destination", "shop/orders"], "--destination goes with a URL"),
        (&["GET", url, "--cluster", "c"], is),
        (
            &["GET", url, "--destination", "shop"],
            "--destination: \"shop\" is not a service account",
        ),
    ] {
        for command in [&["can-i", "prod/api"][..], &["who-can"]] {
            let answer = ask(&[command, question].concat());
            assert_eq!(answer.0, Some(2), "{question:?} {answer:?}");
            assert!(answer.2.starts_with("error: ") && answer.2.contains(refusal), "{answer:?}");
        }
    }
    for (question, code) in [
        (&["get", "secret://local/prod/key#field"][..], Some(0)),
        (&["get", "secret://local/prod/key?version=3"], Some(0)),
    ] {
        assert_eq!(ask(&[&["can-i", "prod/api"], question].concat()).0, code, "{question:?}");
    }
}

#[test]
fn a_url_of_more_than_one_reading_is_denied() {
    let directory = directory(&[("vaultmux.yaml", CONFIG), ("policies.yaml", POLICIES)]);
    for url in ["http://orders.test/orders/../admin", "http://orders.test//orders/1"] {
        let ask = |more: &[&str]| {
            let question = ["can-i", "prod/api", "GET", url, "--config", "vaultmux.yaml"];
            let output = run(directory.path(), &[&question[..], more].concat());
            (output.status.code(), text(&output.stdout))
        };
        let words = "denied: malformed_request, since its path has more than one reading\n";
        assert_eq!(ask(&[]), (Some(1), words.to_owned()), "{url}");
        let json = ask(&["--output", "json"]).1;
        let json: Value = serde_json::from_str(&json).expect("JSON");
        assert_eq!(
            (&json["allowed"], &json["reason"]),
            (&false.into(), &"malformed_request".into())
        );
    }
}

#[test]
fn every_command_has_help_with_examples() {
    let directory = directory(&[]);
    let commands: [&[&str]; _] = [
        &["serve"],
        &["check"],
        &["can-i"],
        &["policy", "test"],
        &["policy", "replay"],
        &["plugin", "test"],
        &["lint"],
        &["probe"],
    ];
    for command in commands {
        let help = run(directory.path(), &[command, &["--help"]].concat());
        assert_eq!(help.status.code(), Some(0));
        assert!(text(&help.stdout).contains("Examples:"), "{command:?}");
        if command == ["serve"] {
            for store in [
                "awssecrets, gcpsecrets, azurekeyvault",
                "aws_secrets_manager, azure_key_vault, gcp_secret_manager, kubernetes_secrets, \
                 plugin, vault_kv",
            ] {
                assert!(text(&help.stdout).contains(store), "{}", text(&help.stdout));
            }
        }
    }
}
