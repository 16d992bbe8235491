//! JSON Schemas of the files that people write, for their editors: what those of
//! [`crate::config`] and [`crate::policy`] have in common.
//!
//! A schema decides nothing. The service reads its files without one; a schema says the same
//! in advance, as far as it can be said. It is draft-07, which the language servers behind
//! YAML in editors know best: of the later drafts they support parts only.
//!
//! Files are read as YAML 1.2 by these, so a schema is stricter than the service in three
//! things: a text that looks like a number needs quotes, booleans are `true` and `false`, and
//! a key has a value.

pub(crate) mod shape;
#[cfg(test)]
pub(crate) mod tests;

use schemars::{JsonSchema, generate::SchemaSettings};
use serde_json::{Map, Value, json};

/// The schema of a whole document.
pub(crate) fn document<T: JsonSchema>(id: &str) -> Value {
    let schema = SchemaSettings::draft07().into_generator().into_root_schema_for::<T>();
    let mut schema = schema.to_value();
    each(&mut schema, &mut |object| {
        remove_null(object);
        remove_noise(object);
    });
    schema["$id"] = id.into();
    schema
}

/// A schema as a file.
pub(crate) fn print(schema: &Value) -> String {
    serde_json::to_string_pretty(schema).expect("a schema is JSON") + "\n"
}

/// Changes every schema in a schema that says something about a value, the inner ones first.
/// Conditions stay as they are: they only choose.
pub(crate) fn each(schema: &mut Value, change: &mut dyn FnMut(&mut Map<String, Value>)) {
    let Value::Object(object) = schema else { return };
    for (key, value) in object.iter_mut() {
        match (key.as_str(), value) {
            ("properties" | "definitions", Value::Object(named)) => {
                named.values_mut().for_each(|schema| each(schema, change));
            }
            ("allOf" | "anyOf" | "oneOf", Value::Array(list)) => {
                list.iter_mut().for_each(|schema| each(schema, change));
            }
            ("items" | "additionalProperties" | "then" | "else", schema) => each(schema, change),
            _ => {}
        }
    }
    change(object);
}

/// What is optional is left out, not null.
fn remove_null(object: &mut Map<String, Value>) {
    let null = json!("null");
    if let Some(Value::Array(types)) = object.get_mut("type") {
        types.retain(|name| *name != null);
        if let [one] = types.as_slice() {
            object["type"] = one.clone();
        }
    }
    if let Some(Value::Array(values)) = object.get_mut("enum") {
        values.retain(|value| !value.is_null());
    }
    if object.get("default").is_some_and(Value::is_null) {
        object.remove("default");
    }
    let Some(Value::Array(choices)) = object.get_mut("anyOf") else { return };
    choices.retain(|choice| choice.get("type") != Some(&null));
    if let [Value::Object(one)] = choices.as_slice() {
        let mut one = one.clone();
        object.remove("anyOf");
        // In draft-07 nothing counts beside a reference.
        if one.contains_key("$ref") && !object.is_empty() {
            one = Map::from_iter([("allOf".to_owned(), json!([one]))]);
        }
        for (key, value) in one {
            object.entry(key).or_insert(value);
        }
    }
}

/// Sizes of numbers as bounds, which every validator knows; descriptions as running text.
fn remove_noise(object: &mut Map<String, Value>) {
    let format = object.get("format").and_then(Value::as_str).unwrap_or_default();
    if format.starts_with("uint") {
        if format == "uint32" {
            object.insert("maximum".to_owned(), u32::MAX.into());
        }
        object.remove("format");
    }
    if let Some(Value::String(text)) = object.get_mut("description") {
        let paragraphs = text.split("\n\n").map(|paragraph| paragraph.replace('\n', " "));
        *text = paragraphs.collect::<Vec<_>>().join("\n\n");
    }
    let empty = |value: &Value| *value == json!([]) || *value == json!("");
    if object.get("default").is_some_and(empty) {
        object.remove("default");
    }
}
