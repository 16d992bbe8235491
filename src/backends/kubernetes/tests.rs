//! Over a fake API server: what the wire looks like, and what a real one rarely does.

use std::sync::Mutex;

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use futures_util::StreamExt;
use serde_json::{Value, json};

use super::*;
use crate::backends::{
    Change, conformance,
    fake::{Call, Fake, Reply},
    faults::{self, CANARY, Fault, Method},
};

const TIMEOUT: Duration = Duration::from_secs(20);
const SECRETS: &str = "/api/v1/namespaces/shop/secrets";

fn backend(fake: &Fake, timeout: Duration) -> KubernetesBackend {
    within(&fake.url, "shop", timeout)
}

fn within(url: &str, namespace: &str, timeout: Duration) -> KubernetesBackend {
    let cluster = Cluster { api: ApiServer::at(url, timeout), timeout };
    KubernetesBackend { cluster: Arc::new(cluster), namespace: namespace.into() }
}

fn name(raw: &str) -> SecretName {
    conformance::name(KubernetesBackend::GRAMMAR, raw)
}

fn object(version: &str, data: Value) -> Value {
    json!({
        "kind": "Secret",
        "metadata": {
            "name": "db", "namespace": "shop", "resourceVersion": version,
            "creationTimestamp": "2020-01-01T00:00:00Z",
            "annotations": {"kubectl.kubernetes.io/last-applied-configuration": CANARY},
            "managedFields": [
                {"manager": "a", "time": "2026-01-02T03:04:05Z"},
                {"manager": "b", "time": "2026-01-01T03:04:05Z"},
                {"manager": "c"},
            ],
        },
        "type": "Opaque",
        "data": data,
    })
}

fn changed(mut object: Value, path: &str, to: Value) -> Value {
    match object.pointer_mut(path) {
        Some(found) => *found = to,
        None => {
            let (parent, key) = path.rsplit_once('/').expect("a pointer");
            object.pointer_mut(parent).expect("a parent")[key] = to;
        }
    }
    object
}

fn status(code: u16, reason: &str) -> Reply {
    Reply::json(code, json!({"kind": "Status", "reason": reason}).to_string())
}

/// A refusal whose text repeats what was sent, as one by admission may.
fn quoting(code: u16, reason: &str) -> Reply {
    let status = json!({
        "kind": "Status", "reason": reason, "message": CANARY,
        "details": {"causes": [{"message": CANARY}]},
    });
    Reply::json(code, status.to_string())
}

fn ok(object: &Value) -> Reply {
    Reply::json(200, object.to_string())
}

/// Answers one call after the other, the last one for ever.
fn script(fake: &Fake, replies: Vec<Reply>) {
    let replies = Mutex::new(replies);
    fake.on(move |_| {
        let mut replies = replies.lock().expect("not poisoned");
        if replies.len() > 1 { replies.remove(0) } else { replies[0].clone() }
    });
}

fn line(call: &Call) -> String {
    format!("{} {}", call.method, call.target)
}

fn lines(fake: &Fake) -> Vec<String> {
    fake.calls().iter().map(line).collect()
}

fn body(call: &Call) -> Value {
    serde_json::from_slice(&call.body).expect("JSON")
}

async fn get(backend: &KubernetesBackend, raw: &str) -> Result<SecretRecord, BackendError> {
    backend.get(&name(raw), &SecretVersion::Latest).await
}

