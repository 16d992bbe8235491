//! The secrets API as HTTP messages, whatever carries them: REST serves it on a
//! port, `ext_proc` answers with it from the filter, and both give the same
//! status, headers and body. Also secrets put into requests, which `ext_authz`
//! and `ext_proc` share. Translates between HTTP and the core; decides nothing.

mod accept;
mod authorize;
mod batch;
pub mod check;
mod cursor;
mod entity;
mod injection;
mod json;
mod message;
pub mod openapi;
mod problem;
mod record;
mod redirect;
mod secrets;
pub mod watch;

pub use authorize::{AUTHORIZE_METHODS, AUTHORIZE_PATH, AuthorizeRequest};
pub use injection::{Fetched, Injector, Refusal, settable};
pub use message::Health;
pub use problem::{Problem, ProblemCode, challenge};
pub use record::Recorder;
pub use redirect::{ORIGINAL_URL, not_redirected};

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::time::Instant;

use crate::{
    audit::Operation,
    identity::{IdentityError, Principal},
    metrics::{Edge, Metrics},
    operation::{SecretOperation, SecretPath, split_query},
    policy::{Denial, InvalidRequest, Reason, Verb},
    snapshot::Snapshot,
};

/// Carries the id that ties an answer to a log line.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// A request for the secrets API.
#[derive(Debug)]
pub struct ApiRequest<'a> {
    /// As sent.
    pub method: &'a Method,
    /// What the path is to the secret route.
    pub below: SecretPath<'a>,
    /// Without `?`.
    pub query: Option<&'a str>,
    /// At least those that [`conditions`] finds.
    pub headers: &'a HeaderMap,
    /// The whole body.
    pub body: &'a [u8],
    /// Echoed in the answer.
    pub request_id: &'a str,
    /// The header of that name, where it was sent once.
    pub traceparent: Option<&'a str>,
}

/// Answers requests for the secrets API.
#[derive(Clone)]
pub struct Api {
    metrics: Arc<Metrics>,
    edge: Edge,
}

// === impl Api ===

impl Api {
    /// An API whose decisions are counted for `edge`.
    #[must_use]
    pub fn new(metrics: Arc<Metrics>, edge: Edge) -> Self {
        Self { metrics, edge }
    }

    /// Answers one request. Never fails: what goes wrong is an answer too. The
    /// answer to HEAD has the body of GET, for its length: whoever sends it on
    /// leaves the body out.
    pub async fn answer(
        &self,
        snapshot: &Snapshot,
        caller: Result<&Principal, IdentityError>,
        request: ApiRequest<'_>,
        deadline: Instant,
    ) -> Response<Bytes> {
        let request_id = request.request_id.to_owned();
        if *request.method == Method::OPTIONS {
            return options(request.below.methods(), &request_id);
        }
        let answer = self.operate(snapshot, caller, &request, deadline).await;
        let mut response = match answer {
            Ok(response) => response,
            Err(problem) => problem.into_response(&request_id),
        };
        finish(response.headers_mut(), &request_id);
        response
    }

    async fn operate(
        &self,
        snapshot: &Snapshot,
        caller: Result<&Principal, IdentityError>,
        request: &ApiRequest<'_>,
        deadline: Instant,
    ) -> Result<Response<Bytes>, Problem> {
        let request_id = request.request_id;
        let recorder = self.recorder(snapshot, request_id, request.traceparent);
        let (method, catalog) = (request.method.as_str(), &snapshot.catalog);
        let operation = || SecretOperation::parse(method, request.below, request.query, catalog);
        let principal = caller.map_err(|error| {
            let denial = Denial::new(identity_reason(error));
            let asked = || operation().ok().as_ref().map(Operation::from);
            recorder.record(Err(&denial), None, asked);
            Problem::from(denial)
        })?;
        self.share(snapshot, principal)?;
        let operation = operation()?;
        let call = secrets::Call { recorder, snapshot, principal, deadline, request_id };
        match operation {
            SecretOperation::List { backend, page } => call.list(backend, &page).await,
            SecretOperation::Create => call.create(request.body).await,
            SecretOperation::BatchGet => call.batch_get(request.body).await,
            SecretOperation::Versions { secret } => call.versions(&secret).await,
            SecretOperation::Item { verb: Verb::Get, secret, refresh, .. } => {
                call.get(&secret, refresh, request.headers).await
            }
            SecretOperation::Item { verb, secret, force, .. } => {
                call.write(verb, &secret, force, (request.headers, request.body)).await
            }
        }
    }

    /// Refuses a caller whose request shows no identity that holds.
    #[must_use]
    pub fn deny(
        &self,
        snapshot: &Snapshot,
        denial: Denial,
        request_id: &str,
        traceparent: Option<&str>,
    ) -> Response<Bytes> {
        let recorder = self.recorder(snapshot, request_id, traceparent);
        recorder.record(Err(&denial), None, || None);
        refuse(denial.into(), request_id)
    }

    /// Takes the request from the caller's share.
    ///
    /// # Errors
    /// A [`Problem`] that says when to come back.
    pub(crate) fn share(&self, snapshot: &Snapshot, principal: &Principal) -> Result<(), Problem> {
        snapshot.shares.take(principal).map_err(|wait| {
            self.metrics.rate_limited();
            Problem::too_many(wait)
        })
    }

