//! Against the fake, for what a real server rarely does, and to count calls.

mod session;
mod setup;

use std::sync::{
    Mutex,
    atomic::{AtomicUsize, Ordering},
};

use super::*;
use crate::backends::{
    conformance,
    fake::{Call, Fake, Reply},
    faults::{self, CANARY, Fault, Method},
};

/// Longer than any answer takes.
const TIMEOUT: Duration = Duration::from_secs(20);

/// For tests of silence.
const SHORT: Duration = Duration::from_millis(300);

fn name(raw: &str) -> SecretName {
    conformance::name(VaultBackend::GRAMMAR, raw)
}

fn credential(text: &str) -> Credential {
    Credential::new(SecretValue::new(text))
}

fn settings(address: &str) -> VaultSettings {
    VaultSettings {
        address: address.to_owned(),
        namespace: None,
        mount: "secret".to_owned(),
        version: KvVersion::Two,
        prefix: String::new(),
        ca_file: None,
        auth: VaultAuth::Token(credential("configured-token")),
    }
}

fn connect(settings: VaultSettings) -> VaultBackend {
    VaultBackend::connect(settings, TIMEOUT).expect("set up")
}

async fn get(backend: &VaultBackend, raw: &str) -> Result<SecretRecord, BackendError> {
    backend.get(&name(raw), &SecretVersion::Latest).await
}

/// The calls since the last time, as `METHOD target body`.
fn seen(fake: &Fake) -> Vec<String> {
    let line = |call: &Call| {
        let body = String::from_utf8_lossy(&call.body);
        format!("{} {} {body}", call.method, call.target).trim_end().to_owned()
    };
    fake.calls().iter().map(line).collect()
}

