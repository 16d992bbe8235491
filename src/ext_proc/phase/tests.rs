//! Message sequences of every shape, against what Envoy accepts.

mod envoy;
mod work;

use envoy_types::pb::envoy::{
    extensions::filters::http::ext_proc::v3::{ProcessingMode, processing_mode::BodySendMode},
    service::ext_proc::v3::{
        HeaderMutation, HttpBody, HttpHeaders, HttpTrailers, ImmediateResponse,
        StreamedBodyResponse, TrailersResponse, body_mutation::Mutation,
    },
};
use processing_request::Request;
use proptest::prelude::*;

use super::{answer::SLICE, *};

const NONE: i32 = BodySendMode::None as i32;
const STREAMED: i32 = BodySendMode::Streamed as i32;
const BUFFERED: i32 = BodySendMode::Buffered as i32;
const PARTIAL: i32 = BodySendMode::BufferedPartial as i32;
const DUPLEX: i32 = BodySendMode::FullDuplexStreamed as i32;
const GRPC: i32 = BodySendMode::Grpc as i32;
const NEWER: i32 = 99;

fn phases(mode_override: bool) -> Phases {
    Phases::new(PhaseSettings { mode_override, ..PhaseSettings::default() })
}

fn headers(end_of_stream: bool) -> HttpHeaders {
    HttpHeaders { end_of_stream, ..HttpHeaders::default() }
}

fn body(bytes: &[u8], end_of_stream: bool) -> HttpBody {
    HttpBody { body: bytes.to_vec(), end_of_stream, ..HttpBody::default() }
}

fn message(request: Request) -> ProcessingRequest {
    ProcessingRequest { request: Some(request), ..ProcessingRequest::default() }
}

fn request_headers() -> Request {
    Request::RequestHeaders(headers(false))
}

fn first(request: Request, request_mode: i32, response_mode: i32) -> ProcessingRequest {
    let protocol = ProtocolConfiguration {
        request_body_mode: request_mode,
        response_body_mode: response_mode,
        send_body_without_waiting_for_header_response: false,
    };
    ProcessingRequest { protocol_config: Some(protocol), ..message(request) }
}

/// All answers to one message; headers get `Continue`.
fn answers(
    phases: &mut Phases,
    message: ProcessingRequest,
) -> Result<Vec<ProcessingResponse>, OutOfOrder> {
    Ok(match phases.next(message)? {
        Step::Process(turn, _) => vec![phases.answer(turn, HeadersAnswer::Continue)],
        Step::Answer(answer) => vec![*answer],
        Step::Echo(echo) => echo.collect(),
        Step::Nothing | Step::Observe(_) => vec![],
        Step::Resolve(_)
        | Step::Sign(..)
        | Step::Response(..)
        | Step::ResponseTrailers(..)
        | Step::Refuse(_) => {
            panic!("nobody asked for this")
        }
    })
}

fn run(messages: Vec<ProcessingRequest>) -> Result<Vec<ProcessingResponse>, OutOfOrder> {
    let mut phases = phases(false);
    let mut all = Vec::new();
    for message in messages {
        all.extend(answers(&mut phases, message)?);
    }
    Ok(all)
}

/// The kind of an answer, as the number of the request it is for.
fn kind(answer: &ProcessingResponse) -> u8 {
    match answer.response.as_ref().expect("an empty answer ends the request") {
        Response::RequestHeaders(_) => 2,
        Response::ResponseHeaders(_) => 3,
        Response::RequestBody(_) => 4,
        Response::ResponseBody(_) => 5,
        Response::RequestTrailers(_) => 6,
        Response::ResponseTrailers(_) => 7,
        Response::ImmediateResponse(_) | Response::StreamedImmediateResponse(_) => 0,
    }
}

fn kind_of(request: &Request) -> u8 {
    match request {
        Request::RequestHeaders(_) => 2,
        Request::ResponseHeaders(_) => 3,
        Request::RequestBody(_) => 4,
        Request::ResponseBody(_) => 5,
        Request::RequestTrailers(_) => 6,
        Request::ResponseTrailers(_) => 7,
    }
}

