//! Streams of events about other versions of secrets.
//!
//! One task for each watcher. It writes into a short queue, so that a client that does not
//! read is let go of, and asks for the caller's rights again before it tells anything.

use std::{
    collections::HashMap,
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use axum::body::Body;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{HeaderName, Method, Response, request::Parts};
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{Rest, caller::CallerError};
use crate::{
    api::{
        self, Problem,
        watch::{End, Told, Watched, heartbeat, hello, resync, version_event},
    },
    identity::Principal,
    policy::Permit,
    resolver::{self, BackendError, Missed, News, Place, ResolveError},
    secret::Catalog,
    snapshot::Snapshot,
};

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// What does something there.
const METHODS: &str = "GET, OPTIONS";

/// How a stream ends; `None` where nobody hears it.
type Ended<T> = Result<T, Option<End>>;

/// Events that wait for a client. There is room for one more, which says how it ends.
const QUEUE: usize = 16;
/// How long the first of them may wait.
const STALL: Duration = Duration::from_secs(30);
/// How many secrets one watcher has read at once.
const READS: usize = 8;
/// How often a store is asked about a watched secret for which nothing is cached.
const UNCACHED: Duration = Duration::from_secs(60);

/// Who watches.
#[derive(Clone, Default)]
pub(super) struct Watchers(Arc<Mutex<HashMap<Arc<str>, usize>>>);

/// A watcher's place; free again when it is dropped.
struct Seat {
    watchers: Watchers,
    principal: Arc<str>,
    rest: Rest,
}

/// One stream.
struct Stream {
    rest: Rest,
    head: Parts,
    principal: Principal,
    watched: Watched,
    /// What the names meant when they were read.
    catalog: Arc<Catalog>,
    changes: resolver::Watch,
    told: Told,
    events: mpsc::Sender<Bytes>,
    request_id: String,
}

// === impl Watchers ===

impl Watchers {
    fn inside(&self) -> MutexGuard<'_, HashMap<Arc<str>, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn seat(&self, rest: &Rest, snapshot: &Snapshot, principal: &Principal) -> Option<Seat> {
        let mut inside = self.inside();
        let all: usize = inside.values().sum();
        let principal: Arc<str> = principal.id().to_string().into();
        let own = inside.get(&principal).copied().unwrap_or(0);
        let limits = &snapshot.limits;
        if all >= limits.watches || own >= limits.watches_per_principal {
            return None;
        }
        inside.insert(Arc::clone(&principal), own + 1);
        rest.metrics.watchers(all + 1);
        Some(Seat { watchers: self.clone(), principal, rest: rest.clone() })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut inside = self.watchers.inside();
        if let Some(own) = inside.get_mut(&self.principal) {
            *own -= 1;
            if *own == 0 {
                inside.remove(&self.principal);
            }
        }
        self.rest.metrics.watchers(inside.values().sum());
    }
}

// === impl Rest ===

impl Rest {
    /// Answers with a stream of events, or says why not.
    pub(super) async fn watch(&self, head: Parts, request_id: &str) -> Response<Body> {
        match head.method {
            Method::GET => {}
            Method::OPTIONS => return api::options(METHODS, request_id).map(Body::from),
            _ => {
                let problem = Problem::not_allowed(METHODS);
                return api::refuse(problem, request_id).map(Body::from);
            }
        }
        let snapshot = self.current.load_full();
        let deadline = self.deadline(&snapshot);
        let traceparent = api::traceparent(&head.headers);
        let caller = match self.caller(&head, &snapshot, deadline).await {
            Ok(caller) => caller,
            Err(error) => {
                return self.refuse_caller(&snapshot, error, &head, request_id).map(Body::from);
            }
        };
        let caller_ref = caller.as_ref().map_err(|error| *error);
        let query = head.uri.query();
        let allowed = self.api.watch(&snapshot, caller_ref, query, request_id, traceparent);
        let (watched, permits) = match allowed {
            Ok(allowed) => allowed,
            Err(refusal) => return (*refusal).map(Body::from),
        };
        // Refused above without one.
        let Ok(principal) = caller else { return api::not_found(request_id).map(Body::from) };
        let Some(seat) = self.watchers.seat(self, &snapshot, &principal) else {
            self.metrics.rate_limited();
            let problem = Problem::too_many(snapshot.limits.watch_heartbeat);
            return api::refuse(problem, request_id).map(Body::from);
        };
        let mut last = head.headers.get_all(LAST_EVENT_ID).iter();
        let last = last.next().filter(|_| last.next().is_none());
        let last = last.and_then(|last| last.to_str().ok()).filter(|last| !last.is_empty());
        let (changes, missed) = match snapshot.resolver.watch(&permits, last) {
            Ok(watch) => watch,
            Err(error) => return api::refuse(error.into(), request_id).map(Body::from),
        };
        let (events, queue) = mpsc::channel(QUEUE + 1);
        let comes_back = last.is_some();
        let stream = Stream {
            rest: self.clone(),
            principal,
            watched,
            catalog: Arc::clone(&snapshot.catalog),
            changes,
            told: Told::default(),
            events,
            request_id: request_id.to_owned(),
            head,
        };
        let stopping = self.stopping.clone();
        tokio::spawn(stream.run(seat, permits, missed, comes_back, stopping));
        let body = stream::unfold(queue, |mut queue| async {
            Some((Ok::<_, Infallible>(queue.recv().await?), queue))
        });
        api::watch::head(request_id).map(|()| Body::from_stream(body))
    }
}

