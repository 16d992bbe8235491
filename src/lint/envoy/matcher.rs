//! Trees that choose which requests a filter is for: of `ExtensionWithMatcher`, of composite
//! filters, and what routes put in their place.

use super::{
    filter::{Filter, Matcher},
    off,
};
use crate::lint::{Findings, rules, tree::Node};

/// Checks whether requests get past ext_authz, and past ext_proc by the caller's choice.
pub(in crate::lint) fn check(filter: &Filter<'_>, found: &mut Findings<'_>) {
    let Some(matcher) = filter.matcher else { return };
    check_tree(filter.is_authz(), matcher, found);
}

/// Checks the tree that a route has instead.
pub(super) fn check_route(filter: &Filter<'_>, config: &Node, found: &mut Findings<'_>) {
    let tree = config.get("xds_matcher").or_else(|| config.get("matcher"));
    let (Some(tree), Some(own)) = (tree, filter.matcher) else { return };
    check_tree(filter.is_authz(), Matcher { tree, ..own }, found);
}

fn check_tree(authz: bool, matcher: Matcher<'_>, found: &mut Findings<'_>) {
    let tree = matcher.tree;
    let runs = |action: &Node| {
        // A chain that is named is one of the same filter's.
        action.get("filter_chain_name").is_some()
            || action.find_text(&|text| text.ends_with(kind(authz))).is_some()
    };
    let actions = tree.typed_below("composite.v3.ExecuteFilterAction");
    let skips = tree.find_text(&|text| text.ends_with("matcher.action.v3.SkipFilter"));
    if let Some((line, part)) = actions.iter().filter(|it| runs(it)).find_map(|action| {
        let sample = action.get("sample_percent")?;
        Some((sample.line, off::fraction(sample, &[])?)).filter(|(_, part)| *part < 1.0)
    }) {
        let rule = if authz { &rules::AUTHZ_OFF } else { &rules::PROC_OFF };
        found.add_with(rule, line, format!("for all but {} % of requests", part * 100.0));
    }
    let otherwise = tree.get("on_no_match");
    let all = match matcher.chooses {
        true => {
            otherwise
                .is_some_and(|it| it.typed_below("ExecuteFilterAction").iter().any(|it| runs(it)))
                && actions.iter().all(|it| runs(it))
                && skips.is_none()
        }
        false => skips.is_none(),
    };
    if all {
        return;
    }
    if let Some((line, name)) = callers_input(tree) {
        let rule = if authz { &rules::DISABLED_BY_CALLER } else { &rules::PROC_OFF };
        found.add_with(rule, line, format!("chosen by {name}"));
        return;
    }
    let skipped_by_default =
        otherwise.is_some_and(|it| it.find_text(&|text| text.ends_with("v3.SkipFilter")).is_some());
    if authz && (matcher.chooses || skipped_by_default) {
        let line = otherwise.map_or(tree.line, |it| it.line);
        found.add_with(&rules::AUTHZ_OFF, line, "for what its matcher does not know");
    }
}

fn kind(authz: bool) -> &'static str {
    if authz { "ext_authz.v3.ExtAuthz" } else { "ext_proc.v3.ExternalProcessor" }
}

/// What the tree looks at and callers write as they like. The path is what the upstream sees.
fn callers_input(tree: &Node) -> Option<(u64, String)> {
    let headers = tree.typed_below("v3.HttpRequestHeaderMatchInput").into_iter();
    let mut headers = headers.filter(|it| it.text_at("header_name") != ":path");
    if let Some(input) = headers.next() {
        return Some((input.line, format!("header {:?}", input.text_at("header_name"))));
    }
    let others = [
        ("v3.HttpRequestQueryParamMatchInput", "query"),
        ("v3.HttpRequestCookieMatchInput", "cookie"),
    ];
    others
        .into_iter()
        .find_map(|(input, name)| Some((tree.typed_below(input).first()?.line, name.to_owned())))
}
