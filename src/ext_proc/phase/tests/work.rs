//! Bodies that are changed, in every mode, against a strict Envoy.

use std::sync::Arc;

use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3::{HeaderMap, HeaderValue};

use super::{
    envoy::{Envoy, Filter, Outcome, Sent, wire},
    *,
};
use crate::{
    ext_proc::{Transform, redact},
    injection::{Encoding, Finder, Scanner},
    secret::SecretValue,
};

const REFERENCE: &str = "{{secret://local/a}}";
const VALUE: &str = "canary-a";
/// Longer than its reference.
const LONG: &str = "{{secret://local/b}}";
const LONG_VALUE: &str = "canary-b-canary-b-canary-b-canary-b-canary-b";

fn resolve(text: &str) -> Resolution {
    match text {
        REFERENCE => Resolution::Value(Bytes::from_static(VALUE.as_bytes())),
        LONG => Resolution::Value(Bytes::from_static(LONG_VALUE.as_bytes())),
        _ => Resolution::Inert,
    }
}

fn substituted(text: &str) -> Vec<u8> {
    text.replace(REFERENCE, VALUE).replace(LONG, LONG_VALUE).into_bytes()
}

fn scan(strict: bool, required: bool) -> Scan {
    let finder = Arc::new(Finder::new(Encoding::Plain, &Arc::from([])));
    Scan { scanner: Scanner::new(finder, strict), strict, required }
}

fn headers_with(sent: &Sent) -> HttpHeaders {
    let length: usize = sent.chunks.iter().map(Vec::len).sum();
    let header = |key: &str, value: String| HeaderValue {
        key: key.to_owned(),
        value: String::new(),
        raw_value: value.into_bytes(),
    };
    let length = sent.length.then(|| header("content-length", length.to_string()));
    let headers = Some(HeaderMap { headers: length.into_iter().collect() });
    HttpHeaders { headers, ..HttpHeaders::default() }
}

fn stream(filter: Filter, settings: PhaseSettings) -> (Phases, ProtocolConfiguration) {
    let protocol = ProtocolConfiguration {
        request_body_mode: wire(filter.mode),
        response_body_mode: wire(filter.mode),
        send_body_without_waiting_for_header_response: false,
    };
    (Phases::new(settings), protocol)
}

/// Sends a request whose body is scanned; none if its mode allows no scan.
fn upload(sent: &Sent, filter: Filter, overrides: bool, work: (bool, bool)) -> Option<Outcome> {
    let settings = PhaseSettings {
        mode_override: overrides,
        modes: Modes { request_trailers: filter.trailers, ..Modes::default() },
        ..PhaseSettings::default()
    };
    let (mut phases, protocol) = stream(filter, settings);
    let first = ProcessingRequest {
        protocol_config: Some(protocol),
        ..message(Request::RequestHeaders(headers_with(sent)))
    };
    let Ok(Step::Process(turn, request)) = phases.next(first) else { panic!("headers first") };
    if !request.request_body {
        return None;
    }
    let rest = Rest { scan: Some(scan(work.0, work.1)), ..Rest::default() };
    let answered = phases.proceed(turn, rest);
    let outcome = Envoy::new(&mut phases, Side::Request, resolve).send(sent, filter, &answered);
    if !matches!(outcome, Outcome::Passed { .. }) {
        return Some(outcome);
    }
    // The response tells whether bytes were lost.
    match phases.next(message(Request::ResponseHeaders(headers(true)))) {
        Ok(_) => Some(outcome),
        Err(error) => Some(Outcome::Failed(error)),
    }
}

/// Sends a response out of which a value is taken.
fn download(sent: &Sent, filter: Filter, overrides: bool) -> Option<Outcome> {
    let settings = PhaseSettings {
        mode_override: overrides,
        modes: Modes { response_trailers: filter.trailers, ..Modes::default() },
        ..PhaseSettings::default()
    };
    let (mut phases, protocol) = stream(filter, settings);
    let first = ProcessingRequest {
        protocol_config: Some(protocol),
        ..message(Request::RequestHeaders(headers(true)))
    };
    let Ok(Step::Process(turn, request)) = phases.next(first) else { panic!("headers first") };
    if !request.response_body {
        return None;
    }
    let rest = Rest { response_headers: true, response_body: true, ..Rest::default() };
    let overridden = phases.proceed(turn, rest);
    let response = message(Request::ResponseHeaders(headers_with(sent)));
    let Ok(Step::Response(turn, _)) = phases.next(response) else {
        panic!("headers are asked about")
    };
    let transform: Box<dyn Transform> = Box::new(Redact(redact::Redactor::new(needles())));
    let transform = Some(transform);
    let answer = ResponseAnswer { transform, ..ResponseAnswer::default() };
    let mut answered = phases.answer_response(turn, answer);
    answered.mode_override = overridden.mode_override;
    Some(Envoy::new(&mut phases, Side::Response, resolve).send(sent, filter, &answered))
}

