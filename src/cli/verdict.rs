//! Decisions in words and as JSON, the same from every command.

use serde_json::{Value, json};

use crate::policy::{Explanation, NearMiss, Place, PolicySet, Reason};

/// `allowed by policy p, spec.to[0] (file:7)`, or `denied: no_match`.
pub(super) fn in_words(set: &PolicySet, explanation: &Explanation) -> String {
    let (decision, reason) = explanation.decision();
    let mut words = if reason.is_none() { "allowed" } else { "denied" }.to_owned();
    if let Some(policy) = &decision.policy {
        words += &format!(" by policy {policy}");
    }
    if let Some(rule) = decision.rule {
        words += &format!(", spec.to[{rule}]");
    }
    if let Some(place) = set.place(decision) {
        words += &format!(" ({place})");
    }
    match reason {
        Some(Reason::Malformed) => {
            format!(
                "{words}: {}, since its path has more than one reading",
                Reason::Malformed.as_str()
            )
        }
        Some(reason) => format!("{words}: {}", reason.as_str()),
        None => words,
    }
}

/// The nearest rule and what it misses, a line each.
pub(super) fn nearest_in_words(near: &NearMiss) -> Vec<String> {
    let NearMiss { policy, rule, place, unmet, .. } = near;
    let first = format!("nearest rule that would allow: {policy}, spec.to[{rule}] ({place})");
    std::iter::once(first).chain(unmet.iter().map(|unmet| format!("  but {unmet}"))).collect()
}

/// The members that every answer has.
pub(super) fn to_json(set: &PolicySet, explanation: &Explanation) -> Value {
    let (decision, reason) = explanation.decision();
    let nearest = explanation.nearest.as_ref().map(|near| {
        json!({
            "policy": &*near.policy,
            "rule": near.rule,
            "file": near.place.file.display().to_string(),
            "line": near.place.line,
            "unmet": near.unmet,
        })
    });
    let place = set.place(decision);
    json!({
        "allowed": reason.is_none(),
        "reason": reason.map(|reason| reason.as_str()),
        "policy": decision.policy.as_deref(),
        "rule": decision.rule,
        "file": place.as_ref().map(|Place { file, .. }| file.display().to_string()),
        "line": place.as_ref().map(|place| place.line),
        "nearest": nearest,
    })
}
