//! The REST listener: connections, limits, who is calling. What the API answers
//! is [`crate::api`]'s.

mod authz;
mod caller;
mod docs;
mod route;
mod watch;
mod webhooks;

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    Router,
    body::{Body, HttpBody},
    extract::{ConnectInfo, Request, State},
    response::Response,
};
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header, request::Parts, uri::PathAndQuery};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use self::{
    authz::AUTHZ,
    caller::{CallerError, authority},
    route::Route,
    watch::Watchers,
    webhooks::WEBHOOKS_PATH,
};
use crate::{
    api::{
        self, Api, ApiRequest, AuthorizeRequest, Health, Problem, ProblemCode, REQUEST_ID,
        watch::WATCH_PATH,
    },
    identity::{IdentityError, Peer, Principal},
    metrics::{Edge, Metrics},
    net::{
        RemotePeer,
        serve::{Refusals, Refused, Routers},
    },
    operation::SecretPath,
    policy::DecisionId,
    secret::BackendName,
    snapshot::{Current, IdentityUnavailable, Snapshot},
    telemetry::Seldom,
};

/// What a caller is given beyond a store's own time, so that it hears how the call
/// ended rather than that it took long.
const LAST_WORD: Duration = Duration::from_millis(500);
/// A listing is many calls, one after the other: it is given the time of so many.
const LISTING: u32 = 6;
/// What callers are told on an address that is open for probes alone.
const BEYOND: &str = "only /health is answered on this address: call 127.0.0.1 from the same pod, \
     or set listeners.rest.address in a configuration file";

