//! The compiled form of policies, and decisions by it.
//!
//! A decision looks up the rules of the subjects that the principal falls under, and among
//! each of them what could match the name, path or workload; it never walks the policies.
//! What such a lookup cannot answer is asked of the rules found, of which [`leaf`] keeps no
//! more than could decide. Immutable, without locks; deciding allocates nothing unless a
//! policy in audit mode matches.

mod build;
mod condition;
mod denied;
mod first;
mod http;
mod leaf;
mod map;
mod prefix_map;
mod secrets;
mod subjects;
mod trie;

use std::sync::Arc;

use smallvec::SmallVec;

pub(super) use self::denied::Denied;
use self::{
    condition::Requirements, first::First, http::HttpIndex, leaf::Effect, secrets::SecretIndex,
    subjects::SubjectMap,
};
use super::{
    decision::{AuditMatch, Decision, DecisionId, Denial, Reason},
    request::{Attribute, Connection, Destination, HttpRequest, Verb},
    rule::{Held, Policy, SecretRule, Target},
};
use crate::{
    identity::Principal,
    secret::{BackendName, SecretRef},
};

/// All policies, by subject and target.
#[derive(Default)]
pub(super) struct Index {
    /// By policy name, then position: the smaller number is the one reported.
    rules: Vec<Rule>,
    subjects: SubjectMap<Bucket>,
    /// What entries refer to by number, the first by 1.
    conditions: Box<[Requirements]>,
    firsts: Box<[First]>,
    backends: Box<[Arc<[BackendName]>]>,
    methods: Box<[Vec<Arc<str>>]>,
    /// Rules that say nothing but fields and destinations. Many rules ask for the same, so
    /// these are near when the rule found is not.
    residues: Box<[SecretRule]>,
}

/// One `to` entry.
struct Rule {
    policy: Arc<Policy>,
    /// The policy's, without another step through memory.
    name: Arc<str>,
    position: usize,
}

/// What holds for some set of subjects.
#[derive(Default)]
struct Bucket {
    /// For each slot of the targets, the rule. Most subjects have few, which are kept here:
    /// for a caller who has not asked for long, every step to another place in memory costs
    /// as much as the comparisons do.
    rules: SmallVec<[u32; 4]>,
    targets: Targets,
}

/// What is said about secrets and mesh traffic, whoever it is said of.
#[derive(Clone, Default)]
struct Targets {
    secrets: Option<Arc<SecretIndex>>,
    http: Option<Arc<HttpIndex>>,
}

/// What was found so far.
#[derive(Default)]
struct Tally {
    deny: Option<u32>,
    allow: Option<u32>,
    missing: Option<(u32, Attribute)>,
    audit: Vec<u32>,
}

// === impl Index ===

impl Index {
    /// Decides about one secret.
    pub(super) fn secret(
        &self,
        principal: &Principal,
        verb: Verb,
        secret: &SecretRef,
        destination: &Destination<'_>,
        generation: u64,
    ) -> Result<Decision, Denial> {
        let mut tally = Tally::default();
        for Bucket { rules, targets } in self.subjects.of(principal) {
            let Some(secrets) = &targets.secrets else { continue };
            secrets.visit(principal, secret.name.as_str(), &mut |entry| {
                let first = rules[entry.slot as usize];
                if !entry.verbs.contains(verb)
                    || !tally.awaits(first, entry.effect)
                    || !self.covers(entry.backends, &secret.backend)
                    || !self.holds(entry.condition, principal)
                {
                    return;
                }
                let Some(slot) = self.first(entry.first, entry.slot, principal) else { return };
                let id = rules[slot as usize];
                let held = match entry.residue {
                    0 => Held::Yes,
                    number => self.residues[number as usize - 1].residue(
                        entry.effect.allow,
                        secret.field.as_ref(),
                        destination,
                    ),
                };
                tally.add(id, entry.effect, held);
            });
        }
        self.decide(tally, generation)
    }

    /// Decides whether there is any name that the verb may be tried with.
    pub(super) fn collection(
        &self,
        principal: &Principal,
        verb: Verb,
        generation: u64,
    ) -> Result<Decision, Denial> {
        let mut tally = Tally::default();
        for Bucket { rules, targets } in self.subjects.of(principal) {
            let Some(secrets) = &targets.secrets else { continue };
            for entry in secrets.collections().iter() {
                let first = rules[entry.slot as usize];
                let applies = || match self.rules[first as usize].target() {
                    _ if !entry.guarded => true,
                    Target::Secrets(rule) => {
                        rule.patterns.iter().any(|pattern| pattern.applies_to(principal))
                    }
                    Target::Http(_) => false,
                };
                if entry.verbs.contains(verb)
                    && tally.awaits(first, entry.effect)
                    && self.holds(entry.condition, principal)
                    && applies()
                    && let Some(slot) = self.first(entry.first, entry.slot, principal)
                {
                    tally.add(rules[slot as usize], entry.effect, Held::Yes);
                }
            }
        }
        self.decide(tally, generation)
    }

