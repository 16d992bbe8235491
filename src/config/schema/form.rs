//! What texts and numbers of the configuration look like.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::json;

use crate::{
    identity::ForwardedPosition,
    json_schema::shape::{text, texts},
};

/// A duration that is not 0.
pub(in crate::config) enum LongerThanZero {}

/// An integer within bounds.
pub(in crate::config) enum Between<const MIN: u64, const MAX: u64> {}

/// Which element of a header counts.
pub(in crate::config) enum Position {}

/// A user on this machine.
pub(in crate::config) type Uid = Between<0, { u32::MAX as u64 }>;

/// Kubernetes names and hosts, as parts of patterns.
macro_rules! part {
    (label) => {
        "[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
    };
    (subdomain) => {
        "[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
    };
    (host) => {
        "\\.?[A-Za-z0-9_-]+(\\.[A-Za-z0-9_-]+)*"
    };
    (ip4) => {
        "[0-9]{1,3}(\\.[0-9]{1,3}){3}"
    };
    (segment) => {
        "[^?#;\\\\/ ]+"
    };
    (name) => {
        "[A-Za-z0-9/_+=.@-]"
    };
    (unit) => {
        "(nanos|nsec|ns|usec|us|µs|millis|msec|ms|seconds|second|secs|sec|s|minutes|minute|mins|min|\
         m|hours|hour|hrs|hr|h|days|day|d|weeks|week|wks|wk|w|months|month|M|years|year|yrs|yr|y)"
    };
}

