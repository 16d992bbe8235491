//! Which rules could match a secret's name.

use std::{collections::HashMap, sync::Arc};

use super::{Entry, prefix_map::PrefixMap};
use crate::{
    identity::Principal,
    policy::{
        request::Verb,
        rule::{SecretRule, Shape},
        template::{Part, Placeholder, Template},
    },
};

/// The secrets of one bucket.
#[derive(Default)]
pub(super) struct SecretIndex {
    any: Vec<Entry>,
    exact: HashMap<Arc<str>, Vec<Entry>>,
    prefixes: PrefixMap<Vec<Entry>>,
    templates: Option<Box<Branch>>,
    /// What decides whether there is anything to list or create.
    collections: Vec<Entry>,
}

/// A node of the trie of templates. Placeholders are edges of their own,
/// compared with the principal; they are never expanded.
#[derive(Default)]
struct Branch {
    literals: PrefixMap<Branch>,
    values: [Option<Box<Branch>>; Placeholder::SLOTS],
    exact: Vec<Entry>,
    prefix: Vec<Entry>,
}

// === impl SecretIndex ===

impl SecretIndex {
    pub(super) fn insert(&mut self, entry: Entry, allow: bool, rule: &SecretRule) {
        for (number, pattern) in (0..).zip(&rule.patterns) {
            self.insert_shape(Entry { pattern: number, ..entry }, &pattern.shape);
        }
        // A collection has no field: a rule about fields never allows one, and
        // only a Deny of every name in every backend denies one.
        let collections = rule.verbs.contains(Verb::List) || rule.verbs.contains(Verb::Create);
        let every = |shape: &Shape| matches!(shape, Shape::Any);
        let covers = match allow {
            true => rule.fields.is_empty(),
            false => {
                rule.backends.is_none() && rule.patterns.iter().any(|pattern| every(&pattern.shape))
            }
        };
        if collections && covers {
            self.collections.push(entry);
        }
    }

    fn insert_shape(&mut self, entry: Entry, shape: &Shape) {
        match shape {
            Shape::Any => self.any.push(entry),
            Shape::Exact(template) => match template.literal() {
                Some(name) => self.exact.entry(name.into()).or_default().push(entry),
                None => self.branch(template).exact.push(entry),
            },
            Shape::Prefix(template) => match template.literal() {
                Some(prefix) => self.prefixes.entry(&prefix.into()).push(entry),
                None => self.branch(template).prefix.push(entry),
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

    /// Calls `found` with every rule whose names or prefixes match.
    pub(super) fn visit(&self, principal: &Principal, name: &str, found: &mut impl FnMut(Entry)) {
        let exact = self.exact.get(name).into_iter();
        let prefixes = self.prefixes.matches(name).map(|(_, entries)| entries);
        let literal = std::iter::once(&self.any).chain(exact).chain(prefixes);
        literal.flatten().copied().for_each(&mut *found);
        if let Some(templates) = &self.templates {
            templates.visit(principal, name, found);
        }
    }

    /// Rules that allow or deny listing or creating as such.
    pub(super) fn collections(&self) -> &[Entry] {
        &self.collections
    }
}

// === impl Branch ===

impl Branch {
    fn visit(&self, principal: &Principal, rest: &str, found: &mut impl FnMut(Entry)) {
        self.prefix.iter().copied().for_each(&mut *found);
        if rest.is_empty() {
            self.exact.iter().copied().for_each(&mut *found);
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
