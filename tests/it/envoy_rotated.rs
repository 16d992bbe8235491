//! A secret that was rotated: the destination refuses the old value, and the next attempt
//! has the new one, through a real Envoy.

use crate::{
    envoy_ahead::start,
    harness::{Edge, Received, Store},
};

const REFERENCE: (&str, &str) = ("x-api-key", "{{secret://aws/zq-stripe}}");
const HOST: &str = "api.stripe.test";
const SUSPECT: &str = "ext_proc: {message_budget: 50s, suspect_statuses: [401]}\n";
const PATIENT_ENVOY: (&str, &str) = ("message_timeout: 1s", "message_timeout: 60s");

/// What comes of a request to an upstream that takes only this value.
async fn ask(edge: &Edge, wanted: &str) -> u16 {
    let headers = [REFERENCE, ("x-wants", wanted)];
    edge.api().request("GET", HOST, "/v1/charges", &headers).await.status
}

fn last(edge: &Edge) -> Received {
    edge.payment.received().pop().expect("a request")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_attempt_has_the_new_value() {
    let store = Store::start("canary-v1").await;
    let (service, edge) = start(&store, SUSPECT, &[PATIENT_ENVOY]).await;
    assert_eq!(ask(&edge, "canary-v1").await, 200);
    store.rotate("canary-v2");
    // Nobody has told the service. The client hears what the destination says.
    assert_eq!(ask(&edge, "canary-v2").await, 401);
    assert_eq!(ask(&edge, "canary-v2").await, 200);
    assert_eq!(last(&edge).header("x-api-key"), ["canary-v2"]);
    assert_eq!(store.calls(), 2);
    // A destination that refuses everything makes nobody ask the store.
    for _ in 0..20 {
        assert_eq!(ask(&edge, "canary-never").await, 401);
    }
    assert_eq!(store.calls(), 2);
    let count = async |result: &str| {
        let series = format!("vaultmux_suspicions_total{{result=\"{result}\"}}");
        service.metric(&series).await.unwrap_or_default()
    };
    assert_eq!(count("refreshing").await, 1.0);
    assert_eq!(count("recent").await, 20.0);
    // Other answers, and requests without a secret, are not looked at.
    let sent = edge.envoy.counter("ext_proc.stream_msgs_sent").await;
    let plain = edge.api().request("GET", HOST, "/", &[("x-wants", "canary-never")]).await;
    assert_eq!(plain.status, 401);
    assert_eq!(edge.envoy.counter("ext_proc.stream_msgs_sent").await, sent + 1);
    for line in service.logs() {
        assert!(!line.contains("canary-") && !line.contains("zq-"), "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_setting_responses_are_not_looked_at() {
    let store = Store::start("canary-v1").await;
    let (service, edge) =
        start(&store, "ext_proc: {message_budget: 50s}\n", &[PATIENT_ENVOY]).await;
    assert_eq!(ask(&edge, "canary-v1").await, 200);
    store.rotate("canary-v2");
    for _ in 0..3 {
        assert_eq!(ask(&edge, "canary-v2").await, 401);
    }
    assert_eq!(store.calls(), 1);
    assert_eq!(edge.envoy.counter("ext_proc.stream_msgs_sent").await, 4);
    assert!(service.metric(r#"vaultmux_suspicions_total{result="refreshing"}"#).await.is_none());
}

/// The filter among those of the upstream runs again for each attempt, so that the proxy's
/// own retry has the new value where a rule injects it. A reference of the client is not
/// there any more in the second attempt: Envoy keeps what the first one made of it.
#[tokio::test(flavor = "multi_thread")]
async fn in_the_upstream_chain_the_retry_has_the_new_value_of_a_rule() {
    const RULE: &str = "
  injections:
    - name: ruled
      match: {hosts: [api.stripe.test], paths: [/ruled/], clusters: [payment]}
      set_headers: [{name: x-api-key, value: '{{secret://aws/zq-stripe}}'}]
";
    let config = format!("ext_proc:\n  message_budget: 50s\n  suspect_statuses: [401]{RULE}");
    let bootstrap = std::fs::read_to_string(crate::harness::repository("envoy/front-proxy.yaml"));
    let bootstrap = bootstrap.expect("read the bootstrap");
    let name = "          - name: envoy.filters.http.ext_proc\n";
    let filter = &bootstrap[bootstrap.find(name).expect("the filter")..];
    let filter =
        &filter[..filter.find("          - name: envoy.filters.http.router").expect("ends")];
    let chain = format!(
        "auto_config: {{http2_protocol_options: {{}}}}\n        http_filters:\n{}        \
         - name: envoy.filters.http.upstream_codec\n          typed_config:\n            \
         \"@type\": type.googleapis.com/envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec\n",
        filter
            .lines()
            .map(|line| format!("{}\n", line.strip_prefix("  ").unwrap_or(line)))
            .collect::<String>()
    );
    let retry = "route: {cluster: payment, retry_policy: {retry_on: retriable-status-codes, \
                 retriable_status_codes: [401], num_retries: 1}}";
    let edits = [
        (filter, ""),
        ("auto_config: {http2_protocol_options: {}}\n", chain.as_str()),
        ("route: {cluster: payment}", retry),
    ];
    for (path, expected, keys) in [
        ("/ruled/x", 200, ["canary-v1", "canary-v1", "canary-v2"]),
        ("/other", 401, ["canary-v1", "canary-v1", "canary-v1"]),
    ] {
        let store = Store::start("canary-v1").await;
        let (_service, edge) = start(&store, &config, &edits).await;
        let ask = async |wanted: &str| {
            let headers = [REFERENCE, ("x-wants", wanted)];
            edge.api().request("GET", HOST, path, &headers).await.status
        };
        assert_eq!(ask("canary-v1").await, 200, "{path}");
        store.rotate("canary-v2");
        assert_eq!(ask("canary-v2").await, expected, "{path}");
        let received = edge.payment.received();
        let sent: Vec<_> = received.iter().map(|one| one.header("x-api-key")).collect();
        assert_eq!(sent, keys.map(|key| [key]), "{path}");
        // The client's own next attempt has it in any case.
        assert_eq!(ask("canary-v2").await, 200, "{path}");
        assert_eq!(store.calls(), 2, "{path}");
    }
}
