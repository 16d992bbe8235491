//! The outcome of a decision, and why.

use std::{
    fmt,
    hash::{BuildHasher, RandomState},
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU64, Ordering},
    },
};

use super::request::Attribute;

/// Names one decision in answers, logs and metadata. Unique within a process,
/// and among processes by a random part.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct DecisionId {
    process: u64,
    number: u64,
}

/// Which policies decided.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Generation {
    /// Counts the sets of this process, from 1. A reload that changes no decision is none.
    pub number: u64,
    /// A hash of what the policies say: equal on replicas that hold the same.
    pub hash: Arc<str>,
}

/// A policy in audit mode that would have matched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditMatch {
    /// Its name.
    pub policy: Arc<str>,
    /// Which of its `to` entries, from 0.
    pub rule: usize,
    /// Whether it would have allowed (or else denied).
    pub allow: bool,
}

/// What decided, and how to find it again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Names this decision.
    pub id: DecisionId,
    /// The policy that decided; none for default deny.
    pub policy: Option<Arc<str>>,
    /// Which of its `to` entries, from 0.
    pub rule: Option<usize>,
    /// The number of the policy generation that decided; 0 before any.
    pub generation: u64,
    /// Policies in audit mode that would have matched.
    pub audit: Vec<AuditMatch>,
}

/// Why something was denied. A closed list: edges map it without a default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The request shows no identity.
    NoIdentity,
    /// The request shows an identity that is malformed, foreign or contradictory.
    InvalidIdentity,
    /// The request shows a token that was refused.
    InvalidToken,
    /// The request has more than one reading.
    Malformed,
    /// No policy allows it.
    NoMatch,
    /// A policy denies it.
    DeniedByPolicy,
    /// A Deny policy that cannot be read covers this principal.
    PolicyInvalid,
    /// A rule would allow it, had the proxy sent this attribute.
    MissingAttribute(Attribute),
}

/// A refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// Why.
    pub reason: Reason,
    /// What decided.
    pub decision: Decision,
}

// === impl DecisionId ===

impl DecisionId {
    /// The next id.
    #[must_use]
    pub fn next() -> Self {
        static PROCESS: LazyLock<u64> = LazyLock::new(|| RandomState::new().hash_one("decision"));
        static NUMBER: AtomicU64 = AtomicU64::new(1);
        Self { process: *PROCESS, number: NUMBER.fetch_add(1, Ordering::Relaxed) }
    }
}

impl fmt::Display for DecisionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{:x}", self.process, self.number)
    }
}

impl fmt::Debug for DecisionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

// === impl Reason ===

impl Reason {
    /// The code in answers, metrics and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoIdentity => "no_identity",
            Self::InvalidIdentity => "invalid_identity",
            Self::InvalidToken => "invalid_token",
            Self::Malformed => "malformed_request",
            Self::NoMatch => "no_match",
            Self::DeniedByPolicy => "denied_by_policy",
            Self::PolicyInvalid => "policy_invalid",
            Self::MissingAttribute(_) => "missing_attribute",
        }
    }
}

// === impl Denial ===

impl Denial {
    /// A refusal that no policy was asked about.
    #[must_use]
    pub fn new(reason: Reason) -> Self {
        let decision = Decision {
            id: DecisionId::next(),
            policy: None,
            rule: None,
            generation: 0,
            audit: Vec::new(),
        };
        Self { reason, decision }
    }
}
