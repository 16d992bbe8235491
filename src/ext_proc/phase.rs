//! Which answer is due for which message of a stream. No I/O, no clock.
//!
//! Envoy ends a request over one answer of the wrong kind, or one too many. Here
//! an answer to headers takes a [`HeadersTurn`], which exists once per message and
//! is used up; all other answers are made here, of the kind that was asked for.
//! What a message order or mode does not provide for is refused: an error fails
//! closed, a guess does not.

use envoy_types::pb::envoy::{
    extensions::filters::http::ext_proc::v3::{
        ProcessingMode,
        processing_mode::{BodySendMode, HeaderSendMode},
    },
    service::ext_proc::v3::{
        BodyMutation, BodyResponse, CommonResponse, HeaderMutation, HeadersResponse, HttpBody,
        ProcessingRequest, ProcessingResponse, ProtocolConfiguration, StreamedBodyResponse,
        TrailersResponse, body_mutation::Mutation, processing_request,
        processing_response::Response,
    },
};

use super::{HeadersAnswer, RequestHeaders};

/// Envoy refuses streamed answers over 64 KiB.
const SLICE: usize = 60 * 1024;

/// Where one stream stands.
pub(super) struct Phases {
    mode_override: bool,
    /// Whether the first message was seen; it alone says how bodies are sent.
    started: bool,
    /// Envoy only shows what passes, and reads no answers.
    observed: bool,
    /// The request was answered here, and Envoy reads nothing more.
    responded: bool,
    /// Envoy ignores a mode override in a stream like this.
    override_ignored: bool,
    request: Direction,
    response: Direction,
}

#[derive(Default)]
struct Direction {
    at: Position,
    body: BodyMode,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Position {
    /// Nothing was sent; headers come first unless their mode is SKIP.
    #[default]
    Start,
    /// After headers or a part of the body.
    Open,
    /// After end of stream.
    Ended,
    /// After trailers.
    Trailed,
}

/// How a body has to be answered.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum BodyMode {
    /// Envoy holds the bytes and wants one answer per message: NONE, BUFFERED,
    /// BUFFERED_PARTIAL and STREAMED, also where no mode was announced.
    #[default]
    Held,
    /// Envoy forgets what it sends: FULL_DUPLEX_STREAMED.
    Duplex,
    /// As duplex, a whole gRPC message at a time: GRPC.
    Messages,
    /// Newer than this program.
    Unknown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Request,
    Response,
}

/// The right to answer one message with request headers.
pub(super) struct HeadersTurn(());

/// What to do about a message.
pub(super) enum Step {
    /// Ask the processor, then [`Phases::answer`].
    Process(HeadersTurn, Box<RequestHeaders>),
    /// Send this.
    Answer(Box<ProcessingResponse>),
    /// Send all of these.
    Echo(Echo),
    /// No answer is due.
    Nothing,
}

/// A body message given back as it came, in slices.
pub(super) struct Echo {
    side: Side,
    message: HttpBody,
    sent: usize,
    slice: usize,
    done: bool,
}

/// A message that cannot come at this point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum OutOfOrder {
    #[error("message holds no phase")]
    NoPhase,
    #[error("headers are not the first message of their direction")]
    Headers,
    #[error("body after the end of its stream")]
    Body,
    #[error("trailers after the end of their stream")]
    Trailers,
    #[error("unknown body mode")]
    BodyMode,
}

// === impl Phases ===

impl Phases {
    pub(super) fn new(mode_override: bool) -> Self {
        Self {
            mode_override,
            started: false,
            observed: false,
            responded: false,
            override_ignored: false,
            request: Direction::default(),
            response: Direction::default(),
        }
    }

