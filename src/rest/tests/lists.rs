//! Parts of a listing.

use super::*;
use crate::fixture::Gate;

fn over(names: &[String]) -> (Client, Arc<Gate>) {
    let metrics = Arc::new(Metrics::default());
    let secrets: Vec<_> = names.iter().map(|name| (name.as_str(), "x")).collect();
    let gate = Gate::new(&secrets, 100_000);
    let config = fixture::config(fixture::CONFIG);
    let mut snapshot = fixture::over(&config, gate.clone(), &metrics);
    snapshot.local = SpiffeId::parse("spiffe://cluster.local/ns/prod/sa/api").ok();
    let current = Current::new(snapshot);
    let settings = RestSettings { local_listener: true, require_request_header: false };
    let router = Rest::new(current.clone(), Arc::clone(&metrics), settings).into_router();
    (Client { router, current, metrics }, gate)
}

fn names(answer: &Value) -> Vec<String> {
    let names = answer["secrets"].as_array().expect("a list").iter();
    names.map(|name| name.as_str().expect("text").to_owned()).collect()
}

/// All pages, each no longer than the limit.
async fn pages(client: &Client, query: &str, limit: usize) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    let mut cursor = String::new();
    loop {
        let path = format!("/v1/secrets?limit={limit}&{query}{cursor}");
        let (status, answer) = client.call("GET", &path, "").await;
        assert_eq!(status, StatusCode::OK, "{path}: {answer}");
        found.push(names(&answer));
        let Some(next) = answer["next_cursor"].as_str() else { return found };
        cursor = format!("&cursor={next}");
    }
}

#[tokio::test]
async fn parts_make_the_whole_and_show_nothing_of_what_is_hidden() {
    let own = (0..25).map(|number| format!("prod/k{number:02}"));
    // Hidden names before, between and after those that may be listed.
    let hidden = (0..300).flat_map(|number| {
        [format!("a/{number}"), format!("prod-{number}"), format!("z/{number}")]
    });
    let mut all: Vec<_> = own.chain(hidden).collect();
    all.extend(["prod/k05/deep".to_owned(), "prod/z".to_owned()]);
    let (client, gate) = over(&all);
    let (_, whole) = client.call("GET", "/v1/secrets", "").await;
    assert!(whole.get("next_cursor").is_none(), "{whole}");
    let whole = names(&whole);
    assert_eq!(whole.len(), 27);
    assert!(whole.is_sorted());
    for limit in [1, 2, 9, 26, 27, 1000] {
        let parts = pages(&client, "", limit).await;
        assert_eq!(parts.concat(), whole, "{limit}");
        let (last, full) = parts.split_last().expect("at least one");
        assert!(full.iter().all(|part| part.len() == limit), "{limit}");
        assert!(!last.is_empty(), "{limit}");
    }
    let deep = pages(&client, "prefix=prod/k05", 1).await;
    assert_eq!(deep, [vec!["prod/k05".to_owned()], vec!["prod/k05/deep".to_owned()]]);
    for (prefix, count) in [("prod%2Fk1", 10), ("prod/", 27), ("", 27), ("pro", 27), ("other", 0)] {
        let found = pages(&client, &format!("prefix={prefix}"), 4).await.concat();
        assert_eq!(found.len(), count, "{prefix}");
        let (_, answer) = client.call("GET", &format!("/v1/secrets?prefix={prefix}"), "").await;
        assert_eq!(names(&answer), found, "{prefix}");
    }
    // Parts after the first do not list the store again.
    let before = gate.calls();
    pages(&client, "", 27).await;
    let once = gate.calls() - before;
    pages(&client, "", 1).await;
    assert_eq!(gate.calls() - before, 2 * once);
}

