//! What is wrong with policies, and whom that concerns.

use std::{borrow::Cow, fmt, path::PathBuf, sync::Arc};

use serde::{Serialize, Serializer, ser::SerializeMap};

use super::rule::{Except, Subject};
use crate::identity::{ServiceAccount, TrustDomain};

/// One thing that is wrong with one policy file. Prints on one line as
/// `FILE:LINE: policy "NAME": KEY: message`, without the parts that are unknown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyProblem {
    /// The file, as it was named.
    pub file: PathBuf,
    /// From 1; 0 if the problem is with the file as a whole.
    pub line: u64,
    /// The policy's name, where it can be read.
    pub policy: Option<String>,
    /// The path of the key, such as `spec.to[0].secrets.verbs`; may be empty.
    pub key: String,
    /// What is wrong.
    pub message: String,
}

/// How many problems of the documents of a load are kept. The rest counts, and is not told.
pub(super) const MAX_KEPT: usize = 10_000;
/// How many are printed.
const MAX_SHOWN: usize = 100;
/// How much of a text of the author's is repeated.
const MAX_QUOTED: usize = 200;

/// Whom a policy is about. Serialized as policies write it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subjects(pub(super) Arc<[Subject]>);

/// Policies that cannot be used. The set that was in force before should stay,
/// compiled with [`super::PolicySet::compile_denying`].
#[derive(Clone, Debug)]
pub struct LoadFailure {
    /// All of them, or the first thousands, in the order of files and lines; never empty.
    pub problems: Vec<PolicyProblem>,
    /// Whom the invalid Deny policies are about. A document that is not YAML at
    /// all counts as nothing.
    pub denied: Vec<Subjects>,
}

/// A problem for logs, which hold no names of secrets: these are what some messages
/// quote. Says what was wrong only where that cannot be one.
#[derive(Clone, Copy, Debug)]
pub struct Unquoted<'p>(&'p PolicyProblem);

/// The lists of a rule that hold parts of secrets' names.
const QUOTED: [&str; 3] = ["names", "prefixes", "fields"];

/// The keys of the schema.
#[rustfmt::skip]
const KEYS: [&str; 32] = [
    "apiVersion", "kind", "metadata", "name", "spec", "effect", "mode", "from", "to",
    "namespaces", "serviceAccounts", "namespacePrefixes", "trustDomains", "require", "boundTo",
    "except", "secrets", "http", "backends", "names", "prefixes", "fields", "verbs",
    "destinations", "hosts", "clusters", "routes", "snis", "ports", "schemes",
    "methods", "paths",
];

// === impl PolicyProblem ===

impl PolicyProblem {
    /// For logs, without names of secrets.
    #[must_use]
    pub fn unquoted(&self) -> Unquoted<'_> {
        Unquoted(self)
    }

    /// The key, up to where it is the author's own text: a name that stands in the
    /// wrong place is taken for a key.
    #[must_use]
    pub fn known_key(&self) -> &str {
        let mut end = 0;
        for step in self.key.split('.') {
            if !KEYS.contains(&step.split('[').next().unwrap_or_default()) {
                break;
            }
            end += usize::from(end > 0) + step.len();
        }
        &self.key[..end]
    }

    /// Whether the message may quote a secret's name.
    fn is_delicate(&self) -> bool {
        let (_, rule) = self.key.split_once("].secrets.").unwrap_or_default();
        QUOTED.contains(&rule.split('[').next().unwrap_or_default())
    }

    fn write(&self, f: &mut fmt::Formatter<'_>, key: &str, message: &str) -> fmt::Result {
        write!(f, "{}:", self.file.display())?;
        if self.line != 0 {
            write!(f, "{}:", self.line)?;
        }
        if let Some(policy) = &self.policy {
            write!(f, " policy {policy:?}:")?;
        }
        if !key.is_empty() {
            // Keys are the author's text; they may hold anything.
            write!(f, " {}:", key.escape_debug())?;
        }
        write!(f, " {}", message.replace(char::is_control, " "))
    }
}

impl fmt::Display for PolicyProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, &self.key, &self.message)
    }
}

// === impl Unquoted ===

impl fmt::Display for Unquoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(problem) = self;
        let message = match problem.is_delicate() {
            true => "cannot be used; `vaultmux-mesh check` says why",
            false => &problem.message,
        };
        problem.write(f, problem.known_key(), message)
    }
}

// === impl Subjects ===

impl Subjects {
    /// Every principal.
    #[must_use]
    pub fn everyone() -> Self {
        Self([Subject::everyone()].into())
    }
}

impl Serialize for Subjects {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(Entry))
    }
}

/// A `from` entry, or what it excepts.
struct Entry<T>(T);