/// What a body answer echoes; none if Envoy is to use its own copy.
fn echoed(answer: &ProcessingResponse) -> Option<&StreamedBodyResponse> {
    let (Response::RequestBody(body) | Response::ResponseBody(body)) = answer.response.as_ref()?
    else {
        return None;
    };
    match body.response.as_ref()?.body_mutation.as_ref()?.mutation.as_ref()? {
        Mutation::StreamedResponse(streamed) => Some(streamed),
        Mutation::Body(_) | Mutation::ClearBody(_) => panic!("not an echo"),
    }
}

#[test]
fn messages_out_of_order_are_refused() {
    use OutOfOrder as E;
    let trailers = || message(Request::RequestTrailers(HttpTrailers::default()));
    let data = |end| message(Request::RequestBody(body(b"a", end)));
    let duplex = || first(request_headers(), DUPLEX, DUPLEX);
    let cases = vec![
        (vec![ProcessingRequest::default()], E::NoPhase),
        (vec![message(request_headers()), ProcessingRequest::default()], E::NoPhase),
        (vec![message(request_headers()), message(request_headers())], E::Headers),
        (vec![data(false), message(request_headers())], E::Headers),
        (vec![trailers(), message(request_headers())], E::Headers),
        (
            vec![message(Request::ResponseHeaders(headers(true))), message(request_headers())],
            E::Headers,
        ),
        (vec![message(Request::RequestHeaders(headers(true))), data(true)], E::Body),
        (vec![duplex(), data(true), data(true)], E::Body),
        (vec![message(request_headers()), data(true), data(false)], E::Body),
        (vec![message(request_headers()), trailers(), data(false)], E::Body),
        (vec![duplex(), trailers(), data(false)], E::Body),
        (vec![message(request_headers()), data(true), trailers()], E::Trailers),
        (vec![message(request_headers()), trailers(), trailers()], E::Trailers),
        (vec![message(Request::RequestHeaders(headers(true))), trailers()], E::Trailers),
        (vec![first(request_headers(), NEWER, NONE), data(false)], E::BodyMode),
    ];
    for (at, (messages, expected)) in cases.into_iter().enumerate() {
        assert_eq!(run(messages).err(), Some(expected), "case {at}");
    }
}

#[test]
fn held_bodies_are_let_go_without_mutation() {
    for mode in [None, Some(NONE), Some(STREAMED), Some(BUFFERED), Some(PARTIAL)] {
        let start = match mode {
            Some(mode) => first(request_headers(), mode, mode),
            None => message(request_headers()),
        };
        let sequence = vec![
            start,
            message(Request::RequestBody(body(b"a", false))),
            message(Request::ResponseHeaders(headers(false))),
            message(Request::RequestBody(body(b"", true))),
            message(Request::RequestBody(body(b"", true))),
            message(Request::ResponseBody(body(b"b", false))),
            message(Request::ResponseTrailers(HttpTrailers::default())),
        ];
        let expected = [2, 4, 3, 4, 4, 5, 7];
        let all = run(sequence).expect("in order");
        assert_eq!(all.iter().map(kind).collect::<Vec<_>>(), expected, "{mode:?}");
        assert!(all.iter().all(|answer| *answer == respond_plain(kind(answer))), "{mode:?}");
    }
}

/// The answer of a kind that changes nothing.
fn respond_plain(kind: u8) -> ProcessingResponse {
    respond(match kind {
        2 => Side::Request.headers(None),
        3 => Side::Response.headers(None),
        4 => Side::Request.body(None),
        5 => Side::Response.body(None),
        6 => Side::Request.trailers(TrailersResponse::default()),
        _ => Side::Response.trailers(TrailersResponse::default()),
    })
}

#[test]
fn streams_that_start_late_are_let_through() {
    let trailers = HttpTrailers::default;
    let cases = [
        (Request::ResponseHeaders(headers(true)), 3),
        (Request::RequestBody(body(b"a", true)), 4),
        (Request::ResponseBody(body(b"a", true)), 5),
        (Request::RequestTrailers(trailers()), 6),
        (Request::ResponseTrailers(trailers()), 7),
    ];
    for (request, expected) in cases {
        let all = run(vec![first(request, BUFFERED, BUFFERED)]).expect("may come first");
        assert_eq!(all.iter().map(kind).collect::<Vec<_>>(), [expected]);
    }
}

