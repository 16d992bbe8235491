//! More time than Envoy gives by itself.
//!
//! Envoy answers 504 when a message is not answered within its `message_timeout`, unless it is
//! asked for more: once for a message, and no more than its `max_message_timeout`. Whatever
//! else is in such a message is ignored.

use std::time::Duration;

use envoy_types::pb::{
    envoy::service::ext_proc::v3::{ImmediateResponse, ProcessingResponse},
    google,
};
use futures_util::future::BoxFuture;

use super::{HeadersAnswer, Session, phase::HeadersTurn};
use crate::injection::Resolution;

/// When Envoy is asked for more time, and for how much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extension {
    /// Before its own patience is over.
    pub(super) after: Duration,
    to: Duration,
}

/// An answer that takes longer.
pub(super) enum Pending {
    /// To headers, with the right to give it.
    Headers(HeadersTurn, BoxFuture<'static, HeadersAnswer>),
    /// About references in a body, by whoever knows.
    Body(BoxFuture<'static, Resolved>),
}

/// What was said about references in a body, and who did.
pub(super) type Resolved = (Box<dyn Session>, Result<Vec<(String, Resolution)>, ImmediateResponse>);

// === impl Extension ===

impl Extension {
    /// Asks once `after` is over, if Envoy grants more than that.
    pub(super) fn new(after: Duration, max: Option<Duration>) -> Option<Self> {
        max.filter(|max| *max > after).map(|to| Self { after, to })
    }

    /// How long an answer may take in all, so that it comes before Envoy gives up.
    pub(super) fn budget(self) -> Duration {
        self.to / 10 * 9
    }

    /// Asks for it.
    pub(super) fn message(self) -> ProcessingResponse {
        let time = google::protobuf::Duration {
            // A year at most, by configuration.
            seconds: i64::try_from(self.to.as_secs()).unwrap_or(i64::MAX),
            nanos: i32::try_from(self.to.subsec_nanos()).unwrap_or_default(),
        };
        ProcessingResponse { override_message_timeout: Some(time), ..ProcessingResponse::default() }
    }
}
