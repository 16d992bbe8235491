//! Filters behind ext_authz that have the route chosen anew: what was decided about one goes to
//! another.

use super::filter::Filter;
use crate::lint::{Findings, rules, tree::Node};

/// Filters that do it whenever they do anything.
const ALWAYS: [&str; 2] = ["grpc_http1_reverse_bridge.v3.FilterConfig", "ip_tagging.v3.IPTagging"];
/// Filters that do it unless the setting says otherwise.
const UNLESS: [(&str, &str); 2] = [
    ("grpc_json_transcoder.v3.GrpcJsonTranscoder", "match_incoming_request_route"),
    ("mcp_json_rest_bridge.v3.McpJsonRestBridge", "disable_clear_route_cache"),
];
/// What Lua does to a request's headers, after which the route is chosen anew unless the filter
/// says `clear_route_cache: false`.
const CHANGES: [&str; 3] = [":add(", ":replace(", ":remove("];

/// Checks the filters of a chain in their order.
pub(super) fn check(filters: &[Filter<'_>], found: &mut Findings<'_>) {
    let behind = filters.iter().skip_while(|filter| !filter.is_authz());
    for filter in behind.filter(|filter| !filter.is_authz() && !filter.is_proc()) {
        check_one(filter.type_name, filter.config, &mut found.within(filter.source));
    }
}

/// Checks one that stands behind ext_authz, or what a route says about it.
pub(in crate::lint) fn check_one(type_name: &str, config: &Node, found: &mut Findings<'_>) {
    if let Some(line) = place(type_name, config) {
        let name = type_name.split('.').rev().nth(2).unwrap_or(type_name);
        found.add_with(&rules::ROUTE_CACHE_CLEARED, line, format!("by {name}, behind ext_authz"));
    }
}

fn place(type_name: &str, config: &Node) -> Option<u64> {
    let mut stated = Vec::new();
    let find = |node: &'_ Node| node.true_at("clear_route_cache");
    config.collect(&|node| find(node).then(|| node.line_of("clear_route_cache")), &mut stated);
    if let Some(line) = stated.first() {
        return Some(*line);
    }
    if ALWAYS.iter().any(|it| type_name.ends_with(it))
        || UNLESS.iter().any(|(it, kept)| type_name.ends_with(it) && !config.true_at(kept))
    {
        return Some(config.line);
    }
    if !type_name.contains("filters.http.lua.") {
        return None;
    }
    let keeps = config.get("clear_route_cache").is_some();
    let clears = |text: &str| text.contains("clearRouteCache") || (!keeps && changes_request(text));
    config.find_text(&clears).map(|(line, _)| line)
}

/// Only what runs on the way in can still change the route.
fn changes_request(script: &str) -> bool {
    let Some((_, inward)) = script.split_once("envoy_on_request") else { return false };
    let inward = inward.split("envoy_on_response").next().unwrap_or_default();
    CHANGES.iter().any(|change| inward.contains(change))
}
