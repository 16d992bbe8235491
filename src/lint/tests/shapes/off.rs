//! ext_authz and ext_proc, switched off.

use super::{Shape, bad, fine};
use crate::lint::tests::samples::{ENVOY, ISTIO};

const CHAIN: &str = "          - name: envoy.filters.http.ext_authz\n";
const PROC: &str = "          - name: envoy.filters.http.ext_proc\n";
const OPEN: &str = "match: {prefix: /open/}\n";
const ALL: &str = "- match: {prefix: /}\n                route: {cluster: payment}\n";
const HOST: &str = "              domains: [api.stripe.test]\n";
const ROUTES: &str = "          route_config:\n";
const NAMED: &str = "name: envoy.filters.http.ext_authz\n            typed_config:\n              \"@type\": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz\n";
const PATCH: &str = "---\napiVersion: networking.istio.io/v1alpha3\nkind: EnvoyFilter\n";

macro_rules! off {
    ($filter:literal) => {
        concat!(
            "typed_per_filter_config: {envoy.filters.http.",
            $filter,
            ": {\"@type\": type.googleapis.com/envoy.config.route.v3.FilterConfig, disabled: true}}"
        )
    };
}
macro_rules! per_route {
    ($name:literal, $said:literal) => {
        concat!(
            "typed_per_filter_config: {",
            $name,
            ": {\"@type\": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute, ",
            $said,
            "}}"
        )
    };
}
macro_rules! patch {
    ($patch:literal) => {
        concat!(
            "---\napiVersion: networking.istio.io/v1alpha3\nkind: EnvoyFilter\nmetadata: {name: off, namespace: shop}\nspec:\n  configPatches:\n",
            $patch,
            "---\napiVersion: networking.istio.io/v1alpha3\nkind: EnvoyFilter\n"
        )
    };
}

