//! A request's headers, from what Envoy shows to what becomes of them: asks the
//! core about identity, policy and values, and translates what it says.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use envoy_types::pb::envoy::service::ext_proc::v3::HeaderMutation;
use futures_util::future::try_join_all;
use http::{Method, Response};
use tokio::time::Instant;

use super::{
    HeadersAnswer, Processor, RequestHeaders,
    attributes::{CallerError, Head},
    mutation::{self, Unfit},
};
use crate::{
    api::{self, Api, ApiRequest, Problem, ProblemCode, Recorder},
    audit::Operation,
    identity::Principal,
    injection::{HeaderText, Refused, Rewrite, is_fixed, is_same, scan_headers},
    metrics::{Edge, Metrics},
    operation::SecretPath,
    policy::{DecisionId, Denial, Permit, Reason},
    resolver::{BackendError, ResolveError},
    secret::{SecretRecord, SecretRef, SecretValue},
    signing::{AccessTokens, Body, IssueError, Signer, SigningError, Unsigned},
    snapshot::{Current, Snapshot},
};

/// Answers secret operations, and puts secrets into the headers of other requests
/// where policy says so.
pub struct SecretProcessor {
    current: Current,
    metrics: Arc<Metrics>,
    api: Api,
    /// Outlive reloads.
    tokens: AccessTokens,
    message_budget: Duration,
}

/// One request under way.
struct Exchange<'a> {
    metrics: &'a Metrics,
    snapshot: &'a Snapshot,
    head: &'a Head<'a>,
    tokens: &'a AccessTokens,
    request_id: String,
    deadline: Instant,
}

/// What rules set in a request.
#[derive(Default)]
struct Injected<'a> {
    rewrites: Vec<Rewrite<'a>>,
    signers: Vec<&'a Signer>,
}

/// Why a request does not go on: what the caller is told, and what the operator.
struct Refusal {
    problem: Problem,
    details: String,
}

// === impl SecretProcessor ===

impl SecretProcessor {
    /// Answers from the snapshot in force, within `message_budget`.
    #[must_use]
    pub fn new(current: Current, metrics: Arc<Metrics>, message_budget: Duration) -> Self {
        let api = Api::new(Arc::clone(&metrics), Edge::ExtProc);
        Self { current, metrics, api, tokens: AccessTokens::default(), message_budget }
    }
}

impl Processor for SecretProcessor {
    async fn on_request_headers(&self, request: RequestHeaders) -> HeadersAnswer {
        let deadline = api::deadline(self.message_budget);
        let snapshot = self.current.load_full();
        let head = Head::new(&request);
        let request_id =
            head.request_id.map_or_else(|| DecisionId::next().to_string(), ToOwned::to_owned);
        let exchange = Exchange {
            metrics: &self.metrics,
            snapshot: &snapshot,
            head: &head,
            tokens: &self.tokens,
            request_id,
            deadline,
        };
        let (path, _) = crate::operation::split_query(head.target);
        let below = head.host().and_then(|host| snapshot.secret_routes.below(host, path));
        match below {
            // Their bodies hold what to write. REST, behind the proxy, reads those.
            Some(_) if matches!(head.method, "POST" | "PUT") => HeadersAnswer::Continue,
            Some(below) => exchange.operate(&self.api, &request, below).await,
            None => exchange.inject(&request).await,
        }
    }
}

// === impl Exchange ===

