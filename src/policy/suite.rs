//! Tables of cases: what policies are expected to decide, and whether they do. Pure; where
//! files and policies come from is the caller's.

use std::{
    borrow::Cow,
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    AuditMatch, Decision, Destination, Explanation, HttpRequest, LoadFailure, Place, PolicyProblem,
    PolicySet, Question, Verb, schema, yaml,
};
use crate::{
    identity::{Principal, ServiceAccount, Supposed, TrustDomain},
    secret::{Catalog, NameEncoding, SecretRef},
};

/// One document of the kind `PolicyTest`.
#[derive(Debug)]
pub struct Suite {
    /// Its name.
    pub name: String,
    /// Where it is written.
    pub file: Arc<Path>,
    /// The configuration that it is about, as written there.
    pub config: Option<PathBuf>,
    /// Policies instead of the configuration's.
    pub policies: Option<Vec<PathBuf>>,
    /// What is expected.
    pub cases: Vec<Case>,
}

/// Questions that have one answer: every caller, with everything that is listed.
#[derive(Debug)]
pub struct Case {
    /// What it says about the policies.
    pub name: String,
    /// Where it is written.
    pub place: Place,
    pub(super) callers: Vec<Supposed>,
    pub(super) asks: Asks,
    pub(super) expected: Expectation,
}

#[derive(Debug)]
pub(super) enum Asks {
    Secrets(SecretAsks),
    Http(HttpAsks),
}

#[derive(Debug)]
pub(super) struct SecretAsks {
    pub(super) verbs: Vec<Verb>,
    /// Names or references, which only a catalog can read.
    pub(super) names: Vec<Written>,
    pub(super) destinations: Vec<Toward>,
}

#[derive(Debug)]
pub(super) struct HttpAsks {
    pub(super) methods: Vec<String>,
    /// Host and path, which may be one of more than one reading.
    pub(super) urls: Vec<(String, String)>,
    pub(super) destinations: Vec<Option<ServiceAccount>>,
}

/// A text that is read later, and where it stands.
#[derive(Debug)]
pub(super) struct Written {
    pub(super) text: String,
    pub(super) line: u64,
    pub(super) key: String,
}

/// A [`Destination`] with its texts.
#[derive(Debug, Default)]
pub(super) struct Toward {
    pub(super) host: Option<String>,
    pub(super) cluster: Option<String>,
    pub(super) route: Option<String>,
    pub(super) sni: Option<String>,
    pub(super) port: Option<String>,
    pub(super) scheme: Option<String>,
    pub(super) method: Option<String>,
    pub(super) path: Option<String>,
}

#[derive(Debug)]
pub(super) struct Expectation {
    pub(super) allow: bool,
    pub(super) reason: Option<&'static str>,
    /// What decides.
    pub(super) policy: Option<String>,
    /// Which policies in audit mode match, among others.
    pub(super) audit: Vec<String>,
}

/// How a case went.
#[derive(Debug)]
pub struct CaseReport<'s> {
    /// Which.
    pub case: &'s Case,
    /// How many questions it is.
    pub checks: usize,
    /// Those that were answered otherwise.
    pub failed: Vec<Check>,
}

/// A question that was answered otherwise than expected.
#[derive(Debug)]
pub struct Check {
    /// Who asked.
    pub principal: Principal,
    /// What for, in words.
    pub operation: String,
    /// What was expected, a sentence each.
    pub expected: Vec<String>,
    /// What was decided, and why.
    pub explanation: Explanation,
}

/// Which rules of a set have decided anything.
#[derive(Debug, Default)]
pub struct Coverage(BTreeSet<(Arc<str>, usize)>);

// === impl Suite ===

impl Suite {
    /// Reads the documents of a file.
    ///
    /// # Errors
    /// Every problem, as with policies.
    pub fn parse(file: &Path, text: &str) -> Result<Vec<Self>, LoadFailure> {
        let shared: Arc<Path> = file.into();
        let mut problems = Vec::new();
        let mut suites = Vec::new();
        let whole = |line, message: String| PolicyProblem {
            file: file.to_owned(),
            line,
            policy: None,
            key: String::new(),
            message,
        };
        for document in yaml::documents(text) {
            match document {
                Ok(node) => suites.extend(schema::read_suite(&node, &shared, &mut problems)),
                Err(yaml::YamlError { line, message }) => problems.push(whole(line, message)),
            }
        }
        if suites.is_empty() && problems.is_empty() {
            problems.push(whole(0, "holds no document".to_owned()));
        }
        match problems.is_empty() {
            true => Ok(suites),
            false => Err(LoadFailure { problems, denied: Vec::new() }),
        }
    }

