//! The JSON Schema of the configuration file, from the types that read it.

mod form;
mod rule;

use schemars::Schema;
use serde_json::{Map, Value, json};

pub(super) use self::{form::*, rule::*};
use super::file::File;
use crate::json_schema::{document, each};

/// Stays the same: editors may know the schema by it.
const ID: &str = "https://vaultmux.dev/schema/config.json";
/// Where the schema says what a variable is.
const VARIABLE: &str = "#/definitions/Variable";

/// A configuration file.
#[must_use]
pub fn json_schema() -> Value {
    let mut schema = document::<File>(ID);
    each(&mut schema, &mut allow_variable);
    schema["definitions"]["Variable"] = json!({
        "type": "string",
        "pattern": "\\$\\{",
        "description": "Holds ${VARIABLE} or ${VARIABLE:-default}, not in quotes.",
    });
    schema
}

/// Lets a value that is not any text be, or hold, a variable: it has its form only once it is
/// replaced.
fn allow_variable(object: &mut Map<String, Value>) {
    const ANNOTATIONS: [&str; 3] = ["description", "title", "default"];
    let is = |name: &str| object.get("type").and_then(Value::as_str) == Some(name);
    let choices = ["oneOf", "anyOf"].into_iter().find(|key| {
        let choices = object.get(*key).and_then(Value::as_array);
        choices.is_some_and(|all| all.iter().all(is_scalar))
    });
    let scalar = ["integer", "number", "boolean"].into_iter().any(is)
        || is("string") && object.keys().any(|key| key != "type" && !is_annotation(key));
    let of_form = match choices {
        // Each choice keeps what is said about it.
        Some(key) => match object.remove(key) {
            Some(Value::Array(choices)) => choices.into_iter().map(without_variable).collect(),
            _ => Vec::new(),
        },
        None if scalar => {
            let form = std::mem::take(object).into_iter();
            let (kept, form) = form.partition(|(key, _)| is_annotation(key));
            *object = kept;
            vec![Value::Object(form)]
        }
        None => return,
    };
    object.remove("type");
    let variable = json!({"$ref": VARIABLE});
    object.insert("anyOf".to_owned(), of_form.into_iter().chain([variable]).collect());

    fn is_annotation(key: &str) -> bool {
        ANNOTATIONS.contains(&key)
    }
}

/// Whether a schema is of one value that is no list and no mapping, as such or with variables.
fn is_scalar(schema: &Value) -> bool {
    let scalars = ["string", "integer", "number", "boolean"];
    schema.get("const").is_some()
        || schema.get("type").and_then(Value::as_str).is_some_and(|name| scalars.contains(&name))
        || schema.get("anyOf").and_then(Value::as_array).is_some_and(|all| {
            all.iter().any(|choice| choice.get("$ref").is_some_and(|to| *to == *VARIABLE))
        })
}

/// A choice as it was before: the variable is a choice beside it.
fn without_variable(choice: Value) -> Value {
    let Value::Object(mut object) = choice else { return choice };
    if let Some(Value::Array(choices)) = object.remove("anyOf")
        && let Some(Value::Object(form)) = choices.into_iter().next()
    {
        object.extend(form);
    }
    Value::Object(object)
}

/// Of mappings that are told apart by `type`: the keys of each kind hang on its `type`, so that
/// what is wrong is told about that kind, not about all.
pub(super) fn by_type(schema: &mut Schema) {
    by_type_of("Which store it is.", schema);
}

/// The same of senders.
pub(super) fn by_sender(schema: &mut Schema) {
    by_type_of("Who sends.", schema);
}

fn by_type_of(what: &str, schema: &mut Schema) {
    let Some(Value::Array(kinds)) = schema.remove("oneOf") else { return };
    let (mut types, mut rules) = (Vec::new(), Vec::new());
    for mut kind in kinds {
        let tag = kind["properties"]["type"]["const"].clone();
        kind["properties"]["type"] = json!({});
        types.push(json!({"const": tag, "description": kind["description"]}));
        let condition = json!({"properties": {"type": {"const": tag}}, "required": ["type"]});
        rules.push(json!({"if": condition, "then": kind}));
    }
    schema.insert("type".to_owned(), "object".into());
    schema.insert("required".to_owned(), json!(["type"]));
    let types = json!({"type": {"description": what, "oneOf": types}});
    schema.insert("properties".to_owned(), types);
    schema.insert("allOf".to_owned(), rules.into());
}

/// Of mappings that are told apart by their only key.
#[cfg(feature = "vault")]
pub(super) fn by_key(schema: &mut Schema) {
    let Some(Value::Array(kinds)) = schema.remove("oneOf") else { return };
    let mut properties = Map::new();
    for mut kind in kinds {
        let description = kind["description"].take();
        if let Value::Object(one) = kind["properties"].take() {
            for (key, mut value) in one {
                // In draft-07 nothing counts beside a reference.
                if value.get("$ref").is_some() {
                    value = json!({"allOf": [value]});
                }
                value["description"] = description.clone();
                properties.insert(key, value);
            }
        }
    }
    let exactly_one = json!({
        "type": "object",
        "properties": properties,
        "additionalProperties": false,
        "minProperties": 1,
        "maxProperties": 1,
    });
    if let Value::Object(exactly_one) = exactly_one {
        exactly_one.into_iter().for_each(|(key, value)| drop(schema.insert(key, value)));
    }
}

#[cfg(test)]
pub(super) mod tests;
