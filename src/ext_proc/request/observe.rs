//! Requests that Envoy only shows, in observability mode: counts what would become of them.
//! Fetches nothing, and tells the audit stream nothing, since nothing is used.

use super::Exchange;
use crate::{
    api::not_redirected,
    ext_proc::{RequestHeaders, surface},
    injection::{Matched, Progress, Refused, Rewrite, Violation, scan_headers, without_aliases},
    secret::SecretRef,
};

/// What would have become of a request.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// It has no reference, and no rule is for it.
    Nothing,
    Inject,
    Refuse,
}

impl Exchange<'_> {
    /// Counts and logs it, unless there is nothing to be done about it. Bodies do not count.
    pub(super) fn observe(&self, request: &RequestHeaders) {
        let (result, outcome) = match self.would_become(request) {
            Outcome::Nothing => return,
            Outcome::Inject => ("would_inject", "would inject"),
            Outcome::Refuse => ("would_refuse", "would refuse"),
        };
        self.metrics.ext_proc_observed(result);
        let principal = self.head.caller(request, self.snapshot).ok();
        self.log(outcome, principal.as_ref(), None);
    }

    fn would_become(&self, request: &RequestHeaders) -> Outcome {
        let (snapshot, head) = (self.snapshot, self.head);
        let path = crate::operation::split_query(head.target).0;
        if head.host().and_then(|host| snapshot.secret_routes.below(host, path)).is_some() {
            return Outcome::Nothing;
        }
        let redirected = head.original_url.map(|url| not_redirected(url, &snapshot.policies));
        if redirected.is_some_and(|outcome| outcome.is_err()) {
            return Outcome::Refuse;
        }
        let substitutions = &snapshot.substitutions;
        let injected = self.injected(head.path());
        let matched: Matched =
            substitutions.matching(head.method, head.path_or_none(), &head.destination());
        if matched.refused().is_some() {
            return Outcome::Refuse;
        }
        let Ok(found) = self.found(&injected, &matched) else { return Outcome::Refuse };
        let mut references: Vec<&SecretRef> = injected.references().collect();
        references.extend(found.iter());
        if references.is_empty() {
            // Where it may still be in the body, nobody knows.
            let body = surface::body(&matched.surfaces, request, head);
            let missing = matched.required && body.is_ok_and(|body| body.is_none());
            return if missing { Outcome::Refuse } else { Outcome::Nothing };
        }
        let Ok(principal) = head.caller(request, snapshot) else { return Outcome::Refuse };
        let destination = head.destination();
        let allowed = |secret: &&SecretRef| {
            snapshot.policies.authorize_use(&principal, secret, &destination).is_ok()
        };
        match snapshot.upstreams.admit(destination.cluster) && references.iter().all(allowed) {
            true => Outcome::Inject,
            false => Outcome::Refuse,
        }
    }

    /// The references in the head that would have to be replaced: text does not count.
    fn found(
        &self,
        injected: &super::head::Injected<'_>,
        matched: &Matched,
    ) -> Result<Vec<SecretRef>, Refused> {
        let (substitutions, catalog) = (&self.snapshot.substitutions, &self.snapshot.catalog);
        let overridden = |name: &str| {
            let set = |name| injected.sets(&name);
            surface::takes(&matched.surfaces, name)
                || http::HeaderName::from_bytes(name.as_bytes()).is_ok_and(set)
        };
        let headers = self.head.headers();
        let mut found = match without_aliases(substitutions, headers.clone()) {
            None => owned(&scan_headers(headers, overridden, catalog)?),
            Some(headers) => {
                let headers = headers.iter().map(|(name, value)| (*name, value.as_ref()));
                owned(&scan_headers(headers, overridden, catalog)?)
            }
        };
        for mut piece in surface::pieces(substitutions, &matched.surfaces, self.head)? {
            match piece.start() {
                Progress::Idle => {}
                Progress::TooMany | Progress::Misplaced => return Err(Refused::TooMany),
                Progress::Needs(texts) => {
                    for text in texts {
                        match substitutions.target(&text, catalog) {
                            Ok(target) => {
                                let strict = target.on_violation.unwrap_or(piece.place.violation);
                                if strict == Violation::Deny {
                                    found.push(target.secret);
                                }
                            }
                            Err(error) if piece.place.violation == Violation::Deny => {
                                return Err(Refused::Reference(error));
                            }
                            Err(_) => {}
                        }
                    }
                }
            }
        }
        Ok(found)
    }
}

fn owned(rewrites: &[Rewrite<'_>]) -> Vec<SecretRef> {
    rewrites.iter().flat_map(Rewrite::references).cloned().collect()
}
