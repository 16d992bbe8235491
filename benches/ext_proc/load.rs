//! Requests as Envoy shows them: a stream for each, one message at a time.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use envoy_types::pb::{
    envoy::{
        config::core::v3::{HeaderMap, HeaderValue},
        extensions::filters::http::ext_proc::v3::processing_mode::BodySendMode,
        service::ext_proc::v3::{
            HttpBody, HttpHeaders, ProcessingRequest, ProtocolConfiguration,
            external_processor_client::ExternalProcessorClient, processing_request::Request,
            processing_response::Response,
        },
    },
    google::protobuf::{Struct, Value, value::Kind},
};
use tokio::{sync::mpsc, task::JoinSet};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};

const CONNECTIONS: usize = 2;
const AT_ONCE: usize = 8;

/// The messages about one request, and what shows that they were answered as they should be.
pub(crate) struct Exchange {
    messages: Vec<ProcessingRequest>,
    /// Whether the answer to the first sets a header.
    sets_header: bool,
}

/// Clients at work.
pub(crate) struct Load {
    clients: JoinSet<Vec<Duration>>,
    measuring: Arc<AtomicBool>,
    stopped: Arc<AtomicBool>,
}

// === impl Exchange ===

impl Exchange {
    /// A GET of which only the headers are shown.
    pub(crate) fn headers_only() -> Self {
        let headers = headers("app.test", "app", &[("authorization", "Bearer 0123456789abcdef")]);
        Self { messages: vec![first(headers, true, BodySendMode::None)], sets_header: false }
    }

    /// The same toward a destination, with a reference among the headers if it is ours to answer.
    pub(crate) fn reference(sets_header: bool) -> Self {
        let reference = [("authorization", "Bearer {{secret://local/stripe}}")];
        let headers = headers("api.stripe.test", "payment", &reference);
        Self { messages: vec![first(headers, true, BodySendMode::None)], sets_header }
    }

    /// A POST with a body of text in pieces, in which references are looked for.
    pub(crate) fn streamed(pieces: usize, length: usize) -> Self {
        let text = "Lorem ipsum dolor sit amet, consetetur {sadipscing} elitr. ";
        let body = text.bytes().cycle().take(length).collect::<Vec<_>>();
        let headers = headers("api.stripe.test", "payment", &[("content-type", "text/plain")]);
        let mut messages = vec![first(headers, false, BodySendMode::Streamed)];
        messages.extend((1..=pieces).map(|piece| {
            let body = HttpBody {
                body: body.clone(),
                end_of_stream: piece == pieces,
                ..HttpBody::default()
            };
            ProcessingRequest {
                request: Some(Request::RequestBody(body)),
                ..ProcessingRequest::default()
            }
        }));
        Self { messages, sets_header: false }
    }

    /// Has one request answered, and tells how long that took.
    async fn run(&self, client: &mut ExternalProcessorClient<Channel>) -> Duration {
        let sent = Instant::now();
        let (messages, receiver) = mpsc::channel(1);
        let mut rest = self.messages.iter();
        messages.send(rest.next().expect("headers").clone()).await.expect("nobody reads yet");
        let answers = client.process(ReceiverStream::new(receiver)).await.expect("a stream");
        let mut answers = answers.into_inner();
        let first = answers.message().await.expect("no error").expect("an answer");
        assert!(self.is_answered_by(first.response.as_ref()), "another answer");
        for message in rest {
            messages.send(message.clone()).await.expect("the stream is open");
            let answer = answers.message().await.expect("no error").expect("an answer");
            assert!(matches!(answer.response, Some(Response::RequestBody(_))), "another answer");
        }
        // Envoy closes its half when the request is over.
        drop(messages);
        let took = sent.elapsed();
        assert!(answers.message().await.expect("no error").is_none(), "one answer too many");
        took
    }

    fn is_answered_by(&self, answer: Option<&Response>) -> bool {
        let Some(Response::RequestHeaders(headers)) = answer else { return false };
        let mutation = headers.response.as_ref().and_then(|common| common.header_mutation.as_ref());
        mutation.is_some_and(|mutation| !mutation.set_headers.is_empty()) == self.sets_header
    }
}

fn first(
    (headers, attributes): (HttpHeaders, HashMap<String, Struct>),
    end_of_stream: bool,
    body: BodySendMode,
) -> ProcessingRequest {
    ProcessingRequest {
        request: Some(Request::RequestHeaders(HttpHeaders { end_of_stream, ..headers })),
        attributes,
        protocol_config: Some(ProtocolConfiguration {
            request_body_mode: body.into(),
            ..ProtocolConfiguration::default()
        }),
        ..ProcessingRequest::default()
    }
}

