//! The compiled form of policies, and decisions by it.
//!
//! A decision looks up the buckets that the principal falls into, and in each
//! of them what could match the name, path or workload; it never walks the
//! policies. What such a lookup cannot answer is decided on the entries found.
//! Immutable, without locks.

mod http;
mod prefix_map;
mod secrets;

use std::{collections::HashMap, sync::Arc};

use http::HttpIndex;
use prefix_map::PrefixMap;
use secrets::SecretIndex;

use super::{
    decision::{AuditMatch, Decision, DecisionId, Denial, Reason},
    problem::Subjects,
    request::{Attribute, Connection, Destination, HttpRequest, Verb},
    rule::{Held, Policy, Subject, Target},
};
use crate::{
    identity::{Principal, ServiceAccount},
    secret::SecretRef,
};

/// All policies, by subject and target.
#[derive(Default)]
pub(super) struct Index {
    /// By policy name, then position: the smaller number is the one reported.
    rules: Vec<Rule>,
    /// What lookups leave open about subjects.
    subjects: Vec<Subject>,
    everyone: Bucket,
    accounts: HashMap<ServiceAccount, Bucket>,
    namespaces: HashMap<Arc<str>, Bucket>,
    prefixes: PrefixMap<Bucket>,
}

/// One `to` entry.
struct Rule {
    policy: Arc<Policy>,
    position: usize,
}

/// What holds for some set of subjects.
#[derive(Default)]
struct Bucket {
    /// Subjects of Deny policies that cannot be read.
    invalid: Vec<u32>,
    secrets: SecretIndex,
    http: HttpIndex,
}

/// A rule that a lookup found.
#[derive(Clone, Copy, Debug)]
struct Entry {
    rule: u32,
    subject: u32,
    /// Which of the rule's patterns.
    pattern: u32,
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
    /// `policies` are in the order of their names.
    pub(super) fn new(policies: &[Arc<Policy>], denied: &[Subjects]) -> Self {
        let mut index = Self::default();
        for policy in policies {
            let first = number(index.rules.len());
            let rule = |(position, _)| Rule { policy: policy.clone(), position };
            index.rules.extend(policy.to.iter().enumerate().map(rule));
            for from in policy.from.iter() {
                let subject = number(index.subjects.len());
                index.subjects.push(from.clone());
                index.each_bucket(from, |bucket| {
                    for (rule, target) in (first..).zip(&policy.to) {
                        let entry = Entry { rule, subject, pattern: 0 };
                        match target {
                            Target::Secrets(rule) => {
                                bucket.secrets.insert(entry, policy.allow, rule);
                            }
                            Target::Http(rule) => bucket.http.insert(entry, policy.allow, rule),
                        }
                    }
                });
            }
        }
        for from in denied.iter().flat_map(|subjects| subjects.0.iter()) {
            let subject = number(index.subjects.len());
            index.subjects.push(from.clone());
            index.each_bucket(from, |bucket| bucket.invalid.push(subject));
        }
        index
    }

    /// The buckets under the entry's narrowest field; the others are decided
    /// on the entries, as are its exceptions and proofs.
    fn each_bucket(&mut self, from: &Subject, mut fill: impl FnMut(&mut Bucket)) {
        if !from.accounts.is_empty() {
            for account in from.accounts.iter().filter(|account| from.names(account)) {
                fill(self.accounts.entry(account.clone()).or_default());
            }
        } else if !from.namespaces.is_empty() {
            for namespace in from.namespaces.iter().filter(|namespace| from.reaches(namespace)) {
                fill(self.namespaces.entry(namespace.clone()).or_default());
            }
        } else if !from.prefixes.is_empty() {
            for prefix in &from.prefixes {
                fill(self.prefixes.entry(prefix));
            }
        } else {
            fill(&mut self.everyone);
        }
    }

    fn buckets<'i>(&'i self, principal: &'i Principal) -> impl Iterator<Item = &'i Bucket> {
        std::iter::once(&self.everyone)
            .chain(self.accounts.get(principal.service_account()))
            .chain(self.namespaces.get(principal.namespace()))
            .chain(self.prefixes.matches(principal.namespace()).map(|(_, bucket)| bucket))
    }

    /// Decides about one secret.
    pub(super) fn secret(
        &self,
        principal: &Principal,
        verb: Verb,
        secret: &SecretRef,
        destination: &Destination<'_>,
        generation: u64,
    ) -> Result<Decision, Denial> {
        self.decide(principal, generation, |bucket, tally| {
            bucket.secrets.visit(principal, secret.name.as_str(), &mut |entry| {
                let rule = &self.rules[entry.rule as usize];
                let Target::Secrets(target) = rule.target() else { return };
                if target.verbs.contains(verb)
                    && target.patterns[entry.pattern as usize].covers(&secret.backend)
                    && self.subjects[entry.subject as usize].matches(principal)
                {
                    let allow = rule.policy.allow;
                    let held = target.residue(allow, secret.field.as_ref(), destination);
                    tally.add(entry.rule, rule, held);
                }
            });
        })
    }

