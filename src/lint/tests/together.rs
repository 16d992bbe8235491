//! What several documents say together.

use std::collections::BTreeSet;

use super::{ids, linted, samples::ENVOY};
use crate::lint::{Source, lint};

const AUTHZ: &str = "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz";

/// Files that Envoy watches are read with the bootstrap that names what is in them, and findings
/// are where the mistake is.
#[test]
fn what_stands_in_files_of_resources_is_found_there() {
    let source = |name: &str, text: &str| Source { name: name.into(), text: text.into() };
    let (above, rest) = ENVOY.split_once("          route_config:\n").expect("a sample");
    let (routes, clusters) = rest.split_once("  clusters:\n").expect("a sample");
    let bootstrap =
        format!("{above}          rds: {{route_config_name: edge}}\n  clusters:\n{clusters}");
    let routes: String = routes
        .lines()
        .map(|line| format!("{}\n", line.strip_prefix("          ").unwrap_or(line)))
        .collect();
    let kind = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration";
    let routes = format!("resources:\n- \"@type\": {kind}\n  name: edge\n{routes}");
    let all = |routes: &str| {
        let sources = [source("bootstrap.yaml", &bootstrap), source("rds.yaml", routes)];
        let report = lint(&sources);
        assert!(report.unreadable.is_empty(), "{:?}", report.unreadable);
        let found = report.findings.iter();
        found.map(|it| (it.source, it.rule.id)).collect::<Vec<_>>()
    };
    assert_eq!(all(&routes), []);
    let host = "    domains: [api.stripe.test]\n";
    assert!(routes.contains(host), "{routes}");
    let off = format!(
        "{host}    typed_per_filter_config: {{envoy.filters.http.ext_authz: {{\"@type\": \
         {AUTHZ}PerRoute, disabled: true}}}}\n"
    );
    let off = routes.replacen(host, &off, 1);
    assert_eq!(all(&off), [(1, "authz-disabled")]);
    let narrow = routes.replacen("- match: {prefix: /}", "- match: {prefix: /a}", 1);
    assert_eq!(all(&narrow), [(1, "no-catch-all-route")]);
    // By itself, where nothing says what the filters are called.
    assert_eq!(ids(&lint(&[source("rds.yaml", &off)])), BTreeSet::from(["authz-disabled"]));
    let filter = format!(
        "resources:\n- \"@type\": type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig\n  \
         name: ask\n  typed_config: {{\"@type\": {AUTHZ}, failure_mode_allow: true}}\n"
    );
    assert!(ids(&linted(&filter)).contains("authz-fails-open"));
}

/// A mesh configuration that Istio reads as a whole has no other providers than it says.
#[test]
fn a_mesh_without_providers_has_none() {
    let mesh = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio}\ndata:\n  mesh: |-\n    \
                rootNamespace: istio-system\n---\n";
    let text = mesh.to_owned() + &custom("shop", "vaultmux", "");
    assert_eq!(ids(&linted(&text)), BTreeSet::from(["provider-missing"]));
}

fn custom(namespace: &str, provider: &str, more: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: a, namespace: \
         {namespace}}}\nspec: {{action: CUSTOM, provider: {{name: {provider}}}, rules: [{{to: \
         [{{operation: {{notPorts: [\"9191\"]}}}}]}}]{more}}}\n---\n"
    )
}

#[test]
fn two_providers_meet_where_policies_hold_for_the_same_workloads() {
    let labels = |labels: &str| format!(", selector: {{matchLabels: {{{labels}}}}}");
    let target = |name: &str| format!(", targetRefs: [{{kind: Gateway, name: {name}}}]");
    let many: Vec<_> = (0..12).map(|n| format!("l{n}: x")).collect();
    let many = labels(&many.join(", "));
    for (left, right, meet) in [
        (("a", String::new()), ("a", String::new()), true),
        (("a", String::new()), ("b", String::new()), false),
        (("a", String::new()), ("istio-system", String::new()), true),
        (("istio-system", String::new()), ("istio-system", labels("app: x")), true),
        (("a", labels("app: x")), ("a", String::new()), true),
        (("a", labels("app: x")), ("a", labels("app: y")), false),
        (("a", labels("app: x")), ("a", labels("tier: z, app: x")), true),
        (("a", labels("app: x, tier: z")), ("a", labels("app: x, zone: y")), false),
        (("a", many.clone()), ("a", many), true),
        (("a", target("edge")), ("a", target("edge")), true),
        (("a", target("edge")), ("a", target("other")), false),
        (("a", target("edge")), ("a", String::new()), false),
    ] {
        for (left, right) in [(&left, &right), (&right, &left)] {
            let text = custom(left.0, "one", &left.1) + &custom(right.0, "two", &right.1);
            let found = linted(&text);
            assert_eq!(ids(&found).contains("two-providers"), meet, "{left:?} {right:?}");
            let same = custom(left.0, "one", &left.1) + &custom(right.0, "one", &right.1);
            assert!(!ids(&linted(&same)).contains("two-providers"), "{left:?} {right:?}");
        }
    }
}

/// Comparing each with each would take minutes here.
#[test]
fn many_policies_are_looked_at_once() {
    let mut text = String::new();
    for n in 0..5_000 {
        let selector = format!(", selector: {{matchLabels: {{app: a{n}, tier: t, zone: z}}}}");
        text += &custom("shop", if n % 2 == 0 { "one" } else { "two" }, &selector);
    }
    assert!(!ids(&linted(&text)).contains("two-providers"));
    text += &custom("shop", "three", ", selector: {matchLabels: {app: a4000}}");
    let report = linted(&text);
    let found = report.findings.iter().filter(|it| it.rule.id == "two-providers");
    assert_eq!(found.count(), 1);
}
