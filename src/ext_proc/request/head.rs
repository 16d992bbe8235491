//! What becomes of a request that is no secret operation: of its head now, of the rest
//! later.

use std::borrow::Cow;

use envoy_types::pb::envoy::service::ext_proc::v3::HeaderMutation;

use super::{Exchange, Plan, Used, Verdict};
use crate::{
    api::{Problem, ProblemCode, Refusal, settable},
    ext_proc::{
        BodyRefusal, HeadersAnswer, RequestHeaders, mutation, redact,
        session::Place,
        surface::{self, Piece, Unseen},
    },
    identity::Principal,
    injection::{
        HeaderText, Matched, Progress, Refused, Rewrite, Template, is_same, scan_headers,
        without_aliases,
    },
    policy::Denial,
    secret::SecretRef,
    signing::{Body, Signer},
};

/// What rules set in a request.
#[derive(Default)]
pub(super) struct Injected<'a> {
    rewrites: Vec<Rewrite<'a>>,
    query: Vec<(&'a str, &'a Template)>,
    pub(super) signers: Vec<&'a Signer>,
}

// === impl Exchange ===

impl Exchange<'_> {
    /// Puts secrets into the head of a request: those that rules name, and those that the
    /// client refers to. What its body needs is planned.
    pub(super) async fn inject(&self, request: &RequestHeaders) -> Verdict {
        let substitutions = &self.snapshot.substitutions;
        let path = self.head.path();
        let mut injected = self.injected(path);
        let matched = match substitutions.is_empty() {
            true => Matched::default(),
            false => substitutions.matching(
                self.head.method,
                self.head.path_or_none(),
                &self.head.destination(),
            ),
        };
        if let Some(reason) = matched.refused() {
            self.metrics.ext_proc_reference("denied", reason.as_str());
            let refusal = self.deny(Denial::new(reason), None);
            return Verdict::Answer(self.refuse(None, refusal));
        }
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
                self.metrics.ext_proc_reference("denied", error.reason().as_str());
                let refusal = self.deny(Denial::new(error.reason()), None);
                return Verdict::Answer(self.refuse(None, refusal));
            }
        };
        let found = scanned.and_then(|found| Ok((found, pieces?)));
        let mut replaced = Vec::new();
        let outcome = match found {
            Ok((found, pieces)) => {
                replaced.extend(found.iter().map(|rewrite| rewrite.name.to_string()));
                injected.rewrites.extend(found);
                self.plan(principal.as_ref(), &injected, pieces, body, matched, request).await
            }
            Err(refused) => {
                self.metrics.ext_proc_reference("denied", refused.reason());
                Err(Refusal::from(refused))
            }
        };
        match outcome {
            Ok(mut plan) => {
                plan.replaced.append(&mut replaced);
                self.log("injected", principal.as_ref(), None);
                let suspects = !self.snapshot.suspect_statuses.is_empty();
                let watched = suspects && !plan.used.secrets.is_empty();
                if plan.body.is_some() || plan.redacts || plan.signs || watched {
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
        let (mut done, mut replaced) = (Vec::with_capacity(pieces.len()), Vec::new());
        for mut piece in pieces {
            let mut progress = piece.start();
            while let Progress::Needs(needs) = progress {
                let decided = self.decide(principal, piece.place, needs, &mut used).await?;
                progress = piece.resolved(decided);
            }
            if progress == Progress::TooMany {
                return Err(Refused::TooMany.into());
            }
            for _ in 0..piece.too_many() {
                self.metrics.ext_proc_surface(piece.place.surface.as_str(), "too_many");
            }
            carries |= piece.replaced();
            if piece.replaced() {
                replaced.push(piece.header().to_owned());
            }
            done.push(piece);
        }
        surface::put(done, self.head, &mut mutation);
        if let Some(principal) = principal {
            self.set_query(principal, &injected.query, &mut mutation, &mut used).await?;
        }
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
            // gRPC's own, which has no other word for it.
            let accepts = "grpc-accept-encoding";
            if self.head.headers().any(|(name, _)| name == accepts) {
                mutation.remove_headers.push(accepts.to_owned());
            }
        }
        let mut signs = false;
        if let Some(principal) = principal.filter(|_| !injected.signers.is_empty()) {
            self.fetch_keys(principal, &injected.signers, &mut used).await?;
            // Last, over all that changes in the head.
            let seen = match request.headers.end_of_stream {
                true => Body::Whole(&[]),
                false => Body::Unseen,
            };
            signs = request.whole_body && self.needs_body(&injected.signers, seen, &mutation);
            if !signs {
                self.sign(&injected.signers, seen, &mut mutation, &mut used).await?;
            }
        }
        replaced.dedup();
        Ok(Plan { mutation, replaced, principal: None, used, body, required, redacts, signs })
    }

    /// What rules set. Of several rules for one header the first wins.
    pub(super) fn injected(&self, path: Option<&str>) -> Injected<'_> {
        let destination = self.head.destination();
        let mut injected = Injected::default();
        for injection in self.snapshot.injections.iter() {
            if !injection.matcher.matches(self.head.method, path, &destination) {
                continue;
            }
            for (name, value) in &injection.headers {
                if !injected.sets(name) {
                    let value = HeaderText::Resolved(Cow::Borrowed(value));
                    injected.rewrites.push(Rewrite { name: name.clone(), values: vec![value] });
                }
            }
            for (name, value) in &injection.query {
                if !injected.query.iter().any(|(seen, _)| seen == name) {
                    injected.query.push((name, value));
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

    /// Sets parameters of the query, in the target as it is by now.
    async fn set_query(
        &self,
        principal: &Principal,
        parameters: &[(&str, &Template)],
        mutation: &mut HeaderMutation,
        used: &mut Used,
    ) -> Result<(), Refusal> {
        if parameters.is_empty() {
            return Ok(());
        }
        let secrets = parameters.iter().flat_map(|(_, value)| value.references());
        let fetched = self.injector(principal).fetch(secrets).await?;
        let target = mutation::target_after(mutation).unwrap_or(self.head.target);
        let target = surface::with_query(target, parameters, |secret| fetched.value(secret));
        let target = self.injector(principal).placed(fetched.len(), target)?;
        mutation.set_headers.push(mutation::overwrite(":path", target));
        used.extend(fetched);
        Ok(())
    }

    async fn substitute(
        &self,
        principal: &Principal,
        rewrites: &[Rewrite<'_>],
        used: &mut Used,
    ) -> Result<HeaderMutation, Refusal> {
        settable(rewrites.iter().map(|rewrite| rewrite.name.as_str()))?;
        let secrets = rewrites.iter().flat_map(Rewrite::references);
        let fetched = self.injector(principal).fetch(secrets).await?;
        let mutation = mutation::rewrite(rewrites, |secret| fetched.value(secret));
        let mutation = self.injector(principal).placed(fetched.len(), mutation)?;
        used.extend(fetched);
        Ok(mutation)
    }
}

// === impl Injected ===

impl Injected<'_> {
    /// All that rules would put into the request.
    pub(super) fn references(&self) -> impl Iterator<Item = &SecretRef> {
        let rewrites = self.rewrites.iter().flat_map(Rewrite::references);
        let query = self.query.iter().flat_map(|(_, value)| value.references());
        rewrites.chain(query).chain(self.signers.iter().flat_map(|signer| signer.references()))
    }

    fn is_empty(&self) -> bool {
        self.rewrites.is_empty() && self.query.is_empty() && self.signers.is_empty()
    }

    pub(super) fn sets(&self, name: &http::HeaderName) -> bool {
        self.rewrites.iter().any(|rewrite| rewrite.name == name)
            || self.signers.iter().any(|signer| signer.headers().contains(name))
    }
}
