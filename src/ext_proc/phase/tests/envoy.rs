//! Envoy's side of the protocol, as strict as it can be: an answer of the wrong kind, one
//! too many, a body that is not as long as announced, and bytes that get lost are errors.

use std::collections::VecDeque;

use super::*;

/// What Envoy is set to, and what it lets the service change.
#[derive(Clone, Copy, Debug)]
pub(super) struct Filter {
    pub(super) mode: BodyMode,
    pub(super) trailers: bool,
    pub(super) allows_override: bool,
    /// As much as BUFFERED_PARTIAL shows.
    pub(super) buffer: usize,
}

/// One message, in either direction.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    pub(super) chunks: Vec<Vec<u8>>,
    pub(super) length: bool,
    pub(super) trailers: bool,
    /// Whether the end of the stream is a chunk of its own.
    pub(super) late_end: bool,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It went on.
    Passed { body: Vec<u8>, length: Option<usize>, trailers: bool },
    /// It was refused by the service.
    Refused(BodyRefusal),
    /// The stream ended with an error.
    Failed(OutOfOrder),
}

/// One direction of a stream in Envoy.
pub(super) struct Envoy<'p, F> {
    phases: &'p mut Phases,
    side: Side,
    resolve: F,
}

pub(super) fn wire(mode: BodyMode) -> i32 {
    match mode {
        BodyMode::None => NONE,
        BodyMode::Buffered => BUFFERED,
        BodyMode::BufferedPartial => PARTIAL,
        BodyMode::Streamed => STREAMED,
        BodyMode::Duplex => DUPLEX,
        BodyMode::Messages => GRPC,
        BodyMode::Unknown => NEWER,
    }
}

enum Got {
    Answers(VecDeque<ProcessingResponse>),
    Ended(Outcome),
}

impl<'p, F: FnMut(&str) -> Resolution> Envoy<'p, F> {
    pub(super) fn new(phases: &'p mut Phases, side: Side, resolve: F) -> Self {
        Self { phases, side, resolve }
    }

    /// Sends a message and takes the answers.
    fn ask(&mut self, request: Request) -> Got {
        let mut step = match self.phases.next(message(request)) {
            Ok(step) => step,
            Err(error) => return Got::Ended(Outcome::Failed(error)),
        };
        loop {
            step = match step {
                Step::Answer(answer) => return Got::Answers([*answer].into()),
                Step::Echo(echo) => return Got::Answers(echo.collect()),
                Step::Nothing => return Got::Answers(VecDeque::new()),
                Step::Refuse(refusal) => return Got::Ended(Outcome::Refused(refusal)),
                Step::Resolve(needs) => {
                    let known = needs.into_iter().map(|text| {
                        let resolution = (self.resolve)(&text);
                        (text, resolution)
                    });
                    self.phases.resolved(known.collect())
                }
                Step::ResponseTrailers(turn, _) => {
                    match self.phases.answer_trailers(turn, HeaderMutation::default()) {
                        Ok(step) => step,
                        Err(error) => return Got::Ended(Outcome::Failed(error)),
                    }
                }
                Step::Sign(..) => self.phases.signed(HeaderMutation::default()),
                Step::Observe(..) | Step::Process(..) | Step::Response(..) => {
                    panic!("headers were answered before")
                }
            };
        }
    }

    fn request(&self, body: HttpBody) -> Request {
        match self.side {
            Side::Request => Request::RequestBody(body),
            Side::Response => Request::ResponseBody(body),
        }
    }

