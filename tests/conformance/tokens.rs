//! Tokens before a real API server: reviews and deletions here, the whole program in
//! `service`.

mod service;

use std::{num::NonZeroU32, path::Path, sync::Arc, time::Duration};

use reqwest::Method;
use serde_json::{Value, json};
use vaultmux_mesh::{
    apiserver::ApiServer as Client,
    identity::{
        ReviewSettings, Reviewed, Reviewer, Revocations, ServiceAccount, TokenError, TokenRefusal,
    },
};

use crate::{apiserver::ApiServer, servers::until};

const TIMEOUT: Duration = Duration::from_secs(20);
const DAY: Duration = Duration::from_secs(24 * 3600);
const ACCOUNTS: &str = "/api/v1/namespaces/payments/serviceaccounts";
const PODS: &str = "/api/v1/namespaces/payments/pods";

async fn client(kubeconfig: &Path) -> Client {
    Client::connect(Some(kubeconfig.to_owned()), None, TIMEOUT).await.expect("set up")
}

async fn review(
    kubeconfig: &Path,
    token: &str,
    account: &str,
    audience: &str,
) -> Result<Reviewed, TokenError> {
    let settings = ReviewSettings {
        audiences: vec![audience.into()],
        per_second: NonZeroU32::MIN,
        burst: NonZeroU32::MIN,
        timeout: TIMEOUT,
    };
    let account = ServiceAccount::new("payments", account).expect("valid");
    Reviewer::new(client(kubeconfig).await, settings).review(token, &account).await
}

fn uid(object: &Value) -> &str {
    object["metadata"]["uid"].as_str().expect("a uid")
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_good_until_their_account_or_pod_is_deleted() {
    let api = ApiServer::start().await;
    api.create_namespace("payments").await;
    let account = json!({"metadata": {"name": "api"}});
    let account = api.admin(Method::POST, ACCOUNTS, account).await;
    let pod = json!({
        "metadata": {"name": "api-0"},
        "spec": {
            "serviceAccountName": "api", "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "c", "image": "i"}],
        },
    });
    let pod = api.admin(Method::POST, PODS, pod).await;
    let bound = json!({"spec": {
        "audiences": ["vaultmux"], "expirationSeconds": 3600,
        "boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "api-0", "uid": uid(&pod)},
    }});
    let bound = api.admin(Method::POST, &format!("{ACCOUNTS}/api/token"), bound).await;
    let bound = bound["status"]["token"].as_str().expect("a token");
    let free = api.token("payments", "api", &["vaultmux", "other"]).await;
    let admin = &*api.kubeconfig;

    let reviewed = review(admin, bound, "api", "vaultmux").await.expect("good");
    assert_eq!(reviewed.account_uid.as_deref(), Some(uid(&account)));
    let found = reviewed.pod.expect("bound to a pod");
    assert_eq!((&*found.name, &*found.uid), ("api-0", uid(&pod)));
    assert!(reviewed.credential_id.expect("an id").starts_with("JTI="));
    let reviewed = review(admin, &free, "api", "vaultmux").await.expect("good");
    assert_eq!(reviewed.pod, None);
    for (token, account, audience, refusal) in [
        (&*free, "api", "third", TokenRefusal::Unauthenticated),
        (&*free, "api2", "vaultmux", TokenRefusal::OtherUser),
        ("e30.e30.c2ln", "api", "vaultmux", TokenRefusal::Unauthenticated),
        // From a file of the server's: of its own audience alone, and then of nobody we know.
        (api.admin_token, "api", "vaultmux", TokenRefusal::Unauthenticated),
        (api.admin_token, "api", "https://kubernetes.default.svc", TokenRefusal::OtherUser),
    ] {
        let refused = review(admin, token, account, audience).await;
        assert_eq!(refused, Err(refusal.into()), "{account} {audience}");
    }
    let own = api.token("payments", "api", &[]).await;
    let nobody = api.kubeconfig_of("nobody", &own);
    let refused = review(&nobody, &free, "api", "vaultmux").await;
    assert_eq!(refused, Err(TokenError::Unavailable), "may not review");

    let revocations = Arc::new(Revocations::new(DAY));
    let _guard = revocations.watch(client(admin).await.client());
    until("lists", async || (revocations.epoch() == 2).then_some(())).await;
    for (path, object) in [(format!("{PODS}/api-0"), &pod), (format!("{ACCOUNTS}/api"), &account)] {
        assert!(!revocations.is_revoked(uid(object)));
        api.admin(Method::DELETE, &path, Value::Null).await;
        until(&path, async || revocations.is_revoked(uid(object)).then_some(())).await;
    }
    // The API server remembers for ten seconds that a token was good: the watch is sooner.
    for token in [bound, &*free] {
        until("refused", async || {
            let refused = review(admin, token, "api", "vaultmux").await;
            (refused == Err(TokenRefusal::Unauthenticated.into())).then_some(())
        })
        .await;
    }
    assert_eq!(revocations.epoch(), 2);
}
