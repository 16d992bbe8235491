//! Changes of Kubernetes Secrets, through the built program: a real API server tells, or does
//! not, for want of the right.

use std::{fs, path::Path};

use base64::{Engine, engine::general_purpose::STANDARD};
use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    apiserver::ApiServer,
    servers::{Server, documented, until},
};

const PAGE: &str = "docs/stores/kubernetes.md";
const ACCOUNT: &str =
    "{apiVersion: v1, kind: ServiceAccount, metadata: {name: vaultmux-mesh, namespace: vaultmux}}";
const SECRETS: &str = "/api/v1/namespaces/shop/secrets";

const POLICIES: &str = "\
apiVersion: vaultmux.dev/v1alpha1
kind: AccessPolicy
metadata: {name: all}
spec:
  effect: Allow
  from: [{namespaces: [shop]}]
  to: [{secrets: {names: ['*'], verbs: [get]}}]
";

fn data(value: &str) -> Value {
    json!({"data": {"password": STANDARD.encode(value), "user": STANDARD.encode("canary-user")}})
}

async fn put(api: &ApiServer, value: &str) {
    api.admin(Method::PATCH, &format!("{SECRETS}/db"), data(value)).await;
}

/// Waits for this in a stream of events.
async fn told(stream: &mut reqwest::Response, events: &mut String, wanted: &str) {
    let arrives = async {
        while !events.contains(wanted) {
            match stream.chunk().await {
                Ok(Some(chunk)) => events.push_str(&String::from_utf8_lossy(&chunk)),
                _ => return false,
            }
        }
        true
    };
    let arrived = tokio::time::timeout(std::time::Duration::from_secs(60), arrives).await;
    assert!(matches!(arrived, Ok(true)), "no {wanted} in\n{events}");
}

/// Nothing is read anew within the test but for what the API server tells.
#[tokio::test(flavor = "multi_thread")]
async fn changes_are_seen_at_once_where_the_service_may_watch() {
    let api = ApiServer::start().await;
    for namespace in ["shop", "vaultmux"] {
        api.create_namespace(namespace).await;
    }
    api.apply(ACCOUNT).await;
    let mut object = data("canary-1");
    object["metadata"] = json!({"name": "db"});
    api.admin(Method::POST, SECRETS, object).await;
    for role in ["rbac-get.yaml", "rbac-watch.yaml"] {
        api.apply(&documented(PAGE, role)).await;
    }
    let token = api.token("vaultmux", "vaultmux-mesh", &[]).await;
    // The authoriser learns of roles some moments after they were made.
    until("the roles", async || {
        let call =
            async |path: String| api.call(&token, Method::GET, &path, "", &Value::Null).await.0;
        let may = call(format!("{SECRETS}?watch=1&timeoutSeconds=1")).await == 200
            && call(format!("{SECRETS}/db")).await == 200;
        may.then_some(())
    })
    .await;
    let kubeconfig = api.kubeconfig_of("watcher", &token);
    let kubeconfig = kubeconfig.display();
    let directory = TempDir::new().expect("temporary directory");
    let config = format!(
        "mode: development\n\
         listeners:\n  grpc: {{address: '127.0.0.1:0'}}\n  rest: {{address: '127.0.0.1:0'}}\n  \
         admin: {{address: '127.0.0.1:0'}}\n\
         identity: {{local: {{namespace: shop, service_account: api}}}}\n\
         default_backend: shop\n\
         backends:\n  \
         shop: {{type: kubernetes_secrets, namespace: shop, kubeconfig: {kubeconfig}}}\n  \
         own: {{type: kubernetes_secrets, namespace: '{{namespace}}', kubeconfig: {kubeconfig}}}\n\
         cache: {{ttl: 1h, negative_ttl: 1h}}\n\
         policies: [policies.yaml]\ntelemetry: {{log: {{level: debug}}}}\n"
    );
    fs::write(directory.path().join("vaultmux.yaml"), config).expect("written");
    fs::write(directory.path().join("policies.yaml"), POLICIES).expect("written");
    let program = Path::new(env!("CARGO_BIN_EXE_vaultmux-mesh"));
    let mut service = Server::start_in(directory, program, |_| {
        ["serve", "--config", "vaultmux.yaml"].map(str::to_owned).into()
    });
    let rest = service
        .ready(async |log| {
            log.lines().find_map(|line| {
                let line: Value = serde_json::from_str(line).ok()?;
                let rest = line["message"] == "listening" && line["listener"] == "rest";
                rest.then(|| line["address"].as_str().map(str::to_owned)).flatten()
            })
        })
        .await;
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    let get = async |secret: &str| {
        let url = format!("http://{rest}/v1/secrets/{secret}");
        let answer = client.get(url).send().await.expect("answered");
        let status = answer.status().as_u16();
        (status, answer.json::<Value>().await.expect("JSON"))
    };
    let value = async |secret: &str| get(secret).await.1["value"].as_str().map(str::to_owned);
    assert_eq!(value("db/password").await.as_deref(), Some("canary-1"));
    until("the watch", async || service.log().contains("the store tells of changes").then_some(()))
        .await;
    let url = format!("http://{rest}/v1/watch?name=db/password&name=db/user");
    let mut stream = client.get(url).send().await.expect("answered");
    let mut events = String::new();
    told(&mut stream, &mut events, "db/password").await;
    told(&mut stream, &mut events, "db/user").await;

    put(&api, "canary-2").await;
    until("the new value", async || {
        (value("db/password").await.as_deref() == Some("canary-2")).then_some(())
    })
    .await;
    let version = get("db/password").await.1["version"].as_str().expect("a version").to_owned();
    for name in ["db/password", "db/user"] {
        let wanted = format!(r#"{{"name":"{name}","backend":"shop","version":"{version}"}}"#);
        told(&mut stream, &mut events, &wanted).await;
    }
    api.admin(Method::DELETE, &format!("{SECRETS}/db"), Value::Null).await;
    until("the end", async || (get("db/password").await.0 == 404).then_some(())).await;
    let gone = r#"{"name":"db/password","backend":"shop","version":null}"#;
    told(&mut stream, &mut events, gone).await;
    // That there is none is no more than a cached answer either.
    let mut object = data("canary-3");
    object["metadata"] = json!({"name": "db"});
    api.admin(Method::POST, SECRETS, object).await;
    until("the secret to be back", async || {
        (value("db/password").await.as_deref() == Some("canary-3")).then_some(())
    })
    .await;

    // For all namespaces there is no right to watch: it is read, and what it was is cached.
    assert_eq!(value("db/password?backend=own").await.as_deref(), Some("canary-3"));
    until("the refusal", async || {
        let log = service.log();
        let refused = log.lines().find(|line| line.contains("the store does not tell of changes"));
        refused.map(|line| {
            assert!(line.contains("\"own\"") && line.contains("permission_denied"), "{line}");
        })
    })
    .await;
    put(&api, "canary-4").await;
    until("the value of the one that tells", async || {
        (value("db/password").await.as_deref() == Some("canary-4")).then_some(())
    })
    .await;
    assert_eq!(value("db/password?backend=own").await.as_deref(), Some("canary-3"));
    let log = service.log();
    assert!(!log.contains("canary") && !log.contains(&token), "{log}");
    assert!(!events.contains("canary"), "{events}");
}
