//! `istio/` as Istio itself sees it: its command line accepts every manifest, and its discovery
//! server translates them for a real Envoy, whose requests get what the manifests promise.
//!
//! `UPDATE_ISTIO=1` writes the bootstraps that `tests/it` runs without istiod.

#[path = "../it/istio/checks.rs"]
#[allow(dead_code, reason = "bootstraps of waypoints cannot be served")]
mod checks;
mod live;
#[path = "../it/istio/world.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod world;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use live::{Live, live, ports};
use serde_json::Value;
use world::{
    BEHIND_SIDECAR, EGRESS_GATEWAY, EGRESS_SIDECAR, EGRESS_WAYPOINT, GATEWAY, GATEWAY_API, HTTPS,
    LOCAL_SIDECAR, SIDECAR, Situation, WAYPOINT, World,
};

use crate::{
    harness::{Client, repository},
    servers::program,
};

const SITUATIONS: [&Situation; 7] = [
    &SIDECAR,
    &GATEWAY,
    &GATEWAY_API,
    &EGRESS_GATEWAY,
    &EGRESS_SIDECAR,
    &WAYPOINT,
    &EGRESS_WAYPOINT,
];

/// What a cluster of ambient mode would have added: addresses of waypoints, and one by which
/// tunnels lead to the third party.
const AMBIENT: [Change<'_>; 3] = [
    (
        "namespace: shop\nspec:\n  gatewayClassName:",
        "namespace: shop\nstatus: {addresses: [{type: IPAddress, value: 10.0.0.11}]}\nspec:\n  gatewayClassName:",
    ),
    (
        "namespace: istio-egress\nspec:\n  gatewayClassName:",
        "namespace: istio-egress\nstatus: {addresses: [{type: IPAddress, value: 10.0.0.12}]}\nspec:\n  gatewayClassName:",
    ),
    ("  location: MESH_EXTERNAL", "  addresses: [10.0.0.20]\n  location: MESH_EXTERNAL"),
];

/// Of Istio's own additions to Envoy, which the ordinary one lacks.
const WITHOUT: [&str; 2] =
    ["PILOT_ENABLE_METADATA_EXCHANGE=false", "PILOT_ENABLE_ALPN_FILTER=false"];

/// A change to what istiod is told: what stands there, and what shall.
type Change<'c> = (&'c str, &'c str);

/// The kustomize directories of `istio/`.
fn directories() -> Vec<String> {
    let mut found = vec!["base".to_owned()];
    for above in ["service", "overlays"] {
        let entries = fs::read_dir(repository("istio").join(above)).expect("it is there");
        for entry in entries {
            let name = entry.expect("an entry").file_name().into_string().expect("UTF-8");
            found.push(format!("{above}/{name}"));
        }
    }
    found.sort();
    found
}

/// What kustomize makes of a directory of `istio/`.
fn built(directory: &str) -> String {
    said(Command::new(program("istio-xds")).arg("build").arg(repository("istio").join(directory)))
}

