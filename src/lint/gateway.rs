//! Envoy Gateway's policies.

use super::{
    Findings,
    document::{Document, Object},
    envoy::{filter::AUTHZ, proc},
    mesh::{Mesh, targets},
    rules,
    tree::Node,
};

/// Longer than anyone waits for a decision.
const LONGEST_CHECK: f64 = 10.0;
/// Longer than anyone waits for a secret.
const LONGEST_MESSAGE: f64 = 30.0;

pub(super) fn check(
    document: &Document,
    object: &Object,
    mesh: &Mesh<'_>,
    found: &mut Findings<'_>,
) {
    if object.group != "gateway.envoyproxy.io" {
        return;
    }
    let Some(spec) = document.root.get("spec") else { return };
    match &*object.kind {
        "SecurityPolicy" => {
            check_security(spec, object, mesh, found);
            check_bound(spec, "extAuth", document, object, mesh, found);
            check_replaced(document, object, mesh, found);
        }
        "EnvoyExtensionPolicy" => {
            check_bound(spec, "extProc", document, object, mesh, found);
            for proc in spec.items_at("extProc") {
                check_proc(proc, object, mesh, found);
            }
        }
        "ClientTrafficPolicy" => check_client(spec, found),
        _ => {}
    }
}

fn check_security(spec: &Node, object: &Object, mesh: &Mesh<'_>, found: &mut Findings<'_>) {
    if let Some(authz) = spec.get("extAuth") {
        if authz.true_at("failOpen") {
            found.add(&rules::AUTHZ_FAILS_OPEN, authz.line_of("failOpen"));
        }
        if authz.true_at("recomputeRoute") {
            found.add(&rules::ROUTE_CACHE_CLEARED, authz.line_of("recomputeRoute"));
        }
        if authz.get_even_empty("bodyToExtAuth") {
            found.add(&rules::BODY_IN_CHECK, authz.line_of("bodyToExtAuth"));
        }
        if authz.get("statusOnError").is_none() {
            found.add(&rules::OUTAGE_LOOKS_LIKE_DENIAL, authz.line);
        }
        let line = authz.line_of("timeout");
        match authz.seconds_at("timeout") {
            None => found.add_with(&rules::AUTHZ_TIMEOUT, line, "none is set"),
            Some(seconds) if seconds == 0.0 || seconds > LONGEST_CHECK => {
                found.add_with(&rules::AUTHZ_TIMEOUT, line, format!("{seconds} s"));
            }
            Some(_) => {}
        }
        // Over HTTP it is always sent.
        let listed = authz.texts_at("headersToExtAuth");
        let proves = |name: &&str| name.eq_ignore_ascii_case("authorization");
        if authz.get("grpc").is_some() && !listed.is_empty() && !listed.iter().any(proves) {
            let line = authz.line_of("headersToExtAuth");
            found.add_with(&rules::IDENTITY_WITHHELD, line, "authorization is not among them");
        }
    }
    let with_proc = mesh.objects("EnvoyExtensionPolicy").any(|(it, of)| {
        of.namespace == object.namespace && !it.root.items_at("spec/extProc").is_empty()
    });
    if with_proc && spec.get("authorization").is_some() {
        found.add(&rules::AUTHORIZATION_AFTER_PROC, spec.line_of("authorization"));
    }
}

/// A policy that is bound to nothing does nothing.
fn check_bound(
    spec: &Node,
    what: &str,
    document: &Document,
    object: &Object,
    mesh: &Mesh<'_>,
    found: &mut Findings<'_>,
) {
    if spec.get(what).is_none() {
        return;
    }
    if targets(document).is_empty() && spec.items_at("targetSelectors").is_empty() {
        found.add_with(&rules::TARGET_ABSENT, spec.line, "it names none");
    }
    mesh.check_targets(document, object, found);
}

/// The policy of a route takes the place of its Gateway's, and so of its `extAuth`.
fn check_replaced(document: &Document, object: &Object, mesh: &Mesh<'_>, found: &mut Findings<'_>) {
    let root = &document.root;
    if root.at("spec/extAuth").is_some() || root.at("spec/mergeType").is_some() {
        return;
    }
    for target in targets(document) {
        let kind = match target.text_at("kind") {
            "HTTPRoute" => "HTTPRoute",
            "GRPCRoute" => "GRPCRoute",
            _ => continue,
        };
        let mut routes = mesh.objects(kind);
        let route = routes
            .find(|(_, it)| it.name == target.text_at("name") && it.namespace == object.namespace);
        let parents = route.map(|(it, _)| it.root.items_at("spec/parentRefs"));
        let asked = mesh.objects("SecurityPolicy").any(|(it, of)| {
            it.root.at("spec/extAuth").is_some()
                && targets(it).iter().any(|gateway| {
                    gateway.text_at("kind") == "Gateway"
                        && match parents {
                            Some(all) => {
                                all.iter().any(|it| it.text_at("name") == gateway.text_at("name"))
                            }
                            None => of.namespace == object.namespace,
                        }
                })
        });
        if asked {
            let detail = "in the place of its Gateway's policy, which asks";
            found.add_with(&rules::AUTHZ_OFF, target.line, detail);
        }
    }
}

