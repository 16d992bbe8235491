//! Good samples, and what spoils them.

/// One edit to a good sample that exactly one rule is about.
pub(super) struct Case {
    pub(super) rule: &'static str,
    pub(super) good: &'static str,
    pub(super) from: &'static str,
    pub(super) to: &'static str,
    /// Stands in the line of the finding, and in no line before.
    pub(super) at: &'static str,
}

const fn case(
    rule: &'static str,
    good: &'static str,
    from: &'static str,
    to: &'static str,
    at: &'static str,
) -> Case {
    Case { rule, good, from, to, at }
}

pub(super) const GOOD: &[(&str, &str)] = &[
    ("an edge", ENVOY),
    ("an edge that asks over HTTP", HTTP),
    ("a door for connections", TCP),
    ("a mesh of sidecars", ISTIO),
    ("an ambient mesh", AMBIENT),
    ("Envoy Gateway", GATEWAY),
    ("our own configuration", SERVICE),
];

pub(super) const CASES: &[Case] = &[
    // ext_authz
    case(
        "authz-fails-open",
        ENVOY,
        "failure_mode_allow: false",
        "failure_mode_allow: true",
        "failure_mode_allow: true",
    ),
    case("authz-fails-open", ISTIO, "failOpen: false", "failOpen: true", "failOpen: true"),
    case("authz-fails-open", GATEWAY, "failOpen: false", "failOpen: true", "failOpen: true"),
    case("shadow-mode", ENVOY, "clear_route_cache: false", "shadow_mode: true", "shadow_mode"),
    case(
        "shadow-mode",
        GATEWAY,
        "messageTimeout: 1s",
        "messageTimeout: 1s\n    shadowMode: true",
        "shadowMode",
    ),
    case(
        "route-cache-cleared",
        ENVOY,
        "clear_route_cache: false",
        "clear_route_cache: true",
        "clear_route_cache",
    ),
    case("route-cache-cleared", ENVOY, "RETAIN", "CLEAR", "CLEAR"),
    case(
        "route-cache-cleared",
        GATEWAY,
        "failOpen: false",
        "recomputeRoute: true",
        "recomputeRoute",
    ),
    case("authz-timeout", ENVOY, "timeout: 1s\n", "timeout: 600s\n", "600s"),
    case("authz-timeout", ENVOY, "timeout: 1s\n", "timeout: 0s\n", "timeout: 0s"),
    case("authz-timeout", ENVOY, "                timeout: 1s\n", "", "grpc_service:"),
    case("authz-timeout", ISTIO, "    timeout: 1s\n", "", "    service: vaultmux-mesh"),
    case(
        "mutations-unchecked",
        ENVOY,
        "validate_mutations: true",
        "validate_mutations: false",
        "validate_mutations",
    ),
    case(
        "mutation-rules-absent",
        ENVOY,
        "              decoder_header_mutation_rules: {disallow_all: true}\n",
        "",
        "ext_authz.v3.ExtAuthz",
    ),
    case(
        "mutation-rules-absent",
        ENVOY,
        "              mutation_rules: {disallow_system: true}\n",
        "",
        "ext_proc.v3.ExternalProcessor",
    ),
    case(
        "outage-looks-like-denial",
        ENVOY,
        "              status_on_error: {code: ServiceUnavailable}\n",
        "",
        "ext_authz.v3.ExtAuthz",
    ),
    case(
        "outage-looks-like-denial",
        ISTIO,
        "    statusOnError: \"503\"\n",
        "",
        "    service: vaultmux-mesh",
    ),
    case(
        "peer-certificate-absent",
        ENVOY,
        "include_peer_certificate: true",
        "include_peer_certificate: false",
        "include_peer_certificate",
    ),
    case(
        "headers-joined",
        ENVOY,
        "encode_raw_headers: true",
        "encode_raw_headers: false",
        "encode_raw_headers",
    ),
    case(
        "body-in-check",
        ENVOY,
        "clear_route_cache: false",
        "with_request_body: {max_request_bytes: 1024}",
        "with_request_body",
    ),
    case(
        "body-in-check",
        GATEWAY,
        "failOpen: false",
        "bodyToExtAuth: {maxRequestBytes: 1024}",
        "bodyToExtAuth",
    ),
    case(
        "http-authz-without-identity",
        HTTP,
        "exact: x-forwarded-client-cert",
        "exact: x-request-id",
        "allowed_headers:",
    ),
    case(
        "http-authz-without-identity",
        ISTIO,
        "[x-forwarded-client-cert]",
        "[x-request-id]",
        "[x-request-id]",
    ),
    case(
        "routing-mutable",
        ENVOY,
        "{disallow_all: true}",
        "{allow_all_routing: true}",
        "allow_all_routing",
    ),
    case(
        "routing-mutable",
        ENVOY,
        "{disallow_system: true}",
        "{allow_all_routing: true}",
        "allow_all_routing",
    ),
    case("authz-fails-open", TCP, "allow: false", "allow: true", "failure_mode_allow: true"),
    case("authz-timeout", TCP, "timeout: 1s, ", "", "grpc_service"),
    case("absent-cluster", TCP, "{cluster_name: vaultmux}", "{cluster_name: none}", "none"),
    case("service-cleartext", TCP, "address: 127.0.0.1", "address: 192.0.2.7", "- name: vaultmux"),
    case(
        "retry-too-late",
        ENVOY,
        "envoy_grpc: {cluster_name: vaultmux}\n",
        "envoy_grpc: {cluster_name: vaultmux}\n                retry_policy: {num_retries: 1}\n",
        "retry_policy",
    ),
    // the chain and its routes
    case(
        "filter-after-router",
        ENVOY,
        "http.lua.v3.Lua",
        "http.router.v3.Router",
        "name: envoy.filters.http.ext_authz",
    ),
    case("filter-after-router", ISTIO, "INSERT_BEFORE", "INSERT_AFTER", "INSERT_AFTER"),
    case(
        "proc-before-authz",
        ISTIO,
        "operation: INSERT_BEFORE",
        "operation: INSERT_FIRST",
        "INSERT_FIRST",
    ),
    case(
        "proc-before-authz",
        ENVOY,
        "http.lua.v3.Lua\"}",
        "http.ext_proc.v3.ExternalProcessor\", message_timeout: 1s, allow_mode_override: true, mutation_rules: {disallow_all: true}, request_attributes: [xds.cluster_name], metadata_options: {forwarding_namespaces: {untyped: [envoy.filters.http.ext_authz]}}}",
        "name: first",
    ),
    case(
        "authz-after-consumer",
        ENVOY,
        "http.lua.v3.Lua\"",
        "http.lua.v3.Lua\", inline_code: \"request:headers():get('x-vaultmux-principal')\"",
        "name: first",
    ),
    case(
        "authz-after-consumer",
        ENVOY,
        "http.lua.v3.Lua",
        "http.cache.v3.CacheConfig",
        "name: first",
    ),
    case(
        "authz-disabled-by-caller",
        ENVOY,
        "match: {prefix: /open/}",
        "match: {prefix: /open/, headers: [{name: x-debug}]}\n                typed_per_filter_config: {envoy.filters.http.ext_authz: {\"@type\": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute, disabled: true}}",
        "ExtAuthzPerRoute",
    ),
    case(
        "no-catch-all-domain",
        ENVOY,
        "domains: [\"*\"]",
        "domains: [other.test]",
        "virtual_hosts:",
    ),
    case(
        "no-catch-all-route",
        ENVOY,
        "- match: {prefix: /}",
        "- match: {prefix: /v1/}",
        "name: payment-host",
    ),
    case(
        "no-catch-all-route",
        ENVOY,
        "- match: {prefix: /}",
        "- match: {prefix: /, headers: [{name: x}]}",
        "name: payment-host",
    ),
    case(
        "client-cert-forwarded",
        ENVOY,
        "SANITIZE_SET",
        "ALWAYS_FORWARD_ONLY",
        "ALWAYS_FORWARD_ONLY",
    ),
    case("client-cert-forwarded", ENVOY, "SANITIZE_SET", "FORWARD_ONLY", "FORWARD_ONLY"),
    case("client-cert-forwarded", GATEWAY, "mode: SanitizeSet", "mode: ForwardOnly", "ForwardOnly"),
    case("client-cert-appended", ENVOY, "SANITIZE_SET", "APPEND_FORWARD", "APPEND_FORWARD"),
    case(
        "client-cert-appended",
        GATEWAY,
        "mode: SanitizeSet",
        "mode: AppendForward",
        "AppendForward",
    ),
    case(
        "path-not-normalised",
        ENVOY,
        "normalize_path: true",
        "normalize_path: false",
        "normalize_path",
    ),
    case(
        "path-not-normalised",
        ENVOY,
        "merge_slashes: true",
        "merge_slashes: false",
        "merge_slashes",
    ),
    case(
        "path-not-normalised",
        ENVOY,
        "          path_with_escaped_slashes_action: REJECT_REQUEST\n",
        "",
        "v3.HttpConnectionManager",
    ),
    case("path-not-normalised", ISTIO, "MERGE_SLASHES", "BASE", "BASE"),
    case(
        "path-not-normalised",
        GATEWAY,
        "path: {}",
        "path: {disableMergeSlashes: true}",
        "disableMergeSlashes",
    ),
    case(
        "underscore-headers",
        ENVOY,
        "{headers_with_underscores_action: REJECT_REQUEST}",
        "{idle_timeout: 300s}",
        "idle_timeout",
    ),
    case(
        "secret-in-access-log",
        ENVOY,
        "%DOWNSTREAM_PEER_URI_SAN%",
        "%REQ(Authorization)%",
        "%REQ(",
    ),
    case(
        "secret-in-access-log",
        ENVOY,
        "%DOWNSTREAM_PEER_URI_SAN%",
        "%REQ(X?X-Api-Key):8%",
        "%REQ(",
    ),
    case(
        "admin-open",
        ENVOY,
        "127.0.0.1, port_value: 9901",
        "0.0.0.0, port_value: 9901",
        "0.0.0.0",
    ),
    // clusters
    case(
        "absent-cluster",
        ENVOY,
        "- match: {prefix: /}\n                route: {cluster: payment}",
        "- match: {prefix: /}\n                route: {cluster: nowhere}",
        "nowhere",
    ),
    case(
        "absent-cluster",
        ENVOY,
        "{cluster_name: vaultmux}",
        "{cluster_name: vaultmax}",
        "vaultmax",
    ),
    case(
        "upstream-cleartext",
        ENVOY,
        "API\n    transport_socket:",
        "API\n    unused:",
        "# cluster of the payment API",
    ),
    case(
        "upstream-cleartext",
        ISTIO,
        "tls: {mode: SIMPLE,",
        "tls: {mode: DISABLE,",
        "protocol: HTTP,",
    ),
    case(
        "upstream-unverified",
        ENVOY,
        "match_typed_subject_alt_names: [{san_type: DNS, matcher: {exact: api.stripe.test}}]",
        "match_typed_subject_alt_names: []",
        "    transport_socket:",
    ),
    case("upstream-unverified", ISTIO, ", subjectAltNames: [api.stripe.test]", "", "mode: SIMPLE"),
    case(
        "upstream-unverified",
        ISTIO,
        "subjectAltNames: [api.stripe.test]",
        "insecureSkipVerify: true",
        "insecureSkipVerify",
    ),
    case(
        "service-cleartext",
        ENVOY,
        "{address: 127.0.0.1, port_value: 9191}",
        "{address: 192.0.2.7, port_value: 9191}",
        "# cluster of the service",
    ),
    case(
        "service-not-http2",
        ENVOY,
        "http2_protocol_options: {}",
        "http_protocol_options: {}",
        "# cluster of the service",
    ),
    case("service-not-http2", ISTIO, "name: grpc-authz", "name: authz", "name: authz"),
    // ext_proc
    case(
        "proc-fails-open",
        ENVOY,
        "failure_mode_allow: false  # ext_proc",
        "failure_mode_allow: true",
        "failure_mode_allow: true",
    ),
    case(
        "proc-fails-open",
        GATEWAY,
        "messageTimeout: 1s",
        "messageTimeout: 1s\n    failOpen: true",
        "failOpen: true",
    ),
    case(
        "shadow-mode",
        ENVOY,
        "failure_mode_allow: false  # ext_proc",
        "observability_mode: true",
        "observability_mode",
    ),
    case(
        "immediate-response-disabled",
        ENVOY,
        "failure_mode_allow: false  # ext_proc",
        "disable_immediate_response: true",
        "disable_immediate_response",
    ),
    case(
        "request-headers-skipped",
        ENVOY,
        "request_header_mode: SEND",
        "request_header_mode: SKIP",
        "request_header_mode",
    ),
    case(
        "request-headers-skipped",
        GATEWAY,
        "request: {attributes: [xds.route_name]}, ",
        "",
        "processingMode:",
    ),
    case(
        "streamed-without-trailers",
        ENVOY,
        "request_body_mode: NONE",
        "request_body_mode: STREAMED",
        "request_body_mode",
    ),
    case(
        "streamed-without-trailers",
        ENVOY,
        "request_body_mode: NONE",
        "response_body_mode: STREAMED",
        "response_body_mode",
    ),
    case(
        "body-cut-off",
        ENVOY,
        "request_body_mode: NONE",
        "request_body_mode: BUFFERED_PARTIAL",
        "request_body_mode",
    ),
    case(
        "mode-override-missing",
        ENVOY,
        "allow_mode_override: true",
        "allow_mode_override: false",
        "allow_mode_override",
    ),
    case(
        "mode-override-ignored",
        ENVOY,
        "allow_mode_override: true",
        "allow_mode_override: true\n              send_body_without_waiting_for_header_response: true",
        "allow_mode_override",
    ),
    case("destination-unknown", ENVOY, "[xds.cluster_name, ", "[", "request_attributes"),
    case("destination-unknown", GATEWAY, "{attributes: [xds.route_name]}", "{}", "processingMode"),
    case(
        "grant-not-forwarded",
        ENVOY,
        "{untyped: [envoy.filters.http.ext_authz]}",
        "{untyped: []}",
        "metadata_options",
    ),
    case(
        "grant-not-forwarded",
        GATEWAY,
        "metadata: {accessibleNamespaces: [envoy.filters.http.ext_authz]}",
        "metadata: {}",
        "metadata: {}",
    ),
    case("proc-without-identity", ISTIO, ", xds.listener_direction", "", "request_attributes"),
    case(
        "message-timeout",
        ENVOY,
        "              message_timeout: 1s\n",
        "",
        "ext_proc.v3.ExternalProcessor",
    ),
    case(
        "message-timeout",
        ENVOY,
        "message_timeout: 1s",
        "message_timeout: 1s\n              max_message_timeout: 0.5s",
        "max_message_timeout",
    ),
    case("message-timeout", GATEWAY, "    messageTimeout: 1s\n", "", "- backendRefs:"),
    case("stream-timeout", ENVOY, "timeout: 0s", "timeout: 5s", "timeout: 5s"),
    // Istio
    case("provider-name", ISTIO, "- name: vaultmux-http", "- name: Vaultmux.HTTP", "Vaultmux.HTTP"),
    case(
        "provider-missing",
        ISTIO,
        "provider: {name: vaultmux}",
        "provider: {name: vaultmax}",
        "vaultmax",
    ),
    case("provider-missing", ISTIO, "  provider: {name: vaultmux}\n", "", "action: CUSTOM"),
    case(
        "custom-selects-by-identity",
        ISTIO,
        "- to: [{operation: {notPaths: [/healthz]}}]",
        "- from: [{source: {principals: [\"*\"]}}]",
        "principals: [\"*\"]",
    ),
    case(
        "custom-selects-by-identity",
        ISTIO,
        "- to: [{operation: {notPaths: [/healthz]}}]",
        "- when: [{key: \"request.auth.claims[iss]\", values: [x]}]",
        "request.auth",
    ),
    case(
        "custom-without-rules",
        ISTIO,
        "  rules:\n  - to: [{operation: {notPaths: [/healthz]}}]\n",
        "",
        "action: CUSTOM",
    ),
    case(
        "custom-without-rules",
        ISTIO,
        "  rules:\n  - to: [{operation: {notPaths: [/healthz]}}]\n",
        "  rules: []\n",
        "rules: []",
    ),
    case(
        "custom-dry-run",
        ISTIO,
        "{name: ask, namespace: shop}",
        "{name: ask, namespace: shop, annotations: {istio.io/dry-run: \"true\"}}",
        "dry-run",
    ),
    case(
        "two-providers",
        ISTIO,
        "kind: PeerAuthentication",
        "kind: AuthorizationPolicy\nmetadata: {name: other, namespace: shop}\nspec:\n  selector: {matchLabels: {app: cart}}\n  action: CUSTOM\n  provider: {name: vaultmux-http}\n  rules: [{}]\n---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication",
        "  provider: {name: vaultmux-http}",
    ),
    case(
        "custom-in-ambient",
        AMBIENT,
        "    targetRefs: [{kind: Service, group: \"\", name: cart}]\n",
        "",
        "action: CUSTOM",
    ),
    case(
        "custom-unattached",
        AMBIENT,
        "{kind: Service, group: \"\", name: cart}",
        "{kind: GatewayClass, group: gateway.networking.k8s.io, name: istio-waypoint}",
        "kind: GatewayClass",
    ),
    case(
        "waypoint-without-identity",
        AMBIENT,
        "xfcc-include-client-identity: \"true\"",
        "other: \"true\"",
        "gatewayClassName",
    ),
    case(
        "envoyfilter-context",
        ISTIO,
        "context: SIDECAR_INBOUND",
        "context: WAYPOINT",
        "context: WAYPOINT",
    ),
    case(
        "envoyfilter-unreferenced-service",
        ISTIO,
        "context: SIDECAR_INBOUND",
        "context: GATEWAY",
        "cluster_name: outbound",
    ),
    case(
        "proc-on-all-egress",
        ISTIO,
        "context: SIDECAR_INBOUND",
        "context: SIDECAR_OUTBOUND",
        "name: envoy.filters.http.ext_proc",
    ),
    case(
        "peer-authentication-permissive",
        ISTIO,
        "{mode: STRICT}",
        "{mode: PERMISSIVE}",
        "PERMISSIVE",
    ),
    case(
        "peer-authentication-permissive",
        ISTIO,
        "9090: {mode: PERMISSIVE}",
        "9191: {mode: DISABLE}",
        "9191: {mode",
    ),
    case(
        "sidecar-trims-service",
        ISTIO,
        "hosts: [\"./*\", \"vaultmux-system/*\"]",
        "hosts: [\"./*\", \"istio-system/*\"]",
        "istio-system/*",
    ),
    case(
        "service-unprotected",
        ISTIO,
        "metadata: {name: protect, namespace: vaultmux-system}",
        "metadata: {name: protect, namespace: elsewhere}",
        "    service: vaultmux-mesh",
    ),
    // Envoy Gateway and our own configuration
    case(
        "authorization-after-proc",
        GATEWAY,
        "    failOpen: false",
        "    failOpen: false\n  authorization: {defaultAction: Deny}",
        "authorization:",
    ),
    case(
        "trusted-peers-missing",
        SERVICE,
        ", trusted_peers: [\"spiffe://cluster.local/ns/gateway/sa/envoy\"]",
        "",
        "0.0.0.0:9191",
    ),
];

