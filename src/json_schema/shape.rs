//! What values look like, as types: they are named by fields whose own type does not tell.

use std::{borrow::Cow, marker::PhantomData};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::json;

/// Text of a form.
pub(crate) trait Text {
    /// Of the whole text, without anchors. Every engine reads it: no look-around.
    const PATTERN: &'static str;
    /// What it is, for hovers.
    const WHAT: &'static str;
}

/// A list of something, without repetitions.
pub(crate) struct List<T>(PhantomData<T>);

/// A list of something.
pub(crate) struct NonEmpty<T>(PhantomData<T>);

/// A list of texts without repetitions, or `*` alone.
pub(crate) struct Starred<T>(PhantomData<T>);

/// A mapping whose keys are texts of a form.
pub(crate) struct ByName<K, V>(PhantomData<(K, V)>);

/// Defines texts by what they are and their pattern.
macro_rules! texts {
    ($($(#[doc = $what:literal])+ $name:ident = $pattern:expr;)+) => {$(
        $(#[doc = $what])+
        pub(crate) enum $name {}

        impl $crate::json_schema::shape::Text for $name {
            const PATTERN: &'static str = $pattern;
            const WHAT: &'static str = concat!($($what, "\n"),+);
        }

        impl schemars::JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                $crate::json_schema::shape::text::<Self>()
            }
        }
    )+};
}
pub(crate) use texts;

/// The schema of a text.
pub(crate) fn text<T: Text>() -> Schema {
    json_schema!({
        "type": "string",
        "pattern": format!("^(?:{})$", T::PATTERN),
        "description": T::WHAT.trim(),
    })
}

/// Whether a list holds `*`.
pub(crate) fn holds(text: &str) -> serde_json::Value {
    json!({"contains": {"const": text}})
}

// === impl List ===

impl<T: JsonSchema> JsonSchema for List<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("ListOf{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "array",
            "items": generator.subschema_for::<T>(),
            "minItems": 1,
            "uniqueItems": true,
        })
    }
}

// === impl NonEmpty ===

impl<T: JsonSchema> JsonSchema for NonEmpty<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("NonEmpty{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "array", "items": generator.subschema_for::<T>(), "minItems": 1})
    }
}

// === impl Starred ===

impl<T: Text> JsonSchema for Starred<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Starred".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "array",
            "items": {
                "type": "string",
                "pattern": format!("^(?:\\*|{})$", T::PATTERN),
                "description": format!("{} Or `*` alone.", T::WHAT.trim()),
            },
            "minItems": 1,
            "uniqueItems": true,
            "if": holds("*"),
            "then": {"maxItems": 1},
        })
    }
}

// === impl ByName ===

impl<K: Text, V: JsonSchema> JsonSchema for ByName<K, V> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("{}ByName", V::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "object",
            "propertyNames": {"pattern": format!("^(?:{})$", K::PATTERN)},
            "additionalProperties": generator.subschema_for::<V>(),
        })
    }
}
