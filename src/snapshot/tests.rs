//! What a token among the headers does to the evidence.

use std::path::Path;

use serde_json::json;

use super::*;
use crate::{
    fixture,
    identity::{
        KeyLocation, ProofKind, TokenRefusal, TokenSettings, TokenVerification,
        mint::{AUDIENCE, ISSUER, Mint},
    },
    metrics::Metrics,
};

const API: &str = "spiffe://cluster.local/ns/prod/sa/api";

/// A snapshot that verifies tokens with the keys in a file.
async fn snapshot(keys: &Path) -> Snapshot {
    let metrics = Arc::new(Metrics::default());
    let settings = TokenSettings {
        verify: TokenVerification::Jwks,
        keys: KeyLocation::File(keys.to_owned()),
        issuer: Some(ISSUER.to_owned()),
        watch: false,
        ..TokenSettings::new(vec![AUDIENCE.to_owned()])
    };
    let domain = TrustDomain::parse("cluster.local").expect("valid");
    let tokens = TokenVerifier::connect(settings, domain, Arc::clone(&metrics), None).await;
    Snapshot { tokens: Some(tokens.expect("connected")), ..fixture::snapshot(&metrics) }
}

async fn add(
    snapshot: &Snapshot,
    evidence: &mut Evidence,
    values: &[&str],
) -> Result<bool, IdentityUnavailable> {
    let deadline = Instant::now() + Duration::from_secs(20);
    snapshot.add_token(evidence, values.iter().map(|value| value.as_bytes()), deadline).await
}

#[tokio::test]
async fn a_token_is_proof_or_spoils_the_evidence_or_is_none_of_ours() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("keys.json");
    let mint = Mint::p256("snapshot");
    std::fs::write(&path, mint.jwks()).expect("written");
    let snapshot = snapshot(&path).await;
    let bearer = |token: String| format!("Bearer {token}");
    let good = bearer(mint.token(json!({})));
    let audience = bearer(mint.token(json!({"aud": "other"})));
    let forged = bearer(Mint::p256("stranger").with_id("snapshot").token(json!({})));
    let user = bearer(mint.token(json!({"sub": "alice"})));
    let refused = |why: TokenRefusal| Some(Err(IdentityError::Token(why)));
    for (values, expected) in [
        (&[&*audience][..], refused(TokenRefusal::Audience)),
        (&[&forged], refused(TokenRefusal::Signature)),
        (&[&good, &good], refused(TokenRefusal::Ambiguous)),
        (&[&good, "Basic dTpw"], refused(TokenRefusal::Ambiguous)),
        (&[&user, &good], refused(TokenRefusal::Ambiguous)),
        (&[], None),
        (&["Basic dTpw"], None),
        (&["Bearer"], None),
        (&["Bearer opaque"], None),
        (&[&user], None),
        (&[&good], Some(Ok(()))),
    ] {
        let mut evidence = Evidence::default();
        let added = add(&snapshot, &mut evidence, values).await;
        assert_eq!(added, Ok(expected.is_some()));
        assert_eq!(evidence.is_empty(), expected.is_none());
        let mut beside = Evidence::default();
        beside.add_mtls(API, "");
        add(&snapshot, &mut beside, values).await.expect("there are keys");
        let (alone, beside) = (snapshot.principal(evidence), snapshot.principal(beside));
        match expected {
            None => {
                assert_eq!(alone, Err(IdentityError::Missing));
                assert!(!beside.expect("its certificate").is_bound_to_pod());
            }
            Some(Err(error)) => assert_eq!((alone, beside), (Err(error), Err(error))),
            Some(Ok(())) => {
                assert_eq!(alone.expect("good").proofs(), ProofKind::Token.into());
                assert!(beside.expect("agrees").is_bound_to_pod());
            }
        }
        // Without a verifier there are no tokens, good or bad.
        let mut evidence = Evidence::default();
        let without = Snapshot { tokens: None, ..snapshot.clone() };
        assert_eq!(add(&without, &mut evidence, values).await, Ok(false));
        assert!(evidence.is_empty());
    }
}

#[tokio::test]
async fn where_nobody_can_tell_it_is_neither_a_yes_nor_a_no() {
    let directory = tempfile::tempdir().expect("a directory");
    let snapshot = snapshot(&directory.path().join("absent")).await;
    let mint = Mint::p256("snapshot");
    let good = format!("Bearer {}", mint.token(json!({})));
    let mut evidence = Evidence::default();
    evidence.add_mtls(API, "");
    assert_eq!(add(&snapshot, &mut evidence, &[&good]).await, Err(IdentityUnavailable));
    // What needs no key is told all the same.
    let audience = format!("Bearer {}", mint.token(json!({"aud": "other"})));
    assert_eq!(add(&snapshot, &mut Evidence::default(), &[&audience]).await, Ok(true));
    assert_eq!(add(&snapshot, &mut Evidence::default(), &["Bearer opaque"]).await, Ok(false));
}
