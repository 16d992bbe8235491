//! What readers of a cold, cached, missing, slow or changing secret see, and how
//! often the store is asked.
#![expect(clippy::disallowed_methods, reason = "tests compare plaintext")]

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;

use super::*;
use crate::{
    backends::SecretBackend,
    fixture::{self, Gate},
    secret::SecretValue,
    snapshot::Snapshot,
};

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

fn setup(yaml: &str, store: &Arc<Gate>) -> Snapshot {
    let store: Arc<dyn SecretBackend> = Arc::clone(store) as _;
    fixture::over(&fixture::config(yaml), store, &Arc::new(Metrics::default()))
}

fn with(extra: &str) -> String {
    format!("{}{extra}\n", fixture::CONFIG)
}

fn permit(snapshot: &Snapshot, verb: Verb, name: &str) -> Permit {
    let secret = snapshot
        .catalog
        .locate(name, crate::secret::NameEncoding::Plain, None)
        .expect("valid name");
    let api = fixture::principal("prod/api");
    snapshot.policies.authorize(&api, verb, &secret).expect("allowed")
}

mod listening;
mod outages;
mod staleness;
mod suspicion;

fn text(record: Result<SecretRecord, ResolveError>) -> String {
    let record = record.expect("resolved");
    String::from_utf8(record.value.expose_secret().to_vec()).expect("text")
}

fn is_missing(result: &Result<SecretRecord, ResolveError>) -> bool {
    matches!(result, Err(ResolveError::Backend { error: BackendError::NotFound, .. }))
}

/// Lets other tasks run until a condition holds.
async fn until(condition: impl Fn() -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(20), async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    waited.await.expect("the condition holds in time");
}

#[tokio::test]
async fn a_thousand_cold_readers_cost_one_call() {
    let store = Gate::new(&[("prod/key", "v1")], 0);
    let snapshot = setup(fixture::CONFIG, &store);
    let get = permit(&snapshot, Verb::Get, "prod/key");
    let readers = (0..1000).map(|_| {
        let (resolver, get) = (snapshot.resolver.clone(), get.clone());
        tokio::spawn(async move { resolver.resolve(&get, soon()).await })
    });
    let readers: Vec<_> = readers.collect();
    until(|| store.calls() == 1).await;
    store.open.add_permits(1000);
    for reader in join_all(readers).await {
        assert_eq!(text(reader.expect("no panic")), "v1");
    }
    assert_eq!(store.calls(), 1);
}

#[tokio::test]
async fn a_thousand_readers_of_a_missing_name_cost_one_call() {
    let store = Gate::new(&[], 1000);
    let snapshot = setup(fixture::CONFIG, &store);
    let get = permit(&snapshot, Verb::Get, "prod/none");
    for found in join_all((0..1000).map(|_| snapshot.resolver.resolve(&get, soon()))).await {
        assert!(is_missing(&found), "{found:?}");
    }
    assert_eq!(store.calls(), 1);
}

#[tokio::test]
async fn a_reader_that_gives_up_does_not_cancel_the_fetch_for_others() {
    let store = Gate::new(&[("prod/key", "v1")], 0);
    let snapshot = setup(fixture::CONFIG, &store);
    let get = permit(&snapshot, Verb::Get, "prod/key");
    let hasty = snapshot.resolver.resolve(&get, Instant::now() + Duration::from_millis(5)).await;
    assert!(matches!(hasty, Err(ResolveError::Deadline)), "{hasty:?}");
    let (resolver, patient) = (snapshot.resolver.clone(), get.clone());
    let patient = tokio::spawn(async move { resolver.resolve(&patient, soon()).await });
    store.open.add_permits(10);
    assert_eq!(text(patient.await.expect("no panic")), "v1");
    assert_eq!(store.calls(), 1);
}

#[tokio::test]
async fn a_ttl_of_zero_asks_every_time() {
    let store = Gate::new(&[("prod/key", "v1")], 1000);
    let snapshot = setup(&with("cache: {ttl: 0, negative_ttl: 0}"), &store);
    let get = permit(&snapshot, Verb::Get, "prod/key");
    let none = permit(&snapshot, Verb::Get, "prod/none");
    for _ in 0..3 {
        snapshot.resolver.resolve(&get, soon()).await.expect("resolved");
        assert!(is_missing(&snapshot.resolver.resolve(&none, soon()).await));
    }
    assert_eq!(store.calls(), 6);
}

