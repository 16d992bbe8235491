//! How long tokens are kept, with a clock that stands still.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::time::{Instant, advance, sleep};

use crate::{
    resolver::Suspicion,
    secret::SecretValue,
    signing::{
        AccessToken, AccessTokens, IssueError,
        issued::{Issued, TokenKey},
    },
};

/// Counts how often it is asked, and answers after a while.
#[derive(Clone, Default)]
struct Issuer(Arc<AtomicUsize>, Arc<Mutex<Option<AccessToken>>>);

impl Issuer {
    async fn ask(
        &self,
        tokens: &AccessTokens,
        key: TokenKey,
        answer: Result<u64, IssueError>,
    ) -> Result<String, IssueError> {
        let deadline = Instant::now() + Duration::from_secs(3);
        let issue = || {
            let number = self.0.fetch_add(1, Ordering::SeqCst) + 1;
            async move {
                sleep(Duration::from_secs(1)).await;
                let value = SecretValue::new(format!("token-{number}"));
                answer.map(|seconds| Issued { value, lifetime: Duration::from_secs(seconds) })
            }
        };
        let token = tokens.get(key, deadline, issue).await?;
        let text = super::text(token.value());
        *self.1.lock().expect("no panic") = Some(token);
        Ok(text)
    }

    /// Says that the token that was had last was refused.
    fn suspect(&self, tokens: &AccessTokens) -> Suspicion {
        let last = self.1.lock().expect("no panic").clone();
        tokens.suspect(&last.expect("a token"))
    }

