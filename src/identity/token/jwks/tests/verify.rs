//! Which tokens are what they say.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

/// A set of these keys, over a source that has them.
fn holding<'m>(mints: impl IntoIterator<Item = &'m Mint>) -> Arc<KeySet> {
    Script::new(Act::Give(mint::jwks(mints))).set()
}

/// A set of one key, described in another way; a merge of members, `null` removes.
fn described(mint: &Mint, changes: Value) -> Arc<KeySet> {
    let mut jwk = mint.jwk();
    for (name, change) in changes.as_object().expect("an object") {
        match change {
            Value::Null => drop(jwk.as_object_mut().expect("an object").remove(name)),
            change => jwk[name] = change.clone(),
        }
    }
    Script::new(Act::Give(json!({"keys": [jwk]}).to_string())).set()
}

#[tokio::test]
async fn good_tokens_of_every_kind_of_key_are_accepted() {
    let (rsa, p256, p384) = (Mint::rsa("rsa"), Mint::p256("p256"), Mint::p384("p384"));
    let set = holding([&rsa, &p256, &p384]);
    for mint in [&rsa, &p256, &p384] {
        assert_eq!(verify(&set, &mint.token(json!({}))).await, Ok(()));
        assert_eq!(verify(&set, &mint.token_for("shop/cart.v1", json!({}))).await, Ok(()));
    }
    let set = described(&rsa, json!({"alg": null}));
    for algorithm in ["RS256", "RS384", "RS512"] {
        let token = rsa.token_with_header(json!({"alg": algorithm}), json!({}));
        assert_eq!(verify(&set, &token).await, Ok(()), "{algorithm}");
    }
}

#[tokio::test]
async fn forged_tokens_are_refused() {
    use TokenRefusal as R;
    let (rsa, ec) = (Mint::rsa("rsa"), Mint::p256("ec"));
    let (stranger, second) = (Mint::p256("stranger"), Mint::p256("second"));
    let set = holding([&rsa, &ec, &second]);
    let under = |mint: &Mint, header: Value| mint.token_with_header(header, json!({}));
    let good = ec.token(json!({}));
    let (message, signature) = good.rsplit_once('.').expect("three segments");
    let (head, _) = message.split_once('.').expect("three segments");
    let raised = ec.token_for("kube-system/admin", json!({}));
    let payload = raised.split('.').nth(1).expect("three segments");
    let cases = [
        (under(&ec, json!({"alg": "none"})), R::Algorithm),
        (format!("{message}."), R::Malformed),
        // The public key as the secret of an HMAC.
        (under(&rsa, json!({"alg": "HS256"})), R::Algorithm),
        (under(&ec, json!({"alg": "HS256"})), R::Algorithm),
        // A good signature of one kind under the id of a key of another.
        (under(&rsa, json!({"kid": "ec"})), R::Algorithm),
        (under(&ec, json!({"kid": "rsa"})), R::Algorithm),
        (under(&ec, json!({"alg": "RS256"})), R::Algorithm),
        (under(&ec, json!({"alg": "ES384"})), R::Algorithm),
        (under(&rsa, json!({"alg": "RS512"})), R::Algorithm),
        // Signed by the wrong key.
        (under(&ec, json!({"kid": "second"})), R::Signature),
        (under(&stranger, json!({"kid": "ec"})), R::Signature),
        (under(&stranger, json!({})), R::UnknownKey),
        (under(&ec, json!({"kid": "EC"})), R::UnknownKey),
        (under(&ec, json!({"kid": ""})), R::UnknownKey),
        (under(&ec, json!({"kid": null})), R::UnknownKey),
        // Keys of the attacker's own.
        (under(&stranger, json!({"jwk": stranger.jwk()})), R::Malformed),
        (under(&stranger, json!({"jku": "https://attacker.test"})), R::Malformed),
        (under(&stranger, json!({"kid": "ec", "x5u": "https://attacker.test"})), R::Malformed),
        // Another payload under the signature, and a signature cut short.
        (format!("{head}.{payload}.{signature}"), R::Signature),
        (format!("{message}.{}", &signature[..80]), R::Signature),
        (format!("{message}.{signature}{signature}"), R::Signature),
    ];
    for (token, expected) in cases {
        assert_eq!(verify(&set, &token).await, refused(expected), "{token}");
    }
    assert_eq!(verify(&set, &good).await, Ok(()));
}

