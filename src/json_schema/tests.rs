//! The schemas as an editor uses them, with a validator that others wrote.

use std::{fs, path::PathBuf};

use serde_json::Value;

/// What an editor knows of a file.
pub(crate) struct Editor(jsonschema::Validator);

// === impl Editor ===

impl Editor {
    pub(crate) fn new(schema: &Value) -> Self {
        jsonschema::meta::validate(schema).expect("a schema of draft-07");
        Self(jsonschema::draft7::new(schema).expect("a schema"))
    }

    /// What it would underline in any document of a file, if anything.
    pub(crate) fn refusal(&self, yaml: &str) -> Option<String> {
        // Later drafts of YAML know two booleans.
        let options = serde_saphyr::options! { strict_booleans: true };
        let documents: Vec<Value> = match serde_saphyr::from_multiple_with_options(yaml, options) {
            Ok(documents) => documents,
            Err(error) => return Some(format!("no YAML: {error}")),
        };
        let mut wrong = documents.iter().filter(|document| !document.is_null()).flat_map(|it| {
            self.0.iter_errors(it).map(|error| format!("{}: {error}", error.instance_path()))
        });
        wrong.next()
    }
}

/// Every fenced block of a language in the repository's pages, with its page.
pub(crate) fn blocks(language: &str) -> Vec<(PathBuf, String)> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let mut pages = Vec::new();
    for directory in ["", "docs", "docs/stores", "charts", "istio", "examples/plugin-python"] {
        let entries = fs::read_dir(root.join(directory)).expect("a directory");
        pages.extend(entries.map(|entry| entry.expect("an entry").path()));
    }
    pages.retain(|path| path.extension().is_some_and(|extension| extension == "md"));
    let mut found = Vec::new();
    for page in pages {
        let text = fs::read_to_string(&page).expect("text");
        let mut lines = text.lines();
        while let Some(line) = lines.next() {
            let Some(info) = line.trim_start().strip_prefix("```") else { continue };
            let rest = lines.by_ref();
            let block: Vec<_> =
                rest.take_while(|line| !line.trim_start().starts_with("```")).collect();
            if info.trim() == language {
                found.push((page.clone(), block.join("\n") + "\n"));
            }
        }
    }
    found
}

/// Every schema in a schema, with where it stands.
fn walk(at: &str, schema: &Value, see: &mut dyn FnMut(&str, &Value)) {
    see(at, schema);
    let Value::Object(object) = schema else { return };
    for (key, value) in object {
        let at = format!("{at}/{key}");
        match (key.as_str(), value) {
            ("properties" | "definitions", Value::Object(named)) => {
                named.iter().for_each(|(name, schema)| walk(&format!("{at}/{name}"), schema, see));
            }
            ("allOf" | "anyOf" | "oneOf", Value::Array(list)) => {
                list.iter().for_each(|schema| walk(&at, schema, see));
            }
            ("items" | "additionalProperties" | "then", schema) => walk(&at, schema, see),
            _ => {}
        }
    }
}

#[test]
fn editors_have_something_to_say_about_every_key() {
    for schema in [crate::config::json_schema(), crate::policy::json_schema()] {
        let mut keys = 0;
        walk("", &schema, &mut |at, schema| {
            let closed = schema["additionalProperties"] == false;
            let Some(properties) = schema["properties"].as_object().filter(|_| closed) else {
                return;
            };
            for (key, property) in properties {
                // That of a backend is told before the kind is known.
                let told = property["description"].is_string() || key == "type";
                assert!(told, "{at}/{key} has no description: {property}");
                keys += 1;
            }
        });
        assert!(keys > 20, "{keys}");
    }
}

#[test]
fn unknown_keys_are_refused_everywhere() {
    for schema in [crate::config::json_schema(), crate::policy::json_schema()] {
        walk("", &schema, &mut |at, schema| {
            // Closed for each type that they can have.
            let by_type = ["/Backend", "/Webhook"].iter().any(|name| at.ends_with(name));
            let mapping = schema["type"] == "object" && !by_type;
            assert!(!mapping || schema.get("additionalProperties").is_some(), "{at} is open");
        });
    }
}

#[cfg(all(
    feature = "aws",
    feature = "azure",
    feature = "gcp",
    feature = "kubernetes",
    feature = "plugin",
    feature = "vault"
))]
#[test]
fn what_the_documentation_ships_is_what_the_program_prints() {
    for (name, command, schema) in [
        ("access-policy.json", "policy", crate::policy::json_schema()),
        ("config.json", "config", crate::config::json_schema()),
    ] {
        let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs/schema").join(name);
        let shipped = fs::read_to_string(&file).unwrap_or_default();
        let command = format!("cargo run --all-features -- schema {command} > docs/schema/{name}");
        assert!(shipped == super::print(&schema), "docs/schema/{name} is not current: {command}");
    }
}