pub(super) const ENVOY: &str = r#"
admin:
  address: {socket_address: {address: 127.0.0.1, port_value: 9901}}
static_resources:
  listeners:
  - name: edge
    filter_chains:
    - transport_socket: {name: tls}
      filters:
      - typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          forward_client_cert_details: SANITIZE_SET
          normalize_path: true
          merge_slashes: true
          path_with_escaped_slashes_action: REJECT_REQUEST
          common_http_protocol_options: {headers_with_underscores_action: REJECT_REQUEST}
          access_log: [{typed_config: {log_format: {json_format: {peer: "%DOWNSTREAM_PEER_URI_SAN%"}}}}]
          http_filters:
          - name: first
            typed_config: {"@type": "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua"}
          - name: envoy.filters.http.ext_authz
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz
              grpc_service:
                timeout: 1s
                envoy_grpc: {cluster_name: vaultmux}
              failure_mode_allow: false
              status_on_error: {code: ServiceUnavailable}
              include_peer_certificate: true
              encode_raw_headers: true
              validate_mutations: true
              clear_route_cache: false
              decoder_header_mutation_rules: {disallow_all: true}
          - name: envoy.filters.http.ext_proc
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor
              grpc_service: {timeout: 0s, envoy_grpc: {cluster_name: vaultmux}}
              failure_mode_allow: false  # ext_proc
              message_timeout: 1s
              processing_mode:
                request_header_mode: SEND
                response_header_mode: SKIP
                request_body_mode: NONE
              allow_mode_override: true
              route_cache_action: RETAIN
              request_attributes: [xds.cluster_name, connection.uri_san_peer_certificate]
              metadata_options: {forwarding_namespaces: {untyped: [envoy.filters.http.ext_authz]}}
              mutation_rules: {disallow_system: true}
          - name: envoy.filters.http.router
            typed_config: {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}
          route_config:
            virtual_hosts:
            - name: payment-host
              domains: [api.stripe.test]
              routes:
              - match: {prefix: /open/}
                route: {cluster: payment}
              - match: {prefix: /}
                route: {cluster: payment}
            - name: none
              domains: ["*"]
              routes: [{match: {prefix: "/"}, direct_response: {status: 404}}]
  clusters:
  - name: vaultmux  # cluster of the service
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        explicit_http_config: {http2_protocol_options: {}}
    load_assignment:
      endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: 9191}}}}]}]
  - name: payment  # cluster of the payment API
    transport_socket:
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
        common_tls_context:
          validation_context:
            trusted_ca: {filename: /etc/ssl/certs/ca-certificates.crt}
            match_typed_subject_alt_names: [{san_type: DNS, matcher: {exact: api.stripe.test}}]
    load_assignment:
      endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 192.0.2.1, port_value: 443}}}}]}]
