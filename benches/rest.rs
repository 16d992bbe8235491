//! Cached reads per second through REST, with authorisation, metrics and audit on, beside a
//! bare server that answers as many bytes without looking: in one process and one run, in
//! turn. Then the memory of the program itself: at a thousand idle connections, and after
//! 60 MB that it refuses.
//!
//!     cargo bench --profile fast --bench rest
//!     cargo bench --profile fast --bench rest -- --quick

#[path = "rest/load.rs"]
mod load;
#[path = "rest/memory.rs"]
mod memory;
#[path = "../src/identity/token/mint.rs"]
mod mint;
#[path = "rest/servers.rs"]
mod servers;
#[path = "common/threads.rs"]
mod threads;

use std::{
    fmt::Display,
    io::Write as _,
    net::SocketAddr,
    time::{Duration, Instant},
};

use load::Load;
use mint::Mint;
use servers::{Service, bare};
use threads::{Threads, median, percentile};

/// One request at a time on each.
const CONNECTIONS: [usize; 3] = [1, 16, 64];
const WARM_UP: Duration = Duration::from_millis(200);

/// How much is measured.
struct Extent {
    rounds: usize,
    round: Duration,
    /// How often the program is started anew for its memory.
    starts: usize,
}

/// One way to read, over so many connections, and what its rounds saw.
struct Variant<'a> {
    name: &'static str,
    connections: usize,
    threads: &'a Threads,
    server: SocketAddr,
    request: String,
    rounds: Vec<Round>,
}

/// What one round saw.
struct Round {
    answers: usize,
    per_second: f64,
    p50: f64,
    p99: f64,
    /// The server's, for one answer, in microseconds.
    cpu: f64,
}

fn main() {
    // Fails only if there is one already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let extent = match std::env::args().any(|argument| argument == "--quick") {
        true => Extent { rounds: 3, round: Duration::from_millis(500), starts: 1 },
        false => Extent { rounds: 9, round: Duration::from_secs(2), starts: 3 },
    };
    let load = std::fs::read_to_string("/proc/loadavg").expect("Linux");
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    print(&format!("{cores} cores for clients and servers, load average before: {}", load.trim()));
    let (client, floor, service) =
        (Threads::new("client"), Threads::new("floor"), Threads::new("service"));
    client.runtime.block_on(async {
        speed(&extent, &floor, &service).await;
        memory::measure(extent.starts).await;
    });
}

async fn speed(extent: &Extent, floor: &Threads, threads: &Threads) {
    let mint = Mint::rsa("rsa");
    let keys = mint.jwks();
    let service = threads.run(async move { Service::start(&keys).await }).await;
    let token = mint.token(serde_json::json!({}));
    let plain = request("");
    let proven = request(&format!("authorization: Bearer {token}\r\n"));
    // What both of them answer, and that it is what is to be measured.
    let answer = load::once(service.address(), &proven).await;
    let text = String::from_utf8_lossy(&answer);
    assert!(text.starts_with("HTTP/1.1 200") && text.contains(servers::VALUE), "{text}");
    let bare = floor.run(bare(answer)).await;

    let mut variants = Vec::new();
    for connections in CONNECTIONS {
        let variant = |name, threads, server, request: &str| Variant {
            name,
            connections,
            threads,
            server,
            request: request.to_owned(),
            rounds: Vec::new(),
        };
        variants.push(variant("as many bytes, bare hyper", floor, bare, &proven));
        variants.push(variant("cached, of the same pod", threads, service.address(), &plain));
        variants.push(variant("cached, token remembered", threads, service.address(), &proven));
    }
    for _ in 0..extent.rounds {
        for variant in &mut variants {
            variant.round(extent.round).await;
        }
    }
    print(&format!(
        "\nCached reads, one request at a time on each connection, medians of {} rounds of {:?}",
        extent.rounds, extent.round
    ));
    row("", ["conn", "reads/s", "ratio", "p50 ms", "p99 ms", "CPU us"]);
    for same in variants.chunks(3) {
        let floor = same[0].median(|round| round.per_second);
        for variant in same {
            let per_second = variant.median(|round| round.per_second);
            let figures = [
                variant.connections.to_string(),
                format!("{per_second:.0}"),
                format!("{:.2}", per_second / floor),
                format!("{:.3}", variant.median(|round| round.p50)),
                format!("{:.3}", variant.median(|round| round.p99)),
                format!("{:.1}", variant.median(|round| round.cpu)),
            ];
            row(variant.name, figures);
        }
    }
    // Each read was decided, counted and audited, or it was not what was to be measured.
    let reads: usize = variants.iter().filter(|it| it.server != bare).map(Variant::answers).sum();
    let mut seen = service.seen().await;
    assert!(seen.requests >= reads as f64, "{seen:?} for {reads} reads");
    // The last lines may still be in the queue.
    let patience = Instant::now() + Duration::from_secs(10);
    while seen.audited + seen.dropped < reads as f64 {
        assert!(Instant::now() < patience, "{seen:?} for {reads} reads");
        tokio::time::sleep(Duration::from_millis(100)).await;
        seen = service.seen().await;
    }
    assert_eq!(seen.misses, 1.0, "{seen:?}");
    print(&format!(
        "audit lines: {:.0} written, {:.0} lost to a queue that was full",
        seen.audited, seen.dropped
    ));
}

fn request(headers: &str) -> String {
    format!("GET /v1/secrets/prod/key HTTP/1.1\r\nhost: vaultmux.test\r\n{headers}\r\n")
}

// === impl Variant ===

impl Variant<'_> {
    async fn round(&mut self, length: Duration) {
        let load = Load::start(self.server, self.connections, &self.request).await;
        tokio::time::sleep(WARM_UP).await;
        load.measure();
        let (started, before) = (Instant::now(), self.threads.cpu());
        tokio::time::sleep(length).await;
        let (took, spent) = (started.elapsed(), self.threads.cpu() - before);
        let latencies = load.stop().await;
        self.rounds.push(Round {
            answers: latencies.len(),
            per_second: latencies.len() as f64 / took.as_secs_f64(),
            p50: percentile(&latencies, 0.5),
            p99: percentile(&latencies, 0.99),
            cpu: spent.as_secs_f64() * 1e6 / latencies.len() as f64,
        });
    }

    /// Those of the warm-up come on top.
    fn answers(&self) -> usize {
        self.rounds.iter().map(|round| round.answers).sum()
    }

    fn median(&self, of: impl Fn(&Round) -> f64) -> f64 {
        median(self.rounds.iter().map(of))
    }
}

fn row<D: Display>(name: &str, [a, b, c, d, e, f]: [D; 6]) {
    print(&format!("{name:<26} {a:>5} {b:>9} {c:>7} {d:>8} {e:>8} {f:>8}"));
}

pub(crate) fn print(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}
