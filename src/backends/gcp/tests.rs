//! Over a fake of the wire: what the store does, and what it rarely does.

use std::{error::Error as _, time::Instant};

use super::{
    fake::{Store, access, access_with, refusal, refusal_with, said},
    *,
};
use crate::backends::{
    conformance::{self, Profile},
    fake::{Fake, Reply},
    faults::{self, Fault, Method},
};

const CANARY: &str = faults::CANARY;
/// Longer than any answer takes.
const TIMEOUT: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(500);

fn settings(url: &str) -> GcpSettings {
    GcpSettings {
        project: "my-project".to_owned(),
        endpoint_url: Some(url.to_owned()),
        credentials: GcpCredentials::Anonymous,
        ..GcpSettings::default()
    }
}

async fn backend(url: &str, prefix: &str, timeout: Duration) -> GcpBackend {
    let settings = GcpSettings { prefix: prefix.to_owned(), ..settings(url) };
    GcpBackend::connect(settings, timeout).await.expect("set up")
}

fn name(raw: &str) -> SecretName {
    conformance::name(GcpBackend::GRAMMAR, raw)
}

async fn get(backend: &GcpBackend, raw: &str) -> Result<SecretRecord, BackendError> {
    backend.get(&name(raw), &SecretVersion::Latest).await
}

async fn get_version(
    backend: &GcpBackend,
    raw: &str,
    version: &str,
) -> Result<SecretRecord, BackendError> {
    backend.get(&name(raw), &SecretVersion::parse(version).expect("valid selector")).await
}

#[tokio::test]
async fn backend_conforms_over_a_prefix_and_many_pages() {
    let (fake, store) = Store::start().await;
    let mut backend = backend(&fake.url, "mesh-", TIMEOUT).await;
    backend.page = 10;
    // Neighbours: without the prefix, with it in another place, and with nothing else.
    for neighbour in ["other", "mesh", "mesh-", "a-mesh-b"] {
        store.put(neighbour, &[Some("x")]);
    }
    let odd_names = &["-", "_", "---___123___---", "Mixed_Case-7", "latest", "versions"];
    let profile = Profile {
        join: |words| words.join("-"),
        odd_names,
        previous: false,
        ..Profile::new(GcpBackend::GRAMMAR.with_prefix_len(5))
    };
    conformance::assert_conforms(&backend, profile).await;
    assert!(fake.calls().iter().any(|call| call.target.contains("filter=name%3Amesh-")));
}

#[tokio::test]
async fn backend_conforms_in_a_region() {
    let (fake, _store) = Store::start().await;
    let location = Some("europe-west3".to_owned());
    let settings = GcpSettings { location, ..settings(&fake.url) };
    let mut backend = GcpBackend::connect(settings, TIMEOUT).await.expect("set up");
    backend.page = 50;
    let profile = Profile {
        join: |words| words.join("_"),
        previous: false,
        ..Profile::new(GcpBackend::GRAMMAR)
    };
    conformance::assert_conforms(&backend, profile).await;
    for call in fake.calls() {
        let path = "/v1/projects/my-project/locations/europe-west3/secrets";
        assert!(call.target.starts_with(path), "{}", call.target);
        // Where they are is in their name.
        assert!(!String::from_utf8_lossy(&call.body).contains("replication"));
    }
}

