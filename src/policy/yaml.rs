//! YAML documents as trees that know their lines.
//!
//! Policies are read from a tree instead of straight into types: a typed reader
//! stops at its first error, and a Deny with one mistyped field must still tell
//! whom it was meant for.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};
use serde_saphyr::{
    Options, Spanned,
    options::{DuplicateKeyPolicy, MergeKeyPolicy},
};

use super::problem::shortened;

/// Deeper than any policy; bounds recursion.
const MAX_DEPTH: usize = 16;
/// Bounds the memory of one document.
const MAX_NODES: usize = 1_000_000;
/// Aliases multiply: what they may add to one document.
const MAX_REPLAYED: usize = 10_000;

/// A value and where it stands.
#[derive(Debug)]
pub(super) struct Node {
    /// From 1.
    pub(super) line: u64,
    pub(super) value: Value,
}

/// What YAML's core schema makes of a node.
#[derive(Debug)]
pub(super) enum Value {
    Null,
    Text(String),
    /// A scalar that is not text, and what it is.
    Scalar(&'static str),
    List(Vec<Node>),
    /// In the order of the document, with duplicates.
    Map(Vec<(Node, Node)>),
}

/// Text that is not YAML, or is beyond the limits.
#[derive(Debug)]
pub(super) struct YamlError {
    /// From 1; 0 if the parser does not know.
    pub(super) line: u64,
    pub(super) message: String,
}

struct ValueVisitor;

/// Every document of a file. After one that cannot be read the parser goes on
/// with the next if it can find it.
pub(super) fn documents(text: &str) -> Vec<Result<Node, YamlError>> {
    let mut bytes = text.as_bytes();
    serde_saphyr::read_with_options::<_, Node>(&mut bytes, options())
        .map(|document| document.map_err(YamlError::from))
        .collect()
}

fn options() -> Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: MAX_DEPTH,
            flow_nesting_limit: MAX_DEPTH,
            max_nodes: MAX_NODES,
            max_events: 2 * MAX_NODES,
            max_aliases: 1_000,
            max_anchors: 1_000,
            max_recorded_anchor_events: 100_000,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: MAX_REPLAYED,
            max_replay_stack_depth: MAX_DEPTH,
        },
        // Both are reported by the schema, with the key's path and the policy's name.
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        merge_keys: MergeKeyPolicy::AsOrdinary,
        // A namespace may be called `no` or `on`.
        strict_booleans: true,
        reject_unsupported_tags: true,
        with_snippet: false,
    }
}

// === impl Node ===

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let node = Spanned::<Value>::deserialize(deserializer)?;
        Ok(Self { line: node.referenced.line(), value: node.value })
    }
}

// === impl Value ===

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Value, E> {
        Ok(Value::Scalar("a boolean"))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Value, E> {
        Ok(Value::Scalar("a number"))
    }

    fn visit_u64<E>(self, _: u64) -> Result<Value, E> {
        Ok(Value::Scalar("a number"))
    }

    fn visit_i128<E>(self, _: i128) -> Result<Value, E> {
        Ok(Value::Scalar("a number"))
    }

    fn visit_u128<E>(self, _: u128) -> Result<Value, E> {
        Ok(Value::Scalar("a number"))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Value, E> {
        Ok(Value::Scalar("a number"))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::Text(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Value, E> {
        Ok(Value::Text(text))
    }

    fn visit_bytes<E>(self, _: &[u8]) -> Result<Value, E> {
        Ok(Value::Scalar("binary"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Value::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Value::Map(entries))
    }
}

// === impl YamlError ===

impl From<serde_saphyr::Error> for YamlError {
    fn from(error: serde_saphyr::Error) -> Self {
        let line = error.location().map_or(0, |location| location.line());
        let text = error.to_string();
        // The place is printed in front; one line, whatever the parser quotes.
        let text = text.split(" at line ").next().unwrap_or_default();
        let message = text.split_whitespace().collect::<Vec<_>>().join(" ");
        Self { line, message: format!("cannot be read as YAML: {}", shortened(&message)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors(text: &str) -> Vec<(u64, String)> {
        documents(text)
            .into_iter()
            .filter_map(Result::err)
            .map(|error| (error.line, error.message))
            .collect()
    }

    #[test]
    fn bombs_are_refused() {
        let deep = format!("{}{}", "[".repeat(20), "]".repeat(20));
        assert_eq!(errors(&deep).len(), 1);
        let nested: String = (0..20).map(|n| format!("{}a:\n", " ".repeat(n))).collect();
        assert_eq!(errors(&nested).len(), 1);
        let mut laughs = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for n in 1..9 {
            let aliases = vec![format!("*a{}", n - 1); 10].join(", ");
            laughs += &format!("a{n}: &a{n} [{aliases}]\n");
        }
        assert_eq!(errors(&laughs).len(), 1);
    }

    #[test]
    fn a_bad_document_does_not_hide_the_next() {
        let read = documents("a: 1\n---\nb: !tag x\n---\nc: 3\n");
        let found: Vec<bool> = read.iter().map(Result::is_ok).collect();
        assert_eq!(found, [true, false, true], "{read:?}");
    }

    #[test]
    fn nodes_know_their_lines_and_kinds() {
        let text = "# c\na: no\n\nb:\n  - 1\n  - x\n? [q]\n: 2\na: ~\n<<: {z: 1}\n";
        let mut read = documents(text);
        let root = read.remove(0).expect("valid YAML");
        let Value::Map(entries) = root.value else { panic!("not a map") };
        let shown: Vec<_> = entries
            .iter()
            .map(|(key, value)| (key.line, value.line, format!("{:?}", key.value)))
            .collect();
        assert_eq!(shown[0], (2, 2, "Text(\"a\")".into()));
        assert_eq!(shown[1].0, 4);
        assert!(matches!(entries[0].1.value, Value::Text(ref text) if text == "no"));
        let Value::List(items) = &entries[1].1.value else { panic!("not a list") };
        assert_eq!(items.iter().map(|item| item.line).collect::<Vec<_>>(), [5, 6]);
        assert!(matches!(items[0].value, Value::Scalar("a number")));
        assert!(matches!(entries[2].0.value, Value::List(_)));
        assert_eq!(shown[3].0, 9);
        assert!(matches!(entries[3].1.value, Value::Null));
        assert_eq!(shown.len(), 5);
    }

    #[test]
    fn documents_without_content_are_skipped() {
        assert!(documents("").is_empty());
        assert!(documents("# only this\n---\n---\n").is_empty());
    }
}
