//! Connections over real sockets, with bounds short enough to be met.

use std::sync::atomic::{AtomicUsize, Ordering};

use axum::routing::{get, post};
use futures_util::stream;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::*;
use crate::{
    config::{Address, ListenerConfig},
    net::Bound,
};

/// Long enough for a loaded machine.
const PATIENCE: Duration = Duration::from_secs(30);
const LONG: Duration = Duration::from_secs(3600);

/// Tells what was refused.
struct Plain;

impl Refusals for Plain {
    fn refuse(
        &self,
        refused: Refused,
        head: Option<(&http::Method, &http::HeaderMap)>,
    ) -> Response<bytes::Bytes> {
        let mut answer = Response::new(format!("{refused:?} {:?}", head.map(|it| it.0)).into());
        *answer.status_mut() = http::StatusCode::BAD_REQUEST;
        if refused == Refused::HeadTooLarge {
            *answer.status_mut() = http::StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        }
        answer
    }
}

struct Server {
    address: std::net::SocketAddr,
    metrics: Arc<Metrics>,
    stop: watch::Sender<bool>,
    served: tokio::task::JoinHandle<()>,
    answered: Arc<AtomicUsize>,
    gate: Arc<tokio::sync::Semaphore>,
}

fn limits() -> ConnectionLimits {
    ConnectionLimits {
        connections: 100,
        header_timeout: LONG,
        idle_timeout: LONG,
        stall_timeout: LONG,
    }
}

impl Server {
    async fn start(limits: ConnectionLimits) -> Self {
        let config = ListenerConfig {
            address: Address::Tcp(([127, 0, 0, 1], 0).into()),
            tls: None,
            peer_uids: Vec::new(),
            trusted_peers: None,
            health_on_all_addresses: false,
        };
        let bound = Bound::new("rest", &config, &[]).await.expect("bound");
        let Address::Tcp(address) = *bound.address() else { panic!("a port") };
        let metrics = Arc::new(Metrics::default());
        let (stop, stopped) = watch::channel(false);
        let (answered, gate) =
            (Arc::new(AtomicUsize::new(0)), Arc::new(tokio::sync::Semaphore::new(0)));
        let (counted, opened) = (Arc::clone(&answered), Arc::clone(&gate));
        let endless = || async {
            let chunk = || Ok::<_, Infallible>(bytes::Bytes::from(vec![b'x'; 64 << 10]));
            Body::from_stream(stream::repeat_with(chunk))
        };
        let router = Router::new()
            .route("/endless", get(endless))
            .route(
                "/gate",
                get(move || async move {
                    opened.acquire().await.expect("never closed").forget();
                    "through"
                }),
            )
            .route("/echo", post(|body: bytes::Bytes| async { body }))
            .fallback(move || async move {
                counted.fetch_add(1, Ordering::SeqCst);
                "ok"
            });
        let incoming = bound.accept();
        let refusals = Arc::new(Plain);
        let routers = Routers { router, beyond: Router::new(), refusals };
        let served = tokio::spawn(serve(incoming, routers, limits, Arc::clone(&metrics), stopped));
        Self { address, metrics, stop, served, answered, gate }
    }

    async fn connect(&self, text: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.expect("connected");
        stream.write_all(text.as_bytes()).await.expect("sent");
        stream
    }

