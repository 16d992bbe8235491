//! Nobody can tell: no verdict, unless one may still stand in.

use super::*;

const STALE: Duration = Duration::from_secs(300);

#[tokio::test]
async fn without_an_answer_there_is_no_verdict_and_nobody_waits_beyond_the_deadline() {
    let error = |status| Reply::json(status, r#"{"kind": "Status"}"#);
    for (keys, reply) in [
        (Keys::Fail, None),
        (Keys::Hang, None),
        (Keys::Give, Some(error(500))),
        (Keys::Give, Some(error(429).header("retry-after", "1"))),
        (Keys::Give, Some(error(401))),
        (Keys::Give, Some(error(403))),
        (Keys::Give, Some(Reply::Reset)),
        (Keys::Give, Some(Reply::Cut)),
        (Keys::Give, Some(Reply::Hang)),
    ] {
        let cluster = Cluster::start().await;
        cluster.keys(keys);
        let shown = format!("{reply:?}");
        let asked = reply.is_some();
        if let Some(reply) = reply {
            cluster.fake.always(reply);
        }
        let verifier = cluster.verifier(|settings| settings.stale_if_unavailable = STALE);
        let token = cluster.token();
        let started = Instant::now();
        let deadline = started + Duration::from_millis(200);
        let answer = verify_by(&verifier, &token, deadline).await;
        assert_eq!(answer, Err(TokenError::Unavailable), "{shown}");
        assert!(started.elapsed() < TIMEOUT / 2, "{shown}");
        assert_eq!(cluster.reviews(), usize::from(asked), "{shown}");
        assert!(verifier.good.get(&verifier.digest(&token)).is_none(), "{shown}");
        assert!(verifier.refused.get(&verifier.digest(&token)).is_none(), "{shown}");
    }
}

#[tokio::test]
async fn what_could_not_be_told_is_asked_again() {
    let cluster = Cluster::start().await;
    cluster.fake.always(Reply::json(500, "{}"));
    let verifier = cluster.verifier(|_| {});
    let token = cluster.token();
    assert_eq!(verify(&verifier, &token).await, Err(TokenError::Unavailable));
    cluster.fake.on(|call| created(&review_of(call)));
    good(&verifier, &token).await;
    assert_eq!(cluster.reviews(), 2);
}

#[tokio::test]
async fn a_verdict_outlives_its_time_only_where_that_is_asked_for() {
    let (ttl, second) = (settings().ttl, Duration::from_secs(1));
    let unavailable = Some(TokenError::Unavailable);
    for (stale, after, expected) in [
        (Duration::ZERO, ttl, unavailable),
        (STALE, ttl + STALE, unavailable),
        (STALE, ttl + STALE + second, unavailable),
        (STALE, ttl, None),
        (STALE, ttl + STALE - second, None),
    ] {
        let cluster = Cluster::start().await;
        let verifier = cluster.verifier(|settings| settings.stale_if_unavailable = stale);
        let token = cluster.token();
        let proof = good(&verifier, &token).await;
        cluster.fake.always(Reply::json(500, "{}"));
        later(after).await;
        cluster.reviews();
        let answer = verify(&verifier, &token).await;
        assert_eq!(answer.as_ref().err(), expected.as_ref(), "{stale:?} {after:?}");
        assert_eq!(cluster.reviews(), 1, "asked first");
        let other = verify(&verifier, &cluster.token()).await;
        assert_eq!(other, Err(TokenError::Unavailable), "of this nothing is known");
        if expected.is_none() {
            assert_eq!(answer, Ok(Some(proof)));
            cluster.fake.on(|call| created(&review_of(call)));
            good(&verifier, &token).await;
            assert_eq!(cluster.reviews(), 2);
            cluster.fake.always(Reply::Reset);
            good(&verifier, &token).await;
            assert_eq!(cluster.reviews(), 0, "the new verdict has its time");
        }
    }
}

#[tokio::test]
async fn an_old_verdict_does_not_stand_in_for_what_may_be_gone() {
    type Happens = fn(&TokenVerifier);
    let rows: [(Happens, TokenError); 3] = [
        (|verifier| verifier.revocations.bump(), TokenError::Unavailable),
        (|verifier| verifier.revocations.revoke(POD_UID), TokenRefusal::Revoked.into()),
        (|verifier| verifier.revocations.revoke(ACCOUNT_UID), TokenRefusal::Revoked.into()),
    ];
    for (at, (happens, expected)) in rows.into_iter().enumerate() {
        // Before it is asked, and while nobody answers.
        for during in [false, true] {
            let cluster = Cluster::start().await;
            let verifier = cluster.verifier(|settings| settings.stale_if_unavailable = STALE);
            let token = cluster.token();
            good(&verifier, &token).await;
            later(settings().ttl).await;
            let failed = Reply::json(500, "{}");
            if during {
                let shared = Arc::clone(&verifier);
                cluster.fake.on(move |_| {
                    happens(&shared);
                    failed.clone()
                });
            } else {
                happens(&verifier);
                cluster.fake.always(failed);
            }
            assert_eq!(verify(&verifier, &token).await, Err(expected), "{at} {during}");
        }
    }
}

#[tokio::test]
async fn an_old_verdict_stands_in_while_the_keys_cannot_be_had() {
    let cluster = Cluster::start().await;
    cluster.keys(Keys::GiveOthers);
    let verifier = cluster.verifier(|settings| settings.stale_if_unavailable = STALE);
    let token = cluster.token();
    let reviewed = cluster.verifier(|settings| settings.verify = TokenVerification::TokenReview);
    let proof = good(&reviewed, &token).await;
    let digest = verifier.digest(&token);
    let held = reviewed.good.get(&reviewed.digest(&token)).expect("remembered");
    verifier.good.insert(digest, held);
    later(settings().ttl).await;
    cluster.keys(Keys::Fail);
    assert_eq!(verify(&verifier, &token).await, Ok(Some(proof)));
    // It is the keys' word that counts once they are there.
    cluster.keys(Keys::GiveOthers);
    later(Duration::from_secs(60)).await;
    assert_eq!(verify(&verifier, &token).await, refused(TokenRefusal::UnknownKey));
}
