//! The shapes that one danger comes in, and neighbours that are none.

mod access;
mod gateway;
mod matched;
mod off;
mod rerouted;
mod tls;

use std::collections::BTreeSet;

use super::{ids, linted};

/// Edits to a good sample.
pub(super) struct Shape {
    /// What finds it; empty for what has to stay clean.
    pub(super) rule: &'static str,
    good: &'static str,
    edits: &'static [(&'static str, &'static str)],
    /// Stands in the line of the finding, and in no line before.
    at: &'static str,
}

/// One that is found, in the line of `at`.
const fn bad(
    rule: &'static str,
    good: &'static str,
    edits: &'static [(&'static str, &'static str)],
    at: &'static str,
) -> Shape {
    Shape { rule, good, edits, at }
}

/// One that is none.
const fn fine(good: &'static str, edits: &'static [(&'static str, &'static str)]) -> Shape {
    Shape { rule: "", good, edits, at: "" }
}

pub(super) fn all() -> impl Iterator<Item = &'static Shape> {
    [access::SHAPES, gateway::SHAPES, matched::SHAPES, off::SHAPES, rerouted::SHAPES, tls::SHAPES]
        .into_iter()
        .flatten()
}

// === impl Shape ===

impl Shape {
    /// What is wrong with the findings, if anything.
    pub(super) fn check(&self) -> Result<(), String> {
        let mut text = self.good.to_owned();
        for (from, to) in self.edits {
            assert!(text.contains(from), "{}: no {from:?} in the sample", self.rule);
            text = text.replacen(from, to, 1);
        }
        let report = linted(&text);
        let found: Vec<_> =
            report.findings.iter().map(|it| (it.line, it.rule.id, it.message())).collect();
        let edits = self.edits;
        if !report.unreadable.is_empty() {
            return Err(format!("{edits:?}: {:?}", report.unreadable));
        }
        if self.rule.is_empty() {
            return match found.is_empty() {
                true => Ok(()),
                false => Err(format!("{edits:?} is fine: {found:?}")),
            };
        }
        let line = text.lines().position(|line| line.contains(self.at)).expect(self.at) as u64 + 1;
        let right = report.findings.iter().any(|it| (it.line, it.rule.id) == (line, self.rule));
        match right && ids(&report) == BTreeSet::from([self.rule]) {
            true => Ok(()),
            false => Err(format!("{} in line {line}: {edits:?}: {found:?}", self.rule)),
        }
    }
}
