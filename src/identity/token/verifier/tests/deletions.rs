//! Deletions that were seen, and those that may not have been.

use super::*;

#[tokio::test]
async fn what_is_deleted_is_refused_at_once() {
    for verify in [TokenVerification::Both, TokenVerification::TokenReview, TokenVerification::Jwks]
    {
        for uid in [ACCOUNT_UID, POD_UID] {
            let cluster = Cluster::start().await;
            let verifier = cluster.verifier(|settings| settings.verify = verify);
            let token = cluster.token();
            good(&verifier, &token).await;
            cluster.reviews();
            verifier.revocations.revoke(uid);
            let answer = super::verify(&verifier, &token).await;
            assert_eq!(answer, refused(TokenRefusal::Revoked), "{verify:?} {uid}");
            assert_eq!(cluster.reviews(), 0, "{verify:?} {uid}");
        }
    }
}

#[tokio::test]
async fn what_is_deleted_is_refused_although_the_api_server_still_says_yes() {
    for uid in [ACCOUNT_UID, POD_UID] {
        let cluster = Cluster::start().await;
        let verifier = cluster.verifier(|_| {});
        verifier.revocations.revoke(uid);
        let token = cluster.token();
        for _ in 0..10 {
            assert_eq!(verify(&verifier, &token).await, refused(TokenRefusal::Revoked), "{uid}");
        }
        assert_eq!(cluster.reviews(), 1);
    }
}

#[tokio::test]
async fn a_pod_that_only_the_token_names_ends_it_too() {
    let cluster = Cluster::start().await;
    // As servers answer that do not know pods.
    cluster.fake.on(|call| {
        let mut review = review_of(call);
        let user = review["status"]["user"].as_object_mut().expect("an object");
        user.remove("extra");
        user.remove("uid");
        created(&review)
    });
    for (uid, cached) in
        [(ACCOUNT_UID, true), (POD_UID, true), (ACCOUNT_UID, false), (POD_UID, false)]
    {
        let verifier = cluster.verifier(|_| {});
        let token = cluster.token();
        if cached {
            assert_eq!(good(&verifier, &token).await.pod(), None, "not confirmed");
        }
        verifier.revocations.revoke(uid);
        let answer = verify(&verifier, &token).await;
        assert_eq!(answer, refused(TokenRefusal::Revoked), "{uid} {cached}");
    }
}

#[tokio::test]
async fn verdicts_from_before_a_gap_are_asked_for_again() {
    let cluster = Cluster::start().await;
    let verifier = cluster.verifier(|_| {});
    let token = cluster.token();
    good(&verifier, &token).await;
    verifier.revocations.bump();
    good(&verifier, &token).await;
    good(&verifier, &token).await;
    assert_eq!(cluster.reviews(), 2, "once before and once after");
    verifier.revocations.bump();
    cluster.fake.always(no());
    assert_eq!(verify(&verifier, &token).await, refused(TokenRefusal::Unauthenticated));
}

#[tokio::test]
async fn a_gap_during_a_review_is_one_after_it_began() {
    let cluster = Cluster::start().await;
    let verifier = cluster.verifier(|_| {});
    let token = cluster.token();
    let revocations = Arc::clone(&verifier.revocations);
    cluster.fake.on(move |call| {
        revocations.bump();
        created(&review_of(call))
    });
    good(&verifier, &token).await;
    good(&verifier, &token).await;
    assert_eq!(cluster.reviews(), 2, "the first may have been about what is gone by now");
}