#[tokio::test]
async fn refusals_and_failures_are_sorted_on_every_method() {
    let fake = Fake::start().await;
    let backend = backend(&fake, Duration::from_millis(300));
    let mut rows = faults::of_the_connection();
    rows.extend([
        Fault::new("expired token", status(401, "Unauthorized"), "permission_denied"),
        Fault::new("denied", status(403, "Forbidden"), "permission_denied"),
        Fault::new("denied by admission", quoting(403, "Forbidden"), "permission_denied")
            .on(&[Method::Create]),
        Fault::new("refused by admission", quoting(400, "Whatever"), "invalid")
            .on(&[Method::Create]),
        Fault::new("admission fails", quoting(500, "InternalError"), "unavailable")
            .on(&[Method::Create]),
        Fault::new("no valid object", quoting(422, "Invalid"), "invalid").on(&[Method::Create]),
        Fault::new(
            "throttled",
            status(429, "TooManyRequests").header("retry-after", "7"),
            "throttled",
        )
        .retry_after(7),
        Fault::new("internal error", status(500, "InternalError"), "unavailable"),
        Fault::new("no server", Reply::new(503, CANARY), "unavailable"),
        Fault::new("another site", Reply::new(404, CANARY), "invalid"),
        Fault::new("malformed", status(400, "BadRequest"), "invalid"),
        Fault::new("moved", Reply::new(301, CANARY).header("location", "/"), "unavailable"),
        Fault::new("not JSON", Reply::new(200, CANARY), "unavailable"),
        Fault::new(
            "JSON cut short",
            Reply::json(200, format!("{{\"data\":{{\"k\":\"{CANARY}")),
            "unavailable",
        ),
        Fault::new("another shape", Reply::json(200, json!([CANARY]).to_string()), "unavailable"),
        Fault::new(
            "no metadata",
            Reply::json(200, json!({"data": {"password": CANARY}, "items": CANARY}).to_string()),
            "unavailable",
        ),
        Fault::new(
            "no version",
            ok(&changed(object("", json!({})), "/items", json!(CANARY))),
            "invalid",
        )
        .on(&[
            Method::Get,
            Method::Create,
            Method::Update,
            Method::Delete,
            Method::Versions,
        ]),
        Fault::new("gone", status(410, "Expired"), "unavailable").on(&[Method::List]),
        Fault::new("missing", status(404, "NotFound"), "not_found").on(&[
            Method::Get,
            Method::Update,
            Method::Delete,
            Method::Versions,
        ]),
        Fault::new("no namespace", status(404, "NotFound"), "invalid").on(&[Method::Create]),
        Fault::new(
            "another object",
            ok(&changed(object("1", json!({"password": CANARY})), "/metadata/name", json!("db2"))),
            "invalid",
        )
        .on(&[Method::Get, Method::Update, Method::Delete, Method::Versions]),
        Fault::new(
            "another namespace",
            ok(&changed(
                object("1", json!({"password": CANARY})),
                "/metadata/namespace",
                json!("x"),
            )),
            "invalid",
        )
        .on(&[Method::Get, Method::Update, Method::Delete, Method::Versions]),
        Fault::new("not base64", ok(&object("1", json!({"password": CANARY}))), "invalid")
            .on(&[Method::Get]),
    ]);
    faults::check(&backend, &fake, &name("db/password"), rows).await;
}

#[tokio::test]
async fn refused_connections_are_transient() {
    let address = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let url = format!("http://{}", address.local_addr().expect("bound"));
    drop(address);
    let error = get(&within(&url, "shop", TIMEOUT), "db/password").await.expect_err("nobody there");
    let BackendError::Unavailable(Some(cause)) = error else { panic!("{error:?}") };
    assert!(cause.to_string().contains("refused"), "{cause}");
}

#[tokio::test]
async fn a_read_is_one_call_and_takes_one_key() {
    let fake = Fake::start().await;
    let backend = backend(&fake, TIMEOUT);
    let data =
        json!({"password": STANDARD.encode("p"), "other": STANDARD.encode("o"), "none": null});
    fake.always(ok(&object("77", data)));
    let found = get(&backend, "db/password").await.expect("found");
    assert_eq!((&*found.version, found.value.len()), ("77", 1));
    let changed = SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_323_045);
    assert_eq!(found.created_at, Some(changed), "the last change, not the object's creation");
    assert_eq!(lines(&fake), [format!("GET {SECRETS}/db")]);

    assert_eq!(get(&backend, "db/none").await.expect("found").value.len(), 0);
    for (raw, version, expected) in [
        ("db/password", "77", true),
        ("db/password", "76", false),
        ("db/password", "077", false),
        ("db/password", "previous", false),
        ("db/absent", "77", false),
    ] {
        let version = SecretVersion::parse(version).expect("valid");
        let found = backend.get(&name(raw), &version).await;
        match expected {
            true => assert!(found.is_ok(), "{raw} {version:?}"),
            false => assert!(matches!(found, Err(BackendError::NotFound)), "{raw} {found:?}"),
        }
    }
    let versions = backend.versions(&name("db/password")).await.expect("found");
    let ids: Vec<_> = versions.iter().map(|entry| &*entry.id).collect();
    assert_eq!(ids, ["77"]);
}

