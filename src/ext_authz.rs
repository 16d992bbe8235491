//! The `envoy.service.auth.v3.Authorization` service.
//!
//! Translates a check request into a question for the policies and the decision
//! into a check response; decides nothing itself. A denial is an answer. Caller
//! input is never answered with an RPC error, because Envoy treats those by its
//! failure mode.

mod asked;
mod attributes;
mod response;

use std::{
    borrow::Cow,
    sync::Arc,
    time::{Duration, SystemTime},
};

use envoy_types::pb::envoy::service::auth::v3::{
    CheckRequest, CheckResponse,
    authorization_server::{Authorization, AuthorizationServer},
};
use percent_encoding::percent_decode_str;
use tokio::time::Instant;
use tonic::{Request, Response, Status, metadata::MetadataMap};

use self::{
    asked::Asked,
    attributes::{AUTHORIZATION, Check, Fallback, Http, Subject},
};
use crate::{
    api::{self, Recorder, identity_reason},
    identity::{GrantScope, Peer, Principal, ServiceAccount},
    metrics::{Edge, Metrics},
    operation::{SecretOperation, check_target, split_query},
    policy::{Decision, Denial, HttpRequest, Reason, canonical_host},
    snapshot::{Current, IdentityUnavailable, Snapshot},
};

/// Larger than any request that Envoy sends with default limits; a check request
/// that is not read to its end would be answered with an RPC error.
const MAX_REQUEST: usize = 16 << 20;

/// How long a caller's identity may take to verify where the proxy does not say.
const PATIENCE: Duration = Duration::from_secs(5);

/// Answers check requests.
#[derive(Clone)]
pub struct ExtAuthz {
    current: Current,
    metrics: Arc<Metrics>,
}

/// What was decided, and for whom.
struct Outcome<'a> {
    principal: Option<Principal>,
    decision: Result<Decision, Denial>,
    asked: Asked<'a>,
    /// The request that a grant may be bound to; none for TCP.
    scope: Option<GrantScope<'a>>,
    /// Whether the route leads to our own REST, which then gets the grant.
    forward_grant: bool,
}

// === impl ExtAuthz ===

impl ExtAuthz {
    /// A service that decides by the snapshot in force.
    #[must_use]
    pub fn new(current: Current, metrics: Arc<Metrics>) -> Self {
        Self { current, metrics }
    }

    /// The gRPC service.
    #[must_use]
    pub fn into_server(self) -> AuthorizationServer<Self> {
        AuthorizationServer::new(self).max_decoding_message_size(MAX_REQUEST)
    }

    async fn answer(
        &self,
        request: &CheckRequest,
        peer: Option<&Peer>,
        deadline: Instant,
    ) -> Result<CheckResponse, IdentityUnavailable> {
        let snapshot = self.current.load_full();
        let mut check = Check::from_request(request, peer, snapshot.forwarded.as_ref());
        let values = attributes::values(request, AUTHORIZATION);
        let has_token = snapshot.add_token(&mut check.evidence, values, deadline).await?;
        match check.fallback.filter(|_| check.evidence.is_empty()) {
            None => {}
            Some(Fallback::Local) => {
                if let Some(local) = &snapshot.local {
                    check.evidence.add_local(local.clone());
                }
            }
            Some(Fallback::Peer) => {
                if let Some(peer) = peer {
                    peer.add_to(&mut check.evidence);
                }
            }
        }
        let mut to_remove = attributes::own_headers(request);
        if has_token && !check.forward_token {
            to_remove.push(AUTHORIZATION.to_owned());
        }
        Ok(self.respond(&snapshot, request, check, to_remove))
    }

