//! Secrets that are not known yet, between a real Envoy and a store in the test's hand:
//! fetched ahead, fetched late, and fetched again after a destination refused them.

use crate::harness::{Answer, Edge, Service, Store, encrypted};

const REFERENCE: (&str, &str) = ("x-api-key", "{{secret://aws/zq-stripe}}");
const HOST: &str = "api.stripe.test";

const POLICIES: &str = r#"
apiVersion: vaultmux.dev/v1alpha1
kind: AccessPolicy
metadata: {name: api}
spec:
  effect: Allow
  from: [{serviceAccounts: [payments/api]}]
  to:
    - http: {hosts: [api.stripe.test]}
    - secrets: {names: [zq-orders], verbs: [get]}
    - secrets:
        names: [zq-stripe, zq-other]
        verbs: [use]
        destinations: [{hosts: [api.stripe.test], clusters: [payment]}]
"#;

/// A front proxy over the store, with more configuration, and with these changes.
pub(crate) async fn start(store: &Store, more: &str, edits: &[(&str, &str)]) -> (Service, Edge) {
    let config = format!(
        "mode: cluster\n\
         listeners:\n\
         \x20 grpc: {{address: '127.0.0.1:0'}}\n\
         \x20 rest: {{address: '127.0.0.1:0'}}\n\
         \x20 admin: {{address: '127.0.0.1:0'}}\n\
         limits: {{backend_timeout: 60s}}\n\
         backends:\n\
         \x20 aws: {}\n\
         secret_routes: [{{hosts: [vaultmux.test], prefix: /v1/secrets}}]\n\
         policies: [policies]\n\
         {more}",
        store.backend()
    );
    let config = encrypted(&config, "payment");
    let files = [("config.yaml", config.as_str()), ("policies/api.yaml", POLICIES)];
    let service = Service::start_with(&files, &Store::KEYS).await;
    let grpc = service.grpc().parse().expect("a port");
    let edits: Vec<_> = edits.iter().map(|(from, to)| ((*from).into(), (*to).into())).collect();
    let edge = Edge::start(grpc, service.rest(), &edits).await;
    (service, edge)
}

/// For a loaded machine: nobody gives up.
const PATIENT: &str = "ext_proc: {message_budget: 50s}\n";
const PATIENT_ENVOY: (&str, &str) = ("message_timeout: 1s", "message_timeout: 60s");

#[tokio::test(flavor = "multi_thread")]
async fn the_check_fetches_and_ext_proc_only_joins() {
    let store = Store::start("canary-v1").await;
    let (service, edge) = start(&store, PATIENT, &[PATIENT_ENVOY]).await;
    for (host, path, headers) in [
        (HOST, "/v1/charges", &[REFERENCE][..]),
        ("vaultmux.test", "/v1/secrets/zq-orders?backend=aws", &[]),
    ] {
        let before = store.calls();
        store.close();
        let client = edge.api();
        let request = client.request("GET", host, path, headers);
        let release = async {
            store.called(before + 1).await;
            store.open();
        };
        let (answer, ()) = tokio::join!(request, release);
        assert_eq!(answer.status, 200, "{host}: {}", answer.text());
        assert!(answer.text().contains("canary-v1"), "{host}: {}", answer.text());
        assert_eq!(store.calls(), before + 1, "{host}");
    }
    // The check started both fetches; ext_proc came later and started none.
    let count = async |series: &str| service.metric(series).await.unwrap_or_default();
    assert_eq!(count(r#"vaultmux_prefetches_total{result="started"}"#).await, 2.0);
    assert_eq!(count(r#"vaultmux_cache_lookups_total{result="miss"}"#).await, 0.0);
    // From now on it is there before anyone asks.
    let answer = edge.api().request("GET", HOST, "/", &[REFERENCE]).await;
    assert_eq!(answer.status, 200);
    assert_eq!(count(r#"vaultmux_prefetches_total{result="hot"}"#).await, 1.0);
    // What the caller may not use costs no call.
    for reference in ["{{secret://aws/zq-orders}}", "{{secret://aws/zq-hidden}}"] {
        let answer = edge.api().request("GET", HOST, "/", &[("x-api-key", reference)]).await;
        assert_eq!(answer.status, 403, "{reference}");
    }
    assert_eq!(store.calls(), 2);
}

/// A store that is slower than the service may be: it says so itself, before Envoy does, and
/// the fetch goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_too_slow_is_a_503_of_ours_and_the_next_attempt_is_hot() {
    let store = Store::start("canary-v1").await;
    store.close();
    let (_service, edge) = start(&store, "", &[PATIENT_ENVOY]).await;
    let answer = edge.api().request("GET", HOST, "/", &[REFERENCE]).await;
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert_eq!(answer.headers["retry-after"], "1");
    let line = edge.envoy.access(0).await;
    assert_eq!(line["details"], "vaultmux_backend_budget_exceeded", "{line}");
    assert!(edge.payment.received().is_empty());
    store.open();
    let answer = until_ok(&edge).await;
    assert!(answer.text().contains("canary-v1"), "{}", answer.text());
    assert_eq!(store.calls(), 1);
    assert_eq!(edge.envoy.counter("ext_proc.message_timeouts").await, 0);
}

/// Where Envoy may be asked for more time, it is asked, once.
#[tokio::test(flavor = "multi_thread")]
async fn envoy_waits_longer_where_it_may_be_asked_to() {
    const LONG: &str = "ext_proc: {message_budget: 100ms, max_message_timeout: 50s}\n";
    let store = Store::start("canary-v1").await;
    store.close();
    let timeouts =
        ("message_timeout: 1s", "message_timeout: 30s\n              max_message_timeout: 50s");
    let (_service, edge) = start(&store, LONG, &[timeouts]).await;
    let client = edge.api();
    let request = client.request("GET", HOST, "/", &[REFERENCE]);
    let release = async {
        for _ in 0..3000 {
            if edge.envoy.counter("ext_proc.override_message_timeout_received").await > 0 {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        store.open();
    };
    let (answer, ()) = tokio::join!(request, release);
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(answer.text().contains("canary-v1"), "{}", answer.text());
    assert_eq!(store.calls(), 1);
    for (counter, expected) in [
        ("override_message_timeout_received", 1),
        ("override_message_timeout_ignored", 0),
        ("message_timeouts", 0),
        ("spurious_msgs_received", 0),
    ] {
        let found = edge.envoy.counter(&format!("ext_proc.{counter}")).await;
        assert_eq!(found, expected, "{counter}");
    }
    // What is there at once takes no more time.
    assert_eq!(edge.api().request("GET", HOST, "/", &[REFERENCE]).await.status, 200);
    assert_eq!(edge.envoy.counter("ext_proc.override_message_timeout_received").await, 1);
}

/// The answer once the fetch that goes on has come to its end.
async fn until_ok(edge: &Edge) -> Answer {
    for _ in 0..1000 {
        let answer = edge.api().request("GET", HOST, "/", &[REFERENCE]).await;
        if answer.status != 503 {
            return answer;
        }
    }
    panic!("the value never arrived");
}