#[test]
fn duplex_bodies_come_back_in_slices_and_end_once() {
    let long: Vec<u8> = (0..200_000_u32).map(|at| at as u8).collect();
    type Slices = Vec<(usize, bool)>;
    let cases: Vec<(Vec<HttpBody>, Slices)> = vec![
        (vec![body(b"", true)], vec![(0, true)]),
        (vec![body(b"a", false), body(b"", true)], vec![(1, false), (0, true)]),
        (vec![body(b"a", true), body(b"", true)], vec![(1, true)]),
        (vec![body(b"", false), body(b"a", true)], vec![(1, true)]),
        (vec![body(&vec![7; SLICE], true)], vec![(SLICE, true)]),
        (vec![body(&vec![7; SLICE + 1], true)], vec![(SLICE, false), (1, true)]),
        (
            vec![body(&long, false)],
            vec![(SLICE, false), (SLICE, false), (SLICE, false), (200_000 - 3 * SLICE, false)],
        ),
    ];
    for (at, (bodies, expected)) in cases.into_iter().enumerate() {
        let sent: Vec<u8> = bodies.iter().flat_map(|body| body.body.clone()).collect();
        let mut messages = vec![first(Request::ResponseHeaders(headers(false)), NONE, DUPLEX)];
        messages.extend(bodies.into_iter().map(|body| message(Request::ResponseBody(body))));
        let all = run(messages).expect("in order");
        let slices: Vec<_> = all.iter().filter_map(echoed).collect();
        let shape: Vec<_> = slices.iter().map(|s| (s.body.len(), s.end_of_stream)).collect();
        assert_eq!(shape, expected, "case {at}");
        assert_eq!(slices.iter().flat_map(|s| s.body.clone()).collect::<Vec<_>>(), sent);
    }
}

#[test]
fn grpc_messages_stay_whole() {
    let long = HttpBody { grpc_message_compressed: true, ..body(&vec![1; 3 * SLICE], false) };
    let end = HttpBody { end_of_stream_without_message: true, ..body(b"", true) };
    let bodies = [long.clone(), body(b"", false), end];
    let mut messages = vec![first(request_headers(), GRPC, GRPC)];
    messages.extend(bodies.into_iter().map(|body| message(Request::RequestBody(body))));
    let all = run(messages).expect("in order");
    let streamed: Vec<_> = all.iter().filter_map(echoed).collect();
    assert_eq!(streamed.len(), 3);
    assert_eq!((&streamed[0].body, streamed[0].grpc_message_compressed), (&long.body, true));
    assert_eq!((streamed[1].body.len(), streamed[1].end_of_stream), (0, false));
    assert!(streamed[2].end_of_stream && streamed[2].end_of_stream_without_message);
}

#[test]
fn observed_streams_are_never_answered() {
    let observed = |request| ProcessingRequest { observability_mode: true, ..message(request) };
    let all = run(vec![
        observed(request_headers()),
        observed(Request::RequestBody(body(b"a", true))),
        // Not even where the mark, or the order, is missing.
        message(Request::RequestBody(body(b"a", true))),
        observed(Request::ResponseHeaders(headers(true))),
    ]);
    assert_eq!(all, Ok(vec![]));
}

#[test]
fn nothing_follows_an_immediate_response() {
    let mut phases = phases(true);
    let step = phases.next(first(request_headers(), STREAMED, NONE)).expect("in order");
    let Step::Process(turn, _) = step else { panic!("headers are processed") };
    let answer = phases.answer(turn, HeadersAnswer::Respond(ImmediateResponse::default()));
    assert_eq!((kind(&answer), answer.mode_override), (0, None));
    for late in [Request::RequestBody(body(b"a", false)), request_headers()] {
        assert_eq!(answers(&mut phases, message(late)), Ok(vec![]));
    }
}

#[test]
fn only_the_first_message_sets_the_modes() {
    let all = run(vec![
        message(request_headers()),
        first(Request::RequestBody(body(b"a", true)), DUPLEX, DUPLEX),
    ]);
    assert!(all.expect("in order").iter().all(|answer| echoed(answer).is_none()));
}