    /// Sends a body after its headers were answered.
    pub(super) fn send(
        &mut self,
        sent: &Sent,
        filter: Filter,
        answered: &ProcessingResponse,
    ) -> Outcome {
        let total: usize = sent.chunks.iter().map(Vec::len).sum();
        let mut length = sent.length.then_some(total);
        let (mode, trailers) = self.heed(filter, answered);
        // Envoy takes the length away by the mode it was set to, not the one it was asked for.
        if matches!(filter.mode, BodyMode::Streamed | BodyMode::Duplex) {
            length = None;
        }
        length = removed_length(answered, length);
        let outcome = match mode {
            BodyMode::Buffered | BodyMode::BufferedPartial => {
                self.whole(sent, mode, filter.buffer, length, trailers)
            }
            BodyMode::Streamed => self.streamed(sent, length, trailers),
            BodyMode::Duplex => self.duplex(sent),
            BodyMode::None | BodyMode::Messages | BodyMode::Unknown => {
                Outcome::Passed { body: sent.chunks.concat(), length, trailers: sent.trailers }
            }
        };
        if let Outcome::Passed { body, length: Some(length), .. } = &outcome {
            assert_eq!(body.len(), *length, "the upstream waits, or reads too little");
        }
        outcome
    }

    /// The mode and whether trailers are sent, after the answer to the headers.
    fn heed(&self, filter: Filter, answered: &ProcessingResponse) -> (BodyMode, bool) {
        let Some(mode) = &answered.mode_override else { return (filter.mode, filter.trailers) };
        if !filter.allows_override || filter.mode == BodyMode::Duplex {
            return (filter.mode, filter.trailers);
        }
        let (body, trailers) = match self.side {
            Side::Request => (mode.request_body_mode, mode.request_trailer_mode),
            Side::Response => (mode.response_body_mode, mode.response_trailer_mode),
        };
        (BodyMode::of(body), trailers == HeaderSendMode::Send as i32)
    }

    fn whole(
        &mut self,
        sent: &Sent,
        mode: BodyMode,
        buffer: usize,
        mut length: Option<usize>,
        trailers: bool,
    ) -> Outcome {
        let all = sent.chunks.concat();
        let shown =
            if mode == BodyMode::BufferedPartial { all.len().min(buffer) } else { all.len() };
        let ends = !sent.trailers && shown == all.len();
        let mut answers = match self.ask(self.request(body(&all[..shown], ends))) {
            Got::Answers(answers) => answers,
            Got::Ended(outcome) => return outcome,
        };
        assert_eq!(answers.len(), 1, "one answer per message");
        let answer = answers.pop_front().expect("one");
        let replaced = replacement(&answer, self.side);
        if let Some(mutation) = common(&answer).and_then(|common| common.header_mutation.as_ref()) {
            for option in &mutation.set_headers {
                let header = option.header.as_ref().expect("a header");
                assert_eq!(header.key, "content-length");
                assert!(length.is_some(), "no length is made up");
                let text = std::str::from_utf8(&header.raw_value).expect("digits");
                length = Some(text.parse().expect("a number"));
            }
        }
        if let (Some(replaced), Some(length)) = (&replaced, length) {
            assert_eq!(replaced.len(), length, "Envoy answers 500 to any other length");
        }
        let mut passed = replaced.unwrap_or_else(|| all[..shown].to_vec());
        passed.extend_from_slice(&all[shown..]);
        self.trailers(sent, trailers, passed, length)
    }

    fn streamed(&mut self, sent: &Sent, length: Option<usize>, trailers: bool) -> Outcome {
        let mut passed = Vec::new();
        for (bytes, ends) in messages(sent) {
            let mut answers = match self.ask(self.request(body(&bytes, ends))) {
                Got::Answers(answers) => answers,
                Got::Ended(outcome) => return outcome,
            };
            assert_eq!(answers.len(), 1, "one answer per chunk");
            let answer = answers.pop_front().expect("one");
            assert!(common(&answer).is_none_or(|common| common.header_mutation.is_none()));
            passed.extend(replacement(&answer, self.side).unwrap_or(bytes));
        }
        self.trailers(sent, trailers, passed, length)
    }