#[tokio::test]
async fn a_write_beats_what_is_cached_and_what_is_in_flight() {
    let store = Gate::new(&[("prod/key", "v1")], 0);
    let snapshot = setup(fixture::CONFIG, &store);
    let (resolver, get) = (snapshot.resolver.clone(), permit(&snapshot, Verb::Get, "prod/key"));
    let early = {
        let (resolver, get) = (resolver.clone(), get.clone());
        tokio::spawn(async move { resolver.resolve(&get, soon()).await })
    };
    until(|| store.calls() == 1).await;
    let update = permit(&snapshot, Verb::Update, "prod/key");
    resolver.update(&update, &SecretValue::new("v2"), soon()).await.expect("updated");
    store.open.add_permits(1000);
    assert_eq!(text(early.await.expect("no panic")), "v1", "it read before the write");
    assert_eq!(text(resolver.resolve(&get, soon()).await), "v2");
    resolver.update(&update, &SecretValue::new("v3"), soon()).await.expect("updated");
    assert_eq!(text(resolver.resolve(&get, soon()).await), "v3");
    let delete = permit(&snapshot, Verb::Delete, "prod/key");
    resolver.delete(&delete, true, soon()).await.expect("deleted");
    assert!(is_missing(&resolver.resolve(&get, soon()).await));
    let create = permit(&snapshot, Verb::Create, "prod/key");
    resolver.create(&create, &SecretValue::new("v4"), soon()).await.expect("created");
    assert_eq!(text(resolver.resolve(&get, soon()).await), "v4", "not known as missing any more");
}

#[tokio::test]
async fn a_store_that_hangs_is_given_up_after_the_backend_timeout() {
    let store = Gate::new(&[("prod/key", "v1")], 0);
    let snapshot = setup(&with("limits: {backend_timeout: 20ms}"), &store);
    let get = permit(&snapshot, Verb::Get, "prod/key");
    let result = snapshot.resolver.resolve(&get, soon()).await;
    let timed_out =
        matches!(result, Err(ResolveError::Backend { error: BackendError::TimedOut, .. }));
    assert!(timed_out, "{result:?}");
    store.open.add_permits(10);
    assert_eq!(text(snapshot.resolver.resolve(&get, soon()).await), "v1", "errors are not kept");
}

#[tokio::test]
async fn a_permit_opens_only_what_it_is_for() {
    let store = Gate::new(&[("prod/key", "v1")], 1000);
    let snapshot = setup(fixture::CONFIG, &store);
    let (get, delete) =
        (permit(&snapshot, Verb::Get, "prod/key"), permit(&snapshot, Verb::Delete, "prod/key"));
    let value = SecretValue::new("x");
    let resolver = &snapshot.resolver;
    assert!(matches!(resolver.resolve(&delete, soon()).await, Err(ResolveError::Internal)));
    assert!(matches!(resolver.delete(&get, true, soon()).await, Err(ResolveError::Internal)));
    assert!(matches!(resolver.update(&get, &value, soon()).await, Err(ResolveError::Internal)));
    assert!(matches!(resolver.create(&get, &value, soon()).await, Err(ResolveError::Internal)));
    assert_eq!(store.calls(), 0);
}

#[tokio::test]
async fn a_list_holds_only_names_that_may_be_listed() {
    let names = [("prod/a", "x"), ("prod/b", "x"), ("other/c", "x"), ("shared/stripe", "x")];
    let store = Gate::new(&names, 1000);
    let snapshot = setup(fixture::CONFIG, &store);
    let api = fixture::principal("prod/api");
    let permit = snapshot.policies.authorize_collection(&api, Verb::List).expect("allowed");
    let listed = snapshot.resolver.list(&permit, &fixture::local(), soon()).await.expect("listed");
    let listed: Vec<_> = listed.iter().map(|name| name.as_str()).collect();
    assert_eq!(listed, ["prod/a", "prod/b"]);
}
