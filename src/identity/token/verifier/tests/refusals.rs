//! Tokens that are no good whatever anyone says, and those that are not ours to judge.

use serde_json::Value;

use super::*;
use crate::identity::token::KeyLocation;

const MODES: [TokenVerification; 3] =
    [TokenVerification::Both, TokenVerification::TokenReview, TokenVerification::Jwks];

#[tokio::test]
async fn what_a_token_says_of_itself_is_enough_to_refuse_it() {
    use TokenRefusal as R;
    let cluster = Cluster::start().await;
    let now = mint::now();
    let year = 365 * 24 * 3600;
    let default = "https://kubernetes.default.svc.cluster.local";
    for verify in MODES {
        let verifier = cluster.verifier(|settings| {
            settings.verify = verify;
            settings.issuer = Some(ISSUER.to_owned());
            settings.refused_audiences = vec!["refused".to_owned()];
        });
        for (changes, refusal) in [
            (json!({"aud": [default], "exp": now + year}), R::Audience),
            (json!({"aud": default}), R::Audience),
            (json!({"aud": null}), R::Audience),
            (json!({"aud": []}), R::Audience),
            (json!({"aud": ["VAULTMUX", "vaultmux2", "vault"]}), R::Audience),
            (json!({"aud": [AUDIENCE, "refused"]}), R::Audience),
            (json!({"aud": ["refused", AUDIENCE]}), R::Audience),
            (json!({"iss": "https://other.test"}), R::Issuer),
            (json!({"iss": format!("{ISSUER}/")}), R::Issuer),
            (json!({"iss": ""}), R::Issuer),
            (json!({"exp": now + year}), R::Lifetime),
            (json!({"iat": now - 3600, "exp": now + 23 * 3600 + 1}), R::Lifetime),
            (json!({"iat": null}), R::Lifetime),
            (json!({"iat": now + 5, "exp": now}), R::Lifetime),
            (json!({"exp": u64::MAX}), R::Lifetime),
            (json!({"exp": now - 10, "iat": now - 60}), R::Expired),
            (json!({"exp": 0, "iat": 0}), R::Expired),
            (json!({"iat": now + 60}), R::NotYetValid),
            (json!({"nbf": now + 60}), R::NotYetValid),
            (json!({"nbf": u64::MAX}), R::NotYetValid),
            (json!({"exp": (now + 60).to_string()}), R::Malformed),
            (json!({"exp": null}), R::Malformed),
            (json!({"kubernetes.io": {"namespace": "other"}}), R::Malformed),
            (json!({"exp": null, "iss": "kubernetes/serviceaccount"}), R::Legacy),
            (json!({"padding": "x".repeat(8 * 1024)}), R::TooLong),
        ] {
            let token = cluster.mint.token(changes.clone());
            let answer = super::verify(&verifier, &token).await;
            let changes = changes.to_string();
            assert_eq!(answer, refused(refusal), "{verify:?} {changes:.100}");
        }
        let none = cluster.mint.token_with_header(json!({"alg": "none"}), json!({}));
        assert_eq!(super::verify(&verifier, &none).await, refused(R::Algorithm));
    }
    assert_eq!((cluster.reviews(), cluster.fetches()), (0, 0));
}

#[tokio::test]
async fn tokens_within_the_bounds_are_good() {
    let cluster = Cluster::start().await;
    let now = mint::now();
    for verify in MODES {
        let verifier = cluster.verifier(|settings| settings.verify = verify);
        for changes in [
            json!({}),
            json!({"aud": AUDIENCE}),
            json!({"aud": ["other", AUDIENCE]}),
            // Clocks may differ.
            json!({"exp": now - 5, "iat": now - 60}),
            json!({"iat": now + 5, "nbf": now + 5}),
            json!({"nbf": null}),
            json!({"iat": now - 3600, "exp": now + 23 * 3600}),
        ] {
            let answer = super::verify(&verifier, &cluster.mint.token(changes.clone())).await;
            assert!(matches!(answer, Ok(Some(_))), "{verify:?} {changes}: {answer:?}");
        }
    }
}