// === impl Stream ===

impl Stream {
    async fn run(
        mut self,
        seat: Seat,
        permits: Vec<Permit>,
        missed: Missed,
        comes_back: bool,
        stopping: CancellationToken,
    ) {
        let (events, principal) = (self.events.clone(), self.principal.clone());
        // Kept free from the start: whoever has not read the rest may still read this.
        let last = events.clone().reserve_owned().await;
        let ended = tokio::select! {
            // The client is gone.
            () = events.closed() => None,
            () = stopping.cancelled() => Some(End::Stopping),
            () = expiry(&principal) => Some(End::Unproven),
            ended = self.tell(permits, missed, comes_back) => match ended {
                Ok(never) => match never {},
                Err(end) => end,
            },
        };
        if let Some(end) = ended {
            if let Ok(last) = last {
                last.send(end.event());
            }
            self.rest.metrics.watch_ended(end.as_str());
        }
        drop(seat);
    }

    /// Tells until it may not or need not any more.
    async fn tell(
        &mut self,
        permits: Vec<Permit>,
        missed: Missed,
        comes_back: bool,
    ) -> Ended<Infallible> {
        let snapshot = self.rest.current.load_full();
        let id = self.changes.id(None);
        self.send(hello(&id)).await?;
        match missed {
            Missed::Unknown if comes_back => self.send(resync(&id)).await?,
            Missed::Unknown => {}
            Missed::News(news) => {
                for permit in &permits {
                    // What it knew: what is known now, but for what it missed.
                    if let Ok(place) = snapshot.resolver.place(permit)
                        && let Some(version) = self.changes.known(&place)
                    {
                        self.told.is_news(&place, version.as_ref());
                    }
                }
                for news in news {
                    if let News::Version { place, version, sequence } = news {
                        self.told.is_news(&place, version.as_ref());
                        self.event(&place, version.as_ref(), Some(sequence)).await?;
                    }
                }
            }
        }
        self.read(&snapshot, &permits, Duration::ZERO).await?;
        drop(snapshot);
        let period = self.rest.current.load().limits.watch_heartbeat;
        let mut beat = interval(period);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        beat.tick().await;
        loop {
            let news = tokio::select! {
                news = self.changes.next() => Some(news),
                _ = beat.tick() => None,
            };
            let snapshot = self.rest.current.load_full();
            // Whatever was allowed before: by what is in force now.
            let permits = self.still_allowed(&snapshot).await.map_err(Some)?;
            match news {
                None => {
                    self.send(heartbeat()).await?;
                    self.read(&snapshot, &permits, period).await?;
                }
                Some(Ok(News::Version { place, version, sequence })) => {
                    self.version(&place, version.as_ref(), Some(sequence)).await?;
                }
                Some(Ok(News::Outdated { .. } | News::AllOutdated { .. })) => {
                    self.read(&snapshot, &permits, period).await?;
                }
                // It can find its way back by the last id that it has.
                Some(Err(resolver::Lagged)) => return Err(Some(End::Slow)),
            }
        }
    }

