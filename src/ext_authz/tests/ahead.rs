//! Fetches that a check starts for whoever comes after it.

use super::{
    inject::{HOST, INJECTING, KEY, over},
    *,
};
use crate::fixture::{CANARY, Gate};

const RULE: &str = "
ext_proc:
  injections:
    - name: ruled
      match: {hosts: [api.stripe.test], clusters: [stripe], paths: [/ruled/]}
      set_headers: [{name: authorization, value: 'Bearer {{secret://local/shared/stripe}}'}]
";

/// How often the store is asked after these checks, none of which waits for it.
async fn calls(more: &str, cases: Vec<Case>) -> (usize, String) {
    let store = Gate::new(&[("shared/stripe", CANARY), ("readable", "r")], 0);
    let (snapshot, metrics) = over(more, Arc::clone(&store) as _);
    let service = ExtAuthz::new(Current::new(snapshot), Arc::clone(&metrics));
    for case in cases {
        ask(&service, Some(case.attributes));
    }
    // Time stands still until all tasks wait for the store.
    tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    (store.calls(), metrics.encode().expect("text"))
}

fn to_stripe() -> Case {
    Case::http("GET", HOST, "/v1/charges")
}

#[tokio::test(start_paused = true)]
async fn what_is_not_permitted_or_not_needed_is_not_fetched() {
    let with = |case: Case| case.header("x-key", KEY);
    let read = |path: &str| Case::http("GET", "vaultmux.test", path);
    let rows: Vec<(&str, &str, Case)> = vec![
        ("no reference", RULE, to_stripe()),
        ("switched off", "ext_authz: {prefetch: false}", with(to_stripe())),
        ("nothing is kept", "cache: {ttl: 0}", with(to_stripe())),
        ("another caller", RULE, with(to_stripe().principal("spiffe://cluster.local/ns/a/sa/b"))),
        ("another host", RULE, with(Case::http("GET", "other.test", "/"))),
        ("another cluster", RULE, with(to_stripe().extension("vaultmux.cluster", "evil"))),
        ("a denied request", RULE, with(Case::http("GET", "unknown.test", "/"))),
        ("malformed", RULE, to_stripe().header("x-key", &format!("a{KEY}"))),
        ("a secret for nobody", RULE, to_stripe().header("x-key", "{{secret://local/readable}}")),
        ("a rule for elsewhere", RULE, Case::http("GET", "other.test", "/ruled/x")),
        (
            "a rule for another cluster",
            RULE,
            Case::http("GET", HOST, "/ruled/x").extension("vaultmux.cluster", "evil"),
        ),
        ("a read past the cache", RULE, read("/v1/secrets/readable?refresh=true")),
        ("a read that is denied", RULE, read("/v1/secrets/shared/stripe")),
        ("no read", RULE, Case::http("DELETE", "vaultmux.test", "/v1/secrets/readable")),
        ("a read, switched off", "ext_authz: {prefetch: false}", read("/v1/secrets/readable")),
    ];
    for (name, more, case) in rows {
        assert_eq!(calls(more, vec![case]).await.0, 0, "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_will_be_needed_is_fetched_once() {
    let with = |case: Case| case.header("x-key", KEY);
    let read = || Case::http("GET", "vaultmux.test", "/v1/secrets/readable");
    let rows: Vec<(&str, &str, Vec<Case>)> = vec![
        ("where the cluster is not known", RULE, vec![with(to_stripe()), with(to_stripe())]),
        ("a rule", RULE, vec![Case::http("GET", HOST, "/ruled/x"), with(to_stripe())]),
        ("without rules", "", vec![with(to_stripe()), with(to_stripe())]),
        (
            "where it is ext_proc's to inject",
            INJECTING,
            vec![
                with(to_stripe().extension("vaultmux.inject", "off")),
                with(to_stripe().extension("vaultmux.inject", "off")),
            ],
        ),
        ("a read", RULE, vec![read(), read()]),
    ];
    for (name, more, cases) in rows {
        let (calls, metrics) = calls(more, cases).await;
        assert_eq!(calls, 1, "{name}");
        for result in ["started", "shared"] {
            let line = format!("vaultmux_prefetches_total{{result=\"{result}\"}} 1");
            assert!(metrics.contains(&line), "{name}: {metrics}");
        }
    }
}