#[tokio::test]
async fn each_method_makes_the_fewest_calls() {
    let (fake, store) = Store::start().await;
    let backend = backend(&fake.url, "", TIMEOUT).await;
    assert_eq!(said(&fake), [""; 0]);
    let (name, value) = (name("db"), SecretValue::new("x"));
    backend.create(&name, &value).await.expect("created");
    assert_eq!(said(&fake), ["POST secrets", "POST secrets/db:addVersion"]);
    backend.create(&name, &value).await.expect_err("taken");
    assert_eq!(said(&fake), ["POST secrets"]);
    let second = backend.update(&name, &value).await.expect("updated");
    assert_eq!(&*second, "2");
    assert_eq!(said(&fake), ["POST secrets/db:addVersion"]);
    for version in ["latest", "1", "2"] {
        get_version(&backend, "db", version).await.expect("readable");
        assert_eq!(said(&fake), [format!("GET secrets/db/versions/{version}:access")]);
    }
    backend.list(None).await.expect("listed");
    assert_eq!(said(&fake), ["GET secrets"]);
    backend.versions(&name).await.expect("listed");
    assert_eq!(said(&fake), ["GET secrets/db/versions"]);
    backend.delete(&name, false).await.expect("deleted");
    assert_eq!(said(&fake), ["DELETE secrets/db"]);
    assert!(!store.has("db"), "at once and for good");
    get(&backend, "db").await.expect_err("gone");
    assert_eq!(said(&fake), ["GET secrets/db/versions/latest:access"]);
    backend.update(&name, &value).await.expect_err("gone");
    assert_eq!(said(&fake), ["POST secrets/db:addVersion"]);
}

#[tokio::test]
async fn latest_does_not_fall_back() {
    let (fake, store) = Store::start().await;
    let backend = backend(&fake.url, "", TIMEOUT).await;
    store.put("db", &[Some("one"), None, Some("three"), None]);
    for version in ["latest", "4", "2"] {
        let read = get_version(&backend, "db", version).await;
        assert!(matches!(read, Err(BackendError::Disabled)), "{version}: {read:?}");
    }
    assert_eq!(&*get_version(&backend, "db", "3").await.expect("readable").version, "3");
    fake.calls();
    let versions = backend.versions(&name("db")).await.expect("listed");
    let shown: Vec<_> = versions.iter().map(|entry| (&*entry.id, entry.enabled)).collect();
    assert_eq!(shown, [("4", false), ("3", true), ("2", false), ("1", true)]);
    assert_eq!((versions[0].stages.len(), versions[1].stages.len()), (1, 0));
    assert!(versions.iter().all(|entry| entry.created_at.is_some()));
    assert_eq!(fake.calls().len(), 2, "two pages");
}

#[tokio::test]
async fn a_secret_whose_first_version_is_refused_does_not_stay() {
    let (fake, store) = Store::start().await;
    let backend = backend(&fake.url, "", TIMEOUT).await;
    for (first_version, kind) in [
        (refusal(400, "INVALID_ARGUMENT"), "invalid"),
        (refusal(403, "PERMISSION_DENIED"), "permission_denied"),
        (refusal(429, "RESOURCE_EXHAUSTED"), "throttled"),
    ] {
        let serving = store.clone();
        fake.on(move |call| match call.target.contains(":addVersion") {
            true => first_version.clone(),
            false => serving.answer(call),
        });
        let made = backend.create(&name("db"), &SecretValue::new("x")).await;
        assert_eq!(made.expect_err("no version").kind(), kind);
        assert!(!store.has("db"), "{kind}: left behind");
        let deletion = fake.calls().into_iter().find(|call| call.method == http::Method::DELETE);
        let deletion = deletion.expect("deleted").target;
        assert!(deletion.contains("etag=%22e1%22"), "only ours: {deletion}");
    }
    let serving = store.clone();
    fake.on(move |call| serving.answer(call));
    backend.create(&name("db"), &SecretValue::new("x")).await.expect("the name is free");
}

