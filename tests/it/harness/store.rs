//! A secret store in the test's hand, which speaks AWS's protocol.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use axum::{Router, extract::State};
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::watch};

/// Every secret of it has the same value. Each value is a version of its own.
#[derive(Clone)]
pub(crate) struct Store {
    url: String,
    calls: Arc<AtomicUsize>,
    value: Arc<Mutex<(String, u32)>>,
    open: Arc<watch::Sender<bool>>,
}

// === impl Store ===

impl Store {
    /// The variables that the service needs to speak to it.
    pub(crate) const KEYS: [(&str, &str); 2] =
        [("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "test")];

    /// One that answers at once.
    pub(crate) async fn start(value: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind a port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let value = Arc::new(Mutex::new((value.to_owned(), 1)));
        let open = Arc::new(watch::Sender::new(true));
        let store = Self { url, calls: Arc::default(), value, open };
        let router = Router::new().fallback(answer).with_state(store.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        store
    }

    /// The settings of a backend that it is.
    pub(crate) fn backend(&self) -> String {
        format!("{{type: aws_secrets_manager, region: us-east-1, endpoint_url: '{}'}}", self.url)
    }

    /// Puts another value in place.
    pub(crate) fn rotate(&self, value: &str) {
        let mut held = self.value.lock().expect("no panic while held");
        *held = (value.to_owned(), held.1 + 1);
    }

    /// Lets calls wait.
    pub(crate) fn close(&self) {
        self.open.send_replace(false);
    }

    /// Answers those that wait, and others at once.
    pub(crate) fn open(&self) {
        self.open.send_replace(true);
    }

    /// How often it was asked.
    pub(crate) fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    /// Returns once it was asked so often.
    pub(crate) async fn called(&self, times: usize) {
        let called = async {
            while self.calls() < times {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        };
        let called = tokio::time::timeout(std::time::Duration::from_secs(60), called).await;
        assert!(called.is_ok(), "the store was asked {} times", self.calls());
    }
}

async fn answer(State(store): State<Store>, body: String) -> String {
    let asked: Value = serde_json::from_str(&body).unwrap_or_default();
    store.calls.fetch_add(1, Ordering::SeqCst);
    let _ = store.open.subscribe().wait_for(|open| *open).await;
    let (value, version) = store.value.lock().expect("no panic while held").clone();
    let version = version.to_string();
    json!({"Name": asked["SecretId"], "SecretString": value, "VersionId": version}).to_string()
}
