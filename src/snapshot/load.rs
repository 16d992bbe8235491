//! Since when policies are in force, and what came after them and could not be used.

use std::{sync::Arc, time::SystemTime};

use crate::policy::{LoadFailure, PolicyProblem, Subjects};

/// How the policies of a snapshot came into force.
#[derive(Clone, Debug)]
pub struct Load {
    /// Since when they decide as they do.
    pub at: SystemTime,
    /// Whom they deny everything, since Deny policies about them cannot be read.
    pub denied: Arc<[Subjects]>,
    /// The last load that was refused, unless one was usable since.
    pub refusal: Option<Arc<Refusal>>,
}

/// A load that was refused.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// When.
    pub at: SystemTime,
    /// What is wrong with the policies; none if it is something else.
    pub problems: Vec<PolicyProblem>,
}

// === impl Load ===

impl Load {
    /// Policies that came into force just now.
    #[must_use]
    pub fn now() -> Self {
        Self { at: SystemTime::now(), denied: Arc::default(), refusal: None }
    }

    /// The same, after a load that was refused just now. Whoever was to be denied
    /// before still is: nothing tells that it no longer should be.
    #[must_use]
    pub fn refused(&self, failure: Option<&LoadFailure>) -> Self {
        let mut denied = self.denied.to_vec();
        for subjects in failure.iter().flat_map(|failure| &failure.denied) {
            if !denied.contains(subjects) {
                denied.push(subjects.clone());
            }
        }
        let problems = failure.map(|failure| failure.problems.clone()).unwrap_or_default();
        let at = SystemTime::now();
        let more = denied.len() > self.denied.len();
        Self {
            at: if more { at } else { self.at },
            denied: if more { denied.into() } else { Arc::clone(&self.denied) },
            refusal: Some(Arc::new(Refusal { at, problems })),
        }
    }
}
