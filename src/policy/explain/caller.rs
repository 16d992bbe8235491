//! What a caller is told about its own refusals: what its own rules miss, and nothing of
//! what they or others say about anything else.
//!
//! A rule is told of only if it concerns the caller (a `from` entry names its service
//! account and trust domain) and the thing that was asked for (its backends and names, or
//! its hosts, paths and workloads, match). Then what is left to miss is the proofs, the
//! verb or method, the field, and where a secret may be used: all of it the caller's own
//! rights. Sentences that list service accounts or names of secrets cannot come up, since
//! those conditions hold. The work is bounded, however many policies there are.

use std::sync::Arc;

use super::{Explanation, NearMiss, http_unmet, place, secret_unmet, subject_unmet};
use crate::{
    identity::Principal,
    policy::{
        Destination, HttpRequest, PolicySet, Question, Verb,
        rule::{DestinationRule, Except, Held, HttpRule, SecretRule, Subject, Target},
    },
    secret::SecretRef,
};

/// How many comparisons an answer may take. A rule that is too long for what is left is
/// not looked at.
const COMPARISONS: usize = 4096;

/// What is left of the work that an answer may take.
struct Budget(usize);

// === impl PolicySet ===

impl PolicySet {
    /// Decides about the caller itself, and tells it of a refusal what it may know.
    #[must_use]
    pub fn explain_to_caller(
        self: &Arc<Self>,
        caller: &Principal,
        question: &Question<'_>,
    ) -> Explanation {
        let outcome = self.decide(caller, question);
        let nearest = match &outcome {
            Ok(_) => None,
            Err(_) => self.nearest_own(caller, question),
        };
        Explanation { outcome, nearest }
    }

    fn nearest_own(&self, caller: &Principal, question: &Question<'_>) -> Option<NearMiss> {
        let mut budget = Budget(COMPARISONS);
        let mut best: Option<(bool, NearMiss)> = None;
        for (policy, rule) in self.policies.index.rules_of(caller) {
            if budget.is_spent() {
                break;
            }
            let target = &policy.to[rule];
            let named: usize = policy.from.iter().map(subject_weight).sum();
            if !policy.allow || policy.audit || !budget.covers(named + weight(target)) {
                continue;
            }
            let Some(missing) = target_missing(target, caller, question) else { continue };
            let about = policy.from.iter().filter(|from| is_about(from, caller));
            let unmet = about.map(|from| (subject_unmet(from, caller), from.is_proven_by(caller)));
            let Some((mut unmet, proven)) = unmet.min_by_key(|(unmet, _)| unmet.len()) else {
                continue;
            };
            unmet.extend(missing);
            let other = !has_verb(target, question);
            // Those with the verb first, and of several the first by name, as everywhere.
            let better = best.as_ref().is_none_or(|(best_other, best)| {
                (other, unmet.len(), &policy.name, rule)
                    < (*best_other, best.unmet.len(), &best.policy, best.rule)
            });
            if better {
                let (policy, place) = (policy.name.clone(), place(policy, rule));
                let miss = NearMiss { policy, rule, place, unmet, unmet_proofs: !proven };
                best = Some((other, miss));
            }
        }
        best.map(|(_, miss)| miss)
    }
}

/// Whether the rule is about what is to be done, and not only about what it is done with.
fn has_verb(target: &Target, question: &Question<'_>) -> bool {
    match (target, question) {
        (Target::Secrets(rule), Question::Secret { verb, .. }) => rule.verbs.contains(*verb),
        _ => true,
    }
}

/// How many comparisons it takes to look at a `from` entry.
fn subject_weight(from: &Subject) -> usize {
    let Subject { namespaces, accounts, prefixes, trust_domains, except, .. } = from;
    let Except { namespaces: not, accounts: nor, prefixes: neither } = except;
    let named = [namespaces.len(), accounts.len(), prefixes.len(), trust_domains.len()];
    named.into_iter().chain([not.len(), nor.len(), neither.len()]).sum()
}

/// Whether the entry is about this caller, proofs aside.
fn is_about(from: &Subject, caller: &Principal) -> bool {
    from.names(caller.service_account())
        && (from.trust_domains.is_empty() || from.trust_domains.contains(caller.trust_domain()))
}

/// How many comparisons it takes to look at a rule.
fn weight(target: &Target) -> usize {
    match target {
        Target::Secrets(rule) => {
            let destinations: usize = rule.destinations.iter().map(DestinationRule::weight).sum();
            let backends = rule.backends.as_ref().map_or(0, |backends| backends.len());
            backends + rule.patterns.len() + rule.fields.len() + destinations
        }
        Target::Http(rule) => {
            let lists = [&rule.hosts, &rule.methods, &rule.paths];
            let listed: usize = lists.iter().map(|list| list.listed().len()).sum();
            listed + rule.destinations.len()
        }
    }
}

/// What a rule about the thing that was asked for misses; none for a rule about others.
fn target_missing(
    target: &Target,
    caller: &Principal,
    question: &Question<'_>,
) -> Option<Vec<String>> {
    match (target, question) {
        (Target::Secrets(rule), Question::Secret { verb, secret, destination, .. }) => {
            secret_missing(rule, caller, *verb, secret, destination)
        }
        (Target::Http(rule), Question::Http(request)) => http_missing(rule, request),
        _ => None,
    }
}

fn secret_missing(
    rule: &SecretRule,
    caller: &Principal,
    verb: Verb,
    secret: &SecretRef,
    destination: &Destination<'_>,
) -> Option<Vec<String>> {
    rule.covers(caller, secret).then(|| secret_unmet(rule, caller, verb, secret, destination))
}

fn http_missing(rule: &HttpRule, request: &HttpRequest<'_>) -> Option<Vec<String>> {
    let workload = match &request.destination {
        // Which ones the rule names is not told.
        None => true,
        Some(workload) => rule.destinations.is_empty() || rule.destinations.contains(workload),
    };
    let covered = workload
        && rule.hosts.holds(Some(request.host())) == Held::Yes
        && rule.paths.holds_path(Some(request.path())) == Held::Yes;
    covered.then(|| http_unmet(rule, request))
}

// === impl Budget ===

impl Budget {
    /// Takes what a look costs, if there is that much left, and in any case one.
    fn covers(&mut self, weight: usize) -> bool {
        let covered = weight < self.0;
        self.0 = self.0.saturating_sub(if covered { weight + 1 } else { 1 });
        covered
    }

    fn is_spent(&self) -> bool {
        self.0 == 0
    }
}
