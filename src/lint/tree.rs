//! YAML and JSON as trees that know their lines, whatever they hold.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};
use serde_saphyr::{Options, Spanned};

/// Deeper than Envoy's own limit lets anything be; bounds recursion.
const MAX_DEPTH: usize = 64;
/// Config dumps of large meshes are large.
const MAX_NODES: usize = 5_000_000;

/// A value and where it stands.
#[derive(Debug)]
pub(super) struct Node {
    /// From 1.
    pub(super) line: u64,
    value: Value,
}

#[derive(Debug)]
enum Value {
    Null,
    Bool(bool),
    Number(f64),
    Text(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// One key of a map, and its value.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    /// Where the key stands.
    pub(super) line: u64,
    pub(super) node: Node,
}

/// Text that is not YAML, or is beyond the limits.
#[derive(Debug)]
pub(super) struct Unreadable {
    /// From 1; 0 if the parser does not know.
    pub(super) line: u64,
    pub(super) message: String,
}

struct ValueVisitor;

/// Every document of a text. `above` is how many lines stand before it in its file.
pub(super) fn documents(text: &str, above: u64) -> Vec<Result<Node, Unreadable>> {
    let mut bytes = text.as_bytes();
    serde_saphyr::read_with_options::<_, Node>(&mut bytes, options())
        .map(|document| match document {
            Ok(mut node) => {
                if above > 0 {
                    node.move_down(above);
                }
                Ok(node)
            }
            Err(error) => Err(unreadable(&error, above)),
        })
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
            max_total_replayed_events: 100_000,
            max_replay_stack_depth: 16,
        },
        with_snippet: false,
    }
}

fn unreadable(error: &serde_saphyr::Error, above: u64) -> Unreadable {
    let line = error.location().map_or(0, |location| location.line() + above);
    let text = error.to_string();
    // The place is printed in front; one line, whatever the parser quotes.
    let text = text.split(" at line ").next().unwrap_or_default();
    // Nor is advice to whoever calls the parser.
    let text = text.split(", set DuplicateKeyPolicy").next().unwrap_or_default();
    let message: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    Unreadable { line, message: message.chars().take(200).collect() }
}

/// The seconds of a duration as protobuf, Go and Istio write it.
pub(super) fn seconds(text: &str) -> Option<f64> {
    let mut rest = text.trim();
    let mut total = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| !c.is_alphabetic()).unwrap_or(rest.len());
        total += number
            * match &rest[..unit] {
                "ns" => 1e-9,
                "us" | "µs" => 1e-6,
                "ms" => 1e-3,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                _ => return None,
            };
        rest = &rest[unit..];
    }
    (!text.trim().is_empty()).then_some(total)
}

/// Protobuf's JSON takes `failure_mode_allow` and `failureModeAllow` for the same.
fn same_key(left: &str, right: &str) -> bool {
    let letters = |text: &'_ str| -> Vec<u8> {
        text.bytes().filter(|byte| *byte != b'_').map(|byte| byte.to_ascii_lowercase()).collect()
    };
    left == right || letters(left) == letters(right)
}

// === impl Node ===

