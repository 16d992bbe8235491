//! Against the emulator for what AWS does, against the fake for what it rarely does.

use std::{error::Error as _, time::Instant};

use aws_credential_types::{
    Credentials,
    provider::{ProvideCredentials, error::CredentialsError, future},
};

use super::{
    fake::{Behaviour, Fake, Moto},
    *,
};
use crate::backends::conformance::{self, Profile};

/// Longer than any answer takes.
const TIMEOUT: Duration = Duration::from_secs(20);
const CANARY: &str = "canary-7d21";

#[derive(Debug)]
struct NoCredentials;

impl ProvideCredentials for NoCredentials {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::ready(Err(CredentialsError::not_loaded("none are configured")))
    }
}

async fn base(url: &str) -> SdkConfig {
    let key = Credentials::new("test", "test", None, None, "test");
    let region = Region::new("us-east-1");
    let loader = loader().region(region).endpoint_url(url).credentials_provider(key);
    loader.load().await
}

async fn backend(url: &str, prefix: &str, timeout: Duration) -> AwsBackend {
    let settings = AwsSettings { prefix: prefix.to_owned(), ..AwsSettings::default() };
    AwsBackend::new(base(url).await, settings, timeout).await.expect("set up")
}

fn name(raw: &str) -> SecretName {
    conformance::name(AwsBackend::GRAMMAR, raw)
}

async fn get(backend: &AwsBackend, raw: &str) -> Result<SecretRecord, BackendError> {
    backend.get(&name(raw), &SecretVersion::Latest).await
}

/// An address where nothing listens.
async fn closed() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
    format!("http://{}", listener.local_addr().expect("bound"))
}

/// One test for all, so that the server is started once and ended with it.
#[tokio::test]
async fn backend_agrees_with_an_emulated_store() {
    let moto = Moto::start().await;
    deleted_secrets_are_pending(&moto).await;
    each_method_is_one_call(&moto).await;
    roles_are_assumed_when_first_needed(&moto).await;
    store_conforms(&moto).await;
}

async fn store_conforms(moto: &Moto) {
    let backend = backend(&moto.url, "mesh/", TIMEOUT).await;
    // Neighbours: without the prefix, and with names that no caller may use.
    for neighbour in ["other", "mesh", "mesh/", "mesh//odd", "mesh/a..b"] {
        let call = backend.client.create_secret().name(neighbour).secret_string("x");
        call.send().await.expect("created");
    }
    let odd_names = &["of.a_secret+1=2@x-y", "a/b/c/d"];
    let profile = Profile { odd_names, empty_values: false, ..Profile::new(AwsBackend::GRAMMAR) };
    conformance::assert_conforms(&backend, profile).await;
}

async fn each_method_is_one_call(moto: &Moto) {
    let backend = backend(&moto.url, "counted/", TIMEOUT).await;
    let (name, value) = (name("a/b"), SecretValue::new("x"));
    moto.calls();
    backend.create(&name, &value).await.expect("created");
    assert_eq!(moto.calls(), ["CreateSecret"]);
    backend.create(&name, &value).await.expect_err("taken");
    assert_eq!(moto.calls(), ["CreateSecret"]);
    backend.update(&name, &value).await.expect("updated");
    assert_eq!(moto.calls(), ["PutSecretValue"]);
    for selector in ["latest", "previous", "AWSCURRENT"] {
        let version = SecretVersion::parse(selector).expect("valid selector");
        backend.get(&name, &version).await.expect("readable");
        assert_eq!(moto.calls(), ["GetSecretValue"], "{selector}");
    }
    backend.list(None).await.expect("listed");
    assert_eq!(moto.calls(), ["ListSecrets"]);
    backend.delete(&name, true).await.expect("deleted");
    assert_eq!(moto.calls(), ["DeleteSecret"]);
    get(&backend, "a/b").await.expect_err("gone");
    assert_eq!(moto.calls(), ["GetSecretValue"]);
    // AWS reports success for this too.
    backend.delete(&name, true).await.expect("nothing to delete");
    assert_eq!(moto.calls(), ["DeleteSecret"]);
}

async fn deleted_secrets_are_pending(moto: &Moto) {
    let backend = backend(&moto.url, "pending/", TIMEOUT).await;
    let name = name("db");
    backend.create(&name, &SecretValue::new("x")).await.expect("created");
    backend.delete(&name, false).await.expect("deleted");
    let read = get(&backend, "db").await;
    assert!(matches!(read, Err(BackendError::PendingDeletion)), "{read:?}");
    let again = backend.delete(&name, false).await;
    assert!(matches!(again, Err(BackendError::PendingDeletion)), "{again:?}");
    assert_eq!(backend.list(None).await.expect("listed").names, []);
    backend.client.restore_secret().secret_id("pending/db").send().await.expect("restored");
    get(&backend, "db").await.expect("readable");
    backend.delete(&name, true).await.expect("deleted");
}

