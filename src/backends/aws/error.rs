//! What an error of the SDK means to a caller.
//!
//! AWS answers nearly every client error with status 400, throttling included,
//! so the error's code decides. Causes are texts made here: the SDK's own errors
//! hold the raw answer, and with it maybe a value, and show it in `Debug`.

mod credentials;

use std::{error::Error as StdError, time::Duration};

use aws_sdk_secretsmanager::{
    config::http::HttpResponse,
    error::{ErrorMetadata, ProvideErrorMetadata, SdkError},
};

use crate::backends::{
    BackendError, Cause,
    failure::{cause, chain, from_status, plain_code, retry_after},
};

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
            credentials::sorted(&error).unwrap_or_else(|| match failure.is_timeout() {
                true => BackendError::TimedOut,
                false => BackendError::Unavailable(Some(chain(&error))),
            })
        }
        SdkError::ConstructionFailure(_) => credentials::sorted(&error)
            .unwrap_or_else(|| BackendError::Invalid("the request could not be built".to_owned())),
        SdkError::ServiceError(context) => {
            from_answer(&Answer::new(context.err().meta(), context.raw()))
        }
        // Not the parser's text, which may quote the answer.
        SdkError::ResponseError(_) => {
            BackendError::Unavailable(Some(cause("the answer could not be read".to_owned())))
        }
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
        | "ServiceUnavailableException"
        // STS could not ask the issuer of a web identity token.
        | "IDPCommunicationError"
        | "IDPCommunicationErrorException" => BackendError::Unavailable(cause()),
        "RequestTimeout" | "RequestTimeoutException" => BackendError::TimedOut,
        // Without a known code: gateways and proxies on the way.
        code => match answer.status {
            400..=499 if !matches!(answer.status, 401 | 403 | 407 | 408 | 429) => {
                BackendError::Invalid(plain_code(code).to_owned())
            }
            status => from_status(status, answer.retry_after, cause()),
        },
    }
}

// === impl Answer ===

impl<'a> Answer<'a> {
    fn new(meta: &'a ErrorMetadata, response: &'a HttpResponse) -> Self {
        let headers = response.headers();
        Self {
            status: response.status().as_u16(),
            code: meta.code().unwrap_or_default(),
            message: meta.message().unwrap_or_default(),
            request_id: headers.get("x-amzn-requestid").unwrap_or_default(),
            retry_after: headers.get("retry-after").and_then(retry_after),
        }
    }

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
}
