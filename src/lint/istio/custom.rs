//! Policies that have Istio ask us, and the waypoints that they are for.

use crate::lint::{
    Findings,
    document::{Document, Object},
    mesh::{Mesh, is_custom, label, targets},
    rules,
};

/// What Istio refuses in a CUSTOM policy: it runs before anyone's identity is known.
const SOURCES: [&str; 10] = [
    "principals",
    "notPrincipals",
    "namespaces",
    "notNamespaces",
    "serviceAccounts",
    "notServiceAccounts",
    "trustDomains",
    "notTrustDomains",
    "requestPrincipals",
    "notRequestPrincipals",
];
const KEYS: [&str; 5] = [
    "source.principal",
    "source.namespace",
    "source.serviceAccount",
    "source.trustDomain",
    "request.auth.",
];

pub(super) fn check(
    document: &Document,
    object: &Object,
    mesh: &Mesh<'_>,
    found: &mut Findings<'_>,
) {
    if !is_custom(document) {
        return;
    }
    let root = &document.root;
    let Some(spec) = root.get("spec") else { return };
    let rules_line = spec.line_of("rules");
    if spec.items_at("rules").is_empty() {
        found.add(&rules::CUSTOM_WITHOUT_RULES, rules_line);
    }
    for rule in spec.items_at("rules") {
        for from in rule.items_at("from") {
            let Some(source) = from.get("source") else { continue };
            for entry in source.entries() {
                if SOURCES.contains(&&*entry.key) {
                    found.add_with(&rules::CUSTOM_BY_IDENTITY, entry.line, entry.key.clone());
                }
            }
        }
        for when in rule.items_at("when") {
            let key = when.text_at("key");
            if KEYS
                .iter()
                .any(|known| key == *known || (known.ends_with('.') && key.starts_with(known)))
            {
                found.add_with(&rules::CUSTOM_BY_IDENTITY, when.line_of("key"), key);
            }
        }
    }
    if label(document, "metadata/annotations/istio.io/dry-run") == "true" {
        let line = root.get("metadata").map_or(root.line, |it| it.line_of("annotations"));
        found.add(&rules::CUSTOM_DRY_RUN, line);
    }
    let targets = targets(document);
    for class in targets.iter().filter(|to| to.text_at("kind") == "GatewayClass") {
        if !mesh.is_root(&object.namespace) {
            found.add_with(&rules::CUSTOM_UNATTACHED, class.line, class.text_at("name"));
        }
    }
    mesh.check_targets(document, object, found);
    if let Some(target) = targets.first()
        && mesh.is_bypassed(document, object)
    {
        found.add(&rules::WAYPOINT_BYPASSED, target.line);
    }
    if mesh.asks_about_itself(document, object) {
        found.add(&rules::CUSTOM_ON_SERVICE, spec.line);
    }
    if targets.is_empty()
        && mesh.is_ambient(document, &object.namespace)
        && !is_for_sidecars(document, object, mesh)
    {
        let detail = format!("namespace {:?}", object.namespace);
        found.add_with(&rules::CUSTOM_IN_AMBIENT, spec.line, detail);
    }
}

/// Whether what is ambient in the namespace is asked about by other policies, and cannot be reached
/// but through its waypoint.
fn is_for_sidecars(document: &Document, object: &Object, mesh: &Mesh<'_>) -> bool {
    let mut others =
        mesh.custom().filter(|(it, of)| of.namespace == object.namespace && it.may_join(document));
    others.any(|(it, of)| !targets(it).is_empty() && !mesh.is_bypassed(it, of))
}

/// A waypoint that a CUSTOM policy is for has to say whose requests it passes on.
pub(super) fn check_waypoint(
    document: &Document,
    object: &Object,
    mesh: &Mesh<'_>,
    found: &mut Findings<'_>,
) {
    let class = document.root.at("spec/gatewayClassName");
    let Some(class) = class.filter(|it| it.text() == Some("istio-waypoint")) else { return };
    let is_used = mesh.custom().any(|(policy, of)| {
        let targets = targets(policy);
        of.namespace == object.namespace
            && targets.iter().any(|to| {
                // A waypoint serves the services of its namespace.
                to.text_at("kind") != "Gateway" || to.text_at("name") == object.name
            })
    });
    let annotation = "metadata/annotations/ambient.istio.io/xfcc-include-client-identity";
    if is_used && label(document, annotation) != "true" {
        found.add(&rules::WAYPOINT_WITHOUT_IDENTITY, class.line);
    }
}
