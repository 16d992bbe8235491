//! Over a fake API server: which answers are a yes, and that all others are none.

use std::{io, sync::Mutex};

use serde_json::{Value, json};

use super::*;
use crate::backends::fake::{Call, Fake, Reply};

const TIMEOUT: Duration = Duration::from_secs(20);
const TOKEN: &str = "e30.canary-4f2c9d.c2ln";

fn settings() -> ReviewSettings {
    ReviewSettings {
        audiences: vec!["vaultmux".into(), "vaultmux.mesh".into()],
        per_second: NonZeroU32::new(100).expect("not zero"),
        burst: NonZeroU32::new(100).expect("not zero"),
        timeout: TIMEOUT,
    }
}

fn reviewer(fake: &Fake, settings: ReviewSettings) -> Reviewer {
    Reviewer::new(ApiServer::at(&fake.url, TIMEOUT), settings)
}

fn api() -> ServiceAccount {
    ServiceAccount::new("payments", "api").expect("valid")
}

/// What a real API server answers for a bound token.
fn good() -> Value {
    json!({
        "kind": "TokenReview", "apiVersion": "authentication.k8s.io/v1",
        "metadata": {"creationTimestamp": null},
        "spec": {"token": TOKEN, "audiences": ["vaultmux", "vaultmux.mesh"]},
        "status": {
            "authenticated": true,
            "audiences": ["vaultmux"],
            "user": {
                "username": "system:serviceaccount:payments:api",
                "uid": "u-account",
                "groups": [
                    "system:serviceaccounts",
                    "system:serviceaccounts:payments",
                    "system:authenticated",
                ],
                "extra": {
                    "authentication.kubernetes.io/credential-id": ["JTI=1"],
                    "authentication.kubernetes.io/node-name": ["node-1"],
                    "authentication.kubernetes.io/node-uid": ["u-node"],
                    "authentication.kubernetes.io/pod-name": ["api-0"],
                    "authentication.kubernetes.io/pod-uid": ["u-pod"],
                },
            },
        },
    })
}

fn bound() -> Reviewed {
    Reviewed {
        account_uid: Some("u-account".into()),
        pod: Some(Pod { name: "api-0".into(), uid: "u-pod".into() }),
        node: Some("node-1".into()),
        credential_id: Some("JTI=1".into()),
    }
}

/// The good answer with one part of its status replaced, or taken away.
fn with(path: &str, to: Value) -> Value {
    let mut review = good();
    let (parent, key) = path.rsplit_once('/').expect("a pointer");
    let parent = review.pointer_mut(parent).expect("a parent");
    let parent = parent.as_object_mut().expect("an object");
    match to {
        Value::Null => drop(parent.remove(key)),
        to => drop(parent.insert(key.to_owned(), to)),
    }
    review
}

fn extra(name: &str, to: Value) -> Value {
    let mut review = good();
    let extra = review["status"]["user"]["extra"].as_object_mut().expect("an object");
    let key = format!("authentication.kubernetes.io/{name}");
    assert!(extra.remove(&key).is_some(), "{name}");
    if !to.is_null() {
        extra.insert(key, to);
    }
    review
}

fn created(review: &Value) -> Reply {
    Reply::json(201, review.to_string())
}

#[tokio::test]
async fn the_api_server_is_asked_once_with_our_audiences() {
    let fake = Fake::start().await;
    fake.always(created(&good()));
    let reviewed = reviewer(&fake, settings()).review(TOKEN, &api()).await;
    assert_eq!(reviewed, Ok(bound()));
    let [call] = &fake.calls()[..] else { panic!("not one call") };
    assert_eq!((call.method.as_str(), &*call.target), ("POST", PATH));
    assert_eq!(call.headers["content-type"], "application/json");
    let sent: Value = serde_json::from_slice(&call.body).expect("JSON");
    assert_eq!(
        sent,
        json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
            "spec": {"token": TOKEN, "audiences": ["vaultmux", "vaultmux.mesh"]},
        })
    );

    let none = ReviewSettings { audiences: Vec::new(), ..settings() };
    let refused = reviewer(&fake, none).review(TOKEN, &api()).await;
    assert_eq!(refused, Err(TokenRefusal::Audience.into()), "the server's own would be taken");
    assert_eq!(fake.calls().len(), 0);
}

