//! What can never hold under this configuration.

use std::sync::Arc;

use super::{Finding, FindingKind, Surroundings};
use crate::{
    identity::ProofKind,
    policy::{
        request::Verb,
        rule::{Pattern, Policy, SecretRule, Shape, Subject, Target},
        template::{Part, Template, ValueOf},
    },
};

/// Adds what is never used of a policy.
pub(super) fn find(policy: &Policy, around: &Surroundings<'_>, findings: &mut Vec<Finding>) {
    for (at, subject) in policy.from.iter().enumerate() {
        if let Some(message) = subject_is_nobody(subject, around) {
            findings.push(Finding::of_subject(FindingKind::UnusedSubject, policy, at, message));
        }
    }
    for (at, target) in policy.to.iter().enumerate() {
        let Target::Secrets(rule) = target else { continue };
        let mut add = |kind, message| findings.push(Finding::of_rule(kind, policy, at, message));
        for backend in without_names(rule, around) {
            let message = format!(
                "backend {backend} can hold none of its names and prefixes; remove it from \
                 backends"
            );
            add(FindingKind::UnusedBackend, message);
        }
        if let Some(message) = verbs_without_fields(rule).filter(|_| policy.allow) {
            add(FindingKind::UnusedVerb, message);
        }
        for pattern in &rule.patterns {
            if let Some(message) = dashed_out(pattern, &policy.from) {
                add(FindingKind::UnusedPattern, message);
            }
        }
    }
}

fn subject_is_nobody(subject: &Subject, around: &Surroundings<'_>) -> Option<String> {
    let domains = &subject.trust_domains;
    if !domains.is_empty() && !domains.iter().any(|one| around.trust_domains.contains(one)) {
        let names: Vec<_> = domains.iter().map(|one| one.as_str()).collect();
        return Some(format!("is nobody: {} is not in identity.trust_domains", names.join(", ")));
    }
    let missing = subject.require.iter().find(|proof| !around.proofs.contains((*proof).into()));
    if let Some(proof) = missing {
        let needed = match proof {
            ProofKind::Token => "without identity.service_account_tokens no token counts",
            ProofKind::Waypoint => "without identity.forwarded_client_cert no proxy is believed",
            ProofKind::Local => "without identity.local there are no local callers",
            ProofKind::Mtls | ProofKind::Grant => "nothing can prove it here",
        };
        return Some(format!("is nobody: it requires {}, and {needed}", proof.as_str()));
    }
    (subject.bound_to_pod && !around.bound_to_pod).then(|| {
        "is nobody: boundTo needs a token, and without identity.service_account_tokens no token \
         counts"
            .to_owned()
    })
}

/// The rule's own backends in which none of its patterns can match anything.
fn without_names<'r>(
    rule: &'r SecretRule,
    around: &Surroundings<'_>,
) -> impl Iterator<Item = &'r str> {
    let declared = rule.backends.as_deref().unwrap_or_default().iter();
    let catalog = around.catalog;
    let empty = move |name: &&crate::secret::BackendName| {
        let Some((_, entry)) = catalog.backend(name.as_str()) else { return false };
        !rule.patterns.iter().any(|pattern| match &pattern.shape {
            Shape::Any => true,
            Shape::Exact(template) => template.possible(&entry.grammar, "").is_ok(),
            Shape::Prefix(template) => template.possible(&entry.grammar, "x").is_ok(),
        })
    };
    let names: Vec<_> = declared.filter(empty).map(|name| name.as_str()).collect();
    names.into_iter()
}

/// Verbs that are about a secret as a whole, of a rule about fields.
fn verbs_without_fields(rule: &SecretRule) -> Option<String> {
    let never = rule.verbs.iter().filter(|verb| !verb.takes_part());
    let never: Vec<_> = never.map(Verb::as_str).collect();
    (!rule.fields.is_empty() && !never.is_empty()).then(|| {
        format!(
            "{} never holds: a field goes with get and use; give what is about whole secrets an \
             entry without fields",
            never.join(", ")
        )
    })
}

/// A `{namespace}--` or `{serviceAccount}--` of which every value holds `--` itself.
fn dashed_out(pattern: &Pattern, from: &[Subject]) -> Option<String> {
    let (Shape::Exact(template) | Shape::Prefix(template)) = &pattern.shape else { return None };
    [ValueOf::Namespace, ValueOf::ServiceAccount].into_iter().find_map(|source| {
        let mut values = Vec::new();
        for subject in from {
            values.extend(values_of(subject, source)?);
        }
        let never = guards(template, source) && values.iter().all(|value| value.contains("--"));
        never.then(|| {
            format!(
                "{:?} never matches: every {} of its subjects holds `--`, which would make it \
                 ambiguous; use another separator",
                template.to_string(),
                match source {
                    ValueOf::Namespace => "namespace",
                    ValueOf::ServiceAccount => "service account",
                }
            )
        })
    })
}

fn guards(template: &Template, of: ValueOf) -> bool {
    let guarded = |part: &Part| match part {
        Part::Value(placeholder) => placeholder.source == of && placeholder.guarded,
        Part::Literal(_) => false,
    };
    template.parts.iter().any(guarded)
}

/// All values that the entry's principals have, if they are listed.
fn values_of(subject: &Subject, source: ValueOf) -> Option<Vec<&str>> {
    let namespaces: &[Arc<str>] = &subject.namespaces;
    match (source, subject.accounts.as_slice(), namespaces) {
        (_, [], []) | (ValueOf::ServiceAccount, [], _) => None,
        (ValueOf::Namespace, [], names) => Some(names.iter().map(|name| &**name).collect()),
        (ValueOf::Namespace, accounts, _) => {
            Some(accounts.iter().map(|account| account.namespace()).collect())
        }
        (ValueOf::ServiceAccount, accounts, _) => {
            Some(accounts.iter().map(|account| account.name()).collect())
        }
    }
}
