//! Rules that are found under one key, without those that could never decide.
//!
//! Of rules that ask for the same, only the first by name is ever reported. What is left
//! then is bounded by the number of verbs and backends, except for rules with conditions of
//! their own and those in audit mode: of these a decision would have to look at every one.
//! They have a weight, and too much of it under one key is refused.

use std::collections::HashMap;

use super::build::Crowded;
use crate::policy::rule::{Policy, Verbs};

/// What the conditions that one decision looks at may weigh together, below one subject: some
/// ten microseconds.
pub(super) const MAX_WEIGHT: usize = 4096;

/// What a rule does when it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Effect {
    pub(super) allow: bool,
    pub(super) audit: bool,
}

/// One rule under one key.
pub(super) trait Entry: Copy {
    /// Which rule, among those of its subjects: the smaller number is the one reported.
    fn slot(&self) -> u32;

    fn effect(&self) -> Effect;

    /// The verbs that it matches.
    fn verbs(&self) -> Verbs;

    /// What else it asks: equal numbers ask the same, 0 asks nothing.
    fn asks(&self) -> [u32; 3];

    /// What a decision has to compare; 0 where the key says it all.
    fn weight(&self) -> usize;
}

/// The rules under one key.
pub(super) struct Leaf<E>(Vec<E>);

/// The verbs of earlier entries, by effect, rule if every one is reported, and what they ask.
#[derive(Default)]
struct Said(HashMap<(Effect, u32, [u32; 3]), Verbs>);

// === impl Effect ===

impl From<&Policy> for Effect {
    fn from(policy: &Policy) -> Self {
        Self { allow: policy.allow, audit: policy.audit }
    }
}

// === impl Leaf ===

impl<E> Default for Leaf<E> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<E: Entry> Leaf<E> {
    pub(super) fn push(&mut self, entry: E) {
        self.0.push(entry);
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &E> {
        self.0.iter()
    }

    /// Drops what never decides. `before` is the weight that a decision has met when it comes
    /// here; returns the sum.
    pub(super) fn settle(&mut self, before: usize) -> Result<usize, Crowded> {
        self.0.sort_by_key(Entry::slot);
        let mut said = Said::default();
        if self.0.len() > 1 {
            self.0.retain(|entry| said.adds(entry));
        }
        self.0.shrink_to_fit();
        let mut weight = before;
        for entry in &self.0 {
            weight += entry.weight() + usize::from(entry.effect().audit);
            if weight > MAX_WEIGHT {
                return Err(Crowded { slot: entry.slot() });
            }
        }
        Ok(weight)
    }
}

// === impl Said ===

impl Said {
    /// Whether the entry says what no earlier one does. It does not if, verb by verb, an
    /// earlier one of the same effect asks no more. In audit mode every rule is reported.
    fn adds<E: Entry>(&mut self, entry: &E) -> bool {
        let (effect, asks) = (entry.effect(), entry.asks());
        let reported = if effect.audit { entry.slot() + 1 } else { 0 };
        // Each question of the entry is asked or not.
        let subsets = (0..8).map(|subset| {
            let mut fewer = asks;
            for (bit, ask) in fewer.iter_mut().enumerate() {
                *ask *= subset >> bit & 1;
            }
            fewer
        });
        let said = subsets.filter_map(|asks| self.0.get(&(effect, reported, asks)));
        let said: Verbs = said.flat_map(|verbs| verbs.iter()).collect();
        if said.covers(entry.verbs()) {
            return false;
        }
        let here = self.0.entry((effect, reported, asks)).or_default();
        *here = here.iter().chain(entry.verbs().iter()).collect();
        true
    }
}
