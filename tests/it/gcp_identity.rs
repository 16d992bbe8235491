//! Google's identities as the program finds them: by its environment, which a test
//! within the process could not change.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    extract::Request,
    http::{Method, StatusCode, header::AUTHORIZATION},
    response::{IntoResponse, Response},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

use crate::harness::Service;

const TOKEN: &str = "canary-token-90";
const VALUE: &str = "canary-value-91";

/// A store and a metadata server, or a proxy that lets no one through.
#[derive(Clone)]
struct Google {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
}

// === impl Google ===

impl Google {
    async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("bound");
        let google = Self { address, asked: Arc::default() };
        let serving = google.clone();
        let router = Router::new().fallback(async move |request: Request| serving.answer(&request));
        tokio::spawn(async move { axum::serve(listener, router).await });
        google
    }

    fn answer(&self, request: &Request) -> Response {
        let uri = request.uri();
        let path = match request.method() {
            &Method::CONNECT => format!("CONNECT {uri}"),
            _ => uri.path().to_owned(),
        };
        self.asked.lock().expect("not poisoned").push(path.clone());
        if path.starts_with("CONNECT") {
            return StatusCode::FORBIDDEN.into_response();
        }
        if path.starts_with("/computeMetadata/v1/universe") {
            return "googleapis.com".into_response();
        }
        if path.starts_with("/computeMetadata/") {
            let token = json!({"access_token": TOKEN, "expires_in": 3599, "token_type": "Bearer"});
            return token.to_string().into_response();
        }
        let Some(id) = path.split('/').nth(5) else { return StatusCode::NOT_FOUND.into_response() };
        if request
            .headers()
            .get(AUTHORIZATION)
            .is_none_or(|sent| sent != &format!("Bearer {TOKEN}"))
        {
            let error = json!({"code": 401, "status": "UNAUTHENTICATED", "message": "no token"});
            return (StatusCode::UNAUTHORIZED, json!({"error": error}).to_string()).into_response();
        }
        match id {
            "gateway" => return (StatusCode::BAD_GATEWAY, VALUE).into_response(),
            "unreadable" => return format!(r#"{{"payload":{{"data":"{VALUE}"}}"#).into_response(),
            _ => {}
        }
        let name = format!("projects/4711/secrets/{id}/versions/1");
        let data = BASE64_STANDARD.encode(VALUE);
        json!({"name": name, "payload": {"data": data}}).to_string().into_response()
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock().expect("not poisoned"))
    }
}

async fn start(google: &Google, settings: &str, variables: &[(&str, &str)]) -> Service {
    let config = format!(
        "mode: sidecar\n\
         listeners:\n  grpc: {{address: '127.0.0.1:0'}}\n  rest: {{address: '127.0.0.1:0', \
         require_request_header: false}}\n  admin: {{address: '127.0.0.1:0'}}\n\
         identity: {{local: {{namespace: prod, service_account: api}}}}\n\
         backends:\n  gcp: {{type: gcp_secret_manager, project: my-project, \
         endpoint_url: 'http://{}'{settings}}}\n\
         limits: {{backend_timeout: 1s}}\n\
         telemetry: {{log: {{level: debug}}}}\n",
        google.address
    );
    Service::start_with(&[("config.yaml", &config)], variables).await
}

async fn read(service: &Service, name: &str) -> (u16, Value) {
    let answer = service.rest_client().get("localhost", &format!("/v1/secrets/{name}")).await;
    (answer.status, answer.json())
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_servers_token_is_fetched_when_first_needed_and_never_logged() {
    let google = Google::start().await;
    let host = google.address.to_string();
    // The second makes the SDK log requests and answers as they are.
    let variables = [("GCE_METADATA_HOST", &*host), ("GOOGLE_CLOUD_RUST_LOGGING", "true")];
    let mut service = start(&google, "", &variables).await;
    assert_eq!(google.asked(), [""; 0], "a start asks no one");
    for name in ["a", "b", "c"] {
        let (status, body) = read(&service, name).await;
        assert_eq!((status, &body["value"]), (200, &json!(VALUE)), "{name}: {body}");
    }
    let asked = google.asked();
    let tokens = asked.iter().filter(|path| path.starts_with("/computeMetadata")).count();
    assert_eq!((tokens, asked.len()), (1, 4), "{asked:?}");
    for name in ["gateway", "unreadable"] {
        assert_eq!(read(&service, name).await.0, 503, "{name}");
    }
    let created = service.rest_client();
    let body = crate::harness::sized(format!(r#"{{"name":"new","value":"{VALUE}"}}"#));
    created.send("POST", "localhost", "/v1/secrets", &[], body).await;
    service.terminate();
    assert_eq!(service.exit_code().await, 0);
    let logs = service.logs().join("\n");
    let encoded = BASE64_STANDARD.encode(VALUE);
    for canary in [TOKEN, VALUE, &encoded] {
        assert!(!logs.contains(canary), "{logs}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn impersonation_is_asked_for_at_googles_own_address() {
    let google = Google::start().await;
    let host = google.address.to_string();
    let proxy = format!("http://{host}");
    let variables = [
        ("GCE_METADATA_HOST", &*host),
        ("HTTPS_PROXY", &*proxy),
        ("GOOGLE_CLOUD_RUST_LOGGING", "true"),
    ];
    let settings = ", impersonate: reader@my-project.iam.gserviceaccount.com";
    let service = start(&google, settings, &variables).await;
    assert_eq!(google.asked(), [""; 0]);
    let (status, body) = read(&service, "a").await;
    // The SDK tries on for a minute, which no caller is made to wait for.
    assert_eq!(status, 504, "{body}");
    let asked = google.asked();
    assert!(asked.contains(&"CONNECT iamcredentials.googleapis.com:443".to_owned()), "{asked:?}");
    assert!(!asked.iter().any(|path| path.contains("my-project")), "no read: {asked:?}");
    assert!(!service.logs().join("\n").contains(TOKEN));
}
