//! How a pod gets its AWS credentials: the real binary with the variables that EKS sets.

use std::{
    fs,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::IntoResponse,
};
use serde_json::{Value, json};

use crate::harness::{Answer, Client, Service, moto, sized};

/// What no log line may hold: tokens, keys and values all begin so.
const CANARY: &str = "canary";

/// A sidecar over the store at `url`, logging all that it can.
fn config(url: &str) -> String {
    format!(
        r#"
mode: sidecar
listeners:
  grpc: {{address: "127.0.0.1:0"}}
  rest: {{address: "127.0.0.1:0", require_request_header: false}}
  admin: {{address: "127.0.0.1:0"}}
identity: {{local: {{namespace: default, service_account: default}}}}
backends:
  aws: {{type: aws_secrets_manager, region: us-east-1, endpoint_url: "{url}"}}
cache: {{ttl: 0, negative_ttl: 0}}
limits: {{backend_timeout: 20s}}
telemetry: {{log: {{level: debug}}}}
"#
    )
}

async fn send(service: &Service, method: &str, path: &str, body: &str) -> Answer {
    let client = service.rest_client();
    client.send(method, "localhost", path, &[], sized(body.to_owned())).await
}

fn assert_nothing_leaked(service: &Service) {
    for line in service.logs() {
        assert!(!line.contains(CANARY), "{line}");
    }
}

/// From now on the emulator checks every signature, and policies.
async fn enforce(moto: &str) {
    let client = Client::plain(moto.trim_start_matches("http://").parse().expect("an address"));
    let answer = client.send("POST", "localhost", "/moto-api/reset-auth", &[], sized("0")).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
}

