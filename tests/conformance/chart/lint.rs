//! What the chart renders, and what its notes say for Istio's mesh configuration, held against our
//! own `lint`.

use std::{path::Path, process::Command};

use serde_json::Value;

use super::{
    helm::{Helm, Release},
    notes::{mesh_config, notes},
    situations,
};

/// What `lint` finds in files that go together, as rule and place.
fn findings(files: &[&Path]) -> Vec<String> {
    let output = Command::new(env!("CARGO_BIN_EXE_vaultmux-mesh"))
        .args(["lint", "--output", "json"])
        .args(files)
        .output()
        .expect("it runs");
    let said: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        panic!("{error}: {}", String::from_utf8_lossy(&output.stderr));
    });
    let findings = said["findings"].as_array().expect("findings");
    findings
        .iter()
        .map(|it| format!("{} at line {}: {}", it["rule"], it["line"], it["message"]))
        .collect()
}

#[test]
fn every_situation_is_clean() {
    let helm = Helm::new();
    for release in situations() {
        let manifests = helm.template(&release, "1.36").expect_good();
        let file = helm.write("rendered.yaml", &manifests);
        let found = findings(&[&file]);
        assert!(found.is_empty(), "{}: {found:#?}", release.name);
    }
}

#[test]
fn the_mesh_configuration_of_the_notes_is_clean_with_it() {
    let helm = Helm::new();
    for name in ["istio", "istio-tls"] {
        let release = Release::ci(name);
        let mesh = helm.write("mesh.yaml", &mesh_config(&notes(&helm, &release, &[])));
        let manifests = helm.template(&release, "1.36").expect_good();
        let manifests = helm.write("rendered.yaml", &manifests);
        let found = findings(&[&mesh, &manifests]);
        assert!(found.is_empty(), "{name}: {found:#?}");
    }
}

/// What keeps the above from passing whatever is rendered.
#[test]
fn what_is_dangerous_is_found_in_what_is_rendered() {
    let helm = Helm::new();
    for (values, rule) in [
        (
            "extraObjects: [{apiVersion: gateway.envoyproxy.io/v1alpha1, kind: SecurityPolicy, \
             metadata: {name: a}, spec: {extAuth: {failOpen: true}}}]",
            "authz-fails-open",
        ),
        (
            "extraObjects: [{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, \
             metadata: {name: a}, spec: {action: CUSTOM, provider: {name: a}}}]",
            "custom-without-rules",
        ),
    ] {
        let mut release = Release::ci("aws");
        let file = helm.write("more.yaml", values).display().to_string();
        release.arguments.extend(["--values".to_owned(), file]);
        let manifests = helm.template(&release, "1.36").expect_good();
        let found = findings(&[&helm.write("rendered.yaml", &manifests)]);
        assert!(found.iter().any(|it| it.contains(rule)), "{rule}: {found:#?}");
    }
}
