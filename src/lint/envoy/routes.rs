//! Routes: whether every request has one, who chooses it, and what it says about filters.

use super::{
    filter::{AUTHZ, Filter},
    proc,
};
use crate::lint::{Findings, rules, tree::Node};

/// A route, and what it is in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Route<'a> {
    config: &'a Node,
    host: &'a Node,
    route: &'a Node,
    /// In a tree that may look at whatever it likes.
    in_tree: bool,
}

/// A route and one of the places that it leads to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Leads<'a> {
    pub(super) route: Route<'a>,
    /// None if something else than its name says which.
    cluster: Option<&'a Node>,
    weighted: Option<&'a Node>,
}

/// What may say something about a filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Level {
    Weighted,
    Route,
    Host,
    Config,
}

pub(super) fn all(config: &Node) -> Vec<Route<'_>> {
    let mut found = Vec::new();
    for host in config.items_at("virtual_hosts") {
        let route = |route, in_tree| Route { config, host, route, in_tree };
        found.extend(host.items_at("routes").iter().map(|it| route(it, false)));
        if let Some(tree) = host.get("matcher") {
            let chosen = tree.typed_below("route.v3.Route").into_iter();
            found.extend(chosen.map(|it| route(it, true)));
            let lists = tree.typed_below("route.v3.RouteList").into_iter();
            let listed = lists.flat_map(|list| list.items_at("routes"));
            found.extend(listed.map(|it| route(it, true)));
        }
    }
    found
}

pub(super) fn check_catch_all(config: &Node, found: &mut Findings<'_>) {
    let hosts = config.items_at("virtual_hosts");
    if !hosts.iter().any(|host| host.texts_at("domains").contains(&"*")) {
        found.add(&rules::NO_CATCH_ALL_DOMAIN, config.line_of("virtual_hosts"));
    }
    for host in hosts {
        if !host.items_at("routes").iter().any(matches_all) {
            let detail = format!("{:?}", host.text_at("name"));
            found.add_with(&rules::NO_CATCH_ALL_ROUTE, host.line, detail);
        }
    }
}

fn matches_all(route: &Node) -> bool {
    let Some(matches) = route.get("match") else { return false };
    let narrower = matches.entries().iter().any(|entry| {
        !["prefix", "saferegex", "casesensitive"]
            .contains(&&*entry.key.replace('_', "").to_ascii_lowercase())
    });
    matches_all_paths(matches) && !narrower
}

fn matches_all_paths(matches: &Node) -> bool {
    let regex = matches.text_at("safe_regex/regex");
    ["/", ""].contains(&matches.text_at("prefix")) && matches.get("prefix").is_some()
        || [".*", "/.*", ".+", "/.*$", "^/.*", "^/.*$"].contains(&regex)
}

/// By what, if callers choose it otherwise than by the path, which is what the upstream sees.
pub(in crate::lint) fn chosen_by_caller(matches: &Node) -> Option<String> {
    let mut headers = matches.items_at("headers").iter();
    // Browsers ask with this method whether they may ask; it has no credentials.
    let preflight = |header: &Node| {
        let methods = [header.text_at("string_match/exact"), header.text_at("exact_match")];
        header.text_at("name") == ":method" && methods.contains(&"OPTIONS")
    };
    if let Some(header) = headers.find(|header| !preflight(header)) {
        return Some(format!("header {:?}", header.text_at("name")));
    }
    for (list, what) in [("query_parameters", "query"), ("cookies", "cookie")] {
        if let Some(one) = matches.items_at(list).first() {
            return Some(format!("{what} {:?}", one.text_at("name")));
        }
    }
    if matches.get_even_empty("grpc") {
        return Some("content-type".to_owned());
    }
    matches.get("runtime_fraction").map(|_| "asking again".to_owned())
}

/// Checks what a route says about filters, wherever it says it.
pub(super) fn check_overrides(route: Route<'_>, found: &mut Findings<'_>) {
    for lead in route.leads() {
        for (_, level) in lead.levels() {
            check_proc_overrides(level, found);
        }
    }
}

