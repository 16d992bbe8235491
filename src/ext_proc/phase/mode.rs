//! How bodies are sent, and which way of sending them a rule's work needs.

use envoy_types::pb::envoy::extensions::filters::http::ext_proc::v3::{
    ProcessingMode,
    processing_mode::{BodySendMode, HeaderSendMode},
};

/// Longest body that Envoy is asked to hold as a whole. Proxies are set to hold as
/// little as this; what is longer is asked for in chunks.
const SHORT: u64 = 32 * 1024;

/// How a body comes, and has to be answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BodyMode {
    /// It does not come.
    #[default]
    None,
    /// As a whole, in one message.
    Buffered,
    /// As a whole if it is short enough, else only its beginning.
    BufferedPartial,
    /// In chunks, each of which Envoy holds until it is answered.
    Streamed,
    /// In chunks that Envoy forgets: FULL_DUPLEX_STREAMED.
    Duplex,
    /// As duplex, a whole gRPC message at a time: GRPC.
    Messages,
    /// Newer than this program.
    Unknown,
}

/// What else of a message is to be sent, beyond the headers of the request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::ext_proc) struct Wanted {
    pub(in crate::ext_proc) request_body: bool,
    pub(in crate::ext_proc) response_headers: bool,
    pub(in crate::ext_proc) response_body: bool,
}

// === impl BodyMode ===

impl BodyMode {
    pub(super) fn of(mode: i32) -> Self {
        match BodySendMode::try_from(mode) {
            Ok(BodySendMode::None) => Self::None,
            Ok(BodySendMode::Streamed) => Self::Streamed,
            Ok(BodySendMode::Buffered) => Self::Buffered,
            Ok(BodySendMode::BufferedPartial) => Self::BufferedPartial,
            Ok(BodySendMode::FullDuplexStreamed) => Self::Duplex,
            Ok(BodySendMode::Grpc) => Self::Messages,
            Err(_) => Self::Unknown,
        }
    }

    /// Whether Envoy, in this mode, heeds no override.
    pub(super) fn is_fixed(self) -> bool {
        matches!(self, Self::Duplex | Self::Messages | Self::Unknown)
    }

    /// Whether bytes of a body in this mode can be replaced.
    pub(super) fn is_rewritable(self) -> bool {
        match self {
            Self::Buffered | Self::BufferedPartial | Self::Streamed | Self::Duplex => true,
            Self::None | Self::Messages | Self::Unknown => false,
        }
    }

    /// The mode to ask for, to replace bytes in a body of this length. Nobody tells
    /// whether Envoy heeds it, so what is set stays where it will do: bytes that are held
    /// back from a body that is shown in part would be lost.
    pub(super) fn for_work(self, length: Option<u64>) -> Self {
        match self {
            Self::None if length.is_some_and(|length| length <= SHORT) => Self::Buffered,
            Self::None => Self::Streamed,
            set => set,
        }
    }

    fn to_envoy(self) -> BodySendMode {
        match self {
            Self::Buffered => BodySendMode::Buffered,
            Self::BufferedPartial => BodySendMode::BufferedPartial,
            Self::Streamed => BodySendMode::Streamed,
            Self::Duplex => BodySendMode::FullDuplexStreamed,
            Self::Messages => BodySendMode::Grpc,
            Self::None | Self::Unknown => BodySendMode::None,
        }
    }
}

/// Asks for these and nothing else. Body modes have no "as configured": what is not
/// set means NONE. Whoever gets chunks needs to know of trailers, which come after
/// the last.
pub(super) fn override_to(request: BodyMode, response: BodyMode, headers: bool) -> ProcessingMode {
    let send = |wanted| if wanted { HeaderSendMode::Send } else { HeaderSendMode::Skip };
    ProcessingMode {
        request_header_mode: HeaderSendMode::Default.into(),
        response_header_mode: send(headers).into(),
        request_body_mode: request.to_envoy().into(),
        response_body_mode: response.to_envoy().into(),
        request_trailer_mode: send(request == BodyMode::Streamed).into(),
        response_trailer_mode: send(response != BodyMode::None).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_bodies_are_asked_for_whole_and_others_in_chunks() {
        use BodyMode::{Buffered, BufferedPartial, None as Off, Streamed};
        for (configured, length, expected) in [
            (Off, Some(0), Buffered),
            (Off, Some(SHORT), Buffered),
            (Off, Some(SHORT + 1), Streamed),
            (Off, None, Streamed),
            (Buffered, None, Buffered),
            (Buffered, Some(SHORT), Buffered),
            (Buffered, Some(SHORT + 1), Buffered),
            (BufferedPartial, None, BufferedPartial),
            (Streamed, Some(1), Streamed),
        ] {
            assert_eq!(configured.for_work(length), expected, "{configured:?} {length:?}");
        }
    }

    #[test]
    fn overrides_say_every_body_mode_and_follow_chunks_to_the_trailers() {
        let (send, skip) = (HeaderSendMode::Send as i32, HeaderSendMode::Skip as i32);
        let streamed = override_to(BodyMode::Streamed, BodyMode::None, false);
        assert_eq!(streamed.request_body_mode, BodySendMode::Streamed as i32);
        assert_eq!((streamed.request_trailer_mode, streamed.response_trailer_mode), (send, skip));
        let whole = override_to(BodyMode::Buffered, BodyMode::Streamed, true);
        assert_eq!(whole.request_body_mode, BodySendMode::Buffered as i32);
        assert_eq!(whole.response_body_mode, BodySendMode::Streamed as i32);
        assert_eq!((whole.request_trailer_mode, whole.response_trailer_mode), (skip, send));
        assert_eq!(whole.response_header_mode, send);
    }
}
