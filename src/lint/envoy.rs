//! Envoy's own configuration: listeners, their filters and routes, clusters.

pub(super) mod authz;
pub(super) mod clusters;
pub(super) mod connection;
pub(super) mod filter;
pub(super) mod matcher;
pub(super) mod off;
pub(super) mod proc;
pub(super) mod read;
pub(super) mod reroute;
pub(super) mod routes;
mod verified;

use self::{filter::Filter, read::Named};
use super::{Findings, rules, tree::Node};

/// All that one Envoy is configured with, as far as it is given.
#[derive(Debug, Default)]
pub(super) struct Proxy<'a> {
    listeners: Vec<&'a Node>,
    named: Named<'a>,
    /// In files that other Envoys' listeners may name.
    loose_routes: Vec<&'a Node>,
    loose_filters: Vec<&'a Node>,
    /// What is set over defaults, the last one winning.
    runtime: Vec<&'a Node>,
    /// There are no other clusters than these.
    complete: bool,
    admin: Option<&'a Node>,
}

/// What around a proxy matters to it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Around {
    /// Our own configuration relies on being heeded about phases.
    pub(super) overrides_heeded: bool,
}

// === impl Proxy ===

impl<'a> Proxy<'a> {
    pub(super) fn check(&self, around: Around, found: &mut Findings<'_>) {
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
                            self.check_manager(manager, tls, around, found);
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
        for cluster in self.named.clusters.values() {
            let filters = upstream_filters(cluster.node, &self.named);
            let found = &mut found.within(Some(cluster.source));
            if filters.iter().any(Filter::is_proc) {
                clusters::check_upstream(cluster.node, found);
            }
            self.check_filters(&filters, false, around, found);
        }
        for entry in &self.loose_filters {
            for filter in Filter::read(entry, &self.named) {
                self.check_loose(&filter, around, found);
            }
        }
        // Whatever the chain is: what they say by the usual names.
        for config in &self.loose_routes {
            let leads: Vec<_> = routes::all(config).iter().flat_map(|it| it.leads()).collect();
            for kind in filter::TYPES {
                let (name, matcher, source) = ("", None, None);
                let any = Filter { name, type_name: kind, config, entry: config, source, matcher };
                off::check_routes(&any, &leads, found);
            }
            routes::all(config).iter().for_each(|route| routes::check_overrides(*route, found));
        }
    }

    fn check_manager(
        &self,
        manager: &'a Node,
        tls: bool,
        around: Around,
        found: &mut Findings<'_>,
    ) {
        let filters = filter::all(manager.items_at("http_filters"), &self.named);
        let authz = filters.iter().any(Filter::is_authz);
        let proc = filters.iter().any(Filter::is_proc);
        if !authz && !proc {
            return;
        }
        filter::check_order(&filters, found);
        reroute::check(&filters, found);
        self.check_filters(&filters, tls, around, found);
        let own_word = filters
            .iter()
            .take_while(|filter| !filter.is_authz() && !filter.is_proc())
            .any(Filter::replaces_client_cert);
        connection::check(manager, authz, own_word, found);
        for (source, config) in self.routes_of(manager) {
            self.check_routes(config, &filters, &mut found.within(source));
        }
    }

    /// The routes of a connection manager: its own, or those that are known by their names, with
    /// the source that they stand in.
    fn routes_of(&self, manager: &'a Node) -> Vec<(Option<usize>, &'a Node)> {
        let scopes = manager.at("scoped_routes/scoped_route_configurations_list");
        let scopes = scopes.map(|list| list.items_at("scoped_route_configurations"));
        let scopes = scopes.unwrap_or_default().iter();
        let inline = scopes.clone().filter_map(|scope| scope.get("route_configuration"));
        let inline = manager.get("route_config").into_iter().chain(inline);
        let names = scopes.map(|scope| scope.text_at("route_configuration_name"));
        let names = names.chain([manager.text_at("rds/route_config_name")]);
        let named = names.filter_map(|name| self.named.routes.get(name));
        let named = named.map(|it| (Some(it.source), it.node));
        inline.map(|config| (None, config)).chain(named).collect()
    }