#[tokio::test]
async fn tokens_of_others_prove_nothing_and_cost_nothing() {
    let cluster = Cluster::start().await;
    for verify in MODES {
        let verifier = cluster.verifier(|settings| settings.verify = verify);
        for token in [
            cluster.mint.token(json!({"sub": "alice@example.test"})),
            cluster.mint.token(json!({"sub": "system:node:node-1"})),
            cluster.mint.token(json!({"sub": null})),
            cluster.mint.token(json!({"sub": "System:ServiceAccount:prod:api"})),
            "ya29.opaque".to_owned(),
            "s.vault-token".to_owned(),
            "a.b.c".to_owned(),
            "abcdef.0123456789abcdef".to_owned(),
        ] {
            assert_eq!(super::verify(&verifier, &token).await, Ok(None), "{verify:?} {token}");
        }
    }
    assert_eq!((cluster.reviews(), cluster.fetches()), (0, 0));
}

#[tokio::test]
async fn the_api_server_must_name_whom_the_token_names() {
    let cluster = Cluster::start().await;
    let pod = "/status/user/extra/authentication.kubernetes.io~1pod-uid";
    for (path, to) in [
        ("/status/user/uid", json!("of-a-later-account")),
        (pod, json!(["of-a-later-pod"])),
        ("/status/user/username", json!("alice")),
        ("/status/user/username", json!("system:node:node-a")),
        ("/status/user/username", json!("system:bootstrap:abcdef")),
        ("/status/user/username", json!("system:serviceaccount:prod:other")),
        ("/status/user/groups", json!(["system:serviceaccounts:other"])),
    ] {
        let changed = to.clone();
        cluster.fake.on(move |call| {
            let mut review: Value = review_of(call);
            *review.pointer_mut(path).expect("is there") = changed.clone();
            created(&review)
        });
        for verify in [TokenVerification::Both, TokenVerification::TokenReview] {
            let verifier = cluster.verifier(|settings| settings.verify = verify);
            let token = cluster.token();
            for _ in 0..3 {
                let answer = super::verify(&verifier, &token).await;
                assert_eq!(answer, refused(TokenRefusal::OtherUser), "{verify:?} {path} {to}");
            }
            assert_eq!(cluster.reviews(), 1, "remembered");
        }
    }
}

/// A mint, and the settings that take its tokens by a key set in this directory.
fn with_keys_alone(directory: &std::path::Path) -> (Mint, TokenSettings) {
    let path = directory.join("keys.json");
    let mint = Mint::p256("verifier");
    std::fs::write(&path, mint.jwks()).expect("written");
    let settings = TokenSettings {
        verify: TokenVerification::Jwks,
        keys: KeyLocation::File(path),
        issuer: Some(ISSUER.to_owned()),
        ..settings()
    };
    (mint, settings)
}

#[tokio::test]
async fn keys_alone_are_enough_where_nobody_else_is_asked() {
    let directory = tempfile::tempdir().expect("a directory");
    let (mint, settings) = with_keys_alone(directory.path());
    // Nobody connects to what is not needed.
    let settings = TokenSettings { kubeconfig: Some(directory.path().join("absent")), ..settings };
    let domain = TrustDomain::parse("cluster.local").expect("valid");
    let connect = |settings| {
        TokenVerifier::connect(settings, domain.clone(), Arc::new(Metrics::default()), None)
    };
    let verifier = connect(settings.clone()).await.expect("connected");
    let token = mint.token(json!({"jti": "one"}));
    let proof = good(&verifier, &token).await;
    assert_eq!(proof.pod().map(|pod| (&*pod.name, &*pod.uid)), Some((mint::POD, POD_UID)));
    assert_eq!(proof.binding().node.as_deref(), Some(mint::NODE));
    assert_eq!(
        (proof.id().service_account.name(), proof.binding().credential_id.as_deref()),
        ("api", Some("one"))
    );
    assert_eq!(proof.account_uid.as_deref(), Some(ACCOUNT_UID));
    let forged = Mint::p256("stranger").with_id("verifier").token(json!({}));
    assert_eq!(verify(&verifier, &forged).await, refused(TokenRefusal::Signature));

    for needy in [
        TokenSettings { watch: true, ..settings.clone() },
        TokenSettings { keys: KeyLocation::Cluster, ..settings.clone() },
        TokenSettings { verify: TokenVerification::Both, ..settings.clone() },
        TokenSettings { verify: TokenVerification::TokenReview, ..settings.clone() },
    ] {
        let error = connect(needy).await.expect_err("there is no API server").to_string();
        assert!(error.contains("absent"), "{error}");
    }
    let url = "http://keys.test/".to_owned();
    let keys = KeyLocation::Https { url, ca_file: None };
    let error = connect(TokenSettings { keys, ..settings }).await.expect_err("in the clear");
    assert!(error.to_string().contains("use https"), "{error}");
}

