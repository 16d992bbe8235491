//! Filters behind ext_authz that have the route chosen anew.

use super::{Shape, bad, fine};
use crate::lint::tests::samples::{ENVOY, ISTIO};

const ROUTER: &str = "          - name: envoy.filters.http.router\n";
const PATCH: &str = "---\napiVersion: networking.istio.io/v1alpha3\nkind: EnvoyFilter\n";

macro_rules! behind {
    ($filter:literal) => {
        concat!(
            "          - name: behind\n            typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.http.",
            $filter,
            "}\n          - name: envoy.filters.http.router\n"
        )
    };
}
macro_rules! before {
    ($filter:literal) => {
        concat!("http.", $filter, "}\n          - name: envoy.filters.http.ext_authz\n")
    };
}
macro_rules! patch {
    ($operation:literal) => {
        concat!(
            "---\napiVersion: networking.istio.io/v1alpha3\nkind: EnvoyFilter\nmetadata: {name: lua, namespace: shop}\nspec:\n  configPatches:\n  - applyTo: HTTP_FILTER\n    match: {context: SIDECAR_INBOUND, listener: {filterChain: {filter: {subFilter: {name: envoy.filters.http.router}}}}}\n    patch:\n      operation: ",
            $operation,
            "\n      value: {name: lua, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua, inline_code: \"function envoy_on_request(h) h:clearRouteCache() end\"}}\n---\napiVersion: networking.istio.io/v1alpha3\nkind: EnvoyFilter\n"
        )
    };
}
const FIRST: &str = "http.lua.v3.Lua\"}\n          - name: envoy.filters.http.ext_authz\n";

pub(super) const SHAPES: &[Shape] = &[
    bad(
        "route-cache-cleared",
        ENVOY,
        &[(
            ROUTER,
            behind!(
                "jwt_authn.v3.JwtAuthentication, providers: {p: {issuer: x, clear_route_cache: true, claim_to_headers: [{header_name: x-tier, claim_name: tier}]}}"
            ),
        )],
        "clear_route_cache: true",
    ),
    fine(
        ENVOY,
        &[(ROUTER, behind!("jwt_authn.v3.JwtAuthentication, providers: {p: {issuer: x}}"))],
    ),
    fine(
        ENVOY,
        &[(
            FIRST,
            before!("jwt_authn.v3.JwtAuthentication\", providers: {p: {clear_route_cache: true}}"),
        )],
    ),
    bad(
        "route-cache-cleared",
        ENVOY,
        &[(
            ROUTER,
            behind!(
                "lua.v3.Lua, default_source_code: {inline_string: \"function envoy_on_request(h) h:clearRouteCache() end\"}"
            ),
        )],
        "clearRouteCache",
    ),
    // What Lua does to headers has the route chosen anew, unless it is told not to.
    bad(
        "route-cache-cleared",
        ENVOY,
        &[(
            ROUTER,
            behind!(
                "lua.v3.Lua, inline_code: \"function envoy_on_request(h) h:headers():replace('x-tier', '1') end\""
            ),
        )],
        "x-tier",
    ),
    fine(
        ENVOY,
        &[(
            ROUTER,
            behind!(
                "lua.v3.Lua, clear_route_cache: false, inline_code: \"function envoy_on_request(h) h:headers():replace('x-tier', '1') end\""
            ),
        )],
    ),
    fine(
        ENVOY,
        &[(
            ROUTER,
            behind!(
                "lua.v3.Lua, inline_code: \"function envoy_on_response(h) h:headers():add('x-tier', '1') end\""
            ),
        )],
    ),
    bad(
        "route-cache-cleared",
        ENVOY,
        &[(ROUTER, behind!("set_filter_state.v3.Config, clear_route_cache: true"))],
        "clear_route_cache: true",
    ),
    bad(
        "route-cache-cleared",
        ENVOY,
        &[(ROUTER, behind!("grpc_json_transcoder.v3.GrpcJsonTranscoder, auto_mapping: true"))],
        "auto_mapping",
    ),
    fine(
        ENVOY,
        &[(
            ROUTER,
            behind!(
                "grpc_json_transcoder.v3.GrpcJsonTranscoder, match_incoming_request_route: true"
            ),
        )],
    ),
    bad(
        "route-cache-cleared",
        ENVOY,
        &[(ROUTER, behind!("ip_tagging.v3.IPTagging, request_type: BOTH"))],
        "request_type",
    ),
    bad(
        "route-cache-cleared",
        ENVOY,
        &[
            (ROUTER, behind!("lua.v3.Lua, clear_route_cache: false")),
            (
                "match: {prefix: /open/}\n",
                "match: {prefix: /open/}\n                typed_per_filter_config: {behind: {\"@type\": type.googleapis.com/envoy.extensions.filters.http.lua.v3.LuaPerRoute, source_code: {inline_string: \"function envoy_on_request(h) h:clearRouteCache() end\"}}}\n",
            ),
        ],
        "LuaPerRoute",
    ),
    bad("route-cache-cleared", ISTIO, &[(PATCH, patch!("INSERT_BEFORE"))], "clearRouteCache"),
    fine(ISTIO, &[(PATCH, patch!("INSERT_FIRST"))]),
];
