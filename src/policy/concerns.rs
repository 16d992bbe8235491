//! Which policies concern a service account: found by whom they name, without a walk over
//! those that are about others.
//!
//! For the questions of callers about themselves, which decisions never wait for. It is
//! made once for a set, when the first caller asks.

use std::{collections::HashMap, sync::Arc};

use super::rule::{Except, Policy, Subject};
use crate::identity::ServiceAccount;

/// Every `from` entry of enforced Allow policies, by its narrowest field.
#[derive(Debug, Default)]
pub(super) struct Concerns {
    accounts: HashMap<ServiceAccount, Vec<Concern>>,
    namespaces: HashMap<Arc<str>, Vec<Concern>>,
    prefixes: HashMap<Arc<str>, Vec<Concern>>,
    everyone: Vec<Concern>,
}

/// One `from` entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Concern {
    /// Which policy, in the order of their names.
    pub(super) policy: u32,
    /// Which of its entries.
    pub(super) from: u32,
}

// === impl Concerns ===

impl Concerns {
    pub(super) fn new(policies: &[Arc<Policy>]) -> Self {
        let mut concerns = Self::default();
        for (policy, document) in (0..).zip(policies) {
            if !document.allow || document.audit {
                continue;
            }
            for (from, subject) in (0..).zip(document.from.iter()) {
                concerns.insert(subject, Concern { policy, from });
            }
        }
        concerns
    }

    fn insert(&mut self, subject: &Subject, concern: Concern) {
        let Subject { accounts, namespaces, prefixes, .. } = subject;
        if !accounts.is_empty() {
            for account in accounts {
                self.accounts.entry(account.clone()).or_default().push(concern);
            }
        } else if !namespaces.is_empty() {
            for namespace in namespaces {
                self.namespaces.entry(namespace.clone()).or_default().push(concern);
            }
        } else if !prefixes.is_empty() {
            for prefix in prefixes {
                self.prefixes.entry(prefix.clone()).or_default().push(concern);
            }
        } else {
            self.everyone.push(concern);
        }
    }

    /// The entries that may name the account, narrow ones first. What else an entry asks
    /// for is to be looked at.
    pub(super) fn of<'c>(
        &'c self,
        account: &'c ServiceAccount,
    ) -> impl Iterator<Item = Concern> + 'c {
        let namespace = account.namespace();
        // A prefix ends in `-`, which schemas see to.
        let ends = namespace.rmatch_indices('-').map(|(at, _)| &namespace[..=at]);
        let accounts = self.accounts.get(account).into_iter();
        let namespaces = self.namespaces.get(namespace).into_iter();
        let prefixes = ends.filter_map(|prefix| self.prefixes.get(prefix));
        let lists = accounts.chain(namespaces).chain(prefixes).chain([&self.everyone]);
        lists.flatten().copied()
    }
}

// === impl Subject ===

impl Subject {
    /// How many comparisons it takes to look at the entry.
    pub(super) fn weight(&self) -> usize {
        let Self { namespaces, accounts, prefixes, trust_domains, except, .. } = self;
        let Except { namespaces: not, accounts: nor, prefixes: neither } = except;
        let named = [namespaces.len(), accounts.len(), prefixes.len(), trust_domains.len()];
        named.into_iter().chain([not.len(), nor.len(), neither.len()]).sum()
    }
}