    /// Asks everything, and notes in `coverage` which rules decided.
    ///
    /// # Errors
    /// Every name that is none in `catalog`, and every trust domain that does not count.
    pub fn run<'s>(
        &'s self,
        set: &Arc<PolicySet>,
        catalog: &Catalog,
        trust_domains: &[TrustDomain],
        coverage: &mut Coverage,
    ) -> Result<Vec<CaseReport<'s>>, LoadFailure> {
        let mut problems = Vec::new();
        let mut reports = Vec::new();
        for case in &self.cases {
            let before = problems.len();
            let callers = case.principals(trust_domains, &mut problems);
            let secrets = case.secrets(catalog, &mut problems);
            if problems.len() == before {
                reports.push(case.run(set, &callers, &secrets, coverage));
            }
        }
        match problems.is_empty() {
            true => Ok(reports),
            false => Err(LoadFailure { problems, denied: Vec::new() }),
        }
    }
}

// === impl Case ===

impl Case {
    /// How many questions its lists multiply to.
    pub(super) fn len(&self) -> usize {
        let asks = match &self.asks {
            Asks::Secrets(SecretAsks { verbs, names, destinations }) => {
                // Only `use` is asked for each destination.
                let used = usize::from(verbs.contains(&Verb::Use));
                let asked = verbs.len() - used;
                used.saturating_mul(destinations.len())
                    .saturating_add(asked)
                    .saturating_mul(names.len())
            }
            Asks::Http(HttpAsks { methods, urls, destinations }) => {
                methods.len().saturating_mul(urls.len()).saturating_mul(destinations.len())
            }
        };
        asks.saturating_mul(self.callers.len())
    }

    fn principals(
        &self,
        trust_domains: &[TrustDomain],
        problems: &mut Vec<PolicyProblem>,
    ) -> Vec<Principal> {
        let principal = |caller: &Supposed| match caller.principal(trust_domains) {
            Ok(principal) => Some(principal),
            Err(error) => {
                let key = format!("case {:?}: as", self.name);
                problems.push(self.problem(self.place.line, key, error.to_string()));
                None
            }
        };
        self.callers.iter().filter_map(principal).collect()
    }

    fn secrets(&self, catalog: &Catalog, problems: &mut Vec<PolicyProblem>) -> Vec<SecretRef> {
        let Asks::Secrets(SecretAsks { names, .. }) = &self.asks else { return Vec::new() };
        let secret = |Written { text, line, key }: &Written| {
            let located = match text.starts_with("secret://") {
                true => catalog.parse_reference(text),
                false => catalog.locate(text, NameEncoding::Plain, None),
            };
            match located {
                Ok(secret) => Some(secret),
                Err(error) => {
                    let message = format!("{text:?}: {error}");
                    problems.push(self.problem(*line, key.clone(), message));
                    None
                }
            }
        };
        names.iter().filter_map(secret).collect()
    }

    fn problem(&self, line: u64, key: String, message: String) -> PolicyProblem {
        PolicyProblem { file: self.place.file.to_path_buf(), line, policy: None, key, message }
    }

