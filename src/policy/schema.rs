//! From a document to a policy: the kind, its subjects, and every reason why a
//! document is none.

pub(super) mod keys;
mod reader;
mod suite;
mod target;

use std::{path::Path, sync::Arc};

use reader::{At, Fields, Report, parse_each};
pub(super) use suite::read as read_suite;

use super::{
    problem::{PolicyProblem, Subjects, shortened},
    rule::{Except, Origin, Policy, Subject, Target},
    yaml::{Node, Value},
};
use crate::{
    identity::{ProofKind, ProofSet, ServiceAccount, TrustDomain, is_namespace},
    secret::Catalog,
};

pub(super) const API_VERSION: &str = "vaultmux.dev/v1alpha1";
pub(super) const KIND: &str = "AccessPolicy";
/// Subjects times names: what one policy may add to the index.
const MAX_COMBINATIONS: usize = 1_000_000;

/// What a document says.
#[derive(Debug)]
pub(super) struct Document {
    /// Its name and the line of that, where they can be read.
    pub(super) name: Option<(String, u64)>,
    /// The policy, if nothing is wrong with it.
    pub(super) policy: Option<Policy>,
    /// Whom it was to deny, if something is.
    pub(super) denied: Option<Subjects>,
}

/// What can be read of a policy, however broken the rest is.
#[derive(Default)]
struct Draft {
    allow: Option<bool>,
    audit: bool,
    from: Option<Arc<[Subject]>>,
    to: Vec<Target>,
    from_lines: Vec<u64>,
    to_lines: Vec<u64>,
}

/// Reads one document.
pub(super) fn read(
    node: &Node,
    file: &Arc<Path>,
    catalog: &Catalog,
    problems: &mut Vec<PolicyProblem>,
) -> Document {
    let name = child(node, "metadata").and_then(|metadata| match child(metadata, "name") {
        Some(Node { line, value: Value::Text(name) }) => Some((name.clone(), *line)),
        _ => None,
    });
    let policy = name.as_ref().map(|(name, _)| shortened(name).into_owned());
    let mut report = Report { file, policy, problems, reported: 0 };
    let mut draft = Draft::default();
    let valid = report.unless_reported(|report| draft.read(&At::root(node), catalog, report));
    let Draft { allow, audit, from, to, from_lines, to_lines } = draft;
    if let (Some(()), Some(allow), Some((text, line)), Some(from)) = (valid, allow, &name, &from) {
        let origin = Origin { file: file.clone(), line: *line, from: from_lines, to: to_lines };
        let (text, from) = (text.as_str().into(), from.clone());
        let policy = Policy { name: text, allow, audit, from, to, origin };
        return Document { name, policy: Some(policy), denied: None };
    }
    let denies = meant_to_deny(node) && !audit;
    let denied = denies.then(|| from.map_or_else(Subjects::everyone, Subjects));
    Document { name, policy: None, denied }
}

fn child<'n>(node: &'n Node, wanted: &str) -> Option<&'n Node> {
    let Value::Map(entries) = &node.value else { return None };
    let named = |(key, value): &'n (Node, Node)| match &key.value {
        Value::Text(key) if key == wanted => Some(value),
        _ => None,
    };
    entries.iter().find_map(named)
}

/// Whether a broken document was to deny: something under `spec`, in whatever case, reads
/// like `deny`, under whatever key but those that hold names. A Deny that cannot be read
/// must not fail open.
fn meant_to_deny(node: &Node) -> bool {
    let is = |key: &Node, wanted: &[&str]| {
        let Value::Text(key) = &key.value else { return false };
        wanted.iter().any(|wanted| key.trim().eq_ignore_ascii_case(wanted))
    };
    let specs = entries(node).iter().filter(|(key, _)| is(key, &["spec"]));
    let mut said = specs.flat_map(|(_, spec)| entries(spec));
    said.any(|(key, value)| !is(key, &["from", "to"]) && (denies(key) || denies(value)))
}

