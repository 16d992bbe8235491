//! The kinds of problems, which callers tell apart.

use http::StatusCode;
use serde::Serialize;
use serde_json::Value;
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{ObjectBuilder, RefOr, Schema, Type},
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
    /// The head is over the limit.
    HeadTooLarge,
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

// === impl ProblemCode ===

impl ProblemCode {
    /// All of them.
    pub const ALL: [Self; 24] = [
        Self::MalformedRequest,
        Self::InvalidReference,
        Self::InvalidCursor,
        Self::InvalidBody,
        Self::NoIdentity,
        Self::InvalidToken,
        Self::InvalidIdentity,
        Self::IdentityUnavailable,
        Self::Forbidden,
        Self::NoRoute,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::NotAcceptable,
        Self::PreconditionFailed,
        Self::AlreadyExists,
        Self::HeadTooLarge,
        Self::BodyTooLarge,
        Self::BodyTooSlow,
        Self::BackendRefused,
        Self::BackendUnavailable,
        Self::TooManyRequests,
        Self::BackendThrottled,
        Self::DeadlineExceeded,
        Self::Internal,
    ];

    /// As it stands in an answer.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.told().0
    }

    /// What it means, for the OpenAPI document.
    #[must_use]
    pub fn meaning(self) -> &'static str {
        self.told().1
    }

    fn told(self) -> (&'static str, &'static str) {
        match self {
            Self::MalformedRequest => {
                ("malformed_request", "the request has more than one reading, or none")
            }
            Self::InvalidReference => {
                ("invalid_reference", "the secret's name, version, field or backend is malformed")
            }
            Self::InvalidCursor => (
                "invalid_cursor",
                "the cursor was changed, is too old, or was given for another listing",
            ),
            Self::InvalidBody => ("invalid_body", "the body is not what the route asks for"),
            Self::NoIdentity => ("no_identity", "no identity was shown"),
            Self::InvalidToken => ("invalid_token", "the token was refused"),
            Self::InvalidIdentity => {
                ("invalid_identity", "the identity is malformed, foreign or contradictory")
            }
            Self::IdentityUnavailable => {
                ("identity_unavailable", "nobody can confirm the identity now")
            }
            Self::Forbidden => {
                ("forbidden", "no policy allows it, whether the secret is there or not")
            }
            Self::NoRoute => ("no_route", "there is no such path"),
            Self::NotFound => ("not_found", "there is no such secret, version or field"),
            Self::MethodNotAllowed => ("method_not_allowed", "the method does nothing here"),
            Self::NotAcceptable => {
                ("not_acceptable", "the secret can be shown in none of the accepted forms")
            }
            Self::PreconditionFailed => {
                ("precondition_failed", "the secret is not in the state that the request asks for")
            }
            Self::AlreadyExists => ("already_exists", "the name is taken"),
            Self::HeadTooLarge => {
                ("head_too_large", "the request has too many headers, or too long ones")
            }
            Self::BodyTooLarge => ("body_too_large", "the body is over the limit"),
            Self::BodyTooSlow => ("body_too_slow", "the body did not come in time"),
            Self::BackendRefused => {
                ("backend_refused", "the store refused the service, or answered nonsense")
            }
            Self::BackendUnavailable => ("backend_unavailable", "the store is down or failing"),
            Self::TooManyRequests => {
                ("too_many_requests", "the caller asks for more than its share")
            }
            Self::BackendThrottled => ("backend_throttled", "the store asks for fewer calls"),
            Self::DeadlineExceeded => ("deadline_exceeded", "there was no answer in time"),
            Self::Internal => ("internal", "a fault of the service"),
        }
    }

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
            Self::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
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

    /// For people, where there is no more to say.
    #[must_use]
    pub fn text(self) -> &'static str {
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
            Self::HeadTooLarge => "request head too large",
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

impl ToSchema for ProblemCode {}

impl PartialSchema for ProblemCode {
    fn schema() -> RefOr<Schema> {
        let mut meanings = "What a caller can tell apart.\n".to_owned();
        for code in Self::ALL {
            meanings += &format!(
                "\n- `{}`: {} ({})",
                code.as_str(),
                code.meaning(),
                code.status().as_u16()
            );
        }
        let codes = Self::ALL.map(|code| Value::from(code.as_str()));
        let object = ObjectBuilder::new().schema_type(Type::String).enum_values(Some(codes));
        object.description(Some(meanings)).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_told_as_they_are_sent() {
        for (at, code) in ProblemCode::ALL.into_iter().enumerate() {
            assert_eq!(serde_json::to_value(code).expect("JSON"), code.as_str());
            assert!(!ProblemCode::ALL[..at].contains(&code), "{code:?}");
        }
        // The last one: a new code is told too.
        assert_eq!(ProblemCode::Internal as usize + 1, ProblemCode::ALL.len());
    }
}
