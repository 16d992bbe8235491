//! `GET /v1/watch?name=…`: which secrets to watch, and what watchers are told.
//!
//! Server-sent events without values: whoever hears of another version reads it, and is
//! authorised for that. Sends nothing itself.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use bytes::Bytes;
use http::{HeaderValue, Response, header};
use serde::Serialize;
use utoipa::ToSchema;

use super::{Api, Problem, ProblemCode, finish};
use crate::{
    audit::Operation,
    identity::{IdentityError, Principal},
    policy::{Denial, Permit, Verb},
    resolver::Place,
    secret::{Catalog, NameEncoding, SecretRef},
    snapshot::Snapshot,
};

/// Where changes are watched.
pub const WATCH_PATH: &str = "/v1/watch";

/// The most secrets that one request watches.
const MOST_NAMES: usize = 100;
/// How long a client waits before it comes back, in milliseconds.
const RETRY: u32 = 3000;

/// The secrets that a request is about, as its catalog names them.
#[derive(Clone, Debug)]
pub struct Watched(Vec<SecretRef>);

/// What a watcher has been told, so that nothing is told twice.
#[derive(Debug, Default)]
pub struct Told(HashMap<Place, Option<Arc<str>>>);

/// Why a stream of events ends that its client has not ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = WatchEndCode)]
pub enum End {
    /// One of the secrets may not be read any more.
    Forbidden,
    /// The identity is not proven any more.
    Unproven,
    /// The service stops.
    Stopping,
    /// Names may mean something else now.
    Reconfigured,
    /// The client reads too slowly.
    Slow,
}

/// What an event `version` says.
#[derive(Serialize, ToSchema)]
#[schema(as = WatchedVersion)]
pub(super) struct VersionData<'a> {
    /// The secret's, in canonical form.
    name: &'a str,
    /// The store that has it.
    backend: &'a str,
    /// Its current version; none if it is gone or disabled.
    #[schema(required)]
    version: Option<&'a str>,
}

/// What an event `resync` says: nothing.
#[derive(Serialize, ToSchema)]
#[schema(as = WatchResync)]
pub(super) struct Nothing {}

/// What the event `end` says.
#[derive(Serialize, ToSchema)]
#[schema(as = WatchEnd)]
pub(super) struct EndData {
    code: End,
}

// === impl Watched ===

impl Watched {
    /// Reads the names of a query, and the backend that they are all in, if it says.
    ///
    /// # Errors
    /// A [`Problem`] for none, too many, or malformed ones.
    pub fn parse(query: Option<&str>, catalog: &Catalog) -> Result<Self, Problem> {
        let malformed =
            |why: &str| Problem::with_error(ProblemCode::MalformedRequest, why.to_owned());
        let (mut names, mut backend) = (Vec::new(), None);
        for (key, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            match &*key {
                "name" => names.push(value),
                "backend" if backend.is_some() => {
                    return Err(malformed("invalid parameter backend"));
                }
                "backend" => backend = Some(value),
                _ => {}
            }
        }
        if names.is_empty() {
            return Err(malformed("at least one name is needed, as in ?name=pay/db"));
        }
        if names.len() > MOST_NAMES {
            return Err(malformed("at most 100 names can be watched at once"));
        }
        let mut seen = HashSet::new();
        let mut secrets = Vec::new();
        for name in names {
            let secret = catalog.locate(&name, NameEncoding::Plain, backend.as_deref())?;
            if seen.insert(secret.clone()) {
                secrets.push(secret);
            }
        }
        Ok(Self(secrets))
    }

    /// Permits to read all of them, by the policies in force now; none if any is refused.
    ///
    /// # Errors
    /// The first [`Denial`], and which secret it is about.
    pub fn authorize(
        &self,
        snapshot: &Snapshot,
        principal: &Principal,
    ) -> Result<Vec<Permit>, (Denial, &SecretRef)> {
        let policies = &snapshot.policies;
        let permit = |secret| {
            policies.authorize(principal, Verb::Get, secret).map_err(|denial| (denial, secret))
        };
        self.0.iter().map(permit).collect()
    }
}

// === impl Api ===

