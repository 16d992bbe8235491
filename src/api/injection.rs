//! Secrets in the headers of one request: a permit for every reference, their values, and
//! why a request does not go on. `ext_authz` and `ext_proc` both do it this way.

use futures_util::future::try_join_all;
use tokio::time::Instant;

use super::{Problem, ProblemCode, Recorder};
use crate::{
    audit::Operation,
    identity::Principal,
    injection::{Refused, RenderedHeader, Rewrite, Unfit, UnfitReason, is_fixed, render_headers},
    metrics::Edge,
    policy::{Attribute, Denial, Destination, Permit, Reason},
    resolver::{BackendError, Call, ResolveError},
    secret::{SecretRecord, SecretRef, SecretValue},
    snapshot::Snapshot,
};

/// Puts secrets into the headers of one request.
#[derive(Clone, Copy)]
pub struct Injector<'a> {
    /// What is in force for the request.
    pub snapshot: &'a Snapshot,
    /// Where decisions are recorded.
    pub recorder: Recorder<'a>,
    /// Who sent it.
    pub principal: &'a Principal,
    /// Where it goes, as far as the proxy told.
    pub destination: Destination<'a>,
    /// Until when the values have to be there.
    pub deadline: Instant,
}

/// Secrets that were fetched for one request, each once. Without `Debug`.
pub struct Fetched(Vec<(Permit, SecretRecord)>);

/// Why a request does not go on: what the caller is told, and what the operator.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// For the caller.
    pub problem: Problem,
    /// One word for the operator's logs.
    pub details: String,
}

// === impl Injector ===

impl Injector<'_> {
    /// Authorises and fetches all that the rewrites refer to, and returns the headers with
    /// it, all text, to be set in place of those of the same name.
    ///
    /// # Errors
    /// [`Refusal`] if one of them is denied, cannot be fetched or cannot stand there:
    /// nothing is put anywhere then.
    pub async fn apply(&self, rewrites: &[Rewrite<'_>]) -> Result<Vec<RenderedHeader>, Refusal> {
        settable(rewrites.iter().map(|rewrite| rewrite.name.as_str()))?;
        let fetched = self.fetch(rewrites.iter().flat_map(Rewrite::references)).await?;
        let headers = render_headers(rewrites, |secret| fetched.value(secret));
        let headers = headers.and_then(|headers| text_only(headers, rewrites));
        Ok(self.placed(fetched.len(), headers)?)
    }

    /// Authorises and fetches secrets, each once.
    ///
    /// # Errors
    /// [`Refusal`] if one of them is denied or cannot be fetched.
    pub async fn fetch<'s>(
        &self,
        secrets: impl Iterator<Item = &'s SecretRef>,
    ) -> Result<Fetched, Refusal> {
        let permits = self.authorize(secrets)?;
        let records = permits.into_iter().map(|permit| async move {
            let record = self.resolve(&permit).await?;
            Ok::<_, ResolveError>((permit, record))
        });
        Ok(Fetched(try_join_all(records).await?))
    }

    /// A permit for every distinct reference, or the first denial.
    fn authorize<'s>(
        &self,
        secrets: impl Iterator<Item = &'s SecretRef>,
    ) -> Result<Vec<Permit>, Refusal> {
        let mut permits: Vec<Permit> = Vec::new();
        for secret in secrets {
            if permits.iter().any(|permit| permit.secret() == secret) {
                continue;
            }
            permits.push(self.permit(secret).map_err(|denial| {
                self.count("denied", denial.reason.as_str());
                Refusal::denied(denial, self.recorder.edge)
            })?);
        }
        if !permits.is_empty() {
            self.encrypted().inspect_err(|_| self.count("denied", "clear_text"))?;
        }
        Ok(permits)
    }

    /// Asks the policies, and records what they say.
    ///
    /// # Errors
    /// The denial.
    pub fn permit(&self, secret: &SecretRef) -> Result<Permit, Denial> {
        let outcome =
            self.snapshot.policies.authorize_use(self.principal, secret, &self.destination);
        let decision = outcome.as_ref().map(Permit::decision);
        let asked = || Some(Operation::used(secret, &self.destination));
        self.recorder.record(decision, Some(self.principal), asked);
        outcome
    }

    /// Refuses a destination that may be reached in clear text, for all that is known.
    ///
    /// # Errors
    /// [`Refusal`], for whatever secret.
    pub fn encrypted(&self) -> Result<(), Refusal> {
        let cluster = self.destination.cluster;
        if self.snapshot.upstreams.admit(cluster) {
            return Ok(());
        }
        let problem = Problem::new(ProblemCode::Forbidden);
        let details = match cluster {
            // Names what has to be told.
            Some(_) => "vaultmux_clear_text_upstream:ext_proc.tls_clusters".to_owned(),
            None => {
                let attribute = attribute_name(Attribute::Cluster, self.recorder.edge);
                format!("binding_attribute_missing:{attribute}")
            }
        };
        Err(Refusal { problem, details })
    }

    /// Counts secrets that were fetched, now that it is known whether they fit. One that does
    /// not keeps all of them out.
    ///
    /// # Errors
    /// Those of the outcome.
    pub fn placed<T, E>(&self, secrets: usize, outcome: Result<T, E>) -> Result<T, E> {
        match outcome.is_ok() {
            true => (0..secrets).for_each(|_| self.count("resolved", "none")),
            false => self.count("invalid_value", "value"),
        }
        outcome
    }

    /// Fetches one secret. Whoever puts it somewhere says so by [`Injector::placed`].
    ///
    /// # Errors
    /// [`ResolveError`].
    pub async fn resolve(&self, permit: &Permit) -> Result<SecretRecord, ResolveError> {
        let request_id = self.recorder.request_id.map(Into::into);
        let call = Call { deadline: self.deadline, request_id };
        let record = self.snapshot.resolver.resolve(permit, call).await;
        if record.is_err() {
            self.count("failed", "store");
        }
        record
    }

    fn count(&self, result: &'static str, reason: &'static str) {
        let metrics = self.recorder.metrics;
        match self.recorder.edge {
            Edge::ExtAuthz => metrics.ext_authz_reference(result, reason),
            Edge::ExtProc | Edge::Rest => metrics.ext_proc_reference(result, reason),
        }
    }
}