pub(super) const SHAPES: &[Shape] = &[
    // the filter itself
    bad(
        "authz-disabled",
        ENVOY,
        &[(CHAIN, "          - name: envoy.filters.http.ext_authz\n            disabled: true\n")],
        "disabled: true",
    ),
    bad(
        "authz-disabled",
        ENVOY,
        &[("clear_route_cache: false", "filter_enabled: {default_value: {numerator: 0}}")],
        "filter_enabled",
    ),
    bad(
        "authz-disabled",
        ENVOY,
        &[("clear_route_cache: false", "filter_enabled: {default_value: {denominator: MILLION}}")],
        "filter_enabled",
    ),
    bad(
        "authz-disabled",
        ENVOY,
        &[
            (
                "clear_route_cache: false",
                "filter_enabled: {runtime_key: ask.some, default_value: {numerator: 100}}",
            ),
            (
                "\nadmin:",
                "\nlayered_runtime: {layers: [{name: a, static_layer: {ask: {some: 99}}}]}\nadmin:",
            ),
        ],
        "filter_enabled",
    ),
    fine(
        ENVOY,
        &[(
            "clear_route_cache: false",
            "filter_enabled: {default_value: {numerator: 10000, denominator: TEN_THOUSAND}}",
        )],
    ),
    fine(
        ENVOY,
        &[
            (
                "clear_route_cache: false",
                "filter_enabled: {runtime_key: ask, default_value: {numerator: 0}}",
            ),
            (
                "\nadmin:",
                "\nlayered_runtime: {layers: [{name: a, static_layer: {ask: 100}}]}\nadmin:",
            ),
        ],
    ),
    fine(
        ENVOY,
        &[(
            "clear_route_cache: false",
            "filter_enabled: {default_value: {numerator: 0}}\n              deny_at_disable: {runtime_key: x, default_value: true}",
        )],
    ),
    // what routes say
    bad(
        "authz-disabled",
        ENVOY,
        &[(
            HOST,
            concat!(
                "              domains: [api.stripe.test]\n              ",
                off!("ext_authz"),
                "\n"
            ),
        )],
        "disabled: true",
    ),
    bad(
        "authz-disabled",
        ENVOY,
        &[(
            HOST,
            concat!(
                "              domains: [api.stripe.test]\n              ",
                per_route!("envoy.filters.http.ext_authz", "disabled: true"),
                "\n"
            ),
        )],
        "disabled: true",
    ),
    bad(
        "authz-disabled",
        ENVOY,
        &[(ROUTES, concat!("          route_config:\n            ", off!("ext_authz"), "\n"))],
        "disabled: true",
    ),
    bad(
        "authz-disabled",
        ENVOY,
        &[(
            ALL,
            concat!(
                "- match: {prefix: /}\n                route: {cluster: payment}\n                ",
                off!("ext_authz"),
                "\n"
            ),
        )],
        "disabled: true",
    ),
    bad(
        "authz-disabled",
        ENVOY,
        &[(
            ALL,
            concat!(
                "- match: {prefix: /}\n                route:\n                  weighted_clusters:\n                    clusters:\n                    - name: payment\n                      weight: 1\n                      ",
                off!("ext_authz"),
                "\n                    - {name: payment, weight: 1}\n"
            ),
        )],
        "disabled: true",
    ),
    // by another name than the usual one
    bad(
        "authz-disabled",
        ENVOY,
        &[
            (
                NAMED,
                "name: ask\n            typed_config:\n              \"@type\": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz\n",
            ),
            (
                HOST,
                concat!(
                    "              domains: [api.stripe.test]\n              ",
                    per_route!("ask", "disabled: true"),
                    "\n"
                ),
            ),
        ],
        "disabled: true",
    ),
    bad(
        "authz-disabled-by-caller",
        ENVOY,
        &[
            (
                NAMED,
                "name: ask\n            typed_config:\n              \"@type\": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz\n",
            ),
            (
                OPEN,
                concat!(
                    "match: {prefix: /open/, headers: [{name: x-debug}]}\n                ",
                    per_route!("ask", "disabled: true"),
                    "\n"
                ),
            ),
        ],
        "disabled: true",
    ),
    // chosen by the caller
    bad(
        "authz-disabled-by-caller",
        ENVOY,
        &[(
            OPEN,
            concat!(
                "match: {prefix: /, cookies: [{name: debug, string_match: {exact: \"1\"}}]}\n                ",
                off!("ext_authz"),
                "\n"
            ),
        )],
        "disabled: true",
    ),
    bad(
        "authz-disabled-by-caller",
        ENVOY,
        &[(
            OPEN,
            concat!(
                "match: {prefix: /, query_parameters: [{name: debug, present_match: true}]}\n                ",
                off!("ext_authz"),
                "\n"
            ),
        )],
        "disabled: true",
    ),
    bad(
        "authz-disabled-by-caller",
        ENVOY,
        &[(
            OPEN,
            concat!("match: {prefix: /, grpc: {}}\n                ", off!("ext_authz"), "\n"),
        )],
        "disabled: true",
    ),
    bad(
        "authz-disabled-by-caller",
        ENVOY,
        &[(
            OPEN,
            concat!(
                "match: {prefix: /, runtime_fraction: {default_value: {numerator: 50}}}\n                ",
                off!("ext_authz"),
                "\n"
            ),
        )],
        "disabled: true",
    ),
    bad(
        "authz-disabled-by-caller",
        ENVOY,
        &[(
            HOST,
            concat!(
                "              domains: [api.stripe.test]\n              matcher:\n                on_no_match:\n                  action:\n                    typed_config:\n                      \"@type\": type.googleapis.com/envoy.config.route.v3.Route\n                      match: {prefix: /}\n                      route: {cluster: payment}\n                      ",
                off!("ext_authz"),
                "\n"
            ),
        )],
        "disabled: true",
    ),
    // single paths, browsers' preflight, what answers by itself, and what is switched on again
    fine(
        ENVOY,
        &[(OPEN, concat!("match: {path: /healthz}\n                ", off!("ext_authz"), "\n"))],
    ),
    fine(
        ENVOY,
        &[(OPEN, concat!("match: {prefix: /open/}\n                ", off!("ext_authz"), "\n"))],
    ),
    fine(
        ENVOY,
        &[(
            OPEN,
            concat!(
                "match: {prefix: /, headers: [{name: \":method\", string_match: {exact: OPTIONS}}]}\n                ",
                off!("ext_authz"),
                "\n"
            ),
        )],
    ),
    fine(
        ENVOY,
        &[(
            "              domains: [\"*\"]\n",
            concat!("              domains: [\"*\"]\n              ", off!("ext_authz"), "\n"),
        )],
    ),
    fine(
        ENVOY,
        &[
            (
                HOST,
                concat!(
                    "              domains: [api.stripe.test]\n              ",
                    off!("ext_authz"),
                    "\n"
                ),
            ),
            (OPEN, concat!("match: {path: /healthz}\n                ", off!("ext_authz"), "\n")),
            (
                ALL,
                concat!(
                    "- match: {prefix: /}\n                route: {cluster: payment}\n                ",
                    per_route!("envoy.filters.http.ext_authz", "check_settings: {}"),
                    "\n"
                ),
            ),
        ],
    ),
    fine(
        ENVOY,
        &[
            (CHAIN, "          - name: envoy.filters.http.ext_authz\n            disabled: true\n"),
            (
                HOST,
                concat!(
                    "              domains: [api.stripe.test]\n              ",
                    per_route!("envoy.filters.http.ext_authz", "check_settings: {}"),
                    "\n"
                ),
            ),
        ],
    ),
    // on for a cluster that other routes reach without it
    bad(
        "authz-disabled",
        ENVOY,
        &[
            (CHAIN, "          - name: envoy.filters.http.ext_authz\n            disabled: true\n"),
            (
                OPEN,
                concat!(
                    "match: {prefix: /open/}\n                ",
                    per_route!("envoy.filters.http.ext_authz", "check_settings: {}"),
                    "\n"
                ),
            ),
        ],
        "- match: {prefix: /}",
    ),
    // ext_proc: what its rules guard is reached without it
    bad(
        "proc-disabled",
        ENVOY,
        &[(
            OPEN,
            concat!(
                "match: {prefix: /, headers: [{name: x-debug}]}\n                ",
                off!("ext_proc"),
                "\n"
            ),
        )],
        "disabled: true",
    ),
    bad(
        "proc-disabled",
        ENVOY,
        &[
            (PROC, "          - name: envoy.filters.http.ext_proc\n            disabled: true\n"),
            (
                OPEN,
                "match: {prefix: /open/}\n                typed_per_filter_config: {envoy.filters.http.ext_proc: {\"@type\": type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExtProcPerRoute, overrides: {}}}\n",
            ),
        ],
        "- match: {prefix: /}",
    ),
    fine(
        ENVOY,
        &[(OPEN, concat!("match: {path: /healthz}\n                ", off!("ext_proc"), "\n"))],
    ),
    fine(
        ENVOY,
        &[(
            HOST,
            concat!(
                "              domains: [api.stripe.test]\n              ",
                off!("ext_proc"),
                "\n"
            ),
        )],
    ),
    // EnvoyFilters
    bad(
        "authz-disabled",
        ISTIO,
        &[(
            PATCH,
            patch!(
                "  - applyTo: HTTP_FILTER\n    match: {context: SIDECAR_INBOUND, listener: {filterChain: {filter: {subFilter: {name: envoy.filters.http.ext_authz}}}}}\n    patch: {operation: REMOVE}\n"
            ),
        )],
        "operation: REMOVE",
    ),
    bad(
        "authz-disabled",
        ISTIO,
        &[(
            PATCH,
            patch!(
                "  - applyTo: HTTP_FILTER\n    match: {context: SIDECAR_INBOUND}\n    patch: {operation: REMOVE}\n"
            ),
        )],
        "operation: REMOVE",
    ),
    bad(
        "proc-disabled",
        ISTIO,
        &[(
            PATCH,
            patch!(
                "  - applyTo: HTTP_FILTER\n    match: {context: SIDECAR_INBOUND, listener: {filterChain: {filter: {subFilter: {name: envoy.filters.http.ext_proc}}}}}\n    patch: {operation: REMOVE}\n"
            ),
        )],
        "operation: REMOVE",
    ),
    bad(
        "authz-disabled",
        ISTIO,
        &[(
            PATCH,
            patch!(
                "  - applyTo: HTTP_FILTER\n    match: {context: SIDECAR_INBOUND, listener: {filterChain: {filter: {subFilter: {name: envoy.filters.http.ext_authz}}}}}\n    patch:\n      operation: MERGE\n      value: {disabled: true}\n"
            ),
        )],
        "disabled: true",
    ),
    bad(
        "authz-disabled",
        ISTIO,
        &[(
            PATCH,
            patch!(
                "  - applyTo: HTTP_FILTER\n    match: {context: SIDECAR_INBOUND, listener: {filterChain: {filter: {subFilter: {name: envoy.filters.http.ext_authz}}}}}\n    patch:\n      operation: MERGE\n      value: {name: x, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz, filter_enabled: {default_value: {numerator: 0}}}}\n"
            ),
        )],
        "filter_enabled",
    ),
    bad(
        "authz-disabled",
        ISTIO,
        &[(
            PATCH,
            patch!(
                "  - applyTo: VIRTUAL_HOST\n    match: {context: SIDECAR_INBOUND}\n    patch:\n      operation: MERGE\n      value: {typed_per_filter_config: {envoy.filters.http.ext_authz: {\"@type\": type.googleapis.com/envoy.config.route.v3.FilterConfig, disabled: true}}}\n"
            ),
        )],
        "disabled: true",
    ),
    bad(
        "authz-disabled-by-caller",
        ISTIO,
        &[(
            PATCH,
            patch!(
                "  - applyTo: HTTP_ROUTE\n    match: {context: GATEWAY}\n    patch:\n      operation: INSERT_FIRST\n      value: {match: {prefix: /, headers: [{name: x-debug}]}, typed_per_filter_config: {any: {\"@type\": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute, disabled: true}}}\n"
            ),
        )],
        "disabled: true",
    ),
    bad(
        "proc-disabled",
        ISTIO,
        &[(
            PATCH,
            patch!(
                "  - applyTo: VIRTUAL_HOST\n    match: {context: SIDECAR_INBOUND}\n    patch:\n      operation: MERGE\n      value: {typed_per_filter_config: {envoy.filters.http.ext_proc: {\"@type\": type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExtProcPerRoute, disabled: true}}}\n"
            ),
        )],
        "disabled: true",
    ),
    // The filter for connections is another one.
    fine(
        ISTIO,
        &[(
            PATCH,
            patch!(
                "  - applyTo: NETWORK_FILTER\n    match: {context: SIDECAR_INBOUND}\n    patch:\n      operation: INSERT_FIRST\n      value: {name: tcp, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.network.ext_authz.v3.ExtAuthz, grpc_service: {timeout: 1s}}}\n"
            ),
        )],
    ),
    fine(
        ISTIO,
        &[(
            PATCH,
            patch!(
                "  - applyTo: HTTP_FILTER\n    match: {context: SIDECAR_INBOUND, listener: {filterChain: {filter: {subFilter: {name: envoy.filters.http.fault}}}}}\n    patch: {operation: REMOVE}\n"
            ),
        )],
    ),
];
