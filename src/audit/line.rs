//! What a line holds. Text that a caller chose stays inside JSON strings.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::{
    identity::{Principal, ProofKind, ServiceAccount},
    metrics::Edge,
    operation::SecretOperation,
    policy::{AuditMatch, Decision, Denial, Destination, HttpRequest, Verb},
    secret::{BackendName, SecretField, SecretRef},
};

/// Longest path that is written in full.
const MAX_PATH: usize = 1024;

/// One decision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditLine {
    /// When, as in RFC 3339, to the millisecond.
    pub time: String,
    /// As in the answer and the logs.
    pub decision_id: String,
    /// `ext_authz`, `ext_proc` or `rest`.
    pub edge: String,
    /// Whether it was allowed.
    pub allowed: bool,
    /// Why it was denied.
    pub reason: Option<String>,
    /// The policy that decided; none for default deny.
    pub policy: Option<String>,
    /// Which of its `to` entries, from 0.
    pub rule: Option<usize>,
    /// Which load of the policy files decided, since the process started; 0 for none.
    pub generation: u64,
    /// What they said then, as a hash; none where no policy was asked, and in lines of
    /// versions that did not tell.
    #[serde(default)]
    pub policy_hash: Option<String>,
    /// Who asked; none where nobody was proven.
    pub principal: Option<AuditedPrincipal>,
    /// What for; none where the request was refused before that was known.
    pub operation: Option<Operation>,
    /// Policies in audit mode that would have matched.
    pub audit_matches: Vec<AuditedMatch>,
    /// The caller's request id, or the one it was given.
    pub request_id: Option<String>,
    /// The trace that the request belongs to.
    pub trace_id: Option<String>,
}

/// Who asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditedPrincipal {
    /// The SPIFFE ID.
    pub id: String,
    /// Its trust domain.
    pub trust_domain: String,
    /// The service account's namespace.
    pub namespace: String,
    /// The service account's name.
    pub service_account: String,
    /// How that was proven.
    pub proofs: Vec<String>,
    /// The pod that the proof is bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<AuditedPod>,
    /// The node that the pod runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// What the cluster's own audit log calls the token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential_id: Option<String>,
}

/// A pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditedPod {
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
}

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Operation {
    /// One secret.
    Secret {
        /// What was to be done with it.
        verb: String,
        /// The store.
        backend: String,
        /// Its canonical name.
        secret: String,
        /// Which version; `latest` for the current one.
        version: String,
        /// Which part of it; none for the whole.
        field: Option<String>,
        /// Where it was to be used.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        destination: Option<Box<AuditedDestination>>,
        /// The request that it was asked for by, which policies for http may deny.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        http: Option<AuditedHttp>,
    },
    /// All that may be listed, or anything that may be created.
    Collection {
        /// `list` or `create`.
        verb: String,
        /// The store; none where the request did not say at this point.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        backend: Option<String>,
        /// The request that it was asked for by, which policies for http may deny.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        http: Option<AuditedHttp>,
    },
    /// An HTTP request in the mesh.
    Http(AuditedHttp),
    /// A TCP connection in the mesh.
    Connection {
        /// The workload that it is for, as `namespace/name`.
        destination: Option<String>,
    },
}

/// An HTTP request, as policies saw it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditedHttp {
    /// As sent.
    pub method: String,
    /// Lower-case, without port.
    pub host: String,
    /// Without query; its first kilobyte.
    pub path: String,
    /// Whether the path went on.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub path_cut: bool,
    /// The workload that it is for, as `namespace/name`.
    pub destination: Option<String>,
}

/// Where a secret was to be used, as far as the proxy told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditedDestination {
    /// The request's authority.
    pub host: Option<String>,
    /// The routed cluster.
    pub cluster: Option<String>,
    /// The route's name.
    pub route: Option<String>,
    /// The server name that the caller's TLS handshake asked for.
    pub sni: Option<String>,
    /// The port that the caller's connection was made to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<String>,
    /// The request's scheme, as the caller asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheme: Option<String>,
    /// The request's method.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// The request's path, without query and with a letter in place of references; none if it
    /// has more than one reading.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Whether the path went on.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub path_cut: bool,
}

/// A policy in audit mode that would have matched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditedMatch {
    /// Its name.
    pub policy: String,
    /// Which of its `to` entries, from 0.
    pub rule: usize,
    /// `Allow` or `Deny`.
    pub effect: String,
}

// === impl AuditLine ===

impl AuditLine {
    /// A decision that was made just now.
    #[must_use]
    pub fn new(
        edge: Edge,
        outcome: Result<&Decision, &Denial>,
        principal: Option<&Principal>,
        operation: Option<Operation>,
    ) -> Self {
        let (decision, reason) = match outcome {
            Ok(decision) => (decision, None),
            Err(denial) => (&denial.decision, Some(denial.reason.as_str().to_owned())),
        };
        Self {
            time: to_the_millisecond(SystemTime::now()),
            decision_id: decision.id.to_string(),
            edge: edge.as_str().to_owned(),
            allowed: reason.is_none(),
            reason,
            policy: decision.policy.as_deref().map(str::to_owned),
            rule: decision.rule,
            generation: decision.generation,
            policy_hash: None,
            principal: principal.map(AuditedPrincipal::from),
            operation,
            audit_matches: decision.audit.iter().map(AuditedMatch::from).collect(),
            request_id: None,
            trace_id: None,
        }
    }
}