/// Whether a text in it is a form of the word.
fn denies(node: &Node) -> bool {
    match &node.value {
        Value::Text(text) => {
            let word = text.trim().to_ascii_lowercase();
            word.starts_with("deny") || word.starts_with("deni")
        }
        Value::List(items) => items.iter().any(denies),
        Value::Map(entries) => entries.iter().any(|(key, value)| denies(key) || denies(value)),
        Value::Null | Value::Scalar(_) => false,
    }
}

fn entries(node: &Node) -> &[(Node, Node)] {
    match &node.value {
        Value::Map(entries) => entries,
        _ => &[],
    }
}

// === impl Draft ===

impl Draft {
    fn read(&mut self, root: &At<'_>, catalog: &Catalog, report: &mut Report<'_>) {
        let Some(document) = root.fields(&keys::DOCUMENT, report) else { return };
        document.word("apiVersion", &[API_VERSION], report);
        document.word("kind", &[KIND], report);
        if let Some(metadata) = document.required("metadata", report)
            && let Some(metadata) = metadata.fields(&keys::METADATA, report)
            && let Some(at) = metadata.required("name", report)
            && let Some(name) = at.text(report)
            && !is_policy_name(name)
        {
            report.add(&at, "must be 1 to 253 lower-case letters, digits, `-` or `.`");
        }
        let Some(spec) = document.required("spec", report) else { return };
        let Some(spec) = spec.fields(&keys::SPEC, report) else { return };
        let effect = spec.word("effect", &["Allow", "Deny"], report);
        self.allow = effect.map(|effect| effect == "Allow");
        if spec.get("mode").is_some() {
            self.audit = spec.word("mode", &["Enforce", "Audit"], report) == Some("Audit");
        }
        self.from = spec.required("from", report).and_then(|from| {
            report.unless_reported(|report| {
                let entries = from.items(report);
                self.from_lines = entries.iter().map(|at| at.node.line).collect();
                entries.iter().filter_map(|at| subject(at, self.allow, report)).collect()
            })
        });
        if let Some(to) = spec.required("to", report) {
            let entries = to.items(report);
            self.to_lines = entries.iter().map(|at| at.node.line).collect();
            let read = |at| target::read(at, self.allow, catalog, report);
            self.to = entries.iter().filter_map(read).collect();
        }
        let subjects: usize = self.from.iter().flat_map(|from| from.iter()).map(keys).sum();
        let targets: usize = self.to.iter().map(target::keys).sum();
        if subjects.saturating_mul(targets) > MAX_COMBINATIONS {
            let message = format!(
                "{subjects} subjects with {targets} targets are more than {MAX_COMBINATIONS} \
                 combinations; split the policy"
            );
            report.add(spec.at(), message);
        }
    }
}

fn keys(subject: &Subject) -> usize {
    let lists = [subject.accounts.len(), subject.namespaces.len(), subject.prefixes.len()];
    lists.into_iter().find(|len| *len > 0).unwrap_or(1)
}

/// A DNS subdomain, as the names of Kubernetes objects are.
fn is_policy_name(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    text.len() <= 253
        && text.split('.').all(|label| {
            label.bytes().next().is_some_and(inner)
                && label.bytes().last().is_some_and(inner)
                && label.bytes().all(|b| inner(b) || b == b'-')
        })
}

