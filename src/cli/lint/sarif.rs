//! Findings as code hosts read them.

use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use serde_json::{Value, json};

use crate::lint::{RULES, Report, Source};

const SCHEMA: &str = "https://json.schemastore.org/sarif-2.1.0.json";
/// What a path has, and a URI must not.
const NO_URI: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'\\')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}')
    .add(b'[')
    .add(b']');

pub(super) fn report(
    sources: &[Source],
    report: &Report,
    notes: &[String],
    unreadable: &[String],
) -> Value {
    let rules: Vec<_> = RULES
        .iter()
        .map(|rule| {
            json!({
                "id": rule.id,
                "shortDescription": {"text": rule.what},
                "fullDescription": {"text": format!("{}: {}.", rule.what, rule.why)},
                "help": {"text": rule.help},
                "defaultConfiguration": {"level": rule.severity.as_str()},
            })
        })
        .collect();
    let results: Vec<_> = report
        .findings
        .iter()
        .map(|finding| {
            let uri = uri(&sources[finding.source].name);
            json!({
                "ruleId": finding.rule.id,
                "ruleIndex": RULES.iter().position(|rule| rule.id == finding.rule.id),
                "level": finding.rule.severity.as_str(),
                "message": {"text": format!(
                    "{}: {}. {}.",
                    finding.message(), finding.rule.why, finding.rule.help
                )},
                "locations": [{"physicalLocation": {
                    "artifactLocation": {"uri": uri},
                    "region": {"startLine": finding.line},
                }}],
            })
        })
        .collect();
    let notified = |level: &'static str| move |text: &String| json!({"level": level, "message": {"text": text}});
    let notifications: Vec<_> = notes
        .iter()
        .map(notified("note"))
        .chain(unreadable.iter().map(notified("error")))
        .collect();
    json!({
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [{
            "tool": {"driver": {
                "name": "vaultmux-mesh lint",
                "version": env!("CARGO_PKG_VERSION"),
                "rules": rules,
            }},
            "invocations": [{
                "executionSuccessful": unreadable.is_empty(),
                "toolExecutionNotifications": notifications,
            }],
            "results": results,
        }],
    })
}

/// A path below the working directory stays as it is; others begin with `file://`.
fn uri(name: &str) -> String {
    let path = utf8_percent_encode(name.strip_prefix("./").unwrap_or(name), NO_URI).to_string();
    match path.starts_with('/') {
        true => format!("file://{path}"),
        false => path,
    }
}
