//! The OpenAPI document: current, complete, and what Swagger UI shows in a real browser.

use std::{collections::BTreeSet, fs, process::Command};

use serde_json::Value;

use crate::harness::{Browser, Process, Service, mint::Mint, repository};

const CONFIG: &str = "\
mode: development
listeners:
  grpc: {address: '127.0.0.1:0'}
  rest: {address: '127.0.0.1:0', require_request_header: true}
  admin: {address: '127.0.0.1:0'}
identity: {local: {namespace: prod, service_account: api}}
backends: {local: {type: memory, secrets: {prod/key: a-value-to-be-seen, other/key: hidden}}}
policies: [policy.yaml]
";

const POLICY: &str = r#"
apiVersion: vaultmux.dev/v1alpha1
kind: AccessPolicy
metadata: {name: own}
spec:
  effect: Allow
  from: [{namespaces: ["*"]}]
  to: [{secrets: {prefixes: ["{namespace}/"], verbs: ["*"]}}]
"#;

async fn start() -> Service {
    Service::start(&[("config.yaml", CONFIG), ("policy.yaml", POLICY)]).await
}

fn shipped() -> String {
    fs::read_to_string(repository("docs/openapi.json")).expect("docs/openapi.json")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shipped_document_is_the_one_that_is_printed_and_served() {
    let output = Command::new(env!("CARGO_BIN_EXE_vaultmux-mesh"))
        .arg("openapi")
        .env_clear()
        .output()
        .expect("the program runs");
    assert!(output.status.success());
    let printed = String::from_utf8(output.stdout).expect("text");
    assert!(
        printed == shipped(),
        "docs/openapi.json is not current: run `vaultmux-mesh openapi > docs/openapi.json`"
    );
    let service = start().await;
    let client = service.rest_client();
    let answer = client.get("127.0.0.1", "/openapi.json").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), "application/json; charset=utf-8");
    assert_eq!(answer.text(), printed);
}

#[test]
fn every_reference_leads_somewhere_and_nothing_is_left_over() {
    fn references(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(members) => {
                members.iter().for_each(|(key, value)| match (key.as_str(), value.as_str()) {
                    ("$ref", Some(target)) => {
                        found.insert(target.trim_start_matches('#').to_owned());
                    }
                    _ => references(value, found),
                })
            }
            Value::Array(items) => items.iter().for_each(|item| references(item, found)),
            _ => {}
        }
    }
    let document: Value = serde_json::from_str(&shipped()).expect("JSON");
    let mut used = BTreeSet::new();
    references(&document, &mut used);
    for target in &used {
        assert!(document.pointer(target).is_some(), "{target} leads nowhere");
    }
    for kind in ["schemas", "parameters", "headers"] {
        for name in document["components"][kind].as_object().expect("an object").keys() {
            let target = format!("/components/{kind}/{name}");
            assert!(used.contains(&target), "nothing refers to {target}");
        }
    }
}

