//! A real Envoy whose control plane is istiod's.

use std::{fs, net::SocketAddr, path::Path};

use tempfile::TempDir;

use super::{
    Change, WITHOUT, node, told,
    world::{HTTP, HTTPS, OUTBOUND, PORTS, Proxy, Situation, World},
};
use crate::{
    harness::Envoy,
    servers::{Server, free_port, program},
};

/// istiod for one proxy, which is running.
pub(super) struct Live {
    pub(super) proxy: Proxy,
    pub(super) _istiod: Server,
    pub(super) _directory: TempDir,
}

/// Ports for the proxy. It cannot have any: istiod has to know.
pub(super) fn ports() -> [u16; 3] {
    [free_port(), free_port(), free_port()]
}

pub(super) async fn live(
    situation: &Situation,
    world: &World,
    [http, https, outbound]: [u16; 3],
    changes: &[Change<'_>],
) -> Live {
    world.proxy_is(situation.account);
    let directory = tempfile::tempdir().expect("make a directory");
    let mut all: Vec<(String, String)> = PORTS.iter().zip(world.ports()).map(renumbered).collect();
    all.extend([(&HTTP, http), (&HTTPS, https), (&OUTBOUND, outbound)].map(renumbered));
    // Takes what leaves, where connections are intercepted.
    let inbound = format!("proxyInboundListenPort: {https}");
    all.push((inbound.clone(), format!("{inbound}\n  proxyListenPort: {}", free_port())));
    let all: Vec<_> = all.iter().map(|(from, to)| (from.as_str(), to.as_str())).collect();
    let files = told(situation, directory.path(), &[changes, &all].concat());
    let mut istiod = Server::start(Path::new("/usr/bin/env"), |_| {
        let text = |path: &Path| path.display().to_string();
        let mut arguments: Vec<String> = WITHOUT.map(str::to_owned).into();
        arguments.push(text(&program("istio-xds")));
        arguments.extend(["serve", "-mesh"].map(str::to_owned));
        arguments.extend([text(&files[0]), "-tls".into(), text(world.tls())]);
        arguments.extend(files[1..].iter().map(|file| text(file)));
        arguments
    });
    let find = |log: &str, what: &str| -> Option<SocketAddr> {
        let line = log.lines().find_map(|line| line.strip_prefix(what)?.strip_prefix(" on "));
        line.map(|address| address.trim().parse().expect("an address"))
    };
    let (certificates, discovery) =
        istiod.ready(async |log| Some((find(log, "certificates")?, find(log, "discovery")?))).await;
    let node = fs::read_to_string(node(situation)).expect("node.yaml");
    let node = node.replace(&OUTBOUND.to_string(), &outbound.to_string());
    let node: String = node.lines().map(|line| format!("  {line}\n")).collect();
    let bootstrap = format!(
        "node:\n{node}{BOOTSTRAP}{}{}",
        cluster("xds-grpc", discovery),
        cluster("sds-grpc", certificates)
    );
    let envoy = Envoy::start(&bootstrap).await;
    assert_eq!(envoy.counter("update_rejected").await, 0, "Envoy refused some of it");
    let proxy = Proxy { envoy, http, https, outbound };
    Live { proxy, _istiod: istiod, _directory: directory }
}

fn renumbered((from, to): (&u16, u16)) -> (String, String) {
    (from.to_string(), to.to_string())
}

const BOOTSTRAP: &str = "
admin: {address: {socket_address: {address: 127.0.0.1, port_value: 0}}}
dynamic_resources:
  ads_config:
    api_type: GRPC
    transport_api_version: V3
    grpc_services: [{envoy_grpc: {cluster_name: xds-grpc}}]
  lds_config: {ads: {}, resource_api_version: V3}
  cds_config: {ads: {}, resource_api_version: V3}
static_resources:
  clusters:
";

fn cluster(name: &str, address: SocketAddr) -> String {
    format!(
        "  - name: {name}
    type: STATIC
    connect_timeout: 5s
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {{http2_protocol_options: {{}}}}
    load_assignment:
      cluster_name: {name}
      endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: {}, port_value: {}}}}}}}}}]}}]
",
        address.ip(),
        address.port()
    )
}
