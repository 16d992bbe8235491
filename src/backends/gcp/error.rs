//! What an error of the SDK means to a caller.
//!
//! Google's canonical code decides, then the status. Causes are texts made here:
//! the SDK's own errors hold the raw answer, and show it in `Debug` and some even
//! in `Display`, and those of its credentials may quote the file with the token.

use std::time::Duration;

use google_cloud_auth::errors::CredentialsError;
use google_cloud_gax::error::{
    Error,
    rpc::{Code, Status, StatusDetails},
};

use crate::backends::{
    BackendError, Cause,
    failure::{cause, causes, chain, from_status, retry_after},
};

/// No longer wait is passed on; nobody would.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);

/// What a call was about: that is what "not found" is about, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// Names in the project, or a new one.
    Parent,
    /// One secret.
    Secret,
    /// One version, by number or `latest`.
    Version,
    /// One version, by alias.
    Alias,
}

/// Whether the store did not accept the token.
pub(super) fn is_unauthenticated(error: &Error) -> bool {
    error.http_status_code() == Some(401)
        || error.status().is_some_and(|status| status.code == Code::Unauthenticated)
}

/// Sorts an SDK error by what a caller can do about it.
pub(super) fn from_sdk(error: &Error, asked: Asked) -> BackendError {
    let failed = causes(error).find_map(|cause| cause.downcast_ref::<CredentialsError>());
    if let Some(failed) = failed {
        return from_credentials(failed);
    }
    if error.is_timeout() {
        return BackendError::TimedOut;
    }
    // Of the connection, and only these: the text of any other error may quote an answer.
    if error.is_connect() || error.is_io() {
        return BackendError::Unavailable(std::error::Error::source(error).map(chain));
    }
    if error.is_binding() || error.is_serialization() {
        return BackendError::Invalid("the request could not be built".to_owned());
    }
    let http = error.http_status_code().unwrap_or_default();
    match error.status() {
        Some(status) => from_answer(status, http, wait(error), asked),
        // A gateway or proxy on the way. An answer that could not be read has no
        // status here, and its text may quote a value.
        None => from_status(http, wait(error), Some(cause(format!("status {http}")))),
    }
}

fn from_answer(
    status: &Status,
    http: u16,
    retry_after: Option<Duration>,
    asked: Asked,
) -> BackendError {
    let code = status.code.name();
    let cause = || Some(cause(format!("status {http}, code {code}: {}", status.message)));
    match status.code {
        Code::NotFound if asked == Asked::Parent => {
            BackendError::Invalid("no such project or location".to_owned())
        }
        Code::NotFound => BackendError::NotFound,
        // What can be wrong with a name of the right form is the alias.
        Code::InvalidArgument if asked == Asked::Alias => BackendError::NotFound,
        Code::AlreadyExists => BackendError::Conflict,
        Code::FailedPrecondition if matches!(asked, Asked::Version | Asked::Alias) => {
            BackendError::Disabled
        }
        Code::PermissionDenied | Code::Unauthenticated => BackendError::PermissionDenied(cause()),
        Code::ResourceExhausted => BackendError::Throttled { retry_after },
        Code::DeadlineExceeded => BackendError::TimedOut,
        Code::Unavailable | Code::Internal | Code::Aborted | Code::Cancelled | Code::DataLoss => {
            BackendError::Unavailable(cause())
        }
        // Their texts may repeat what was sent.
        Code::InvalidArgument
        | Code::FailedPrecondition
        | Code::OutOfRange
        | Code::Unimplemented => BackendError::Invalid(code.to_owned()),
        _ => from_status(http, retry_after, cause()),
    }
}

/// How long the store asks to wait: as a header, or among the details.
fn wait(error: &Error) -> Option<Duration> {
    let header = error.http_headers().and_then(|headers| headers.get(http::header::RETRY_AFTER));
    let header = header.and_then(|value| value.to_str().ok()).and_then(retry_after);
    let details = || {
        error.status()?.details.iter().find_map(|detail| match detail {
            StatusDetails::RetryInfo(info) => Duration::try_from(info.retry_delay?).ok(),
            _ => None,
        })
    };
    header.or_else(details).map(|wait| wait.min(LONGEST_WAIT))
}

/// Sorts a failure to get a token.
pub(super) fn from_credentials(error: &CredentialsError) -> BackendError {
    // Whoever answers with something else than a token has refused nothing.
    let unreadable = causes(error).any(|cause| cause.is::<serde_json::Error>());
    match unreadable || error.is_transient() {
        true => BackendError::Unavailable(Some(credentials_cause(error))),
        false => BackendError::PermissionDenied(Some(credentials_cause(error))),
    }
}

/// The SDK's text without what it quotes: the file with a workload's own token
/// for one. Of the answer of an identity endpoint the description of the error
/// stays, for it is what tells a wrong binding from a wrong audience.
fn credentials_cause(error: &CredentialsError) -> Cause {
    let texts = causes(error).filter_map(|cause| {
        if let Some(refused) = cause.downcast_ref::<Error>() {
            // Without a status it repeats its own cause, which comes next.
            let status = refused.http_status_code()?;
            let body = refused.http_payload().map(|body| String::from_utf8_lossy(body));
            let description = description(body.as_deref().unwrap_or_default());
            return Some(format!("status {status} {description}"));
        }
        if cause.is::<serde_json::Error>() {
            return Some(unquoted(&cause.to_string()));
        }
        Some(match cause.to_string().split_once("body=<") {
            Some((text, body)) => format!("{text}{}", description(body)),
            None => cause.to_string(),
        })
    });
    cause(texts.collect::<Vec<_>>().join(": "))
}

