//! How tables of cases went: for people, for programs, and as JUnit XML.

use anyhow::Context;
use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};
use serde_json::{Value, json};

use super::{Outcome, Subject};
use crate::{
    cli::verdict,
    identity::ProofKind,
    policy::{CaseReport, Check, PolicySet},
};

/// How many failures of one case are shown to people.
const SHOWN: usize = 5;

/// Cases that passed and failed, and the questions in all of them.
struct Counts {
    passed: usize,
    failed: usize,
    checks: usize,
}

// === impl Counts ===

impl Counts {
    fn of(outcomes: &[Outcome<'_>]) -> Self {
        let mut counts = Self { passed: 0, failed: 0, checks: 0 };
        for case in outcomes.iter().flat_map(|outcome| &outcome.cases) {
            counts.checks += case.checks;
            match case.failed.is_empty() {
                true => counts.passed += 1,
                false => counts.failed += 1,
            }
        }
        counts
    }
}

pub(super) fn text(outcomes: &[Outcome<'_>], subjects: &[Subject]) -> String {
    let mut lines = Vec::new();
    for Outcome { suite, set, cases } in outcomes {
        lines.push(format!("{} ({})", suite.name, suite.file.display()));
        for report in cases {
            let CaseReport { case, checks, failed } = report;
            let questions = if *checks == 1 { "question" } else { "questions" };
            if failed.is_empty() {
                lines.push(format!("  ok    {} ({checks} {questions})", case.name));
                continue;
            }
            let wrong = failed.len();
            lines.push(format!(
                "  FAIL  {} ({wrong} of {checks} {questions}), {}",
                case.name, case.place
            ));
            let shown = failed.iter().take(SHOWN);
            lines.extend(shown.flat_map(|check| in_words(set, check)).map(|l| format!("    {l}")));
            if wrong > SHOWN {
                lines.push(format!("    and {} more", wrong - SHOWN));
            }
        }
    }
    let Counts { passed, failed, checks } = Counts::of(outcomes);
    lines.push(String::new());
    lines.push(format!("{passed} cases passed, {failed} failed, of {checks} questions"));
    for subject in subjects {
        let (rules, uncovered) = subject.coverage.of(&subject.set);
        let covered = rules - uncovered.len();
        lines.push(format!("{}: {covered} of {rules} rules decided a question", subject.name()));
        for (policy, rule, place) in uncovered {
            lines.push(format!("  not {policy}, spec.to[{rule}] ({place})"));
        }
    }
    lines.join("\n")
}

/// What was asked, expected and decided.
fn in_words(set: &PolicySet, check: &Check) -> Vec<String> {
    let Check { principal, operation, expected, explanation } = check;
    let (account, proofs) = (principal.service_account(), principal.proofs());
    let mut lines = vec![format!("{account} ({proofs}) {operation}")];
    lines.extend(expected.iter().map(|expected| format!("  expected: {expected}")));
    lines.push(format!("  but it is {}", verdict::in_words(set, explanation)));
    let nearest = explanation.nearest.iter().flat_map(verdict::nearest_in_words);
    lines.extend(nearest.map(|line| format!("  {line}")));
    lines
}

pub(super) fn json(outcomes: &[Outcome<'_>], subjects: &[Subject]) -> Value {
    let case = |set: &PolicySet, report: &CaseReport<'_>| {
        let failed = report.failed.iter().map(|check| {
            let mut failed = verdict::to_json(set, &check.explanation);
            failed["principal"] = check.principal.to_string().into();
            failed["proofs"] = check.principal.proofs().iter().map(ProofKind::as_str).collect();
            failed["operation"] = check.operation.clone().into();
            failed["expected"] = check.expected.clone().into();
            failed
        });
        json!({
            "name": report.case.name,
            "line": report.case.place.line,
            "passed": report.failed.is_empty(),
            "questions": report.checks,
            "failed": failed.collect::<Vec<_>>(),
        })
    };
    let suite = |outcome: &Outcome<'_>| {
        let cases = outcome.cases.iter().map(|report| case(&outcome.set, report));
        json!({
            "name": outcome.suite.name,
            "file": outcome.suite.file.display().to_string(),
            "cases": cases.collect::<Vec<_>>(),
        })
    };
    let coverage = |subject: &Subject| {
        let (rules, uncovered) = subject.coverage.of(&subject.set);
        let covered = rules - uncovered.len();
        let rule = |(policy, rule, place): &(std::sync::Arc<str>, usize, crate::policy::Place)| {
            let file = place.file.display().to_string();
            json!({"policy": &**policy, "rule": rule, "file": file, "line": place.line})
        };
        json!({
            "policies": subject.name(),
            "rules": rules,
            "covered": covered,
            "uncovered": uncovered.iter().map(rule).collect::<Vec<_>>(),
        })
    };
    let Counts { passed, failed, checks } = Counts::of(outcomes);
    json!({
        "passed": passed,
        "failed": failed,
        "questions": checks,
        "suites": outcomes.iter().map(suite).collect::<Vec<_>>(),
        "coverage": subjects.iter().map(coverage).collect::<Vec<_>>(),
    })
}

/// One suite a table, one test case a case; and a failed one for each rule of `to_cover` that
/// decided nothing.
pub(super) fn junit(outcomes: &[Outcome<'_>], to_cover: &[Subject]) -> anyhow::Result<String> {
    let mut report = Report::new("vaultmux-mesh policy test");
    for Outcome { suite, set, cases } in outcomes {
        let mut tests = TestSuite::new(suite.name.as_str());
        for CaseReport { case, checks, failed } in cases {
            let status = match failed.is_empty() {
                true => TestCaseStatus::success(),
                false => {
                    let lines: Vec<_> =
                        failed.iter().flat_map(|check| in_words(set, check)).collect();
                    let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
                    status
                        .set_type("decision")
                        .set_message(format!("{} of {checks} questions", failed.len()))
                        .set_description(format!("{}\n{}", case.place, lines.join("\n")));
                    status
                }
            };
            let mut test = TestCase::new(case.name.as_str(), status);
            test.set_classname(suite.name.as_str()).set_assertions(*checks);
            tests.add_test_case(test);
        }
        report.add_test_suite(tests);
    }
    for subject in to_cover {
        let name = format!("coverage of {}", subject.name());
        let mut tests = TestSuite::new(name.as_str());
        for (policy, rule, place) in subject.coverage.of(&subject.set).1 {
            let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
            status
                .set_type("coverage")
                .set_message("decided no question")
                .set_description(place.to_string());
            let mut test = TestCase::new(format!("{policy}, spec.to[{rule}]"), status);
            test.set_classname(name.as_str());
            tests.add_test_case(test);
        }
        if !tests.test_cases.is_empty() {
            report.add_test_suite(tests);
        }
    }
    report.to_string().context("write JUnit XML")
}
