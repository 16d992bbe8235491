//! `POST /v1/authorize`: may I? A caller asks about itself, and nothing is done.
//!
//! The answer is not a decision about a request: it is neither counted nor audited as one,
//! and no store hears of it. What a refusal tells of policies is
//! [`PolicySet::explain_to_caller`](crate::policy::PolicySet::explain_to_caller)'s to bound.

use std::borrow::Cow;

use bytes::Bytes;
use http::{Method, Response, StatusCode};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    Api, finish, identity_reason,
    json::{Object, json, parse},
    problem::{Problem, ProblemCode},
};
use crate::{
    identity::{IdentityError, Principal, ProofKind, ServiceAccount},
    operation::split_query,
    policy::{
        Denial, Destination, Explanation, HttpRequest, InvalidRequest, NearMiss, Question, Unasked,
        Verb, canonical_host, canonical_path, split_url,
    },
    secret::{NameEncoding, SecretField, SecretRef, SecretVersion},
    snapshot::Snapshot,
};

/// Where the question is asked.
pub const AUTHORIZE_PATH: &str = "/v1/authorize";
/// The methods that do something there.
pub const AUTHORIZE_METHODS: &str = "POST, OPTIONS";

/// A caller's question about itself.
#[derive(Debug)]
pub struct AuthorizeRequest<'a> {
    /// As sent.
    pub method: &'a Method,
    /// The whole body.
    pub body: &'a [u8],
    /// Echoed in the answer.
    pub request_id: &'a str,
    /// The header of that name, where it was sent once.
    pub traceparent: Option<&'a str>,
}

/// Unknown members are refused: an answer to another question than was meant is worse
/// than none.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = AuthorizeQuestion)]
pub(super) struct Body {
    /// What to do with the secret.
    #[schema(value_type = Option<String>)]
    verb: Option<Verb>,
    /// The secret's name.
    secret: Option<String>,
    /// The secret as `secret://backend/name?version=1#field`, in place of all that.
    r#ref: Option<String>,
    /// The store; where the name leads without.
    backend: Option<String>,
    /// Which version; the latest without.
    version: Option<String>,
    /// Which part of a JSON value.
    field: Option<String>,
    /// The method of a request in the mesh.
    method: Option<String>,
    /// Where the request goes.
    url: Option<String>,
    /// The same in two parts: its authority,
    host: Option<String>,
    /// and its path.
    path: Option<String>,
    #[schema(value_type = Option<Toward>)]
    destination: Option<BodyDestination>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum BodyDestination {
    /// Of a request: the service account of the workload that serves it.
    Workload(String),
    /// Of `use`.
    Toward(Object<Toward>),
}

/// The proxy's destination.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = UseDestination)]
pub(super) struct Toward {
    /// The authority.
    host: Option<String>,
    /// The cluster that the request is routed to.
    cluster: Option<String>,
    /// The route that it takes.
    route: Option<String>,
    /// The server name of the TLS handshake.
    sni: Option<String>,
    /// The port that the client's connection is made to, in digits.
    port: Option<String>,
    /// The request's scheme, `https` or `http`.
    scheme: Option<String>,
    /// The request's method.
    method: Option<String>,
    /// The request's path, without query.
    path: Option<String>,
}

/// What would be decided.
#[derive(Serialize, ToSchema)]
#[schema(as = AuthorizeAnswer)]
pub(super) struct Answer<'a> {
    /// Whether it would be allowed.
    allowed: bool,
    /// Who asks: a SPIFFE ID.
    principal: String,
    /// How that is proven.
    proofs: Vec<&'static str>,
    /// Why it would be denied.
    reason: Option<&'static str>,
    /// The policy that decides; none for default deny.
    policy: Option<&'a str>,
    /// Which of its `to` entries, from 0.
    rule: Option<usize>,
    /// Which load of the policies decides.
    generation: u64,
    /// What they say, as a hash.
    policy_hash: &'a str,
    /// Names this answer in the log.
    decision_id: String,
    /// The rule of the caller's own that comes nearest to allowing it.
    nearest: Option<Nearest<'a>>,
}

/// A rule, without where it is written: files are the operator's.
#[derive(Serialize, ToSchema)]
#[schema(as = NearestRule)]
pub(super) struct Nearest<'a> {
    /// Its policy.
    policy: &'a str,
    /// Which of the policy's `to` entries, from 0.
    rule: usize,
    /// What it asks for and does not get.
    unmet: &'a [String],
}

// === impl Api ===

impl Api {
    /// Answers what the caller may, without doing it. A stranger is refused, counted and
    /// audited as everywhere.
    #[must_use]
    pub fn authorize(
        &self,
        snapshot: &Snapshot,
        caller: Result<&Principal, IdentityError>,
        request: &AuthorizeRequest<'_>,
    ) -> Response<Bytes> {
        let AuthorizeRequest { method, body, request_id, traceparent } = *request;
        let caller = match caller {
            Ok(caller) => caller,
            Err(error) => {
                let denial = Denial::new(identity_reason(error));
                return self.deny(snapshot, denial, request_id, traceparent);
            }
        };
        let answer = self.share(snapshot, caller).and_then(|()| match *method {
            Method::POST => answer(snapshot, caller, body),
            _ => Err(Problem::not_allowed(AUTHORIZE_METHODS)),
        });
        let mut response = answer.unwrap_or_else(|problem| problem.into_response(request_id));
        finish(response.headers_mut(), request_id);
        response
    }
}

