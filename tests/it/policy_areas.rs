//! `can-i --all`, `who-can` and `policy diff` over the sample that ships.

use std::{fs, path::Path, process::Command};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::repository;

/// Exit code, standard output, standard error.
type Said = (Option<i32>, String, String);

fn run(directory: &Path, arguments: &[&str]) -> Said {
    let output = Command::new(env!("CARGO_BIN_EXE_vaultmux-mesh"))
        .args(arguments)
        .args(["--config", "vaultmux.yaml"])
        .current_dir(directory)
        .env_clear()
        .output()
        .expect("the program runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// The sample, where it can be changed.
fn sample() -> TempDir {
    let directory = tempfile::tempdir().expect("make a directory");
    fs::create_dir(directory.path().join("policies")).expect("make a directory");
    for file in ["vaultmux.yaml", "policies/secrets.yaml", "policies/traffic.yaml"] {
        let from = repository("examples/policies").join(file);
        fs::copy(from, directory.path().join(file)).expect("copy");
    }
    directory
}

#[track_caller]
fn has_lines(said: &Said, lines: &[&str]) {
    for line in lines {
        assert!(
            said.1.lines().any(|found| found == *line),
            "{line}\nis not in\n{}{}",
            said.1,
            said.2
        );
    }
}

#[test]
fn everything_that_an_account_reaches_is_listed() {
    let directory = sample();
    let said = run(directory.path(), &["can-i", "--all", "payments/api"]);
    assert_eq!(said.0, Some(0), "{said:?}");
    let expected = "  \
  use on aws-prod shared/stripe toward cluster outbound|443||api.stripe.com, host api.stripe.com
    by policy charge-cards, spec.to[0] (policies/secrets.yaml:27)
  get, list on aws-prod payments/*
    by policy own-area, spec.to[0] (policies/secrets.yaml:9)
    except payments/root/*: denied by policy roots-stay-put, spec.to[0] (policies/secrets.yaml:39)
  http method GET host orders.shop path /orders/* at shop/orders
    by policy read-orders, spec.to[0] (policies/traffic.yaml:9)
";
    let (first, rest) = said.1.split_once('\n').expect("lines");
    assert!(first.ends_with("/ns/payments/sa/api (mtls) reaches:"), "{first}");
    assert_eq!(rest, expected);

    let pods = run(directory.path(), &["can-i", "--all", "team-a/rotator"]);
    has_lines(
        &pods,
        &[
            "with --proofs mtls,token --bound-to-pod:",
            "  get, update on aws-prod keys/team-a/rotator/*",
        ],
    );
    let bound = ["--proofs", "mtls,token", "--bound-to-pod"];
    let bound =
        run(directory.path(), &[&["can-i", "--all", "team-a/rotator"][..], &bound].concat());
    assert!(!bound.1.contains("with --proofs"), "{}", bound.1);
    has_lines(&bound, &["  get, update on aws-prod keys/team-a/rotator/*"]);

    let nothing = run(directory.path(), &["can-i", "--all", "sandbox/x"]);
    assert_eq!(nothing.0, Some(1), "{nothing:?}");
    assert!(nothing.1.ends_with("/ns/sandbox/sa/x (mtls) reaches nothing\n"), "{nothing:?}");

    let all = run(directory.path(), &["can-i", "--all", "payments/api", "--output", "json"]);
    let all: Value = serde_json::from_str(&all.1).expect("JSON");
    let area = &all["reaches"][1];
    assert_eq!(
        (&area["verbs"], &area["names"], &area["line"], &area["fields"], &area["needs"]),
        (&json!(["get", "list"]), &json!(["payments/*"]), &json!(9), &Value::Null, &Value::Null)
    );
    assert_eq!(area["except"][0]["what"], "payments/root/*");
}

#[test]
fn whoever_can_is_named_as_policies_name_them() {
    let directory = sample();
    let ask = |arguments: &[&str]| run(directory.path(), &[&["who-can"], arguments].concat());
    let own = ask(&["get", "payments/db"]);
    assert_eq!(own.0, Some(0), "{own:?}");
    assert_eq!(
        own.1,
        "namespace payments\n  by policy own-area, spec.to[0] (policies/secrets.yaml:9)\n"
    );
    let root = ask(&["get", "payments/root/ca"]);
    assert_eq!((root.0, root.1.as_str()), (Some(1), "nobody\n"), "{root:?}");
    let root = ask(&["get", "security/root/ca"]);
    has_lines(
        &root,
        &[
            "namespace security",
            "  except namespace security (but not security/rotator): denied by policy \
             roots-stay-put, spec.to[0] (policies/secrets.yaml:39)",
        ],
    );
    let keys = ask(&["update", "keys/team-a/rotator/tls"]);
    has_lines(&keys, &["team-a/rotator, proven by mtls and a token that is bound to a pod"]);
    let elsewhere = ask(&["use", "shared/stripe", "--cluster", "other"]);
    assert_eq!(elsewhere.0, Some(1), "{elsewhere:?}");
    let stripe = ["--cluster", "outbound|443||api.stripe.com", "--host", "API.stripe.com:443"];
    let stripe = ask(&[&["use", "shared/stripe"][..], &stripe].concat());
    has_lines(&stripe, &["payments/api"]);
    let url = ["GET", "http://orders.shop/orders/1", "--destination", "shop/orders"];
    let orders = ask(&[&url[..], &["--output", "json"]].concat());
    let orders: Value = serde_json::from_str(&orders.1).expect("JSON");
    let who: Vec<_> = orders["holders"].as_array().expect("holders").iter().collect();
    assert_eq!(who.len(), 2, "{orders}");
    assert_eq!((&who[0]["who"], &who[0]["line"]), (&json!("namespace payments"), &json!(9)));
    // A workload that is not known is none that the rule lists.
    assert_eq!(ask(&url[..2]).0, Some(1));
}

#[test]
fn differences_are_grouped_and_have_an_example() {
    let directory = sample();
    let path = directory.path();
    fs::create_dir(path.join("new")).expect("make a directory");
    let secrets = fs::read_to_string(path.join("policies/secrets.yaml")).expect("text");
    let traffic = fs::read_to_string(path.join("policies/traffic.yaml")).expect("text");
    let write = |secrets: &str, traffic: &str| {
        fs::write(path.join("new/secrets.yaml"), secrets).expect("write");
        fs::write(path.join("new/traffic.yaml"), traffic).expect("write");
    };
    let diff = |more: &[&str]| run(path, &[&["policy", "diff", "policies", "new"], more].concat());
    // Other words, another order, an audit policy less: the same decisions.
    let audit = traffic.find("---").expect("two documents");
    write(&secrets.replace("name: own-area", "name: zzz"), &traffic[..audit]);
    let same = diff(&[]);
    assert_eq!((same.0, same.1.as_str()), (Some(0), "no difference\n"), "{same:?}");

    let secrets_changed = secrets.replace("verbs: [get, list]}", "verbs: [get]}").replace(
        "except: {serviceAccounts: [security/rotator]}",
        "except: {namespaces: [security]}",
    );
    write(&secrets_changed, &traffic.replace("methods: [GET]", "methods: [GET, POST]"));
    let some = diff(&[]);
    assert_eq!(some.0, Some(1), "{some:?}");
    has_lines(
        &some,
        &[
            "+ namespace payments, namespace support gain http method POST host orders.shop path \
             /orders/* at shop/orders",
            "    by policy read-orders, spec.to[0] (new/traffic.yaml:9)",
            "- everyone loses list on aws-prod {namespace}/*",
            "    by policy own-area, spec.to[0] (policies/secrets.yaml:9)",
            "+ namespace security gains get on aws-prod security/root/*",
            "    was denied by policy roots-stay-put, spec.to[0] (policies/secrets.yaml:39)",
        ],
    );
    let json = diff(&["--output", "json"]);
    let json: Value = serde_json::from_str(&json.1).expect("JSON");
    let changes = json["changes"].as_array().expect("changes");
    for change in changes {
        assert!(change["example"]["operation"].is_string(), "{change}");
    }
    let root = changes.iter().find(|one| one["who"] == json!(["namespace security"]));
    let root = root.expect("one about security");
    assert_eq!(
        (&root["change"], &root["denied_by"]["policy"], &root["names"]),
        (&json!("gains"), &json!("roots-stay-put"), &json!(["security/root/*"]))
    );
    let (principal, asked) = (&root["example"]["principal"], &root["example"]["operation"]);
    assert!(principal.as_str().is_some_and(|who| who.contains("/ns/security/sa/")), "{root}");
    assert!(
        asked.as_str().is_some_and(|it| it.starts_with("get secret://aws-prod/security/root/"))
    );
}

#[test]
fn questions_that_cannot_be_asked_end_with_2() {
    let directory = sample();
    for (arguments, why) in [
        (&["can-i", "--all", "payments"][..], "\"payments\" is not <namespace>/<name>"),
        (&["can-i", "--all", "a/b", "get", "x"], "cannot be used with"),
        (&["can-i", "--all", "a/b", "--host", "x"], "cannot be used with"),
        (&["can-i", "--all", "a/b", "--proofs", "dna"], "is not a proof"),
        (&["can-i", "a/b"], "required"),
        (&["can-i", "a/b", "get"], "required"),
        (&["who-can", "get"], "required"),
        (&["who-can", "read", "x"], "\"read\" is not one of get, list"),
        (&["who-can", "get", "../x"], "path traversal"),
        (&["who-can", "get", "secret://none/x"], "unknown backend"),
        (&["who-can", "get", "http://a/b"], "a URL needs a method"),
        (&["who-can", "GET", "http://a/b/../c"], "ambiguous path"),
        (&["who-can", "GET", "http://a/b", "--destination", "x"], "--destination"),
        (&["who-can", "use", "x", "--host", "a b"], "--host"),
        (&["policy", "diff", "policies"], "required"),
        (&["policy", "diff", "policies", "none"], "none: cannot be read"),
    ] {
        let said = run(directory.path(), arguments);
        assert_eq!(said.0, Some(2), "{arguments:?}: {said:?}");
        assert!(said.2.contains(why), "{arguments:?}: {why} is not in {}", said.2);
    }
    fs::write(directory.path().join("bad.yaml"), "a: [").expect("write");
    let said = run(directory.path(), &["policy", "diff", "policies", "bad.yaml"]);
    assert_eq!(said.0, Some(2), "{said:?}");
    assert!(said.2.starts_with("error: bad.yaml:"), "{}", said.2);
}
