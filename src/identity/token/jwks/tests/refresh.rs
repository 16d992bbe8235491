//! When keys are fetched, and what happens meanwhile.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use futures_util::future::join_all;
use serde_json::json;
use tokio::time::{advance, sleep};

use super::*;

const UNKNOWN: Result<(), TokenError> = Err(TokenError::Refused(TokenRefusal::UnknownKey));
const UNAVAILABLE: Result<(), TokenError> = Err(TokenError::Unavailable);

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// A token that costs its maker nothing, signed with a key of that id.
fn garbage(id: usize) -> String {
    let header = json!({"alg": "ES256", "kid": format!("garbage-{id}")}).to_string();
    let payload = mint::claims(mint::ACCOUNT).to_string();
    format!("{}.{}.AAAA", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload))
}

/// Lets every task run that can, until this holds.
async fn until(fact: impl Fn() -> bool) {
    for _ in 0..1000 {
        if fact() {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("never happened");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_fetched_before_a_token_comes() {
    let mint = Mint::p256("key");
    let source = Script::new(Act::Give(mint.jwks()));
    let set = source.set();
    sleep(seconds(3600)).await;
    assert_eq!((source.calls(), set.ready(), set.age()), (0, false, None));
    assert_eq!(verify(&set, &mint.token(json!({}))).await, Ok(()));
    assert_eq!((source.calls(), set.ready(), set.age()), (1, true, Some(Duration::ZERO)));
    advance(seconds(7)).await;
    assert_eq!(set.age(), Some(seconds(7)));
    assert_eq!(set.fetches(), Fetches { succeeded: 1, failed: 0 });
}

#[tokio::test(start_paused = true)]
async fn a_thousand_first_callers_share_one_fetch() {
    let mint = Mint::p256("key");
    let source = Script::new(Act::GiveAfter(seconds(2), mint.jwks()));
    let set = source.set();
    let token = mint.token(json!({}));
    let verdicts = join_all((0..1000).map(|_| verify(&set, &token))).await;
    assert!(verdicts.iter().all(Result::is_ok));
    assert_eq!(source.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_unknown_ids_costs_one_fetch() {
    let mint = Mint::p256("key");
    let source = Script::new(Act::Give(mint.jwks()));
    let set = source.set();
    assert_eq!(verify(&set, &mint.token(json!({}))).await, Ok(()));
    advance(COOL_DOWN).await;
    source.now(Act::GiveAfter(seconds(1), mint.jwks()));
    let tokens: Vec<_> = (0..10_000).map(garbage).collect();
    // At once, then one by one.
    let (first, rest) = tokens.split_at(5000);
    let verdicts = join_all(first.iter().map(|token| verify(&set, token))).await;
    assert!(verdicts.iter().all(|verdict| *verdict == UNKNOWN));
    for token in rest {
        assert_eq!(verify(&set, token).await, UNKNOWN);
    }
    assert_eq!(source.calls(), 2);
    // Good tokens never noticed.
    assert_eq!(verify(&set, &mint.token(json!({}))).await, Ok(()));
    advance(COOL_DOWN).await;
    assert_eq!(verify(&set, &garbage(0)).await, UNKNOWN);
    assert_eq!(source.calls(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_flood_against_an_empty_set_costs_one_fetch_too() {
    let mint = Mint::p256("key");
    let source = Script::new(Act::GiveAfter(seconds(1), mint.jwks()));
    let set = source.set();
    let tokens: Vec<_> = (0..1000).map(garbage).collect();
    let verdicts = join_all(tokens.iter().map(|token| verify(&set, token))).await;
    assert!(verdicts.iter().all(|verdict| *verdict == UNKNOWN));
    assert_eq!(verify(&set, &garbage(0)).await, UNKNOWN);
    assert_eq!(source.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn keys_are_rotated_without_a_refusal() {
    let (old, new) = (Mint::p256("old"), Mint::p256("new"));
    let source = Script::new(Act::Give(old.jwks()));
    let set = source.set();
    let (by_old, by_new) = (old.token(json!({})), new.token(json!({})));
    assert_eq!(verify(&set, &by_old).await, Ok(()));
    advance(COOL_DOWN).await;
    // The new key appears beside the old one; its first token fetches it.
    source.now(Act::Give(mint::jwks([&old, &new])));
    assert_eq!(verify(&set, &by_new).await, Ok(()));
    assert_eq!(verify(&set, &by_old).await, Ok(()));
    assert_eq!(source.calls(), 2);
    // The old one goes, and is forgotten with the next refresh.
    source.now(Act::Give(new.jwks()));
    advance(MAX_AGE).await;
    assert_eq!(verify(&set, &by_old).await, Ok(()), "held until then");
    until(|| set.age() == Some(Duration::ZERO)).await;
    assert_eq!(source.calls(), 3);
    assert_eq!(verify(&set, &by_new).await, Ok(()));
    assert_eq!(verify(&set, &by_old).await, UNKNOWN);
}

#[tokio::test(start_paused = true)]
async fn a_refresh_holds_nobody_up_and_is_made_once() {
    let mint = Mint::p256("key");
    let source = Script::new(Act::Give(mint.jwks()));
    let set = source.set();
    let token = mint.token(json!({}));
    assert_eq!(verify(&set, &token).await, Ok(()));
    advance(MAX_AGE - seconds(1)).await;
    assert_eq!(verify(&set, &token).await, Ok(()));
    assert_eq!(source.calls(), 1, "still young");
    source.now(Act::Hang);
    advance(seconds(1)).await;
    let asked = Instant::now();
    for _ in 0..100 {
        assert_eq!(verify(&set, &token).await, Ok(()));
    }
    until(|| source.calls() == 2).await;
    assert_eq!(asked.elapsed(), Duration::ZERO);
    assert_eq!(verify(&set, &token).await, Ok(()));
    assert_eq!(source.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn old_keys_go_on_while_the_source_is_down() {
    let mint = Mint::p256("key");
    let source = Script::new(Act::Give(mint.jwks()));
    let set = source.set();
    let token = mint.token(json!({}));
    assert_eq!(verify(&set, &token).await, Ok(()));
    source.now(Act::Fail);
    advance(MAX_AGE).await;
    for failed in 1..=8 {
        assert_eq!(verify(&set, &token).await, Ok(()));
        until(|| set.fetches().failed == failed).await;
        // Another could be in a newer set: unsure means deny, and is no outage, which
        // callers could bring about by the name of a key.
        assert_eq!(verify(&set, &garbage(0)).await, UNKNOWN);
        assert_eq!(set.fetches().failed, failed, "left alone");
        advance(BACKOFF.1).await;
    }
    assert!(set.age() > Some(MAX_AGE) && set.ready());
    source.now(Act::Give(mint.jwks()));
    assert_eq!(verify(&set, &garbage(0)).await, UNKNOWN);
}

#[tokio::test(start_paused = true)]
async fn a_source_that_is_down_at_first_is_asked_ever_less_often() {
    let mint = Mint::p256("key");
    let source = Script::new(Act::Fail);
    let set = source.set();
    let token = mint.token(json!({}));
    let mut calls = 0;
    for wait in [1, 2, 4, 8, 16, 30, 30, 30] {
        assert_eq!(verify(&set, &token).await, UNAVAILABLE);
        calls += 1;
        assert_eq!(source.calls(), calls);
        advance(seconds(wait) - Duration::from_millis(1)).await;
        assert_eq!(verify(&set, &token).await, UNAVAILABLE);
        assert_eq!(source.calls(), calls, "too early for a wait of {wait} s");
        advance(Duration::from_millis(1)).await;
    }
    assert!(!set.ready());
    assert_eq!(set.fetches(), Fetches { succeeded: 0, failed: 8 });
    source.now(Act::Give(mint.jwks()));
    assert_eq!(verify(&set, &token).await, Ok(()));
    // Forgiven: the next failure waits a second again.
    source.now(Act::Fail);
    advance(COOL_DOWN).await;
    assert_eq!(verify(&set, &garbage(0)).await, UNKNOWN);
    advance(seconds(1)).await;
    assert_eq!(verify(&set, &garbage(0)).await, UNKNOWN);
    assert_eq!(source.calls(), calls + 3);
}

#[tokio::test(start_paused = true)]
async fn a_caller_waits_for_a_slow_source_until_its_deadline() {
    let mint = Mint::p256("key");
    let source = Script::new(Act::GiveAfter(seconds(3), mint.jwks()));
    let set = source.set();
    let text = mint.token(json!({}));
    let token = unverified::read(&text).expect("accepted").expect("a service account's");
    let asked = Instant::now();
    assert_eq!(set.verify(&token, in_seconds(1)).await, UNAVAILABLE);
    assert_eq!(asked.elapsed(), seconds(1));
    // The fetch went on: who waits longer has its keys, and nobody starts another.
    assert_eq!(set.verify(&token, in_seconds(5)).await, Ok(()));
    assert_eq!((asked.elapsed(), source.calls()), (seconds(3), 1));
    // With the key at hand no deadline matters.
    assert_eq!(set.verify(&token, asked).await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_source_that_hangs_or_panics_has_failed() {
    let mint = Mint::p256("key");
    let token = mint.token(json!({}));
    for act in [Act::Hang, Act::Panic] {
        let source = Script::new(act);
        let set = source.set();
        let asked = Instant::now();
        assert_eq!(verify(&set, &token).await, UNAVAILABLE);
        assert!(asked.elapsed() <= FETCH_TIMEOUT);
        assert_eq!(verify(&set, &token).await, UNAVAILABLE);
        assert_eq!(source.calls(), 1, "left alone");
        source.now(Act::Give(mint.jwks()));
        advance(BACKOFF.0).await;
        assert_eq!(verify(&set, &token).await, Ok(()));
    }
}
