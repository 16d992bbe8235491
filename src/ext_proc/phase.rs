//! Which answer is due for which message of a stream. No I/O, no clock.
//!
//! Envoy ends a request over one answer of the wrong kind, or one too many. Here
//! an answer to headers takes a turn, which exists once per message and is used up;
//! all other answers are made here, of the kind that was asked for. What a message
//! order or mode does not provide for is refused: an error fails closed, a guess does
//! not.

mod answer;
mod direction;
mod framing;
mod mode;

use std::iter;

use bytes::Bytes;
use envoy_types::pb::envoy::{
    extensions::filters::http::ext_proc::v3::processing_mode::HeaderSendMode,
    service::ext_proc::v3::{
        HeaderMutation, HttpHeaders, HttpTrailers, ImmediateResponse, ProcessingRequest,
        ProcessingResponse, ProtocolConfiguration, processing_request,
        processing_response::Response,
    },
};

pub(super) use self::{
    answer::{Echo, Side},
    direction::Work,
    mode::Wanted,
};
use self::{
    answer::{answer, respond, with_headers},
    direction::Direction,
    mode::override_to,
};
pub use self::{direction::Scan, framing::Framing, mode::BodyMode};
use super::{BodyRefusal, HeadersAnswer, RequestHeaders, ResponseAnswer, Rest, mutation};
use crate::injection::Resolution;

/// What is known of the filter before it says a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PhaseSettings {
    /// Whether to ask Envoy, request by request, for what is needed and nothing else.
    pub mode_override: bool,
    /// Whether the operator says that it is heeded. Where it is not, a response passes
    /// without having been looked into, and nobody learns of it.
    pub override_heeded: bool,
    /// The filter's modes, where it does not announce them.
    pub modes: Modes,
    /// Longest body that is taken as a whole.
    pub body_limit: usize,
}

/// How the filter is set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Modes {
    /// `request_body_mode`.
    pub request_body: BodyMode,
    /// `response_body_mode`.
    pub response_body: BodyMode,
    /// Whether `request_trailer_mode` is SEND. No filter announces it.
    pub request_trailers: bool,
    /// Whether `response_trailer_mode` is SEND.
    pub response_trailers: bool,
}

/// Where one stream stands.
pub(super) struct Phases {
    settings: PhaseSettings,
    /// Whether the first message was seen; it alone says how bodies are sent.
    started: bool,
    /// Envoy only shows what passes, and reads no answers.
    observed: bool,
    /// The request was answered here, and Envoy reads nothing more.
    responded: bool,
    /// Envoy ignores a mode override in a stream like this.
    override_ignored: bool,
    /// Whether the response's body is shown only if Envoy heeds the override.
    response_overridden: bool,
    /// Whether Envoy was asked to show nothing more of the request.
    spared: bool,
    /// Whether something came that shows that it did not heed that.
    unheeded: bool,
    wanted: Wanted,
    request: Direction,
    response: Direction,
    notes: Vec<Note>,
}

/// The right to answer one message with request headers.
pub(super) struct HeadersTurn(());

/// The right to answer one message with response headers or trailers.
pub(super) struct ResponseTurn(());

/// What to do about a message.
pub(super) enum Step {
    /// Show it to the processor. No answer is due.
    Observe(Box<RequestHeaders>),
    /// Ask the processor, then [`Phases::answer`].
    Process(HeadersTurn, Box<RequestHeaders>),
    /// Ask what these references stand for, then [`Phases::resolved`].
    Resolve(Vec<String>),
    /// Ask which headers come of this whole body, then [`Phases::signed`]. It may have been
    /// changed.
    Sign(Bytes, bool),
    /// Ask what becomes of the response, then [`Phases::answer_response`].
    Response(ResponseTurn, Box<HttpHeaders>),
    /// Ask what becomes of its trailers, then [`Phases::answer_trailers`].
    ResponseTrailers(ResponseTurn, HttpTrailers),
    /// The message cannot go on: end it, by [`Phases::immediate`].
    Refuse(BodyRefusal),
    /// Send this.
    Answer(Box<ProcessingResponse>),
    /// Send all of these.
    Echo(Echo),
    /// No answer is due.
    Nothing,
}