#[tokio::test]
async fn a_secret_whose_first_version_may_have_arrived_stays() {
    let (fake, store) = Store::start().await;
    let mut backend = backend(&fake.url, "", TIMEOUT).await;
    backend.api.timeout = SHORT;
    let value = SecretValue::new("x");
    let db = name("db");
    for (answer, kind) in [
        (refusal(503, "UNAVAILABLE"), "unavailable"),
        (refusal(500, "INTERNAL"), "unavailable"),
        (refusal(409, "ABORTED"), "unavailable"),
        (refusal(504, "DEADLINE_EXCEEDED"), "timed_out"),
        (Reply::new(502, "<html>bad gateway</html>"), "unavailable"),
        (Reply::new(200, "not JSON"), "unavailable"),
        (access("projects/1/secrets/db2/versions/1", b""), "invalid"),
        (Reply::Reset, "unavailable"),
        (Reply::Hang, "timed_out"),
    ] {
        // It has arrived; the answer is lost.
        let serving = store.clone();
        fake.on(move |call| match serving.answer(call) {
            _ if call.target.contains(":addVersion") => answer.clone(),
            honest => honest,
        });
        // The whole of it, and not only what its caller waits for.
        let payload = payload(&value).expect("short");
        let making = backend.api.clone().create(backend.parent.clone(), "db".to_owned(), payload);
        assert_eq!(making.await.expect_err("no answer").kind(), kind);
        assert_eq!(said(&fake), ["POST secrets", "POST secrets/db:addVersion"]);

        let serving = store.clone();
        fake.on(move |call| serving.answer(call));
        get(&backend, "db").await.expect("what arrived");
        assert_eq!(&*backend.update(&db, &value).await.expect("updated"), "2");
        backend.delete(&db, false).await.expect("deleted");
        fake.calls();
    }
}

