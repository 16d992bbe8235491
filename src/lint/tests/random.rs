//! No text makes it panic.

use proptest::prelude::*;

use super::{linted, samples::GOOD};

/// Words that rules look for, so that what is made up reaches them.
const KEYS: &[&str] = &[
    "@type",
    "typed_config",
    "static_resources",
    "listeners",
    "filter_chains",
    "filters",
    "http_filters",
    "clusters",
    "route_config",
    "virtual_hosts",
    "routes",
    "match",
    "route",
    "configs",
    "resources",
    "apiVersion",
    "kind",
    "metadata",
    "namespace",
    "name",
    "spec",
    "action",
    "rules",
    "from",
    "source",
    "principals",
    "provider",
    "configPatches",
    "patch",
    "value",
    "egress",
    "hosts",
    "ports",
    "trafficPolicy",
    "tls",
    "mode",
    "extensionProviders",
    "envoyExtAuthzGrpc",
    "service",
    "timeout",
    "extProc",
    "processingMode",
    "items",
    "data",
    "mesh",
    "annotations",
    "targetRefs",
    "selector",
    "grpc_service",
    "type_url",
    "typed_per_filter_config",
    "disabled",
    "xds_matcher",
    "extension_config",
    "matcher",
    "on_no_match",
    "weighted_clusters",
    "filter_enabled",
    "default_value",
    "config_discovery",
    "matchLabels",
    "targetRef",
    "targetSelectors",
    "when",
    "values",
    "to",
    "operation",
    "trusted_peers",
    "transport_socket_matches",
    "load_assignment",
];
const WORDS: &[&str] = &[
    "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz",
    "type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor",
    "x.HttpConnectionManager",
    "x.TypedStruct",
    "x.ListenersConfigDump",
    "CUSTOM",
    "v1",
    "List",
    "security.istio.io/v1",
    "networking.istio.io/v1",
    "gateway.envoyproxy.io/v1alpha1",
    "AuthorizationPolicy",
    "EnvoyFilter",
    "Sidecar",
    "ServiceEntry",
    "ConfigMap",
    "SecurityPolicy",
    "outbound|9191||a.b.svc",
    "a.b.svc.cluster.local",
    "*/*",
    "./",
    "1s",
    "9e99s",
    "ö",
    "",
    "/",
    "SIMPLE",
    "WAYPOINT",
    "type.googleapis.com/envoy.extensions.common.matching.v3.ExtensionWithMatcher",
    "type.googleapis.com/envoy.extensions.filters.http.composite.v3.Composite",
    "type.googleapis.com/envoy.config.route.v3.FilterConfig",
    "x.UpstreamTlsContext",
    "REMOVE",
    "Gateway",
    "HTTPRoute",
    "SecurityPolicy",
    "0.0.0.0/0",
    "::ffff:0:0/96",
];

fn json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        proptest::sample::select(WORDS).prop_map(Into::into),
        ".{0,8}".prop_map(Into::into),
    ];
    leaf.prop_recursive(8, 64, 5, |inner| {
        let key = proptest::sample::select(KEYS).prop_map(str::to_owned);
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
            proptest::collection::vec((key, inner), 0..6)
                .prop_map(|entries| serde_json::Value::Object(entries.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn made_up_documents(document in json()) {
        let _ = linted(&document.to_string());
    }

    #[test]
    fn any_text(text in "(?s).{0,200}") {
        let _ = linted(&text);
    }

    /// A good sample with something torn out, or something else in its place.
    #[test]
    fn torn_samples(
        which in 0..GOOD.len(),
        from in any::<proptest::sample::Index>(),
        length in 0_usize..80,
        put in "[ -~\n]{0,12}",
    ) {
        let text = GOOD[which].1;
        let from = from.index(text.len());
        let to = (from + length).min(text.len());
        if text.is_char_boundary(from) && text.is_char_boundary(to) {
            let _ = linted(&format!("{}{put}{}", &text[..from], &text[to..]));
        }
    }
}
