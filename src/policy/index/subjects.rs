//! Values by subject: whoever asks is looked up by account, namespace and prefix.

use std::{collections::HashMap, sync::Arc};

use super::{condition::Condition, prefix_map::PrefixMap};
use crate::{
    identity::{Principal, ServiceAccount},
    policy::rule::Subject,
};

/// Values for sets of principals.
pub(super) struct SubjectMap<V> {
    everyone: V,
    accounts: HashMap<ServiceAccount, V>,
    namespaces: HashMap<Arc<str>, V>,
    prefixes: PrefixMap<V>,
}

// === impl SubjectMap ===

impl<V: Default> Default for SubjectMap<V> {
    fn default() -> Self {
        Self {
            everyone: V::default(),
            accounts: HashMap::new(),
            namespaces: HashMap::new(),
            prefixes: PrefixMap::default(),
        }
    }
}

impl<V: Default> SubjectMap<V> {
    /// The places under the entry's narrowest field, each with the condition that is left
    /// to ask of whoever is found there.
    pub(super) fn fill(&mut self, from: &Subject, mut fill: impl FnMut(&mut V, Condition)) {
        if !from.accounts.is_empty() {
            for account in from.accounts.iter().filter(|account| from.names(account)) {
                let place = self.accounts.entry(account.clone()).or_default();
                fill(place, Condition::of_account(from));
            }
        } else if !from.namespaces.is_empty() {
            for namespace in from.namespaces.iter().filter(|namespace| from.reaches(namespace)) {
                let place = self.namespaces.entry(namespace.clone()).or_default();
                fill(place, Condition::of_namespace(from, namespace));
            }
        } else if !from.prefixes.is_empty() {
            for prefix in &from.prefixes {
                if let Some(condition) = Condition::of_prefix(from, prefix) {
                    fill(self.prefixes.entry(prefix), condition);
                }
            }
        } else {
            fill(&mut self.everyone, Condition::of_everyone(from));
        }
    }
}

impl<V> SubjectMap<V> {
    /// All that holds for this principal, the narrowest first.
    pub(super) fn of<'m>(&'m self, principal: &'m Principal) -> impl Iterator<Item = &'m V> {
        let account = self.accounts.get(principal.service_account()).into_iter();
        account
            .chain(self.namespaces.get(principal.namespace()))
            .chain(self.prefixes.matches(principal.namespace()).map(|(_, value)| value))
            .chain(std::iter::once(&self.everyone))
    }

    /// The same map of other values.
    pub(super) fn map<W>(self, mut map: impl FnMut(V) -> W) -> SubjectMap<W> {
        let Self { everyone, accounts, namespaces, prefixes } = self;
        SubjectMap {
            everyone: map(everyone),
            accounts: accounts.into_iter().map(|(key, value)| (key, map(value))).collect(),
            namespaces: namespaces.into_iter().map(|(key, value)| (key, map(value))).collect(),
            prefixes: prefixes.map(map),
        }
    }
}
