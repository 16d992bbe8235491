//! From a decision to a check response.
//!
//! Envoy allows a response without status, and one whose status is OK whatever
//! its `http_response` says. Both are therefore built together, here and nowhere
//! else. Headers go into `value`: `ext_authz` drops `raw_value` silently (the
//! other way round from `ext_proc`).

use std::collections::HashMap;

use envoy_types::pb::{
    envoy::{
        config::core::v3::{
            HeaderValue, HeaderValueOption, header_value_option::HeaderAppendAction,
        },
        service::auth::v3::{
            CheckResponse, DeniedHttpResponse, OkHttpResponse, check_response::HttpResponse,
        },
        r#type::v3::HttpStatus,
    },
    google::{
        protobuf::{BoolValue, ListValue, Struct, Value, value::Kind},
        rpc,
    },
};
use http::StatusCode;
use serde::Serialize;
use tonic::Code;

use super::inject::SetHeader;
use crate::{
    api::{
        self, Refusal, challenge,
        check::{self, DECISION_ID, GRANT, PRINCIPAL},
    },
    identity::Principal,
    policy::{Decision, Denial, Reason},
};

/// How many fields dynamic metadata has at most.
const METADATA: usize = 9;

#[derive(Serialize)]
struct Body {
    error: &'static str,
    code: &'static str,
    decision_id: String,
}

/// A request that passes. Without `Debug`, since headers carry secrets.
pub(super) struct Passed<'a> {
    pub(super) principal: &'a Principal,
    pub(super) decision: &'a Decision,
    pub(super) policy_hash: Option<&'a str>,
    pub(super) grant: Option<String>,
    pub(super) forward_grant: bool,
    /// Headers with secrets in them.
    pub(super) injected: Vec<SetHeader>,
    /// Headers of the client that do not pass, unless they are set.
    pub(super) to_remove: Vec<String>,
}

/// Lets the request pass, with our headers in place of the client's.
pub(super) fn ok(passed: Passed<'_>) -> CheckResponse {
    let Passed { principal, decision, policy_hash, grant, forward_grant, injected, to_remove } =
        passed;
    let (identity, decision_id) = (principal.to_string(), decision.id.to_string());
    let mut metadata = decision_metadata(decision, decision_id.clone(), policy_hash);
    let mut headers = vec![
        header(PRINCIPAL, format!("{identity};proofs={}", principal.proofs())),
        header(DECISION_ID, decision_id),
    ];
    // A grant is proof of identity: only our own REST gets to see it.
    if let Some(grant) = grant.as_ref().filter(|_| forward_grant) {
        headers.push(header(GRANT, grant.clone()));
    }
    headers.extend(injected.into_iter().map(|SetHeader { name, value }| header(&name, value)));
    let set: Vec<&str> =
        headers.iter().flat_map(|h| &h.header).map(|header| header.key.as_str()).collect();
    // Also those that the proxy was configured not to show us.
    let mut headers_to_remove: Vec<String> =
        [PRINCIPAL, DECISION_ID, GRANT].map(str::to_owned).into();
    headers_to_remove.extend(to_remove);
    headers_to_remove.retain(|name| !set.iter().any(|set| set.eq_ignore_ascii_case(name)));
    headers_to_remove.sort_unstable();
    headers_to_remove.dedup();

    let account = principal.service_account();
    let proofs = principal.proofs().iter().map(|proof| text(proof.as_str())).collect();
    for (key, value) in [
        ("principal", text(identity)),
        ("namespace", text(account.namespace())),
        ("service_account", text(account.name())),
        ("proofs", list(proofs)),
    ] {
        metadata.insert(key.to_owned(), value);
    }
    if let Some(grant) = grant {
        metadata.insert("grant".to_owned(), text(grant));
    }
    CheckResponse {
        status: Some(status(Code::Ok)),
        http_response: Some(HttpResponse::OkResponse(OkHttpResponse {
            headers,
            headers_to_remove,
            ..OkHttpResponse::default()
        })),
        dynamic_metadata: Some(Struct { fields: metadata }),
    }
}

