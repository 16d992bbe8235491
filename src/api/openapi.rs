//! The OpenAPI document: what each route takes and answers, in the words of the types that
//! read and write it.

mod components;
mod programs;

use std::{collections::BTreeMap, sync::LazyLock};

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use serde_json::{Map, Value, json};

use self::components::{headers, parameters, schemas};
use super::{accept::Form, finish, problem::ProblemCode};

/// Of every request: it may not be readable, or name no host.
const OF_ALL: &[ProblemCode] = &[ProblemCode::MalformedRequest, ProblemCode::HeadTooLarge];
/// Of every request that needs to know who asks; it may have a body that it does not need.
const OF_CALLERS: &[ProblemCode] = &[
    ProblemCode::NoIdentity,
    ProblemCode::InvalidToken,
    ProblemCode::InvalidIdentity,
    ProblemCode::Forbidden,
    ProblemCode::BodyTooSlow,
    ProblemCode::BodyTooLarge,
    ProblemCode::TooManyRequests,
    ProblemCode::Internal,
    ProblemCode::IdentityUnavailable,
];
/// Of every request that needs a body.
const OF_BODIES: &[ProblemCode] = &[ProblemCode::InvalidBody];
/// Of every request that a store is asked for.
const OF_STORES: &[ProblemCode] = &[
    ProblemCode::InvalidReference,
    ProblemCode::BackendRefused,
    ProblemCode::BackendUnavailable,
    ProblemCode::BackendThrottled,
    ProblemCode::DeadlineExceeded,
];

/// One thing that can be done.
struct Operation {
    id: &'static str,
    summary: &'static str,
    description: &'static str,
    parameters: &'static [&'static str],
    body: Option<&'static str>,
    success: Vec<(u16, Value)>,
    problems: Vec<ProblemCode>,
}

/// The document, as JSON.
#[must_use]
pub fn document() -> Value {
    let mut document = json!({
        "openapi": "3.1.0",
        "info": {
            "title": "vaultmux-mesh",
            "version": env!("CARGO_PKG_VERSION"),
            "license": {"name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0"},
            "description": "Secrets of cloud stores for Kubernetes service accounts. Every \
                answer has the headers of `components.headers` that none of these lists \
                repeats: `X-Content-Type-Options`, `X-Frame-Options`, `X-XSS-Protection`, \
                `Strict-Transport-Security` and `Content-Security-Policy`. A method that does \
                nothing is answered with 405 and `Allow`, an unknown path with 404, both as a \
                `Problem`; `OPTIONS` with 204 and `Allow`. Over HTTP/2 a head that is too long is \
                answered with 431 without a body, and one that is none resets its stream.",
        },
        "servers": [{"url": "/"}],
        "tags": [
            {"name": "secrets", "description": "Secrets of the configured stores."},
            {"name": "policy", "description": "What the caller may."},
            {"name": "health", "description": "Whether the service runs, and what it offers."},
            {"name": "notices", "description": "For stores that tell of rotations."},
            {"name": "checks", "description": "For proxies that ask over HTTP."},
        ],
        "paths": paths(),
        "components": {
            "schemas": schemas(),
            "parameters": parameters(),
            "headers": headers(),
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "bearerFormat": "JWT",
                    "description": "A token of the caller's Kubernetes service account, for an \
                        audience of ours.",
                },
                "certificate": {
                    "type": "mutualTLS",
                    "description": "A client certificate whose only URI name is the caller's \
                        SPIFFE ID.",
                },
                "grant": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "x-vaultmux-grant",
                    "description": "What `ext_authz` has sealed for this one request.",
                },
                "local": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "x-vaultmux-request",
                    "description": "In a sidecar, any value: callers of the same pod mean it. \
                        Web pages and tricked fetchers cannot send it.",
                },
            },
        },
        "security": [{"token": []}, {"certificate": []}, {"grant": []}, {"local": []}],
    });
    let schemes = document["components"]["securitySchemes"].as_object_mut();
    let others = programs::security_schemes();
    schemes.into_iter().for_each(|all| all.extend(others.as_object().cloned().unwrap_or_default()));
    document
}

/// The document as it is served and shipped.
#[must_use]
pub fn printed() -> String {
    let mut text = serde_json::to_string_pretty(&document()).expect("JSON");
    text.push('\n');
    text
}

