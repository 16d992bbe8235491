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
/// How many are asked in one round.
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
    kind: &'static Kind,
    /// Who asks: workloads all over the set, in random order.
    namespaces: Vec<String>,
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
    fn new(kind: &'static Kind, size: usize, set: &PolicySet) -> Self {
        let mut random = fastrand::Rng::with_seed(7);
        let number = sets::namespaces(size);
        let namespaces: Vec<_> =
            (0..QUESTIONS).map(|_| sets::namespace(random.usize(..number))).collect();
        let questions: Vec<_> = namespaces.iter().map(|namespace| kind.of(namespace)).collect();
        for question in &questions {
            assert_eq!(question.ask(set), kind.answer, "{}", kind.name);
        }
        let counted = measure(|| questions.iter().for_each(|question| _ = question.ask(set)));
        let allocations = counted.count_total as f64 / QUESTIONS as f64;
        Self { kind, namespaces, hot: Vec::new(), cold: Vec::new(), allocations }
    }

    fn round(&mut self, set: &PolicySet) {
        // A question comes off the wire just before it is decided: so do these.
        let cold = self.namespaces.chunks(CHUNK).map(|asking| {
            let questions: Vec<_> =
                asking.iter().map(|namespace| self.kind.of(namespace)).collect();
            each(set, &questions.iter().collect::<Vec<_>>())
        });
        self.cold.push(median(&cold.collect::<Vec<_>>()));
        let one = self.kind.of(&self.namespaces[0]);
        self.hot.push(nanoseconds(set, std::iter::repeat_n(&one, QUESTIONS), CHUNK));
    }
}

/// For one decision: the median of a few at a time.
fn nanoseconds<'q>(
    set: &PolicySet,
    questions: impl Iterator<Item = &'q Question>,
    at_once: usize,
) -> f64 {
    let questions: Vec<_> = questions.collect();
    median(&questions.chunks(at_once).map(|few| each(set, few)).collect::<Vec<_>>())
}

/// For one decision, of all of these.
fn each(set: &PolicySet, questions: &[&Question]) -> f64 {
    let started = Instant::now();
    for question in questions {
        black_box(black_box(question).ask(set));
    }
    started.elapsed().as_secs_f64() * 1e9 / questions.len() as f64
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