fn needles() -> Arc<redact::Needles> {
    let mut builder = redact::NeedlesBuilder::default();
    let reference = |text: &str| crate::fixture::reference(text);
    builder.add(&SecretValue::new(VALUE), &reference("secret://local/a"));
    builder.add(&SecretValue::new(LONG_VALUE), &reference("secret://local/b"));
    Arc::new(builder.build().expect("long enough"))
}

struct Redact(redact::Redactor);

impl Transform for Redact {
    fn push(&mut self, chunk: Bytes, out: &mut Vec<Bytes>) {
        self.0.push(chunk, out);
    }

    fn finish(&mut self, out: &mut Vec<Bytes>) {
        self.0.finish(out);
    }

    fn held(&self) -> usize {
        self.0.held()
    }
}

const MODES: [BodyMode; 5] = [
    BodyMode::None,
    BodyMode::Buffered,
    BodyMode::BufferedPartial,
    BodyMode::Streamed,
    BodyMode::Duplex,
];

fn filters() -> impl Iterator<Item = (Filter, bool)> {
    MODES.into_iter().flat_map(|mode| {
        [
            (false, false, false),
            (false, false, true),
            (true, false, true),
            (true, true, true),
            (false, true, true),
            (true, false, false),
        ]
        .into_iter()
        .filter(move |(trailers, _, _)| *trailers || mode != BodyMode::Duplex)
        .map(move |(trailers, allows_override, overrides)| {
            (Filter { mode, trailers, allows_override, buffer: 64 }, overrides)
        })
    })
}

/// Checks one upload in every mode and framing.
fn check_upload(text: &str, chunks: &[Vec<u8>]) {
    for (filter, overrides) in filters() {
        for (length, trailers, late_end) in [
            (true, false, false),
            (true, false, true),
            (false, false, false),
            (false, false, true),
            (false, true, false),
            (true, true, false),
        ] {
            let sent = Sent { chunks: chunks.to_vec(), length, trailers, late_end };
            let what = format!("{filter:?} {overrides} {sent:?}");
            let Some(outcome) = upload(&sent, filter, overrides, (false, false)) else {
                let blind = filter.mode == BodyMode::None
                    || filter.mode == BodyMode::Streamed && !filter.trailers && !length;
                assert!(!overrides && blind, "{what}");
                continue;
            };
            match outcome {
                Outcome::Passed { body, trailers: passed, .. } => {
                    assert_eq!(passed, trailers, "{what}");
                    // Where it was not shown, or not all of it, it is as it was sent.
                    let unheeded = overrides && !filter.allows_override;
                    // Trailers look as if more of it followed.
                    let part = text.len() > filter.buffer || trailers && !length;
                    let unseen = unheeded && filter.mode == BodyMode::None
                        || filter.mode == BodyMode::BufferedPartial && part;
                    let expected = substituted(text);
                    assert!(
                        body == expected || unseen && body == text.as_bytes(),
                        "{what}: {}",
                        String::from_utf8_lossy(&body)
                    );
                }
                // Bytes that can go nowhere any more.
                Outcome::Refused(BodyRefusal::Held) | Outcome::Failed(OutOfOrder::Held) => {
                    assert!(trailers && !length, "{what}");
                    let open = text.rfind("{{secret://").map(|at| &text[at..]);
                    let start = open.is_some_and(|open| !open.contains("}}"))
                        || (1..REFERENCE.len()).any(|at| text.ends_with(&REFERENCE[..at]));
                    assert!(start, "{what}");
                }
                Outcome::Refused(_) | Outcome::Failed(_) => panic!("{what}: {outcome:?}"),
            }
        }
    }
}