#[tokio::test]
async fn credentials_for_the_cluster_are_not_found() {
    let fake = Fake::start().await;
    let backend = backend(&fake, TIMEOUT);
    let (db, value) = (name("db/token"), SecretValue::new("x"));
    for kind in [
        "kubernetes.io/service-account-token",
        "bootstrap.kubernetes.io/token",
        "helm.sh/release.v1",
    ] {
        let held = changed(object("1", json!({"token": "eA=="})), "/type", json!(kind));
        fake.always(ok(&held));
        for refused in [
            backend.get(&db, &SecretVersion::Latest).await.map(drop),
            backend.versions(&db).await.map(drop),
            backend.update(&db, &value).await.map(drop),
            backend.delete(&db, true).await,
        ] {
            assert!(matches!(refused, Err(BackendError::NotFound)), "{kind}: {refused:?}");
        }
        assert_eq!(lines(&fake), vec![format!("GET {SECRETS}/db"); 4], "{kind}");
        script(&fake, vec![status(409, "AlreadyExists"), ok(&held)]);
        let refused = backend.create(&db, &value).await;
        assert!(matches!(refused, Err(BackendError::Conflict)), "{kind}: {refused:?}");
        assert_eq!(lines(&fake).len(), 2);
        fake.always(ok(&json!({"items": [held]})));
        assert_eq!(backend.list(None).await.expect("listed").names, []);
        let calls = fake.calls();
        let encoded = kind.replace('/', "%2F");
        assert!(calls[0].target.contains(&encoded), "not even sent: {}", calls[0].target);
    }
    let tls = changed(object("1", json!({"tls.key": "eA=="})), "/type", json!("kubernetes.io/tls"));
    fake.always(ok(&tls));
    assert!(get(&backend, "db/tls.key").await.is_ok());
}

#[tokio::test]
async fn a_new_secret_is_one_call_and_no_answer_holds_values() {
    let fake = Fake::start().await;
    let backend = backend(&fake, TIMEOUT);
    fake.always(Reply::json(201, object("5", Value::Null).to_string()));
    let made = backend.create(&name("db/password"), &SecretValue::new("p")).await;
    assert_eq!(&*made.expect("made"), "5");
    let [call] = &fake.calls()[..] else { panic!("not one call") };
    assert_eq!(line(call), format!("POST {SECRETS}?fieldManager=vaultmux-mesh"));
    assert!(call.headers["accept"].to_str().expect("text").contains("as=PartialObjectMetadata"));
    assert_eq!(
        body(call),
        json!({
            "apiVersion": "v1", "kind": "Secret", "type": "Opaque",
            "metadata": {"name": "db", "labels": {"app.kubernetes.io/managed-by": "vaultmux-mesh"}},
            "data": {"password": "cA=="},
        })
    );
}

