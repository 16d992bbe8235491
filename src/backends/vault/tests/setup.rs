//! Settings that are refused, and whom a connection trusts.

use super::*;

#[tokio::test]
async fn certificates_are_checked_and_a_new_authority_is_read() {
    let (fake, pem) = Fake::start_tls().await;
    let (_, other) = Fake::start_tls().await;
    fake.on(|call| match call.target.starts_with("/v1/auth/") {
        true => looked_up(),
        false => missing(),
    });
    let dir = tempfile::tempdir().expect("temporary directory");
    let ca = dir.path().join("ca.pem");
    std::fs::write(&ca, other).expect("written");
    let settings = VaultSettings { ca_file: Some(ca.clone()), ..settings(&fake.url) };
    let backend = connect(settings.clone());
    let error = get(&backend, "db").await.expect_err("not trusted");
    assert_eq!(error.kind(), "unavailable", "{error:?}");
    assert_eq!(fake.calls().len(), 0, "nothing was said to it");

    std::fs::write(&ca, "-----BEGIN").expect("written");
    let half = VaultBackend::connect(settings.clone(), TIMEOUT).expect_err("no certificate");
    assert!(half.to_string().contains("does not hold a certificate"), "{half}");

    std::fs::write(&ca, pem).expect("written");
    let trusting = connect(settings);
    assert_eq!(get(&trusting, "db").await.expect_err("missing").kind(), "not_found");
    // The one that failed has read it again, once its failure is forgotten.
    session::later(Duration::from_secs(2)).await;
    let _ = get(&backend, "db").await;
    session::later(Duration::from_secs(2)).await;
    assert_eq!(get(&backend, "db").await.expect_err("missing").kind(), "not_found");
}

#[test]
fn settings_that_cannot_work_are_refused() {
    let good = settings("https://vault:8200");
    good.check().expect("valid");
    for address in
        ["http://127.0.0.1:8200", "http://[::1]:8200", "http://localhost", "https://v/a/b/"]
    {
        let settings = settings(address);
        settings.check().unwrap_or_else(|error| panic!("{address}: {error}"));
    }
    for (address, expected) in [
        ("vault:8200", "is not"),
        ("", "is not"),
        ("ftp://vault", "is not"),
        ("unix:/run/vault", "is not"),
        ("http://vault:8200", "clear text"),
        ("http://10.0.0.1:8200", "clear text"),
        ("http://127.0.0.1.nip.io", "clear text"),
        ("http://localhost.example.com", "clear text"),
        ("https://vault?a=b", "query"),
        ("https://vault#a", "fragment"),
        ("https://user:canary@vault", "user or password"),
    ] {
        let error = settings(address).check().expect_err(address).to_string();
        assert!(error.contains(expected), "{address}: {error}");
        assert!(!error.contains("canary"), "{error}");
    }
    for mount in ["", "/secret", "secret/", "a//b", "../sys", "a/./b", "a b", "a?b", "é"] {
        let settings = VaultSettings { mount: mount.to_owned(), ..good.clone() };
        assert!(matches!(settings.check(), Err(VaultSetupError::Mount { .. })), "{mount}");
        let auth = VaultAuth::Jwt {
            mount: mount.to_owned(),
            role: "r".to_owned(),
            token_file: "t".into(),
        };
        let settings = VaultSettings { auth, ..good.clone() };
        assert!(matches!(settings.check(), Err(VaultSetupError::Mount { .. })), "{mount}");
    }
    for prefix in ["/", "a//", "../", "a/../", "a.", "./", "a b", &"p".repeat(257)] {
        let settings = VaultSettings { prefix: prefix.to_owned(), ..good.clone() };
        assert_eq!(settings.check(), Err(VaultSetupError::Prefix(prefix.to_owned())), "{prefix}");
    }
    for prefix in ["", "a", "a/", "a-", "a/b_"] {
        let settings = VaultSettings { prefix: prefix.to_owned(), ..good.clone() };
        settings.check().unwrap_or_else(|error| panic!("{prefix}: {error}"));
    }
    for namespace in ["", "a\nb"] {
        let settings = VaultSettings { namespace: Some(namespace.to_owned()), ..good.clone() };
        assert_eq!(settings.check(), Err(VaultSetupError::Namespace), "{namespace}");
    }
}
