//! The rows of vaultmux-server's behaviour that need a store which fails, hangs, refuses or
//! counts its calls, and those about many callers and the end. `rest_compat` has the others.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{Router, extract::State, http::request::Parts, response::IntoResponse};
use futures_util::future::join_all;
use http::StatusCode;
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::Notify};

use crate::harness::{Answer, Service, repository, sized};

/// What AWS says of those that it refuses, which nobody but the operator should read.
const WORDS: &str = "User: arn:aws:sts::123456789012:assumed-role/canary-role is not authorized";

/// A store that speaks AWS's protocol. What it does is the first part of its path; what was
/// asked of it is kept.
#[derive(Clone)]
struct Fake {
    url: String,
    calls: Arc<Mutex<Vec<(String, Value)>>>,
    /// Lets go of the reads of `waiting`.
    go: Arc<Notify>,
}

// === impl Fake ===

impl Fake {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let fake = Self { url, calls: Arc::default(), go: Arc::default() };
        let router = Router::new().fallback(answered).with_state(fake.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        fake
    }

    /// All calls so far: what was asked for, and how.
    fn calls(&self) -> Vec<(String, Value)> {
        self.calls.lock().expect("not poisoned").clone()
    }

    fn backend(&self, kind: &str) -> String {
        let Self { url, .. } = self;
        format!(
            "  {kind}: {{type: aws_secrets_manager, region: us-east-1, prefix: team/, \
             endpoint_url: '{url}/{kind}'}}\n"
        )
    }

