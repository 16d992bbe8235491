//! Areas in words: pieces that differ in one value only are said in one line.

use std::{collections::HashMap, hash::Hash};

use serde_json::{Map, Value, json};

use crate::policy::{Piece, RuleRef};

/// Pieces that are alike but for the values of their columns, all combinations of which are
/// meant.
#[derive(Clone, Debug)]
pub(super) struct Row<K> {
    /// What is the same of all of them.
    pub(super) key: K,
    /// Other columns of the caller's come first.
    pub(super) columns: Vec<Vec<String>>,
}

/// What kind of piece a row is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    Secret,
    Collection,
    Http,
    Connection,
}

/// Merges rows, column by column; the order is that of the first ones.
pub(super) fn merged<K: Hash + Eq + Clone>(mut rows: Vec<Row<K>>) -> Vec<Row<K>> {
    let columns = rows.iter().map(|row| row.columns.len()).max().unwrap_or_default();
    for column in 0..columns {
        let mut places = HashMap::new();
        let mut merged: Vec<Row<K>> = Vec::new();
        for row in rows {
            let mut rest = row.columns.clone();
            if let Some(values) = rest.get_mut(column) {
                values.clear();
            }
            let place = *places.entry((row.key.clone(), rest)).or_insert(merged.len());
            match merged.get_mut(place) {
                None => merged.push(row),
                Some(first) => {
                    if let (Some(all), Some(more)) =
                        (first.columns.get_mut(column), row.columns.get(column))
                    {
                        for value in more {
                            if !all.contains(value) {
                                all.push(value.clone());
                            }
                        }
                    }
                }
            }
        }
        rows = merged;
    }
    rows
}

// === impl Kind ===

impl Kind {
    pub(super) fn of(piece: &Piece) -> Self {
        match piece {
            Piece::Secret { .. } => Self::Secret,
            Piece::Collection(_) => Self::Collection,
            Piece::Http { .. } => Self::Http,
            Piece::Connection { .. } => Self::Connection,
        }
    }

    /// The columns' names in JSON.
    fn names(self) -> &'static [&'static str] {
        match self {
            Self::Secret => &["verbs", "backends", "names", "fields", "destinations"],
            Self::Collection => &["collections"],
            Self::Http => &["methods", "hosts", "paths", "destinations"],
            Self::Connection => &["connections"],
        }
    }

    /// `get, list on aws-prod payments/*`
    pub(super) fn in_words(self, columns: &[Vec<String>]) -> String {
        let list = |at: usize| columns.get(at).map(|values| values.join(", ")).unwrap_or_default();
        let named = |words: &str, at: usize| match list(at) {
            given if given.is_empty() => String::new(),
            given => format!(" {words} {given}"),
        };
        match self {
            Self::Secret => {
                let (fields, toward) = (named("field", 3), named("toward", 4));
                format!("{} on {} {}{fields}{toward}", list(0), list(1), list(2))
            }
            Self::Collection => format!("{} as such", list(0)),
            Self::Http => {
                let (methods, hosts) = (named("method", 0), named("host", 1));
                format!("http{methods}{hosts} path {}{}", list(2), named("at", 3))
            }
            Self::Connection => format!("tcp{}", named("at", 0)),
        }
    }

    pub(super) fn to_json(self, columns: &[Vec<String>]) -> Map<String, Value> {
        let given = |values: &&Vec<String>| values.iter().any(|value| !value.is_empty());
        let named = self.names().iter().zip(columns);
        let mut map = Map::new();
        for (name, values) in named {
            let value = if given(&values) { json!(values) } else { Value::Null };
            map.insert((*name).to_owned(), value);
        }
        map
    }
}

/// The piece's columns, of one value each; empty for any.
pub(super) fn columns(piece: &Piece) -> Vec<Vec<String>> {
    let text = |value: &Option<std::sync::Arc<str>>| value.as_deref().unwrap_or("").to_owned();
    let account = |value: &Option<crate::identity::ServiceAccount>| {
        value.as_ref().map(ToString::to_string).unwrap_or_default()
    };
    let columns = match piece {
        Piece::Secret { backend, names, verb, field, toward } => vec![
            verb.to_string(),
            backend.to_string(),
            names.to_string(),
            text(field),
            toward.to_string(),
        ],
        Piece::Collection(verb) => vec![verb.to_string()],
        Piece::Http { host, method, paths, destination } => {
            vec![text(method), text(host), paths.to_string(), account(destination)]
        }
        Piece::Connection { destination } => vec![account(destination)],
    };
    columns.into_iter().map(|value| vec![value]).collect()
}

/// What of the piece a part of it is, without what is the same.
pub(super) fn part(piece: &Piece, part: &Piece) -> String {
    let (whole, narrow) = (columns(piece), columns(part));
    let words: &[&str] = match part {
        Piece::Secret { .. } => &["", "", "", "field", "toward"],
        Piece::Collection(_) => &[""],
        Piece::Http { .. } => &["method", "host", "path", "at"],
        Piece::Connection { .. } => &["at"],
    };
    let mut all = Vec::new();
    for ((word, whole), narrow) in words.iter().zip(&whole).zip(&narrow) {
        if whole != narrow {
            let more = if *word == "field" { " with all that is inside or holds it" } else { "" };
            all.push(format!("{word} {}{more}", narrow.join(", ")).trim_start().to_owned());
        }
    }
    all.join(", ")
}

/// The rule as members of an object.
pub(super) fn rule_json(rule: &RuleRef) -> Map<String, Value> {
    let value = json!({
        "policy": &*rule.policy,
        "rule": rule.rule,
        "file": rule.place.file.display().to_string(),
        "line": rule.place.line,
    });
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

/// One object of all of these members.
pub(super) fn object(parts: impl IntoIterator<Item = Map<String, Value>>) -> Value {
    Value::Object(parts.into_iter().flatten().collect())
}
