//! Our own configuration: what of it only shows together with proxies. `check` has the rest.

use super::{Findings, envoy::clusters, rules, tree::Node};

pub(super) fn check(root: &Node, found: &mut Findings<'_>) {
    let Some(grpc) = root.at("listeners/grpc") else { return };
    let Some(address) = grpc.get("address") else { return };
    let text = address.text().unwrap_or_default();
    let host = text.rsplit_once(':').map_or(text, |(host, _)| host);
    let local = text.starts_with("unix:") || clusters::is_local(host.trim_matches(['[', ']']));
    if !local && grpc.get("trusted_peers").is_none_or(|peers| peers.items().is_empty()) {
        found.add(&rules::TRUSTED_PEERS_MISSING, address.line);
    }
}