impl Serialize for Entry<&Subject> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(subject) = self;
        let everyone = subject.namespaces.is_empty()
            && subject.accounts.is_empty()
            && subject.prefixes.is_empty();
        let mut map = serializer.serialize_map(None)?;
        if everyone {
            map.serialize_entry("namespaces", &["*"])?;
        }
        lists(&mut map, &subject.namespaces, &subject.accounts, &subject.prefixes)?;
        if !subject.trust_domains.is_empty() {
            let domains = subject.trust_domains.iter().map(TrustDomain::to_string);
            map.serialize_entry("trustDomains", &domains.collect::<Vec<_>>())?;
        }
        if subject.except != Except::default() {
            map.serialize_entry("except", &Entry(&subject.except))?;
        }
        map.end()
    }
}

impl Serialize for Entry<&Except> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        lists(&mut map, &self.0.namespaces, &self.0.accounts, &self.0.prefixes)?;
        map.end()
    }
}

fn lists<M: SerializeMap>(
    map: &mut M,
    namespaces: &[Arc<str>],
    accounts: &[ServiceAccount],
    prefixes: &[Arc<str>],
) -> Result<(), M::Error> {
    let accounts: Vec<_> = accounts.iter().map(ServiceAccount::to_string).collect();
    let texts = |texts: &[Arc<str>]| texts.iter().map(ToString::to_string).collect::<Vec<_>>();
    for (key, list) in [
        ("namespaces", texts(namespaces)),
        ("serviceAccounts", accounts),
        ("namespacePrefixes", texts(prefixes)),
    ] {
        if !list.is_empty() {
            map.serialize_entry(key, &list)?;
        }
    }
    Ok(())
}

// === impl LoadFailure ===

impl LoadFailure {
    /// The problems, a line each, without names of secrets.
    #[must_use]
    pub fn unquoted(&self) -> String {
        let lines: Vec<_> =
            self.problems.iter().map(|problem| problem.unquoted().to_string()).collect();
        lines.join("\n")
    }
}

impl fmt::Display for LoadFailure {
    /// A line each, of so many as a person reads, and how many more there are.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, problem) in self.problems.iter().take(MAX_SHOWN).enumerate() {
            write!(f, "{}{problem}", if at == 0 { "" } else { "\n" })?;
        }
        match self.problems.len().checked_sub(MAX_SHOWN) {
            None | Some(0) => Ok(()),
            Some(more) => {
                let least = if self.problems.len() >= MAX_KEPT { "at least " } else { "" };
                write!(f, "\nand {least}{more} more problems")
            }
        }
    }
}

impl std::error::Error for LoadFailure {}

/// The author's text in a message, short enough for a line.
pub(super) fn quoted(text: &str) -> String {
    format!("{:?}", shortened(text))
}

pub(super) fn shortened(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(MAX_QUOTED) {
        None => Cow::Borrowed(text),
        Some((end, _)) => Cow::Owned(format!("{}…", &text[..end])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_hold_no_names_of_secrets() {
        let quoted = "\"prod/canary\" is refused";
        for (key, message, shown) in [
            ("spec.to[0].secrets.names[1]", quoted, "spec.to[0].secrets.names[1]"),
            ("spec.to[0].secrets.prefixes[0]", quoted, "spec.to[0].secrets.prefixes[0]"),
            ("spec.to[0].secrets.fields[0]", quoted, "spec.to[0].secrets.fields[0]"),
            ("spec.to[0].secrets.prod/canary", "unknown field", "spec.to[0].secrets"),
            ("spec.to[0].canary.key", "unknown field", "spec.to[0]"),
            ("canary", "unknown field", ""),
            ("spec.to[0].secrets.backends[0]", "is no backend", "spec.to[0].secrets.backends[0]"),
            ("spec.from[0].namespaces[0]", "is none", "spec.from[0].namespaces[0]"),
            ("", "is empty", ""),
        ] {
            let problem = PolicyProblem {
                file: "p.yaml".into(),
                line: 3,
                policy: Some("a".to_owned()),
                key: key.to_owned(),
                message: message.to_owned(),
            };
            let said = problem.unquoted().to_string();
            assert!(!said.contains("canary"), "{said}");
            assert_eq!(said.contains(message), message != quoted, "{said}");
            assert_eq!(problem.known_key(), shown);
            assert!(said.starts_with("p.yaml:3: policy \"a\":"), "{said}");
        }
    }

    #[test]
    fn subjects_are_shown_as_policies_write_them() {
        let account = ServiceAccount::parse("prod/api").expect("valid");
        let subject = Subject {
            prefixes: vec!["team-".into()],
            except: Except { accounts: vec![account], ..Except::default() },
            ..Subject::default()
        };
        let shown = serde_json::to_value(Subjects([subject, Subject::everyone()].into()));
        let expected = serde_json::json!([
            {"namespacePrefixes": ["team-"], "except": {"serviceAccounts": ["prod/api"]}},
            {"namespaces": ["*"]},
        ]);
        assert_eq!(shown.expect("JSON"), expected);
    }
}
