//! Errors as callers see them: `application/problem+json` (RFC 9457) with the
//! `error` string that vaultmux-server's clients read.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use serde::Serialize;

use crate::{
    operation::InvalidOperation,
    policy::{DecisionId, Denial, Reason},
    resolver::{BackendError, ResolveError},
    secret::InvalidReference,
};

/// What a caller can tell apart. The names are part of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ProblemCode {
    /// The request has more than one reading or none.
    MalformedRequest,
    /// The secret's name, version, field or backend is malformed.
    InvalidReference,
    /// The cursor was changed, is too old, or was given for another listing.
    InvalidCursor,
    /// The body is not what the route asks for.
    InvalidBody,
    /// No identity was shown.
    NoIdentity,
    /// The token shown was refused.
    InvalidToken,
    /// The identity shown is malformed, foreign or contradictory.
    InvalidIdentity,
    /// Whoever could confirm the identity cannot be asked now.
    IdentityUnavailable,
    /// No policy allows it, whether the secret exists or not.
    Forbidden,
    /// No such path.
    NoRoute,
    /// No such secret, version or field.
    NotFound,
    /// The method does nothing here.
    MethodNotAllowed,
    /// The secret can be shown in none of the accepted forms.
    NotAcceptable,
    /// The secret is not in the state that the request asks for.
    PreconditionFailed,
    /// The name is taken.
    AlreadyExists,
    /// The body is over the limit.
    BodyTooLarge,
    /// The body did not arrive in time.
    BodyTooSlow,
    /// The store refused us or answered nonsense.
    BackendRefused,
    /// The store is down or failing.
    BackendUnavailable,
    /// The caller asks for more than its share.
    TooManyRequests,
    /// The store asks for fewer calls.
    BackendThrottled,
    /// No answer in time.
    DeadlineExceeded,
    /// Our own fault.
    Internal,
}

/// A refusal or failure, ready to be sent.
#[derive(Clone, Debug)]
pub struct Problem {
    code: ProblemCode,
    error: String,
    decision_id: Option<DecisionId>,
    allow: Option<&'static str>,
    retry_after: Option<Duration>,
}

#[derive(Serialize)]
struct Body<'a> {
    r#type: &'static str,
    title: &'static str,
    status: u16,
    code: ProblemCode,
    error: &'a str,
    request_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    decision_id: Option<String>,
}

// === impl ProblemCode ===

impl ProblemCode {
    /// The HTTP status that goes with the code.
    #[must_use]
    pub fn status(self) -> StatusCode {
        match self {
            Self::MalformedRequest
            | Self::InvalidReference
            | Self::InvalidCursor
            | Self::InvalidBody => StatusCode::BAD_REQUEST,
            Self::NoIdentity | Self::InvalidToken => StatusCode::UNAUTHORIZED,
            Self::InvalidIdentity | Self::Forbidden => StatusCode::FORBIDDEN,
            Self::NoRoute | Self::NotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::NotAcceptable => StatusCode::NOT_ACCEPTABLE,
            Self::PreconditionFailed => StatusCode::PRECONDITION_FAILED,
            Self::AlreadyExists => StatusCode::CONFLICT,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::BodyTooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::TooManyRequests => StatusCode::TOO_MANY_REQUESTS,
            Self::BackendRefused => StatusCode::BAD_GATEWAY,
            Self::BackendUnavailable | Self::BackendThrottled | Self::IdentityUnavailable => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::MalformedRequest => "malformed request",
            Self::InvalidReference => "invalid secret reference",
            Self::InvalidCursor => "invalid cursor",
            Self::InvalidBody => "invalid request body",
            Self::NoIdentity => {
                "no identity: call through the mesh, or from the same pod with x-vaultmux-request: true"
            }
            Self::InvalidToken => "invalid token",
            Self::InvalidIdentity => "invalid identity",
            Self::IdentityUnavailable => "the identity cannot be verified now",
            Self::Forbidden => "forbidden",
            Self::NoRoute => "no such path",
            Self::NotFound => "secret not found",
            Self::MethodNotAllowed => "method not allowed",
            Self::NotAcceptable => {
                "a secret is application/json or application/octet-stream: neither is accepted"
            }
            Self::PreconditionFailed => "the secret has changed",
            Self::AlreadyExists => "secret already exists",
            Self::BodyTooLarge => "request body too large",
            Self::BodyTooSlow => "request body did not arrive in time",
            Self::TooManyRequests => "too many requests",
            Self::BackendRefused => "the secret store refused the request",
            Self::BackendUnavailable => "the secret store is unavailable",
            Self::BackendThrottled => "the secret store is throttling",
            Self::DeadlineExceeded => "the secret store did not answer in time",
            Self::Internal => "internal server error",
        }
    }
}

/// What a caller without identity is asked for (RFC 6750, section 3).
#[must_use]
pub fn challenge(token_was_refused: bool) -> &'static str {
    match token_was_refused {
        true => "Bearer realm=\"vaultmux-mesh\", error=\"invalid_token\"",
        false => "Bearer realm=\"vaultmux-mesh\"",
    }
}

// === impl Problem ===

impl Problem {
    /// A problem with its code's fixed text.
    #[must_use]
    pub fn new(code: ProblemCode) -> Self {
        Self::with_error(code, code.text().to_owned())
    }

