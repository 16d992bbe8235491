//! What keys of one mapping, or a key and the mode, say about each other.
//!
//! Conditions hold for what is written: a value that is a variable meets none.

use serde_json::{Value, json};

/// An address that only this machine reaches, or a variable.
const LOCAL: &str =
    "^(?:unix:|127(\\.[0-9]{1,3}){3}:[0-9]+$|\\[(::1|::ffff:127\\.[0-9.]+)\\]:[0-9]+$)|\\$\\{";
/// A URL whose traffic nobody else sees, or a variable.
const UNSEEN: &str = "^(?:[hH][tT]{2}[pP][sS]://|\
                      http://([lL][oO][cC][aA][lL][hH][oO][sS][tT]|127\\.[0-9.]+|\\[::1\\])([:/]|$))|\\$\\{";

/// One of `wanted` is there.
pub(in crate::config) fn any_of(wanted: &[&str]) -> Value {
    wanted.iter().map(|key| json!({"required": [key]})).collect()
}

/// If `key` is one of `values`, then what follows holds.
fn when(key: &str, values: &[&str], then: Value) -> Value {
    json!({"if": {"properties": {key: {"enum": values}}, "required": [key]}, "then": then})
}

/// Keys that have no use.
fn without(keys: &[&str]) -> Value {
    let idle: serde_json::Map<_, _> =
        keys.iter().map(|key| ((*key).to_owned(), false.into())).collect();
    json!({"properties": idle})
}

/// What the modes forbid, and that there is a backend at all.
pub(in crate::config) fn by_mode() -> Value {
    let mode = |names: &[&str]| json!({"properties": {"mode": {"enum": names}}});
    let stored = json!({
        "properties": {"type": {"not": {"enum": ["memory", "file"]}}},
        "allOf": [
            when("type", &["aws_secrets_manager"], json!({
                "properties": {"endpoint_url": {"pattern": UNSEEN}},
            })),
            when("type", &["azure_key_vault"], json!({
                "properties": {"verify_challenge_resource": {"not": {"const": false}}},
            })),
        ],
    });
    let local = json!({"properties": {"address": {"pattern": LOCAL}}});
    json!([
        {"anyOf": [
            {"required": ["backends"], "properties": {"backends": {"minProperties": 1}}},
            {"required": ["plugins"]},
        ]},
        // What is not given is `cluster`, and meets a condition without `required`.
        {
            "if": mode(&["cluster", "sidecar"]),
            "then": {"properties": {"backends": {"additionalProperties": stored}}},
        },
        {
            "if": mode(&["cluster"]),
            "then": {"properties": {"identity": {"properties": {"local": false}}}},
        },
        when("mode", &["sidecar"], json!({"properties": {"listeners": {
            "properties": {"grpc": local, "rest": local, "admin": local},
        }}})),
    ])
}

/// What only a unix socket can tell.
pub(in crate::config) fn of_rest() -> Value {
    let loopback = json!({
        "not": {"required": ["tls"]},
        "properties": {"address": {"pattern": "^127\\.|^\\[::1\\]|\\$\\{"}},
    });
    let wanted = json!({
        "required": ["health_on_all_addresses"],
        "properties": {"health_on_all_addresses": {"const": true}},
    });
    let mut rules = by_address();
    if let Value::Array(more) = &mut rules {
        more.push(json!({"if": wanted, "then": loopback}));
    }
    rules
}

pub(in crate::config) fn by_address() -> Value {
    let unix = json!({
        "required": ["address"],
        "properties": {"address": {"pattern": "^unix:|\\$\\{"}},
    });
    json!([{"if": {"required": ["peer_uids"]}, "then": unix}])
}

/// The same, and peers that could never be.
pub(in crate::config) fn by_peer() -> Value {
    let peers = |not: Value| json!({"properties": {"trusted_peers": {"items": {"not": not}}}});
    let address = |form: Value| json!({"properties": {"address": form}, "required": ["address"]});
    let mut rules = vec![
        json!({
            "if": address(json!({"pattern": "^unix:"})),
            "then": peers(json!({"pattern": "^[0-9A-Fa-f:.]+(/[0-9]+)?$"})),
        }),
        json!({
            "if": address(json!({"not": {"pattern": "^unix:|\\$\\{"}})),
            "then": peers(json!({"const": "unix"})),
        }),
        json!({
            "if": {"not": {
                "required": ["tls"],
                "properties": {"tls": {"required": ["client_ca_file"]}},
            }},
            "then": peers(json!({"pattern": "^spiffe:"})),
        }),
    ];
    if let Value::Array(more) = by_address() {
        rules.extend(more);
    }
    rules.into()
}

/// What the way to verify tokens has no use for.
pub(in crate::config) fn by_verification() -> Value {
    let no_keys = json!({"properties": {"jwks": without(&["source", "ca_file"])}});
    json!([
        when("verify", &["token_review"], no_keys),
        when("verify", &["jwks"], without(&["reviews"])),
    ])
}

/// What goes with where the keys are.
pub(in crate::config) fn by_source() -> Value {
    let source = |pattern: &str| json!({"required": ["source"], "properties": {"source": {"pattern": pattern}}});
    json!([
        {"if": source("^(?:file|https?):"), "then": {"required": ["issuer"]}},
        {"if": {"required": ["ca_file"]}, "then": source("^https?:|\\$\\{")},
    ])
}

/// What goes with who the service is at Azure.
#[cfg(feature = "azure")]
pub(in crate::config) fn by_credential() -> Value {
    let secrets = ["client_secret", "client_secret_file"];
    let all = ["client_secret", "client_secret_file", "token_file", "tenant_id", "authority_host"];
    json!([
        when("credential", &["managed_identity"], without(&all)),
        when("credential", &["workload_identity"], without(&secrets)),
        when("credential", &["client_secret"], without(&["token_file"])),
    ])
}

/// What goes with credentials, and what with none.
#[cfg(feature = "gcp")]
pub(in crate::config) fn by_credentials() -> Value {
    let mut none = without(&["credentials_file", "impersonate"]);
    none["required"] = json!(["endpoint_url"]);
    json!([
        when("credentials", &["anonymous"], none),
        {
            "if": {"properties": {"credentials": {"const": "default"}}},
            "then": {"properties": {"endpoint_url": {"pattern": UNSEEN}}},
        },
    ])
}

/// Headers that an injection cannot set.
pub(in crate::config) fn fixed_headers() -> Value {
    json!({"pattern": "^(?:[Hh]ost|[Cc]ontent-[Ll]ength|[Tt]ransfer-[Ee]ncoding|\
                       [Xx]-[Ee]nvoy-.*|[Xx]-[Vv]aultmux-.*)$"})
}

/// One of the texts at least has a reference in it.
pub(in crate::config) fn a_reference(keys: &[&str]) -> Value {
    let reference =
        |key: &&str| json!({"properties": {*key: {"pattern": "\\{\\{secret://|\\$\\{"}}});
    keys.iter().map(reference).collect()
}