    fn recorder<'a>(
        &'a self,
        snapshot: &'a Snapshot,
        request_id: &'a str,
        traceparent: Option<&'a str>,
    ) -> Recorder<'a> {
        Recorder {
            metrics: &self.metrics,
            audit: &snapshot.audit,
            policies: &snapshot.policies,
            edge: self.edge,
            request_id: Some(request_id),
            traceparent,
        }
    }
}

/// Why a caller without principal is denied.
#[must_use]
pub fn identity_reason(error: IdentityError) -> Reason {
    match error {
        IdentityError::Missing => Reason::NoIdentity,
        IdentityError::Token(_) => Reason::InvalidToken,
        IdentityError::Malformed(_)
        | IdentityError::Certificate(_)
        | IdentityError::Forwarded(_)
        | IdentityError::ForeignTrustDomain
        | IdentityError::Mismatch => Reason::InvalidIdentity,
    }
}

/// What a path can do, for whoever asks: without a header for other origins, so that no
/// browser sends what a page of one of them would send.
#[must_use]
pub fn options(methods: &'static str, request_id: &str) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(methods));
    finish(response.headers_mut(), request_id);
    response
}

/// The headers that an answer depends on, out of all that were sent.
#[must_use]
pub fn conditions<'a>(sent: impl Iterator<Item = (&'a str, &'a [u8])>) -> HeaderMap {
    let mut found = HeaderMap::new();
    for (name, value) in sent {
        let known = [header::ACCEPT, header::IF_MATCH, header::IF_NONE_MATCH]
            .into_iter()
            .find(|known| known.as_str().eq_ignore_ascii_case(name));
        if let (Some(known), Ok(value)) = (known, HeaderValue::from_bytes(value)) {
            found.append(known, value);
        }
    }
    found
}

/// The answer for a path that is not part of the API.
#[must_use]
pub fn not_found(request_id: &str) -> Response<Bytes> {
    refuse(Problem::new(ProblemCode::NoRoute), request_id)
}

/// An answer that refuses a request before it is looked at.
#[must_use]
pub fn refuse(problem: Problem, request_id: &str) -> Response<Bytes> {
    let mut response = problem.into_response(request_id);
    finish(response.headers_mut(), request_id);
    response
}

/// The caller's request id if it is a sane one.
#[must_use]
pub fn request_id(sent: Option<&str>) -> Option<&str> {
    let sane = |b: u8| b.is_ascii_alphanumeric() || b"-_.:/+=".contains(&b);
    sent.filter(|id| (1..=128).contains(&id.len()) && id.bytes().all(sane))
}

/// The trace that the caller says it is in. Sent twice, it says nothing.
#[must_use]
pub fn traceparent(headers: &HeaderMap) -> Option<&str> {
    let mut sent = headers.get_all("traceparent").iter();
    let only = sent.next().filter(|_| sent.next().is_none())?;
    only.to_str().ok()
}

/// Splits and checks a request target under a secret route.
///
/// # Errors
/// A [`Problem`] if the target has characters that no target has.
pub fn target(target: &str) -> Result<(&str, Option<&str>), Problem> {
    let (path, query) = split_query(target);
    crate::operation::check_target(path)
        .map_err(|_: InvalidRequest| Problem::new(ProblemCode::MalformedRequest))?;
    Ok((path, query))
}

/// Bounds how long a caller waits, whatever it asked for.
#[must_use]
pub fn deadline(limit: Duration) -> Instant {
    Instant::now() + limit
}

/// A time to the second as in RFC 3339; `None` outside the years that it can name. A
/// store may claim any time.
#[must_use]
pub fn rfc3339(at: SystemTime) -> Option<String> {
    let since = |later: SystemTime, earlier| {
        time::Duration::try_from(later.duration_since(earlier).ok()?).ok()
    };
    let offset = since(at, UNIX_EPOCH).or_else(|| since(UNIX_EPOCH, at).map(|before| -before))?;
    let at = OffsetDateTime::UNIX_EPOCH.checked_add(offset)?;
    at.replace_nanosecond(0).ok()?.format(&Rfc3339).ok()
}

/// The headers of every answer: vaultmux-server's, `no-store` and the request id.
pub fn finish(headers: &mut HeaderMap, request_id: &str) {
    let fixed = [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::X_XSS_PROTECTION, "1; mode=block"),
        (header::STRICT_TRANSPORT_SECURITY, "max-age=31536000; includeSubDomains"),
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    // With what else an answer has, and what hyper adds: growing costs more than the headers.
    headers.reserve(16);
    for (name, value) in fixed {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if let Ok(value) = HeaderValue::from_str(request_id) {
        headers.insert(REQUEST_ID, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_time_that_a_store_claims_is_shown_or_left_out() {
        let years = |years: u64| Duration::from_secs(years * 31_556_952);
        for (at, expected) in [
            (UNIX_EPOCH, Some("1970-01-01T00:00:00Z")),
            (UNIX_EPOCH + Duration::from_millis(1_500), Some("1970-01-01T00:00:01Z")),
            (UNIX_EPOCH - Duration::from_secs(86_400), Some("1969-12-31T00:00:00Z")),
            (UNIX_EPOCH + years(10_000), None),
            (UNIX_EPOCH - years(100_000), None),
            (UNIX_EPOCH + years(1_000_000_000), None),
        ] {
            assert_eq!(rfc3339(at).as_deref(), expected, "{at:?}");
        }
    }
}
