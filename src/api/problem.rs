//! Errors as callers see them: `application/problem+json` (RFC 9457) with the
//! `error` string that vaultmux-server's clients read.

mod code;

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use serde::Serialize;
use utoipa::ToSchema;

pub use self::code::ProblemCode;
use crate::{
    operation::InvalidOperation,
    policy::{DecisionId, Denial, Reason},
    resolver::{BackendError, ResolveError},
    secret::InvalidReference,
};

/// A refusal or failure, ready to be sent.
#[derive(Clone, Debug)]
pub struct Problem {
    code: ProblemCode,
    error: String,
    decision_id: Option<DecisionId>,
    allow: Option<&'static str>,
    retry_after: Option<Duration>,
}

/// A refusal or failure (RFC 9457).
#[derive(Serialize, ToSchema)]
#[schema(as = Problem)]
pub(super) struct ProblemBody<'a> {
    /// `about:blank`: the code says more than a page would.
    r#type: &'static str,
    /// The status in words.
    title: &'static str,
    /// The HTTP status.
    status: u16,
    code: ProblemCode,
    /// For people; as vaultmux-server has it.
    error: &'a str,
    /// Ties the answer to the log.
    request_id: &'a str,
    /// Ties a refusal to the audit stream.
    #[serde(skip_serializing_if = "Option::is_none")]
    decision_id: Option<String>,
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

    /// The same, of this decision, unless it is of one already.
    #[must_use]
    pub fn of_decision(self, id: DecisionId) -> Self {
        Self { decision_id: self.decision_id.or(Some(id)), ..self }
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
        let body = ProblemBody {
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
