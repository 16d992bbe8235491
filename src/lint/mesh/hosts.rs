//! Where the service is in the mesh, as providers and EnvoyFilters name it.

use super::Mesh;
use crate::lint::{
    Finding,
    document::{Document, Object},
    rules,
    tree::Node,
};

/// A host of the service, as the mesh names it.
#[derive(Clone, Copy, Debug)]
pub(in crate::lint) struct ServiceHost<'a> {
    pub(super) document: &'a Document,
    pub(super) line: u64,
    pub(super) host: &'a str,
    pub(super) port: Option<f64>,
    pub(super) grpc: bool,
}

// === impl Mesh ===

impl<'a> Mesh<'a> {
    /// The hosts that the service has in this mesh.
    pub(in crate::lint) fn hosts(&self) -> Vec<ServiceHost<'a>> {
        let mut found = Vec::new();
        for provider in &self.providers {
            let Some(service) = provider.settings.get("service") else { continue };
            found.push(ServiceHost {
                document: provider.document,
                line: service.line,
                host: service.text().unwrap_or_default(),
                port: provider.settings.get("port").and_then(Node::number),
                grpc: provider.grpc,
            });
        }
        for (document, _) in self.objects("EnvoyFilter") {
            let is_cluster = |text: &str| text.starts_with("outbound|");
            for patch in document.root.items_at("spec/configPatches") {
                let filter = patch.at("patch/value/typed_config");
                let Some((name, config)) = filter.and_then(Node::typed) else { continue };
                if !name.contains(".ext_authz.") && !name.contains(".ext_proc.") {
                    continue;
                }
                let cluster = config.get("grpc_service").and_then(|it| it.find_text(&is_cluster));
                let Some((line, cluster)) = cluster else { continue };
                let mut parts = cluster.split('|').skip(1);
                let port = parts.next().and_then(|port| port.parse().ok());
                let host = parts.nth(1).unwrap_or_default();
                found.push(ServiceHost { document, line, host, port, grpc: true });
            }
        }
        found.retain(|host| !host.host.is_empty());
        found
    }

    /// The port of the service has to be known as gRPC.
    pub(super) fn check_port(&self, host: ServiceHost<'_>, list: &mut Vec<Finding>) {
        let Some((name, namespace)) = host.service() else { return };
        for (document, object) in self.objects("Service") {
            if !host.grpc || object.name != name || object.namespace != namespace {
                continue;
            }
            for port in document.root.items_at("spec/ports") {
                if port.get("port").and_then(Node::number) != host.port {
                    continue;
                }
                let protocol = port.text_at("appProtocol");
                let named = port.text_at("name").split('-').next();
                let known = ["grpc", "http2", "kubernetes.io/h2c"].contains(&protocol)
                    || (protocol.is_empty() && matches!(named, Some("grpc" | "http2")));
                if !known {
                    let detail = format!("port {:?}", port.text_at("name"));
                    document.findings(list).add_with(&rules::SERVICE_NOT_HTTP2, port.line, detail);
                }
            }
        }
    }
}

// === impl ServiceHost ===

impl<'a> ServiceHost<'a> {
    /// The name and namespace of its Kubernetes Service, if it is one.
    pub(in crate::lint) fn service(&self) -> Option<(&'a str, &'a str)> {
        let host = self.host.rsplit('/').next()?;
        let mut labels = host.split('.');
        let (name, namespace) = (labels.next()?, labels.next()?);
        (labels.next() == Some("svc")).then_some((name, namespace))
    }

    /// Whether a Sidecar's `namespace/host` covers it.
    fn covered_by(&self, entry: &str, own_namespace: &str) -> bool {
        let Some((namespace, pattern)) = entry.split_once('/') else { return false };
        let host = self.host.rsplit('/').next().unwrap_or_default();
        let lives_in = self.service().map(|(_, namespace)| namespace);
        let right_namespace = match namespace {
            "*" => true,
            "." => lives_in.is_none_or(|it| it == own_namespace),
            "~" => false,
            other => lives_in.is_none_or(|it| it == other),
        };
        let right_host = match pattern.strip_prefix('*') {
            Some(end) => host.ends_with(end),
            None => host == pattern,
        };
        right_namespace && right_host
    }
}

pub(super) fn check_sidecar(
    document: &Document,
    object: &Object,
    hosts: &[ServiceHost<'_>],
    list: &mut Vec<Finding>,
) {
    let Some(egress) = document.root.at("spec/egress") else { return };
    let entries: Vec<_> = egress.items().iter().flat_map(|one| one.texts_at("hosts")).collect();
    let mut named = Vec::new();
    for host in hosts {
        let covered = entries.iter().any(|entry| host.covered_by(entry, &object.namespace));
        if !covered && !named.contains(&host.host) {
            named.push(host.host);
            let found = &mut document.findings(list);
            found.add_with(&rules::SIDECAR_TRIMS_SERVICE, egress.line, host.host);
        }
    }
}