    /// Permits for all of it, if the caller still is who it was and may still read it.
    async fn still_allowed(&self, snapshot: &Snapshot) -> Result<Vec<Permit>, End> {
        if snapshot.catalog != self.catalog {
            return Err(End::Reconfigured);
        }
        let deadline = self.rest.deadline(snapshot);
        match self.rest.caller(&self.head, snapshot, deadline).await {
            Ok(Ok(principal)) if principal.id() == self.principal.id() => {
                self.watched.authorize(snapshot, &principal).map_err(|(denial, secret)| {
                    let denied = (&denial, secret);
                    self.rest.api.watch_denied(snapshot, &principal, denied, &self.request_id);
                    End::Forbidden
                })
            }
            Ok(_) | Err(CallerError::Denied(_) | CallerError::Unavailable(_)) => Err(End::Unproven),
        }
    }

    /// Reads what nobody has read within `period` or the cache's own time, through the
    /// cache: however many watch a secret, its store is asked as if one reader came by.
    async fn read(
        &mut self,
        snapshot: &Snapshot,
        permits: &[Permit],
        period: Duration,
    ) -> Ended<()> {
        let due = permits.iter().filter_map(|permit| {
            let place = snapshot.resolver.place(permit).ok()?;
            let ttl = snapshot.resolver.ttl(&place.backend, &place.name);
            let wait = if ttl.is_zero() { UNCACHED } else { ttl };
            let fresh = !period.is_zero() && self.changes.is_fresh(&place, wait);
            (!fresh).then(|| (permit.clone(), place))
        });
        let due: Vec<(Permit, Place)> = due.collect();
        let deadline = self.rest.deadline(snapshot);
        let request_id: Arc<str> = self.request_id.as_str().into();
        let reads = due.into_iter().map(|(permit, place)| {
            let call = resolver::Call { deadline, request_id: Some(Arc::clone(&request_id)) };
            let resolver = snapshot.resolver.clone();
            async move { (place, version(resolver.resolve(&permit, call).await)) }
        });
        let mut reads = stream::iter(reads).buffer_unordered(READS);
        let mut found = Vec::new();
        while let Some((place, version)) = reads.next().await {
            found.push((place, version));
        }
        for (place, version) in found {
            if let Some(version) = version {
                self.version(&place, version.as_ref(), None).await?;
            }
        }
        Ok(())
    }

    /// Tells a version, unless it was told last.
    async fn version(
        &mut self,
        place: &Place,
        version: Option<&Arc<str>>,
        sequence: Option<u64>,
    ) -> Ended<()> {
        match self.told.is_news(place, version) {
            true => self.event(place, version, sequence).await,
            false => Ok(()),
        }
    }

    async fn event(
        &self,
        place: &Place,
        version: Option<&Arc<str>>,
        sequence: Option<u64>,
    ) -> Ended<()> {
        let event = version_event(place, version, &self.changes.id(sequence));
        self.rest.metrics.watch_event();
        self.send(event).await
    }

    async fn send(&self, event: Bytes) -> Ended<()> {
        match timeout(STALL, self.events.send(event)).await {
            Ok(sent) => sent.map_err(|_| None),
            Err(_) => Err(Some(End::Slow)),
        }
    }
}

/// The current version, none if the secret is gone; `None` if there is no telling.
fn version(read: Result<crate::secret::SecretRecord, ResolveError>) -> Option<Option<Arc<str>>> {
    match read {
        Ok(record) => Some(Some(record.version)),
        Err(ResolveError::Backend {
            error: BackendError::NotFound | BackendError::Disabled | BackendError::PendingDeletion,
            ..
        }) => Some(None),
        Err(_) => None,
    }
}

/// Completes when the first of the caller's proofs ends.
async fn expiry(principal: &Principal) {
    let Some(at) = principal.expires() else { return std::future::pending().await };
    let at = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(at));
    match at.map(|at| at.duration_since(SystemTime::now()).unwrap_or_default()) {
        // Later than any clock goes.
        None => std::future::pending().await,
        Some(left) => tokio::time::sleep_until(Instant::now() + left.min(LONGEST)).await,
    }
}

/// Nothing is watched for longer without a new request.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

#[cfg(test)]
mod tests;