    fn check_routes(&self, config: &Node, filters: &[Filter<'_>], found: &mut Findings<'_>) {
        let proc = filters.iter().any(Filter::is_proc);
        if filters.iter().any(Filter::is_authz) {
            routes::check_catch_all(config, found);
        }
        let all = routes::all(config);
        let leads: Vec<_> = all.iter().flat_map(|route| route.leads()).collect();
        for filter in filters.iter().filter(|it| it.is_authz() || it.is_proc()) {
            off::check_routes(filter, &leads, found);
        }
        for lead in &leads {
            let behind = filters.iter().skip_while(|filter| !filter.is_authz());
            for filter in behind.filter(|filter| !filter.is_proc()) {
                match lead.said_about(filter) {
                    Some((_, config)) if filter.is_authz() => {
                        matcher::check_route(filter, config, found);
                    }
                    Some((name, config)) => reroute::check_one(name, config, found),
                    None => {}
                }
            }
            routes::check_overrides(lead.route, found);
            if let Some(cluster) = lead.cluster() {
                self.check_route(lead.route, cluster, proc, found);
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
        match self.named.clusters.get(text) {
            Some(cluster) if proc || route.gets_secrets() => {
                clusters::check_upstream(cluster.node, &mut found.within(Some(cluster.source)));
            }
            Some(_) => {}
            None => self.check_exists(name, found),
        }
    }

    fn check_filters(
        &self,
        filters: &[Filter<'_>],
        tls: bool,
        around: Around,
        found: &mut Findings<'_>,
    ) {
        let authz = filters.iter().any(Filter::is_authz);
        for filter in filters {
            let found = &mut found.within(filter.source);
            if filter.is_authz() {
                authz::check(filter.config, tls, &self.runtime, found);
            } else if filter.is_proc() {
                proc::check(filter.config, Some(authz), around, found);
            } else {
                continue;
            }
            matcher::check(filter, found);
            self.check_service(filter.config, found);
        }
    }

    /// Checks one whose chain is not here.
    fn check_loose(&self, filter: &Filter<'_>, around: Around, found: &mut Findings<'_>) {
        if filter.is_authz() {
            authz::check(filter.config, false, &self.runtime, found);
        } else if filter.is_proc() {
            proc::check_stated(filter.config, found);
            proc::check_override(filter.config, around, found);
        }
        matcher::check(filter, found);
    }

    /// Checks where a filter asks.
    fn check_service(&self, config: &Node, found: &mut Findings<'_>) {
        for (path, grpc) in [
            ("grpc_service/envoy_grpc/cluster_name", true),
            ("http_service/server_uri/cluster", false),
            ("http_service/http_service/http_uri/cluster", false),
        ] {
            let Some(name) = config.at(path) else { continue };
            match self.named.clusters.get(name.text().unwrap_or_default()) {
                None => self.check_exists(name, found),
                Some(cluster) => {
                    let found = &mut found.within(Some(cluster.source));
                    clusters::check_service(cluster.node, grpc, found);
                }
            }
        }
        if let Some(target) = config.at("grpc_service/google_grpc") {
            clusters::check_target(target, found);
        }
    }

    fn check_exists(&self, name: &Node, found: &mut Findings<'_>) {
        let text = name.text().unwrap_or_default();
        if self.complete && !self.named.clusters.contains_key(text) {
            found.add_with(&rules::ABSENT_CLUSTER, name.line, format!("{text:?}"));
        }
    }
}

/// The filters of a cluster, which run for every attempt.
fn upstream_filters<'a>(cluster: &'a Node, named: &Named<'a>) -> Vec<Filter<'a>> {
    let options = cluster.get("typed_extension_protocol_options").map(Node::entries);
    let options = options.unwrap_or_default().iter();
    options.flat_map(|options| filter::all(options.node.items_at("http_filters"), named)).collect()
}