"#;

pub(super) const HTTP: &str = r#"
static_resources:
  listeners:
  - filter_chains:
    - filters:
      - typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          normalize_path: true
          merge_slashes: true
          path_with_escaped_slashes_action: KEEP_UNCHANGED
          common_http_protocol_options: {headers_with_underscores_action: DROP_HEADER}
          http_filters:
          - typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz
              http_service: {server_uri: {uri: "http://127.0.0.1:8080", cluster: vaultmux, timeout: 1s}}
              allowed_headers:
                patterns: [{exact: x-forwarded-client-cert}]
              status_on_error: {code: ServiceUnavailable}
              validate_mutations: true
              decoder_header_mutation_rules: {disallow_all: true}
  clusters:
  - name: vaultmux
    load_assignment:
      endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: "::1", port_value: 8080}}}}]}]
"#;

pub(super) const TCP: &str = r#"
static_resources:
  listeners:
  - filter_chains:
    - filters:
      - typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.ext_authz.v3.ExtAuthz
          grpc_service: {timeout: 1s, envoy_grpc: {cluster_name: vaultmux}}
          failure_mode_allow: false
      - typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
          cluster: database
  clusters:
  - name: database
  - name: vaultmux
    http2_protocol_options: {}
    load_assignment:
      endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: 9191}}}}]}]
