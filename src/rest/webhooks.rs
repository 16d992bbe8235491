//! Where stores' notices arrive: `/webhooks/<name>`.
//!
//! Nothing is told but whether the sender is believed: not which secrets exist, and not
//! which webhooks there are.

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Response, StatusCode, header, request::Parts};

use super::{Rest, read};
use crate::{
    api::{self, Problem, ProblemCode},
    snapshot::Snapshot,
    webhook::{Effect, Webhook, WebhookError},
};

/// What stands before a webhook's name.
pub(super) const WEBHOOKS_PATH: &str = "/webhooks/";

/// CloudEvents' handshake (HTTP 1.1 Web Hooks for Event Delivery, section 4).
const REQUEST_ORIGIN: HeaderName = HeaderName::from_static("webhook-request-origin");
const REQUEST_RATE: HeaderName = HeaderName::from_static("webhook-request-rate");
const ALLOWED_ORIGIN: HeaderName = HeaderName::from_static("webhook-allowed-origin");
const ALLOWED_RATE: HeaderName = HeaderName::from_static("webhook-allowed-rate");

// === impl Rest ===

impl Rest {
    /// Takes a notice, or says whether one may be sent.
    pub(super) async fn notice(
        &self,
        snapshot: &Snapshot,
        name: &str,
        head: &Parts,
        body: Body,
        request_id: &str,
    ) -> Response<Bytes> {
        let webhook = snapshot.webhooks.get(name);
        let outcome = match head.method {
            Method::POST => self.deliver(snapshot, webhook.map(|it| &**it), head, body).await,
            Method::OPTIONS => return handshake(snapshot, head, request_id),
            _ => return api::refuse(Problem::not_allowed("POST, OPTIONS"), request_id),
        };
        // Names that are not configured are not labels.
        let label = webhook.map_or("unknown", |_| name);
        let problem = match outcome {
            Ok(Effect { invalidated, ignored }) => {
                self.metrics.webhook(label, "invalidated", invalidated);
                self.metrics.webhook(label, "ignored", ignored);
                let mut response = Response::new(Bytes::new());
                *response.status_mut() = StatusCode::NO_CONTENT;
                api::finish(response.headers_mut(), request_id);
                return response;
            }
            Err(problem) => problem,
        };
        self.metrics.webhook(label, "refused", 1);
        api::refuse(problem, request_id)
    }

    async fn deliver(
        &self,
        snapshot: &Snapshot,
        webhook: Option<&Webhook>,
        head: &Parts,
        body: Body,
    ) -> Result<Effect, Problem> {
        let deadline = self.deadline(snapshot);
        // Strangers are told so before they may send a body.
        let shown = match webhook {
            None => Err(WebhookError::Unproven),
            Some(it) => it.authenticate(&head.headers, head.uri.query(), deadline).await,
        };
        let (Some(webhook), ()) = (webhook, shown.map_err(problem)?) else {
            return Err(problem(WebhookError::Unproven));
        };
        let limit = snapshot.limits.request_body;
        let body = read(body, limit, deadline).await.map_err(Problem::new)?;
        webhook.take(&body, &snapshot.resolver).map_err(problem)
    }
}

/// The same for all names, or it would tell which there are.
fn handshake(snapshot: &Snapshot, head: &Parts, request_id: &str) -> Response<Bytes> {
    let mut sent = head.headers.get_all(REQUEST_ORIGIN).iter();
    let origin = sent.next().filter(|_| sent.next().is_none());
    let allowed = origin.filter(|origin| {
        let origin = origin.to_str().ok();
        origin.is_some_and(|origin| snapshot.webhooks.admit_origin(origin))
    });
    let mut response = Response::new(Bytes::new());
    let headers = response.headers_mut();
    headers.insert(header::ALLOW, HeaderValue::from_static("POST, OPTIONS"));
    if let Some(origin) = allowed {
        headers.insert(ALLOWED_ORIGIN, origin.clone());
        if head.headers.contains_key(REQUEST_RATE) {
            headers.insert(ALLOWED_RATE, HeaderValue::from_static("*"));
        }
    }
    api::finish(headers, request_id);
    response
}

fn problem(error: WebhookError) -> Problem {
    let code = match error {
        WebhookError::Unproven => ProblemCode::NoIdentity,
        WebhookError::Unavailable => ProblemCode::IdentityUnavailable,
        WebhookError::Malformed => ProblemCode::InvalidBody,
    };
    Problem::with_error(code, error.to_string())
}
