//! A secret that was rotated: the destination refuses the old value, and the next attempt
//! has the new one, through a real Envoy.

use base64::{Engine, engine::general_purpose::STANDARD};

use crate::{
    envoy_ahead::start,
    harness::{Edge, Received, Service, Store, chunked, sha256, sized},
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

/// Moves the filter into the upstream's chain, where it runs again for each attempt, and has
/// requests that were answered with 401 sent again. Envoy may keep what the service tells
/// itself about them.
async fn start_upstream(store: &Store, keeps: bool) -> (Service, Edge) {
    const RULES: &str = "
ext_proc:
  message_budget: 50s
  suspect_statuses: [401]
  injections:
    - name: ruled
      match: {hosts: [api.stripe.test], paths: [/ruled/], clusters: [payment]}
      set_headers: [{name: x-api-key, value: '{{secret://aws/zq-stripe}}'}]
  substitutions:
    - name: all
      match: {hosts: [api.stripe.test], clusters: [payment]}
      surfaces: {query: deny, path: deny, cookie: deny, json: deny}
  aliases:
    - {alias: sk_live_4eC39HqLyjWDarjtT1, reference: 'secret://aws/zq-stripe'}
";
    const CODEC: &str = "        - name: envoy.filters.http.upstream_codec
          typed_config:
            \"@type\": type.googleapis.com/envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec
";
    let bootstrap = std::fs::read_to_string(crate::harness::repository("envoy/front-proxy.yaml"));
    let bootstrap = bootstrap.expect("read the bootstrap");
    let name = "          - name: envoy.filters.http.ext_proc\n";
    let filter = &bootstrap[bootstrap.find(name).expect("the filter")..];
    let filter =
        &filter[..filter.find("          - name: envoy.filters.http.router").expect("ends")];
    let moved = filter.lines().map(|line| format!("{}\n", line.strip_prefix("  ").unwrap_or(line)));
    let mut moved =
        moved.collect::<String>().replace("disallow_system: true", "disallow_system: false");
    if keeps {
        let forwarded = "untyped: [envoy.filters.http.ext_authz]";
        let kept = "untyped: [envoy.filters.http.ext_authz, vaultmux.ext_proc]\n              \
                    receiving_namespaces: {untyped: [vaultmux.ext_proc]}";
        assert!(moved.contains(forwarded));
        moved = moved.replace(forwarded, kept);
    }
    let options = "auto_config: {http2_protocol_options: {}}\n";
    let chain = format!("{options}        http_filters:\n{moved}{CODEC}");
    let retry = "route: {cluster: payment, retry_policy: {retry_on: retriable-status-codes, \
                 retriable_status_codes: [401], num_retries: 1}}";
    let edits = [(filter, ""), (options, chain.as_str()), ("route: {cluster: payment}", retry)];
    start(store, RULES, &edits).await
}

#[tokio::test(flavor = "multi_thread")]
async fn in_the_upstream_chain_the_retry_has_the_new_value() {
    for (path, keeps, expected, keys) in [
        ("/ruled/x", false, 200, ["canary-v1", "canary-v1", "canary-v2"]),
        // Envoy keeps what the first attempt made of a reference of the client.
        ("/other", false, 401, ["canary-v1", "canary-v1", "canary-v1"]),
        ("/other", true, 200, ["canary-v1", "canary-v1", "canary-v2"]),
    ] {
        let store = Store::start("canary-v1").await;
        let (_service, edge) = start_upstream(&store, keeps).await;
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

/// Wherever the client has put references, and in its body, of another length than before.
#[tokio::test(flavor = "multi_thread")]
async fn in_the_upstream_chain_all_references_get_the_new_value() {
    const SENT: &str = r#"{"key":"{{secret://aws/zq-stripe}}"}"#;
    let target = "/sk_live_4eC39HqLyjWDarjtT1/x?a=b&key={{secret://aws/zq-stripe}}";
    // `user:{{secret://aws/zq-stripe}}`
    let basic = "Basic dXNlcjp7e3NlY3JldDovL2F3cy96cS1zdHJpcGV9fQ==";
    for (method, body, length) in [
        ("GET", None, false),
        ("POST", Some(SENT.to_owned()), true),
        ("POST", Some(SENT.to_owned()), false),
        ("POST", Some(format!("{SENT}{}", " ".repeat(100_000))), true),
    ] {
        let what = format!("{method} {} {length}", body.as_ref().map_or(0, String::len));
        let store = Store::start("canary-v1").await;
        let (service, edge) = start_upstream(&store, true).await;
        let ask = async |wanted: &str| {
            let headers = [
                REFERENCE,
                ("x-wants", wanted),
                ("authorization", basic),
                ("cookie", "a=b; key={{secret://aws/zq-stripe}}"),
                ("content-type", "application/json"),
            ];
            let body = match &body {
                None => sized(""),
                Some(body) if length => sized(body.clone()),
                Some(body) => chunked(body.clone(), 7),
            };
            edge.api().send(method, HOST, target, &headers, body).await.status
        };
        let is = |received: &Received, key: &str| {
            let text = format!("{:?} {}", received.headers, received.path);
            assert_eq!(received.path, format!("/{key}/x?a=b&key={key}"), "{what}");
            assert_eq!(received.header("cookie"), [format!("a=b; key={key}")], "{what}");
            let basic = STANDARD.encode(format!("user:{key}"));
            assert_eq!(received.header("authorization"), [format!("Basic {basic}")], "{what}");
            assert!(!text.contains("secret://"), "{what}: {text}");
            let body = body.as_deref().unwrap_or_default();
            let body = body.replace("{{secret://aws/zq-stripe}}", key);
            assert_eq!(received.body_sha256, sha256(body.as_bytes()), "{what}");
        };
        assert_eq!(ask("canary-v1").await, 200, "{what}");
        store.rotate("canary-version-2");
        assert_eq!(ask("canary-version-2").await, 200, "{what}");
        let received = edge.payment.received();
        let [first, second, third] = &received[..] else { panic!("{what}: {received:?}") };
        is(first, "canary-v1");
        is(second, "canary-v1");
        is(third, "canary-version-2");
        assert_eq!(store.calls(), 2, "{what}");
        for line in service.logs() {
            assert!(!line.contains("canary-"), "{line}");
        }
    }
}
