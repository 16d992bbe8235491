//! Stores that are down, silent, throttling or refusing, as callers and operators
//! of the running service see them.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{Router, extract::State, response::IntoResponse};
use futures_util::future::join_all;
use http::StatusCode;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::harness::Service;

/// A store that speaks AWS's protocol and does one thing.
#[derive(Clone)]
struct Fake {
    url: String,
    calls: Arc<AtomicUsize>,
    answer: Arc<Mutex<Answer>>,
}

#[derive(Clone)]
enum Answer {
    /// The value `x`, after a while.
    Value(Duration),
    Refuse(u16, &'static str, Option<&'static str>),
    Silence,
}

impl Fake {
    async fn start(answer: Answer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let fake = Self { url, calls: Arc::default(), answer: Arc::new(Mutex::new(answer)) };
        let router = Router::new().fallback(answered).with_state(fake.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        fake
    }

    fn set(&self, answer: Answer) {
        *self.answer.lock().expect("not poisoned") = answer;
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }
}

async fn answered(State(fake): State<Fake>, body: String) -> axum::response::Response {
    fake.calls.fetch_add(1, Ordering::SeqCst);
    let asked: Value = serde_json::from_str(&body).unwrap_or_default();
    let answer = fake.answer.lock().expect("not poisoned").clone();
    match answer {
        Answer::Value(after) => {
            tokio::time::sleep(after).await;
            let value = json!({"Name": asked["SecretId"], "SecretString": "x", "VersionId": "1"});
            value.to_string().into_response()
        }
        Answer::Refuse(status, code, retry_after) => {
            let status = StatusCode::from_u16(status).expect("a status");
            let text = json!({"__type": code, "message": "canary-words"}).to_string();
            match retry_after {
                None => (status, text).into_response(),
                Some(wait) => (status, [("retry-after", wait)], text).into_response(),
            }
        }
        Answer::Silence => std::future::pending().await,
    }
}

fn config(backends: &str) -> String {
    format!(
        "mode: development\n\
         listeners:\n\
         \x20 grpc: {{address: '127.0.0.1:0'}}\n\
         \x20 rest: {{address: '127.0.0.1:0'}}\n\
         \x20 admin: {{address: '127.0.0.1:0'}}\n\
         identity: {{local: {{namespace: prod, service_account: api}}}}\n\
         limits: {{backend_timeout: 2s}}\n\
         cache: {{stale_while_revalidate: 0}}\n\
         policies: [policies]\n\
         backends:\n{backends}\n"
    )
}

const EVERYTHING: &str = "
apiVersion: vaultmux.dev/v1alpha1
kind: AccessPolicy
metadata: {name: all}
spec:
  effect: Allow
  from: [{namespaces: [prod]}]
  to: [{secrets: {names: ['*'], verbs: [get, list, create, update, delete]}}]
";

fn aws(name: &str, url: &str) -> String {
    format!("  {name}: {{type: aws_secrets_manager, region: us-east-1, endpoint_url: '{url}'}}\n")
}

async fn start(backends: &str) -> Service {
    let files = [("config.yaml", &*config(backends)), ("policies/all.yaml", EVERYTHING)];
    let key = [("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "test")];
    Service::start_with(&files, &key).await
}

async fn backends(service: &Service) -> Value {
    let answer = service.admin_client().get("admin", "/backends").await;
    assert_eq!(answer.status, 200);
    serde_json::from_slice(&answer.body).expect("JSON")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_cold_readers_and_a_thousand_of_nothing_cost_one_call_each() {
    let store = Fake::start(Answer::Value(Duration::from_millis(300))).await;
    let service = start(&aws("aws", &store.url)).await;
    let burst = async |path: &str| {
        let clients: Vec<_> = (0..1000).map(|_| service.rest_client()).collect();
        let statuses = clients.iter().map(async |client| client.get("x", path).await.status);
        join_all(statuses).await
    };
    assert_eq!(burst("/v1/secrets/db").await, [200; 1000]);
    assert_eq!(store.calls(), 1, "cold");
    assert_eq!(burst("/v1/secrets/db").await, [200; 1000]);
    assert_eq!(store.calls(), 1, "cached");
    store.set(Answer::Refuse(400, "ResourceNotFoundException", None));
    assert_eq!(burst("/v1/secrets/none").await, [404; 1000]);
    assert_eq!(store.calls(), 2, "missing");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_failure_has_its_status_and_others_go_on() {
    let closed = {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        format!("http://{}", listener.local_addr().expect("bound"))
    };
    let silent = Fake::start(Answer::Silence).await;
    let busy = Fake::start(Answer::Refuse(400, "ThrottlingException", Some("7"))).await;
    let strict = Fake::start(Answer::Refuse(400, "UnrecognizedClientException", None)).await;
    let working = Fake::start(Answer::Value(Duration::ZERO)).await;
    let service = start(&format!(
        "{}{}{}{}{}",
        aws("closed", &closed),
        aws("silent", &silent.url),
        aws("busy", &busy.url),
        aws("strict", &strict.url),
        aws("working", &working.url),
    ))
    .await;
    let state = |found: &Value, name: &str| {
        let found = found.as_array().expect("a list").iter().find(|entry| entry["name"] == name);
        found.expect("listed").clone()
    };
    let before = backends(&service).await;
    assert_eq!(state(&before, "closed")["state"], "unknown", "asked nobody at start");

    let read = async |backend: &str| {
        let started = Instant::now();
        let path = format!("/v1/secrets/db?backend={backend}");
        let answer = service.rest_client().get("x", &path).await;
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        assert!(!text.contains("canary") && !text.contains("127.0.0.1"), "{text}");
        let retry_after = answer.headers.get("retry-after");
        let retry_after = retry_after.map(|wait| wait.to_str().expect("text").to_owned());
        (answer.status, retry_after, started.elapsed())
    };
    let hanging = tokio::join!(read("silent"), async {
        let (status, _, took) = read("working").await;
        assert_eq!(status, 200);
        assert!(took < Duration::from_secs(1), "waited for another store: {took:?}");
    })
    .0;
    assert_eq!(hanging.0, 504);
    assert!(hanging.2 < Duration::from_secs(4), "{:?}", hanging.2);
    assert_eq!(read("closed").await.0, 503);
    let (status, retry_after, _) = read("busy").await;
    assert_eq!((status, retry_after.as_deref()), (503, Some("7")));
    assert_eq!(read("strict").await.0, 502);

    let after = backends(&service).await;
    for (name, kind) in [
        ("closed", "unavailable"),
        ("silent", "timed_out"),
        ("busy", "throttled"),
        ("strict", "permission_denied"),
    ] {
        assert_eq!(state(&after, name)["last_failure"]["kind"], kind, "{after}");
    }
    assert_eq!(state(&after, "busy")["state"], "throttled");
    assert_eq!(state(&after, "closed")["state"], "failing");
    assert_eq!(state(&after, "strict")["state"], "refusing");
    assert_eq!(state(&after, "working")["state"], "up");
    assert!(!after.to_string().contains("canary"), "{after}");
    let ready = service.admin_client().get("admin", "/readyz").await;
    assert_eq!(ready.status, 200, "a store that is down takes no replica out");
    let metrics = service.admin_client().get("admin", "/metrics").await;
    let metrics = String::from_utf8(metrics.body.to_vec()).expect("text");
    for line in
        [r#"vaultmux_backend_up{backend="busy"} 0"#, r#"vaultmux_backend_up{backend="working"} 1"#]
    {
        assert!(metrics.lines().any(|found| found == line), "{line} in\n{metrics}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refresh_reads_past_the_cache_and_is_limited() {
    let store = Fake::start(Answer::Value(Duration::ZERO)).await;
    let limited = config(&aws("aws", &store.url))
        .replace("{backend_timeout: 2s}", "{refreshes_per_minute: 2}");
    let files = [("config.yaml", &*limited), ("policies/all.yaml", EVERYTHING)];
    let key = [("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "test")];
    let service = Service::start_with(&files, &key).await;
    let client = service.rest_client();
    for (path, status, calls) in [
        ("/v1/secrets/db", 200, 1),
        ("/v1/secrets/db", 200, 1),
        ("/v1/secrets/db?refresh=true", 200, 2),
        ("/v1/secrets/db?refresh=false", 200, 2),
        ("/v1/secrets/db?refresh=true", 200, 3),
        ("/v1/secrets/db?refresh=maybe", 400, 3),
        ("/v1/secrets/db?refresh=true", 429, 3),
        ("/v1/secrets/db", 200, 3),
    ] {
        let answer = client.get("x", path).await;
        assert_eq!((answer.status, store.calls()), (status, calls), "{path}");
        if status == 429 {
            let wait = answer.header("retry-after");
            assert!((1..=30).contains(&wait.parse::<u64>().expect("seconds")), "{wait}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_store_stands_in_for_one_that_is_down() {
    let first = Fake::start(Answer::Refuse(500, "InternalServiceError", None)).await;
    let second = Fake::start(Answer::Value(Duration::ZERO)).await;
    let text = format!(
        "{}{}default_backend: first\nfailover: {{first: [second]}}\n",
        aws("first", &first.url),
        aws("second", &second.url)
    );
    let service = start(&text).await;
    let answer = service.rest_client().get("x", "/v1/secrets/db").await;
    assert_eq!(answer.status, 200);
    let body: Value = serde_json::from_slice(&answer.body).expect("JSON");
    assert_eq!((&body["value"], &body["backend"]), (&json!("x"), &json!("first")));
    assert_eq!(second.calls(), 1);
}
