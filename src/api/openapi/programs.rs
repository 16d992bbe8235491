//! What no caller of the secrets API asks for: notices of stores, checks of proxies, and the
//! document itself.

use serde_json::{Map, Value, json};

use super::{Operation, answer, codes, content, head, reference, without_bodies};
use crate::api::problem::ProblemCode;

/// The methods that a proxy may ask about; it asks with the client's own.
const METHODS: [&str; 8] = ["get", "head", "post", "put", "patch", "delete", "options", "trace"];

/// Of every notice: whoever sends it is told nothing else.
const OF_NOTICES: &[ProblemCode] = &[
    ProblemCode::InvalidBody,
    ProblemCode::NoIdentity,
    ProblemCode::NoRoute,
    ProblemCode::BodyTooSlow,
    ProblemCode::BodyTooLarge,
    ProblemCode::IdentityUnavailable,
];

pub(super) fn add(paths: &mut Map<String, Value>) {
    paths.insert("/webhooks/{webhook}".to_owned(), notices());
    paths.insert("/authz/{path}".to_owned(), checks());
    let document = Operation {
        id: "openapi",
        summary: "This document",
        description: "As `vaultmux-mesh openapi` prints it.",
        parameters: &[],
        body: None,
        success: vec![(
            200,
            answer("It.", &[], json!({"application/json": {"schema": {"type": "object"}}})),
        )],
        // On an address that is open for probes alone.
        problems: vec![ProblemCode::Forbidden],
    };
    let mut document = document.shown("health");
    document["security"] = json!([]);
    paths.insert(
        "/openapi.json".to_owned(),
        json!({
            "get": document,
            "head": head("openapi_without_body", "Whether this document is there", &document),
        }),
    );
}

fn notices() -> Value {
    let notice = Operation {
        id: "send_notice",
        summary: "Tell that a secret has changed",
        description: "For stores, or what they send through: Amazon EventBridge (a key in a header \
            of the operator's choice, `X-Api-Key` here, or Basic), Azure Event Grid (`event_grid`) \
            or Google Pub/Sub (`push`). What is cached of the secrets that it names is forgotten. \
            Every notice of a sender that is believed is answered alike. Without webhooks in the \
            configuration there is no such path.",
        parameters: &["webhook"],
        body: Some("Notice"),
        success: vec![(204, answer("It was taken.", &[], json!({})))],
        problems: codes(&[OF_NOTICES]),
    };
    let handshake = Operation {
        id: "ask_whether_to_notify",
        summary: "Ask whether notices may be sent",
        description: "The handshake of CloudEvents. A `WebHook-Allowed-Origin` is leave to try.",
        parameters: &["webhook", "origin", "rate"],
        body: None,
        success: vec![(
            200,
            answer(
                "Whether or not.",
                &["Allow", "WebHook-Allowed-Origin", "WebHook-Allowed-Rate"],
                json!({}),
            ),
        )],
        problems: codes(&[&[ProblemCode::NoRoute]]),
    };
    let (mut notice, mut handshake) = (notice.shown("notices"), handshake.shown("notices"));
    let senders = ["event_bridge", "event_bridge_basic", "event_grid", "event_grid_query", "push"];
    notice["security"] = senders.map(|sender| json!({ sender: [] })).into();
    handshake["security"] = json!([]);
    json!({"post": notice, "options": handshake})
}

fn checks() -> Value {
    let methods = METHODS.into_iter().map(|method| (method.to_owned(), check(method)));
    methods.collect::<Map<_, _>>().into()
}

