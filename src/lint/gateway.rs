//! Envoy Gateway's policies.

use super::{
    Findings,
    document::{Document, Object},
    envoy::{AUTHZ, proc},
    mesh::Mesh,
    rules,
    tree::Node,
};

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
        "SecurityPolicy" => check_security(spec, object, mesh, found),
        "EnvoyExtensionPolicy" => {
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
    }
    let with_proc = mesh.objects("EnvoyExtensionPolicy").any(|(it, of)| {
        of.namespace == object.namespace && !it.root.items_at("spec/extProc").is_empty()
    });
    if with_proc && spec.get("authorization").is_some() {
        found.add(&rules::AUTHORIZATION_AFTER_PROC, spec.line_of("authorization"));
    }
}

fn check_proc(config: &Node, object: &Object, mesh: &Mesh<'_>, found: &mut Findings<'_>) {
    if config.true_at("failOpen") {
        found.add(&rules::PROC_FAILS_OPEN, config.line_of("failOpen"));
    }
    if config.true_at("shadowMode") {
        found.add(&rules::SHADOW_MODE, config.line_of("shadowMode"));
    }
    let timeout = config.seconds_at("messageTimeout");
    if timeout.is_none_or(|seconds| seconds == 0.0) {
        let line = config.line_of("messageTimeout");
        found.add_with(&rules::MESSAGE_TIMEOUT, line, "none is set");
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
        if let Some(body) = config.at(&format!("processingMode/{direction}/body"))
            && body.text() == Some("BufferedPartial")
        {
            found.add_with(&rules::BODY_CUT_OFF, body.line, format!("the {direction}'s"));
        }
    }
    let authz = mesh
        .objects("SecurityPolicy")
        .any(|(it, of)| of.namespace == object.namespace && it.root.at("spec/extAuth").is_some());
    if authz && !config.texts_at("metadata/accessibleNamespaces").contains(&AUTHZ) {
        found.add(&rules::GRANT_NOT_FORWARDED, config.line_of("metadata"));
    }
    proc::check_stated(config, found);
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