#[tokio::test]
async fn claims_must_hold_now_and_here() {
    use TokenRefusal as R;
    let mint = Mint::p256("key");
    let set = holding([&mint]);
    let now = mint::now();
    let cases = [
        (json!({"exp": now - 30}), refused(R::Expired)),
        (json!({"exp": 0}), refused(R::Expired)),
        (json!({"exp": now - 5}), Ok(())),
        (json!({"exp": u64::MAX}), Ok(())),
        (json!({"nbf": now + 60}), refused(R::NotYetValid)),
        (json!({"nbf": u64::MAX}), refused(R::NotYetValid)),
        (json!({"nbf": now + 5}), Ok(())),
        (json!({"iat": now + 60}), refused(R::NotYetValid)),
        (json!({"iat": u64::MAX}), refused(R::NotYetValid)),
        (json!({"iat": now + 5}), Ok(())),
        (json!({"nbf": null, "iat": null}), Ok(())),
        (json!({"iss": "https://other.test"}), refused(R::Issuer)),
        (json!({"iss": format!("{}/", mint::ISSUER)}), refused(R::Issuer)),
        (json!({"iss": ""}), refused(R::Issuer)),
        (json!({"aud": "other"}), refused(R::Audience)),
        (json!({"aud": ["other"]}), refused(R::Audience)),
        (json!({"aud": ["VAULTMUX", "vaultmux ", ""]}), refused(R::Audience)),
        (json!({"aud": [mint::ISSUER]}), refused(R::Audience)),
        (json!({"aud": []}), refused(R::Audience)),
        (json!({"aud": null}), refused(R::Audience)),
        (json!({"aud": "vaultmux"}), Ok(())),
        (json!({"aud": ["vaultmux"]}), Ok(())),
        (json!({"aud": ["other", "vaultmux"]}), Ok(())),
    ];
    for (changes, expected) in cases {
        assert_eq!(verify(&set, &mint.token(changes.clone())).await, expected, "{changes}");
    }
}

#[tokio::test]
async fn any_of_our_audiences_will_do_but_none_at_all_never() {
    let mint = Mint::p256("key");
    let over = |audiences: &[&str]| {
        let audiences: Vec<_> = audiences.iter().map(ToString::to_string).collect();
        let source = Box::new(Shared(Script::new(Act::Give(mint.jwks()))));
        Arc::new(KeySet::new(source, None, audiences.into()))
    };
    let token = mint.token(json!({"aud": ["second", "third"]}));
    assert_eq!(verify(&over(&["first", "second"]), &token).await, Ok(()));
    assert_eq!(verify(&over(&["first"]), &token).await, refused(TokenRefusal::Audience));
    assert_eq!(verify(&over(&[]), &token).await, refused(TokenRefusal::Audience));
}

#[tokio::test]
async fn a_configured_issuer_counts_before_the_sources_own() {
    let mint = Mint::p256("key");
    let over = |configured: Option<&str>, issuer: Option<&str>| {
        let (act, calls) = (Mutex::new(Act::Give(mint.jwks())), AtomicUsize::new(0));
        let script = Arc::new(Script { act, issuer: issuer.map(Into::into), calls });
        let audiences = [mint::AUDIENCE.to_owned()];
        let configured = configured.map(Into::into);
        Arc::new(KeySet::new(Box::new(Shared(script)), configured, audiences.into()))
    };
    let other = Some("https://other.test");
    let ours = Some(mint::ISSUER);
    let wrong = refused(TokenRefusal::Issuer);
    for (configured, source, expected) in [
        (None, None, Err(TokenError::Unavailable)),
        (None, Some(""), Err(TokenError::Unavailable)),
        (None, other, wrong),
        (other, ours, wrong),
        (None, ours, Ok(())),
        (ours, other, Ok(())),
        (ours, None, Ok(())),
    ] {
        let token = mint.token(json!({}));
        assert_eq!(verify(&over(configured, source), &token).await, expected, "{configured:?}");
    }
}

#[tokio::test]
async fn a_token_that_names_no_key_needs_a_set_of_one() {
    let (one, two) = (Mint::p256("one"), Mint::p256("two"));
    let unnamed = one.token_with_header(json!({"kid": null}), json!({}));
    assert_eq!(verify(&holding([&one]), &unnamed).await, Ok(()));
    let unknown = refused(TokenRefusal::UnknownKey);
    assert_eq!(verify(&holding([&one, &two]), &unnamed).await, unknown);
    // A key without an id is not the one of any id.
    let set = described(&one, json!({"kid": null}));
    assert_eq!(verify(&set, &one.token(json!({}))).await, unknown);
    assert_eq!(verify(&set, &unnamed).await, Ok(()));
}

#[tokio::test]
async fn keys_that_share_an_id_are_all_tried() {
    let (first, second) = (Mint::p256("one"), Mint::p256("two").with_id("one"));
    let (rsa, third) = (Mint::rsa("rsa").with_id("one"), Mint::p256("three").with_id("one"));
    for order in [[&first, &second, &rsa], [&rsa, &second, &first]] {
        let set = holding(order);
        for mint in order {
            assert_eq!(verify(&set, &mint.token(json!({}))).await, Ok(()));
        }
        let expired = second.token(json!({"exp": 0}));
        assert_eq!(verify(&set, &expired).await, refused(TokenRefusal::Expired));
        let forged = third.token(json!({}));
        assert_eq!(verify(&set, &forged).await, refused(TokenRefusal::Signature));
    }
}

