//! Prefixes of a text, found by hash: one lookup per distinct length.

use std::{collections::HashMap, sync::Arc};

/// Values by prefix. The cost of a lookup depends on how many lengths the
/// prefixes have, not on how many there are.
pub(super) struct PrefixMap<V> {
    values: HashMap<Arc<str>, V>,
    /// The lengths in ascending order, each with the bytes that prefixes of
    /// this length end in: nothing is hashed but at separators.
    lengths: Vec<(usize, u128)>,
}

// === impl PrefixMap ===

impl<V> Default for PrefixMap<V> {
    fn default() -> Self {
        Self { values: HashMap::new(), lengths: Vec::new() }
    }
}

impl<V: Default> PrefixMap<V> {
    pub(super) fn entry(&mut self, prefix: &Arc<str>) -> &mut V {
        let last = last_byte(prefix);
        match self.lengths.binary_search_by_key(&prefix.len(), |(length, _)| *length) {
            Ok(at) => self.lengths[at].1 |= last,
            Err(at) => self.lengths.insert(at, (prefix.len(), last)),
        }
        self.values.entry(prefix.clone()).or_default()
    }
}

impl<V> PrefixMap<V> {
    /// The same prefixes with other values.
    pub(super) fn map<W>(self, mut map: impl FnMut(V) -> W) -> PrefixMap<W> {
        let values = self.values.into_iter().map(|(prefix, value)| (prefix, map(value)));
        PrefixMap { values: values.collect(), lengths: self.lengths }
    }

    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.values.values_mut()
    }

    /// The values of all prefixes of `text`, with what follows the prefix.
    pub(super) fn matches<'m, 't>(
        &'m self,
        text: &'t str,
    ) -> impl Iterator<Item = (&'t str, &'m V)> + use<'m, 't, V> {
        self.lengths
            .iter()
            .map_while(|(length, last)| Some((text.get(..*length)?, *last)))
            .filter_map(|(prefix, last)| {
                if last_byte(prefix) & last == 0 {
                    return None;
                }
                Some((&text[prefix.len()..], self.values.get(prefix)?))
            })
    }
}

/// A bit for the last byte; none for what is not ASCII, which no name has.
fn last_byte(text: &str) -> u128 {
    text.bytes().last().filter(u8::is_ascii).map_or(0, |byte| 1 << byte)
}