#[tokio::test]
async fn cursors_and_prefixes_that_are_not_ours_are_refused() {
    let all: Vec<_> = (0..5).map(|number| format!("prod/k{number}")).collect();
    let (client, _) = over(&all);
    let (_, answer) = client.call("GET", "/v1/secrets?limit=2&prefix=prod", "").await;
    let cursor = answer["next_cursor"].as_str().expect("more").to_owned();
    let good = format!("/v1/secrets?limit=2&prefix=prod&cursor={cursor}");
    assert_eq!(client.call("GET", &good, "").await.0, StatusCode::OK);
    let mut tampered = cursor.clone();
    tampered.replace_range(0..1, if cursor.starts_with('B') { "C" } else { "B" });
    for query in [
        format!("limit=2&cursor={cursor}"),
        format!("limit=2&prefix=pro&cursor={cursor}"),
        format!("limit=2&prefix=prod&cursor={tampered}"),
        "cursor=".to_owned(),
        "cursor=prod/k1".to_owned(),
    ] {
        let (status, answer) = client.call("GET", &format!("/v1/secrets?{query}"), "").await;
        assert_eq!(
            (status, &answer["code"]),
            (StatusCode::BAD_REQUEST, &json!("invalid_cursor")),
            "{query}"
        );
    }
    // Another caller's.
    let mut snapshot = (*client.current.load_full()).clone();
    snapshot.local = SpiffeId::parse("spiffe://cluster.local/ns/prod/sa/other").ok();
    client.current.store(snapshot);
    assert_eq!(client.call("GET", &good, "").await.0, StatusCode::BAD_REQUEST);
    for query in ["limit=0", "limit=1001", "limit=x", "limit=-1", "limit=1&limit=2", "prefix=../a"]
    {
        let (status, _) = client.call("GET", &format!("/v1/secrets?{query}"), "").await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{query}");
    }
}

#[tokio::test]
async fn a_page_is_decided_by_the_policies_of_its_time() {
    let all: Vec<_> = (0..5).map(|number| format!("prod/k{number}")).collect();
    let (client, _) = over(&all);
    let (_, answer) = client.call("GET", "/v1/secrets?limit=2", "").await;
    let cursor = answer["next_cursor"].as_str().expect("more").to_owned();
    let mut snapshot = (*client.current.load_full()).clone();
    let deny = r#"
apiVersion: vaultmux.dev/v1alpha1
kind: AccessPolicy
metadata: {name: hide}
spec:
  effect: Deny
  from: [{namespaces: ["*"]}]
  to: [{secrets: {names: [prod/k3], verbs: [list]}}]
"#;
    let policies = format!("{}---{deny}", fixture::POLICIES);
    snapshot.policies = Arc::new(fixture::policies(&fixture::config(fixture::CONFIG), &policies));
    client.current.store(snapshot);
    let path = format!("/v1/secrets?limit=2&cursor={cursor}");
    let (_, answer) = client.call("GET", &path, "").await;
    assert_eq!(answer, json!({"secrets": ["prod/k2", "prod/k4"]}));
}

#[tokio::test(start_paused = true)]
async fn a_listing_has_the_time_of_several_calls() {
    let all: Vec<_> = (0..250).map(|number| format!("prod/k{number:03}")).collect();
    let metrics = Arc::new(Metrics::default());
    let secrets: Vec<_> = all.iter().map(|name| (name.as_str(), "x")).collect();
    let gate = Gate::new(&secrets, 0);
    let mut snapshot = fixture::over(&fixture::config(fixture::CONFIG), gate.clone(), &metrics);
    snapshot.local = SpiffeId::parse("spiffe://cluster.local/ns/prod/sa/api").ok();
    let current = Current::new(snapshot);
    let settings = RestSettings { local_listener: true, require_request_header: false };
    let router = Rest::new(current.clone(), Arc::clone(&metrics), settings).into_router();
    let client = Client { router, current, metrics };
    // Three pages of four seconds each, where one call may take five.
    let slowly = tokio::spawn(async move {
        for _ in 0..3 {
            tokio::time::sleep(Duration::from_secs(4)).await;
            gate.open.add_permits(1);
        }
    });
    let (status, answer) = client.call("GET", "/v1/secrets", "").await;
    assert_eq!((status, names(&answer).len()), (StatusCode::OK, 250));
    slowly.await.expect("no panic");
}