/// Checks what something says about ext_proc, under whatever name.
pub(in crate::lint) fn check_proc_overrides(of: &Node, found: &mut Findings<'_>) {
    for config in
        overrides(of).flat_map(|(_, config)| config.typed_below("ext_proc.v3.ExtProcPerRoute"))
    {
        if let Some(overrides) = config.get("overrides") {
            proc::check_stated(overrides, found);
        }
    }
}

/// What it says about filters, by their names.
fn overrides(of: &Node) -> impl Iterator<Item = (&str, &Node)> {
    let entries = of.get("typed_per_filter_config").map(Node::entries).unwrap_or_default();
    entries.iter().map(|entry| (&*entry.key, &entry.node))
}

// === impl Level ===

impl Level {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Weighted => "for a share of a route's requests",
            Self::Route => "on a route for every path",
            Self::Host => "in a whole virtual host",
            Self::Config => "in all virtual hosts",
        }
    }
}

// === impl Route ===

impl<'a> Route<'a> {
    pub(super) fn line(self) -> u64 {
        self.route.line
    }

    /// Where it leads to; nowhere if it answers by itself.
    pub(super) fn leads(self) -> Vec<Leads<'a>> {
        let Some(action) = self.route.get("route") else { return Vec::new() };
        let weighted = action.items_at("weighted_clusters/clusters");
        if weighted.is_empty() {
            return vec![Leads { route: self, cluster: action.get("cluster"), weighted: None }];
        }
        let lead =
            |one: &'a Node| Leads { route: self, cluster: one.get("name"), weighted: Some(one) };
        weighted.iter().map(lead).collect()
    }

    /// Whether ext_authz puts secrets in here: the route says where it leads in the words of
    /// the policies.
    pub(super) fn gets_secrets(self) -> bool {
        [self.host, self.route].into_iter().flat_map(overrides).any(|(name, config)| {
            let extensions = config.at("check_settings/context_extensions");
            let extensions = extensions.map(Node::entries).unwrap_or_default();
            (name == AUTHZ || !config.typed_below("ExtAuthzPerRoute").is_empty())
                && extensions
                    .iter()
                    .any(|entry| ["vaultmux.cluster", "vaultmux.route"].contains(&&*entry.key))
        })
    }

    pub(super) fn matches_all_paths(self) -> bool {
        let matches = self.route.get("match");
        matches.is_some_and(|it| matches_all_paths(it) && it.items_at("headers").is_empty())
    }

    /// By what, if callers choose it otherwise than by the path, which is what the upstream sees.
    pub(super) fn chosen_by_caller(self) -> Option<String> {
        if self.in_tree {
            return Some("a tree of matchers".to_owned());
        }
        chosen_by_caller(self.route.get("match")?)
    }
}

// === impl Leads ===

impl<'a> Leads<'a> {
    pub(super) fn cluster(&self) -> Option<&'a Node> {
        self.cluster
    }

    pub(super) fn cluster_name(&self) -> Option<&'a str> {
        self.cluster.and_then(Node::text)
    }

    /// What may say something about filters, the nearest first.
    pub(super) fn levels(&self) -> impl Iterator<Item = (Level, &'a Node)> + use<'a> {
        let Route { config, host, route, .. } = self.route;
        let weighted = self.weighted.map(|it| (Level::Weighted, it));
        let others = [(Level::Route, route), (Level::Host, host), (Level::Config, config)];
        weighted.into_iter().chain(others)
    }

    /// What the nearest that says anything says about a filter, with its type's name.
    pub(super) fn said_about(&self, filter: &Filter<'_>) -> Option<(&'a str, &'a Node)> {
        self.levels().find_map(|(_, level)| {
            let (_, config) = overrides(level).find(|(name, _)| *name == filter.name)?;
            match config.typed()? {
                (name, config) if name.ends_with("route.v3.FilterConfig") => {
                    config.get("config")?.typed()
                }
                typed => Some(typed),
            }
        })
    }
}