/// Refuses values that are no text, of which an answer to a check holds none.
fn text_only(
    headers: Vec<RenderedHeader>,
    rewrites: &[Rewrite<'_>],
) -> Result<Vec<RenderedHeader>, Unfit> {
    let is_text = |header: &RenderedHeader| {
        header.values.iter().all(|value| std::str::from_utf8(value).is_ok())
    };
    let bytes = headers.iter().zip(rewrites).find(|(header, _)| !is_text(header));
    match bytes.and_then(|(_, rewrite)| rewrite.references().next()) {
        Some(secret) => Err(Unfit { secret: secret.clone(), reason: UnfitReason::NotText }),
        None => Ok(headers),
    }
}

/// Refuses names of headers that are never set. A rule for such a header would do nothing,
/// and do so silently.
///
/// # Errors
/// [`Refusal`] that names the header.
pub fn settable<'n>(mut names: impl Iterator<Item = &'n str>) -> Result<(), Refusal> {
    let Some(name) = names.find(|name| is_fixed(name)) else { return Ok(()) };
    let details = format!("vaultmux_header_not_settable:{name}");
    Err(Refusal { problem: Problem::new(ProblemCode::Internal), details })
}

// === impl Fetched ===

impl Fetched {
    /// What this reference stands for.
    #[must_use]
    pub fn value(&self, secret: &SecretRef) -> Option<&SecretValue> {
        let found = self.0.iter().find(|(permit, _)| permit.secret() == secret);
        found.map(|(_, record)| &record.value)
    }

    /// How many there are.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "nobody asks")]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The secrets with the rights to them.
    #[must_use]
    pub fn into_secrets(self) -> Vec<(Permit, SecretRecord)> {
        self.0
    }
}

// === impl Refusal ===

