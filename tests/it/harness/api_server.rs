//! A cluster's API server as far as tokens go: reviews, and the issuer's keys.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{Request, Response, header};
use http_body_util::BodyExt;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
};
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::watch};

use super::{
    client::{Body, sized},
    mint,
};

/// What is answered to a TokenReview.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Review {
    /// Yes to everything, in the token's own words: it checks no signature.
    Good,
    /// No.
    Refused,
    /// Yes, for other audiences than were asked for.
    ForeignAudiences,
    /// Yes, and it is somebody else's.
    User(&'static str),
    /// No answer but a status.
    Status(u16),
    /// Nothing until this changes.
    Hang,
}

/// A running stand-in; ends with its handle.
pub(crate) struct ApiServer {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: tokio::task::JoinHandle<()>,
}

struct Shared {
    review: watch::Sender<Review>,
    reviews: watch::Sender<u64>,
    key_fetches: AtomicU64,
    keys: String,
}

// === impl ApiServer ===

impl ApiServer {
    /// What the service shows it, which must not be logged either.
    pub(crate) const OWN_TOKEN: &str = "own-token-of-the-service-6Rk";

    /// Serves this key set, and believes every token.
    pub(crate) async fn start(keys: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind a port");
        let address = listener.local_addr().expect("bound");
        let (review, reviews) = (watch::Sender::new(Review::Good), watch::Sender::new(0));
        let shared = Arc::new(Shared { review, reviews, key_fetches: AtomicU64::new(0), keys });
        let all = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                let shared = Arc::clone(&all);
                tokio::spawn(async move {
                    let service = service_fn(|request| answer(request, Arc::clone(&shared)));
                    let server = Builder::new(TokioExecutor::new());
                    // The connection ends with the service; how does not matter.
                    let _ = server.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { address, shared, task }
    }

    /// A kubeconfig that leads here.
    pub(crate) fn kubeconfig(&self) -> String {
        let (address, token) = (self.address, Self::OWN_TOKEN);
        json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "a", "cluster": {"server": format!("http://{address}")}}],
            "users": [{"name": "a", "user": {"token": token}}],
            "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}],
            "current-context": "a",
        })
        .to_string()
    }

    /// Answers like this from now on, also those who wait.
    pub(crate) fn say(&self, review: Review) {
        self.shared.review.send_replace(review);
    }

    /// How many reviews it was asked for.
    pub(crate) fn reviews(&self) -> u64 {
        *self.shared.reviews.borrow()
    }

    /// How often its keys were read.
    pub(crate) fn key_fetches(&self) -> u64 {
        self.shared.key_fetches.load(Ordering::SeqCst)
    }

    /// Waits until it was asked for that many reviews.
    pub(crate) async fn wait_reviews(&self, number: u64) {
        let mut reviews = self.shared.reviews.subscribe();
        reviews.wait_for(|asked| *asked >= number).await.expect("we hold the sender");
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(
    request: Request<Incoming>,
    shared: Arc<Shared>,
) -> Result<Response<Body>, Infallible> {
    let (head, body) = request.into_parts();
    let own = format!("Bearer {}", ApiServer::OWN_TOKEN);
    let knows = head.headers.get(header::AUTHORIZATION).is_some_and(|sent| *sent == *own);
    let (status, body) = match (head.method.as_str(), head.uri.path()) {
        _ if !knows => (401, String::new()),
        ("GET", "/.well-known/openid-configuration") => {
            (200, json!({"issuer": mint::ISSUER, "jwks_uri": "https://unused"}).to_string())
        }
        ("GET", "/openid/v1/jwks") => {
            shared.key_fetches.fetch_add(1, Ordering::SeqCst);
            (200, shared.keys.clone())
        }
        ("POST", "/apis/authentication.k8s.io/v1/tokenreviews") => {
            let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
            shared.reviews.send_modify(|asked| *asked += 1);
            let mut review = shared.review.subscribe();
            let review = *review.wait_for(|review| *review != Review::Hang).await.expect("held");
            match review {
                Review::Status(status) => (status, String::new()),
                review => (201, verdict(review, &body)),
            }
        }
        // Deletions are not to be watched by everybody.
        _ => (403, json!({"kind": "Status", "apiVersion": "v1", "code": 403}).to_string()),
    };
    let response = Response::builder().status(status).header("content-type", "application/json");
    Ok(response.body(sized(body)).expect("valid"))
}

/// The review with its status, as the API server answers.
fn verdict(review: Review, asked: &[u8]) -> String {
    let mut answer: Value = serde_json::from_slice(asked).expect("a TokenReview");
    let token = answer["spec"]["token"].as_str().expect("a token");
    let payload = token.split('.').nth(1).expect("a JWT");
    let payload = URL_SAFE_NO_PAD.decode(payload).expect("base64");
    let claims: Value = serde_json::from_slice(&payload).expect("claims");
    let of_cluster = &claims["kubernetes.io"];
    let mut extra = json!({
        "authentication.kubernetes.io/credential-id": [format!("JTI={}", claims["jti"])],
    });
    for (kind, name) in [("pod", "name"), ("pod", "uid"), ("node", "name"), ("node", "uid")] {
        if let Some(value) = of_cluster[kind][name].as_str() {
            extra[format!("authentication.kubernetes.io/{kind}-{name}")] = json!([value]);
        }
    }
    let namespace = of_cluster["namespace"].as_str().unwrap_or_default();
    let (username, groups) = match review {
        Review::User(name) => (name, json!(["system:authenticated"])),
        _ => {
            let group = format!("system:serviceaccounts:{namespace}");
            (claims["sub"].as_str().unwrap_or_default(), json!([group, "system:authenticated"]))
        }
    };
    let audiences = match review {
        Review::ForeignAudiences => json!(["https://elsewhere"]),
        _ => answer["spec"]["audiences"].clone(),
    };
    answer["status"] = match review {
        Review::Refused => json!({"authenticated": false, "error": "pod is gone"}),
        _ => json!({
            "authenticated": true,
            "audiences": audiences,
            "user": {
                "username": username,
                "uid": of_cluster["serviceaccount"]["uid"],
                "groups": groups,
                "extra": extra,
            },
        }),
    };
    answer.to_string()
}