/// Serves the API to callers outside the mesh's filters.
#[derive(Clone)]
pub struct Rest {
    current: Current,
    api: Api,
    metrics: Arc<Metrics>,
    settings: RestSettings,
    watchers: Watchers,
    stopping: CancellationToken,
    /// Checks that were refused to strangers.
    refusals: Arc<Seldom>,
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
        let (watchers, stopping) = (Watchers::default(), CancellationToken::new());
        let refusals = Arc::default();
        Self { current, api, metrics, settings, watchers, stopping, refusals }
    }

    /// Ends what would go on for ever when `stopping` says so.
    #[must_use]
    pub fn stopping_on(mut self, stopping: CancellationToken) -> Self {
        self.stopping = stopping;
        self
    }

    /// The routes.
    pub fn into_router(self) -> Router {
        Router::new().fallback(serve).with_state(self)
    }

    /// The routes, and what of them there is beyond the address that is configured.
    pub fn into_routers(self) -> Routers {
        let beyond = Router::new().fallback(serve_beyond).with_state(self.clone());
        let refusals = Arc::new(self.clone());
        Routers { router: self.into_router(), beyond, refusals }
    }

    async fn answer(&self, request: Request, request_id: &str) -> http::Response<Bytes> {
        let snapshot = self.current.load_full();
        let limit = snapshot.limits.backend_timeout;
        let deadline = self.deadline(&snapshot);
        let (head, body) = request.into_parts();
        let path = head.uri.path();
        if path.strip_prefix(AUTHZ).is_some_and(|path| path.starts_with('/')) {
            let target = head.uri.path_and_query().map_or(path, PathAndQuery::as_str);
            let target = &target[AUTHZ.len()..];
            return self.authz(&snapshot, &head, target, request_id).await;
        }
        if let Some(name) = path.strip_prefix(WEBHOOKS_PATH)
            && !snapshot.webhooks.is_empty()
        {
            return self.notice(&snapshot, name, &head, body, request_id).await;
        }
        let Some(route) = Route::find(path) else { return api::not_found(request_id) };
        match (route, &head.method) {
            (_, &Method::OPTIONS) => return api::options(route.methods(), request_id),
            (Route::Health, &Method::GET | &Method::HEAD) => return self.health(request_id),
            (Route::OpenApi, &Method::GET | &Method::HEAD) => {
                return api::openapi::served(request_id);
            }
            (Route::Docs(file), &Method::GET | &Method::HEAD) => {
                return file.served(&head.headers, request_id);
            }
            (Route::Health | Route::OpenApi | Route::Docs(_), _) => {
                return api::refuse(Problem::not_allowed(route.methods()), request_id);
            }
            (Route::Authorize | Route::Secrets(_), _) => {}
        }
        let traceparent = api::traceparent(&head.headers);
        // Strangers are told so before they may send a body.
        let caller = match self.caller(&head, &snapshot, deadline).await {
            Ok(caller) => caller,
            Err(error) => return self.refuse_caller(&snapshot, error, &head, request_id),
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
            Route::Health | Route::OpenApi | Route::Docs(_) => api::not_found(request_id),
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

    /// How long an answer may take.
    fn deadline(&self, snapshot: &Snapshot) -> Instant {
        api::deadline(snapshot.limits.backend_timeout + LAST_WORD)
    }

    /// Who calls, as far as that was shown.
    async fn caller(
        &self,
        head: &Parts,
        snapshot: &Snapshot,
        deadline: Instant,
    ) -> Result<Result<Principal, IdentityError>, CallerError> {
        let local = snapshot.local.as_ref().filter(|_| {
            self.settings.local_listener
                && (!self.settings.require_request_header
                    || head.headers.contains_key(caller::REQUEST))
        });
        let evidence = caller::evidence(head, peer(head), snapshot, local, deadline).await?;
        Ok(snapshot.principal(evidence))
    }

    fn refuse_caller(
        &self,
        snapshot: &Snapshot,
        error: CallerError,
        head: &Parts,
        request_id: &str,
    ) -> http::Response<Bytes> {
        match error {
            CallerError::Denied(denial) => {
                self.api.deny(snapshot, denial, request_id, api::traceparent(&head.headers))
            }
            CallerError::Unavailable(IdentityUnavailable) => {
                api::refuse(Problem::new(ProblemCode::IdentityUnavailable), request_id)
            }
        }
    }

    /// Counts an answer and writes its log line: never its path, which holds the secret's
    /// name.
    fn log(&self, method: &Method, status: StatusCode, started: Instant, request_id: &str) {
        let took = started.elapsed();
        self.metrics.request(method, status, took);
        tracing::info!(
            method = %method,
            status = status.as_u16(),
            duration_ms = took.as_secs_f64() * 1000.0,
            request_id,
            "request"
        );
    }

    fn health(&self, request_id: &str) -> http::Response<Bytes> {
        let current = self.current.load();
        let backend = current.catalog.default_backend().map(BackendName::as_str);
        let body = serde_json::to_vec(&Health { backend, status: "healthy" });
        let body = body.expect("strings are always JSON");
        let mut response = http::Response::new(Bytes::from(body));
        let json = HeaderValue::from_static("application/json; charset=utf-8");
        response.headers_mut().insert(header::CONTENT_TYPE, json);
        api::finish(response.headers_mut(), request_id);
        response
    }
}

impl Refusals for Rest {
    fn refuse(
        &self,
        refused: Refused,
        head: Option<(&Method, &HeaderMap)>,
    ) -> http::Response<Bytes> {
        let (code, error) = match refused {
            Refused::Malformed => (ProblemCode::MalformedRequest, "the request is not HTTP"),
            Refused::Ambiguous => (
                ProblemCode::MalformedRequest,
                "the request has two lengths, or a transfer encoding other than chunked",
            ),
            Refused::Host => (ProblemCode::MalformedRequest, "the request needs one host"),
            Refused::HeadTooLarge => (ProblemCode::HeadTooLarge, ProblemCode::HeadTooLarge.text()),
        };
        let request_id = head.map_or_else(|| DecisionId::next().to_string(), |it| request_id(it.1));
        let response = api::refuse(Problem::with_error(code, error.to_owned()), &request_id);
        // Of a head that cannot be read nobody knows the method.
        let unread = Method::from_bytes(b"-").expect("a token");
        let method = head.map_or(&unread, |(method, _)| method);
        self.log(method, response.status(), Instant::now(), &request_id);
        response
    }
}

/// The caller's own request id, or a new one.
fn request_id(headers: &HeaderMap) -> String {
    let sent = headers.get(REQUEST_ID).and_then(|id| id.to_str().ok());
    api::request_id(sent).map_or_else(|| DecisionId::next().to_string(), str::to_owned)
}

/// Who is at the other end of the connection.
fn peer(head: &Parts) -> Option<&Peer> {
    head.extensions.get::<ConnectInfo<RemotePeer>>().map(|peer| &*peer.0.0)
}

/// The whole body, unless it is too long or too slow.
async fn read(body: Body, limit: usize, deadline: Instant) -> Result<Bytes, ProblemCode> {
    // Announced: nothing of it need be read, and a client that waits with it sends nothing.
    if body.size_hint().lower() > limit as u64 {
        return Err(ProblemCode::BodyTooLarge);
    }
    match timeout_at(deadline, Limited::new(body, limit).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(ProblemCode::BodyTooLarge),
        Ok(Err(_)) => Err(ProblemCode::InvalidBody),
        Err(_) => Err(ProblemCode::BodyTooSlow),
    }
}

/// Answers one request.
async fn serve(State(rest): State<Rest>, request: Request) -> Response {
    respond(rest, request, false).await
}

/// Answers a request that came to an address which is open for probes alone.
async fn serve_beyond(State(rest): State<Rest>, request: Request) -> Response {
    respond(rest, request, true).await
}

async fn respond(rest: Rest, request: Request, beyond: bool) -> Response {
    let started = Instant::now();
    let request_id = request_id(request.headers());
    let method = request.method().clone();
    if request.uri().path() == WATCH_PATH && !beyond {
        let response = rest.watch(request.into_parts().0, &request_id).await;
        rest.log(&method, response.status(), started, &request_id);
        return response;
    }
    let is_open = !beyond || Route::find(request.uri().path()) == Some(Route::Health);
    let response = if is_open {
        rest.answer(request, &request_id).await
    } else {
        let problem = Problem::with_error(ProblemCode::Forbidden, BEYOND.to_owned());
        api::refuse(problem, &request_id)
    };
    let status = response.status();
    rest.log(&method, status, started, &request_id);
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
