//! What each kind of failure is to a caller.

use std::time::Duration;

use async_trait::async_trait;

use super::*;
use crate::{
    backends::{BackendError, SecretBackend, SecretPage, VersionEntry},
    secret::{SecretName, SecretRecord, SecretValue, SecretVersion},
};

/// A store that fails in one way at all that it is asked.
struct Failing(BackendError);

#[async_trait]
impl SecretBackend for Failing {
    async fn get(&self, _: &SecretName, _: &SecretVersion) -> Result<SecretRecord, BackendError> {
        Err(self.0.clone())
    }

    async fn list(&self, _: Option<&str>) -> Result<SecretPage, BackendError> {
        Err(self.0.clone())
    }

    async fn create(&self, _: &SecretName, _: &SecretValue) -> Result<Arc<str>, BackendError> {
        Err(self.0.clone())
    }

    async fn update(&self, _: &SecretName, _: &SecretValue) -> Result<Arc<str>, BackendError> {
        Err(self.0.clone())
    }

    async fn delete(&self, _: &SecretName, _: bool) -> Result<(), BackendError> {
        Err(self.0.clone())
    }

    async fn versions(&self, _: &SecretName) -> Result<Vec<VersionEntry>, BackendError> {
        Err(self.0.clone())
    }
}

fn client(error: BackendError) -> Client {
    let metrics = Arc::new(Metrics::default());
    let store: Arc<dyn SecretBackend> = Arc::new(Failing(error));
    let mut snapshot = fixture::over(&fixture::config(fixture::CONFIG), store, &metrics);
    snapshot.local = SpiffeId::parse("spiffe://cluster.local/ns/prod/sa/api").ok();
    let current = Current::new(snapshot);
    let settings = RestSettings { local_listener: true, require_request_header: false };
    let router = Rest::new(current.clone(), Arc::clone(&metrics), settings).into_router();
    Client { router, current, metrics }
}

#[tokio::test(start_paused = true)]
async fn every_failure_of_a_store_has_a_status_a_code_and_no_word_of_the_store() {
    use BackendError as E;
    let canary = fixture::CANARY;
    let cause = || Some(Arc::new(std::io::Error::other(canary)) as _);
    let wait = |seconds| E::Throttled { retry_after: Some(Duration::from_millis(seconds)) };
    // The error; status, code and Retry-After of all but create; status and code of create.
    type Row = (BackendError, (u16, &'static str, Option<&'static str>), (u16, &'static str));
    let rows: Vec<Row> = vec![
        (E::NotFound, (404, "not_found", None), (404, "not_found")),
        (E::Disabled, (404, "not_found", None), (404, "not_found")),
        (E::PendingDeletion, (404, "not_found", None), (409, "already_exists")),
        (E::Conflict, (409, "already_exists", None), (409, "already_exists")),
        (E::PermissionDenied(cause()), (502, "backend_refused", None), (502, "backend_refused")),
        (E::Invalid(canary.into()), (502, "backend_refused", None), (502, "backend_refused")),
        (
            E::Unavailable(cause()),
            (503, "backend_unavailable", Some("1")),
            (503, "backend_unavailable"),
        ),
        (
            E::Throttled { retry_after: None },
            (503, "backend_throttled", Some("1")),
            (503, "backend_throttled"),
        ),
        (wait(4200), (503, "backend_throttled", Some("5")), (503, "backend_throttled")),
        (E::TimedOut, (504, "deadline_exceeded", None), (504, "deadline_exceeded")),
    ];
    for (error, others, create) in rows {
        for (method, path, body) in [
            ("GET", "/v1/secrets", ""),
            ("GET", "/v1/secrets?limit=2", ""),
            ("GET", "/v1/secrets/prod/key", ""),
            ("HEAD", "/v1/secrets/prod/key", ""),
            ("POST", "/v1/secrets", r#"{"name":"prod/key","value":"x"}"#),
            ("PUT", "/v1/secrets/prod/key", r#"{"value":"x"}"#),
            ("DELETE", "/v1/secrets/prod/key", ""),
            ("GET", "/v1/versions/prod/key", ""),
        ] {
            // A store that has failed is left alone: each row has one of its own.
            let client = client(error.clone());
            let request = Request::builder().method(method).uri(path);
            let request = request.header("x-request-id", "id-1").body(Body::from(body));
            let response = client.send(request.expect("valid")).await;
            let (status, code, retry) = match method {
                "POST" => (create.0, create.1, others.2),
                _ => others,
            };
            let row = format!("{method} {path}: {error:?}");
            assert_eq!(response.status().as_u16(), status, "{row}");
            let waits = response.headers().get("retry-after").map(|it| it.to_str().expect("text"));
            assert_eq!(waits, retry, "{row}");
            assert_eq!(response.headers()["content-type"], "application/problem+json", "{row}");
            let answer = text(response).await;
            assert!(!answer.contains(canary), "{row}: {answer}");
            if method == "HEAD" {
                continue;
            }
            let answer: Value = serde_json::from_str(&answer).expect("JSON");
            assert_eq!(answer["code"], code, "{row}");
            assert_eq!(answer["status"], status, "{row}");
            assert_eq!(answer["type"], "about:blank", "{row}");
            assert_eq!(answer["request_id"], "id-1", "{row}");
            assert!(answer["error"].is_string() && answer["title"].is_string(), "{row}");
        }
        // The same of one secret among many.
        let client = client(error.clone());
        let body = r#"{"secrets":[{"name":"prod/key"}]}"#;
        let (status, answer) = client.call("POST", "/v1/secrets:batchGet", body).await;
        let told = &answer["errors"][0];
        assert_eq!((status, &told["code"]), (StatusCode::OK, &json!(others.1)), "{error:?}");
        let wait = others.2.map(|wait| wait.parse::<u64>().expect("a number"));
        assert_eq!(told["retry_after"].as_u64(), wait, "{error:?}");
        assert!(!answer.to_string().contains(canary), "{answer}");
    }
}
