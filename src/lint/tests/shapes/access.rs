//! Who policies of the mesh let in, what they are bound to, and whom our own configuration trusts.

use super::{Shape, bad, fine};
use crate::lint::tests::samples::{AMBIENT, ENVOY, ISTIO, SERVICE};

const PROTECT: &str = "rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/cart]}}]}]";
const PEER: &str = "spiffe://cluster.local/ns/gateway/sa/envoy";
const WAYPOINT: &str = "principals: [cluster.local/ns/shop/sa/waypoint]";
const TARGETS: &str = "targetRefs: [{kind: Service, group: \"\", name: cart}]";
const SHOP: &str = "metadata: {name: ask, namespace: shop}";
const HOST: &str = "    service: vaultmux-mesh";
const OTHER: &str =
    "- apiVersion: security.istio.io/v1\n  kind: AuthorizationPolicy\n  metadata: {name: only";
const PROTECTS: &str = "kind: AuthorizationPolicy\nmetadata: {name: protect";

pub(super) const SHAPES: &[Shape] = &[
    // Policies that keep nobody from the service.
    bad(
        "service-unprotected",
        ISTIO,
        &[(PROTECT, "rules: [{from: [{source: {principals: [\"*\"]}}]}]")],
        HOST,
    ),
    bad(
        "service-unprotected",
        ISTIO,
        &[(PROTECT, "rules: [{from: [{source: {principals: [\"cluster.local/*\"]}}]}]")],
        HOST,
    ),
    bad(
        "service-unprotected",
        ISTIO,
        &[(PROTECT, "rules: [{from: [{source: {principals: [\"*/sa/default\"]}}]}]")],
        HOST,
    ),
    bad(
        "service-unprotected",
        ISTIO,
        &[(PROTECT, "rules: [{from: [{source: {namespaces: [\"*\"]}}]}]")],
        HOST,
    ),
    bad(
        "service-unprotected",
        ISTIO,
        &[(PROTECT, "rules: [{from: [{source: {ipBlocks: [0.0.0.0/0]}}]}]")],
        HOST,
    ),
    bad(
        "service-unprotected",
        ISTIO,
        &[(PROTECT, "rules: [{from: [{source: {principals: [a/ns/b/sa/c]}}]}, {}]")],
        HOST,
    ),
    bad(
        "service-unprotected",
        ISTIO,
        &[(PROTECT, "action: AUDIT\n  rules: [{from: [{source: {principals: [a/ns/b/sa/c]}}]}]")],
        HOST,
    ),
    bad(
        "service-unprotected",
        ISTIO,
        &[(
            PROTECT,
            "rules: [{from: [{source: {principals: [a/ns/b/sa/c]}}]}, {to: [{operation: {ports: [\"9191\"]}}]}]",
        )],
        HOST,
    ),
    bad(
        "service-unprotected",
        ISTIO,
        &[(
            PROTECTS,
            "kind: AuthorizationPolicy\nmetadata: {name: wide, namespace: vaultmux-system}\nspec: {rules: [{}]}\n---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: protect",
        )],
        HOST,
    ),
    fine(
        ISTIO,
        &[(
            PROTECT,
            "rules: [{from: [{source: {principals: [\"*/ns/shop/sa/cart\", \"cluster.local/ns/edge/*\"]}}]}]",
        )],
    ),
    fine(ISTIO, &[(PROTECT, "rules: [{from: [{source: {namespaces: [shop]}}]}]")]),
    fine(
        ISTIO,
        &[(
            PROTECT,
            "rules: [{when: [{key: source.principal, values: [cluster.local/ns/shop/sa/cart]}]}]",
        )],
    ),
    fine(
        ISTIO,
        &[(
            PROTECT,
            "action: DENY\n  rules: [{from: [{source: {notPrincipals: [cluster.local/ns/shop/sa/cart]}}]}]",
        )],
    ),
    fine(
        ISTIO,
        &[(
            PROTECT,
            "rules: [{from: [{source: {principals: [a/ns/b/sa/c]}}]}, {to: [{operation: {ports: [\"9090\"]}}]}]",
        )],
    ),
    // Ways around a waypoint.
    bad("waypoint-bypassed", AMBIENT, &[(WAYPOINT, "principals: [\"*\"]")], "targetRefs"),
    bad(
        "waypoint-bypassed",
        AMBIENT,
        &[(WAYPOINT, "principals: [cluster.local/ns/shop/sa/cart]")],
        "targetRefs",
    ),
    bad("waypoint-bypassed", AMBIENT, &[(WAYPOINT, "namespaces: [shop]")], "targetRefs"),
    bad(
        "waypoint-bypassed",
        AMBIENT,
        &[(
            "{name: only-from-waypoint, namespace: shop}",
            "{name: only-from-waypoint, namespace: elsewhere}",
        )],
        "targetRefs",
    ),
    bad(
        "waypoint-bypassed",
        AMBIENT,
        &[
            (
                TARGETS,
                "targetRefs: [{kind: Gateway, group: gateway.networking.k8s.io, name: waypoint}]",
            ),
            (WAYPOINT, "principals: [\"*\"]"),
        ],
        "targetRefs",
    ),
    bad(
        "waypoint-bypassed",
        AMBIENT,
        &[
            (TARGETS, "targetRef: {kind: Service, group: \"\", name: cart}"),
            (WAYPOINT, "principals: [\"*\"]"),
        ],
        "targetRef",
    ),
    bad(
        "waypoint-bypassed",
        AMBIENT,
        &[(
            OTHER,
            "- apiVersion: v1\n  kind: Service\n  metadata: {name: cart, namespace: shop}\n  spec: {selector: {app: other}, ports: []}\n- apiVersion: security.istio.io/v1\n  kind: AuthorizationPolicy\n  metadata: {name: only",
        )],
        "targetRefs",
    ),
    fine(
        AMBIENT,
        &[(
            OTHER,
            "- apiVersion: v1\n  kind: Service\n  metadata: {name: cart, namespace: shop}\n  spec: {selector: {app: cart}, ports: []}\n- apiVersion: security.istio.io/v1\n  kind: AuthorizationPolicy\n  metadata: {name: only",
        )],
    ),
    fine(AMBIENT, &[(WAYPOINT, "serviceAccounts: [shop/waypoint]")]),
    fine(
        AMBIENT,
        &[(
            "    rules: [{from: [{source: {principals:",
            "    action: DENY\n    rules: [{from: [{source: {notPrincipals:",
        )],
    ),
    // A companion lets nobody in but the waypoint, which does not look at this policy either.
    bad(
        "custom-in-ambient",
        AMBIENT,
        &[(
            "    targetRefs: [{kind: Service, group: \"\", name: cart}]\n",
            "    selector: {matchLabels: {app: cart}}\n",
        )],
        "action: CUSTOM",
    ),
    bad(
        "custom-in-ambient",
        AMBIENT,
        &[
            (
                "    targetRefs: [{kind: Service, group: \"\", name: cart}]\n",
                "    selector: {matchLabels: {app: cart}}\n",
            ),
            (SHOP, "metadata: {name: ask, namespace: istio-system}"),
        ],
        "action: CUSTOM",
    ),
    bad(
        "custom-unattached",
        AMBIENT,
        &[(
            TARGETS,
            "targetRef: {kind: GatewayClass, group: gateway.networking.k8s.io, name: istio-waypoint}",
        )],
        "targetRef:",
    ),
    bad(
        "waypoint-without-identity",
        AMBIENT,
        &[
            (TARGETS, "targetRef: {kind: Service, group: \"\", name: cart}"),
            ("xfcc-include-client-identity: \"true\"", "other: \"true\""),
        ],
        "gatewayClassName",
    ),
    // What is not there.
    bad(
        "target-absent",
        AMBIENT,
        &[(TARGETS, "targetRefs: [{kind: Gateway, group: gateway.networking.k8s.io, name: none}]")],
        "name: none",
    ),
    bad(
        "provider-missing",
        ISTIO,
        &[("provider: {name: vaultmux}", "provider: {name: none}")],
        "name: none",
    ),
    // Checks of checks.
    bad(
        "custom-on-service",
        ISTIO,
        &[(SHOP, "metadata: {name: ask, namespace: istio-system}")],
        "  action: CUSTOM",
    ),
    bad(
        "custom-on-service",
        ISTIO,
        &[(SHOP, "metadata: {name: ask, namespace: vaultmux-system}")],
        "  action: CUSTOM",
    ),
    fine(
        ISTIO,
        &[
            (SHOP, "metadata: {name: ask, namespace: istio-system}"),
            ("{notPaths: [/healthz]}", "{notPaths: [/healthz], notPorts: [\"9191\"]}"),
        ],
    ),
    fine(
        ISTIO,
        &[
            (SHOP, "metadata: {name: ask, namespace: istio-system}"),
            ("  action: CUSTOM\n", "  selector: {matchLabels: {app: cart}}\n  action: CUSTOM\n"),
        ],
    ),
    // Our own configuration.
    bad("trusted-too-wide", SERVICE, &[(PEER, "0.0.0.0/0")], "0.0.0.0/0"),
    bad("trusted-too-wide", SERVICE, &[(PEER, "::/0")], "::/0"),
    bad("trusted-too-wide", SERVICE, &[(PEER, "128.0.0.0/1")], "128.0.0.0/1"),
    bad("trusted-too-wide", SERVICE, &[(PEER, "::ffff:0:0/96")], "::ffff:0:0/96"),
    bad("trusted-too-wide", SERVICE, &[(PEER, "10.0.0.0/7")], "10.0.0.0/7"),
    bad(
        "trusted-too-wide",
        SERVICE,
        &[(
            "backends:",
            "identity: {forwarded_client_cert: {trusted_proxies: [\"0.0.0.0/0\"]}}\nbackends:",
        )],
        "trusted_proxies",
    ),
    fine(SERVICE, &[(PEER, "10.0.0.0/8")]),
    fine(SERVICE, &[(PEER, "fd00::/8")]),
    fine(SERVICE, &[(PEER, "127.0.0.1/32")]),
    // Phases that our own configuration counts on.
    bad(
        "mode-override-refused",
        ENVOY,
        &[
            ("allow_mode_override: true", "allow_mode_override: false"),
            (
                "\nadmin:",
                "\nmode: cluster\nbackends: {}\next_proc: {mode_override: true}\n---\nadmin:",
            ),
        ],
        "allow_mode_override",
    ),
    fine(
        ENVOY,
        &[(
            "\nadmin:",
            "\nmode: cluster\nbackends: {}\next_proc: {mode_override: true}\n---\nadmin:",
        )],
    ),
    // Headers that prove something.
    bad(
        "identity-withheld",
        ENVOY,
        &[("clear_route_cache: false", "allowed_headers: {patterns: [{exact: x-tier}]}")],
        "allowed_headers",
    ),
    bad(
        "identity-withheld",
        ENVOY,
        &[("clear_route_cache: false", "disallowed_headers: {patterns: [{prefix: auth}]}")],
        "disallowed_headers",
    ),
    fine(
        ENVOY,
        &[("clear_route_cache: false", "allowed_headers: {patterns: [{exact: Authorization}]}")],
    ),
];