#[tokio::test]
async fn a_key_is_changed_only_in_what_was_read() {
    let fake = Fake::start().await;
    let backend = backend(&fake, TIMEOUT);
    let (db, value) = (name("db/password"), SecretValue::new("q"));
    let lost = status(409, "Conflict");
    let with = |version: &str, key: &str| ok(&object(version, json!({key: "eA=="})));

    script(&fake, vec![with("1", "password"), with("2", "password")]);
    assert_eq!(&*backend.update(&db, &value).await.expect("updated"), "2");
    let [read, write] = &fake.calls()[..] else { panic!("not two calls") };
    assert_eq!(line(read), format!("GET {SECRETS}/db"));
    assert_eq!(line(write), format!("PATCH {SECRETS}/db?fieldManager=vaultmux-mesh"));
    assert_eq!(write.headers["content-type"], "application/merge-patch+json");
    assert!(write.headers["accept"].to_str().expect("text").contains("as=PartialObjectMetadata"));
    let guarded =
        |version| json!({"metadata": {"resourceVersion": version}, "data": {"password": "cQ=="}});
    assert_eq!(body(write), guarded("1"));

    // Another writer comes between.
    script(
        &fake,
        vec![with("1", "password"), lost.clone(), with("2", "password"), with("3", "password")],
    );
    assert_eq!(&*backend.update(&db, &value).await.expect("updated"), "3");
    let calls = fake.calls();
    assert_eq!(calls.len(), 4);
    assert_eq!(body(&calls[3]), guarded("2"));

    // And takes the key away, the object, or puts one there that is out of bounds.
    let token = json!("bootstrap.kubernetes.io/token");
    let token = ok(&changed(object("2", json!({"password": "eA=="})), "/type", token));
    for second in [with("2", "user"), status(404, "NotFound"), token] {
        script(&fake, vec![with("1", "password"), lost.clone(), second]);
        let refused = backend.update(&db, &value).await;
        assert!(matches!(refused, Err(BackendError::NotFound)), "{refused:?}");
        assert_eq!(fake.calls().len(), 3);
    }
    script(&fake, vec![with("1", "password"), status(404, "NotFound")]);
    let refused = backend.update(&db, &value).await;
    assert!(matches!(refused, Err(BackendError::NotFound)), "{refused:?}");

    // For ever.
    fake.calls();
    let held = object("1", json!({"password": "eA=="}));
    fake.on(move |call| match call.method.as_str() {
        "GET" => ok(&held),
        _ => status(409, "Conflict"),
    });
    let refused = backend.update(&db, &value).await;
    assert!(matches!(refused, Err(BackendError::Unavailable(Some(_)))), "{refused:?}");
    assert_eq!(fake.calls().len(), 24);

    let frozen = changed(object("1", json!({"password": "eA=="})), "/immutable", json!(true));
    fake.always(ok(&frozen));
    let refused = backend.update(&db, &value).await.expect_err("immutable");
    assert_eq!(refused.to_string(), "the store refused the request: the Secret is immutable");
    assert_eq!(fake.calls().len(), 1);
}

#[tokio::test]
async fn a_condition_holds_until_the_store_has_written() {
    let fake = Fake::start().await;
    let backend = backend(&fake, TIMEOUT);
    let (db, value) = (name("db/password"), SecretValue::new("q"));
    let with = |version: &str| ok(&object(version, json!({"password": "eA=="})));
    let lost = status(409, "Conflict");
    // Changed before it was read; and between that and the write.
    for (replies, calls) in [(vec![with("2")], 1), (vec![with("1"), lost.clone(), with("2")], 3)] {
        script(&fake, replies.clone());
        let updated = backend.update_if(&db, &value, "1").await;
        assert!(matches!(updated, Err(BackendError::Conflict)), "{updated:?}");
        assert_eq!(fake.calls().len(), calls);
        script(&fake, replies);
        let deleted = backend.delete_if(&db, false, "1").await;
        assert!(matches!(deleted, Err(BackendError::Conflict)), "{deleted:?}");
        assert_eq!(fake.calls().len(), calls);
    }
    script(&fake, vec![with("1"), with("2")]);
    assert_eq!(&*backend.update_if(&db, &value, "1").await.expect("updated"), "2");
}

#[tokio::test]
async fn what_admission_says_of_a_change_is_not_told() {
    let fake = Fake::start().await;
    let backend = backend(&fake, TIMEOUT);
    let held = ok(&object("1", json!({"password": "eA=="})));
    for (code, reason, kind) in [
        (403, "Forbidden", "permission_denied"),
        (400, "Whatever", "invalid"),
        (422, "Invalid", "invalid"),
        (500, "InternalError", "unavailable"),
    ] {
        script(&fake, vec![held.clone(), quoting(code, reason)]);
        let refused = backend.update(&name("db/password"), &SecretValue::new(CANARY)).await;
        let error = refused.expect_err(reason);
        assert_eq!(error.kind(), kind);
        assert!(!format!("{error:?}").contains(CANARY), "{error:?}");
    }
}

