//! How old a value may be, by the clock and by what its store says.

use std::time::Duration;

use tokio::time::{Instant, advance};

use super::{
    outages::{Scripted, permit, resolver},
    *,
};

const SECOND: Duration = Duration::from_secs(1);

fn with_cache(lifetimes: Lifetimes) -> ResolverSettings {
    let cache = CacheSettings { lifetimes, ..CacheSettings::default() };
    ResolverSettings { cache, ..ResolverSettings::default() }
}

#[tokio::test(start_paused = true)]
async fn a_value_is_fresh_for_nine_tenths_of_its_ttl_at_least() {
    let store = Scripted::new(|call| Ok(format!("v{call}")));
    let lifetimes = Lifetimes { stale_while_revalidate: Duration::ZERO, ..Lifetimes::default() };
    let resolver = resolver(&[("local", &store)], with_cache(lifetimes));
    let get = permit("local", "db");
    assert_eq!(text(resolver.resolve(&get, soon()).await), "v1");
    advance(53 * SECOND).await;
    assert_eq!(text(resolver.resolve(&get, soon()).await), "v1");
    assert_eq!(store.calls(), 1);
    advance(8 * SECOND).await;
    assert_eq!(text(resolver.resolve(&get, soon()).await), "v2", "61 s is past any TTL of 60 s");
}

#[tokio::test(start_paused = true)]
async fn values_fetched_together_do_not_expire_together() {
    let store = Scripted::new(|_| Ok("x".to_owned()));
    let resolver = resolver(&[("local", &store)], ResolverSettings::default());
    for at in 0..200 {
        let get = permit("local", &format!("key-{at}"));
        resolver.resolve(&get, soon()).await.expect("resolved");
    }
    advance(57 * SECOND).await;
    for at in 0..200 {
        let get = permit("local", &format!("key-{at}"));
        resolver.resolve(&get, soon()).await.expect("resolved");
    }
    store.settle().await;
    let fetched_again = store.calls() - 200;
    assert!((40..160).contains(&fetched_again), "{fetched_again} of 200 after 95 % of the TTL");
}

#[tokio::test(start_paused = true)]
async fn expiry_under_load_costs_one_call_and_nobody_waits() {
    let store = Scripted::new(|call| Ok(format!("v{call}")));
    store.takes(2 * SECOND);
    let resolver = resolver(&[("local", &store)], ResolverSettings::default());
    let get = permit("local", "db");
    resolver.resolve(&get, soon()).await.expect("resolved");
    advance(61 * SECOND).await;
    let started = Instant::now();
    let readers = (0..1000).map(|_| resolver.resolve(&get, soon()));
    for found in join_all(readers).await {
        assert_eq!(text(found), "v1");
    }
    assert_eq!(started.elapsed(), Duration::ZERO, "a reader waited");
    store.settle().await;
    assert_eq!(store.calls(), 2);
    assert_eq!(text(resolver.resolve(&get, soon()).await), "v2");
}

