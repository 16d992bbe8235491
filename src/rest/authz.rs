//! `ext_authz` over HTTP, for Envoy's `http_service` and Istio's `envoyExtAuthzHttp`.
//!
//! The proxy sends the client's request without its body, with `/authz` before the path.
//! So method, host and path are what the proxy says they are, and count only if the proxy
//! is one that may speak for its clients. What other headers say about them is never
//! looked at. Decides as the gRPC service does, through [`crate::api::check`]; 200 lets the
//! request pass, and nothing else does.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header, request::Parts};

use super::{Rest, authority, caller, peer};
use crate::{
    api::{
        self, Problem, ProblemCode, Recorder, challenge,
        check::{
            DECISION_ID, GRANT, Http, PRINCIPAL, Refusal, RefusalBody, Subject, decide,
            is_own_header,
        },
    },
    identity::Principal,
    metrics::Edge,
    policy::{Decision, Denial, Reason},
    snapshot::{IdentityUnavailable, Snapshot},
};

/// What stands before the path that the client asked for.
pub(super) const AUTHZ: &str = "/authz";

/// Tells Envoy which of the client's headers not to send on.
const TO_REMOVE: HeaderName = HeaderName::from_static("x-envoy-auth-headers-to-remove");

// === impl Rest ===

impl Rest {
    /// Says whether a request may pass; `path` is the client's, with its query.
    pub(super) async fn authz(
        &self,
        snapshot: &Snapshot,
        head: &Parts,
        path: &str,
        request_id: &str,
    ) -> Response<Bytes> {
        let Some(proxy) = caller::proxy(peer(head), snapshot) else {
            self.metrics.peer_refused();
            if let Some(left_out) = self.refusals.permit() {
                let address = peer(head).map(|peer| peer.address.to_string());
                tracing::warn!(
                    address,
                    left_out,
                    "check refused: the peer is not one of \
                     identity.forwarded_client_cert.trusted_proxies"
                );
            }
            let error = "peer is not trusted".to_owned();
            return api::refuse(Problem::with_error(ProblemCode::Forbidden, error), request_id);
        };
        let deadline = self.deadline(snapshot);
        let shown = caller::shown_by_proxy(head, proxy, snapshot, deadline).await;
        let (evidence, has_token) = match shown {
            Ok(shown) => shown,
            // What becomes of the request is the proxy's failure mode.
            Err(IdentityUnavailable) => {
                let problem = Problem::new(ProblemCode::IdentityUnavailable);
                return api::refuse(problem, request_id);
            }
        };
        // Two hosts are none that anybody could decide about.
        let host = authority(head).unwrap_or_default();
        let subject = Subject::Http(Http { method: head.method.as_str(), host, path });
        let outcome = decide(snapshot, evidence, &subject, None);
        let principal = outcome.principal.as_ref();
        let recorder = Recorder {
            metrics: &self.metrics,
            audit: &snapshot.audit,
            policies: &snapshot.policies,
            edge: Edge::ExtAuthz,
            request_id: Some(request_id),
            traceparent: api::traceparent(&head.headers),
        };
        recorder.record(outcome.decision.as_ref(), principal, || outcome.asked.operation());
        let mut response = match (outcome.decision, &outcome.principal) {
            (Ok(decision), Some(principal)) => ok(principal, &decision, &head.headers, has_token),
            (Err(denial), _) => denied(&denial),
            // Unreachable by construction, and denied all the same.
            (Ok(_), None) => denied(&Denial::new(Reason::NoIdentity)),
        };
        api::finish(response.headers_mut(), request_id);
        response
    }
}

/// Lets the request pass. The grant is not among the headers: which route leads to our own
/// REST is nothing that this protocol tells, and anyone else could use it.
fn ok(
    principal: &Principal,
    decision: &Decision,
    sent: &HeaderMap,
    has_token: bool,
) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    let headers = response.headers_mut();
    let own = [
        (PRINCIPAL, format!("{principal};proofs={}", principal.proofs())),
        (DECISION_ID, decision.id.to_string()),
    ];
    for (name, text) in own {
        match HeaderValue::try_from(text) {
            Ok(value) => drop(headers.insert(name, value)),
            // Neither has a character that no header can have.
            Err(_) => return denied(&Denial::new(Reason::Malformed)),
        }
    }
    let mut to_remove: Vec<&str> = sent.keys().map(HeaderName::as_str).collect();
    to_remove.retain(|name| is_own_header(name) && ![PRINCIPAL, DECISION_ID].contains(name));
    // Also where the proxy was configured not to show it.
    to_remove.push(GRANT);
    if has_token {
        to_remove.push(header::AUTHORIZATION.as_str());
    }
    to_remove.sort_unstable();
    to_remove.dedup();
    if let Ok(names) = HeaderValue::try_from(to_remove.join(",")) {
        headers.insert(TO_REMOVE, names);
    }
    response
}

/// Refuses the request, as the gRPC service does.
fn denied(denial: &Denial) -> Response<Bytes> {
    let Refusal { status, code, error } = Refusal::of(denial.reason);
    let decision_id = denial.decision.id.to_string();
    let id = HeaderValue::try_from(decision_id.as_str());
    let body = serde_json::to_vec(&RefusalBody { error, code, decision_id });
    let mut response = Response::new(body.expect("strings are always JSON").into());
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::FORBIDDEN);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Ok(id) = id {
        headers.insert(DECISION_ID, id);
    }
    if status == 401 {
        let scheme = challenge(denial.reason == Reason::InvalidToken);
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(scheme));
    }
    response
}

#[cfg(test)]
mod tests;
