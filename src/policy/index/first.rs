//! Of rules that differ in nothing but whom they except: the first that holds.
//!
//! "Only this namespace may call that workload" is a Deny for everyone but one, and there
//! may be thousands of them at one place. Whoever asks is excepted by few or by all of them,
//! so the answer is kept for everyone whom any of them names, and once for all others.

use std::{collections::BTreeSet, sync::Arc};

use super::condition::Exceptions;
use crate::identity::{Principal, ServiceAccount};

/// Which rule that is.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) enum First {
    /// Of one rule: itself, but for these.
    Of(Exceptions),
    /// Of several, by who asks.
    By(Named),
}

/// The first that holds, by its slot, for everyone whom any of the rules names; none where
/// all of them except. Sorted by whom.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Named {
    accounts: Vec<(ServiceAccount, Option<u32>)>,
    /// For accounts that are not among those.
    namespaces: Vec<(Arc<str>, Option<u32>)>,
    /// For namespaces that are not among those: the longest prefix counts.
    prefixes: Vec<(Arc<str>, Option<u32>)>,
    others: u32,
}

// === impl First ===

impl First {
    /// The slot of the first that holds for this principal; `first` is the smallest.
    pub(super) fn slot(&self, first: u32, principal: &Principal) -> Option<u32> {
        match self {
            Self::Of(exceptions) => (!exceptions.cover(principal)).then_some(first),
            Self::By(named) => named.slot(principal),
        }
    }
}

// === impl Named ===

impl Named {
    /// Of these rules, of which there is one, in the order of their slots.
    pub(super) fn new(rules: &[(u32, &Exceptions)]) -> Self {
        // Whoever is looked up here is named by every rule that is passed over: all of it
        // takes no longer than reading the lists does.
        let first = |excepts: &dyn Fn(&Exceptions) -> bool| {
            let mut rules = rules.iter();
            rules.find(|(_, exceptions)| !excepts(exceptions)).map(|(slot, _)| *slot)
        };
        let all = || rules.iter().map(|(_, exceptions)| *exceptions);
        let accounts: BTreeSet<_> = all().flat_map(|rule| &rule.accounts).collect();
        let namespaces: BTreeSet<_> = all().flat_map(|rule| &rule.namespaces).collect();
        let prefixes: BTreeSet<_> = all().flat_map(|rule| &rule.prefixes).collect();
        let of_account = |account: &ServiceAccount| first(&|rule| rule.cover_account(account));
        let of_namespace = |name: &Arc<str>| first(&|rule| rule.cover_namespace(name));
        // A namespace with this prefix and no longer one has the shorter ones of it too.
        let of_prefix = |prefix: &Arc<str>| first(&|rule| rule.cover_prefix(prefix));
        Self {
            accounts: accounts.into_iter().map(|it| (it.clone(), of_account(it))).collect(),
            namespaces: namespaces.into_iter().map(|it| (it.clone(), of_namespace(it))).collect(),
            prefixes: prefixes.into_iter().map(|it| (it.clone(), of_prefix(it))).collect(),
            others: rules[0].0,
        }
    }

    fn slot(&self, principal: &Principal) -> Option<u32> {
        let account = principal.service_account();
        if let Ok(at) = self.accounts.binary_search_by(|(named, _)| named.cmp(account)) {
            return self.accounts[at].1;
        }
        let among = |list: &[(Arc<str>, Option<u32>)], text: &str| {
            let at = list.binary_search_by(|(named, _)| (**named).cmp(text)).ok()?;
            Some(list[at].1)
        };
        let namespace = principal.namespace();
        if let Some(found) = among(&self.namespaces, namespace) {
            return found;
        }
        // Prefixes end in a hyphen.
        let longest_first = namespace.rmatch_indices('-').map(|(at, _)| &namespace[..=at]);
        let prefix = match self.prefixes.is_empty() {
            true => None,
            false => longest_first.filter_map(|prefix| among(&self.prefixes, prefix)).next(),
        };
        prefix.unwrap_or(Some(self.others))
    }
}