fn check_download(text: &str, chunks: &[Vec<u8>]) {
    let expected = text.replace(LONG_VALUE, LONG).replace(VALUE, REFERENCE).into_bytes();
    for (filter, overrides) in filters() {
        for (length, trailers, late_end) in
            [(true, false, false), (false, false, true), (false, true, false), (true, true, false)]
        {
            let sent = Sent { chunks: chunks.to_vec(), length, trailers, late_end };
            let what = format!("{filter:?} {overrides} {sent:?}");
            match download(&sent, filter, overrides) {
                None => assert!(!overrides, "{what}"),
                Some(Outcome::Passed { body, trailers: passed, .. }) => {
                    assert_eq!(passed, trailers, "{what}");
                    let unheeded = overrides && !filter.allows_override;
                    if unheeded && (filter.mode == BodyMode::None || !filter.trailers) {
                        continue;
                    }
                    assert_eq!(
                        String::from_utf8_lossy(&body),
                        String::from_utf8_lossy(&expected),
                        "{what}"
                    );
                }
                Some(Outcome::Refused(BodyRefusal::Incomplete)) => {
                    assert!(filter.mode == BodyMode::BufferedPartial, "{what}");
                }
                Some(Outcome::Refused(BodyRefusal::Held)) => assert!(trailers, "{what}"),
                Some(outcome) => panic!("{what}: {outcome:?}"),
            }
        }
    }
}

fn cut(text: &str, size: usize) -> Vec<Vec<u8>> {
    text.as_bytes().chunks(size).map(<[u8]>::to_vec).collect()
}

#[test]
fn references_are_replaced_in_every_mode_at_every_split() {
    let texts = [
        "".to_owned(),
        "nothing to see {here}".to_owned(),
        REFERENCE.to_owned(),
        format!("a={REFERENCE}&b={LONG}&c=d"),
        "ends in the start of one {{secr".to_owned(),
        format!("{LONG}{{{{secret://foreign/x}}}} {{"),
    ];
    for text in &texts {
        for size in [1, 3, 7, 1000] {
            check_upload(text, &cut(text, size));
        }
    }
    let text = &texts[3];
    for at in 0..=text.len() {
        let (one, other) = text.as_bytes().split_at(at);
        check_upload(text, &[one.to_vec(), other.to_vec()]);
    }
}

#[test]
fn values_are_taken_out_in_every_mode_at_every_split() {
    let texts = [
        "".to_owned(),
        "nothing to see here".to_owned(),
        VALUE.to_owned(),
        format!("{{\"echo\":\"{VALUE}\",\"more\":\"{LONG_VALUE}\"}}"),
        format!("data: {VALUE}\n\ndata: canary"),
    ];
    for text in &texts {
        for size in [1, 3, 1000] {
            check_download(text, &cut(text, size));
        }
    }
    let text = &texts[3];
    for at in 0..=text.len() {
        let (one, other) = text.as_bytes().split_at(at);
        check_download(text, &[one.to_vec(), other.to_vec()]);
    }
}

/// A whole body, and one over the limits of a slice and of the stream.
#[test]
fn large_bodies_are_cut_into_slices_or_refused() {
    let text = format!("{}{REFERENCE}{}", "a".repeat(SLICE - 5), "b".repeat(300_000));
    let duplex =
        Filter { mode: BodyMode::Duplex, trailers: true, allows_override: false, buffer: 0 };
    let sent = Sent { chunks: cut(&text, 1 << 20), length: true, trailers: false, late_end: false };
    let outcome = upload(&sent, duplex, false, (false, false)).expect("it is shown");
    let passed = Outcome::Passed { body: substituted(&text), length: None, trailers: false };
    assert!(outcome == passed, "every byte, in order");

    let buffered = Filter { mode: BodyMode::Buffered, ..duplex };
    let huge = "x".repeat(PhaseSettings::default().body_limit + 1);
    let sent = Sent { chunks: cut(&huge, huge.len()), ..sent };
    let outcome = upload(&sent, buffered, false, (false, false));
    assert!(outcome == Some(Outcome::Refused(BodyRefusal::TooLarge)));
}

#[test]
fn bodies_that_are_shown_in_part_are_never_taken_for_whole() {
    let partial = Filter {
        mode: BodyMode::BufferedPartial,
        trailers: false,
        allows_override: false,
        buffer: 30,
    };
    let long = "x".repeat(100);
    let with = format!("{REFERENCE}{long}");
    let cut_off = format!("{}{{{{secret://loc{long}", "y".repeat(15));
    let refused = Some(Outcome::Refused(BodyRefusal::Incomplete));
    for (text, work, expected) in [
        (&long, (true, false), None),
        (&with, (false, false), None),
        (&with, (true, false), refused.clone()),
        (&cut_off, (true, false), refused.clone()),
        (&long, (false, true), refused.clone()),
        (&with, (false, true), refused),
    ] {
        let sent = Sent { chunks: cut(text, 50), length: false, trailers: false, late_end: false };
        let passed =
            Outcome::Passed { body: text.clone().into_bytes(), length: None, trailers: false };
        let outcome = upload(&sent, partial, false, work);
        assert_eq!(outcome, expected.or(Some(passed)), "{text} {work:?}");
    }
}

