//! One bad sample per rule, one edit away from a good one.

mod random;
mod samples;
mod shapes;
mod together;

use std::collections::BTreeSet;

use self::samples::{CASES, ENVOY, GOOD};
use super::{RULES, Report, Source, lint};

fn linted(text: &str) -> Report {
    lint(&[Source { name: "sample.yaml".into(), text: text.into() }])
}

fn ids(report: &Report) -> BTreeSet<&str> {
    report.findings.iter().map(|finding| finding.rule.id).collect()
}

#[test]
fn good_samples_are_clean() {
    for (name, good) in GOOD {
        let report = linted(good);
        let found: Vec<_> =
            report.findings.iter().map(|it| (it.line, it.rule.id, it.message())).collect();
        assert!(found.is_empty(), "{name}: {found:#?}");
        assert!(report.unreadable.is_empty(), "{name}: {:?}", report.unreadable);
    }
}

#[test]
fn each_bad_sample_has_its_finding_on_its_line_and_no_other() {
    let (mut covered, mut wrong) = (BTreeSet::new(), Vec::new());
    for case in CASES {
        let (rule, good) = (case.rule, case.good);
        assert!(good.contains(case.from), "{rule}: no {:?} in the sample", case.from);
        let bad = good.replacen(case.from, case.to, 1);
        let report = linted(&bad);
        let line = 1 + bad.lines().position(|line| line.contains(case.at)).expect(case.at) as u64;
        let found: Vec<_> = report.findings.iter().map(|it| (it.line, it.rule.id)).collect();
        let right = found.contains(&(line, rule)) && ids(&report) == BTreeSet::from([rule]);
        if !right || !report.unreadable.is_empty() {
            let unreadable = &report.unreadable;
            wrong.push(format!("{rule} in line {line}: {:?}: {found:?} {unreadable:?}", case.to));
        }
        covered.insert(rule);
    }
    for shape in shapes::all() {
        wrong.extend(shape.check().err());
        covered.extend((!shape.rule.is_empty()).then_some(shape.rule));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let all: BTreeSet<_> = RULES.iter().map(|rule| rule.id).collect();
    assert_eq!(covered, all, "every rule has a bad sample");
}

#[test]
fn rules_say_what_why_and_how() {
    let ids: BTreeSet<_> = RULES.iter().map(|rule| rule.id).collect();
    assert_eq!(ids.len(), RULES.len(), "ids are unique");
    for rule in RULES {
        assert!(
            rule.id.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'),
            "{}",
            rule.id
        );
        for text in [rule.what, rule.why, rule.help] {
            assert!(text.len() > 10 && !text.ends_with('.') && !text.contains('\n'), "{}", rule.id);
        }
    }
}

#[test]
fn a_comment_allows_what_is_meant() {
    let bad = "failure_mode_allow: true";
    for (comment, allowed) in [
        ("# vaultmux-mesh lint: allow authz-fails-open", true),
        ("# vaultmux-mesh lint: allow shadow-mode, authz-fails-open", true),
        ("# vaultmux-mesh lint: allow authz-fails-open (it is a demonstration)", true),
        ("# vaultmux-mesh lint: allow authz", false),
        ("# vaultmux-mesh lint: allow authz-fails-opened", false),
        ("# authz-fails-open", false),
    ] {
        for text in [
            ENVOY.replacen("failure_mode_allow: false", &format!("{bad} {comment}"), 1),
            ENVOY.replacen(
                "              failure_mode_allow: false",
                &format!("              {comment}\n              # Because.\n              {bad}"),
                1,
            ),
        ] {
            assert_eq!(linted(&text).findings.is_empty(), allowed, "{comment}");
        }
    }
}

#[test]
fn documents_of_other_kinds_are_named_and_skipped() {
    let text = "apiVersion: apps/v1\nkind: Deployment\n---\nkey: 1\n---\n[]\n---\njust text\n";
    let report = linted(text);
    let notes: Vec<_> = report.notes.iter().map(|note| (note.line, note.text.as_str())).collect();
    assert!(report.findings.is_empty() && report.unreadable.is_empty());
    assert_eq!(notes[0], (1, "Deployment of apps/v1 is not looked at"));
    assert_eq!(notes[1], (4, "a document of no known kind is not looked at"));
    assert_eq!(notes.len(), 4, "{notes:?}");
    // A bad document does not hide the others.
    let report = linted(&format!("a: [\n---\n{ENVOY}").replace("allow: false", "allow: true"));
    assert_eq!(report.unreadable.len(), 1);
}

/// The same in JSON, as a config dump, with Istio's way to wrap types, in lowerCamelCase.
#[test]
fn dumps_and_wrapped_types_are_read_alike() {
    let dump = r#"{"configs": [
      {"@type": "type.googleapis.com/envoy.admin.v3.ClustersConfigDump",
       "static_clusters": [{"cluster": {"@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster", "name": "other"}}]},
      {"@type": "type.googleapis.com/envoy.admin.v3.ListenersConfigDump",
       "dynamic_listeners": [{"active_state": {"listener": {"filter_chains": [{"filters": [{"typed_config": {
         "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
         "rds": {"route_config_name": "8080"},
         "http_filters": [{"typed_config": {
           "@type": "type.googleapis.com/udpa.type.v1.TypedStruct",
           "type_url": "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz",
           "value": {
             "failureModeAllow": true,
             "grpcService": {"envoyGrpc": {"clusterName": "none"}, "timeout": "600s"}}}}]}}]}]}}}]},
      {"@type": "type.googleapis.com/envoy.admin.v3.RoutesConfigDump",
       "dynamic_route_configs": [{"route_config": {"name": "8080", "virtual_hosts": [
         {"name": "app", "domains": ["app"], "routes": [{"match": {"prefix": "/"}}]}]}}]}]}"#;
    let report = linted(dump);
    for (rule, line) in [
        ("authz-fails-open", 12),
        ("absent-cluster", 13),
        ("authz-timeout", 13),
        ("no-catch-all-domain", 15),
        ("path-not-normalised", 5),
    ] {
        let found = report.findings.iter().any(|it| it.rule.id == rule && it.line == line);
        assert!(found, "{rule}: {:?}", report.findings);
    }
}

