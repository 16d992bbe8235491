//! The REST listener, driven without a socket: vaultmux-server's behaviour, and
//! where we differ on purpose.

mod authorize;
mod batch;
mod lists;
mod problems;
mod reads;

use std::{sync::Arc, time::SystemTime};

use axum::{Router, body::Body};
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;

use super::*;
use crate::{
    fixture,
    identity::{GrantScope, SpiffeId},
};

struct Client {
    router: Router,
    current: Current,
    metrics: Arc<Metrics>,
}

impl Client {
    /// A listener whose callers are `local`, if anyone.
    fn new(local: Option<&str>) -> Self {
        Self::with(local, false)
    }

    fn with(local: Option<&str>, require_request_header: bool) -> Self {
        let metrics = Arc::new(Metrics::default());
        let mut snapshot = fixture::snapshot(&metrics);
        snapshot.limits.request_body = 4096;
        snapshot.local = local.map(|id| SpiffeId::parse(id).expect("valid"));
        let current = Current::new(snapshot);
        let settings = RestSettings { local_listener: true, require_request_header };
        let rest = Rest::new(current.clone(), Arc::clone(&metrics), settings);
        Self { router: rest.into_router(), current, metrics }
    }

    fn local() -> Self {
        Self::new(Some("spiffe://cluster.local/ns/prod/sa/api"))
    }

    async fn send(&self, request: Request<Body>) -> Response<Body> {
        self.router.clone().oneshot(request).await.expect("never fails")
    }

    async fn call(&self, method: &str, path: &str, body: &str) -> (StatusCode, Value) {
        let request = Request::builder().method(method).uri(path).header("host", "vaultmux.test");
        let response = self.send(request.body(Body::from(body.to_owned())).expect("valid")).await;
        let (status, body) = (response.status(), text(response).await);
        (status, serde_json::from_str(&body).unwrap_or(Value::Null))
    }
}

async fn text(response: Response<Body>) -> String {
    let bytes = response.into_body().collect().await.expect("a body").to_bytes();
    String::from_utf8(bytes.to_vec()).expect("text")
}

#[tokio::test]
async fn callers_without_identity_are_refused_before_anything_else() {
    let client = Client::new(None);
    for (method, path) in [
        ("GET", "/v1/secrets"),
        ("GET", "/v1/secrets/prod/key"),
        ("GET", "/v1/secrets/../x"),
        ("POST", "/v1/secrets"),
        ("PUT", "/v1/secrets/prod/key"),
        ("DELETE", "/v1/secrets/prod/key"),
    ] {
        let (status, body) = client.call(method, path, r#"{"name":"prod/a","value":"b"}"#).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED, "{method} {path}");
        assert_eq!(body["code"], "no_identity");
    }
}

#[tokio::test]
async fn a_request_that_passed_a_proxy_is_not_the_pods_own() {
    let client = Client::local();
    for header in ["x-forwarded-for", "x-forwarded-proto", "x-envoy-internal", "forwarded", "via"] {
        let request = Request::get("/v1/secrets/prod/key").header(header, "1");
        let response = client.send(request.body(Body::empty()).expect("valid")).await;
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "{header}");
    }
}