/// A command's output; it has to succeed.
fn said(command: &mut Command) -> String {
    let output = command.output().expect("it starts");
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{command:?}: {error}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// Whether `istioctl validate` accepts a file, and what it says.
pub(crate) fn validates(file: &Path) -> (bool, String) {
    let output =
        Command::new(program("istioctl")).args(["validate", "--filename"]).arg(file).output();
    let output = output.expect("it starts");
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

/// `meshConfig` of `istio/mesh/values.yaml`, as a file by itself.
fn mesh_config(directory: &Path) -> PathBuf {
    let values = fs::read_to_string(repository("istio/mesh/values.yaml")).expect("values.yaml");
    let (_, mesh) = values.split_once("\nmeshConfig:\n").expect("it has a meshConfig");
    let file = directory.join("mesh.yaml");
    let lines = mesh.lines().map(|line| line.strip_prefix("  ").unwrap_or(line));
    fs::write(&file, lines.collect::<Vec<_>>().join("\n")).expect("write a file");
    file
}

#[test]
fn every_manifest_is_valid_to_istioctl() {
    let mut files = Vec::new();
    let mut pending = vec![repository("istio")];
    while let Some(path) = pending.pop() {
        if path.is_dir() {
            pending
                .extend(fs::read_dir(path).expect("it is there").map(|it| it.expect("it").path()));
        } else if path.extension().is_some_and(|it| it == "yaml") {
            files.push(path);
        }
    }
    // Neither is for a cluster.
    files.retain(|file| {
        !file.ends_with("kustomization.yaml") && !file.ends_with("mesh/values.yaml")
    });
    assert!(files.len() >= 25, "{files:?}");
    for file in &files {
        let (valid, said) = validates(file);
        assert!(valid, "{}: {said}", file.display());
        let text = fs::read_to_string(file).expect("it is there");
        assert!(text.starts_with("# "), "{} does not say what it is for", file.display());
        let directory = fs::read_to_string(file.with_file_name("kustomization.yaml"));
        let name = file.file_name().and_then(|name| name.to_str()).expect("a name");
        let directory = directory.expect("a kustomization");
        assert!(directory.contains(name), "{} is in no kustomization", file.display());
    }
}

#[test]
fn istioctl_finds_nothing_wrong_with_what_kustomize_makes() {
    let directory = tempfile::tempdir().expect("make a directory");
    let mesh = mesh_config(directory.path());
    for name in directories() {
        let file = directory.path().join("all.yaml");
        fs::write(&file, built(&name)).expect("write a file");
        let (valid, said_of_it) = validates(&file);
        assert!(valid, "{name}: {said_of_it}");
        let mut found = analyzed(&mesh, &file);
        found.retain(|it| {
            !MEANT.iter().any(|(code, text)| it.starts_with(code) && it.contains(text))
        });
        assert!(found.is_empty(), "{name}: {found:#?}");
    }
}

/// What `istioctl analyze` says of manifests that are as they are meant.
const MEANT: [(&str, &str); 3] = [
    // Their own comments say so, and the bootstraps show whether they still fit.
    ("IST0133", "EnvoyFilter exposes internal implementation details"),
    // More is refused then, which their comments say.
    ("IST0133", "will deny all traffic to TCP ports"),
    // Then it is verified by the system's authorities, and against the name.
    ("IST0129", "TLS mode set to SIMPLE but no caCertificates"),
];

/// What `istioctl analyze` finds in a file: code, origin and message of each.
pub(crate) fn analyzed(mesh: &Path, file: &Path) -> Vec<String> {
    let mut analyze = Command::new(program("istioctl"));
    // Without all namespaces it looks at `default` alone.
    analyze.args(["analyze", "--all-namespaces", "--use-kube=false", "--output=json"]);
    analyze.arg("--meshConfigFile").arg(mesh).arg(file);
    let output = analyze.output().expect("it starts");
    let text = String::from_utf8_lossy(&output.stdout);
    let found: Vec<Value> = serde_json::from_str(&text).unwrap_or_else(|error| {
        panic!("{error}: {text}{}", String::from_utf8_lossy(&output.stderr));
    });
    let text = |it: &Value, key: &str| it[key].as_str().unwrap_or_default().to_owned();
    let line = |it| ["code", "origin", "message"].map(|key| text(it, key)).join(" ");
    found.iter().map(line).collect()
}

/// What keeps the above from passing whatever the manifests say.
#[test]
fn istioctl_finds_what_is_wrong() {
    let directory = tempfile::tempdir().expect("make a directory");
    let mesh = mesh_config(directory.path());
    let file = directory.path().join("all.yaml");
    let egress = built("overlays/egress-gateway");
    let wrong = egress.replace("  gateways:\n  - ", "  gateways:\n  - nowhere-");
    assert_ne!(wrong, egress);
    fs::write(&file, wrong).expect("write a file");
    let found = analyzed(&mesh, &file);
    let expected = "IST0101 VirtualService istio-egress/stripe Referenced gateway not found";
    assert!(found.iter().any(|it| it.starts_with(expected)), "{found:#?}");
}

/// What keeps the above from passing whatever the files say; and the reason for this service.
#[test]
fn istio_refuses_callers_in_custom_policies() {
    let directory = tempfile::tempdir().expect("make a directory");
    let file = directory.path().join("custom.yaml");
    for source in ["principals", "namespaces", "serviceAccounts"] {
        let policy = format!(
            "{{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {{name: x, \
             namespace: shop}}, spec: {{action: CUSTOM, provider: {{name: vaultmux}}, rules: \
             [{{from: [{{source: {{{source}: [shop]}}}}]}}]}}}}"
        );
        fs::write(&file, policy).expect("write a file");
        let (valid, said) = validates(&file);
        assert!(!valid && said.contains("CUSTOM"), "{source}: {said}");
    }
}

/// All that istiod is told in a situation, in files of this directory: values first.
fn told(situation: &Situation, directory: &Path, changes: &[Change<'_>]) -> Vec<PathBuf> {
    let values = fs::read_to_string(repository("istio/mesh/values.yaml")).expect("values.yaml");
    let ours = format!("meshConfig:\n  enableTracing: false\n  proxyInboundListenPort: {HTTPS}");
    let mut texts = vec![values.replace("\nmeshConfig:", &format!("\n{ours}"))];
    texts.extend(situation.manifests.iter().map(|directory| built(directory)));
    let services = repository("tests/it/istio").join(situation.name).join("services.yaml");
    texts.push(fs::read_to_string(services).expect("services.yaml"));
    // The third party is on this machine.
    let here = "endpoints:\n  - address: 127.0.0.1\n  resolution: STATIC";
    let mut all = vec![("resolution: DNS", here), ("targetPort: 443", "targetPort: 18444")];
    if situation.ambient {
        all.extend(AMBIENT);
    }
    all.extend_from_slice(changes);
    for text in &mut texts {
        for (from, to) in &all {
            *text = text.replace(from, to);
        }
    }
    let files = texts.iter().enumerate().map(|(number, text)| {
        let file = directory.join(format!("{number}.yaml"));
        fs::write(&file, text).expect("write a file");
        file
    });
    files.collect()
}

fn node(situation: &Situation) -> PathBuf {
    repository("tests/it/istio").join(situation.name).join("node.yaml")
}

#[test]
fn bootstraps_are_what_istiod_makes() {
    for situation in SITUATIONS {
        let directory = tempfile::tempdir().expect("make a directory");
        let files = told(situation, directory.path(), &[]);
        let mut dump = Command::new("env");
        dump.args(WITHOUT).arg(format!("PILOT_ENABLE_AMBIENT={}", situation.ambient));
        dump.arg(program("istio-xds")).args(["dump", "-mesh"]).arg(&files[0]);
        dump.arg("-node").arg(node(situation)).args(&files[1..]);
        let made = said(&mut dump);
        let kept = node(situation).with_file_name("bootstrap.yaml");
        if env::var_os("UPDATE_ISTIO").is_some() {
            fs::write(&kept, &made).expect("write a bootstrap");
        }
        let kept = fs::read_to_string(kept).unwrap_or_default();
        assert!(
            kept == made,
            "{}: not what istiod makes: UPDATE_ISTIO=1 writes it",
            situation.name
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sidecars_ask_about_what_comes_in() {
    let ports = ports();
    let world = World::start(&[("inject: true", "inject: false")], ports[1]).await;
    let Live { proxy, _istiod, _directory } = live(&SIDECAR, &world, ports, &[]).await;
    checks::sidecar(world, proxy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn gateways_ask_about_what_comes_in() {
    let ports = ports();
    let world = World::start(&[], ports[1]).await;
    let Live { proxy, _istiod, _directory } = live(&GATEWAY, &world, ports, &[]).await;
    checks::gateway(world, proxy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn gateways_of_the_gateway_api_ask_and_put_secrets_in() {
    let ports = ports();
    let world = World::start(&[("inject: true", "inject: false")], ports[1]).await;
    let Live { proxy, _istiod, _directory } = live(&GATEWAY_API, &world, ports, &[]).await;
    checks::gateway_api(world, proxy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn egress_gateways_put_keys_in() {
    let ports = ports();
    let world = World::start(&[], ports[1]).await;
    let Live { proxy, _istiod, _directory } = live(&EGRESS_GATEWAY, &world, ports, &[]).await;
    checks::egress_gateway(world, proxy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sidecars_put_keys_into_what_leaves_for_one_host() {
    let ports = ports();
    let world = World::start(&[], ports[1]).await;
    let Live { proxy, _istiod, _directory } = live(&EGRESS_SIDECAR, &world, ports, &[]).await;
    checks::egress_sidecar(world, proxy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn gateways_may_ask_by_http() {
    let ports = ports();
    let waypoint = "    - spiffe://cluster.local/ns/shop/sa/waypoint\n";
    let gateway = "    - spiffe://cluster.local/ns/istio-ingress/sa/istio-ingressgateway\n";
    let world = World::start(&[(waypoint, gateway)], ports[1]).await;
    let changes = [
        ("  provider:\n    name: vaultmux\n", "  provider:\n    name: vaultmux-http\n"),
        // components/hardening is not for it.
        ("name: envoy.filters.http.ext_authz\n", "name: none\n"),
    ];
    let Live { proxy, _istiod, _directory } = live(&GATEWAY, &world, ports, &changes).await;
    checks::http_provider(world, proxy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sidecars_ask_the_service_in_their_pod() {
    let ports = ports();
    let world = World::with("vaultmux-local.yaml", &[], ports[1]).await;
    let here = "number: 9191\n    protocol: GRPC\n    targetPort: 19191";
    let changes = [("number: 9191\n    protocol: GRPC", here)];
    let Live { proxy, _istiod, _directory } = live(&LOCAL_SIDECAR, &world, ports, &changes).await;
    checks::local_sidecar(world, proxy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_services_own_sidecar_says_who_may_ask() {
    let ports = ports();
    let world = World::with("vaultmux-behind-sidecar.yaml", &[], ports[1]).await;
    // Its port is the one that takes all connections.
    let changes = [
        ("127.0.0.1:9191", "127.0.0.1:19191"),
        ("number: 9191", "number: 18443"),
        ("- \"9191\"", "- \"18443\""),
    ];
    let Live { proxy, _istiod, _directory } = live(&BEHIND_SIDECAR, &world, ports, &changes).await;
    checks::behind_sidecar(world, proxy).await;
}

/// What the manifests warn of refuses; none of it lets anybody in.
#[tokio::test(flavor = "multi_thread")]
async fn mistakes_refuse_everything() {
    for (what, change, status) in [
        ("no such provider", ("- name: vaultmux\n", "- name: vaultmux-x\n"), 403),
        ("no such service", ("service: vaultmux-mesh.", "service: vaultmux-x."), 403),
        ("a Sidecar without the service", (", \"vaultmux-system/*\"", ""), 503),
    ] {
        let ports = ports();
        let world = World::start(&[("inject: true", "inject: false")], ports[1]).await;
        let live = live(&SIDECAR, &world, ports, &[change]).await;
        let web = world.client(&live.proxy, "shop", "web");
        let host = "orders.shop.svc.cluster.local";
        let answer = web.request("GET", host, "/orders/1", &[]).await;
        assert_eq!(answer.status, status, "{what}: {}", answer.text());
        // Nobody was asked.
        assert!(!answer.text().contains("decision_id"), "{what}: {}", answer.text());
        assert!(world.app.received().is_empty(), "{what}");
    }
    let ports = ports();
    let world = World::start(&[], ports[1]).await;
    let trimmed = ("    - vaultmux-system/*\n", "");
    let live = live(&EGRESS_SIDECAR, &world, ports, &[trimmed]).await;
    let address = live.proxy.envoy.listening(live.proxy.outbound).expect("it listens");
    let answer = Client::plain(address).request("GET", "api.stripe.com", "/", &[]).await;
    assert_eq!(answer.status, 500, "an egress sidecar without the service: {}", answer.text());
    assert!(world.payment.received().is_empty());
}
