//! The ext_authz filter's own configuration.

use super::off;
use crate::lint::{Findings, rules, tree::Node};

/// Longer than anyone waits for a decision.
const LONGEST: f64 = 10.0;

/// Checks a whole filter. `tls` says whether its clients may show certificates, `runtime` what
/// is set over defaults.
pub(in crate::lint) fn check(
    config: &Node,
    tls: bool,
    runtime: &[&Node],
    found: &mut Findings<'_>,
) {
    check_said(config, found);
    off::check_stated(config, runtime, found);
    let over_grpc = config.get("grpc_service").is_some();
    let timeout =
        if over_grpc { "grpc_service/timeout" } else { "http_service/server_uri/timeout" };
    check_timeout(config, timeout, found);
    check_retry(config, found);
    if config.get("decoder_header_mutation_rules").is_none() {
        found.add(&rules::MUTATION_RULES_ABSENT, config.line);
    }
    if !config.true_at("validate_mutations") {
        found.add(&rules::MUTATIONS_UNCHECKED, config.line_of("validate_mutations"));
    }
    if config.get("status_on_error").is_none() {
        found.add(&rules::OUTAGE_LOOKS_LIKE_DENIAL, config.line);
    }
    match over_grpc {
        true => {
            check_forwarded(config, found);
            if tls && !config.true_at("include_peer_certificate") {
                found.add(
                    &rules::PEER_CERTIFICATE_ABSENT,
                    config.line_of("include_peer_certificate"),
                );
            }
            if !config.true_at("encode_raw_headers") {
                found.add(&rules::HEADERS_JOINED, config.line_of("encode_raw_headers"));
            }
        }
        false => check_http(config, found),
    }
}

/// Checks the filter that asks about connections.
pub(super) fn check_connections(config: &Node, found: &mut Findings<'_>) {
    check_said(config, found);
    check_timeout(config, "grpc_service/timeout", found);
}

/// Checks what is said, and nothing that is not: enough for a patch that merges.
pub(in crate::lint) fn check_stated(config: &Node, found: &mut Findings<'_>) {
    check_said(config, found);
    off::check_stated(config, &[], found);
}

fn check_said(config: &Node, found: &mut Findings<'_>) {
    if config.true_at("failure_mode_allow") {
        found.add(&rules::AUTHZ_FAILS_OPEN, config.line_of("failure_mode_allow"));
    }
    if config.true_at("clear_route_cache") {
        found.add(&rules::ROUTE_CACHE_CLEARED, config.line_of("clear_route_cache"));
    }
    if config.true_at("shadow_mode") {
        found.add(&rules::SHADOW_MODE, config.line_of("shadow_mode"));
    }
    if config.true_at("decoder_header_mutation_rules/allow_all_routing") {
        found.add(&rules::ROUTING_MUTABLE, config.line_of("decoder_header_mutation_rules"));
    }
    if config.get("with_request_body").is_some() {
        found.add(&rules::BODY_IN_CHECK, config.line_of("with_request_body"));
    }
}

fn check_timeout(config: &Node, path: &str, found: &mut Findings<'_>) {
    let service = path.split('/').next().unwrap_or_default();
    let line = config.at(path).map_or_else(|| config.line_of(service), |node| node.line);
    match config.seconds_at(path) {
        None => found.add_with(&rules::AUTHZ_TIMEOUT, line, "none is set"),
        Some(0.0) => found.add_with(&rules::AUTHZ_TIMEOUT, line, "0 is for ever"),
        Some(seconds) if seconds > LONGEST => {
            found.add_with(&rules::AUTHZ_TIMEOUT, line, format!("{seconds} s"));
        }
        Some(_) => {}
    }
}

/// A retry has to come within the timeout, which is 200 ms where none is set.
fn check_retry(config: &Node, found: &mut Findings<'_>) {
    let Some(retry) = config.at("grpc_service/retry_policy") else { return };
    let timeout = config.seconds_at("grpc_service/timeout").unwrap_or(0.2);
    let base = retry.seconds_at("retry_back_off/base_interval").unwrap_or(1.0);
    if timeout > 0.0 && base >= timeout {
        found.add(&rules::RETRY_TOO_LATE, retry.line);
    }
}

/// What is listed is all that the service sees; what is listed apart it never does.
fn check_forwarded(config: &Node, found: &mut Findings<'_>) {
    let matches = |list: &str, header: &str| {
        let patterns = config.items_at(&format!("{list}/patterns")).iter();
        patterns.into_iter().any(|pattern| may_match(pattern, header))
    };
    let listed = config.get("allowed_headers").is_some();
    if listed && !matches("allowed_headers", "authorization") {
        let line = config.line_of("allowed_headers");
        found.add_with(&rules::IDENTITY_WITHHELD, line, "authorization is not among them");
    }
    if matches("disallowed_headers", "authorization") {
        let line = config.line_of("disallowed_headers");
        found.add_with(&rules::IDENTITY_WITHHELD, line, "authorization is taken out");
    }
}

/// Whether a pattern may be about a header. What a regular expression matches is not guessed.
fn may_match(pattern: &Node, header: &str) -> bool {
    let text = |key: &str| pattern.get(key).and_then(Node::text).map(str::to_ascii_lowercase);
    text("exact").is_some_and(|it| it == header)
        || text("prefix").is_some_and(|it| header.starts_with(&*it))
        || text("suffix").is_some_and(|it| header.ends_with(&*it))
        || text("contains").is_some_and(|it| header.contains(&*it))
        || pattern.get("safe_regex").is_some()
}

fn check_http(config: &Node, found: &mut Findings<'_>) {
    let lists = ["allowed_headers", "http_service/authorization_request/allowed_headers"];
    let patterns = lists.iter().flat_map(|list| config.items_at(&format!("{list}/patterns")));
    let proves = |pattern: &Node| {
        let exact = pattern.text_at("exact").to_ascii_lowercase();
        let prefix = pattern.get("prefix").and_then(Node::text);
        ["x-forwarded-client-cert", "authorization"].contains(&&*exact)
            || prefix.is_some_and(|prefix| "x-forwarded-client-cert".starts_with(prefix))
            // Whatever these match is not worth guessing.
            || ["safe_regex", "contains", "suffix"].iter().any(|kind| pattern.get(kind).is_some())
    };
    // Without a list the service gets `authorization` at least.
    let listed = config.get("allowed_headers").is_some();
    if listed && !patterns.into_iter().any(proves) {
        found.add(&rules::HTTP_AUTHZ_WITHOUT_IDENTITY, config.line_of("allowed_headers"));
    }
}