#[test]
fn required_references_are_missed_before_the_end_is_let_go() {
    for (filter, overrides) in filters() {
        for trailers in [false, true] {
            let missing = Sent {
                chunks: cut("nothing of the kind", 5),
                length: false,
                trailers,
                late_end: false,
            };
            let present = Sent { chunks: cut(REFERENCE, 5), ..missing.clone() };
            let what = format!("{filter:?} {overrides} {trailers}");
            match upload(&missing, filter, overrides, (false, true)) {
                None | Some(Outcome::Refused(BodyRefusal::NoReference)) => {}
                Some(Outcome::Refused(BodyRefusal::Incomplete)) => {
                    assert!(trailers && filter.mode == BodyMode::BufferedPartial, "{what}");
                }
                Some(Outcome::Failed(OutOfOrder::Unseen)) => {
                    assert!(filter.mode == BodyMode::None && !filter.allows_override, "{what}");
                }
                // Trailers that are not shown end it: that is why they have to be declared.
                Some(Outcome::Passed { .. }) => {
                    assert!(
                        trailers && !filter.trailers && filter.mode == BodyMode::Streamed,
                        "{what}"
                    );
                    assert!(!filter.allows_override && overrides, "{what}");
                }
                Some(outcome) => panic!("{what}: {outcome:?}"),
            }
            if let Some(Outcome::Passed { body, .. }) =
                upload(&present, filter, overrides, (false, true))
            {
                assert_eq!(body, VALUE.as_bytes(), "{what}");
            }
        }
    }
}

#[test]
fn a_whole_body_that_does_not_end_the_stream_is_whole() {
    // As another data plane sends it, and as Envoy does where trailers follow.
    for end in [
        message(Request::RequestBody(body(b"", true))),
        message(Request::RequestTrailers(HttpTrailers::default())),
    ] {
        let mut phases = phases(false);
        let start = first(request_headers(), BUFFERED, NONE);
        let Ok(Step::Process(turn, _)) = phases.next(start) else { panic!("headers first") };
        phases.proceed(turn, Rest { scan: Some(scan(false, false)), ..Rest::default() });
        let whole = message(Request::RequestBody(body(b"{{secret://foreign/a}} {{sec", false)));
        let Ok(Step::Resolve(needs)) = phases.next(whole) else { panic!("it asks") };
        let inert = needs.into_iter().map(|text| (text, Resolution::Inert)).collect();
        let Step::Answer(answer) = phases.resolved(inert) else { panic!("at once") };
        assert_eq!(*answer, respond_plain(4), "unchanged");
        let Ok(Step::Answer(answer)) = phases.next(end) else { panic!("an answer") };
        assert!(matches!(kind(&answer), 4 | 6));
        assert!(answer.mode_override.is_none());
    }
}

/// Nothing is looked for where something else than a body follows.
#[test]
fn tunnels_and_requests_without_body_have_none_to_scan() {
    let header = |key: &str, value: &str| HeaderValue {
        key: key.to_owned(),
        value: String::new(),
        raw_value: value.as_bytes().to_vec(),
    };
    for (name, value, end) in [
        (":method", "CONNECT", false),
        ("upgrade", "websocket", false),
        (":protocol", "websocket", false),
        (":method", "HEAD", true),
        (":method", "GET", true),
    ] {
        let headers = Some(HeaderMap { headers: vec![header(name, value)] });
        let headers = HttpHeaders { headers, end_of_stream: end, ..HttpHeaders::default() };
        let mut phases = phases(true);
        let start = first(Request::RequestHeaders(headers), STREAMED, STREAMED);
        let Ok(Step::Process(turn, request)) = phases.next(start) else { panic!("headers first") };
        assert!(!request.request_body, "{name} {value}");
        // The headers are answered at once, and the rest is not asked for.
        let answer = phases.proceed(turn, Rest::default());
        let mode = answer.mode_override.expect("overridden");
        assert_eq!((mode.request_body_mode, mode.response_body_mode), (NONE, NONE));
    }
}

