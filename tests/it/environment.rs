//! A start by vaultmux-server's variables, over a real AWS API: what its users do
//! when they swap the image.

use serde_json::{Value, json};

use crate::harness::{Answer, Service, default_ports, moto, repository, sized};

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

/// The variables of the container `vaultmux` in `docs/migrating-from-vaultmux-server.md`.
#[tokio::test(flavor = "multi_thread")]
async fn a_sidecars_manifest_works_with_the_image_swapped() {
    let path = repository("docs/migrating-from-vaultmux-server.md");
    let page = std::fs::read_to_string(path).expect("the page");
    let start = "```yaml\n# sidecar.yaml\n";
    let manifest = page.split_once(start).and_then(|(_, rest)| rest.split("```").next());
    let pod: Value = serde_saphyr::from_str(manifest.expect("a block")).expect("YAML");
    let containers = pod["spec"]["containers"].as_array().expect("containers");
    let ours = containers.iter().find(|container| container["name"] == "vaultmux");
    let ours = ours.expect("the sidecar");
    assert_eq!(ours["args"], json!(["serve"]));
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let mut variables: Vec<(String, String)> = ours["env"]
        .as_array()
        .expect("variables")
        .iter()
        .map(|variable| (text(&variable["name"]), text(&variable["value"])))
        .collect();
    let app = &containers.iter().find(|container| container["name"] == "app").expect("the app");
    let url = text(&app["env"][0]["value"]);
    let port = variables.iter().find(|(name, _)| name == "PORT").expect("a port").1.clone();
    assert_eq!(url, format!("http://localhost:{port}/v1/secrets"));

    let (_moto, endpoint) = moto().await;
    for (name, value) in &mut variables {
        match name.as_str() {
            "PORT" => *value = "0".to_owned(),
            "AWS_ENDPOINT" => value.clone_from(&endpoint),
            _ => {}
        }
    }
    // What the pod's cloud identity would be.
    let identity = [("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "test")];
    let variables = variables.iter().map(|(name, value)| (&**name, &**value)).chain(identity);
    let variables: Vec<_> = variables.collect();
    let _ports = default_ports().await;
    let mut service = Service::start_by_environment(&variables).await;
    let client = service.rest_client();
    let body = sized(r#"{"name":"db","value":"canary-1"}"#);
    assert_eq!(client.send("POST", "localhost", "/v1/secrets", &[], body).await.status, 201);
    let read: Value = client.get("localhost", "/v1/secrets/db").await.json();
    assert_eq!((&read["name"], &read["value"]), (&json!("db"), &json!("canary-1")));
    service.terminate();
    assert_eq!(service.exit_code().await, 0);
}
