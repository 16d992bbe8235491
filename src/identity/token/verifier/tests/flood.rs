//! Many tokens at once, and one token from many at once.

use futures_util::future::join_all;

use super::*;

/// Ten thousand distinct tokens that nobody has signed.
fn garbage(mint: &Mint) -> impl Iterator<Item = String> {
    let good = mint.token(json!({}));
    let signature = good.rsplit('.').next().expect("a signature").to_owned();
    let key = mint.jwk()["kid"].as_str().expect("an id").to_owned();
    (0..10_000_u32).map(move |number| {
        let header = match number % 3 {
            0 => json!({"alg": "ES256", "kid": key}),
            1 => json!({"alg": "ES256", "kid": format!("unknown-{number}")}),
            _ => return format!("{number}.\u{7f}%{number}.x"),
        };
        let mut claims = mint::claims("prod/api");
        claims["jti"] = json!(number.to_string());
        let [header, claims] = [header, claims].map(|it| URL_SAFE_NO_PAD.encode(it.to_string()));
        format!("{header}.{claims}.{signature}")
    })
}

#[tokio::test]
async fn garbage_costs_the_api_server_nothing_and_pushes_out_no_good_token() {
    let cluster = Cluster::start().await;
    let verifier = cluster.verifier(|settings| settings.max_entries = 8);
    let tokens = [(); 5].map(|()| cluster.token());
    for token in &tokens {
        good(&verifier, token).await;
    }
    assert_eq!(cluster.reviews(), tokens.len());
    let (mut bad, mut unknown, mut foreign) = (0, 0, 0);
    for token in garbage(&cluster.mint) {
        match verify(&verifier, &token).await {
            Err(TokenError::Refused(TokenRefusal::Signature)) => bad += 1,
            Err(TokenError::Refused(TokenRefusal::UnknownKey)) => unknown += 1,
            Ok(None) => foreign += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((bad, unknown, foreign), (3334, 3333, 3333));
    assert!(cluster.fetches() < 10, "unknown keys cost no fetch each");
    verifier.good.run_pending_tasks();
    verifier.refused.run_pending_tasks();
    assert_eq!(verifier.good.entry_count(), tokens.len() as u64);
    assert_eq!(verifier.refused.entry_count(), 0, "the keys say it again for nothing");
    for token in &tokens {
        good(&verifier, token).await;
    }
    assert_eq!(cluster.reviews(), 0);
}

#[tokio::test]
async fn tokens_that_the_api_server_refuses_push_out_no_good_one() {
    let cluster = Cluster::start().await;
    let verifier = cluster.verifier(|settings| {
        settings.verify = TokenVerification::TokenReview;
        settings.max_entries = 2;
    });
    let tokens = [(); 2].map(|()| cluster.token());
    for token in &tokens {
        good(&verifier, token).await;
    }
    cluster.fake.always(no());
    for _ in 0..200 {
        let answer = verify(&verifier, &cluster.token()).await;
        assert_eq!(answer, refused(TokenRefusal::Unauthenticated));
    }
    assert_eq!(cluster.reviews(), 202);
    verifier.good.run_pending_tasks();
    for token in &tokens {
        good(&verifier, token).await;
    }
    assert_eq!(cluster.reviews(), 0);
}

async fn a_thousand_share_one_review() {
    let cluster = Cluster::start().await;
    for answer in [true, false] {
        if !answer {
            cluster.fake.always(no());
        }
        let verifier = cluster.verifier(|_| {});
        let token: Arc<str> = cluster.token().into();
        let all = (0..1000).map(|_| {
            let (verifier, token) = (Arc::clone(&verifier), Arc::clone(&token));
            tokio::spawn(async move { verify(&verifier, &token).await })
        });
        for verdict in join_all(all).await {
            let verdict = verdict.expect("did not panic");
            match answer {
                true => assert!(matches!(verdict, Ok(Some(_))), "{verdict:?}"),
                false => assert_eq!(verdict, refused(TokenRefusal::Unauthenticated)),
            }
        }
        assert_eq!(cluster.reviews(), 1, "{answer}");
    }
}

#[tokio::test]
async fn a_new_token_is_asked_about_once_however_many_show_it() {
    a_thousand_share_one_review().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_new_token_is_asked_about_once_on_several_threads() {
    a_thousand_share_one_review().await;
}

#[tokio::test]
async fn who_comes_between_the_cache_and_the_review_of_another_asks_nobody() {
    let cluster = Cluster::start().await;
    let verifier = cluster.verifier(|_| {});
    let text = cluster.token();
    let token = unverified::read(&text).expect("good").expect("a service account's");
    let digest = verifier.digest(&text);
    // Neither looks into the cache before, as if both had found nothing there.
    for _ in 0..2 {
        assert!(verifier.ask(&token, digest, Instant::now() + TIMEOUT).await.is_ok());
    }
    assert_eq!(cluster.reviews(), 1);
    verifier.revocations.bump();
    assert!(verifier.ask(&token, digest, Instant::now() + TIMEOUT).await.is_ok());
    assert_eq!(cluster.reviews(), 1, "a verdict from before a gap is none");
    cluster.fake.always(no());
    later(settings().ttl).await;
    for _ in 0..2 {
        let answer = verifier.ask(&token, digest, Instant::now() + TIMEOUT).await;
        assert_eq!(answer.err(), Some(TokenRefusal::Unauthenticated.into()));
    }
    assert_eq!(cluster.reviews(), 1);
}

#[tokio::test]
async fn who_gives_up_ends_the_review_for_nobody_else() {
    for cancelled in [true, false] {
        let cluster = Cluster::start().await;
        let (reply, answer) = Reply::open();
        cluster.fake.always(reply);
        let verifier = cluster.verifier(|_| {});
        let token: Arc<str> = cluster.token().into();
        let show = |deadline: Instant| {
            let (verifier, token) = (Arc::clone(&verifier), Arc::clone(&token));
            tokio::spawn(async move { verify_by(&verifier, &token, deadline).await })
        };
        let soon = Instant::now() + Duration::from_millis(100);
        let leader = show(if cancelled { Instant::now() + TIMEOUT } else { soon });
        let calls = Mutex::new(Vec::new());
        until(|| {
            let mut calls = calls.lock().expect("not poisoned");
            calls.extend(cluster.fake.calls());
            !calls.is_empty()
        })
        .await;
        let followers: Vec<_> = (0..10).map(|_| show(Instant::now() + TIMEOUT)).collect();
        tokio::task::yield_now().await;
        if cancelled {
            leader.abort();
            assert!(leader.await.is_err_and(|error| error.is_cancelled()));
        } else {
            assert_eq!(leader.await.expect("ended"), Err(TokenError::Unavailable));
        }
        let call = calls.lock().expect("not poisoned").remove(0);
        answer.send(review_of(&call).to_string().into()).expect("still waited for");
        drop(answer);
        for follower in followers {
            assert!(matches!(follower.await.expect("ended"), Ok(Some(_))), "{cancelled}");
        }
        good(&verifier, &token).await;
        assert_eq!(cluster.reviews(), 0, "{cancelled}: no second one");
    }
}

/// The API server takes every call from now on, and answers none.
fn hanging(cluster: &Cluster) -> Arc<Mutex<Vec<Call>>> {
    let calls: Arc<Mutex<Vec<Call>>> = Arc::default();
    let seen = Arc::clone(&calls);
    cluster.fake.on(move |call| {
        seen.lock().expect("not poisoned").push(call.clone());
        Reply::Hang
    });
    calls
}

#[tokio::test]
async fn reviews_do_not_queue_without_end() {
    let cluster = Cluster::start().await;
    let calls = hanging(&cluster);
    let mut verifier = cluster.make(settings());
    assert_eq!(verifier.places.available_permits(), MAX_REVIEWS);
    verifier.places = Arc::new(Semaphore::new(2));
    let verifier = Arc::new(verifier);
    let tokens: Vec<Arc<str>> = (0..3).map(|_| cluster.token().into()).collect();
    let show = |token: &Arc<str>| {
        let (verifier, token) = (Arc::clone(&verifier), Arc::clone(token));
        tokio::spawn(async move { verify(&verifier, &token).await })
    };
    let waiting = [show(&tokens[0]), show(&tokens[1])];
    until(|| calls.lock().expect("not poisoned").len() == 2).await;
    let started = Instant::now();
    assert_eq!(verify(&verifier, &tokens[2]).await, Err(TokenError::Unavailable));
    assert!(started.elapsed() < TIMEOUT / 2, "at once");
    // One that is under way is still shared.
    let soon = Instant::now() + Duration::from_millis(20);
    assert_eq!(verify_by(&verifier, &tokens[0], soon).await, Err(TokenError::Unavailable));
    assert!(Instant::now() >= soon, "it was waited for");
    assert_eq!(calls.lock().expect("not poisoned").len(), 2);
    // Places are given back, however a review ends.
    later(TIMEOUT).await;
    for shown in waiting {
        assert_eq!(shown.await.expect("ended"), Err(TokenError::Unavailable));
    }
    until(|| verifier.places.available_permits() == 2).await;
    cluster.fake.on(|call| created(&review_of(call)));
    good(&verifier, &tokens[2]).await;
}

#[tokio::test]
async fn who_asks_after_a_deletion_gets_no_answer_from_before() {
    let cluster = Cluster::start().await;
    let calls = hanging(&cluster);
    let verifier = Arc::new(cluster.make(settings()));
    let token = cluster.token();
    for expected in [1, 1, 2, 2] {
        if calls.lock().expect("not poisoned").len() == 1 && expected == 2 {
            verifier.revocations.bump();
        }
        let soon = Instant::now() + Duration::from_millis(20);
        assert_eq!(verify_by(&verifier, &token, soon).await, Err(TokenError::Unavailable));
        until(|| calls.lock().expect("not poisoned").len() == expected).await;
    }
}
