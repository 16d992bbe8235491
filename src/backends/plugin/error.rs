//! What a gRPC status of a plugin means to a caller.
//!
//! The plugin's own text goes only into causes and the log: what stands in
//! [`BackendError::Invalid`] is written here.

use std::{error::Error as _, time::Duration};

use prost::Message;
use tonic::{Code, Status, TimeoutExpired};

use crate::backends::{
    BackendError, Cause,
    failure::{LONGEST_WAIT, cause, causes, chain},
};

/// Who gives the reasons that we know.
const DOMAIN: &str = "vaultmux.dev";
const DISABLED: &str = "DISABLED";
const PENDING_DELETION: &str = "PENDING_DELETION";

const ERROR_INFO: &str = "type.googleapis.com/google.rpc.ErrorInfo";
const RETRY_INFO: &str = "type.googleapis.com/google.rpc.RetryInfo";

/// `google.rpc.Status`, of which the code and the message come twice.
#[derive(Clone, PartialEq, Message)]
pub(super) struct RichStatus {
    #[prost(message, repeated, tag = "3")]
    pub(super) details: Vec<prost_types::Any>,
}

/// `google.rpc.ErrorInfo`, without its metadata.
#[derive(Clone, PartialEq, Message)]
pub(super) struct ErrorInfo {
    #[prost(string, tag = "1")]
    pub(super) reason: String,
    #[prost(string, tag = "2")]
    pub(super) domain: String,
}

/// `google.rpc.RetryInfo`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    pub(super) retry_delay: Option<prost_types::Duration>,
}

/// The connection is over; nothing of this call was sent over it.
#[derive(Debug, thiserror::Error)]
#[error("the connection to the plugin is over")]
pub(super) struct SessionOver;

/// Whether the call failed on the way, and not by the plugin's answer.
pub(super) fn is_of_transport(status: &Status) -> bool {
    status.source().is_some()
}

/// Whether the call was never sent, because the connection had ended before.
pub(super) fn was_not_sent(status: &Status) -> bool {
    causes(status).any(|cause| cause.is::<SessionOver>())
}

/// Sorts a status by what a caller can do about it.
pub(super) fn from_grpc(status: &Status, request_id: &str) -> BackendError {
    if is_of_transport(status) {
        // Its own text repeats that of its cause.
        return match causes(status).any(|cause| cause.is::<TimeoutExpired>()) {
            true => BackendError::TimedOut,
            false => BackendError::Unavailable(Some(chain(status))),
        };
    }
    match status.code() {
        Code::NotFound => BackendError::NotFound,
        Code::AlreadyExists => BackendError::Conflict,
        Code::PermissionDenied | Code::Unauthenticated => {
            BackendError::PermissionDenied(Some(said(status, request_id)))
        }
        Code::FailedPrecondition => match reason(status).as_deref() {
            Some(DISABLED) => BackendError::Disabled,
            Some(PENDING_DELETION) => BackendError::PendingDeletion,
            _ => invalid(status, request_id, "failed precondition"),
        },
        Code::ResourceExhausted => BackendError::Throttled { retry_after: retry_after(status) },
        Code::DeadlineExceeded => BackendError::TimedOut,
        Code::InvalidArgument => invalid(status, request_id, "invalid argument"),
        Code::Unimplemented => invalid(status, request_id, "the plugin does not do this"),
        // Ours too: the answer is longer than we read.
        Code::OutOfRange => invalid(status, request_id, "out of range, or too long an answer"),
        // Bugs and crashes of a plugin are among them: as with a failing store, an
        // older value may do.
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::Aborted
        | Code::Internal
        | Code::Unavailable
        | Code::DataLoss => BackendError::Unavailable(Some(said(status, request_id))),
    }
}

/// What the plugin said, for the log. Not its words: those about a write could quote the
/// value. The plugin's own log has them under the request's id.
fn said(status: &Status, request_id: &str) -> Cause {
    cause(format!("code {:?}, request {request_id}", status.code()))
}

/// There is no room for a cause in this error, so it is logged here.
fn invalid(status: &Status, request_id: &str, text: &str) -> BackendError {
    tracing::debug!(cause = %said(status, request_id), "a plugin refused a request");
    BackendError::Invalid(text.to_owned())
}

fn reason(status: &Status) -> Option<String> {
    let info: ErrorInfo = detail(status, ERROR_INFO)?;
    (info.domain == DOMAIN).then_some(info.reason)
}

fn retry_after(status: &Status) -> Option<Duration> {
    let info: RetryInfo = detail(status, RETRY_INFO)?;
    Some(Duration::try_from(info.retry_delay?).ok()?.min(LONGEST_WAIT))
}

/// The first detail of a type that can be read.
fn detail<M: Message + Default>(status: &Status, type_url: &str) -> Option<M> {
    let rich = RichStatus::decode(status.details()).ok()?;
    let found = rich.details.iter().find(|detail| detail.type_url == type_url)?;
    M::decode(&*found.value).ok()
}
