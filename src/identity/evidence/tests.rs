//! Which proofs make a principal, alone and together.

use super::*;

const API: &str = "spiffe://cluster.local/ns/prod/sa/api";

fn domains() -> Vec<TrustDomain> {
    vec![TrustDomain::parse("cluster.local").expect("valid")]
}

fn judge(fill: impl FnOnce(&mut Evidence)) -> Result<Principal, IdentityError> {
    let mut evidence = Evidence::default();
    fill(&mut evidence);
    evidence.principal(&domains())
}

fn id(text: &str) -> SpiffeId {
    SpiffeId::parse(text).expect("valid")
}

#[test]
fn nothing_shown_is_no_principal() {
    assert_eq!(judge(|_| {}), Err(IdentityError::Missing));
    assert_eq!(judge(|e| e.add_mtls("", "")), Err(IdentityError::Missing));
}

#[test]
fn foreign_trust_domains_and_other_subjects_are_refused() {
    for text in ["spiffe://other.td/ns/prod/sa/api", "spiffe://cluster.loca/ns/prod/sa/api"] {
        assert_eq!(judge(|e| e.add_mtls(text, "")), Err(IdentityError::ForeignTrustDomain));
    }
    let malformed = Err(IdentityError::Malformed(InvalidSpiffeId));
    assert_eq!(judge(|e| e.add_mtls("CN=api", "")), malformed);
    assert_eq!(judge(|e| e.add_mtls("", "certificate")), malformed);
}

#[test]
fn proofs_that_disagree_are_refused() {
    let other = "spiffe://cluster.local/ns/prod/sa/other";
    let both = judge(|e| {
        e.add_mtls(API, "");
        e.add_local(id(other));
    });
    assert_eq!(both, Err(IdentityError::Mismatch));
}

#[test]
fn a_bad_proof_is_not_outvoted_by_a_good_one() {
    let both = judge(|e| {
        e.add_local(id(API));
        e.add_mtls("CN=api", "");
    });
    assert_eq!(both, Err(IdentityError::Malformed(InvalidSpiffeId)));
}

#[test]
fn proofs_that_agree_add_up() {
    let both = judge(|e| {
        e.add_mtls(API, "");
        e.add_local(id(API));
    })
    .expect("agrees");
    let kinds: Vec<_> = both.proofs().iter().map(ProofKind::as_str).collect();
    assert_eq!(kinds, ["mtls", "local"]);
    assert_eq!(both.to_string(), API);
}
