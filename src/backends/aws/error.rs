//! What an error of the SDK means to a caller.
//!
//! AWS answers nearly every client error with status 400, throttling included,
//! so the error's code decides. Causes are texts made here: the SDK's own errors
//! hold the raw answer, and with it maybe a value, and show it in `Debug`.

use std::{error::Error as StdError, sync::Arc, time::Duration};

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_secretsmanager::error::{ConnectorError, ProvideErrorMetadata, SdkError};

use crate::backends::{BackendError, Cause};

/// Longest cause in bytes; what a store says is not to fill the log.
const MAX_CAUSE: usize = 1024;

/// What the store or the way to it said, for the log.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct AwsCause(String);

/// The parts of an error answer that matter.
#[derive(Default)]
struct Answer<'a> {
    status: u16,
    code: &'a str,
    message: &'a str,
    request_id: &'a str,
    retry_after: Option<Duration>,
}

/// Sorts an SDK error by what a caller can do about it.
pub(super) fn from_sdk<E>(error: SdkError<E>) -> BackendError
where
    E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
{
    match &error {
        SdkError::TimeoutError(_) => BackendError::TimedOut,
        SdkError::DispatchFailure(failure) => {
            credentials(&error).unwrap_or_else(|| match failure.is_timeout() {
                true => BackendError::TimedOut,
                false => BackendError::Unavailable(Some(chain(&error))),
            })
        }
        SdkError::ConstructionFailure(_) => credentials(&error)
            .unwrap_or_else(|| BackendError::Invalid("the request could not be built".to_owned())),
        SdkError::ServiceError(context) => {
            let (meta, headers) = (context.err().meta(), context.raw().headers());
            from_answer(&Answer {
                status: context.raw().status().as_u16(),
                code: meta.code().unwrap_or_default(),
                message: meta.message().unwrap_or_default(),
                request_id: headers.get("x-amzn-requestid").unwrap_or_default(),
                retry_after: headers.get("retry-after").and_then(seconds),
            })
        }
        // Cut short or unreadable. No cause: the parser's text may quote it.
        SdkError::ResponseError(_) => BackendError::Unavailable(None),
        other => BackendError::Unavailable(Some(chain(other))),
    }
}

fn from_answer(answer: &Answer<'_>) -> BackendError {
    let cause = || Some(answer.cause());
    match answer.code {
        "ResourceNotFoundException" => BackendError::NotFound,
        "ResourceExistsException" => BackendError::Conflict,
        "InvalidRequestException" if answer.is_about_deletion() => BackendError::PendingDeletion,
        // The key of a secret is a part of it: who may not use it may not read.
        "AccessDeniedException" | "AccessDenied" | "DecryptionFailure" | "EncryptionFailure" => {
            BackendError::PermissionDenied(cause())
        }
        "UnrecognizedClientException"
        | "InvalidClientTokenId"
        | "ExpiredTokenException"
        | "ExpiredToken"
        | "InvalidSignatureException"
        | "SignatureDoesNotMatch"
        | "IncompleteSignature"
        | "IncompleteSignatureException"
        | "MissingAuthenticationToken"
        | "MissingAuthenticationTokenException"
        | "RequestExpired"
        | "NotAuthorized"
        | "OptInRequired" => BackendError::PermissionDenied(cause()),
        // Not LimitExceededException: that is a quota of secrets or versions,
        // which no waiting lifts.
        "ThrottlingException"
        | "Throttling"
        | "ThrottledException"
        | "RequestThrottled"
        | "RequestThrottledException"
        | "TooManyRequestsException"
        | "RequestLimitExceeded"
        | "SlowDown" => BackendError::Throttled { retry_after: answer.retry_after },
        "InternalServiceError"
        | "InternalServiceErrorException"
        | "InternalFailure"
        | "ServiceUnavailable"
        | "ServiceUnavailableException" => BackendError::Unavailable(cause()),
        "RequestTimeout" | "RequestTimeoutException" => BackendError::TimedOut,
        // Without a known code: gateways and proxies on the way.
        code => match answer.status {
            429 => BackendError::Throttled { retry_after: answer.retry_after },
            401 | 403 | 407 => BackendError::PermissionDenied(cause()),
            408 | 504 => BackendError::TimedOut,
            500.. => BackendError::Unavailable(cause()),
            // A success that could not be read; its text may quote a value.
            ..=399 => BackendError::Unavailable(None),
            _ => BackendError::Invalid(plain_code(code).to_owned()),
        },
    }
}

