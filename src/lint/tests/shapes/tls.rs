//! Where the service is asked, and whom TLS meets.

use super::{Shape, bad, fine};
use crate::lint::tests::samples::{ENVOY, TCP};

const SAN: &str =
    "match_typed_subject_alt_names: [{san_type: DNS, matcher: {exact: api.stripe.test}}]";
const SERVICE: &str = "grpc_service: {timeout: 1s, envoy_grpc: {cluster_name: vaultmux}}";
const PROC: &str = "grpc_service: {timeout: 0s, envoy_grpc: {cluster_name: vaultmux}}";

macro_rules! san {
    ($matcher:literal) => {
        concat!(
            "match_typed_subject_alt_names: [{san_type: DNS, matcher: {exact: api.stripe.test}}, {san_type: DNS, matcher: ",
            $matcher,
            "}]"
        )
    };
}
macro_rules! google {
    ($target:literal) => {
        concat!("grpc_service: {timeout: 1s, google_grpc: {stat_prefix: x, ", $target, "}}")
    };
}

pub(super) const SHAPES: &[Shape] = &[
    bad(
        "upstream-unverified",
        ENVOY,
        &[(SAN, "trust_chain_verification: ACCEPT_UNTRUSTED")],
        "ACCEPT_UNTRUSTED",
    ),
    bad(
        "upstream-unverified",
        ENVOY,
        &[(SAN, san!("{safe_regex: {regex: \".*\"}}"))],
        "safe_regex",
    ),
    bad("upstream-unverified", ENVOY, &[(SAN, san!("{prefix: \"\"}"))], "prefix: \"\""),
    bad("upstream-unverified", ENVOY, &[(SAN, san!("{suffix: \"\"}"))], "suffix: \"\""),
    bad("upstream-unverified", ENVOY, &[(SAN, san!("{suffix: .com}"))], "suffix: .com"),
    bad("upstream-unverified", ENVOY, &[(SAN, san!("{prefix: \"spiffe://\"}"))], "spiffe://"),
    bad("upstream-unverified", ENVOY, &[(SAN, san!("{exact: \"*\"}"))], "exact: \"*\""),
    fine(ENVOY, &[(SAN, san!("{suffix: .stripe.test}"))]),
    fine(ENVOY, &[(SAN, san!("{safe_regex: {regex: \"api[0-9]+\\\\.stripe\\\\.test\"}}"))]),
    fine(
        ENVOY,
        &[(SAN, "verify_certificate_spki: [NvqYIYSbgK2vCJpQhObf77vv+bQWtc5ek5RIOwPiC9A=]")],
    ),
    // ext_proc over HTTP, and Google's client
    bad(
        "absent-cluster",
        ENVOY,
        &[(
            PROC,
            "http_service: {http_service: {http_uri: {uri: \"http://x\", cluster: none, timeout: 1s}}}",
        )],
        "cluster: none",
    ),
    bad(
        "service-cleartext",
        TCP,
        &[(SERVICE, google!("target_uri: \"vaultmux.internal:9191\""))],
        "target_uri",
    ),
    bad(
        "service-cleartext",
        TCP,
        &[(
            SERVICE,
            google!(
                "target_uri: \"dns:///192.0.2.7:9191\", channel_credentials: {local_credentials: {}}"
            ),
        )],
        "target_uri",
    ),
    fine(TCP, &[(SERVICE, google!("target_uri: \"dns:///127.0.0.1:9191\""))]),
    fine(TCP, &[(SERVICE, google!("target_uri: \"unix:/run/vaultmux.sock\""))]),
    fine(
        TCP,
        &[(
            SERVICE,
            google!(
                "target_uri: \"vaultmux.internal:9191\", channel_credentials: {ssl_credentials: {}}"
            ),
        )],
    ),
    // Endpoints say which of several ways they are reached by.
    bad(
        "upstream-cleartext",
        ENVOY,
        &[(
            "API\n    transport_socket:",
            "API\n    transport_socket_matches: [{name: a, match: {tlsMode: istio}, transport_socket: {typed_config: {\"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext, common_tls_context: {validation_context: {verify_certificate_spki: [x]}}}}}, {name: b, match: {}, transport_socket: {typed_config: {\"@type\": type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer}}}]\n    transport_socket:",
        )],
        "# cluster of the payment API",
    ),
    // What came in goes on from a loopback address, and so stays here.
    fine(
        ENVOY,
        &[(
            "API\n    transport_socket:",
            "API\n    upstream_bind_config: {source_address: {address: 127.0.0.6, port_value: 0}}\n    unused:",
        )],
    ),
];