#[tokio::test]
async fn only_a_whole_yes_is_one() {
    use TokenRefusal::{Audience, OtherUser, Unauthenticated};
    let fake = Fake::start().await;
    let reviewer = reviewer(&fake, settings());
    let username = |name: &str| with("/status/user/username", json!(name));
    for (review, refusal) in [
        (with("/status/authenticated", json!(false)), Unauthenticated),
        (with("/status/authenticated", Value::Null), Unauthenticated),
        (with("/status", json!({})), Unauthenticated),
        (with("/status", json!({"error": "[invalid bearer token]"})), Unauthenticated),
        (with("/status/error", json!("one authenticator failed")), Unauthenticated),
        (with("/status/audiences", json!(["https://kubernetes.default.svc"])), Audience),
        (with("/status/audiences", json!(["vaultmux2", "VAULTMUX", ""])), Audience),
        (with("/status/audiences", json!([])), Audience),
        (with("/status/audiences", Value::Null), Audience),
        (with("/status/user", Value::Null), OtherUser),
        (username("alice"), OtherUser),
        (username("system:node:node-1"), OtherUser),
        (username("system:bootstrap:abcdef"), OtherUser),
        (username("system:serviceaccount:payments:api2"), OtherUser),
        (username("system:serviceaccount:payments:ap"), OtherUser),
        (username("system:serviceaccount:payment:api"), OtherUser),
        (username("system:serviceaccount:payments:API"), OtherUser),
        (username(" system:serviceaccount:payments:api"), OtherUser),
        (username(""), OtherUser),
        (with("/status/user/username", Value::Null), OtherUser),
        (with("/status/user/groups", json!(["system:serviceaccounts"])), OtherUser),
        (with("/status/user/groups", json!(["system:serviceaccounts:payments2"])), OtherUser),
        (with("/status/user/groups", json!([])), OtherUser),
        (with("/status/user/groups", Value::Null), OtherUser),
        (extra("pod-uid", json!(["u-pod", "u-other"])), OtherUser),
        (extra("pod-name", json!(["api-0", "api-0"])), OtherUser),
        (extra("node-name", json!(["a", "b"])), OtherUser),
        (extra("credential-id", json!(["a", "b"])), OtherUser),
        (extra("pod-uid", json!([""])), OtherUser),
        (extra("pod-uid", Value::Null), OtherUser),
        (extra("pod-name", json!([])), OtherUser),
    ] {
        fake.always(created(&review));
        let refused = reviewer.review(TOKEN, &api()).await;
        assert_eq!(refused, Err(refusal.into()), "{review}");
        assert_eq!(fake.calls().len(), 1);
    }
}

#[tokio::test]
async fn what_an_older_server_leaves_out_is_not_known() {
    let fake = Fake::start().await;
    let reviewer = reviewer(&fake, settings());
    let (account_uid, node, credential_id) = (None, None, None);
    for (review, expected) in [
        (with("/status/user/uid", Value::Null), Reviewed { account_uid, ..bound() }),
        (extra("node-name", Value::Null), Reviewed { node, ..bound() }),
        (extra("credential-id", json!([])), Reviewed { credential_id, ..bound() }),
        (
            with("/status/user/extra", Value::Null),
            Reviewed { pod: None, node: None, credential_id: None, ..bound() },
        ),
        (with("/status/audiences", json!(["other", "vaultmux.mesh"])), bound()),
        (with("/status/error", json!("")), bound()),
    ] {
        fake.always(created(&review));
        assert_eq!(reviewer.review(TOKEN, &api()).await, Ok(expected), "{review}");
    }
}