/// What an operator should hear of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Note {
    /// A body was asked for and did not come, or came and was not asked for.
    OverrideIgnored,
    /// A response was to be looked into, and the stream ended without it.
    ResponseUnseen,
    /// A reference that is one too many, in a body that passes all the same.
    TooMany,
    /// A reference in a JSON body that stands in no string, likewise.
    Position,
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
    #[error("body is longer than announced")]
    Length,
    #[error("response while the end of the request's body is held back")]
    Held,
    #[error("response to a request whose body, or the response's own, had to be shown and was not")]
    Unseen,
}

// === impl Phases ===

impl Phases {
    pub(super) fn new(settings: PhaseSettings) -> Self {
        let mut request = Direction::new(Side::Request, settings.body_limit);
        let mut response = Direction::new(Side::Response, settings.body_limit);
        request.mode = settings.modes.request_body;
        response.mode = settings.modes.response_body;
        Self {
            settings,
            started: false,
            observed: false,
            responded: false,
            override_ignored: request.mode.is_fixed() || response.mode.is_fixed(),
            response_overridden: false,
            spared: false,
            unheeded: false,
            wanted: Wanted::default(),
            request,
            response,
            notes: Vec::new(),
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
        if self.responded || self.observed && message.request.is_none() {
            return Ok(Step::Nothing);
        }
        match message.request.ok_or(OutOfOrder::NoPhase)? {
            Request::RequestHeaders(headers) if self.observed => {
                let framing = Framing::of(&headers);
                let request = RequestHeaders {
                    headers,
                    attributes: message.attributes,
                    metadata: message.metadata_context,
                    framing,
                    ..RequestHeaders::default()
                };
                Ok(Step::Observe(Box::new(request)))
            }
            _ if self.observed => Ok(Step::Nothing),
            Request::RequestHeaders(headers) => {
                // A response is under way: nothing was routed, nothing is to be injected.
                if self.response.started() {
                    return Err(OutOfOrder::Headers);
                }
                let framing = Framing::of(&headers);
                self.request.headers(framing)?;
                let request = RequestHeaders {
                    headers,
                    attributes: message.attributes,
                    metadata: message.metadata_context,
                    peer: None,
                    framing,
                    whole_body: !framing.ends && !framing.tunnel && self.has_whole(),
                    request_body: !framing.ends && !framing.tunnel && self.reaches(Side::Request),
                    response_body: !framing.tunnel && self.reaches(Side::Response),
                };
                Ok(Step::Process(HeadersTurn(()), Box::new(request)))
            }
            Request::ResponseHeaders(headers) => {
                self.response.headers(Framing::of(&headers))?;
                if self.request.is_cut_off() {
                    return Err(OutOfOrder::Held);
                }
                if self.request.is_unseen() {
                    self.notes.push(Note::OverrideIgnored);
                    // An override that did not show the one body does not show the other. A
                    // body in chunks may also be late, where the answer did not wait for it.
                    self.unheeded |= self.request.mode == BodyMode::Buffered;
                    if self.request.must_be_seen() {
                        return Err(OutOfOrder::Unseen);
                    }
                }
                if self.unheeded && self.wanted.response_body && self.hides_response() {
                    return Err(OutOfOrder::Unseen);
                }
                Ok(match self.wanted.response_headers || self.wanted.response_body {
                    true => Step::Response(ResponseTurn(()), Box::new(headers)),
                    false => answer(Side::Response.headers(None)),
                })
            }
            Request::RequestBody(body) => {
                self.came_uncalled();
                self.request.body(body)
            }
            // What is to be taken out is decided over headers. Those have gone on.
            Request::ResponseBody(_) | Request::ResponseTrailers(_)
                if self.wanted.response_body && !self.response.started() =>
            {
                Ok(Step::Refuse(BodyRefusal::Headless))
            }
            Request::ResponseBody(body) => self.response.body(body),
            Request::RequestTrailers(_) => {
                self.came_uncalled();
                self.request.trailers(HeaderMutation::default())
            }
            Request::ResponseTrailers(trailers) if self.wanted.response_body => {
                Ok(Step::ResponseTrailers(ResponseTurn(()), trailers))
            }
            Request::ResponseTrailers(_) => self.response.trailers(HeaderMutation::default()),
        }
    }

    /// Answers request headers. Whoever knows of work to be done says so by
    /// [`Phases::proceed`].
    pub(super) fn answer(
        &mut self,
        turn: HeadersTurn,
        answer: HeadersAnswer,
    ) -> ProcessingResponse {
        match answer {
            HeadersAnswer::Respond(response) => self.immediate(response),
            HeadersAnswer::Continue => self.proceed(turn, Rest::default()),
            HeadersAnswer::Mutate(mutation) => {
                self.proceed(turn, Rest { mutation, ..Rest::default() })
            }
            HeadersAnswer::Proceed(proceed) => self.proceed(turn, proceed.work),
        }
    }

    /// Answers the headers of a request that goes on.
    pub(super) fn proceed(&mut self, _: HeadersTurn, rest: Rest) -> ProcessingResponse {
        let wanted = Wanted {
            request_body: rest.scan.is_some() || rest.signs,
            response_headers: rest.response_headers,
            response_body: rest.response_body,
        };
        let mut mutation = rest.mutation;
        // Said by whoever knows of another length than the message did.
        let length = mutation::length_after(&mutation);
        self.request.framing.length = length.or(self.request.framing.length);
        let work = rest.scan.map_or(Work::Pass, Work::Scan);
        let overrides = self.settings.mode_override && !self.override_ignored;
        self.wanted = wanted;
        let asked_for = overrides && self.settings.override_heeded;
        self.response.trailers_hidden = !asked_for && !self.settings.modes.response_trailers;
        self.request.work(work);
        self.request.signs(rest.signs);
        if overrides && rest.signs {
            // Whatever is set: in no other mode do headers wait for it.
            self.request.mode = BodyMode::Buffered;
        } else if overrides && wanted.request_body {
            self.request.mode = self.request.mode.for_work(self.request.framing.length);
        }
        if overrides && wanted.response_body {
            self.response_overridden = self.response.mode == BodyMode::None;
            self.response.mode = self.response.mode.for_work(None);
        }
        if self.request.loses_length() {
            mutation.set_headers.retain(|option| !mutation::is_length(option));
            mutation.remove_headers.push("content-length".to_owned());
        }
        let mut answer = respond(Side::Request.headers(with_headers(mutation)));
        answer.dynamic_metadata = rest.metadata;
        if overrides {
            self.spared = !wanted.request_body;
            let mode = |wanted, mode| if wanted { mode } else { BodyMode::None };
            let mut modes = override_to(
                mode(wanted.request_body, self.request.mode),
                mode(wanted.response_body, self.response.mode),
                wanted.response_headers || wanted.response_body,
            );
            if rest.signs {
                // All that there is, where the body turns out to be empty.
                modes.request_trailer_mode = HeaderSendMode::Send.into();
            }
            answer.mode_override = Some(modes);
        }
        answer
    }

    /// Goes on with the body of the request, now that this is known.
    pub(super) fn resolved(&mut self, resolutions: Vec<(String, Resolution)>) -> Step {
        self.request.resolved(resolutions)
    }

    /// Answers the whole body of the request, with these headers made of it.
    pub(super) fn signed(&mut self, mutation: HeaderMutation) -> Step {
        self.request.signed(mutation)
    }

    /// Answers response headers.
    pub(super) fn answer_response(
        &mut self,
        _: ResponseTurn,
        answer: ResponseAnswer,
    ) -> ProcessingResponse {
        let ResponseAnswer { mut mutation, transform } = answer;
        if let Some(transform) = transform {
            self.response.work(Work::Transform(transform));
        }
        if self.response.loses_length() {
            mutation.remove_headers.push("content-length".to_owned());
        }
        respond(Side::Response.headers(with_headers(mutation)))
    }

    /// Answers response trailers.
    pub(super) fn answer_trailers(
        &mut self,
        _: ResponseTurn,
        mutation: HeaderMutation,
    ) -> Result<Step, OutOfOrder> {
        self.response.trailers(mutation)
    }

    /// Ends the exchange with this response.
    pub(super) fn immediate(&mut self, response: ImmediateResponse) -> ProcessingResponse {
        self.responded = true;
        respond(Response::ImmediateResponse(response))
    }

    /// Whether Envoy waits for answers as long as they take.
    pub(super) fn is_patient(&self) -> bool {
        matches!(self.request.mode, BodyMode::Duplex | BodyMode::Messages)
    }

    /// What an operator should hear of, since the last call.
    pub(super) fn notes(&mut self) -> impl Iterator<Item = Note> {
        let skipped = self.request.skipped();
        self.notes.extend(iter::repeat_n(Note::TooMany, skipped.too_many));
        self.notes.extend(iter::repeat_n(Note::Position, skipped.position));
        self.notes.drain(..)
    }

    /// The stream has ended, by Envoy's will.
    pub(super) fn end(&mut self) {
        if !self.responded && self.wanted.response_body && !self.response.has_begun() {
            self.notes.push(Note::ResponseUnseen);
        }
    }

    /// Whose body Envoy may wait for an answer about, if it does.
    pub(super) fn awaits_body(&self) -> Option<Side> {
        let answered = self.started && !self.observed && !self.responded;
        match (self.response.started(), self.request.started()) {
            (true, _) if answered => Some(Side::Response),
            (false, true) if answered => Some(Side::Request),
            _ => None,
        }
    }

    /// Envoy was asked to keep this to itself.
    fn came_uncalled(&mut self) {
        if self.spared && !self.unheeded {
            self.unheeded = true;
            self.response.trailers_hidden = !self.settings.modes.response_trailers;
            self.notes.push(Note::OverrideIgnored);
        }
    }

    /// Whether a part of the response passes without being shown, where no override is heeded.
    fn hides_response(&self) -> bool {
        let trailers = !self.settings.modes.response_trailers;
        self.response_overridden || trailers && self.response.mode == BodyMode::Streamed
    }

    /// Whether the bytes of a body can be replaced, in the mode that is set or in one
    /// that can be asked for.
    fn reaches(&self, side: Side) -> bool {
        let Modes { request_trailers, response_trailers, .. } = self.settings.modes;
        let (direction, trailers) = match side {
            Side::Request => (&self.request, request_trailers),
            Side::Response => (&self.response, response_trailers),
        };
        let overrides = self.settings.mode_override && !self.override_ignored;
        let known_end = trailers || direction.framing.length.is_some();
        match direction.mode {
            BodyMode::None if overrides && side == Side::Response => self.settings.override_heeded,
            // Trailers that follow are not shown by the filter, so far as is known.
            BodyMode::Streamed if overrides && side == Side::Response => {
                self.settings.override_heeded || trailers
            }
            _ if overrides => true,
            // Bytes that are held back when the body ends in trailers would be lost.
            BodyMode::Streamed => known_end,
            mode => mode.is_rewritable(),
        }
    }

    /// Whether headers can wait for the whole body.
    fn has_whole(&self) -> bool {
        let overrides = self.settings.mode_override && !self.override_ignored;
        overrides || self.request.mode == BodyMode::Buffered
    }

    fn configure(&mut self, protocol: ProtocolConfiguration) {
        self.request.mode = BodyMode::of(protocol.request_body_mode);
        self.response.mode = BodyMode::of(protocol.response_body_mode);
        self.override_ignored = protocol.send_body_without_waiting_for_header_response
            || self.request.mode.is_fixed()
            || self.response.mode.is_fixed();
    }
}

// === impl OutOfOrder ===

impl OutOfOrder {
    /// The word in metrics.
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::NoPhase => "no_phase",
            Self::Headers => "out_of_order",
            Self::Body | Self::Trailers => "after_end",
            Self::BodyMode => "unknown_mode",
            Self::Length => "length",
            Self::Held => "held",
            Self::Unseen => "unseen",
        }
    }
}

// === impl Note ===

impl Note {
    /// The word in metrics.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::OverrideIgnored => "mode_override_ignored",
            Self::ResponseUnseen => "response_unseen",
            Self::TooMany => "too_many_references",
            Self::Position => "reference_position",
        }
    }
}

// === impl PhaseSettings ===

impl Default for PhaseSettings {
    fn default() -> Self {
        Self {
            mode_override: false,
            override_heeded: true,
            modes: Modes::default(),
            body_limit: 8 * 1024 * 1024,
        }
    }
}

#[cfg(test)]
mod tests;
