//! JSON read as it stands, where the usual reader would be lenient.

use std::{collections::HashSet, fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{
        DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor,
        value::MapAccessDeserializer,
    },
};

/// The top level of a JSON object, with what is there more than once.
#[derive(Default)]
pub(super) struct Outline {
    /// Every member, with its value if that is a string.
    members: Vec<(String, Option<String>)>,
    /// Whether a name stands twice in one object, at any depth.
    pub(super) repeats: bool,
}

/// Whether a member is there, whatever it holds.
#[derive(Default)]
pub(super) struct Present(pub(super) bool);

/// A struct that is written as an object: serde would also take an array of its
/// members in their order.
pub(super) struct Object<T>(pub(super) T);

struct ObjectVisitor<T>(PhantomData<T>);

/// Walks a value of any kind; finds its text, and names that are repeated in it.
struct Walk<'o> {
    repeats: &'o mut bool,
}

/// Walks the object at the top.
struct Top;

/// A member that may be absent, but not `null`.
pub(super) fn text<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    given(from)
}

/// A member that may be absent, but not `null`.
pub(super) fn given<'de, D, T>(from: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    T::deserialize(from).map(Some)
}

// === impl Outline ===

impl Outline {
    /// `None` if it is no JSON object, or one with more depth than is reasonable.
    pub(super) fn read(json: &[u8]) -> Option<Self> {
        let mut reader = serde_json::Deserializer::from_slice(json);
        let outline = reader.deserialize_map(Top).ok()?;
        reader.end().ok()?;
        Some(outline)
    }

    /// Whether there is such a member.
    pub(super) fn has(&self, name: &str) -> bool {
        self.members.iter().any(|(member, _)| member == name)
    }

    /// The strings under that name: more than one if it is repeated.
    pub(super) fn texts(&self, name: &str) -> impl Iterator<Item = &str> {
        let named = self.members.iter().filter(move |(member, _)| member == name);
        named.filter_map(|(_, text)| text.as_deref())
    }
}

impl<'de> Visitor<'de> for Top {
    type Value = Outline;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Outline, A::Error> {
        let mut outline = Outline::default();
        let mut seen = HashSet::new();
        while let Some(name) = map.next_key::<String>()? {
            let text = map.next_value_seed(Walk { repeats: &mut outline.repeats })?;
            outline.repeats |= !seen.insert(name.clone());
            outline.members.push((name, text));
        }
        Ok(outline)
    }
}

// === impl Present ===

impl<'de> Deserialize<'de> for Present {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        IgnoredAny::deserialize(from)?;
        Ok(Self(true))
    }
}

// === impl Object ===

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_map(ObjectVisitor(PhantomData))
    }
}

impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
    type Value = Object<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(Object)
    }
}

// === impl Walk ===

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = Option<String>;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = Option<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut seen = HashSet::new();
        while let Some(name) = map.next_key::<String>()? {
            *self.repeats |= !seen.insert(name);
            map.next_value_seed(Walk { repeats: &mut *self.repeats })?;
        }
        Ok(None)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        while items.next_element_seed(Walk { repeats: &mut *self.repeats })?.is_some() {}
        Ok(None)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Some(text.to_owned()))
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }
}
