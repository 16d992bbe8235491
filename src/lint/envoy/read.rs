//! What one Envoy is configured with, from its bootstrap, its dump, or files that it watches.

use std::collections::BTreeMap;

use super::Proxy;
use crate::lint::{
    document::{Document, Kind},
    tree::Node,
};

/// Something that listeners name, and the source that it stands in.
#[derive(Clone, Copy, Debug)]
pub(in crate::lint) struct Placed<'a> {
    pub(in crate::lint) source: usize,
    pub(in crate::lint) node: &'a Node,
}

/// What is known by its name.
#[derive(Clone, Debug, Default)]
pub(in crate::lint) struct Named<'a> {
    pub(super) routes: BTreeMap<&'a str, Placed<'a>>,
    pub(super) clusters: BTreeMap<&'a str, Placed<'a>>,
    /// Configuration of filters that is not in the chain itself.
    pub(super) filters: BTreeMap<&'a str, Placed<'a>>,
}

// === impl Named ===

impl<'a> Named<'a> {
    /// What stands in files of resources: bootstraps that are given with them read them.
    pub(in crate::lint) fn of_files(documents: &'a [Document]) -> Self {
        let mut named = Self::default();
        for document in documents.iter().filter(|it| it.kind == Kind::Resources) {
            named.add_resources(document);
        }
        named
    }

    fn add_resources(&mut self, document: &'a Document) {
        let source = document.source;
        for item in document.root.items_at("resources") {
            match item.typed() {
                Some((name, route)) if name.ends_with("route.v3.RouteConfiguration") => {
                    self.add_route(source, route);
                }
                Some((name, cluster)) if name.ends_with("cluster.v3.Cluster") => {
                    self.add_cluster(source, cluster);
                }
                Some((name, filter)) if name.ends_with("core.v3.TypedExtensionConfig") => {
                    self.add_filter(source, filter);
                }
                _ => {}
            }
        }
    }

    fn add_route(&mut self, source: usize, node: &'a Node) {
        self.routes.insert(node.text_at("name"), Placed { source, node });
    }

    fn add_cluster(&mut self, source: usize, node: &'a Node) {
        // Dumps wrap them in their type; bootstraps do not.
        self.clusters.insert(node.text_at("name"), Placed { source, node });
    }

    fn add_filter(&mut self, source: usize, node: &'a Node) {
        self.filters.insert(node.text_at("name"), Placed { source, node });
    }
}

// === impl Proxy ===

impl<'a> Proxy<'a> {
    pub(in crate::lint) fn of_bootstrap(document: &'a Document, files: &Named<'a>) -> Self {
        let root = &document.root;
        let admin = root.get("admin");
        let mut proxy = Self { admin, named: files.clone(), ..Self::default() };
        proxy.listeners.extend(root.items_at("static_resources/listeners"));
        for cluster in root.items_at("static_resources/clusters") {
            proxy.named.add_cluster(document.source, cluster);
        }
        let layers = root.items_at("layered_runtime/layers").iter();
        proxy.runtime.extend(layers.filter_map(|layer| layer.get("static_layer")));
        let dynamic = root.get("dynamic_resources");
        proxy.complete = dynamic.is_none_or(|dynamic| dynamic.get("cds_config").is_none());
        proxy
    }

    /// Files that `path_config_source` reads; other clusters are elsewhere.
    pub(in crate::lint) fn of_resources(document: &'a Document, files: &Named<'a>) -> Self {
        let mut proxy = Self { named: files.clone(), ..Self::default() };
        proxy.named.add_resources(document);
        for item in document.root.items_at("resources") {
            match item.typed() {
                Some((name, listener)) if name.ends_with("listener.v3.Listener") => {
                    proxy.listeners.push(listener);
                }
                Some((name, route)) if name.ends_with("route.v3.RouteConfiguration") => {
                    proxy.loose_routes.push(route);
                }
                Some((name, filter)) if name.ends_with("core.v3.TypedExtensionConfig") => {
                    proxy.loose_filters.push(filter);
                }
                _ => {}
            }
        }
        proxy
    }

    pub(in crate::lint) fn of_dump(document: &'a Document) -> Self {
        let mut proxy = Self::default();
        let source = document.source;
        for config in document.root.items_at("configs") {
            let Some((name, dump)) = config.typed() else { continue };
            let all = |lists: &[&str], key: &'static str| -> Vec<&'a Node> {
                let items = lists.iter().flat_map(|list| dump.items_at(list));
                items.filter_map(|item| item.at(key)).collect()
            };
            match name.rsplit('.').next().unwrap_or_default() {
                "BootstrapConfigDump" => {
                    proxy.admin = dump.at("bootstrap/admin");
                    let layers = dump.items_at("bootstrap/layered_runtime/layers").iter();
                    proxy.runtime.extend(layers.filter_map(|layer| layer.get("static_layer")));
                }
                "ListenersConfigDump" => {
                    proxy.listeners.extend(all(&["static_listeners"], "listener"));
                    let dynamic = all(&["dynamic_listeners"], "active_state/listener");
                    proxy.listeners.extend(dynamic);
                }
                "ClustersConfigDump" => {
                    proxy.complete = true;
                    for cluster in all(&["static_clusters", "dynamic_active_clusters"], "cluster") {
                        proxy.named.add_cluster(source, cluster);
                    }
                }
                "RoutesConfigDump" => {
                    let lists = ["static_route_configs", "dynamic_route_configs"];
                    for route in all(&lists, "route_config") {
                        proxy.named.add_route(source, route);
                    }
                }
                "EcdsConfigDump" => {
                    for filter in all(&["ecds_filters"], "ecds_filter") {
                        proxy.named.add_filter(source, filter);
                        proxy.loose_filters.push(filter);
                    }
                }
                _ => {}
            }
        }
        proxy
    }
}
