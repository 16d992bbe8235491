//! The `envoy.service.auth.v3.Authorization` service.
//!
//! Translates a check request into a question for the policies and the decision
//! into a check response; decides nothing itself. A denial is an answer. Caller
//! input is never answered with an RPC error, because Envoy treats those by its
//! failure mode.

mod attributes;
mod cookies;
mod inject;
mod response;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use envoy_types::pb::envoy::service::auth::v3::{
    CheckRequest, CheckResponse,
    authorization_server::{Authorization, AuthorizationServer},
};
use tokio::time::Instant;
use tonic::{Request, Response, Status, metadata::MetadataMap};

use self::{
    attributes::{AUTHORIZATION, Check, Fallback},
    inject::{Allowed, SetHeader},
};
use crate::{
    api::{
        self, Recorder, Refusal,
        check::{Outcome, decide},
    },
    identity::Peer,
    metrics::{Edge, Metrics},
    policy::{Denial, Reason},
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

/// What becomes of the headers of a request that passes. Without `Debug`, since they carry
/// secrets.
struct Answer {
    forward_grant: bool,
    to_remove: Vec<String>,
    injected: Result<Vec<SetHeader>, Refusal>,
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
        let (forwarded, domains) = (snapshot.forwarded.as_ref(), &snapshot.trust_domains);
        let mut check = Check::from_request(request, peer, forwarded, domains);
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
        let Check { evidence, subject, destination, forward_grant, route, .. } = check;
        let outcome = decide(&snapshot, evidence, &subject, destination);
        let recorder = Recorder {
            metrics: &self.metrics,
            audit: &snapshot.audit,
            policies: &snapshot.policies,
            edge: Edge::ExtAuthz,
            request_id: api::request_id(attributes::header(request, "x-request-id")),
            traceparent: attributes::header(request, "traceparent"),
        };
        let principal = outcome.principal.as_ref();
        recorder.record(outcome.decision.as_ref(), principal, || outcome.asked.operation());
        let injected = match (&outcome.decision, principal, outcome.asked.http) {
            (Ok(_), Some(principal), Some(http)) => match &outcome.asked.secrets {
                None => {
                    let allowed = Allowed { snapshot: &snapshot, request, principal, http, route };
                    allowed.inject(recorder, deadline).await
                }
                Some(operation) => {
                    inject::fetch_for_read(&snapshot, principal, operation, recorder);
                    Ok(Vec::new())
                }
            },
            _ => Ok(Vec::new()),
        };
        let answer = Answer { forward_grant, to_remove, injected };
        Ok(respond(&snapshot, recorder, outcome, answer))
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

fn respond(
    snapshot: &Snapshot,
    recorder: Recorder<'_>,
    outcome: Outcome<'_>,
    answer: Answer,
) -> CheckResponse {
    let policies = &snapshot.policies;
    let Answer { forward_grant, to_remove, injected } = answer;
    match (outcome.decision, outcome.principal, injected) {
        (Ok(decision), Some(principal), Ok(injected)) => {
            let grant = outcome.scope.and_then(|scope| {
                let sealed = snapshot.grants.seal(&principal, scope, SystemTime::now());
                sealed.inspect_err(|error| tracing::error!(%error, "seal grant failed")).ok()
            });
            response::ok(response::Passed {
                principal: &principal,
                decision: &decision,
                policy_hash: policies.hash_of(&decision),
                grant,
                // The route leads to our own REST, which then gets the grant.
                forward_grant: forward_grant && outcome.asked.secrets.is_some(),
                injected,
                to_remove,
            })
        }
        (Ok(decision), Some(principal), Err(refusal)) => {
            tracing::info!(
                request_id = recorder.request_id,
                principal = %principal,
                // What comes after it may name the secret.
                reason = refusal.details.split(':').next(),
                "request refused for the secrets in it"
            );
            let hash = policies.hash_of(&decision);
            response::refused(refusal, &decision, hash, &principal, recorder.request_id)
        }
        (Err(denial), principal, _) => {
            let hash = policies.hash_of(&denial.decision);
            response::denied(&denial, hash, principal.as_ref())
        }
        // Unreachable by construction, and denied all the same.
        (Ok(_), None, _) => response::denied(&Denial::new(Reason::NoIdentity), None, None),
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

#[cfg(test)]
mod tests;