/// What Envoy shows of a request by default, and the attributes that our filters ask for.
fn headers(
    host: &str,
    cluster: &str,
    more: &[(&str, &str)],
) -> (HttpHeaders, HashMap<String, Struct>) {
    let usual = [
        (":authority", host),
        (":method", "POST"),
        (":path", "/v1/charges/4711?expand=lines"),
        (":scheme", "https"),
        ("accept", "application/json"),
        ("accept-encoding", "gzip, deflate, br"),
        ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
        ("user-agent", "orders/1.42 (linux; amd64) http-client/5.3"),
        ("x-forwarded-for", "10.244.1.17"),
        ("x-forwarded-proto", "https"),
        ("x-request-id", "8f0b7b3e-5a52-4f0e-8f0f-3f1f5f8f2b02"),
    ];
    let header = |(key, value): &(&str, &str)| HeaderValue {
        key: (*key).to_owned(),
        value: String::new(),
        raw_value: value.as_bytes().to_vec(),
    };
    let headers = usual.iter().chain(more).map(header).collect();
    let text = |text: &str| Some(Kind::StringValue(text.to_owned()));
    let attributes = [
        ("xds.cluster_name", text(cluster)),
        ("xds.route_name", text("default")),
        ("connection.uri_san_peer_certificate", text("spiffe://cluster.local/ns/prod/sa/api")),
        ("connection.mtls", Some(Kind::BoolValue(true))),
        ("request.host", text(host)),
    ];
    let field = |(name, kind): (&str, Option<Kind>)| (name.to_owned(), Value { kind });
    let fields = Struct { fields: attributes.into_iter().map(field).collect() };
    let headers = HttpHeaders { headers: Some(HeaderMap { headers }), ..HttpHeaders::default() };
    (headers, HashMap::from([("envoy.filters.http.ext_proc".to_owned(), fields)]))
}

// === impl Load ===

impl Load {
    /// Starts clients: as many connections as an Envoy has worker threads.
    pub(crate) async fn start(server: SocketAddr, exchange: &Arc<Exchange>) -> Self {
        let mut load =
            Self { clients: JoinSet::new(), measuring: Arc::default(), stopped: Arc::default() };
        for _ in 0..CONNECTIONS {
            let endpoint = Endpoint::from_shared(format!("http://{server}")).expect("an address");
            let channel = endpoint.tcp_nodelay(true).connect().await.expect("connected");
            for _ in 0..AT_ONCE {
                let exchange = Arc::clone(exchange);
                let (measuring, stopped) = (load.measuring.clone(), load.stopped.clone());
                load.clients.spawn(ask(channel.clone(), exchange, measuring, stopped));
            }
        }
        load
    }

    /// Counts from now on.
    pub(crate) fn measure(&self) {
        self.measuring.store(true, Ordering::Relaxed);
    }

    /// How long every counted request took, in order.
    pub(crate) async fn stop(self) -> Vec<Duration> {
        self.stopped.store(true, Ordering::Relaxed);
        let mut latencies = self.clients.join_all().await.concat();
        latencies.sort_unstable();
        latencies
    }
}

/// So many at once, each on a connection of its own.
pub(crate) async fn once(server: SocketAddr, exchange: &Arc<Exchange>, times: usize) {
    let mut clients = JoinSet::new();
    for _ in 0..times {
        let endpoint = Endpoint::from_shared(format!("http://{server}")).expect("an address");
        let exchange = Arc::clone(exchange);
        clients.spawn(async move {
            let channel = endpoint.connect().await.expect("connected");
            exchange.run(&mut ExternalProcessorClient::new(channel)).await
        });
    }
    clients.join_all().await;
}

async fn ask(
    channel: Channel,
    exchange: Arc<Exchange>,
    measuring: Arc<AtomicBool>,
    stopped: Arc<AtomicBool>,
) -> Vec<Duration> {
    let mut client = ExternalProcessorClient::new(channel);
    let mut latencies = Vec::new();
    while !stopped.load(Ordering::Relaxed) {
        let counts = measuring.load(Ordering::Relaxed);
        let took = exchange.run(&mut client).await;
        if counts {
            latencies.push(took);
        }
    }
    latencies
}
