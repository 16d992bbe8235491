//! How streams end, and what hostile or unusual messages do to them.

use envoy_types::pb::envoy::service::ext_proc::v3::{HttpBody, HttpTrailers};
use tonic::Code;

use super::*;
use crate::ext_proc::{HeadersAnswer, RequestHeaders};

/// A processor with a bug.
struct Panics;

impl Processor for Panics {
    async fn on_request_headers(&self, _: RequestHeaders) -> HeadersAnswer {
        tokio::task::yield_now().await;
        panic!("a bug in the processor");
    }
}

fn message(request: Request) -> ProcessingRequest {
    ProcessingRequest { request: Some(request), ..ProcessingRequest::default() }
}

fn body(bytes: Vec<u8>, end_of_stream: bool) -> ProcessingRequest {
    message(Request::RequestBody(HttpBody { body: bytes, end_of_stream, ..HttpBody::default() }))
}

#[tokio::test]
async fn a_panic_is_an_error_and_not_a_clean_end() {
    let metrics = Arc::new(Metrics::default());
    let service = ExtProc::with_processor(Panics, Arc::clone(&metrics), PhaseSettings::default());
    let service = Service::serve(service, metrics).await;
    let answer = service.ask(request("/", &[])).await;
    assert_eq!(answer.map_err(|status| status.code()).err(), Some(Code::Internal));
    assert!(service.counts(r#"vaultmux_ext_proc_streams_total{result="error",reason="panic"} 1"#));
    // Other streams are none the worse.
    let answer = service.ask(body(vec![], true)).await.expect("an answer");
    assert!(matches!(answer.response, Some(Response::RequestBody(_))));
}

#[tokio::test]
async fn half_close_ends_a_stream_well_once_all_is_answered() {
    let service = Service::start().await;
    let mut exchange = service.open().await;
    exchange.send(request("/", &[("x-key", "{{secret://local/use/slow}}")])).await;
    drop(std::mem::replace(&mut exchange.requests, mpsc::channel(1).0));
    let answer = exchange.answer().await.expect("an answer").expect("before the end");
    assert_ne!(status(&answer).0, 0);
    assert!(exchange.answer().await.expect("status OK").is_none());
    assert!(service.counts(r#"vaultmux_ext_proc_streams_total{result="ok",reason="none"} 1"#));
}

#[tokio::test]
async fn shutdown_ends_open_streams_with_an_error() {
    let service = Service::start().await;
    let mut exchange = service.open().await;
    exchange.send(request("/", &[])).await;
    exchange.answer().await.expect("an answer").expect("before the end");
    service.shutdown.cancel();
    let end = exchange.answer().await.map_err(|status| status.code());
    assert_eq!(end.err(), Some(Code::Unavailable));
}

#[tokio::test]
async fn a_reset_by_the_client_is_no_failure() {
    let service = Service::start().await;
    let mut exchange = service.open().await;
    exchange.send(request("/", &[])).await;
    exchange.answer().await.expect("an answer");
    drop(exchange);
    for _ in 0..1000 {
        if service.counts(r#"vaultmux_ext_proc_streams_total{result="ok",reason="none"} 1"#) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("the stream was not counted as ended");
}

#[tokio::test]
async fn a_whole_stream_passes_in_order() {
    let service = Service::start().await;
    let mut exchange = service.open().await;
    let trailers = || HttpTrailers::default();
    let sequence = [
        request("/", &[("x-key", "{{secret://local/use/key}}")]),
        body(vec![1; 1000], false),
        message(Request::RequestTrailers(trailers())),
        message(Request::ResponseHeaders(HttpHeaders::default())),
        message(Request::ResponseTrailers(trailers())),
    ];
    let mut kinds = Vec::new();
    for message in sequence {
        exchange.send(message).await;
        kinds.push(match exchange.answer().await.expect("an answer").expect("open").response {
            Some(Response::RequestHeaders(_)) => "request headers",
            Some(Response::RequestBody(_)) => "request body",
            Some(Response::RequestTrailers(_)) => "request trailers",
            Some(Response::ResponseHeaders(_)) => "response headers",
            Some(Response::ResponseTrailers(_)) => "response trailers",
            _ => "other",
        });
    }
    let expected = [
        "request headers",
        "request body",
        "request trailers",
        "response headers",
        "response trailers",
    ];
    assert_eq!(kinds, expected);
}

#[tokio::test]
async fn hostile_messages_get_an_answer_or_an_error() {
    let service = Service::start().await;
    let raw = |key: &str, raw_value: Vec<u8>| HeaderValue {
        key: key.to_owned(),
        value: String::new(),
        raw_value,
    };
    let headers = |headers: Vec<HeaderValue>| {
        let headers = Some(HeaderMap { headers });
        message(Request::RequestHeaders(HttpHeaders { headers, ..HttpHeaders::default() }))
    };
    let absent = message(Request::RequestHeaders(HttpHeaders::default()));
    let junk = vec![0xff, 0xfe, 0, b'\n'];
    let open = [b"\xff{{secret://", junk.as_slice()].concat();
    let answered = [
        absent,
        headers(vec![raw(":path", junk.clone()), raw(":authority", junk.clone())]),
        headers(vec![raw("", vec![]), raw("x\u{0}y", open), raw("é", junk.clone())]),
        headers(vec![raw(":path", b"/v1/secrets/a".to_vec()); 2]),
        headers((0..20_000).map(|at| raw(&format!("x-{at}"), junk.clone())).collect()),
        headers(vec![raw("x-big", vec![b'{'; 4 * 1024 * 1024])]),
        body(vec![0; 8 * 1024 * 1024], true),
    ];
    for message in answered {
        let answer = service.ask(message).await.expect("an answer");
        assert!(answer.response.is_some());
    }
    let refused = [
        (ProcessingRequest::default(), Code::FailedPrecondition),
        (body(vec![0; 17 * 1024 * 1024], true), Code::OutOfRange),
    ];
    for (message, code) in refused {
        let answer = service.ask(message).await.map_err(|status| status.code());
        assert_eq!(answer.err(), Some(code));
    }
}

#[tokio::test]
async fn refusals_do_not_repeat_what_was_sent() {
    let service = Service::start().await;
    let mut exchange = service.open().await;
    for _ in 0..2 {
        exchange.send(request("/canary-4711", &[("x-key", CANARY)])).await;
    }
    exchange.answer().await.expect("the first is in order");
    let Err(status) = exchange.answer().await else { panic!("the second is not") };
    assert!(!status.message().contains("canary"), "{}", status.message());
}

/// Each kind of message that cannot come has a word of its own.
#[tokio::test]
async fn streams_that_fail_say_why() {
    let end = || body(vec![], true);
    for (messages, reason) in [
        (vec![ProcessingRequest::default()], "no_phase"),
        (vec![request("/", &[]), request("/", &[])], "out_of_order"),
        (vec![request("/", &[]), end(), body(vec![1], true)], "after_end"),
    ] {
        let service = Service::start().await;
        let mut exchange = service.open().await;
        for message in messages {
            exchange.send(message).await;
        }
        let code = loop {
            match exchange.answer().await {
                Ok(answer) => assert!(answer.is_some(), "{reason}: a good end"),
                Err(status) => break status.code(),
            }
        };
        assert_eq!(code, Code::FailedPrecondition, "{reason}");
        let line =
            format!(r#"vaultmux_ext_proc_streams_total{{result="error",reason="{reason}"}} 1"#);
        assert!(service.counts(&line), "{line}");
    }
}

/// What does not fit into a message is answered all the same, and never with a good end.
#[tokio::test]
async fn bodies_larger_than_a_message_are_too_large() {
    let service = Service::start().await;
    for (target, key) in [("/", None), ("/inject", None), ("/", Some("{{secret://local/use/key}}"))]
    {
        let mut exchange = service.open().await;
        let headers: Vec<_> = key.map(|key| ("x-key", key)).into_iter().collect();
        exchange.send(request(target, &headers)).await;
        exchange.answer().await.expect("an answer").expect("before the end");
        exchange.send(body(vec![b'a'; crate::ext_proc::MAX_MESSAGE + 1], true)).await;
        let answer = exchange.answer().await.expect("an answer").expect("before the end");
        assert_eq!((status(&answer).0, status(&answer).1), (413, "vaultmux_body_too_large"));
        let end = exchange.answer().await.map_err(|status| status.code());
        assert_eq!(end.err(), Some(Code::OutOfRange), "whoever reads on is told");
    }
    assert!(service.counts(r#"vaultmux_ext_proc_bodies_total{result="body_too_large"} 3"#));
    // Nobody waits for an answer about it.
    let first = service.ask(body(vec![b'a'; crate::ext_proc::MAX_MESSAGE + 1], true)).await;
    assert_eq!(first.map_err(|status| status.code()).err(), Some(Code::OutOfRange));
}
