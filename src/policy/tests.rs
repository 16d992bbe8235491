//! What policies mean, by table and by comparison with a second evaluator.

mod differential;
mod files;
mod naive;
mod outcomes;
mod random;
mod semantics;

use crate::{
    identity::{Evidence, Principal, SpiffeId, TrustDomain},
    secret::{BackendName, Catalog, CatalogEntry, NameGrammar},
};

/// `aws` has hierarchical names, `azure` flat ones without case.
pub(super) fn catalog() -> Catalog {
    let entry = |name: &str, punctuation, lower_case| {
        let grammar = NameGrammar::new(punctuation, 127);
        let grammar = if lower_case { grammar.ignoring_case() } else { grammar };
        (BackendName::parse(name).expect("valid"), CatalogEntry { grammar })
    };
    let backends = [entry("aws", "/_+=.@-", false), entry("azure", "-", true)];
    Catalog::new(backends.into(), None, Vec::new()).expect("consistent")
}

/// A principal by `trust domain/namespace/name`, proven by mTLS or locally.
pub(super) fn principal(domain: &str, account: &str, mtls: bool) -> Principal {
    let (namespace, name) = account.split_once('/').expect("namespace/name");
    let id = format!("spiffe://{domain}/ns/{namespace}/sa/{name}");
    let mut evidence = Evidence::default();
    match mtls {
        true => evidence.add_mtls(&id, ""),
        false => evidence.add_local(SpiffeId::parse(&id).expect("valid")),
    }
    let domains = [TrustDomain::parse(domain).expect("valid")];
    evidence.principal(&domains).expect("one valid proof")
}
