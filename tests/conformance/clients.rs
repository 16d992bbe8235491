//! Clients made from the OpenAPI document, used against the program.

use std::{path::Path, time::Duration};

use crate::harness::{Process, Service, repository};

/// A cold npm or Python takes its time.
const PATIENCE: Duration = Duration::from_secs(240);

const CONFIG: &str = "\
mode: development
listeners:
  grpc: {address: '127.0.0.1:0'}
  rest: {address: '127.0.0.1:0', require_request_header: true}
  admin: {address: '127.0.0.1:0'}
identity: {local: {namespace: prod, service_account: api}}
backends: {local: {type: memory, secrets: {other/key: hidden}}}
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

async fn run(program: &Path, arguments: &[&str]) -> Vec<String> {
    let shown = program.display();
    assert!(program.exists(), "{shown} is missing: run `make tools clients`");
    let mut process = Process::start(program.as_os_str(), arguments).await;
    let code = process.exit_code_within(PATIENCE).await;
    let said = process.stdout();
    assert_eq!(code, 0, "{shown}: {}\n{}", said.join("\n"), process.stderr().join("\n"));
    said
}

async fn start() -> (Service, String) {
    let service = Service::start(&[("config.yaml", CONFIG), ("policy.yaml", POLICY)]).await;
    let url = format!("http://{}", service.rest());
    (service, url)
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_in_python_does_all_there_is() {
    let (_service, url) = start().await;
    let directory = tempfile::tempdir().expect("make a directory");
    let made = directory.path().join("vaultmux_client");
    let generator = repository("target/tools/bin/openapi-python-client");
    let document = repository("docs/openapi.json");
    // It would have the code formatted by a program that is not ours to ask for.
    let settings = directory.path().join("settings.yaml");
    std::fs::write(&settings, "post_hooks: []\n").expect("write a file");
    let arguments = [
        "generate",
        "--path",
        text(&document),
        "--meta",
        "none",
        "--output-path",
        text(&made),
        "--config",
        text(&settings),
        "--fail-on-warning",
    ];
    run(&generator, &arguments).await;
    let script = repository("tests/clients/use.py");
    let arguments = [text(&script), text(directory.path()), &url];
    let said = run(&repository("target/tools/bin/python"), &arguments).await;
    assert_eq!(said, ["done"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_in_typescript_does_all_there_is() {
    let (_service, url) = start().await;
    let directory = repository("target/clients/typescript");
    let bin = directory.join("node_modules/.bin");
    for file in ["use.ts", "package.json", "tsconfig.json"] {
        let from = repository("tests/clients/typescript").join(file);
        let missing = "target/clients/typescript is missing: run `make clients`";
        std::fs::copy(from, directory.join(file)).expect(missing);
    }
    let document = repository("docs/openapi.json");
    let types = directory.join("schema.d.ts");
    run(&bin.join("openapi-typescript"), &[text(&document), "--output", text(&types)]).await;
    run(&bin.join("tsc"), &["--project", text(&directory)]).await;
    let program = directory.join("out/use.js");
    let said = run(Path::new("/usr/bin/env"), &["node", text(&program), &url]).await;
    assert_eq!(said, ["done"]);
}
