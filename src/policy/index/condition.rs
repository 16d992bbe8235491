//! What is left to ask of a principal that was found under a subject's key.

use std::{collections::BTreeSet, sync::Arc};

use crate::{
    identity::{Principal, ProofSet, ServiceAccount, TrustDomain},
    policy::rule::Subject,
};

/// All of it must hold. Lists are sorted, so that equal conditions are equal and long
/// lists are searched.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Condition {
    pub(super) requirements: Requirements,
    pub(super) exceptions: Exceptions,
}

/// What whoever asks must have shown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Requirements {
    /// Empty: any.
    trust_domains: Vec<TrustDomain>,
    require: ProofSet,
    bound_to_pod: bool,
}

/// Who is not meant.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Exceptions {
    pub(super) accounts: Vec<ServiceAccount>,
    pub(super) namespaces: Vec<Arc<str>>,
    /// Of namespaces.
    pub(super) prefixes: Vec<Arc<str>>,
}

// === impl Condition ===

impl Condition {
    /// For an account that the entry is about, exceptions included.
    pub(super) fn of_account(from: &Subject) -> Self {
        let requirements = Requirements {
            trust_domains: sorted(&from.trust_domains),
            require: from.require,
            bound_to_pod: from.bound_to_pod,
        };
        Self { requirements, exceptions: Exceptions::default() }
    }

    /// For anyone in a namespace that the entry reaches.
    pub(super) fn of_namespace(from: &Subject, namespace: &str) -> Self {
        let excepted = from.except.accounts.iter();
        let excepted = excepted.filter(|account| account.namespace() == namespace);
        let exceptions = Exceptions { accounts: sorted(excepted), ..Exceptions::default() };
        Self { exceptions, ..Self::of_account(from) }
    }

    /// For anyone in a namespace with this prefix; none if all of them are excepted.
    pub(super) fn of_prefix(from: &Subject, prefix: &str) -> Option<Self> {
        let except = &from.except;
        if except.prefixes.iter().any(|excepted| prefix.starts_with(&**excepted)) {
            return None;
        }
        let below = |namespace: &str| namespace.starts_with(prefix);
        let accounts = except.accounts.iter().filter(|account| below(account.namespace()));
        let exceptions = Exceptions {
            accounts: sorted(accounts),
            namespaces: sorted(except.namespaces.iter().filter(|name| below(name))),
            prefixes: sorted(except.prefixes.iter().filter(|longer| below(longer))),
        };
        Some(Self { exceptions, ..Self::of_account(from) })
    }

    /// For anyone at all.
    pub(super) fn of_everyone(from: &Subject) -> Self {
        let exceptions = Exceptions {
            accounts: sorted(&from.except.accounts),
            namespaces: sorted(&from.except.namespaces),
            prefixes: sorted(&from.except.prefixes),
        };
        Self { exceptions, ..Self::of_account(from) }
    }

    pub(super) fn holds(&self, principal: &Principal) -> bool {
        self.requirements.hold(principal) && !self.exceptions.cover(principal)
    }
}

// === impl Requirements ===

impl Requirements {
    /// Whether there is nothing to ask.
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    pub(super) fn hold(&self, principal: &Principal) -> bool {
        (self.trust_domains.is_empty()
            || self.trust_domains.binary_search(principal.trust_domain()).is_ok())
            && principal.proofs().contains(self.require)
            && (!self.bound_to_pod || principal.is_bound_to_pod())
    }
}

// === impl Exceptions ===

impl Exceptions {
    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    pub(super) fn cover(&self, principal: &Principal) -> bool {
        self.cover_account(principal.service_account())
    }

    pub(super) fn cover_account(&self, account: &ServiceAccount) -> bool {
        self.accounts.binary_search(account).is_ok() || self.cover_namespace(account.namespace())
    }

    /// Whether all of the namespace is excepted.
    pub(super) fn cover_namespace(&self, namespace: &str) -> bool {
        among(&self.namespaces, namespace) || self.cover_prefix(namespace)
    }

    /// Whether all namespaces are excepted that begin like this.
    pub(super) fn cover_prefix(&self, text: &str) -> bool {
        // Prefixes end in a hyphen.
        let mut prefixes = text.match_indices('-').map(|(at, _)| &text[..=at]);
        !self.prefixes.is_empty() && prefixes.any(|prefix| among(&self.prefixes, prefix))
    }
}

fn among(list: &[Arc<str>], text: &str) -> bool {
    list.binary_search_by(|listed| (**listed).cmp(text)).is_ok()
}

fn sorted<'a, T: Ord + Clone + 'a>(items: impl IntoIterator<Item = &'a T>) -> Vec<T> {
    items.into_iter().collect::<BTreeSet<_>>().into_iter().cloned().collect()
}
