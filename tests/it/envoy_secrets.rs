//! Secret reads through the proxy: the filter answers as REST would.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::harness::{Answer, Mesh, sized};

const HOST: &str = "vaultmux.test";

/// What does not depend on which way the request came, or when.
fn comparable(answer: &Answer) -> (u16, BTreeMap<String, String>, Value) {
    let mut body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    if let Some(body) = body.as_object_mut() {
        body.remove("request_id");
        body.remove("decision_id");
    }
    let of_the_way =
        ["server", "date", "x-request-id", "age", "cache-status", "x-vaultmux-decision-id"];
    let headers = answer.headers.iter().filter(|(name, _)| {
        let name = name.as_str();
        // Request ids differ in length, and are part of the body.
        let length = name == "content-length";
        !of_the_way.contains(&name) && !length && !name.starts_with("x-envoy-")
    });
    let headers = headers
        .map(|(name, value)| (name.to_string(), value.to_str().expect("text").to_owned()))
        .collect();
    (answer.status, headers, body)
}

#[tokio::test(flavor = "multi_thread")]
async fn answer_from_the_filter_is_the_answer_of_rest() {
    let mesh = Mesh::start().await;
    let (proxied, direct) = (mesh.api(), mesh.service.rest_client());
    for (method, path) in [
        ("GET", "/v1/secrets/zq-orders"),
        ("HEAD", "/v1/secrets/zq-orders"),
        ("GET", "/v1/secrets/zq-team/db"),
        ("GET", "/v1/secrets/zq-team%2Fdb"),
        ("GET", "/v1/secrets/zq-team%2fdb"),
        ("GET", "/v1/secrets/zq-orders?backend=local"),
        ("GET", "/v1/secrets/zq-missing"),
        ("GET", "/v1/secrets"),
        ("GET", "/v1/secrets?backend=local"),
        ("GET", "/v1/secrets?prefix=zq-t"),
        ("GET", "/v1/versions/zq-orders"),
    ] {
        // The second time both come from the cache.
        for _ in 0..2 {
            let through = proxied.request(method, HOST, path, &[]).await;
            let plain = direct.request(method, HOST, path, &[]).await;
            assert_eq!(comparable(&through), comparable(&plain), "{method} {path}");
        }
    }
    let answer = proxied.get(HOST, "/v1/secrets/zq-orders").await;
    let body: Value = answer.json();
    assert_eq!(answer.status, 200);
    assert_eq!((&body["name"], &body["value"]), (&"zq-orders".into(), &"canary-orders-7Qx".into()));
    assert_eq!(answer.header("cache-control"), "no-store");
    let (tag, path) = (answer.header("etag"), "/v1/secrets/zq-orders");
    let same = proxied.request("GET", HOST, path, &[("if-none-match", tag)]).await;
    assert_eq!((same.status, same.header("etag"), same.text()), (304, tag, String::new()));
    let raw = [("accept", "application/octet-stream")];
    let raw = proxied.request("GET", HOST, path, &raw).await;
    assert_eq!(
        (raw.text(), raw.header("content-type")),
        ("canary-orders-7Qx".into(), "application/octet-stream")
    );
    let list: Value = proxied.get(HOST, "/v1/secrets").await.json();
    assert_eq!(list["secrets"], serde_json::json!(["zq-orders", "zq-team/db"]));
    mesh.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refusal_is_the_same_whether_the_secret_exists() {
    let mesh = Mesh::start().await;
    let mut bodies = Vec::new();
    for name in ["zq-hidden", "zq-nothing", "zq-stripe"] {
        let answer = mesh.api().get(HOST, &format!("/v1/secrets/{name}")).await;
        assert_eq!(answer.status, 403, "{}", answer.text());
        bodies.push(comparable(&answer));
    }
    assert!(bodies.windows(2).all(|two| two[0] == two[1]), "{bodies:?}");
    assert_eq!(bodies[0].2["code"], "forbidden");
    mesh.finish().await;
}

/// The secrets' host answers nothing but secrets, whatever the path looks like.
#[tokio::test(flavor = "multi_thread")]
async fn no_spelling_opens_a_hidden_secret() {
    let mesh = Mesh::start().await;
    for path in [
        "/v1/secrets/zq-hidden",
        "/v1/secrets/%7aq-hidden",
        "/v1/secrets/zq-orders/../zq-hidden",
        "/v1/secrets/zq-orders/%2e%2e/zq-hidden",
        "/v1/secrets/zq-orders%2F..%2Fzq-hidden",
        "/v1/secrets/zq-orders%2f%2e%2e%2fzq-hidden",
        "/v1/secrets/zq-team%2F..%2Fzq-hidden",
        "/v1/secrets//zq-hidden",
        "/v1//secrets/zq-hidden",
        "//v1/secrets/zq-hidden",
        "/v1/secrets/zq-hidden/",
        "/v1/secrets/zq-hidden%2F",
        "/v1/secrets/%2Fzq-hidden",
        "/v1/secrets/zq-hidden%00",
        "/v1/secrets/zq-hidden;zq-orders",
        "/v1/secrets/zq-hidden%3Bzq-orders",
        "/v1/secrets/zq-hidden%3Fbackend=local",
        "/v1/secrets/zq-orders%23zq-hidden",
        "/v1/secrets/zq-%2568idden",
        "/v1/secrets/zq-hidden\\",
        "/v1/secrets/zq-orders%5C..%5Czq-hidden",
        "/v1/secrets/zq-hidden?backend=local",
        "/v1/secrets/zq-hidden?backend=local&backend=local",
        "/v1/secrets/ZQ-HIDDEN",
        "/V1/secrets/zq-hidden",
        "/v1/secrets/zq-hidden HTTP/1.1 /v1/secrets/zq-orders",
        "http://vaultmux.test/v1/secrets/zq-hidden",
    ] {
        let request = format!("GET {path} HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n\r\n");
        let status = mesh.api().raw(request.as_bytes()).await.unwrap_or(0);
        assert!(!(200..300).contains(&status), "{path}: {status}");
    }
    mesh.finish().await;
}

/// Writes go on to REST, which gets the grant and decides again.
#[tokio::test(flavor = "multi_thread")]
async fn writes_reach_rest_with_the_proven_identity() {
    let writes = r#"
apiVersion: vaultmux.dev/v1alpha1
kind: AccessPolicy
metadata: {name: writes}
spec:
  effect: Allow
  from: [{serviceAccounts: [payments/writer]}]
  to: [{secrets: {backends: [local], prefixes: [zq-new/], verbs: [get, create, update, delete]}}]
"#;
    let mesh = Mesh::builder().policies(writes).start().await;
    let writer = mesh.client("payments", "writer");
    let json = [("content-type", "application/json")];
    let send = |method: &'static str, path: &'static str, body: &'static str| {
        let writer = writer.clone();
        async move { writer.send(method, HOST, path, &json, sized(body)).await.status }
    };
    let create = r#"{"name":"zq-new/a","value":"canary-1"}"#;
    assert_eq!(send("POST", "/v1/secrets", create).await, 201);
    assert_eq!(send("POST", "/v1/secrets", create).await, 409);
    let foreign = r#"{"name":"zq-other","value":"canary-1"}"#;
    assert_eq!(send("POST", "/v1/secrets", foreign).await, 403);
    assert_eq!(send("PUT", "/v1/secrets/zq-new/a", r#"{"value":"canary-2"}"#).await, 200);
    let read: Value = writer.get(HOST, "/v1/secrets/zq-new/a").await.json();
    assert_eq!(read["value"], "canary-2");
    // Decided for each name behind the proxy.
    let many = r#"{"secrets":[{"name":"zq-new/a"},{"name":"zq-hidden"}]}"#;
    let many = writer.send("POST", HOST, "/v1/secrets:batchGet", &json, sized(many)).await;
    let many: Value = many.json();
    assert_eq!(many["secrets"][0]["value"], "canary-2", "{many}");
    assert_eq!(many["errors"][0]["code"], "forbidden", "{many}");
    assert_eq!(send("DELETE", "/v1/secrets/zq-new/a", "").await, 204);
    assert_eq!(send("GET", "/v1/secrets/zq-new/a", "").await, 404);
    // Who may not write anything does not get past the check.
    let refused = mesh.api().send("POST", HOST, "/v1/secrets", &json, sized(create)).await;
    assert_eq!(refused.status, 403);
    mesh.finish().await;
}

/// A grant is good for one request, and REST believes no other header.
#[tokio::test(flavor = "multi_thread")]
async fn forged_grant_opens_nothing() {
    let mesh = Mesh::start().await;
    let forged = [("x-vaultmux-grant", "eyJhbGciOiJub25lIn0.e30.")];
    let path = "/v1/secrets/zq-orders";
    let other = mesh.client("shop", "web").request("GET", HOST, path, &forged).await;
    assert_eq!(other.status, 403);
    let direct = mesh.service.rest_client().request("GET", HOST, path, &forged).await;
    assert!(matches!(direct.status, 401 | 403), "{}", direct.text());
    mesh.finish().await;
}
