//! From a document of the kind `PolicyTest` to a table of cases, as strict as policies are
//! read.

use std::{borrow::Cow, collections::HashSet, path::Path, sync::Arc};

use super::{
    API_VERSION, is_policy_name, parse_proof,
    reader::{At, Fields, Report, parse_each},
};
use crate::{
    identity::{ProofKind, ProofSet, ServiceAccount, Supposed, TrustDomain},
    policy::{
        explain::Place,
        problem::PolicyProblem,
        request::{
            HttpRequest, InvalidRequest, Verb, canonical_host, canonical_method, canonical_path,
            canonical_port, split_url,
        },
        suite::{Asks, Case, Expectation, HttpAsks, SecretAsks, Suite, Toward, Written},
        yaml::{Node, Value},
    },
};

const KIND: &str = "PolicyTest";
/// What the lists of one case may multiply to.
const MAX_CHECKS: usize = 100_000;

/// Reads one document; none if anything is reported.
pub(in crate::policy) fn read(
    node: &Node,
    file: &Arc<Path>,
    problems: &mut Vec<PolicyProblem>,
) -> Option<Suite> {
    let mut report = Report { file, policy: None, problems, reported: 0 };
    let suite = report.unless_reported(|report| suite(&At::root(node), file, report));
    suite.flatten()
}

fn suite(root: &At<'_>, file: &Arc<Path>, report: &mut Report<'_>) -> Option<Suite> {
    let document = root.fields(&["apiVersion", "kind", "metadata", "spec"], report)?;
    document.word("apiVersion", &[API_VERSION], report);
    document.word("kind", &[KIND], report);
    let metadata = document.required("metadata", report)?.fields(&["name"], report)?;
    let name = metadata.required("name", report)?;
    let text = name.text(report)?;
    if !is_policy_name(text) {
        report.add(&name, "must be 1 to 253 lower-case letters, digits, `-` or `.`");
    }
    let spec = document.required("spec", report)?;
    let spec = spec.fields(&["config", "policies", "cases"], report)?;
    let config = spec.get("config").and_then(|at| at.text(report)).map(Into::into);
    let policies = spec.get("policies").map(|at| at.texts(report));
    let policies = policies.map(|texts| texts.into_iter().map(|(_, path)| path.into()).collect());
    let mut names = HashSet::new();
    let mut cases = Vec::new();
    for at in spec.required("cases", report)?.items(report) {
        let Some(case) = case(&at, file, report) else { continue };
        if !names.insert(case.name.clone()) {
            report.add(&at, format!("another case is called {:?}", case.name));
        }
        cases.push(case);
    }
    Some(Suite { name: text.to_owned(), file: file.clone(), config, policies, cases })
}

fn case(at: &At<'_>, file: &Arc<Path>, report: &mut Report<'_>) -> Option<Case> {
    let known = [
        "name",
        "as",
        "trustDomain",
        "proofs",
        "boundTo",
        "secrets",
        "http",
        "expect",
        "reason",
        "policy",
        "audit",
    ];
    let fields = at.fields(&known, report)?;
    let name = fields.required("name", report).and_then(|at| at.text(report));
    let callers = callers(&fields, report);
    let asks = match (fields.get("secrets"), fields.get("http")) {
        (Some(at), None) => secrets(&at, report).map(Asks::Secrets),
        (None, Some(at)) => http(&at, report).map(Asks::Http),
        _ => {
            report.add(at, "needs exactly one of secrets, http");
            None
        }
    };
    let expected = expectation(&fields, report);
    let (name, callers, asks, expected) = (name?, callers?, asks?, expected?);
    let case = Case {
        name: name.to_owned(),
        place: Place { file: file.clone(), line: at.node.line },
        callers,
        asks,
        expected,
    };
    if case.len() > MAX_CHECKS {
        report.add(at, format!("its lists multiply to more than {MAX_CHECKS} checks; split it"));
    }
    Some(case)
}

/// One text, or a list of them.
fn texts<'n>(at: &At<'n>, report: &mut Report<'_>) -> Vec<(At<'n>, &'n str)> {
    match at.node.value {
        Value::Text(_) => at.text(report).map(|text| (at.clone(), text)).into_iter().collect(),
        _ => at.texts(report),
    }
}

fn callers(fields: &Fields<'_>, report: &mut Report<'_>) -> Option<Vec<Supposed>> {
    let accounts = fields.required("as", report).map(|at| texts(&at, report));
    let accounts = parse_each(&accounts?, report, account);
    let trust_domain = fields.get("trustDomain").and_then(|at| {
        let parsed = at.text(report).map(TrustDomain::parse)?;
        parsed.map_err(|_| report.add(&at, "is not a trust domain")).ok()
    });
    let proofs = fields.get("proofs").map(|at| {
        let texts = at.texts(report);
        parse_each(&texts, report, parse_proof).into_iter().collect()
    });
    let proofs: ProofSet = proofs.unwrap_or_else(|| ProofKind::Mtls.into());
    let bound_to = fields.get("boundTo");
    if let Some(at) = &bound_to {
        fields.word("boundTo", &["pod"], report);
        if !proofs.contains(ProofKind::Token.into()) {
            report.add(at, "only a token is bound to a pod; list it under proofs");
        }
    }
    let bound_to_pod = bound_to.is_some();
    let caller = |service_account| Supposed {
        service_account,
        trust_domain: trust_domain.clone(),
        proofs,
        bound_to_pod,
    };
    Some(accounts.into_iter().map(caller).collect())
}

