//! A request's headers, from what Envoy shows to what becomes of them: asks the
//! core about identity, policy and values, and translates what it says.

use std::{collections::HashMap, sync::Arc, time::SystemTime};

use bytes::Bytes;
use envoy_types::pb::envoy::service::ext_proc::v3::HeaderMutation;
use futures_util::future::try_join_all;
use http::{Method, Response};
use tokio::time::Instant;

use super::{
    BodyRefusal, ExtProcSettings, HeadersAnswer, Proceed, Processor, RequestHeaders, Rest, Scan,
    attributes::{CallerError, Head},
    mutation, redact,
    session::{Place, SecretSession},
    surface::{self, Piece, Unseen},
};
use crate::{
    api::{self, Api, ApiRequest, Problem, ProblemCode, Recorder, Refusal},
    audit::Operation,
    identity::Principal,
    injection::{
        HeaderText, Matched, Progress, Refused, Resolution, Rewrite, Scanner, Target, Violation,
        is_fixed, is_same, scan_headers, without_aliases,
    },
    metrics::{Edge, Metrics},
    operation::SecretPath,
    policy::{DecisionId, Denial, Permit, Reason},
    resolver::ResolveError,
    secret::{SecretRecord, SecretRef, SecretValue},
    signing::{AccessTokens, Body, IssueError, Signer, SigningError, Unsigned},
    snapshot::{Current, Snapshot},
};

/// Different secrets that are put into one request outside of its headers.
const MAX_DISTINCT: usize = 8;

/// Answers secret operations, and puts secrets into other requests where policy says
/// so.
pub struct SecretProcessor {
    current: Current,
    metrics: Arc<Metrics>,
    api: Api,
    settings: ExtProcSettings,
    /// Outlive reloads.
    tokens: Arc<AccessTokens>,
}

/// One request under way.
pub(super) struct Exchange<'a> {
    pub(super) metrics: &'a Metrics,
    pub(super) snapshot: &'a Snapshot,
    pub(super) head: &'a Head<'a>,
    pub(super) tokens: &'a AccessTokens,
    pub(super) request_id: &'a str,
    pub(super) deadline: Instant,
}

/// What rules set in a request.
#[derive(Default)]
struct Injected<'a> {
    rewrites: Vec<Rewrite<'a>>,
    signers: Vec<&'a Signer>,
}

/// What becomes of a request that is no secret operation.
enum Verdict {
    Answer(HeadersAnswer),
    Proceed(Box<Plan>),
}

/// A request that goes on, and what is to be done about it.
struct Plan {
    mutation: HeaderMutation,
    principal: Option<Principal>,
    used: Used,
    /// Where references are looked for in its body.
    body: Option<Place>,
    /// Whether there has to be one.
    required: bool,
    redacts: bool,
}

/// A reference that may not be used where it stands.
struct Violated {
    reason: &'static str,
    violation: Violation,
    /// What the caller is told if the request ends over it.
    refusal: Box<Refusal>,
}

/// Secrets that were put into one request, each once. Without `Debug`.
#[derive(Default)]
pub(super) struct Used {
    pub(super) secrets: Vec<(Permit, SecretRecord)>,
    /// Tokens that issuers gave for some of them.
    pub(super) issued: Vec<SecretValue>,
}

// === impl SecretProcessor ===

impl SecretProcessor {
    /// Answers from the snapshot in force, within the budgets.
    #[must_use]
    pub fn new(current: Current, metrics: Arc<Metrics>, settings: ExtProcSettings) -> Self {
        let api = Api::new(Arc::clone(&metrics), Edge::ExtProc);
        Self { current, metrics, api, settings, tokens: Arc::default() }
    }
}

