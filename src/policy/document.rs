//! The form of a policy as types, for its JSON Schema alone: policies are read from a tree,
//! see [`super::schema`]. A test holds the fields of both against each other.
//!
//! What the schema cannot say: which backends there are, which names a store can have, whether
//! the fields of an entry exclude one another, and that a name is taken.

#![expect(dead_code, reason = "nothing is read into these types: they have a form alone")]

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Value, json};

use super::{
    request::Verb,
    schema::{API_VERSION, KIND},
};
use crate::{
    identity::ProofKind,
    json_schema::{
        document,
        shape::{List, NonEmpty, Starred, holds, texts},
    },
};

/// Stays the same: editors may know the schema by it.
const ID: &str = "https://vaultmux.dev/schema/access-policy.json";

/// One document of a policy file.
#[must_use]
pub fn json_schema() -> Value {
    document::<AccessPolicy>(ID)
}

/// # AccessPolicy of vaultmux-mesh
/// Which service accounts may do what with which secrets, and which requests they may make in
/// the mesh. Nothing is allowed unless a policy says so; Deny wins over Allow; the order of
/// policies does not matter.
#[derive(JsonSchema)]
#[schemars(rename_all = "camelCase", deny_unknown_fields)]
struct AccessPolicy {
    /// Version of the format.
    #[schemars(schema_with = "api_version")]
    api_version: (),
    /// What the document is.
    #[schemars(schema_with = "kind")]
    kind: (),
    /// How the policy is called.
    metadata: Metadata,
    /// What the policy says.
    spec: Spec,
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Metadata {
    /// Name of the policy, as it appears in logs, answers and audit lines. Unique among all
    /// policies; lower-case letters, digits, `-` and `.`.
    #[schemars(with = "PolicyName", length(max = 253))]
    name: (),
}

#[derive(JsonSchema)]
#[schemars(rename_all = "camelCase", deny_unknown_fields, extend("allOf" = by_effect()))]
struct Spec {
    /// Whether what matches is allowed or denied. Deny wins over every Allow.
    effect: Effect,
    /// Whether the policy decides. `Enforce` by default.
    mode: Option<Mode>,
    /// Whom the policy is about: whoever any entry names. All fields of an entry must hold.
    from: NonEmpty<Callers>,
    /// What the policy is about: whatever any entry names.
    to: NonEmpty<Target>,
}

#[derive(JsonSchema)]
#[schemars(inline)]
enum Effect {
    /// What matches is allowed, unless a Deny matches, too.
    Allow,
    /// What matches is denied, whatever is allowed. Unknown attributes count as a match.
    Deny,
}

#[derive(JsonSchema)]
#[schemars(inline)]
enum Mode {
    /// The policy decides.
    Enforce,
    /// The policy never decides: that it would have is counted, logged and put into dynamic
    /// metadata.
    Audit,
}

/// Callers. Needs one of `namespaces`, `serviceAccounts` and `namespacePrefixes`; for everyone,
/// `namespaces: ["*"]`.
#[derive(JsonSchema)]
#[schemars(
    rename_all = "camelCase",
    deny_unknown_fields,
    extend("anyOf" = any_of(&["namespaces", "serviceAccounts", "namespacePrefixes"]))
)]
struct Callers {
    /// Namespaces of the callers, or `*` for every one.
    namespaces: Option<Starred<Namespace>>,
    /// Service accounts of the callers, as `namespace/name`.
    service_accounts: Option<List<ServiceAccount>>,
    /// Beginnings of the callers' namespaces. Each ends in `-`, so that `team-` never means
    /// `teamwork`.
    namespace_prefixes: Option<List<NamespacePrefix>>,
    /// Trust domains of the callers. All that are configured by default.
    trust_domains: Option<List<TrustDomain>>,
    /// Proofs that must stand behind the caller, all of them. Only for Allow.
    require: Option<List<Proof>>,
    /// What one of the proofs must be a token of. Only for Allow.
    bound_to: Option<BoundTo>,
    /// Whom the entry leaves out, whatever its other fields say.
    except: Option<Except>,
}

/// Callers that an entry leaves out: whoever any of the lists names.
#[derive(JsonSchema)]
#[schemars(rename_all = "camelCase", deny_unknown_fields, extend("minProperties" = 1))]
struct Except {
    /// Namespaces that are left out.
    namespaces: Option<List<Namespace>>,
    /// Service accounts that are left out, as `namespace/name`.
    service_accounts: Option<List<ServiceAccount>>,
    /// Beginnings of namespaces that are left out, each ending in `-`.
    namespace_prefixes: Option<List<NamespacePrefix>>,
}

#[derive(JsonSchema)]
#[schemars(inline, rename_all = "lowercase")]
enum BoundTo {
    /// A token that is bound to a pod, and useless once the pod is deleted.
    Pod,
}

/// Exactly one of `secrets` and `http`.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields, extend("minProperties" = 1, "maxProperties" = 1))]
struct Target {
    /// Secrets, and what may be done with them.
    secrets: Option<Secrets>,
    /// Requests in the mesh. All given fields must hold.
    http: Option<Http>,
}

