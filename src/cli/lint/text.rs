//! Findings as people read them, in the manner of rustc.

use std::io::IsTerminal;

use crate::lint::{RULES, Report, Rule, Severity, Source};

/// A line that is longer is not shown: config dumps may be one line.
const SHOWN: usize = 120;

pub(super) fn report(sources: &[Source], report: &Report, notes: &[String]) -> String {
    let colour = std::io::stdout().is_terminal();
    let mut text = String::new();
    for finding in &report.findings {
        let rule = finding.rule;
        let severity = painted(rule.severity, colour);
        let source = &sources[finding.source];
        let line = finding.line;
        text += &format!("{severity}[{}]: {}\n", rule.id, finding.message());
        let margin = " ".repeat(line.to_string().len());
        text += &format!("{margin}--> {}:{line}\n", source.name);
        let shown = usize::try_from(line).ok().and_then(|at| source.text.lines().nth(at - 1));
        if let Some(shown) = shown.filter(|shown| shown.len() <= SHOWN) {
            text += &format!("{margin} |\n{line} | {}\n{margin} |\n", shown.trim_end());
        }
        text += &format!("{margin} = why: {}\n{margin} = help: {}\n\n", rule.why, rule.help);
    }
    for note in notes {
        text += &format!("note: {note}\n");
    }
    let [errors, warnings] =
        [(Severity::Error, "error"), (Severity::Warning, "warning")].map(|(severity, word)| {
            match report.count(severity) {
                1 => format!("1 {word}"),
                count => format!("{count} {word}s"),
            }
        });
    let files = match sources.len() {
        1 => "1 file".to_owned(),
        count => format!("{count} files"),
    };
    text + &format!("{errors}, {warnings} in {files}")
}

pub(super) fn rules() -> String {
    let width = RULES.iter().map(|rule| rule.id.len()).max().unwrap_or_default();
    let row =
        |rule: &&Rule| format!("{:width$}  {:7}  {}", rule.id, rule.severity.as_str(), rule.what);
    RULES.iter().map(row).collect::<Vec<_>>().join("\n")
}

fn painted(severity: Severity, colour: bool) -> String {
    match (severity, colour) {
        (_, false) => severity.as_str().to_owned(),
        (Severity::Error, true) => format!("\x1b[1;31m{}\x1b[0m", severity.as_str()),
        (Severity::Warning, true) => format!("\x1b[1;33m{}\x1b[0m", severity.as_str()),
    }
}