#[tokio::test]
async fn a_key_is_added_only_to_what_was_read() {
    let fake = Fake::start().await;
    let backend = backend(&fake, TIMEOUT);
    let (db, value) = (name("db/password"), SecretValue::new("p"));
    let (taken, lost) = (status(409, "AlreadyExists"), status(409, "Conflict"));
    let with = |version: &str, key: &str| ok(&object(version, json!({key: "eA=="})));

    // Another writer comes between, with another key.
    script(
        &fake,
        vec![
            taken.clone(),
            with("1", "user"),
            lost.clone(),
            taken.clone(),
            with("2", "user"),
            with("3", "user"),
        ],
    );
    assert_eq!(&*backend.create(&db, &value).await.expect("made"), "3");
    let calls = fake.calls();
    let methods: Vec<_> = calls.iter().map(|call| call.method.as_str()).collect();
    assert_eq!(methods, ["POST", "GET", "PATCH", "POST", "GET", "PATCH"]);
    assert_eq!(calls[5].headers["content-type"], "application/merge-patch+json");
    assert_eq!(
        body(&calls[5]),
        json!({"metadata": {"resourceVersion": "2"}, "data": {"password": "cA=="}})
    );

    // With the same key.
    script(
        &fake,
        vec![taken.clone(), with("1", "user"), lost.clone(), taken.clone(), with("2", "password")],
    );
    let refused = backend.create(&db, &value).await;
    assert!(matches!(refused, Err(BackendError::Conflict)), "{refused:?}");

    // Deleted between.
    script(&fake, vec![taken.clone(), status(404, "NotFound"), with("9", "password")]);
    assert_eq!(&*backend.create(&db, &value).await.expect("made"), "9");

    // For ever.
    fake.calls();
    let (other, calls) = (object("1", json!({"user": "eA=="})), &fake);
    calls.on(move |call| match call.method.as_str() {
        "GET" => ok(&other),
        "POST" => status(409, "AlreadyExists"),
        _ => status(409, "Conflict"),
    });
    let refused = backend.create(&db, &value).await;
    assert!(matches!(refused, Err(BackendError::Unavailable(Some(_)))), "{refused:?}");
    assert_eq!(fake.calls().len(), 36);

    let frozen = changed(object("1", json!({"user": "eA=="})), "/immutable", json!(true));
    script(&fake, vec![taken, ok(&frozen)]);
    let refused = backend.create(&db, &value).await.expect_err("immutable");
    assert_eq!(refused.to_string(), "the store refused the request: the Secret is immutable");
}

#[tokio::test]
async fn an_object_goes_with_its_last_key_if_it_was_made_here() {
    let fake = Fake::start().await;
    let backend = backend(&fake, TIMEOUT);
    let db = name("db/password");
    let ours = json!({"app.kubernetes.io/managed-by": "vaultmux-mesh"});
    let one = object("7", json!({"password": "eA=="}));
    let two = object("7", json!({"password": "eA==", "user": "eA=="}));
    for (held, expected) in [
        (changed(one.clone(), "/metadata/labels", ours.clone()), "DELETE"),
        (one, "PATCH"),
        (changed(two, "/metadata/labels", ours), "PATCH"),
    ] {
        script(&fake, vec![ok(&held), status(409, "Conflict"), ok(&held), ok(&held)]);
        backend.delete(&db, false).await.expect("deleted");
        let calls = fake.calls();
        let methods: Vec<_> = calls.iter().map(|call| call.method.as_str()).collect();
        assert_eq!(methods, ["GET", expected, "GET", expected]);
        let guard = match expected {
            "DELETE" => json!({"preconditions": {"resourceVersion": "7"}}),
            _ => json!({"metadata": {"resourceVersion": "7"}, "data": {"password": null}}),
        };
        assert_eq!(body(&calls[3]), guard);
        assert!(calls[3].target.starts_with(&format!("{SECRETS}/db")), "{}", calls[3].target);
    }
}