    /// Decides whether there is any name that the verb may be tried with.
    pub(super) fn collection(
        &self,
        principal: &Principal,
        verb: Verb,
        generation: u64,
    ) -> Result<Decision, Denial> {
        self.decide(principal, generation, |bucket, tally| {
            for entry in bucket.secrets.collections() {
                let rule = &self.rules[entry.rule as usize];
                let Target::Secrets(target) = rule.target() else { continue };
                if target.verbs.contains(verb)
                    && target.patterns.iter().any(|pattern| pattern.applies_to(principal))
                    && self.subjects[entry.subject as usize].matches(principal)
                {
                    tally.add(entry.rule, rule, Held::Yes);
                }
            }
        })
    }

    /// Decides about an HTTP request.
    pub(super) fn http(
        &self,
        principal: &Principal,
        request: &HttpRequest<'_>,
        generation: u64,
    ) -> Result<Decision, Denial> {
        self.decide(principal, generation, |bucket, tally| {
            bucket.http.visit_request(request, &mut |entry| {
                let rule = &self.rules[entry.rule as usize];
                let Target::Http(target) = rule.target() else { return };
                // Path and workload are what the entry was found by.
                if target.methods.holds(Some(request.method())) == Held::Yes
                    && target.hosts.holds(Some(request.host())) == Held::Yes
                    && self.subjects[entry.subject as usize].matches(principal)
                {
                    tally.add(entry.rule, rule, Held::Yes);
                }
            });
        })
    }

    /// Decides about a TCP connection.
    pub(super) fn connection(
        &self,
        principal: &Principal,
        connection: &Connection,
        generation: u64,
    ) -> Result<Decision, Denial> {
        self.decide(principal, generation, |bucket, tally| {
            bucket.http.visit_connection(connection, &mut |entry| {
                let rule = &self.rules[entry.rule as usize];
                if self.subjects[entry.subject as usize].matches(principal) {
                    tally.add(entry.rule, rule, Held::Yes);
                }
            });
        })
    }

    fn decide(
        &self,
        principal: &Principal,
        generation: u64,
        find: impl Fn(&Bucket, &mut Tally),
    ) -> Result<Decision, Denial> {
        let mut tally = Tally::default();
        for bucket in self.buckets(principal) {
            let about = |subject: &u32| self.subjects[*subject as usize].matches(principal);
            if bucket.invalid.iter().any(about) {
                let decision = self.decision(None, Vec::new(), generation);
                return Err(Denial { reason: Reason::PolicyInvalid, decision });
            }
            find(bucket, &mut tally);
        }
        let (outcome, rule) = match tally {
            Tally { deny: Some(rule), .. } => (Err(Reason::DeniedByPolicy), Some(rule)),
            Tally { allow: Some(rule), .. } => (Ok(()), Some(rule)),
            Tally { missing: Some((rule, attribute)), .. } => {
                (Err(Reason::MissingAttribute(attribute)), Some(rule))
            }
            _ => (Err(Reason::NoMatch), None),
        };
        let decision = self.decision(rule, tally.audit, generation);
        match outcome {
            Ok(()) => Ok(decision),
            Err(reason) => Err(Denial { reason, decision }),
        }
    }

    fn decision(&self, rule: Option<u32>, mut audit: Vec<u32>, generation: u64) -> Decision {
        let rule = rule.map(|rule| &self.rules[rule as usize]);
        // Several subject entries of one policy may lead to one rule.
        audit.sort_unstable();
        audit.dedup();
        let audit = audit.into_iter().map(|rule| self.rules[rule as usize].to_audit_match());
        Decision {
            id: DecisionId::next(),
            policy: rule.map(|rule| rule.policy.name.clone()),
            rule: rule.map(|rule| rule.position),
            generation,
            audit: audit.collect(),
        }
    }
}

fn number(len: usize) -> u32 {
    u32::try_from(len).expect("policies are far fewer than their bytes, of which few fit in files")
}

// === impl Rule ===

impl Rule {
    fn target(&self) -> &Target {
        &self.policy.to[self.position]
    }

    fn to_audit_match(&self) -> AuditMatch {
        let Policy { name, allow, .. } = &*self.policy;
        AuditMatch { policy: name.clone(), rule: self.position, allow: *allow }
    }
}

// === impl Tally ===

impl Tally {
    fn add(&mut self, id: u32, rule: &Rule, held: Held) {
        let first = |best: &mut Option<u32>| *best = Some(best.map_or(id, |best| best.min(id)));
        let Policy { allow, audit, .. } = *rule.policy;
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
