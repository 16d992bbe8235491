//! Walks a tree, collects problems, and knows the path of every key.

use std::{collections::HashSet, path::Path};

use crate::policy::{
    problem::{MAX_KEPT, PolicyProblem, quoted, shortened},
    yaml::{Node, Value},
};

/// As they are in a template, in lower case.
const PLACEHOLDERS: [&str; 2] = ["{namespace}", "{serviceaccount}"];

/// Where problems go.
pub(super) struct Report<'a> {
    pub(super) file: &'a Path,
    pub(super) policy: Option<String>,
    pub(super) problems: &'a mut Vec<PolicyProblem>,
    /// How many this report had, kept or not.
    pub(super) reported: usize,
}

/// A node and its key's path.
#[derive(Clone, Debug)]
pub(super) struct At<'n> {
    pub(super) node: &'n Node,
    pub(super) path: String,
}

/// The fields of a mapping that are known.
pub(super) struct Fields<'n> {
    at: At<'n>,
    entries: Vec<(&'n str, &'n Node)>,
}

// === impl Report ===

impl Report<'_> {
    pub(super) fn add(&mut self, at: &At<'_>, message: impl Into<String>) {
        self.push(at.node.line, at.path.clone(), message.into());
    }

    fn push(&mut self, line: u64, key: String, message: String) {
        self.reported += 1;
        // A document of a million mistakes must not take more memory than a good one.
        if self.problems.len() < MAX_KEPT {
            let (file, policy) = (self.file.to_owned(), self.policy.clone());
            self.problems.push(PolicyProblem { file, line, policy, key, message });
        }
    }

    /// Runs a reader; its result counts only if it reported nothing.
    pub(super) fn unless_reported<T>(&mut self, read: impl FnOnce(&mut Self) -> T) -> Option<T> {
        let before = self.reported;
        let value = read(self);
        (self.reported == before).then_some(value)
    }
}

// === impl At ===

impl<'n> At<'n> {
    pub(super) fn root(node: &'n Node) -> Self {
        Self { node, path: String::new() }
    }

    fn key(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// A mapping of known fields; reports unknown and repeated ones.
    pub(super) fn fields(&self, known: &[&str], report: &mut Report<'_>) -> Option<Fields<'n>> {
        let Value::Map(map) = &self.node.value else {
            report.add(self, "must be a mapping");
            return None;
        };
        let mut entries = Vec::with_capacity(map.len());
        for (key, value) in map {
            let Value::Text(name) = &key.value else {
                report.push(key.line, self.path.clone(), "has a key that is not text".into());
                continue;
            };
            if !known.contains(&name.as_str()) {
                let message = format!("unknown field, expected one of {}", known.join(", "));
                report.push(key.line, self.key(&shortened(name)), message);
            } else if entries.iter().any(|(seen, _)| seen == name) {
                report.push(key.line, self.key(name), "is given twice".into());
            } else {
                entries.push((name.as_str(), value));
            }
        }
        Some(Fields { at: self.clone(), entries })
    }

    /// The items of a list that has some.
    pub(super) fn items(&self, report: &mut Report<'_>) -> Vec<At<'n>> {
        let Value::List(items) = &self.node.value else {
            report.add(self, "must be a list");
            return Vec::new();
        };
        if items.is_empty() {
            report.add(self, "an empty list matches nothing");
        }
        let item = |(n, node)| At { node, path: format!("{}[{n}]", self.path) };
        items.iter().enumerate().map(item).collect()
    }

    pub(super) fn text(&self, report: &mut Report<'_>) -> Option<&'n str> {
        let message = match &self.node.value {
            Value::Text(text) if text.is_empty() => "must not be empty".to_owned(),
            Value::Text(text) if text.contains(char::is_control) => {
                "must not contain control characters".to_owned()
            }
            Value::Text(text) => return Some(text),
            Value::Null => "has no value".to_owned(),
            Value::Scalar(kind) => format!("must be text, not {kind}; quote it"),
            Value::List(_) => "must be text, not a list".to_owned(),
            Value::Map(_) => "must be text, not a mapping".to_owned(),
        };
        report.add(self, message);
        None
    }

    /// The texts of a list that has some; reports repeated ones.
    pub(super) fn texts(&self, report: &mut Report<'_>) -> Vec<(At<'n>, &'n str)> {
        let mut seen = HashSet::new();
        let mut texts = Vec::new();
        for item in self.items(report) {
            let Some(text) = item.text(report) else { continue };
            if seen.insert(text) {
                texts.push((item, text));
            } else {
                report.add(&item, format!("{} is listed twice", quoted(text)));
            }
        }
        texts
    }
}

/// Parses each text; reports what `parse` returns as its error.
pub(super) fn parse_each<T>(
    texts: &[(At<'_>, &str)],
    report: &mut Report<'_>,
    mut parse: impl FnMut(&str) -> Result<T, String>,
) -> Vec<T> {
    let mut parsed = Vec::with_capacity(texts.len());
    for (at, text) in texts {
        match parse(text) {
            Ok(value) => parsed.push(value),
            Err(message) => report.add(at, format!("{} {message}", quoted(text))),
        }
    }
    parsed
}

// === impl Fields ===

impl<'n> Fields<'n> {
    pub(super) fn at(&self) -> &At<'n> {
        &self.at
    }

    pub(super) fn get(&self, key: &str) -> Option<At<'n>> {
        let (_, node) = self.entries.iter().find(|(name, _)| *name == key)?;
        Some(At { node, path: self.at.key(key) })
    }

    /// The texts of an optional list that may hold placeholders; empty if it is not given.
    pub(super) fn templates(&self, key: &str, report: &mut Report<'_>) -> Vec<(At<'n>, &'n str)> {
        self.get(key).map(|at| at.texts(report)).unwrap_or_default()
    }

    /// The texts of an optional list; empty if it is not given. Placeholders are refused:
    /// taken as they are, they would be a rule that never matches.
    pub(super) fn texts(&self, key: &str, report: &mut Report<'_>) -> Vec<(At<'n>, &'n str)> {
        let mut texts = self.templates(key, report);
        texts.retain(|(at, text)| {
            let lower = shortened(text).to_ascii_lowercase();
            let Some(found) = PLACEHOLDERS.iter().find(|known| lower.contains(*known)) else {
                return true;
            };
            let message = format!(
                "{} holds the placeholder {found}, which only names and prefixes of secrets may",
                quoted(text)
            );
            report.add(at, message);
            false
        });
        texts
    }

    pub(super) fn required(&self, key: &str, report: &mut Report<'_>) -> Option<At<'n>> {
        let found = self.get(key);
        if found.is_none() {
            report.push(self.at.node.line, self.at.key(key), "is missing".into());
        }
        found
    }

    /// A required field that is one of a few words.
    pub(super) fn word(
        &self,
        key: &str,
        words: &[&'static str],
        report: &mut Report<'_>,
    ) -> Option<&'static str> {
        let at = self.required(key, report)?;
        let text = at.text(report)?;
        let found = words.iter().find(|word| **word == text);
        if found.is_none() {
            report.add(&at, format!("{} is not one of {}", quoted(text), words.join(", ")));
        }
        found.copied()
    }
}
