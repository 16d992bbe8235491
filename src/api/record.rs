//! Decisions, as they are counted, logged and audited: in one place, whoever asked.

use crate::{
    audit::{AuditLine, AuditLog, Operation, trace_id},
    identity::Principal,
    metrics::{Edge, Metrics},
    policy::{AuditMatch, Decision, Denial, PolicySet},
};

/// Records the decisions about one request.
#[derive(Clone, Copy)]
pub struct Recorder<'a> {
    /// Counts them.
    pub metrics: &'a Metrics,
    /// Keeps them.
    pub audit: &'a AuditLog,
    /// Those that decided.
    pub policies: &'a PolicySet,
    /// Who asks the policies.
    pub edge: Edge,
    /// The request's id, if it has a sane one.
    pub request_id: Option<&'a str>,
    /// As sent, where it was sent once.
    pub traceparent: Option<&'a str>,
}

// === impl Recorder ===

impl Recorder<'_> {
    /// Counts a decision, logs it without the secret's name, reports policies in audit mode,
    /// and writes the audit line. `operation` is asked only if there is to be one.
    pub fn record(
        &self,
        outcome: Result<&Decision, &Denial>,
        principal: Option<&Principal>,
        operation: impl FnOnce() -> Option<Operation>,
    ) {
        let (decision, reason) = match outcome {
            Ok(decision) => (decision, None),
            Err(denial) => (&denial.decision, Some(denial.reason.as_str())),
        };
        self.metrics.decision(self.edge, reason);
        for AuditMatch { policy, rule, allow } in &decision.audit {
            self.metrics.audit_match(policy, *allow);
            tracing::info!(
                policy.name = %policy,
                policy.rule = rule,
                would_allow = allow,
                principal = principal.map(tracing::field::display),
                decision_id = %decision.id,
                "audit policy matched"
            );
        }
        tracing::debug!(
            edge = self.edge.as_str(),
            outcome = if reason.is_some() { "denied" } else { "allowed" },
            reason,
            policy.name = decision.policy.as_deref(),
            policy.rule = decision.rule,
            policy.generation = decision.generation,
            principal = principal.map(tracing::field::display),
            proofs = principal.map(|principal| tracing::field::display(principal.proofs())),
            decision_id = %decision.id,
            "decision"
        );
        self.audit.write(reason.is_none(), || AuditLine {
            policy_hash: self.policies.hash_of(decision).map(str::to_owned),
            request_id: self.request_id.map(str::to_owned),
            trace_id: self.traceparent.and_then(trace_id).map(str::to_owned),
            ..AuditLine::new(self.edge, outcome, principal, operation())
        });
    }
}