#[tokio::test]
async fn local_callers_must_say_that_they_mean_it_where_that_is_required() {
    let client = Client::with(Some("spiffe://cluster.local/ns/prod/sa/api"), true);
    let send = async |headers: &[(&str, &str)]| {
        let mut request = Request::get("/v1/secrets/prod/key");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        client.send(request.body(Body::empty()).expect("valid")).await.status()
    };
    assert_eq!(send(&[]).await, StatusCode::UNAUTHORIZED);
    let rebound = [("host", "evil.example"), ("origin", "http://evil.example")];
    assert_eq!(send(&rebound).await, StatusCode::UNAUTHORIZED);
    assert_eq!(send(&[("x-vaultmux-request", "true")]).await, StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_come_is_given_up_and_a_strangers_is_not_waited_for() {
    let send = async |client: &Client| {
        let never =
            Body::from_stream(futures_util::stream::pending::<Result<Bytes, std::io::Error>>());
        let request = Request::post("/v1/secrets").body(never).expect("valid");
        client.send(request).await.status()
    };
    let started = Instant::now();
    assert_eq!(send(&Client::new(None)).await, StatusCode::UNAUTHORIZED);
    assert_eq!(started.elapsed().as_secs(), 0);
    assert_eq!(send(&Client::local()).await, StatusCode::REQUEST_TIMEOUT);
    assert_eq!(started.elapsed().as_secs(), 5, "the limit for a backend's answer");
}

#[tokio::test]
async fn a_grant_opens_the_request_that_it_was_made_for() {
    let client = Client::local();
    let snapshot = client.current.load_full();
    let scope = GrantScope { method: "GET", host: "vaultmux.test", path: "/v1/secrets/other/key" };
    let caller = fixture::principal("other/app");
    let grant = snapshot.grants.seal(&caller, scope, SystemTime::now()).expect("sealed");
    let send = async |path: &str, host: &str, grants: &[&str]| {
        let mut request =
            Request::get(path).header("host", host).header("x-forwarded-proto", "http");
        for grant in grants {
            request = request.header("x-vaultmux-grant", *grant);
        }
        client.send(request.body(Body::empty()).expect("valid")).await.status()
    };
    let path = "/v1/secrets/other/key";
    assert_eq!(send(path, "vaultmux.test", &[]).await, StatusCode::UNAUTHORIZED);
    assert_eq!(send(path, "vaultmux.test", &["x"]).await, StatusCode::FORBIDDEN);
    assert_eq!(send(path, "evil.test", &[&grant]).await, StatusCode::FORBIDDEN);
    assert_eq!(send(path, "vaultmux.test", &[&grant, &grant]).await, StatusCode::FORBIDDEN);
    let replayed = send("/v1/secrets/other/other", "vaultmux.test", &[&grant]).await;
    assert_eq!(replayed, StatusCode::FORBIDDEN);
    assert_eq!(send(path, "vaultmux.test", &[&grant]).await, StatusCode::OK);
}

#[tokio::test]
async fn forbidden_looks_the_same_whether_a_secret_exists_or_not() {
    let client = Client::local();
    let mut seen = Vec::new();
    for path in ["/v1/secrets/other/key", "/v1/secrets/other/none", "/v1/secrets/shared/stripe"] {
        let (status, mut body) = client.call("GET", path, "").await;
        assert_eq!(status, StatusCode::FORBIDDEN, "{path}");
        for unique in ["request_id", "decision_id"] {
            body.as_object_mut().expect("object").remove(unique).expect(unique);
        }
        seen.push(body);
    }
    assert!(seen.windows(2).all(|pair| pair[0] == pair[1]), "{seen:?}");
}

#[tokio::test]
async fn secrets_live_from_create_to_delete() {
    let client = Client::local();
    let created = client.call("POST", "/v1/secrets", r#"{"name":"prod/new","value":"v1"}"#).await;
    assert_eq!(created, (StatusCode::CREATED, json!({"name": "prod/new"})));
    let (status, body) = client.call("GET", "/v1/secrets/prod/new", "").await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!((&body["name"], &body["value"]), (&json!("prod/new"), &json!("v1")));
    assert_eq!((&body["backend"], &body["version"]), (&json!("local"), &json!("1")));
    assert!(body["created_at"].as_str().expect("a date").ends_with('Z'), "{body}");
    let again = client.call("POST", "/v1/secrets", r#"{"name":"prod/new","value":"x"}"#).await;
    assert_eq!(
        (again.0, &again.1["error"]),
        (StatusCode::CONFLICT, &json!("secret already exists"))
    );
    let updated = client.call("PUT", "/v1/secrets/prod%2Fnew", r#"{"value":"v2"}"#).await;
    assert_eq!(updated, (StatusCode::OK, json!({"name": "prod/new", "version": "2"})));
    let (_, body) = client.call("GET", "/v1/secrets/prod/new", "").await;
    assert_eq!(body["value"], "v2");
    let (_, body) = client.call("GET", "/v1/secrets/prod/new?version=1", "").await;
    assert_eq!(body["value"], "v1");
    let deleted = client.call("DELETE", "/v1/secrets/prod/new", "").await;
    assert_eq!(deleted, (StatusCode::NO_CONTENT, Value::Null));
    for method in ["GET", "DELETE"] {
        let (status, body) = client.call(method, "/v1/secrets/prod/new", "").await;
        assert_eq!((status, &body["error"]), (StatusCode::NOT_FOUND, &json!("secret not found")));
    }
    let (status, body) = client.call("PUT", "/v1/secrets/prod/new", r#"{"value":"v"}"#).await;
    assert_eq!((status, &body["error"]), (StatusCode::NOT_FOUND, &json!("secret not found")));
}

#[tokio::test]
async fn a_list_is_filtered_by_policy() {
    let client = Client::local();
    let listed = client.call("GET", "/v1/secrets", "").await;
    assert_eq!(listed, (StatusCode::OK, json!({"secrets": ["prod/key", "prod/nested/key"]})));
    assert_eq!(client.call("GET", "/v1/secrets?backend=local", "").await, listed);
    let empty = Client::new(Some("spiffe://cluster.local/ns/empty/sa/app"));
    assert_eq!(empty.call("GET", "/v1/secrets", "").await.1, json!({"secrets": []}));
}

#[tokio::test]
async fn binary_values_have_a_form_of_their_own() {
    let client = Client::local();
    let body = r#"{"name":"prod/bin","value_base64":"/wD+"}"#;
    assert_eq!(client.call("POST", "/v1/secrets", body).await.0, StatusCode::CREATED);
    let (_, read) = client.call("GET", "/v1/secrets/prod/bin", "").await;
    assert_eq!((&read["value_base64"], &read["encoding"]), (&json!("/wD+"), &json!("base64")));
    assert!(read.get("value").is_none(), "{read}");
}

#[tokio::test]
async fn malformed_bodies_are_refused_without_being_quoted() {
    let client = Client::local();
    let canary = fixture::CANARY;
    let bodies = [
        String::new(),
        "{bad".into(),
        "null".into(),
        "[]".into(),
        "{}".into(),
        r#""x""#.into(),
        r#"{"name":"prod/a"}"#.into(),
        format!(r#"{{"value":"{canary}"}}"#),
        format!(r#"{{"name":"","value":"{canary}"}}"#),
        format!(r#"{{"name":null,"value":"{canary}"}}"#),
        r#"{"name":"prod/a","value":""}"#.into(),
        r#"{"name":"prod/a","value":null}"#.into(),
        r#"{"name":"prod/a","value":1}"#.into(),
        r#"{"name":{},"value":"x"}"#.into(),
        r#"{"name":"prod/a","value_base64":"!"}"#.into(),
        r#"{"name":"prod/a","value":"x","value_base64":"eA=="}"#.into(),
        format!(r#"{{"name":"prod/a","value":"x","value":"{canary}"}}"#),
        format!(r#"{{"name":"prod/a","value":"{canary}"}} trailing"#),
        format!("name=prod/a&value={canary}"),
        r#"{"NAME":"prod/a","VALUE":"x"}"#.into(),
        format!(r#"{{"name":"prod/a","value":"x","{canary}":1}}"#),
        r#"{"name":"prod/a","value":"\ud800"}"#.into(),
    ];
    for body in bodies {
        let (status, answer) = client.call("POST", "/v1/secrets", &body).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{body}");
        assert!(answer["error"].is_string(), "{body}");
        assert!(!answer.to_string().contains(canary), "{answer}");
    }
    let (status, _) = client.call("GET", "/v1/secrets/prod/a", "").await;
    assert_eq!(status, StatusCode::NOT_FOUND, "nothing was stored");
    let large = format!(r#"{{"name":"prod/a","value":"{}"}}"#, "x".repeat(5000));
    assert_eq!(client.call("POST", "/v1/secrets", &large).await.0, StatusCode::PAYLOAD_TOO_LARGE);
    let blank = r#"{"name":"prod/a","value":" "}"#;
    assert_eq!(client.call("POST", "/v1/secrets", blank).await.0, StatusCode::CREATED);
}

#[tokio::test]
async fn hostile_names_are_refused_with_the_known_texts() {
    let client = Client::local();
    let traversal = "secret name cannot contain '..' (path traversal)";
    let cases = [
        ("/v1/secrets/..", traversal),
        ("/v1/secrets/%2e%2e", traversal),
        ("/v1/secrets/prod/../other", traversal),
        ("/v1/secrets/a%5Cb", r"secret name cannot contain '\' (path separator)"),
        ("/v1/secrets/prod//key", "secret name cannot contain empty or '.' path segments"),
        ("/v1/secrets/%zz", "secret name has invalid percent-encoding"),
    ];
    for (path, error) in cases {
        let (status, body) = client.call("GET", path, "").await;
        assert_eq!((status, &body["error"]), (StatusCode::BAD_REQUEST, &json!(error)), "{path}");
    }
    for path in ["/v1/secrets/a%00b", "/v1/secrets/a%20b", "/v1/secrets/%C3%A9", "/v1/secrets/a;b"]
    {
        let (status, body) = client.call("GET", path, "").await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{path}");
        let error = body["error"].as_str().expect("text");
        assert!(error.starts_with("secret name can only contain alphanumeric"), "{error}");
    }
}

#[tokio::test]
async fn every_answer_has_the_security_headers_and_a_request_id() {
    let client = Client::local();
    let requests = [
        ("GET", "/v1/secrets/prod/key", ""),
        ("POST", "/v1/secrets", r#"{"name":"prod/h","value":"x"}"#),
        ("DELETE", "/v1/secrets/prod/h", ""),
        ("GET", "/v1/secrets/prod/none", ""),
        ("GET", "/v1/secrets/other/key", ""),
        ("PATCH", "/v1/secrets/prod/key", ""),
        ("GET", "/health", ""),
        ("GET", "/nowhere", ""),
    ];
    for (method, path, body) in requests {
        let request = Request::builder().method(method).uri(path).header("x-request-id", "id-1");
        let response = client.send(request.body(Body::from(body)).expect("valid")).await;
        for (name, value) in [
            ("x-content-type-options", "nosniff"),
            ("x-frame-options", "DENY"),
            ("x-xss-protection", "1; mode=block"),
            ("strict-transport-security", "max-age=31536000; includeSubDomains"),
            ("content-security-policy", "default-src 'none'; frame-ancestors 'none'"),
            ("cache-control", "no-store"),
            ("x-request-id", "id-1"),
        ] {
            assert_eq!(response.headers()[name], value, "{method} {path}");
        }
    }
    let request = Request::get("/health").header("x-request-id", "two words");
    let response = client.send(request.body(Body::empty()).expect("valid")).await;
    assert_ne!(response.headers()["x-request-id"], "two words");
}

#[tokio::test]
async fn wrong_paths_and_methods_say_so() {
    let client = Client::local();
    let (status, body) = client.call("GET", "/nowhere", "").await;
    assert_eq!((status, &body["code"]), (StatusCode::NOT_FOUND, &json!("no_route")));
    for path in [
        "/V1/secrets",
        "//v1/secrets",
        "/v1/secretsx",
        "/metrics",
        "/v1/versions",
        "/v1/versions/",
        "/v1/secrets:batchGet/",
    ] {
        assert_eq!(client.call("GET", path, "").await.0, StatusCode::NOT_FOUND, "{path}");
    }
    for (method, path, allow) in [
        ("PATCH", "/v1/secrets/prod/key", "GET, HEAD, PUT, DELETE, OPTIONS"),
        ("POST", "/v1/secrets/prod/key", "GET, HEAD, PUT, DELETE, OPTIONS"),
        ("DELETE", "/v1/secrets", "GET, HEAD, POST, OPTIONS"),
        ("GET", "/v1/secrets:batchGet", "POST, OPTIONS"),
        ("PUT", "/v1/versions/prod/key", "GET, HEAD, OPTIONS"),
        ("POST", "/health", "GET, HEAD, OPTIONS"),
        ("POST", "/v1/authorize", "POST, OPTIONS"),
    ] {
        // Told to strangers too, and to pages of other origins without leave to go on.
        let request = Request::builder().method("OPTIONS").uri(path).header("origin", "http://x");
        let response = Client::new(None).send(request.body(Body::empty()).expect("valid")).await;
        assert_eq!(response.status(), StatusCode::NO_CONTENT, "{path}");
        assert_eq!(response.headers()["allow"], allow);
        assert!(!response.headers().contains_key("access-control-allow-origin"));
        if (method, path) == ("POST", "/v1/authorize") {
            continue;
        }
        let request = Request::builder().method(method).uri(path).body(Body::empty());
        let response = client.send(request.expect("valid")).await;
        assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED, "{method} {path}");
        assert_eq!(response.headers()["allow"], allow);
    }
}

#[tokio::test]
async fn health_is_vaultmux_servers() {
    let client = Client::new(None);
    let request = Request::get("/health").body(Body::empty()).expect("valid");
    let response = client.send(request).await;
    assert_eq!(response.headers()["content-type"], "application/json; charset=utf-8");
    assert_eq!(text(response).await, r#"{"backend":"local","status":"healthy"}"#);
}

#[tokio::test]
async fn head_has_the_headers_without_the_body() {
    let client = Client::local();
    let send = async |method: &str, path: &str| {
        let request = Request::builder().method(method).uri(path).body(Body::empty());
        let response = client.send(request.expect("valid")).await;
        let declared = response.headers().get("content-length").cloned();
        (response.status(), declared, text(response).await)
    };
    for path in ["/v1/secrets/prod/key", "/v1/secrets", "/v1/secrets/other/key", "/health"] {
        let (status, _, body) = send("GET", path).await;
        let (head_status, declared, head_body) = send("HEAD", path).await;
        assert_eq!(head_status, status, "{path}");
        assert_eq!(head_body, "", "{path}");
        let declared: usize =
            declared.expect("a length").to_str().expect("text").parse().expect("a number");
        // Ids in refusals differ in their last digits.
        assert!(declared.abs_diff(body.len()) <= 2, "{path}");
    }
}

#[tokio::test]
async fn metrics_hold_neither_names_nor_values() {
    let client = Client::local();
    for path in ["/v1/secrets/prod/key", "/v1/secrets/prod/none", "/v1/secrets/other/key"] {
        client.call("GET", path, "").await;
    }
    let metrics = client.metrics.encode().expect("text");
    assert!(
        metrics.contains(r#"vaultmux_requests_total{method="GET",status="200"} 1"#),
        "{metrics}"
    );
    for line in metrics.lines().filter(|line| !line.starts_with('#')) {
        for hidden in [fixture::CANARY, "prod", "other", "key", "none"] {
            assert!(!line.contains(hidden), "{hidden} in {line}");
        }
    }
}
