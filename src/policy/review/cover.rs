//! Whether one rule holds wherever another does. A yes is certain; a no may only mean
//! that it would be too much work to tell.

use std::collections::BTreeSet;

use crate::{
    policy::{
        request::Attribute,
        rule::{Among, DestinationRule, HttpRule, Pattern, SecretRule, Shape, Subject, Target},
    },
    secret::BackendName,
};

/// How many comparisons of single values are made before everything is a no.
const STEPS: u64 = 30_000_000;

/// Compares rules, and knows how much work that has been.
pub(super) struct Comparison {
    left: u64,
}

// === impl Comparison ===

impl Comparison {
    pub(super) fn new() -> Self {
        Self { left: STEPS }
    }

    /// Whether there was too much to compare.
    pub(super) fn gave_up(&self) -> bool {
        self.left == 0
    }

    /// Counts some work; whether there is any left for it.
    pub(super) fn spend(&mut self, steps: usize) -> bool {
        self.left = self.left.saturating_sub(1 + steps as u64);
        self.left > 0
    }

    /// Whether whoever is in any of `narrow` is in one of `wide`.
    pub(super) fn subjects(&mut self, wide: &[Subject], narrow: &[Subject]) -> bool {
        narrow.iter().all(|narrow| wide.iter().any(|wide| self.subject(wide, narrow)))
    }

    /// Whether whoever is in `narrow` is in `wide`.
    pub(super) fn subject(&mut self, wide: &Subject, narrow: &Subject) -> bool {
        self.spend(size(wide).saturating_mul(size(narrow)))
            && subset(&wide.trust_domains, &narrow.trust_domains)
            && narrow.require.contains(wide.require)
            && (!wide.bound_to_pod || narrow.bound_to_pod)
            && names_all(wide, narrow)
    }

    /// Whether `wide` holds for every request that `narrow` holds for. True of Allow and of
    /// Deny, and of a Deny that is wider than an Allow.
    pub(super) fn target(&mut self, wide: &Target, narrow: &Target) -> bool {
        match (wide, narrow) {
            (Target::Secrets(wide), Target::Secrets(narrow)) => self.secrets(wide, narrow),
            (Target::Http(wide), Target::Http(narrow)) => self.http(wide, narrow),
            _ => false,
        }
    }

    fn secrets(&mut self, wide: &SecretRule, narrow: &SecretRule) -> bool {
        narrow.verbs.iter().all(|verb| wide.verbs.contains(verb))
            && subset(&wide.fields, &narrow.fields)
            && self.spend(wide.destinations.len().saturating_mul(narrow.destinations.len()))
            && (wide.destinations.is_empty()
                || !narrow.destinations.is_empty()
                    && narrow.destinations.iter().all(|narrow| {
                        wide.destinations.iter().any(|wide| self.destination(wide, narrow))
                    }))
            && self.spend(wide.patterns.len().saturating_mul(narrow.patterns.len()))
            && narrow
                .patterns
                .iter()
                .all(|narrow| wide.patterns.iter().any(|wide| covers_pattern(wide, narrow)))
    }

    fn destination(&mut self, wide: &DestinationRule, narrow: &DestinationRule) -> bool {
        Attribute::ALL.into_iter().all(|attribute| {
            let (wide, narrow) = (wide.list(attribute), narrow.list(attribute));
            match attribute {
                Attribute::Path => self.among(wide, narrow, covers_path),
                _ => self.among(wide, narrow, str::eq),
            }
        })
    }

    fn http(&mut self, wide: &HttpRule, narrow: &HttpRule) -> bool {
        self.among(&wide.hosts, &narrow.hosts, str::eq)
            && self.among(&wide.methods, &narrow.methods, str::eq)
            && self.among(&wide.paths, &narrow.paths, covers_path)
            && self.spend(wide.destinations.len().saturating_mul(narrow.destinations.len()))
            && subset(&wide.destinations, &narrow.destinations)
    }

