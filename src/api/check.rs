//! Whether a request in the mesh may pass: what `ext_authz` decides, over gRPC or HTTP.
//!
//! Both translate what a proxy sent into evidence and a subject, ask here, and answer in
//! their protocol. The names of the headers that they speak by are here too.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;
use serde::Serialize;
use utoipa::ToSchema;

use super::identity_reason;
use crate::{
    audit::{AuditedHttp, Operation},
    identity::{Evidence, GrantScope, Principal, ServiceAccount},
    operation::{SecretOperation, check_target, split_query},
    policy::{Connection, Decision, Denial, HttpRequest, Reason, canonical_host},
    snapshot::Snapshot,
};

/// Tells the upstream who is calling, and how that was proven.
pub const PRINCIPAL: &str = "x-vaultmux-principal";
/// Ties an answer to the audit stream.
pub const DECISION_ID: &str = "x-vaultmux-decision-id";
/// Proof of identity for our own REST and `ext_proc`.
pub const GRANT: &str = "x-vaultmux-grant";

/// Headers that this service speaks by; a client's copies never pass.
const OWN_PREFIX: &str = "x-vaultmux-";

/// An HTTP request, or a connection of which nothing else is known.
pub enum Subject<'a> {
    /// A request.
    Http(Http<'a>),
    /// A TCP connection.
    Connection(Connection),
}

/// As the proxy sent them; empty where it sent nothing.
#[derive(Clone, Copy)]
pub struct Http<'a> {
    /// As the client sent it.
    pub method: &'a str,
    /// The authority, likewise.
    pub host: &'a str,
    /// Path and query, likewise.
    pub path: &'a str,
}

/// What was asked for; filled while it is decided.
#[derive(Default)]
pub struct Asked<'a> {
    /// None for TCP.
    pub http: Option<Http<'a>>,
    /// The workload that the request is for.
    pub destination: Option<ServiceAccount>,
    /// What the request is under a secret route.
    pub secrets: Option<SecretOperation>,
}

/// What was decided, and for whom.
pub struct Outcome<'a> {
    /// Who asked, if that was proven.
    pub principal: Option<Principal>,
    /// Never allowed without a principal.
    pub decision: Result<Decision, Denial>,
    /// What for.
    pub asked: Asked<'a>,
    /// The request that a grant may be bound to; none for TCP.
    pub scope: Option<GrantScope<'a>>,
}

/// How a denial is told: nothing about what exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status.
    pub status: u16,
    /// For programs.
    pub code: &'static str,
    /// For people.
    pub error: &'static str,
}

/// The same as JSON, for `ext_authz` over HTTP.
#[derive(Serialize, ToSchema)]
#[schema(as = CheckRefusal)]
pub struct RefusalBody {
    /// For people.
    pub error: &'static str,
    /// For programs.
    pub code: &'static str,
    /// Ties it to the audit stream.
    pub decision_id: String,
}

// === impl Asked ===

impl Asked<'_> {
    /// For the audit stream; none where the request has more than one reading.
    #[must_use]
    pub fn operation(&self) -> Option<Operation> {
        let Some(http) = self.http else {
            return Some(Operation::connection(self.destination.as_ref()));
        };
        let path = match &self.secrets {
            Some(_) => plain_path(http.path),
            None => Cow::Borrowed(http.path),
        };
        let request = HttpRequest::new(http.method, http.host, &path, self.destination.clone());
        let request = request.ok();
        match &self.secrets {
            Some(operation) => Some(Operation::from(operation).by(request.as_ref())),
            None => Some(Operation::Http(AuditedHttp::from(request.as_ref()?))),
        }
    }
}

// === impl Refusal ===

