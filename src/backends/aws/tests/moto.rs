//! A real emulator of AWS.

use std::{path::PathBuf, process::Stdio};

use http_body_util::{BodyExt as _, Full};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
};

const FORM: &str = "application/x-www-form-urlencoded";

/// A moto server with an empty store; ends when dropped.
#[derive(Debug)]
pub(super) struct Moto {
    pub(super) url: String,
    dir: TempDir,
    _process: Child,
}

// === impl Moto ===

impl Moto {
    /// The emulator as it comes.
    pub(super) async fn start() -> Self {
        Self::run(Command::new(tool("moto_server"))).await
    }

    /// The emulator, checking the resources of policies too.
    pub(super) async fn start_with_resources() -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tools/moto_resources.py");
        let mut command = Command::new(tool("python"));
        command.arg(script);
        Self::run(command).await
    }

    async fn run(mut command: Command) -> Self {
        let dir = TempDir::new().expect("temporary directory");
        let mut process = command
            // The system picks the port; the server names it once it listens.
            .args(["-H", "127.0.0.1", "-p", "0"])
            .env("MOTO_ENABLE_RECORDING", "1")
            .env("MOTO_RECORDER_FILEPATH", dir.path().join("calls"))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the emulator starts");
        let mut log = BufReader::new(process.stderr.take().expect("piped")).lines();
        let mut said = String::new();
        let url = loop {
            let line = log.next_line().await.expect("readable");
            let line = line.unwrap_or_else(|| panic!("the emulator ended: {said}"));
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

    /// From now on every call needs a valid signature and a policy that allows it,
    /// or none does.
    pub(super) async fn enforce(&self, enforce: bool) {
        self.post("/moto-api/reset-auth", if enforce { "0" } else { "inf" }, "").await;
    }

    /// An action of IAM, unsigned: for while nothing is enforced.
    pub(super) async fn iam(&self, action: &str, parameters: &[(&str, &str)]) -> String {
        let mut body = form_urlencoded::Serializer::new(String::new());
        body.append_pair("Action", action).append_pair("Version", "2010-05-08");
        body.extend_pairs(parameters);
        self.post("/", &body.finish(), "iam").await
    }

    async fn post(&self, path: &str, body: &str, service: &str) -> String {
        let scope = format!("Credential=test/20260101/us-east-1/{service}/aws4_request");
        let request = http::Request::post(format!("{}{path}", self.url))
            .header("content-type", if service.is_empty() { "text/plain" } else { FORM })
            // By this the emulator tells the service.
            .header(
                "authorization",
                format!("AWS4-HMAC-SHA256 {scope}, SignedHeaders=host, Signature=0"),
            )
            .body(Full::new(bytes::Bytes::copy_from_slice(body.as_bytes())))
            .expect("valid request");
        let client = Client::builder(TokioExecutor::new()).build_http();
        let answer = client.request(request).await.expect("answered");
        let status = answer.status();
        let body = answer.into_body().collect().await.expect("readable").to_bytes();
        let text = String::from_utf8_lossy(&body).into_owned();
        assert!(status.is_success(), "{path}: {status}: {text}");
        text
    }
}

fn tool(name: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/tools/bin").join(name);
    assert!(path.exists(), "{} is missing: run `make tools`", path.display());
    path
}