texts! {
    /// A backend's name: 1 to 63 lower-case letters, digits or inner hyphens.
    BackendName = part!(label);
    /// The beginning of names, with `/`, `-`, `_` or `.` at its end.
    NamePrefix = "[^\\n]*[/_.-]";
    /// A duration such as `150ms`, `60s`, `5m` or `1h 30m`; `0` is none.
    Duration = concat!(
        "0| *([0-9][0-9 ]*(\\.[0-9 ]*[0-9][0-9 ]*)?", part!(unit), " *)+",
    );
    /// A number of bytes such as `64MiB` or `1MB`.
    Bytes = "[0-9]+|([0-9]+\\.?|[0-9]*\\.[0-9]+) *([bB]|[kKmMgGtTpPeE]([iI]?[bB]|[iI])?)";
    /// `<ip>:<port>`, or `unix:<path>` of a socket.
    Address = concat!("unix:.+|", part!(ip4), ":[0-9]{1,5}|\\[[0-9A-Fa-f:.%]+\\]:[0-9]{1,5}");
    /// A SPIFFE ID (its service account may be `*`), a network, an IP address, or `unix`.
    Peer = concat!(
        "unix|spiffe://[a-z0-9._-]{1,255}/ns/", part!(label), "/sa/(\\*|", part!(subdomain), ")|",
        part!(ip4), "(/[0-9]{1,2})?|[0-9A-Fa-f.]*:[0-9A-Fa-f:.]*(/[0-9]{1,3})?",
    );
    /// A SPIFFE ID, whose service account may be `*`.
    ProxyId = concat!(
        "spiffe://[a-z0-9._-]{1,255}/ns/", part!(label), "/sa/(\\*|", part!(subdomain), ")",
    );
    /// A host in lower case, with or without a port.
    Authority = "(\\.?[a-z0-9_-]+(\\.[a-z0-9_-]+)*|\\[[0-9a-f:.]*\\])(:[0-9]{1,5})?";
    /// A trust domain.
    TrustDomain = "[a-z0-9._-]{1,255}";
    /// A namespace.
    Namespace = part!(label);
    /// The name of a service account.
    AccountName = part!(subdomain);
    /// `stdout`, or `file:<path>`.
    Sink = "stdout|file:.+";
    /// A backend's name, and after a slash the beginning of names, which ends in `/`, `-`, `_`
    /// or `.`.
    Area = concat!(part!(label), "(/(.*[/_.-])?)?");
    /// A host, `<host>.*` for all whose name begins so, or `*` for any.
    RouteHost = concat!("\\*|", part!(host), "(\\.\\*)?|\\[[0-9A-Fa-f:.]*\\](\\.\\*)?");
    /// The beginning of paths, without a slash at its end.
    RoutePrefix = concat!("(/", part!(segment), ")+");
    /// A host without port.
    Host = concat!(part!(host), "\\.?");
    /// A path without query; with a slash at its end the beginning of paths.
    Path = concat!("/(", part!(segment), "/)*(", part!(segment), ")?");
    /// A method, as it is sent.
    Method = "[!#$%&'*+.^_`|~0-9A-Za-z-]+";
    /// The name of a header.
    HeaderName = "[!#$%&'*+.^_`|~0-9A-Za-z-]+";
    /// 12 to 512 letters, digits or `-._~`.
    AliasText = "[A-Za-z0-9._~-]{12,512}";
    /// The name of a parameter: letters, digits or `-._~`.
    Parameter = "[A-Za-z0-9._~-]+";
    /// A reference: `secret://<backend>/<name>[?version=<v>][#<field>]`.
    Reference = "secret://[^/]+/.+";
    /// Text with a reference in it.
    WithReference = "[^\\n]*\\{\\{secret://[^\\n]+\\}\\}[^\\n]*";
    /// Letters, digits, `-._~` and references, at least one.
    QueryText = "([A-Za-z0-9._~-]|\\{\\{secret://[^\\n{}]+\\}\\})*\\{\\{secret://[^\\n{}]+\\}\\}\
                 ([A-Za-z0-9._~-]|\\{\\{secret://[^\\n{}]+\\}\\})*";
    /// A reference and nothing else.
    OneReference = "\\{\\{secret://[^\\n{}]+\\}\\}";
    /// Any text that is not empty.
    SomeText = "[^\\u0000-\\u001f\\u007f-\\u009f]+";
    /// Text with the names of a request's parts in braces.
    SignedMessage = "([^{}]|\\{(method|host|target|path|query|timestamp|body|body_sha256|\
                     header:[!#$%&'*+.^_`|~0-9A-Za-z-]+)\\})*\\{(method|host|target|path|query|\
                     body|body_sha256|header:[!#$%&'*+.^_`|~0-9A-Za-z-]+)\\}([^{}]|\\{[a-z0-9_]+\
                     (:[!#$%&'*+.^_`|~0-9A-Za-z-]+)?\\})*";
    /// `https://` and a server, or `http://` and this machine.
    IssuerUrl = "[hH][tT]{2}[pP][sS]://[^@?#]+|\
                 [hH][tT]{2}[pP]://([lL][oO][cC][aA][lL][hH][oO][sS][tT]|127\\.[0-9.]+|\\[::1\\])\
                 ([:/][^@?#]*)?";
    /// `cluster`, `file:<path>` or `https://<address>`.
    KeySource = "cluster|file:.+|https?://[^@]+";
    /// `file:<path>` or `https://<address>`.
    WebhookKeys = "file:.+|https?://[^@/][^@]*";
    /// 16 characters or more.
    WebhookKey = "[^\\n]{16,}";
    /// The name of a header.
    HeaderText = "[!#$%&'*+.^_`|~0-9A-Za-z-]+";
}

#[cfg(any(feature = "aws", feature = "gcp"))]
texts! {
    /// An address that begins with `https://` or `http://`.
    HttpUrl = "[hH][tT]{2}[pP][sS]?://[^/]+.*";
}

#[cfg(any(feature = "aws", feature = "plugin"))]
texts! {
    /// The beginning of names.
    AnyPrefix = concat!(part!(name), "{0,255}");
}

