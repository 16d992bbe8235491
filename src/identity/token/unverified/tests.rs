//! Tokens of every shape, unsigned as far as reading goes.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::identity::{
    ServiceAccount,
    token::{
        Pod,
        mint::{self, Mint},
    },
};

/// Why a token is refused; `None` if it is somebody else's.
fn refusal(token: &str) -> Option<TokenRefusal> {
    match read(token) {
        Err(refusal) => Some(refusal),
        Ok(None) => None,
        Ok(Some(_)) => panic!("was read: {token}"),
    }
}

fn claims(token: &str) -> Claims {
    read(token).expect("accepted").expect("a service account's").claims
}

fn mint() -> Mint {
    Mint::p256("key")
}

#[test]
fn what_does_not_claim_to_be_a_service_account_is_for_others() {
    let mint = mint();
    let good = mint.token(json!({}));
    let head = r#"{"alg":"ES256","kid":"key"}"#;
    let cases = [
        String::new(),
        "opaque".to_owned(),
        "a.b".to_owned(),
        "a.b.c".to_owned(),
        "..".to_owned(),
        "\u{e9}.\u{e9}.\u{e9}".to_owned(),
        format!("{good}.more"),
        good.replacen('.', "..", 1),
        good.replacen('.', "=.", 2).replacen("=.", ".", 1),
        mint.token(json!({"sub": "alice"})),
        mint.token(json!({"sub": null})),
        mint.token(json!({"sub": 7})),
        mint.token(json!({"sub": ["system:serviceaccount:prod:api"]})),
        mint.token(json!({"sub": "system:node:node-a"})),
        mint.token(json!({"sub": "system:bootstrap:abcdef"})),
        mint.token(json!({"sub": " system:serviceaccount:prod:api"})),
        mint.token(json!({"sub": "SYSTEM:serviceaccount:prod:api"})),
        mint.sign(head, "no JSON"),
        mint.sign(head, r#"["system:serviceaccount:prod:api"]"#),
        mint.sign(head, r#"{"sub":"system:serviceaccount:prod:api"} more"#),
        mint.sign(head, r#"{"sub":"system:serviceaccount:prod:api""#),
        // Only the top level says whose it is.
        mint.sign(head, r#"{"x":{"sub":"system:serviceaccount:prod:api"}}"#),
        mint.sign(head, &format!("{}{}", "[".repeat(3000), "]".repeat(3000))),
    ];
    for token in cases {
        assert_eq!(refusal(&token), None, "{token}");
    }
}

#[test]
fn a_token_over_8_kib_is_not_looked_at() {
    let long = |length: usize| format!("{}.x.y", "a".repeat(length - 4));
    assert_eq!(refusal(&long(MAX_TOKEN + 1)), Some(TokenRefusal::TooLong));
    assert_eq!(refusal(&long(MAX_TOKEN)), None);
    let padded = mint().token(json!({"pad": "x".repeat(MAX_TOKEN)}));
    assert_eq!(refusal(&padded), Some(TokenRefusal::TooLong));
}

#[test]
fn a_header_that_brings_a_key_or_asks_for_more_is_refused() {
    let mint = mint();
    let jwk = mint.jwk();
    let headers = [
        json!({"jku": "https://attacker.test/keys"}),
        json!({"jku": ""}),
        json!({"x5u": "https://attacker.test/chain"}),
        json!({"x5c": ["MIIB"]}),
        json!({"jwk": jwk}),
        json!({"jwk": {}}),
        json!({"crit": ["b64"], "b64": false}),
        json!({"crit": []}),
        json!({"alg": 7}),
        json!({"alg": null}),
        json!({"kid": 7}),
        json!({"kid": ["key"]}),
    ];
    for header in headers {
        let token = mint.token_with_header(header.clone(), json!({}));
        assert_eq!(refusal(&token), Some(TokenRefusal::Malformed), "{header}");
    }
    let payload = mint::claims(mint::ACCOUNT).to_string();
    for header in [
        "",
        "no JSON",
        "[]",
        "{}",
        r#"{"alg":"ES256","jku":null}"#,
        r#"{"alg":"ES256","kid":null}"#,
        r#"{"alg":"ES256","alg":"ES256"}"#,
        r#"{"alg":"ES256","kid":"a","kid":"b"}"#,
        r#"{"alg":"ES256"} {}"#,
    ] {
        assert_eq!(
            refusal(&mint.sign(header, &payload)),
            Some(TokenRefusal::Malformed),
            "{header}"
        );
    }
}

#[test]
fn only_signatures_of_private_keys_are_accepted() {
    let mint = mint();
    for algorithm in [
        "none", "None", "NONE", "nOnE", "", "HS256", "HS384", "HS512", "PS256", "PS384", "PS512",
        "EdDSA", "ES512", "ES256K", "RS1", "rs256", "RS256 ", "dir", "RSA-OAEP",
    ] {
        let token = mint.token_with_header(json!({"alg": algorithm}), json!({}));
        assert_eq!(refusal(&token), Some(TokenRefusal::Algorithm), "{algorithm}");
    }
    for algorithm in ["RS256", "RS384", "RS512", "ES256", "ES384"] {
        let token = mint.token_with_header(json!({"alg": algorithm}), json!({}));
        assert!(read(&token).expect(algorithm).is_some());
    }
}

#[test]
fn a_signature_must_be_there() {
    let good = mint().token(json!({}));
    let (message, _) = good.rsplit_once('.').expect("three segments");
    for signature in ["", "=", "AA==", "+/+/", "A", "AA AA"] {
        let token = format!("{message}.{signature}");
        assert_eq!(refusal(&token), Some(TokenRefusal::Malformed), "{signature:?}");
    }
}

#[test]
fn claims_of_a_wrong_kind_are_refused() {
    use TokenRefusal as R;
    let soon = mint::now() + 3600;
    let bound = |change: Value| json!({"kubernetes.io": change});
    let cases = [
        // T1: an audience is never taken for granted.
        (json!({"aud": null}), R::Audience),
        (json!({"aud": []}), R::Audience),
        (json!({"aud": 7}), R::Malformed),
        (json!({"aud": [mint::AUDIENCE, 7]}), R::Malformed),
        (json!({"aud": [[mint::AUDIENCE]]}), R::Malformed),
        (json!({"aud": {"vaultmux": true}}), R::Malformed),
        // T2: a time is an integer, or none.
        (json!({"exp": null}), R::Malformed),
        (json!({"exp": soon.to_string()}), R::Malformed),
        (json!({"exp": soon as f64 + 0.5}), R::Malformed),
        (json!({"exp": 4e9}), R::Malformed),
        (json!({"exp": -1}), R::Malformed),
        (json!({"exp": [soon]}), R::Malformed),
        (json!({"exp": true}), R::Malformed),
        (json!({"nbf": "0"}), R::Malformed),
        (json!({"nbf": 0.5}), R::Malformed),
        (json!({"nbf": -1}), R::Malformed),
        (json!({"iat": "0"}), R::Malformed),
        (json!({"iat": 1e3}), R::Malformed),
        (json!({"iss": null}), R::Malformed),
        (json!({"iss": [mint::ISSUER]}), R::Malformed),
        (json!({"jti": 7}), R::Malformed),
        // Tokens from Secrets.
        (json!({"exp": null, "iss": "kubernetes/serviceaccount"}), R::Legacy),
        (json!({"exp": null, "aud": null, "iss": "kubernetes/serviceaccount"}), R::Legacy),
        (json!({"exp": "0", "iss": "kubernetes/serviceaccount"}), R::Malformed),
        // Subjects that are no service account.
        (json!({"sub": "system:serviceaccount:"}), R::Malformed),
        (json!({"sub": "system:serviceaccount:prod"}), R::Malformed),
        (json!({"sub": "system:serviceaccount:prod:"}), R::Malformed),
        (json!({"sub": "system:serviceaccount::api"}), R::Malformed),
        (json!({"sub": "system:serviceaccount:prod:api:x"}), R::Malformed),
        (json!({"sub": "system:serviceaccount:prod:api "}), R::Malformed),
        (json!({"sub": "system:serviceaccount:prod:api\n"}), R::Malformed),
        (json!({"sub": "system:serviceaccount:Prod:api"}), R::Malformed),
        (json!({"sub": "system:serviceaccount:a.b:api"}), R::Malformed),
        (json!({"sub": "system:serviceaccount:prod/x:api"}), R::Malformed),
        (json!({"sub": "system:serviceaccount:prod:../api"}), R::Malformed),
        (json!({"sub": "system:serviceaccount:prod:ap\u{131}"}), R::Malformed),
        // The binding names someone else, or nobody.
        (json!({"sub": "system:serviceaccount:prod:other"}), R::Malformed),
        (json!({"sub": "system:serviceaccount:other:api"}), R::Malformed),
        (json!({"kubernetes.io": "prod"}), R::Malformed),
        (bound(json!({"namespace": "other"})), R::Malformed),
        (bound(json!({"namespace": null})), R::Malformed),
        (bound(json!({"serviceaccount": {"name": "other"}})), R::Malformed),
        (bound(json!({"serviceaccount": null})), R::Malformed),
        (bound(json!({"serviceaccount": {"uid": 7}})), R::Malformed),
        (bound(json!({"serviceaccount": {"uid": ""}})), R::Malformed),
        (bound(json!({"pod": {"uid": null}})), R::Malformed),
        (bound(json!({"pod": {"uid": ""}})), R::Malformed),
        (bound(json!({"pod": {"name": ""}})), R::Malformed),
        (bound(json!({"pod": {"name": 7}})), R::Malformed),
        (bound(json!({"pod": "api-7d9c5b8f6-x2x7k"})), R::Malformed),
        (bound(json!({"node": {"name": ""}})), R::Malformed),
        (bound(json!({"node": ["node-a"]})), R::Malformed),
        (bound(json!({"pod": ["api-7d9c5b8f6-x2x7k", "uid"]})), R::Malformed),
        (bound(json!({"serviceaccount": ["api"]})), R::Malformed),
        (json!({"kubernetes.io": ["prod", {"name": "api"}]}), R::Malformed),
    ];
    for (changes, expected) in cases {
        assert_eq!(refusal(&mint().token(changes.clone())), Some(expected), "{changes}");
    }
}

#[test]
fn nulls_and_repeated_names_are_refused_at_any_depth() {
    let good = mint::claims(mint::ACCOUNT).to_string();
    let with = |more: &str| format!("{},{more}}}", good.strip_suffix('}').expect("an object"));
    let null = |pointer: &str| {
        let mut claims = mint::claims(mint::ACCOUNT);
        *claims.pointer_mut(pointer).expect(pointer) = Value::Null;
        claims.to_string()
    };
    let cases = [
        null("/exp"),
        null("/nbf"),
        null("/iat"),
        null("/jti"),
        null("/kubernetes.io"),
        null("/kubernetes.io/pod"),
        null("/kubernetes.io/pod/uid"),
        null("/kubernetes.io/node"),
        null("/kubernetes.io/serviceaccount/uid"),
        with(r#""exp":9999999999"#),
        with(r#""sub":"alice""#),
        with(r#""\u0073ub":"alice""#),
        with(r#""x":1,"x":1"#),
        with(r#""x":{"y":1,"y":2}"#),
        with(r#""x":[{"y":1,"y":2}]"#),
        good.replacen(r#""namespace":"#, r#""namespace":"other","namespace":"#, 1),
    ];
    for payload in cases {
        assert_ne!(payload, good, "nothing was changed");
        let token = mint().sign(r#"{"alg":"ES256","kid":"key"}"#, &payload);
        assert_eq!(refusal(&token), Some(TokenRefusal::Malformed), "{payload}");
    }
    // Whose it is does not depend on which of two is read.
    let first = format!(r#"{{"sub":"alice",{}"#, good.strip_prefix('{').expect("an object"));
    let token = mint().sign(r#"{"alg":"ES256"}"#, &first);
    assert_eq!(refusal(&token), Some(TokenRefusal::Malformed));
}

#[test]
fn a_good_token_is_read_whole() {
    let mint = mint();
    let token = mint.token(json!({"exp": 40, "iat": 10, "nbf": 20, "jti": "one"}));
    let read = read(&token).expect("accepted").expect("a service account's");
    assert_eq!((read.text(), read.key_id.as_deref()), (token.as_str(), Some("key")));
    let expected = Claims {
        issuer: mint::ISSUER.to_owned(),
        audiences: vec![mint::AUDIENCE.to_owned()],
        account: ServiceAccount::new("prod", "api").expect("valid"),
        expires: 40,
        issued: Some(10),
        not_before: Some(20),
        id: Some("one".into()),
        account_uid: Some(mint::ACCOUNT_UID.into()),
        pod: Some(Pod { name: mint::POD.into(), uid: mint::POD_UID.into() }),
        node: Some(mint::NODE.into()),
    };
    assert_eq!(read.claims, expected);
}

#[test]
fn what_is_optional_may_be_absent() {
    let mint = mint();
    let bare =
        claims(&mint.token(json!({"iat": null, "nbf": null, "jti": null, "kubernetes.io": null})));
    assert_eq!((bare.issued, bare.not_before, bare.id), (None, None, None));
    assert_eq!((bare.account_uid, bare.pod, bare.node), (None, None, None));
    let secret = json!({"pod": null, "node": null, "secret": {"name": "s", "uid": "u"}});
    assert_eq!(claims(&mint.token(json!({"kubernetes.io": secret}))).pod, None);
    let node = json!({"node": {"uid": null}, "warnafter": 7, "later": [1]});
    assert_eq!(claims(&mint.token(json!({"kubernetes.io": node}))).node, Some(mint::NODE.into()));
    let one = claims(&mint.token(json!({"aud": "vaultmux"})));
    let two = claims(&mint.token(json!({"aud": ["other", "vaultmux"]})));
    assert_eq!((one.audiences, two.audiences.len()), (vec!["vaultmux".to_owned()], 2));
    let unnamed = mint.token_with_header(json!({"kid": null, "typ": "JWT"}), json!({}));
    assert_eq!(read(&unnamed).expect("accepted").expect("ours").key_id, None);
}

proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(text in "\\PC*", dots in "[A-Za-z0-9_.=-]{0,200}") {
        let _ = read(&text);
        let _ = read(&dots);
    }

    #[test]
    fn no_payload_makes_the_reader_panic(text in "\\PC{0,40}", json in "[{}\\[\\]\":,a-z0-9.e-]{0,40}") {
        let mint = mint();
        for text in [text, json] {
            let payload = format!(r#"{{"sub":"system:serviceaccount:prod:api","x":{text}}}"#);
            let _ = read(&mint.sign(r#"{"alg":"ES256"}"#, &payload));
            let _ = read(&mint.sign(&text, &payload));
        }
    }

    #[test]
    fn no_change_of_a_good_token_makes_the_reader_panic(
        at in any::<prop::sample::Index>(),
        with in "[\\PC]{0,3}",
        cut in 0_usize..4,
    ) {
        let good = mint().token(json!({}));
        let at = at.index(good.len());
        let end = (at + cut).min(good.len());
        let _ = read(&format!("{}{with}{}", &good[..at], &good[end..]));
    }
}
