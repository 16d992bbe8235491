//! Holds every answer of the REST API that a test gets to the OpenAPI document.

use std::{
    collections::HashMap,
    fs,
    sync::{Arc, LazyLock, Mutex},
};

use bytes::Bytes;
use jsonschema::Validator;
use serde_json::{Value, json};

use super::{Answer, repository};

/// So many answers of one kind are looked at: floods are alike, and their tests count on time.
const MANY: usize = 100;

static DOCUMENT: LazyLock<Document> = LazyLock::new(Document::load);

struct Document {
    whole: Value,
    validators: Mutex<HashMap<String, Arc<Validator>>>,
    /// How many answers of each kind there were.
    seen: Mutex<HashMap<String, usize>>,
}

/// Checks an answer, if it is one of ours to a path of the document. Answers of our own
/// listener and of `ext_proc` alike are known by headers that nobody else sends.
pub(crate) fn check(method: &str, path: &str, answer: &Answer) {
    let ours = answer.header("x-xss-protection") == "1; mode=block"
        && answer.header("content-security-policy").starts_with("default-src 'none'");
    if ours {
        DOCUMENT.check(method, path, answer);
    }
}

/// Checks what came of a stream of events, from the first line of its head on: each event
/// says what the document says that it does.
pub(crate) fn check_events(path: &str, text: &str) {
    let (head, events) = text.split_once("\r\n\r\n").expect("a whole head");
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).expect("a status");
    let mut headers = http::HeaderMap::new();
    for line in lines {
        let (name, value) = line.split_once(':').expect("a header");
        let name: http::HeaderName = name.parse().expect("a header's name");
        headers.append(name, value.trim().parse().expect("a header's value"));
    }
    let status = status.parse().expect("a status");
    let body = Bytes::copy_from_slice(events.as_bytes());
    let answer = Answer { status, headers, body, trailers: http::HeaderMap::new() };
    check("GET", path, &answer);
    let told = DOCUMENT.whole["components"]["schemas"]["WatchEvent"]["oneOf"].as_array();
    let told = told.expect("a list of events");
    let mut kind = "";
    for line in events.lines() {
        if let Some(event) = line.strip_prefix("event: ") {
            kind = event;
        } else if let Some(data) = line.strip_prefix("data: ") {
            let event = told.iter().find(|it| it["properties"]["event"]["const"] == kind);
            let event = event.unwrap_or_else(|| panic!("the document has no event {kind}"));
            let target = &event["properties"]["data"]["contentSchema"]["$ref"];
            let target = target.as_str().expect("a component");
            let data: Value = serde_json::from_str(data).expect("JSON");
            assert!(DOCUMENT.validator(target).is_valid(&data), "{kind}: {data}");
        }
    }
}

// === impl Document ===

impl Document {
    fn load() -> Self {
        let text = fs::read_to_string(repository("docs/openapi.json")).expect("docs/openapi.json");
        let mut whole: Value = serde_json::from_str(&text).expect("JSON");
        // Clients must bear members that they do not know; we must not send any. A secret is
        // part of an answer of a batch, too, which has more.
        let schemas = whole["components"]["schemas"].as_object_mut().expect("an object");
        let closed = schemas
            .iter_mut()
            .filter(|(name, schema)| *name != "Secret" && schema["properties"].is_object());
        for (_, schema) in closed {
            schema["additionalProperties"] = json!(false);
        }
        Self { whole, validators: Mutex::default(), seen: Mutex::default() }
    }