fn subject(at: &At<'_>, allow: Option<bool>, report: &mut Report<'_>) -> Option<Subject> {
    let fields = at.fields(&keys::FROM, report)?;
    let before = report.problems.len();
    let one_of = &keys::FROM[..3];
    if one_of.iter().all(|key| fields.get(key).is_none()) {
        report.add(
            at,
            format!("needs one of {}; for everyone, namespaces: [\"*\"]", one_of.join(", ")),
        );
    }
    let mut namespaces = fields.texts("namespaces", report);
    if namespaces.iter().any(|(_, text)| *text == "*") {
        if namespaces.len() > 1 {
            report.add(&namespaces[0].0, "\"*\" must stand alone");
        }
        namespaces.clear();
    }
    let require = fields.texts("require", report);
    let bound_to = fields.get("boundTo");
    if bound_to.is_some() {
        fields.word("boundTo", &["pod"], report);
    }
    if allow == Some(false) {
        let proofs = [require.first().map(|(first, _)| first), bound_to.as_ref()];
        for asked in proofs.into_iter().flatten() {
            report.add(
                asked,
                "a Deny cannot ask for proofs: it would be unclear whether a caller without \
                 them is denied",
            );
        }
    }
    let require: ProofSet = parse_each(&require, report, parse_proof).into_iter().collect();
    // Where it cannot be read whether this is a Deny, it is one about everyone named.
    let allows = allow == Some(true);
    let trust_domains = fields.texts("trustDomains", report);
    let subject = Subject {
        namespaces: parse_namespaces(&namespaces, report),
        accounts: accounts(&fields, "serviceAccounts", report),
        prefixes: prefixes(&fields, report),
        trust_domains: parse_each(&trust_domains, report, |text| {
            TrustDomain::parse(text).map_err(|_| "is not a trust domain".to_owned())
        }),
        require: if allows { require } else { ProofSet::default() },
        bound_to_pod: allows && bound_to.is_some(),
        except: fields.get("except").and_then(|at| except(&at, report)).unwrap_or_default(),
    };
    if report.reported == before && !is_possible(&subject) {
        report.add(at, "can never match: its fields exclude one another");
    }
    Some(subject)
}

fn except(at: &At<'_>, report: &mut Report<'_>) -> Option<Except> {
    let known = keys::EXCEPT;
    let fields = at.fields(&known, report)?;
    if known.iter().all(|key| fields.get(key).is_none()) {
        report.add(at, format!("needs one of {}", known.join(", ")));
    }
    let namespaces = fields.texts("namespaces", report);
    Some(Except {
        namespaces: parse_namespaces(&namespaces, report),
        accounts: accounts(&fields, "serviceAccounts", report),
        prefixes: prefixes(&fields, report),
    })
}

fn parse_namespaces(texts: &[(At<'_>, &str)], report: &mut Report<'_>) -> Vec<Arc<str>> {
    parse_each(texts, report, |text| match text {
        "*" => Err("would except everyone".to_owned()),
        _ if is_namespace(text) => Ok(text.into()),
        _ => Err("is not a namespace; for prefixes there is namespacePrefixes".to_owned()),
    })
}

fn prefixes(fields: &Fields<'_>, report: &mut Report<'_>) -> Vec<Arc<str>> {
    let texts = fields.texts("namespacePrefixes", report);
    parse_each(&texts, report, |text| {
        if !text.ends_with('-') {
            return Err("must end in `-`, so that `team` never matches `teamwork`".to_owned());
        }
        match is_namespace(&format!("{text}x")) {
            true => Ok(text.into()),
            false => Err("can never match: no namespace starts with it".to_owned()),
        }
    })
}

fn accounts(fields: &Fields<'_>, key: &str, report: &mut Report<'_>) -> Vec<ServiceAccount> {
    let texts = fields.texts(key, report);
    parse_each(&texts, report, |text| {
        ServiceAccount::parse(text)
            .map_err(|_| "is not a service account, written namespace/name".to_owned())
    })
}

fn parse_proof(text: &str) -> Result<ProofKind, String> {
    ProofKind::parse(text).ok_or_else(|| {
        let known = ProofKind::ALL.map(ProofKind::as_str).join(", ");
        format!("is not a known proof, known are {known}")
    })
}

fn is_possible(subject: &Subject) -> bool {
    if !subject.accounts.is_empty() {
        return subject.accounts.iter().any(|account| subject.names(account));
    }
    if !subject.namespaces.is_empty() {
        return subject.namespaces.iter().any(|namespace| subject.reaches(namespace));
    }
    let excepted = |prefix: &Arc<str>| {
        subject.except.prefixes.iter().any(|except| prefix.starts_with(&**except))
    };
    subject.prefixes.is_empty() || !subject.prefixes.iter().all(excepted)
}

#[cfg(test)]
mod tests;