"#;

pub(super) const ISTIO: &str = r#"
pathNormalization: {normalization: MERGE_SLASHES}
extensionProviders:
- name: vaultmux
  envoyExtAuthzGrpc:
    service: vaultmux-mesh.vaultmux-system.svc.cluster.local
    port: 9191
    timeout: 1s
    statusOnError: "503"
    failOpen: false
- name: vaultmux-http
  envoyExtAuthzHttp:
    service: vaultmux-mesh.vaultmux-system.svc.cluster.local
    port: 8080
    timeout: 1s
    statusOnError: "503"
    includeRequestHeadersInCheck: [x-forwarded-client-cert]
---
apiVersion: v1
kind: Service
metadata: {name: vaultmux-mesh, namespace: vaultmux-system}
spec:
  ports:
  - {name: grpc-authz, port: 9191}
  - {name: http-rest, port: 8080}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: ask, namespace: shop}
spec:
  action: CUSTOM
  provider: {name: vaultmux}
  rules:
  - to: [{operation: {notPaths: [/healthz]}}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: protect, namespace: vaultmux-system}
spec:
  rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/cart]}}]}]
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: strict, namespace: shop}
spec:
  mtls: {mode: STRICT}
  portLevelMtls:
    9090: {mode: PERMISSIVE}
