//! More time than Envoy gives by itself.
//!
//! Envoy answers 504 when a message is not answered within its `message_timeout`, unless it is
//! asked for more: once for a message, and no more than its `max_message_timeout`. Whatever
//! else is in such a message is ignored.

use std::time::Duration;

use envoy_types::pb::{envoy::service::ext_proc::v3::ProcessingResponse, google};
use futures_util::future::BoxFuture;

use super::{HeadersAnswer, phase::HeadersTurn};

/// When Envoy is asked for more time, and for how much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extension {
    /// Before its own patience is over.
    pub(super) after: Duration,
    to: Duration,
}

/// An answer that takes longer, and the right to give it.
pub(super) struct Pending {
    pub(super) turn: HeadersTurn,
    pub(super) answer: BoxFuture<'static, HeadersAnswer>,
}

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
