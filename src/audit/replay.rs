//! Asks other policies what the lines of an audit stream say was asked, and keeps what
//! would be decided otherwise. Files may be larger than memory: lines are read one by one,
//! and what is kept of them is bounded.

mod asked;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    fmt,
    io::{self, BufRead, Read},
    sync::Arc,
};

pub use self::asked::NotAsked;
use super::{AuditLine, AuditedHttp, Operation};
use crate::{
    identity::TrustDomain,
    policy::{Decision, Denial, Place, PolicySet},
    secret::Catalog,
};

/// Longer lines are none of ours.
const MAX_LINE: u64 = 1 << 20;
/// How many kinds of changes are kept apart.
const MAX_CHANGES: usize = 10_000;
/// How many lines that cannot be read are named.
const NAMED: usize = 10;

/// What became of the lines so far.
#[derive(Debug)]
pub struct Replay<'a> {
    set: Arc<PolicySet>,
    catalog: &'a Catalog,
    trust_domains: &'a [TrustDomain],
    /// Lines that are not empty.
    pub lines: u64,
    /// Those of them that were asked again.
    pub asked: u64,
    /// Those that would be decided otherwise.
    pub changed: u64,
    /// Those with the same outcome by another rule.
    pub by_another_rule: u64,
    /// What would be decided otherwise, and how.
    pub changes: BTreeMap<Change, Example>,
    /// Changed lines beyond what is kept apart.
    pub beyond: u64,
    /// Why lines were not asked again: how many, and the number of the first.
    pub not_asked: BTreeMap<NotAsked, (u64, u64)>,
    /// Lines that are no audit lines.
    pub unreadable: u64,
    /// The first of them: their number, and what is wrong.
    pub named: Vec<(u64, String)>,
}

/// Decisions that would change in the same way.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Change {
    /// Whether it would be allowed from now on, or else denied.
    pub allows: bool,
    /// The SPIFFE ID.
    pub principal: String,
    /// How it was proven, in the words of policies.
    pub proofs: String,
    /// What for, without the path of a request.
    pub operation: String,
    /// What was decided.
    pub was: Verdict,
    /// What would be.
    pub now: Verdict,
}

/// Why something was decided.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Verdict {
    /// Of a denial.
    pub reason: Option<String>,
    /// The policy that decided.
    pub policy: Option<String>,
    /// Which of its `to` entries, from 0.
    pub rule: Option<usize>,
}

/// How many decisions changed in one way, and the first of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    /// How many there are.
    pub count: u64,
    /// As in the line.
    pub decision_id: String,
    /// Which line, from 1.
    pub line: u64,
    /// The path of the request, if it was one.
    pub path: Option<String>,
    /// Where the rule that would decide is written.
    pub place: Option<Place>,
}

// === impl Replay ===

impl<'a> Replay<'a> {
    /// Asks `set` about what is in a catalog.
    #[must_use]
    pub fn new(
        set: Arc<PolicySet>,
        catalog: &'a Catalog,
        trust_domains: &'a [TrustDomain],
    ) -> Self {
        Self {
            set,
            catalog,
            trust_domains,
            lines: 0,
            asked: 0,
            changed: 0,
            by_another_rule: 0,
            changes: BTreeMap::new(),
            beyond: 0,
            not_asked: BTreeMap::new(),
            unreadable: 0,
            named: Vec::new(),
        }
    }

    /// Reads to the end; `progress` hears of every line how many bytes it had.
    ///
    /// # Errors
    /// Of the reader.
    pub fn read(
        &mut self,
        mut from: impl BufRead,
        mut progress: impl FnMut(u64),
    ) -> io::Result<()> {
        let mut line = Vec::new();
        for number in 1.. {
            line.clear();
            let mut bytes = from.by_ref().take(MAX_LINE).read_until(b'\n', &mut line)? as u64;
            if bytes == 0 {
                break;
            }
            if bytes == MAX_LINE && !line.ends_with(b"\n") {
                bytes += skip_line(&mut from)?;
                self.lines += 1;
                self.unreadable(number, format!("longer than {MAX_LINE} bytes"));
            } else {
                self.line(number, line.trim_ascii());
            }
            progress(bytes);
        }
        Ok(())
    }

    fn line(&mut self, number: u64, text: &[u8]) {
        // A write that failed is followed by an empty line.
        if text.is_empty() {
            return;
        }
        self.lines += 1;
        match serde_json::from_slice::<AuditLine>(text) {
            Ok(line) => self.ask(number, &line),
            Err(error) => self.unreadable(number, error.to_string()),
        }
    }

