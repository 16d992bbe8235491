//! A request after its headers: what references in its body stand for, and what of its
//! response must not reach the client. Asks the core, and translates what it says.

use std::sync::Arc;

use bytes::Bytes;
use envoy_types::pb::envoy::{
    config::core::v3::HeaderValue,
    service::ext_proc::v3::{HeaderMutation, HttpHeaders, HttpTrailers, ImmediateResponse},
};
use tonic::async_trait;

use super::{
    BodyRefusal, RequestHeaders, ResponseAnswer, Session, Transform,
    attributes::Head,
    mutation,
    redact::{self, Mask, Needles, NeedlesBuilder, Redactor},
    request::{Exchange, Used},
    suspects,
};
use crate::{
    api,
    api::{Problem, ProblemCode, Refusal},
    identity::Principal,
    injection::{Resolution, Surface, Violation},
    metrics::Metrics,
    signing::AccessTokens,
    snapshot::Snapshot,
};

/// One request after its headers.
pub(super) struct SecretSession {
    pub(super) metrics: Arc<Metrics>,
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) settings: super::ExtProcSettings,
    pub(super) tokens: Arc<AccessTokens>,
    pub(super) request: RequestHeaders,
    pub(super) request_id: String,
    /// Without one, references are text.
    pub(super) principal: Option<Principal>,
    pub(super) place: Option<Place>,
    /// What was done to the headers that wait for credentials made of the body.
    pub(super) unsigned: Option<HeaderMutation>,
    pub(super) used: Used,
    pub(super) redacts: bool,
    /// Whether the response has begun, and with it what is taken out of it was settled.
    pub(super) answered: bool,
    pub(super) needles: Option<Arc<Needles>>,
}

/// What stands in a response for a token that an issuer gave: no reference leads to it.
const ISSUED: &str = "[redacted]";

/// Where references stand, and what is done about those that may not be used there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) surface: Surface,
    pub(super) violation: Violation,
    /// Why nothing can be replaced here, if so.
    pub(super) frozen: Option<&'static str>,
}

/// A redactor that counts.
struct Redaction {
    redactor: Redactor,
    metrics: Arc<Metrics>,
}

// === impl SecretSession ===

#[async_trait]
impl Session for SecretSession {
    async fn resolve(
        &mut self,
        references: Vec<String>,
        patient: bool,
    ) -> Result<Vec<(String, Resolution)>, ImmediateResponse> {
        let budget = if patient { self.settings.duplex_budget } else { self.settings.budget() };
        let head = Head::new(&self.request).ruled_by(&self.snapshot);
        let exchange = Exchange {
            metrics: &self.metrics,
            snapshot: &self.snapshot,
            head: &head,
            tokens: &self.tokens,
            request_id: &self.request_id,
            deadline: api::deadline(budget),
        };
        let Some(place) = self.place else { return Ok(Vec::new()) };
        let principal = self.principal.as_ref();
        if self.redacts && self.answered {
            self.metrics.ext_proc_body("response_early");
            let problem = Problem::new(ProblemCode::BackendRefused);
            let details = "vaultmux_response_early".to_owned();
            return Err(exchange.end(principal, Refusal { problem, details }));
        }
        let decided = exchange.decide(principal, place, references, &mut self.used).await;
        decided.map_err(|refusal| exchange.end(principal, refusal))
    }

    async fn sign(
        &mut self,
        body: Bytes,
        changed: bool,
    ) -> Result<HeaderMutation, ImmediateResponse> {
        let head = Head::new(&self.request).ruled_by(&self.snapshot);
        let exchange = Exchange {
            metrics: &self.metrics,
            snapshot: &self.snapshot,
            head: &head,
            tokens: &self.tokens,
            request_id: &self.request_id,
            deadline: api::deadline(self.settings.message_budget),
        };
        let mut unsigned = self.unsigned.take().unwrap_or_default();
        if changed && self.request.framing.length.is_some() {
            // As it will be, once both have been changed.
            let length = body.len().to_string().into_bytes();
            unsigned.set_headers.push(mutation::overwrite("content-length", length));
        }
        let signed = exchange.sign_body(&body, unsigned, &mut self.used).await;
        signed.map_err(|refusal| exchange.end(self.principal.as_ref(), refusal))
    }

    fn refuse(&mut self, refusal: BodyRefusal) -> ImmediateResponse {
        let code = match refusal {
            // It is the response that is not let through.
            _ if self.needles.is_some() => ProblemCode::BackendRefused,
            BodyRefusal::TooLarge | BodyRefusal::Incomplete => ProblemCode::BodyTooLarge,
            BodyRefusal::TooMany | BodyRefusal::Position => ProblemCode::InvalidReference,
            BodyRefusal::NoReference => ProblemCode::Forbidden,
            BodyRefusal::Held | BodyRefusal::Headless => ProblemCode::Internal,
        };
        let details = format!("vaultmux_{}", refusal.as_str());
        self.end(Refusal { problem: Problem::new(code), details })
    }

