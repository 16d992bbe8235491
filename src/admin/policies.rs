//! `/policies`: which policies are in force, and what is wrong with those that should be.
//!
//! Whoever reaches the port may read it. It names policies, files and subjects, and no
//! secrets: of a problem it tells the place, and `check` the reason.

use axum::Json;
use serde::Serialize;

use crate::{
    api::rfc3339,
    policy::{PolicyFile, PolicyProblem, Subjects},
    snapshot::{Refusal, Snapshot},
};

/// Problems, files and subjects beyond these are only counted.
const MOST: usize = 100;

/// The answer.
#[derive(Serialize)]
pub(super) struct State {
    generation: u64,
    hash: String,
    loaded_at: Option<String>,
    policies: usize,
    rules: usize,
    audit_policies: usize,
    file_count: usize,
    files: Vec<File>,
    /// How many Deny policies cannot be read.
    invalid_denies: usize,
    /// Whom they are about; all of them are denied everything.
    denied_subjects: Vec<Subjects>,
    last_refusal: Option<LastRefusal>,
}

#[derive(Serialize)]
struct File {
    path: String,
    hash: String,
    policies: usize,
}

/// The last load that was refused, if none was usable since.
#[derive(Serialize)]
struct LastRefusal {
    at: Option<String>,
    /// `policies`, or `configuration` and what it names.
    about: &'static str,
    problem_count: usize,
    problems: Vec<Problem>,
}

/// Where something is wrong.
#[derive(Serialize)]
struct Problem {
    file: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    policy: Option<String>,
    #[serde(skip_serializing_if = "str::is_empty")]
    key: String,
}

pub(super) fn state(snapshot: &Snapshot) -> Json<State> {
    let (set, load) = (&snapshot.policies, &snapshot.load);
    let (generation, policies) = (set.generation(), set.policies());
    Json(State {
        generation: generation.number,
        hash: generation.hash.to_string(),
        loaded_at: rfc3339(load.at),
        policies: policies.len(),
        rules: policies.rules(),
        audit_policies: policies.audited(),
        file_count: policies.files().len(),
        files: policies.files().iter().take(MOST).map(File::from).collect(),
        invalid_denies: load.denied.len(),
        denied_subjects: load.denied.iter().take(MOST).cloned().collect(),
        last_refusal: load.refusal.as_deref().map(LastRefusal::from),
    })
}

impl From<&PolicyFile> for File {
    fn from(file: &PolicyFile) -> Self {
        let (path, hash) = (file.path.display().to_string(), file.hash.to_string());
        Self { path, hash, policies: file.policies }
    }
}

impl From<&Refusal> for LastRefusal {
    fn from(refusal: &Refusal) -> Self {
        let about = if refusal.problems.is_empty() { "configuration" } else { "policies" };
        Self {
            at: rfc3339(refusal.at),
            about,
            problem_count: refusal.problems.len(),
            problems: refusal.problems.iter().take(MOST).map(Problem::from).collect(),
        }
    }
}

impl From<&PolicyProblem> for Problem {
    fn from(problem: &PolicyProblem) -> Self {
        Self {
            file: problem.file.display().to_string(),
            line: Some(problem.line).filter(|line| *line != 0),
            policy: problem.policy.clone(),
            key: problem.known_key().to_owned(),
        }
    }
}