    fn respond(
        &self,
        snapshot: &Snapshot,
        request: &CheckRequest,
        check: Check<'_>,
        to_remove: Vec<String>,
    ) -> CheckResponse {
        let outcome = decide(snapshot, check);
        let principal = outcome.principal.as_ref();
        let recorder = Recorder {
            metrics: &self.metrics,
            audit: &snapshot.audit,
            policies: &snapshot.policies,
            edge: Edge::ExtAuthz,
            request_id: api::request_id(attributes::header(request, "x-request-id")),
            traceparent: attributes::header(request, "traceparent"),
        };
        recorder.record(outcome.decision.as_ref(), principal, || outcome.asked.operation());
        let policies = &snapshot.policies;
        match (outcome.decision, outcome.principal) {
            (Ok(decision), Some(principal)) => {
                let grant = outcome.scope.and_then(|scope| {
                    let sealed = snapshot.grants.seal(&principal, scope, SystemTime::now());
                    sealed.inspect_err(|error| tracing::error!(%error, "seal grant failed")).ok()
                });
                let hash = policies.hash_of(&decision);
                let forward_grant = outcome.forward_grant;
                response::ok(&principal, &decision, hash, grant, forward_grant, to_remove)
            }
            (Err(denial), principal) => {
                let hash = policies.hash_of(&denial.decision);
                response::denied(&denial, hash, principal.as_ref())
            }
            // Unreachable by construction, and denied all the same.
            (Ok(_), None) => response::denied(&Denial::new(Reason::NoIdentity), None, None),
        }
    }
}

#[tonic::async_trait]
impl Authorization for ExtAuthz {
    async fn check(
        &self,
        request: Request<CheckRequest>,
    ) -> Result<Response<CheckResponse>, Status> {
        let deadline = Instant::now() + patience(request.metadata());
        let peer = request.extensions().get::<Arc<Peer>>().cloned();
        match self.answer(request.get_ref(), peer.as_deref(), deadline).await {
            Ok(response) => Ok(Response::new(response)),
            // Our own outage: what becomes of the request is the proxy's failure mode.
            Err(error) => Err(Status::unavailable(error.to_string())),
        }
    }
}

/// How long an answer may take: less than the proxy's own patience, so that it hears why.
/// `grpc-timeout` as in gRPC over HTTP/2: at most 8 digits and a unit.
fn patience(metadata: &MetadataMap) -> Duration {
    let asked = metadata.get("grpc-timeout").and_then(|value| {
        let value = value.to_str().ok()?;
        let (digits, unit) = value.split_at_checked(value.len().checked_sub(1)?)?;
        let plain = (1..=8).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
        let number: u64 = plain.then(|| digits.parse().ok())??;
        Some(match unit {
            "H" => Duration::from_secs(number * 3600),
            "M" => Duration::from_secs(number * 60),
            "S" => Duration::from_secs(number),
            "m" => Duration::from_millis(number),
            "u" => Duration::from_micros(number),
            "n" => Duration::from_nanos(number),
            _ => return None,
        })
    });
    asked.map_or(PATIENCE, |asked| (asked / 10 * 9).min(PATIENCE))
}

fn decide<'a>(snapshot: &Snapshot, check: Check<'a>) -> Outcome<'a> {
    let Check { evidence, subject, destination, forward_grant, .. } = check;
    let scope = match &subject {
        Subject::Http(http) => Some(GrantScope {
            method: http.method,
            host: http.host,
            path: split_query(http.path).0,
        }),
        Subject::Connection(_) => None,
    };
    let http = match &subject {
        Subject::Http(http) => Some(*http),
        Subject::Connection(_) => None,
    };
    let mut outcome = Outcome {
        asked: Asked { http, destination, secrets: None },
        principal: None,
        decision: refuse(Reason::NoIdentity),
        scope,
        forward_grant: false,
    };
    let principal = match snapshot.principal(evidence) {
        Ok(principal) => principal,
        Err(error) => {
            outcome.decision = refuse(identity_reason(error));
            return outcome;
        }
    };
    let destination = outcome.asked.destination.as_ref();
    outcome.decision = match &subject {
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
                    outcome.forward_grant = forward_grant;
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

#[cfg(test)]
mod tests;