    async fn serve(&self, kinds: &[&str], limits: &str) -> Service {
        let backends: String = kinds.iter().map(|kind| self.backend(kind)).collect();
        let config = format!(
            "mode: development\n\
             listeners:\n  grpc: {{address: '127.0.0.1:0'}}\n  rest: {{address: '127.0.0.1:0'}}\n  \
             admin: {{address: '127.0.0.1:0'}}\n\
             identity: {{local: {{namespace: prod, service_account: api}}}}\n\
             default_backend: {}\nlimits: {limits}\npolicies: [policies/]\n\
             backends:\n{backends}",
            kinds[0]
        );
        let policy = "apiVersion: vaultmux.dev/v1alpha1\n\
                      kind: AccessPolicy\n\
                      metadata: {name: all}\n\
                      spec:\n  effect: Allow\n  from: [{serviceAccounts: [prod/api]}]\n  \
                      to: [{secrets: {names: ['*'], verbs: ['*']}}]\n";
        let files = [("config.yaml", &*config), ("policies/all.yaml", policy)];
        let key = [("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "test")];
        Service::start_with(&files, &key).await
    }
}

async fn answered(State(fake): State<Fake>, head: Parts, body: String) -> axum::response::Response {
    let asked: Value = serde_json::from_str(&body).unwrap_or_default();
    let target = head.headers.get("x-amz-target").and_then(|target| target.to_str().ok());
    let operation = target.and_then(|target| target.split('.').nth(1)).unwrap_or_default();
    fake.calls.lock().expect("not poisoned").push((operation.to_owned(), asked.clone()));
    let refuse = |status: u16, code: &str, message: &str| {
        let status = StatusCode::from_u16(status).expect("a status");
        (status, json!({"__type": code, "message": message}).to_string()).into_response()
    };
    match head.uri.path().split('/').nth(1).unwrap_or_default() {
        "denied" => refuse(400, "AccessDeniedException", WORDS),
        "failing" => refuse(500, "InternalServiceError", WORDS),
        "throttling" => {
            let mut response = refuse(400, "ThrottlingException", WORDS);
            response.headers_mut().insert("retry-after", 7.into());
            response
        }
        "invalid" => refuse(400, "InvalidParameterException", WORDS),
        "expired" => refuse(400, "ExpiredTokenException", WORDS),
        "missing" => refuse(400, "ResourceNotFoundException", WORDS),
        "taken" => refuse(400, "ResourceExistsException", WORDS),
        "deleted" => refuse(
            400,
            "InvalidRequestException",
            "You can't perform this operation on the secret because it was marked for deletion.",
        ),
        "hanging" => std::future::pending().await,
        // Whoever may only read: Q3.
        "unlisted" if operation == "ListSecrets" => refuse(400, "AccessDeniedException", WORDS),
        kind => {
            if kind == "waiting" {
                fake.go.notified().await;
            }
            let value = json!({"Name": asked["SecretId"], "SecretString": "x", "VersionId": "1"});
            value.to_string().into_response()
        }
    }
}

/// What it takes to ask a store for everything that there is.
async fn ask(service: &Service, operation: &str, backend: &str) -> Answer {
    let item = format!("/v1/secrets/db?backend={backend}");
    let value = json!({"value": "v"}).to_string();
    let (method, path, body) = match operation {
        "get" => ("GET", item, String::new()),
        "list" => ("GET", format!("/v1/secrets?backend={backend}"), String::new()),
        "versions" => ("GET", format!("/v1/versions/db?backend={backend}"), String::new()),
        "create" => {
            let body = json!({"name": "db", "value": "v", "backend": backend}).to_string();
            ("POST", "/v1/secrets".to_owned(), body)
        }
        "update" => ("PUT", item, value),
        "delete" => ("DELETE", item, String::new()),
        other => panic!("no operation {other}"),
    };
    service.rest_client().send(method, "vaultmux.test", &path, &[], sized(body)).await
}

const ALL: &[&str] = &["get", "list", "versions", "create", "update", "delete"];

#[tokio::test(flavor = "multi_thread")]
async fn rows_with_a_store_that_refuses_or_fails() {
    // vaultmux-server answers all of these with 500 and the store's words.
    let rows: &[(&str, &str, &[&str], u16, &str)] = &[
        ("Q7, G3, L4, C5, U4, D3", "denied", ALL, 502, "backend_refused"),
        ("G3, L4, C5, U4, D3", "failing", ALL, 503, "backend_unavailable"),
        ("G3, L4, C5, U4, D3", "throttling", ALL, 503, "backend_throttled"),
        ("G3, L4, C5, U4, D3", "invalid", ALL, 502, "backend_refused"),
        ("G3, L4, C5, U4, D3", "expired", ALL, 502, "backend_refused"),
        ("G2, U3, D2", "missing", &["get", "versions", "update", "delete"], 404, "not_found"),
        // There is no look before a create (C6): the store itself says that it has one.
        ("C4, C6", "taken", &["create"], 409, "already_exists"),
        ("Q4", "deleted", &["get", "update", "delete"], 404, "not_found"),
        ("Q4", "deleted", &["create"], 409, "already_exists"),
        ("Q8", "hanging", &["get"], 504, "deadline_exceeded"),
    ];
    let fake = Fake::start().await;
    let mut kinds: Vec<_> = rows.iter().map(|row| row.1).collect();
    kinds.dedup();
    let mut service = fake.serve(&kinds, "{}").await;
    for (row, backend, operations, status, code) in rows {
        for operation in *operations {
            let answer = ask(&service, operation, backend).await;
            let row = format!("{row}: {operation} of {backend}: {}", answer.text());
            assert_eq!(answer.status, *status, "{row}");
            assert_eq!(answer.header("content-type"), "application/problem+json", "{row}");
            let body: Value = answer.json();
            assert_eq!(body["code"], *code, "{row}");
            assert!(body["error"].is_string(), "{row}");
            for word in ["arn:", "canary", "Exception", "127.0.0.1", "deletion"] {
                assert!(!answer.text().contains(word), "{row}");
            }
            let wait = answer.header("retry-after");
            assert_eq!(wait.is_empty(), *status != 503, "{row}");
            // S1 to S5, on errors of stores too.
            for (header, value) in [
                ("x-content-type-options", "nosniff"),
                ("x-frame-options", "DENY"),
                ("x-xss-protection", "1; mode=block"),
                ("strict-transport-security", "max-age=31536000; includeSubDomains"),
                ("content-security-policy", "default-src 'none'; frame-ancestors 'none'"),
                ("cache-control", "no-store"),
            ] {
                assert_eq!(answer.header(header), value, "{row}");
            }
        }
    }
    // What the store said is for the operator, under the request's id.
    service.logged(&["AccessDeniedException", "request_id"]).await;
    service.terminate();
    assert_eq!(service.exit_code().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_about_what_a_store_is_asked() {
    let fake = Fake::start().await;
    let service = fake.serve(&["unlisted"], "{}").await;
    assert_eq!(fake.calls(), [], "Q3: a start asks for nothing");
    let answer = ask(&service, "get", "unlisted").await;
    assert_eq!(answer.status, 200, "Q3: {}", answer.text());
    let answer = ask(&service, "list", "unlisted").await;
    // Not 403: it is the service that may not, whoever asks.
    assert_eq!((answer.status, answer.text().contains("arn:")), (502, false), "Q3");
    let asked = fake.calls();
    let get = asked.iter().find(|(operation, _)| operation == "GetSecretValue");
    assert_eq!(get.expect("a call").1["SecretId"], "team/db", "Q6: the whole name");
    assert_eq!(ask(&service, "create", "unlisted").await.status, 201);
    let asked = fake.calls();
    let create = asked.iter().find(|(operation, _)| operation == "CreateSecret");
    assert_eq!(create.expect("a call").1["Name"], "team/db", "Q6");
    // X1, N9: what is no operation costs no call.
    let before = fake.calls().len();
    let client = service.rest_client();
    for (method, path) in [
        ("GET", "/unknown"),
        ("GET", "//v1/secrets"),
        ("GET", "/V1/secrets"),
        ("PATCH", "/v1/secrets/db"),
        ("POST", "/v1/secrets/db"),
        ("DELETE", "/v1/secrets"),
        ("GET", "/v1/secrets/a//b"),
        ("GET", "/v1/secrets/..%2Fdb"),
        ("GET", "/v1/secrets/a%5Cb"),
        ("GET", "/v1/secrets/a%00b"),
        ("GET", "/v1/secrets/%zz"),
    ] {
        let answer = client.request(method, "vaultmux.test", path, &[]).await;
        assert!((400..406).contains(&answer.status), "X1: {method} {path}: {}", answer.status);
    }
    assert_eq!(fake.calls().len(), before, "X1: {:?}", fake.calls());
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_about_many_at_once_and_the_end() {
    let fake = Fake::start().await;
    let mut service = fake.serve(&["waiting"], "{backend_timeout: 60s}").await;
    // Q12: a hundred ask, and one call is made.
    let readers = join_all((0..100).map(|_| ask(&service, "get", "waiting")));
    let called = async {
        while fake.calls().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // Q10: whatever else goes on.
        for _ in 0..50 {
            let health = service.rest_client().get("vaultmux.test", "/health").await;
            assert_eq!(health.status, 200, "Q10");
        }
        let many = async {
            let served = r#"vaultmux_cache_lookups_total{result="shared"}"#;
            while service.metric(served).await.unwrap_or_default() < 99.0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        // Whoever is later than that finds what the one has found.
        let _ = tokio::time::timeout(Duration::from_secs(10), many).await;
        fake.go.notify_one();
    };
    let (answers, ()) = tokio::join!(readers, called);
    assert!(answers.iter().all(|answer| answer.status == 200), "Q12");
    assert_eq!(fake.calls().len(), 1, "Q12");
    // Q11: what is under way at the end is finished.
    let late = tokio::spawn({
        let client = service.rest_client();
        async move { client.get("vaultmux.test", "/v1/secrets/late").await }
    });
    while fake.calls().len() < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    service.terminate();
    service.logged(&["draining"]).await;
    fake.go.notify_one();
    assert_eq!(late.await.expect("no panic").status, 200, "Q11");
    assert_eq!(service.exit_code().await, 0, "Q11");
}

/// Every row of the reference has a test that names it.
#[test]
fn every_row_has_a_test() {
    let rows = |letter: char, last: u32| (1..=last).map(move |row| format!("{letter}{row}"));
    let rows = rows('L', 4)
        .chain(rows('G', 5))
        .chain(rows('C', 16))
        .chain(rows('U', 5))
        .chain(rows('D', 3))
        .chain(rows('N', 11))
        .chain(rows('H', 1))
        .chain(rows('S', 6))
        .chain(rows('R', 6))
        .chain(rows('X', 2))
        .chain(rows('Q', 12));
    let files = ["rest_compat", "rest_faults", "limits"].map(|file| {
        let path = repository(&format!("tests/it/{file}.rs"));
        std::fs::read_to_string(path).expect("a test file")
    });
    // `S1 to S5` names those between, too.
    let text = files.concat().replace("S1 to S5", "S1 S2 S3 S4 S5").replace("R4 to R6", "R4 R5 R6");
    let named: std::collections::HashSet<_> =
        text.split(|c: char| !c.is_ascii_alphanumeric()).collect();
    let missing: Vec<_> = rows.filter(|row| !named.contains(&**row)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}