    fn duplex(&mut self, sent: &Sent) -> Outcome {
        let mut passed = Vec::new();
        let mut ended = false;
        let mut take = |answers: &mut VecDeque<ProcessingResponse>, side| {
            while let Some(answer) = answers.front() {
                let Some(streamed) = echoed(answer) else { return };
                assert_eq!(kind(answer), if side == Side::Request { 4 } else { 5 });
                assert!(streamed.body.len() <= 64 * 1024, "a slice");
                assert!(!ended, "nothing after the end of the stream");
                ended = streamed.end_of_stream;
                passed.extend_from_slice(&streamed.body);
                answers.pop_front();
            }
        };
        for (bytes, ends) in messages(sent) {
            let mut answers = match self.ask(self.request(body(&bytes, ends))) {
                Got::Answers(answers) => answers,
                Got::Ended(outcome) => return outcome,
            };
            take(&mut answers, self.side);
            assert!(answers.is_empty(), "only a body answers a body");
        }
        if sent.trailers {
            let mut answers = match self.ask(self.trailers_message()) {
                Got::Answers(answers) => answers,
                Got::Ended(outcome) => return outcome,
            };
            take(&mut answers, self.side);
            assert_eq!(answers.len(), 1, "trailers are answered, last");
            assert!(matches!(kind(&answers[0]), 6 | 7));
        }
        assert_eq!(ended, !sent.trailers, "the end is told once, and not before trailers");
        Outcome::Passed { body: passed, length: None, trailers: sent.trailers }
    }

    fn trailers(
        &mut self,
        sent: &Sent,
        shown: bool,
        body: Vec<u8>,
        length: Option<usize>,
    ) -> Outcome {
        if sent.trailers && shown {
            match self.ask(self.trailers_message()) {
                Got::Answers(answers) => {
                    assert_eq!(answers.len(), 1);
                    assert!(matches!(kind(&answers[0]), 6 | 7), "trailers answer trailers");
                }
                Got::Ended(outcome) => return outcome,
            }
        }
        Outcome::Passed { body, length, trailers: sent.trailers }
    }

    fn trailers_message(&self) -> Request {
        match self.side {
            Side::Request => Request::RequestTrailers(HttpTrailers::default()),
            Side::Response => Request::ResponseTrailers(HttpTrailers::default()),
        }
    }
}

/// The messages that a body comes in, and which of them ends the stream.
fn messages(sent: &Sent) -> Vec<(Vec<u8>, bool)> {
    let mut messages: Vec<_> = sent.chunks.iter().map(|chunk| (chunk.clone(), false)).collect();
    if sent.trailers {
        return messages;
    }
    match messages.last_mut() {
        Some(last) if !sent.late_end => last.1 = true,
        _ => messages.push((Vec::new(), true)),
    }
    messages
}

fn common(
    answer: &ProcessingResponse,
) -> Option<&envoy_types::pb::envoy::service::ext_proc::v3::CommonResponse> {
    match answer.response.as_ref()? {
        Response::RequestHeaders(headers) | Response::ResponseHeaders(headers) => {
            headers.response.as_ref()
        }
        Response::RequestBody(body) | Response::ResponseBody(body) => body.response.as_ref(),
        _ => None,
    }
}

/// What takes a chunk's place; none if it stays.
fn replacement(answer: &ProcessingResponse, side: Side) -> Option<Vec<u8>> {
    assert_eq!(kind(answer), if side == Side::Request { 4 } else { 5 }, "a body answers a body");
    match common(answer)?.body_mutation.as_ref()?.mutation.as_ref()? {
        Mutation::Body(body) => {
            assert!(!body.is_empty(), "other data planes take it for none");
            Some(body.clone())
        }
        Mutation::ClearBody(clear) => clear.then(Vec::new),
        Mutation::StreamedResponse(_) => panic!("spurious outside of duplex mode"),
    }
}

fn removed_length(answer: &ProcessingResponse, length: Option<usize>) -> Option<usize> {
    let mutation = common(answer).and_then(|common| common.header_mutation.as_ref());
    let removed = mutation.is_some_and(|mutation| {
        mutation.remove_headers.iter().any(|name| name == "content-length")
    });
    length.filter(|_| !removed)
}
