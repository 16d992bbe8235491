//! A request's headers, from what Envoy shows to what becomes of them: asks the
//! core about identity, policy and values, and translates what it says.

mod decide;
mod head;
mod observe;
mod operate;
mod refusal;
mod sign;

use std::sync::Arc;

use bytes::Bytes;
use envoy_types::pb::envoy::service::ext_proc::v3::{HeaderMutation, ImmediateResponse};
use http::Response;
use tokio::time::Instant;

use super::{
    ExtProcSettings, HeadersAnswer, Proceed, Processor, RequestHeaders, Rest, Scan,
    attributes::Head,
    mutation, retry,
    session::{Place, SecretSession},
};
use crate::{
    api::{self, Api, Fetched, Injector, Recorder, Refusal},
    identity::Principal,
    injection::{Scanner, Violation},
    metrics::{Edge, Metrics},
    policy::{DecisionId, Denial, Permit},
    secret::{SecretRecord, SecretRef, SecretValue},
    signing::{AccessToken, AccessTokens},
    snapshot::{Current, Snapshot},
};

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

/// What becomes of a request that is no secret operation.
enum Verdict {
    Answer(HeadersAnswer),
    Proceed(Box<Plan>),
}

/// A request that goes on, and what is to be done about it.
struct Plan {
    mutation: HeaderMutation,
    /// The headers, `:path` among them, in which something that the client sent was replaced.
    replaced: Vec<String>,
    principal: Option<Principal>,
    used: Used,
    /// Where references are looked for in its body.
    body: Option<Place>,
    /// Whether there has to be one.
    required: bool,
    redacts: bool,
    /// Whether credentials are made once the body is there.
    signs: bool,
}

/// Secrets that were put into one request, each once. Without `Debug`.
#[derive(Default)]
pub(super) struct Used {
    pub(super) secrets: Vec<(Permit, SecretRecord)>,
    /// Tokens that issuers gave for some of them.
    pub(super) issued: Vec<AccessToken>,
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
    async fn on_observed(&self, request: RequestHeaders) {
        let snapshot = self.current.load_full();
        let head = Head::new(&request).ruled_by(&snapshot);
        let request_id = head.request_id.unwrap_or_default();
        let exchange = Exchange {
            metrics: &self.metrics,
            snapshot: &snapshot,
            head: &head,
            tokens: &self.tokens,
            request_id,
            deadline: Instant::now(),
        };
        exchange.observe(&request);
    }

    async fn on_request_headers(&self, mut request: RequestHeaders) -> HeadersAnswer {
        let snapshot = self.current.load_full();
        let restored = retry::restore(&mut request, snapshot.grants.seals());
        restored.answer(self.answer(request, snapshot).await)
    }
}

impl SecretProcessor {
    /// Answers a request as the client sent it.
    async fn answer(&self, request: RequestHeaders, snapshot: Arc<Snapshot>) -> HeadersAnswer {
        let deadline = api::deadline(self.settings.budget());
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
        if let Some(url) = head.original_url
            && let Err(refusal) = api::not_redirected(url, &snapshot.policies)
        {
            self.metrics.ext_proc_reference("denied", "redirected");
            return exchange.refuse(None, refusal);
        }
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
        let Plan { mutation, replaced, principal, used, body, required, redacts, signs } = plan;
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
        // There may be another attempt after a refused secret, and nowhere else.
        let metadata = match suspects {
            true => {
                let (changes_body, seals) = (scan.is_some(), snapshot.grants.seals());
                retry::sealed(replaced, changes_body, head.headers(), &mutation, seals)
            }
            false => None,
        };
        let unsigned = signs.then(|| mutation.clone());
        let work =
            Rest { mutation, metadata, scan, signs, response_headers, response_body: redacts };
        let session = SecretSession {
            metrics: Arc::clone(&self.metrics),
            settings: self.settings,
            tokens: Arc::clone(&self.tokens),
            request_id: request_id.clone(),
            principal,
            place: body,
            unsigned,
            used,
            redacts,
            answered: false,
            needles: None,
            request,
            snapshot,
        };
        HeadersAnswer::Proceed(Box::new(Proceed { session: Box::new(session), work }))
    }
}

// === impl Exchange ===

impl Exchange<'_> {
    /// Who asks policies and stores for this caller.
    fn injector<'s>(&'s self, principal: &'s Principal) -> Injector<'s> {
        Injector {
            snapshot: self.snapshot,
            recorder: self.recorder(),
            principal,
            destination: self.head.destination(),
            deadline: self.deadline,
        }
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

    fn refuse(&self, principal: Option<&Principal>, refusal: Refusal) -> HeadersAnswer {
        HeadersAnswer::Respond(self.end(principal, refusal))
    }

    /// The response that a request ends with that is refused.
    pub(super) fn end(&self, principal: Option<&Principal>, refusal: Refusal) -> ImmediateResponse {
        let response = api::refuse(refusal.problem, self.request_id);
        self.log("refused", principal, Some(response.status().as_u16()));
        mutation::immediate(response, &refusal.details, self.head.grpc)
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

// === impl Used ===

impl Used {
    fn value(&self, secret: &SecretRef) -> Option<&SecretValue> {
        let found = self.secrets.iter().find(|(permit, _)| permit.secret() == secret);
        found.map(|(_, record)| &record.value)
    }

    fn extend(&mut self, fetched: Fetched) {
        for (permit, record) in fetched.into_secrets() {
            self.add(permit, record);
        }
    }

    fn add(&mut self, permit: Permit, record: SecretRecord) {
        if !self.secrets.iter().any(|(seen, _)| seen.secret() == permit.secret()) {
            self.secrets.push((permit, record));
        }
    }
}
