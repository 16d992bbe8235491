//! What is wrong with policies, and whom that concerns.

use std::{borrow::Cow, fmt, path::PathBuf, sync::Arc};

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

/// How many problems of the documents of a load are kept. The rest counts, and is not told.
pub(super) const MAX_KEPT: usize = 10_000;
/// How many are printed.
const MAX_SHOWN: usize = 100;
/// How much of a text of the author's is repeated.
const MAX_QUOTED: usize = 200;

/// Whom a policy is about.
#[derive(Clone, Debug)]
pub struct Subjects(pub(super) Arc<[Subject]>);

/// Policies that cannot be used. The set that was in force before should stay,
/// compiled with [`super::PolicySet::compile_denying`].
#[derive(Clone, Debug)]
pub struct LoadFailure {
    /// All of them, or the first thousands, in the order of files and lines; never empty.
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
    /// A line each, of so many as a person reads, and how many more there are.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, problem) in self.problems.iter().take(MAX_SHOWN).enumerate() {
            write!(f, "{}{problem}", if at == 0 { "" } else { "\n" })?;
        }
        match self.problems.len().checked_sub(MAX_SHOWN) {
            None | Some(0) => Ok(()),
            Some(more) => {
                let least = if self.problems.len() >= MAX_KEPT { "at least " } else { "" };
                write!(f, "\nand {least}{more} more problems")
            }
        }
    }
}

impl std::error::Error for LoadFailure {}

/// The author's text in a message, short enough for a line.
pub(super) fn quoted(text: &str) -> String {
    format!("{:?}", shortened(text))
}

pub(super) fn shortened(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(MAX_QUOTED) {
        None => Cow::Borrowed(text),
        Some((end, _)) => Cow::Owned(format!("{}…", &text[..end])),
    }
}