#[cfg(feature = "aws")]
texts! {
    /// A region.
    AwsRegion = "[A-Za-z0-9-]{1,63}";
    /// The ARN of a role.
    RoleArn = "arn:.*:role/.*";
    /// Letters, digits or `_+=,.@:/-`.
    ExternalId = "[A-Za-z0-9_+=,.@:/-]{2,1224}";
    /// Letters, digits or `_+=,.@-`.
    SessionName = "[A-Za-z0-9_+=,.@-]{2,64}";
    /// Id, ARN or alias of a key.
    KmsKey = "[A-Za-z0-9:/_-]{1,2048}";
    /// The key of a tag; none that begins with `aws:`.
    TagKey = "[^aA][^\\n]{0,127}|[aA]([^wW][^\\n]{0,126})?|[aA][wW]([^sS][^\\n]{0,125})?|\
              [aA][wW][sS]([^:][^\\n]{0,124})?";
    /// The value of a tag.
    TagValue = "[\\s\\S]{0,256}";
}

#[cfg(feature = "azure")]
texts! {
    /// `https://` and a host.
    HttpsHost = "[hH][tT]{2}[pP][sS]://[^/@?#]+/?";
    /// Letters, digits and hyphens.
    AzurePrefix = "[A-Za-z0-9-]{0,126}";
}

#[cfg(feature = "gcp")]
texts! {
    /// Id or number of a project.
    GcpProject = "[a-z0-9][a-z0-9.:-]*";
    /// A region.
    GcpLocation = "[a-z0-9][a-z0-9-]*";
    /// Letters, digits, `-` and `_`.
    GcpPrefix = "[A-Za-z0-9_-]{0,254}";
    /// The e-mail address of a service account.
    GcpAccount = "[a-z0-9][a-z0-9-]*@[a-z0-9][a-z0-9.-]*";
}

#[cfg(feature = "kubernetes")]
texts! {
    /// A namespace, or `{namespace}`.
    NamespaceOrCallers = concat!("\\{namespace\\}|", part!(label));
}

#[cfg(feature = "vault")]
texts! {
    /// `https://` and a server, or `http://` and this machine.
    VaultAddress = "[hH][tT]{2}[pP][sS]://[^@?#]+|\
                    [hH][tT]{2}[pP]://([lL][oO][cC][aA][lL][hH][oO][sS][tT]|127\\.[0-9.]+|\\[::1\\])\
                    ([:/][^@?#]*)?";
    /// The path of a mount.
    Mount = "(\\.?[A-Za-z0-9_+=@-])+\\.?(/(\\.?[A-Za-z0-9_+=@-])+\\.?)*";
    /// The beginning of paths.
    VaultPrefix = "((\\.?[A-Za-z0-9_+=@-])+\\.?/)*((\\.?[A-Za-z0-9_+=@-])+)?";
}

// === impl LongerThanZero ===

impl JsonSchema for LongerThanZero {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "LongerThanZero".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let mut schema = text::<Duration>();
        schema.insert("allOf".to_owned(), json!([{"pattern": "[1-9]"}]));
        schema
    }
}

// === impl Between ===

impl<const MIN: u64, const MAX: u64> JsonSchema for Between<MIN, MAX> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("Between{MIN}And{MAX}").into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "integer", "minimum": MIN, "maximum": MAX})
    }
}

// === impl Position ===

impl JsonSchema for Position {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Position".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let choice = |position: ForwardedPosition| {
            let what = match position {
                ForwardedPosition::Last => "The last one: whom the proxy in front talked to.",
                ForwardedPosition::BeforeLast => {
                    "The one before: whom that one's client talked to, which must itself be a \
                     trusted proxy by its SPIFFE ID."
                }
                ForwardedPosition::Only => {
                    "There must be one alone, as a proxy leaves that drops what it was sent."
                }
            };
            json!({"const": position.as_str(), "description": what})
        };
        json_schema!({"type": "string", "oneOf": ForwardedPosition::ALL.map(choice)})
    }
}
