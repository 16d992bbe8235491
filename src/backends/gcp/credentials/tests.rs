//! Google's own credentials against fakes of the endpoints that they ask, and what
//! becomes of them when those refuse.

use std::{error::Error as _, fs, sync::atomic::AtomicU32, sync::atomic::Ordering};

use aws_lc_rs::{
    encoding::{AsDer, Pkcs8V1Der},
    rsa::{KeyPair, KeySize},
};
use base64::prelude::BASE64_STANDARD;
use google_cloud_auth::credentials::mds;
use serde_json::json;

use super::*;
use crate::{
    backends::{
        BackendError, SecretBackend,
        conformance::name,
        fake::{Call, Fake, Reply},
        gcp::{GcpBackend, GcpSettings, fake},
    },
    secret::SecretVersion,
};

const TIMEOUT: Duration = Duration::from_secs(20);
const TOKEN: &str = "token-canary-51";

fn settings(url: &str, credentials: GcpCredentials) -> GcpSettings {
    GcpSettings {
        project: "my-project".to_owned(),
        endpoint_url: Some(url.to_owned()),
        credentials,
        ..GcpSettings::default()
    }
}

async fn from(url: &str, file: &serde_json::Value) -> (GcpBackend, tempfile::TempDir) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("credentials.json");
    fs::write(&path, file.to_string()).expect("written");
    let settings = settings(url, GcpCredentials::File(path));
    (GcpBackend::connect(settings, TIMEOUT).await.expect("set up"), directory)
}

async fn get(backend: &GcpBackend) -> Result<(), BackendError> {
    let name = name(GcpBackend::GRAMMAR, "db");
    backend.get(&name, &SecretVersion::Latest).await.map(drop)
}

/// A store, and identity endpoints beside it that give a token of this answer.
fn serve(fake: &Fake, token: serde_json::Value) {
    fake.on(move |call| match call.target.starts_with("/v1/projects/my-project") {
        true => fake::access("projects/1/secrets/db/versions/1", b"x"),
        false => Reply::json(200, token.to_string()),
    });
}

fn bearer(call: &Call) -> &str {
    call.headers["authorization"].to_str().expect("text")
}

fn oauth() -> serde_json::Value {
    json!({
        "access_token": TOKEN, "token_type": "Bearer", "expires_in": 3600,
        "issued_token_type": "urn:ietf:params:oauth:token-type:access_token",
    })
}

/// The paths asked, in order; those of the store as `get`.
fn asked(fake: &Fake) -> Vec<String> {
    let path = |call: &Call| match call.target.starts_with("/v1/projects/my-project") {
        true => "get".to_owned(),
        false => call.target.split('?').next().unwrap_or_default().to_owned(),
    };
    fake.calls().iter().map(path).collect()
}

fn user(url: &str) -> serde_json::Value {
    json!({
        "type": "authorized_user", "client_id": "id", "client_secret": "canary-secret",
        "refresh_token": "canary-refresh", "token_uri": format!("{url}/token"),
    })
}

#[tokio::test]
async fn a_users_login_is_exchanged_when_first_needed() {
    let fake = Fake::start().await;
    serve(&fake, oauth());
    let (backend, _directory) = from(&fake.url, &user(&fake.url)).await;
    assert_eq!(asked(&fake), [""; 0], "not before it is needed");
    for _ in 0..3 {
        get(&backend).await.expect("read");
    }
    let calls = fake.calls();
    assert_eq!(bearer(&calls[1]), format!("Bearer {TOKEN}"));
    assert_eq!(calls.len(), 4, "one token for all");
    assert_eq!(backend.credentials_expire(), None, "the SDK does not say");
}

#[tokio::test]
async fn a_service_accounts_key_signs_its_own_tokens() {
    let fake = Fake::start().await;
    serve(&fake, oauth());
    let pair = KeyPair::generate(KeySize::Rsa2048).expect("a key");
    let der: Pkcs8V1Der<'_> = pair.as_der().expect("encoded");
    let key = BASE64_STANDARD.encode(der.as_ref());
    let key = format!("-----BEGIN PRIVATE KEY-----\n{key}\n-----END PRIVATE KEY-----\n");
    let file = json!({
        "type": "service_account", "client_email": "mesh@my-project.iam.gserviceaccount.com",
        "private_key_id": "k1", "private_key": key, "project_id": "my-project",
    });
    let (backend, _directory) = from(&fake.url, &file).await;
    assert_eq!(backend.credentials_expire(), None, "nothing was fetched yet");
    get(&backend).await.expect("read");
    let calls = fake.calls();
    assert_eq!(calls.len(), 1, "no one is asked for it");
    assert_eq!(bearer(&calls[0]).split('.').count(), 3);
    let left = backend.credentials_expire().expect("it says so itself");
    let left = left.duration_since(SystemTime::now()).expect("in the future").as_secs();
    assert!((3500..=3700).contains(&left), "{left}");
}