/// Refuses a request that policy lets pass, for the secrets that were to go with it. What is
/// wrong is for the operator, in metadata.
pub(super) fn refused(
    refusal: Refusal,
    decision: &Decision,
    policy_hash: Option<&str>,
    principal: &Principal,
    request_id: Option<&str>,
) -> CheckResponse {
    let decision_id = decision.id.to_string();
    let Refusal { problem, details } = refusal;
    let problem = problem.of_decision(decision.id);
    let (parts, body) = api::refuse(problem, request_id.unwrap_or(&decision_id)).into_parts();
    let mut headers: Vec<_> = parts
        .headers
        .iter()
        .filter_map(|(name, value)| Some(header(name.as_str(), value.to_str().ok()?.to_owned())))
        .collect();
    headers.push(header(DECISION_ID, decision_id.clone()));
    let mut metadata = decision_metadata(decision, decision_id, policy_hash);
    metadata.insert("principal".to_owned(), text(principal.to_string()));
    metadata.insert("reason".to_owned(), text(details));
    let http_status = i32::from(parts.status.as_u16());
    CheckResponse {
        status: Some(status(grpc_code(parts.status))),
        http_response: Some(HttpResponse::DeniedResponse(DeniedHttpResponse {
            status: Some(HttpStatus { code: http_status }),
            headers,
            body: String::from_utf8_lossy(&body).into_owned(),
        })),
        dynamic_metadata: Some(Struct { fields: metadata }),
    }
}

/// Never OK, which would let the request pass.
fn grpc_code(status: StatusCode) -> Code {
    match status {
        StatusCode::BAD_REQUEST => Code::InvalidArgument,
        StatusCode::UNAUTHORIZED => Code::Unauthenticated,
        StatusCode::FORBIDDEN => Code::PermissionDenied,
        StatusCode::SERVICE_UNAVAILABLE => Code::Unavailable,
        StatusCode::GATEWAY_TIMEOUT => Code::DeadlineExceeded,
        _ => Code::Internal,
    }
}

/// Refuses the request; the body says nothing about what exists.
pub(super) fn denied(
    denial: &Denial,
    policy_hash: Option<&str>,
    principal: Option<&Principal>,
) -> CheckResponse {
    let check::Refusal { status: http, code: public_code, error } =
        check::Refusal::of(denial.reason);
    let code = match http {
        400 => Code::InvalidArgument,
        401 => Code::Unauthenticated,
        _ => Code::PermissionDenied,
    };
    let decision_id = denial.decision.id.to_string();
    let mut metadata = decision_metadata(&denial.decision, decision_id.clone(), policy_hash);
    let body = Body { error, code: public_code, decision_id: decision_id.clone() };
    let mut headers = vec![
        header("content-type", "application/json".to_owned()),
        header("cache-control", "no-store".to_owned()),
        header(DECISION_ID, decision_id),
    ];
    if http == 401 {
        headers.push(header(
            "www-authenticate",
            challenge(denial.reason == Reason::InvalidToken).to_owned(),
        ));
    }
    metadata.insert("reason".to_owned(), text(denial.reason.as_str()));
    if let Some(principal) = principal {
        metadata.insert("principal".to_owned(), text(principal.to_string()));
        let proofs = principal.proofs().iter().map(|proof| text(proof.as_str())).collect();
        metadata.insert("proofs".to_owned(), list(proofs));
    }
    CheckResponse {
        status: Some(status(code)),
        http_response: Some(HttpResponse::DeniedResponse(DeniedHttpResponse {
            status: Some(HttpStatus { code: http.into() }),
            headers,
            body: serde_json::to_string(&body).expect("strings are always JSON"),
        })),
        dynamic_metadata: Some(Struct { fields: metadata }),
    }
}

fn decision_metadata(
    decision: &Decision,
    decision_id: String,
    policy_hash: Option<&str>,
) -> HashMap<String, Value> {
    let audit = decision.audit.iter().map(|matched| {
        let effect = if matched.allow { "Allow" } else { "Deny" };
        let fields = [("policy", text(&*matched.policy)), ("effect", text(effect))];
        let fields = fields.map(|(key, value)| (key.to_owned(), value)).into();
        Value { kind: Some(Kind::StructValue(Struct { fields })) }
    });
    // Room for all that is ever added.
    let mut metadata = HashMap::with_capacity(METADATA);
    metadata.insert("decision_id".to_owned(), text(decision_id));
    metadata.insert("audit".to_owned(), list(audit.collect()));
    if let Some(policy) = &decision.policy {
        metadata.insert("policy".to_owned(), text(&**policy));
    }
    if let Some(hash) = policy_hash {
        metadata.insert("policy_hash".to_owned(), text(hash));
    }
    metadata
}

#[expect(deprecated, reason = "proxies differ in which spelling of 'replace' they read")]
fn header(key: &str, value: String) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(HeaderValue { key: key.to_owned(), value, ..HeaderValue::default() }),
        append: Some(BoolValue { value: false }),
        append_action: HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
        ..HeaderValueOption::default()
    }
}

fn status(code: Code) -> rpc::Status {
    rpc::Status { code: code.into(), ..rpc::Status::default() }
}

fn text(value: impl Into<String>) -> Value {
    Value { kind: Some(Kind::StringValue(value.into())) }
}

fn list(values: Vec<Value>) -> Value {
    Value { kind: Some(Kind::ListValue(ListValue { values })) }
}