fn answer(
    snapshot: &Snapshot,
    caller: &Principal,
    body: &[u8],
) -> Result<Response<Bytes>, Problem> {
    let body: Body = parse(body)?;
    let explanation = {
        let question = body.question(snapshot)?;
        snapshot.policies.explain_to_caller(caller, &question)
    };
    let generation = snapshot.policies.generation();
    let (decision, reason) = explanation.decision();
    // Without what was asked for: logs name no secrets.
    tracing::debug!(
        allowed = reason.is_none(),
        reason = reason.map(crate::policy::Reason::as_str),
        policy.name = decision.policy.as_deref(),
        policy.rule = decision.rule,
        policy.generation = decision.generation,
        principal = %caller,
        proofs = %caller.proofs(),
        decision_id = %decision.id,
        "dry run"
    );
    let Explanation { nearest, .. } = &explanation;
    Ok(json(
        StatusCode::OK,
        &Answer {
            allowed: reason.is_none(),
            principal: caller.to_string(),
            proofs: caller.proofs().iter().map(ProofKind::as_str).collect(),
            reason: reason.map(crate::policy::Reason::as_str),
            policy: decision.policy.as_deref(),
            rule: decision.rule,
            generation: decision.generation,
            policy_hash: &generation.hash,
            decision_id: decision.id.to_string(),
            nearest: nearest.as_ref().map(|NearMiss { policy, rule, unmet, .. }| Nearest {
                policy,
                rule: *rule,
                unmet,
            }),
        },
    ))
}

// === impl Body ===

impl Body {
    fn question(&self, snapshot: &Snapshot) -> Result<Question<'_>, Problem> {
        let about_http = [&self.method, &self.url, &self.host, &self.path];
        let about_secret = [&self.secret, &self.r#ref, &self.backend, &self.version, &self.field];
        let secret = self.verb.is_some() || about_secret.iter().any(|it| it.is_some());
        match (secret, about_http.iter().any(|it| it.is_some())) {
            (true, false) => self.about_secret(snapshot),
            (false, true) => self.about_http(snapshot),
            _ => Err(Problem::body("either verb and secret, or method and url, are required")),
        }
    }

    fn about_secret(&self, snapshot: &Snapshot) -> Result<Question<'_>, Problem> {
        let verb = self.verb.ok_or_else(|| Problem::body("verb is required"))?;
        let secret = self.located(snapshot)?;
        Unasked::check(verb, &secret, self.destination.is_some())
            .map_err(|unasked| Problem::body(unasked.to_string()))?;
        let destination = match &self.destination {
            None => Destination::default(),
            Some(BodyDestination::Toward(Object(toward))) => toward.as_destination()?,
            Some(BodyDestination::Workload(_)) => {
                return Err(Problem::body("the destination of use is an object"));
            }
        };
        Ok(Question::Secret { verb, secret: Cow::Owned(secret), destination, by: None })
    }

    fn located(&self, snapshot: &Snapshot) -> Result<SecretRef, Problem> {
        let Self { secret, r#ref, backend, version, field, .. } = self;
        match (secret, r#ref) {
            (None, Some(reference)) => {
                if [backend, version, field].iter().any(|part| part.is_some()) {
                    return Err(Problem::body("ref has backend, version and field in it"));
                }
                Ok(snapshot.catalog.parse_reference(reference)?)
            }
            (Some(name), None) => {
                let catalog = &snapshot.catalog;
                let mut secret = catalog.locate(name, NameEncoding::Plain, backend.as_deref())?;
                let version = version.as_deref().map(SecretVersion::parse).transpose()?;
                secret.version = version.unwrap_or_default();
                secret.field = field.as_deref().map(SecretField::parse).transpose()?;
                Ok(secret)
            }
            _ => Err(Problem::body("either secret or ref is required")),
        }
    }

    fn about_http(&self, snapshot: &Snapshot) -> Result<Question<'_>, Problem> {
        let method = self.method.as_deref().ok_or_else(|| Problem::body("method is required"))?;
        let (host, path) = match (&self.url, &self.host, &self.path) {
            (Some(url), None, None) => {
                split_url(url).ok_or_else(|| Problem::body("url is not http or https"))?
            }
            (None, Some(host), Some(path)) => (host.as_str(), path.as_str()),
            _ => return Err(Problem::body("either url, or host and path, are required")),
        };
        let workload = match &self.destination {
            None => None,
            Some(BodyDestination::Workload(account)) => {
                let account = ServiceAccount::parse(account);
                Some(account.map_err(|_| Problem::body("destination is not namespace/name"))?)
            }
            Some(BodyDestination::Toward(_)) => {
                return Err(Problem::body("the destination of a request is namespace/name"));
            }
        };
        let request = HttpRequest::new(method, host, path, workload).map_err(malformed)?;
        if snapshot.secret_routes.below(request.host(), split_query(path).0).is_some() {
            return Err(Problem::body("this is a secret route: ask about the secret"));
        }
        Ok(Question::Http(request))
    }
}

fn malformed(error: InvalidRequest) -> Problem {
    Problem::with_error(ProblemCode::MalformedRequest, error.to_string())
}

// === impl Toward ===

impl Toward {
    fn as_destination(&self) -> Result<Destination<'_>, Problem> {
        // Rules have hosts in their one spelling, and the proxy's is brought to it.
        if let Some(host) = &self.host
            && canonical_host(host).map_err(malformed)? != host.as_str()
        {
            return Err(Problem::body("host must be lower-case, without port"));
        }
        if let Some(path) = &self.path
            && canonical_path(path).map_err(malformed)? != path.as_str()
        {
            return Err(Problem::body("path must be without query"));
        }
        Ok(Destination {
            host: self.host.as_deref(),
            cluster: self.cluster.as_deref(),
            route: self.route.as_deref(),
            sni: self.sni.as_deref(),
            port: self.port.as_deref(),
            scheme: self.scheme.as_deref(),
            method: self.method.as_deref(),
            path: self.path.as_deref(),
        })
    }
}