#[test]
fn every_code_is_told_of_and_belongs_to_some_answer() {
    let document: Value = serde_json::from_str(&shipped()).expect("JSON");
    let codes = &document["components"]["schemas"]["ProblemCode"];
    let told = codes["description"].as_str().expect("text");
    let answers = document["paths"].to_string();
    for code in codes["enum"].as_array().expect("a list") {
        let code = code.as_str().expect("text");
        assert!(told.contains(&format!("- `{code}`: ")), "{code}");
        // These two are of paths and methods that the document does not have.
        let of_others = ["no_route", "method_not_allowed"].contains(&code);
        assert!(of_others || answers.contains(&format!("- `{code}`: ")), "{code}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn swagger_ui_comes_from_here_alone_and_has_a_policy_of_its_own() {
    let service = start().await;
    let client = service.rest_client();
    for (path, kind) in [
        ("/docs", "text/html; charset=utf-8"),
        ("/docs/start.js", "text/javascript; charset=utf-8"),
        ("/docs/swagger-ui-bundle.js", "text/javascript; charset=utf-8"),
        ("/docs/swagger-ui.css", "text/css; charset=utf-8"),
        ("/docs/favicon-32x32.png", "image/png"),
    ] {
        let answer = client.get("127.0.0.1", path).await;
        assert_eq!((answer.status, answer.header("content-type")), (200, kind), "{path}");
        let policy = answer.header("content-security-policy");
        assert!(policy.starts_with("default-src 'none'; script-src 'self';"), "{policy}");
        assert!(policy.contains("connect-src 'self'"), "{policy}");
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
        if kind.starts_with("text/html") {
            assert!(!answer.text().contains("http"), "{}", answer.text());
        }
    }
    for path in ["/docs/", "/docs/index.html", "/docs/../docs", "/docsx", "/docs/swagger-ui.js"] {
        assert_eq!(client.get("127.0.0.1", path).await.status, 404, "{path}");
    }
    let answer = client.request("POST", "127.0.0.1", "/docs", &[]).await;
    assert_eq!((answer.status, answer.header("allow")), (405, "GET, HEAD, OPTIONS"));
}

/// Opens the page, authorises and reads a secret, as a person does.
#[tokio::test(flavor = "multi_thread")]
async fn a_browser_authorises_and_reads_a_secret() {
    let service = start().await;
    let browser = Browser::start().await;
    browser.open(&format!("http://{}/docs", service.rest())).await;
    browser.wait(".opblock").await;
    // Without leave: the header that a page of another origin could not send.
    let execute = async |name: &str| {
        browser.fill("#operations-secrets-read_secret input[placeholder='name']", name).await;
        browser.click("#operations-secrets-read_secret .execute").await;
    };
    browser.click("#operations-secrets-read_secret .opblock-summary-control").await;
    execute("prod/key").await;
    browser.wait_text("#operations-secrets-read_secret .live-responses-table", "401").await;
    browser.click(".btn.authorize").await;
    browser.fill_in("local", "true").await;
    browser.click(".btn-done").await;
    execute("prod/key").await;
    let table = "#operations-secrets-read_secret .live-responses-table";
    browser.wait_text(table, "a-value-to-be-seen").await;
    execute("other/key").await;
    browser.wait_text(table, "forbidden").await;
    let complaints = browser.complaints().await;
    let complaints: Vec<_> = complaints
        .iter()
        // Refusals of the API are the browser's complaints too.
        .filter(|line| !line.contains("the server responded with a status of 40"))
        .collect();
    assert!(complaints.is_empty(), "{complaints:#?}");
}

/// Callers have service accounts' tokens and nothing else; this machine is a trusted proxy.
const CONFIG_OF_TOKENS: &str = "\
mode: development
listeners:
  grpc: {address: '127.0.0.1:0'}
  rest: {address: '127.0.0.1:0'}
  admin: {address: '127.0.0.1:0'}
identity:
  trust_domains: [cluster.local]
  forwarded_client_cert: {trusted_proxies: [127.0.0.1/32]}
  service_account_tokens:
    audiences: [vaultmux]
    watch: false
    verify: jwks
    jwks: {issuer: 'https://kubernetes.default.svc.cluster.local', source: 'file:jwks.json'}
backends: {local: {type: memory, secrets: {prod/key: a-value-to-be-seen, other/key: hidden}}}
policies: [policy.yaml]
webhooks: {azure: {type: event_grid, backends: [local], key: a-key-of-a-test-0}}
";

/// The caller may do all there is, or most answers would be refusals.
const ALL: &str = r#"
apiVersion: vaultmux.dev/v1alpha1
kind: AccessPolicy
metadata: {name: all}
spec:
  effect: Allow
  from: [{serviceAccounts: [prod/api]}]
  to:
    - secrets: {names: ["*"], verbs: ["*"]}
    - http: {paths: ["*"]}
"#;

/// What schemathesis makes of the document: every operation, with data that it allows and
/// with data that it does not, with a token, without and with a wrong one, and answers that
/// it has.
#[tokio::test(flavor = "multi_thread")]
async fn schemathesis_finds_no_violation() {
    let program = repository("target/tools/bin/schemathesis");
    assert!(program.exists(), "target/tools/bin/schemathesis is missing: run `make tools`");
    let issuer = Mint::p256("issuer");
    let files =
        [("config.yaml", CONFIG_OF_TOKENS), ("policy.yaml", ALL), ("jwks.json", &issuer.jwks())];
    let service = Service::start(&files).await;
    let token = format!("TOKEN={}", issuer.token(serde_json::json!({})));
    let config = repository("tests/tools/schemathesis.toml");
    let url = format!("http://{}", service.rest());
    let document = repository("docs/openapi.json");
    // What it keeps from run to run stays out of the repository.
    let directory = tempfile::tempdir().expect("make a directory");
    let arguments = [
        "-C".as_ref(),
        directory.path().as_os_str(),
        token.as_ref(),
        program.as_os_str(),
        "--config-file".as_ref(),
        config.as_os_str(),
        "run".as_ref(),
        document.as_os_str(),
        "--url".as_ref(),
        url.as_ref(),
    ];
    let mut process = Process::start("/usr/bin/env".as_ref(), &arguments).await;
    let code = process.exit_code_within(std::time::Duration::from_secs(300)).await;
    assert_eq!(code, 0, "{}\n{}", process.stdout().join("\n"), process.stderr().join("\n"));
    // 200 is what checks get too: nothing else has PATCH.
    let passed = service.metric(r#"vaultmux_requests_total{method="PATCH",status="200"}"#).await;
    assert!(passed > Some(0.0), "no check was passed");
    let logs = service.logs().join("\n");
    assert!(!logs.contains("panicked"), "{logs}");
}
