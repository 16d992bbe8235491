//! Grants that are wider than they look.

use super::{Finding, FindingKind};
use crate::policy::{
    request::Verb,
    rule::{Policy, SecretRule, Shape, Subject, Target},
    template::{Part, Template, ValueOf},
};

/// What changes a store.
const WRITES: [Verb; 3] = [Verb::Create, Verb::Update, Verb::Delete];

/// How many callers an entry of `from` is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Breadth {
    Accounts,
    Namespaces,
    Prefixes,
    Everyone,
}

/// Adds what is too wide of a policy. Only an Allow in force grants anything.
pub(super) fn find(policy: &Policy, findings: &mut Vec<Finding>) {
    let widest = policy.from.iter().map(Breadth::of).max();
    let Some(breadth) = widest.filter(|_| policy.allow && !policy.audit) else { return };
    for (at, target) in policy.to.iter().enumerate() {
        let Target::Secrets(rule) = target else { continue };
        if let Some((kind, message)) = too_wide(rule, breadth) {
            findings.push(Finding::of_rule(kind, policy, at, message));
        }
    }
}

fn too_wide(rule: &SecretRule, breadth: Breadth) -> Option<(FindingKind, String)> {
    let writes: Vec<_> = WRITES
        .iter()
        .filter(|verb| rule.held_verbs().any(|held| held == **verb))
        .map(|verb| verb.as_str())
        .collect();
    let writes = writes.join(", ");
    let every_name = rule.patterns.iter().any(|pattern| pattern.shape == Shape::Any);
    let whole = match rule.backends {
        None => "every secret of every backend",
        Some(_) => "every secret of its backends",
    };
    if every_name && !writes.is_empty() && breadth > Breadth::Accounts {
        let message = format!(
            "{} may {writes} {whole}; name prefixes, such as \"{{namespace}}/\", or service \
             accounts",
            breadth.as_str()
        );
        return Some((FindingKind::BroadWrite, message));
    }
    if breadth < Breadth::Everyone {
        return None;
    }
    if every_name && rule.fields.is_empty() {
        let verbs: Vec<_> = rule.verbs.iter().map(Verb::as_str).collect();
        let message = format!(
            "every service account may {} {whole}; name prefixes, such as \"{{namespace}}/\", or \
             namespaces",
            verbs.join(", ")
        );
        return Some((FindingKind::BroadRead, message));
    }
    let templates = rule.patterns.iter().filter_map(|pattern| match &pattern.shape {
        Shape::Any => None,
        Shape::Exact(template) => Some((template, false)),
        Shape::Prefix(template) => Some((template, true)),
    });
    templates.into_iter().find_map(|(template, prefix)| {
        let [namespace, account] =
            [ValueOf::Namespace, ValueOf::ServiceAccount].map(|of| holds(template, of));
        let text = template.to_string();
        if account && !namespace {
            let message = format!(
                "{text:?} is one area for all service accounts of that name: whoever may create \
                 one, in any namespace, has it; add {{namespace}}, or name namespaces"
            );
            return Some((FindingKind::SharedByName, message));
        }
        (prefix && !namespace && !writes.is_empty()).then(|| {
            let message = format!(
                "every service account may {writes} everything below {text:?}; add {{namespace}}, \
                 or name namespaces or service accounts"
            );
            (FindingKind::BroadPrefix, message)
        })
    })
}

fn holds(template: &Template, of: ValueOf) -> bool {
    let is = |part: &Part| matches!(part, Part::Value(placeholder) if placeholder.source == of);
    template.parts.iter().any(is)
}

// === impl Breadth ===

impl Breadth {
    fn of(subject: &Subject) -> Self {
        let Subject { accounts, namespaces, prefixes, .. } = subject;
        match [accounts.is_empty(), namespaces.is_empty(), prefixes.is_empty()] {
            [false, ..] => Self::Accounts,
            [_, false, _] => Self::Namespaces,
            [_, _, false] => Self::Prefixes,
            [true, true, true] => Self::Everyone,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Accounts => "the service accounts",
            Self::Namespaces => "whole namespaces",
            Self::Prefixes => "all namespaces with these prefixes",
            Self::Everyone => "every service account",
        }
    }
}
