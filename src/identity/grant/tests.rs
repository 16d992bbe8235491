//! What a grant is good for, and what it carries.

use super::*;
use crate::identity::{IdentityError, TokenProof, TrustDomain, token::mint};

const SCOPE: GrantScope<'_> =
    GrantScope { method: "GET", host: "vaultmux.test", path: "/v1/secrets/a" };

fn principal() -> Principal {
    let mut evidence = Evidence::default();
    evidence.add_mtls("spiffe://cluster.local/ns/prod/sa/api", "");
    judge(evidence).expect("valid evidence")
}

fn judge(evidence: Evidence) -> Result<Principal, IdentityError> {
    evidence.principal(&[TrustDomain::parse("cluster.local").expect("valid")])
}

fn keys(ttl: u64) -> GrantKeys {
    GrantKeys::random(Duration::from_secs(ttl)).expect("random bytes")
}

fn open(keys: &GrantKeys, grant: &str, scope: GrantScope<'_>) -> Result<Principal, GrantError> {
    let mut evidence = Evidence::default();
    keys.open(grant, scope, &mut evidence)?;
    Ok(judge(evidence).expect("a grant holds a whole identity"))
}

#[test]
fn a_grant_is_refused_for_any_other_request() {
    let keys = keys(30);
    let grant = keys.seal(&principal(), SCOPE, SystemTime::now()).expect("sealed");
    let others = [
        GrantScope { method: "DELETE", ..SCOPE },
        GrantScope { host: "other.test", ..SCOPE },
        GrantScope { path: "/v1/secrets/b", ..SCOPE },
        GrantScope { path: "/v1/secrets/a/", ..SCOPE },
    ];
    for scope in others {
        assert!(matches!(open(&keys, &grant, scope), Err(GrantError::Scope)), "{scope:?}");
    }
    let opened = open(&keys, &grant, SCOPE).expect("the request it was made for");
    let kinds: Vec<_> = opened.proofs().iter().map(ProofKind::as_str).collect();
    assert_eq!(kinds, ["mtls", "grant"]);
}

#[test]
fn a_grant_is_what_the_library_would_write() {
    let ttl = Duration::from_secs(30);
    let keys = GrantKeys::parse(&format!("one {}", STANDARD.encode([1; 32])), ttl);
    let keys = keys.expect("one key");
    let key = jsonwebtoken::EncodingKey::from_secret(&[1; 32]);
    let header = Header { kid: Some("one".to_owned()), ..Header::new(Algorithm::HS256) };
    for caller in [principal(), bearer(None, u64::MAX), bearer(Some("u-1"), u64::MAX)] {
        let path = "/v1/secrets/\"caf\u{e9}\"";
        let scope = GrantScope { path, ..SCOPE };
        let grant = keys.seal(&caller, scope, SystemTime::now()).expect("sealed");
        let claims = grant.split('.').nth(1).expect("three parts");
        let claims = URL_SAFE_NO_PAD.decode(claims).expect("base64");
        let claims: Claims<'_> = serde_json::from_slice(&claims).expect("claims");
        let expected = jsonwebtoken::encode(&header, &claims, &key).expect("signed");
        assert_eq!(grant, expected);
    }
}

#[test]
fn expired_forged_and_foreign_grants_are_refused() {
    let keys = keys(30);
    let past = SystemTime::now() - Duration::from_secs(60);
    let expired = keys.seal(&principal(), SCOPE, past).expect("sealed");
    let foreign = self::keys(30).seal(&principal(), SCOPE, SystemTime::now()).expect("sealed");
    let good = keys.seal(&principal(), SCOPE, SystemTime::now()).expect("sealed");
    let (head, signature) = good.rsplit_once('.').expect("three parts");
    let unsigned = format!(
        "{}.{}.",
        "eyJhbGciOiJub25lIiwidHlwIjoiSldUIiwia2lkIjoicHJvY2VzcyJ9",
        head.split_once('.').expect("two parts").1
    );
    let altered = format!("{head}x.{signature}");
    let huge = "a".repeat(MAX_GRANT + 1);
    for grant in ["", "a.b.c", &expired, &foreign, &unsigned, &altered, &huge] {
        assert!(matches!(open(&keys, grant, SCOPE), Err(GrantError::Token(_))), "{grant:.40}");
    }
}

