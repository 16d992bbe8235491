//! EnvoyFilters: the filters that they insert, where, and what these need.

use super::removal;
use crate::lint::{
    Findings,
    document::Document,
    envoy::{
        Around, authz, connection,
        filter::{AUTHZ, Filter},
        matcher, proc,
        read::Named,
        reroute, routes,
    },
    mesh::{Mesh, label, targets},
    rules,
    tree::Node,
};

pub(super) fn check(document: &Document, mesh: &Mesh<'_>, found: &mut Findings<'_>) {
    let targets = targets(document);
    for patch in document.root.items_at("spec/configPatches") {
        removal::check(patch, document, found);
        let Some(value) = patch.at("patch/value") else { continue };
        let context = patch.text_at("match/context");
        let inserts = patch.text_at("patch/operation") != "MERGE";
        for filter in Filter::read(value, &Named::default()) {
            check_filter(patch, &filter, inserts, mesh, found);
        }
        routes::check_proc_overrides(value, found);
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

fn check_filter(
    patch: &Node,
    filter: &Filter<'_>,
    inserts: bool,
    mesh: &Mesh<'_>,
    found: &mut Findings<'_>,
) {
    let context = patch.text_at("match/context");
    let outbound = context == "SIDECAR_OUTBOUND";
    let operation = patch.text_at("patch/operation");
    let beside = patch.text_at("match/listener/filterChain/filter/subFilter/name");
    match (filter.is_authz(), filter.is_proc(), inserts) {
        (true, _, true) => authz::check(filter.config, true, &[], found),
        (true, _, false) => authz::check_stated(filter.config, found),
        (_, true, false) => proc::check_stated(filter.config, found),
        (_, true, true) => {
            let around = Around { overrides_heeded: mesh.overrides_heeded() };
            proc::check(filter.config, None, around, found);
            let line = patch.at("patch/operation").map_or(filter.line(), |node| node.line);
            match (operation, beside) {
                ("INSERT_AFTER", "envoy.filters.http.router") | ("ADD", _) => {
                    found.add_with(&rules::FILTER_AFTER_ROUTER, line, operation);
                }
                ("INSERT_FIRST", _) | ("INSERT_BEFORE", AUTHZ | "") if !outbound => {
                    found.add_with(&rules::PROC_BEFORE_AUTHZ, line, operation);
                }
                _ => {}
            }
            if outbound && !filter.is_disabled() {
                found.add(&rules::PROC_ON_ALL_EGRESS, filter.line());
            }
        }
        (false, false, true) => {
            // CUSTOM comes first in a chain, so most places are behind it.
            let before = operation == "INSERT_FIRST"
                || (operation == "INSERT_BEFORE" && [AUTHZ, ""].contains(&beside));
            if !before && !outbound && mesh.custom().next().is_some() {
                reroute::check_one(filter.type_name, filter.config, found);
            }
        }
        (false, false, false) => {}
    }
    matcher::check(filter, found);
}

fn is_waypoint(mesh: &Mesh<'_>, target: &Node) -> bool {
    target.text_at("kind") == "Gateway"
        && mesh.objects("Gateway").any(|(document, object)| {
            object.name == target.text_at("name")
                && document.root.text_at("spec/gatewayClassName") == "istio-waypoint"
        })
}
