//! Plaintext, and what a store says about it.

use std::{fmt, sync::Arc, time::SystemTime};

use zeroize::Zeroizing;

/// The plaintext of one secret version. Wiped when the last clone is dropped;
/// copies that an SDK, TLS or HTTP library made on the way are out of reach.
#[derive(Clone)]
pub struct SecretValue(Arc<Zeroizing<Vec<u8>>>);

/// A value together with what its store says about it.
#[derive(Clone, Debug)]
pub struct SecretRecord {
    /// The plaintext.
    pub value: SecretValue,
    /// The store's id or number for this version.
    pub version: Arc<str>,
    /// When this version was made, if the store says.
    pub created_at: Option<SystemTime>,
}

// === impl SecretValue ===

impl SecretValue {
    /// Takes ownership of plaintext.
    #[must_use]
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(Arc::new(Zeroizing::new(bytes.into())))
    }

    /// The plaintext. Call it only where a value is written to the wire; lints
    /// ask every other caller for a reason.
    #[must_use]
    pub fn expose_secret(&self) -> &[u8] {
        &self.0
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether the value has no bytes; an empty secret is a legal one.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretValue(redacted)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_neither_value_nor_length() {
        let record = SecretRecord {
            value: SecretValue::new("canary-4711"),
            version: "7".into(),
            created_at: None,
        };
        let shown = format!("{record:?} {:#?}", record.value);
        assert!(!shown.contains("canary"), "{shown}");
        assert!(!shown.contains("11"), "{shown}");
    }
}
