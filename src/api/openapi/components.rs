//! What the operations of the document have in common: parameters, headers, and the types
//! that are read and written.

use serde_json::{Map, Value, json};
use utoipa::{PartialSchema, ToSchema};

use super::{
    super::{
        authorize,
        batch::MOST_ITEMS,
        check::RefusalBody,
        message::{self, BatchGet, CreateSecret, UpdateSecret},
        problem::{ProblemBody, ProblemCode},
        watch::{End, EndData, Nothing, VersionData},
    },
    programs, reference,
};

/// What names of any store are made of.
const NAME: &str = "^[A-Za-z0-9/_+=.@-]{1,512}$";
const BACKEND: &str = "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$";
const VERSION: &str = "^[A-Za-z0-9_+=.@/-]{1,256}$";
/// Base64 with padding, and no bits left over.
const BASE64: &str = "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{4}|[A-Za-z0-9+/][AQgw]==|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=)$";

pub(super) fn parameters() -> Value {
    let of = |place: &str, name: &str, description: &str, schema: Value| {
        json!({
            "name": name,
            "in": place,
            "required": place == "path",
            "description": description,
            "schema": schema,
        })
    };
    let text = |pattern: &str| json!({"type": "string", "pattern": pattern});
    let flag = || json!({"type": "boolean", "default": false});
    json!({
        "name": of("path", "name", "The secret's name. Its `/` may be sent as it is, too.", text(NAME)),
        "backend": of("query", "backend", "The store; where the name leads without.", text(BACKEND)),
        "version": of("query", "version", "A version's number or id, or a stage or alias of the store; the latest without.", text(VERSION)),
        "field": of("query", "field", "A top-level key of a JSON value, or a JSON pointer (RFC 6901) if it begins with `/`.", json!({"type": "string", "minLength": 1, "maxLength": 512})),
        "watched": {
            "name": "name",
            "in": "query",
            "required": true,
            "description": "A secret's name; given up to 100 times.",
            "explode": true,
            "schema": {"type": "array", "minItems": 1, "maxItems": 100, "items": text(NAME)},
        },
        "webhook": of("path", "webhook", "The webhook's name in the configuration.", text(BACKEND)),
        "path": of("path", "path", "The client's path, as it was sent: its `/` too.", json!({"type": "string"})),
        "origin": of("header", "WebHook-Request-Origin", "Who asks.", json!({"type": "string"})),
        "rate": of("header", "WebHook-Request-Rate", "How many notices a minute.", json!({"type": "string"})),
        "last_event_id": of("header", "Last-Event-ID", "The last event that was seen.", json!({"type": "string"})),
        "refresh": of("query", "refresh", "Asks the store, past the cache.", flag()),
        "force": of("query", "force", "Deletes for good.", flag()),
        "prefix": of("query", "prefix", "What the names begin with.", text("^[A-Za-z0-9/_+=.@-]{0,512}$")),
        "limit": of("query", "limit", "The most names of one part.", json!({"type": "integer", "minimum": 1, "maximum": 1000})),
        "cursor": of("query", "cursor", "`next_cursor` of the part before; good for an hour.", text("^[A-Za-z0-9_-]{1,1024}$")),
        "if_match": of("header", "If-Match", "Tags of which one has to be the secret's, or `*`.", json!({"type": "string"})),
        "if_none_match": of("header", "If-None-Match", "Tags of which none may be the secret's, or `*`.", json!({"type": "string"})),
        "request_id": of("header", "X-Request-Id", "Comes back in the answer and stands in the log, if it is of up to 128 letters, digits and `-_.:/+=`.", json!({"type": "string"})),
    })
}

pub(super) fn headers() -> Value {
    let of = |description: &str, schema: Value| json!({"description": description, "required": true, "schema": schema});
    let maybe =
        |description: &str, schema: Value| json!({"description": description, "schema": schema});
    let text = || json!({"type": "string"});
    json!({
        "X-Request-Id": of("The caller's, if it is a sane one, or ours.", json!({"type": "string", "minLength": 1, "maxLength": 128})),
        "Cache-Control": of("No answer is kept by others.", json!({"type": "string", "const": "no-store"})),
        "ETag": of("A strong tag of the value, its version and its form, by a key of ours.", json!({"type": "string", "pattern": "^\"[A-Za-z0-9_-]{22}(\\.raw)?\"$"})),
        "Age": of("Seconds since the store gave the value.", json!({"type": "integer", "minimum": 0})),
        "Cache-Status": of("How the value was had (RFC 9211).", json!({"type": "string", "pattern": "^vaultmux-mesh; (hit; ttl=-?[0-9]+(; detail=store-unavailable)?|fwd=(miss|request)(; collapsed)?)$"})),
        "Vary": of("The form depends on `Accept`.", json!({"type": "string", "const": "accept"})),
        "WWW-Authenticate": of("What is asked for (RFC 6750).", text()),
        "Location": maybe("Where the secret is; not where the filter of a proxy answers.", json!({"type": "string", "pattern": "^/v1/secrets/"})),
        "Allow": of("The methods that do something there.", text()),
        "WebHook-Allowed-Origin": maybe("The origin that asked, if it may send.", text()),
        "WebHook-Allowed-Rate": maybe("As many as it likes.", json!({"type": "string", "const": "*"})),
        "X-Vaultmux-Principal": of("Who the client is, and how that was proven.", text()),
        "X-Vaultmux-Decision-Id": of("Ties the decision to the audit stream.", json!({"type": "string", "minLength": 1})),
        "X-Envoy-Auth-Headers-To-Remove": of("What the proxy takes out of the client's request.", text()),
        "Retry-After": of("Seconds to wait.", json!({"type": "integer", "minimum": 1})),
    })
}

