//! Requests per second through the external processor, beside a bare server that answers
//! every message with an empty answer, and one that does not even read messages, but looks
//! through them as they came: what there is to gain by that. All in one process and one run, in
//! turn, so that the ratios hold on a noisy machine. Then what large bodies do to the memory of
//! a service that runs by itself.
//!
//!     cargo bench --profile fast --bench ext_proc
//!     cargo bench --profile fast --bench ext_proc -- --quick

#[path = "../tests/it/harness.rs"]
#[expect(dead_code, unused_imports, reason = "a bench needs less of it than the tests")]
mod harness;
#[path = "ext_proc/load.rs"]
mod load;
#[path = "ext_proc/raw.rs"]
mod raw;
#[path = "ext_proc/servers.rs"]
mod servers;
#[path = "common/threads.rs"]
mod threads;
#[path = "ext_proc/uploads.rs"]
mod uploads;

use std::{
    io::Write as _,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use load::{Exchange, Load};
use servers::{Service, floor};
use threads::{Threads, median, percentile};

const WARM_UP: Duration = Duration::from_millis(200);
/// A body of 1 MiB in pieces of what Envoy reads at once, at most; or in larger ones, as of
/// HTTP/2 with large windows.
const BODY: usize = 1 << 20;
const PIECES: usize = 64;

/// How much is measured.
struct Extent {
    rounds: usize,
    round: Duration,
    /// The longest uploads, in MiB.
    upload: usize,
}

/// One kind of request to one server, and what its rounds saw.
struct Variant<'a> {
    name: &'static str,
    threads: &'a Threads,
    server: SocketAddr,
    exchange: Arc<Exchange>,
    rounds: Vec<Round>,
}

/// What one round saw.
struct Round {
    per_second: f64,
    p50: f64,
    p99: f64,
    /// The server's, for one request, in microseconds.
    cpu: f64,
}

fn main() {
    // Fails only if there is one already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let extent = match std::env::args().any(|argument| argument == "--quick") {
        true => Extent { rounds: 3, round: Duration::from_millis(700), upload: 10 },
        false => Extent { rounds: 9, round: Duration::from_secs(2), upload: 100 },
    };
    let load = std::fs::read_to_string("/proc/loadavg").expect("Linux");
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    print(&format!("{cores} cores for clients and servers, load average before: {}", load.trim()));
    let (client, bare, raw, service) = (
        Threads::new("client"),
        Threads::new("floor"),
        Threads::new("raw"),
        Threads::new("service"),
    );
    client.runtime.block_on(measure(&extent, &bare, &raw, &service));
}

async fn measure(extent: &Extent, bare: &Threads, raw: &Threads, service: &Threads) {
    let ours = service.run(Service::start()).await;
    let floor = bare.run(floor()).await;
    let unread = raw.run(raw::floor()).await;
    let ours = ours.address();
    compare(
        "A request of which only the headers are shown",
        extent,
        [
            variant("bare server", bare, floor, Exchange::headers_only()),
            variant("messages unread", raw, unread, Exchange::headers_only()),
            variant("nothing to do", service, ours, Exchange::headers_only()),
            variant("a reference to replace", service, ours, Exchange::reference(true)),
        ],
    )
    .await;
    for pieces in [PIECES, PIECES / 4] {
        let piece = BODY / pieces;
        compare(
            &format!("A body of 1 MiB in {pieces} pieces, in which references are looked for"),
            extent,
            [
                variant("bare server", bare, floor, Exchange::streamed(pieces, piece)),
                variant("messages unread", raw, unread, Exchange::streamed(pieces, piece)),
                variant("ours, none found", service, ours, Exchange::streamed(pieces, piece)),
            ],
        )
        .await;
    }
    uploads::measure(extent.upload).await;
}

fn variant<'a>(
    name: &'static str,
    threads: &'a Threads,
    server: SocketAddr,
    exchange: Exchange,
) -> Variant<'a> {
    Variant { name, threads, server, exchange: Arc::new(exchange), rounds: Vec::new() }
}

async fn compare<const N: usize>(title: &str, extent: &Extent, mut variants: [Variant<'_>; N]) {
    for _ in 0..extent.rounds {
        for variant in &mut variants {
            variant.round(extent.round).await;
        }
    }
    print(&format!("\n{title}; medians of {} rounds of {:?}", extent.rounds, extent.round));
    row("", &["req/s", "ratio", "p50 ms", "p99 ms", "CPU us"].map(str::to_owned));
    let floor = variants[0].median(|round| round.per_second);
    for variant in &variants {
        let per_second = variant.median(|round| round.per_second);
        let figures = [
            format!("{per_second:.0}"),
            format!("{:.2}", per_second / floor),
            format!("{:.2}", variant.median(|round| round.p50)),
            format!("{:.2}", variant.median(|round| round.p99)),
            format!("{:.1}", variant.median(|round| round.cpu)),
        ];
        row(variant.name, &figures);
    }
}

// === impl Variant ===

impl Variant<'_> {
    async fn round(&mut self, length: Duration) {
        let load = Load::start(self.server, &self.exchange).await;
        tokio::time::sleep(WARM_UP).await;
        load.measure();
        let (started, before) = (Instant::now(), self.threads.cpu());
        tokio::time::sleep(length).await;
        let (took, spent) = (started.elapsed(), self.threads.cpu() - before);
        let latencies = load.stop().await;
        self.rounds.push(Round {
            per_second: latencies.len() as f64 / took.as_secs_f64(),
            p50: percentile(&latencies, 0.5),
            p99: percentile(&latencies, 0.99),
            cpu: spent.as_secs_f64() * 1e6 / latencies.len() as f64,
        });
    }

    fn median(&self, of: impl Fn(&Round) -> f64) -> f64 {
        median(self.rounds.iter().map(of))
    }
}

fn row(name: &str, [a, b, c, d, e]: &[String; 5]) {
    print(&format!("{name:<24} {a:>9} {b:>7} {c:>8} {d:>8} {e:>8}"));
}

fn print(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}
