//! The service behind a real Envoy, shown by five requests. `make demo` runs it,
//! `make demo KEEP=1` leaves everything up to try.

#![expect(clippy::print_stdout, reason = "it is there to be read")]

#[path = "../tests/it/harness.rs"]
#[allow(dead_code, unused_imports, reason = "the tests use the rest")]
mod harness;

use std::process::ExitCode;

use harness::{Answer, Mesh, MeshBuilder, Received};
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};

const CONFIG: &str = r#"
mode: development
listeners:
  grpc: {address: "127.0.0.1:0"}
  rest: {address: "127.0.0.1:0"}
  admin: {address: "127.0.0.1:0"}
identity:
  trust_domains: [cluster.local]
  local: {namespace: payments, service_account: api}
backends:
  local:
    type: memory
    secrets:
      orders-db: demo-password
      stripe: sk_live_demo
default_backend: local
policies: [policies]
ext_proc: {tls_clusters: [payment]}
secret_routes: [{hosts: [vaultmux.test], prefix: /v1/secrets}]
"#;

const POLICIES: &str = r#"
apiVersion: vaultmux.dev/v1alpha1
kind: AccessPolicy
metadata: {name: payments-read-orders}
spec:
  effect: Allow
  from: [{serviceAccounts: [payments/api]}]
  to: [{secrets: {backends: [local], names: [orders-db], verbs: [get]}}]
---
apiVersion: vaultmux.dev/v1alpha1
kind: AccessPolicy
metadata: {name: payments-use-stripe}
spec:
  effect: Allow
  from: [{serviceAccounts: [payments/api]}]
  to:
    - secrets:
        backends: [local]
        names: [stripe]
        verbs: [use]
        destinations: [{hosts: [api.stripe.test], clusters: [payment]}]
---
apiVersion: vaultmux.dev/v1alpha1
kind: AccessPolicy
metadata: {name: shop-reads-nothing}
spec:
  effect: Deny
  from: [{namespaces: [shop]}]
  to: [{secrets: {names: ["*"], verbs: [get, list, create, update, delete, use]}}]
---
apiVersion: vaultmux.dev/v1alpha1
kind: AccessPolicy
metadata: {name: traffic}
spec:
  effect: Allow
  from: [{namespaces: [payments, shop]}]
  to: [{http: {hosts: [app.test, api.stripe.test]}}]
"#;

const BEARER: (&str, &str) = ("authorization", "Bearer {{secret://local/stripe}}");

