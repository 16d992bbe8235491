//! Secrets in the headers of a request that was allowed: put there with the answer, or
//! fetched ahead for `ext_proc`, which puts them there a moment later.
//!
//! A check request does not say where the request goes. What binds a secret here is what
//! the route's own settings say, or the operator's configuration of this proxy; never what
//! the client sent.

use envoy_types::pb::envoy::service::auth::v3::CheckRequest;
use tokio::time::Instant;

use super::{
    attributes::{self, Route},
    cookies::Cookies,
};
use crate::{
    api::{
        Injector, ORIGINAL_URL, Problem, ProblemCode, Recorder, Refusal, check::Http,
        not_redirected,
    },
    identity::Principal,
    injection::{
        Injection, InjectionMatch, Matched, Refused, Rewrite, Surface, Unaliased, Unfit,
        UnfitReason, is_pathless, is_same, rules, scan_headers, without_aliases,
    },
    metrics::Edge,
    operation::SecretOperation,
    policy::{Denial, Destination, PrefetchPermit, Verb, canonical_host, canonical_path},
    snapshot::Snapshot,
};

/// Secrets that one request has fetched ahead at most.
const MOST_AHEAD: usize = 8;

/// A request that was allowed.
pub(super) struct Allowed<'a> {
    pub(super) snapshot: &'a Snapshot,
    pub(super) request: &'a CheckRequest,
    pub(super) principal: &'a Principal,
    pub(super) http: Http<'a>,
    pub(super) route: Route<'a>,
}

/// A header to set, in place of the client's.
pub(super) struct SetHeader {
    pub(super) name: String,
    pub(super) value: String,
}

// === impl Allowed ===

