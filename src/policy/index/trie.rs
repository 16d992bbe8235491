//! Prefixes by their segments: a lookup walks the text once, however many prefixes there are
//! and however deep they nest.

use smol_str::SmolStr;

use super::{
    build::{Crowded, Tables},
    leaf::{Entry, Leaf},
    map::Map,
};

/// A prefix and those that continue it. Prefixes end in a separator, and so does every
/// segment.
pub(super) struct Trie<E> {
    here: Leaf<E>,
    below: Map<SmolStr, Trie<E>>,
}

// === impl Trie ===

impl<E> Default for Trie<E> {
    fn default() -> Self {
        Self { here: Leaf::default(), below: Map::default() }
    }
}

impl<E> Drop for Trie<E> {
    /// Without recursion: a path has thousands of segments, and a thread little stack.
    fn drop(&mut self) {
        let mut pending = self.below.drain();
        while let Some(mut trie) = pending.pop() {
            pending.append(&mut trie.below.drain());
        }
    }
}

impl<E: Entry> Trie<E> {
    /// The rules of one prefix.
    pub(super) fn leaf(&mut self, prefix: &str, separators: &[char]) -> &mut Leaf<E> {
        let segments = prefix.split_inclusive(separators);
        &mut segments.fold(self, |trie, segment| trie.below.entry(segment)).here
    }

    /// The rules of every prefix of `text`, the empty one included.
    pub(super) fn visit(&self, text: &str, separators: &[char], found: &mut impl FnMut(&E)) {
        let mut trie = self;
        trie.here.iter().for_each(&mut *found);
        for segment in text.split_inclusive(separators) {
            match trie.below.get(segment) {
                Some(below) => trie = below,
                // What follows the last separator is no segment of a prefix.
                None => return,
            }
            trie.here.iter().for_each(&mut *found);
        }
    }

    /// As [`Leaf::settle`], for each prefix after those that it continues.
    pub(super) fn settle(&mut self, before: usize, tables: &mut Tables) -> Result<(), Crowded> {
        let mut pending = vec![(self, before)];
        while let Some((trie, before)) = pending.pop() {
            let weight = trie.here.settle(before, tables)?;
            trie.below.shrink();
            pending.extend(trie.below.values_mut().map(|below| (below, weight)));
        }
        Ok(())
    }
}