/// Istio keeps its mesh configuration as text in a ConfigMap, and so may we ours.
#[test]
fn text_in_config_maps_is_read_with_its_lines() {
    let text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio}\ndata:\n  mesh: |-\n    \
                pathNormalization: {normalization: MERGE_SLASHES}\n    extensionProviders:\n    - \
                name: p\n      envoyExtAuthzGrpc:\n        timeout: 1s\n        statusOnError: \
                \"503\"\n        failOpen: true\n  vaultmux.yaml: |\n    backends: {}\n    \
                listeners:\n      grpc: {address: \"0.0.0.0:9191\"}\n";
    let report = linted(text);
    let found: Vec<_> = report.findings.iter().map(|it| (it.line, it.rule.id)).collect();
    assert_eq!(found, [(12, "authz-fails-open"), (16, "trusted-peers-missing")]);
}

/// Directories are alternatives, and their kustomizations say which namespace they are for.
#[test]
fn kustomizations_give_namespaces_and_stand_apart() {
    let source = |name: &str, text: &str| Source { name: name.into(), text: text.into() };
    let kustomization = |namespace: &str| {
        format!(
            "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nnamespace: {namespace}\n"
        )
    };
    let policy = |provider: &str| {
        format!(
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: ask}}\n\
             spec: {{action: CUSTOM, provider: {{name: {provider}}}, rules: [{{}}]}}\n"
        )
    };
    let namespace = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: \
                     {istio.io/dataplane-mode: ambient}}\n";
    let mut sources = vec![
        source("a/kustomization.yaml", &kustomization("store")),
        source("a/ask.yaml", &policy("one")),
        source("b/kustomization.yaml", &kustomization("shop")),
        source("b/ask.yaml", &policy("two")),
        source("namespace.yaml", namespace),
    ];
    let report = lint(&sources);
    let found: Vec<_> = report.findings.iter().map(|it| (it.source, it.rule.id)).collect();
    assert_eq!(found, [(3, "custom-in-ambient")]);
    assert!(report.notes.is_empty(), "{:?}", report.notes);
    sources.push(source("b/other.yaml", &policy("three")));
    assert!(ids(&lint(&sources)).contains("two-providers"));
}