async fn roles_are_assumed_when_first_needed(moto: &Moto) {
    let settings = AwsSettings {
        assume_role: Some("arn:aws:iam::123456789012:role/mesh".to_owned()),
        ..AwsSettings::default()
    };
    moto.calls();
    let backend = AwsBackend::new(base(&moto.url).await, settings, TIMEOUT).await.expect("set up");
    assert_eq!(moto.calls(), [""; 0]);
    for _ in 0..3 {
        get(&backend, "missing").await.expect_err("missing");
    }
    // STS has no target header.
    assert_eq!(moto.calls(), ["other", "GetSecretValue", "GetSecretValue", "GetSecretValue"]);
}

#[tokio::test]
async fn errors_are_sorted_and_nothing_is_called_twice() {
    let fake = Fake::start().await;
    let backend = backend(&fake.url, "", TIMEOUT).await;
    for (status, headers, body, expected) in [
        (
            400,
            &[("retry-after", "7")][..],
            r#"{"__type":"ThrottlingException","message":"Rate exceeded"}"#,
            "Throttled { retry_after: Some(7s) }",
        ),
        (400, &[], r#"{"__type":"ThrottlingException"}"#, "Throttled { retry_after: None }"),
        (
            400,
            &[("x-amzn-errortype", "com.amazonaws#AccessDeniedException:http://internal/")],
            r#"{"message":"User: arn is not authorized"}"#,
            "PermissionDenied(Some(",
        ),
        (500, &[], r#"{"__type":"InternalServiceError"}"#, "Unavailable(Some("),
        (502, &[], "<html>bad gateway</html>", "Unavailable(Some("),
        (400, &[], r#"{"__type":"ResourceNotFoundException"}"#, "NotFound"),
        (
            400,
            &[],
            r#"{"__type":"InvalidRequestException","Message":"it was marked for deletion."}"#,
            "PendingDeletion",
        ),
        (400, &[], r#"{"__type":"InvalidParameterException"}"#, "Invalid("),
        (200, &[], "{", "Unavailable(None)"),
        (200, &[], r#"{"SecretString":"x"}"#, "Invalid(\"no version was returned\")"),
        (200, &[], r#"{"Name":"db","VersionId":"1"}"#, "NotFound"),
        (
            200,
            &[],
            r#"{"Name":"db2","SecretString":"x","VersionId":"1"}"#,
            "Invalid(\"another secret was returned\")",
        ),
    ] {
        fake.answer(status, headers, body);
        let error = get(&backend, "db").await.expect_err(body);
        assert!(format!("{error:?}").starts_with(expected), "{body}: {error:?}");
        assert_eq!(fake.calls(), ["GetSecretValue"], "{body}");
    }
}

#[tokio::test]
async fn texts_of_the_store_reach_the_cause_at_most() {
    let fake = Fake::start().await;
    let backend = backend(&fake.url, "", TIMEOUT).await;
    for (status, body) in [
        (400, r#"{"__type":"AccessDeniedException","message":"canary-7d21"}"#),
        (400, r#"{"__type":"ValidationException","message":"canary-7d21"}"#),
        (400, r#"{"__type":"canary-7d21","message":"canary-7d21"}"#),
        (400, r#"{"__type":"ThrottlingException","message":"canary-7d21"}"#),
        (500, r#"{"__type":"InternalServiceError","message":"canary-7d21"}"#),
    ] {
        fake.answer(status, &[], body);
        let error = get(&backend, "db").await.expect_err(body);
        assert!(!error.to_string().contains(CANARY), "{error}");
    }
    // Answers that may hold a value: not even the cause shows them.
    for (status, body) in [
        (200, r#"{"Name":"db","SecretString":"canary-7d21""#),
        (200, r#"{"Name":"db","VersionId":"1","SecretString":"canary-7d21\q"}"#),
        (200, r#"{"Name":"db2","VersionId":"1","SecretString":"canary-7d21"}"#),
        (500, r#"{"SecretString":"canary-7d21"}"#),
        (400, "canary-7d21"),
    ] {
        fake.answer(status, &[], body);
        let error = get(&backend, "db").await.expect_err(body);
        let shown = format!("{error:?} {error} {:?}", error.source());
        assert!(!shown.contains(CANARY), "{shown}");
    }
}

#[tokio::test]
async fn silence_and_refusal_are_transient() {
    let short = Duration::from_millis(300);
    let fake = Fake::start().await;
    fake.set(Behaviour::Hang);
    let silent = backend(&fake.url, "", short).await;
    let started = Instant::now();
    let error = get(&silent, "db").await.expect_err("no answer");
    assert!(matches!(error, BackendError::TimedOut), "{error:?}");
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    assert_eq!(fake.calls(), ["GetSecretValue"]);

    let refusing = backend(&closed().await, "", TIMEOUT).await;
    let error = get(&refusing, "db").await.expect_err("refused");
    assert!(matches!(error, BackendError::Unavailable(Some(_))), "{error:?}");
    assert!(error.source().is_some_and(|cause| cause.to_string().contains("refused")), "{error:?}");
}

#[tokio::test]
async fn missing_credentials_are_a_denial_and_unreachable_ones_an_outage() {
    let fake = Fake::start().await;
    let config = base(&fake.url).await.into_builder();
    let config = config.credentials_provider(SharedCredentialsProvider::new(NoCredentials)).build();
    let without = AwsBackend::new(config, AwsSettings::default(), TIMEOUT).await.expect("set up");
    let error = get(&without, "db").await.expect_err("no credentials");
    assert!(matches!(error, BackendError::PermissionDenied(Some(_))), "{error:?}");

    let settings = AwsSettings {
        endpoint_url: Some(fake.url.clone()),
        assume_role: Some("arn:aws:iam::123456789012:role/mesh".to_owned()),
        ..AwsSettings::default()
    };
    let config = base(&closed().await).await.into_builder();
    let config = config.retry_config(RetryConfig::disabled()).build();
    let cut_off = AwsBackend::new(config, settings.clone(), TIMEOUT).await.expect("set up");
    let error = get(&cut_off, "db").await.expect_err("no credentials");
    assert!(matches!(error, BackendError::Unavailable(Some(_))), "{error:?}");
    assert_eq!(fake.calls(), [""; 0]);

    let refused = "<ErrorResponse><Error><Code>AccessDenied</Code></Error></ErrorResponse>";
    fake.answer(403, &[], refused);
    let config = base(&fake.url).await;
    let denied = AwsBackend::new(config, settings, TIMEOUT).await.expect("set up");
    let error = get(&denied, "db").await.expect_err("no credentials");
    assert!(matches!(error, BackendError::PermissionDenied(Some(_))), "{error:?}");
    assert_eq!(fake.calls(), ["other"]);
}

#[tokio::test]
async fn connect_calls_no_one_and_refuses_settings_that_cannot_work() {
    let fake = Fake::start().await;
    let settings = AwsSettings {
        region: Some("eu-central-1".to_owned()),
        endpoint_url: Some(fake.url.clone()),
        assume_role: Some("arn:aws:iam::123456789012:role/mesh".to_owned()),
        ..AwsSettings::default()
    };
    AwsBackend::connect(settings.clone(), TIMEOUT).await.expect("set up");
    assert_eq!(fake.calls(), [""; 0]);

    for prefix in ["arn:aws:", "a b", "é", &"p".repeat(512)] {
        let settings = AwsSettings { prefix: prefix.to_owned(), ..settings.clone() };
        let refused = AwsBackend::connect(settings, TIMEOUT).await.expect_err(prefix);
        assert_eq!(refused, AwsSetupError::Prefix(prefix.to_owned()));
    }
    let nowhere = SdkConfig::builder().build();
    let refused = AwsBackend::new(nowhere, AwsSettings::default(), TIMEOUT).await;
    assert_eq!(refused.expect_err("no region"), AwsSetupError::NoRegion);
}

#[tokio::test]
async fn empty_values_are_refused_without_a_call() {
    let fake = Fake::start().await;
    let backend = backend(&fake.url, "", TIMEOUT).await;
    let (name, empty) = (name("db"), SecretValue::new(""));
    for refused in [backend.create(&name, &empty).await, backend.update(&name, &empty).await] {
        assert!(matches!(refused, Err(BackendError::Invalid(_))), "{refused:?}");
    }
    assert_eq!(fake.calls(), [""; 0]);
}

#[test]
fn selectors_are_stages_or_ids() {
    let id = "a1b2c3d4-5678-90ab-cdef-EXAMPLE11111";
    let long = "s".repeat(65);
    for (selector, expected) in [
        ("latest", Selector::Current),
        ("current", Selector::Stage("AWSCURRENT")),
        ("previous", Selector::Stage("AWSPREVIOUS")),
        ("pending", Selector::Stage("AWSPENDING")),
        ("AWSPENDING", Selector::Stage("AWSPENDING")),
        ("Previous", Selector::Stage("Previous")),
        ("7", Selector::Stage("7")),
        (&long, Selector::Stage(&long)),
        (id, Selector::Id(id)),
    ] {
        let version = SecretVersion::parse(selector).expect("valid selector");
        assert_eq!(Selector::of(&version), expected, "{selector}");
    }
}