    fn run(
        &self,
        set: &Arc<PolicySet>,
        callers: &[Principal],
        secrets: &[SecretRef],
        coverage: &mut Coverage,
    ) -> CaseReport<'_> {
        let mut report = CaseReport { case: self, checks: 0, failed: Vec::new() };
        for caller in callers {
            self.each_question(secrets, |question, words| {
                report.checks += 1;
                let outcome = match question {
                    Some(question) => set.decide(caller, question),
                    None => set.refuse().outcome,
                };
                let decision = match &outcome {
                    Ok(decision) => decision,
                    Err(denial) => &denial.decision,
                };
                coverage.note(decision);
                let reason = outcome.as_ref().err().map(|denial| denial.reason.as_str());
                let expected = self.expected.unless_met(reason, decision);
                if !expected.is_empty() {
                    let (principal, operation) = (caller.clone(), words());
                    let explanation = match question {
                        Some(question) => set.explain(caller, question),
                        None => set.refuse(),
                    };
                    report.failed.push(Check { principal, operation, expected, explanation });
                }
            });
        }
        report
    }

    /// Asks each, and nothing where it is a request of more than one reading.
    fn each_question(
        &self,
        secrets: &[SecretRef],
        mut ask: impl FnMut(Option<&Question<'_>>, &dyn Fn() -> String),
    ) {
        match &self.asks {
            Asks::Secrets(SecretAsks { verbs, destinations, .. }) => {
                let none = [Toward::default()];
                for (verb, secret) in
                    verbs.iter().flat_map(|verb| secrets.iter().map(move |secret| (*verb, secret)))
                {
                    let destinations = match verb {
                        Verb::Use => destinations.as_slice(),
                        _ => &none,
                    };
                    for toward in destinations {
                        let secret = Cow::Borrowed(secret);
                        let destination = toward.as_destination();
                        let words = || format!("{verb} {secret}{}", toward.in_words());
                        let secret = secret.clone();
                        let by = None;
                        ask(Some(&Question::Secret { verb, secret, destination, by }), &words);
                    }
                }
            }
            Asks::Http(HttpAsks { methods, urls, destinations }) => {
                for (method, (host, path)) in
                    methods.iter().flat_map(|method| urls.iter().map(move |url| (method, url)))
                {
                    for workload in destinations {
                        let request = HttpRequest::new(method, host, path, workload.clone());
                        let toward = workload.as_ref().map(|workload| format!(" of {workload}"));
                        let toward = toward.unwrap_or_default();
                        let words = || format!("{method} http://{host}{path}{toward}");
                        // Host and method are canonical.
                        ask(request.ok().map(Question::Http).as_ref(), &words);
                    }
                }
            }
        }
    }
}

// === impl Toward ===

impl Toward {
    fn as_destination(&self) -> Destination<'_> {
        Destination {
            host: self.host.as_deref(),
            cluster: self.cluster.as_deref(),
            route: self.route.as_deref(),
            sni: self.sni.as_deref(),
            port: self.port.as_deref(),
            scheme: self.scheme.as_deref(),
            method: self.method.as_deref(),
            path: self.path.as_deref(),
        }
    }

    fn in_words(&self) -> String {
        let Self { host, cluster, route, sni, port, scheme, method, path } = self;
        let parts = [
            ("host", host),
            ("cluster", cluster),
            ("route", route),
            ("sni", sni),
            ("port", port),
            ("scheme", scheme),
            ("method", method),
            ("path", path),
        ];
        let part = |(what, value): (&str, &Option<String>)| {
            value.as_ref().map(|value| format!(" {what} {value}"))
        };
        let parts: Vec<_> = parts.into_iter().filter_map(part).collect();
        if parts.is_empty() { String::new() } else { format!(" toward{}", parts.join(",")) }
    }
}

// === impl Expectation ===

impl Expectation {
    /// What was expected and did not come, a sentence each.
    fn unless_met(&self, reason: Option<&'static str>, decision: &Decision) -> Vec<String> {
        let mut unmet = Vec::new();
        if self.allow != reason.is_none() {
            unmet.push(if self.allow { "allowed" } else { "denied" }.to_owned());
        }
        if let Some(expected) = self.reason.filter(|expected| reason != Some(expected)) {
            unmet.push(format!("denied: {expected}"));
        }
        if let Some(expected) = &self.policy
            && decision.policy.as_deref() != Some(expected)
        {
            unmet.push(format!("decided by policy {expected}"));
        }
        let matched = |name: &String| decision.audit.iter().any(|it| *it.policy == **name);
        let unmatched = self.audit.iter().filter(|name| !matched(name));
        unmet.extend(unmatched.map(|name| format!("matched by audit policy {name}")));
        unmet
    }
}

// === impl Coverage ===

impl Coverage {
    /// What decided is covered, and what would have decided if it were not in audit mode.
    fn note(&mut self, decision: &Decision) {
        if let (Some(policy), Some(rule)) = (&decision.policy, decision.rule) {
            self.0.insert((policy.clone(), rule));
        }
        for AuditMatch { policy, rule, .. } in &decision.audit {
            self.0.insert((policy.clone(), *rule));
        }
    }

    /// How many rules there are, and those that decided nothing, with where they are.
    #[must_use]
    pub fn of(&self, set: &PolicySet) -> (usize, Vec<(Arc<str>, usize, Place)>) {
        let mut uncovered = Vec::new();
        let mut rules = 0;
        for (policy, rule, place) in set.rules() {
            rules += 1;
            if !self.0.contains(&(policy.clone(), rule)) {
                uncovered.push((policy, rule, place));
            }
        }
        (rules, uncovered)
    }
}
