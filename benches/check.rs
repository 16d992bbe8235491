//! Checks per second by how the caller shows who it is, beside a server that says yes
//! without looking; then what a flood of garbage tokens does to good callers. All in
//! one process and one run, in turn, so that the ratios hold on a noisy machine.
//!
//!     cargo bench --profile fast --bench check
//!     cargo bench --profile fast --bench check -- --quick

#[path = "check/load.rs"]
mod load;
#[path = "../src/identity/token/mint.rs"]
mod mint;
#[path = "check/requests.rs"]
mod requests;
#[path = "check/servers.rs"]
mod servers;
#[path = "common/threads.rs"]
mod threads;

use std::{
    fmt::Display,
    io::Write as _,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use load::{Clients, Questions};
use mint::Mint;
use requests::{Garbage, Proof, check, checks, tokens};
use servers::{Cluster, Service, floor};
use threads::{Threads, median, percentile};

const CLIENTS: Clients = Clients { connections: 2, at_once: 8 };
const GOOD: Clients = Clients { connections: 2, at_once: 2 };
const OTHERS: Clients = Clients { connections: 4, at_once: 2 };
const WARM_UP: Duration = Duration::from_millis(200);
/// Good tokens of callers who come again and again.
const CALLERS: usize = 64;
/// Garbage tokens in one flood.
const FLOOD: usize = 10_000;

/// How much is measured.
struct Extent {
    rounds: usize,
    round: Duration,
    /// Tokens that are verified anew: many more than are remembered.
    fresh: usize,
    floods: usize,
}

/// One way to ask, and what its rounds saw.
struct Variant<'a> {
    name: &'static str,
    threads: &'a Threads,
    server: SocketAddr,
    questions: Arc<Questions>,
    rounds: Vec<Round>,
}

/// What one round saw.
struct Round {
    per_second: f64,
    p50: f64,
    p99: f64,
    /// The server's, for one answer, in microseconds.
    cpu: f64,
}

/// What good callers saw while others asked too.
#[derive(Default)]
struct Beside {
    p50: Vec<f64>,
    p99: Vec<f64>,
    others_per_second: Vec<f64>,
}

fn main() {
    // Fails only if there is one already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let extent = match std::env::args().any(|argument| argument == "--quick") {
        true => Extent { rounds: 3, round: Duration::from_millis(700), fresh: 3000, floods: 3 },
        false => Extent { rounds: 9, round: Duration::from_secs(2), fresh: 8000, floods: 7 },
    };
    let load = std::fs::read_to_string("/proc/loadavg").expect("Linux");
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    print(&format!("{cores} cores for clients and servers, load average before: {}", load.trim()));
    let (client, bare, service) =
        (Threads::new("client"), Threads::new("floor"), Threads::new("service"));
    client.runtime.block_on(measure(&extent, &bare, &service));
}

async fn measure(extent: &Extent, bare: &Threads, service: &Threads) {
    let (rsa, p256) = (Mint::rsa("rsa"), Mint::p256("p256"));
    let cluster = Cluster::start(mint::jwks([&rsa, &p256])).await;
    let (reviewed, forgetful) = (cluster.clone(), cluster.clone());
    let reviewed = service.run(async move { Service::reviewed(&reviewed).await }).await;
    let forgetful = service.run(async move { Service::forgetful(&forgetful).await }).await;
    let floor = bare.run(floor()).await;

    let good = tokens(&rsa, CALLERS);
    let certificate = check(&Proof::Certificate { padding: good[0].len() });
    let certificate = Questions::allowed(vec![certificate]);
    let fresh = |mint: &Mint| Questions::allowed(checks(&tokens(mint, extent.fresh)));
    let variant = |name, threads, server, questions: &Arc<_>| Variant {
        name,
        threads,
        server,
        questions: Arc::clone(questions),
        rounds: Vec::new(),
    };
    let good = Questions::allowed(checks(&good));
    let mut variants = [
        variant("yes without looking", bare, floor, &certificate),
        variant("certificate", service, reviewed.address(), &certificate),
        variant("token, remembered", service, reviewed.address(), &good),
        variant("token, RS256 each time", service, forgetful.address(), &fresh(&rsa)),
        variant("token, ES256 each time", service, forgetful.address(), &fresh(&p256)),
    ];
    for _ in 0..extent.rounds {
        for variant in &mut variants {
            variant.round(extent.round).await;
        }
    }
    let remembered = forgetful.remembered().await;
    assert_eq!(remembered, 0, "not every token was verified");
    compare(&variants, extent);
    flood(extent, service, &reviewed, &cluster, &good).await;
}

