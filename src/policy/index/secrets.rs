//! Which rules could match a secret's name.

use smol_str::SmolStr;

use super::{
    build::{Crowded, Placed, Tables},
    leaf::{Effect, Entry, Leaf},
    map::Map,
    prefix_map::PrefixMap,
    trie::Trie,
};
use crate::{
    identity::Principal,
    policy::{
        request::Verb,
        rule::{Pattern, SecretRule, Shape, Verbs},
        template::{Part, Placeholder, SEPARATORS, Template},
    },
};

/// How many rules in audit mode are told about where a collection is asked for.
const AUDITED: usize = 64;

/// The secrets of one set of subjects.
#[derive(Default)]
pub(super) struct SecretIndex {
    any: Leaf<SecretEntry>,
    exact: Map<SmolStr, Leaf<SecretEntry>>,
    prefixes: Trie<SecretEntry>,
    templates: Option<Box<Branch>>,
    /// What decides whether there is anything to list, create or get.
    collections: Leaf<CollectionEntry>,
}

/// A rule for one spelling of names. Numbers are those of [`Tables`]; 0 asks nothing.
#[derive(Clone, Copy)]
pub(super) struct SecretEntry {
    pub(super) slot: u32,
    pub(super) condition: u32,
    pub(super) first: u32,
    pub(super) backends: u32,
    /// Fields and destinations, which are asked of the rule itself.
    pub(super) residue: u32,
    weight: u32,
    pub(super) verbs: Verbs,
    pub(super) effect: Effect,
}

/// A rule about listing, creating or getting as such.
#[derive(Clone, Copy)]
pub(super) struct CollectionEntry {
    pub(super) slot: u32,
    pub(super) condition: u32,
    pub(super) first: u32,
    pub(super) verbs: Verbs,
    pub(super) effect: Effect,
    /// Whether only some principals can fill in any of the rule's templates: the rule is
    /// asked then.
    pub(super) guarded: bool,
}

/// A node of the trie of templates. Placeholders are edges of their own,
/// compared with the principal; they are never expanded.
#[derive(Default)]
struct Branch {
    literals: PrefixMap<Branch>,
    values: [Option<Box<Branch>>; Placeholder::SLOTS],
    exact: Leaf<SecretEntry>,
    prefix: Leaf<SecretEntry>,
}

// === impl SecretIndex ===

impl SecretIndex {
    pub(super) fn insert(&mut self, placed: Placed, rule: &SecretRule, tables: &mut Tables) {
        let Placed { slot, condition, first, effect } = placed;
        let residue = tables.residue(rule);
        let residue_weight = if residue == 0 { 0 } else { rule.residue_weight() };
        for Pattern { shape, backends } in &rule.patterns {
            let listed = backends.as_ref().map_or(0, |backends| backends.len());
            let weight = usize::from(condition != 0 || first != 0) + residue_weight + listed;
            let entry = SecretEntry {
                slot,
                condition,
                first,
                backends: tables.backends(backends.as_ref()),
                residue,
                weight: u32::try_from(weight).unwrap_or(u32::MAX),
                verbs: rule.verbs,
                effect,
            };
            self.leaf(shape).push(entry);
        }
        // To list and to create have no field: a rule about fields never allows them. To
        // get has: such a rule allows something, and denies something else. Only a Deny of
        // every name in every backend denies a collection.
        let asks_fields = !rule.fields.is_empty();
        let of_collections = |verb: &Verb| match verb {
            Verb::List | Verb::Create => !(effect.allow && asks_fields),
            Verb::Get => effect.allow || !asks_fields,
            Verb::Update | Verb::Delete | Verb::Use => false,
        };
        let verbs: Verbs = rule.verbs.iter().filter(of_collections).collect();
        let every = |pattern: &Pattern| matches!(pattern.shape, Shape::Any);
        let covers = effect.allow || rule.backends.is_none() && rule.patterns.iter().any(every);
        if verbs != Verbs::default() && covers {
            let guarded = rule.patterns.iter().all(Pattern::is_guarded);
            let entry = CollectionEntry { slot, condition, first, verbs, effect, guarded };
            self.collections.push(entry);
        }
    }

    fn leaf(&mut self, shape: &Shape) -> &mut Leaf<SecretEntry> {
        match shape {
            Shape::Any => &mut self.any,
            Shape::Exact(template) => match template.literal() {
                Some(name) => self.exact.entry(name),
                None => &mut self.branch(template).exact,
            },
            Shape::Prefix(template) => match template.literal() {
                Some(prefix) => self.prefixes.leaf(prefix, &SEPARATORS),
                None => &mut self.branch(template).prefix,
            },
        }
    }

