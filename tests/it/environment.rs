//! A start by vaultmux-server's variables, over a real AWS API: what its users do
//! when they swap the image.

use serde_json::{Value, json};

use crate::harness::{Answer, Service, default_ports, moto, sized};

#[tokio::test(flavor = "multi_thread")]
async fn vaultmux_servers_variables_are_enough() {
    let (_moto, url) = moto().await;
    let _ports = default_ports().await;
    let mut service = Service::start_by_environment(&[
        ("VAULTMUX_BACKEND", "awssecrets"),
        ("VAULTMUX_PREFIX", "team/"),
        ("AWS_REGION", "us-east-1"),
        ("AWS_ENDPOINT", &url),
        ("AWS_ACCESS_KEY_ID", "test"),
        ("AWS_SECRET_ACCESS_KEY", "test"),
        ("AWS_EC2_METADATA_DISABLED", "true"),
        ("PORT", "0"),
    ])
    .await;
    let client = service.rest_client();
    let send = async |method: &str, path: &str, body: &str| -> Answer {
        client.send(method, "localhost", path, &[], sized(body.to_owned())).await
    };
    let health: Value = send("GET", "/health", "").await.json();
    assert_eq!(health, json!({"backend": "awssecrets", "status": "healthy"}));
    assert_eq!(send("GET", "/v1/secrets", "").await.json::<Value>(), json!({"secrets": []}));
    let created = send("POST", "/v1/secrets", r#"{"name":"db","value":"canary-1"}"#).await;
    assert_eq!((created.status, created.json::<Value>()), (201, json!({"name": "db"})));
    let again = send("POST", "/v1/secrets", r#"{"name":"db","value":"x"}"#).await;
    assert_eq!(again.status, 409);
    let read: Value = send("GET", "/v1/secrets/db", "").await.json();
    assert_eq!((&read["name"], &read["value"]), (&json!("db"), &json!("canary-1")));
    assert_eq!(send("PUT", "/v1/secrets/db", r#"{"value":"canary-2"}"#).await.status, 200);
    let read: Value = send("GET", "/v1/secrets/db", "").await.json();
    assert_eq!(read["value"], "canary-2", "a write beats the cache");
    let previous: Value = send("GET", "/v1/secrets/db?version=previous", "").await.json();
    assert_eq!(previous["value"], "canary-1");
    let listed: Value = send("GET", "/v1/secrets", "").await.json();
    assert_eq!(listed, json!({"secrets": ["db"]}), "without the prefix");
    assert_eq!(send("DELETE", "/v1/secrets/db", "").await.status, 204);
    assert_eq!(send("GET", "/v1/secrets/db", "").await.status, 404);
    // Recoverable, so the name is not free.
    assert_eq!(send("POST", "/v1/secrets", r#"{"name":"db","value":"x"}"#).await.status, 409);
    service.terminate();
    assert_eq!(service.exit_code().await, 0);
    for line in service.logs() {
        assert!(!line.contains("canary"), "{line}");
    }
}