#[tokio::test]
async fn a_key_is_used_as_it_is_meant_or_not_at_all() {
    let (rsa, ec) = (Mint::rsa("rsa"), Mint::p256("ec"));
    let weak = "v".repeat(171);
    let cases = [
        (&ec, json!({"use": "enc"})),
        (&ec, json!({"use": "SIG"})),
        (&ec, json!({"use": 7})),
        (&ec, json!({"key_ops": ["sign"]})),
        (&ec, json!({"key_ops": []})),
        (&ec, json!({"key_ops": "verify"})),
        (&ec, json!({"alg": "ES384"})),
        (&ec, json!({"alg": "RS256"})),
        (&ec, json!({"alg": "HS256"})),
        (&ec, json!({"alg": "unheard-of"})),
        (&ec, json!({"crv": "P-384"})),
        (&ec, json!({"crv": "P-521"})),
        (&ec, json!({"crv": "secp256k1"})),
        (&ec, json!({"kty": "oct", "k": "c2VjcmV0"})),
        (&ec, json!({"kty": "OKP", "crv": "Ed25519"})),
        (&ec, json!({"kty": "AKP"})),
        (&ec, json!({"kty": null})),
        (&ec, json!({"kid": 7})),
        (&ec, json!({"x": "AA"})),
        // On no curve.
        (&ec, json!({"x": "A".repeat(43), "y": "A".repeat(43)})),
        (&ec, json!({"x": "not base64url"})),
        (&rsa, json!({"n": weak})),
        (&rsa, json!({"n": format!("{}{weak}", "A".repeat(172))})),
        (&rsa, json!({"n": ""})),
        (&rsa, json!({"n": "A".repeat(400)})),
        (&rsa, json!({"alg": "PS256"})),
        (&rsa, json!({"alg": "RSA-OAEP"})),
        (&rsa, json!({"e": null})),
    ];
    for (mint, changes) in cases {
        let set = described(mint, changes.clone());
        let verdict = verify(&set, &mint.token(json!({}))).await;
        assert_eq!(verdict, Err(TokenError::Unavailable), "{changes}");
        assert_eq!(set.fetches(), Fetches { succeeded: 0, failed: 1 }, "{changes}");
    }
    let fine = [
        json!({"use": null, "alg": null}),
        json!({"key_ops": ["sign", "verify"]}),
        json!({"x5t": "AA", "ext": true, "more": {}}),
    ];
    for changes in fine {
        let set = described(&ec, changes.clone());
        assert_eq!(verify(&set, &ec.token(json!({}))).await, Ok(()), "{changes}");
    }
}

#[tokio::test]
async fn a_key_without_use_spoils_no_other() {
    let mint = Mint::p256("key");
    let secret = json!({"kty": "oct", "kid": "key", "alg": "HS256", "k": "c2VjcmV0"});
    let keys = json!({"keys": [secret, 7, null, {"kid": 7}, [], mint.jwk()], "more": 1});
    let set = Script::new(Act::Give(keys.to_string())).set();
    assert_eq!(verify(&set, &mint.token(json!({}))).await, Ok(()));
    // Only one of them is usable, so it needs no name.
    let unnamed = mint.token_with_header(json!({"kid": null}), json!({}));
    assert_eq!(verify(&set, &unnamed).await, Ok(()));
}

#[test]
fn a_set_that_cannot_be_used_is_named_and_not_quoted() {
    let canary = crate::fixture::CANARY;
    let long = format!(r#"{{"keys":[],"pad":"{}"}}"#, "x".repeat(MAX_SET));
    for (keys, cause) in [
        (String::new(), "not a JSON key set, line 1 column 0"),
        (format!("<html>{canary}"), "not a JSON key set, line 1 column 1"),
        (format!(r#"{{"keys":"{canary}"}}"#), "not a JSON key set"),
        (format!(r#"{{"{canary}":[]}}"#), "not a JSON key set"),
        (format!(r#"["{canary}"]"#), "not a JSON key set"),
        (r#"{"keys":[]}"#.to_owned(), "no key in the set can be used"),
        (format!(r#"{{"keys":["{canary}"]}}"#), "no key in the set can be used"),
        (long, "the key set is larger than 1 MiB"),
    ] {
        let fetched = FetchedKeys { issuer: None, keys: keys.clone().into() };
        let error = Keys::read(&fetched, Some("issuer"), &[]).expect_err(cause);
        assert!(error.starts_with(cause) && !error.contains(canary), "{keys:.60}: {error}");
    }
}

proptest! {
    #[test]
    fn no_altered_token_is_accepted(at in any::<prop::sample::Index>(), with in "[A-Za-z0-9_.-]") {
        let mint = Mint::p256("key");
        let fetched = FetchedKeys { issuer: None, keys: mint.jwks().into() };
        let ours = [mint::AUDIENCE.to_owned()];
        let keys = Keys::read(&fetched, Some(mint::ISSUER), &ours).expect("usable");
        let good = mint.token(json!({}));
        let at = at.index(good.len());
        let altered = format!("{}{with}{}", &good[..at], &good[at + 1..]);
        prop_assume!(altered != good);
        if let Ok(Some(token)) = unverified::read(&altered) {
            prop_assert!(!matches!(keys.judge(&token), Some(Ok(()))), "{}", altered);
        }
    }
}