/// Secrets. Needs `names` or `prefixes`; for every secret, `names: ["*"]`.
#[derive(JsonSchema)]
#[schemars(
    deny_unknown_fields,
    extend(
        "anyOf" = any_of(&["names", "prefixes"]),
        "if" = {"properties": {"names": holds("*")}, "required": ["names"]},
        "then" = {"properties": {"prefixes": false}},
        "dependencies" = {"destinations": {"properties": {"verbs": {"items": {"const": "use"}}}}},
    )
)]
struct Secrets {
    /// Backends that hold the secrets. All that are configured by default.
    backends: Option<List<Backend>>,
    /// Names of secrets, or `*` for every one. `{namespace}` and `{serviceAccount}` stand for
    /// the caller's own, as in `{namespace}/db`.
    names: Option<Starred<Name>>,
    /// Beginnings of names, each ending in `/`, `-`, `_` or `.`, so that `test/` never means
    /// `testing`. May hold `{namespace}` and `{serviceAccount}`, as in `{namespace}/`.
    prefixes: Option<List<Prefix>>,
    /// Fields of values that are JSON documents: a key, or a JSON pointer that begins with `/`.
    /// With it, only these can be read. Whole values and every field by default. In an Allow
    /// it goes with `get` and `use`.
    fields: Option<List<Field>>,
    /// What may be done. `use` puts the value into requests without showing it to the caller;
    /// it needs `destinations` and an entry of its own.
    #[schemars(schema_with = "verbs")]
    verbs: (),
    /// Where values may be sent, for `use`: any of the entries.
    destinations: Option<NonEmpty<Destination>>,
}

/// Where a value is sent: all given fields must hold. In an Allow it binds `clusters` or
/// `routes`, which the proxy chooses: host and SNI are the caller's choice.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields, extend("minProperties" = 1))]
struct Destination {
    /// Hosts of the request, without port. `*` only in a Deny.
    hosts: Option<Starred<Host>>,
    /// Clusters that Envoy routes to, as it names them. `*` only in a Deny.
    clusters: Option<Starred<EnvoyName>>,
    /// Routes of Envoy, as it names them. `*` only in a Deny.
    routes: Option<Starred<EnvoyName>>,
    /// Server names of the downstream TLS handshake. `*` only in a Deny.
    snis: Option<Starred<Host>>,
    /// Ports that clients connect to, in quotes. `*` only in a Deny.
    ports: Option<Starred<Port>>,
    /// `https` or `http`, as the client asked: not how the cluster is reached. `*` only in a
    /// Deny.
    schemes: Option<Starred<Scheme>>,
    /// Methods, as they are sent; the standard ones in upper case. `*` only in a Deny.
    methods: Option<Starred<Method>>,
    /// Paths without query. With a `/` at its end one is a prefix, without it is exact. `*` only
    /// in a Deny.
    paths: Option<Starred<Path>>,
}

/// Requests in the mesh. Needs one field at least.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields, extend("minProperties" = 1))]
struct Http {
    /// Hosts of the request, without port, or `*` for any.
    hosts: Option<Starred<Host>>,
    /// Methods, as they are sent, the standard ones in upper case, or `*` for any.
    methods: Option<Starred<Method>>,
    /// Paths without query, or `*` for any. With a `/` at its end one is a prefix, without it
    /// is exact.
    paths: Option<Starred<Path>>,
    /// Service accounts of the workloads that are asked, as `namespace/name`.
    destinations: Option<List<ServiceAccount>>,
}

/// A character of a path that is no dot and no slash, or an encoded one that may be.
macro_rules! path {
    ("c") => {
        "([!\"$&'()+,:<=>@\\[\\]^_`{|}~0-9A-Za-z-]|%(2[01246789A-Ca-c]|3[AaCcDdEe]|40|\
         5[BbDdEe]|60|7[B-Db-d]|[89A-Fa-f][0-9A-Fa-f]))"
    };
}

