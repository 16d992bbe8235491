//! What an error of the SDK means to a caller.
//!
//! The status says too little, and the SDK keeps what says more in the raw answer:
//! the code of the inner error. Causes are texts made here: the SDK's own errors hold
//! the raw answer, and some print it.

use std::error::Error as StdError;

use azure_core::{
    error::{Error, ErrorKind},
    http::{RawResponse, StatusCode, headers::RETRY_AFTER},
};
use azure_security_keyvault_secrets::models::{KeyVaultError, KeyVaultErrorError};

use crate::backends::{
    BackendError, Cause,
    failure::{cause, causes, chain, from_status, plain_code, retry_after},
};

/// The parts of an error answer that matter.
#[derive(Default)]
struct Answer {
    status: u16,
    /// Empty if it is not Key Vault that answers.
    code: String,
    /// Codes of the inner errors, outermost first.
    inner: Vec<String>,
    message: String,
    retry_after: Option<std::time::Duration>,
}

/// Sorts an SDK error by what a caller can do about it.
pub(super) fn from_sdk(error: Error) -> BackendError {
    match error.kind() {
        ErrorKind::HttpResponse { status, raw_response, .. } => {
            from_answer(&Answer::read(*status, raw_response.as_deref()))
        }
        ErrorKind::Credential => from_identity(&error),
        ErrorKind::Connection | ErrorKind::Io => from_transport(&error),
        // Unreadable. No cause: the parser's text may quote a value.
        ErrorKind::DataConversion => BackendError::Unavailable(None),
        // The challenge of the vault names another resource: its token is not for
        // whoever this is.
        ErrorKind::Other => BackendError::PermissionDenied(Some(chain(&error))),
    }
}

/// Whether the answer is that a deletion is not finished.
pub(super) fn is_under_way(error: &Error) -> bool {
    let ErrorKind::HttpResponse { status, raw_response, .. } = error.kind() else { return false };
    Answer::read(*status, raw_response.as_deref()).has("ObjectIsBeingDeleted")
}

fn from_answer(answer: &Answer) -> BackendError {
    match answer.status {
        // By the inner code alone: with the outer one it is any lack of permission.
        403 if answer.has("SecretDisabled") => BackendError::Disabled,
        404 if !answer.code.is_empty() => BackendError::NotFound,
        409 if answer.is_about_deletion() => BackendError::PendingDeletion,
        409 => BackendError::Conflict,
        400..=499 if !matches!(answer.status, 401 | 403 | 407 | 408 | 429) => {
            BackendError::Invalid(format!("status {}, {}", answer.status, plain_code(&answer.code)))
        }
        status => from_status(status, answer.retry_after, Some(answer.cause())),
    }
}

/// Sorts a failure to get a token.
fn from_identity(error: &Error) -> BackendError {
    let answer = causes(error).find_map(|cause| match cause.downcast_ref::<Error>()?.kind() {
        ErrorKind::HttpResponse { status, raw_response, .. } => Some((*status, raw_response)),
        _ => None,
    });
    if let Some((status, raw)) = answer {
        let retry_after = raw.as_deref().and_then(wait);
        return match u16::from(status) {
            // The machine's endpoint says so while it is being updated.
            404 | 410 => BackendError::Unavailable(Some(cause(error.to_string()))),
            429 => BackendError::Throttled { retry_after },
            status @ 500.. => from_status(status, retry_after, Some(cause(error.to_string()))),
            _ => BackendError::PermissionDenied(Some(cause(error.to_string()))),
        };
    }
    if causes(error).any(|cause| cause.is::<reqwest::Error>()) {
        return from_transport(error);
    }
    let unreadable = |cause: &(dyn StdError + 'static)| {
        cause.downcast_ref::<Error>().is_some_and(|e| *e.kind() == ErrorKind::DataConversion)
    };
    if causes(error).any(unreadable) {
        return BackendError::Unavailable(None);
    }
    // A file that is not there, or empty: there are no credentials.
    BackendError::PermissionDenied(Some(chain(error)))
}

fn from_transport(error: &Error) -> BackendError {
    let late = causes(error)
        .filter_map(|cause| cause.downcast_ref::<reqwest::Error>())
        .any(reqwest::Error::is_timeout);
    if late { BackendError::TimedOut } else { BackendError::Unavailable(Some(chain(error))) }
}

fn wait(raw: &RawResponse) -> Option<std::time::Duration> {
    raw.headers().get_optional_str(&RETRY_AFTER).and_then(retry_after)
}

// === impl Answer ===

impl Answer {
    fn read(status: StatusCode, raw: Option<&RawResponse>) -> Self {
        let said = raw.and_then(|raw| raw.body().json::<KeyVaultError>().ok());
        let mut answer =
            Self { status: status.into(), retry_after: raw.and_then(wait), ..Self::default() };
        let Some(KeyVaultErrorError { code, inner_error, message }) = said.and_then(|s| s.error)
        else {
            return answer;
        };
        answer.code = code.unwrap_or_default();
        answer.message = message.unwrap_or_default();
        let mut next = inner_error;
        while let Some(inner) = next {
            answer.inner.extend(inner.code);
            next = inner.inner_error;
        }
        answer
    }

    fn has(&self, code: &str) -> bool {
        self.inner.iter().any(|inner| inner == code)
    }

    fn is_about_deletion(&self) -> bool {
        ["ObjectIsDeletedButRecoverable", "ObjectIsBeingDeleted", "ObjectIsBeingRecovered"]
            .iter()
            .any(|code| self.has(code))
    }

    fn cause(&self) -> Cause {
        let Self { status, code, inner, message, .. } = self;
        cause(format!("status {status}, code {code:?}, inner codes {inner:?}: {message}"))
    }
}