#[tokio::test]
async fn a_listing_goes_on_where_its_snapshot_ran_out() {
    let fake = Fake::start().await;
    let backend = backend(&fake, TIMEOUT);
    let mut page = json!({"metadata": {"continue": "n+/="}, "items": [
        object("1", json!({"user": CANARY, "password": "eA=="})),
        object("1", Value::Null),
        object("1", json!({"..data": "eA==", "a key": "eA=="})),
    ]});
    page["items"][2]["metadata"]["name"] = json!("odd");
    let expired = json!({"kind": "Status", "metadata": {"continue": "newer"}, "reason": "Expired"});
    script(&fake, vec![Reply::json(410, expired.to_string()), ok(&page)]);
    let listed = backend.list(Some("old")).await.expect("listed");
    let names: Vec<_> = listed.names.iter().map(SecretName::as_str).collect();
    assert_eq!(names, ["db/password", "db/user"]);
    assert_eq!(listed.cursor.as_deref(), Some("n+/="));
    let calls = lines(&fake);
    assert!(calls[0].starts_with(&format!("GET {SECRETS}?limit=10&fieldSelector=type%21%3D")));
    assert!(calls[0].ends_with("&continue=old"), "{}", calls[0]);
    assert!(calls[1].ends_with("&continue=newer"), "{}", calls[1]);

    fake.always(ok(&json!({"metadata": {}, "items": null})));
    assert_eq!(backend.list(Some("n+/=")).await.expect("listed"), SecretPage::default());
    assert!(lines(&fake)[0].ends_with("&continue=n%2B%2F%3D"));
}

#[tokio::test]
async fn what_cannot_be_is_not_sent() {
    let fake = Fake::start().await;
    let shop = backend(&fake, TIMEOUT);
    let (db, large) = (name("db/password"), SecretValue::new(vec![0; (1 << 20) + 1]));
    for refused in [
        shop.accepts(&large),
        shop.create(&db, &large).await.map(drop),
        shop.update(&db, &large).await.map(drop),
    ] {
        assert!(matches!(refused, Err(BackendError::Invalid(_))), "{refused:?}");
    }
    for (length, accepted) in [(0, true), (1 << 20, true), ((1 << 20) + 1, false)] {
        assert_eq!(shop.accepts(&SecretValue::new(vec![0; length])).is_ok(), accepted, "{length}");
    }
    for namespace in ["", "..", "a/b", "a?b", "A", "-a", "a-", "a.b", "a%2fb", &"a".repeat(64)] {
        let backend = within(&fake.url, namespace, TIMEOUT);
        let value = SecretValue::new("x");
        for refused in [
            backend.get(&db, &SecretVersion::Latest).await.map(drop),
            backend.list(None).await.map(drop),
            backend.create(&db, &value).await.map(drop),
            backend.update(&db, &value).await.map(drop),
            backend.delete(&db, false).await,
            backend.versions(&db).await.map(drop),
        ] {
            assert!(matches!(refused, Err(BackendError::Invalid(_))), "{namespace}: {refused:?}");
        }
    }
    assert_eq!(lines(&fake), [""; 0]);
}

