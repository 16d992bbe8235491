//! Rules that are found under one key, without those that could never decide.
//!
//! Of rules that ask for the same, only the first by name is ever reported; and of those that
//! differ in nothing but whom they except, one entry finds the first for whoever asks. What is
//! left then is bounded by the number of verbs and backends, except for rules with other
//! conditions of their own and those in audit mode: of these a decision would have to look at
//! every one. They have a weight, and too much of it under one key is refused.

use std::collections::HashMap;

use smallvec::SmallVec;

use super::build::{Crowded, Tables};
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

    /// Whom it excepts, as [`First`] among the tables; 0 is nobody.
    fn first(&self) -> u32;

    fn set_first(&mut self, number: u32);

    /// What a decision has to compare; 0 where the key says it all.
    fn weight(&self) -> usize;
}

/// The rules under one key: mostly one, which is kept beside the key.
pub(super) struct Leaf<E>(SmallVec<[E; 1]>);

/// The verbs of earlier entries, by effect, rule if every one is reported, and what they ask.
#[derive(Default)]
struct Said(HashMap<(Effect, u32, [u32; 4]), Verbs>);

/// What rules have in common that differ in nothing but whom they except.
type Common = (Effect, Verbs, [u32; 3]);

// === impl Effect ===

impl From<&Policy> for Effect {
    fn from(policy: &Policy) -> Self {
        Self { allow: policy.allow, audit: policy.audit }
    }
}

// === impl Leaf ===

impl<E> Default for Leaf<E> {
    fn default() -> Self {
        Self(SmallVec::new())
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
    pub(super) fn settle(&mut self, before: usize, tables: &mut Tables) -> Result<usize, Crowded> {
        self.0.sort_by_key(Entry::slot);
        if self.0.len() > 1 {
            let mut said = Said::default();
            self.0.retain(|entry| said.adds(&*entry));
            self.gather(tables);
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

    /// Leaves no more than so many rules in audit mode, the first.
    pub(super) fn limit_audit(&mut self, most: usize) {
        self.0.sort_by_key(Entry::slot);
        let mut left = most;
        self.0.retain(|entry| {
            let kept = !entry.effect().audit || left > 0;
            left -= usize::from(kept && entry.effect().audit);
            kept
        });
    }

    /// Makes one entry of rules that differ in nothing but whom they except. Those in audit
    /// mode are all reported, and stay.
    fn gather(&mut self, tables: &mut Tables) {
        let gathers = |entry: &E| entry.first() != 0 && !entry.effect().audit;
        let common = |entry: &E| (entry.effect(), entry.verbs(), entry.asks());
        let mut alike: HashMap<Common, Vec<(u32, u32)>> = HashMap::new();
        for entry in self.0.iter().filter(|entry| gathers(entry)) {
            alike.entry(common(entry)).or_default().push((entry.slot(), entry.first()));
        }
        // The first of each kind stays, and stands for all of them.
        self.0.retain(|entry| {
            if !gathers(entry) {
                return true;
            }
            let Some(rules) = alike.remove(&common(entry)) else { return false };
            if rules.len() > 1 {
                entry.set_first(tables.first_of(&rules));
            }
            true
        });
    }
}

// === impl Said ===

impl Said {
    /// Whether the entry says what no earlier one does. It does not if, verb by verb, an
    /// earlier one of the same effect asks no more. In audit mode every rule is reported.
    fn adds<E: Entry>(&mut self, entry: &E) -> bool {
        let effect = entry.effect();
        let [one, two, three] = entry.asks();
        let asks = [one, two, three, entry.first()];
        let reported = if effect.audit { entry.slot() + 1 } else { 0 };
        // Each question of the entry is asked or not.
        let subsets = (0..16).map(|subset| {
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