    fn check(&self, method: &str, path: &str, answer: &Answer) {
        // Made only for what fails: a test may get thousands of answers.
        let row = || format!("{method} {path}: {} {}", answer.status, answer.text());
        let path = path.split('?').next().unwrap_or_default();
        let problem = "application/problem+json";
        let of_programs = ["/authz/", "/webhooks/"].iter().any(|start| path.starts_with(start));
        if method == "OPTIONS" && answer.status == 204 && !of_programs {
            assert!(!answer.header("allow").is_empty(), "{}", row());
            return;
        }
        if answer.status == 405 {
            // Of methods that the document does not have.
            assert!(!answer.header("allow").is_empty(), "{}", row());
            if method != "HEAD" {
                self.check_body("#/components/schemas/Problem", answer, &row);
            }
            return;
        }
        let operation = self.operation(method, path);
        let Some(operation) = operation else {
            if answer.header("content-type") == problem {
                if method != "HEAD" {
                    self.check_body("#/components/schemas/Problem", answer, &row);
                }
                return;
            }
            // The document's page.
            assert!(path.starts_with("/docs"), "{}", row());
            return;
        };
        let kind = format!("{} {}", operation["operationId"], answer.status);
        let seen = {
            let mut seen = self.seen.lock().expect("not poisoned");
            let seen = seen.entry(kind).or_insert(0);
            *seen += 1;
            *seen
        };
        if seen > MANY {
            return;
        }
        let response = &operation["responses"][answer.status.to_string()];
        assert!(response.is_object(), "the document has no such status: {}", row());
        for (name, header) in response["headers"].as_object().into_iter().flatten() {
            let target = header["$ref"].as_str().expect("all of them are components");
            let schema = format!("{target}/schema");
            let required = self.whole.pointer(&format!("{}/required", &target[1..]));
            let kind = self.whole.pointer(&format!("{}/type", &schema[1..]));
            let sent = answer.header(name);
            if sent.is_empty() {
                assert!(required != Some(&json!(true)), "{name} is missing: {}", row());
                continue;
            }
            let value = match kind.and_then(Value::as_str) {
                Some("integer") => sent.parse::<u64>().map_or(json!(sent), |number| json!(number)),
                _ => json!(sent),
            };
            assert!(self.validator(&schema).is_valid(&value), "{name}: {sent}: {}", row());
        }
        let kind = answer.header("content-type").split(';').next().unwrap_or_default();
        if method == "HEAD" || answer.body.is_empty() {
            let bodiless =
                method == "HEAD" || response["content"].is_null() || kind.contains("octet");
            assert!(bodiless, "a body is missing: {}", row());
            return;
        }
        let content = &response["content"][kind];
        assert!(content.is_object(), "the document has no such content: {}", row());
        // A stream's schema is that of its events.
        if kind != "text/event-stream"
            && let Some(target) = content["schema"]["$ref"].as_str()
        {
            self.check_body(target, answer, &row);
        }
    }

    /// The operation that a path is of: a name may have parts.
    fn operation(&self, method: &str, path: &str) -> Option<&Value> {
        let paths = &self.whole["paths"];
        let method = method.to_ascii_lowercase();
        let of = |path: &str| {
            let item = paths.get(path)?;
            item.get(&method)
        };
        let named = |prefix: &str| {
            let name = path.strip_prefix(prefix)?.strip_prefix('/')?;
            match name {
                "" => of(prefix),
                _ => of(&format!("{prefix}/{{name}}")),
            }
        };
        let programs =
            |prefix: &str, template: &str| path.starts_with(prefix).then(|| of(template)).flatten();
        of(path)
            .or_else(|| named("/v1/secrets"))
            .or_else(|| named("/v1/versions"))
            .or_else(|| programs("/webhooks/", "/webhooks/{webhook}"))
            .or_else(|| programs("/authz/", "/authz/{path}"))
    }

    /// Made once for each part of the document: a test may get thousands of answers.
    fn validator(&self, target: &str) -> Arc<Validator> {
        let mut validators = self.validators.lock().expect("not poisoned");
        let made = validators.entry(target.to_owned()).or_insert_with(|| {
            let schema = json!({
                "$schema": "https://json-schema.org/draft/2020-12/schema",
                "$ref": target,
                "components": self.whole["components"],
            });
            Arc::new(jsonschema::validator_for(&schema).expect("a schema"))
        });
        Arc::clone(made)
    }

    fn check_body(&self, target: &str, answer: &Answer, row: &dyn Fn() -> String) {
        let validator = self.validator(target);
        let body: Value = serde_json::from_slice(&answer.body).expect("JSON");
        let errors: Vec<_> = validator.iter_errors(&body).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{errors:?}: {}", row());
    }
}
