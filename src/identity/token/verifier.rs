//! The way of one token: cache, its own words, keys, API server.
//!
//! A verdict is remembered under the hash of token and audiences. What depends on the
//! time or on the cluster is asked again on every use: expiry, and whether service
//! account and pod are known to be deleted. Bad tokens and good ones are remembered
//! apart, so that a flood of the ones never pushes out the others.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::digest;
use moka::sync::Cache;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};
use zeroize::Zeroizing;

use super::{
    Bearer, Binding, KeyLocation, LEEWAY, ReviewSettings, Reviewed, Reviewer, Revocations,
    TokenError, TokenProof, TokenRefusal, TokenSettings, WatchGuard,
    cluster::ClusterSource,
    jwks::{FileSource, HttpsSource, KeySet, KeySource},
    unverified::{self, Claims, UnverifiedToken},
};
use crate::{
    apiserver::ApiServer,
    flight::Flights,
    identity::{SpiffeId, TrustDomain},
    metrics::{Metrics, TokenGauges},
};

/// How many refusals of the API server are remembered.
const MAX_REFUSED: u64 = 10_000;
/// How many reviews may be under way or wait for their turn.
const MAX_REVIEWS: usize = 1024;

type Digest = [u8; digest::SHA256_OUTPUT_LEN];
type Verdict = Result<Arc<Verified>, TokenError>;

/// Says whose a service account's token is.
pub struct TokenVerifier {
    settings: TokenSettings,
    /// Names of service accounts in tokens are of this trust domain.
    trust_domain: TrustDomain,
    /// What every key of the caches begins with: the audiences.
    context: digest::Context,
    good: Cache<Digest, Arc<Verified>>,
    refused: Cache<Digest, TokenRefusal>,
    keys: Option<Arc<KeySet>>,
    reviewer: Option<Reviewer>,
    /// By token and epoch: who asks after a deletion must not get an answer from before.
    reviews: Flights<(Digest, u64), Verdict>,
    places: Arc<Semaphore>,
    revocations: Arc<Revocations>,
    watch: Option<Arc<WatchGuard>>,
    metrics: Arc<Metrics>,
}

/// A good token.
struct Verified {
    proof: Arc<TokenProof>,
    claims: Claims,
    at: Instant,
    /// Of [`Revocations::epoch`], before it was asked about.
    epoch: u64,
}

/// Settings that no token could be verified with.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct TokenSetupError(String);

// === impl TokenSetupError ===

impl TokenSetupError {
    pub(super) fn new(why: impl std::fmt::Display) -> Self {
        Self(why.to_string())
    }
}

// === impl TokenVerifier ===