#[tokio::test(start_paused = true)]
async fn after_the_stale_window_a_reader_waits_for_the_store() {
    let store = Scripted::new(|call| Ok(format!("v{call}")));
    let resolver = resolver(&[("local", &store)], ResolverSettings::default());
    let get = permit("local", "db");
    resolver.resolve(&get, soon()).await.expect("resolved");
    advance(100 * SECOND).await;
    assert_eq!(text(resolver.resolve(&get, soon()).await), "v2");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_cannot_answer_leaves_the_old_value_in_use_for_a_while() {
    for error in [
        BackendError::Unavailable(None),
        BackendError::TimedOut,
        BackendError::Throttled { retry_after: None },
    ] {
        let store = Scripted::new(move |call| match call {
            1 => Ok("old".to_owned()),
            _ => Err(error.clone()),
        });
        let resolver = resolver(&[("local", &store)], ResolverSettings::default());
        let get = permit("local", "db");
        resolver.resolve(&get, soon()).await.expect("resolved");
        for _ in 0..5 {
            advance(110 * SECOND).await;
            assert_eq!(text(resolver.resolve(&get, soon()).await), "old");
        }
        advance(130 * SECOND).await;
        let gone = resolver.resolve(&get, soon()).await;
        assert!(matches!(gone, Err(ResolveError::Backend { .. })), "after 680 s: {gone:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_store_refuses_or_no_longer_has_is_never_served_stale() {
    for error in [
        BackendError::NotFound,
        BackendError::PermissionDenied(None),
        BackendError::Disabled,
        BackendError::PendingDeletion,
        BackendError::Invalid("x".to_owned()),
    ] {
        let (kind, refusal) = (error.kind(), error.clone());
        let store = Scripted::new(move |call| match call {
            1 => Ok("old".to_owned()),
            2 => Err(refusal.clone()),
            _ => Err(BackendError::Unavailable(None)),
        });
        let resolver = resolver(&[("local", &store)], ResolverSettings::default());
        let get = permit("local", "db");
        resolver.resolve(&get, soon()).await.expect("resolved");
        advance(100 * SECOND).await;
        let refused = resolver.resolve(&get, soon()).await.expect_err(kind);
        let ResolveError::Backend { error, .. } = &refused else { panic!("{refused:?}") };
        assert_eq!(error.kind(), kind);
        advance(10 * SECOND).await;
        let down = resolver.resolve(&get, soon()).await;
        assert!(down.is_err(), "{kind}, then an outage: {down:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_in_the_background_ends_the_stale_value() {
    let store = Scripted::new(|call| match call {
        1 => Ok("old".to_owned()),
        _ => Err(BackendError::PermissionDenied(None)),
    });
    let resolver = resolver(&[("local", &store)], ResolverSettings::default());
    let get = permit("local", "db");
    resolver.resolve(&get, soon()).await.expect("resolved");
    advance(61 * SECOND).await;
    assert_eq!(text(resolver.resolve(&get, soon()).await), "old", "the store is asked meanwhile");
    store.settle().await;
    let refused = resolver.resolve(&get, soon()).await;
    assert!(refused.is_err(), "{refused:?}");
}

#[tokio::test(start_paused = true)]
async fn a_prefix_has_lifetimes_of_its_own_and_the_longest_wins() {
    let store = Scripted::new(|call| Ok(format!("v{call}")));
    let shorter = Lifetimes { ttl: 5 * SECOND, ..Lifetimes::none() };
    let never = Lifetimes::none();
    let mut settings = ResolverSettings::default();
    let local = BackendName::parse("local").expect("valid");
    for (prefix, lifetimes) in [("db/", shorter), ("db/hot/", never), ("", Lifetimes::default())] {
        let backend = local.clone();
        settings.cache.overrides.push(CacheOverride { backend, prefix: prefix.into(), lifetimes });
    }
    let resolver = resolver(&[("local", &store)], settings);
    let calls = async |name: &str, wait: Duration| {
        let get = permit("local", name);
        resolver.resolve(&get, soon()).await.expect("resolved");
        let before = store.calls();
        advance(wait).await;
        resolver.resolve(&get, soon()).await.expect("resolved");
        store.calls() - before
    };
    assert_eq!(calls("db/a", 4 * SECOND).await, 0);
    assert_eq!(calls("db/b", 6 * SECOND).await, 1);
    assert_eq!(calls("db/hot/a", Duration::ZERO).await, 1);
    assert_eq!(calls("dbase", 50 * SECOND).await, 0);
}

#[tokio::test(start_paused = true)]
async fn news_from_outside_beat_what_is_held_and_what_is_in_flight() {
    let store = Scripted::new(|call| Ok(format!("v{call}")));
    let resolver = resolver(&[("local", &store)], ResolverSettings::default());
    let get = permit("local", "db");
    resolver.resolve(&get, soon()).await.expect("resolved");
    let secret = get.secret();
    resolver.invalidate(&secret.backend, None, &secret.name);
    assert_eq!(text(resolver.resolve(&get, soon()).await), "v2");

    resolver.invalidate(&secret.backend, None, &secret.name);
    store.takes(SECOND);
    let early = {
        let (resolver, get) = (resolver.clone(), get.clone());
        tokio::spawn(async move { resolver.resolve(&get, soon()).await })
    };
    until(|| store.calls() == 3).await;
    resolver.invalidate(&secret.backend, None, &secret.name);
    assert_eq!(text(resolver.resolve(&get, soon()).await), "v4", "not what began before");
    assert_eq!(text(early.await.expect("no panic")), "v3");
    assert_eq!(text(resolver.resolve(&get, soon()).await), "v4", "and it stays so");
}

#[tokio::test(start_paused = true)]
async fn a_refresh_goes_past_the_cache_and_each_principal_has_a_share() {
    let store = Scripted::new(|call| Ok(format!("v{call}")));
    let settings = ResolverSettings {
        refreshes_per_minute: 3.try_into().expect("not 0"),
        ..Default::default()
    };
    let resolver = resolver(&[("local", &store)], settings);
    let get = permit("local", "db");
    assert_eq!(text(resolver.resolve(&get, soon()).await), "v1");
    for expected in ["v2", "v3", "v4"] {
        assert_eq!(text(resolver.refresh(&get, soon()).await), expected);
        assert_eq!(text(resolver.resolve(&get, soon()).await), expected);
    }
    let refused = resolver.refresh(&get, soon()).await;
    let Err(ResolveError::RefreshLimit { retry_after }) = refused else { panic!("{refused:?}") };
    assert!(retry_after > Duration::ZERO && retry_after <= 20 * SECOND, "{retry_after:?}");
    assert_eq!(store.calls(), 4);
    let other = outages::permit_of("prod/other", Verb::Get, "local", "db");
    assert_eq!(text(resolver.refresh(&other, soon()).await), "v5");
}

#[tokio::test(start_paused = true)]
async fn a_refresh_shows_an_outage_and_keeps_the_old_value_for_others() {
    let store = Scripted::new(|call| match call {
        1 => Ok("old".to_owned()),
        _ => Err(BackendError::Throttled { retry_after: None }),
    });
    let resolver = resolver(&[("local", &store)], ResolverSettings::default());
    let get = permit("local", "db");
    resolver.resolve(&get, soon()).await.expect("resolved");
    assert!(resolver.refresh(&get, soon()).await.is_err());
    assert_eq!(text(resolver.resolve(&get, soon()).await), "old");
}

#[tokio::test(start_paused = true)]
async fn what_may_not_be_served_any_more_does_not_stay_in_memory() {
    let store = Scripted::new(|_| Ok("x".to_owned()));
    let metrics = Arc::new(Metrics::default());
    let resolver =
        outages::resolver_with(&[("local", &store)], ResolverSettings::default(), &metrics);
    let entries = || {
        resolver.tidy();
        resolver.measure();
        let text = metrics.encode().expect("text");
        let line = text.lines().find(|line| line.starts_with("vaultmux_cache_entries "));
        line.expect("measured").rsplit(' ').next().expect("a number").to_owned()
    };
    for name in ["a", "b"] {
        resolver.resolve(&permit("local", name), soon()).await.expect("resolved");
    }
    assert_eq!(entries(), "2");
    let secret = permit("local", "a").secret().clone();
    resolver.invalidate(&secret.backend, None, &secret.name);
    assert_eq!(entries(), "1");
    advance(661 * SECOND).await;
    assert_eq!(entries(), "0");
}

#[tokio::test(start_paused = true)]
async fn the_cache_stays_within_its_bytes() {
    let store = Scripted::new(|_| Ok("x".repeat(10_000)));
    let mut settings = ResolverSettings::default();
    settings.cache.max_bytes = 100_000;
    let resolver = resolver(&[("local", &store)], settings);
    for at in 0..100 {
        let get = permit("local", &format!("key-{at}"));
        resolver.resolve(&get, soon()).await.expect("resolved");
    }
    resolver.tidy();
    let (entries, bytes) = resolver.shared.cache.size();
    assert!(entries > 0 && bytes <= 100_000, "{entries} entries, {bytes} bytes");
}

#[tokio::test(start_paused = true)]
async fn a_silent_store_keeps_no_reader_waiting_that_has_a_value_at_hand() {
    let store = Scripted::new(|call| Ok(format!("v{call}")));
    let resolver = resolver(&[("local", &store)], ResolverSettings::default());
    let get = permit("local", "db");
    resolver.resolve(&get, soon()).await.expect("resolved");
    advance(100 * SECOND).await;
    store.takes(3600 * SECOND);
    let mut waited = Duration::ZERO;
    for _ in 0..120 {
        let started = Instant::now();
        assert_eq!(text(resolver.resolve(&get, soon()).await), "v1");
        waited += started.elapsed();
        advance(SECOND).await;
    }
    assert!(waited < 15 * SECOND, "waited {waited:?} of two minutes");
}

#[tokio::test(start_paused = true)]
async fn writes_that_never_reached_a_store_leave_what_is_cached() {
    let store = Scripted::new(|call| match call {
        1..=20 => Ok("old".to_owned()),
        _ => Err(BackendError::Unavailable(None)),
    });
    let resolver = resolver(&[("local", &store)], ResolverSettings::default());
    for at in 0..20 {
        resolver.resolve(&permit("local", &format!("v-{at}")), soon()).await.expect("resolved");
    }
    for at in 0..10 {
        resolver.resolve(&permit("local", &format!("down-{at}")), soon()).await.expect_err("down");
    }
    let before = store.calls();
    for at in 0..500 {
        let update =
            outages::permit_of("prod/evil", Verb::Update, "local", &format!("v-{}", at % 20));
        resolver.update(&update, &SecretValue::new("x"), soon()).await.expect_err("down");
    }
    assert_eq!(store.calls(), before, "it is left alone");
    for at in 0..20 {
        let read = resolver.resolve(&permit("local", &format!("v-{at}")), soon()).await;
        assert_eq!(text(read), "old");
    }
}

#[tokio::test(start_paused = true)]
async fn a_successor_goes_on_with_what_did_not_change() {
    let (kept, other) = (
        Scripted::new(|call| match call {
            1 => Ok("old".to_owned()),
            _ => Err(BackendError::Unavailable(None)),
        }),
        Scripted::new(|call| Ok(format!("other {call}"))),
    );
    let settings = ResolverSettings {
        refreshes_per_minute: 1.try_into().expect("not 0"),
        ..Default::default()
    };
    let first = resolver(&[("local", &kept), ("other", &other)], settings.clone());
    let (get, get_other) = (permit("local", "db"), permit("other", "db"));
    first.resolve(&get, soon()).await.expect("resolved");
    first.resolve(&get_other, soon()).await.expect("resolved");
    first.refresh(&get_other, soon()).await.expect("refreshed");
    advance(100 * SECOND).await;
    for at in 0..10 {
        first.resolve(&permit("local", &format!("x-{at}")), soon()).await.expect_err("down");
    }
    let again = outages::opened(&other);
    let next = first.succeeded_by(
        HashMap::from([
            (get.secret().backend.clone(), Opened::Kept),
            (get_other.secret().backend.clone(), Opened::New(again)),
        ]),
        settings,
    );
    assert_eq!(next.status()[0].state, "down", "known from before");
    assert_eq!(text(next.resolve(&get, soon()).await), "old", "kept for the outage");
    assert_eq!(text(next.resolve(&get_other, soon()).await), "other 3", "another store");
    let limited = next.refresh(&get_other, soon()).await;
    assert!(matches!(limited, Err(ResolveError::RefreshLimit { .. })), "{limited:?}");
}

#[tokio::test(start_paused = true)]
async fn a_write_that_a_reload_overtakes_beats_what_was_cached_since() {
    let store = Scripted::new(|call| Ok(format!("v{call}")));
    let first = resolver(&[("local", &store)], ResolverSettings::default());
    store.takes(2 * SECOND);
    let update = outages::permit_of("prod/api", Verb::Update, "local", "db");
    let writing = {
        let first = first.clone();
        tokio::spawn(async move { first.update(&update, &SecretValue::new("x"), soon()).await })
    };
    until(|| store.calls() == 1).await;
    let get = permit("local", "db");
    let mut settings = ResolverSettings::default();
    settings.cache.max_bytes += 1;
    let kept = HashMap::from([(get.secret().backend.clone(), Opened::Kept)]);
    let next = first.succeeded_by(kept, settings);
    store.takes(Duration::ZERO);
    assert_eq!(text(next.resolve(&get, soon()).await), "v2", "before the write is through");
    writing.await.expect("no panic").expect("updated");
    assert_eq!(text(next.resolve(&get, soon()).await), "v3");
}