#[test]
fn modes_that_are_not_announced_are_those_configured() {
    for mode in MODES.into_iter().filter(|mode| mode.is_rewritable()) {
        let modes = Modes { request_body: mode, request_trailers: true, ..Modes::default() };
        let mut phases = Phases::new(PhaseSettings { modes, ..PhaseSettings::default() });
        let Ok(Step::Process(turn, request)) = phases.next(message(request_headers())) else {
            panic!("headers first")
        };
        assert!(request.request_body, "{mode:?}");
        let answered =
            phases.proceed(turn, Rest { scan: Some(scan(false, false)), ..Rest::default() });
        let filter = Filter { mode, trailers: true, allows_override: false, buffer: 1000 };
        let sent =
            Sent { chunks: cut(REFERENCE, 6), length: false, trailers: false, late_end: true };
        let outcome =
            Envoy::new(&mut phases, Side::Request, resolve).send(&sent, filter, &answered);
        let body = VALUE.as_bytes().to_vec();
        assert_eq!(outcome, Outcome::Passed { body, length: None, trailers: false }, "{mode:?}");
    }
}

#[test]
fn longer_than_announced_is_an_error() {
    let mut phases = phases(false);
    let sent =
        Sent { chunks: vec![b"12345".to_vec()], length: true, trailers: false, late_end: false };
    let start = first(Request::RequestHeaders(headers_with(&sent)), STREAMED, NONE);
    let Ok(Step::Process(turn, _)) = phases.next(start) else { panic!("headers first") };
    phases.proceed(turn, Rest { scan: Some(scan(false, false)), ..Rest::default() });
    let longer = message(Request::RequestBody(body(b"123456", true)));
    assert_eq!(phases.next(longer).err(), Some(OutOfOrder::Length));
}

/// A filter that heeds no override shows neither body. What its response holds would go back
/// to the client as it is.
#[test]
fn overrides_that_are_not_heeded_for_the_request_are_not_trusted_for_the_response() {
    for (length, response_mode, redacts, expected) in [
        (true, NONE, true, Some(OutOfOrder::Unseen)),
        // Such a body may still come.
        (false, NONE, true, None),
        // Its trailers are not shown.
        (true, STREAMED, true, Some(OutOfOrder::Unseen)),
        // It is shown whatever is asked for, and waits for what it ends with.
        (true, BUFFERED, true, None),
        (true, NONE, false, None),
    ] {
        let mut phases = phases(true);
        let chunks = vec![b"short".to_vec()];
        let sent = Sent { chunks, length, trailers: false, late_end: false };
        let start = first(Request::RequestHeaders(headers_with(&sent)), NONE, response_mode);
        let Ok(Step::Process(turn, _)) = phases.next(start) else { panic!("headers first") };
        let rest = Rest {
            scan: Some(scan(false, false)),
            response_headers: redacts,
            response_body: redacts,
            ..Rest::default()
        };
        phases.proceed(turn, rest);
        let response = message(Request::ResponseHeaders(HttpHeaders::default()));
        assert_eq!(phases.next(response).err(), expected, "{response_mode} {redacts}");
        assert_eq!(phases.notes().collect::<Vec<_>>(), [Note::OverrideIgnored]);
    }
}

fn text() -> impl Strategy<Value = String> {
    let fragment = prop_oneof![
        3 => "[ -z|~]{0,20}",
        2 => Just(REFERENCE.to_owned()),
        2 => Just(LONG.to_owned()),
        1 => Just("{{secret://foreign/a}}".to_owned()),
        1 => (0..REFERENCE.len()).prop_map(|at| REFERENCE[..at].to_owned() + "x"),
        1 => Just(VALUE.to_owned()),
        1 => Just(LONG_VALUE.to_owned()),
        1 => (1_usize..80_000).prop_map(|n| "z".repeat(n)),
    ];
    proptest::collection::vec(fragment, 0..6).prop_map(|all| all.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn any_body_in_any_chunks_and_mode_is_what_it_should_be(
        text in text(),
        sizes in proptest::collection::vec(
            prop_oneof![4 => 1_usize..40, 1 => 1000_usize..70_000, 1 => Just(1 << 20)], 1..8),
    ) {
        let mut chunks: Vec<Vec<u8>> = Vec::new();
        let mut rest = text.as_bytes();
        for size in sizes.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            // Few chunks of a large body are enough.
            let size = (*size).max(text.len() / 200);
            let (chunk, after) = rest.split_at(size.min(rest.len()));
            chunks.push(chunk.to_vec());
            rest = after;
        }
        check_upload(&text, &chunks);
        check_download(&text, &chunks);
    }
}
