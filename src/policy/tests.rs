//! What policies mean, by table and by comparison with a second evaluator.

mod areas;
mod caller;
pub(super) mod differential;
mod files;
mod json_schema;
mod naive;
mod outcomes;
mod questions;
pub(super) mod random;
mod semantics;

use crate::{
    identity::{Evidence, Principal, SpiffeId, TokenProof, TrustDomain},
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

/// A principal of the trust domain `td`, proven by mTLS and by a token that is bound to a
/// pod or not.
pub(super) fn bearer(account: &str, pod: Option<&str>) -> Principal {
    let (namespace, name) = account.split_once('/').expect("namespace/name");
    let id = SpiffeId::parse(&format!("spiffe://td/ns/{namespace}/sa/{name}")).expect("valid");
    let mut evidence = Evidence::default();
    evidence.add_mtls(&id.to_string(), "");
    evidence.add_token(&TokenProof::assumed(id, pod));
    let domains = [TrustDomain::parse("td").expect("valid")];
    evidence.principal(&domains).expect("proofs that agree")
}