/// An action of IAM, unsigned: for while nothing is enforced.
async fn iam(moto: &str, action: &str, parameters: &[(&str, &str)]) {
    let mut body = form_urlencoded::Serializer::new(String::new());
    body.append_pair("Action", action).append_pair("Version", "2010-05-08");
    body.extend_pairs(parameters);
    let scope = "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/iam/aws4_request, \
                 SignedHeaders=host, Signature=0";
    let headers = [("content-type", "application/x-www-form-urlencoded"), ("authorization", scope)];
    let client = Client::plain(moto.trim_start_matches("http://").parse().expect("an address"));
    let answer = client.send("POST", "localhost", "/", &headers, sized(body.finish())).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_web_identity_token_becomes_a_role() {
    let (_moto, url) = moto().await;
    iam(&url, "CreateRole", &[("RoleName", "mesh"), ("AssumeRolePolicyDocument", "{}")]).await;
    let policy = json!({"Version": "2012-10-17", "Statement": [{
        "Effect": "Allow",
        "Action": ["secretsmanager:GetSecretValue", "secretsmanager:CreateSecret"],
        "Resource": "*",
    }]});
    let policy = policy.to_string();
    let put = [("RoleName", "mesh"), ("PolicyName", "mesh"), ("PolicyDocument", policy.as_str())];
    iam(&url, "PutRolePolicy", &put).await;
    let service = Service::start_with(
        &[("config.yaml", &config(&url)), ("token", "canary-web-identity-token")],
        &[
            ("AWS_WEB_IDENTITY_TOKEN_FILE", "{directory}/token"),
            ("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/mesh"),
            ("AWS_ENDPOINT_URL_STS", &url),
            ("AWS_EC2_METADATA_DISABLED", "true"),
        ],
    )
    .await;
    // The first call fetches the credentials, which needs no signature. From then on
    // the emulator takes nothing but what is signed with those of the role.
    assert_eq!(send(&service, "GET", "/v1/secrets/db", "").await.status, 404);
    enforce(&url).await;
    let created = send(&service, "POST", "/v1/secrets", r#"{"name":"db","value":"canary-1"}"#);
    assert_eq!(created.await.status, 201);
    let read: Value = send(&service, "GET", "/v1/secrets/db", "").await.json();
    assert_eq!(read["value"], "canary-1");
    // Neither is the role's: what the store denies is no fault of the caller.
    assert_eq!(send(&service, "GET", "/v1/secrets", "").await.status, 502);
    assert_eq!(send(&service, "DELETE", "/v1/secrets/db", "").await.status, 502);
    assert!(service.logs().iter().any(|line| line.contains("DEBUG")), "debug lines were logged");
    assert_nothing_leaked(&service);
}

/// What the stand-in of an identity endpoint answers, and what it was asked.
#[derive(Clone, Default)]
struct Endpoint {
    answer: Arc<Mutex<(u16, String)>>,
    tokens: Arc<Mutex<Vec<String>>>,
}

impl Endpoint {
    /// Also returns its address.
    async fn start() -> (Self, String) {
        async fn answer(State(endpoint): State<Endpoint>, headers: HeaderMap) -> impl IntoResponse {
            let token = headers.get("authorization").and_then(|token| token.to_str().ok());
            endpoint.tokens.lock().expect("held").push(token.unwrap_or_default().to_owned());
            let (status, body) = endpoint.answer.lock().expect("held").clone();
            (StatusCode::from_u16(status).expect("a status"), body)
        }
        let endpoint = Self::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind a port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let router = Router::new().fallback(answer).with_state(endpoint.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        (endpoint, url)
    }

    fn answers(&self, status: u16, body: impl Into<String>) {
        *self.answer.lock().expect("held") = (status, body.into());
    }

    /// The tokens shown since the last time.
    fn tokens(&self) -> Vec<String> {
        std::mem::take(&mut *self.tokens.lock().expect("held"))
    }
}

/// Credentials as the agent hands them out, that last for this many seconds.
fn credentials(seconds: u64) -> String {
    let end = std::time::SystemTime::now() + std::time::Duration::from_secs(seconds);
    json!({
        "AccessKeyId": "ASIATEST",
        "SecretAccessKey": "canary-secret-key",
        "Token": "canary-session-token",
        "Expiration": humantime::format_rfc3339_seconds(end).to_string(),
    })
    .to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn pod_identity_hands_out_credentials_for_the_pods_token() {
    let (_moto, url) = moto().await;
    let (agent, agent_url) = Endpoint::start().await;
    let start = async || {
        let service = Service::start_with(
            &[("config.yaml", &config(&url)), ("token", "canary-token-1")],
            &[
                ("AWS_CONTAINER_CREDENTIALS_FULL_URI", &format!("{agent_url}/v1/credentials")),
                ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "{directory}/token"),
                // Nobody listens there: the agent is asked directly.
                ("HTTP_PROXY", "http://127.0.0.1:1"),
                ("ALL_PROXY", "http://127.0.0.1:1"),
                ("AWS_EC2_METADATA_DISABLED", "true"),
            ],
        )
        .await;
        assert_eq!(agent.tokens(), [""; 0], "nothing is fetched before it is needed");
        service
    };

    // Refused: the pod has no association. Failing: the agent says nothing of us.
    for (status, body, expected, asked) in [
        (404, "{}".to_owned(), 502, 1..=1),
        (401, "{}".to_owned(), 502, 1..=1),
        (500, "{}".to_owned(), 503, 3..=9),
        (200, "canary: no JSON".to_owned(), 503, 3..=9),
    ] {
        let service = start().await;
        agent.answers(status, body);
        let answer = send(&service, "GET", "/v1/secrets/db", "").await;
        assert_eq!(answer.status, expected, "{status}: {}", answer.text());
        assert!(!answer.text().contains(CANARY), "{}", answer.text());
        let tries = agent.tokens().len();
        assert!(asked.contains(&tries), "{status}: asked {tries} times, only failures are retried");
        assert_nothing_leaked(&service);
    }
    let service = start().await;

    // About to run out, so that the next call needs new ones: with the token of then.
    agent.answers(200, credentials(5));
    let created = send(&service, "POST", "/v1/secrets", r#"{"name":"db","value":"canary-1"}"#);
    assert_eq!(created.await.status, 201);
    assert_eq!(agent.tokens(), ["canary-token-1"]);
    fs::write(service.path("token"), "canary-token-2").expect("the token is rotated");
    agent.answers(200, credentials(3600));
    for _ in 0..3 {
        let read: Value = send(&service, "GET", "/v1/secrets/db", "").await.json();
        assert_eq!(read["value"], "canary-1");
    }
    assert_eq!(agent.tokens(), ["canary-token-2"], "then they are kept");
    assert_nothing_leaked(&service);
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_of_sts_that_cannot_be_read_are_not_logged() {
    let (sts, url) = Endpoint::start().await;
    let start = async || {
        let files = [("config.yaml", &*config(&url)), ("token", "canary-web-identity-token")];
        let variables = [
            ("AWS_WEB_IDENTITY_TOKEN_FILE", "{directory}/token"),
            ("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/mesh"),
            ("AWS_ENDPOINT_URL_STS", &url),
            ("AWS_EC2_METADATA_DISABLED", "true"),
        ];
        Service::start_with(&files, &variables).await
    };
    let role = |secret: &str, end: &str| {
        format!(
            "<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials>\
             <AccessKeyId>ASIATEST</AccessKeyId><SecretAccessKey>{secret}</SecretAccessKey>\
             <SessionToken>canary-token</SessionToken><Expiration>{end}</Expiration></Credentials>\
             </AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"
        )
    };
    for (status, body, expected) in [
        (200, role("canary-key", "tomorrow"), 503),
        (200, role("canary&bad;", "2040-01-01T00:00:00Z"), 503),
        (400, role("canary-key", "2040-01-01T00:00:00Z"), 502),
    ] {
        // One service each: after a few failures a store is left alone.
        let service = start().await;
        sts.answers(status, body);
        let answer = send(&service, "GET", "/v1/secrets/db", "").await;
        assert_eq!(answer.status, expected, "{}", answer.text());
        // STS is asked without a signature, the store never.
        assert!(sts.tokens().iter().all(String::is_empty), "the store itself was called");
        assert_nothing_leaked(&service);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_that_nobody_knows_ends_the_start_soon() {
    // Takes connections and says nothing: so does metadata behind a hop too many.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("bind a port");
    let metadata = format!("http://{}", silent.local_addr().expect("bound"));
    let directory = tempfile::tempdir().expect("make a directory");
    let file = directory.path().join("config.yaml");
    fs::write(&file, config("http://127.0.0.1:1").replace("region: us-east-1, ", ""))
        .expect("write");
    let started = std::time::Instant::now();
    let output = tokio::process::Command::new(env!("CARGO_BIN_EXE_vaultmux-mesh"))
        .env_clear()
        .env("AWS_EC2_METADATA_SERVICE_ENDPOINT", metadata)
        .args(["serve".as_ref(), "--config".as_ref(), file.as_os_str()])
        .output()
        .await
        .expect("the program runs");
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("backends.aws: no AWS region: set `region`"), "{said}");
    let took = started.elapsed();
    assert!(took < std::time::Duration::from_secs(10), "{took:?}");
}
