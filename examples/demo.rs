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

/// One request: who asked what, what came back, and whether that was promised.
struct Row {
    who: &'static str,
    what: &'static str,
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
    for (number, row) in rows.iter().enumerate() {
        let verdict = if row.kept { "as promised" } else { "NOT AS PROMISED" };
        println!("{}. {}", number + 1, row.what);
        println!("     from   {}", row.who);
        println!("     got    {}", row.came);
        println!("     why    {}", row.why);
        println!("     {verdict}\n");
    }
    if keep {
        wait_for_visitors(&mesh).await;
    }
    let kept = rows.iter().all(|row| row.kept);
    mesh.finish().await;
    if kept { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn allowed_read(mesh: &Mesh) -> Row {
    let answer = mesh.api().get("vaultmux.test", "/v1/secrets/orders-db").await;
    Row {
        who: "payments/api (mTLS)",
        what: "GET https://vaultmux.test/v1/secrets/orders-db, answered by the filter",
        came: shown(&answer),
        why: why(mesh, 0).await,
        kept: answer.status == 200 && answer.text().contains("demo-password"),
    }
}

async fn denied_read(mesh: &Mesh) -> Row {
    let answer = mesh.client("shop", "web").get("vaultmux.test", "/v1/secrets/orders-db").await;
    let why = why(mesh, 1).await;
    Row {
        who: "shop/web (mTLS)",
        what: "GET https://vaultmux.test/v1/secrets/orders-db",
        came: shown(&answer),
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
        who: "payments/api (mTLS)",
        what: "GET https://api.stripe.test/v1/charges with `authorization: Bearer {{secret://local/stripe}}`",
        came: format!(
            "{}; upstream received `{}`",
            answer.status,
            arrived.as_deref().unwrap_or("")
        ),
        why: why(mesh, 2).await,
        kept: answer.status == 200 && arrived.as_deref() == Some("Bearer sk_live_demo"),
    }
}

async fn reference_elsewhere(mesh: &Mesh) -> Row {
    let answer = mesh.api().request("GET", "app.test", "/v1/charges", &[BEARER]).await;
    let arrived: Vec<Received> = mesh.app.received();
    Row {
        who: "payments/api (mTLS)",
        what: "GET https://app.test/v1/charges with the same header",
        came: format!("{}; upstream received {} requests", shown(&answer), arrived.len()),
        why: why(mesh, 3).await,
        kept: answer.status == 403 && arrived.is_empty(),
    }
}

async fn plain_rest(mesh: &Mesh) -> Row {
    let answer = mesh.service.rest_client().get("localhost", "/v1/secrets/orders-db").await;
    Row {
        who: "a process of the same pod (payments/api by configuration)",
        what: "GET http://localhost/v1/secrets/orders-db, past any proxy",
        came: shown(&answer),
        why: "plain REST, same policy".to_owned(),
        kept: answer.status == 200 && answer.text().contains("demo-password"),
    }
}

/// What Envoy's access log says about a request, without the empty parts.
async fn why(mesh: &Mesh, number: usize) -> String {
    let line = mesh.envoy.access(number).await;
    let parts = ["policy", "reason", "details", "decision"].into_iter().filter_map(|key| {
        let text = line.get(key).and_then(Value::as_str)?;
        (text != "-").then(|| format!("{key} {text}"))
    });
    parts.collect::<Vec<_>>().join(", ")
}

fn shown(answer: &Answer) -> String {
    format!("{} {}", answer.status, answer.text())
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
