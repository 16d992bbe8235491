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
    /// Empty: any.
    trust_domains: Vec<TrustDomain>,
    require: ProofSet,
    bound_to_pod: bool,
    except_accounts: Vec<ServiceAccount>,
    except_namespaces: Vec<Arc<str>>,
    except_prefixes: Vec<Arc<str>>,
}

// === impl Condition ===

impl Condition {
    /// For an account that the entry is about, exceptions included.
    pub(super) fn of_account(from: &Subject) -> Self {
        Self {
            trust_domains: sorted(&from.trust_domains),
            require: from.require,
            bound_to_pod: from.bound_to_pod,
            ..Self::default()
        }
    }

    /// For anyone in a namespace that the entry reaches.
    pub(super) fn of_namespace(from: &Subject, namespace: &str) -> Self {
        let excepted = from.except.accounts.iter();
        let excepted = excepted.filter(|account| account.namespace() == namespace);
        Self { except_accounts: sorted(excepted), ..Self::of_account(from) }
    }

    /// For anyone in a namespace with this prefix; none if all of them are excepted.
    pub(super) fn of_prefix(from: &Subject, prefix: &str) -> Option<Self> {
        let except = &from.except;
        if except.prefixes.iter().any(|excepted| prefix.starts_with(&**excepted)) {
            return None;
        }
        let below = |namespace: &str| namespace.starts_with(prefix);
        let accounts = except.accounts.iter().filter(|account| below(account.namespace()));
        Some(Self {
            except_accounts: sorted(accounts),
            except_namespaces: sorted(except.namespaces.iter().filter(|name| below(name))),
            except_prefixes: sorted(except.prefixes.iter().filter(|longer| below(longer))),
            ..Self::of_account(from)
        })
    }

    /// For anyone at all.
    pub(super) fn of_everyone(from: &Subject) -> Self {
        Self {
            except_accounts: sorted(&from.except.accounts),
            except_namespaces: sorted(&from.except.namespaces),
            except_prefixes: sorted(&from.except.prefixes),
            ..Self::of_account(from)
        }
    }

    /// Whether there is nothing to ask.
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    pub(super) fn holds(&self, principal: &Principal) -> bool {
        (self.trust_domains.is_empty()
            || self.trust_domains.binary_search(principal.trust_domain()).is_ok())
            && principal.proofs().contains(self.require)
            && (!self.bound_to_pod || principal.is_bound_to_pod())
            && !self.excepts(principal)
    }

    fn excepts(&self, principal: &Principal) -> bool {
        let namespace = principal.namespace();
        let named = |text: &str, list: &[Arc<str>]| {
            list.binary_search_by(|listed| (**listed).cmp(text)).is_ok()
        };
        // Prefixes end in a hyphen.
        let prefixes = || namespace.match_indices('-').map(|(at, _)| &namespace[..=at]);
        self.except_accounts.binary_search(principal.service_account()).is_ok()
            || named(namespace, &self.except_namespaces)
            || (!self.except_prefixes.is_empty()
                && prefixes().any(|prefix| named(prefix, &self.except_prefixes)))
    }
}

fn sorted<'a, T: Ord + Clone + 'a>(items: impl IntoIterator<Item = &'a T>) -> Vec<T> {
    items.into_iter().collect::<BTreeSet<_>>().into_iter().cloned().collect()
}