/// One request: who asked what, what came of it, who decided, and whether that was
/// promised.
struct Row {
    who: &'static str,
    what: &'static str,
    status: u16,
    came: String,
    why: String,
    kept: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let keep = std::env::args().any(|argument| argument == "--keep");
    println!("Starting the service, Envoy with envoy/front-proxy.yaml, and two upstreams …\n");
    let mesh = MeshBuilder::new(CONFIG, POLICIES).start().await;
    let rows = [
        allowed_read(&mesh).await,
        denied_read(&mesh).await,
        reference_to_its_destination(&mesh).await,
        reference_elsewhere(&mesh).await,
        plain_rest(&mesh).await,
    ];
    print(&rows);
    if keep {
        wait_for_visitors(&mesh).await;
    }
    let kept = rows.iter().all(|row| row.kept);
    mesh.finish().await;
    if kept { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn print(rows: &[Row]) {
    let heads = ["caller", "request", "answer", "what came of it", "decided by", ""];
    let mut table = vec![heads.map(str::to_owned)];
    table.extend(rows.iter().map(|row| {
        let verdict = if row.kept { "as promised" } else { "NOT AS PROMISED" };
        [
            row.who.to_owned(),
            row.what.to_owned(),
            row.status.to_string(),
            row.came.clone(),
            row.why.clone(),
            verdict.to_owned(),
        ]
    }));
    let width = |column: usize| table.iter().map(|row| row[column].chars().count()).max();
    let widths: Vec<usize> = (0..heads.len()).filter_map(width).collect();
    for (number, row) in table.iter().enumerate() {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        println!("{}", cells.join("  ").trim_end());
        if number == 0 {
            let rules: Vec<String> = widths.iter().map(|width| "─".repeat(*width)).collect();
            println!("{}", rules.join("  "));
        }
    }
    println!("\nEvery request but the last showed a client certificate to Envoy; the last went");
    println!("past it, from this machine. The header was `authorization: {}`.\n", BEARER.1);
}

async fn allowed_read(mesh: &Mesh) -> Row {
    let answer = mesh.api().get("vaultmux.test", "/v1/secrets/orders-db").await;
    Row {
        who: "payments/api",
        what: "read vaultmux.test/v1/secrets/orders-db",
        status: answer.status,
        came: value(&answer),
        why: why(mesh, 0).await,
        kept: answer.status == 200 && value(&answer) == "value demo-password",
    }
}

async fn denied_read(mesh: &Mesh) -> Row {
    let answer = mesh.client("shop", "web").get("vaultmux.test", "/v1/secrets/orders-db").await;
    let why = why(mesh, 1).await;
    Row {
        who: "shop/web",
        what: "read vaultmux.test/v1/secrets/orders-db",
        status: answer.status,
        came: value(&answer),
        kept: answer.status == 403
            && why.contains("shop-reads-nothing")
            && !answer.text().contains("demo-password"),
        why,
    }
}

async fn reference_to_its_destination(mesh: &Mesh) -> Row {
    let answer = mesh.api().request("GET", "api.stripe.test", "/v1/charges", &[BEARER]).await;
    let received = mesh.payment.received();
    let arrived = received.last().map(|request| request.header("authorization").join(", "));
    Row {
        who: "payments/api",
        what: "GET api.stripe.test/v1/charges + header",
        status: answer.status,
        came: format!("upstream received `{}`", arrived.as_deref().unwrap_or("nothing")),
        why: why(mesh, 2).await,
        kept: answer.status == 200 && arrived.as_deref() == Some("Bearer sk_live_demo"),
    }
}

async fn reference_elsewhere(mesh: &Mesh) -> Row {
    let answer = mesh.api().request("GET", "app.test", "/v1/charges", &[BEARER]).await;
    let arrived: Vec<Received> = mesh.app.received();
    Row {
        who: "payments/api",
        what: "GET app.test/v1/charges + same header",
        status: answer.status,
        came: format!("upstream received {} requests", arrived.len()),
        why: why(mesh, 3).await,
        kept: answer.status == 403 && arrived.is_empty(),
    }
}

async fn plain_rest(mesh: &Mesh) -> Row {
    let answer = mesh.service.rest_client().get("localhost", "/v1/secrets/orders-db").await;
    Row {
        who: "local process",
        what: "read localhost/v1/secrets/orders-db",
        status: answer.status,
        came: value(&answer),
        why: "the same policy, by REST".to_owned(),
        kept: answer.status == 200 && value(&answer) == "value demo-password",
    }
}

/// What Envoy's access log says about a request: the policy that `ext_authz` named,
/// or the reason that `ext_proc` gave for a refusal.
async fn why(mesh: &Mesh, number: usize) -> String {
    let line = mesh.envoy.access(number).await;
    let details = line["details"].as_str().unwrap_or_default();
    let policy = line["policy"].as_str().unwrap_or_default();
    match details.strip_prefix("vaultmux_denied_") {
        Some(reason) => format!("ext_proc: {reason} for this destination"),
        None => format!("policy {policy}"),
    }
}

/// The value in an answer of the secrets API, or its error.
fn value(answer: &Answer) -> String {
    let body: Value = answer.json();
    match (body["value"].as_str(), body["error"].as_str()) {
        (Some(value), _) => format!("value {value}"),
        (None, Some(error)) => format!("error {error}"),
        (None, None) => "neither value nor error".to_owned(),
    }
}

async fn wait_for_visitors(mesh: &Mesh) {
    for (name, identity) in [
        ("api", mesh.certificates.workload("payments", "api")),
        ("web", mesh.certificates.workload("shop", "web")),
    ] {
        mesh.certificates.save(name, &identity);
    }
    let directory = mesh.certificates.directory().display();
    let port = mesh.envoy.address("edge").port();
    let rest = mesh.service.rest();
    println!("All of it is up. To try:\n");
    println!("  cd {directory}");
    for (who, host, path, header) in [
        ("api", "vaultmux.test", "/v1/secrets/orders-db", ""),
        ("web", "vaultmux.test", "/v1/secrets/orders-db", ""),
        ("api", "api.stripe.test", "/v1/charges", " -H 'x-api-key: {{secret://local/stripe}}'"),
        ("api", "app.test", "/v1/charges", " -H 'x-api-key: {{secret://local/stripe}}'"),
    ] {
        println!(
            "  curl -i --cacert ca.crt --cert {who}.crt --key {who}.key \
             --resolve {host}:{port}:127.0.0.1{header} https://{host}:{port}{path}"
        );
    }
    println!("  curl -i http://{rest}/v1/secrets/orders-db");
    println!("\nConfiguration and policies: {}", mesh.service.path("").display());
    println!("Ctrl-C ends it.");
    let mut terminate = signal(SignalKind::terminate()).expect("wait for SIGTERM");
    tokio::select! {
        _ = terminate.recv() => {},
        interrupted = tokio::signal::ctrl_c() => interrupted.expect("wait for Ctrl-C"),
    }
}