    /// A list that is not given holds for what the proxy does not tell, too: `*` is less.
    fn among<T: AsRef<str>>(
        &mut self,
        wide: &Among<T>,
        narrow: &Among<T>,
        same: impl Fn(&str, &str) -> bool,
    ) -> bool {
        match (wide, narrow) {
            (Among::Unset, _) | (Among::Any, Among::Any | Among::OneOf(_)) => true,
            (Among::OneOf(wide), Among::OneOf(narrow)) => {
                self.spend(wide.len().saturating_mul(narrow.len()))
                    && narrow.iter().all(|n| wide.iter().any(|w| same(w.as_ref(), n.as_ref())))
            }
            _ => false,
        }
    }
}

/// How many values a comparison with the subject looks at.
fn size(subject: &Subject) -> usize {
    let except = &subject.except;
    let lists = [subject.namespaces.len(), subject.accounts.len(), subject.prefixes.len()];
    let excepted = [except.namespaces.len(), except.accounts.len(), except.prefixes.len()];
    1 + lists.iter().chain(&excepted).sum::<usize>()
}

/// Of lists that mean everything where they are empty.
fn subset<T: PartialEq>(wide: &[T], narrow: &[T]) -> bool {
    wide.is_empty() || !narrow.is_empty() && narrow.iter().all(|one| wide.contains(one))
}

/// Whether `wide` names every account that `narrow` does, proofs aside.
fn names_all(wide: &Subject, narrow: &Subject) -> bool {
    if !narrow.accounts.is_empty() {
        let mut named = narrow.accounts.iter().filter(|account| narrow.names(account));
        return named.all(|account| wide.names(account));
    }
    // Accounts are no more than what somebody wrote down; a namespace has others.
    if !wide.accounts.is_empty() || wide.except.accounts.iter().any(|one| narrow.names(one)) {
        return false;
    }
    if !narrow.namespaces.is_empty() {
        let mut reached = narrow.namespaces.iter().filter(|name| narrow.reaches(name));
        return reached.all(|name| {
            (wide.namespaces.is_empty() || wide.namespaces.contains(name)) && wide.reaches(name)
        });
    }
    let starts = |prefix: &str, with: &[std::sync::Arc<str>]| {
        with.iter().any(|start| prefix.starts_with(&**start))
    };
    let within = match narrow.prefixes.as_slice() {
        [] => wide.prefixes.is_empty(),
        prefixes => {
            wide.prefixes.is_empty() || prefixes.iter().all(|one| starts(one, &wide.prefixes))
        }
    };
    let apart = |excepted: &str| {
        let meets = |one: &str| one.starts_with(excepted) || excepted.starts_with(one);
        !narrow.prefixes.is_empty() && !narrow.prefixes.iter().any(|one| meets(one))
    };
    within
        && wide.namespaces.is_empty()
        && !wide.except.namespaces.iter().any(|name| narrow.reaches(name))
        && wide
            .except
            .prefixes
            .iter()
            .all(|prefix| starts(prefix, &narrow.except.prefixes) || apart(prefix))
}

fn covers_path(wide: &str, narrow: &str) -> bool {
    match wide.ends_with('/') {
        true => narrow.starts_with(wide),
        false => narrow == wide,
    }
}

fn covers_pattern(wide: &Pattern, narrow: &Pattern) -> bool {
    let within = |wide: &[BackendName]| match &narrow.backends {
        None => false,
        Some(narrow) if narrow.len() <= 8 => narrow.iter().all(|one| wide.contains(one)),
        Some(narrow) => {
            let wide: BTreeSet<_> = wide.iter().collect();
            narrow.iter().all(|one| wide.contains(one))
        }
    };
    if !wide.backends.as_deref().is_none_or(within) {
        return false;
    }
    match (&wide.shape, &narrow.shape) {
        (Shape::Any, _) => true,
        // As written: a Deny holds for more callers than an Allow of the same text.
        (Shape::Exact(wide), Shape::Exact(narrow)) => wide.to_string() == narrow.to_string(),
        // A prefix ends in a separator, so it never ends inside a placeholder.
        (Shape::Prefix(wide), Shape::Exact(narrow) | Shape::Prefix(narrow)) => {
            narrow.to_string().starts_with(&wide.to_string())
        }
        (Shape::Exact(_) | Shape::Prefix(_), _) => false,
    }
}