#[tokio::test]
async fn workload_identity_federation_reads_its_token_each_time() {
    let fake = Fake::start().await;
    serve(&fake, oauth());
    let directory = tempfile::tempdir().expect("a directory");
    let token = directory.path().join("token");
    let file = json!({
        "type": "external_account", "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        "audience": "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/eks",
        "token_url": format!("{}/sts", fake.url), "credential_source": {"file": token},
    });
    let (backend, _directory) = from(&fake.url, &file).await;
    let error = get(&backend).await.expect_err("the file is not there");
    assert!(matches!(error, BackendError::PermissionDenied(Some(_))), "{error:?}");
    assert!(error.source().is_some_and(|cause| cause.to_string().contains("No such file")));
    assert_eq!(asked(&fake), [""; 0]);
    // As long as it would be tried again by itself.
    backend.api.credentials.as_ref().expect("some").state().patience = Duration::ZERO;
    fs::write(&token, "canary-subject").expect("written");
    get(&backend).await.expect("read");
    let calls = fake.calls();
    assert!(String::from_utf8_lossy(&calls[0].body).contains("subject_token=canary-subject"));
    assert_eq!(bearer(&calls[1]), format!("Bearer {TOKEN}"));
}

#[tokio::test]
async fn impersonation_is_asked_for_with_our_own_token() {
    let fake = Fake::start().await;
    let expire = "2999-01-01T00:00:00Z";
    fake.on(move |call| match &*call.target {
        "/token" => Reply::json(200, oauth().to_string()),
        "/v1/projects/-/serviceAccounts/other@p.iam.gserviceaccount.com:generateAccessToken" => {
            assert_eq!(bearer(call), format!("Bearer {TOKEN}"));
            let token = json!({"accessToken": "token-canary-other", "expireTime": expire});
            Reply::json(200, token.to_string())
        }
        _ => fake::access("projects/1/secrets/db/versions/1", b"x"),
    });
    let account = "serviceAccounts/other@p.iam.gserviceaccount.com:generateAccessToken";
    let file = json!({
        "type": "impersonated_service_account", "source_credentials": user(&fake.url),
        "service_account_impersonation_url": format!("{}/v1/projects/-/{account}", fake.url),
    });
    let (backend, _directory) = from(&fake.url, &file).await;
    get(&backend).await.expect("read");
    let calls = fake.calls();
    assert_eq!(calls.len(), 3);
    assert_eq!(bearer(&calls[2]), "Bearer token-canary-other");
}

/// Credentials of a metadata server at this address.
fn metadata(url: &str) -> Source {
    let url = url.to_owned();
    Box::new(move || Ok(mds::Builder::default().with_endpoint(&url).build().expect("built")))
}

async fn on_gke(url: &str, identity: &str, timeout: Duration) -> GcpBackend {
    let settings = settings(url, GcpCredentials::ApplicationDefault);
    let renewing = Renewing::new(metadata(identity));
    GcpBackend::new(settings, Some(renewing), timeout).await.expect("set up")
}

