//! The REST listener: connections, limits, who is calling. What the API answers
//! is [`crate::api`]'s.

mod caller;

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::{ConnectInfo, Request, State},
    response::Response,
};
use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use tokio::time::{Instant, timeout_at};

use self::caller::CallerError;
use crate::{
    api::{
        self, AUTHORIZE_PATH, Api, ApiRequest, AuthorizeRequest, Problem, ProblemCode, REQUEST_ID,
    },
    metrics::{Edge, Metrics},
    net::RemotePeer,
    operation::SECRETS_PATH,
    policy::DecisionId,
    secret::BackendName,
    snapshot::{Current, IdentityUnavailable},
};

/// What a caller is given beyond a store's own time, so that it hears how the call
/// ended rather than that it took long.
const LAST_WORD: Duration = Duration::from_millis(500);

/// Serves the API to callers outside the mesh's filters.
#[derive(Clone)]
pub struct Rest {
    current: Current,
    api: Api,
    metrics: Arc<Metrics>,
    settings: RestSettings,
}

/// What the listener needs besides the snapshot.
#[derive(Clone, Debug)]
pub struct RestSettings {
    /// Whether only processes of this machine can connect.
    pub local_listener: bool,
    /// Whether local callers must send `x-vaultmux-request`, which a browser or a
    /// workload that was tricked into fetching a URL does not.
    pub require_request_header: bool,
}

// === impl Rest ===

impl Rest {
    /// A listener that answers from the snapshot in force.
    #[must_use]
    pub fn new(current: Current, metrics: Arc<Metrics>, settings: RestSettings) -> Self {
        let api = Api::new(Arc::clone(&metrics), Edge::Rest);
        Self { current, api, metrics, settings }
    }

    /// The routes.
    pub fn into_router(self) -> Router {
        Router::new().fallback(serve).with_state(self)
    }

    async fn answer(&self, request: Request, request_id: &str) -> http::Response<Bytes> {
        let snapshot = self.current.load_full();
        let deadline = api::deadline(snapshot.limits.backend_timeout + LAST_WORD);
        let (head, body) = request.into_parts();
        let path = head.uri.path();
        if path == "/health" {
            return match head.method {
                Method::GET | Method::HEAD => self.health(request_id),
                _ => api::refuse(Problem::not_allowed("GET, HEAD"), request_id),
            };
        }
        let below = match path.strip_prefix(SECRETS_PATH) {
            Some(below) if below.is_empty() || below.starts_with('/') => Some(below),
            _ if path == AUTHORIZE_PATH => None,
            _ => return api::not_found(request_id),
        };
        let local = snapshot.local.as_ref().filter(|_| {
            self.settings.local_listener
                && (!self.settings.require_request_header
                    || head.headers.contains_key(caller::REQUEST))
        });
        let traceparent = api::traceparent(&head.headers);
        // Strangers are told so before they may send a body.
        let peer = head.extensions.get::<ConnectInfo<RemotePeer>>().map(|peer| &*peer.0.0);
        let caller = match caller::evidence(&head, peer, &snapshot, local, deadline).await {
            Ok(evidence) => snapshot.principal(evidence),
            Err(CallerError::Denied(denial)) => {
                return self.api.deny(&snapshot, denial, request_id, traceparent);
            }
            Err(CallerError::Unavailable(IdentityUnavailable)) => {
                let problem = Problem::new(ProblemCode::IdentityUnavailable);
                return api::refuse(problem, request_id);
            }
        };
        let body = match &caller {
            Err(_) => Bytes::new(),
            Ok(_) => match read(body, snapshot.limits.request_body, deadline).await {
                Ok(body) => body,
                Err(code) => return api::refuse(Problem::new(code), request_id),
            },
        };
        let (method, caller) = (&head.method, caller.as_ref().map_err(|error| *error));
        let Some(below) = below else {
            let request = AuthorizeRequest { method, body: &body, request_id, traceparent };
            return self.api.authorize(&snapshot, caller, &request);
        };
        let query = head.uri.query();
        let request = ApiRequest { method, below, query, body: &body, request_id, traceparent };
        self.api.answer(&snapshot, caller, request, deadline).await
    }

    fn health(&self, request_id: &str) -> http::Response<Bytes> {
        let body = serde_json::json!({
            "backend": self.current.load().catalog.default_backend().map(BackendName::as_str),
            "status": "healthy",
        });
        let mut response = http::Response::new(Bytes::from(body.to_string()));
        let json = HeaderValue::from_static("application/json; charset=utf-8");
        response.headers_mut().insert(header::CONTENT_TYPE, json);
        api::finish(response.headers_mut(), request_id);
        response
    }
}

/// The whole body, unless it is too long or too slow.
async fn read(body: Body, limit: usize, deadline: Instant) -> Result<Bytes, ProblemCode> {
    match timeout_at(deadline, Limited::new(body, limit).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(ProblemCode::BodyTooLarge),
        Ok(Err(_)) => Err(ProblemCode::InvalidBody),
        Err(_) => Err(ProblemCode::BodyTooSlow),
    }
}

/// Answers one request, counts it and writes its log line: never its path, which
/// holds the secret's name.
async fn serve(State(rest): State<Rest>, request: Request) -> Response {
    let started = Instant::now();
    let sent = request.headers().get(REQUEST_ID).and_then(|id| id.to_str().ok());
    let request_id =
        api::request_id(sent).map_or_else(|| DecisionId::next().to_string(), str::to_owned);
    let method = request.method().clone();
    let response = rest.answer(request, &request_id).await;
    let (status, took) = (response.status(), started.elapsed());
    rest.metrics.request(&method, status, took);
    tracing::info!(
        method = %method,
        status = status.as_u16(),
        duration_ms = took.as_secs_f64() * 1000.0,
        request_id,
        "request"
    );
    let mut response = response;
    if method == Method::HEAD {
        // What GET would send (RFC 9110, section 9.3.2).
        let length = HeaderValue::from(response.body().len());
        response.headers_mut().insert(header::CONTENT_LENGTH, length);
    }
    let bodiless = method == Method::HEAD || status == StatusCode::NO_CONTENT;
    response.map(|body| if bodiless { Body::empty() } else { Body::from(body) })
}

#[cfg(test)]
mod tests;
