//! `lint`: what is dangerous in configuration around the filters.

mod files;
mod sarif;
mod text;

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::{Answer, print};
use crate::lint::{self, RULES, Report, Rule, Severity, Source};

#[derive(Debug, Args)]
pub(super) struct Lint {
    /// Files, directories of .yaml, .yml and .json files, or - for standard input. They are
    /// looked at together.
    #[arg(required_unless_present = "rules")]
    files: Vec<PathBuf>,
    /// Exit with 1 for these, too.
    #[arg(long, value_enum, value_name = "WHAT")]
    deny: Option<Deny>,
    /// A rule that is not to be heard of; may be repeated.
    #[arg(long, value_name = "RULE")]
    allow: Vec<String>,
    /// List the rules instead.
    #[arg(long, conflicts_with = "files")]
    rules: bool,
    /// How to print the findings.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

/// What else than errors is denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Deny {
    Warnings,
}

/// The form of the findings.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Output {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
    /// For code hosts: the Static Analysis Results Interchange Format, 2.1.0.
    Sarif,
}

// === impl Lint ===

impl Lint {
    pub(super) fn run(self) -> anyhow::Result<Answer> {
        for id in &self.allow {
            let known = RULES.iter().any(|rule| rule.id == id);
            anyhow::ensure!(known, "--allow {id}: no such rule; --rules lists them");
        }
        if self.rules {
            print(&match self.output {
                Output::Text => text::rules(),
                Output::Json => {
                    json!(RULES.iter().map(|rule| rule_json(rule)).collect::<Vec<_>>()).to_string()
                }
                Output::Sarif => anyhow::bail!("--rules is printed as text or json"),
            });
            return Ok(Answer::Yes);
        }
        let files::Read { sources, mut notes } = files::read(&self.files)?;
        let mut report = lint::lint(&sources);
        report.findings.retain(|it| !self.allow.iter().any(|allowed| allowed == it.rule.id));
        notes.extend(report.notes.iter().map(|note| at(&sources, note)));
        let unreadable: Vec<_> = report.unreadable.iter().map(|it| at(&sources, it)).collect();
        print(&match self.output {
            Output::Text => text::report(&sources, &report, &notes),
            Output::Json => as_json(&sources, &report, &notes, &unreadable).to_string(),
            Output::Sarif => sarif::report(&sources, &report, &notes, &unreadable).to_string(),
        });
        // The findings of all that could be read are printed by now.
        anyhow::ensure!(unreadable.is_empty(), "{}", unreadable.join("; "));
        anyhow::ensure!(
            report.looked_at > 0,
            "nothing in {} is configuration that lint knows: docs/lint.md lists what it looks at",
            if sources.len() == 1 { "the file" } else { "the files" }
        );
        let denied = report.count(Severity::Error)
            + if self.deny == Some(Deny::Warnings) { report.count(Severity::Warning) } else { 0 };
        Ok(if denied == 0 { Answer::Yes } else { Answer::No })
    }
}

/// A remark with its place in front.
fn at(sources: &[Source], remark: &lint::Remark) -> String {
    let name = &sources[remark.source].name;
    match remark.line {
        0 => format!("{name}: {}", remark.text),
        line => format!("{name}:{line}: {}", remark.text),
    }
}

fn rule_json(rule: &Rule) -> Value {
    json!({
        "rule": rule.id,
        "severity": rule.severity.as_str(),
        "what": rule.what,
        "why": rule.why,
        "help": rule.help,
    })
}

fn as_json(sources: &[Source], report: &Report, notes: &[String], unreadable: &[String]) -> Value {
    let finding = |finding: &lint::Finding| {
        json!({
            "rule": finding.rule.id,
            "severity": finding.rule.severity.as_str(),
            "file": sources[finding.source].name,
            "line": finding.line,
            "message": finding.message(),
            "why": finding.rule.why,
            "help": finding.rule.help,
        })
    };
    json!({
        "findings": report.findings.iter().map(finding).collect::<Vec<_>>(),
        "errors": report.count(Severity::Error),
        "warnings": report.count(Severity::Warning),
        "notes": notes,
        "unreadable": unreadable,
    })
}
