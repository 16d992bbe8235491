//! The SDK's real credentials, against a fake Entra ID and a fake machine endpoint.

use std::{fs, time::Instant};

use azure_core::credentials::TokenCredential;

use super::*;

const SCOPE: &str = "https://vault.azure.net/.default";

/// What a caller sees when the exchange for a token ends so.
async fn refused(reply: Reply) -> BackendError {
    let vault = Vault::start().await;
    let backend = vault.backend(Duration::from_secs(2));
    vault.fake.on(move |call| if is_exchange(call) { reply.clone() } else { challenge() });
    let error = get(&backend).await.expect_err("no token");
    assert!(vault.calls().is_empty(), "the vault was called without a token");
    let mut shown = format!("{error:?} {error}");
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        shown += &format!(" {cause} {cause:?}");
        source = cause.source();
    }
    assert!(!shown.contains("canary"), "{shown}");
    error
}

#[tokio::test]
async fn refused_credentials_are_denials_and_lost_endpoints_outages() {
    let entra = |status, code: &str| {
        let text =
            json!({"error": "invalid_client", "error_description": code, "error_codes": [1]});
        Reply::json(status, text.to_string())
    };
    for (row, reply, kind) in [
        ("wrong secret", entra(401, "AADSTS7000215: Invalid client secret."), "permission_denied"),
        ("no such tenant", entra(400, "AADSTS90002: Tenant not found."), "permission_denied"),
        ("throttled", entra(429, "AADSTS90055").header("retry-after", "9"), "throttled"),
        ("failing", entra(503, "AADSTS90033: transient"), "unavailable"),
        ("gateway", Reply::new(502, "<html>canary"), "unavailable"),
        ("no JSON", Reply::new(200, "canary"), "unavailable"),
        ("reset", Reply::Reset, "unavailable"),
        ("hangs", Reply::Hang, "timed_out"),
    ] {
        let error = refused(reply).await;
        assert_eq!(error.kind(), kind, "{row}: {error:?}");
        if let BackendError::PermissionDenied(cause) = &error {
            assert!(cause.as_ref().is_some_and(|cause| cause.to_string().contains("AADSTS")));
        }
        if let BackendError::Throttled { retry_after } = &error {
            assert_eq!(*retry_after, Some(Duration::from_secs(9)));
        }
    }
    let vault = Vault::start().await;
    let authority_host = Some("https://127.0.0.1:9".to_owned());
    let settings = AzureSettings { authority_host, ..vault.settings() };
    let backend = AzureBackend::new(settings, TIMEOUT).expect("set up");
    let error = get(&backend).await.expect_err("no one there");
    assert!(matches!(error, BackendError::Unavailable(Some(_))), "{error:?}");
}

#[tokio::test]
async fn a_vault_that_asks_for_another_resource_gets_no_token() {
    let vault = Vault::start().await;
    let settings = AzureSettings { verify_challenge_resource: true, ..vault.settings() };
    let backend = AzureBackend::new(settings, TIMEOUT).expect("set up");
    let error = get(&backend).await.expect_err("not its resource");
    let BackendError::PermissionDenied(Some(cause)) = &error else { panic!("{error:?}") };
    assert!(cause.to_string().contains("doesn't match the requested domain"), "{cause}");
    let calls = vault.fake.calls();
    assert!(calls.len() == 1 && !is_exchange(&calls[0]), "{calls:?}");
}

#[tokio::test]
async fn rotated_files_count_from_the_next_token_on() {
    let file = tempfile::NamedTempFile::new().expect("made");
    let ids = (Some(TENANT.to_owned()), Some("app".to_owned()));
    let of_pod = AzureCredential::WorkloadIdentity {
        tenant_id: ids.0.clone(),
        client_id: ids.1.clone(),
        token_file: Some(file.path().to_owned()),
    };
    let of_principal = AzureCredential::ClientSecret {
        tenant_id: ids.0,
        client_id: ids.1,
        secret: Some(ClientSecret::File(file.path().to_owned())),
    };
    for (credential, key) in [(of_pod, "client_assertion"), (of_principal, "client_secret")] {
        let vault = Vault::start().await;
        // Every token has run out when the next one is needed.
        vault.fake.on(|call| match () {
            () if is_exchange(call) => token_reply(0),
            () if !call.headers.contains_key("authorization") => challenge(),
            () => shown("mesh-db", json!({"value": "x"})),
        });
        fs::remove_file(file.path()).expect("there");
        let settings = AzureSettings { credential, ..vault.settings() };
        let backend = AzureBackend::new(settings, TIMEOUT).expect("set up without the file");
        let error = get(&backend).await.expect_err("no file");
        let BackendError::PermissionDenied(Some(cause)) = &error else { panic!("{error:?}") };
        assert!(cause.to_string().contains("No such file"), "{cause}");
        for written in ["first", "second"] {
            fs::write(file.path(), format!("{written}\n")).expect("written");
            get(&backend).await.expect("read");
            let calls = vault.fake.calls();
            let exchange = calls.iter().rfind(|call| is_exchange(call)).expect("an exchange");
            let sent = form_urlencoded::parse(&exchange.body).into_owned();
            assert!(sent.into_iter().any(|pair| pair == (key.to_owned(), written.to_owned())));
        }
    }
}