impl Processor for SecretProcessor {
    async fn on_request_headers(&self, request: RequestHeaders) -> HeadersAnswer {
        let deadline = api::deadline(self.settings.budget());
        let snapshot = self.current.load_full();
        let head = Head::new(&request).ruled_by(&snapshot);
        let request_id =
            head.request_id.map_or_else(|| DecisionId::next().to_string(), ToOwned::to_owned);
        let exchange = Exchange {
            metrics: &self.metrics,
            snapshot: &snapshot,
            head: &head,
            tokens: &self.tokens,
            request_id: &request_id,
            deadline,
        };
        let (path, _) = crate::operation::split_query(head.target);
        let below = head.host().and_then(|host| snapshot.secret_routes.below(host, path));
        let plan = match below {
            // Their bodies hold what to write. REST, behind the proxy, reads those.
            Some(_) if matches!(head.method, "POST" | "PUT") => return HeadersAnswer::Continue,
            Some(below) => return exchange.operate(&self.api, &request, below).await,
            None => match exchange.inject(&request).await {
                Verdict::Answer(answer) => return answer,
                Verdict::Proceed(plan) => *plan,
            },
        };
        let Plan { mutation, principal, used, body, required, redacts } = plan;
        let scan = body.map(|place| Scan {
            scanner: Scanner::new(
                snapshot.substitutions.finder(place.surface),
                place.violation == Violation::Deny,
            ),
            strict: place.violation == Violation::Deny,
            required,
        });
        // What a body needs may still come.
        let suspects =
            !snapshot.suspect_statuses.is_empty() && (scan.is_some() || !used.secrets.is_empty());
        let response_headers = redacts || suspects;
        let work = Rest { mutation, scan, response_headers, response_body: redacts };
        let session = SecretSession {
            metrics: Arc::clone(&self.metrics),
            settings: self.settings,
            tokens: Arc::clone(&self.tokens),
            request_id: request_id.clone(),
            principal,
            place: body,
            used,
            redacts,
            needles: None,
            request,
            snapshot,
        };
        HeadersAnswer::Proceed(Box::new(Proceed { session: Box::new(session), work }))
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
            request_id: self.request_id,
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

    /// Puts secrets into the head of a request: those that rules name, and those that the
    /// client refers to. What its body needs is planned.
    async fn inject(&self, request: &RequestHeaders) -> Verdict {
        let substitutions = &self.snapshot.substitutions;
        let path = self.head.path();
        let mut injected = self.injected(path);
        let matched = match substitutions.is_empty() {
            true => Matched::default(),
            false => substitutions.matching(self.head.method, path, &self.head.destination()),
        };
        let signed: Vec<_> = injected.signers.iter().flat_map(|signer| signer.headers()).collect();
        let overridden = |name: &str| {
            let rewritten = injected.rewrites.iter().map(|rewrite| &rewrite.name);
            surface::takes(&matched.surfaces, name)
                || rewritten.chain(&signed).any(|set| is_same(set, name))
        };
        let unaliased = without_aliases(substitutions, self.head.headers());
        let scanned = match &unaliased {
            None => scan_headers(self.head.headers(), overridden, &self.snapshot.catalog),
            Some(headers) => {
                let headers = headers.iter().map(|(name, value)| (*name, value.as_ref()));
                scan_headers(headers, overridden, &self.snapshot.catalog)
            }
        };
        let pieces = surface::pieces(substitutions, &matched.surfaces, self.head);
        let body = surface::body(&matched.surfaces, request, self.head);
        if injected.is_empty()
            && scanned.as_ref().is_ok_and(Vec::is_empty)
            && pieces.as_ref().is_ok_and(Vec::is_empty)
            && body.as_ref().is_ok_and(Option::is_none)
            && !matched.required
        {
            return Verdict::Answer(HeadersAnswer::Continue);
        }
        let in_head = !injected.is_empty()
            || scanned.as_ref().map_or(true, |found| !found.is_empty())
            || pieces.as_ref().map_or(true, |found| !found.is_empty())
            || matched.required;
        // Strangers learn nothing, not even that their reference is malformed. What is in
        // their bodies is text.
        let principal = match self.head.caller(request, self.snapshot) {
            Ok(principal) => Some(principal),
            Err(_) if !in_head => None,
            Err(error) => {
                self.metrics.ext_proc_reference("denied");
                let refusal = self.deny(Denial::new(error.reason()), None);
                return Verdict::Answer(self.refuse(None, refusal));
            }
        };
        let found = scanned.and_then(|found| Ok((found, pieces?)));
        let outcome = match found {
            Ok((found, pieces)) => {
                injected.rewrites.extend(found);
                self.plan(principal.as_ref(), &injected, pieces, body, matched, request).await
            }
            Err(refused) => {
                self.metrics.ext_proc_reference("denied");
                Err(Refusal::from(refused))
            }
        };
        match outcome {
            Ok(plan) => {
                self.log("injected", principal.as_ref(), None);
                let suspects = !self.snapshot.suspect_statuses.is_empty();
                let watched = suspects && !plan.used.secrets.is_empty();
                if plan.body.is_some() || plan.redacts || watched {
                    return Verdict::Proceed(Box::new(Plan { principal, ..plan }));
                }
                Verdict::Answer(HeadersAnswer::Mutate(plan.mutation))
            }
            Err(refusal) => Verdict::Answer(self.refuse(principal.as_ref(), refusal)),
        }
    }

    /// What becomes of a request: of its head now, and of the rest later.
    async fn plan(
        &self,
        principal: Option<&Principal>,
        injected: &Injected<'_>,
        pieces: Vec<Piece<'_>>,
        body: Result<Option<Place>, Unseen>,
        matched: Matched,
        request: &RequestHeaders,
    ) -> Result<Plan, Refusal> {
        let mut used = Used::default();
        let mut mutation = match principal {
            Some(principal) if !injected.rewrites.is_empty() => {
                self.substitute(principal, &injected.rewrites, &mut used).await?
            }
            _ => HeaderMutation::default(),
        };
        let mut carries = !injected.is_empty();
        let mut done = Vec::with_capacity(pieces.len());
        for mut piece in pieces {
            let mut progress = piece.start();
            while let Progress::Needs(needs) = progress {
                let decided = self.decide(principal, piece.place, needs, &mut used).await?;
                progress = piece.resolved(decided);
            }
            if progress == Progress::TooMany {
                return Err(Refused::TooMany.into());
            }
            carries |= piece.replaced();
            done.push(piece);
        }
        surface::put(done, self.head, &mut mutation);
        let body = match body {
            Ok(body) => body,
            Err(unseen) => {
                self.metrics.ext_proc_body(unseen.reason);
                if unseen.strict || matched.required && !carries {
                    let details = format!("vaultmux_{}", unseen.reason);
                    return Err(Refusal { problem: Problem::new(unseen.code), details });
                }
                None
            }
        };
        let required = matched.required && !carries;
        if required && body.is_none() {
            let details = format!("vaultmux_{}", BodyRefusal::NoReference.as_str());
            return Err(Refusal { problem: Problem::new(ProblemCode::Forbidden), details });
        }
        let redacts = matched.redacts && (carries || body.is_some());
        if redacts {
            if !request.response_body {
                self.metrics.ext_proc_body("response_body_mode");
                let details = "vaultmux_mode_unable:response_body_mode".to_owned();
                return Err(Refusal { problem: Problem::new(ProblemCode::Internal), details });
            }
            // What is compressed, or cut out, cannot be looked into.
            let (name, value) = redact::ACCEPT_ENCODING;
            mutation.set_headers.push(mutation::overwrite(name, value.into()));
            mutation.remove_headers.extend(["range".to_owned(), "if-range".to_owned()]);
        }
        if let Some(principal) = principal {
            // Last, over all that changes in the head; what changes later cannot be signed.
            let seen = match request.headers.end_of_stream {
                true => Body::Whole(&[]),
                false => Body::Unseen,
            };
            self.sign(principal, &injected.signers, seen, &mut mutation, &mut used).await?;
        }
        Ok(Plan { mutation, principal: None, used, body, required, redacts })
    }

    /// What references stand for on a surface other than headers. One that may not be used
    /// is text, or the end of the request.
    pub(super) async fn decide(
        &self,
        principal: Option<&Principal>,
        place: Place,
        texts: Vec<String>,
        used: &mut Used,
    ) -> Result<Vec<(String, Resolution)>, Refusal> {
        let mut decided = Vec::with_capacity(texts.len());
        let mut permits: Vec<(String, Target, Permit)> = Vec::new();
        for text in texts {
            let fetched = permits.len() + used.secrets.len();
            match self.permit(principal, place, &text, fetched) {
                Ok((target, permit)) => permits.push((text, target, permit)),
                Err(violation) => {
                    self.violation(place, violation)?;
                    decided.push((text, Resolution::Inert));
                }
            }
        }
        let records = permits.iter().map(|(_, _, permit)| self.resolve(permit));
        let records: Vec<SecretRecord> = try_join_all(records).await?;
        for ((text, target, permit), record) in permits.into_iter().zip(records) {
            let written = surface::write(place.surface, &target, &record.value)?;
            self.metrics.ext_proc_surface(place.surface.as_str(), "replaced");
            used.add(permit, record);
            decided.push((text, Resolution::Value(written)));
        }
        Ok(decided)
    }

    /// The right to use what a text names, or why it is only text.
    fn permit(
        &self,
        principal: Option<&Principal>,
        place: Place,
        text: &str,
        fetched: usize,
    ) -> Result<(Target, Permit), Violated> {
        let violated = |reason, on_violation: Option<Violation>, refusal: Refusal| Violated {
            reason,
            violation: on_violation.unwrap_or(place.violation),
            refusal: refusal.into(),
        };
        let target =
            self.snapshot.substitutions.target(text, &self.snapshot.catalog).map_err(|error| {
                violated("invalid", None, Refusal::from(Refused::Reference(error)))
            })?;
        let on_violation = target.on_violation;
        let Some(principal) = principal else {
            let refusal = self.deny(Denial::new(Reason::NoIdentity), None);
            return Err(violated("no_identity", on_violation, refusal));
        };
        let destination = self.head.destination();
        let secret = &target.secret;
        let outcome = self.snapshot.policies.authorize_use(principal, secret, &destination);
        let decision = outcome.as_ref().map(Permit::decision);
        let asked = || Some(Operation::used(secret, &destination));
        self.recorder().record(decision, Some(principal), asked);
        let permit =
            outcome.map_err(|denial| violated("denied", on_violation, Refusal::from(denial)))?;
        if let Err(refusal) = self.encrypted() {
            return Err(violated("clear_text", on_violation, refusal));
        }
        if let Some(reason) = place.frozen {
            let details = format!("vaultmux_not_rewritable:{reason}");
            let problem = Problem::new(ProblemCode::InvalidBody);
            return Err(violated(reason, on_violation, Refusal { problem, details }));
        }
        if fetched >= MAX_DISTINCT {
            return Err(violated("too_many", on_violation, Refused::TooMany.into()));
        }
        Ok((target, permit))
    }

    fn violation(&self, place: Place, violated: Violated) -> Result<(), Refusal> {
        let surface = place.surface.as_str();
        self.metrics.ext_proc_surface(surface, violated.reason);
        match violated.violation {
            Violation::Deny => Err(*violated.refusal),
            Violation::Inert => Ok(()),
            Violation::Log => {
                let reason = violated.reason;
                let request_id = self.request_id;
                tracing::warn!(surface, reason, request_id, "reference is left as text");
                Ok(())
            }
        }
    }

    async fn resolve(&self, permit: &Permit) -> Result<SecretRecord, ResolveError> {
        let record = self.snapshot.resolver.resolve(permit, self.deadline).await;
        let result = if record.is_ok() { "resolved" } else { "failed" };
        self.metrics.ext_proc_reference(result);
        record
    }

    /// What rules set. Of several rules for one header the first wins.
    fn injected(&self, path: Option<&str>) -> Injected<'_> {
        let destination = self.head.destination();
        let mut injected = Injected::default();
        for injection in self.snapshot.injections.iter() {
            if !injection.matcher.matches(self.head.method, path, &destination) {
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

    /// Adds what signers make of the request and their secrets.
    async fn sign(
        &self,
        principal: &Principal,
        signers: &[&Signer],
        body: Body<'_>,
        mutation: &mut HeaderMutation,
        used: &mut Used,
    ) -> Result<(), Refusal> {
        if signers.is_empty() {
            return Ok(());
        }
        let mut names = signers.iter().flat_map(|signer| signer.headers());
        if let Some(name) = names.find(|name| is_fixed(name.as_str())) {
            let details = format!("vaultmux_header_not_settable:{name}");
            return Err(Refusal { problem: Problem::new(ProblemCode::Internal), details });
        }
        let secrets = signers.iter().flat_map(|signer| signer.references());
        let permits = self.authorize(principal, secrets)?;
        let records: Vec<SecretRecord> =
            try_join_all(permits.iter().map(|permit| self.resolve(permit))).await?;
        let resolved = permits.iter().map(Permit::secret).zip(&records);
        let resolved: HashMap<&SecretRef, &SecretRecord> = resolved.collect();
        let value = |secret: &SecretRef| resolved.get(secret).map(|record| &record.value);
        for signer in signers {
            let target = mutation::target_after(mutation).unwrap_or(self.head.target).to_owned();
            let headers = mutation::headers_after(self.head.headers(), mutation);
            let unsigned = Unsigned {
                method: self.head.method,
                target: &target,
                authority: self.head.authority,
                headers: &headers,
                body,
                now: SystemTime::now(),
            };
            let mut signed = signer.sign(&unsigned, &value, self.tokens, self.deadline).await?;
            used.issued.extend(signed.issued.take());
            mutation::sign(mutation, signed);
        }
        permits.into_iter().zip(records).for_each(|(permit, record)| used.add(permit, record));
        Ok(())
    }

    async fn substitute(
        &self,
        principal: &Principal,
        rewrites: &[Rewrite<'_>],
        used: &mut Used,
    ) -> Result<HeaderMutation, Refusal> {
        // A rule for such a header would do nothing, and do so silently.
        let mut names = rewrites.iter().map(|rewrite| rewrite.name.as_str());
        if let Some(name) = names.find(|name| is_fixed(name)) {
            let details = format!("vaultmux_header_not_settable:{name}");
            return Err(Refusal { problem: Problem::new(ProblemCode::Internal), details });
        }
        let secrets = rewrites.iter().flat_map(Rewrite::references);
        let permits = self.authorize(principal, secrets)?;
        let records: Vec<SecretRecord> =
            try_join_all(permits.iter().map(|permit| self.resolve(permit))).await?;
        let resolved = permits.iter().map(Permit::secret).zip(&records);
        let resolved: HashMap<&SecretRef, &SecretRecord> = resolved.collect();
        let value = |secret: &SecretRef| resolved.get(secret).map(|record| &record.value);
        let mutation = mutation::rewrite(rewrites, value)?;
        permits.into_iter().zip(records).for_each(|(permit, record)| used.add(permit, record));
        Ok(mutation)
    }

    /// A permit for every distinct reference, or the first denial.
    fn authorize<'s>(
        &self,
        principal: &Principal,
        secrets: impl Iterator<Item = &'s SecretRef>,
    ) -> Result<Vec<Permit>, Refusal> {
        let destination = self.head.destination();
        let mut permits: Vec<Permit> = Vec::new();
        for secret in secrets {
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
        if !permits.is_empty() {
            self.encrypted().inspect_err(|_| self.metrics.ext_proc_reference("denied"))?;
        }
        Ok(permits)
    }

    /// Refuses a destination that is known to be reached in clear text, or not known where
    /// that counts.
    fn encrypted(&self) -> Result<(), Refusal> {
        if !self.head.is_clear_text() {
            return Ok(());
        }
        let problem = Problem::new(ProblemCode::Forbidden);
        let details = match self.head.destination().cluster {
            Some(_) => "vaultmux_clear_text_upstream".to_owned(),
            None => "binding_attribute_missing:xds.cluster_name".to_owned(),
        };
        Err(Refusal { problem, details })
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
            request_id: Some(self.request_id),
            traceparent: self.head.traceparent,
        }
    }

    pub(super) fn refuse(&self, principal: Option<&Principal>, refusal: Refusal) -> HeadersAnswer {
        let response = api::refuse(refusal.problem, self.request_id);
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

// === impl Injected ===

impl Injected<'_> {
    fn is_empty(&self) -> bool {
        self.rewrites.is_empty() && self.signers.is_empty()
    }

    fn sets(&self, name: &http::HeaderName) -> bool {
        self.rewrites.iter().any(|rewrite| rewrite.name == name)
            || self.signers.iter().any(|signer| signer.headers().contains(name))
    }
}

// === impl Used ===

impl Used {
    fn add(&mut self, permit: Permit, record: SecretRecord) {
        if !self.secrets.iter().any(|(seen, _)| seen.secret() == permit.secret()) {
            self.secrets.push((permit, record));
        }
    }
}

impl From<surface::Unfit> for Refusal {
    fn from(unfit: surface::Unfit) -> Self {
        let text = "the secret cannot be put there".to_owned();
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
