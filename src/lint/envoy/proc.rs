//! The ext_proc filter's own configuration.

use crate::lint::{Findings, rules, tree::Node};

use super::{Around, filter::AUTHZ};

/// Longer than anyone waits for a secret.
const LONGEST: f64 = 30.0;

/// Checks a whole filter. `after_authz` says whether ext_authz is in the same chain, if that is
/// known.
pub(in crate::lint) fn check(
    config: &Node,
    after_authz: Option<bool>,
    around: Around,
    found: &mut Findings<'_>,
) {
    check_stated(config, found);
    let observing = config.true_at("observability_mode");
    let mode = config.get("processing_mode");
    check_message_timeout(config, observing || streams_fully(mode), found);
    if config.get("mutation_rules").is_none() {
        found.add(&rules::MUTATION_RULES_ABSENT, config.line);
    }
    check_override(config, around, found);
    let attributes = config.texts_at("request_attributes");
    let has = |name: &str| attributes.contains(&name);
    let line = config.line_of("request_attributes");
    if !has("xds.cluster_name") && !has("xds.route_name") {
        found.add(&rules::DESTINATION_UNKNOWN, line);
    }
    let forwarded = config.texts_at("metadata_options/forwarding_namespaces/untyped");
    if forwarded.contains(&AUTHZ) {
        return;
    }
    match after_authz {
        Some(true) => found.add(&rules::GRANT_NOT_FORWARDED, config.line_of("metadata_options")),
        // What Istio's own chains put before it is not in an EnvoyFilter.
        Some(false) | None => {
            if !has("connection.uri_san_peer_certificate") && !has("xds.listener_direction") {
                found.add(&rules::PROC_WITHOUT_IDENTITY, line);
            }
        }
    }
}

/// Checks what is said, and nothing that is not: enough for a patch that merges, or a route's
/// overrides.
pub(in crate::lint) fn check_stated(config: &Node, found: &mut Findings<'_>) {
    if config.true_at("failure_mode_allow") {
        found.add(&rules::PROC_FAILS_OPEN, config.line_of("failure_mode_allow"));
    }
    if config.true_at("disable_immediate_response") {
        let line = config.line_of("disable_immediate_response");
        found.add(&rules::IMMEDIATE_RESPONSE_DISABLED, line);
    }
    if config.true_at("observability_mode") {
        found.add(&rules::SHADOW_MODE, config.line_of("observability_mode"));
    }
    if config.text_at("route_cache_action") == "CLEAR" {
        found.add(&rules::ROUTE_CACHE_CLEARED, config.line_of("route_cache_action"));
    }
    if config.true_at("mutation_rules/allow_all_routing") {
        found.add(&rules::ROUTING_MUTABLE, config.line_of("mutation_rules"));
    }
    if let Some(seconds) = config.seconds_at("grpc_service/timeout")
        && seconds > 0.0
    {
        let line = config.at("grpc_service/timeout").map_or(config.line, |node| node.line);
        found.add_with(&rules::STREAM_TIMEOUT, line, format!("after {seconds} s"));
    }
    if let Some(mode) = config.get("processing_mode") {
        check_mode(mode, found);
    }
}

fn check_mode(mode: &Node, found: &mut Findings<'_>) {
    if mode.text_at("request_header_mode") == "SKIP" {
        found.add(&rules::REQUEST_HEADERS_SKIPPED, mode.line_of("request_header_mode"));
    }
    for direction in ["request", "response"] {
        let key = format!("{direction}_body_mode");
        let line = mode.line_of(&key);
        match mode.text_at(&key) {
            "BUFFERED_PARTIAL" => {
                found.add_with(&rules::BODY_CUT_OFF, line, format!("the {direction}'s"));
            }
            "STREAMED" | "FULL_DUPLEX_STREAMED"
                if mode.text_at(&format!("{direction}_trailer_mode")) != "SEND" =>
            {
                found.add_with(&rules::TRAILERS_SKIPPED, line, format!("the {direction}'s"));
            }
            _ => {}
        }
    }
}

fn streams_fully(mode: Option<&Node>) -> bool {
    let full = |key: &str| mode.is_some_and(|mode| mode.text_at(key) == "FULL_DUPLEX_STREAMED");
    full("request_body_mode") || full("response_body_mode")
}

/// In full duplex and when only observing nobody waits, so there is nothing to bound.
fn check_message_timeout(config: &Node, unbounded: bool, found: &mut Findings<'_>) {
    if unbounded {
        return;
    }
    let line = config.line_of("message_timeout");
    let Some(seconds) = config.seconds_at("message_timeout") else {
        found.add_with(&rules::MESSAGE_TIMEOUT, line, "none is set");
        return;
    };
    if seconds == 0.0 || seconds > LONGEST {
        found.add_with(&rules::MESSAGE_TIMEOUT, line, format!("{seconds} s"));
    }
    if let Some(most) = config.seconds_at("max_message_timeout")
        && most > 0.0
        && most < seconds
    {
        let detail = format!("max_message_timeout is {most} s, message_timeout {seconds} s");
        found.add_with(&rules::MESSAGE_TIMEOUT, config.line_of("max_message_timeout"), detail);
    }
}

pub(in crate::lint) fn check_override(config: &Node, around: Around, found: &mut Findings<'_>) {
    let mode = config.get("processing_mode");
    let may = config.true_at("allow_mode_override");
    let early = config.true_at("send_body_without_waiting_for_header_response");
    if may && (early || streams_fully(mode)) {
        found.add(&rules::MODE_OVERRIDE_IGNORED, config.line_of("allow_mode_override"));
    }
    let text = |key: &str| mode.map(|mode| mode.text_at(key)).unwrap_or_default();
    let shows_all = ["request_body_mode", "response_body_mode"]
        .iter()
        .all(|key| !["", "NONE"].contains(&text(key)))
        && text("response_header_mode") != "SKIP";
    if may || config.true_at("observability_mode") {
        return;
    }
    if around.overrides_heeded {
        found.add(&rules::MODE_OVERRIDE_REFUSED, config.line_of("allow_mode_override"));
    } else if !shows_all {
        found.add(&rules::MODE_OVERRIDE_MISSING, config.line_of("allow_mode_override"));
    }
}