#[test]
fn override_asks_for_nothing_more_where_envoy_heeds_it() {
    let overridden = |enabled, protocol| {
        let mut phases = phases(enabled);
        let first = ProcessingRequest { protocol_config: protocol, ..message(request_headers()) };
        let Ok(Step::Process(turn, _)) = phases.next(first) else { panic!("headers first") };
        phases.answer(turn, HeadersAnswer::Mutate(HeaderMutation::default())).mode_override
    };
    let protocol = |request, response, no_wait| {
        Some(ProtocolConfiguration {
            request_body_mode: request,
            response_body_mode: response,
            send_body_without_waiting_for_header_response: no_wait,
        })
    };
    let ignored = [
        (false, None),
        (false, protocol(BUFFERED, BUFFERED, false)),
        (true, protocol(DUPLEX, NONE, false)),
        (true, protocol(NONE, DUPLEX, false)),
        (true, protocol(STREAMED, NONE, true)),
    ];
    for (enabled, protocol) in ignored {
        assert_eq!(overridden(enabled, protocol), None);
    }
    let (keep, skip) = (HeaderSendMode::Default as i32, HeaderSendMode::Skip as i32);
    let expected = ProcessingMode {
        request_header_mode: keep,
        response_header_mode: skip,
        request_body_mode: NONE,
        response_body_mode: NONE,
        request_trailer_mode: skip,
        response_trailer_mode: skip,
    };
    for protocol in [None, protocol(BUFFERED, STREAMED, false), protocol(NONE, NONE, false)] {
        assert_eq!(overridden(true, protocol), Some(expected));
    }
}

fn any_request() -> impl Strategy<Value = Option<Request>> {
    let data = || {
        (proptest::collection::vec(any::<u8>(), 0..4), 0_usize..3, any::<bool>()).prop_map(
            |(mut bytes, long, end)| {
                bytes.resize(bytes.len() + long * SLICE, 9);
                body(&bytes, end)
            },
        )
    };
    prop_oneof![
        1 => Just(None),
        4 => any::<bool>().prop_map(|end| Some(Request::RequestHeaders(headers(end)))),
        4 => any::<bool>().prop_map(|end| Some(Request::ResponseHeaders(headers(end)))),
        8 => data().prop_map(|body| Some(Request::RequestBody(body))),
        8 => data().prop_map(|body| Some(Request::ResponseBody(body))),
        2 => Just(Some(Request::RequestTrailers(HttpTrailers::default()))),
        2 => Just(Some(Request::ResponseTrailers(HttpTrailers::default()))),
    ]
}

proptest! {
    #[test]
    fn answers_are_of_the_kind_that_was_asked_and_lose_no_byte(
        messages in proptest::collection::vec(any_request(), 1..12),
        request_mode in prop_oneof![0..6_i32, Just(NEWER)],
        response_mode in prop_oneof![0..6_i32, Just(NEWER)],
    ) {
        let mut phases = phases(true);
        let mut ends = [0, 0];
        for (at, request) in messages.into_iter().enumerate() {
            let message = match (at, request.clone()) {
                (0, Some(request)) => first(request, request_mode, response_mode),
                (_, request) => ProcessingRequest { request, ..ProcessingRequest::default() },
            };
            let Ok(all) = answers(&mut phases, message) else { return Ok(()) };
            let request = request.expect("a message without phase is refused");
            prop_assert!(all.iter().all(|answer| kind(answer) == kind_of(&request)));
            let (sent, mode, side) = match request {
                Request::RequestBody(body) => (body, request_mode, 0),
                Request::ResponseBody(body) => (body, response_mode, 1),
                _ => {
                    prop_assert_eq!(all.len(), 1);
                    continue;
                }
            };
            let slices: Vec<_> = all.iter().filter_map(echoed).collect();
            if [DUPLEX, GRPC].contains(&mode) {
                prop_assert_eq!(slices.len(), all.len());
                let back: Vec<u8> = slices.iter().flat_map(|s| s.body.clone()).collect();
                prop_assert_eq!(back, sent.body);
                ends[side] += slices.iter().filter(|s| s.end_of_stream).count();
                prop_assert!(ends[side] <= 1);
                prop_assert!(mode == GRPC || slices.iter().all(|s| s.body.len() <= SLICE));
            } else {
                prop_assert_eq!((all.len(), slices.len()), (1, 0));
            }
        }
    }
}
