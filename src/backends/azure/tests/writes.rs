//! What create, update and delete send, and in which order.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use futures_util::future::join_all;

use super::*;

#[tokio::test]
async fn update_sends_what_azure_would_drop() {
    let vault = Vault::start().await;
    let backend = vault.backend(TIMEOUT);
    let expires = SystemTime::now() + Duration::from_secs(3600);
    let expires = expires.duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs();
    vault.answers(move |_| {
        let attributes = json!({
            "enabled": true, "created": 1_700_000_000, "exp": expires, "nbf": 1_600_000_000,
            "recoveryLevel": "Recoverable+Purgeable", "recoverableDays": 90,
        });
        let tags = json!({"owner": "pay"});
        let about = json!({"attributes": attributes, "tags": tags, "contentType": "text/x"});
        shown("mesh-db", about)
    });
    backend.update(&name("db"), &SecretValue::new("new")).await.expect("updated");
    let calls = vault.fake.calls();
    let sent: Value = serde_json::from_slice(&calls[3].body).expect("JSON");
    let expected = json!({
        "value": "new", "contentType": "text/x", "tags": {"owner": "pay"},
        "attributes": {"enabled": true, "exp": expires, "nbf": 1_600_000_000},
    });
    assert_eq!(sent, expected);
}

#[tokio::test]
async fn of_concurrent_creates_in_this_process_one_wins() {
    let vault = Vault::start().await;
    let backend = vault.backend(TIMEOUT);
    let made = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&made);
    vault.answers(move |call| match call.method {
        Method::GET if seen.load(Relaxed) == 0 => missing(),
        Method::PUT => {
            seen.fetch_add(1, Relaxed);
            shown("mesh-db", json!({}))
        }
        _ => shown("mesh-db", json!({"value": "x"})),
    });
    let (db, value) = (name("db"), SecretValue::new("x"));
    let results = join_all((0..16).map(|_| backend.create(&db, &value))).await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
    assert_eq!(made.load(Relaxed), 1);
    for lost in results.into_iter().filter_map(Result::err) {
        assert!(matches!(lost, BackendError::Conflict), "{lost:?}");
    }
}

#[tokio::test]
async fn forced_delete_waits_for_the_deletion_and_then_purges() {
    let vault = Vault::start().await;
    let backend = vault.backend(TIMEOUT);
    let deleting = || error(409, "Conflict", Some("ObjectIsBeingDeleted"), "is being deleted");
    let denied = || error(403, "Forbidden", Some("ForbiddenByRbac"), "no purge");
    type Script = Vec<(&'static str, Reply)>;
    let cases: Vec<(Script, &str)> = vec![
        (
            vec![
                ("DELETE /secrets/mesh-db", shown("mesh-db", json!({}))),
                ("DELETE /deletedsecrets/mesh-db", deleting()),
                ("DELETE /deletedsecrets/mesh-db", missing()),
                ("DELETE /deletedsecrets/mesh-db", Reply::new(204, "")),
            ],
            "ok",
        ),
        // What an earlier call began.
        (
            vec![
                ("DELETE /secrets/mesh-db", missing()),
                ("DELETE /deletedsecrets/mesh-db", Reply::new(204, "")),
            ],
            "ok",
        ),
        (
            vec![
                ("DELETE /secrets/mesh-db", deleting()),
                ("DELETE /deletedsecrets/mesh-db", deleting()),
                ("DELETE /deletedsecrets/mesh-db", Reply::new(204, "")),
            ],
            "ok",
        ),
        (
            vec![
                ("DELETE /secrets/mesh-db", missing()),
                ("DELETE /deletedsecrets/mesh-db", missing()),
            ],
            "not_found",
        ),
        (
            vec![
                ("DELETE /secrets/mesh-db", shown("mesh-db", json!({}))),
                ("DELETE /deletedsecrets/mesh-db", denied()),
            ],
            "permission_denied",
        ),
        (vec![("DELETE /secrets/mesh-db", denied())], "permission_denied"),
    ];
    for (script, expected) in cases {
        let calls: Vec<_> = script.iter().map(|(call, _)| (*call).to_owned()).collect();
        let replies =
            Mutex::new(script.into_iter().map(|(_, reply)| reply).rev().collect::<Vec<_>>());
        vault.answers(move |_| {
            let next = replies.lock().expect("not poisoned").pop();
            next.unwrap_or_else(|| Reply::new(500, "one call too many"))
        });
        let result = backend.delete(&name("db"), true).await;
        assert_eq!(result.as_ref().map_or_else(BackendError::kind, |()| "ok"), expected);
        assert_eq!(vault.calls(), calls);
    }
    // A deletion that takes longer than the caller waits.
    vault.answers(move |call| match call.target.starts_with("/deleted") {
        true => deleting(),
        false => shown("mesh-db", json!({})),
    });
    let hasty = vault.backend(Duration::from_millis(700));
    let result = hasty.delete(&name("db"), true).await;
    assert!(matches!(result, Err(BackendError::TimedOut)), "{result:?}");
}
