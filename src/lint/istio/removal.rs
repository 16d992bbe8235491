//! EnvoyFilters that take our filters out of chains, or switch them off.

use crate::lint::{
    Findings, Rule,
    document::Document,
    envoy::{off, routes},
    rules,
    tree::Node,
};

pub(super) fn check(patch: &Node, document: &Document, found: &mut Findings<'_>) {
    let value = patch.at("patch/value");
    match patch.text_at("patch/operation") {
        "REMOVE" => check_removed(patch, found),
        operation => {
            let Some(value) = value else { return };
            if operation == "REPLACE" {
                check_removed(patch, found);
            }
            check_filter(patch, value, document, found);
        }
    }
    if let Some(value) = value {
        let line = |line: u64| line.max(patch.line);
        let (authz, proc) = off::in_patch(value);
        let place = place(patch, value);
        if let Some(at) = authz {
            match value.get("match").and_then(routes::chosen_by_caller) {
                Some(by) => {
                    found.add_with(&rules::DISABLED_BY_CALLER, line(at), format!("by {by}"))
                }
                None => found.add_with(&rules::AUTHZ_OFF, line(at), place.clone()),
            }
        }
        if let Some(at) = proc {
            found.add_with(&rules::PROC_OFF, line(at), place);
        }
    }
}

/// What is taken out: the filter that is named, or all that are not told apart.
fn check_removed(patch: &Node, found: &mut Findings<'_>) {
    let filter = "match/listener/filterChain/filter";
    let inner = patch.text_at(&format!("{filter}/subFilter/name"));
    let outer = patch.text_at(&format!("{filter}/name"));
    let name = match patch.text_at("applyTo") {
        "HTTP_FILTER" => inner,
        "NETWORK_FILTER" => outer,
        // There a filter of this name is by itself.
        "EXTENSION_CONFIG" => patch.text_at("patch/value/name"),
        _ => return,
    };
    let line = patch.at("patch/operation").map_or(patch.line, |node| node.line);
    let operation = patch.text_at("patch/operation");
    let replaced_by_own = operation == "REPLACE"
        && patch.at("patch/value").is_some_and(|value| rule_of(value, "").is_some());
    if replaced_by_own || patch.text_at("match/context") == "SIDECAR_OUTBOUND" && name.is_empty() {
        return;
    }
    let detail = match name {
        "" => format!("{operation} of whatever filter there is"),
        name => format!("{operation} of {name}"),
    };
    match (name.is_empty() || name.contains("ext_authz"), name.contains("ext_proc")) {
        (true, _) => found.add_with(&rules::AUTHZ_OFF, line, detail),
        (_, true) => found.add_with(&rules::PROC_OFF, line, detail),
        // The connection manager and all in it.
        _ if name.ends_with("http_connection_manager") => {
            found.add_with(&rules::AUTHZ_OFF, line, detail);
        }
        _ => {}
    }
}

/// A filter that is put in, or changed, to run nowhere unless a route says so.
fn check_filter(patch: &Node, value: &Node, document: &Document, found: &mut Findings<'_>) {
    if !value.true_at("disabled") || patch.text_at("applyTo") != "HTTP_FILTER" {
        return;
    }
    let beside = patch.text_at("match/listener/filterChain/filter/subFilter/name");
    let merges = patch.text_at("patch/operation") == "MERGE";
    let named = if merges { beside } else { "" };
    let Some(rule) = rule_of(value, named) else { return };
    // Our own filter that other patches switch on where it is wanted.
    let name = if merges { beside } else { value.text_at("name") };
    let mut others = document.root.items_at("spec/configPatches").iter();
    let switched_on = others.any(|other| {
        let configs = other.at("patch/value").and_then(|it| it.get("typed_per_filter_config"));
        let configs = configs.map(Node::entries).unwrap_or_default();
        configs.iter().any(|entry| entry.key == name && !entry.node.true_at("disabled"))
    });
    if !switched_on {
        found.add_with(rule, value.line_of("disabled"), "by an EnvoyFilter");
    }
}

/// The rule about a filter's absence, if it is one of ours.
fn rule_of(value: &Node, name: &str) -> Option<&'static Rule> {
    let type_name = value.get("typed_config").and_then(Node::typed).map_or("", |(name, _)| name);
    let is = |what: &str| {
        [value.text_at("name"), type_name, name].iter().any(|text| text.contains(what))
    };
    match (is("ext_authz"), is("ext_proc")) {
        (true, _) => Some(&rules::AUTHZ_OFF),
        (_, true) => Some(&rules::PROC_OFF),
        _ => None,
    }
}

fn place(patch: &Node, value: &Node) -> String {
    let host = patch.text_at("match/routeConfiguration/vhost/name");
    let route = patch.text_at("match/routeConfiguration/vhost/route/name");
    match (patch.text_at("applyTo"), host, route) {
        ("HTTP_ROUTE", _, "") => match value.text_at("name") {
            "" => "on routes".to_owned(),
            name => format!("on route {name:?}"),
        },
        ("HTTP_ROUTE", _, route) => format!("on route {route:?}"),
        (_, "", _) => "in all virtual hosts".to_owned(),
        (_, host, _) => format!("in virtual host {host:?}"),
    }
}