    /// Waits for a metric to have this line.
    async fn measured(&self, line: &str) {
        let there = async {
            while !self.metrics.encode().expect("text").lines().any(|found| found == line) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        if timeout(PATIENCE, there).await.is_err() {
            panic!("no {line} in\n{}", self.metrics.encode().expect("text"));
        }
    }

    async fn closed(&self, reason: &str) {
        let line = format!("vaultmux_rest_connections_closed_total{{reason=\"{reason}\"}} 1");
        self.measured(&line).await;
    }
}

/// All that comes until the other end closes.
async fn rest(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    let read = timeout(PATIENCE, stream.read_to_end(&mut text)).await.expect("closed in time");
    // A reset is a close too.
    let _ = read;
    String::from_utf8_lossy(&text).into_owned()
}

/// The first bytes of an answer.
async fn head(stream: &mut TcpStream) -> String {
    let mut bytes = [0; 4096];
    let read = timeout(PATIENCE, stream.read(&mut bytes)).await.expect("an answer");
    String::from_utf8_lossy(&bytes[..read.expect("readable")]).into_owned()
}

const GET: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";

#[tokio::test]
async fn a_head_that_does_not_end_is_given_up() {
    let short = Duration::from_millis(100);
    let server = Server::start(ConnectionLimits { header_timeout: short, ..limits() }).await;
    let mut slow = server.connect("GET / HTTP/1.1\r\nhost: ").await;
    assert_eq!(rest(&mut slow).await, "");
    server.closed("slow_head").await;
    // A connection that waits for its next request is not slow.
    let mut waiting = server.connect(GET).await;
    assert!(head(&mut waiting).await.starts_with("HTTP/1.1 200"));
    tokio::time::sleep(4 * short).await;
    waiting.write_all(GET.as_bytes()).await.expect("still open");
    assert!(head(&mut waiting).await.starts_with("HTTP/1.1 200"));
    // Nor is one that has sent nothing yet.
    let mut silent = server.connect("").await;
    tokio::time::sleep(4 * short).await;
    silent.write_all(GET.as_bytes()).await.expect("still open");
    assert!(head(&mut silent).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn half_a_head_behind_a_whole_request_is_given_up() {
    let short = Duration::from_millis(500);
    let server = Server::start(ConnectionLimits { header_timeout: short, ..limits() }).await;
    let half = "GET / HTTP/1.1\r\nhost: ";
    for ahead in [GET, "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc"] {
        let mut slow = server.connect(&format!("{ahead}{half}")).await;
        let answers = rest(&mut slow).await;
        assert!(answers.starts_with("HTTP/1.1 200"), "{answers}");
        assert_eq!(answers.matches("HTTP/1.1").count(), 1, "{answers}");
    }
    let line = "vaultmux_rest_connections_closed_total{reason=\"slow_head\"} 2";
    server.measured(line).await;
    // The time of a head that arrives while another request is being answered begins when
    // the answer has ended.
    let mut busy = server.connect(&format!("GET /gate HTTP/1.1\r\nhost: a\r\n\r\n{half}")).await;
    tokio::time::sleep(3 * short).await;
    server.gate.add_permits(1);
    assert!(head(&mut busy).await.starts_with("HTTP/1.1 200"));
    busy.write_all(b"a\r\n\r\n").await.expect("still open");
    assert!(head(&mut busy).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn half_a_head_in_frames_is_given_up() {
    let short = Duration::from_millis(500);
    let server = Server::start(ConnectionLimits { header_timeout: short, ..limits() }).await;
    let preface: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let settings: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
    let headers: &[u8] = &[0, 0, 3, 1, 1, 0, 0, 0, 1, 0x82, 0x86, 0x84];
    for (number, parts) in
        [&[preface][..], &[preface, settings, headers], &[preface, settings, &headers[..10]]]
            .into_iter()
            .enumerate()
    {
        let mut slow = TcpStream::connect(server.address).await.expect("connected");
        slow.write_all(&parts.concat()).await.expect("sent");
        rest(&mut slow).await;
        let closed = number + 1;
        let line =
            format!("vaultmux_rest_connections_closed_total{{reason=\"slow_head\"}} {closed}");
        server.measured(&line).await;
    }
    assert_eq!(server.answered.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_connection_without_requests_is_closed() {
    // Longer than its first request takes to arrive.
    let short = Duration::from_secs(1);
    let server = Server::start(ConnectionLimits { idle_timeout: short, ..limits() }).await;
    let mut idle = server.connect(GET).await;
    assert!(rest(&mut idle).await.starts_with("HTTP/1.1 200"));
    server.closed("idle").await;
}

#[tokio::test]
async fn a_client_that_does_not_read_is_dropped() {
    let short = Duration::from_millis(200);
    let server = Server::start(ConnectionLimits { stall_timeout: short, ..limits() }).await;
    let stalled = server.connect("GET /endless HTTP/1.1\r\nhost: a\r\n\r\n").await;
    server.closed("stalled").await;
    server.measured("vaultmux_rest_connections 0").await;
    drop(stalled);
}

#[tokio::test]
async fn where_there_are_too_many_the_slowest_makes_room() {
    let server = Server::start(ConnectionLimits { connections: 2, ..limits() }).await;
    let mut slow = server.connect("GET / HTTP/1.1\r\n").await;
    server.measured("vaultmux_rest_connections 1").await;
    let busy = "GET /gate HTTP/1.1\r\nhost: a\r\n\r\n";
    let mut first = server.connect(busy).await;
    server.measured("vaultmux_rest_connections 2").await;
    let mut second = server.connect(busy).await;
    assert_eq!(rest(&mut slow).await, "");
    server.closed("evicted").await;
    // Whoever has a request under way keeps its place.
    let admitted = async {
        while server.connect(GET).await.read(&mut [0; 16]).await.unwrap_or(0) > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, admitted).await.expect("refused once both are busy");
    server.gate.add_permits(2);
    for stream in [&mut first, &mut second] {
        assert!(head(stream).await.starts_with("HTTP/1.1 200"));
    }
    // Both have served and wait now, so there is room again.
    let mut next = server.connect(GET).await;
    assert!(head(&mut next).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn two_lengths_are_refused_and_nobody_sees_the_request() {
    let server = Server::start(limits()).await;
    for fields in [
        "content-length: 3\r\ntransfer-encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 3",
    ] {
        let text = format!("POST / HTTP/1.1\r\nhost: a\r\n{fields}\r\n\r\n0\r\n\r\n{GET}");
        let mut stream = server.connect(&text).await;
        let answer = rest(&mut stream).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
        assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{answer}");
    }
    assert_eq!(server.answered.load(Ordering::SeqCst), 0);
}

/// The HTTP library would answer these by itself.
#[tokio::test]
async fn what_cannot_be_read_is_refused_in_our_words() {
    let server = Server::start(limits()).await;
    let long = format!("GET / HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "y".repeat(2 * MAX_HEAD));
    let many = format!("GET / HTTP/1.1\r\nhost: a\r\n{}\r\n", "x: y\r\n".repeat(MAX_HEADERS));
    let folded = "GET / HTTP/1.1\r\nhost: a\r\nx: y\r\n z\r\n\r\n";
    for (text, status, said) in [
        ("nonsense\r\n\r\n", 400, "Malformed None"),
        ("GET / HTTP/9.9\r\n\r\n", 400, "Malformed None"),
        (folded, 400, "Malformed None"),
        (&long, 431, "HeadTooLarge None"),
        (&many, 431, "HeadTooLarge None"),
        ("GET / HTTP/1.1\r\n\r\n", 400, "Host Some(GET)"),
    ] {
        for ahead in ["", GET] {
            let mut stream = server.connect(ahead).await;
            if !ahead.is_empty() {
                assert!(head(&mut stream).await.starts_with("HTTP/1.1 200"));
            }
            let _ = stream.write_all(text.as_bytes()).await;
            let answer = rest(&mut stream).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{said}: {answer}");
            assert!(answer.ends_with(&format!("\r\n\r\n{said}")), "{said}: {answer}");
            let (length, date) = (format!("content-length: {}\r\n", said.len()), "\r\ndate: ");
            assert!(answer.contains(&length) && answer.contains(date), "{answer}");
            assert!(answer.contains("connection: close\r\n"), "{answer}");
            assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{answer}");
        }
    }
}

/// The socket decides what arrives together; `framing` is tried with each cut for certain.
#[tokio::test]
async fn a_conversation_has_the_same_answers_wherever_it_is_cut() {
    let chunked = "POST /echo HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n\
                   4;x=y\r\nG\r\n\n\r\n5\r\nchunk\r\n0\r\nx: y\r\n\r\n";
    let sized = "POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\nGET / \r\n\r";
    let refused = "GET / HTTP/1.1\r\n\r\n";
    let whole = format!("{GET}{chunked}\r\n{sized}{refused}");
    let server = Server::start(limits()).await;
    let answers = async |parts: [&str; 2]| {
        let mut stream = server.connect("").await;
        stream.set_nodelay(true).expect("set");
        for part in parts {
            stream.write_all(part.as_bytes()).await.expect("sent");
            tokio::task::yield_now().await;
        }
        let answers = rest(&mut stream).await;
        let lines = answers.split_inclusive('\n').filter(|line| !line.starts_with("date: "));
        lines.collect::<String>()
    };
    let expected = answers([&whole, ""]).await;
    let said: Vec<_> = expected.split("HTTP/1.1 ").skip(1).collect();
    let kinds: Vec<_> = said.iter().map(|it| (&it[..3], it.rsplit("\r\n\r\n").next())).collect();
    assert!(said[1].ends_with("\r\n\r\nG\r\n\nchunk"), "{expected}");
    assert!(said[2].ends_with("\r\n\r\nGET / \r\n\r"), "{expected}");
    assert_eq!((kinds.len(), kinds[0]), (4, ("200", Some("ok"))), "{expected}");
    assert_eq!(kinds[3], ("400", Some("Host Some(GET)")), "{expected}");
    for cut in 1..whole.len() {
        let (first, second) = whole.split_at(cut);
        assert_eq!(answers([first, second]).await, expected, "cut at {cut}");
    }
}

#[tokio::test]
async fn an_early_answer_reaches_a_client_that_goes_on_sending() {
    let server = Server::start(limits()).await;
    let mut stream =
        server.connect("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 100000000\r\n\r\n").await;
    let mut sent = 0;
    // It reads only after it has sent all that is taken.
    while sent < 8 << 20 && stream.write_all(&[b'x'; 64 << 10]).await.is_ok() {
        sent += 64 << 10;
    }
    let answer = head(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{sent}: {answer}");
}

#[tokio::test]
async fn what_is_in_flight_is_finished_and_what_waits_is_closed() {
    let server = Server::start(limits()).await;
    let mut waiting = server.connect(GET).await;
    assert!(head(&mut waiting).await.starts_with("HTTP/1.1 200"));
    let mut busy = server.connect("GET /gate HTTP/1.1\r\nhost: a\r\n\r\n").await;
    server.measured("vaultmux_rest_connections 2").await;
    // Its request has been read: another on the same thread of tests has been answered.
    let mut after = server.connect(GET).await;
    assert!(head(&mut after).await.starts_with("HTTP/1.1 200"));
    server.stop.send_replace(true);
    assert_eq!(rest(&mut waiting).await, "");
    server.gate.add_permits(1);
    assert!(rest(&mut busy).await.starts_with("HTTP/1.1 200"));
    timeout(PATIENCE, server.served).await.expect("ends").expect("no panic");
    assert!(TcpStream::connect(server.address).await.is_err(), "nobody listens");
}
