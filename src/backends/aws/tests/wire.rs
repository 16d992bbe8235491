//! What AWS does when it refuses or fails, which no emulator shows, in its own
//! wire format.

use std::{error::Error as _, time::Instant};

use serde_json::{Value, json};

use super::*;
use crate::backends::faults::{self, Fault, Method};

#[tokio::test]
async fn every_refusal_and_failure_is_sorted_on_every_method() {
    let fake = Fake::start().await;
    let backend = backend(&fake.url, "", Duration::from_millis(500)).await;
    let mut faults = refusals();
    faults.extend(nonsense());
    faults.extend(faults::of_the_connection());
    faults::check(&backend, &fake, &name("db"), faults).await;
}

fn refusals() -> Vec<Fault> {
    const NAMED: &[Method] =
        &[Method::Get, Method::Create, Method::Update, Method::Delete, Method::Versions];
    const WRITES: &[Method] = &[Method::Create, Method::Update];
    let canary = faults::CANARY;
    let scoped = "User: arn:aws:sts::123456789012:assumed-role/mesh/pod is not authorized to \
                  perform: secretsmanager:GetSecretValue on resource: db because no \
                  identity-based policy allows the secretsmanager:GetSecretValue action";
    let marked =
        "You can't perform this operation on the secret because it was marked for deletion.";
    let scheduled = "You can't create this secret because a secret with this name is already \
                     scheduled for deletion.";
    let wrong_region = "Credential should be scoped to a valid region.";
    let repeated = format!("Value '{canary}' at 'secretString' failed to satisfy constraint");
    vec![
        Fault::new(
            "throttled with a wait",
            error("ThrottlingException", "Rate exceeded").header("retry-after", "7"),
            "throttled",
        )
        .retry_after(7),
        Fault::new("throttled", error("ThrottlingException", "Rate exceeded"), "throttled"),
        Fault::new("over the account's rate", error("RequestLimitExceeded", ""), "throttled"),
        Fault::new(
            "gateway throttles",
            Reply::new(429, "").header("retry-after", "2"),
            "throttled",
        )
        .retry_after(2),
        Fault::new(
            "missing or forbidden name",
            error("AccessDeniedException", scoped),
            "permission_denied",
        ),
        Fault::new(
            "code in a header",
            Reply::new(400, "{}")
                .header("x-amzn-errortype", "com.amazonaws#AccessDeniedException:http://x/"),
            "permission_denied",
        ),
        Fault::new(
            "key policy",
            error("AccessDeniedException", "Access to KMS is not allowed"),
            "permission_denied",
        )
        .on(&[Method::Get, Method::Create, Method::Update]),
        Fault::new("key gone", error("DecryptionFailure", "key"), "permission_denied")
            .on(&[Method::Get]),
        Fault::new("key disabled", error("EncryptionFailure", "key"), "permission_denied")
            .on(WRITES),
        Fault::new("expired token", error("ExpiredTokenException", "expired"), "permission_denied"),
        Fault::new("unknown key", error("UnrecognizedClientException", ""), "permission_denied"),
        Fault::new(
            "signed for another region",
            error("InvalidSignatureException", wrong_region),
            "permission_denied",
        ),
        Fault::new("our clock is wrong", error("RequestExpired", ""), "permission_denied"),
        Fault::new("endpoint policy", Reply::new(403, "<html>"), "permission_denied"),
        Fault::new("proxy wants a password", Reply::new(407, ""), "permission_denied"),
        Fault::new("missing", error("ResourceNotFoundException", "can't find"), "not_found")
            .on(NAMED),
        Fault::new("taken", error("ResourceExistsException", "exists"), "conflict")
            .on(&[Method::Create]),
        Fault::new(
            "name scheduled",
            error("InvalidRequestException", scheduled),
            "pending_deletion",
        )
        .on(&[Method::Create]),
        Fault::new("marked deleted", error("InvalidRequestException", marked), "pending_deletion")
            .on(NAMED),
        Fault::new("owned by a service", error("InvalidRequestException", "managed"), "invalid"),
        Fault::new("quota of secrets", error("LimitExceededException", ""), "invalid").on(WRITES),
        Fault::new("repeats the value", error("ValidationException", &repeated), "invalid"),
        Fault::new("repeats it as a code", error(canary, &repeated), "invalid"),
        Fault::new("bad cursor", error("InvalidNextTokenException", ""), "invalid")
            .on(&[Method::List, Method::Versions]),
        Fault::new("request timeout", error("RequestTimeout", ""), "timed_out"),
        Fault::new("request timeout by status", Reply::new(408, ""), "timed_out"),
        Fault::new(
            "internal error",
            Reply::new(500, r#"{"__type":"InternalServiceError"}"#),
            "unavailable",
        ),
        Fault::new("internal error with status 400", error("InternalFailure", ""), "unavailable"),
        Fault::new("service unavailable", Reply::new(503, ""), "unavailable"),
    ]
}

/// Answers of success that are none; some hold a value.
fn nonsense() -> Vec<Fault> {
    let value = faults::CANARY;
    let half = format!(r#"{{"Name":"db","VersionId":"1","SecretString":"{value}"#);
    let escape = format!(r#"{{"Name":"db","VersionId":"1","SecretString":"{value}\q"}}"#);
    let other = json!({"Name": "db2", "VersionId": "1", "SecretString": value}).to_string();
    let unversioned = json!({"Name": "db", "SecretString": value}).to_string();
    vec![
        Fault::new("half an answer", Reply::json(200, half), "unavailable"),
        Fault::new("bad escape", Reply::json(200, escape), "unavailable").on(&[Method::Get]),
        Fault::new("somebody's login page", Reply::new(200, "<html>"), "unavailable"),
        Fault::new("another secret", Reply::json(200, other), "invalid").on(&[Method::Get]),
        Fault::new("no version", Reply::json(200, unversioned), "invalid").on(&[
            Method::Get,
            Method::Create,
            Method::Update,
        ]),
        Fault::new("no value", Reply::json(200, r#"{"Name":"db","VersionId":"1"}"#), "not_found")
            .on(&[Method::Get]),
    ]
}

#[tokio::test]
async fn nothing_is_called_twice() {
    let fake = Fake::start().await;
    let backend = backend(&fake.url, "", TIMEOUT).await;
    for reply in [
        error("ThrottlingException", ""),
        error("InternalServiceError", ""),
        error("RequestTimeout", ""),
        Reply::new(503, ""),
        Reply::Reset,
    ] {
        fake.always(reply.clone());
        get(&backend, "db").await.expect_err("refused");
        assert_eq!(operations(&fake), ["GetSecretValue"], "{reply:?}");
    }
}

#[tokio::test]
async fn texts_of_the_store_reach_the_cause_at_most() {
    let fake = Fake::start().await;
    let backend = backend(&fake.url, "", TIMEOUT).await;
    for code in ["AccessDeniedException", "ValidationException", "InternalServiceError", CANARY] {
        fake.always(error(code, CANARY));
        let error = get(&backend, "db").await.expect_err(code);
        assert!(!error.to_string().contains(CANARY), "{error}");
    }
    // Not even that: answers that may hold a value.
    for (status, body) in [(500, r#"{"SecretString":"canary-7d21"}"#), (400, CANARY)] {
        fake.always(Reply::new(status, body));
        let error = get(&backend, "db").await.expect_err(body);
        let shown = format!("{error:?} {error} {:?}", error.source());
        assert!(!shown.contains(CANARY), "{shown}");
    }
}

#[tokio::test]
async fn a_closed_port_is_an_outage() {
    let refusing = backend(&closed().await, "", TIMEOUT).await;
    let error = get(&refusing, "db").await.expect_err("refused");
    assert!(matches!(error, BackendError::Unavailable(Some(_))), "{error:?}");
    assert!(error.source().is_some_and(|cause| cause.to_string().contains("refused")), "{error:?}");
}

#[tokio::test]
async fn a_certificate_of_no_known_authority_gets_no_request() {
    let (fake, _authority) = Fake::start_tls().await;
    fake.always(Reply::json(200, r#"{"Name":"db","VersionId":"1","SecretString":"x"}"#));
    let backend = backend(&fake.url, "", TIMEOUT).await;
    let error = get(&backend, "db").await.expect_err("not trusted");
    let cause = error.source().map(ToString::to_string).unwrap_or_default();
    assert_eq!(error.kind(), "unavailable", "{error:?}");
    assert!(cause.contains("certificate"), "{cause}");
    assert_eq!(operations(&fake), [""; 0]);
}

#[tokio::test]
async fn versions_are_gathered_over_all_pages_newest_first() {
    let fake = Fake::start().await;
    let backend = backend(&fake.url, "", TIMEOUT).await;
    fake.on(|call| {
        let asked: Value = serde_json::from_slice(&call.body).expect("JSON");
        assert_eq!((&asked["SecretId"], &asked["MaxResults"]), (&json!("db"), &json!(100)));
        let version = |id: &str, created: u64, stages: &[&str]| {
            json!({"VersionId": id, "CreatedDate": created, "VersionStages": stages})
        };
        let answer = match asked["NextToken"].as_str() {
            None => json!({"NextToken": "2", "Versions": [
                version("old", 100, &["AWSPREVIOUS"]),
                version("new", 300, &["AWSCURRENT", "blue"]),
            ]}),
            // Whatever has no id cannot be read.
            Some("2") => json!({"NextToken": "", "Versions": [
                version("next", 400, &["AWSPENDING"]),
                {"CreatedDate": 1}, {"VersionId": "bare"},
            ]}),
            Some(other) => panic!("asked for page {other}"),
        };
        Reply::json(200, answer.to_string())
    });
    let versions = backend.versions(&name("db")).await.expect("listed");
    assert_eq!(operations(&fake), ["ListSecretVersionIds", "ListSecretVersionIds"]);
    let shown: Vec<_> = versions
        .iter()
        .map(|entry| (&*entry.id, entry.stages.join(","), entry.created_at.is_some()))
        .collect();
    let row = |id, stages: &str, dated| (id, stages.to_owned(), dated);
    assert_eq!(
        shown,
        [
            row("next", "AWSPENDING", true),
            row("new", "AWSCURRENT,blue", true),
            row("old", "AWSPREVIOUS", true),
            row("bare", "", false),
        ]
    );
    assert!(versions.iter().all(|entry| entry.enabled));
}

#[tokio::test]
async fn pages_without_end_end_with_the_timeout() {
    let fake = Fake::start().await;
    let backend = backend(&fake.url, "", Duration::from_millis(300)).await;
    fake.always(Reply::json(200, r#"{"NextToken":"more","Versions":[]}"#));
    let started = Instant::now();
    let error = backend.versions(&name("db")).await.expect_err("no end");
    assert!(matches!(error, BackendError::TimedOut), "{error:?}");
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
}

#[tokio::test]
async fn writes_say_what_is_configured_and_carry_a_token_each() {
    let fake = Fake::start().await;
    fake.always(Reply::json(200, r#"{"VersionId":"1"}"#));
    let settings = AwsSettings {
        tags: [("team".to_owned(), "payments".to_owned())].into(),
        kms_key_id: Some("alias/mesh".to_owned()),
        recovery_window_days: Some(7),
        ..AwsSettings::default()
    };
    let configured = AwsBackend::new(base(&fake.url).await, settings, TIMEOUT).await;
    let plain = backend(&fake.url, "", TIMEOUT).await;
    let (name, value) = (name("db"), SecretValue::new("x"));
    let mut tokens = std::collections::BTreeSet::new();
    for (backend, expected) in [
        (
            configured.expect("set up"),
            [
                json!({"Name": "db", "SecretString": "x", "KmsKeyId": "alias/mesh",
                       "Tags": [{"Key": "team", "Value": "payments"}]}),
                json!({"SecretId": "db", "SecretString": "x"}),
                json!({"SecretId": "db", "RecoveryWindowInDays": 7}),
                json!({"SecretId": "db", "ForceDeleteWithoutRecovery": true}),
            ],
        ),
        (
            plain,
            [
                json!({"Name": "db", "SecretString": "x"}),
                json!({"SecretId": "db", "SecretString": "x"}),
                json!({"SecretId": "db"}),
                json!({"SecretId": "db", "ForceDeleteWithoutRecovery": true}),
            ],
        ),
    ] {
        backend.create(&name, &value).await.expect("created");
        backend.update(&name, &value).await.expect("updated");
        backend.delete(&name, false).await.expect("deleted");
        backend.delete(&name, true).await.expect("deleted");
        for (call, expected) in fake.calls().iter().zip(expected) {
            let mut sent: Value = serde_json::from_slice(&call.body).expect("JSON");
            let token = sent.as_object_mut().expect("a map").remove("ClientRequestToken");
            if let Some(token) = token {
                assert!(tokens.insert(token.to_string()), "{}: an old token", operation(call));
            }
            assert_eq!(sent, expected, "{}", operation(call));
        }
    }
    assert_eq!(tokens.len(), 4, "creates and updates");
}

#[tokio::test]
async fn connect_calls_no_one_and_refuses_settings_that_cannot_work() {
    let fake = Fake::start().await;
    let settings = AwsSettings {
        region: Some("eu-central-1".to_owned()),
        endpoint_url: Some(fake.url.clone()),
        assume_role: role(),
        ..AwsSettings::default()
    };
    AwsBackend::connect(settings.clone(), TIMEOUT).await.expect("set up");
    assert_eq!(operations(&fake), [""; 0]);

    for prefix in ["arn:aws:", "a b", "\u{e9}", &"p".repeat(512)] {
        let settings = AwsSettings { prefix: prefix.to_owned(), ..settings.clone() };
        let refused = AwsBackend::connect(settings, TIMEOUT).await.expect_err(prefix);
        assert_eq!(refused, AwsSetupError::Prefix(prefix.to_owned()));
    }
    let nowhere = SdkConfig::builder().build();
    let refused = AwsBackend::new(nowhere, AwsSettings::default(), TIMEOUT).await;
    assert_eq!(refused.expect_err("no region"), AwsSetupError::NoRegion);
}

#[tokio::test]
async fn values_that_aws_cannot_hold_are_refused_without_a_call() {
    let fake = Fake::start().await;
    let backend = backend(&fake.url, "", TIMEOUT).await;
    let name = name("db");
    for wrong in [vec![], vec![b'x'; (64 << 10) + 1], vec![0xff; (64 << 10) + 1]] {
        let wrong = SecretValue::new(wrong);
        for refused in [
            backend.accepts(&wrong),
            backend.create(&name, &wrong).await.map(drop),
            backend.update(&name, &wrong).await.map(drop),
        ] {
            assert!(matches!(refused, Err(BackendError::Invalid(_))), "{refused:?}");
        }
    }
    // Of the last it depends on how AWS counts.
    for right in [vec![0], vec![0xff; 64 << 10], "\u{e9}".repeat(64 << 10).into_bytes()] {
        backend.accepts(&SecretValue::new(right)).expect("not refused here");
    }
    assert_eq!(operations(&fake), [""; 0]);
}