#[tokio::test]
async fn a_create_that_is_dropped_half_way_is_finished() {
    let (fake, store) = Store::start().await;
    let backend = backend(&fake.url, "", TIMEOUT).await;
    let serving = store.clone();
    let (first, reached) = tokio::sync::watch::channel(false);
    fake.on(move |call| {
        first.send_replace(true);
        serving.answer(call)
    });
    let mut reached = reached;
    let value = SecretValue::new("x");
    let db = name("db");
    tokio::select! {
        biased;
        _ = reached.wait_for(|reached| *reached) => {}
        made = backend.create(&db, &value) => panic!("too soon: {made:?}"),
    }
    let started = Instant::now();
    while get(&backend, "db").await.is_err() {
        assert!(started.elapsed() < TIMEOUT, "no version");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_secret_without_versions_is_repaired_by_update_and_delete() {
    let (fake, store) = Store::start().await;
    let backend = backend(&fake.url, "", TIMEOUT).await;
    for id in ["one", "two"] {
        store.put(id, &[]);
        let read = get(&backend, id).await;
        assert!(matches!(read, Err(BackendError::NotFound)), "{read:?}");
        assert_eq!(backend.versions(&name(id)).await.expect("there").len(), 0);
        let made = backend.create(&name(id), &SecretValue::new("x")).await;
        assert!(matches!(made, Err(BackendError::Conflict)), "{made:?}");
    }
    assert_eq!(&*backend.update(&name("one"), &SecretValue::new("x")).await.expect("done"), "1");
    get(&backend, "one").await.expect("readable");
    backend.delete(&name("two"), false).await.expect("deleted");
    backend.create(&name("two"), &SecretValue::new("x")).await.expect("free again");
}

#[tokio::test]
async fn refusals_and_failures_are_sorted_on_every_method() {
    let fake = Fake::start().await;
    let backend = backend(&fake.url, "", SHORT).await;
    let secret: &[Method] = &[Method::Get, Method::Update, Method::Delete, Method::Versions];
    let parent: &[Method] = &[Method::List, Method::Create];
    let denied = "Permission 'secretmanager.versions.access' denied on resource (or it may not \
                  exist).";
    let mut rows = faults::of_the_connection();
    let throttled = refusal(429, "RESOURCE_EXHAUSTED");
    let waiting = throttled.clone().header("retry-after", "7");
    let detailed = r#"{"error":{"code":429,"status":"RESOURCE_EXHAUSTED","details":[
        {"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"9s"}]}}"#;
    rows.extend([
        Fault::new("throttled", throttled, "throttled"),
        Fault::new("throttled with a wait", waiting, "throttled").retry_after(7),
        Fault::new("wait among the details", Reply::json(429, detailed), "throttled")
            .retry_after(9),
        Fault::new("throttled by a gateway", Reply::new(429, CANARY), "throttled"),
        Fault::new("denied", refusal_with(403, "PERMISSION_DENIED", denied), "permission_denied"),
        Fault::new("bad token", refusal(401, "UNAUTHENTICATED"), "permission_denied"),
        Fault::new("401 without a body", Reply::new(401, ""), "permission_denied"),
        Fault::new("not found", refusal(404, "NOT_FOUND"), "not_found").on(secret),
        Fault::new("no such project", refusal(404, "NOT_FOUND"), "invalid").on(parent),
        Fault::new("not Google", Reply::new(404, "<html>none</html>"), "invalid"),
        Fault::new("taken", refusal(409, "ALREADY_EXISTS"), "conflict").on(&[Method::Create]),
        Fault::new("disabled", refusal(400, "FAILED_PRECONDITION"), "disabled").on(&[Method::Get]),
        Fault::new("precondition", refusal(400, "FAILED_PRECONDITION"), "invalid")
            .on(&[Method::Update, Method::Delete]),
        Fault::new("aborted", refusal(409, "ABORTED"), "unavailable"),
        Fault::new("internal", refusal(500, "INTERNAL"), "unavailable"),
        Fault::new("unavailable", refusal(503, "UNAVAILABLE"), "unavailable"),
        Fault::new("deadline", refusal(504, "DEADLINE_EXCEEDED"), "timed_out"),
        Fault::new("repeats", refusal_with(400, "INVALID_ARGUMENT", CANARY), "invalid"),
        Fault::new("no code", Reply::new(400, CANARY), "invalid"),
        Fault::new("text", Reply::new(500, CANARY), "unavailable"),
        Fault::new("empty", Reply::new(200, ""), "unavailable"),
        Fault::new("no JSON", Reply::new(200, CANARY), "unavailable"),
        Fault::new(
            "a number where text belongs",
            Reply::json(200, format!(r#"{{"name":1,"payload":{{"data":"{CANARY}"}}}}"#)),
            "unavailable",
        )
        .on(&[Method::Get, Method::Update]),
        Fault::new("another secret", access("projects/1/secrets/db2/versions/1", b"x"), "invalid")
            .on(&[Method::Get, Method::Update]),
        Fault::new("no version", access("projects/1/secrets/db", b"x"), "invalid")
            .on(&[Method::Get, Method::Update]),
        Fault::new("no payload", Reply::json(200, r#"{"name":"x"}"#), "invalid")
            .on(&[Method::Get, Method::Update]),
    ]);
    faults::check(&backend, &fake, &name("db"), rows).await;
}

#[tokio::test]
async fn nothing_is_called_twice() {
    let fake = Fake::start().await;
    let backend = backend(&fake.url, "", TIMEOUT).await;
    for reply in [refusal(503, "UNAVAILABLE"), refusal(429, "RESOURCE_EXHAUSTED"), Reply::Reset] {
        fake.always(reply);
        get(&backend, "db").await.expect_err("refused");
        assert_eq!(fake.calls().len(), 1);
        backend.list(None).await.expect_err("refused");
        assert_eq!(fake.calls().len(), 1);
    }
}

#[tokio::test]
async fn damaged_values_are_not_served_and_may_be_fetched_again() {
    let fake = Fake::start().await;
    let backend = backend(&fake.url, "", TIMEOUT).await;
    let whole = "projects/4711/secrets/db/versions/7";
    for (value, sum) in [(CANARY, crc32c::crc32c(b"other")), (CANARY, 0), ("", 1)] {
        fake.always(access_with(whole, value.as_bytes(), Some(sum)));
        let error = get(&backend, "db").await.expect_err("damaged");
        assert!(matches!(error, BackendError::Unavailable(Some(_))), "{error:?}");
        assert!(error.is_transient(), "stale values may be served meanwhile");
        assert!(!format!("{error:?}").contains(CANARY), "{error:?}");
    }
    for sum in [None, Some(crc32c::crc32c(b"x"))] {
        fake.always(access_with(whole, b"x", sum));
        assert_eq!(&*get(&backend, "db").await.expect("whole").version, "7");
    }
}

#[tokio::test]
async fn another_version_is_not_served() {
    let fake = Fake::start().await;
    let backend = backend(&fake.url, "", TIMEOUT).await;
    fake.always(access("projects/4711/secrets/db/versions/7", b"x"));
    let refused = get_version(&backend, "db", "8").await;
    assert!(matches!(refused, Err(BackendError::Invalid(_))), "{refused:?}");
    for version in ["7", "latest", "blue"] {
        assert_eq!(&*get_version(&backend, "db", version).await.expect("served").version, "7");
    }
}

#[tokio::test]
async fn what_is_no_version_never_reaches_the_store() {
    let fake = Fake::start().await;
    let backend = backend(&fake.url, "", TIMEOUT).await;
    for version in ["../../other/versions/1", "..", "1/2", "a.b", "007", "1a"] {
        let refused = get_version(&backend, "db", version).await;
        assert!(matches!(refused, Err(BackendError::NotFound)), "{version}: {refused:?}");
        assert!(!backend.can_have(&SecretVersion::parse(version).expect("valid")), "{version}");
    }
    for version in ["latest", "7", "previous"] {
        assert!(backend.can_have(&SecretVersion::parse(version).expect("valid")), "{version}");
    }
    assert_eq!(said(&fake), [""; 0]);
    // Of the right form, and still not one that the store takes.
    fake.always(refusal(400, "INVALID_ARGUMENT"));
    let refused = get_version(&backend, "db", "previous").await;
    assert!(matches!(refused, Err(BackendError::NotFound)), "{refused:?}");
    assert_eq!(said(&fake), ["GET secrets/db/versions/previous:access"]);
}

#[tokio::test]
async fn values_above_the_limit_are_refused_without_a_call() {
    let (fake, _store) = Store::start().await;
    let backend = backend(&fake.url, "", TIMEOUT).await;
    let (name, large) = (name("db"), SecretValue::new(vec![b'x'; MAX_VALUE + 1]));
    for refused in [
        backend.accepts(&large),
        backend.create(&name, &large).await.map(drop),
        backend.update(&name, &large).await.map(drop),
    ] {
        assert!(matches!(refused, Err(BackendError::Invalid(_))), "{refused:?}");
    }
    assert_eq!(said(&fake), [""; 0]);
    let largest = SecretValue::new(vec![b'x'; MAX_VALUE]);
    backend.accepts(&largest).expect("short enough");
    backend.create(&name, &largest).await.expect("created");
}

#[tokio::test]
async fn an_address_where_nothing_listens_is_an_outage() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    drop(listener);
    let backend = backend(&url, "", TIMEOUT).await;
    let error = get(&backend, "db").await.expect_err("refused");
    assert!(matches!(error, BackendError::Unavailable(Some(_))), "{error:?}");
    assert!(error.source().is_some_and(|cause| cause.to_string().contains("refused")), "{error:?}");
}

#[tokio::test]
async fn settings_that_cannot_work_are_refused() {
    let long = "p".repeat(255);
    let base = settings("http://127.0.0.1:1");
    for (settings, expected) in [
        (GcpSettings { project: "a/../b".into(), ..base.clone() }, "Project"),
        (GcpSettings { location: Some("eu/../x".into()), ..base.clone() }, "Location"),
        (GcpSettings { prefix: long, ..base.clone() }, "Prefix"),
        (GcpSettings { prefix: "a/".into(), ..base.clone() }, "Prefix"),
        (GcpSettings { impersonate: Some("a@b/..".into()), ..base.clone() }, "Account"),
        (GcpSettings { endpoint_url: Some("no url".into()), ..base.clone() }, "Client"),
    ] {
        let refused = GcpBackend::connect(settings, TIMEOUT).await.expect_err(expected);
        assert!(format!("{refused:?}").starts_with(expected), "{refused:?}");
    }
}

#[test]
fn a_region_has_an_address_of_its_own() {
    let mut settings = GcpSettings { project: "p".into(), ..GcpSettings::default() };
    assert_eq!(settings.endpoint(), None);
    settings.location = Some("europe-west3".into());
    let regional = "https://secretmanager.europe-west3.rep.googleapis.com";
    assert_eq!(settings.endpoint().as_deref(), Some(regional));
    settings.endpoint_url = Some("https://psc.example".into());
    assert_eq!(settings.endpoint().as_deref(), Some("https://psc.example"));
}
