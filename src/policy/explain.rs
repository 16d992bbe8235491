//! Why something is denied: the Allow rule that came nearest, and what it asks
//! for. A walk over all rules, for people; decisions never use it.

mod caller;

use std::{
    fmt::{self, Display},
    path::Path,
    sync::Arc,
};

use super::{
    Decision, Denial, Destination, HttpRequest, Permit, PolicySet, Reason, Verb,
    request::Attribute,
    rule::{DestinationRule, Held, HttpRule, Pattern, Policy, SecretRule, Shape, Subject},
};
use crate::{identity::Principal, secret::SecretRef};

/// How many entries of a list a sentence names.
const NAMED: usize = 20;

/// A decision, and for a refusal what was missing.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// What was decided.
    pub outcome: Result<Decision, Denial>,
    /// The Allow rule with the fewest unmet conditions, if it was denied and there is any:
    /// first of those about the secret that have the verb. If nothing is unmet, a Deny
    /// overrode the rule.
    pub nearest: Option<NearMiss>,
}

/// A rule that would allow, and why it does not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NearMiss {
    /// The policy's name.
    pub policy: Arc<str>,
    /// Which of its `to` entries, from 0.
    pub rule: usize,
    /// Where that is written; for whoever may read the files.
    pub place: Place,
    /// A sentence for each condition that does not hold.
    pub unmet: Vec<String>,
    /// Whether other proofs of the same identity would help.
    pub unmet_proofs: bool,
}

/// Where something is written. Prints as `FILE:LINE`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The file, as it was named.
    pub file: Arc<Path>,
    /// From 1; 0 if there is no such line.
    pub line: u64,
}

// === impl PolicySet ===

impl PolicySet {
    /// Decides about one secret and explains a refusal. `destination` matters
    /// for `use` alone.
    #[must_use]
    pub fn explain_secret(
        &self,
        principal: &Principal,
        verb: Verb,
        secret: &SecretRef,
        destination: &Destination<'_>,
    ) -> Explanation {
        let permit = match verb {
            Verb::Use => self.authorize_use(principal, secret, destination),
            _ => self.authorize(principal, verb, secret),
        };
        let outcome = permit.map(|Permit { decision, .. }| decision);
        // To use is nothing like to read; of the other verbs, a rule that is about the secret
        // and has not this one may be nearer than one that has it and is about another.
        let later = |rule: &SecretRule| {
            let about = verb == Verb::Use || rule.covers(principal, secret);
            !(about && rule.verbs.contains(verb))
        };
        explain(outcome, principal, self.policies.secret_allows(), later, |rule| {
            secret_unmet(rule, principal, verb, secret, destination)
        })
    }

    /// Decides about an HTTP request and explains a refusal.
    #[must_use]
    pub fn explain_http(&self, principal: &Principal, request: &HttpRequest<'_>) -> Explanation {
        let outcome = self.authorize_http(principal, request);
        let later = |_: &HttpRule| false;
        let unmet = |rule: &HttpRule| http_unmet(rule, request);
        explain(outcome, principal, self.policies.http_allows(), later, unmet)
    }

    /// Where the rule that decided is written; none for default deny.
    #[must_use]
    pub fn place(&self, decision: &Decision) -> Option<Place> {
        let policy = self.policies.named(decision.policy.as_deref()?)?;
        Some(match decision.rule {
            Some(rule) => place(policy, rule),
            None => Place { file: policy.origin.file.clone(), line: policy.origin.line },
        })
    }

    /// Every rule: its policy, which of the `to` entries it is, and where it is written.
    pub(super) fn rules(&self) -> impl Iterator<Item = (Arc<str>, usize, Place)> + '_ {
        let policies = self.policies.policies.iter();
        policies.flat_map(|policy| {
            let rule = |rule| (policy.name.clone(), rule, place(policy, rule));
            (0..policy.to.len()).map(rule)
        })
    }
}

// === impl Place ===

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}", self.file.display()),
            line => write!(f, "{}:{line}", self.file.display()),
        }
    }
}