/// What a server says of a token that lives for ever.
fn looked_up() -> Reply {
    Reply::json(200, r#"{"data":{"ttl":0,"renewable":false}}"#)
}

fn errors(status: u16, text: &str) -> Reply {
    Reply::json(status, serde_json::json!({"errors": [text]}).to_string())
}

fn missing() -> Reply {
    Reply::json(404, r#"{"errors":[]}"#)
}

fn written(version: u64) -> Reply {
    Reply::json(200, format!(r#"{{"data":{{"version":{version},"destroyed":false}}}}"#))
}

fn stale() -> Reply {
    errors(400, "check-and-set parameter did not match the current version")
}

/// The metadata of a secret at version 3, of which this is said.
fn metadata(current: &str) -> Reply {
    Reply::json(
        200,
        format!(
            r#"{{"data":{{"current_version":3,"versions":{{"2":{{"created_time":"2026-01-02T03:04:05.678Z","deletion_time":"2026-01-02T03:04:05Z","destroyed":true}},"3":{current}}}}}}}"#
        ),
    )
}

const READABLE: &str =
    r#"{"created_time":"2026-01-02T03:04:05.678Z","deletion_time":"","destroyed":false}"#;
const DELETED: &str = r#"{"deletion_time":"2026-01-02T03:04:05.678Z","destroyed":false}"#;
const DESTROYED: &str = r#"{"deletion_time":"","destroyed":true}"#;
const EXPIRING: &str = r#"{"deletion_time":"2999-01-02T03:04:05.678Z","destroyed":false}"#;

/// A backend of a configured token whose lookup is over.
async fn ready(fake: &Fake, settings: VaultSettings, timeout: Duration) -> VaultBackend {
    let backend = VaultBackend::connect(settings, timeout).expect("set up");
    fake.on(|call| match call.target.contains("/v1/auth/") {
        true => looked_up(),
        false => missing(),
    });
    get(&backend, "missing").await.expect_err("missing");
    fake.calls();
    backend
}

/// The same, for answers by method and path.
async fn answering(
    fake: &Fake,
    settings: VaultSettings,
    reply: impl Fn(&str) -> Reply + Send + Sync + 'static,
) -> VaultBackend {
    let backend = ready(fake, settings, TIMEOUT).await;
    fake.on(move |call| reply(&format!("{} {}", call.method, call.target)));
    backend
}

#[tokio::test]
async fn refusals_and_failures_are_sorted_on_every_method() {
    let fake = Fake::start().await;
    let sealed = || errors(503, "Vault is sealed");
    for version in [KvVersion::One, KvVersion::Two] {
        let backend = ready(&fake, VaultSettings { version, ..settings(&fake.url) }, SHORT).await;
        let mut rows = vec![
            Fault::new("denied", errors(403, "1 error occurred"), "permission_denied"),
            Fault::new("refused", errors(400, CANARY), "invalid"),
            Fault::new("no such mount", errors(404, "no handler for route \"x\""), "invalid"),
            Fault::new("not Vault's 404", Reply::new(404, CANARY), "invalid"),
            Fault::new("not allowed", errors(405, "unsupported operation"), "invalid"),
            Fault::new("replica is behind", errors(412, "required index state"), "unavailable"),
            Fault::new("quota", errors(429, "quota").header("retry-after", "7"), "throttled")
                .retry_after(7),
            Fault::new("quota without a time", errors(429, "quota"), "throttled"),
            Fault::new("recovery replica", Reply::new(472, ""), "unavailable"),
            Fault::new("performance standby", Reply::new(473, ""), "unavailable"),
            Fault::new("failing", errors(500, "1 error occurred"), "unavailable"),
            Fault::new("sealed", sealed(), "unavailable"),
            Fault::new(
                "standby",
                Reply::new(307, "").header("location", "http://127.0.0.1:1/v1/"),
                "unavailable",
            ),
            Fault::new("nonsense", Reply::json(200, CANARY), "unavailable"),
            Fault::new("half an answer", Reply::json(200, r#"{"data":"#), "unavailable"),
        ];
        rows.extend(faults::of_the_connection());
        if version == KvVersion::Two {
            let repeated = [403, 500, 503].map(|status| errors(status, CANARY));
            rows.extend(
                repeated.into_iter().zip(["permission_denied", "unavailable", "unavailable"]).map(
                    |(reply, kind)| {
                        Fault::new("repeats the value", reply, kind).on(&[Method::Create])
                    },
                ),
            );
        }
        faults::check(&backend, &fake, &name("db"), rows).await;
        let absent: &[Method] = &[Method::Get, Method::Update, Method::Delete, Method::Versions];
        let rows = vec![Fault::new("missing", missing(), "not_found").on(absent)];
        faults::check(&backend, &fake, &name("db"), rows).await;

        fake.always(sealed());
        let error = get(&backend, "db").await.expect_err("sealed");
        let cause = std::error::Error::source(&error).expect("a cause").to_string();
        assert_eq!(cause, "status 503: Vault is sealed");
    }
}

#[tokio::test]
async fn version_2_makes_the_fewest_calls() {
    let fake = Fake::start().await;
    let settings = VaultSettings {
        namespace: Some("team/a".to_owned()),
        mount: "kv/v+2".to_owned(),
        prefix: "p/".to_owned(),
        ..settings(&format!("{}/behind/a/proxy/", fake.url))
    };
    let backend = answering(&fake, settings, |call| match call {
        "GET /behind/a/proxy/v1/kv/v%2B2/metadata/p/?list=true" => {
            Reply::json(200, r#"{"data":{"keys":["a","b c","../x"]}}"#)
        }
        call if call.contains("/metadata/") && call.starts_with("GET") => metadata(READABLE),
        call if call.starts_with("GET") => Reply::json(
            200,
            format!(
                r#"{{"data":{{"data":{{"a":1}},"metadata":{}}}}}"#,
                READABLE.replace('}', r#","version":3}"#)
            ),
        ),
        call if call.starts_with("POST") => written(4),
        _ => Reply::new(204, ""),
    })
    .await;
    let (secret, value) = (name("a/b=c@d+e"), SecretValue::new("x"));
    let path = "p/a/b%3Dc%40d%2Be";

    let found = backend.get(&secret, &SecretVersion::Latest).await.expect("found");
    assert_eq!((&*found.version, found.value.len()), ("3", 7));
    assert!(found.created_at.is_some());
    let calls = fake.calls();
    assert_eq!(calls.len(), 1);
    assert_eq!(calls[0].target, format!("/behind/a/proxy/v1/kv/v%2B2/data/{path}"));
    for (header, expected) in [
        ("x-vault-token", "configured-token"),
        ("x-vault-namespace", "team/a"),
        ("x-vault-request", "true"),
    ] {
        assert_eq!(calls[0].headers[header], expected);
    }

    let third = SecretVersion::parse("3").expect("valid selector");
    backend.get(&secret, &third).await.expect("found");
    assert_eq!(seen(&fake), [format!("GET /behind/a/proxy/v1/kv/v%2B2/data/{path}?version=3")]);
    let base = "/behind/a/proxy/v1/kv/v%2B2";
    assert_eq!(&*backend.create(&secret, &value).await.expect("created"), "4");
    let wrapped = r#"{"encoding":"utf-8","value":"x"}"#;
    let written = |cas: u64| {
        format!(r#"POST {base}/data/{path} {{"options":{{"cas":{cas}}},"data":{wrapped}}}"#)
    };
    assert_eq!(seen(&fake), [written(0)]);
    assert_eq!(&*backend.update(&secret, &value).await.expect("updated"), "4");
    assert_eq!(seen(&fake), [format!("GET {base}/metadata/{path}"), written(3)]);
    backend.delete(&secret, false).await.expect("deleted");
    assert_eq!(
        seen(&fake),
        [format!("GET {base}/metadata/{path}"), format!("DELETE {base}/data/{path}")]
    );
    backend.delete(&secret, true).await.expect("deleted");
    assert_eq!(
        seen(&fake),
        [format!("GET {base}/metadata/{path}"), format!("DELETE {base}/metadata/{path}")]
    );
    let versions = backend.versions(&secret).await.expect("listed");
    let versions: Vec<_> = versions.iter().map(|entry| (&*entry.id, entry.enabled)).collect();
    assert_eq!(versions, [("3", true), ("2", false)]);
    assert_eq!(seen(&fake), [format!("GET {base}/metadata/{path}")]);
    let page = backend.list(None).await.expect("listed");
    assert_eq!(page.names, [name("a")]);
    assert_eq!(seen(&fake), [format!("GET {base}/metadata/p/?list=true")]);
}

#[tokio::test]
async fn version_1_looks_first() {
    let fake = Fake::start().await;
    let settings = VaultSettings { version: KvVersion::One, ..settings(&fake.url) };
    let held = Arc::new(Mutex::new(None::<String>));
    let backend = ready(&fake, settings, TIMEOUT).await;
    let store = Arc::clone(&held);
    fake.on(move |call| {
        let mut held = store.lock().unwrap();
        match call.method.as_str() {
            "GET" => match &*held {
                Some(data) => Reply::json(200, format!(r#"{{"data":{data},"lease_duration":1}}"#)),
                None => missing(),
            },
            "DELETE" => {
                *held = None;
                Reply::new(204, "")
            }
            _ => {
                *held = Some(String::from_utf8(call.body.to_vec()).unwrap());
                Reply::new(204, "")
            }
        }
    });
    let (secret, value) = (name("a/b"), SecretValue::new(r#"{"a":1}"#));
    let made = backend.create(&secret, &value).await.expect("created");
    assert_eq!(seen(&fake), ["GET /v1/secret/a/b", r#"POST /v1/secret/a/b {"a":1}"#]);
    let found = get(&backend, "a/b").await.expect("found");
    assert_eq!(found.version, made);
    assert_eq!(seen(&fake), ["GET /v1/secret/a/b"]);
    let by_version = SecretVersion::parse(&made).expect("can be selected");
    assert!(backend.can_have(&by_version) && backend.can_have(&SecretVersion::Latest));
    for never in ["1", "previous", "0123456789ABCDEF", "0123456789abcdef0"] {
        let never = SecretVersion::parse(never).expect("a selector");
        assert!(!backend.can_have(&never), "{never:?}");
        let error = backend.get(&secret, &never).await.expect_err("no hash");
        assert_eq!(error.kind(), "not_found");
    }
    assert_eq!(seen(&fake), [""; 0]);
    backend.get(&secret, &by_version).await.expect("found");
    let other = backend.update(&secret, &SecretValue::new("other")).await.expect("updated");
    assert_ne!(made, other);
    let gone = backend.get(&secret, &by_version).await.expect_err("replaced");
    assert_eq!(gone.kind(), "not_found");
    assert_eq!(backend.create(&secret, &value).await.expect_err("taken").kind(), "conflict");
    fake.calls();
    backend.delete(&secret, false).await.expect("deleted");
    assert_eq!(seen(&fake), ["GET /v1/secret/a/b", "DELETE /v1/secret/a/b"]);

    let of_version_2 =
        r#"{"data":null,"warnings":["Invalid path for a versioned K/V secrets engine."]}"#;
    fake.always(Reply::json(404, of_version_2));
    let error = backend.create(&secret, &value).await.expect_err("wrong mount");
    assert!(matches!(&error, BackendError::Invalid(text) if text.contains("version 2")), "{error}");
    assert_eq!(fake.calls().len(), 1, "nothing is written to it");
}

#[tokio::test]
async fn deleted_versions_are_pending_and_destroyed_ones_gone() {
    let fake = Fake::start().await;
    let secret = name("db");
    let value = SecretValue::new("x");
    for (state, get, create, update, delete) in [
        (READABLE, "ok", "conflict", "ok", "ok"),
        (EXPIRING, "ok", "conflict", "ok", "ok"),
        (DELETED, "pending_deletion", "pending_deletion", "pending_deletion", "pending_deletion"),
        (DESTROYED, "not_found", "ok", "not_found", "not_found"),
    ] {
        let readable = get == "ok";
        let backend = answering(&fake, settings(&fake.url), move |call| {
            let data = if readable { r#"{"a":1}"# } else { "null" };
            match call.split_once(" /v1/secret/").expect("of the mount") {
                ("GET", "metadata/db") => metadata(state),
                ("GET", _) => Reply::json(
                    if readable { 200 } else { 404 },
                    format!(r#"{{"data":{{"data":{data},"metadata":{state}}}}}"#),
                ),
                ("POST", _) => stale(),
                _ => Reply::new(204, ""),
            }
        })
        .await;
        let kind = |error: Option<BackendError>| error.map_or("ok", |error| error.kind());
        let read = backend.get(&secret, &SecretVersion::Latest).await;
        assert_eq!(kind(read.err()), get, "{state}");
        let deleted = backend.delete(&secret, false).await;
        assert_eq!(kind(deleted.err()), delete, "{state}");
        assert_eq!(kind(backend.delete(&secret, true).await.err()), "ok", "{state}");
        // Every write is stale but one that names the current version.
        fake.on(move |call| match call.method.as_str() {
            "POST" if call.body.starts_with(br#"{"options":{"cas":3}"#) => written(4),
            "POST" => stale(),
            _ => metadata(state),
        });
        assert_eq!(kind(backend.create(&secret, &value).await.err()), create, "{state}");
        assert_eq!(kind(backend.update(&secret, &value).await.err()), update, "{state}");
    }
}

#[tokio::test]
async fn a_create_that_may_not_update_still_tells_what_is_taken() {
    let fake = Fake::start().await;
    let value = SecretValue::new("x");
    // The policy lets it create: Vault denies the same call on a name that is taken.
    let backend = answering(&fake, settings(&fake.url), |call| match call {
        "GET /v1/secret/metadata/taken" => metadata(READABLE),
        "GET /v1/secret/metadata/free" => missing(),
        _ => errors(403, "permission denied"),
    })
    .await;
    for (raw, kind) in
        [("taken", "conflict"), ("free", "permission_denied"), ("hidden", "permission_denied")]
    {
        let error = backend.create(&name(raw), &value).await.expect_err(raw);
        assert_eq!(error.kind(), kind, "{raw}");
    }
}

#[tokio::test]
async fn updates_start_over_when_another_came_first() {
    let fake = Fake::start().await;
    let value = SecretValue::new("x");
    for (lost, kind, calls) in [(1, "ok", 4), (2, "ok", 6), (3, "unavailable", 6)] {
        let left = AtomicUsize::new(lost);
        let backend = answering(&fake, settings(&fake.url), move |call| {
            let lose = |left: usize| left.checked_sub(1);
            match call.starts_with("GET") {
                true => metadata(READABLE),
                false => match left.try_update(Ordering::Relaxed, Ordering::Relaxed, lose) {
                    Ok(_) => stale(),
                    Err(_) => written(4),
                },
            }
        })
        .await;
        let updated = backend.update(&name("db"), &value).await;
        assert_eq!(updated.err().map_or("ok", |error| error.kind()), kind);
        assert_eq!(fake.calls().len(), calls);
    }
}

#[tokio::test]
async fn a_conditional_update_is_one_call_that_the_store_decides() {
    let fake = Fake::start().await;
    let value = SecretValue::new("x");
    for (answer, kind) in [(written(4), "ok"), (stale(), "conflict")] {
        let backend = answering(&fake, settings(&fake.url), move |_| answer.clone()).await;
        let updated = backend.update_if(&name("db"), &value, "3").await;
        assert_eq!(updated.err().map_or("ok", |error| error.kind()), kind);
        let [write] = &fake.calls()[..] else { panic!("not one call") };
        let sent = String::from_utf8_lossy(&write.body).into_owned();
        assert!(sent.starts_with(r#"{"options":{"cas":3},"#), "{sent}");
        let never = backend.update_if(&name("db"), &value, "0").await.expect_err("no version");
        assert_eq!((never.kind(), fake.calls().len()), ("conflict", 0));
    }
}

#[tokio::test]
async fn selectors_that_vault_would_bend_are_not_sent() {
    let fake = Fake::start().await;
    let backend = ready(&fake, settings(&fake.url), TIMEOUT).await;
    for selector in ["0", "00", "01", "+1", "-1", "1.0", "0x1", "previous", "99999999999999999999"]
    {
        let version = SecretVersion::parse(selector).expect("a selector");
        let error = backend.get(&name("db"), &version).await.expect_err(selector);
        assert_eq!(error.kind(), "not_found", "{selector}");
        assert!(!backend.can_have(&version), "{selector}");
    }
    assert_eq!(seen(&fake), [""; 0]);
    for selector in ["latest", "1", "4294967295"] {
        assert!(backend.can_have(&SecretVersion::parse(selector).expect("a selector")));
    }
    let other = r#"{"data":{"data":{"a":1},"metadata":{"version":2}}}"#;
    fake.always(Reply::json(200, other));
    let third = SecretVersion::parse("3").expect("a selector");
    let error = backend.get(&name("db"), &third).await.expect_err("another version");
    assert_eq!(error.kind(), "invalid");
}

#[tokio::test]
async fn a_token_is_never_sent_to_another_address() {
    let (standby, active) = (Fake::start().await, Fake::start().await);
    let backend = ready(&standby, settings(&standby.url), TIMEOUT).await;
    for status in [301, 302, 303, 307, 308] {
        // Not even within the same address.
        for target in [&active.url, &standby.url] {
            let location = format!("{target}/v1/secret/data/db");
            standby.always(Reply::new(status, "").header("location", &location));
            let error = get(&backend, "db").await.expect_err("a standby");
            assert_eq!(error.kind(), "unavailable", "{status}");
            let cause = std::error::Error::source(&error).expect("a cause").to_string();
            assert!(cause.contains("standby"), "{cause}");
            assert_eq!(standby.calls().len(), 1, "{status}");
        }
    }
    assert_eq!(active.calls().len(), 0);
}

#[tokio::test]
async fn values_that_are_too_long_are_refused_without_a_call() {
    let fake = Fake::start().await;
    let backend = ready(&fake, settings(&fake.url), TIMEOUT).await;
    let long = SecretValue::new(vec![b'x'; MAX_VALUE + 1]);
    for refused in [
        backend.accepts(&long),
        backend.create(&name("db"), &long).await.map(drop),
        backend.update(&name("db"), &long).await.map(drop),
    ] {
        assert_eq!(refused.expect_err("too long").kind(), "invalid");
    }
    backend.accepts(&SecretValue::new(vec![b'x'; MAX_VALUE])).expect("short enough");
    assert_eq!(seen(&fake), [""; 0]);
}

#[tokio::test]
async fn answers_that_are_too_long_are_not_read() {
    let fake = Fake::start().await;
    let backend = ready(&fake, settings(&fake.url), TIMEOUT).await;
    fake.always(Reply::json(200, vec![b' '; (8 << 20) + 1]));
    assert_eq!(get(&backend, "db").await.expect_err("too long").kind(), "invalid");
}