fn check_proc(config: &Node, object: &Object, mesh: &Mesh<'_>, found: &mut Findings<'_>) {
    if config.true_at("failOpen") {
        found.add(&rules::PROC_FAILS_OPEN, config.line_of("failOpen"));
    }
    if config.true_at("shadowMode") {
        found.add(&rules::SHADOW_MODE, config.line_of("shadowMode"));
    }
    let line = config.line_of("messageTimeout");
    match config.seconds_at("messageTimeout") {
        None | Some(0.0) => found.add_with(&rules::MESSAGE_TIMEOUT, line, "none is set"),
        Some(seconds) if seconds > LONGEST_MESSAGE => {
            found.add_with(&rules::MESSAGE_TIMEOUT, line, format!("{seconds} s"));
        }
        Some(_) => {}
    }
    let request = config.at("processingMode").filter(|mode| mode.get_even_empty("request"));
    if request.is_none() {
        found.add(&rules::REQUEST_HEADERS_SKIPPED, config.line_of("processingMode"));
    }
    let attributes = config.texts_at("processingMode/request/attributes");
    if request.is_some() && !attributes.contains(&"xds.route_name") {
        let line = config.at("processingMode/request").map_or(config.line, |it| it.line);
        found.add(&rules::DESTINATION_UNKNOWN, line);
    }
    for direction in ["request", "response"] {
        let Some(body) = config.at(&format!("processingMode/{direction}/body")) else { continue };
        let of = format!("the {direction}'s");
        match body.text().unwrap_or_default() {
            "BufferedPartial" => found.add_with(&rules::BODY_CUT_OFF, body.line, of),
            // Envoy Gateway sends trailers in the mode FullDuplexStreamed alone.
            "Streamed" => found.add_with(&rules::TRAILERS_SKIPPED, body.line, of),
            "Buffered" if !limits_bodies(mesh) => {
                found.add_with(&rules::BODY_LIMIT_ABSENT, body.line, of);
            }
            _ => {}
        }
    }
    check_override(config, mesh, found);
    let authz = mesh
        .objects("SecurityPolicy")
        .any(|(it, of)| of.namespace == object.namespace && it.root.at("spec/extAuth").is_some());
    if authz && !config.texts_at("metadata/accessibleNamespaces").contains(&AUTHZ) {
        found.add(&rules::GRANT_NOT_FORWARDED, config.line_of("metadata"));
    }
    proc::check_stated(config, found);
}

/// Whether something says how large a body may be that is held as a whole.
fn limits_bodies(mesh: &Mesh<'_>) -> bool {
    mesh.objects("ClientTrafficPolicy")
        .any(|(it, _)| it.root.at("spec/connection/bufferLimit").is_some())
}

fn check_override(config: &Node, mesh: &Mesh<'_>, found: &mut Findings<'_>) {
    let mode = config.get("processingMode");
    let body = |direction: &str| {
        mode.map(|mode| mode.text_at(&format!("{direction}/body"))).unwrap_or_default()
    };
    let line = mode.map_or(config.line, |mode| mode.line_of("allowModeOverride"));
    let (request, response) = (body("request"), body("response"));
    if mode.is_some_and(|mode| mode.true_at("allowModeOverride")) {
        if [request, response].contains(&"FullDuplexStreamed") {
            found.add(&rules::MODE_OVERRIDE_IGNORED, line);
        }
        return;
    }
    if config.true_at("shadowMode") {
        return;
    }
    if mesh.overrides_heeded() {
        found.add(&rules::MODE_OVERRIDE_REFUSED, line);
    } else if request.is_empty() || response.is_empty() {
        found.add(&rules::MODE_OVERRIDE_MISSING, line);
    }
}

fn check_client(spec: &Node, found: &mut Findings<'_>) {
    if let Some(mode) = spec.at("headers/xForwardedClientCert/mode") {
        match mode.text().unwrap_or_default() {
            "ForwardOnly" | "AlwaysForwardOnly" => {
                found.add(&rules::CLIENT_CERT_FORWARDED, mode.line);
            }
            "AppendForward" => found.add(&rules::CLIENT_CERT_APPENDED, mode.line),
            _ => {}
        }
    }
    if let Some(merge) = spec.at("path/disableMergeSlashes").filter(|it| it.is_true()) {
        found.add_with(&rules::PATH_NOT_NORMALISED, merge.line, "slashes are not merged");
    }
}
