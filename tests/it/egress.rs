//! The pod's own requests: its proxy has nothing to say about who sends them, and the
//! certificate with which it asks the service is the workload's. That counts on outbound
//! listeners for ext_proc, and on routes that say so for ext_authz, and nowhere else.

use crate::{
    harness::{Answer, Client, Received},
    waypoint::Behind,
};

/// The proxy's own, in all tests.
const WORKLOAD: &str = "spiffe://cluster.local/ns/gateway/sa/envoy";
const REFERENCE: (&str, &str) = ("x-api-key", "{{secret://local/prod/key}}");

const POLICY: &str = r#"
apiVersion: vaultmux.dev/v1alpha1
kind: AccessPolicy
metadata: {name: workload}
spec:
  effect: Allow
  from: [{serviceAccounts: [gateway/envoy], require: [mtls]}]
  to:
    - secrets: {names: [prod/key], verbs: [get]}
    - secrets: {names: [prod/key], verbs: [use], destinations: [{clusters: [payment]}]}
    - http: {hosts: [app.test, api.stripe.test]}
"#;

type Change = (&'static str, &'static str);

const OPTIONAL: Change = ("require_client_certificate: true", "require_client_certificate: false");
const ATTRIBUTE: Change = (
    "              - connection.mtls\n",
    "              - connection.mtls\n              - xds.listener_direction\n",
);
const OUTBOUND: Change = ("  - name: edge\n", "  - name: edge\n    traffic_direction: OUTBOUND\n");
const INBOUND: Change = ("  - name: edge\n", "  - name: edge\n    traffic_direction: INBOUND\n");
/// ext_proc is on its own then.
const WITHOUT_AUTHZ: [Change; 2] = [
    (
        "          - name: envoy.filters.http.ext_authz\n",
        "          - name: envoy.filters.http.ext_authz\n            disabled: true\n",
    ),
    // A route's own settings would switch the filter on again.
    ("check_settings: {context_extensions: {vaultmux.grant: forward}}", "disabled: true"),
];

/// The statuses of a read and of a use of the secret.
async fn secrets(client: &Client) -> [u16; 2] {
    // What callers say of directions is theirs.
    let claims = [REFERENCE, ("xds-listener-direction", "2"), ("x-vaultmux-principal", WORKLOAD)];
    let read = client.request("GET", "vaultmux.test", "/v1/secrets/prod/key", &claims[1..]).await;
    let used = client.request("GET", "api.stripe.test", "/", &claims).await;
    [read.status, used.status]
}

#[tokio::test(flavor = "multi_thread")]
async fn on_outbound_listeners_the_workload_is_the_proxys() {
    let changes = |more: &[Change]| [&[OPTIONAL][..], &WITHOUT_AUTHZ, more].concat();
    const SIDECARS: &str = "identity: {proxies_are_workloads: true}\n";
    for (name, with_tls, identity, changes, expected) in [
        ("inbound", true, SIDECARS, changes(&[INBOUND, ATTRIBUTE]), 401),
        ("no direction", true, SIDECARS, changes(&[ATTRIBUTE]), 401),
        ("no attribute", true, SIDECARS, changes(&[OUTBOUND]), 401),
        ("a proxy without certificate", false, SIDECARS, changes(&[OUTBOUND, ATTRIBUTE]), 401),
        ("proxies may be gateways", true, "", changes(&[OUTBOUND, ATTRIBUTE]), 401),
        ("outbound", true, SIDECARS, changes(&[OUTBOUND, ATTRIBUTE]), 200),
    ] {
        let behind = Behind::start(with_tls, identity, POLICY, &changes).await;
        assert_eq!(secrets(&behind.stranger()).await, [expected; 2], "{name}");
        let values: Vec<Received> = behind.payment.received();
        match expected {
            200 => assert_eq!(values[0].header("x-api-key"), ["v1"], "{name}"),
            _ => assert!(values.is_empty(), "{name}: {values:?}"),
        }
        // Who shows a certificate is nobody else; the proxy's does not make up for it.
        let other = behind.client("prod", "web");
        assert_eq!(secrets(&other).await, [403; 2], "{name}");
        assert_eq!(behind.payment.received().len(), values.len(), "{name}");
    }
}

/// The route to the app, with this context extension.
fn route(extension: &str) -> String {
    format!(
        "              - name: app
                match: {{prefix: /}}
                route: {{cluster: app}}
                typed_per_filter_config:
                  envoy.filters.http.ext_authz:
                    \"@type\": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute
                    check_settings: {{context_extensions: {{{extension}}}}}"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn on_routes_that_say_so_the_caller_is_the_proxys_workload() {
    let get = async |client: &Client| -> Answer {
        let claims = [("vaultmux.identity", "peer"), ("x-vaultmux-principal", WORKLOAD)];
        client.request("GET", "app.test", "/", &claims).await
    };
    for (extension, with_tls, expected) in [
        ("vaultmux.identity: peer", true, 200),
        ("vaultmux.identity: peer", false, 401),
        ("vaultmux.identity: Peer", true, 401),
        ("vaultmux.identity: local", true, 401),
        ("vaultmux.identity: ''", true, 401),
        ("vaultmux.grant: forward", true, 401),
    ] {
        let route = route(extension);
        let app = "              - {name: app, match: {prefix: /}, route: {cluster: app}}";
        // The direction is ext_proc's matter.
        let edits = [OPTIONAL, OUTBOUND, ATTRIBUTE, (app, route.as_str())];
        let behind = Behind::start(with_tls, "", POLICY, &edits).await;
        let what = format!("{extension}, TLS {with_tls}");
        let answer = get(&behind.stranger()).await;
        assert_eq!(answer.status, expected, "{what}: {}", answer.text());
        if expected == 200 {
            let received: Received = answer.json();
            assert_eq!(
                received.header("x-vaultmux-principal"),
                [format!("{WORKLOAD};proofs=mtls")]
            );
        }
        assert_eq!(get(&behind.client("prod", "web")).await.status, 403, "{what}");
        let reached = behind.app.received().len();
        assert_eq!(reached, usize::from(expected == 200), "{what}");
        // Other routes do not say so.
        assert_eq!(secrets(&behind.stranger()).await, [401; 2], "{what}");
        assert!(behind.payment.received().is_empty(), "{what}");
    }
}