    /// A problem with a text of our own making; never a store's.
    #[must_use]
    pub fn with_error(code: ProblemCode, error: String) -> Self {
        Self { code, error, decision_id: None, allow: None, retry_after: None }
    }

    /// A method that does nothing here; `allow` lists those that do.
    #[must_use]
    pub fn not_allowed(allow: &'static str) -> Self {
        Self { allow: Some(allow), ..Self::new(ProblemCode::MethodNotAllowed) }
    }

    /// What kind of problem it is.
    #[must_use]
    pub fn code(&self) -> ProblemCode {
        self.code
    }

    /// What callers are told.
    #[must_use]
    pub fn error(&self) -> &str {
        &self.error
    }

    /// How long to wait before the same is asked again, in seconds, where that helps.
    /// Rounded up: who comes back earlier is refused again.
    #[must_use]
    pub fn retry_after(&self) -> Option<u64> {
        let waits = matches!(
            self.code.status(),
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS
        );
        let wait = self.retry_after.unwrap_or_default();
        waits.then(|| wait.as_secs_f64().ceil().max(1.0) as u64)
    }

    /// The caller asks for more than its share, and may come back after `wait`.
    #[must_use]
    pub fn too_many(wait: Duration) -> Self {
        Self { retry_after: Some(wait), ..Self::new(ProblemCode::TooManyRequests) }
    }

    pub(super) fn into_response(self, request_id: &str) -> Response<Bytes> {
        let status = self.code.status();
        let body = Body {
            r#type: "about:blank",
            title: status.canonical_reason().unwrap_or_default(),
            status: status.as_u16(),
            code: self.code,
            error: &self.error,
            request_id,
            decision_id: self.decision_id.map(|id| id.to_string()),
        };
        let body = serde_json::to_vec(&body).expect("strings and numbers are always JSON");
        let mut response = Response::new(Bytes::from(body));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        let json = HeaderValue::from_static("application/problem+json");
        headers.insert(header::CONTENT_TYPE, json);
        if let Some(allow) = self.allow {
            headers.insert(header::ALLOW, HeaderValue::from_static(allow));
        }
        if status == StatusCode::UNAUTHORIZED {
            let scheme =
                HeaderValue::from_static(challenge(self.code == ProblemCode::InvalidToken));
            headers.insert(header::WWW_AUTHENTICATE, scheme);
        }
        if let Some(seconds) = self.retry_after() {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }

    pub(super) fn body(error: impl Into<String>) -> Self {
        Self::with_error(ProblemCode::InvalidBody, error.into())
    }
}

impl From<Denial> for Problem {
    fn from(denial: Denial) -> Self {
        let code = match denial.reason {
            Reason::NoIdentity => ProblemCode::NoIdentity,
            Reason::InvalidToken => ProblemCode::InvalidToken,
            Reason::InvalidIdentity => ProblemCode::InvalidIdentity,
            Reason::Malformed => ProblemCode::MalformedRequest,
            Reason::NoMatch
            | Reason::DeniedByPolicy
            | Reason::PolicyInvalid
            | Reason::MissingAttribute(_) => ProblemCode::Forbidden,
        };
        Self { decision_id: Some(denial.decision.id), ..Self::new(code) }
    }
}

impl From<InvalidReference> for Problem {
    fn from(error: InvalidReference) -> Self {
        Self::with_error(ProblemCode::InvalidReference, error.to_string())
    }
}

impl From<InvalidOperation> for Problem {
    fn from(error: InvalidOperation) -> Self {
        match error {
            InvalidOperation::Method { allow } => Self::not_allowed(allow),
            InvalidOperation::Reference(error) => error.into(),
            InvalidOperation::Parameter(_) => {
                Self::with_error(ProblemCode::MalformedRequest, error.to_string())
            }
        }
    }
}

impl From<ResolveError> for Problem {
    fn from(error: ResolveError) -> Self {
        let code = match &error {
            ResolveError::NoField => ProblemCode::NotFound,
            ResolveError::Changed => ProblemCode::PreconditionFailed,
            ResolveError::RefreshLimit { .. } => ProblemCode::TooManyRequests,
            ResolveError::Deadline => ProblemCode::DeadlineExceeded,
            ResolveError::Internal => ProblemCode::Internal,
            ResolveError::Backend { error, .. } => match error {
                BackendError::NotFound | BackendError::Disabled | BackendError::PendingDeletion => {
                    ProblemCode::NotFound
                }
                BackendError::Conflict => ProblemCode::AlreadyExists,
                BackendError::PermissionDenied(_) | BackendError::Invalid(_) => {
                    ProblemCode::BackendRefused
                }
                BackendError::Throttled { .. } => ProblemCode::BackendThrottled,
                BackendError::Unavailable(_) => ProblemCode::BackendUnavailable,
                BackendError::TimedOut => ProblemCode::DeadlineExceeded,
            },
        };
        let retry_after = match error {
            ResolveError::Backend { error: BackendError::Throttled { retry_after }, .. } => {
                retry_after
            }
            ResolveError::RefreshLimit { retry_after } => Some(retry_after),
            _ => None,
        };
        Self { retry_after, ..Self::new(code) }
    }
}