impl Refusal {
    /// A denial by policy, or for want of an identity.
    #[must_use]
    pub fn denied(denial: Denial, edge: Edge) -> Self {
        let details = match denial.reason {
            // Names what the proxy has to be told to send.
            Reason::MissingAttribute(attribute) => {
                format!("binding_attribute_missing:{}", attribute_name(attribute, edge))
            }
            reason @ (Reason::NoIdentity
            | Reason::InvalidToken
            | Reason::InvalidIdentity
            | Reason::Malformed
            | Reason::NoMatch
            | Reason::DeniedByPolicy
            | Reason::PolicyInvalid) => format!("vaultmux_denied_{}", reason.as_str()),
        };
        Self { problem: denial.into(), details }
    }
}

/// A denial at `ext_proc`.
impl From<Denial> for Refusal {
    fn from(denial: Denial) -> Self {
        Self::denied(denial, Edge::ExtProc)
    }
}

/// Where an edge takes an attribute from.
fn attribute_name(attribute: Attribute, edge: Edge) -> &'static str {
    match (edge, attribute) {
        (Edge::ExtAuthz, Attribute::Cluster) => "vaultmux.cluster",
        (Edge::ExtAuthz, Attribute::Route) => "vaultmux.route",
        (Edge::ExtAuthz, Attribute::Sni) => "tls_session.sni",
        (Edge::ExtAuthz, Attribute::Port) => "destination.address",
        (Edge::ExtAuthz, Attribute::Scheme) => "request.http.scheme",
        (Edge::ExtAuthz, Attribute::Method) => "request.http.method",
        (Edge::ExtAuthz, Attribute::Path) => "request.http.path",
        (Edge::ExtAuthz | Edge::ExtProc | Edge::Rest, attribute) => attribute.as_str(),
    }
}

impl From<Refused> for Refusal {
    fn from(refused: Refused) -> Self {
        let details = format!("vaultmux_reference_refused:{}", refused.as_str());
        let problem = match refused {
            Refused::Reference(error) => error.into(),
            Refused::Position
            | Refused::Encoded
            | Refused::Nested
            | Refused::Unclosed
            | Refused::NotText
            | Refused::TooMany => {
                Problem::with_error(ProblemCode::InvalidReference, refused.to_string())
            }
        };
        Self { problem, details }
    }
}

/// The workload did not ask for the secret itself, so a secret that is missing is
/// not its 404: the set-up behind it is broken, which is a 502, as if the store
/// had refused. A store that is too slow for the budget is a 503 with
/// `Retry-After`: the fetch goes on, and the next attempt finds it done.
impl From<ResolveError> for Refusal {
    fn from(error: ResolveError) -> Self {
        let (code, cause) = match &error {
            // It never asks for a refresh.
            ResolveError::RefreshLimit { .. } => (None, "internal"),
            ResolveError::NoField => (Some(ProblemCode::BackendRefused), "no_field"),
            ResolveError::Deadline => (Some(ProblemCode::BackendUnavailable), "budget_exceeded"),
            ResolveError::Internal | ResolveError::Changed => (None, "internal"),
            ResolveError::Backend { error, .. } => match error {
                BackendError::NotFound => (Some(ProblemCode::BackendRefused), "not_found"),
                BackendError::Disabled => (Some(ProblemCode::BackendRefused), "disabled"),
                BackendError::PendingDeletion => {
                    (Some(ProblemCode::BackendRefused), "pending_deletion")
                }
                BackendError::Conflict => (Some(ProblemCode::BackendRefused), "conflict"),
                BackendError::PermissionDenied(_) => (None, "permission_denied"),
                BackendError::Invalid(_) => (None, "invalid"),
                BackendError::Throttled { .. } => (None, "throttled"),
                BackendError::Unavailable(_) => (None, "unavailable"),
                BackendError::TimedOut => (None, "timed_out"),
            },
        };
        let problem = code.map_or_else(|| Problem::from(error), Problem::new);
        Self { problem, details: format!("vaultmux_backend_{cause}") }
    }
}

impl From<Unfit> for Refusal {
    fn from(unfit: Unfit) -> Self {
        let text = "the secret cannot be put into a header".to_owned();
        let problem = Problem::with_error(ProblemCode::BackendRefused, text);
        let details = format!("vaultmux_value_unfit:{}:{}", unfit.reason, unfit.secret);
        Self { problem, details }
    }
}
