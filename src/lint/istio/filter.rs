//! EnvoyFilters: the filters that they insert, where, and what these need.

use crate::lint::{
    Findings,
    document::Document,
    envoy::{AUTHZ, Filter, PROC, authz, connection, proc},
    mesh::{Mesh, label},
    rules,
    tree::Node,
};

pub(super) fn check(document: &Document, mesh: &Mesh<'_>, found: &mut Findings<'_>) {
    let targets = document.root.items_at("spec/targetRefs");
    for patch in document.root.items_at("spec/configPatches") {
        let Some(value) = patch.at("patch/value") else { continue };
        let context = patch.text_at("match/context");
        let inserts = patch.text_at("patch/operation") != "MERGE";
        check_filter(patch, value, inserts, found);
        check_overrides(value, found);
        match value.get("typed_config").and_then(Node::typed) {
            Some((name, manager)) if name.ends_with("HttpConnectionManager") => {
                connection::check_stated(manager, found);
            }
            Some((name, config)) if name.ends_with("filters.network.ext_authz.v3.ExtAuthz") => {
                authz::check_stated(config, found);
            }
            _ => {}
        }
        let line = patch.at("match/context").map_or(patch.line, |node| node.line);
        let waypoint = targets.iter().any(|to| is_waypoint(mesh, to));
        if context == "WAYPOINT" || (waypoint && !["SIDECAR_INBOUND", ""].contains(&context)) {
            found.add_with(&rules::ENVOYFILTER_CONTEXT, line, context);
        }
        let referenced = "metadata/annotations/envoyfilter.istio.io/referenced-services";
        let uses = |text: &str| text.starts_with("outbound|");
        if (context == "GATEWAY" || !targets.is_empty())
            && label(document, referenced).is_empty()
            && let Some((line, cluster)) = value.find_text(&uses)
        {
            found.add_with(&rules::ENVOYFILTER_UNREFERENCED, line, cluster);
        }
    }
}

fn check_filter(patch: &Node, value: &Node, inserts: bool, found: &mut Findings<'_>) {
    let Some(filter) = Filter::new(value) else { return };
    let context = patch.text_at("match/context");
    let outbound = context == "SIDECAR_OUTBOUND";
    match (filter.is_authz(), filter.is_proc(), inserts) {
        (true, _, true) => authz::check(filter.config, true, found),
        (true, _, false) => authz::check_stated(filter.config, found),
        (_, true, false) => proc::check_stated(filter.config, found),
        (_, true, true) => {
            proc::check(filter.config, None, found);
            let beside = "match/listener/filterChain/filter/subFilter/name";
            let operation = patch.text_at("patch/operation");
            let line = patch.at("patch/operation").map_or(filter.line, |node| node.line);
            match (operation, patch.text_at(beside)) {
                ("INSERT_AFTER", "envoy.filters.http.router") | ("ADD", _) => {
                    found.add_with(&rules::FILTER_AFTER_ROUTER, line, operation);
                }
                ("INSERT_FIRST", _) | ("INSERT_BEFORE", AUTHZ | "") if !outbound => {
                    found.add_with(&rules::PROC_BEFORE_AUTHZ, line, operation);
                }
                _ => {}
            }
            if outbound && !filter.disabled {
                found.add(&rules::PROC_ON_ALL_EGRESS, filter.line);
            }
        }
        (false, false, _) => {}
    }
}

/// What a virtual host or route says about a filter.
fn check_overrides(value: &Node, found: &mut Findings<'_>) {
    let entries = value.get("typed_per_filter_config").map(Node::entries).unwrap_or_default();
    for entry in entries.iter().filter(|entry| entry.key == PROC) {
        if let Some(overrides) = entry.node.typed().and_then(|(_, config)| config.get("overrides"))
        {
            proc::check_stated(overrides, found);
        }
    }
}

fn is_waypoint(mesh: &Mesh<'_>, target: &Node) -> bool {
    target.text_at("kind") == "Gateway"
        && mesh.objects("Gateway").any(|(document, object)| {
            object.name == target.text_at("name")
                && document.root.text_at("spec/gatewayClassName") == "istio-waypoint"
        })
}