/// As in RFC 3339, always of one length: lines then sort by time.
fn to_the_millisecond(at: SystemTime) -> String {
    let at = OffsetDateTime::from(at);
    let (date, time) = (at.date(), at.time());
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
        date.year(),
        u8::from(date.month()),
        date.day(),
        time.hour(),
        time.minute(),
        time.second(),
        time.millisecond()
    )
}

impl From<&Principal> for AuditedPrincipal {
    fn from(principal: &Principal) -> Self {
        let account = principal.service_account();
        Self {
            id: principal.to_string(),
            trust_domain: principal.trust_domain().to_string(),
            namespace: account.namespace().to_owned(),
            service_account: account.name().to_owned(),
            proofs: principal.proofs().iter().map(ProofKind::as_str).map(str::to_owned).collect(),
            pod: principal
                .pod()
                .map(|pod| AuditedPod { name: pod.name.to_string(), uid: pod.uid.to_string() }),
            node: principal.node().map(str::to_owned),
            credential_id: principal.credential_id().map(str::to_owned),
        }
    }
}

impl From<&AuditMatch> for AuditedMatch {
    fn from(matched: &AuditMatch) -> Self {
        let effect = if matched.allow { "Allow" } else { "Deny" };
        let policy = matched.policy.to_string();
        Self { policy, rule: matched.rule, effect: effect.to_owned() }
    }
}

// === impl Operation ===

impl Operation {
    /// Something about one secret.
    #[must_use]
    pub fn secret(verb: Verb, secret: &SecretRef) -> Self {
        Self::Secret {
            verb: verb.to_string(),
            backend: secret.backend.to_string(),
            secret: secret.name.as_str().to_owned(),
            version: secret.version.as_str().to_owned(),
            field: secret.field.as_ref().map(SecretField::as_str).map(str::to_owned),
            destination: None,
            http: None,
        }
    }

    /// A secret that is used toward a destination.
    #[must_use]
    pub fn used(secret: &SecretRef, toward: &Destination<'_>) -> Self {
        let mut operation = Self::secret(Verb::Use, secret);
        if let Self::Secret { destination, .. } = &mut operation {
            let text = |text: Option<&str>| text.map(str::to_owned);
            *destination = Some(Box::new(AuditedDestination {
                host: text(toward.host),
                cluster: text(toward.cluster),
                route: text(toward.route),
                sni: text(toward.sni),
                port: text(toward.port),
                scheme: text(toward.scheme),
                method: text(toward.method),
                path: text(toward.path.map(cut)),
                path_cut: toward.path.is_some_and(|path| cut(path).len() < path.len()),
            }));
        }
        operation
    }

    /// A list, or the creation of something.
    #[must_use]
    pub fn collection(verb: Verb, backend: Option<&BackendName>) -> Self {
        let backend = backend.map(ToString::to_string);
        Self::Collection { verb: verb.to_string(), backend, http: None }
    }

    /// A connection.
    #[must_use]
    pub fn connection(destination: Option<&ServiceAccount>) -> Self {
        Self::Connection { destination: destination.map(ToString::to_string) }
    }

    /// The same, asked for by this request.
    #[must_use]
    pub fn by(mut self, request: Option<&HttpRequest<'_>>) -> Self {
        if let Self::Secret { http, .. } | Self::Collection { http, .. } = &mut self {
            *http = request.map(AuditedHttp::from);
        }
        self
    }
}

impl From<&SecretOperation> for Operation {
    fn from(operation: &SecretOperation) -> Self {
        match operation {
            SecretOperation::List { backend, .. } => Self::collection(Verb::List, backend.as_ref()),
            SecretOperation::Create => Self::collection(Verb::Create, None),
            SecretOperation::BatchGet => Self::collection(Verb::Get, None),
            SecretOperation::Versions { secret } => Self::secret(Verb::Get, secret),
            SecretOperation::Item { verb, secret, .. } => Self::secret(*verb, secret),
        }
    }
}

/// As much of a path as a line holds.
fn cut(path: &str) -> &str {
    &path[..path.floor_char_boundary(MAX_PATH)]
}

impl From<&HttpRequest<'_>> for AuditedHttp {
    fn from(request: &HttpRequest<'_>) -> Self {
        let path = request.path();
        Self {
            method: request.method().to_owned(),
            host: request.host().to_owned(),
            path: cut(path).to_owned(),
            path_cut: cut(path).len() < path.len(),
            destination: request.destination.as_ref().map(ToString::to_string),
        }
    }
}
