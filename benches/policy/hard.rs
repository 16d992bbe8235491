//! Sets and questions that are made to be slow.

use std::path::PathBuf;

use allocation_counter::measure as count;
use vaultmux_mesh::policy::{PolicySet, Reason::NoMatch};

use crate::{
    median, nanoseconds, print,
    sets::{self, Answer, Question},
};

/// One set, and one question about it.
struct Case {
    name: &'static str,
    set: PolicySet,
    question: Question,
    times: Vec<f64>,
}

pub(crate) fn measure(rounds: usize) {
    let chain = |of: fn(usize) -> String| {
        sets::compile(&files(
            (0..10_000).map(move |n| sets::document(n, "Allow", "namespaces: ['*']", &of(n))),
        ))
    };
    let names = || {
        chain(|n| {
            let prefix = "a/".repeat(n % 240 + 1);
            format!("secrets: {{prefixes: ['{prefix}'], verbs: [get]}}")
        })
    };
    let paths = || {
        chain(|n| {
            let path = format!("/{}", "a/".repeat(n % 4000 + 1));
            format!("http: {{paths: ['{path}']}}")
        })
    };
    let exact = || chain(|n| format!("http: {{paths: [/health/{n}]}}"));
    let node = || {
        chain(|n| match n {
            0..1000 => format!("secrets: {{prefixes: ['shared/{n}/'], verbs: [get]}}"),
            _ => format!("secrets: {{names: ['shared/name-{n}'], verbs: [get]}}"),
        })
    };
    let long = |segment: &str| {
        let path = format!("/{}x", segment.repeat(8190 / segment.len()));
        Question::http("team", "api", path.leak())
    };
    let name = format!("{}k", "a/".repeat(240));
    let get = |name: &str| Question::get("team", "api", name);
    let mut cases = [
        Case::new(
            "1,000 prefixes and 9,000 names below one, one of them",
            node(),
            get("shared/500/key"),
            None,
        ),
        Case::new("10,000 prefixes of one another, a name below 1", names(), get("a/k"), None),
        Case::new("10,000 prefixes of one another, a name below 240", names(), get(&name), None),
        Case::new(
            "10,000 paths, one of 8 KiB that is none of them",
            exact(),
            long("b"),
            Some(NoMatch),
        ),
        Case::new(
            "10,000 paths of one another, 8 KiB below none",
            paths(),
            long("b/"),
            Some(NoMatch),
        ),
        Case::new("10,000 paths of one another, 8 KiB below 4,000", paths(), long("a/"), None),
    ];
    for _ in 0..rounds {
        for case in &mut cases {
            let questions = std::iter::repeat_n(&case.question, 256);
            case.times.push(nanoseconds(&case.set, questions, 4));
        }
    }
    print(&format!("\n{:<56} {:>9} {:>12}", "made to be slow", "ns", "allocations"));
    for Case { name, set, question, times, .. } in &cases {
        let allocations = count(|| _ = question.ask(set)).count_total;
        print(&format!("{name:<56} {:>9.0} {allocations:>12}", median(times)));
    }
}

/// Long paths make large documents: fewer of them in each file.
fn files(documents: impl Iterator<Item = String>) -> Vec<(PathBuf, String)> {
    documents.enumerate().map(|(n, text)| (PathBuf::from(format!("{n:05}.yaml")), text)).collect()
}

// === impl Case ===

impl Case {
    fn new(name: &'static str, set: PolicySet, question: Question, answer: Answer) -> Self {
        assert_eq!(question.ask(&set), answer, "{name}");
        Self { name, set, question, times: Vec::new() }
    }
}
