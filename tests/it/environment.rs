//! A start by vaultmux-server's variables, over a real AWS API: what its users do
//! when they swap the image.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr, UdpSocket},
};

use serde_json::{Value, json};

use crate::harness::{Answer, Client, Service, default_ports, moto, repository, sized};

/// Pods as vaultmux-server's own examples and chart describe them: a container beside the
/// app, or a native sidecar before it. Neither has a command or arguments, and the kubelet
/// probes the pod's address.
const PODS: [&str; 2] = [
    r#"
spec:
  containers:
    - {name: shop, image: "registry.example.com/shop:1", env: [{name: VAULTMUX_ENDPOINT, value: "http://localhost:8080"}]}
    - name: vaultmux-server
      image: registry.example.com/swapped:1
      ports: [{containerPort: 8080, name: http}]
      env:
        - {name: PORT, value: "8080"}
        - {name: VAULTMUX_BACKEND, value: awssecrets}
        - {name: AWS_REGION, value: us-east-1}
      livenessProbe: {httpGet: {path: /health, port: 8080}, initialDelaySeconds: 10, periodSeconds: 10}
      readinessProbe: {httpGet: {path: /health, port: 8080}, initialDelaySeconds: 5, periodSeconds: 5}
"#,
    r#"
spec:
  initContainers:
    - name: vaultmux-server
      image: registry.example.com/swapped:1
      restartPolicy: Always
      ports: [{containerPort: 8080, name: http, protocol: TCP}]
      env:
        - {name: PORT, value: "8080"}
        - {name: VAULTMUX_BACKEND, value: awssecrets}
        - {name: VAULTMUX_PREFIX, value: shop/}
        - {name: AWS_REGION, value: us-east-1}
        - {name: AWS_ENDPOINT, value: "http://localhost:4566"}
      livenessProbe: {httpGet: {path: /health, port: http}, initialDelaySeconds: 10, periodSeconds: 10}
      readinessProbe: {httpGet: {path: /health, port: http}, initialDelaySeconds: 5, periodSeconds: 5}
  containers:
    - {name: shop, image: "registry.example.com/shop:1", env: [{name: VAULTMUX_ENDPOINT, value: "http://localhost:8080"}]}
"#,
];

/// This machine's address beyond loopback, as a pod has one. Nothing is sent.
fn address_of_the_machine() -> IpAddr {
    let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
    socket.connect("203.0.113.1:9").expect("a route: the test needs a network interface");
    let address = socket.local_addr().expect("an address").ip();
    assert!(!address.is_loopback() && !address.is_unspecified(), "{address}");
    address
}

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