#[tokio::test]
async fn callers_are_kept_apart_by_the_path() {
    let fake = Fake::start().await;
    fake.always(status(404, "NotFound"));
    let cluster = within(&fake.url, "unused", TIMEOUT).cluster;
    let store = Store::PerNamespace(Arc::new(OfCallers(cluster)));
    for namespace in ["team-a", "team-b"] {
        let read = store.within(namespace).get(&name("db/password"), &SecretVersion::Latest).await;
        assert!(matches!(read, Err(BackendError::NotFound)), "{read:?}");
        assert_eq!(lines(&fake), [format!("GET /api/v1/namespaces/{namespace}/secrets/db")]);
    }
    let shown = format!("{:?}", within(&fake.url, "team-a", TIMEOUT));
    assert_eq!(shown, r#"KubernetesBackend { namespace: "team-a", .. }"#);
}

/// An event of a watch; its annotations hold a value.
fn event(kind: &str, name: &str, version: &str) -> String {
    let metadata = json!({
        "name": name, "namespace": "shop", "resourceVersion": version,
        "annotations": {"kubectl.kubernetes.io/last-applied-configuration": CANARY},
    });
    format!("{}\n", json!({"type": kind, "object": {"metadata": metadata}}))
}

fn refused_event(code: u16) -> String {
    let status = json!({"kind": "Status", "code": code, "message": CANARY});
    format!("{}\n", json!({"type": "ERROR", "object": status}))
}

async fn told(changes: &mut crate::backends::Changes) -> String {
    let next = tokio::time::timeout(TIMEOUT, changes.next()).await.expect("in time");
    match next.expect("it never ends") {
        Ok(Change::Segment { namespace, segment }) => {
            format!("{}:{segment}", namespace.as_deref().unwrap_or_default())
        }
        Ok(change) => format!("{change:?}"),
        Err(error) => {
            let shown = format!("{error} {:?}", std::error::Error::source(&error));
            assert!(!shown.contains(CANARY), "{shown}");
            format!("error: {}", error.kind())
        }
    }
}

/// Where each watch began, in order.
fn began(fake: &Fake) -> Vec<String> {
    let version = |line: &String| {
        assert!(line.starts_with(&format!("GET {SECRETS}?watch=1&allowWatchBookmarks=true&")));
        line.rsplit("resourceVersion=").next().expect("a version").to_owned()
    };
    lines(fake).iter().map(version).collect()
}

#[tokio::test]
async fn changes_are_those_of_objects_and_each_watch_goes_on_where_the_last_one_was() {
    let fake = Fake::start().await;
    let ok = |lines: &[String]| Reply::json(200, lines.concat());
    script(
        &fake,
        vec![
            ok(&[
                event("ADDED", "db", "5"),
                event("DELETED", "db", "6"),
                event("BOOKMARK", "", "9"),
            ]),
            // As where the network cuts it: the rest of a line never comes.
            ok(&[event("MODIFIED", "tls", "11"), event("MODIFIED", "x", "12")[..30].to_owned()]),
            ok(&[refused_event(410)]),
            ok(&[event("MODIFIED", "new", "20"), refused_event(500)]),
            ok(&["{\"type\":\"MODIFIED\",\"object\":{\"metadata\":[1]}}\n".to_owned()]),
            ok(&[event("MODIFIED", "odd", "1/../2")]),
            status(403, "Forbidden"),
            status(410, "Expired"),
            Reply::Hang,
        ],
    );
    let backend = backend(&fake, TIMEOUT);
    let mut changes = backend.watch().await.expect("no call yet").expect("it can");
    assert_eq!(lines(&fake), Vec::<String>::new());
    for (at, expected) in [
        "Any",
        ":db",
        ":db",
        "None",
        ":tls",
        "None",
        "Any",
        ":new",
        "error: unavailable",
        "Any",
        "error: unavailable",
        "Any",
        ":odd",
        "error: permission_denied",
        "error: unavailable",
    ]
    .into_iter()
    .enumerate()
    {
        assert_eq!(told(&mut changes).await, expected, "{at}");
    }
    assert_eq!(began(&fake), ["0", "9", "11", "0", "0", "0", "0", "0"]);
}

#[tokio::test]
async fn metadata_alone_is_asked_for_and_events_come_as_they_are_sent() {
    let fake = Fake::start().await;
    let (reply, sender) = Reply::open();
    fake.always(reply);
    let cluster = Cluster { api: ApiServer::at(&fake.url, TIMEOUT), timeout: TIMEOUT };
    let all = OfCallers(Arc::new(cluster));
    let mut changes = all.watch().expect("it can");
    assert_eq!(told(&mut changes).await, "Any");
    let text = event("ADDED", "db", "5");
    let (start, end) = text.split_at(20);
    sender.send(Bytes::copy_from_slice(start.as_bytes())).expect("read");
    sender.send(Bytes::from(format!("{end}{text}"))).expect("read");
    assert_eq!(told(&mut changes).await, "shop:db");
    assert_eq!(told(&mut changes).await, "shop:db");
    let calls = fake.calls();
    assert_eq!(calls.len(), 1);
    assert!(calls[0].target.starts_with("/api/v1/secrets?watch=1&"), "{}", calls[0].target);
    let accept = calls[0].headers["accept"].to_str().expect("text");
    assert!(accept.contains("as=PartialObjectMetadata"), "{accept}");
    // Endless lines are given up.
    for _ in 0..6 {
        let _ = sender.send(Bytes::from(vec![b'x'; 1 << 20]));
    }
    assert_eq!(told(&mut changes).await, "error: invalid");
}
