//! Key sets from files and over HTTPS.

use serde_json::json;
use tempfile::TempDir;

use super::{super::source::SourceError, *};
use crate::backends::fake::{Fake, Reply};

async fn cause(source: &dyn KeySource) -> String {
    match source.fetch().await {
        Ok(_) => panic!("was fetched"),
        Err(cause) => cause,
    }
}

fn file(directory: &TempDir, name: &str, content: &str) -> std::path::PathBuf {
    let path = directory.path().join(name);
    std::fs::write(&path, content).expect("written");
    path
}

#[tokio::test]
async fn a_file_is_read_anew_for_every_fetch() {
    let directory = TempDir::new().expect("a directory");
    let source = FileSource::new(directory.path().join("keys.json"));
    assert!(cause(&source).await.contains("keys.json: "), "not there yet");
    for content in ["one", "two"] {
        file(&directory, "keys.json", content);
        let fetched = source.fetch().await.expect("is there");
        assert_eq!((fetched.keys.as_slice(), fetched.issuer), (content.as_bytes(), None));
    }
    // However long it is, no more is read than tells so.
    file(&directory, "keys.json", &"x".repeat(MAX_SET + 100));
    assert_eq!(source.fetch().await.expect("is there").keys.len(), MAX_SET + 1);
    assert!(!cause(&FileSource::new(directory.path().to_owned())).await.is_empty());
}

#[tokio::test]
async fn only_addresses_that_nobody_can_forge_are_called() {
    let forge = "could be forged on the way: use https";
    for (address, why) in [
        ("", "is not a URL"),
        ("cluster.test/keys", "is not a URL"),
        ("ftp://cluster.test/keys", "is not an http(s) URL"),
        ("file:///etc/keys.json", "is not an http(s) URL"),
        ("http://cluster.test/keys", forge),
        ("http://10.0.0.1/keys", forge),
        ("http://localhost.cluster.test/keys", forge),
        ("http://127.0.0.1.cluster.test/keys", forge),
    ] {
        let error = HttpsSource::new(address, None).err();
        let expected = SourceError::Address { address: address.to_owned(), why };
        assert_eq!(error, Some(expected), "{address}");
    }
    for address in ["https://user@cluster.test", "https://:hunter2@cluster.test"] {
        let error = HttpsSource::new(address, None).err().expect(address);
        assert_eq!(error, SourceError::Credentials);
        assert!(!error.to_string().contains("hunter2"));
    }
    for address in ["https://cluster.test/keys?x", "http://127.0.0.1:1", "http://[::1]:1"] {
        assert!(HttpsSource::new(address, None).is_ok(), "{address}");
    }
}

#[tokio::test]
async fn keys_come_over_https_from_those_whom_the_ca_file_trusts() {
    let mint = Mint::p256("key");
    let directory = TempDir::new().expect("a directory");
    let (server, ca) = Fake::start_tls().await;
    let (_, other) = Fake::start_tls().await;
    server.always(Reply::json(200, mint.jwks()));
    let url = format!("{}/openid/v1/jwks", server.url);
    let path = directory.path().join("ca.crt");
    let source = HttpsSource::new(&url, Some(path.clone())).expect("valid");
    assert!(cause(&source).await.starts_with("ca_file "), "not there yet");
    file(&directory, "ca.crt", "no certificate");
    assert!(cause(&source).await.ends_with("does not hold a certificate"));
    file(&directory, "ca.crt", &other);
    assert!(!cause(&source).await.is_empty());
    assert!(server.calls().is_empty(), "never spoke to it");
    // The authority is rotated under our feet.
    file(&directory, "ca.crt", &ca);
    let fetched = source.fetch().await.expect("trusted");
    assert_eq!((fetched.keys, fetched.issuer), (mint.jwks().into_bytes(), None));
    assert_eq!(server.calls()[0].target, "/openid/v1/jwks");
    // From the source to a verified token.
    let issuer = Some(mint::ISSUER.to_owned());
    let set = KeySet::new(Box::new(source), issuer, [mint::AUDIENCE.to_owned()].into());
    assert_eq!(verify(&Arc::new(set), &mint.token(json!({}))).await, Ok(()));
}

#[tokio::test]
async fn an_answer_that_is_no_key_set_is_a_cause_that_quotes_nothing() {
    let canary = crate::fixture::CANARY;
    let server = Fake::start().await;
    let source = HttpsSource::new(&format!("{}/{canary}", server.url), None).expect("valid");
    let elsewhere = Reply::new(302, canary).header("location", &format!("{}/moved", server.url));
    let cases = [
        (elsewhere, "status 302"),
        (Reply::new(404, canary), "status 404"),
        (Reply::new(503, canary), "status 503"),
        (Reply::new(204, ""), "status 204"),
        (Reply::new(200, vec![b' '; MAX_SET + 1]), "the answer is larger than 1 MiB"),
    ];
    for (reply, expected) in cases {
        server.always(reply);
        assert_eq!(cause(&source).await, expected);
        assert_eq!(server.calls().len(), 1, "{expected}: neither repeated nor followed");
    }
    for reply in [Reply::Cut, Reply::Reset] {
        server.always(reply);
        let cause = cause(&source).await;
        assert!(!cause.is_empty() && !cause.contains(canary), "{cause}");
    }
    server.always(Reply::new(200, format!("<html>{canary}</html>")));
    let fetched = source.fetch().await.expect("an answer");
    let cause = Keys::read(&fetched, Some("issuer"), &[]).expect_err("no JSON");
    assert!(!cause.contains(canary), "{cause}");
}
