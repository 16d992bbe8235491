//! Whether TLS knows whom it meets.

use crate::lint::{Findings, rules, tree::Node};

/// Checks a cluster's TLS context.
pub(super) fn check_verified(cluster: &Node, context: &Node, found: &mut Findings<'_>) {
    let common = context.get("common_tls_context");
    let validation = common.and_then(|common| {
        let combined = "combined_validation_context/default_validation_context";
        common.get("validation_context").or_else(|| common.at(combined))
    });
    let name = cluster.text_at("name");
    if let Some(validation) = validation
        && validation.text_at("trust_chain_verification") == "ACCEPT_UNTRUSTED"
    {
        let line = validation.line_of("trust_chain_verification");
        let detail = format!("cluster {name:?} takes certificates that nobody trusted signed");
        found.add_with(&rules::UPSTREAM_UNVERIFIED, line, detail);
        return;
    }
    let lists = ["match_typed_subject_alt_names", "match_subject_alt_names"];
    let names: Vec<_> = validation
        .iter()
        .flat_map(|context| lists.iter().flat_map(|list| context.items_at(list)))
        .map(|entry| entry.get("matcher").unwrap_or(entry))
        .collect();
    // One that matches is enough, so one that matches anything spoils the others.
    if let Some(any) = names.iter().find(|matcher| matches_any(matcher)) {
        let detail = format!("cluster {name:?} takes any name");
        found.add_with(&rules::UPSTREAM_UNVERIFIED, any.line, detail);
        return;
    }
    let pinned = ["verify_certificate_spki", "verify_certificate_hash"];
    let pinned = validation
        .is_some_and(|context| pinned.iter().any(|list| !context.items_at(list).is_empty()));
    // What arrives by SDS alone is not here to be looked at.
    let elsewhere =
        common.is_some_and(|common| common.get("validation_context_sds_secret_config").is_some());
    let automatic = cluster.find_text(&|text| text == "auto_san_validation").is_some();
    if names.is_empty() && !pinned && !elsewhere && !automatic {
        let line = cluster.line_of("transport_socket");
        found.add_with(&rules::UPSTREAM_UNVERIFIED, line, format!("cluster {name:?}"));
    }
}

/// A pattern for everything, or for all names of a whole kind.
fn matches_any(matcher: &Node) -> bool {
    let text = |key: &str| matcher.get(key).and_then(Node::text);
    let regex = matcher.get("safe_regex").map(|it| it.text_at("regex"));
    let everything = |regex: &str| {
        let regex = regex.trim_start_matches('^').trim_end_matches('$');
        let regex = regex.trim_start_matches('(').trim_end_matches(')');
        [".*", ".+", ".*?", ".+?", "", "[^ ]*", "\\S*", "\\S+"].contains(&regex)
    };
    let kinds = ["", "*", "spiffe:", "spiffe://", "https://", "www."];
    regex.is_some_and(everything)
        || text("prefix").is_some_and(|it| kinds.contains(&it))
        || text("suffix").is_some_and(|it| ["", ".", "*"].contains(&it) || is_tld(it))
        || text("contains").is_some_and(|it| ["", ".", "/"].contains(&it))
        || text("exact") == Some("*")
}

/// A name of the top level, as in `.com`.
fn is_tld(suffix: &str) -> bool {
    suffix.strip_prefix('.').is_some_and(|rest| !rest.is_empty() && !rest.contains(['.', '/']))
}
