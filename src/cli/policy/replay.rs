//! `policy replay`: what would other policies have decided?

use std::{
    fs::File,
    io::{BufReader, IsTerminal, Write},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow};
use clap::Args;
use serde_json::{Value, json};

use crate::{
    audit::{self, Change, Example},
    cli::{Answer, Output, load, print},
    policy::{self, PolicySet},
};

/// How often progress is shown.
const PROGRESS: Duration = Duration::from_millis(500);

#[derive(Debug, Args)]
pub(in crate::cli) struct Replay {
    /// The policies to ask: a file, or a directory of files.
    #[arg(value_name = "NEW")]
    policies: PathBuf,
    /// The recorded audit stream.
    #[arg(long, value_name = "FILE")]
    audit: PathBuf,
    /// The configuration file, for its backends and trust domains.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// How to print the changes.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

/// Tells on a terminal how far a long file is read.
struct Progress {
    shown: bool,
    total: u64,
    read: u64,
    last: Instant,
}

// === impl Replay ===

impl Replay {
    pub(in crate::cli) fn run(self) -> anyhow::Result<Answer> {
        let config = load(&self.config)?;
        let policies = policy::load(std::slice::from_ref(&self.policies), &config.catalog);
        let policies = policies.map_err(|failure| anyhow!("{failure}"))?;
        let set = Arc::new(PolicySet::compile(&policies, 1));
        let cannot = || format!("{}: cannot be read", self.audit.display());
        let file = File::open(&self.audit).with_context(cannot)?;
        let mut progress = Progress::new(file.metadata().with_context(cannot)?.len());
        let domains = &config.identity.trust_domains;
        let mut replay = audit::Replay::new(set, &config.catalog, domains);
        let read = replay.read(BufReader::with_capacity(1 << 18, file), |b| progress.add(b));
        progress.end();
        read.with_context(cannot)?;
        if let (Some((line, why)), true) = (replay.named.first(), replay.unreadable == replay.lines)
        {
            anyhow::bail!("{}:{line}: no line is an audit line: {why}", self.audit.display());
        }
        match self.output {
            Output::Json => print(&to_json(&replay).to_string()),
            Output::Text => print(&in_words(&replay)),
        }
        Ok(if replay.changed == 0 { Answer::Yes } else { Answer::No })
    }
}

// === impl Progress ===

impl Progress {
    fn new(total: u64) -> Self {
        let shown = std::io::stderr().is_terminal();
        Self { shown, total, read: 0, last: Instant::now() }
    }

    fn add(&mut self, bytes: u64) {
        self.read += bytes;
        if self.shown && self.last.elapsed() >= PROGRESS {
            self.last = Instant::now();
            let percent = self.read.saturating_mul(100) / self.total.max(1);
            let _ = write!(std::io::stderr(), "\r{} MiB, {percent} %", self.read >> 20);
        }
    }

    fn end(&self) {
        if self.shown {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

fn in_words(replay: &audit::Replay<'_>) -> String {
    let mut lines = Vec::new();
    for (allows, title) in [(false, "newly denied"), (true, "newly allowed")] {
        let of = || replay.changes.iter().filter(move |(change, _)| change.allows == allows);
        let total: u64 = of().map(|(_, example)| example.count).sum();
        if total == 0 {
            continue;
        }
        lines.push(format!("{title}: {total}"));
        lines.extend(of().flat_map(|(change, example)| change_in_words(change, example)));
    }
    if replay.beyond > 0 {
        lines.push(format!("and {} more that differ from all of these", replay.beyond));
    }
    lines.push(format!(
        "{} of {} lines were asked again: {} would change, {} would be decided by another rule",
        replay.asked, replay.lines, replay.changed, replay.by_another_rule
    ));
    for (why, (count, first)) in &replay.not_asked {
        lines.push(format!("not asked: {count}, {why} (line {first} is the first)"));
    }
    if replay.unreadable > 0 {
        lines.push(format!("not readable: {}", replay.unreadable));
        lines.extend(replay.named.iter().map(|(line, why)| format!("  line {line}: {why}")));
    }
    lines.join("\n")
}

fn change_in_words(change: &Change, example: &Example) -> [String; 4] {
    let Change { principal, proofs, operation, was, now, .. } = change;
    let Example { count, decision_id, line, path, place } = example;
    let path = path.as_ref().map(|path| format!(", path {path}")).unwrap_or_default();
    let place = place.as_ref().map(|place| format!(" ({place})")).unwrap_or_default();
    [
        format!("  {count}x {principal} ({proofs}) {operation}"),
        format!("    was {was}"),
        format!("    now {now}{place}"),
        format!("    such as {decision_id}, line {line}{path}"),
    ]
}

fn to_json(replay: &audit::Replay<'_>) -> Value {
    let changes = |allows| {
        let of = replay.changes.iter().filter(move |(change, _)| change.allows == allows);
        of.map(|(change, example)| {
            let verdict = |it: &audit::Verdict| {
                json!({"reason": it.reason, "policy": it.policy, "rule": it.rule})
            };
            let mut now = verdict(&change.now);
            now["file"] = example.place.as_ref().map(|it| it.file.display().to_string()).into();
            now["line"] = example.place.as_ref().map(|place| place.line).into();
            json!({
                "count": example.count,
                "principal": change.principal,
                "proofs": change.proofs.split('+').collect::<Vec<_>>(),
                "operation": change.operation,
                "was": verdict(&change.was),
                "now": now,
                "example": {
                    "decision_id": example.decision_id,
                    "line": example.line,
                    "path": example.path,
                },
            })
        })
        .collect::<Vec<_>>()
    };
    let not_asked = replay.not_asked.iter().map(
        |(why, (count, first))| json!({"why": why.as_str(), "count": count, "first_line": first}),
    );
    let unreadable = replay.named.iter().map(|(line, why)| json!({"line": line, "error": why}));
    json!({
        "lines": replay.lines,
        "asked": replay.asked,
        "changed": replay.changed,
        "by_another_rule": replay.by_another_rule,
        "newly_denied": changes(false),
        "newly_allowed": changes(true),
        "beyond": replay.beyond,
        "not_asked": not_asked.collect::<Vec<_>>(),
        "unreadable": {"count": replay.unreadable, "first": unreadable.collect::<Vec<_>>()},
    })
}
