//! Envoy Gateway's policies.

use super::{Shape, bad, fine};
use crate::lint::tests::samples::GATEWAY;

const REQUEST: &str = "request: {attributes: [xds.route_name]}";
const ROUTE: &str = "---\napiVersion: gateway.envoyproxy.io/v1alpha1\nkind: EnvoyExtensionPolicy\n";

macro_rules! beside {
    ($objects:literal) => {
        concat!(
            "---\n",
            $objects,
            "---\napiVersion: gateway.envoyproxy.io/v1alpha1\nkind: EnvoyExtensionPolicy\n"
        )
    };
}

pub(super) const SHAPES: &[Shape] = &[
    bad("authz-timeout", GATEWAY, &[("    timeout: 1s\n", "")], "grpc: {backendRefs"),
    bad("authz-timeout", GATEWAY, &[("timeout: 1s", "timeout: 60s")], "timeout: 60s"),
    bad(
        "outage-looks-like-denial",
        GATEWAY,
        &[("    statusOnError: 503\n", "")],
        "grpc: {backendRefs",
    ),
    bad(
        "identity-withheld",
        GATEWAY,
        &[("    timeout: 1s\n", "    timeout: 1s\n    headersToExtAuth: [x-tier]\n")],
        "headersToExtAuth",
    ),
    fine(
        GATEWAY,
        &[(
            "    timeout: 1s\n",
            "    timeout: 1s\n    headersToExtAuth: [x-tier, Authorization]\n",
        )],
    ),
    bad(
        "message-timeout",
        GATEWAY,
        &[("messageTimeout: 1s", "messageTimeout: 5m")],
        "messageTimeout: 5m",
    ),
    bad(
        "body-cut-off",
        GATEWAY,
        &[(REQUEST, "request: {attributes: [xds.route_name], body: BufferedPartial}")],
        "BufferedPartial",
    ),
    bad(
        "streamed-without-trailers",
        GATEWAY,
        &[(REQUEST, "request: {attributes: [xds.route_name], body: Streamed}")],
        "body: Streamed",
    ),
    bad(
        "body-limit-absent",
        GATEWAY,
        &[(REQUEST, "request: {attributes: [xds.route_name], body: Buffered}")],
        "body: Buffered",
    ),
    fine(
        GATEWAY,
        &[
            (REQUEST, "request: {attributes: [xds.route_name], body: Buffered}"),
            ("  path: {}\n", "  path: {}\n  connection: {bufferLimit: 1Mi}\n"),
        ],
    ),
    bad(
        "mode-override-missing",
        GATEWAY,
        &[("allowModeOverride: true", "allowModeOverride: false")],
        "allowModeOverride",
    ),
    bad(
        "mode-override-ignored",
        GATEWAY,
        &[(REQUEST, "request: {attributes: [xds.route_name], body: FullDuplexStreamed}")],
        "allowModeOverride",
    ),
    bad(
        "mode-override-refused",
        GATEWAY,
        &[
            ("allowModeOverride: true", "allowModeOverride: false"),
            (ROUTE, beside!("mode: cluster\nbackends: {}\next_proc: {mode_override: true}\n")),
        ],
        "allowModeOverride",
    ),
    // What a policy is bound to.
    bad(
        "target-absent",
        GATEWAY,
        &[("  targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: edge}]\n", "")],
        "  extAuth:",
    ),
    bad(
        "target-absent",
        GATEWAY,
        &[(
            ROUTE,
            beside!(
                "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: carts, namespace: shop}\n"
            ),
        )],
        "name: orders",
    ),
    bad(
        "target-absent",
        GATEWAY,
        &[(
            ROUTE,
            beside!(
                "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: edge, namespace: other}\n"
            ),
        )],
        "name: edge",
    ),
    bad(
        "target-absent",
        GATEWAY,
        &[
            (
                "targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: orders}]",
                "targetSelectors: [{group: gateway.networking.k8s.io, kind: HTTPRoute, matchLabels: {inject: \"yes\"}}]",
            ),
            (
                ROUTE,
                beside!(
                    "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: orders, namespace: shop}\n"
                ),
            ),
        ],
        "targetSelectors",
    ),
    fine(
        GATEWAY,
        &[(
            ROUTE,
            beside!(
                "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: orders, namespace: shop}\n---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: edge, namespace: shop}\n"
            ),
        )],
    ),
    // The nearer policy takes the place of the other.
    bad(
        "authz-disabled",
        GATEWAY,
        &[(
            ROUTE,
            beside!(
                "apiVersion: gateway.envoyproxy.io/v1alpha1\nkind: SecurityPolicy\nmetadata: {name: cors, namespace: shop}\nspec:\n  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: public}]\n  cors: {allowOrigins: [\"*\"]}\n"
            ),
        )],
        "name: public",
    ),
    fine(
        GATEWAY,
        &[(
            ROUTE,
            beside!(
                "apiVersion: gateway.envoyproxy.io/v1alpha1\nkind: SecurityPolicy\nmetadata: {name: cors, namespace: shop}\nspec:\n  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: public}]\n  mergeType: StrategicMerge\n  cors: {allowOrigins: [\"*\"]}\n"
            ),
        )],
    ),
];