impl Refusal {
    /// What a caller is told of a denial.
    #[must_use]
    pub fn of(reason: Reason) -> Self {
        let (status, code, error) = match reason {
            Reason::NoIdentity => (401, reason.as_str(), "no identity"),
            Reason::InvalidToken => (401, reason.as_str(), "invalid token"),
            Reason::InvalidIdentity => (403, reason.as_str(), "invalid identity"),
            Reason::Malformed => (400, reason.as_str(), "malformed request"),
            Reason::NoMatch
            | Reason::DeniedByPolicy
            | Reason::PolicyInvalid
            | Reason::MissingAttribute(_) => (403, "forbidden", "forbidden"),
        };
        Self { status, code, error }
    }
}

/// Decides about one request or connection.
#[must_use]
pub fn decide<'a>(
    snapshot: &Snapshot,
    evidence: Evidence,
    subject: &Subject<'a>,
    destination: Option<ServiceAccount>,
) -> Outcome<'a> {
    let http = match subject {
        Subject::Http(http) => Some(*http),
        Subject::Connection(_) => None,
    };
    let scope = http.map(|http| GrantScope {
        method: http.method,
        host: http.host,
        path: split_query(http.path).0,
    });
    let mut outcome = Outcome {
        asked: Asked { http, destination, secrets: None },
        principal: None,
        decision: refuse(Reason::NoIdentity),
        scope,
    };
    let principal = match snapshot.principal(evidence) {
        Ok(principal) => principal,
        Err(error) => {
            outcome.decision = refuse(identity_reason(error));
            return outcome;
        }
    };
    let destination = outcome.asked.destination.as_ref();
    outcome.decision = match subject {
        Subject::Connection(connection) => {
            snapshot.policies.authorize_connection(&principal, connection)
        }
        Subject::Http(http) => {
            let (path, query) = split_query(http.path);
            let below = canonical_host(http.host)
                .ok()
                .and_then(|host| snapshot.secret_routes.below(&host, path));
            match below {
                Some(below) if check_target(path).is_ok() => {
                    let parsed =
                        SecretOperation::parse(http.method, below, query, &snapshot.catalog);
                    match parsed {
                        Ok(operation) => {
                            let decided = secret_decision(
                                snapshot,
                                &principal,
                                destination,
                                http,
                                &operation,
                            );
                            outcome.asked.secrets = Some(operation);
                            decided
                        }
                        Err(_) => refuse(Reason::Malformed),
                    }
                }
                Some(_) => refuse(Reason::Malformed),
                None => {
                    match HttpRequest::new(http.method, http.host, http.path, destination.cloned())
                    {
                        Ok(request) => snapshot.policies.authorize_http(&principal, &request),
                        Err(_) => refuse(Reason::Malformed),
                    }
                }
            }
        }
    };
    outcome.principal = Some(principal);
    outcome
}

fn refuse(reason: Reason) -> Result<Decision, Denial> {
    Err(Denial::new(reason))
}

/// A path under a secret route, decoded as the secret's name is; what was accepted as a name
/// is plain then.
fn plain_path(path_and_query: &str) -> Cow<'_, str> {
    percent_decode_str(split_query(path_and_query).0).decode_utf8_lossy()
}

/// Decides about a secret operation, with the Deny for http that covers it too.
fn secret_decision(
    snapshot: &Snapshot,
    principal: &Principal,
    destination: Option<&ServiceAccount>,
    http: &Http<'_>,
    operation: &SecretOperation,
) -> Result<Decision, Denial> {
    let path = plain_path(http.path);
    match HttpRequest::new(http.method, http.host, &path, destination.cloned()) {
        Ok(by) => snapshot.policies.decide(principal, &operation.question(Some(by))),
        Err(_) => refuse(Reason::Malformed),
    }
}

/// Whether a header is ours in any case, with `_` for `-` or not.
#[must_use]
pub fn is_own_header(name: &str) -> bool {
    let same =
        |(sent, own): (&u8, u8)| sent.eq_ignore_ascii_case(&own) || (*sent == b'_' && own == b'-');
    let start = name.as_bytes().get(..OWN_PREFIX.len());
    start.is_some_and(|start| start.iter().zip(OWN_PREFIX.bytes()).all(same))
}
