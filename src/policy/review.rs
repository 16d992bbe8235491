//! What is valid and yet most likely not meant: rules that decide nothing, rules that
//! can never match, grants that are wider than they look. For `check`, by people.
//!
//! A finding is true of this configuration, and where that cannot be shown there is
//! none. Policies are compared through maps, never each with each.

mod broad;
mod cover;
mod repeats;
mod unread;
mod unused;

use std::fmt;

pub use unread::unread_files;

use super::{problem::PolicyProblem, rule::Policy, source::Policies};
use crate::{
    identity::{ProofSet, TrustDomain},
    secret::Catalog,
};

/// What a finding is about. A closed list; the codes are stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FindingKind {
    /// Another rule says the same.
    DuplicateRule,
    /// An entry of `from` is inside another one of the same policy.
    DuplicateSubject,
    /// A wider rule of the same effect says it too.
    ShadowedRule,
    /// A Deny covers all that an Allow allows.
    DeniedRule,
    /// An entry of `from` that nobody can satisfy.
    UnusedSubject,
    /// A backend of the rule's that has none of the rule's names.
    UnusedBackend,
    /// A name or prefix that none of the rule's subjects can have.
    UnusedPattern,
    /// A verb that the rule's fields never go with.
    UnusedVerb,
    /// A file of a policy directory that looks like policies and is not read.
    UnreadFile,
    /// Every name may be written by more than named service accounts.
    BroadWrite,
    /// Every name is granted to everyone.
    BroadRead,
    /// A fixed prefix may be written by everyone.
    BroadPrefix,
    /// A template tells callers apart by the service account's name alone.
    SharedByName,
    /// The set is too large for every rule to be compared.
    NotCompared,
}

/// Something that is valid and most likely not meant. Prints on one line as
/// `FILE:LINE: policy "NAME": KEY: message [CODE]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What it is about.
    pub kind: FindingKind,
    /// Where, and what to do.
    pub place: PolicyProblem,
    /// Which of the policy's `to` entries, from 0.
    pub rule: Option<usize>,
}

/// What policies are in force among.
#[derive(Clone, Copy, Debug)]
pub struct Surroundings<'a> {
    /// The backends and their names.
    pub catalog: &'a Catalog,
    /// Those that count.
    pub trust_domains: &'a [TrustDomain],
    /// Every proof that a principal can have here.
    pub proofs: ProofSet,
    /// Whether one of them can be bound to a pod.
    pub bound_to_pod: bool,
}

// === impl Policies ===

impl Policies {
    /// Looks for what is most likely not meant, in the order of files and lines.
    #[must_use]
    pub fn review(&self, around: &Surroundings<'_>) -> Vec<Finding> {
        let mut findings = repeats::findings(&self.policies);
        for policy in self.policies.iter() {
            unused::find(policy, around, &mut findings);
            broad::find(policy, &mut findings);
        }
        findings.sort_by(|a, b| {
            let order = |one: &Finding| (one.place.line, one.kind);
            a.place.file.cmp(&b.place.file).then_with(|| order(a).cmp(&order(b)))
        });
        findings
    }
}

// === impl FindingKind ===

impl FindingKind {
    /// Every kind, in the order of the documentation.
    pub const ALL: [Self; 14] = [
        Self::DuplicateRule,
        Self::DuplicateSubject,
        Self::ShadowedRule,
        Self::DeniedRule,
        Self::UnusedSubject,
        Self::UnusedBackend,
        Self::UnusedPattern,
        Self::UnusedVerb,
        Self::UnreadFile,
        Self::BroadWrite,
        Self::BroadRead,
        Self::BroadPrefix,
        Self::SharedByName,
        Self::NotCompared,
    ];

    /// Its code.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::DuplicateRule => "duplicate_rule",
            Self::DuplicateSubject => "duplicate_subject",
            Self::ShadowedRule => "shadowed_rule",
            Self::DeniedRule => "denied_rule",
            Self::UnusedSubject => "unused_subject",
            Self::UnusedBackend => "unused_backend",
            Self::UnusedPattern => "unused_pattern",
            Self::UnusedVerb => "unused_verb",
            Self::UnreadFile => "unread_file",
            Self::BroadWrite => "broad_write",
            Self::BroadRead => "broad_read",
            Self::BroadPrefix => "broad_prefix",
            Self::SharedByName => "shared_by_name",
            Self::NotCompared => "not_compared",
        }
    }
}

// === impl Finding ===

impl Finding {
    /// About one `to` entry.
    fn of_rule(kind: FindingKind, policy: &Policy, rule: usize, message: String) -> Self {
        let key = format!("spec.to[{rule}]");
        let place = place(policy, policy.origin.to[rule], key, message);
        Self { kind, place, rule: Some(rule) }
    }

    /// About one `from` entry.
    fn of_subject(kind: FindingKind, policy: &Policy, subject: usize, message: String) -> Self {
        let key = format!("spec.from[{subject}]");
        let place = place(policy, policy.origin.from[subject], key, message);
        Self { kind, place, rule: None }
    }
}

fn place(policy: &Policy, line: u64, key: String, message: String) -> PolicyProblem {
    let file = policy.origin.file.to_path_buf();
    PolicyProblem { file, line, policy: Some(policy.name.to_string()), key, message }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} [{}]", self.place, self.kind.as_str())
    }
}

#[cfg(test)]
mod tests;
