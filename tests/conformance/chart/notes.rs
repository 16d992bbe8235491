//! What `helm install` says in the end.

use super::helm::{CHART, Helm, NAMESPACE, Release};

/// The notes on a release, with further arguments.
pub(super) fn notes(helm: &Helm, release: &Release, more: &[&str]) -> String {
    let install = ["install", "vaultmux-mesh", CHART, "--namespace", NAMESPACE];
    let install = install.into_iter().chain(["--dry-run=client"]);
    let values = release.arguments.iter().map(String::as_str);
    let arguments: Vec<_> = install.chain(values).chain(more.iter().copied()).collect();
    let said = helm.run(&arguments).expect_good();
    said.split_once("\nNOTES:\n").expect("notes").1.to_owned()
}

/// Their mesh configuration.
pub(super) fn mesh_config(notes: &str) -> String {
    let (_, rest) = notes.split_once("\n  meshConfig:\n").expect("a mesh configuration");
    let lines = rest.lines().map_while(|line| line.strip_prefix("    "));
    lines.collect::<Vec<_>>().join("\n") + "\n"
}

const NO_POLICIES: &str = "THERE ARE NO POLICIES: EVERYTHING IS DENIED";
const NO_PROXY: &str = "NO PROXY MAY ASK";
const ANY_IDENTITY: &str = "CAN CLAIM ANY IDENTITY to port 9191";
const IN_THE_CLEAR: &str = "REST answers in the clear";
const NO_NETWORK_POLICY: &str =
    "Without `networkPolicy.enabled` the whole cluster reaches the ports";
const NETWORK_KEEPS: &str = "The NetworkPolicy keeps everybody from port";
const ISTIO_KEEPS: &str = "Istio keeps everybody from port";
const PROMETHEUS: &str = "Prometheus is kept out";

const ALL: [&str; 8] = [
    NO_POLICIES,
    NO_PROXY,
    ANY_IDENTITY,
    IN_THE_CLEAR,
    NO_NETWORK_POLICY,
    NETWORK_KEEPS,
    ISTIO_KEEPS,
    PROMETHEUS,
];

#[test]
fn notes_say_what_is_missing_and_nothing_else() {
    let helm = Helm::new();
    let networks = "listeners.grpc.trustedPeers={10.0.0.0/8,spiffe://cluster.local/ns/a/sa/b}";
    for (name, set, expected) in [
        ("no-policies", "", &[NO_POLICIES, NO_PROXY][..]),
        ("no-policies", "networkPolicy.enabled=false", &[NO_POLICIES, NO_PROXY, NO_NETWORK_POLICY]),
        (
            "no-policies",
            "listeners.rest.enabled=true",
            &[NO_POLICIES, NO_PROXY, IN_THE_CLEAR, NETWORK_KEEPS],
        ),
        ("aws", "", &[]),
        ("aws", networks, &[ANY_IDENTITY]),
        ("aws", "networkPolicy.grpcFrom=null", &[NETWORK_KEEPS]),
        ("kubernetes", "", &[]),
        ("tokens", "", &[NO_PROXY]),
        ("tokens", "networkPolicy.adminFrom=null", &[NO_PROXY, PROMETHEUS]),
        ("envoy-gateway", "", &[]),
        // A mesh hides nothing.
        ("istio", "", &[]),
        ("istio", "listeners.grpc.trustedPeers={10.0.0.0/8}", &[ANY_IDENTITY]),
        (
            "istio",
            "listeners.grpc.trustedPeers=null,istio.protect=null,istio.callers.grpc=null",
            &[NO_PROXY],
        ),
        ("istio", "istio.peerAuthentication=false", &[IN_THE_CLEAR]),
        ("istio", "istio.sidecar=false", &[IN_THE_CLEAR]),
        ("istio", "istio.callers.grpc=null", &[ISTIO_KEEPS]),
        ("istio", "metrics.serviceMonitor.enabled=true,istio.callers.admin=null", &[PROMETHEUS]),
        ("istio", "networkPolicy.enabled=false", &[NO_NETWORK_POLICY]),
        ("istio-tls", "", &[]),
        ("istio-tls", "istio.callers.grpc=null", &[ISTIO_KEEPS]),
        ("sidecar", "", &[]),
    ] {
        let said = notes(&helm, &Release::ci(name), &["--set", set]);
        let found: Vec<_> = ALL.into_iter().filter(|warning| said.contains(warning)).collect();
        assert_eq!(found, expected, "{name} {set}: {said}");
    }
    let said = notes(&helm, &Release::ci("sidecar"), &[]);
    assert!(said.contains("whatever its cloud identity may"), "{said}");
    let said = notes(&helm, &Release::ci("no-policies"), &[]);
    assert!(!said.contains("9191") && !said.contains("8080"), "ports that are closed: {said}");
    let said = notes(&helm, &Release::ci("aws"), &[]);
    assert!(said.contains("vaultmux-system.svc.cluster.local: 9191 for ext_authz"), "{said}");
}