fn check(method: &str) -> Value {
    let asked = Operation {
        id: "",
        summary: "Ask whether a request may pass",
        description: "`ext_authz` over HTTP, for Envoy's `http_service` and Istio's \
            `envoyExtAuthzHttp`: the client's method, host, path, query and headers, without its \
            body. Only a trusted proxy is answered; 200 lets the request pass, and nothing else \
            does.",
        parameters: &["path"],
        body: None,
        success: vec![(
            200,
            answer(
                "It may.",
                &[
                    "X-Vaultmux-Principal",
                    "X-Vaultmux-Decision-Id",
                    "X-Envoy-Auth-Headers-To-Remove",
                ],
                json!({}),
            ),
        )],
        problems: codes(&[&[ProblemCode::Forbidden, ProblemCode::IdentityUnavailable]]),
    };
    let mut shown = asked.shown("checks");
    shown["operationId"] = json!(format!("check_{method}"));
    shown["security"] = json!([{"proxy": []}, {}]);
    for (status, why, with) in [
        (400, "The request has more than one reading.", &["X-Vaultmux-Decision-Id"][..]),
        (
            401,
            "No identity, or a token that is refused.",
            &["X-Vaultmux-Decision-Id", "WWW-Authenticate"],
        ),
        (403, "It may not; as a `Problem`, the peer is no trusted proxy.", &[]),
    ] {
        let mut refused = content(why, "CheckRefusal");
        let headers = answer("", with, json!({}))["headers"].take();
        refused["headers"] = headers;
        // As a `Problem`, of what is refused before it is looked at.
        if status != 401 {
            refused["content"]["application/problem+json"] =
                json!({"schema": reference("Problem")});
        }
        shown["responses"][status.to_string()] = refused;
    }
    if method == "head" {
        without_bodies(&mut shown);
    }
    shown
}

/// What is sent as a notice. Only what is read of it; the rest is the senders'.
pub(super) fn notice_schemas(schemas: &mut Map<String, Value>) {
    let object = |description: &str, required: &[&str], properties: Value| {
        json!({
            "type": "object",
            "description": description,
            "required": required,
            "properties": properties,
        })
    };
    let text = || json!({"type": "string"});
    schemas.insert(
        "EventBridgeEvent".to_owned(),
        object(
            "An event of `aws.secretsmanager`, as CloudTrail records it.",
            &["source", "detail"],
            json!({"source": text(), "detail": {"type": "object"}}),
        ),
    );
    schemas.insert(
        "CloudEvent".to_owned(),
        object(
            "An event of Key Vault, in the CloudEvents schema.",
            &["type", "specversion"],
            json!({
                "type": text(),
                "specversion": {"type": "string", "const": "1.0"},
                "subject": text(),
                "data": {"type": "object"},
            }),
        ),
    );
    schemas.insert(
        "PushedMessage".to_owned(),
        object(
            "A message of Secret Manager's, wrapped by Pub/Sub.",
            &["message"],
            json!({"message": {"type": "object"}, "subscription": text()}),
        ),
    );
    schemas.insert(
        "Notice".to_owned(),
        json!({
            "description": "As the webhook's sender writes it; several CloudEvents may come at once.",
            "anyOf": [
                reference("EventBridgeEvent"),
                reference("CloudEvent"),
                {"type": "array", "items": reference("CloudEvent")},
                reference("PushedMessage"),
            ],
        }),
    );
}

/// How proxies and senders of notices show who they are.
pub(super) fn security_schemes() -> Value {
    json!({
        "proxy": {
            "type": "mutualTLS",
            "description": "The proxy's own certificate, where \
                `identity.forwarded_client_cert.trusted_proxies` names it; its address, where that \
                is there instead.",
        },
        "event_bridge": {
            "type": "apiKey",
            "in": "header",
            "name": "x-api-key",
            "description": "An API destination's key, in the header that is configured.",
        },
        "event_bridge_basic": {
            "type": "http",
            "scheme": "basic",
            "description": "An API destination's user and password.",
        },
        "event_grid": {
            "type": "apiKey",
            "in": "header",
            "name": "x-vaultmux-webhook-key",
            "description": "A delivery property of the subscription.",
        },
        "event_grid_query": {
            "type": "apiKey",
            "in": "query",
            "name": "key",
            "description": "The same in the endpoint's address.",
        },
        "push": {
            "type": "http",
            "scheme": "bearer",
            "bearerFormat": "JWT",
            "description": "Google's token for the subscription's service account and audience.",
        },
    })
}
