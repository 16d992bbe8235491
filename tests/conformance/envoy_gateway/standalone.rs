//! `envoy-gateway server` without a cluster: resources are read from a file, and the Envoy that
//! it starts is the tests' own.

use std::{
    collections::HashMap,
    fmt::Write as _,
    fs::{self, File},
    net::SocketAddr,
    os::unix::fs::symlink,
    path::Path,
    process::Command,
};

use serde_json::json;

use super::{
    translation::{Change, certificates, said, told},
    world::{Gateway, World},
};
use crate::{
    harness::{Client, repository, sized},
    servers::{Server, free_port, program},
};

/// Envoy Gateway's discovery has one port, on the whole machine.
pub(super) struct Turn {
    _file: File,
}

/// A directory's name to the part that starts Envoy; it fetches none that is there.
const ENVOY: &str = "1.40.0";

/// It reads no Services here, so what it calls is told as addresses.
const BACKENDS: [Change<'_>; 6] = [
    (
        r#""backendRefs":[{"name":"vaultmux-mesh","namespace":"vaultmux-system","port":9191}]"#,
        r#""backendRefs":[{"group":"gateway.envoyproxy.io","kind":"Backend","name":"vaultmux-mesh","namespace":"vaultmux-system"}]"#,
    ),
    (
        "backendRefs: [{name: vaultmux-mesh, namespace: vaultmux-system, port: 9191}]",
        "backendRefs: [{group: gateway.envoyproxy.io, kind: Backend, name: vaultmux-mesh, namespace: vaultmux-system}]",
    ),
    (
        r#""targetRefs":[{"group":"","kind":"Service","name":"vaultmux-mesh","sectionName":"grpc"}]"#,
        r#""targetRefs":[{"group":"gateway.envoyproxy.io","kind":"Backend","name":"vaultmux-mesh"}]"#,
    ),
    (
        r#""to":[{"group":"","kind":"Service","name":"vaultmux-mesh"}]"#,
        r#""to":[{"group":"gateway.envoyproxy.io","kind":"Backend","name":"vaultmux-mesh"}]"#,
    ),
    (
        r#"to: [{group: "", kind: Service, name: vaultmux-mesh}]"#,
        "to: [{group: gateway.envoyproxy.io, kind: Backend, name: vaultmux-mesh}]",
    ),
    (
        "backendRefs: [{name: orders, port: 8000}]",
        "backendRefs: [{group: gateway.envoyproxy.io, kind: Backend, name: orders}]",
    ),
];

/// Waits until no other test, of this run or another, runs Envoy Gateway.
pub(super) async fn turn() -> Turn {
    let path = std::env::temp_dir().join("vaultmux-mesh-envoy-gateway");
    let file = tokio::task::spawn_blocking(move || {
        let file = File::create(path).expect("a file to lock");
        file.lock().expect("locked");
        file
    });
    Turn { _file: file.await.expect("locked") }
}