impl Node {
    fn move_down(&mut self, lines: u64) {
        self.line += lines;
        match &mut self.value {
            Value::List(items) => items.iter_mut().for_each(|item| item.move_down(lines)),
            Value::Map(entries) => {
                for entry in entries {
                    entry.line += lines;
                    entry.node.move_down(lines);
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Text(_) => {}
        }
    }

    /// The value under a key of whichever spelling; a null is none.
    pub(super) fn get(&self, key: &str) -> Option<&Self> {
        self.entry(key).map(|entry| &entry.node)
    }

    pub(super) fn entry(&self, key: &str) -> Option<&Entry> {
        let found = self.entries().iter().find(|entry| same_key(&entry.key, key))?;
        (!matches!(found.node.value, Value::Null)).then_some(found)
    }

    /// Whether a key is there, if with nothing.
    pub(super) fn get_even_empty(&self, key: &str) -> bool {
        self.entries().iter().any(|entry| same_key(&entry.key, key))
    }

    /// The value at the end of a path, as in `spec/egress`.
    pub(super) fn at(&self, path: &str) -> Option<&Self> {
        path.split('/').try_fold(self, |node, key| node.get(key))
    }

    /// Where a key stands, or what should have it.
    pub(super) fn line_of(&self, key: &str) -> u64 {
        self.entry(key).map_or(self.line, |entry| entry.line)
    }

    pub(super) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The text at the end of a path; empty if there is none.
    pub(super) fn text_at(&self, path: &str) -> &str {
        self.at(path).and_then(Self::text).unwrap_or_default()
    }

    pub(super) fn number(&self) -> Option<f64> {
        match &self.value {
            Value::Number(number) => Some(*number),
            Value::Text(text) => text.parse().ok(),
            _ => None,
        }
    }

    /// True, or text that some reader takes for it.
    pub(super) fn is_true(&self) -> bool {
        match &self.value {
            Value::Bool(yes) => *yes,
            Value::Text(text) => {
                ["true", "yes", "on", "y"].contains(&text.to_ascii_lowercase().as_str())
            }
            _ => false,
        }
    }

    pub(super) fn true_at(&self, path: &str) -> bool {
        self.at(path).is_some_and(Self::is_true)
    }

    /// A list's items; none if it is no list.
    pub(super) fn items(&self) -> &[Self] {
        match &self.value {
            Value::List(items) => items,
            _ => &[],
        }
    }

    pub(super) fn items_at(&self, path: &str) -> &[Self] {
        self.at(path).map(Self::items).unwrap_or_default()
    }

    /// Takes a list's items away.
    pub(super) fn take_items(&mut self, key: &str) -> Vec<Self> {
        let Value::Map(entries) = &mut self.value else { return Vec::new() };
        let found = entries.iter_mut().find(|entry| same_key(&entry.key, key));
        match found.map(|entry| &mut entry.node.value) {
            Some(Value::List(items)) => std::mem::take(items),
            _ => Vec::new(),
        }
    }

    /// The texts of a list.
    pub(super) fn texts_at(&self, path: &str) -> Vec<&str> {
        self.items_at(path).iter().filter_map(Self::text).collect()
    }

    /// A map's entries; none if it is no map.
    pub(super) fn entries(&self) -> &[Entry] {
        match &self.value {
            Value::Map(entries) => entries,
            _ => &[],
        }
    }

    /// A duration in seconds.
    pub(super) fn seconds_at(&self, path: &str) -> Option<f64> {
        let node = self.at(path)?;
        match &node.value {
            Value::Text(text) => seconds(text),
            _ => node.number(),
        }
    }

    /// The first text below here, itself included, of which `find` says yes, as `(line, text)`.
    pub(super) fn find_text(&self, find: &impl Fn(&str) -> bool) -> Option<(u64, &str)> {
        match &self.value {
            Value::Text(text) => find(text).then_some((self.line, text)),
            Value::List(items) => items.iter().find_map(|item| item.find_text(find)),
            Value::Map(entries) => entries.iter().find_map(|entry| match find(&entry.key) {
                true => Some((entry.line, entry.key.as_str())),
                false => entry.node.find_text(find),
            }),
            Value::Null | Value::Bool(_) | Value::Number(_) => None,
        }
    }

    /// All that `find` finds here and below.
    pub(super) fn collect<'a, T>(
        &'a self,
        find: &impl Fn(&'a Self) -> Option<T>,
        into: &mut Vec<T>,
    ) {
        into.extend(find(self));
        self.items().iter().for_each(|item| item.collect(find, into));
        self.entries().iter().for_each(|entry| entry.node.collect(find, into));
    }

    /// What holds a type whose name ends like this, here and below.
    pub(super) fn typed_below(&self, end: &str) -> Vec<&Self> {
        let mut found = Vec::new();
        self.collect(
            &|node| node.typed().filter(|(name, _)| name.ends_with(end)).map(|(_, config)| config),
            &mut found,
        );
        found
    }

    /// What a `typed_config` holds, and its type's name without package prefix and version:
    /// `ext_authz.v3.ExtAuthz`. Looks through the struct that Istio wraps types in.
    pub(super) fn typed(&self) -> Option<(&str, &Self)> {
        let name = |url: &'_ str| -> usize { url.rfind('/').map_or(0, |at| at + 1) };
        let url = self.text_at("@type");
        let type_name = &url[name(url)..];
        if type_name.ends_with("TypedStruct") {
            let inner = self.text_at("type_url");
            return Some((&inner[name(inner)..], self.get("value")?));
        }
        (!type_name.is_empty()).then_some((type_name, self))
    }
}

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

impl Value {
    fn into_key(self) -> String {
        match self {
            Self::Text(text) => text,
            Self::Bool(yes) => yes.to_string(),
            Self::Number(number) => number.to_string(),
            Self::Null | Self::List(_) | Self::Map(_) => String::new(),
        }
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

    fn visit_bool<E>(self, yes: bool) -> Result<Value, E> {
        Ok(Value::Bool(yes))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        Ok(Value::Number(number as f64))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
        Ok(Value::Number(number as f64))
    }

    fn visit_i128<E>(self, number: i128) -> Result<Value, E> {
        Ok(Value::Number(number as f64))
    }

    fn visit_u128<E>(self, number: u128) -> Result<Value, E> {
        Ok(Value::Number(number as f64))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Value, E> {
        Ok(Value::Number(number))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::Text(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Value, E> {
        Ok(Value::Text(text))
    }

    fn visit_bytes<E>(self, _: &[u8]) -> Result<Value, E> {
        Ok(Value::Null)
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
        while let Some((key, node)) = map.next_entry::<Node, Node>()? {
            entries.push(Entry { line: key.line, key: key.value.into_key(), node });
        }
        Ok(Value::Map(entries))
    }
}

#[cfg(test)]
mod tests;
