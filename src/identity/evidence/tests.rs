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

type Fill<'a> = &'a dyn Fn(&mut Evidence);

/// What a proof is bound to: the pod of a uid or none, until then.
fn until(expires: u64, pod: Option<&str>) -> Binding {
    let pod = pod.map(|uid| Pod { name: "api-0".into(), uid: uid.into() });
    let node = pod.as_ref().map(|_| "node-a".into());
    Binding { pod, node, credential_id: None, expires }
}

fn token(evidence: &mut Evidence, text: &str, binding: Binding) {
    evidence.add_token(&TokenProof::bound(id(text), binding));
}

fn grant(evidence: &mut Evidence, binding: Binding) {
    evidence.add_grant(id(API), ProofKind::Token.into(), binding);
}

#[test]
fn a_token_must_agree_with_every_other_proof() {
    const OTHER: &str = "spiffe://cluster.local/ns/prod/sa/other";
    let bound = || until(100, Some("u-1"));
    let other_pod = || until(100, Some("u-2"));
    let rows: &[(Fill<'_>, IdentityError)] = &[
        (
            &|e| {
                e.add_mtls(API, "");
                token(e, OTHER, bound())
            },
            IdentityError::Mismatch,
        ),
        (
            &|e| {
                token(e, OTHER, bound());
                e.add_mtls(API, "")
            },
            IdentityError::Mismatch,
        ),
        (
            &|e| {
                e.add_waypoint(Ok(id(API)));
                token(e, OTHER, bound())
            },
            IdentityError::Mismatch,
        ),
        (
            &|e| {
                e.add_certificate(Ok(id(API)));
                token(e, OTHER, bound())
            },
            IdentityError::Mismatch,
        ),
        (
            &|e| {
                grant(e, bound());
                token(e, OTHER, bound())
            },
            IdentityError::Mismatch,
        ),
        // The same service account from two pods.
        (
            &|e| {
                token(e, API, bound());
                token(e, API, other_pod())
            },
            IdentityError::Mismatch,
        ),
        (
            &|e| {
                token(e, API, bound());
                grant(e, other_pod())
            },
            IdentityError::Mismatch,
        ),
        (
            &|e| {
                grant(e, bound());
                e.add_mtls(API, "");
                token(e, API, other_pod())
            },
            IdentityError::Mismatch,
        ),
        (
            &|e| token(e, "spiffe://other.td/ns/prod/sa/api", bound()),
            IdentityError::ForeignTrustDomain,
        ),
        (&|e| e.add_refused_token(TokenRefusal::Malformed), TokenRefusal::Malformed.into()),
        (
            &|e| {
                e.add_mtls(API, "");
                e.add_refused_token(TokenRefusal::Expired)
            },
            TokenRefusal::Expired.into(),
        ),
        (
            &|e| {
                e.add_refused_token(TokenRefusal::Revoked);
                e.add_mtls(API, "")
            },
            TokenRefusal::Revoked.into(),
        ),
        (
            &|e| {
                e.add_waypoint(Ok(id(API)));
                e.add_refused_token(TokenRefusal::Audience)
            },
            TokenRefusal::Audience.into(),
        ),
        (
            &|e| {
                token(e, API, bound());
                e.add_refused_token(TokenRefusal::Ambiguous)
            },
            TokenRefusal::Ambiguous.into(),
        ),
        (
            &|e| {
                grant(e, bound());
                e.add_refused_token(TokenRefusal::Signature)
            },
            TokenRefusal::Signature.into(),
        ),
    ];
    for (row, (fill, error)) in rows.iter().enumerate() {
        assert_eq!(judge(fill), Err(*error), "row {row}");
    }
}

#[test]
fn proofs_that_agree_are_bound_to_all_that_any_is_and_end_with_the_first() {
    let bound = |expires| until(expires, Some("u-1"));
    let rows: &[(Fill<'_>, &[&str], Option<u64>, bool)] = &[
        (&|e| e.add_mtls(API, ""), &["mtls"], None, false),
        (&|e| e.add_waypoint(Ok(id(API))), &["waypoint"], None, false),
        (&|e| token(e, API, until(100, None)), &["token"], Some(100), false),
        (&|e| token(e, API, bound(100)), &["token"], Some(100), true),
        (
            &|e| {
                e.add_mtls(API, "");
                token(e, API, bound(100))
            },
            &["mtls", "token"],
            Some(100),
            true,
        ),
        (
            &|e| {
                token(e, API, bound(100));
                e.add_mtls(API, "")
            },
            &["mtls", "token"],
            Some(100),
            true,
        ),
        (
            &|e| {
                e.add_waypoint(Ok(id(API)));
                token(e, API, bound(100))
            },
            &["waypoint", "token"],
            Some(100),
            true,
        ),
        (
            &|e| {
                token(e, API, bound(100));
                grant(e, until(50, None))
            },
            &["token", "grant"],
            Some(50),
            true,
        ),
        (
            &|e| {
                grant(e, until(200, None));
                token(e, API, bound(100))
            },
            &["token", "grant"],
            Some(100),
            true,
        ),
        (
            &|e| {
                grant(e, bound(200));
                e.add_mtls(API, "");
                token(e, API, bound(300))
            },
            &["mtls", "token", "grant"],
            Some(200),
            true,
        ),
    ];
    for (row, (fill, kinds, expires, is_bound)) in rows.iter().enumerate() {
        let principal = judge(fill).expect("agree");
        let found: Vec<_> = principal.proofs().iter().map(ProofKind::as_str).collect();
        assert_eq!((&found[..], principal.expires()), (*kinds, *expires), "row {row}");
        assert_eq!(principal.is_bound_to_pod(), *is_bound, "row {row}");
        let expected = is_bound.then_some(("u-1", "node-a"));
        let pod = principal.pod().map(|pod| &*pod.uid).zip(principal.node());
        assert_eq!(pod, expected, "row {row}");
    }
}
