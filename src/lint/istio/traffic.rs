//! How requests travel: mTLS in, TLS out.

use crate::lint::{Findings, document::Document, envoy::clusters, mesh::Mesh, rules, tree::Node};

/// Where the service itself listens for others than the kubelet and Prometheus.
const OWN_PORTS: [&str; 2] = ["9191", "8080"];

pub(super) fn check_peers(document: &Document, found: &mut Findings<'_>) {
    let open = |node: &Node| ["PERMISSIVE", "DISABLE"].contains(&node.text().unwrap_or_default());
    if let Some(mode) = document.root.at("spec/mtls/mode").filter(|mode| open(mode)) {
        found.add(&rules::PERMISSIVE, mode.line);
    }
    // Other ports are for whoever has no certificate, such as the kubelet.
    let ports = document.root.at("spec/portLevelMtls").map(Node::entries).unwrap_or_default();
    for port in ports.iter().filter(|port| OWN_PORTS.contains(&&*port.key)) {
        if let Some(mode) = port.node.get("mode").filter(|mode| open(mode)) {
            found.add_with(&rules::PERMISSIVE, mode.line, format!("port {}", port.key));
        }
    }
}

/// TLS that a DestinationRule begins has to know whom it meets.
pub(super) fn check_tls(document: &Document, mesh: &Mesh<'_>, found: &mut Findings<'_>) {
    let host = document.root.text_at("spec/host");
    let named = mesh.objects("ServiceEntry").any(|(entry, _)| {
        entry.root.texts_at("spec/hosts").iter().any(|it| same_host(it, host))
            && !entry.root.items_at("spec/subjectAltNames").is_empty()
    });
    for (_, tls) in settings(document) {
        if tls.true_at("insecureSkipVerify") {
            found.add(&rules::UPSTREAM_UNVERIFIED, tls.line_of("insecureSkipVerify"));
        } else if ["SIMPLE", "MUTUAL"].contains(&tls.text_at("mode"))
            && tls.items_at("subjectAltNames").is_empty()
            && !named
        {
            let line = tls.line_of("mode");
            found.add_with(&rules::UPSTREAM_UNVERIFIED, line, format!("host {host:?}"));
        }
    }
}

/// What leaves the mesh in clear text has to be made TLS by a DestinationRule.
pub(super) fn check_entry(document: &Document, mesh: &Mesh<'_>, found: &mut Findings<'_>) {
    let root = &document.root;
    let endpoints = root.items_at("spec/endpoints");
    let local = !endpoints.is_empty()
        && endpoints.iter().all(|endpoint| clusters::is_local(endpoint.text_at("address")));
    if root.text_at("spec/location") == "MESH_INTERNAL" || local {
        return;
    }
    for port in root.items_at("spec/ports") {
        let protocol = port.text_at("protocol").to_ascii_uppercase();
        if !["HTTP", "HTTP2", "GRPC", "HTTP_PROXY"].contains(&&*protocol) {
            continue;
        }
        let number = port.get("number").and_then(Node::number);
        for host in root.texts_at("spec/hosts") {
            let encrypted = mesh.objects("DestinationRule").any(|(rule, _)| {
                same_host(rule.root.text_at("spec/host"), host)
                    && settings(rule).iter().any(|(of, tls)| {
                        (of.is_none() || *of == number)
                            && !["", "DISABLE"].contains(&tls.text_at("mode"))
                    })
            });
            if !encrypted {
                found.add_with(&rules::UPSTREAM_CLEARTEXT, port.line, format!("host {host:?}"));
            }
        }
    }
}

/// All TLS settings of a DestinationRule, with the port that they are for.
fn settings(document: &Document) -> Vec<(Option<f64>, &Node)> {
    let mut found = Vec::new();
    let subsets = document.root.items_at("spec/subsets").iter();
    let policies = subsets.filter_map(|subset| subset.get("trafficPolicy"));
    for policy in document.root.at("spec/trafficPolicy").into_iter().chain(policies) {
        found.extend(policy.get("tls").map(|tls| (None, tls)));
        for port in policy.items_at("portLevelSettings") {
            let number = port.at("port/number").and_then(Node::number);
            found.extend(port.get("tls").map(|tls| (number, tls)));
        }
    }
    found
}

/// Either may stand for many: `*.example.com`.
fn same_host(left: &str, right: &str) -> bool {
    let covers = |pattern: &str, host: &str| {
        pattern.strip_prefix('*').is_some_and(|end| !end.is_empty() && host.ends_with(end))
    };
    left.eq_ignore_ascii_case(right) || covers(left, right) || covers(right, left)
}