pub(super) fn place(policy: &Policy, rule: usize) -> Place {
    let line = policy.origin.to.get(rule).copied().unwrap_or_default();
    Place { file: policy.origin.file.clone(), line }
}

// === impl Explanation ===

impl Explanation {
    /// What decided, and why it was denied if it was.
    #[must_use]
    pub fn decision(&self) -> (&Decision, Option<Reason>) {
        match &self.outcome {
            Ok(decision) => (decision, None),
            Err(denial) => (&denial.decision, Some(denial.reason)),
        }
    }
}

fn explain<'p, R: 'p>(
    outcome: Result<Decision, Denial>,
    principal: &Principal,
    allows: impl Iterator<Item = (&'p Policy, usize, &'p R)>,
    later: impl Fn(&R) -> bool,
    target_unmet: impl Fn(&R) -> Vec<String>,
) -> Explanation {
    if outcome.is_ok() {
        return Explanation { outcome, nearest: None };
    }
    let near_miss = |(policy, rule, target): (&Policy, usize, &R)| {
        let subjects = policy.from.iter().map(|from| (subject_unmet(from, principal), from));
        let nearest = subjects.min_by_key(|(unmet, _)| unmet.len());
        let unmet_proofs = nearest.as_ref().is_some_and(|(_, from)| !from.is_proven_by(principal));
        let mut unmet = nearest.map(|(unmet, _)| unmet).unwrap_or_default();
        unmet.extend(target_unmet(target));
        let miss = NearMiss {
            policy: policy.name.clone(),
            rule,
            place: place(policy, rule),
            unmet,
            unmet_proofs,
        };
        ((later(target), miss.unmet.len()), miss)
    };
    // Of several the first by name, as in decisions.
    let nearest = allows.map(near_miss).min_by_key(|(rank, _)| *rank);
    Explanation { outcome, nearest: nearest.map(|(_, miss)| miss) }
}

/// A list in a sentence, which stays one that can be read.
fn join<T: Display>(items: impl IntoIterator<Item = T>) -> String {
    let mut items = items.into_iter();
    let named: Vec<_> = items.by_ref().take(NAMED).map(|item| item.to_string()).collect();
    match items.count() {
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    }
}

fn subject_unmet(from: &Subject, principal: &Principal) -> Vec<String> {
    let mut unmet = Vec::new();
    let (namespace, account) = (principal.namespace(), principal.service_account());
    if !from.namespaces.is_empty() && !from.namespaces.iter().any(|name| **name == *namespace) {
        unmet.push(format!("namespace {namespace} is not among {}", join(&from.namespaces)));
    }
    if !from.accounts.is_empty() && !from.accounts.contains(account) {
        unmet.push(format!("service account {account} is not among {}", join(&from.accounts)));
    }
    if !from.prefixes.is_empty() && !from.prefixes.iter().any(|p| namespace.starts_with(&**p)) {
        let prefixes = join(&from.prefixes);
        unmet.push(format!("namespace {namespace} starts with none of {prefixes}"));
    }
    let domain = principal.trust_domain();
    if !from.trust_domains.is_empty() && !from.trust_domains.contains(domain) {
        unmet.push(format!("trust domain {domain} is not among {}", join(&from.trust_domains)));
    }
    for proof in from.require.iter().filter(|proof| !principal.proofs().contains((*proof).into())) {
        unmet.push(format!("the identity is not proven by {}", proof.as_str()));
    }
    if from.bound_to_pod && !principal.is_bound_to_pod() {
        unmet.push("the identity is not proven by a token that is bound to a pod".to_owned());
    }
    if from.except.names(account) {
        unmet.push(format!("service account {account} is excepted"));
    }
    unmet
}

