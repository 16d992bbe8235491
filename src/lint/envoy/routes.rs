//! Routes: whether every request has one, and what they change about filters.

use crate::lint::{Findings, rules, tree::Node};

use super::{AUTHZ, PROC, proc};

/// A route, and the virtual host that it is in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Route<'a> {
    host: &'a Node,
    route: &'a Node,
}

pub(super) fn all(config: &Node) -> impl Iterator<Item = Route<'_>> {
    let hosts = config.items_at("virtual_hosts").iter();
    hosts.flat_map(|host| host.items_at("routes").iter().map(move |route| Route { host, route }))
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
    let any_path = ["/", ""].contains(&matches.text_at("prefix"))
        && matches.get("prefix").is_some()
        || [".*", "/.*"].contains(&matches.text_at("safe_regex/regex"));
    let narrower = matches.entries().iter().any(|entry| {
        !["prefix", "saferegex", "casesensitive"]
            .contains(&&*entry.key.replace('_', "").to_ascii_lowercase())
    });
    any_path && !narrower
}

pub(super) fn check_overrides(route: Route<'_>, found: &mut Findings<'_>) {
    for (name, config) in route.overrides() {
        if name == AUTHZ && config.true_at("disabled") && route.is_chosen_by_headers() {
            found.add(&rules::DISABLED_BY_CALLER, config.line_of("disabled"));
        }
        if name == PROC
            && let Some(overrides) = config.get("overrides")
        {
            proc::check_stated(overrides, found);
        }
    }
}

// === impl Route ===

impl<'a> Route<'a> {
    /// The clusters that it may lead to.
    pub(super) fn clusters(self) -> impl Iterator<Item = &'a Node> {
        let weighted = self.route.items_at("route/weighted_clusters/clusters").iter();
        let weighted = weighted.filter_map(|cluster| cluster.get("name"));
        self.route.at("route/cluster").into_iter().chain(weighted)
    }

    /// What it says about filters, by their names.
    fn overrides(self) -> impl Iterator<Item = (&'a str, &'a Node)> {
        [self.host, self.route].into_iter().flat_map(|of| {
            let entries = of.get("typed_per_filter_config").map(Node::entries).unwrap_or_default();
            entries.iter().filter_map(|entry| Some((&*entry.key, entry.node.typed()?.1)))
        })
    }

    /// Whether ext_authz puts secrets in here: the route says where it leads in the words of
    /// the policies.
    pub(super) fn gets_secrets(self) -> bool {
        self.overrides().any(|(name, config)| {
            let extensions = config.at("check_settings/context_extensions");
            let extensions = extensions.map(Node::entries).unwrap_or_default();
            name == AUTHZ
                && extensions
                    .iter()
                    .any(|entry| ["vaultmux.cluster", "vaultmux.route"].contains(&&*entry.key))
        })
    }

    fn is_chosen_by_headers(self) -> bool {
        let matches = self.route.get("match");
        matches.is_some_and(|matches| {
            !matches.items_at("headers").is_empty()
                || !matches.items_at("query_parameters").is_empty()
        })
    }
}
