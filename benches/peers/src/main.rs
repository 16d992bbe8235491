//! One question, put to three policy engines over the same rules, in one process and one
//! run: this service's policies, Cedar and Rego.
//!
//!     make bench-peers
//!
//! Each is used the way it is meant to be: compiled once, with the question in the engine's
//! own form, and only the decision is measured. Before that, all of them must answer every
//! question alike.

mod cedar;
mod mesh;
mod rego;
mod rules;

use std::{
    hint::black_box,
    io::Write as _,
    time::{Duration, Instant},
};

use rules::{Kind, Question, Rules};

const SIZES: [usize; 4] = [10, 100, 1_000, 10_000];
/// How many callers ask each sort of question.
const CALLERS: usize = 256;
const ROUNDS: usize = 15;
const ROUND: Duration = Duration::from_millis(20);

/// An engine that holds rules and questions.
trait Engine {
    fn name(&self) -> &'static str;

    /// Whether the question of this number is allowed.
    fn allows(&mut self, question: usize) -> bool;
}

/// What one engine took, by size of the set and sort of question.
type Times = Vec<Vec<f64>>;

fn main() {
    let load = std::fs::read_to_string("/proc/loadavg").expect("Linux");
    print(&format!("load average before: {}", load.trim()));
    let mut names = Vec::new();
    let mut all: Vec<Times> = Vec::new();
    for size in SIZES {
        let rules = Rules::new(size);
        let questions = questions(&rules);
        let mut engines: Vec<Box<dyn Engine>> = vec![
            Box::new(mesh::Mesh::new(&rules, &questions)),
            Box::new(cedar::PolicyEach::new(&rules, &questions)),
            Box::new(cedar::DataDriven::new(&rules, &questions)),
            Box::new(rego::Rego::new(&rules, &questions)),
        ];
        for engine in &mut engines {
            for (number, Question { kind, account, secret, .. }) in questions.iter().enumerate() {
                let allowed = engine.allows(number);
                assert_eq!(allowed, kind.allowed(), "{}: {account} {secret}", engine.name());
            }
        }
        names = engines.iter().map(|engine| engine.name()).collect();
        all.push(measure(&mut engines));
    }
    for (number, kind) in Kind::ALL.into_iter().enumerate() {
        print(&format!("\n{}: ns for one decision, by rules", kind.name()));
        let sizes: String = SIZES.iter().map(|size| format!(" {size:>10}")).collect();
        print(&format!("{:<28}{sizes}", ""));
        for (engine, name) in names.iter().enumerate() {
            let times = all.iter().map(|times| format!(" {:>10.0}", times[engine][number]));
            print(&format!("{name:<28}{}", times.collect::<String>()));
        }
    }
}

/// Callers at random for each kind, one kind after the other.
fn questions(rules: &Rules) -> Vec<Question> {
    let mut random = fastrand::Rng::with_seed(7);
    let asked = |kind| (0..CALLERS).map(move |_| kind).collect::<Vec<_>>();
    let kinds = Kind::ALL.into_iter().flat_map(asked);
    kinds.map(|kind| Question::new(kind, random.usize(..rules.namespaces))).collect()
}

/// Engines take turns, so that what slows the machine down slows all of them down.
fn measure(engines: &mut [Box<dyn Engine>]) -> Times {
    let mut times = vec![vec![Vec::new(); Kind::ALL.len()]; engines.len()];
    for _ in 0..ROUNDS {
        for (engine, times) in engines.iter_mut().zip(&mut times) {
            for (kind, times) in times.iter_mut().enumerate() {
                times.push(round(&mut **engine, kind * CALLERS));
            }
        }
    }
    let medians = |times: Vec<Vec<f64>>| times.into_iter().map(median).collect();
    times.into_iter().map(medians).collect()
}

/// Nanoseconds for one decision.
fn round(engine: &mut dyn Engine, first: usize) -> f64 {
    let started = Instant::now();
    let mut asked = 0;
    // The clock is read once in a while: a slow engine is not to be asked for minutes.
    while asked == 0 || started.elapsed() < ROUND {
        for _ in 0..8 {
            black_box(engine.allows(first + asked % CALLERS));
            asked += 1;
        }
    }
    started.elapsed().as_secs_f64() * 1e9 / asked as f64
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}

fn print(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}