fn secret_unmet(
    rule: &SecretRule,
    principal: &Principal,
    verb: Verb,
    secret: &SecretRef,
    destination: &Destination<'_>,
) -> Vec<String> {
    let mut unmet = Vec::new();
    if !rule.verbs.contains(verb) {
        unmet.push(format!("verb {verb} is not among {}", join(rule.verbs.iter())));
    }
    let backend_held = rule.backends.as_ref().is_none_or(|all| all.contains(&secret.backend));
    if let Some(backends) = rule.backends.as_ref().filter(|_| !backend_held) {
        unmet.push(format!("backend {} is not among {}", secret.backend, join(backends.iter())));
    }
    // A pattern that is spelt for other backends does not count, unless none is.
    let matches = |pattern: &Pattern| {
        (!backend_held || pattern.covers(&secret.backend))
            && pattern.matches(principal, secret.name.as_str())
    };
    if !rule.patterns.iter().any(matches) {
        unmet.push(name_unmet(rule, principal, secret.name.as_str()));
    }
    let field = secret.field.as_ref();
    if rule.covers_field(true, field) != Held::Yes {
        let asked = field.map_or("the whole secret".into(), |f| format!("field {}", f.as_str()));
        let fields = join(rule.fields.iter().map(|field| field.as_str()));
        unmet.push(format!("{asked} is not among fields {fields}"));
    }
    if verb == Verb::Use && rule.reaches(destination) != Held::Yes {
        let entries = rule.destinations.iter().map(|entry| destination_unmet(entry, destination));
        unmet.extend(entries.min_by_key(Vec::len).unwrap_or_default());
    }
    unmet
}

fn name_unmet(rule: &SecretRule, principal: &Principal, name: &str) -> String {
    let (mut names, mut prefixes, mut barred) = (Vec::new(), Vec::new(), false);
    for pattern in &rule.patterns {
        barred |= !pattern.applies_to(principal);
        match &pattern.shape {
            Shape::Any => {}
            Shape::Exact(template) => names.push(template),
            Shape::Prefix(template) => prefixes.push(template),
        }
    }
    let mut sentence = match (names.is_empty(), prefixes.is_empty()) {
        (false, true) => format!("name {name} is none of names {}", join(names)),
        (true, _) => format!("name {name} matches none of prefixes {}", join(prefixes)),
        (false, false) => format!(
            "name {name} is none of names {} and matches none of prefixes {}",
            join(names),
            join(prefixes)
        ),
    };
    if barred {
        sentence.push_str("; values that contain -- never match a placeholder before --");
    }
    sentence
}

fn destination_unmet(rule: &DestinationRule, destination: &Destination<'_>) -> Vec<String> {
    let unmet = |attribute: Attribute| {
        let (what, value) = (attribute.in_words(), destination.get(attribute));
        match (rule.holds(attribute, value), value) {
            (Held::Yes, _) => None,
            (_, None) => Some(format!("destination {what} is not known")),
            (_, Some(value)) => {
                let listed = join(rule.list(attribute).listed());
                Some(format!("destination {what} {value} is not among {listed}"))
            }
        }
    };
    Attribute::ALL.into_iter().filter_map(unmet).collect()
}

fn http_unmet(rule: &HttpRule, request: &HttpRequest<'_>) -> Vec<String> {
    let mut unmet = Vec::new();
    let (host, method, path) = (request.host(), request.method(), request.path());
    if rule.hosts.holds(Some(host)) != Held::Yes {
        unmet.push(format!("host {host} is not among {}", join(rule.hosts.listed())));
    }
    if rule.methods.holds(Some(method)) != Held::Yes {
        unmet.push(format!("method {method} is not among {}", join(rule.methods.listed())));
    }
    if rule.paths.holds_path(Some(path)) != Held::Yes {
        unmet.push(format!("path {path} matches none of {}", join(rule.paths.listed())));
    }
    let workloads = &rule.destinations;
    match &request.destination {
        _ if workloads.is_empty() => {}
        None => unmet.push("the destination workload is not known".to_owned()),
        Some(workload) if workloads.contains(workload) => {}
        Some(workload) => {
            unmet.push(format!("destination {workload} is not among {}", join(workloads)));
        }
    }
    unmet
}