impl Allowed<'_> {
    /// Puts secrets into the headers, where that is done here. Of others, starts to fetch
    /// what they need.
    pub(super) async fn inject(
        &self,
        recorder: Recorder<'_>,
        deadline: Instant,
    ) -> Result<Vec<SetHeader>, Refusal> {
        let settings = &self.snapshot.check_injection;
        let host = canonical_host(self.http.host).ok();
        let destination = self.destination(host.as_deref());
        if !settings.inject || !self.route.inject {
            if settings.prefetch {
                self.fetch_ahead(&destination, recorder);
            }
            return Ok(Vec::new());
        }
        let counted = |refusal: Refusal, reason| {
            recorder.metrics.ext_authz_reference("denied", reason);
            refusal
        };
        // Headers that come in several are joined, which is no URL.
        let headers = attributes::headers(self.request);
        for (_, url) in headers.filter(|(name, _)| name.eq_ignore_ascii_case(ORIGINAL_URL)) {
            not_redirected(url, &self.snapshot.policies)
                .map_err(|refusal| counted(refusal, "redirected"))?;
        }
        let substitutions = &self.snapshot.substitutions;
        let pathless = || is_pathless(self.http.method, self.http.path).then_some("");
        let path = canonical_path(self.http.path).ok().or_else(pathless);
        let matched = substitutions.matching(self.http.method, path, &destination);
        let unaliased = without_aliases(substitutions, attributes::headers(self.request));
        let cookies = matched.surfaces.get(Surface::Cookie);
        let (mut rewrites, scanned) = self.rewrites(
            unaliased.as_ref(),
            &destination,
            cookies.is_some(),
            InjectionMatch::matches,
        );
        let refused = |refused: Refused| {
            let reason = refused.reason();
            counted(refused.into(), reason)
        };
        rewrites.extend(scanned.map_err(refused)?);
        if let Some(reason) = matched.refused() {
            let refusal = Refusal::denied(Denial::new(reason), Edge::ExtAuthz);
            return Err(counted(refusal, reason.as_str()));
        }
        let cookies = match cookies {
            Some(violation) => Cookies::find(self, violation).map_err(refused)?,
            None => None,
        };
        let Matched { required, redacts, .. } = matched;
        let lacking = || {
            let problem = Problem::new(ProblemCode::Forbidden);
            let details = "vaultmux_reference_required".to_owned();
            counted(Refusal { problem, details }, "required")
        };
        if rewrites.is_empty() && cookies.is_none() {
            return if required { Err(lacking()) } else { Ok(Vec::new()) };
        }
        let (snapshot, principal) = (self.snapshot, self.principal);
        let injector = Injector { snapshot, recorder, principal, destination, deadline };
        // Nobody here sees the response.
        if redacts {
            let problem = Problem::new(ProblemCode::Internal);
            let details = "vaultmux_mode_unable:ext_authz".to_owned();
            return Err(counted(Refusal { problem, details }, "redact"));
        }
        // Where the proxy tells values apart, one that it would join for others.
        if rewrites.iter().any(|rewrite| rewrite.values.len() != 1) {
            return Err(refused(Refused::Position));
        }
        let headers = injector.apply(&rewrites).await?.into_iter().zip(&rewrites);
        let set = headers.flat_map(|(header, rewrite)| {
            let name = header.name;
            header.values.into_iter().map(move |mut value| {
                let value = String::from_utf8(std::mem::take(&mut *value));
                let value = value.map_err(|error| {
                    // What was wrong is said without the bytes.
                    drop(zeroize::Zeroizing::new(error.into_bytes()));
                    not_text(rewrite)
                })?;
                Ok(SetHeader { name: name.as_str().to_owned(), value })
            })
        });
        let mut set = set.collect::<Result<Vec<_>, Refusal>>()?;
        if let Some(cookies) = cookies {
            set.extend(cookies.replace(&injector).await?);
        }
        if required && set.is_empty() {
            return Err(lacking());
        }
        Ok(set)
    }

    /// Starts to fetch what `ext_proc` or REST will need for this request.
    fn fetch_ahead(&self, destination: &Destination<'_>, recorder: Recorder<'_>) {
        let Snapshot { policies, resolver, .. } = self.snapshot;
        let headers = attributes::headers(self.request);
        let unaliased = without_aliases(&self.snapshot.substitutions, headers);
        let (rewrites, scanned) =
            self.rewrites(unaliased.as_ref(), destination, true, InjectionMatch::could_match);
        // What is malformed is refused by whoever uses it.
        let Ok(found) = scanned else { return };
        let mut asked = Vec::new();
        for secret in rewrites.iter().chain(&found).flat_map(Rewrite::references) {
            if asked.contains(&secret) || asked.len() == MOST_AHEAD {
                continue;
            }
            asked.push(secret);
            let permit = policies.authorize_prefetch(self.principal, secret, destination);
            if let Some(permit) = permit {
                resolver.prefetch(&permit, recorder.request_id);
            }
        }
    }

    /// What rules set, and what the client refers to beside that, other than in `cookies`.
    fn rewrites<'s>(
        &'s self,
        unaliased: Option<&'s Unaliased<'s>>,
        destination: &Destination<'_>,
        cookies: bool,
        matches: impl Fn(&InjectionMatch, &str, Option<&str>, &Destination<'_>) -> bool,
    ) -> (Vec<Rewrite<'s>>, Result<Vec<Rewrite<'s>>, Refused>) {
        let path = canonical_path(self.http.path).ok();
        let matching = |Injection { matcher, .. }: &&Injection| {
            matches(matcher, self.http.method, path, destination)
        };
        let rewrites = rules(self.snapshot.injections.iter().filter(matching));
        let overridden = |name: &str| {
            cookies && name.eq_ignore_ascii_case("cookie")
                || rewrites.iter().any(|rewrite| is_same(&rewrite.name, name))
        };
        let catalog = &self.snapshot.catalog;
        let scanned = match unaliased {
            None => scan_headers(attributes::headers(self.request), overridden, catalog),
            Some(headers) => {
                let headers = headers.iter().map(|(name, value)| (*name, value.as_ref()));
                scan_headers(headers, overridden, catalog)
            }
        };
        (rewrites, scanned)
    }

    /// Where the request goes: as its route says, or else as the configuration says of this
    /// proxy.
    fn destination<'s>(&'s self, host: Option<&'s str>) -> Destination<'s> {
        let Route { cluster, route, sni, scheme, ref port, ref proxy, .. } = self.route;
        let mut destination = Destination {
            host,
            cluster,
            route,
            sni,
            port: port.as_deref(),
            scheme,
            method: Some(self.http.method).filter(|method| !method.is_empty()),
            path: canonical_path(self.http.path).ok(),
        };
        if cluster.is_none() && route.is_none() {
            let mut stated = self.snapshot.check_injection.destinations.iter();
            let about = proxy
                .as_ref()
                .and_then(|proxy| stated.find(|stated| stated.is_about(proxy, self.http.host)));
            destination.cluster = about.and_then(|stated| stated.cluster.as_deref());
            destination.route = about.and_then(|stated| stated.route.as_deref());
        }
        destination
    }
}

/// Starts to fetch the secret that an allowed operation reads.
pub(super) fn fetch_for_read(
    snapshot: &Snapshot,
    principal: &Principal,
    operation: &SecretOperation,
    recorder: Recorder<'_>,
) {
    let SecretOperation::Item { verb: Verb::Get, secret, refresh: false, .. } = operation else {
        return;
    };
    if snapshot.check_injection.prefetch
        && let Ok(permit) = snapshot.policies.authorize(principal, Verb::Get, secret)
    {
        snapshot.resolver.prefetch(&PrefetchPermit::from(permit), recorder.request_id);
    }
}

fn not_text(rewrite: &Rewrite<'_>) -> Refusal {
    let secret = rewrite.references().next().cloned();
    match secret {
        Some(secret) => Unfit { secret, reason: UnfitReason::NotText }.into(),
        None => Refused::NotText.into(),
    }
}