impl Exchange<'_> {
    /// Answers a secret operation as REST does.
    async fn operate(
        &self,
        api: &Api,
        request: &RequestHeaders,
        below: SecretPath<'_>,
    ) -> HeadersAnswer {
        let caller = self.head.caller(request, self.snapshot);
        let principal = caller.as_ref().ok();
        let (_, query) = match api::target(self.head.target) {
            Ok(target) => target,
            Err(problem) => {
                let details = "vaultmux_malformed_request".to_owned();
                return self.refuse(principal, Refusal { problem, details });
            }
        };
        let Ok(method) = Method::from_bytes(self.head.method.as_bytes()) else {
            let problem = Problem::new(ProblemCode::MalformedRequest);
            let details = "vaultmux_malformed_request".to_owned();
            return self.refuse(principal, Refusal { problem, details });
        };
        let caller = match &caller {
            Ok(principal) => Ok(principal),
            Err(CallerError::Identity(error)) => Err(*error),
            Err(CallerError::Grant(_)) => {
                let refusal = self.deny(Denial::new(Reason::InvalidIdentity), None);
                return self.refuse(None, refusal);
            }
        };
        let headers = api::conditions(self.head.headers());
        let request = ApiRequest {
            method: &method,
            below,
            query,
            headers: &headers,
            body: &[],
            request_id: &self.request_id,
            traceparent: self.head.traceparent,
        };
        let mut response = api.answer(self.snapshot, caller, request, self.deadline).await;
        if method == Method::HEAD {
            // Envoy takes length and type from a body that it then leaves out.
            let length = response.body().len();
            *response.body_mut() = Bytes::from(vec![b' '; length]);
        }
        self.log("answered", caller.ok(), Some(response.status().as_u16()));
        self.respond(response, "vaultmux_secret_operation")
    }

    /// Puts secrets into headers: those that rules name, and those that the
    /// client refers to.
    async fn inject(&self, request: &RequestHeaders) -> HeadersAnswer {
        let Injected { mut rewrites, signers } = self.injected();
        let signed: Vec<_> = signers.iter().flat_map(|signer| signer.headers()).collect();
        let overridden = |name: &str| {
            let mut set = rewrites.iter().map(|rewrite| &rewrite.name).chain(&signed);
            set.any(|set| is_same(set, name))
        };
        let scanned = scan_headers(self.head.headers(), overridden, &self.snapshot.catalog);
        if rewrites.is_empty() && signers.is_empty() && scanned.as_ref().is_ok_and(Vec::is_empty) {
            return HeadersAnswer::Continue;
        }
        // Strangers learn nothing, not even that their reference is malformed.
        let principal = match self.head.caller(request, self.snapshot) {
            Ok(principal) => principal,
            Err(error) => {
                self.metrics.ext_proc_reference("denied");
                return self.refuse(None, self.deny(Denial::new(error.reason()), None));
            }
        };
        let outcome = match scanned {
            Ok(found) => {
                rewrites.extend(found);
                let body = match request.headers.end_of_stream {
                    true => Body::Whole(&[]),
                    false => Body::Unseen,
                };
                self.substitute(&principal, &rewrites, &signers, body).await
            }
            Err(refused) => {
                self.metrics.ext_proc_reference("denied");
                Err(Refusal::from(refused))
            }
        };
        match outcome {
            Ok(mutation) => {
                self.log("injected", Some(&principal), None);
                HeadersAnswer::Mutate(mutation)
            }
            Err(refusal) => self.refuse(Some(&principal), refusal),
        }
    }

    /// What rules set. Of several rules for one header the first wins.
    fn injected(&self) -> Injected<'_> {
        let destination = self.head.destination();
        let mut injected = Injected::default();
        for injection in self.snapshot.injections.iter() {
            if !injection.matcher.matches(self.head.method, self.head.path(), &destination) {
                continue;
            }
            for (name, value) in &injection.headers {
                if !injected.sets(name) {
                    let value = HeaderText::Resolved(std::borrow::Cow::Borrowed(value));
                    injected.rewrites.push(Rewrite { name: name.clone(), values: vec![value] });
                }
            }
            for signer in &injection.signers {
                if !signer.headers().iter().any(|name| injected.sets(name)) {
                    injected.signers.push(signer);
                }
            }
        }
        injected
    }

    async fn substitute(
        &self,
        principal: &Principal,
        rewrites: &[Rewrite<'_>],
        signers: &[&Signer],
        body: Body<'_>,
    ) -> Result<HeaderMutation, Refusal> {
        // A rule for such a header would do nothing, and do so silently.
        let signed = signers.iter().flat_map(|signer| signer.headers());
        let mut names = rewrites.iter().map(|rewrite| rewrite.name.clone()).chain(signed);
        if let Some(name) = names.find(|name| is_fixed(name.as_str())) {
            let details = format!("vaultmux_header_not_settable:{name}");
            return Err(Refusal { problem: Problem::new(ProblemCode::Internal), details });
        }
        let permits = self.authorize(principal, rewrites, signers)?;
        let resolver = &self.snapshot.resolver;
        let resolved = permits.iter().map(|permit| async move {
            let record = resolver.resolve(permit, self.deadline).await;
            let result = if record.is_ok() { "resolved" } else { "failed" };
            self.metrics.ext_proc_reference(result);
            record.map(|record| (permit.secret(), record))
        });
        let resolved: HashMap<&SecretRef, SecretRecord> =
            try_join_all(resolved).await?.into_iter().collect();
        let value = |secret: &SecretRef| value_of(&resolved, secret);
        let mut mutation = mutation::rewrite(rewrites, value)?;
        for signer in signers {
            let headers = mutation::headers_after(self.head.headers(), &mutation);
            let unsigned = Unsigned {
                method: self.head.method,
                target: self.head.target,
                authority: self.head.authority,
                headers: &headers,
                body,
                now: SystemTime::now(),
            };
            let signed = signer.sign(&unsigned, &value, self.tokens, self.deadline).await?;
            mutation::sign(&mut mutation, signed);
        }
        Ok(mutation)
    }

    /// A permit for every distinct reference, or the first denial.
    fn authorize(
        &self,
        principal: &Principal,
        rewrites: &[Rewrite<'_>],
        signers: &[&Signer],
    ) -> Result<Vec<Permit>, Refusal> {
        let destination = self.head.destination();
        let mut permits: Vec<Permit> = Vec::new();
        let values = rewrites.iter().flat_map(|rewrite| &rewrite.values);
        let secrets = values.filter_map(|value| match value {
            HeaderText::Resolved(value) => Some(value.references()),
            HeaderText::Kept(_) => None,
        });
        let signing = signers.iter().flat_map(|signer| signer.references());
        for secret in secrets.flatten().chain(signing) {
            if permits.iter().any(|permit| permit.secret() == secret) {
                continue;
            }
            let outcome = self.snapshot.policies.authorize_use(principal, secret, &destination);
            let decision = outcome.as_ref().map(Permit::decision);
            let asked = || Some(Operation::used(secret, &destination));
            self.recorder().record(decision, Some(principal), asked);
            permits.push(outcome.map_err(|denial| {
                self.metrics.ext_proc_reference("denied");
                Refusal::from(denial)
            })?);
        }
        Ok(permits)
    }

    /// A denial that no policy was asked about.
    fn deny(&self, denial: Denial, principal: Option<&Principal>) -> Refusal {
        self.recorder().record(Err(&denial), principal, || None);
        denial.into()
    }

    fn recorder(&self) -> Recorder<'_> {
        Recorder {
            metrics: self.metrics,
            audit: &self.snapshot.audit,
            policies: &self.snapshot.policies,
            edge: Edge::ExtProc,
            request_id: Some(&self.request_id),
            traceparent: self.head.traceparent,
        }
    }

    fn refuse(&self, principal: Option<&Principal>, refusal: Refusal) -> HeadersAnswer {
        let response = api::refuse(refusal.problem, &self.request_id);
        self.log("refused", principal, Some(response.status().as_u16()));
        self.respond(response, &refusal.details)
    }

    fn respond(&self, response: Response<Bytes>, details: &str) -> HeadersAnswer {
        HeadersAnswer::Respond(mutation::immediate(response, details, self.head.grpc))
    }

    fn log(&self, outcome: &'static str, principal: Option<&Principal>, status: Option<u16>) {
        tracing::info!(
            outcome,
            status,
            request_id = self.request_id,
            principal = principal.map(tracing::field::display),
            destination.cluster = self.head.destination().cluster,
            "ext_proc"
        );
    }
}