    fn unreadable(&mut self, number: u64, why: String) {
        self.unreadable += 1;
        if self.named.len() < NAMED {
            self.named.push((number, why));
        }
    }

    fn ask(&mut self, number: u64, line: &AuditLine) {
        let (principal, question) = match line.asked(self.catalog, self.trust_domains) {
            Ok(asked) => asked,
            Err(why) => {
                self.not_asked.entry(why).or_insert((0, number)).0 += 1;
                return;
            }
        };
        self.asked += 1;
        let outcome = self.set.decide(&principal, &question);
        let (was, now) = (Verdict::recorded(line), Verdict::of(outcome.as_ref()));
        if line.allowed == outcome.is_ok() {
            let another = (&was.policy, was.rule) != (&now.policy, now.rule);
            self.by_another_rule += u64::from(another);
            return;
        }
        self.changed += 1;
        let change = Change {
            allows: outcome.is_ok(),
            principal: principal.to_string(),
            proofs: principal.proofs().to_string(),
            operation: line.operation.as_ref().map(ToString::to_string).unwrap_or_default(),
            was,
            now,
        };
        if let Some(example) = self.changes.get_mut(&change) {
            example.count += 1;
        } else if self.changes.len() < MAX_CHANGES {
            let (Ok(decision) | Err(Denial { decision, .. })) = &outcome;
            let example = Example {
                count: 1,
                decision_id: line.decision_id.clone(),
                line: number,
                path: line.operation.as_ref().and_then(Operation::path).map(str::to_owned),
                place: self.set.place(decision),
            };
            self.changes.insert(change, example);
        } else {
            self.beyond += 1;
        }
    }
}

/// Reads to the end of the line, and tells how many bytes that were.
fn skip_line(from: &mut impl BufRead) -> io::Result<u64> {
    let mut skipped = 0;
    loop {
        let buffer = from.fill_buf()?;
        let end = buffer.iter().position(|byte| *byte == b'\n');
        let (used, done) = match end {
            Some(at) => (at + 1, true),
            None => (buffer.len(), buffer.is_empty()),
        };
        from.consume(used);
        skipped += used as u64;
        if done {
            return Ok(skipped);
        }
    }
}

// === impl Verdict ===

impl Verdict {
    fn recorded(line: &AuditLine) -> Self {
        let AuditLine { reason, policy, rule, .. } = line;
        Self { reason: reason.clone(), policy: policy.clone(), rule: *rule }
    }

    fn of(outcome: Result<&Decision, &Denial>) -> Self {
        let reason = outcome.err().map(|denial| denial.reason.as_str().to_owned());
        let decision = match outcome {
            Ok(decision) => decision,
            Err(denial) => &denial.decision,
        };
        let policy = decision.policy.as_deref().map(str::to_owned);
        Self { reason, policy, rule: decision.rule }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.reason.is_some() { "denied" } else { "allowed" })?;
        if let Some(policy) = &self.policy {
            write!(f, " by policy {policy}")?;
        }
        if let Some(rule) = self.rule {
            write!(f, ", spec.to[{rule}]")?;
        }
        match &self.reason {
            Some(reason) => write!(f, ": {reason}"),
            None => Ok(()),
        }
    }
}

// === impl Operation ===

impl Operation {
    /// The path of the request, where it is nothing but one.
    fn path(&self) -> Option<&str> {
        match self {
            Self::Http(AuditedHttp { path, .. }) => Some(path),
            Self::Secret { .. } | Self::Collection { .. } | Self::Connection { .. } => None,
        }
    }
}

/// In words, without the path of a request, of which there may be any number.
impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Secret { verb, backend, secret, field, destination, .. } => {
                write!(f, "{verb} secret://{backend}/{secret}")?;
                if let Some(field) = field {
                    write!(f, "#{field}")?;
                }
                let Some(toward) = destination else { return Ok(()) };
                match (&toward.host, &toward.cluster) {
                    (Some(host), Some(cluster)) => write!(f, " toward {host} by {cluster}"),
                    (Some(at), None) | (None, Some(at)) => write!(f, " toward {at}"),
                    (None, None) => Ok(()),
                }
            }
            Self::Collection { verb, .. } => write!(f, "{verb} secrets"),
            Self::Http(AuditedHttp { method, host, destination, .. }) => {
                write!(f, "{method} http://{host}")?;
                of(f, destination.as_deref())
            }
            Self::Connection { destination } => {
                f.write_str("connect")?;
                of(f, destination.as_deref())
            }
        }
    }
}

fn of(f: &mut fmt::Formatter<'_>, workload: Option<&str>) -> fmt::Result {
    workload.map_or(Ok(()), |workload| write!(f, " of {workload}"))
}
