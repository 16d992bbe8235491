//! What a request is refused with that a secret does not fit into, or that cannot be
//! signed.

use crate::{
    api::{Problem, ProblemCode, Refusal},
    ext_proc::surface,
    signing::{IssueError, SigningError},
};

impl From<surface::Unfit> for Refusal {
    fn from(unfit: surface::Unfit) -> Self {
        let text = "the secret cannot be put there".to_owned();
        let problem = Problem::with_error(ProblemCode::BackendRefused, text);
        let details = format!("vaultmux_value_unfit:{}:{}", unfit.reason, unfit.secret);
        Self { problem, details }
    }
}

/// What the client did wrong is a 400, or a 403 where it must not; an issuer of tokens is
/// like a store: what it refuses is a 502, and its absence a 503.
impl From<SigningError> for Refusal {
    fn from(error: SigningError) -> Self {
        let code = match &error {
            SigningError::Unsigned
            | SigningError::ChunkSigned
            | SigningError::MissingHeader
            | SigningError::Malformed => ProblemCode::MalformedRequest,
            SigningError::Scope => ProblemCode::Forbidden,
            SigningError::BodyUnseen | SigningError::Internal => ProblemCode::Internal,
            SigningError::Unfit(_) => ProblemCode::BackendRefused,
            SigningError::Issue(error) => match error {
                IssueError::Refused | IssueError::NoToken => ProblemCode::BackendRefused,
                IssueError::Unavailable | IssueError::Deadline => ProblemCode::BackendUnavailable,
                IssueError::Internal => ProblemCode::Internal,
            },
        };
        let details = match &error {
            SigningError::Unfit(secret) => format!("vaultmux_value_unfit:signing:{secret}"),
            _ => format!("vaultmux_signing_refused:{}", error.as_str()),
        };
        Self { problem: Problem::with_error(code, error_text(&error)), details }
    }
}

/// What a caller may know: not which secret it is.
fn error_text(error: &SigningError) -> String {
    match error {
        SigningError::Unfit(_) => "the secret cannot be used to sign".to_owned(),
        _ => error.to_string(),
    }
}
