//! More time than Envoy gives by itself, and responses that are looked at.

use envoy_types::pb::envoy::{
    extensions::filters::http::ext_proc::v3::processing_mode::HeaderSendMode,
    service::ext_proc::v3::HttpBody,
};
use tokio::sync::Semaphore;
use tonic::Code;

use super::*;
use crate::ext_proc::{HeadersAnswer, PhaseSettings, RequestHeaders, patience::Extension};

/// Answers when it is let.
struct Waits(Arc<Semaphore>);

impl Processor for Waits {
    async fn on_request_headers(&self, _: RequestHeaders) -> HeadersAnswer {
        self.0.acquire().await.expect("never closed").forget();
        HeadersAnswer::Continue
    }
}

async fn waiting(open: &Arc<Semaphore>, max: Option<Duration>) -> Service {
    let metrics = Arc::new(Metrics::default());
    let processor = Waits(Arc::clone(open));
    let service =
        ExtProc::with_processor(processor, Arc::clone(&metrics), PhaseSettings::default());
    let extension = Extension::new(Duration::from_millis(20), max);
    Service::serve(ExtProc { extension, ..service }, metrics).await
}

const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn envoy_is_asked_for_more_time_once_and_then_answered() {
    let open = Arc::new(Semaphore::new(0));
    let service = waiting(&open, Some(HOUR)).await;
    let mut exchange = service.open().await;
    exchange.send(request("/", &[])).await;
    let asked = exchange.answer().await.expect("an answer").expect("open");
    assert_eq!(asked.override_message_timeout.as_ref().map(|time| time.seconds), Some(3600));
    // Envoy ignores whatever else is in it.
    assert!(asked.response.is_none() && asked.mode_override.is_none());
    open.add_permits(1);
    let answer = exchange.answer().await.expect("an answer").expect("open");
    assert!(matches!(answer.response, Some(Response::RequestHeaders(_))));
    assert!(answer.override_message_timeout.is_none());
    let body = Request::RequestBody(HttpBody { end_of_stream: true, ..HttpBody::default() });
    exchange.send(ProcessingRequest { request: Some(body), ..Default::default() }).await;
    let answer = exchange.answer().await.expect("an answer").expect("open");
    assert!(matches!(answer.response, Some(Response::RequestBody(_))));
}

#[tokio::test]
async fn nothing_is_said_before_the_answer_where_it_grants_nothing() {
    let closed = Arc::new(Semaphore::new(0));
    let service = waiting(&closed, None).await;
    let mut exchange = service.open().await;
    exchange.send(request("/", &[])).await;
    let quiet = tokio::time::timeout(Duration::from_millis(200), exchange.answers.message()).await;
    assert!(quiet.is_err(), "nothing is said before the answer");
    closed.add_permits(1);
    let answer = exchange.answer().await.expect("an answer").expect("open");
    assert!(answer.override_message_timeout.is_none() && answer.response.is_some());
}

#[tokio::test]
async fn a_shutdown_ends_the_wait_with_an_error() {
    let open = Arc::new(Semaphore::new(0));
    let service = waiting(&open, Some(HOUR)).await;
    let mut exchange = service.open().await;
    exchange.send(request("/", &[])).await;
    assert!(exchange.answer().await.expect("an answer").expect("open").response.is_none());
    service.shutdown.cancel();
    let end = exchange.answer().await.map_err(|status| status.code());
    assert_eq!(end.err(), Some(Code::Unavailable));
}

#[test]
fn answers_come_before_the_time_that_was_asked_for_is_over() {
    let (after, max) = (Duration::from_millis(150), Duration::from_secs(2));
    let extension = Extension::new(after, Some(max)).expect("more than the budget");
    assert_eq!(extension.budget(), Duration::from_millis(1800));
    assert_eq!(Extension::new(after, Some(after)), None);
    assert_eq!(Extension::new(after, None), None);
}

#[tokio::test]
async fn responses_are_asked_for_and_looked_at_only_where_a_secret_may_be_suspected() {
    let service = Service::start_with(|snapshot| snapshot.suspect_statuses = [401].into()).await;
    let suspected = |service: &Service| {
        let text = service.metrics.encode().expect("text");
        let line = text.lines().find(|line| line.starts_with("vaultmux_suspicions_total"));
        line.map(|line| line.rsplit(' ').next().unwrap_or_default().to_owned())
    };
    let status = |status: &str| {
        let header = HeaderValue {
            key: ":status".into(),
            raw_value: status.as_bytes().to_vec(),
            ..HeaderValue::default()
        };
        let headers = Some(HeaderMap { headers: vec![header] });
        let headers = HttpHeaders { headers, ..HttpHeaders::default() };
        let request = Some(Request::ResponseHeaders(headers));
        ProcessingRequest { request, ..ProcessingRequest::default() }
    };
    let key = ("x-key", "{{secret://local/use/key}}");
    for (headers, answered, mode, expected) in [
        (&[][..], "401", HeaderSendMode::Skip, None),
        (&[key], "200", HeaderSendMode::Send, None),
        (&[key], "403", HeaderSendMode::Send, None),
        (&[key], "401x", HeaderSendMode::Send, None),
        (&[key], "401", HeaderSendMode::Send, Some("1")),
        (&[key], "401", HeaderSendMode::Send, Some("2")),
    ] {
        let mut exchange = service.open().await;
        exchange.send(request("/", headers)).await;
        let answer = exchange.answer().await.expect("an answer").expect("open");
        let modes = answer.mode_override.expect("asked for");
        assert_eq!(modes.response_header_mode, i32::from(mode), "{answered}");
        assert_eq!((modes.response_body_mode, modes.request_body_mode), (0, 0), "{answered}");
        exchange.send(status(answered)).await;
        let answer = exchange.answer().await.expect("an answer").expect("open");
        let Some(Response::ResponseHeaders(headers)) = answer.response else { panic!("headers") };
        assert_eq!(headers.response, None, "the response is not changed");
        assert_eq!(suspected(&service).as_deref(), expected, "{answered}");
    }
}
