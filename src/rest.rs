//! The REST listener: connections, limits, who is calling. What the API answers
//! is [`crate::api`]'s.

mod caller;
mod route;

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::{ConnectInfo, Request, State},
    response::Response,
};
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderValue, Method, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use tokio::time::{Instant, timeout_at};

use self::{caller::CallerError, route::Route};
use crate::{
    api::{self, Api, ApiRequest, AuthorizeRequest, Problem, ProblemCode, REQUEST_ID},
    metrics::{Edge, Metrics},
    net::RemotePeer,
    operation::SecretPath,
    policy::DecisionId,
    secret::BackendName,
    snapshot::{Current, IdentityUnavailable},
};

/// What a caller is given beyond a store's own time, so that it hears how the call
/// ended rather than that it took long.
const LAST_WORD: Duration = Duration::from_millis(500);
/// A listing is many calls, one after the other: it is given the time of so many.
const LISTING: u32 = 6;

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
        let limit = snapshot.limits.backend_timeout;
        let deadline = api::deadline(limit + LAST_WORD);
        let (head, body) = request.into_parts();
        let Some(route) = Route::find(head.uri.path()) else { return api::not_found(request_id) };
        match (route, &head.method) {
            (_, &Method::OPTIONS) => return api::options(route.methods(), request_id),
            (Route::Health, &Method::GET | &Method::HEAD) => return self.health(request_id),
            (Route::Health, _) => {
                return api::refuse(Problem::not_allowed(route.methods()), request_id);
            }
            (Route::Authorize | Route::Secrets(_), _) => {}
        }
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
        match route {
            Route::Health => api::not_found(request_id),
            Route::Authorize => {
                let request = AuthorizeRequest { method, body: &body, request_id, traceparent };
                self.api.authorize(&snapshot, caller, &request)
            }
            Route::Secrets(below) => {
                let listing = below == SecretPath::Collection && *method != Method::POST;
                let deadline =
                    if listing { api::deadline(limit * LISTING + LAST_WORD) } else { deadline };
                let (query, headers) = (head.uri.query(), &head.headers);
                let request = ApiRequest {
                    method,
                    below,
                    query,
                    headers,
                    body: &body,
                    request_id,
                    traceparent,
                };
                self.api.answer(&snapshot, caller, request, deadline).await
            }
        }
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
    if method == Method::HEAD && status != StatusCode::NOT_MODIFIED {
        // What GET would send (RFC 9110, section 9.3.2).
        let length = HeaderValue::from(response.body().len());
        response.headers_mut().insert(header::CONTENT_LENGTH, length);
    }
    let empty = matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let bodiless = method == Method::HEAD || empty;
    response.map(|body| match bodiless {
        // Of a length that nobody tells: these have none, not one of zero.
        true if empty => Body::from_stream(stream::empty::<Result<Bytes, Infallible>>()),
        true => Body::empty(),
        false => Body::from(body),
    })
}

#[cfg(test)]
mod tests;
