//! Servers to test against: a real emulator of AWS, and one that misbehaves on
//! demand, for what the emulator never does.

use std::{
    net::SocketAddr,
    path::PathBuf,
    process::Stdio,
    sync::{Arc, Mutex},
};

use axum::{Router, extract::State, http::HeaderMap, response::IntoResponse as _};
use http::StatusCode;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    net::TcpListener,
    process::{Child, Command},
};

/// What the misbehaving server does with a call.
#[derive(Clone, Debug)]
pub(super) enum Behaviour {
    Answer(StatusCode, &'static [(&'static str, &'static str)], &'static str),
    Hang,
}

/// A server that answers every call alike and counts them.
#[derive(Clone, Debug)]
pub(super) struct Fake {
    behaviour: Arc<Mutex<Behaviour>>,
    calls: Arc<Mutex<Vec<String>>>,
    pub(super) url: String,
}

/// A moto server with an empty store; ends when dropped.
#[derive(Debug)]
pub(super) struct Moto {
    pub(super) url: String,
    dir: TempDir,
    _process: Child,
}

// === impl Fake ===

impl Fake {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address: SocketAddr = listener.local_addr().expect("bound");
        let fake = Self {
            behaviour: Arc::new(Mutex::new(Behaviour::Hang)),
            calls: Arc::default(),
            url: format!("http://{address}"),
        };
        let router = Router::new().fallback(answer).with_state(fake.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        fake
    }

    pub(super) fn answer(
        &self,
        status: u16,
        headers: &'static [(&'static str, &'static str)],
        body: &'static str,
    ) {
        let status = StatusCode::from_u16(status).expect("valid status");
        self.set(Behaviour::Answer(status, headers, body));
    }

    pub(super) fn set(&self, behaviour: Behaviour) {
        *self.behaviour.lock().expect("not poisoned") = behaviour;
    }

    /// The operations called since the last time.
    pub(super) fn calls(&self) -> Vec<String> {
        std::mem::take(&mut *self.calls.lock().expect("not poisoned"))
    }
}

async fn answer(State(fake): State<Fake>, headers: HeaderMap) -> axum::response::Response {
    let target = headers.get("x-amz-target").and_then(|target| target.to_str().ok());
    let operation = target.and_then(|target| target.rsplit('.').next()).unwrap_or("other");
    fake.calls.lock().expect("not poisoned").push(operation.to_owned());
    let behaviour = fake.behaviour.lock().expect("not poisoned").clone();
    match behaviour {
        Behaviour::Answer(status, headers, body) => {
            let mut response = (status, body).into_response();
            for (name, value) in headers {
                response.headers_mut().insert(*name, http::HeaderValue::from_static(value));
            }
            response
        }
        Behaviour::Hang => std::future::pending().await,
    }
}

// === impl Moto ===

impl Moto {
    pub(super) async fn start() -> Self {
        let tools = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/tools/bin");
        let server = tools.join("moto_server");
        assert!(server.exists(), "target/tools/bin/moto_server is missing: run `make tools`");
        let dir = TempDir::new().expect("temporary directory");
        let mut process = Command::new(server)
            // The system picks the port; the server names it once it listens.
            .args(["-H", "127.0.0.1", "-p", "0"])
            .env("MOTO_ENABLE_RECORDING", "1")
            .env("MOTO_RECORDER_FILEPATH", dir.path().join("calls"))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("moto_server starts");
        let mut log = BufReader::new(process.stderr.take().expect("piped")).lines();
        let mut said = String::new();
        let url = loop {
            let line = log.next_line().await.expect("readable");
            let line = line.unwrap_or_else(|| panic!("moto_server ended: {said}"));
            if let Some((_, url)) = line.split_once("Running on ") {
                break url.split_whitespace().next().unwrap_or_default().to_owned();
            }
            said += &line;
        };
        // Read on: a full pipe would stop the server.
        tokio::spawn(async move { while let Ok(Some(_)) = log.next_line().await {} });
        Self { url, dir, _process: process }
    }

    /// The operations called since the last time, from the server's own record.
    pub(super) fn calls(&self) -> Vec<String> {
        let path = self.dir.path().join("calls");
        let recorded = std::fs::read_to_string(&path).unwrap_or_default();
        std::fs::write(&path, "").expect("writable");
        recorded
            .lines()
            .map(|line| {
                let call: serde_json::Value = serde_json::from_str(line).expect("valid record");
                let target = call["headers"]["X-Amz-Target"].as_str().unwrap_or("other");
                target.rsplit('.').next().unwrap_or_default().to_owned()
            })
            .collect()
    }
}
