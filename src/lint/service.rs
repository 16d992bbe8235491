//! Our own configuration: what of it only shows together with proxies. `check` has the rest.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{Findings, envoy::clusters, rules, tree::Node};

pub(super) fn check(root: &Node, found: &mut Findings<'_>) {
    for path in ["listeners/grpc/trusted_peers", "identity/forwarded_client_cert/trusted_proxies"] {
        for entry in root.items_at(path) {
            let text = entry.text().unwrap_or_default();
            if text.parse().is_ok_and(is_wide) {
                found.add_with(&rules::TRUSTED_TOO_WIDE, entry.line, text);
            }
        }
    }
    let Some(grpc) = root.at("listeners/grpc") else { return };
    let Some(address) = grpc.get("address") else { return };
    let text = address.text().unwrap_or_default();
    let host = text.rsplit_once(':').map_or(text, |(host, _)| host);
    let local = text.starts_with("unix:") || clusters::is_local(host.trim_matches(['[', ']']));
    if !local && grpc.get("trusted_peers").is_none_or(|peers| peers.items().is_empty()) {
        found.add(&rules::TRUSTED_PEERS_MISSING, address.line);
    }
}

/// More than one organisation has: of what is private all of `10.0.0.0/8` or `fc00::/7`, of the
/// rest less.
fn is_wide(network: IpNet) -> bool {
    match network.addr() {
        IpAddr::V4(address) => {
            let private = address.is_private() || address.is_loopback() || is_shared(address);
            network.prefix_len() < if private { 8 } else { 16 }
        }
        IpAddr::V6(address) => match address.to_ipv4_mapped() {
            Some(address) => {
                let own = if address.is_private() || is_shared(address) { 8 } else { 16 };
                network.prefix_len() < 96 + own
            }
            None => {
                let private = address.is_unique_local() || address.is_unicast_link_local();
                network.prefix_len() < if private { 7 } else { 32 }
            }
        },
    }
}

/// What carriers, and some clusters, use inside: `100.64.0.0/10`.
fn is_shared(address: std::net::Ipv4Addr) -> bool {
    let [first, second, ..] = address.octets();
    first == 100 && second & 0xc0 == 64
}