#[tokio::test]
async fn nothing_that_is_shown_holds_a_token() {
    let cluster = Cluster::start().await;
    let verifier = cluster.verifier(|_| {});
    let token = cluster.token();
    let proof = good(&verifier, &token).await;
    let mut evidence = crate::identity::Evidence::default();
    evidence.add_token(&proof);
    let mut shown = vec![format!("{verifier:?} {proof:?} {evidence:?}")];
    cluster.fake.always(no());
    let bad = [
        cluster.token(),
        cluster.mint.token(json!({"aud": "other"})),
        Mint::p256("stranger").with_id("verifier").token(json!({})),
    ];
    for token in &bad {
        let error = verify(&verifier, token).await.expect_err("refused");
        let refusals = format!("{error:?} {error}");
        shown.push(refusals);
    }
    shown.push(verifier.metrics.encode().expect("encoded"));
    let shown = shown.join(" ");
    assert!(shown.contains("TokenVerifier"), "{shown}");
    for part in bad.iter().chain([&token]).flat_map(|token| token.split('.')) {
        assert!(!shown.contains(part), "{part}");
    }
}

#[tokio::test]
async fn what_became_of_tokens_is_counted() {
    let cluster = Cluster::start().await;
    let verifier = cluster.verifier(|settings| settings.stale_if_unavailable = settings.ttl);
    let token = cluster.token();
    good(&verifier, &token).await;
    good(&verifier, &token).await;
    verify(&verifier, "opaque").await.expect("nobody's");
    cluster.fake.always(no());
    verify(&verifier, &cluster.token()).await.expect_err("refused");
    cluster.fake.always(Reply::Reset);
    verify(&verifier, &cluster.token()).await.expect_err("unavailable");
    later(settings().ttl).await;
    good(&verifier, &token).await;
    verifier.good.run_pending_tasks();
    verifier.measure();
    let metrics = verifier.metrics.encode().expect("encoded");
    for expected in [
        r#"vaultmux_token_verifications_total{result="verified"} 1"#,
        r#"vaultmux_token_verifications_total{result="cached"} 1"#,
        r#"vaultmux_token_verifications_total{result="foreign"} 1"#,
        r#"vaultmux_token_verifications_total{result="unauthenticated"} 1"#,
        r#"vaultmux_token_verifications_total{result="unavailable"} 1"#,
        r#"vaultmux_token_verifications_total{result="stale"} 1"#,
        r#"vaultmux_token_reviews_total{result="authenticated"} 1"#,
        r#"vaultmux_token_reviews_total{result="refused"} 1"#,
        r#"vaultmux_token_reviews_total{result="failed"} 2"#,
        "vaultmux_token_cache_entries 1",
        "vaultmux_token_jwks_age_seconds 60",
        r#"vaultmux_token_jwks_fetches_total{result="ok"} 1"#,
    ] {
        assert!(metrics.contains(expected), "{expected}: {metrics}");
    }
}

#[tokio::test]
async fn what_was_deleted_stays_so_when_settings_change() {
    let directory = tempfile::tempdir().expect("a directory");
    let (mint, settings) = with_keys_alone(directory.path());
    let domain = TrustDomain::parse("cluster.local").expect("valid");
    let connect = async |settings, before| {
        let metrics = Arc::new(Metrics::default());
        TokenVerifier::connect(settings, domain.clone(), metrics, before).await.expect("connected")
    };
    let before = connect(settings.clone(), None).await;
    let token = mint.token(json!({}));
    good(&before, &token).await;
    before.revocations.revoke(POD_UID);
    let changed = TokenSettings { ttl: 2 * settings.ttl, ..settings.clone() };
    let after = connect(changed.clone(), Some(&*before)).await;
    assert_eq!(verify(&after, &token).await, refused(TokenRefusal::Revoked));
    // Of another cluster nothing is known.
    let elsewhere = TokenSettings { context: Some("other".to_owned()), ..changed };
    good(&connect(elsewhere, Some(&*before)).await, &token).await;
}
