//! Requests per second through a real Envoy: without filters, with an external processor
//! that does nothing, with ours, with `ext_authz`, and with both. All in one run, in turn,
//! so that the ratios hold on a noisy machine; client, Envoy, service and upstream share its
//! cores.
//!
//!     make tools && cargo bench --profile fast --bench through_envoy

#[path = "../tests/it/harness.rs"]
#[expect(dead_code, unused_imports, reason = "a bench needs less of it than the tests")]
mod harness;
#[path = "ext_proc/servers.rs"]
#[expect(dead_code, reason = "our service is a process of its own here")]
mod servers;

use std::{
    io::Write as _,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use harness::{Edge, Mesh, repository};
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

const CONNECTIONS: usize = 16;
const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_secs(3);
const WARM_UP: Duration = Duration::from_millis(500);

/// What one round saw.
struct Round {
    per_second: f64,
    p50: Duration,
    p99: Duration,
}

#[tokio::main]
async fn main() {
    let mesh = Mesh::start().await;
    let grpc = mesh.service.grpc().parse().expect("gRPC listens on a port");
    let rest = mesh.service.rest();
    let without = |name: &str| (filter(name), String::new());
    let plain = Edge::start(grpc, rest, &[without("ext_authz"), without("ext_proc")]).await;
    let bare = Edge::start(servers::floor().await, rest, &[without("ext_authz")]).await;
    let processed = Edge::start(grpc, rest, &[without("ext_authz")]).await;
    let checked = Edge::start(grpc, rest, &[without("ext_proc")]).await;

    let variants: [(&str, &Edge); 5] = [
        ("no filters", &plain),
        ("ext_proc, bare server", &bare),
        ("ext_proc", &processed),
        ("ext_authz", &checked),
        ("ext_authz + ext_proc", &mesh),
    ];
    let mut rounds: Vec<Vec<Round>> = variants.iter().map(|_| Vec::new()).collect();
    for _ in 0..ROUNDS {
        for ((_, edge), rounds) in variants.iter().zip(&mut rounds) {
            rounds.push(round(edge).await);
        }
    }

    let mut out = std::io::stdout();
    let _ =
        writeln!(out, "GET through Envoy, {CONNECTIONS} connections, medians of {ROUNDS} rounds");
    let _ = writeln!(out, "{:<22} {:>8} {:>7} {:>9} {:>9}", "", "req/s", "ratio", "p50", "p99");
    let base = median(rounds[0].iter().map(|round| round.per_second));
    for ((name, _), rounds) in variants.iter().zip(&rounds) {
        let per_second = median(rounds.iter().map(|round| round.per_second));
        let p50 = median(rounds.iter().map(|round| round.p50.as_secs_f64() * 1e3));
        let p99 = median(rounds.iter().map(|round| round.p99.as_secs_f64() * 1e3));
        let ratio = per_second / base;
        let _ =
            writeln!(out, "{name:<22} {per_second:>8.0} {ratio:>7.2} {p50:>6.2} ms {p99:>6.2} ms");
    }
    mesh.finish().await;
}

/// The text of one HTTP filter in the front proxy's bootstrap.
fn filter(name: &str) -> String {
    let text = std::fs::read_to_string(repository("envoy/front-proxy.yaml")).expect("bootstrap");
    let start = format!("          - name: envoy.filters.http.{name}\n");
    let at = text.find(&start).expect("the filter is there");
    let rest = &text[at..];
    let end =
        rest[1..].find("          - name: envoy.filters.http.").map_or(rest.len(), |end| end + 1);
    rest[..end].to_owned()
}

async fn round(edge: &Edge) -> Round {
    let address = edge.envoy.address("edge");
    let workers: Vec<_> = (0..CONNECTIONS)
        .map(|_| {
            let identity = edge.certificates.workload("payments", "api");
            let tls = Arc::new(edge.certificates.client(Some(identity)));
            tokio::spawn(worker(address, tls))
        })
        .collect();
    let mut latencies = Vec::new();
    for worker in workers {
        latencies.extend(worker.await.expect("no request failed"));
    }
    latencies.sort_unstable();
    let at = |share: f64| latencies[(latencies.len() as f64 * share) as usize];
    Round { per_second: latencies.len() as f64 / ROUND.as_secs_f64(), p50: at(0.5), p99: at(0.99) }
}

/// One connection's requests, after a warm-up, with how long each took.
async fn worker(address: SocketAddr, tls: Arc<rustls::ClientConfig>) -> Vec<Duration> {
    let mut connection = connect(address, tls).await;
    let started = Instant::now();
    let mut latencies = Vec::new();
    while started.elapsed() < WARM_UP + ROUND {
        let sent = Instant::now();
        let request = Request::get("/public/").header("host", "app.test");
        let request = request.body(Empty::<Bytes>::new()).expect("a request");
        let answer = connection.send_request(request).await.expect("an answer");
        assert_eq!(answer.status(), 200);
        answer.into_body().collect().await.expect("a body");
        if started.elapsed() > WARM_UP {
            latencies.push(sent.elapsed());
        }
    }
    latencies
}

async fn connect(address: SocketAddr, tls: Arc<rustls::ClientConfig>) -> SendRequest<Empty<Bytes>> {
    let stream = TcpStream::connect(address).await.expect("connected");
    stream.set_nodelay(true).expect("a TCP option");
    let name = ServerName::try_from("vaultmux.test").expect("a name");
    let stream = TlsConnector::from(tls).connect(name, stream).await.expect("a handshake");
    let (sender, connection) = handshake(TokioIo::new(stream)).await.expect("HTTP/1.1");
    tokio::spawn(connection);
    sender
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}
