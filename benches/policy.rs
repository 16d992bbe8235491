//! What a decision costs, by how many policies there are; what sets cost that are made to
//! be slow; and what it takes to load 100,000 rules. Sizes are measured in turn, in one
//! run, so that ratios hold on a noisy machine. The clock is read every few decisions, and
//! medians are of those: in so short a time, hardly any is interrupted.
//!
//!     cargo bench --profile fast --bench policy
//!     cargo bench --profile fast --bench policy -- --quick

#[path = "policy/hard.rs"]
mod hard;
#[path = "policy/loading.rs"]
mod loading;
#[path = "policy/sets.rs"]
mod sets;

use std::{
    hint::black_box,
    io::Write as _,
    time::{Duration, Instant},
};

use allocation_counter::measure;
use sets::{KINDS, Kind, Question};
use vaultmux_mesh::policy::PolicySet;

const SIZES: [usize; 5] = [10, 100, 1_000, 10_000, 100_000];
/// Questions are as many objects at every size, so that reading them costs the same.
const QUESTIONS: usize = 16_384;
/// How many decisions are made between two looks at the clock.
const CHUNK: usize = 128;

/// How much is measured.
struct Extent {
    rounds: usize,
    loads: usize,
}

/// One sort of question to one set.
struct Series {
    /// Asked by workloads all over the set, in random order.
    spread: Vec<Question>,
    /// Nanoseconds per decision, round by round.
    hot: Vec<f64>,
    cold: Vec<f64>,
    allocations: f64,
}

fn main() {
    let extent = match std::env::args().any(|argument| argument == "--quick") {
        true => Extent { rounds: 5, loads: 1 },
        false => Extent { rounds: 21, loads: 5 },
    };
    let load = std::fs::read_to_string("/proc/loadavg").expect("Linux");
    print(&format!("load average before: {}", load.trim()));
    decisions(&extent);
    hard::measure(extent.rounds);
    loading::measure(extent.loads);
}

fn decisions(extent: &Extent) {
    let sets = SIZES.map(sets::set);
    for kind in &KINDS {
        let mut all: Vec<_> =
            SIZES.iter().zip(&sets).map(|(size, set)| Series::new(kind, *size, set)).collect();
        for _ in 0..extent.rounds {
            for (series, set) in all.iter_mut().zip(&sets) {
                series.round(set);
            }
        }
        print(&format!("\n{}", kind.name));
        print(&format!("{:<24}{}  last/first", "policies", columns(SIZES.map(|n| n.to_string()))));
        let row = |name: &str, times: fn(&Series) -> &[f64]| {
            let medians = all.iter().map(|series| format!("{:.0}", median(times(series))));
            // Of neighbours in time, so that what slows both down cancels out.
            let (first, last) = (times(&all[0]), times(&all[all.len() - 1]));
            let ratios: Vec<f64> = first.iter().zip(last).map(|(a, b)| b / a).collect();
            print(&format!("{name:<24}{} {:>11.2}", columns(medians), median(&ratios)));
        };
        row("one caller, ns", |series| &series.hot);
        row("callers at random, ns", |series| &series.cold);
        let allocations = all.iter().map(|series| format!("{}", series.allocations));
        print(&format!("{:<24}{}", "allocations", columns(allocations)));
    }
}

// === impl Series ===

impl Series {
    fn new(kind: &Kind, size: usize, set: &PolicySet) -> Self {
        let mut random = fastrand::Rng::with_seed(7);
        let namespaces = sets::namespaces(size);
        let spread: Vec<_> =
            (0..QUESTIONS).map(|_| kind.of(&sets::namespace(random.usize(..namespaces)))).collect();
        for question in &spread {
            assert_eq!(question.ask(set), kind.answer, "{}", kind.name);
        }
        let counted = measure(|| spread.iter().for_each(|question| _ = question.ask(set)));
        let allocations = counted.count_total as f64 / QUESTIONS as f64;
        Self { spread, hot: Vec::new(), cold: Vec::new(), allocations }
    }

    fn round(&mut self, set: &PolicySet) {
        self.cold.push(nanoseconds(set, self.spread.iter(), CHUNK));
        let one = self.spread.iter().take(1).cycle();
        self.hot.push(nanoseconds(set, one.take(QUESTIONS), CHUNK));
    }
}

/// For one decision: the median of a few at a time.
fn nanoseconds<'q>(
    set: &PolicySet,
    questions: impl Iterator<Item = &'q Question>,
    at_once: usize,
) -> f64 {
    let questions: Vec<_> = questions.collect();
    let chunk = |questions: &[&Question]| {
        let started = Instant::now();
        for question in questions {
            black_box(black_box(question).ask(set));
        }
        started.elapsed().as_secs_f64() * 1e9 / questions.len() as f64
    };
    median(&questions.chunks(at_once).map(chunk).collect::<Vec<_>>())
}

/// What this thread has spent on a core so far, within a few milliseconds.
fn spent() -> Duration {
    let spent = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux");
    let nanoseconds = spent.split(' ').next().and_then(|spent| spent.parse().ok());
    Duration::from_nanos(nanoseconds.expect("a number"))
}

fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}

fn columns(cells: impl IntoIterator<Item = String>) -> String {
    cells.into_iter().map(|cell| format!(" {cell:>9}")).collect()
}

fn print(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}