#[test]
fn replicas_that_share_a_key_file_accept_each_others_grants_during_rotation() {
    let line = |id: &str, byte: u8| format!("{id} {}\n", STANDARD.encode([byte; 32]));
    let ttl = Duration::from_secs(30);
    let before = GrantKeys::parse(&line("old", 1), ttl).expect("one key");
    let during = GrantKeys::parse(&(line("new", 2) + "# comment\n" + &line("old", 1)), ttl)
        .expect("two keys");
    let grant = before.seal(&principal(), SCOPE, SystemTime::now()).expect("sealed");
    assert!(open(&during, &grant, SCOPE).is_ok());
    let grant = during.seal(&principal(), SCOPE, SystemTime::now()).expect("sealed");
    assert!(open(&before, &grant, SCOPE).is_err(), "sealed with a key it does not have");
}

#[test]
fn key_files_are_refused_by_line_without_showing_their_content() {
    let ttl = Duration::from_secs(30);
    let short = format!("a {}\n", STANDARD.encode([7; 16]));
    for text in ["\nnokey\n", "\na not-base64!\n", &format!("#\n{short}")] {
        let error = GrantKeys::parse(text, ttl).expect_err("refused").to_string();
        assert!(error.starts_with("line 2: "), "{error}");
        assert!(!error.contains("not-base64!"), "{error}");
    }
    assert!(matches!(GrantKeys::parse("# none\n", ttl), Err(GrantError::NoKey)));
}

/// A principal of a token that is bound to this pod, or to none.
fn bearer(pod: Option<&str>, expires: u64) -> Principal {
    let mut evidence = Evidence::default();
    evidence.add_token(&token(pod, expires));
    judge(evidence).expect("valid evidence")
}

fn token(pod: Option<&str>, expires: u64) -> std::sync::Arc<TokenProof> {
    let pod = pod.map(|uid| Pod { name: "api-0".into(), uid: uid.into() });
    let node = pod.as_ref().map(|_| "node-a".into());
    TokenProof::bound(
        principal().id().clone(),
        Binding { pod, node, credential_id: Some("JTI=one".into()), expires },
    )
}

#[test]
fn a_grant_is_bound_to_what_its_proofs_are_and_ends_with_them() {
    let (now, at) = (mint::now(), SystemTime::now());
    for (ttl, caller, least, most) in [
        // The token's end, exactly.
        (30, bearer(Some("u-1"), now + 10), now + 10, now + 10),
        (30, bearer(None, now + 10), now + 10, now + 10),
        // The grant's own.
        (5, bearer(Some("u-1"), now + 10), now + 5, now + 6),
        (30, bearer(None, u64::MAX), now + 30, now + 31),
        (30, principal(), now + 30, now + 31),
    ] {
        let keys = keys(ttl);
        let sealed = keys.seal(&caller, SCOPE, at).expect("sealed");
        let opened = open(&keys, &sealed, SCOPE).expect("ours");
        assert_eq!(opened.pod(), caller.pod());
        assert_eq!(opened.node(), caller.node());
        assert_eq!(opened.credential_id(), caller.credential_id());
        assert_eq!(opened.is_bound_to_pod(), caller.is_bound_to_pod());
        let expires = opened.expires().expect("grants end");
        assert!((least..=most).contains(&expires), "{expires} {least}");
        let kinds: ProofSet = caller.proofs().with(ProofKind::Grant);
        assert_eq!(opened.proofs(), kinds);

        // A grant that was made from a grant lives no longer.
        let later = at + Duration::from_secs(4);
        let again = self::keys(3600).seal(&opened, SCOPE, later).expect("sealed");
        let payload = again.split('.').nth(1).expect("three parts");
        let payload = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(payload);
        let claims: Claims = serde_json::from_slice(&payload.expect("base64")).expect("claims");
        assert_eq!(claims.exp, expires);
    }
}

#[test]
fn a_grant_of_a_token_that_has_expired_is_refused() {
    let keys = keys(30);
    let over = bearer(Some("u-1"), mint::now() - 60);
    let grant = keys.seal(&over, SCOPE, SystemTime::now()).expect("sealed");
    assert!(matches!(open(&keys, &grant, SCOPE), Err(GrantError::Token(_))));
}

#[test]
fn a_grant_of_one_pod_is_of_no_use_to_another() {
    let (keys, expires) = (keys(30), mint::now() + 60);
    let grant = keys.seal(&bearer(Some("u-1"), expires), SCOPE, SystemTime::now());
    let grant = grant.expect("sealed");
    for (pod, expected) in [(Some("u-2"), false), (Some("u-1"), true), (None, true)] {
        let mut evidence = Evidence::default();
        evidence.add_token(&token(pod, expires));
        keys.open(&grant, SCOPE, &mut evidence).expect("ours");
        match judge(evidence) {
            Ok(principal) => assert!(expected && principal.is_bound_to_pod(), "{pod:?}"),
            Err(error) => {
                assert!(!expected, "{pod:?}");
                assert_eq!(error, IdentityError::Mismatch);
            }
        }
    }
}
