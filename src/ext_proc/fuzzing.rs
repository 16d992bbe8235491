//! What fuzzers call. Panics where a promise is broken.

use std::sync::Arc;

use bytes::Bytes;
use envoy_types::pb::envoy::{
    config::core::v3::{HeaderMap, HeaderValue},
    service::ext_proc::v3::{
        HeaderMutation, HttpBody, HttpHeaders, HttpTrailers, ImmediateResponse, ProcessingRequest,
        ProcessingResponse, ProtocolConfiguration, processing_request::Request,
        processing_response::Response,
    },
};

use super::{
    PhaseSettings, ResponseAnswer, Rest, Scan,
    phase::{Phases, Step},
};
use crate::injection::{Encoding, Finder, Resolution, Scanner};

/// One stream, made of bytes: settings, and then messages.
///
/// # Panics
/// If an answer is not of the kind that was asked for, or follows the end.
pub fn phases(data: &[u8]) {
    let [settings, modes, rest @ ..] = data else { return };
    let mode_override = settings & 1 != 0;
    let mut phases = Phases::new(PhaseSettings { mode_override, ..PhaseSettings::default() });
    let mut protocol = Some(ProtocolConfiguration {
        request_body_mode: i32::from(modes & 7),
        response_body_mode: i32::from(modes >> 3 & 7),
        send_body_without_waiting_for_header_response: settings & 2 != 0,
    });
    let mut bytes = rest.iter().copied();
    while let Some(kind) = bytes.next() {
        let message = ProcessingRequest {
            request: request(kind, &mut bytes),
            protocol_config: protocol.take(),
            observability_mode: kind == 255,
            ..ProcessingRequest::default()
        };
        let asked = message.request.as_ref().map(asked);
        let Ok(step) = phases.next(message) else { return };
        if !settle(&mut phases, step, asked, *settings) {
            return;
        }
    }
}

fn request(kind: u8, bytes: &mut impl Iterator<Item = u8>) -> Option<Request> {
    let end_of_stream = kind & 16 != 0;
    let headers = || {
        let length = (kind & 32 != 0).then(|| HeaderValue {
            key: "content-length".to_owned(),
            value: String::new(),
            raw_value: b"8".to_vec(),
        });
        let headers = Some(HeaderMap { headers: length.into_iter().collect() });
        HttpHeaders { headers, end_of_stream, ..HttpHeaders::default() }
    };
    let mut body = || {
        let length = usize::from(kind >> 5) * 5;
        let body = bytes.by_ref().take(length).collect();
        HttpBody { body, end_of_stream, ..HttpBody::default() }
    };
    Some(match kind & 7 {
        0 => Request::RequestHeaders(headers()),
        1 => Request::ResponseHeaders(headers()),
        2 | 3 => Request::RequestBody(body()),
        4 => Request::ResponseBody(body()),
        5 => Request::RequestTrailers(HttpTrailers::default()),
        6 => Request::ResponseTrailers(HttpTrailers::default()),
        _ => return None,
    })
}

/// The number of a message's kind.
fn asked(request: &Request) -> u8 {
    match request {
        Request::RequestHeaders(_) => 0,
        Request::ResponseHeaders(_) => 1,
        Request::RequestBody(_) => 2,
        Request::ResponseBody(_) => 3,
        Request::RequestTrailers(_) => 4,
        Request::ResponseTrailers(_) => 5,
    }
}

/// The same of an answer; none for an immediate response.
fn answered(answer: &ProcessingResponse) -> Option<u8> {
    Some(match answer.response.as_ref().expect("an empty answer is none") {
        Response::RequestHeaders(_) => 0,
        Response::ResponseHeaders(_) => 1,
        Response::RequestBody(_) => 2,
        Response::ResponseBody(_) => 3,
        Response::RequestTrailers(_) => 4,
        Response::ResponseTrailers(_) => 5,
        Response::ImmediateResponse(_) | Response::StreamedImmediateResponse(_) => return None,
    })
}

/// Does what a step asks for; false if the stream is over.
fn settle(phases: &mut Phases, step: Step, asked: Option<u8>, settings: u8) -> bool {
    let mut step = step;
    loop {
        step = match step {
            Step::Nothing => return true,
            Step::Answer(answer) => {
                assert_eq!(answered(&answer), asked, "one answer of the kind that was asked for");
                return true;
            }
            Step::Echo(echo) => {
                let kinds: Vec<_> = echo.map(|answer| answered(&answer)).collect();
                let (last, before) = kinds.split_last().map_or((asked, &[][..]), |(l, b)| (*l, b));
                assert_eq!(last, asked, "ends with what was asked for");
                assert!(before.iter().all(|kind| matches!(kind, Some(2 | 3))), "bodies before");
                return true;
            }
            Step::Observe(_) => return true,
            Step::Process(turn, request) => {
                let scan = (settings & 4 != 0 && request.request_body).then(|| {
                    let finder = Arc::new(Finder::new(Encoding::Plain, &Arc::from([])));
                    let (strict, required) = (settings & 8 != 0, settings & 16 != 0);
                    Scan { scanner: Scanner::new(finder, strict), strict, required }
                });
                let response_body = settings & 32 != 0 && request.response_body;
                let signs = settings & 64 != 0 && request.whole_body;
                let rest = Rest { scan, signs, response_body, ..Rest::default() };
                assert_eq!(answered(&phases.proceed(turn, rest)), asked);
                return true;
            }
            Step::Resolve(needs) => {
                assert!(!needs.is_empty(), "it waits for nothing");
                let value = |text| (text, Resolution::Value(Bytes::from_static(b"value")));
                phases.resolved(needs.into_iter().map(value).collect())
            }
            Step::Sign(..) => phases.signed(HeaderMutation::default()),
            Step::Response(turn, _) => {
                let answer = phases.answer_response(turn, ResponseAnswer::default());
                assert_eq!(answered(&answer), asked);
                return true;
            }
            Step::ResponseTrailers(turn, _) => {
                match phases.answer_trailers(turn, HeaderMutation::default()) {
                    Ok(step) => step,
                    Err(_) => return false,
                }
            }
            Step::Refuse(_) => {
                phases.immediate(ImmediateResponse::default());
                let late = ProcessingRequest {
                    request: Some(Request::RequestTrailers(HttpTrailers::default())),
                    ..ProcessingRequest::default()
                };
                assert!(matches!(phases.next(late), Ok(Step::Nothing)), "nothing follows");
                return false;
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn promises_hold_for_random_bytes(data in proptest::collection::vec(any::<u8>(), 0..80)) {
            super::phases(&data);
        }
    }
}
