//! A map that is small when it holds little: most subjects have few rules.

use std::{borrow::Borrow, collections::HashMap, hash::Hash, mem};

/// Up to how many keys are compared one by one.
const FEW: usize = 8;

/// Values by key.
pub(super) enum Map<K, V> {
    Few(Vec<(K, V)>),
    Many(HashMap<K, V>),
}

// === impl Map ===

impl<K, V> Default for Map<K, V> {
    fn default() -> Self {
        Self::Few(Vec::new())
    }
}

impl<K: Eq + Hash, V: Default> Map<K, V> {
    /// The value of the key, which becomes the default where there is none.
    pub(super) fn entry<Q>(&mut self, key: &Q) -> &mut V
    where
        Q: Eq + Hash + ?Sized,
        for<'q> K: Borrow<Q> + From<&'q Q>,
    {
        if let Self::Few(few) = self
            && few.len() >= FEW
            && !few.iter().any(|(known, _)| known.borrow() == key)
        {
            *self = Self::Many(mem::take(few).into_iter().collect());
        }
        match self {
            Self::Few(few) => {
                let found = few.iter().position(|(known, _)| known.borrow() == key);
                let at = found.unwrap_or_else(|| {
                    few.push((key.into(), V::default()));
                    few.len() - 1
                });
                &mut few[at].1
            }
            Self::Many(many) => many.entry(key.into()).or_default(),
        }
    }
}

impl<K: Eq + Hash, V> Map<K, V> {
    pub(super) fn get<Q>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        match self {
            Self::Few(few) => few.iter().find_map(|(known, value)| {
                let same = known.borrow() == key;
                same.then_some(value)
            }),
            Self::Many(many) => many.get(key),
        }
    }

    /// The same keys with other values.
    pub(super) fn map<W>(self, mut map: impl FnMut(V) -> W) -> Map<K, W> {
        match self {
            Self::Few(few) => {
                Map::Few(few.into_iter().map(|(key, value)| (key, map(value))).collect())
            }
            Self::Many(many) => {
                Map::Many(many.into_iter().map(|(key, value)| (key, map(value))).collect())
            }
        }
    }

    /// Takes the values out.
    pub(super) fn drain(&mut self) -> Vec<V> {
        match mem::take(self) {
            Self::Few(few) => few.into_iter().map(|(_, value)| value).collect(),
            Self::Many(many) => many.into_values().collect(),
        }
    }

    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        let (few, many) = match self {
            Self::Few(few) => (Some(few), None),
            Self::Many(many) => (None, Some(many)),
        };
        let few = few.into_iter().flatten().map(|(_, value)| value);
        few.chain(many.into_iter().flat_map(HashMap::values_mut))
    }

    pub(super) fn shrink(&mut self) {
        match self {
            Self::Few(few) => few.shrink_to_fit(),
            Self::Many(many) => many.shrink_to_fit(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_however_many_there_are() {
        let mut map: Map<Box<str>, usize> = Map::default();
        for n in 0..3 * FEW {
            *map.entry(&*n.to_string()) = n;
            *map.entry(&*n.to_string()) += 100;
            assert!((0..=n).all(|m| map.get(&*m.to_string()) == Some(&(m + 100))), "{n}");
            assert_eq!(map.get("x"), None);
            assert_eq!(map.values_mut().count(), n + 1);
        }
    }
}