/// Only the image is swapped: the arguments are the image's, which has `CMD ["serve"]`.
#[tokio::test(flavor = "multi_thread")]
async fn vaultmux_servers_manifests_are_probed_at_the_pods_address_and_serve_the_pod_alone() {
    let (_moto, endpoint) = moto().await;
    let dockerfile = std::fs::read_to_string(repository("Dockerfile")).expect("the Dockerfile");
    assert!(dockerfile.ends_with("CMD [\"serve\"]\n"));
    for manifest in PODS {
        let pod: Value = serde_saphyr::from_str(manifest).expect("YAML");
        let containers = ["initContainers", "containers"].map(|kind| &pod["spec"][kind]);
        let mut containers = containers.into_iter().filter_map(Value::as_array).flatten();
        let ours = containers.find(|it| it["name"] == "vaultmux-server").expect("the sidecar");
        assert!(ours["command"].is_null() && ours["args"].is_null());
        let text = |value: &Value| value.as_str().expect("text").to_owned();
        let variables = ours["env"].as_array().expect("variables").iter();
        let mut variables: BTreeMap<String, String> =
            variables.map(|it| (text(&it["name"]), text(&it["value"]))).collect();
        // What a test can give: a free port, a store and what the pod's cloud identity is.
        for (name, value) in [
            ("PORT", "0"),
            ("AWS_ENDPOINT", &*endpoint),
            ("AWS_ACCESS_KEY_ID", "test"),
            ("AWS_SECRET_ACCESS_KEY", "test"),
        ] {
            variables.insert(name.to_owned(), value.to_owned());
        }
        let variables: Vec<_> = variables.iter().map(|(key, value)| (&**key, &**value)).collect();
        let _ports = default_ports().await;
        let mut service = Service::start_by_environment(&variables).await;
        let port = service.rest().port();
        let pod = Client::plain(SocketAddr::new(address_of_the_machine(), port));
        let inside: Vec<Client> = ["127.0.0.1", "::1"]
            .into_iter()
            .map(|ip| Client::plain(SocketAddr::new(ip.parse().expect("an address"), port)))
            .collect();

        for probe in ["livenessProbe", "readinessProbe"] {
            let get = &ours[probe]["httpGet"];
            let named = &ours["ports"][0];
            assert!(get["port"] == named["name"] || get["port"] == named["containerPort"]);
            let answer = pod.get("10.0.0.7:8080", get["path"].as_str().expect("a path")).await;
            assert_eq!(
                (answer.status, answer.text()),
                (200, inside[0].get("a", "/health").await.text())
            );
        }
        // The app, by either address that `localhost` is.
        let body = sized(r#"{"name":"db","value":"canary-1"}"#);
        assert_eq!(inside[0].send("POST", "localhost", "/v1/secrets", &[], body).await.status, 201);
        for client in &inside {
            let read: Value = client.get("localhost", "/v1/secrets/db").await.json();
            assert_eq!(read["value"], "canary-1");
        }
        // Nobody else, however they ask: over either protocol, with what a local caller sends.
        for client in [pod.clone(), pod.http2()] {
            for (method, path) in [
                ("GET", "/v1/secrets/db"),
                ("GET", "/v1/secrets"),
                ("GET", "/v1/watch?name=db"),
                ("GET", "/health/../v1/secrets/db"),
                ("DELETE", "/v1/secrets/db"),
                ("POST", "/v1/secrets:batchGet"),
                ("GET", "/openapi.json"),
                ("GET", "/docs"),
                ("OPTIONS", "/v1/secrets"),
            ] {
                let headers = [("x-vaultmux-request", "true")];
                let answer = client.request(method, "localhost", path, &headers).await;
                assert_eq!(answer.status, 403, "{method} {path}: {}", answer.text());
                let problem: Value = answer.json();
                assert_eq!(problem["code"], "forbidden");
                let error = problem["error"].as_str().expect("text");
                assert!(error.contains("listeners.rest.address"), "{error}");
            }
        }
        assert_eq!(inside[0].get("localhost", "/v1/secrets/db").await.status, 200);
        assert_eq!(
            inside[0].request("DELETE", "localhost", "/v1/secrets/db?force=true", &[]).await.status,
            204
        );
        service.terminate();
        assert_eq!(service.exit_code().await, 0);
    }
}

/// With a configuration file nobody beyond loopback is answered, unless it says so.
#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_file_opens_health_only_where_it_says_so() {
    let beyond = address_of_the_machine();
    for (said, is_open) in [("", false), (", health_on_all_addresses: true", true)] {
        let config = format!(
            "mode: development\nlisteners:\n  grpc: {{address: '127.0.0.1:0'}}\n  \
             rest: {{address: '127.0.0.1:0'{said}}}\n  admin: {{address: '127.0.0.1:0'}}\n\
             identity: {{local: {{namespace: prod, service_account: api}}}}\n\
             backends: {{local: {{type: memory}}}}\n"
        );
        let service = Service::start(&[("config.yaml", &config)]).await;
        let client = Client::plain(SocketAddr::new(beyond, service.rest().port()));
        let answer = client.try_send("GET", "a", "/health", &[], sized("")).await;
        assert_eq!(answer.map(|answer| answer.status).ok(), is_open.then_some(200), "{said}");
        assert_eq!(service.rest_client().get("a", "/health").await.status, 200);
    }
}