impl TokenVerifier {
    /// A verifier that waits for nobody: keys are fetched, and the watch for deletions
    /// begins, in the background. The watch goes on with what the verifier `before` has
    /// seen of the same cluster.
    ///
    /// # Errors
    /// [`TokenSetupError`] for settings that cannot be used.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub async fn connect(
        settings: TokenSettings,
        trust_domain: TrustDomain,
        metrics: Arc<Metrics>,
        before: Option<&Self>,
    ) -> Result<Arc<Self>, TokenSetupError> {
        let failed = |error: &dyn std::fmt::Display| TokenSetupError(error.to_string());
        let api = match settings.uses_api_server() {
            true => {
                let (path, context) = (settings.kubeconfig.clone(), settings.context.clone());
                let connected = ApiServer::connect(path, context, ReviewSettings::TIMEOUT).await;
                Some(connected.map_err(|error| failed(&error))?)
            }
            false => None,
        };
        let needed = || api.clone().expect("connected where it is used");
        let source: Option<Box<dyn KeySource>> = match (&settings.keys, settings.uses_keys()) {
            (_, false) => None,
            (KeyLocation::Cluster, true) => Some(Box::new(ClusterSource(needed()))),
            (KeyLocation::File(path), true) => Some(Box::new(FileSource::new(path.clone()))),
            (KeyLocation::Https { url, ca_file }, true) => {
                let source = HttpsSource::new(url, ca_file.clone());
                Some(Box::new(source.map_err(|error| failed(&error))?))
            }
        };
        let reviewer = settings.uses_reviews().then(|| {
            let audiences = settings.audiences.iter().map(|audience| audience.as_str().into());
            let settings = ReviewSettings {
                audiences: audiences.collect(),
                per_second: settings.reviews_per_second,
                burst: settings.reviews_burst,
                timeout: ReviewSettings::TIMEOUT,
            };
            Reviewer::new(needed(), settings)
        });
        let same_cluster = |before: &&Self| {
            let (old, new) = (&before.settings, &settings);
            old.kubeconfig == new.kubeconfig && old.context == new.context
        };
        let (revocations, watch) = match before.filter(same_cluster) {
            // What is known to be deleted stays so.
            Some(before) => (Arc::clone(&before.revocations), before.watch.clone()),
            None => (Arc::new(Revocations::new(settings.max_lifetime)), None),
        };
        let watch = match (settings.watch, watch) {
            (true, None) => Some(Arc::new(revocations.watch(needed().client()))),
            (true, watch) => watch,
            (false, _) => None,
        };
        let watch = (revocations, watch);
        let verifier = Self::new(settings, trust_domain, source, reviewer, watch, metrics);
        if let Some(keys) = &verifier.keys {
            keys.prefetch();
        }
        Ok(Arc::new(verifier))
    }

    fn new(
        settings: TokenSettings,
        trust_domain: TrustDomain,
        source: Option<Box<dyn KeySource>>,
        reviewer: Option<Reviewer>,
        (revocations, watch): (Arc<Revocations>, Option<Arc<WatchGuard>>),
        metrics: Arc<Metrics>,
    ) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        for audience in &settings.audiences {
            // No audience holds a NUL, so no two lists look alike.
            context.update(audience.as_bytes());
            context.update(&[0]);
        }
        context.update(&[0]);
        let audiences: Arc<[String]> = settings.audiences.clone().into();
        let keys =
            source.map(|source| Arc::new(KeySet::new(source, settings.issuer.clone(), audiences)));
        Self {
            good: Cache::builder()
                .max_capacity(settings.max_entries)
                .time_to_live(settings.ttl + settings.stale_if_unavailable)
                .build(),
            refused: Cache::builder()
                .max_capacity(MAX_REFUSED)
                .time_to_live(settings.negative_ttl)
                .build(),
            settings,
            trust_domain,
            context,
            keys,
            reviewer,
            reviews: Flights::new(),
            places: Arc::new(Semaphore::new(MAX_REVIEWS)),
            revocations,
            watch,
            metrics,
        }
    }

    /// Says whose the token is; `None` if it does not claim to be a service account's,
    /// and hence proves nothing either way.
    ///
    /// # Errors
    /// [`TokenError`], before `deadline`.
    pub async fn verify(
        self: &Arc<Self>,
        bearer: Bearer<'_>,
        deadline: Instant,
    ) -> Result<Option<Arc<TokenProof>>, TokenError> {
        let (result, outcome) = match self.find(bearer, deadline).await {
            Ok((result, proof)) => (result, Ok(proof)),
            Err(error) => (error.as_str(), Err(error)),
        };
        self.metrics.token_verification(result);
        outcome
    }

    /// Writes what is only known when asked for.
    pub fn measure(&self) {
        let keys = self.keys.as_ref();
        self.metrics.tokens(TokenGauges {
            cached: self.good.entry_count(),
            keys_age: keys.and_then(|keys| keys.age()),
            key_fetches: keys.map(|keys| keys.fetches()).map(|it| (it.succeeded, it.failed)),
        });
    }

    async fn find(
        self: &Arc<Self>,
        bearer: Bearer<'_>,
        deadline: Instant,
    ) -> Result<(&'static str, Option<Arc<TokenProof>>), TokenError> {
        let text = bearer.as_str();
        let digest = self.digest(text);
        let held = self.good.get(&digest);
        if let Some(held) = &held {
            self.admit(&held.claims)?;
            self.spare(&held.proof, &held.claims)?;
            if self.is_fresh(held) {
                return Ok(("cached", Some(Arc::clone(&held.proof))));
            }
        }
        let Some(token) = unverified::read(text)? else { return Ok(("foreign", None)) };
        self.admit(&token.claims)?;
        if let Some(refusal) = self.refused.get(&digest) {
            return Err(refusal.into());
        }
        match self.ask(&token, digest, deadline).await {
            Ok(verified) => Ok(("verified", Some(Arc::clone(&verified.proof)))),
            Err(TokenError::Unavailable) => match held.filter(|held| self.may_be_stale(held)) {
                Some(held) => {
                    // It took a while to learn that nobody answers.
                    self.admit(&held.claims)?;
                    self.spare(&held.proof, &held.claims)?;
                    Ok(("stale", Some(Arc::clone(&held.proof))))
                }
                None => Err(TokenError::Unavailable),
            },
            Err(refused) => {
                // What was believed before must not outlive this.
                self.good.invalidate(&digest);
                Err(refused)
            }
        }
    }

    async fn ask(
        self: &Arc<Self>,
        token: &UnverifiedToken<'_>,
        digest: Digest,
        deadline: Instant,
    ) -> Verdict {
        let epoch = self.revocations.epoch();
        if let Some(keys) = &self.keys {
            keys.verify(token, deadline).await?;
        }
        if self.reviewer.is_none() {
            let reviewed = Reviewed {
                account_uid: None,
                pod: token.claims.pod.clone(),
                node: token.claims.node.clone(),
                credential_id: token.claims.id.clone(),
            };
            return self.keep(digest, token.claims.clone(), reviewed, epoch);
        }
        let flight = match Arc::clone(&self.places).try_acquire_owned() {
            Ok(place) => self.reviews.join(&(digest, epoch), || {
                let text = Zeroizing::new(token.text().to_owned());
                Arc::clone(self).review(text, token.claims.clone(), digest, epoch, place)
            }),
            Err(_) => self.reviews.running(&(digest, epoch)).ok_or(TokenError::Unavailable)?,
        };
        flight.wait(deadline).await.unwrap_or(Err(TokenError::Unavailable))
    }

    /// Runs to its end, whoever still waits for it.
    async fn review(
        self: Arc<Self>,
        token: Zeroizing<String>,
        claims: Claims,
        digest: Digest,
        epoch: u64,
        _place: OwnedSemaphorePermit,
    ) -> Verdict {
        // Another review may have ended since the caches were looked at.
        if let Some(held) = self.good.get(&digest).filter(|held| self.is_fresh(held)) {
            self.spare(&held.proof, &held.claims)?;
            return Ok(held);
        }
        if let Some(refusal) = self.refused.get(&digest) {
            return Err(refusal.into());
        }
        let reviewer = self.reviewer.as_ref().expect("asked only where there is one");
        let reviewed = reviewer.review(&token, &claims.account).await;
        self.metrics.token_review(match &reviewed {
            Ok(_) => "authenticated",
            Err(TokenError::Refused(_)) => "refused",
            Err(TokenError::Unavailable) => "failed",
        });
        let verdict = reviewed.and_then(|reviewed| self.keep(digest, claims, reviewed, epoch));
        match &verdict {
            Err(TokenError::Refused(refusal)) => {
                // Also where nobody waits for it any more.
                self.good.invalidate(&digest);
                self.refused.insert(digest, *refusal);
            }
            Ok(_) | Err(TokenError::Unavailable) => {}
        }
        verdict
    }

    /// Remembers a good token, unless what it says and what the API server says differ.
    fn keep(&self, digest: Digest, claims: Claims, reviewed: Reviewed, epoch: u64) -> Verdict {
        let differ = |claimed: Option<&str>, known: Option<&str>| {
            claimed.zip(known).is_some_and(|(claimed, known)| claimed != known)
        };
        let pod = (claims.pod.as_ref(), reviewed.pod.as_ref());
        if differ(claims.account_uid.as_deref(), reviewed.account_uid.as_deref())
            || differ(pod.0.map(|pod| &*pod.uid), pod.1.map(|pod| &*pod.uid))
        {
            return Err(TokenRefusal::OtherUser.into());
        }
        let proof = Arc::new(TokenProof {
            id: SpiffeId {
                trust_domain: self.trust_domain.clone(),
                service_account: claims.account.clone(),
            },
            account_uid: reviewed.account_uid.or_else(|| claims.account_uid.clone()),
            binding: Binding {
                pod: reviewed.pod,
                node: reviewed.node,
                credential_id: reviewed.credential_id,
                expires: claims.expires,
            },
        });
        // The API server says yes for some seconds after a deletion that was seen here.
        self.spare(&proof, &claims)?;
        let verified = Arc::new(Verified { proof, claims, at: Instant::now(), epoch });
        self.good.insert(digest, Arc::clone(&verified));
        Ok(verified)
    }

    /// What a token says of itself and the clock, at every use.
    fn admit(&self, claims: &Claims) -> Result<(), TokenRefusal> {
        let Claims { issuer, audiences, expires, issued, not_before, .. } = claims;
        let names = |wanted: &[String]| wanted.iter().any(|audience| audiences.contains(audience));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let latest = now.saturating_add(LEEWAY.as_secs());
        let longest = self.settings.max_lifetime.as_secs();
        if self.settings.issuer.as_ref().is_some_and(|expected| expected != issuer) {
            return Err(TokenRefusal::Issuer);
        }
        if !names(&self.settings.audiences) || names(&self.settings.refused_audiences) {
            return Err(TokenRefusal::Audience);
        }
        if expires.saturating_add(LEEWAY.as_secs()) <= now {
            return Err(TokenRefusal::Expired);
        }
        if not_before.is_some_and(|at| at > latest) || issued.is_some_and(|at| at > latest) {
            return Err(TokenRefusal::NotYetValid);
        }
        // Without `iat` its life is not known.
        match issued.and_then(|issued| expires.checked_sub(issued)) {
            Some(life) if life <= longest => Ok(()),
            Some(_) | None => Err(TokenRefusal::Lifetime),
        }
    }

    /// Refuses what is known to be deleted, also the pod that the token alone names.
    fn spare(&self, proof: &TokenProof, claims: &Claims) -> Result<(), TokenRefusal> {
        let pods = [proof.pod(), claims.pod.as_ref()].map(|pod| pod.map(|pod| &*pod.uid));
        let uids = [proof.account_uid.as_deref(), pods[0], pods[1]];
        match uids.into_iter().flatten().any(|uid| self.revocations.is_revoked(uid)) {
            true => Err(TokenRefusal::Revoked),
            false => Ok(()),
        }
    }

    fn is_fresh(&self, held: &Verified) -> bool {
        held.at.elapsed() < self.settings.ttl && held.epoch == self.revocations.epoch()
    }

    fn may_be_stale(&self, held: &Verified) -> bool {
        held.at.elapsed() < self.settings.ttl + self.settings.stale_if_unavailable
            && self.settings.stale_if_unavailable > Duration::ZERO
            && held.epoch == self.revocations.epoch()
    }

    fn digest(&self, token: &str) -> Digest {
        let mut context = self.context.clone();
        context.update(token.as_bytes());
        let mut digest = Digest::default();
        digest.copy_from_slice(context.finish().as_ref());
        digest
    }
}

impl std::fmt::Debug for TokenVerifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenVerifier").field("settings", &self.settings).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