fn account(text: &str) -> Result<ServiceAccount, String> {
    ServiceAccount::parse(text)
        .map_err(|_| "is not a service account, written namespace/name".to_owned())
}

fn secrets(at: &At<'_>, report: &mut Report<'_>) -> Option<SecretAsks> {
    let fields = at.fields(&["verbs", "names", "destinations"], report)?;
    let verbs = fields.required("verbs", report).map(|at| texts(&at, report));
    let verbs = parse_each(&verbs?, report, |text| {
        let known = || Verb::ALL.map(Verb::as_str).join(", ");
        Verb::parse(text).ok_or_else(|| format!("is not a verb, known are {}", known()))
    });
    let names = fields.required("names", report).map(|at| texts(&at, report));
    let written = |(at, text): (At<'_>, &str)| Written {
        text: text.to_owned(),
        line: at.node.line,
        key: at.path,
    };
    let names = names?.into_iter().map(written).collect();
    let destinations = fields.get("destinations").map(|at| {
        if !verbs.contains(&Verb::Use) {
            report.add(&at, "only `use` has a destination");
        }
        let entries = at.items(report);
        entries.iter().filter_map(|at| toward(at, report)).collect()
    });
    let destinations = destinations.unwrap_or_else(|| vec![Toward::default()]);
    Some(SecretAsks { verbs, names, destinations })
}

type Canonical = fn(&str) -> Result<String, InvalidRequest>;

fn toward(at: &At<'_>, report: &mut Report<'_>) -> Option<Toward> {
    let known = ["host", "cluster", "route", "sni", "port", "scheme", "method", "path"];
    let fields = at.fields(&known, report)?;
    let mut text = |key| fields.get(key).and_then(|at| at.text(report)).map(str::to_owned);
    let [host, cluster, route, sni, port, scheme, method, path] = known.map(&mut text);
    let mut checked = |value: Option<String>, canonical: Canonical| {
        let canonical =
            canonical(value.as_deref()?).map_err(|error| report.add(at, error.to_string()));
        canonical.ok()
    };
    Some(Toward {
        host: checked(host, |host| canonical_host(host).map(Cow::into_owned)),
        cluster,
        route,
        sni,
        port: checked(port, |port| canonical_port(port).map(str::to_owned)),
        scheme,
        method: checked(method, |method| canonical_method(method).map(str::to_owned)),
        path: checked(path, |path| canonical_path(path).map(str::to_owned)),
    })
}

fn http(at: &At<'_>, report: &mut Report<'_>) -> Option<HttpAsks> {
    let fields = at.fields(&["methods", "urls", "destinations"], report)?;
    let methods = fields.required("methods", report).map(|at| texts(&at, report));
    let methods = parse_each(&methods?, report, |text| {
        let request = HttpRequest::new(text, "any", "/", None);
        request.map(|_| text.to_owned()).map_err(|error| error.to_string())
    });
    let urls = fields.required("urls", report).map(|at| texts(&at, report));
    let urls = parse_each(&urls?, report, |text| {
        let (host, path) = split_url(text).ok_or("is not a URL such as http://host/path")?;
        let host = canonical_host(host).map_err(|error| error.to_string())?.into_owned();
        // One of more than one reading is a question, too: the service denies it.
        let path = canonical_path(path).unwrap_or(path).to_owned();
        Ok((host, path))
    });
    let destinations = fields.get("destinations").map(|at| {
        let accounts = texts(&at, report);
        parse_each(&accounts, report, |text| account(text).map(Some))
    });
    Some(HttpAsks { methods, urls, destinations: destinations.unwrap_or_else(|| vec![None]) })
}

fn expectation(fields: &Fields<'_>, report: &mut Report<'_>) -> Option<Expectation> {
    let allow = fields.word("expect", &["allow", "deny"], report)? == "allow";
    let reason = fields.get("reason").and_then(|at| {
        if allow {
            report.add(&at, "only a denial has a reason");
        }
        let reasons = ["no_match", "denied_by_policy", "missing_attribute", "malformed_request"];
        fields.word("reason", &reasons, report)
    });
    let policy = fields.get("policy").and_then(|at| at.text(report)).map(str::to_owned);
    let audit = fields.texts("audit", report).into_iter().map(|(_, name)| name.to_owned());
    Some(Expectation { allow, reason, policy, audit: audit.collect() })
}
