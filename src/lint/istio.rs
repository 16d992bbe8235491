//! Istio's mesh configuration and objects, each by itself.

mod custom;
mod filter;
mod removal;
mod traffic;

use super::{
    Findings,
    document::{Document, Object},
    mesh::Mesh,
    rules,
    tree::Node,
};

/// Longer than anyone waits for a decision.
const LONGEST: f64 = 10.0;

/// Checks the providers of a mesh configuration.
pub(super) fn providers(document: &Document, mesh: &Mesh<'_>, found: &mut Findings<'_>) {
    let Some(config) = document.mesh() else { return };
    let mut providers = mesh.providers_of(document).peekable();
    let has_providers = providers.peek().is_some();
    for provider in providers {
        let settings = provider.settings;
        if !is_provider_name(provider.name) {
            let line = provider.entry.line_of("name");
            found.add_with(&rules::PROVIDER_NAME, line, format!("{:?}", provider.name));
        }
        if settings.true_at("failOpen") {
            found.add(&rules::AUTHZ_FAILS_OPEN, settings.line_of("failOpen"));
        }
        if settings.true_at("clearRouteCache") {
            found.add(&rules::ROUTE_CACHE_CLEARED, settings.line_of("clearRouteCache"));
        }
        match settings.seconds_at("timeout") {
            None => {
                found.add_with(&rules::AUTHZ_TIMEOUT, settings.line_of("timeout"), "none is set")
            }
            Some(seconds) if seconds == 0.0 || seconds > LONGEST => {
                let line = settings.line_of("timeout");
                found.add_with(&rules::AUTHZ_TIMEOUT, line, format!("{seconds} s"));
            }
            Some(_) => {}
        }
        if settings.get("statusOnError").is_none() {
            found.add(&rules::OUTAGE_LOOKS_LIKE_DENIAL, settings.line);
        }
        if settings.get("includeRequestBodyInCheck").is_some() {
            found.add(&rules::BODY_IN_CHECK, settings.line_of("includeRequestBodyInCheck"));
        }
        if !provider.grpc {
            check_http(settings, found);
        }
    }
    if has_providers
        && ["", "DEFAULT", "NONE", "BASE"]
            .contains(&config.text_at("pathNormalization/normalization"))
    {
        let line = config.line_of("pathNormalization");
        let line = config.at("pathNormalization/normalization").map_or(line, |node| node.line);
        found.add_with(&rules::PATH_NOT_NORMALISED, line, "slashes are not merged in this mesh");
    }
}

fn check_http(settings: &Node, found: &mut Findings<'_>) {
    let lists = ["includeRequestHeadersInCheck", "includeHeadersInCheck"];
    let listed: Vec<_> = lists.iter().flat_map(|list| settings.texts_at(list)).collect();
    let proves = |name: &&str| {
        let name = name.to_ascii_lowercase();
        ["x-forwarded-client-cert", "authorization"].contains(&&*name) || name.contains('*')
    };
    if !listed.iter().any(proves) {
        let line = settings.line_of("includeRequestHeadersInCheck");
        found.add(&rules::HTTP_AUTHZ_WITHOUT_IDENTITY, line);
    }
}

fn is_provider_name(name: &str) -> bool {
    let letter = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    (1..=63).contains(&name.len())
        && name.chars().all(|c| letter(c) || c == '-')
        && name.starts_with(letter)
        && name.ends_with(letter)
}

/// Checks an object of a kind that is Istio's.
pub(super) fn check(
    document: &Document,
    object: &Object,
    mesh: &Mesh<'_>,
    found: &mut Findings<'_>,
) {
    match (&*object.group, &*object.kind) {
        ("security.istio.io", "AuthorizationPolicy") => {
            custom::check(document, object, mesh, found);
        }
        ("security.istio.io", "PeerAuthentication") => traffic::check_peers(document, found),
        ("networking.istio.io", "EnvoyFilter") => filter::check(document, mesh, found),
        ("networking.istio.io", "DestinationRule") => traffic::check_tls(document, mesh, found),
        ("networking.istio.io", "ServiceEntry") => traffic::check_entry(document, mesh, found),
        ("gateway.networking.k8s.io", "Gateway") => {
            custom::check_waypoint(document, object, mesh, found);
        }
        _ => {}
    }
}