    /// Takes the next message.
    pub(super) fn next(&mut self, message: ProcessingRequest) -> Result<Step, OutOfOrder> {
        use processing_request::Request;
        if !std::mem::replace(&mut self.started, true)
            && let Some(protocol) = message.protocol_config
        {
            self.configure(protocol);
        }
        self.observed |= message.observability_mode;
        if self.observed || self.responded {
            return Ok(Step::Nothing);
        }
        match message.request.ok_or(OutOfOrder::NoPhase)? {
            Request::RequestHeaders(headers) => {
                // A response is under way: nothing was routed, nothing is to be injected.
                if self.response.at != Position::Start {
                    return Err(OutOfOrder::Headers);
                }
                self.request.headers(headers.end_of_stream)?;
                let request = RequestHeaders {
                    headers,
                    attributes: message.attributes,
                    metadata: message.metadata_context,
                    peer: None,
                };
                Ok(Step::Process(HeadersTurn(()), Box::new(request)))
            }
            Request::ResponseHeaders(headers) => {
                self.response.headers(headers.end_of_stream)?;
                Ok(answer(Side::Response.headers(None)))
            }
            Request::RequestBody(body) => self.request.body(Side::Request, body),
            Request::ResponseBody(body) => self.response.body(Side::Response, body),
            Request::RequestTrailers(_) => self.request.trailers(Side::Request),
            Request::ResponseTrailers(_) => self.response.trailers(Side::Response),
        }
    }

    /// Answers request headers.
    pub(super) fn answer(&mut self, _: HeadersTurn, answer: HeadersAnswer) -> ProcessingResponse {
        let mutation = match answer {
            HeadersAnswer::Respond(response) => {
                self.responded = true;
                return respond(Response::ImmediateResponse(response));
            }
            HeadersAnswer::Continue => None,
            HeadersAnswer::Mutate(mutation) | HeadersAnswer::Watch(mutation, _) => Some(mutation),
        };
        self.headers(mutation, HeaderSendMode::Skip)
    }

    /// Answers request headers, and asks for those of the response.
    pub(super) fn answer_watching(
        &mut self,
        _: HeadersTurn,
        mutation: HeaderMutation,
    ) -> ProcessingResponse {
        self.headers(Some(mutation), HeaderSendMode::Send)
    }

    fn headers(
        &self,
        mutation: Option<HeaderMutation>,
        response_headers: HeaderSendMode,
    ) -> ProcessingResponse {
        let common = mutation.map(|mutation| CommonResponse {
            header_mutation: Some(mutation),
            ..CommonResponse::default()
        });
        let mut answer = respond(Side::Request.headers(common));
        if self.mode_override && !self.override_ignored {
            answer.mode_override = Some(nothing_more(response_headers));
        }
        answer
    }

    fn configure(&mut self, protocol: ProtocolConfiguration) {
        self.request.body = BodyMode::of(protocol.request_body_mode);
        self.response.body = BodyMode::of(protocol.response_body_mode);
        self.override_ignored = protocol.send_body_without_waiting_for_header_response
            || [self.request.body, self.response.body].iter().any(|mode| *mode != BodyMode::Held);
    }
}

/// Asks for none of the phases that nothing is done in, of response headers as told. Body modes have no
/// "as configured": what is not set means NONE.
fn nothing_more(response_headers: HeaderSendMode) -> ProcessingMode {
    ProcessingMode {
        request_header_mode: HeaderSendMode::Default.into(),
        response_header_mode: response_headers.into(),
        request_body_mode: BodySendMode::None.into(),
        response_body_mode: BodySendMode::None.into(),
        request_trailer_mode: HeaderSendMode::Skip.into(),
        response_trailer_mode: HeaderSendMode::Skip.into(),
    }
}

fn respond(response: Response) -> ProcessingResponse {
    ProcessingResponse { response: Some(response), ..ProcessingResponse::default() }
}

fn answer(response: Response) -> Step {
    Step::Answer(Box::new(respond(response)))
}

// === impl Direction ===