---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: trimmed, namespace: shop}
spec:
  egress: [{hosts: ["./*", "vaultmux-system/*"]}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: stripe, namespace: shop}
spec:
  hosts: [api.stripe.test]
  location: MESH_EXTERNAL
  ports: [{number: 80, protocol: HTTP, targetPort: 443}]
  resolution: DNS
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: stripe, namespace: shop}
spec:
  host: api.stripe.test
  trafficPolicy:
    portLevelSettings:
    - port: {number: 80}
      tls: {mode: SIMPLE, sni: api.stripe.test, subjectAltNames: [api.stripe.test]}
---
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {name: proc, namespace: shop}
spec:
  configPatches:
  - applyTo: HTTP_FILTER
    match:
      context: SIDECAR_INBOUND
      listener: {filterChain: {filter: {subFilter: {name: envoy.filters.http.router}}}}
    patch:
      operation: INSERT_BEFORE
      value:
        name: envoy.filters.http.ext_proc
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor
          grpc_service: {envoy_grpc: {cluster_name: outbound|9191||vaultmux-mesh.vaultmux-system.svc.cluster.local}}
          message_timeout: 1s
          allow_mode_override: true
          request_attributes: [xds.route_name, xds.listener_direction]
          mutation_rules: {disallow_all: true}