texts! {
    /// Lower-case letters, digits, `-` and `.`.
    PolicyName = "[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
    /// A namespace.
    Namespace = "[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?";
    /// A service account, as `namespace/name`.
    ServiceAccount = "[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?/\
                      [a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
    /// The beginning of a namespace, with `-` at its end.
    NamespacePrefix = "[a-z0-9][-a-z0-9]{0,60}-";
    /// A trust domain.
    TrustDomain = "[a-z0-9._-]{1,255}";
    /// The name of a backend in the configuration.
    Backend = "[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?";
    /// The name of a secret. A placeholder is followed by a separator that its value cannot
    /// hold, by `--`, or by nothing.
    Name = "([^{}\\u0000-\\u001f\\u007f-\\u009f]|\\{namespace\\}(--|[/_.]|$)|\
            \\{serviceAccount\\}(--|[/_]|$))+";
    /// The beginning of secrets' names, with `/`, `-`, `_` or `.` at its end. A placeholder is
    /// followed by a separator that its value cannot hold, or by `--`.
    Prefix = "([^{}\\u0000-\\u001f\\u007f-\\u009f]|\\{namespace\\}(--|[/_.])|\
              \\{serviceAccount\\}(--|[/_]))*\
              ([/_.-]|\\{namespace\\}(--|[/_.])|\\{serviceAccount\\}(--|[/_]))";
    /// A key of a JSON document, or a JSON pointer that begins with `/`.
    Field = "[^{}\\u0000-\\u001f\\u007f-\\u009f]{1,512}";
    /// A host without port.
    Host = "\\.?[A-Za-z0-9_-]+(\\.[A-Za-z0-9_-]+)*|\\[[0-9A-Fa-f:.]*\\]";
    /// A name that Envoy gives.
    EnvoyName = "[^\\u0000-\\u001f\\u007f-\\u009f]+";
    /// A port, in digits.
    Port = "[1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]";
    /// `https` or `http`.
    Scheme = "https?";
    /// A method; the standard ones in upper case.
    Method = concat!(
        "GET|HEAD|POST|PUT|DELETE|CONNECT|OPTIONS|TRACE|PATCH|(?!(",
        "[Gg][Ee][Tt]|[Hh][Ee][Aa][Dd]|[Pp][Oo][Ss][Tt]|",
        "[Pp][Uu][Tt]|[Dd][Ee][Ll][Ee][Tt][Ee]|[Cc][Oo][Nn][Nn][Ee][Cc][Tt]|",
        "[Oo][Pp][Tt][Ii][Oo][Nn][Ss]|[Tt][Rr][Aa][Cc][Ee]|[Pp][Aa][Tt][Cc][Hh]",
        ")$)[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}",
    );
    /// A path without query, empty or dot segments, `*`, and encodings of what needs none.
    Path = concat!(
        "(/(", path!("c"), "|\\.", path!("c"), "|\\.\\.(\\.|", path!("c"), "))",
        "(\\.|", path!("c"), ")*)+/?",
    );
}

/// How a caller can be proven.
enum Proof {}

impl JsonSchema for Proof {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Proof".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let what = |kind: &ProofKind| match kind {
            ProofKind::Mtls => "A client certificate that Envoy or a listener validated.",
            ProofKind::Waypoint => "A client certificate that a trusted proxy says it validated.",
            ProofKind::Token => "A service account's token.",
            ProofKind::Grant => "A grant that `ext_authz` sealed for this request.",
            ProofKind::Local => "A loopback or unix listener in sidecar or development mode.",
        };
        let choice = |kind| json!({"const": ProofKind::as_str(kind), "description": what(&kind)});
        json_schema!({"type": "string", "oneOf": ProofKind::ALL.map(choice)})
    }
}

fn api_version(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "const": API_VERSION})
}

fn kind(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "const": KIND})
}

fn verbs(_: &mut SchemaGenerator) -> Schema {
    let what = |verb| match verb {
        Verb::Get => "Read values and versions.",
        Verb::List => "See names in lists.",
        Verb::Create => "Make secrets that are not there.",
        Verb::Update => "Replace values.",
        Verb::Delete => "Delete secrets.",
        Verb::Use => "Have values put into requests to `destinations`, without seeing them.",
    };
    let mut choices: Vec<Value> =
        Verb::ALL.map(|verb| json!({"const": verb.as_str(), "description": what(verb)})).into();
    choices.push(json!({"const": "*", "description": "Every verb but `use`; alone."}));
    json_schema!({
        "type": "array",
        "items": {"type": "string", "oneOf": choices},
        "minItems": 1,
        "uniqueItems": true,
        "if": holds("*"),
        "then": {"maxItems": 1},
    })
}

/// One of the fields at least is there.
fn any_of(fields: &[&str]) -> Value {
    fields.iter().map(|field| json!({"required": [field]})).collect()
}

/// What an Allow needs and a Deny cannot have.
fn by_effect() -> Value {
    let effect =
        |effect: &str| json!({"properties": {"effect": {"const": effect}}, "required": ["effect"]});
    let no_star = json!({"items": {"not": {"const": "*"}}});
    let destination = json!({
        "anyOf": any_of(&["clusters", "routes"]),
        "properties": {
            "hosts": no_star,
            "clusters": no_star,
            "routes": no_star,
            "snis": no_star,
            "ports": no_star,
            "schemes": no_star,
            "methods": no_star,
            "paths": no_star,
        },
    });
    let field_verbs = json!({"contains": {"enum": ["get", "use", "*"]}});
    let secrets = json!({
        "properties": {"destinations": {"items": destination}},
        "dependencies": {"fields": {"properties": {"verbs": field_verbs}}},
        "if": {"properties": {"verbs": holds("use")}, "required": ["verbs"]},
        "then": {"required": ["destinations"]},
    });
    let no_proofs = json!({"items": {"properties": {"require": false, "boundTo": false}}});
    json!([
        {
            "if": effect("Allow"),
            "then": {"properties": {"to": {"items": {"properties": {"secrets": secrets}}}}},
        },
        {"if": effect("Deny"), "then": {"properties": {"from": no_proofs}}},
    ])
}

#[cfg(test)]
pub(super) mod tests;