/// Starts Envoy Gateway with the page's resources and the chart's, changed like this, and waits
/// for the gateway that has these listeners.
pub(super) async fn gateway(
    world: &World,
    listeners: &[&'static str],
    changes: &[Change<'_>],
) -> Gateway {
    let directory = tempfile::tempdir().expect("a directory");
    let here = directory.path();
    let ports = [free_port(), free_port(), free_port()];
    fs::create_dir(here.join("resources")).expect("made");
    // It does not find the ReferenceGrants of Backends that are elsewhere.
    let (place, _) = listeners[0].split_once('/').expect("a namespace");
    let resources = resources(world, ports, changes)
        .replace(r#""namespace":"vaultmux-system""#, &format!(r#""namespace":"{place}""#))
        .replace("namespace: vaultmux-system", &format!("namespace: {place}"));
    fs::write(here.join("resources/all.yaml"), resources).expect("written");
    let bin = here.join("data/envoy-versions").join(ENVOY).join("bin");
    fs::create_dir_all(&bin).expect("made");
    symlink(repository("target/tools/bin/envoy"), bin.join("envoy")).expect("linked");
    fs::write(here.join("config.yaml"), config(here)).expect("written");
    let mut certgen = Command::new(program("envoy-gateway"));
    certgen.args(["certgen", "--local", "--config-home"]).arg(here.join("config"));
    said(&mut certgen);
    let mut server = Server::start_in(directory, &program("envoy-gateway"), |here| {
        let config = here.join("config.yaml").display().to_string();
        vec!["server".into(), "--config-path".into(), config]
    });
    let mut addresses = HashMap::new();
    for name in listeners {
        let port = match *name {
            "edge/edge/http" => ports[0],
            "edge/edge/https" => ports[1],
            _ => ports[2],
        };
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let identity = world.certificates.workload("none", "none");
        let client = match name.ends_with("/http") {
            true => Client::plain(address),
            false => Client::tls(address, &world.certificates, Some(identity)),
        };
        let answers =
            async |_: &str| client.try_send("GET", "none.test", "/", &[], sized("")).await.ok();
        server.ready(answers).await;
        addresses.insert(*name, address);
    }
    Gateway::new(addresses, server)
}

/// All that it is told, with addresses of this machine.
fn resources(world: &World, ports: [u16; 3], changes: &[Change<'_>]) -> String {
    let [grpc, app, payment] = world.ports();
    let [http, https, egress] = ports;
    let own = [
        ("protocol: HTTP, port: 80,", format!("protocol: HTTP, port: {http},")),
        ("    port: 443\n", format!("    port: {https}\n")),
        ("protocol: HTTPS, port: 443,", format!("protocol: HTTPS, port: {egress},")),
        (
            "fqdn: {hostname: api.stripe.com, port: 443}",
            format!("ip: {{address: 127.0.0.1, port: {payment}}}"),
        ),
        (
            "wellKnownCACertificates: System",
            r#"caCertificateRefs: [{group: "", kind: ConfigMap, name: workload-ca}]"#.to_owned(),
        ),
        (
            "namespace: envoy-gateway-system}\nspec:\n",
            format!(
                // Several run on one machine.
                "namespace: envoy-gateway-system}}\nspec:\n  \
                 provider: {{type: Host, host: {{envoyVersion: {ENVOY}}}}}\n  \
                 extraArgs: [--use-dynamic-base-id]\n"
            ),
        ),
    ];
    let own: Vec<Change<'_>> = own.iter().map(|(from, to)| (*from, to.as_str())).collect();
    let mut all = told(&[changes, &BACKENDS[..], &own].concat());
    for (namespace, name, port) in
        [("vaultmux-system", "vaultmux-mesh", grpc), ("shop", "orders", app)]
    {
        let backend = json!({
            "apiVersion": "gateway.envoyproxy.io/v1alpha1",
            "kind": "Backend",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"endpoints": [{"ip": {"address": "127.0.0.1", "port": port}}]},
        });
        write!(all, "---\n{backend}\n").expect("room");
    }
    all + &certificates(world.files(), ["gateway", "client"])
}

/// Its own configuration, with all files below this directory.
fn config(here: &Path) -> String {
    let at = |name: &str| here.join(name).display().to_string();
    let homes = json!({"configHome": at("config"), "dataHome": at("data"),
        "stateHome": at("state"), "runtimeDir": at("run")});
    let custom = json!({
        "resource": {"type": "File", "file": {"paths": [at("resources")]}},
        "infrastructure": {"type": "Host", "host": homes},
    });
    let config = json!({
        "apiVersion": "gateway.envoyproxy.io/v1alpha1",
        "kind": "EnvoyGateway",
        "gateway": {"controllerName": "gateway.envoyproxy.io/gatewayclass-controller"},
        "provider": {"type": "Custom", "custom": custom},
        "extensionApis": {"enableBackend": true},
        "telemetry": {"metrics": {"prometheus": {"disable": true}}},
    });
    config.to_string()
}
