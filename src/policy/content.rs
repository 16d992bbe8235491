//! What policies say, as a hash.
//!
//! Of the documents, not of the files: comments, the order of keys, the order of
//! documents and the files they are in change no decision, and no hash.

use std::{fmt::Write, sync::Arc};

use aws_lc_rs::digest::{SHA256, SHA256_OUTPUT_LEN, digest};

use super::yaml::{Node, Value};

/// SHA-256 of something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Digest([u8; SHA256_OUTPUT_LEN]);

// === impl Digest ===

impl Digest {
    /// Of a file, byte by byte.
    pub(super) fn of_text(text: &str) -> Self {
        Self::of(text.as_bytes())
    }

    /// Of a document, as it is understood.
    pub(super) fn of_document(root: &Node) -> Self {
        let mut bytes = Vec::new();
        write(root, &mut bytes);
        Self::of(&bytes)
    }

    /// Of documents, in the order of their names.
    pub(super) fn of_documents<'d>(documents: impl Iterator<Item = &'d Self>) -> Self {
        let bytes: Vec<u8> = documents.flat_map(|document| document.0).collect();
        Self::of(&bytes)
    }

    fn of(bytes: &[u8]) -> Self {
        let found = digest(&SHA256, bytes);
        Self(found.as_ref().try_into().expect("SHA-256 is as long as it says"))
    }

    /// Its first 16 digits, for people and labels. Comparisons that decide anything
    /// take the whole.
    pub(super) fn short(&self) -> Arc<str> {
        let mut text = String::with_capacity(16);
        for byte in &self.0[..8] {
            write!(text, "{byte:02x}").expect("a string takes everything");
        }
        text.into()
    }
}

/// Every node begins with its kind and length, so that no two trees look alike.
fn write(node: &Node, bytes: &mut Vec<u8>) {
    let mut head = |kind: u8, len: usize| {
        bytes.push(kind);
        bytes.extend_from_slice(&(len as u64).to_be_bytes());
    };
    match &node.value {
        Value::Null => head(b'n', 0),
        Value::Text(text) => {
            head(b't', text.len());
            bytes.extend_from_slice(text.as_bytes());
        }
        // None of them is part of a valid policy.
        Value::Scalar(kind) => {
            head(b's', kind.len());
            bytes.extend_from_slice(kind.as_bytes());
        }
        Value::List(items) => {
            head(b'l', items.len());
            items.iter().for_each(|item| write(item, bytes));
        }
        Value::Map(entries) => {
            head(b'm', entries.len());
            let mut entries: Vec<_> = entries.iter().collect();
            entries.sort_by_key(|(key, _)| match &key.value {
                Value::Text(text) => Some(text.as_str()),
                _ => None,
            });
            for (key, value) in entries {
                write(key, bytes);
                write(value, bytes);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::yaml::documents;

    fn digest(text: &str) -> Digest {
        Digest::of_document(documents(text).remove(0).as_ref().expect("valid YAML"))
    }

    #[test]
    fn only_what_is_said_counts() {
        let one = digest("a: [x, y]\nb: {c: d, e: f}\n");
        for same in [
            "# why\nb:\n  e: 'f'\n  c: \"d\"   # because\na:\n- x\n- y\n",
            "a: [&x x, y]\nb: {c: d, e: f}\n",
        ] {
            assert_eq!(one, digest(same), "{same}");
        }
        for other in [
            "a: [y, x]\nb: {c: d, e: f}\n",
            "a: [xy]\nb: {c: d, e: f}\n",
            "a: [x, y, b]\n",
            "a: [x, y]\nb: {c: f, e: d}\n",
            "a: [x, y]\nb: {c: d, e: f, g: ~}\n",
            "a: x\nb: {c: d, e: f}\n",
        ] {
            assert_ne!(one, digest(other), "{other}");
        }
    }

    #[test]
    fn lengths_keep_neighbours_apart() {
        assert_ne!(digest("[ab, c]"), digest("[a, bc]"));
        assert_ne!(digest("[[a], b]"), digest("[[a, b]]"));
        assert_ne!(digest("[]"), digest("{}"));
    }
}
