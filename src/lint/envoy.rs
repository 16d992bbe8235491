//! Envoy's own configuration: listeners, their filters and routes, clusters.

pub(super) mod authz;
pub(super) mod clusters;
pub(super) mod connection;
pub(super) mod proc;
mod routes;

use std::collections::BTreeMap;

use super::{Findings, rules, tree::Node};

/// Envoy's name of the filter in chains and per route.
pub(super) const AUTHZ: &str = "envoy.filters.http.ext_authz";
pub(super) const PROC: &str = "envoy.filters.http.ext_proc";

/// All that one Envoy is configured with, as far as it is given.
#[derive(Debug, Default)]
pub(super) struct Proxy<'a> {
    listeners: Vec<&'a Node>,
    routes: Vec<&'a Node>,
    clusters: BTreeMap<&'a str, &'a Node>,
    /// There are no other clusters than these.
    complete: bool,
    admin: Option<&'a Node>,
}

/// A filter of an HTTP filter chain.
#[derive(Clone, Copy, Debug)]
pub(super) struct Filter<'a> {
    /// Without package: `ext_authz.v3.ExtAuthz`.
    pub(super) type_name: &'a str,
    pub(super) config: &'a Node,
    pub(super) line: u64,
    pub(super) disabled: bool,
}

// === impl Proxy ===

impl<'a> Proxy<'a> {
    pub(super) fn of_bootstrap(root: &'a Node) -> Self {
        let mut proxy = Self { admin: root.get("admin"), ..Self::default() };
        proxy.listeners.extend(root.items_at("static_resources/listeners"));
        proxy.add_clusters(root.items_at("static_resources/clusters"));
        let dynamic = root.get("dynamic_resources");
        proxy.complete = dynamic.is_none_or(|dynamic| dynamic.get("cds_config").is_none());
        proxy
    }

    /// Files that `path_config_source` reads; other clusters are elsewhere.
    pub(super) fn of_resources(root: &'a Node) -> Self {
        let mut proxy = Self::default();
        for item in root.items_at("resources") {
            match item.typed() {
                Some((name, listener)) if name.ends_with("listener.v3.Listener") => {
                    proxy.listeners.push(listener);
                }
                Some((name, route)) if name.ends_with("route.v3.RouteConfiguration") => {
                    proxy.routes.push(route);
                }
                Some((name, cluster)) if name.ends_with("cluster.v3.Cluster") => {
                    proxy.add_clusters([cluster]);
                }
                _ => {}
            }
        }
        proxy
    }

    pub(super) fn of_dump(root: &'a Node) -> Self {
        let mut proxy = Self::default();
        for config in root.items_at("configs") {
            let Some((name, dump)) = config.typed() else { continue };
            match name.rsplit('.').next().unwrap_or_default() {
                "BootstrapConfigDump" => proxy.admin = dump.at("bootstrap/admin"),
                "ListenersConfigDump" => {
                    let fixed = dump.items_at("static_listeners").iter();
                    proxy.listeners.extend(fixed.filter_map(|item| item.get("listener")));
                    let dynamic = dump.items_at("dynamic_listeners").iter();
                    proxy
                        .listeners
                        .extend(dynamic.filter_map(|item| item.at("active_state/listener")));
                }
                "ClustersConfigDump" => {
                    proxy.complete = true;
                    for list in ["static_clusters", "dynamic_active_clusters"] {
                        let items = dump.items_at(list).iter();
                        proxy.add_clusters(items.filter_map(|item| item.get("cluster")));
                    }
                }
                "RoutesConfigDump" => {
                    for list in ["static_route_configs", "dynamic_route_configs"] {
                        let items = dump.items_at(list).iter();
                        proxy.routes.extend(items.filter_map(|item| item.get("route_config")));
                    }
                }
                _ => {}
            }
        }
        proxy
    }

    fn add_clusters(&mut self, clusters: impl IntoIterator<Item = &'a Node>) {
        for cluster in clusters {
            // Dumps wrap them in their type; bootstraps do not.
            self.clusters.insert(cluster.text_at("name"), cluster);
        }
    }

    pub(super) fn check(&self, found: &mut Findings<'_>) {
        if let Some(admin) = self.admin
            && let Some(address) = admin.at("address/socket_address/address")
            && !clusters::is_local(address.text().unwrap_or_default())
        {
            found.add(&rules::ADMIN_OPEN, address.line);
        }
        for listener in &self.listeners {
            let default = listener.get("default_filter_chain");
            for chain in listener.items_at("filter_chains").iter().chain(default) {
                for filter in chain.items_at("filters") {
                    let Some(typed) = filter.get("typed_config").and_then(Node::typed) else {
                        continue;
                    };
                    match typed {
                        (name, manager) if name.ends_with("HttpConnectionManager") => {
                            let tls = chain.get("transport_socket").is_some();
                            self.check_manager(manager, tls, found);
                        }
                        (name, config)
                            if name.ends_with("filters.network.ext_authz.v3.ExtAuthz") =>
                        {
                            authz::check_connections(config, found);
                            self.check_service(config, found);
                        }
                        _ => {}
                    }
                }
            }
        }
        for cluster in self.clusters.values() {
            let filters = upstream_filters(cluster);
            if filters.iter().any(Filter::is_proc) {
                clusters::check_upstream(cluster, found);
            }
            self.check_filters(&filters, false, found);
        }
    }