/// Sorts a failure to get credentials; `None` if that was not the failure.
fn credentials(error: &(dyn StdError + 'static)) -> Option<BackendError> {
    let mut chain_below =
        causes(error).skip_while(|cause| !cause.is::<CredentialsError>()).peekable();
    let failure = chain_below.peek()?.downcast_ref::<CredentialsError>()?;
    Some(match failure {
        CredentialsError::ProviderTimedOut(_) => BackendError::TimedOut,
        // STS or the metadata service was not reached; it has refused nothing.
        CredentialsError::ProviderError(_)
            if chain_below.any(|cause| cause.is::<ConnectorError>()) =>
        {
            BackendError::Unavailable(Some(chain(error)))
        }
        _ => BackendError::PermissionDenied(Some(chain(error))),
    })
}

fn causes<'a>(
    error: &'a (dyn StdError + 'static),
) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |error: &&'a (dyn StdError + 'static)| (*error).source())
}

/// The texts of an error and its causes; never their `Debug`.
fn chain(error: &(dyn StdError + 'static)) -> Cause {
    let texts: Vec<_> = causes(error).map(ToString::to_string).collect();
    cause(texts.join(": "))
}

fn cause(mut text: String) -> Cause {
    text.truncate(text.floor_char_boundary(MAX_CAUSE));
    // One line, whatever the store says.
    Arc::new(AwsCause(text.replace(char::is_control, " ")))
}

/// `Retry-After` in seconds. Its other form, a date, AWS does not use.
fn seconds(text: &str) -> Option<Duration> {
    text.trim().parse().ok().map(Duration::from_secs)
}

/// An error code that may be shown: whatever else answers at the store's
/// address could put any text there.
fn plain_code(code: &str) -> &str {
    let plain = (1..=64).contains(&code.len()) && code.bytes().all(|b| b.is_ascii_alphanumeric());
    if plain { code } else { "unknown error code" }
}

// === impl Answer ===

impl Answer<'_> {
    /// AWS has one code for this and for other states of a secret. Its texts:
    /// "… because it was marked for deletion", "… is already scheduled for
    /// deletion", "… that's currently marked deleted".
    fn is_about_deletion(&self) -> bool {
        ["marked for deletion", "scheduled for deletion", "marked deleted"]
            .iter()
            .any(|text| self.message.contains(text))
    }

    fn cause(&self) -> Cause {
        let Self { status, code, message, request_id, .. } = self;
        cause(format!("status {status}, code {code:?}, request {request_id:?}: {message}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_decides_and_status_is_asked_last() {
        let deleted = "You can't perform this operation on the secret because it was marked for \
                       deletion.";
        let scheduled = "You can't create this secret because a secret with this name is already \
                         scheduled for deletion.";
        for (status, code, message, expected) in [
            (400, "ResourceNotFoundException", "", "NotFound"),
            (404, "ResourceNotFoundException", "", "NotFound"),
            (400, "AccessDeniedException", "Access to KMS is not allowed", "PermissionDenied"),
            (400, "DecryptionFailure", "", "PermissionDenied"),
            (400, "ExpiredTokenException", "", "PermissionDenied"),
            (400, "UnrecognizedClientException", "", "PermissionDenied"),
            (403, "", "", "PermissionDenied"),
            (400, "ResourceExistsException", "", "Conflict"),
            (400, "InvalidRequestException", deleted, "PendingDeletion"),
            (400, "InvalidRequestException", scheduled, "PendingDeletion"),
            (400, "InvalidRequestException", "no version staged AWSCURRENT", "Invalid"),
            (400, "ThrottlingException", "Rate exceeded", "Throttled"),
            (400, "RequestLimitExceeded", "", "Throttled"),
            (429, "", "", "Throttled"),
            (400, "LimitExceededException", "", "Invalid"),
            (500, "InternalServiceError", "", "Unavailable"),
            (502, "", "", "Unavailable"),
            (503, "Whatever", "", "Unavailable"),
            (504, "", "", "TimedOut"),
            (400, "InvalidParameterException", "", "Invalid"),
            (404, "", "", "Invalid"),
        ] {
            let error = from_answer(&Answer { status, code, message, ..Answer::default() });
            assert!(format!("{error:?}").starts_with(expected), "{status} {code}: {error:?}");
        }
    }

    #[test]
    fn odd_codes_are_not_repeated() {
        for code in ["", "canary-value", "a\nb", &"A".repeat(65)] {
            let error = from_answer(&Answer { status: 400, code, ..Answer::default() });
            assert_eq!(error.to_string(), "the store refused the request: unknown error code");
        }
    }

    #[test]
    fn retry_after_is_read_in_seconds() {
        assert_eq!(seconds(" 7 "), Some(Duration::from_secs(7)));
        for text in ["", "-1", "1.5", "Wed, 21 Oct 2026 07:28:00 GMT"] {
            assert_eq!(seconds(text), None, "{text}");
        }
    }
}
