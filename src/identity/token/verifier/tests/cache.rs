//! What is remembered, for whom, and for how long.

use super::*;

#[tokio::test]
async fn a_good_token_is_asked_about_once_and_proves_what_the_api_server_says() {
    let cluster = Cluster::start().await;
    let verifier = cluster.verifier(|_| {});
    let expires = mint::now() + 600;
    let token = cluster.mint.token(json!({"exp": expires, "jti": "one"}));
    for _ in 0..100 {
        let proof = good(&verifier, &token).await;
        assert_eq!(proof.id().to_string(), "spiffe://cluster.local/ns/prod/sa/api");
        assert_eq!(proof.pod().map(|pod| (&*pod.name, &*pod.uid)), Some((mint::POD, POD_UID)));
        let Binding { node, expires: ends, .. } = proof.binding();
        assert_eq!((node.as_deref(), *ends), (Some(mint::NODE), expires));
        assert_eq!(proof.binding().credential_id.as_deref(), Some("JTI=one"));
    }
    assert_eq!((cluster.reviews(), cluster.fetches()), (1, 1));
    good(&verifier, &cluster.token()).await;
    assert_eq!((cluster.reviews(), cluster.fetches()), (1, 1), "another token");
}

#[tokio::test]
async fn verdicts_are_for_the_audiences_they_were_made_for() {
    let cluster = Cluster::start().await;
    let of = |audiences: &[&str]| {
        let audiences = audiences.iter().map(|&it| it.to_owned()).collect();
        cluster.verifier(|settings| settings.audiences = audiences)
    };
    let (ours, theirs) = (of(&[AUDIENCE]), of(&["theirs"]));
    let token = cluster.token();
    good(&ours, &token).await;
    // As if both had one cache.
    let held = ours.good.get(&ours.digest(&token)).expect("remembered");
    theirs.good.insert(theirs.digest(&token), held);
    assert_eq!(verify(&theirs, &token).await, refused(TokenRefusal::Audience));

    let lists = [&["ab"][..], &["a", "b"], &["b", "a"], &["a"], &[], &["a\u{1}b"], &["a", "", "b"]];
    let mut digests: Vec<_> = lists.iter().map(|list| of(list).digest("t")).collect();
    // What follows the audiences is never taken for one more.
    digests.extend([of(&["a"]).digest("b"), of(&["a"]).digest("bt"), of(&["ab", "t"]).digest("")]);
    let distinct: std::collections::HashSet<_> = digests.iter().collect();
    assert_eq!(distinct.len(), digests.len());
}

#[tokio::test]
async fn what_a_token_says_of_itself_counts_whenever_it_is_shown() {
    let cluster = Cluster::start().await;
    let verifier = cluster.verifier(|settings| settings.issuer = Some(ISSUER.to_owned()));
    let token = cluster.token();
    let digest = verifier.digest(&token);
    good(&verifier, &token).await;
    let held = verifier.good.get(&digest).expect("remembered");
    let (now, leeway) = (mint::now(), LEEWAY.as_secs());
    type Change = fn(&mut Claims, u64);
    let rows: [(Change, u64, TokenRefusal); 5] = [
        (|claims, at| claims.expires = at, now - leeway, TokenRefusal::Expired),
        (|claims, at| claims.not_before = Some(at), now + 60, TokenRefusal::NotYetValid),
        (|claims, at| claims.issued = Some(at), now + 60, TokenRefusal::NotYetValid),
        (|claims, at| claims.issued = Some(at), now - 24 * 3600, TokenRefusal::Lifetime),
        (|claims, _| claims.issuer.push('/'), 0, TokenRefusal::Issuer),
    ];
    cluster.reviews();
    for (change, at, refusal) in rows {
        let mut claims = held.claims.clone();
        change(&mut claims, at);
        let proof = Arc::clone(&held.proof);
        let changed = Verified { proof, claims, at: held.at, epoch: held.epoch };
        verifier.good.insert(digest, Arc::new(changed));
        assert_eq!(verify(&verifier, &token).await, refused(refusal));
    }
    verifier.good.insert(digest, held);
    good(&verifier, &token).await;
    assert_eq!(cluster.reviews(), 0);
}

#[tokio::test]
async fn a_good_verdict_holds_for_its_time() {
    let cluster = Cluster::start().await;
    for verify in [TokenVerification::Both, TokenVerification::TokenReview] {
        let verifier = cluster.verifier(|settings| settings.verify = verify);
        let token = cluster.token();
        good(&verifier, &token).await;
        later(settings().ttl - Duration::from_secs(1)).await;
        good(&verifier, &token).await;
        assert_eq!(cluster.reviews(), 1);
        later(Duration::from_secs(1)).await;
        good(&verifier, &token).await;
        good(&verifier, &token).await;
        assert_eq!(cluster.reviews(), 1, "asked once more");
    }
}

#[tokio::test]
async fn a_refusal_holds_for_its_time() {
    let cluster = Cluster::start().await;
    cluster.fake.always(no());
    let token = cluster.token();
    let verifier = cluster.verifier(|_| {});
    for _ in 0..100 {
        assert_eq!(verify(&verifier, &token).await, refused(TokenRefusal::Unauthenticated));
    }
    assert_eq!(cluster.reviews(), 1);

    let hasty = cluster.verifier(|settings| settings.negative_ttl = Duration::from_millis(20));
    assert!(verify(&hasty, &token).await.is_err());
    until(|| hasty.refused.get(&hasty.digest(&token)).is_none()).await;
    cluster.fake.on(|call| created(&review_of(call)));
    good(&hasty, &token).await;
    assert_eq!(cluster.reviews(), 2);
}

#[tokio::test]
async fn a_refusal_ends_what_was_believed_before() {
    let stale = Duration::from_secs(3600);
    for by_keys in [false, true] {
        let cluster = Cluster::start().await;
        let verifier = cluster.verifier(|settings| settings.stale_if_unavailable = stale);
        let token = cluster.token();
        good(&verifier, &token).await;
        // The keys are due to be fetched again by then.
        later(Duration::from_secs(700)).await;
        let refusal = if by_keys {
            cluster.keys(Keys::GiveOthers);
            let fetched = cluster.fetches();
            good(&verifier, &token).await;
            until(|| cluster.fetches() > fetched).await;
            later(settings().ttl).await;
            TokenRefusal::UnknownKey
        } else {
            cluster.fake.always(no());
            TokenRefusal::Unauthenticated
        };
        assert_eq!(verify(&verifier, &token).await, refused(refusal));
        assert!(verifier.good.get(&verifier.digest(&token)).is_none());
        // Nobody can tell any more; nothing good is left to fall back on.
        verifier.refused.invalidate_all();
        cluster.fake.always(Reply::Reset);
        cluster.keys(Keys::Fail);
        later(Duration::from_secs(700)).await;
        let answer = verify(&verifier, &token).await;
        assert!(answer.is_err(), "{by_keys}: {answer:?}");
    }
}
