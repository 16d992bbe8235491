//! What the connection manager does to requests before filters see them.

use crate::lint::{Findings, rules, tree::Node};

/// Headers that hold keys, as a format names them.
const SECRET_HEADERS: [&str; 5] =
    ["authorization", "proxy-authorization", "cookie", "x-api-key", "x-goog-api-key"];

/// Checks a whole connection manager. `own_word` says whether a filter replaces what clients say
/// about their certificates.
pub(super) fn check(manager: &Node, authz: bool, own_word: bool, found: &mut Findings<'_>) {
    if !own_word {
        check_stated(manager, found);
    }
    check_log(manager, found);
    let not_normal = |key: &str| (manager.line_of(key), format!("{key} is not set"));
    if !manager.true_at("normalize_path") {
        let (line, detail) = not_normal("normalize_path");
        found.add_with(&rules::PATH_NOT_NORMALISED, line, detail);
    }
    if !authz {
        // Paths of third parties are theirs.
        return;
    }
    if !manager.true_at("merge_slashes") {
        let (line, detail) = not_normal("merge_slashes");
        found.add_with(&rules::PATH_NOT_NORMALISED, line, detail);
    }
    if ["", "IMPLEMENTATION_SPECIFIC_DEFAULT"]
        .contains(&manager.text_at("path_with_escaped_slashes_action"))
    {
        let (line, detail) = not_normal("path_with_escaped_slashes_action");
        found.add_with(&rules::PATH_NOT_NORMALISED, line, detail);
    }
    let underscores =
        manager.text_at("common_http_protocol_options/headers_with_underscores_action");
    if ["", "ALLOW"].contains(&underscores) {
        let line = manager.line_of("common_http_protocol_options");
        found.add(&rules::UNDERSCORE_HEADERS, line);
    }
}

/// Checks what is said, and nothing that is not: enough for a patch that merges.
pub(in crate::lint) fn check_stated(manager: &Node, found: &mut Findings<'_>) {
    let line = manager.line_of("forward_client_cert_details");
    match manager.text_at("forward_client_cert_details") {
        mode @ ("FORWARD_ONLY" | "ALWAYS_FORWARD_ONLY") => {
            found.add_with(&rules::CLIENT_CERT_FORWARDED, line, mode);
        }
        mode @ "APPEND_FORWARD" => found.add_with(&rules::CLIENT_CERT_APPENDED, line, mode),
        _ => {}
    }
}

fn check_log(manager: &Node, found: &mut Findings<'_>) {
    let shows = |text: &str| {
        let text = text.to_ascii_lowercase();
        SECRET_HEADERS.iter().any(|header| {
            [format!("%req({header}"), format!("%req({header}?"), format!("?{header})")]
                .iter()
                .any(|command| text.contains(command.as_str()))
        })
    };
    for log in manager.items_at("access_log") {
        if let Some((line, _)) = log.find_text(&shows) {
            found.add(&rules::SECRET_IN_LOG, line);
        }
    }
}