impl Direction {
    fn headers(&mut self, end_of_stream: bool) -> Result<(), OutOfOrder> {
        if self.at != Position::Start {
            return Err(OutOfOrder::Headers);
        }
        self.at = if end_of_stream { Position::Ended } else { Position::Open };
        Ok(())
    }

    fn body(&mut self, side: Side, message: HttpBody) -> Result<Step, OutOfOrder> {
        let ends = message.end_of_stream || message.end_of_stream_without_message;
        match self.at {
            Position::Start | Position::Open => {}
            // Envoy may say twice that a stream has ended. Where it waits for an
            // answer it still gets one, below.
            Position::Ended if ends && message.body.is_empty() => {
                if matches!(self.body, BodyMode::Duplex | BodyMode::Messages) {
                    return Ok(Step::Nothing);
                }
            }
            Position::Ended | Position::Trailed => return Err(OutOfOrder::Body),
        }
        self.at = if ends { Position::Ended } else { Position::Open };
        let slice = match self.body {
            BodyMode::Held => return Ok(answer(side.body(None))),
            BodyMode::Duplex => SLICE,
            BodyMode::Messages => usize::MAX,
            BodyMode::Unknown => return Err(OutOfOrder::BodyMode),
        };
        // An empty chunk says nothing, but an empty gRPC message is a message.
        let done = self.body == BodyMode::Duplex && message.body.is_empty() && !ends;
        Ok(Step::Echo(Echo { side, message, sent: 0, slice, done }))
    }

    fn trailers(&mut self, side: Side) -> Result<Step, OutOfOrder> {
        if matches!(self.at, Position::Ended | Position::Trailed) {
            return Err(OutOfOrder::Trailers);
        }
        self.at = Position::Trailed;
        Ok(answer(side.trailers()))
    }
}

// === impl BodyMode ===

impl BodyMode {
    fn of(mode: i32) -> Self {
        match BodySendMode::try_from(mode) {
            Ok(
                BodySendMode::None
                | BodySendMode::Streamed
                | BodySendMode::Buffered
                | BodySendMode::BufferedPartial,
            ) => Self::Held,
            Ok(BodySendMode::FullDuplexStreamed) => Self::Duplex,
            Ok(BodySendMode::Grpc) => Self::Messages,
            Err(_) => Self::Unknown,
        }
    }
}

// === impl Side ===

impl Side {
    fn headers(self, response: Option<CommonResponse>) -> Response {
        let headers = HeadersResponse { response };
        match self {
            Self::Request => Response::RequestHeaders(headers),
            Self::Response => Response::ResponseHeaders(headers),
        }
    }

    fn body(self, response: Option<CommonResponse>) -> Response {
        let body = BodyResponse { response };
        match self {
            Self::Request => Response::RequestBody(body),
            Self::Response => Response::ResponseBody(body),
        }
    }

    fn trailers(self) -> Response {
        let trailers = TrailersResponse::default();
        match self {
            Self::Request => Response::RequestTrailers(trailers),
            Self::Response => Response::ResponseTrailers(trailers),
        }
    }
}

// === impl Echo ===

impl Iterator for Echo {
    type Item = ProcessingResponse;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let left = &self.message.body[self.sent..];
        let body = left[..left.len().min(self.slice)].to_vec();
        self.sent += body.len();
        self.done = self.sent == self.message.body.len();
        let streamed = StreamedBodyResponse {
            body,
            // Once, with the last slice.
            end_of_stream: self.done && self.message.end_of_stream,
            end_of_stream_without_message: self.message.end_of_stream_without_message,
            grpc_message_compressed: self.message.grpc_message_compressed,
            drain_complete: false,
        };
        let mutation = BodyMutation { mutation: Some(Mutation::StreamedResponse(streamed)) };
        let common = CommonResponse { body_mutation: Some(mutation), ..CommonResponse::default() };
        Some(respond(self.side.body(Some(common))))
    }
}

#[cfg(test)]
mod tests;
