//! What is wrong with policies, and whom that concerns.

use std::{fmt, path::PathBuf, sync::Arc};

use super::rule::Subject;

/// One thing that is wrong with one policy file. Prints on one line as
/// `FILE:LINE: policy "NAME": KEY: message`, without the parts that are unknown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyProblem {
    /// The file, as it was named.
    pub file: PathBuf,
    /// From 1; 0 if the problem is with the file as a whole.
    pub line: u64,
    /// The policy's name, where it can be read.
    pub policy: Option<String>,
    /// The path of the key, such as `spec.to[0].secrets.verbs`; may be empty.
    pub key: String,
    /// What is wrong.
    pub message: String,
}

/// Whom a policy is about.
#[derive(Clone, Debug)]
pub struct Subjects(pub(super) Arc<[Subject]>);

/// Policies that cannot be used. The set that was in force before should stay,
/// compiled with [`super::PolicySet::compile_denying`].
#[derive(Clone, Debug)]
pub struct LoadFailure {
    /// All of them, in the order of files and lines; never empty.
    pub problems: Vec<PolicyProblem>,
    /// Whom the invalid Deny policies are about. A document that is not YAML at
    /// all counts as nothing.
    pub denied: Vec<Subjects>,
}

// === impl PolicyProblem ===

impl fmt::Display for PolicyProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file.display())?;
        if self.line != 0 {
            write!(f, "{}:", self.line)?;
        }
        if let Some(policy) = &self.policy {
            write!(f, " policy {policy:?}:")?;
        }
        if !self.key.is_empty() {
            // Keys are the author's text; they may hold anything.
            write!(f, " {}:", self.key.escape_debug())?;
        }
        write!(f, " {}", self.message.replace(char::is_control, " "))
    }
}

// === impl Subjects ===

impl Subjects {
    /// Every principal.
    #[must_use]
    pub fn everyone() -> Self {
        Self([Subject::everyone()].into())
    }
}

// === impl LoadFailure ===

impl fmt::Display for LoadFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut problems = self.problems.iter();
        if let Some(first) = problems.next() {
            write!(f, "{first}")?;
        }
        problems.try_for_each(|problem| write!(f, "\n{problem}"))
    }
}

impl std::error::Error for LoadFailure {}