impl Api {
    /// Decides whether all of the secrets that a query names may be watched, and records
    /// it as reads of each.
    ///
    /// # Errors
    /// The answer that refuses the request.
    pub fn watch(
        &self,
        snapshot: &Snapshot,
        caller: Result<&Principal, IdentityError>,
        query: Option<&str>,
        request_id: &str,
        traceparent: Option<&str>,
    ) -> Result<(Watched, Vec<Permit>), Box<Response<Bytes>>> {
        let refuse = |problem: Problem| Box::new(super::refuse(problem, request_id));
        let principal = match caller {
            Ok(principal) => principal,
            Err(error) => {
                let denial = Denial::new(super::identity_reason(error));
                return Err(self.deny(snapshot, denial, request_id, traceparent).into());
            }
        };
        self.share(snapshot, principal).map_err(refuse)?;
        let watched = Watched::parse(query, &snapshot.catalog).map_err(refuse)?;
        let recorder = self.recorder(snapshot, request_id, traceparent);
        match watched.authorize(snapshot, principal) {
            Ok(permits) => {
                for permit in &permits {
                    let asked = || Some(Operation::secret(Verb::Get, permit.secret()));
                    recorder.record(Ok(permit.decision()), Some(principal), asked);
                }
                Ok((watched, permits))
            }
            Err((denial, secret)) => {
                let asked = || Some(Operation::secret(Verb::Get, secret));
                recorder.record(Err(&denial), Some(principal), asked);
                Err(refuse(denial.into()))
            }
        }
    }

    /// Records that a watcher's right ended while it watched.
    pub fn watch_denied(
        &self,
        snapshot: &Snapshot,
        principal: &Principal,
        (denial, secret): (&Denial, &SecretRef),
        request_id: &str,
    ) {
        let asked = || Some(Operation::secret(Verb::Get, secret));
        self.recorder(snapshot, request_id, None).record(Err(denial), Some(principal), asked);
    }
}

// === impl Told ===

impl Told {
    /// Notes a version; whether it is another than the one that was told last. That there
    /// is none is no news to somebody who has never heard of one.
    pub fn is_news(&mut self, place: &Place, version: Option<&Arc<str>>) -> bool {
        match self.0.insert(place.clone(), version.cloned()) {
            Some(told) => told.as_ref() != version,
            None => version.is_some(),
        }
    }
}

// === impl End ===

impl End {
    /// The word for clients and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Forbidden => "forbidden",
            Self::Unproven => "unproven",
            Self::Stopping => "stopping",
            Self::Reconfigured => "reconfigured",
            Self::Slow => "slow",
        }
    }

    /// The last event.
    #[must_use]
    pub fn event(self) -> Bytes {
        event("end", &EndData { code: self }).into()
    }
}

/// The first lines: when to come back, and from where.
#[must_use]
pub fn hello(id: &str) -> Bytes {
    format!("retry: {RETRY}\nid: {id}\n\n").into()
}

/// Says that what the client has seen may be out of date: the current versions follow.
#[must_use]
pub fn resync(id: &str) -> Bytes {
    format!("id: {id}\n{}", event("resync", &Nothing {})).into()
}

/// Tells the current version of a secret; `null` if it is gone.
#[must_use]
pub fn version_event(place: &Place, version: Option<&Arc<str>>, id: &str) -> Bytes {
    let data = VersionData {
        name: place.name.as_str(),
        backend: place.backend.as_str(),
        version: version.map(|version| &**version),
    };
    format!("id: {id}\n{}", event("version", &data)).into()
}

fn event(kind: &str, data: &impl Serialize) -> String {
    let data = serde_json::to_string(data).expect("strings are always JSON");
    format!("event: {kind}\ndata: {data}\n\n")
}

/// A line that keeps the connection open and says nothing.
#[must_use]
pub fn heartbeat() -> Bytes {
    Bytes::from_static(b": heartbeat\n\n")
}

/// The head of a stream of events.
#[must_use]
pub fn head(request_id: &str) -> Response<()> {
    let mut response = Response::new(());
    let events = HeaderValue::from_static("text/event-stream; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, events);
    finish(response.headers_mut(), request_id);
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    #[test]
    fn names_are_read_as_everywhere() {
        let catalog = fixture::config(fixture::CONFIG).catalog;
        let parse =
            |query: &str| Watched::parse(Some(query), &catalog).map(|watched| watched.0.len());
        let many = |number: usize| vec!["name=a"; number].join("&");
        for query in [
            "",
            "x=1",
            "name=",
            "name=..",
            "name=a/../b",
            "name=a%00",
            "name=a&backend=none",
            "name=a&backend=local&backend=local",
            &many(101),
        ] {
            assert!(parse(query).is_err(), "{query}");
        }
        for (query, expected) in [
            ("name=prod/key", 1),
            ("name=prod%2Fkey&name=prod/key&backend=local", 1),
            ("name=a&name=b&other=1", 2),
            (&*many(100), 1),
        ] {
            assert_eq!(parse(query).ok(), Some(expected), "{query}");
        }
    }
}
