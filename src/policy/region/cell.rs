//! Policies in pieces that can be compared one by one: for one key of their subjects, and
//! one pattern of names.

use std::sync::Arc;

use super::{RuleRef, Span, Whom};
use crate::{
    identity::{ProofSet, TrustDomain},
    policy::{
        region::TooMuch,
        rule::{
            DestinationRule, Except, FieldPath, HttpRule, Pattern, Policy, SecretRule, Subject,
            Target, Verbs,
        },
    },
    secret::BackendName,
};

/// More of them are not looked at.
const MAX_CELLS: u64 = 2_000_000;

/// One rule, for one key of its subjects and one pattern.
#[derive(Clone)]
pub(in crate::policy) struct Cell<'p> {
    pub(in crate::policy) policy: &'p Policy,
    pub(in crate::policy) rule: usize,
    pub(in crate::policy) from: &'p Subject,
    pub(in crate::policy) whom: Whom,
    pub(in crate::policy) what: What<'p>,
}

/// What a cell is about.
#[derive(Clone, Copy)]
pub(in crate::policy) enum What<'p> {
    Secrets(&'p SecretRule, &'p Pattern),
    Http(&'p HttpRule),
}

/// All of a cell that decides; equal cells decide alike.
#[derive(PartialEq, Eq, Hash)]
pub(in crate::policy) struct Key<'p> {
    allow: bool,
    whom: Whom,
    trust_domains: &'p [TrustDomain],
    require: ProofSet,
    bound_to_pod: bool,
    except: &'p Except,
    what: WhatKey<'p>,
}

#[derive(PartialEq, Eq, Hash)]
enum WhatKey<'p> {
    Secrets {
        pattern: &'p Pattern,
        backends: Option<&'p Arc<[BackendName]>>,
        verbs: Verbs,
        fields: &'p [FieldPath],
        destinations: &'p [DestinationRule],
    },
    Http(&'p HttpRule),
}

/// The cells of all policies that are in force.
pub(in crate::policy) fn cells(policies: &[Arc<Policy>]) -> Result<Vec<Cell<'_>>, TooMuch> {
    let mut cells = Vec::new();
    for policy in policies.iter().filter(|policy| !policy.audit) {
        for from in policy.from.iter() {
            for whom in whoms(from) {
                for (rule, target) in policy.to.iter().enumerate() {
                    let cell = |what| Cell { policy, rule, from, whom: whom.clone(), what };
                    match target {
                        Target::Secrets(secrets) => cells.extend(
                            secrets.patterns.iter().map(|it| cell(What::Secrets(secrets, it))),
                        ),
                        Target::Http(http) => cells.push(cell(What::Http(http))),
                    }
                }
                if cells.len() as u64 > MAX_CELLS {
                    return Err(TooMuch(MAX_CELLS));
                }
            }
        }
    }
    Ok(cells)
}

/// Whom an entry is about, exceptions aside, by its narrowest field.
pub(in crate::policy) fn whoms(from: &Subject) -> Vec<Whom> {
    if !from.accounts.is_empty() {
        let named = from.accounts.iter().filter(|account| from.names(account));
        return named.map(Whom::one).collect();
    }
    if !from.namespaces.is_empty() {
        let reached = from.namespaces.iter().filter(|namespace| from.reaches(namespace));
        return reached.map(|one| Whom::of(Span::One(one.clone()))).collect();
    }
    match from.prefixes.as_slice() {
        [] => vec![Whom::everyone()],
        prefixes => prefixes.iter().map(|one| Whom::of(Span::Prefix(one.clone()))).collect(),
    }
}

// === impl Cell ===

impl<'p> Cell<'p> {
    pub(in crate::policy) fn rule_ref(&self) -> RuleRef {
        RuleRef::new(self.policy, self.rule)
    }

    pub(in crate::policy) fn key(&self) -> Key<'p> {
        let Subject { trust_domains, require, bound_to_pod, except, .. } = self.from;
        Key {
            allow: self.policy.allow,
            whom: self.whom.clone(),
            trust_domains,
            require: *require,
            bound_to_pod: *bound_to_pod,
            except,
            what: match self.what {
                What::Http(rule) => WhatKey::Http(rule),
                What::Secrets(rule, pattern) => WhatKey::Secrets {
                    pattern,
                    backends: rule.backends.as_ref(),
                    verbs: rule.verbs,
                    fields: &rule.fields,
                    destinations: &rule.destinations,
                },
            },
        }
    }
}

// === impl Except ===

impl Except {
    /// Whom it leaves out.
    pub(in crate::policy) fn whoms(&self) -> impl Iterator<Item = Whom> + '_ {
        let namespaces = self.namespaces.iter().map(|one| Whom::of(Span::One(one.clone())));
        let prefixes = self.prefixes.iter().map(|one| Whom::of(Span::Prefix(one.clone())));
        namespaces.chain(prefixes).chain(self.accounts.iter().map(Whom::one))
    }
}