/// The answer that is the document.
#[must_use]
pub fn served(request_id: &str) -> Response<Bytes> {
    static PRINTED: LazyLock<Bytes> = LazyLock::new(|| printed().into());
    let mut response = Response::new(PRINTED.clone());
    *response.status_mut() = StatusCode::OK;
    let json = HeaderValue::from_static("application/json; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    finish(response.headers_mut(), request_id);
    response
}

fn paths() -> Value {
    let secret_headers = ["ETag", "Age", "Cache-Status", "Vary"];
    let secret = || {
        let raw = json!({"schema": {"type": "string", "contentMediaType": Form::Raw.media_type()}});
        let json = json!({"schema": reference("Secret")});
        let mut found = answer("The secret.", &secret_headers, json!({}));
        found["content"] = json!({Form::Json.media_type(): json, Form::Raw.media_type(): raw});
        found
    };
    let not_modified = || answer("The caller has it already.", &secret_headers, json!({}));
    let read = Operation {
        id: "read_secret",
        summary: "Read a secret",
        description: "Needs `get`.",
        parameters: &[
            "name",
            "backend",
            "version",
            "field",
            "refresh",
            "if_none_match",
            "if_match",
        ],
        body: None,
        success: vec![(200, secret()), (304, not_modified())],
        problems: codes(&[
            OF_CALLERS,
            OF_STORES,
            &[ProblemCode::NotFound, ProblemCode::NotAcceptable, ProblemCode::PreconditionFailed],
        ]),
    };
    let list = Operation {
        id: "list_secrets",
        summary: "List names",
        description: "The names that the caller may `list`, in order. Without `limit` all of them.",
        parameters: &["backend", "prefix", "limit", "cursor"],
        body: None,
        success: vec![(200, content("The names.", "SecretNames"))],
        problems: codes(&[
            OF_CALLERS,
            OF_STORES,
            &[ProblemCode::InvalidCursor, ProblemCode::NotFound],
        ]),
    };
    let mut made = content("It was made.", "Created");
    made["headers"]["Location"] = header_reference("Location");
    let create = Operation {
        id: "create_secret",
        summary: "Make a secret",
        description: "Needs `create`. Of several calls at once one makes it.",
        parameters: &[],
        body: Some("CreateSecret"),
        success: vec![(201, made)],
        problems: codes(&[OF_CALLERS, OF_BODIES, OF_STORES, &[ProblemCode::AlreadyExists]]),
    };
    let update = Operation {
        id: "update_secret",
        summary: "Give a secret another value",
        description: "Needs `update`. Never makes one.",
        parameters: &["name", "backend", "if_match", "if_none_match"],
        body: Some("UpdateSecret"),
        success: vec![(200, content("It was written.", "Updated"))],
        problems: codes(&[
            OF_CALLERS,
            OF_BODIES,
            OF_STORES,
            &[ProblemCode::NotFound, ProblemCode::AlreadyExists, ProblemCode::PreconditionFailed],
        ]),
    };
    let delete = Operation {
        id: "delete_secret",
        summary: "Delete a secret",
        description: "Needs `delete`. Recoverably, where the store can.",
        parameters: &["name", "backend", "force", "if_match", "if_none_match"],
        body: None,
        success: vec![(204, answer("It is gone.", &[], json!({})))],
        problems: codes(&[
            OF_CALLERS,
            OF_STORES,
            &[ProblemCode::NotFound, ProblemCode::AlreadyExists, ProblemCode::PreconditionFailed],
        ]),
    };
    let batch = Operation {
        id: "batch_get_secrets",
        summary: "Read many secrets",
        description: "Needs `get`, for each secret on its own: those that cannot be read are in \
            `errors`.",
        parameters: &[],
        body: Some("BatchGet"),
        success: vec![(200, content("What was read, and what was not.", "BatchGetAnswer"))],
        problems: codes(&[OF_CALLERS, OF_BODIES]),
    };
    let versions = Operation {
        id: "list_versions",
        summary: "Tell which versions of a secret there are",
        description: "Needs `get`. No values.",
        parameters: &["name", "backend"],
        body: None,
        success: vec![(200, content("The versions.", "SecretVersions"))],
        problems: codes(&[OF_CALLERS, OF_STORES, &[ProblemCode::NotFound]]),
    };
    let watch = Operation {
        id: "watch_secrets",
        summary: "Tell when secrets change",
        description: "Needs `get`, for each of them. Server-sent events: `version` with name, \
            backend and version as JSON, never a value; `resync` where events were missed; `end` as \
            the last one, with the reason. The schema is that of each event.",
        parameters: &["watched", "backend", "last_event_id"],
        body: None,
        success: vec![(
            200,
            answer(
                "The events, until one of the two ends the stream.",
                &[],
                json!({"text/event-stream": {"schema": reference("WatchEvent")}}),
            ),
        )],
        problems: codes(&[OF_CALLERS, OF_STORES]),
    };
    let authorize = Operation {
        id: "authorize",
        summary: "Tell what the caller may",
        description: "Nothing is done. Either `verb` and a secret, or `method` and a URL.",
        parameters: &[],
        body: Some("AuthorizeQuestion"),
        success: vec![(200, content("What would be decided.", "AuthorizeAnswer"))],
        problems: codes(&[OF_CALLERS, OF_BODIES, &[ProblemCode::InvalidReference]]),
    };
    let health = Operation {
        id: "health",
        summary: "Whether the service runs",
        description: "As vaultmux-server's. No store is asked.",
        parameters: &[],
        body: None,
        success: vec![(200, content("It runs.", "Health"))],
        problems: Vec::new(),
    };
    let open = |operation: Operation, tag: &str| {
        let mut operation = operation.shown(tag);
        operation["security"] = json!([]);
        operation
    };
    let (list, read) = (list.shown("secrets"), read.shown("secrets"));
    let (versions, health) = (versions.shown("secrets"), open(health, "health"));
    let mut paths = json!({
        "/v1/secrets": {
            "get": list,
            "head": head("look_for_secrets", "Look whether names can be listed", &list),
            "post": create.shown("secrets"),
        },
        "/v1/secrets/{name}": {
            "get": read,
            "head": head("look_for_secret", "Look whether a secret is there", &read),
            "put": update.shown("secrets"),
            "delete": delete.shown("secrets"),
        },
        "/v1/secrets:batchGet": {"post": batch.shown("secrets")},
        "/v1/versions/{name}": {
            "get": versions,
            "head": head("look_for_versions", "Look whether a secret has versions", &versions),
        },
        "/v1/watch": {"get": watch.shown("secrets")},
        "/v1/authorize": {"post": authorize.shown("policy")},
        "/health": {
            "get": health,
            "head": head("health_without_body", "Whether the service runs", &health),
        },
    });
    paths.as_object_mut().into_iter().for_each(programs::add);
    paths
}

/// The same without bodies: what HEAD is to GET.
fn head(id: &str, summary: &str, get: &Value) -> Value {
    let mut head = get.clone();
    head["operationId"] = json!(id);
    head["summary"] = json!(summary);
    without_bodies(&mut head);
    head
}

fn without_bodies(operation: &mut Value) {
    let answers = operation["responses"].as_object_mut();
    for answer in answers.into_iter().flat_map(|answers| answers.values_mut()) {
        answer.as_object_mut().map(|answer| answer.remove("content"));
    }
}

fn codes(lists: &[&[ProblemCode]]) -> Vec<ProblemCode> {
    lists.concat()
}

fn reference(schema: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{schema}")})
}

fn header_reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/headers/{name}")})
}

