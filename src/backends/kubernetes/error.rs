//! What an API server's refusal means.

use std::time::Duration;

use serde::Deserialize;

use crate::backends::{
    BackendError, Cause,
    failure::{cause, from_status},
};

/// A call that did not succeed. The first kinds mean different things to different
/// methods.
#[derive(Debug)]
pub(super) enum Refusal {
    NotFound,
    /// The object is there, and not for this store's callers.
    OutOfBounds,
    /// An object of that name is there.
    AlreadyExists,
    /// The object is not what the caller had read.
    Changed(Cause),
    /// The pages' snapshot is gone; where to go on in a newer one.
    Expired {
        next: Option<String>,
    },
    Other(BackendError),
}

/// A refusal as it arrived.
pub(super) struct Answer<'a> {
    pub(super) status: u16,
    pub(super) retry_after: Option<Duration>,
    pub(super) audit_id: &'a str,
    pub(super) body: &'a [u8],
    /// Whether values were sent with the call. What admission says may then quote them.
    pub(super) write: bool,
    /// The object's name, which the cause is not to hold.
    pub(super) object: &'a str,
}

/// `meta/v1` Status.
#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Status {
    kind: String,
    metadata: StatusMetadata,
    reason: String,
    message: String,
    details: Details,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct StatusMetadata {
    #[serde(rename = "continue")]
    next: String,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Details {
    causes: Vec<StatusCause>,
    retry_after_seconds: u64,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct StatusCause {
    message: String,
}

/// The error of writing to an immutable object.
pub(super) fn immutable() -> BackendError {
    BackendError::Invalid("the Secret is immutable".to_owned())
}

// === impl Refusal ===

impl From<BackendError> for Refusal {
    fn from(error: BackendError) -> Self {
        Self::Other(error)
    }
}

impl From<Refusal> for BackendError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::NotFound | Refusal::OutOfBounds => Self::NotFound,
            Refusal::AlreadyExists => Self::Conflict,
            Refusal::Changed(cause) => Self::Unavailable(Some(cause)),
            // A list that starts over may succeed.
            Refusal::Expired { .. } => {
                Self::Unavailable(Some(cause("the listing took too long".to_owned())))
            }
            Refusal::Other(error) => error,
        }
    }
}

// === impl Answer ===