fn compare(variants: &[Variant<'_>], extent: &Extent) {
    print(&format!(
        "\nChecks, {} connections, {} at once on each, medians of {} rounds of {:?}",
        CLIENTS.connections, CLIENTS.at_once, extent.rounds, extent.round
    ));
    row("", ["checks/s", "ratio", "p50 ms", "p99 ms", "CPU us"]);
    let floor = variants[0].median(|round| round.per_second);
    for variant in variants {
        let per_second = variant.median(|round| round.per_second);
        let figures = [
            format!("{per_second:.0}"),
            format!("{:.2}", per_second / floor),
            format!("{:.2}", variant.median(|round| round.p50)),
            format!("{:.2}", variant.median(|round| round.p99)),
            format!("{:.1}", variant.median(|round| round.cpu)),
        ];
        row(variant.name, figures);
    }
}

/// What garbage costs, and what becomes of good callers meanwhile.
async fn flood(
    extent: &Extent,
    service: &Threads,
    server: &Service,
    cluster: &Cluster,
    good: &Arc<Questions>,
) {
    let garbage = |kinds: &[Garbage], count| {
        let tokens: Vec<_> = (0..count).map(|at| kinds[at % kinds.len()].token("rsa")).collect();
        Questions::refused(checks(&tokens))
    };
    let server = server.address();
    let mut alone = Beside::default();
    let mut beside_good = Beside::default();
    let mut beside_garbage = Beside::default();
    let mut cpu = Garbage::ALL.map(|_| Vec::new());
    for _ in 0..extent.floods {
        alone.measure(server, good, None, extent).await;
        beside_good.measure(server, good, Some(good), extent).await;
        let mixed = garbage(&Garbage::ALL, FLOOD);
        beside_garbage.measure(server, good, Some(&mixed), extent).await;
        for (kind, cpu) in Garbage::ALL.iter().zip(&mut cpu) {
            let each = FLOOD / Garbage::ALL.len();
            let questions = garbage(&[*kind], each);
            let before = service.cpu();
            OTHERS.start(server, &questions).await.end().await;
            cpu.push(per_answer(service.cpu() - before, each));
        }
    }

    print(&format!(
        "\nGood callers, {} at a time with remembered tokens, while {} others ask on their own \
         connections; medians of {} floods of {FLOOD} different tokens",
        GOOD.total(),
        OTHERS.total(),
        extent.floods
    ));
    row("others", ["their/s", "", "p50 ms", "p99 ms", ""]);
    for (name, seen) in
        [("none", alone), ("good callers too", beside_good), ("garbage", beside_garbage)]
    {
        let others = median(seen.others_per_second);
        let (p50, p99) = (median(seen.p50), median(seen.p99));
        row(name, [&*format!("{others:.0}"), "", &*format!("{p50:.2}"), &*format!("{p99:.2}"), ""]);
    }
    print("\nOne garbage token");
    row("", ["", "", "", "", "CPU us"]);
    for (kind, cpu) in Garbage::ALL.iter().zip(cpu) {
        row(kind.as_str(), ["", "", "", "", &*format!("{:.1}", median(cpu))]);
    }
    let sent = extent.floods * (FLOOD + FLOOD / Garbage::ALL.len() * Garbage::ALL.len());
    let reviews = cluster.reviews();
    print(&format!(
        "TokenReviews: {CALLERS} for {CALLERS} good tokens, {} for {sent} garbage tokens",
        reviews - CALLERS
    ));
    assert_eq!(reviews, CALLERS, "garbage reached the API server");
}

// === impl Variant ===

impl Variant<'_> {
    async fn round(&mut self, length: Duration) {
        let load = CLIENTS.start(self.server, &self.questions).await;
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
            cpu: per_answer(spent, latencies.len()),
        });
    }

    fn median(&self, of: impl Fn(&Round) -> f64) -> f64 {
        median(self.rounds.iter().map(of))
    }
}

// === impl Beside ===

impl Beside {
    /// Others ask for a round, or until they have asked everything once.
    async fn measure(
        &mut self,
        server: SocketAddr,
        good: &Arc<Questions>,
        others: Option<&Arc<Questions>>,
        extent: &Extent,
    ) {
        let good = GOOD.start(server, good).await;
        tokio::time::sleep(WARM_UP).await;
        let started = Instant::now();
        let answers = match others {
            Some(questions) => {
                let others = OTHERS.start(server, questions).await;
                good.measure();
                others.measure();
                match questions.once() {
                    true => others.end().await.len(),
                    false => {
                        tokio::time::sleep(extent.round).await;
                        others.stop().await.len()
                    }
                }
            }
            None => {
                good.measure();
                tokio::time::sleep(extent.round).await;
                0
            }
        };
        self.others_per_second.push(answers as f64 / started.elapsed().as_secs_f64());
        let latencies = good.stop().await;
        self.p50.push(percentile(&latencies, 0.5));
        self.p99.push(percentile(&latencies, 0.99));
    }
}

fn per_answer(spent: Duration, answers: usize) -> f64 {
    spent.as_secs_f64() * 1e6 / answers as f64
}

fn row<D: Display>(name: &str, [a, b, c, d, e]: [D; 5]) {
    print(&format!("{name:<24} {a:>9} {b:>7} {c:>8} {d:>8} {e:>8}"));
}

fn print(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}
