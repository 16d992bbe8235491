//! Names and versions, page by page.

use super::*;

#[tokio::test]
async fn listing_leaves_out_what_is_not_for_callers_and_stays_with_the_vault() {
    let vault = Vault::start().await;
    let backend = vault.backend(TIMEOUT);
    let listed = |name: &str, rest: Value| {
        let mut entry = json!({"id": format!("https://x.vault.azure.net/secrets/{name}"),
            "attributes": {"enabled": true}});
        for (key, value) in rest.as_object().expect("an object") {
            entry[key] = value.clone();
        }
        entry
    };
    let first = json!({
        "value": [
            listed("Mesh-One", json!({})),
            listed("mesh-", json!({})),
            listed("other", json!({})),
            listed("mesh-off", json!({"attributes": {"enabled": false}})),
            listed("mesh-cert", json!({"managed": true})),
            listed("mesh-two", json!({"attributes": {"enabled": true, "exp": 1_600_000_000}})),
            json!({"id": "nonsense"}),
            json!({}),
        ],
        "nextLink": "https://thief.example/secrets?api-version=7.4&%24skiptoken=a%2Bb%3D&maxresults=25",
    });
    let last = json!({"value": [listed("mesh-three", json!({}))], "nextLink": ""});
    vault.answers(move |call| {
        let page = if call.target.contains("skiptoken") { &last } else { &first };
        Reply::json(200, page.to_string())
    });
    let page = backend.list(None).await.expect("listed");
    assert_eq!(page.names, [name("one"), name("two")]);
    vault.fake.calls();
    let rest = backend.list(page.cursor.as_deref()).await.expect("listed");
    assert_eq!((rest.names, rest.cursor), (vec![name("three")], None));
    assert_eq!(vault.calls(), ["GET /secrets?%24skiptoken=a%2Bb%3D&maxresults=25"]);

    // Nothing that a cursor could hold leads elsewhere.
    for cursor in ["", "/../keys", "https://thief.example/", "a#b", "?x=y&api-version=1", "a b\r\n"]
    {
        backend.list(Some(cursor)).await.expect("listed");
        for call in vault.calls() {
            assert!(format!("{call}?").starts_with("GET /secrets?"), "{cursor:?}: {call}");
        }
    }
}

#[tokio::test]
async fn versions_are_read_over_all_pages_newest_first() {
    let vault = Vault::start().await;
    let backend = vault.backend(TIMEOUT);
    let entry = |digit: &str, created: u64, enabled: bool| {
        json!({"id": format!("https://x.vault.azure.net/secrets/Mesh-DB/{}", digit.repeat(32)),
            "attributes": {"enabled": enabled, "created": created}})
    };
    let first = json!({"value": [entry("a", 100, true), entry("b", 300, false)],
        "nextLink": format!("{}/secrets/mesh-db/versions?$skiptoken=x", vault.fake.url)});
    let last = json!({"value": [entry("c", 200, true)], "nextLink": null});
    vault.answers(move |call| {
        let page = if call.target.contains("skiptoken") { &last } else { &first };
        Reply::json(200, page.to_string())
    });
    let versions = backend.versions(&name("db")).await.expect("listed");
    let seen: Vec<_> = versions.iter().map(|entry| (&entry.id[..1], entry.enabled)).collect();
    assert_eq!(seen, [("b", false), ("c", true), ("a", true)]);
    assert_eq!(
        vault.calls(),
        [
            "GET /secrets/mesh-db/versions?maxresults=25",
            "GET /secrets/mesh-db/versions?%24skiptoken=x"
        ]
    );
}