/// Answers that are no verdict, with what the log says of them.
fn failures() -> Vec<(Reply, &'static str)> {
    let status =
        |code: u16| Reply::json(code, json!({"kind": "Status", "message": TOKEN}).to_string());
    vec![
        (status(500), "status 500"),
        (status(503).header("audit-id", "a-7"), r#"status 503, audit "a-7""#),
        (status(404), "status 404"),
        (status(301).header("location", "/"), "status 301"),
        (status(401), "our own credentials"),
        (status(403), "verb create on tokenreviews in the group authentication.k8s.io"),
        (status(429), "throttles"),
        (Reply::json(201, ""), "no TokenReview"),
        (
            Reply::json(201, r#"{"kind": "TokenReview", "status": {"authenticated": tr"#),
            "no TokenReview",
        ),
        (Reply::json(201, format!(r#"["{TOKEN}"]"#)), "no TokenReview"),
        (created(&with("/status", Value::Null)), "no TokenReview"),
        (created(&with("/kind", json!("Status"))), "no TokenReview"),
        (created(&with("/status/authenticated", json!("true"))), "no TokenReview"),
        (created(&with("/status/audiences", json!("vaultmux"))), "no TokenReview"),
        (created(&with("/status/user/groups", json!("system"))), "no TokenReview"),
        (
            Reply::json(
                200,
                r#"{"kind":"TokenReview","status":{"authenticated":false,"authenticated":true}}"#,
            ),
            "no TokenReview",
        ),
        (Reply::Endless { status: 201 }, "too long"),
        (Reply::Cut, "error"),
        (Reply::Reset, "error"),
        (Reply::Hang, "no answer in time"),
    ]
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("not poisoned").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn without_a_verdict_a_token_proves_nothing_and_the_log_says_why() {
    let fake = Fake::start().await;
    for (reply, expected) in failures() {
        let log = Log::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::DEBUG)
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        // While there is but one, what another test's thread logs first is off for all threads.
        let _second = tracing::Dispatch::new(tracing_subscriber::registry());
        let _guard = tracing::subscriber::set_default(subscriber);
        let shown = format!("{reply:?}");
        let hangs = matches!(reply, Reply::Hang);
        let timeout = if hangs { Duration::from_millis(50) } else { TIMEOUT };
        fake.always(reply);
        let reviewed = reviewer(&fake, ReviewSettings { timeout, ..settings() });
        let reviewed = reviewed.review(TOKEN, &api()).await;
        assert_eq!(reviewed, Err(TokenError::Unavailable), "{shown}");
        assert_eq!(fake.calls().len(), 1, "nothing is tried twice: {shown}");
        let log = String::from_utf8_lossy(&log.0.lock().expect("not poisoned")).into_owned();
        let warnings = log.lines().filter(|line| line.contains("WARN")).collect::<Vec<_>>();
        let [warning] = warnings[..] else { panic!("{shown}: {log}") };
        assert!(warning.contains("tokens cannot be reviewed"), "{warning}");
        assert!(warning.contains(expected), "{shown}: {warning}");
        assert!(!log.contains("canary"), "{log}");
    }
}

#[tokio::test]
async fn a_server_that_throttles_is_left_alone() {
    for (status, header, pause) in [
        (429, Some("7"), Some(7)),
        (429, None, Some(1)),
        (429, Some("Wed, 21 Oct 2065 07:28:00 GMT"), Some(1)),
        (429, Some("999999999"), Some(60)),
        (503, Some("7"), Some(7)),
        (503, None, None),
        (201, Some("7"), None),
    ] {
        let fake = Fake::start().await;
        let mut reply = Reply::json(status, "{}");
        if let Some(text) = header {
            reply = reply.header("retry-after", text);
        }
        fake.always(reply);
        let timeout = Duration::from_millis(500);
        let reviewer = reviewer(&fake, ReviewSettings { timeout, ..settings() });
        let started = Instant::now();
        for _ in 0..3 {
            let answer = reviewer.review(TOKEN, &api()).await;
            assert_eq!(answer, Err(TokenError::Unavailable), "{status} {header:?}");
        }
        let calls = if pause.is_some() { 1 } else { 3 };
        assert_eq!(fake.calls().len(), calls, "{status} {header:?}");
        assert!(started.elapsed() < 2 * timeout, "what waits too long is told at once");
        let until = reviewer.paused().map(|until| until - started);
        assert_eq!(until.map(|until| until.as_secs()), pause, "{status} {header:?}");
    }
}

#[tokio::test]
async fn reviews_wait_for_the_end_of_a_short_pause() {
    let fake = Fake::start().await;
    fake.always(created(&good()));
    let reviewer = reviewer(&fake, settings());
    let end = Instant::now() + Duration::from_millis(50);
    *reviewer.paused() = Some(end);
    assert_eq!(reviewer.review(TOKEN, &api()).await, Ok(bound()));
    assert!(Instant::now() >= end);
}

#[tokio::test]
async fn reviews_beyond_the_limit_wait_their_turn_or_fail_at_once() {
    let fake = Fake::start().await;
    fake.always(created(&good()));
    let (per_second, burst) = (NonZeroU32::MIN, NonZeroU32::new(3).expect("not zero"));
    let timeout = Duration::from_millis(800);
    let slow = reviewer(&fake, ReviewSettings { per_second, burst, timeout, ..settings() });
    let account = api();
    let all = (0..10).map(|_| slow.review(TOKEN, &account));
    let all = futures_util::future::join_all(all).await;
    assert_eq!(all.iter().filter(|answer| answer.is_ok()).count(), 3);
    let late = all.iter().filter(|answer| **answer == Err(TokenError::Unavailable)).count();
    assert_eq!((late, fake.calls().len()), (7, 3));

    let (per_second, burst) = (NonZeroU32::new(100).expect("not zero"), NonZeroU32::MIN);
    let fast = reviewer(&fake, ReviewSettings { per_second, burst, ..settings() });
    let all = (0..10).map(|_| fast.review(TOKEN, &account));
    let all = futures_util::future::join_all(all).await;
    assert!(all.iter().all(Result::is_ok), "{all:?}");
    assert_eq!(fake.calls().len(), 10);
}

#[tokio::test]
async fn tokens_of_any_text_stay_texts() {
    let fake = Fake::start().await;
    fake.always(created(&good()));
    let odd = "a\"},\"x\":\"\u{1}\\\u{e9}";
    let audiences = vec!["a\"b".into(), "vaultmux".into()];
    let reviewer = reviewer(&fake, ReviewSettings { audiences, ..settings() });
    reviewer.review(odd, &api()).await.expect("reviewed");
    let call: Call = fake.calls().remove(0);
    let sent: Value = serde_json::from_slice(&call.body).expect("JSON");
    assert_eq!(sent["spec"], json!({"token": odd, "audiences": ["a\"b", "vaultmux"]}));
}
