//! Clusters: whether secrets are safe on the way, and whether gRPC can be spoken.

use crate::lint::{Findings, rules, tree::Node};

/// Loopback, or a path.
pub(in crate::lint) fn is_local(address: &str) -> bool {
    address == "localhost"
        || address.starts_with('/')
        || address.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Checks a cluster that secrets may be put in for.
pub(super) fn check_upstream(cluster: &Node, found: &mut Findings<'_>) {
    match tls(cluster) {
        Some(context) => check_verified(cluster, context, found),
        None if stays_here(cluster) => {}
        None => {
            let detail = format!("cluster {:?}", cluster.text_at("name"));
            found.add_with(&rules::UPSTREAM_CLEARTEXT, cluster.line, detail);
        }
    }
}

/// Checks the cluster that the service is asked at.
pub(super) fn check_service(cluster: &Node, grpc: bool, found: &mut Findings<'_>) {
    let detail = || format!("cluster {:?}", cluster.text_at("name"));
    match tls(cluster) {
        Some(context) => check_verified(cluster, context, found),
        None if stays_here(cluster) => {}
        None => found.add_with(&rules::SERVICE_CLEARTEXT, cluster.line, detail()),
    }
    if grpc && !speaks_http2(cluster) {
        found.add_with(&rules::SERVICE_NOT_HTTP2, cluster.line, detail());
    }
}

fn check_verified(cluster: &Node, context: &Node, found: &mut Findings<'_>) {
    let common = context.get("common_tls_context");
    let validation = common.and_then(|common| {
        let combined = "combined_validation_context/default_validation_context";
        common.get("validation_context").or_else(|| common.at(combined))
    });
    // What arrives by SDS alone is not here to be looked at.
    let elsewhere =
        common.is_some_and(|common| common.get("validation_context_sds_secret_config").is_some());
    let names = ["match_typed_subject_alt_names", "match_subject_alt_names"];
    let verified = validation
        .is_some_and(|context| names.iter().any(|names| !context.items_at(names).is_empty()));
    let automatic = cluster.find_text(&|text| text == "auto_san_validation").is_some();
    if !verified && !elsewhere && !automatic {
        let detail = format!("cluster {:?}", cluster.text_at("name"));
        found.add_with(&rules::UPSTREAM_UNVERIFIED, cluster.line_of("transport_socket"), detail);
    }
}

/// The TLS context of a cluster, in its transport socket or in the first of several.
fn tls(cluster: &Node) -> Option<&Node> {
    let matches = cluster.items_at("transport_socket_matches").iter();
    let matches = matches.filter_map(|one| one.get("transport_socket"));
    let mut sockets = cluster.get("transport_socket").into_iter().chain(matches);
    sockets.find_map(|socket| {
        let (name, context) = socket.get("typed_config")?.typed()?;
        name.ends_with("UpstreamTlsContext").then_some(context)
    })
}

/// All its endpoints are on this machine.
fn stays_here(cluster: &Node) -> bool {
    let localities = cluster.items_at("load_assignment/endpoints").iter();
    let mut endpoints =
        localities.flat_map(|locality| locality.items_at("lb_endpoints")).peekable();
    endpoints.peek().is_some()
        && endpoints.all(|endpoint| {
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