#[tokio::test]
async fn a_token_that_was_refused_is_not_brought_again_for_ever() {
    let vault = Vault::start().await;
    vault.fake.on(|_| token_reply(3600));
    let settings = vault.settings();
    let transports = transport::build(settings.ca_file.as_deref(), TIMEOUT).expect("made");
    let mut cloud = CustomConfiguration::default();
    cloud.authority_host = vault.fake.url.clone();
    let options = ClientOptions {
        transport: Some(transports.remote),
        cloud: Some(Arc::new(cloud.into())),
        ..ClientOptions::default()
    };
    let credential = Credential::new(settings.credential, &options, transports.local);
    let credential = credential.expect("set up");
    for exchanges in [1, 1] {
        for _ in 0..3 {
            credential.get_token(&[SCOPE], None).await.expect("a token");
        }
        assert_eq!(vault.fake.calls().len(), exchanges);
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(61)).await;
        tokio::time::resume();
    }
}

/// The identity of a virtual machine, whose endpoint has a fixed address: a proxy
/// stands there instead.
fn machine(url: &str, client_id: Option<&str>) -> Credential {
    let client = reqwest::Client::builder().proxy(reqwest::Proxy::all(url).expect("a URL"));
    let local = transport::local(client.build().expect("a client"));
    let client_id = client_id.map(str::to_owned);
    let credential = AzureCredential::ManagedIdentity { client_id };
    Credential::new(credential, &ClientOptions::default(), local).expect("set up")
}

#[tokio::test]
async fn machines_identity_is_asked_for_once() {
    let fake = Fake::start().await;
    let credential = machine(&fake.url, Some("user-assigned"));
    let expires = SystemTime::now() + Duration::from_secs(3600);
    let expires = expires.duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs();
    let token = json!({"access_token": TOKEN, "expires_on": expires.to_string(),
        "token_type": "Bearer", "resource": "https://vault.azure.net"});
    fake.always(Reply::json(200, token.to_string()));
    for _ in 0..2 {
        let token = credential.get_token(&[SCOPE], None).await.expect("a token");
        assert_eq!(token.token.secret(), TOKEN);
    }
    let calls = fake.calls();
    assert_eq!(calls.len(), 1);
    assert!(calls[0].target.starts_with("/metadata/identity/oauth2/token?"), "{calls:?}");
    assert!(calls[0].target.contains("client_id=user-assigned"), "{calls:?}");
    assert_eq!(calls[0].headers["metadata"], "true");
    let known = credential.expire().and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
    assert_eq!(known.map(|at| at.as_secs()), Some(expires));
    assert!(!format!("{credential:?}").contains("canary"));
}

#[tokio::test]
async fn machines_endpoint_is_not_asked_again_when_it_fails() {
    let fake = Fake::start().await;
    let body = json!({"error": "invalid_request", "error_description": "Identity not found"});
    for (status, kind) in [
        (400, "permission_denied"),
        (403, "permission_denied"),
        (404, "unavailable"),
        (410, "unavailable"),
        (429, "throttled"),
        (500, "unavailable"),
        (503, "unavailable"),
    ] {
        fake.always(Reply::json(status, body.to_string()));
        let started = Instant::now();
        let error = machine(&fake.url, None).get_token(&[SCOPE], None).await;
        let error = from_sdk(error.expect_err("no token"));
        assert_eq!(error.kind(), kind, "{status}: {error:?}");
        assert_eq!(fake.calls().len(), 1, "{status}");
        assert!(started.elapsed() < Duration::from_secs(1), "{status}");
    }
    // Not on Azure, or cut off.
    let started = Instant::now();
    let error = machine("http://127.0.0.1:9", None).get_token(&[SCOPE], None).await;
    let error = from_sdk(error.expect_err("no token"));
    assert!(matches!(error, BackendError::Unavailable(Some(_))), "{error:?}");
    assert!(started.elapsed() < Duration::from_secs(1));
}
