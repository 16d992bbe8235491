//! `policy diff`: who gains or loses which access?

use std::{
    collections::{BTreeMap, HashMap},
    io::{IsTerminal, Write},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::anyhow;
use clap::Args;
use serde_json::{Value, json};

use crate::{
    cli::{
        Answer, Output, load, print,
        rows::{Kind, Row, columns, merged, object, rule_json},
    },
    config::Config,
    identity::ProofKind,
    policy::{self, Change, PolicySet, RuleRef},
};

/// How often progress is shown.
const PROGRESS: Duration = Duration::from_millis(500);

#[derive(Debug, Args)]
pub(in crate::cli) struct Diff {
    /// The policies as they were: a file, or a directory of files.
    #[arg(value_name = "OLD")]
    old: PathBuf,
    /// The policies as they would be.
    #[arg(value_name = "NEW")]
    new: PathBuf,
    /// The configuration file, for its backends and trust domains.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// How to print the differences.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

/// What is the same of all that is said in a line.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    gained: bool,
    only_some: bool,
    kind: Kind,
    bound_to_pod: bool,
    rule: usize,
    denied_by: Option<usize>,
}

/// How many columns are not the piece's: who, trust domain, proofs.
const BEFORE: usize = 3;

// === impl Diff ===

impl Diff {
    pub(in crate::cli) fn run(self) -> anyhow::Result<Answer> {
        let config = load(&self.config)?;
        let set = |path: &PathBuf| {
            let policies = policy::load(std::slice::from_ref(path), &config.catalog);
            let policies = policies.map_err(|failure| anyhow!("{failure}"))?;
            anyhow::Ok(Arc::new(PolicySet::compile(&policies, 1)))
        };
        let (old, new) = (set(&self.old)?, set(&self.new)?);
        let shown = std::io::stderr().is_terminal();
        let (mut last, mut wrote) = (Instant::now(), false);
        let progress = |done: usize, total: usize| {
            if shown && last.elapsed() >= PROGRESS {
                (last, wrote) = (Instant::now(), true);
                let _ = write!(std::io::stderr(), "\r{done} of {total} rules");
            }
        };
        let domains = &config.identity.trust_domains;
        let changes = policy::diff(&old, &new, &config.catalog, domains, progress);
        if wrote {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
        let changes = changes?;
        let mut numbers = BTreeMap::new();
        let rows: Vec<_> = changes.iter().map(|change| row(change, &mut numbers)).collect();
        let mut of_rule: HashMap<_, Vec<&Change>> = HashMap::new();
        for (row, change) in rows.iter().zip(&changes) {
            of_rule.entry(row.key.clone()).or_default().push(change);
        }
        let rows = merged(rows);
        let mut rules: Vec<_> = numbers.into_iter().collect();
        rules.sort_unstable_by_key(|(_, number)| *number);
        let rules: Vec<_> = rules.into_iter().map(|(rule, _)| rule).collect();
        match self.output {
            Output::Text if rows.is_empty() => print("no difference"),
            Output::Text => rows.iter().for_each(|row| print(&in_words(row, &rules, &config))),
            Output::Json => {
                let rows = rows.iter().map(|row| to_json(row, &rules, &of_rule[&row.key]));
                print(&json!({"changes": rows.collect::<Vec<_>>()}).to_string());
            }
        }
        Ok(if changes.is_empty() { Answer::Yes } else { Answer::No })
    }
}

fn row(change: &Change, rules: &mut BTreeMap<RuleRef, usize>) -> Row<Key> {
    let key = Key {
        gained: change.gained,
        only_some: change.only_some,
        kind: Kind::of(&change.piece),
        bound_to_pod: change.bound_to_pod,
        rule: number(&change.rule, rules),
        denied_by: change.denied_by.as_ref().map(|rule| number(rule, rules)),
    };
    let who = change.whom.to_string();
    let before = [who, change.trust_domain.to_string(), change.proofs.to_string()];
    let before = before.into_iter().map(|value| vec![value]);
    Row { key, columns: before.chain(columns(&change.piece)).collect() }
}

fn number(rule: &RuleRef, rules: &mut BTreeMap<RuleRef, usize>) -> usize {
    let next = rules.len();
    *rules.entry(rule.clone()).or_insert(next)
}

fn in_words(row: &Row<Key>, rules: &[RuleRef], config: &Config) -> String {
    let Row { key, columns } = row;
    let (before, piece) = columns.split_at(BEFORE);
    let (sign, verb) = if key.gained { ('+', "gain") } else { ('-', "lose") };
    let some = if key.only_some { "some of " } else { "" };
    let mut line = format!("{sign} {some}{}", before[0].join(", "));
    if before[1].len() < config.identity.trust_domains.len() {
        line += &format!(" of trust domain {}", before[1].join(", "));
    }
    // Each single proof is any proof.
    if before[2].len() < ProofKind::ALL.len() {
        line += &format!(" proven by {}", before[2].join(" or "));
        if key.bound_to_pod {
            line += ", bound to a pod,";
        }
    }
    let plural =
        key.only_some || before[0].len() > 1 || before[0].iter().any(|who| who.contains('*'));
    let ending = if plural { "" } else { "s" };
    line += &format!(" {verb}{ending} {}", key.kind.in_words(piece));
    line += &format!("\n    by {}", rules[key.rule]);
    if let Some(denied_by) = key.denied_by {
        let when = if key.gained { "was denied by" } else { "now denied by" };
        line += &format!("\n    {when} {}", rules[denied_by]);
    }
    line
}

fn to_json(row: &Row<Key>, rules: &[RuleRef], changes: &[&Change]) -> Value {
    let Row { key, columns } = row;
    let (before, piece) = columns.split_at(BEFORE);
    let witness = changes.iter().find(|change| {
        let all = self::columns(&change.piece);
        before[0].contains(&change.whom.to_string())
            && piece.len() == all.len()
            && piece.iter().zip(&all).all(|(row, one)| one.iter().all(|it| row.contains(it)))
    });
    let witness = witness.map(|change| {
        let (principal, ask) = &change.witness;
        let proofs: Vec<_> = principal.proofs().iter().map(ProofKind::as_str).collect();
        json!({
            "principal": principal.to_string(),
            "proofs": proofs,
            "bound_to_pod": principal.is_bound_to_pod(),
            "operation": ask.to_string(),
        })
    });
    let rest = json!({
        "change": if key.gained { "gains" } else { "loses" },
        "who": before[0],
        "only_some": key.only_some,
        "trust_domains": before[1],
        "proofs": before[2],
        "bound_to_pod": key.bound_to_pod,
        "denied_by": key.denied_by.map(|rule| object([rule_json(&rules[rule])])),
        "example": witness,
    });
    let rest = rest.as_object().cloned().unwrap_or_default();
    object([rest, key.kind.to_json(piece), rule_json(&rules[key.rule])])
}