/// An answer with these headers besides those of all.
fn answer(description: &str, with: &[&str], content: Value) -> Value {
    let of_all = ["X-Request-Id", "Cache-Control"];
    let headers = of_all.iter().chain(with);
    let headers: Map<String, Value> =
        headers.map(|name| ((*name).to_owned(), header_reference(name))).collect();
    let mut found = json!({"description": description, "headers": headers});
    if content.as_object().is_some_and(|content| !content.is_empty()) {
        found["content"] = content;
    }
    found
}

fn content(description: &str, schema: &str) -> Value {
    answer(description, &[], json!({"application/json": {"schema": reference(schema)}}))
}

// === impl Operation ===

impl Operation {
    fn shown(self, tag: &str) -> Value {
        let mut responses = Map::new();
        for (status, found) in self.success {
            responses.insert(status.to_string(), found);
        }
        let mut by_status = BTreeMap::<u16, Vec<ProblemCode>>::new();
        for code in codes(&[OF_ALL, &self.problems]) {
            by_status.entry(code.status().as_u16()).or_default().push(code);
        }
        for (status, codes) in by_status {
            let words: Vec<_> = codes
                .iter()
                .map(|code| format!("- `{}`: {}", code.as_str(), code.meaning()))
                .collect();
            let with: &[&str] = match status {
                401 => &["WWW-Authenticate"],
                429 | 503 => &["Retry-After"],
                _ => &[],
            };
            let body = json!({"application/problem+json": {"schema": reference("Problem")}});
            responses.insert(status.to_string(), answer(&words.join("\n"), with, body));
        }
        let parameters: Vec<_> = self
            .parameters
            .iter()
            .chain(&["request_id"])
            .map(|name| json!({"$ref": format!("#/components/parameters/{name}")}))
            .collect();
        let mut shown = json!({
            "operationId": self.id,
            "tags": [tag],
            "summary": self.summary,
            "description": self.description,
            "parameters": parameters,
            "responses": responses,
        });
        if let Some(schema) = self.body {
            shown["requestBody"] = json!({
                "required": true,
                "content": {"application/json": {"schema": reference(schema)}},
            });
        }
        shown
    }
}