    fn on_response_headers(
        &mut self,
        headers: &HttpHeaders,
    ) -> Result<ResponseAnswer, ImmediateResponse> {
        let tokens = (&*self.tokens, &*self.metrics);
        suspects::suspect(headers, &self.used, &self.snapshot, tokens, &self.request_id);
        let mut answer = ResponseAnswer::default();
        self.answered = true;
        if !self.redacts {
            return Ok(answer);
        }
        self.needles = self.used.needles().map(Arc::new);
        let Some(needles) = self.needles.clone() else { return Ok(answer) };
        let map = headers.headers.iter().flat_map(|map| &map.headers);
        let named =
            |name: &'static str| map.clone().filter(move |header| header.key == name).map(value);
        // Of a gRPC message each can be compressed.
        let encodings = named("content-encoding").chain(named("grpc-encoding"));
        let readable =
            redact::is_readable(encodings) && redact::is_whole(named("transfer-encoding"));
        let tunnel = map.clone().any(|header| header.key == ":status" && value(header) == b"101");
        if tunnel || !headers.end_of_stream && !readable {
            self.metrics.ext_proc_body("response_unreadable");
            let problem = Problem::new(ProblemCode::BackendRefused);
            let details = "vaultmux_response_unreadable".to_owned();
            return Err(self.end(Refusal { problem, details }));
        }
        answer.mutation = redacted(&needles, map.clone(), &self.metrics);
        if !headers.end_of_stream {
            for header in map.clone().filter(|header| redact::is_stale(&header.key)) {
                answer.mutation.remove_headers.push(header.key.clone());
            }
            let mask = Mask::of_body(named("content-type"));
            let redactor = Redactor::new(needles).masked(mask);
            let metrics = Arc::clone(&self.metrics);
            answer.transform = Some(Box::new(Redaction { redactor, metrics }));
        }
        Ok(answer)
    }

    fn on_response_trailers(&mut self, trailers: &HttpTrailers) -> HeaderMutation {
        let map = trailers.trailers.iter().flat_map(|map| &map.headers);
        match &self.needles {
            Some(needles) => redacted(needles, map, &self.metrics),
            None => HeaderMutation::default(),
        }
    }
}

impl SecretSession {
    fn end(&self, refusal: Refusal) -> ImmediateResponse {
        let head = Head::new(&self.request);
        let response = api::refuse(refusal.problem, &self.request_id);
        mutation::immediate(response, &refusal.details, head.grpc)
    }
}

/// Headers without the values, those of several values in order.
fn redacted<'h>(
    needles: &Needles,
    headers: impl Iterator<Item = &'h HeaderValue> + Clone,
    metrics: &Metrics,
) -> HeaderMutation {
    let mut mutation = HeaderMutation::default();
    let mut names: Vec<&str> = Vec::new();
    // Binary metadata of gRPC is base64 of something that tells its own lengths.
    let mask = |name: &str| name.ends_with("-bin").then_some(Mask::BASE64);
    for header in headers.clone().filter(|header| !header.key.starts_with(':')) {
        let name = header.key.as_str();
        if !names.contains(&name) && needles.redact(value(header)).is_some() {
            names.push(&header.key);
        }
    }
    for name in names {
        metrics.ext_proc_body("redacted");
        let values = headers.clone().filter(|header| header.key == name).map(value);
        let values = values
            .map(|value| needles.redact_by(value, mask(name)).unwrap_or_else(|| value.to_vec()));
        mutation::put(&mut mutation, name, values.collect());
    }
    mutation
}

/// Envoy fills `raw_value`; other data planes fill `value` for some.
fn value(header: &HeaderValue) -> &[u8] {
    match header.raw_value.as_slice() {
        [] => header.value.as_bytes(),
        raw => raw,
    }
}

// === impl Used ===

impl Used {
    /// What has to be found in the response; none if nothing was put into the request.
    fn needles(&self) -> Option<Needles> {
        let mut builder = NeedlesBuilder::default();
        for (permit, record) in &self.secrets {
            builder.add(&record.value, permit.secret());
        }
        self.issued.iter().for_each(|token| builder.add_as(token.value(), ISSUED));
        builder.build()
    }
}

// === impl Redaction ===

impl Transform for Redaction {
    fn push(&mut self, chunk: bytes::Bytes, out: &mut Vec<bytes::Bytes>) {
        self.redactor.push(chunk, out);
    }

    fn finish(&mut self, out: &mut Vec<bytes::Bytes>) {
        self.redactor.finish(out);
    }

    fn held(&self) -> usize {
        self.redactor.held()
    }
}

impl Drop for Redaction {
    fn drop(&mut self) {
        if self.redactor.redacted() > 0 {
            self.metrics.ext_proc_body("redacted");
        }
    }
}
