//! The Helm chart: rendered, checked against Kubernetes' schemas, run by the service, and
//! installed into a real API server.

mod access;
mod cluster;
mod helm;
mod istioctl;
mod lint;
mod notes;
mod service;
mod sidecar;
mod wrong;

use std::{
    io::Write,
    process::{Command, Stdio},
};

use serde_json::{Value, json};

use self::helm::{Helm, Release, documents};
use crate::{harness::repository, servers::program};

/// Pages that show values.
const PAGES: [&str; 6] = [
    "charts/vaultmux-mesh/README.md",
    "docs/deploy-eks.md",
    "docs/deploy-gke.md",
    "docs/deploy-aks.md",
    "docs/envoy-gateway.md",
    "docs/migrating-from-vaultmux-server.md",
];
/// The releases of Kubernetes that manifests are checked for.
const KUBERNETES: [&str; 4] = ["1.30", "1.33", "1.34", "1.36"];
/// Groups of custom resources: the schemas of Kubernetes do not know them.
const CUSTOM: [&str; 6] = [
    "cert-manager.io/",
    "gateway.envoyproxy.io/",
    "gateway.networking.k8s.io/",
    "monitoring.coreos.com/",
    "networking.istio.io/",
    "security.istio.io/",
];

/// All values that are shown somewhere: those in `ci`, and those on pages.
fn situations() -> Vec<Release> {
    let ci = std::fs::read_dir(repository("charts/vaultmux-mesh/ci")).expect("ci is there");
    let mut found: Vec<_> = ci
        .map(|entry| {
            let path = entry.expect("an entry").path();
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            Release::new(&name, &std::fs::read_to_string(&path).expect("text"))
        })
        .collect();
    for page in PAGES {
        let text = std::fs::read_to_string(repository(page));
        let text = text.unwrap_or_else(|error| panic!("{page}: {error}"));
        let blocks = text.split("```yaml\n# ").skip(1);
        let blocks = blocks.map(|rest| rest.split("```").next().expect("a closed block"));
        let blocks: Vec<_> = blocks.filter_map(|block| block.split_once('\n')).collect();
        let policies = blocks.iter().find(|(name, _)| *name == "policies.yaml");
        let before = found.len();
        for (name, values) in &blocks {
            let values_of_chart = page.starts_with("charts/") && *name == "sidecar.yaml";
            if name.ends_with("values.yaml") || values_of_chart {
                let mut release = Release::new(&format!("{page}: {name}"), values);
                if let (Some((_, policies)), "values.yaml") = (policies, *name) {
                    release.policies(policies);
                }
                found.push(release);
            }
        }
        assert!(found.len() > before, "{page} shows no values");
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

/// Whether the release needs an API server that adds containers.
fn is_for(kubernetes: &str, release: &Release) -> bool {
    let policy = json!(true);
    let enabled = release.values.pointer("/sidecar/mutatingAdmissionPolicy/enabled");
    let adds = release.values["mode"] == "sidecar" && enabled.unwrap_or(&policy) == &policy;
    !adds || kubernetes >= "1.34"
}

#[test]
fn every_situation_renders_for_every_kubernetes() {
    let helm = Helm::new();
    let validate = program("kubernetes-validate");
    let refused = helm.template(&Release::ci("aws"), "1.29").expect_bad();
    assert!(refused.contains("requires kubeVersion: >=1.30.0-0"), "{refused}");
    for release in situations() {
        let lint = ["lint".to_owned(), "--strict".into(), helm::CHART.into()];
        helm.run(&[&lint[..], &release.arguments].concat()).expect_good();
        for kubernetes in KUBERNETES {
            if !is_for(kubernetes, &release) {
                let refused = helm.template(&release, kubernetes).expect_bad();
                assert!(refused.contains("needs Kubernetes 1.34"), "{refused}");
                continue;
            }
            let manifests = helm.template(&release, kubernetes).expect_good();
            let file = helm.write("rendered.yaml", &manifests);
            let output = Command::new(&validate)
                .args(["--strict", "-k", kubernetes])
                .arg(file)
                .output()
                .expect("it runs");
            let said = [output.stdout, output.stderr].concat();
            let said = String::from_utf8_lossy(&said);
            assert!(output.status.success(), "{} on {kubernetes}: {said}", release.name);
            for warning in said.lines().filter(|line| line.starts_with("WARN")) {
                let custom = CUSTOM.iter().any(|group| warning.contains(group));
                assert!(custom, "{} on {kubernetes}: {warning}", release.name);
            }
        }
    }
}

#[test]
fn helm_3_renders_the_same() {
    let helm = Helm::new();
    for release in situations() {
        let of_4 = documents(&helm.template(&release, "1.36").expect_good());
        let of_3 = documents(&helm.template_by("helm3", &release, "1.36").expect_good());
        assert_eq!(of_3.len(), of_4.len(), "{}", release.name);
        for mut object in of_4 {
            let same = |other: &&Value| {
                let names = ["kind", "metadata"].map(|key| other[key] == object[key]);
                names == [true; 2]
            };
            let mut other = of_3.iter().find(same).expect("the same object").clone();
            // Random keys.
            if object["kind"] == "Secret" {
                object["data"] = Value::Null;
                other["data"] = Value::Null;
            }
            assert_eq!(other, object, "{}", release.name);
        }
    }
}

#[test]
fn custom_resources_have_no_fields_but_their_owners() {
    let helm = Helm::new();
    let mut seen = std::collections::BTreeSet::new();
    for release in situations() {
        let manifests = documents(&helm.template(&release, "1.36").expect_good());
        let custom: Vec<_> = manifests.iter().filter(|object| is_custom(object)).collect();
        let (good, said) = read_strictly(&custom);
        assert!(good, "{}: {said}", release.name);
        assert_eq!(said.lines().count(), custom.len(), "{said}");
        seen.extend(custom.iter().map(|object| object["kind"].to_string()));
    }
    assert_eq!(seen.len(), 10, "{seen:?}");
    for (kind, version, spec) in [
        ("AuthorizationPolicy", "security.istio.io/v1", json!({"action": "CUSTOM", "providr": {}})),
        ("SecurityPolicy", "gateway.envoyproxy.io/v1alpha1", json!({"extAuth": {"failOpn": true}})),
        ("Certificate", "cert-manager.io/v1", json!({"issuer": {}})),
    ] {
        let object =
            json!({"apiVersion": version, "kind": kind, "metadata": {"name": "a"}, "spec": spec});
        let (good, said) = read_strictly(&[&object]);
        assert!(!good && said.contains("unknown field"), "{kind}: {said}");
    }
}

#[test]
fn alerts_and_dashboard_ask_what_prometheus_understands() {
    let dashboard = repository(helm::CHART).join("files/dashboard.json");
    let dashboard = std::fs::read_to_string(dashboard).expect("text");
    let dashboard: Value = serde_json::from_str(&dashboard).expect("JSON");
    let release = Release::ci("tokens");
    let manifests = documents(&Helm::new().template(&release, "1.36").expect_good());
    let alerts = helm::object(&manifests, "PrometheusRule", "vaultmux-mesh");
    let (good, said) = read_strictly(&[&dashboard, alerts]);
    assert!(good && said.starts_with("dashboard "), "{said}");
    let mut wrong = alerts.clone();
    wrong["spec"]["groups"][0]["rules"][0]["expr"] = "sum by (a) vaultmux_policies >".into();
    let (good, said) = read_strictly(&[&wrong]);
    assert!(!good && said.contains("parse error"), "{said}");
}

fn is_custom(object: &Value) -> bool {
    let version = object["apiVersion"].as_str().expect("a version");
    CUSTOM.iter().any(|group| version.starts_with(group))
}

/// Whether custom resources are what their owners' types say, and what was said of them.
fn read_strictly(objects: &[&Value]) -> (bool, String) {
    let mut reader = Command::new(program("resources"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it runs");
    let mut stdin = reader.stdin.take().expect("piped");
    for object in objects {
        writeln!(stdin, "---\n{object}").expect("written");
    }
    drop(stdin);
    let output = reader.wait_with_output().expect("it ends");
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(said).expect("text"))
}
