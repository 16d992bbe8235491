//! Values by subject: whoever asks is looked up by account, namespace and prefix.

use std::collections::HashMap;

use smol_str::SmolStr;

use super::{condition::Condition, map::Map, prefix_map::PrefixMap};
use crate::{identity::Principal, policy::rule::Subject};

/// Values for sets of principals.
pub(super) struct SubjectMap<V> {
    everyone: V,
    namespaces: HashMap<SmolStr, Namespace<V>>,
    prefixes: PrefixMap<V>,
}

/// Values for those in one namespace, which one lookup finds.
struct Namespace<V> {
    /// For all of them.
    all: Option<V>,
    /// By service account.
    accounts: Map<SmolStr, V>,
}

// === impl SubjectMap ===

impl<V: Default> Default for SubjectMap<V> {
    fn default() -> Self {
        Self { everyone: V::default(), namespaces: HashMap::new(), prefixes: PrefixMap::default() }
    }
}

impl<V: Default> SubjectMap<V> {
    /// The places under the entry's narrowest field, each with the condition that is left
    /// to ask of whoever is found there.
    pub(super) fn fill(&mut self, from: &Subject, mut fill: impl FnMut(&mut V, Condition)) {
        if !from.accounts.is_empty() {
            for account in from.accounts.iter().filter(|account| from.names(account)) {
                let namespace = self.namespaces.entry(account.namespace().into()).or_default();
                fill(namespace.accounts.entry(account.name()), Condition::of_account(from));
            }
        } else if !from.namespaces.is_empty() {
            for namespace in from.namespaces.iter().filter(|namespace| from.reaches(namespace)) {
                let place = self.namespaces.entry((&**namespace).into()).or_default();
                let condition = Condition::of_namespace(from, namespace);
                fill(place.all.get_or_insert_default(), condition);
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
        let account = principal.service_account().name();
        let namespace = self.namespaces.get(principal.namespace());
        let account = namespace.and_then(|namespace| namespace.accounts.get(account));
        account
            .into_iter()
            .chain(namespace.and_then(|namespace| namespace.all.as_ref()))
            .chain(self.prefixes.matches(principal.namespace()).map(|(_, value)| value))
            .chain(std::iter::once(&self.everyone))
    }

    /// The same map of other values.
    pub(super) fn map<W>(self, mut map: impl FnMut(V) -> W) -> SubjectMap<W> {
        let Self { everyone, namespaces, prefixes } = self;
        SubjectMap {
            everyone: map(everyone),
            namespaces: namespaces
                .into_iter()
                .map(|(name, Namespace { all, accounts })| {
                    (name, Namespace { all: all.map(&mut map), accounts: accounts.map(&mut map) })
                })
                .collect(),
            prefixes: prefixes.map(map),
        }
    }
}

// === impl Namespace ===

impl<V> Default for Namespace<V> {
    fn default() -> Self {
        Self { all: None, accounts: Map::default() }
    }
}
