//! What a refusal of Vault means to a caller.
//!
//! The status decides. Texts are those of the answer's `errors`, and go to the
//! cause at most.

use serde::Deserialize;

use super::client::Answer;
use crate::backends::{
    BackendError, Cause,
    failure::{cause, from_status},
};

/// Texts that may be quoted although the request had a value, which others
/// could repeat.
const PLAIN: &[&str] = &[
    "permission denied",
    "Vault is sealed",
    "no handler for route",
    "missing client token",
    "check-and-set parameter did not match",
    "request path blocked due to quota",
    "rate limit quota exceeded",
    "invalid token",
];

/// The parts of a refusal; a gateway's has none of them.
#[derive(Default, Deserialize)]
struct Body {
    errors: Option<Vec<String>>,
    warnings: Option<Vec<String>>,
}

/// Sorts the refusal of a login: whatever it finds wrong is our credentials.
pub(super) fn from_login(answer: &Answer) -> BackendError {
    match answer.status {
        400 | 401 | 403 | 404 | 422 => BackendError::PermissionDenied(Some(cause_of(answer))),
        _ => from_answer(answer),
    }
}

/// Sorts an answer that is no success.
pub(super) fn from_answer(answer: &Answer) -> BackendError {
    let cause = || Some(cause_of(answer));
    match answer.status {
        404 => missing(answer),
        // A node that is behind, two that only wait, and others that send on to
        // the active one: all a matter of time, or of the load balancer.
        412 | 472 | 473 | 300..=399 => BackendError::Unavailable(cause()),
        // Its storage has a limit of its own, and says so like this.
        500 if body(answer).says("value being too large") => {
            BackendError::Invalid("the value is too large for its storage".to_owned())
        }
        status => from_status(status, answer.retry_after, cause()),
    }
}

/// Whether a write was refused for the version that it was based on.
pub(super) fn is_stale(answer: &Answer) -> bool {
    answer.status == 400 && body(answer).says("check-and-set parameter did not match")
}

/// A 404 of Vault itself: one of a gateway must not pass for a missing secret.
fn missing(answer: &Answer) -> BackendError {
    let body = body(answer);
    if body.says("no handler for route") {
        return BackendError::Invalid("it has no such mount".to_owned());
    }
    if body.warns("versioned K/V") {
        return BackendError::Invalid("the mount is of KV version 2".to_owned());
    }
    match body.errors {
        Some(errors) if errors.is_empty() => BackendError::NotFound,
        _ => from_status(404, None, None),
    }
}

fn body(answer: &Answer) -> Body {
    serde_json::from_slice(answer.body.as_slice()).unwrap_or_default()
}

fn cause_of(answer: &Answer) -> Cause {
    let status = answer.status;
    if (300..=399).contains(&status) {
        return cause(format!(
            "status {status}: a standby node that sends on to another address, which is not \
             followed with a token"
        ));
    }
    let texts: Vec<_> = match answer.quotable {
        true => body(answer).errors.unwrap_or_default(),
        false => {
            let body = body(answer);
            PLAIN.iter().filter(|text| body.says(text)).map(|text| (*text).to_owned()).collect()
        }
    };
    match texts.is_empty() {
        true => cause(format!("status {status}")),
        false => cause(format!("status {status}: {}", texts.join("; "))),
    }
}

// === impl Body ===

impl Body {
    fn says(&self, text: &str) -> bool {
        self.errors.iter().flatten().any(|error| error.contains(text))
    }

    fn warns(&self, text: &str) -> bool {
        self.warnings.iter().flatten().any(|warning| warning.contains(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sorted(status: u16, body: &str, quotable: bool) -> String {
        let answer = Answer { quotable, ..Answer::new(status, body) };
        format!("{:?}", from_answer(&answer))
    }

    #[test]
    fn status_decides_and_a_missing_secret_is_vaults_word() {
        for (status, body, expected) in [
            (404, r#"{"errors":[]}"#, "NotFound"),
            (404, r#"{"errors":["no handler for route \"x\""]}"#, "Invalid(\"it has no such mount"),
            (
                404,
                r#"{"data":null,"warnings":["Invalid path for a versioned K/V secrets engine."]}"#,
                "Invalid(\"the mount is of KV version 2",
            ),
            (404, "default backend - 404", "Invalid(\"status 404"),
            (404, "", "Invalid(\"status 404"),
            (400, r#"{"errors":["canary"]}"#, "Invalid(\"status 400\")"),
            (403, r#"{"errors":["permission denied"]}"#, "PermissionDenied(Some("),
            (405, "", "Invalid("),
            (412, r#"{"errors":["required index state not present"]}"#, "Unavailable(Some("),
            (429, r#"{"errors":["request path blocked"]}"#, "Throttled"),
            (472, "", "Unavailable(Some("),
            (473, "", "Unavailable(Some("),
            (500, "", "Unavailable(Some("),
            (503, r#"{"errors":["Vault is sealed"]}"#, "Unavailable(Some("),
            (504, "", "TimedOut"),
            (301, "", "Unavailable(Some("),
            (307, "", "Unavailable(Some("),
        ] {
            let seen = sorted(status, body, true);
            assert!(seen.starts_with(expected), "{status} {body}: {seen}");
        }
    }

    #[test]
    fn texts_that_could_hold_a_value_are_not_quoted() {
        let body = r#"{"errors":["cannot parse canary","Vault is sealed"]}"#;
        assert!(sorted(503, body, true).contains("canary"));
        let seen = sorted(503, body, false);
        assert!(!seen.contains("canary") && seen.contains("status 503: Vault is sealed"), "{seen}");
        assert!(sorted(503, "canary", true).contains("\"status 503\""));
    }

    #[test]
    fn a_refused_login_is_a_denial_and_a_failed_one_is_not() {
        for status in [400, 401, 403, 404, 422] {
            let refused = from_login(&Answer::new(status, r#"{"errors":["invalid role"]}"#));
            assert!(matches!(refused, BackendError::PermissionDenied(Some(_))), "{refused:?}");
        }
        for (status, kind) in [(307, "unavailable"), (429, "throttled"), (503, "unavailable")] {
            assert_eq!(from_login(&Answer::new(status, "")).kind(), kind);
        }
    }
}