impl Answer<'_> {
    pub(super) fn sort(&self) -> Refusal {
        let status: Status = serde_json::from_slice(self.body).unwrap_or_default();
        if status.kind != "Status" {
            // Not the API server: a proxy on the way, or something else altogether.
            return Refusal::Other(from_status(self.status, self.retry_after, Some(self.bare())));
        }
        let retry_after = self.retry_after.or_else(|| {
            let seconds = status.details.retry_after_seconds;
            (seconds > 0).then(|| Duration::from_secs(seconds))
        });
        match (self.status, &*status.reason) {
            (404, "NotFound") => Refusal::NotFound,
            (409, "AlreadyExists") => Refusal::AlreadyExists,
            (409, _) => Refusal::Changed(self.cause(&status)),
            (410, _) => {
                let next = status.metadata.next;
                Refusal::Expired { next: (!next.is_empty()).then_some(next) }
            }
            // Its text may quote the whole object, with all its values.
            (422, _) => {
                let immutable_is_set =
                    |cause: &StatusCause| cause.message.contains("field is immutable when");
                Refusal::Other(match status.details.causes.iter().any(immutable_is_set) {
                    true => immutable(),
                    false => BackendError::Invalid("no valid Secret would be left".to_owned()),
                })
            }
            (code, _) => Refusal::Other(from_status(code, retry_after, Some(self.cause(&status)))),
        }
    }

    /// The server's words where they can be told, the object's name left out.
    fn cause(&self, status: &Status) -> Cause {
        // RBAC's own text speaks of users and verbs; webhooks say what they like.
        let of_rbac = status.message.contains(" resource \"secrets\" in API group \"\"");
        if self.write && !of_rbac {
            return self.bare();
        }
        let message = match self.object {
            "" => status.message.clone(),
            name => status.message.replace(&format!("{name:?}"), "<name>"),
        };
        cause(format!("status {}, audit {:?}: {message}", self.status, self.audit_id))
    }

    fn bare(&self) -> Cause {
        cause(format!("status {}, audit {:?}", self.status, self.audit_id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sorted(status: u16, body: &str, write: bool) -> Refusal {
        let body = body.as_bytes();
        Answer { status, retry_after: None, audit_id: "a1", body, write, object: "db" }.sort()
    }

    #[test]
    fn reasons_decide_and_only_a_real_status_is_believed() {
        let invalid = r#"{"kind":"Status","reason":"Invalid","details":{}}"#;
        let too_long = r#"{"kind":"Status","reason":"Invalid","details":{"name":"db","causes":[{"reason":"FieldValueTooLong","message":"Too long"}]}}"#;
        let frozen = r#"{"kind":"Status","reason":"Invalid","details":{"causes":[{"message":"Forbidden: field is immutable when `immutable` is set","field":"data"}]}}"#;
        for (status, body, expected) in [
            (404, r#"{"kind":"Status","reason":"NotFound"}"#, "NotFound"),
            (404, "404 page not found", "Other(Invalid("),
            (404, r#"{"reason":"NotFound"}"#, "Other(Invalid("),
            (404, r#"{"kind":"Status","reason":""}"#, "Other(Invalid("),
            (409, r#"{"kind":"Status","reason":"AlreadyExists"}"#, "AlreadyExists"),
            (409, r#"{"kind":"Status","reason":"Conflict"}"#, "Changed("),
            (409, "conflict", "Other(Invalid("),
            (
                410,
                r#"{"kind":"Status","metadata":{"continue":"n"}}"#,
                r#"Expired { next: Some("n""#,
            ),
            (410, r#"{"kind":"Status","reason":"Expired"}"#, "Expired { next: None"),
            (422, invalid, r#"Other(Invalid("no valid Secret"#),
            (422, too_long, r#"Other(Invalid("no valid Secret"#),
            (422, frozen, r#"Other(Invalid("the Secret is immutable"#),
            (401, r#"{"kind":"Status","reason":"Unauthorized"}"#, "Other(PermissionDenied("),
            (403, r#"{"kind":"Status","reason":"Forbidden"}"#, "Other(PermissionDenied("),
            (403, "<html>", "Other(PermissionDenied("),
            (
                429,
                r#"{"kind":"Status","reason":"TooManyRequests","details":{"retryAfterSeconds":3}}"#,
                "Other(Throttled { retry_after: Some(3s) }",
            ),
            (500, r#"{"kind":"Status","reason":"InternalError"}"#, "Other(Unavailable("),
            (503, "", "Other(Unavailable("),
            (504, r#"{"kind":"Status","reason":"Timeout"}"#, "Other(TimedOut"),
            (307, "", "Other(Unavailable(None"),
            (400, r#"{"kind":"Status","reason":"BadRequest","message":"m"}"#, "Other(Invalid("),
            (413, "", "Other(Invalid("),
        ] {
            let shown = format!("{:?}", sorted(status, body, false));
            assert!(shown.starts_with(expected), "{status} {body}: {shown}");
        }
    }

    #[test]
    fn causes_say_what_is_missing_and_neither_names_nor_values() {
        let rbac = r#"{"kind":"Status","reason":"Forbidden","message":"secrets \"db\" is forbidden: User \"system:serviceaccount:mesh:v\" cannot patch resource \"secrets\" in API group \"\" in the namespace \"shop\""}"#;
        for write in [false, true] {
            let Refusal::Other(BackendError::PermissionDenied(Some(cause))) =
                sorted(403, rbac, write)
            else {
                panic!("not a denial");
            };
            let cause = cause.to_string();
            assert!(cause.contains("cannot patch resource"), "{cause}");
            assert!(!cause.contains("\"db\""), "{cause}");
        }
        let webhook = r#"{"kind":"Status","reason":"Forbidden","message":"admission webhook \"w\" denied the request: canary"}"#;
        assert!(!format!("{:?}", sorted(403, webhook, true)).contains("canary"));
        let quoted = r#"{"kind":"Status","reason":"Invalid","message":"canary","details":{"causes":[{"message":"Invalid value: canary"}]}}"#;
        assert!(!format!("{:?}", sorted(422, quoted, true)).contains("canary"));
    }
}
