//! `egctl`, Envoy Gateway's translator without a cluster.

use std::{fmt::Write as _, path::Path, process::Command};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use serde_json::{Value, json};

use super::{bootstrap, world::block};
use crate::{
    harness::{Certificates, repository},
    servers::program,
};

/// Kinds of the chart that Envoy Gateway reads.
const READ: [&str; 5] =
    ["BackendTLSPolicy", "EnvoyExtensionPolicy", "ReferenceGrant", "SecurityPolicy", "Service"];

/// What Envoy Gateway says of resources, and makes of them.
pub(super) struct Translation {
    said: Value,
}

/// A change to the resources: what stands there, and what shall.
pub(super) type Change<'c> = (&'c str, &'c str);

/// What the chart renders with the page's values.
pub(super) fn rendered() -> Vec<Value> {
    let directory = tempfile::tempdir().expect("a directory");
    let values = directory.path().join("values.yaml");
    std::fs::write(&values, block("values.yaml")).expect("written");
    let mut helm = Command::new(program("helm"));
    helm.args(["template", "vaultmux-mesh", "--namespace", "vaultmux-system"]);
    helm.args(["--kube-version", "1.36", "--values"]).arg(&values);
    helm.arg(repository("charts/vaultmux-mesh")).env("HOME", directory.path());
    let manifests = said(helm.env_remove("KUBECONFIG"));
    let documents = manifests.split("\n---\n").filter(|text| text.contains("\nkind:"));
    documents.map(|text| serde_saphyr::from_str(text).expect("YAML")).collect()
}

/// A command's output; it has to succeed.
pub(super) fn said(command: &mut Command) -> String {
    let output = command.output().expect("it starts");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {error}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// All that Envoy Gateway is told, but for certificates: the page's resources, the chart's, and
/// what a cluster has.
pub(super) fn told(changes: &[Change<'_>]) -> String {
    let mut text = [block("gateway.yaml"), block("egress.yaml")].join("---\n");
    for mut object in rendered() {
        let kind = object["kind"].as_str().expect("a kind");
        if !READ.contains(&kind) || object["spec"]["clusterIP"] == "None" {
            continue;
        }
        if kind == "Service" {
            object["spec"]["clusterIP"] = "127.0.0.1".into();
        }
        write!(text, "---\n{object}\n").expect("room");
    }
    let services = repository("tests/it/envoy_gateway/services.yaml");
    let services = std::fs::read_to_string(services).expect("services.yaml");
    write!(text, "---\n{services}").expect("room");
    for (from, to) in changes {
        assert!(text.contains(from), "no `{from}`");
        text = text.replace(from, to);
    }
    text
}

/// The certificates that the resources name, from files of these names without extension:
/// the gateways' own, and those they show the service.
pub(super) fn certificates(directory: &Path, [served, shown]: [&str; 2]) -> String {
    let data = |name: String| {
        BASE64.encode(std::fs::read(directory.join(name)).expect("the certificate was made"))
    };
    let mut text = String::new();
    for (kind, namespace, name, file) in [
        ("Secret", "edge", "edge-tls", served),
        ("Secret", "egress", "egress-tls", served),
        ("Secret", "envoy-gateway-system", "edge-client", shown),
        ("ConfigMap", "edge", "workload-ca", "ca"),
        ("ConfigMap", "egress", "workload-ca", "ca"),
        ("ConfigMap", "vaultmux-system", "vaultmux-ca", "ca"),
    ] {
        let mut object = json!({"apiVersion": "v1", "kind": kind,
            "metadata": {"name": name, "namespace": namespace}});
        if kind == "Secret" {
            object["type"] = "kubernetes.io/tls".into();
            object["data"] = json!({"tls.crt": data(format!("{file}.crt")),
                "tls.key": data(format!("{file}.key"))});
        } else {
            let authority = std::fs::read_to_string(directory.join(format!("{file}.crt")));
            object["data"] = json!({"ca.crt": authority.expect("made")});
        }
        write!(text, "---\n{object}\n").expect("room");
    }
    text
}

// === impl Translation ===

impl Translation {
    /// Of the page's resources and the chart's, with these changes.
    pub(super) fn of(changes: &[Change<'_>]) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("all.yaml");
        // Their content is in no bootstrap.
        Certificates::create(directory.path());
        let certificates = certificates(directory.path(), ["tls", "tls"]);
        std::fs::write(&file, told(changes) + &certificates).expect("written");
        let mut egctl = Command::new(program("egctl"));
        egctl.args(["x", "translate", "--from", "gateway-api", "--to", "gateway-api,xds"]);
        let said = said(egctl.args(["--output", "json", "--file"]).arg(&file));
        Self { said: serde_json::from_str(&said).expect("JSON") }
    }

    /// Envoy Gateway took every policy and route, and found all that they name.
    pub(super) fn assert_accepted(&self) {
        assert!(self.refused().is_empty(), "{:?}", self.refused());
    }

    /// What Envoy Gateway holds against the resources.
    pub(super) fn refused(&self) -> Vec<String> {
        let mut found = Vec::new();
        for (kind, places) in [
            ("securityPolicies", "ancestors"),
            ("envoyExtensionPolicies", "ancestors"),
            ("clientTrafficPolicies", "ancestors"),
            ("backendTLSPolicies", "ancestors"),
            ("httpRoutes", "parents"),
        ] {
            let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
            let objects = list(&self.said[kind]);
            assert!(objects.len() >= 2, "{kind}: {objects:?}");
            for object in objects {
                let name = &object["metadata"]["name"];
                let states = list(&object["status"][places]);
                if states.is_empty() {
                    found.push(format!("{kind} {name}: nobody took it"));
                }
                let conditions = states.iter().flat_map(|state| list(&state["conditions"]));
                let good = |it: &Value| {
                    let told = ["Accepted", "ResolvedRefs", "Programmed"];
                    told.iter().all(|kind| it["type"] != *kind) || it["status"] == "True"
                };
                let bad = conditions.filter(|condition| !good(condition));
                found.extend(bad.map(|condition| format!("{kind} {name}: {condition}")));
            }
        }
        found
    }

    /// The configuration of a gateway that is in a namespace of its name.
    pub(super) fn bootstrap(&self, gateway: &str) -> String {
        let made = bootstrap::of(&self.said["xds"][format!("{gateway}/{gateway}")]);
        serde_json::to_string_pretty(&made).expect("plain JSON") + "\n"
    }
}
