//! Whether a filter is switched off: in itself, or by what routes say about it.

use std::collections::HashSet;

use super::{
    filter::{AUTHZ, Filter, PROC},
    routes::{Leads, Level},
};
use crate::lint::{Findings, rules, tree::Node};

/// What something says about a filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    On,
    /// In this line.
    Off(u64),
}

/// Checks what ext_authz says about itself. `runtime` is what is set over its defaults.
pub(in crate::lint) fn check_stated(config: &Node, runtime: &[&Node], found: &mut Findings<'_>) {
    let denies = config.true_at("deny_at_disable/default_value");
    if let Some(enabled) = config.get("filter_enabled")
        && let Some(part) = fraction(enabled, runtime)
        && part < 1.0
        && !denies
    {
        let line = config.line_of("filter_enabled");
        let detail = format!("but for {} % of requests", part * 100.0);
        found.add_with(&rules::AUTHZ_OFF, line, detail);
    }
}

/// What part of requests a `RuntimeFractionalPercent` is about.
pub(super) fn fraction(node: &Node, runtime: &[&Node]) -> Option<f64> {
    let key = node.text_at("runtime_key");
    // The last layer that has it wins.
    if let Some(set) = runtime.iter().rev().find_map(|layer| runtime_value(layer, key)) {
        return set.number().map(|percent| percent / 100.0).or_else(|| part(set));
    }
    part(node.get("default_value")?)
}

fn part(node: &Node) -> Option<f64> {
    let whole = match node.text_at("denominator") {
        "" | "HUNDRED" => 100.0,
        "TEN_THOUSAND" => 10_000.0,
        "MILLION" => 1_000_000.0,
        _ => return None,
    };
    let part = node.get("numerator").map_or(Some(0.0), Node::number)?;
    Some(part / whole)
}

/// Layers may have a key as it is, or each of its parts in the one before.
fn runtime_value<'a>(layer: &'a Node, key: &str) -> Option<&'a Node> {
    if key.is_empty() {
        return None;
    }
    let own = |node: &'a Node, key: &str| {
        node.entries().iter().find(|entry| entry.key == key).map(|entry| &entry.node)
    };
    own(layer, key).or_else(|| key.split('.').try_fold(layer, own))
}

/// Checks all that the routes of a configuration say about ext_authz and ext_proc.
pub(super) fn check_routes(filter: &Filter<'_>, leads: &[Leads<'_>], found: &mut Findings<'_>) {
    let said: Vec<_> = leads.iter().map(|lead| decisive(filter, lead)).collect();
    let default =
        if filter.is_disabled() { Said::Off(filter.entry.line_of("disabled")) } else { Said::On };
    let is_on = |said: &Option<(Level, Said)>| said.map_or(default, |(_, said)| said) == Said::On;
    let any_on = said.iter().any(is_on);
    if let Said::Off(line) = default
        && !any_on
        && filter.is_authz()
    {
        found.add_with(&rules::AUTHZ_OFF, line, "on all routes");
        return;
    }
    let on = leads.iter().zip(&said).filter(|(_, said)| is_on(said));
    let guarded: HashSet<_> = on.filter_map(|(lead, _)| lead.cluster_name()).collect();
    for (lead, said) in leads.iter().zip(&said) {
        let (level, line) = match (said, default) {
            (Some((level, Said::Off(line))), _) => (Some(*level), *line),
            (None, Said::Off(_)) => (None, lead.route.line()),
            _ => continue,
        };
        let by_caller = lead.route.chosen_by_caller();
        let wide = by_caller.is_some() || lead.route.matches_all_paths();
        let on_route = matches!(level, None | Some(Level::Route));
        let around = lead.cluster_name().is_some_and(|cluster| guarded.contains(cluster));
        // Single paths are left out knowingly, and so is what nobody switched the filter on for,
        // unless it is on elsewhere for the same cluster.
        if on_route && !wide || (filter.is_proc() || level.is_none()) && !around {
            continue;
        }
        if filter.is_proc() {
            let detail = format!("cluster {:?}", lead.cluster_name().unwrap_or_default());
            found.add_with(&rules::PROC_OFF, line, detail);
            continue;
        }
        match by_caller {
            Some(by) if on_route => {
                found.add_with(&rules::DISABLED_BY_CALLER, line, format!("by {by}"));
            }
            _ => {
                let place = level.map_or("on this route", Level::as_str);
                found.add_with(&rules::AUTHZ_OFF, line, place);
            }
        }
    }
}

/// What the nearest says that says anything.
fn decisive(filter: &Filter<'_>, lead: &Leads<'_>) -> Option<(Level, Said)> {
    lead.levels().find_map(|(level, node)| Some((level, said_of(node, filter)?)))
}

fn said_of(of: &Node, filter: &Filter<'_>) -> Option<Said> {
    let entries = of.get("typed_per_filter_config").map(Node::entries).unwrap_or_default();
    entries.iter().find_map(|entry| {
        let (type_name, config) = entry.node.typed()?;
        let own = match filter.is_authz() {
            true => is_of_authz(&entry.key, type_name),
            false => is_of_proc(&entry.key, type_name),
        };
        // A name that the chain gives wins over what the type seems to be for.
        let named = entry.key == filter.name;
        (named || (filter.name.is_empty() && own)).then(|| said(type_name, config))
    })
}

fn said(type_name: &str, config: &Node) -> Said {
    if config.true_at("disabled") {
        return Said::Off(config.line_of("disabled"));
    }
    match config.get("config").and_then(Node::typed) {
        Some((inner, config)) if type_name.ends_with("route.v3.FilterConfig") => {
            said(inner, config)
        }
        _ => Said::On,
    }
}

/// Whether something about a filter is about ext_authz, where the chain is not known.
fn is_of_authz(key: &str, type_name: &str) -> bool {
    type_name.ends_with("ext_authz.v3.ExtAuthzPerRoute")
        || key.contains("ext_authz")
        || key == AUTHZ
}

fn is_of_proc(key: &str, type_name: &str) -> bool {
    type_name.ends_with("ext_proc.v3.ExtProcPerRoute") || key.contains("ext_proc") || key == PROC
}

/// Whether something that an EnvoyFilter merges switches ext_authz, or ext_proc, off: the line.
pub(in crate::lint) fn in_patch(value: &Node) -> (Option<u64>, Option<u64>) {
    let entries = value.get("typed_per_filter_config").map(Node::entries).unwrap_or_default();
    let off = |is_own: fn(&str, &str) -> bool| {
        entries.iter().find_map(|entry| {
            let (type_name, config) = entry.node.typed()?;
            match said(type_name, config) {
                Said::Off(line) if is_own(&entry.key, type_name) => Some(line),
                _ => None,
            }
        })
    };
    (off(is_of_authz), off(is_of_proc))
}