    fn asked(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

#[tokio::test(start_paused = true)]
async fn one_fetch_serves_all_until_the_token_is_about_to_expire() {
    let (tokens, issuer) = (AccessTokens::default(), Issuer::default());
    let key = tokens.key(["a"]);
    let all = (0..50).map(|_| issuer.ask(&tokens, key, Ok(3600)));
    let all = futures_util::future::join_all(all).await;
    assert!(all.iter().all(|token| token.as_deref() == Ok("token-1")));
    assert_eq!(issuer.asked(), 1);
    // A minute's margin before the end, and one more in which the old one still does.
    advance(Duration::from_secs(3600 - 121)).await;
    assert_eq!(issuer.ask(&tokens, key, Ok(3600)).await.as_deref(), Ok("token-1"));
    assert_eq!(issuer.asked(), 1);
    advance(Duration::from_secs(2)).await;
    assert_eq!(issuer.ask(&tokens, key, Ok(3600)).await.as_deref(), Ok("token-1"));
    assert_eq!(issuer.asked(), 2, "renewed beside");
    sleep(Duration::from_secs(2)).await;
    assert_eq!(issuer.ask(&tokens, key, Ok(3600)).await.as_deref(), Ok("token-2"));
    assert_eq!(issuer.asked(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_token_serves_to_its_end_while_it_cannot_be_renewed_and_not_longer() {
    let (tokens, issuer) = (AccessTokens::default(), Issuer::default());
    let key = tokens.key(["a"]);
    assert_eq!(issuer.ask(&tokens, key, Ok(3600)).await.as_deref(), Ok("token-1"));
    advance(Duration::from_secs(3600 - 119)).await;
    for _ in 0..5 {
        let token = issuer.ask(&tokens, key, Err(IssueError::Unavailable)).await;
        assert_eq!(token.as_deref(), Ok("token-1"));
        sleep(Duration::from_secs(5)).await;
    }
    advance(Duration::from_secs(60)).await;
    let token = issuer.ask(&tokens, key, Err(IssueError::Unavailable)).await;
    assert_eq!(token, Err(IssueError::Unavailable));
}

#[tokio::test(start_paused = true)]
async fn an_issuer_that_refuses_is_left_alone_for_a_while() {
    let (tokens, issuer) = (AccessTokens::default(), Issuer::default());
    let key = tokens.key(["a"]);
    for _ in 0..20 {
        let token = issuer.ask(&tokens, key, Err(IssueError::Refused)).await;
        assert_eq!(token, Err(IssueError::Refused));
    }
    assert_eq!(issuer.asked(), 1);
    advance(Duration::from_secs(6)).await;
    assert_eq!(issuer.ask(&tokens, key, Ok(60)).await.as_deref(), Ok("token-2"));
}

#[tokio::test(start_paused = true)]
async fn a_fetch_goes_on_for_the_next_when_time_is_up() {
    let (tokens, issuer) = (AccessTokens::default(), Issuer::default());
    let key = tokens.key(["a"]);
    let hasty = tokens.get(key, Instant::now() + Duration::from_millis(150), || {
        issuer.0.fetch_add(1, Ordering::SeqCst);
        async {
            sleep(Duration::from_secs(1)).await;
            Ok(Issued { value: SecretValue::new("late"), lifetime: Duration::from_secs(60) })
        }
    });
    assert_eq!(hasty.await.map(|_| ()), Err(IssueError::Deadline));
    sleep(Duration::from_secs(2)).await;
    assert_eq!(issuer.ask(&tokens, key, Ok(60)).await.as_deref(), Ok("late"));
    assert_eq!(issuer.asked(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_refused_token_is_replaced_once_in_a_while_however_often_it_is_refused() {
    let (tokens, issuer) = (AccessTokens::default(), Issuer::default());
    let key = tokens.key(["a"]);
    assert_eq!(issuer.ask(&tokens, key, Ok(3600)).await.as_deref(), Ok("token-1"));
    let first = issuer.1.lock().expect("no panic").clone().expect("a token");
    assert_eq!(tokens.suspect(&first), Suspicion::Refreshing);
    let all = (0..20).map(|_| issuer.ask(&tokens, key, Ok(3600)));
    let all = futures_util::future::join_all(all).await;
    assert!(all.iter().all(|token| token.as_deref() == Ok("token-2")), "whoever is next waits");
    assert_eq!(issuer.asked(), 2);
    // Requests that were under way with the old one say nothing new.
    assert_eq!(tokens.suspect(&first), Suspicion::Outdated);
    for _ in 0..20 {
        assert_eq!(issuer.suspect(&tokens), Suspicion::Recent);
        assert_eq!(issuer.ask(&tokens, key, Ok(3600)).await.as_deref(), Ok("token-2"));
    }
    assert_eq!(issuer.asked(), 2);
    advance(Duration::from_secs(31)).await;
    assert_eq!(issuer.suspect(&tokens), Suspicion::Refreshing);
    assert_eq!(issuer.ask(&tokens, key, Ok(3600)).await.as_deref(), Ok("token-3"));
    assert_eq!(issuer.asked(), 3);
    // Other tokens are not touched.
    let other = tokens.key(["b"]);
    assert_eq!(issuer.ask(&tokens, other, Ok(3600)).await.as_deref(), Ok("token-4"));
    assert_eq!(issuer.suspect(&tokens), Suspicion::Refreshing);
    assert_eq!(issuer.ask(&tokens, key, Ok(3600)).await.as_deref(), Ok("token-3"));
}

#[tokio::test(start_paused = true)]
async fn a_refused_token_serves_on_where_its_issuer_has_no_other() {
    for error in [IssueError::Unavailable, IssueError::Refused, IssueError::NoToken] {
        let (tokens, issuer) = (AccessTokens::default(), Issuer::default());
        let key = tokens.key(["a"]);
        assert_eq!(issuer.ask(&tokens, key, Ok(3600)).await.as_deref(), Ok("token-1"));
        assert_eq!(issuer.suspect(&tokens), Suspicion::Refreshing);
        assert_eq!(issuer.ask(&tokens, key, Err(error)).await.as_deref(), Ok("token-1"));
        assert_eq!(issuer.asked(), 2, "{error}");
        // Not again at once, and then beside.
        assert_eq!(issuer.ask(&tokens, key, Err(error)).await.as_deref(), Ok("token-1"));
        assert_eq!(issuer.asked(), 2, "{error}");
        advance(Duration::from_secs(6)).await;
        assert_eq!(issuer.ask(&tokens, key, Ok(3600)).await.as_deref(), Ok("token-1"));
        sleep(Duration::from_secs(2)).await;
        assert_eq!(issuer.ask(&tokens, key, Ok(3600)).await.as_deref(), Ok("token-3"));
        advance(Duration::from_secs(3600)).await;
        assert_eq!(issuer.suspect(&tokens), Suspicion::Outdated, "its time was over anyway");
    }
}

#[tokio::test(start_paused = true)]
async fn a_refused_token_serves_on_where_its_issuer_is_slow() {
    let (tokens, issuer) = (AccessTokens::default(), Issuer::default());
    let key = tokens.key(["a"]);
    assert_eq!(issuer.ask(&tokens, key, Ok(3600)).await.as_deref(), Ok("token-1"));
    assert_eq!(issuer.suspect(&tokens), Suspicion::Refreshing);
    let hasty = tokens.get(key, Instant::now() + Duration::from_millis(150), || async {
        sleep(Duration::from_secs(1)).await;
        Ok(Issued { value: SecretValue::new("late"), lifetime: Duration::from_secs(600) })
    });
    assert_eq!(hasty.await.map(|token| super::text(token.value())).as_deref(), Ok("token-1"));
    sleep(Duration::from_secs(1)).await;
    assert_eq!(issuer.ask(&tokens, key, Ok(3600)).await.as_deref(), Ok("late"));
}

#[test]
fn other_secrets_and_settings_are_other_tokens() {
    let tokens = AccessTokens::default();
    let key = |parts: &[&str]| tokens.key(parts.iter().copied());
    assert!(key(&["a", "b"]) == key(&["a", "b"]));
    for other in [&["a", "c"][..], &["ab"], &["a", "b", ""], &["", "a", "b"], &["a"]] {
        assert!(key(&["a", "b"]) != key(other), "{other:?}");
    }
    assert!(AccessTokens::default().key(["a", "b"]) != key(&["a", "b"]), "another process");
}