    fn branch(&mut self, template: &Template) -> &mut Branch {
        template.parts.iter().fold(
            self.templates.get_or_insert_default(),
            |branch, part| match part {
                Part::Literal(text) => branch.literals.entry(&(&**text).into()),
                Part::Value(placeholder) => {
                    branch.values[placeholder.slot()].get_or_insert_default()
                }
            },
        )
    }

    /// Drops what never decides; refuses what would make decisions slow.
    pub(super) fn settle(&mut self, tables: &mut Tables) -> Result<(), Crowded> {
        let any = self.any.settle(0, tables)?;
        self.exact.shrink();
        for leaf in self.exact.values_mut() {
            leaf.settle(any, tables)?;
        }
        self.prefixes.settle(any, tables)?;
        if let Some(templates) = &mut self.templates {
            templates.settle(any, tables)?;
        }
        // All rules of some subjects meet here, whatever they are about.
        self.collections.limit_audit(AUDITED);
        self.collections.settle(0, tables).map(drop)
    }

    /// Calls `found` with every rule whose names or prefixes match.
    pub(super) fn visit(
        &self,
        principal: &Principal,
        name: &str,
        found: &mut impl FnMut(&SecretEntry),
    ) {
        self.any.iter().for_each(&mut *found);
        if let Some(leaf) = self.exact.get(name) {
            leaf.iter().for_each(&mut *found);
        }
        self.prefixes.visit(name, &SEPARATORS, found);
        if let Some(templates) = &self.templates {
            templates.visit(principal, name, found);
        }
    }

    /// Rules that allow or deny listing or creating as such.
    pub(super) fn collections(&self) -> &Leaf<CollectionEntry> {
        &self.collections
    }
}

// === impl Branch ===

impl Branch {
    fn settle(&mut self, before: usize, tables: &mut Tables) -> Result<(), Crowded> {
        let prefix = self.prefix.settle(before, tables)?;
        self.exact.settle(prefix, tables)?;
        let values = self.values.iter_mut().flatten().map(|branch| &mut **branch);
        let mut below = self.literals.values_mut().chain(values);
        below.try_for_each(|branch| branch.settle(prefix, tables))
    }

    fn visit(&self, principal: &Principal, rest: &str, found: &mut impl FnMut(&SecretEntry)) {
        self.prefix.iter().for_each(&mut *found);
        if rest.is_empty() {
            self.exact.iter().for_each(&mut *found);
            return;
        }
        for (rest, branch) in self.literals.matches(rest) {
            branch.visit(principal, rest, found);
        }
        for (slot, branch) in self.values.iter().enumerate() {
            if let Some(branch) = branch
                && let Some(value) = Placeholder::of_slot(slot).value(principal)
                && let Some(rest) = rest.strip_prefix(value)
            {
                branch.visit(principal, rest, found);
            }
        }
    }
}

// === impl SecretEntry ===

impl Entry for SecretEntry {
    fn slot(&self) -> u32 {
        self.slot
    }

    fn effect(&self) -> Effect {
        self.effect
    }

    fn verbs(&self) -> Verbs {
        self.verbs
    }

    fn asks(&self) -> [u32; 3] {
        [self.condition, self.backends, self.residue]
    }

    fn first(&self) -> u32 {
        self.first
    }

    fn set_first(&mut self, number: u32) {
        self.first = number;
    }

    fn weight(&self) -> usize {
        self.weight as usize
    }
}

// === impl CollectionEntry ===

impl Entry for CollectionEntry {
    fn slot(&self) -> u32 {
        self.slot
    }

    fn effect(&self) -> Effect {
        self.effect
    }

    fn verbs(&self) -> Verbs {
        self.verbs
    }

    fn asks(&self) -> [u32; 3] {
        // What templates ask differs from rule to rule.
        let guard = if self.guarded { self.slot + 1 } else { 0 };
        [self.condition, guard, 0]
    }

    fn first(&self) -> u32 {
        self.first
    }

    fn set_first(&mut self, number: u32) {
        self.first = number;
    }

    fn weight(&self) -> usize {
        usize::from(self.condition != 0 || self.first != 0) + usize::from(self.guarded)
    }
}