#[tokio::test]
async fn refusals_to_give_a_token_are_told_from_outages() {
    let refused = "Unable to generate access token; IAM returned 403 Forbidden";
    for (reply, kind, said) in [
        (Reply::new(404, ""), "permission_denied", "status 404"),
        (fake::refusal_with(403, "PERMISSION_DENIED", refused), "permission_denied", refused),
        (Reply::new(500, ""), "unavailable", "status 500"),
        (Reply::new(429, ""), "unavailable", "status 429"),
        (Reply::Reset, "unavailable", ""),
        (Reply::new(200, "<html>log in</html>"), "unavailable", ""),
        (Reply::json(200, r#"{"access_token":1,"x":"canary-1"}"#), "unavailable", ""),
        (Reply::json(200, r#"{"expires_in":"canary-1"}"#), "unavailable", ""),
        (Reply::Hang, "timed_out", ""),
    ] {
        let identity = Fake::start().await;
        identity.always(reply.clone());
        let timeout = if kind == "timed_out" { Duration::from_millis(300) } else { TIMEOUT };
        let backend = on_gke("http://127.0.0.1:1", &identity.url, timeout).await;
        let error = get(&backend).await.expect_err("no token");
        assert_eq!(error.kind(), kind, "{reply:?}: {error:?}");
        let cause = error.source().map(ToString::to_string).unwrap_or_default();
        assert!(cause.contains(said), "{reply:?}: {cause}");
        assert!(!format!("{error:?} {cause}").contains("canary"), "{cause}");
    }
    let nowhere = on_gke("http://127.0.0.1:1", "http://127.0.0.1:1", TIMEOUT).await;
    let error = get(&nowhere).await.expect_err("no token");
    assert!(matches!(error, BackendError::Unavailable(Some(_))), "{error:?}");
}

#[tokio::test]
async fn a_login_that_was_withdrawn_is_a_denial_that_says_why() {
    let fake = Fake::start().await;
    let gone = r#"{"error":"invalid_grant","error_description":"Token has been revoked."}"#;
    fake.always(Reply::json(400, gone));
    let (backend, _directory) = from(&fake.url, &user(&fake.url)).await;
    let error = get(&backend).await.expect_err("no token");
    assert!(matches!(error, BackendError::PermissionDenied(Some(_))), "{error:?}");
    let cause = error.source().expect("a cause").to_string();
    assert!(cause.contains("invalid_grant, Token has been revoked."), "{cause}");
    assert!(!cause.contains("canary"), "{cause}");
}

#[tokio::test]
async fn files_that_are_no_credentials_are_denials_that_quote_nothing() {
    for file in [
        json!({}),
        json!({"type": "canary"}),
        json!({"type": "service_account", "client_email": ["canary"]}),
        json!({"type": "authorized_user", "client_id": "a", "client_secret": 4711}),
        json!({"type": "external_account", "audience": "canary"}),
        json!("canary"),
    ] {
        let (backend, directory) = from("http://127.0.0.1:1", &file).await;
        let error = get(&backend).await.expect_err("no credentials");
        assert!(matches!(error, BackendError::PermissionDenied(Some(_))), "{error:?}");
        let cause = error.source().expect("a cause").to_string();
        assert!(!cause.contains("canary") && !cause.contains("4711"), "{cause}");
        drop(directory);
        let error = get(&backend).await.expect_err("no credentials");
        assert!(matches!(error, BackendError::PermissionDenied(Some(_))), "{error:?}");
    }
}

#[tokio::test]
async fn refused_credentials_are_made_anew_but_not_at_once() {
    let fake = Fake::start().await;
    fake.on(|call| match call.target.starts_with("/computeMetadata") {
        true => Reply::new(403, "no binding yet"),
        false => fake::access("projects/1/secrets/db/versions/1", b"x"),
    });
    let backend = on_gke(&fake.url, &fake.url, TIMEOUT).await;
    for _ in 0..3 {
        let error = get(&backend).await.expect_err("no token");
        assert!(matches!(error, BackendError::PermissionDenied(_)), "{error:?}");
    }
    assert_eq!(fake.calls().len(), 1, "asked once");
    serve(&fake, oauth());
    get(&backend).await.expect_err("not yet");
    assert_eq!(asked(&fake), [""; 0]);
    let credentials = backend.api.credentials.as_ref().expect("some");
    credentials.state().patience = Duration::ZERO;
    get(&backend).await.expect("read");
    assert_eq!(credentials.state().patience, PATIENCE, "all is well again");
}

#[tokio::test]
async fn a_token_that_the_store_rejects_is_fetched_anew() {
    let fake = Fake::start().await;
    let fetched = Arc::new(AtomicU32::new(0));
    let number = Arc::clone(&fetched);
    fake.on(move |call| {
        if call.target.starts_with("/computeMetadata") {
            let token = format!("t{}", number.fetch_add(1, Ordering::SeqCst));
            let answer = json!({"access_token": token, "token_type": "Bearer", "expires_in": 3600});
            return Reply::json(200, answer.to_string());
        }
        match bearer(call) {
            "Bearer t0" => fake::refusal(401, "UNAUTHENTICATED"),
            _ => fake::access("projects/1/secrets/db/versions/1", b"x"),
        }
    });
    let backend = on_gke(&fake.url, &fake.url, TIMEOUT).await;
    for _ in 0..3 {
        let error = get(&backend).await.expect_err("rejected");
        assert!(matches!(error, BackendError::PermissionDenied(_)), "{error:?}");
    }
    assert_eq!(fetched.load(Ordering::SeqCst), 1, "not with every call");
    backend.api.credentials.as_ref().expect("some").state().patience = Duration::ZERO;
    get(&backend).await.expect("read");
    assert_eq!(fetched.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_silent_identity_endpoint_is_asked_anew() {
    let fake = Fake::start().await;
    let mut backend = on_gke(&fake.url, &fake.url, Duration::from_millis(500)).await;
    for _ in 0..2 {
        let error = get(&backend).await.expect_err("no token");
        assert!(matches!(error, BackendError::TimedOut), "{error:?}");
    }
    assert_eq!(fake.calls().len(), 1);
    backend.api.timeout = TIMEOUT;
    serve(&fake, oauth());
    backend.api.credentials.as_ref().expect("some").state().patience = Duration::ZERO;
    get(&backend).await.expect("read");
}

#[tokio::test]
async fn a_late_token_is_used() {
    let fake = Fake::start().await;
    serve(&fake, oauth());
    let backend = on_gke(&fake.url, &fake.url, TIMEOUT).await;
    get(&backend).await.expect("read");
    let credentials = backend.api.credentials.as_ref().expect("some");
    credentials.doubt(Doubt::Silent);
    credentials.state().patience = Duration::ZERO;
    fake.calls();
    get(&backend).await.expect("read");
    assert_eq!(asked(&fake), ["get"], "no new one");
}
