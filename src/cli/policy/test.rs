//! `policy test`: do policies decide what tables of cases expect?

mod report;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, anyhow};
use clap::Args;

use crate::{
    app::load_policies,
    cli::{Answer, Output, load, print},
    config::Config,
    policy::{self, CaseReport, Coverage, PolicySet, Suite, load_suites},
};

#[derive(Debug, Args)]
pub(in crate::cli) struct Test {
    /// Files with tables of cases.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The configuration file, instead of the one that a table names.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Fail too if a rule decided none of the cases.
    #[arg(long)]
    fail_uncovered: bool,
    /// Write the results as JUnit XML.
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// How to print the results.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

/// The policies that some tables are about.
struct Subject {
    config_path: PathBuf,
    policy_paths: Option<Vec<PathBuf>>,
    config: Config,
    set: Arc<PolicySet>,
    coverage: Coverage,
}

/// How a table went.
struct Outcome<'s> {
    suite: &'s Suite,
    set: Arc<PolicySet>,
    cases: Vec<CaseReport<'s>>,
}

// === impl Test ===

impl Test {
    pub(in crate::cli) fn run(self) -> anyhow::Result<Answer> {
        if let Some(path) = &self.junit {
            forget(path)?;
        }
        let mut suites = Vec::new();
        for file in &self.files {
            suites.extend(load_suites(file).map_err(|failure| anyhow!("{failure}"))?);
        }
        let mut subjects = Vec::new();
        let mut outcomes = Vec::new();
        for suite in &suites {
            let subject = self.subject(suite, &mut subjects)?;
            let Subject { config, set, coverage, .. } = subject;
            let domains = &config.identity.trust_domains;
            let cases = suite.run(set, &config.catalog, domains, coverage);
            let cases = cases.map_err(|failure| anyhow!("{failure}"))?;
            outcomes.push(Outcome { suite, set: Arc::clone(set), cases });
        }
        if let Some(path) = &self.junit {
            let to_cover = if self.fail_uncovered { &subjects[..] } else { &[] };
            let xml = report::junit(&outcomes, to_cover)?;
            fs::write(path, xml).with_context(|| path.display().to_string())?;
        }
        match self.output {
            Output::Json => print(&report::json(&outcomes, &subjects).to_string()),
            Output::Text => print(&report::text(&outcomes, &subjects)),
        }
        let failed = outcomes.iter().flat_map(|it| &it.cases).any(|case| !case.failed.is_empty());
        let uncovered =
            subjects.iter().any(|subject| !subject.coverage.of(&subject.set).1.is_empty());
        let negative = failed || (self.fail_uncovered && uncovered);
        Ok(if negative { Answer::No } else { Answer::Yes })
    }

    /// What a table is about, loaded once for all that are about the same.
    fn subject<'s>(
        &self,
        suite: &Suite,
        subjects: &'s mut Vec<Subject>,
    ) -> anyhow::Result<&'s mut Subject> {
        // Paths in a table are relative to it.
        let beside = |path: &PathBuf| match suite.file.parent() {
            Some(directory) => directory.join(path),
            None => path.clone(),
        };
        let named = suite.config.as_ref().map(beside);
        let config_path = self.config.clone().or(named).with_context(|| {
            format!("{}: names no configuration: give --config FILE", suite.file.display())
        })?;
        let policy_paths: Option<Vec<_>> =
            suite.policies.as_ref().map(|paths| paths.iter().map(beside).collect());
        let same = |subject: &Subject| {
            subject.config_path == config_path && subject.policy_paths == policy_paths
        };
        let at = match subjects.iter().position(same) {
            Some(at) => at,
            None => {
                subjects.push(Subject::load(config_path, policy_paths)?);
                subjects.len() - 1
            }
        };
        Ok(&mut subjects[at])
    }
}

/// Removes what an earlier run wrote: whoever collects it would take it for this one's, if this
/// one cannot write any. What is no file of its own stays.
fn forget(path: &Path) -> anyhow::Result<()> {
    let is_file = fs::symlink_metadata(path).is_ok_and(|found| found.is_file());
    if is_file {
        fs::remove_file(path).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

// === impl Subject ===

impl Subject {
    fn load(config_path: PathBuf, policy_paths: Option<Vec<PathBuf>>) -> anyhow::Result<Self> {
        let config = load(&config_path)?;
        let policies = match &policy_paths {
            Some(paths) => policy::load(paths, &config.catalog),
            None => load_policies(&config),
        };
        let policies = policies.map_err(|failure| anyhow!("{failure}"))?;
        let set = Arc::new(PolicySet::compile(&policies, 1));
        Ok(Self { config_path, policy_paths, config, set, coverage: Coverage::default() })
    }

    /// What it is called in reports.
    fn name(&self) -> String {
        let shown = |path: &Path| path.display().to_string();
        match &self.policy_paths {
            None => shown(&self.config_path),
            Some(paths) => paths.iter().map(|path| shown(path)).collect::<Vec<_>>().join(", "),
        }
    }
}
