//! Clusters: whether secrets are safe on the way, and whether gRPC can be spoken.

use super::verified::check_verified;
use crate::lint::{Findings, rules, tree::Node};

/// Loopback, or a path.
pub(in crate::lint) fn is_local(address: &str) -> bool {
    address == "localhost"
        || address.starts_with('/')
        || address.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Checks a cluster that secrets may be put in for.
pub(super) fn check_upstream(cluster: &Node, found: &mut Findings<'_>) {
    check_way(cluster, &rules::UPSTREAM_CLEARTEXT, found);
}

/// Checks the cluster that the service is asked at.
pub(super) fn check_service(cluster: &Node, grpc: bool, found: &mut Findings<'_>) {
    check_way(cluster, &rules::SERVICE_CLEARTEXT, found);
    if grpc && !speaks_http2(cluster) {
        let detail = format!("cluster {:?}", cluster.text_at("name"));
        found.add_with(&rules::SERVICE_NOT_HTTP2, cluster.line, detail);
    }
}

/// Checks a service that Google's client asks, past all clusters.
pub(super) fn check_target(target: &Node, found: &mut Findings<'_>) {
    let uri = target.text_at("target_uri");
    let address = uri.rsplit('/').next().unwrap_or(uri);
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let here = uri.starts_with("unix:") || is_local(host.trim_matches(['[', ']']));
    let credentials = target.get("channel_credentials");
    let encrypted = credentials.is_some_and(|it| {
        it.get_even_empty("ssl_credentials") || it.get_even_empty("google_default")
    });
    let plugins = target.items_at("channel_credentials_plugin").iter();
    let mut plugins = plugins.filter_map(Node::typed).peekable();
    let plugged = plugins.peek().is_some()
        && plugins.all(|(name, _)| !name.contains("insecure") && !name.contains("local"));
    if !here && !encrypted && !plugged {
        let line = target.line_of("target_uri");
        found.add_with(&rules::SERVICE_CLEARTEXT, line, format!("target {uri:?}"));
    }
}

fn check_way(cluster: &Node, cleartext: &'static crate::lint::Rule, found: &mut Findings<'_>) {
    let here = stays_here(cluster);
    let sockets = sockets(cluster);
    for context in sockets.iter().flatten() {
        check_verified(cluster, context, found);
    }
    if !here && sockets.iter().any(Option::is_none) {
        let detail = format!("cluster {:?}", cluster.text_at("name"));
        found.add_with(cleartext, cluster.line, detail);
    }
}

/// The TLS contexts that its endpoints are reached by; none for clear text.
fn sockets(cluster: &Node) -> Vec<Option<&Node>> {
    let matches = cluster.items_at("transport_socket_matches");
    let own = tls(cluster);
    if matches.is_empty() {
        return vec![own];
    }
    let endpoints = endpoints(cluster);
    if endpoints.is_empty() {
        // Which are used is not known; what is TLS has to be right.
        let mut known: Vec<_> = matches.iter().map(tls).filter(Option::is_some).collect();
        known.truncate(1);
        return if known.is_empty() { vec![own] } else { known };
    }
    let chosen = |endpoint: &&Node| {
        let labels = endpoint.at("metadata/filter_metadata").and_then(|all| {
            all.entries().iter().find(|it| it.key == "envoy.transport_socket_match")
        });
        let label = |key: &str| labels.map(|it| it.node.text_at(key)).unwrap_or_default();
        let fits = |one: &&Node| {
            let wanted = one.get("match").map(Node::entries).unwrap_or_default();
            wanted.iter().all(|it| it.node.text().is_some_and(|text| label(&it.key) == text))
        };
        matches.iter().find(fits).map_or(own, tls)
    };
    endpoints.iter().map(chosen).collect()
}

fn tls(holder: &Node) -> Option<&Node> {
    let (name, context) = holder.at("transport_socket/typed_config")?.typed()?;
    name.ends_with("UpstreamTlsContext").then_some(context)
}

fn endpoints(cluster: &Node) -> Vec<&Node> {
    let localities = cluster.items_at("load_assignment/endpoints").iter();
    localities.flat_map(|locality| locality.items_at("lb_endpoints")).collect()
}

/// All its endpoints are on this machine.
fn stays_here(cluster: &Node) -> bool {
    // From a loopback address nothing else can be reached: so do Istio's sidecars hand on what
    // came in.
    let source = cluster.text_at("upstream_bind_config/source_address/address");
    if source.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback()) {
        return true;
    }
    let endpoints = endpoints(cluster);
    !endpoints.is_empty()
        && endpoints.iter().all(|endpoint| {
            endpoint.at("endpoint/address/pipe").is_some()
                || endpoint.at("endpoint/address/envoy_internal_address").is_some()
                || is_local(endpoint.text_at("endpoint/address/socket_address/address"))
        })
}

fn speaks_http2(cluster: &Node) -> bool {
    let options = cluster.get("typed_extension_protocol_options").map(Node::entries);
    cluster.get_even_empty("http2_protocol_options")
        || options.unwrap_or_default().iter().any(|options| {
            let way = |key: &str| options.node.get(key);
            way("auto_config").is_some()
                || ["explicit_http_config", "use_downstream_protocol_config"].iter().any(|key| {
                    way(key).is_some_and(|one| one.get_even_empty("http2_protocol_options"))
                })
        })
}