    /// Decides about an HTTP request.
    pub(super) fn http(
        &self,
        principal: &Principal,
        request: &HttpRequest<'_>,
        generation: u64,
    ) -> Result<Decision, Denial> {
        let mut tally = Tally::default();
        for Bucket { rules, targets } in self.subjects.of(principal) {
            let Some(http) = &targets.http else { continue };
            http.visit_request(request, &mut |entry| {
                // Path, host and workload are what the entry was found by.
                if tally.awaits(rules[entry.slot as usize], entry.effect)
                    && self.lists(entry.methods, request.method())
                    && self.holds(entry.condition, principal)
                    && let Some(slot) = self.first(entry.first, entry.slot, principal)
                {
                    tally.add(rules[slot as usize], entry.effect, Held::Yes);
                }
            });
        }
        self.decide(tally, generation)
    }

    /// Decides about a TCP connection.
    pub(super) fn connection(
        &self,
        principal: &Principal,
        connection: &Connection,
        generation: u64,
    ) -> Result<Decision, Denial> {
        let mut tally = Tally::default();
        for Bucket { rules, targets } in self.subjects.of(principal) {
            let Some(http) = &targets.http else { continue };
            http.visit_connection(connection, &mut |entry| {
                if tally.awaits(rules[entry.slot as usize], entry.effect)
                    && self.holds(entry.condition, principal)
                    && let Some(slot) = self.first(entry.first, entry.slot, principal)
                {
                    tally.add(rules[slot as usize], entry.effect, Held::Yes);
                }
            });
        }
        self.decide(tally, generation)
    }

    /// The rules of the subjects that the principal falls under, narrow ones first: each with
    /// its policy, and maybe several times. What else a subject asks is to be looked at.
    pub(super) fn rules_of<'i>(
        &'i self,
        principal: &'i Principal,
    ) -> impl Iterator<Item = (&'i Policy, usize)> {
        let rules = self.subjects.of(principal).flat_map(|bucket| &bucket.rules);
        rules.map(|rule| {
            let Rule { policy, position, .. } = &self.rules[*rule as usize];
            (&**policy, *position)
        })
    }

    fn holds(&self, condition: u32, principal: &Principal) -> bool {
        condition == 0 || self.conditions[condition as usize - 1].hold(principal)
    }

    /// The first of an entry's rules that does not except the principal.
    fn first(&self, number: u32, first: u32, principal: &Principal) -> Option<u32> {
        match number {
            0 => Some(first),
            number => self.firsts[number as usize - 1].slot(first, principal),
        }
    }

    fn covers(&self, backends: u32, backend: &BackendName) -> bool {
        backends == 0 || self.backends[backends as usize - 1].contains(backend)
    }

    fn lists(&self, methods: u32, method: &str) -> bool {
        methods == 0 || self.methods[methods as usize - 1].iter().any(|listed| **listed == *method)
    }

    fn decide(&self, tally: Tally, generation: u64) -> Result<Decision, Denial> {
        let (reason, rule) = match tally {
            Tally { deny: Some(rule), .. } => (Some(Reason::DeniedByPolicy), Some(rule)),
            Tally { allow: Some(rule), .. } => (None, Some(rule)),
            Tally { missing: Some((rule, attribute)), .. } => {
                (Some(Reason::MissingAttribute(attribute)), Some(rule))
            }
            _ => (Some(Reason::NoMatch), None),
        };
        let rule = rule.map(|rule| &self.rules[rule as usize]);
        let mut audit = tally.audit;
        // Several subject entries of one policy may lead to one rule.
        audit.sort_unstable();
        audit.dedup();
        let audit = audit.into_iter().map(|rule| self.rules[rule as usize].to_audit_match());
        let decision = Decision {
            id: DecisionId::next(),
            policy: rule.map(|rule| rule.name.clone()),
            rule: rule.map(|rule| rule.position),
            generation,
            audit: audit.collect(),
        };
        match reason {
            None => Ok(decision),
            Some(reason) => Err(Denial { reason, decision }),
        }
    }
}

// === impl Rule ===

impl Rule {
    fn target(&self) -> &Target {
        &self.policy.to[self.position]
    }

    fn to_audit_match(&self) -> AuditMatch {
        let Self { policy, name, position } = self;
        AuditMatch { policy: name.clone(), rule: *position, allow: policy.allow }
    }
}

// === impl Tally ===

impl Tally {
    /// Whether the answer could still depend on this rule.
    fn awaits(&self, id: u32, effect: Effect) -> bool {
        let best = if effect.allow { self.allow } else { self.deny };
        effect.audit || best.is_none_or(|best| id < best)
    }

    fn add(&mut self, id: u32, effect: Effect, held: Held) {
        let first = |best: &mut Option<u32>| *best = Some(best.map_or(id, |best| best.min(id)));
        let Effect { allow, audit } = effect;
        match (held, allow) {
            (Held::Yes, _) | (Held::Unknown(_), false) if audit => self.audit.push(id),
            (Held::Yes, true) => first(&mut self.allow),
            // What a Deny asks for and the request does not show, it shows.
            (Held::Yes | Held::Unknown(_), false) => first(&mut self.deny),
            (Held::Unknown(Some(attribute)), true) if !audit => {
                if self.missing.is_none_or(|(best, _)| id < best) {
                    self.missing = Some((id, attribute));
                }
            }
            (Held::Unknown(_), true) | (Held::No, _) => {}
        }
    }
}

#[cfg(test)]
mod tests;
