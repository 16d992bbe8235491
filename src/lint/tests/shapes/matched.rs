//! Filters that are not in the chain as such: behind a matcher, in a composite filter, or found
//! elsewhere by their names.

use super::{Shape, bad, fine};

pub(super) const SHAPES: &[Shape] = &[
    fine(MATCHED, &[]),
    fine(COMPOSITE, &[]),
    fine(ELSEWHERE, &[]),
    bad(
        "authz-fails-open",
        MATCHED,
        &[("failure_mode_allow: false", "failure_mode_allow: true")],
        "failure_mode_allow: true",
    ),
    bad(
        "authz-fails-open",
        COMPOSITE,
        &[("failure_mode_allow: false", "failure_mode_allow: true")],
        "failure_mode_allow: true",
    ),
    bad(
        "authz-fails-open",
        ELSEWHERE,
        &[("failure_mode_allow: false", "failure_mode_allow: true")],
        "failure_mode_allow: true",
    ),
    bad(
        "authz-disabled-by-caller",
        MATCHED,
        &[("header_name: \":path\"", "header_name: x-debug")],
        "x-debug",
    ),
    bad(
        "authz-disabled-by-caller",
        MATCHED,
        &[(
            "v3.HttpRequestHeaderMatchInput, header_name: \":path\"",
            "v3.HttpRequestQueryParamMatchInput, query_param: debug",
        )],
        "query_param",
    ),
    bad(
        "authz-disabled",
        MATCHED,
        &[(
            "                matcher_tree:",
            "                on_no_match: {action: {name: x, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.common.matcher.action.v3.SkipFilter}}}\n                matcher_tree:",
        )],
        "on_no_match",
    ),
    bad(
        "authz-disabled",
        COMPOSITE,
        &[("on_no_match: {action: {typed_config: *ask}}", "unused: {}")],
        "matcher_tree",
    ),
    bad(
        "authz-disabled",
        COMPOSITE,
        &[(
            "v3.ExecuteFilterAction\n",
            "v3.ExecuteFilterAction\n                            sample_percent: {default_value: {numerator: 10}}\n",
        )],
        "sample_percent",
    ),
    bad("absent-cluster", ELSEWHERE, &[("cluster_name: vaultmux", "cluster_name: none")], "none"),
];

const MATCHED: &str = r#"
static_resources:
  listeners:
  - filter_chains:
    - filters:
      - typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          normalize_path: true
          merge_slashes: true
          path_with_escaped_slashes_action: REJECT_REQUEST
          common_http_protocol_options: {headers_with_underscores_action: REJECT_REQUEST}
          http_filters:
          - name: ask
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.common.matching.v3.ExtensionWithMatcher
              xds_matcher:
                matcher_tree:
                  input:
                    name: request-headers
                    typed_config: {"@type": type.googleapis.com/envoy.type.matcher.v3.HttpRequestHeaderMatchInput, header_name: ":path"}
                  exact_match_map:
                    map:
                      /healthz: {action: {name: skip, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.common.matcher.action.v3.SkipFilter}}}
              extension_config:
                name: ask
                typed_config:
                  "@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz
                  grpc_service: {timeout: 1s, envoy_grpc: {cluster_name: vaultmux}}
                  failure_mode_allow: false
                  status_on_error: {code: ServiceUnavailable}
                  encode_raw_headers: true
                  validate_mutations: true
                  decoder_header_mutation_rules: {disallow_all: true}
  clusters:
  - name: vaultmux
    http2_protocol_options: {}
    load_assignment:
      endpoints: [{lb_endpoints: [{endpoint: {address: {pipe: {path: /run/vaultmux.sock}}}}]}]
"#;

const COMPOSITE: &str = r#"
static_resources:
  listeners:
  - filter_chains:
    - filters:
      - typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          normalize_path: true
          merge_slashes: true
          path_with_escaped_slashes_action: REJECT_REQUEST
          common_http_protocol_options: {headers_with_underscores_action: REJECT_REQUEST}
          http_filters:
          - name: composite
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.common.matching.v3.ExtensionWithMatcher
              extension_config:
                name: composite
                typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.composite.v3.Composite}
              xds_matcher:
                matcher_tree:
                  input:
                    typed_config: {"@type": type.googleapis.com/envoy.type.matcher.v3.HttpRequestHeaderMatchInput, header_name: ":path"}
                  prefix_match_map:
                    map:
                      /:
                        action:
                          typed_config: &ask
                            "@type": type.googleapis.com/envoy.extensions.filters.http.composite.v3.ExecuteFilterAction
                            typed_config:
                              name: ask
                              typed_config:
                                "@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz
                                grpc_service: {timeout: 1s, envoy_grpc: {cluster_name: vaultmux}}
                                failure_mode_allow: false
                                status_on_error: {code: ServiceUnavailable}
                                encode_raw_headers: true
                                validate_mutations: true
                                decoder_header_mutation_rules: {disallow_all: true}
                on_no_match: {action: {typed_config: *ask}}
  clusters:
  - name: vaultmux
    http2_protocol_options: {}
    load_assignment:
      endpoints: [{lb_endpoints: [{endpoint: {address: {pipe: {path: /run/vaultmux.sock}}}}]}]
"#;

/// A dump: the chain has the filter's name alone.
const ELSEWHERE: &str = r#"
configs:
- "@type": type.googleapis.com/envoy.admin.v3.EcdsConfigDump
  ecds_filters:
  - ecds_filter:
      "@type": type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig
      name: ask
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz
        grpc_service: {timeout: 1s, envoy_grpc: {cluster_name: vaultmux}}
        failure_mode_allow: false
        status_on_error: {code: ServiceUnavailable}
        encode_raw_headers: true
        validate_mutations: true
        decoder_header_mutation_rules: {disallow_all: true}
- "@type": type.googleapis.com/envoy.admin.v3.ListenersConfigDump
  static_listeners:
  - listener:
      filter_chains:
      - filters:
        - typed_config:
            "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
            normalize_path: true
            merge_slashes: true
            path_with_escaped_slashes_action: REJECT_REQUEST
            common_http_protocol_options: {headers_with_underscores_action: REJECT_REQUEST}
            http_filters:
            - name: ask
              config_discovery: {config_source: {ads: {}}, type_urls: [type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz]}
- "@type": type.googleapis.com/envoy.admin.v3.ClustersConfigDump
  static_clusters:
  - cluster:
      name: vaultmux
      http2_protocol_options: {}
      load_assignment:
        endpoints: [{lb_endpoints: [{endpoint: {address: {pipe: {path: /run/vaultmux.sock}}}}]}]
"#;