fn value_of<'r>(
    resolved: &'r HashMap<&SecretRef, SecretRecord>,
    secret: &SecretRef,
) -> Option<&'r SecretValue> {
    resolved.get(secret).map(|record| &record.value)
}

// === impl Injected ===

impl Injected<'_> {
    fn sets(&self, name: &http::HeaderName) -> bool {
        self.rewrites.iter().any(|rewrite| rewrite.name == name)
            || self.signers.iter().any(|signer| signer.headers().contains(name))
    }
}

// === impl Refusal ===

impl From<Denial> for Refusal {
    fn from(denial: Denial) -> Self {
        let details = match denial.reason {
            // Names what to add to the filter's `request_attributes`.
            Reason::MissingAttribute(attribute) => {
                format!("binding_attribute_missing:{}", attribute.as_str())
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

impl From<Refused> for Refusal {
    fn from(refused: Refused) -> Self {
        let details = format!("vaultmux_reference_refused:{}", refused.as_str());
        let problem = match refused {
            Refused::Reference(error) => error.into(),
            Refused::Position | Refused::Unclosed | Refused::NotText | Refused::TooMany => {
                Problem::with_error(ProblemCode::InvalidReference, refused.to_string())
            }
        };
        Self { problem, details }
    }
}

/// The workload did not ask for the secret itself, so a secret that is missing is
/// not its 404: the set-up behind it is broken, which is a 502, as if the store
/// had refused. A store that is too slow for the message budget is a 503 with
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

/// What the client did wrong is a 400, or a 403 where it must not; an issuer of tokens is
/// like a store: what it refuses is a 502, and its absence a 503.
impl From<SigningError> for Refusal {
    fn from(error: SigningError) -> Self {
        let code = match &error {
            SigningError::Unsigned
            | SigningError::ChunkSigned
            | SigningError::MissingHeader
            | SigningError::Malformed => ProblemCode::MalformedRequest,
            SigningError::Scope => ProblemCode::Forbidden,
            SigningError::BodyUnseen | SigningError::Internal => ProblemCode::Internal,
            SigningError::Unfit(_) => ProblemCode::BackendRefused,
            SigningError::Issue(error) => match error {
                IssueError::Refused | IssueError::NoToken => ProblemCode::BackendRefused,
                IssueError::Unavailable | IssueError::Deadline => ProblemCode::BackendUnavailable,
                IssueError::Internal => ProblemCode::Internal,
            },
        };
        let details = match &error {
            SigningError::Unfit(secret) => format!("vaultmux_value_unfit:signing:{secret}"),
            _ => format!("vaultmux_signing_refused:{}", error.as_str()),
        };
        Self { problem: Problem::with_error(code, error_text(&error)), details }
    }
}

/// What a caller may know: not which secret it is.
fn error_text(error: &SigningError) -> String {
    match error {
        SigningError::Unfit(_) => "the secret cannot be used to sign".to_owned(),
        _ => error.to_string(),
    }
}
