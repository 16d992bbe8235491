//! Answers, each of the kind that a message asks for.

use bytes::Bytes;
use envoy_types::pb::envoy::service::ext_proc::v3::{
    BodyMutation, BodyResponse, CommonResponse, HeaderMutation, HeadersResponse, HttpBody,
    ProcessingResponse, StreamedBodyResponse, TrailersResponse, body_mutation::Mutation,
    processing_response::Response,
};

use super::Step;

/// Envoy refuses streamed answers over 64 KiB.
pub(super) const SLICE: usize = 60 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::ext_proc) enum Side {
    Request,
    Response,
}

/// A body in duplex mode: all of it is given back, in slices, and then what follows.
pub(in crate::ext_proc) struct Echo {
    side: Side,
    pieces: std::collections::VecDeque<Bytes>,
    slice: usize,
    /// Like the message that is answered, for all but its body.
    like: HttpBody,
    /// Whether a last slice is still due.
    open: bool,
    trailers: Option<TrailersResponse>,
}

pub(super) fn respond(response: Response) -> ProcessingResponse {
    ProcessingResponse { response: Some(response), ..ProcessingResponse::default() }
}

pub(super) fn answer(response: Response) -> Step {
    Step::Answer(Box::new(respond(response)))
}

/// Changes headers, if there is anything to change.
pub(super) fn with_headers(mutation: HeaderMutation) -> Option<CommonResponse> {
    (mutation != HeaderMutation::default())
        .then(|| CommonResponse { header_mutation: Some(mutation), ..CommonResponse::default() })
}

/// Replaces a body, or a chunk of one. Other data planes take an empty body for none.
pub(super) fn with_body(body: Vec<u8>) -> CommonResponse {
    let mutation = match body.is_empty() {
        true => Mutation::ClearBody(true),
        false => Mutation::Body(body),
    };
    let mutation = BodyMutation { mutation: Some(mutation) };
    CommonResponse { body_mutation: Some(mutation), ..CommonResponse::default() }
}

// === impl Side ===

impl Side {
    pub(super) fn headers(self, response: Option<CommonResponse>) -> Response {
        let headers = HeadersResponse { response };
        match self {
            Self::Request => Response::RequestHeaders(headers),
            Self::Response => Response::ResponseHeaders(headers),
        }
    }

    pub(super) fn body(self, response: Option<CommonResponse>) -> Response {
        let body = BodyResponse { response };
        match self {
            Self::Request => Response::RequestBody(body),
            Self::Response => Response::ResponseBody(body),
        }
    }

    pub(super) fn trailers(self, trailers: TrailersResponse) -> Response {
        match self {
            Self::Request => Response::RequestTrailers(trailers),
            Self::Response => Response::ResponseTrailers(trailers),
        }
    }
}

// === impl Echo ===

impl Echo {
    /// A body message, with these bytes for its own.
    pub(super) fn body(side: Side, pieces: Vec<Bytes>, like: HttpBody) -> Self {
        // An empty chunk says nothing.
        let open = like.end_of_stream || like.end_of_stream_without_message;
        Self { side, pieces: pieces.into(), slice: SLICE, like, open, trailers: None }
    }

    /// A gRPC message, which stays whole; an empty one is a message too.
    pub(super) fn message(side: Side, mut like: HttpBody) -> Self {
        let pieces = [Bytes::from(std::mem::take(&mut like.body))].into();
        Self { side, pieces, slice: usize::MAX, like, open: true, trailers: None }
    }

    /// What was held back of a body, and then its trailers.
    pub(super) fn trailers(side: Side, pieces: Vec<Bytes>, trailers: TrailersResponse) -> Self {
        let like = HttpBody::default();
        let trailers = Some(trailers);
        Self { side, pieces: pieces.into(), slice: SLICE, like, open: false, trailers }
    }

    fn take(&mut self) -> Vec<u8> {
        let mut body = Vec::new();
        while let Some(piece) = self.pieces.front_mut() {
            let room = self.slice - body.len();
            if room == 0 {
                break;
            }
            if piece.len() > room {
                body.extend_from_slice(&piece.split_to(room));
                break;
            }
            // Without copying, where it is one piece alone.
            let piece = self.pieces.pop_front().unwrap_or_default();
            match body.is_empty() {
                true => body = piece.into(),
                false => body.extend_from_slice(&piece),
            }
        }
        body
    }
}

impl Iterator for Echo {
    type Item = ProcessingResponse;

    fn next(&mut self) -> Option<Self::Item> {
        let body = self.take();
        if body.is_empty() && !self.open {
            return self.trailers.take().map(|trailers| respond(self.side.trailers(trailers)));
        }
        let last = self.pieces.is_empty();
        // Once, with the last slice.
        let ends = last && std::mem::take(&mut self.open);
        let streamed = StreamedBodyResponse {
            body,
            end_of_stream: ends && self.like.end_of_stream,
            end_of_stream_without_message: self.like.end_of_stream_without_message,
            grpc_message_compressed: self.like.grpc_message_compressed,
            drain_complete: false,
        };
        let mutation = BodyMutation { mutation: Some(Mutation::StreamedResponse(streamed)) };
        let common = CommonResponse { body_mutation: Some(mutation), ..CommonResponse::default() };
        Some(respond(self.side.body(Some(common))))
    }
}