/// What an OAuth or Google error says about itself.
fn description(body: &str) -> String {
    // The SDK prints one answer as text with more behind it, another as bytes.
    let body = body.replace("\\\"", "\"").replace("\\n", "\n");
    let found = body.find('{').and_then(|start| {
        let mut values = serde_json::Deserializer::from_str(&body[start..]).into_iter();
        values.next()?.ok()
    });
    let Some(serde_json::Value::Object(fields)) = found else { return String::new() };
    let nested = fields.get("error").filter(|error| error.is_object());
    let texts = [
        fields.get("error"),
        fields.get("error_description"),
        nested.and_then(|error| error.get("status")),
        nested.and_then(|error| error.get("message")),
    ];
    let texts = texts.into_iter().flatten().filter_map(serde_json::Value::as_str);
    texts.collect::<Vec<_>>().join(", ")
}

/// What a parser says, if that is not about a value.
pub(super) fn unquoted(text: &str) -> String {
    let safe = ["missing field", "did not match", "unknown or invalid", "EOF", "expected value"];
    match safe.iter().any(|part| text.contains(part)) && !text.contains("invalid type") {
        true => text.to_owned(),
        false => "not of the form that was expected".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(error: &BackendError) -> String {
        let source = std::error::Error::source(error).map(ToString::to_string);
        source.unwrap_or_default()
    }

    #[test]
    fn code_decides_and_status_is_asked_last() {
        use Asked::{Alias, Parent, Secret, Version};
        for (code, http, asked, expected) in [
            (Code::NotFound, 404, Version, "NotFound"),
            (Code::NotFound, 404, Secret, "NotFound"),
            (Code::NotFound, 404, Parent, "Invalid"),
            (Code::InvalidArgument, 400, Alias, "NotFound"),
            (Code::InvalidArgument, 400, Version, "Invalid"),
            (Code::AlreadyExists, 409, Parent, "Conflict"),
            (Code::Aborted, 409, Secret, "Unavailable"),
            (Code::FailedPrecondition, 400, Version, "Disabled"),
            (Code::FailedPrecondition, 400, Alias, "Disabled"),
            (Code::FailedPrecondition, 400, Secret, "Invalid"),
            (Code::FailedPrecondition, 400, Parent, "Invalid"),
            (Code::PermissionDenied, 403, Version, "PermissionDenied"),
            (Code::Unauthenticated, 401, Version, "PermissionDenied"),
            (Code::ResourceExhausted, 429, Version, "Throttled"),
            (Code::Internal, 500, Version, "Unavailable"),
            (Code::Unavailable, 503, Version, "Unavailable"),
            (Code::DeadlineExceeded, 504, Version, "TimedOut"),
            (Code::Unimplemented, 501, Version, "Invalid"),
            (Code::Unknown, 403, Version, "PermissionDenied"),
            (Code::Unknown, 429, Version, "Throttled"),
            (Code::Unknown, 404, Version, "Invalid"),
            (Code::Unknown, 502, Version, "Unavailable"),
        ] {
            let status = Status::default().set_code(code as i32);
            let error = from_answer(&status, http, None, asked);
            assert!(format!("{error:?}").starts_with(expected), "{code} {asked:?}: {error:?}");
        }
    }

    #[test]
    fn causes_of_credentials_quote_no_token() {
        let body = r#"failed to read subject token field `t` as string, body=<{"x":"canary-1"}>"#;
        let error = from_credentials(&CredentialsError::from_msg(false, body));
        assert!(matches!(error, BackendError::PermissionDenied(_)), "{error:?}");
        assert!(shown(&error).starts_with("failed to read subject token field"), "{error:?}");
        assert!(!format!("{error:?}").contains("canary"), "{error:?}");

        let parsed = serde_json::from_str::<u64>(r#""canary-2""#).expect_err("no number");
        let error = from_credentials(&CredentialsError::from_source(false, parsed));
        assert!(matches!(error, BackendError::Unavailable(_)), "{error:?}");
        assert!(!format!("{error:?}").contains("canary"), "{error:?}");
    }

    #[test]
    fn causes_of_credentials_keep_the_description_of_the_error() {
        for (body, expected) in [
            (r#"{"error":"invalid_grant","error_description":"stale","x":"canary"}>"#, "stale"),
            (r#"{"error":{"code":403,"status":"DENIED","message":"no binding"}}>"#, "no binding"),
        ] {
            let text = format!("failed to exchange token, body=<{body}");
            let error = from_credentials(&CredentialsError::from_msg(false, text));
            assert!(shown(&error).contains(expected), "{error:?}");
            assert!(!shown(&error).contains("canary"), "{error:?}");
        }
    }
}