fn without_null(schema: &mut Value) {
    let some = |item: &Value| *item != "null" && item["type"] != "null";
    if let Some(types) = schema["type"].as_array() {
        let types: Vec<_> = types.iter().filter(|item| some(item)).cloned().collect();
        schema["type"] = types.first().cloned().unwrap_or_default();
    }
    if let Some(choices) = schema["oneOf"].as_array() {
        let mut rest = choices.iter().filter(|item| some(item));
        if let (Some(Value::Object(only)), None) = (rest.next().cloned(), rest.next()) {
            let members = schema.as_object_mut().expect("it has members");
            members.remove("oneOf");
            members.extend(only);
        }
    }
}

/// An event of a stream, as its fields are.
fn event() -> Value {
    let of = |(kind, data): (&str, &str)| {
        let data = json!({
            "type": "string",
            "contentMediaType": "application/json",
            "contentSchema": reference(data),
        });
        json!({"properties": {"event": {"type": "string", "const": kind}, "data": data}})
    };
    let kinds = [("version", "WatchedVersion"), ("resync", "WatchResync"), ("end", "WatchEnd")];
    json!({
        "type": "object",
        "description": "A server-sent event. One without `data` tells only its `id`.",
        "required": ["event", "data"],
        "properties": {
            "id": {"type": "string", "description": "For `Last-Event-ID`; says nothing else."},
            "event": {"type": "string"},
            "data": {"type": "string"},
        },
        "oneOf": kinds.map(of),
    })
}

pub(super) fn schemas() -> Value {
    let mut found = Vec::new();
    let mut add = |name: std::borrow::Cow<'static, str>, schema| {
        found.push((name.into_owned(), serde_json::to_value(schema).expect("JSON")));
    };
    macro_rules! of {
        ($($type:ty),* $(,)?) => {
            $(add(<$type as ToSchema>::name(), <$type as PartialSchema>::schema());)*
        };
    }
    of![
        message::SecretNames,
        message::Secret<'_>,
        message::Encoding,
        message::Created<'_>,
        message::Updated<'_>,
        CreateSecret,
        UpdateSecret,
        BatchGet,
        message::BatchGetItem,
        message::BatchGetAnswer<'_>,
        message::BatchGetSecret<'_>,
        message::BatchGetError<'_>,
        message::SecretVersions<'_>,
        message::VersionOfSecret,
        message::Health<'_>,
        authorize::Body,
        authorize::Toward,
        authorize::Answer<'_>,
        authorize::Nearest<'_>,
        ProblemBody<'_>,
        ProblemCode,
        VersionData<'_>,
        Nothing,
        EndData,
        End,
        RefusalBody,
    ];
    let mut schemas: Map<String, Value> = found.into_iter().collect();
    programs::notice_schemas(&mut schemas);
    schemas.insert("WatchEvent".to_owned(), event());
    // What is left out is not null, but in these.
    let with_null =
        ["Health", "AuthorizeQuestion", "AuthorizeAnswer", "UseDestination", "WatchedVersion"];
    for (name, schema) in &mut schemas {
        if !with_null.contains(&name.as_str()) {
            let members = schema.get_mut("properties").and_then(Value::as_object_mut);
            members.into_iter().flat_map(Map::values_mut).for_each(without_null);
        }
    }
    // What Rust's types do not say: that one of two is there. Those who make clients of the
    // document pass it over.
    let either = |schema: &mut Value, this: &str, that: &str| {
        schema["if"] = json!({"required": [this]});
        schema["then"] = json!({"not": {"required": [that]}});
        schema["else"] = json!({"required": [that]});
    };
    for (schema, this, that) in [
        ("CreateSecret", "value", "value_base64"),
        ("UpdateSecret", "value", "value_base64"),
        ("BatchGetItem", "name", "ref"),
    ] {
        either(&mut schemas[schema], this, that);
    }
    for (schema, member, pattern) in [
        ("CreateSecret", "name", NAME),
        ("CreateSecret", "backend", BACKEND),
        ("CreateSecret", "value_base64", BASE64),
        ("UpdateSecret", "value_base64", BASE64),
    ] {
        schemas[schema]["properties"][member]["pattern"] = json!(pattern);
    }
    for schema in ["CreateSecret", "UpdateSecret"] {
        for member in ["value", "value_base64"] {
            schemas[schema]["properties"][member]["minLength"] = json!(1);
        }
    }
    schemas["CreateSecret"]["required"] = json!(["name"]);
    schemas["BatchGet"]["properties"]["secrets"]["maxItems"] = json!(MOST_ITEMS);
    schemas["AuthorizeQuestion"]["properties"]["destination"] = json!({
        "description": "Of a request: the workload that serves it, as `namespace/name`. Of `use`: \
            where to.",
        "oneOf": [{"type": ["string", "null"]}, reference("UseDestination")],
    });
    let verbs = "^(get|list|create|update|delete|use)$";
    schemas["AuthorizeQuestion"]["properties"]["verb"]["pattern"] = json!(verbs);
    Value::Object(schemas)
}
