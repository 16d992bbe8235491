//! Values that a destination refused, and values fetched before anyone asks.

use super::*;
use crate::policy::PrefetchPermit;

async fn rotate(store: &Gate, snapshot: &Snapshot, value: &str) {
    let name = permit(snapshot, Verb::Get, "prod/key").secret().name.clone();
    store.update(&name, &SecretValue::new(value)).await.expect("updated");
}

#[tokio::test(start_paused = true)]
async fn a_refused_version_gives_way_to_the_one_that_the_store_has() {
    let store = Gate::new(&[("prod/key", "v1")], 10);
    let snapshot = setup(fixture::CONFIG, &store);
    let (resolver, get) = (&snapshot.resolver, permit(&snapshot, Verb::Get, "prod/key"));
    let old = resolver.resolve(&get, soon()).await.expect("resolved").version;
    rotate(&store, &snapshot, "v2").await;
    assert_eq!(text(resolver.resolve(&get, soon()).await), "v1", "known for a minute");

    assert_eq!(resolver.suspect(&get, &old), Suspicion::Refreshing);
    // Who comes right after it already gets the new one, and a thousand cost one call.
    let readers = join_all((0..1000).map(|_| resolver.resolve(&get, soon()))).await;
    assert!(readers.into_iter().all(|found| text(found) == "v2"));
    assert_eq!(store.calls(), 2);
    // What comes in late about the old one changes nothing.
    assert_eq!(resolver.suspect(&get, &old), Suspicion::Outdated);
    assert_eq!(store.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_destination_that_refuses_everything_costs_a_call_every_half_minute() {
    let store = Gate::new(&[("prod/key", "v1"), ("prod/other", "w1")], 1000);
    let long = with("cache: {ttl: 1h}");
    let snapshot = setup(&long, &store);
    let (resolver, get) = (&snapshot.resolver, permit(&snapshot, Verb::Get, "prod/key"));
    let attempt = async || {
        let version = resolver.resolve(&get, soon()).await.expect("resolved").version;
        resolver.suspect(&get, &version)
    };
    assert_eq!(attempt().await, Suspicion::Refreshing);
    for _ in 0..1000 {
        assert_eq!(attempt().await, Suspicion::Recent);
    }
    // A new value makes no difference to it.
    rotate(&store, &snapshot, "v2").await;
    tokio::time::sleep(Duration::from_secs(29)).await;
    assert_eq!(attempt().await, Suspicion::Recent);
    assert_eq!(store.calls(), 2);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(attempt().await, Suspicion::Refreshing);
    assert_eq!(attempt().await, Suspicion::Recent);
    assert_eq!(text(resolver.resolve(&get, soon()).await), "v2");
    assert_eq!(store.calls(), 3);
    // Others are not held up by it.
    let other = permit(&snapshot, Verb::Get, "prod/other");
    let version = resolver.resolve(&other, soon()).await.expect("resolved").version;
    assert_eq!(resolver.suspect(&other, &version), Suspicion::Refreshing);
}

#[tokio::test(start_paused = true)]
async fn a_refused_version_still_serves_while_the_store_cannot_answer() {
    let store = Gate::new(&[("prod/key", "v1")], 1);
    let snapshot = setup(fixture::CONFIG, &store);
    let (resolver, get) = (&snapshot.resolver, permit(&snapshot, Verb::Get, "prod/key"));
    let version = resolver.resolve(&get, soon()).await.expect("resolved").version;
    assert_eq!(resolver.suspect(&get, &version), Suspicion::Refreshing);
    let asked = Instant::now();
    assert_eq!(text(resolver.resolve(&get, soon()).await), "v1");
    assert!(asked.elapsed() <= PATIENCE + Duration::from_millis(10), "{:?}", asked.elapsed());
    assert_eq!(store.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_known_is_not_suspected() {
    let store = Gate::new(&[("prod/key", "v1")], 10);
    let snapshot = setup(fixture::CONFIG, &store);
    let (resolver, get) = (&snapshot.resolver, permit(&snapshot, Verb::Get, "prod/key"));
    assert_eq!(resolver.suspect(&get, "1"), Suspicion::Outdated, "nothing is known");
    resolver.resolve(&get, soon()).await.expect("resolved");
    assert_eq!(resolver.suspect(&get, "another"), Suspicion::Outdated);
    let none = permit(&snapshot, Verb::Get, "prod/none");
    assert!(is_missing(&resolver.resolve(&none, soon()).await));
    assert_eq!(resolver.suspect(&none, ""), Suspicion::Outdated, "known to be missing");
    assert_eq!(store.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn so_many_are_fetched_ahead_and_no_more() {
    let store = Gate::new(&[], 0);
    let snapshot = setup(fixture::CONFIG, &store);
    let ahead = |number: usize| {
        let permit = permit(&snapshot, Verb::Get, &format!("prod/k{number}"));
        snapshot.resolver.prefetch(&PrefetchPermit::from(permit), None)
    };
    let most = prefetch::MOST;
    for number in 0..most {
        assert_eq!(ahead(number), Prefetch::Started, "{number}");
    }
    assert_eq!(ahead(most), Prefetch::Full);
    // Whoever asks fetches all the same, and what is fetched is not fetched again.
    store.open.add_permits(10 * most);
    let late = permit(&snapshot, Verb::Get, &format!("prod/k{most}"));
    assert!(is_missing(&snapshot.resolver.resolve(&late, soon()).await));
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(ahead(0), Prefetch::Hot);
    assert_eq!(ahead(most + 1), Prefetch::Started);
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(store.calls(), most + 2);
}