"#;

pub(super) const AMBIENT: &str = r#"
apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: Namespace
  metadata:
    name: shop
    labels: {istio.io/dataplane-mode: ambient}
- apiVersion: gateway.networking.k8s.io/v1
  kind: Gateway
  metadata:
    name: waypoint
    namespace: shop
    annotations:
      ambient.istio.io/xfcc-include-client-identity: "true"
  spec:
    gatewayClassName: istio-waypoint
- apiVersion: security.istio.io/v1
  kind: AuthorizationPolicy
  metadata: {name: ask, namespace: shop}
  spec:
    action: CUSTOM
    targetRefs: [{kind: Service, group: "", name: cart}]
    provider: {name: vaultmux}
    rules: [{}]
- apiVersion: security.istio.io/v1
  kind: AuthorizationPolicy
  metadata: {name: only-from-waypoint, namespace: shop}
  spec:
    selector: {matchLabels: {app: cart}}
    rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/waypoint]}}]}]
"#;

pub(super) const GATEWAY: &str = r#"
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: SecurityPolicy
metadata: {name: ask, namespace: shop}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: edge}]
  extAuth:
    grpc: {backendRefs: [{name: vaultmux-mesh, port: 9191}]}
    timeout: 1s
    statusOnError: 503
    failOpen: false
---
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: EnvoyExtensionPolicy
metadata: {name: inject, namespace: shop}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: orders}]
  extProc:
  - backendRefs: [{name: vaultmux-mesh, port: 9191}]
    messageTimeout: 1s
    processingMode: {request: {attributes: [xds.route_name]}, allowModeOverride: true}
    metadata: {accessibleNamespaces: [envoy.filters.http.ext_authz]}
---
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: ClientTrafficPolicy
metadata: {name: clients, namespace: shop}
spec:
  path: {}
  headers:
    xForwardedClientCert: {mode: SanitizeSet}
"#;

pub(super) const SERVICE: &str = r#"
mode: cluster
listeners:
  grpc: {address: "0.0.0.0:9191", trusted_peers: ["spiffe://cluster.local/ns/gateway/sa/envoy"]}
backends: {aws: {type: aws_secrets_manager}}
"#;