    fn check_manager(&self, manager: &Node, tls: bool, found: &mut Findings<'_>) {
        let filters = filters(manager.items_at("http_filters"));
        let authz = filters.iter().any(Filter::is_authz);
        let proc = filters.iter().any(Filter::is_proc);
        if !authz && !proc {
            return;
        }
        check_order(&filters, found);
        self.check_filters(&filters, tls, found);
        connection::check(manager, authz, found);
        let named = manager.text_at("rds/route_config_name");
        let routes = self.routes.iter().copied().find(|routes| routes.text_at("name") == named);
        let Some(routes) = manager.get("route_config").or(routes) else { return };
        if authz {
            routes::check_catch_all(routes, found);
        }
        for route in routes::all(routes) {
            routes::check_overrides(route, found);
            for cluster in route.clusters() {
                self.check_route(route, cluster, proc, found);
            }
        }
    }

    fn check_route(
        &self,
        route: routes::Route<'_>,
        name: &Node,
        proc: bool,
        found: &mut Findings<'_>,
    ) {
        let Some(text) = name.text() else { return };
        match self.clusters.get(text) {
            Some(cluster) if proc || route.gets_secrets() => {
                clusters::check_upstream(cluster, found)
            }
            Some(_) => {}
            None => self.check_exists(name, found),
        }
    }

    fn check_filters(&self, filters: &[Filter<'_>], tls: bool, found: &mut Findings<'_>) {
        let authz = filters.iter().any(Filter::is_authz);
        for filter in filters {
            if filter.is_authz() {
                authz::check(filter.config, tls, found);
            } else if filter.is_proc() {
                proc::check(filter.config, Some(authz), found);
            } else {
                continue;
            }
            self.check_service(filter.config, found);
        }
    }

    /// Checks where a filter asks.
    fn check_service(&self, config: &Node, found: &mut Findings<'_>) {
        for path in ["grpc_service/envoy_grpc/cluster_name", "http_service/server_uri/cluster"] {
            let Some(name) = config.at(path) else { continue };
            match self.clusters.get(name.text().unwrap_or_default()) {
                None => self.check_exists(name, found),
                Some(cluster) => {
                    clusters::check_service(cluster, path.starts_with("grpc"), found);
                }
            }
        }
    }

    fn check_exists(&self, name: &Node, found: &mut Findings<'_>) {
        let text = name.text().unwrap_or_default();
        if self.complete && !self.clusters.contains_key(text) {
            found.add_with(&rules::ABSENT_CLUSTER, name.line, format!("{text:?}"));
        }
    }
}

// === impl Filter ===

impl<'a> Filter<'a> {
    /// Reads an entry of `http_filters`, or the value of an EnvoyFilter's patch.
    pub(super) fn new(entry: &'a Node) -> Option<Self> {
        let (type_name, config) = entry.get("typed_config")?.typed()?;
        let disabled = entry.true_at("disabled");
        Some(Self { type_name, config, line: entry.line, disabled })
    }

    pub(super) fn is_authz(&self) -> bool {
        self.type_name.ends_with("filters.http.ext_authz.v3.ExtAuthz")
    }

    pub(super) fn is_proc(&self) -> bool {
        self.type_name.ends_with("filters.http.ext_proc.v3.ExternalProcessor")
    }

    fn is_router(&self) -> bool {
        self.type_name.ends_with("filters.http.router.v3.Router")
    }

    /// Answers requests, or reads what ext_authz is to write.
    fn is_consumer(&self) -> bool {
        let reads = |text: &str| text.contains(AUTHZ) || text.contains("x-vaultmux-");
        self.type_name.ends_with("filters.http.cache.v3.CacheConfig")
            || (!self.is_authz() && !self.is_proc() && self.config.find_text(&reads).is_some())
    }
}

fn filters(list: &[Node]) -> Vec<Filter<'_>> {
    list.iter().filter_map(Filter::new).collect()
}

/// The filters of a cluster, which run for every attempt.
fn upstream_filters(cluster: &Node) -> Vec<Filter<'_>> {
    let options = cluster.get("typed_extension_protocol_options").map(Node::entries);
    let options = options.unwrap_or_default().iter();
    options.flat_map(|options| filters(options.node.items_at("http_filters"))).collect()
}

fn check_order(filters: &[Filter<'_>], found: &mut Findings<'_>) {
    let authz = filters.iter().position(Filter::is_authz);
    let router = filters.iter().position(Filter::is_router);
    for (at, filter) in filters.iter().enumerate() {
        if router.is_some_and(|router| at > router) {
            found.add(&rules::FILTER_AFTER_ROUTER, filter.line);
        }
        if authz.is_some_and(|authz| at < authz) {
            if filter.is_proc() {
                found.add(&rules::PROC_BEFORE_AUTHZ, filter.line);
            } else if filter.is_consumer() {
                found.add(&rules::AUTHZ_AFTER_CONSUMER, filter.line);
            }
        }
    }
}
