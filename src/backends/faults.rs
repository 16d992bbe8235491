//! What a backend makes of a store's refusals and failures, on every method: run
//! over a [`Fake`] that speaks the store's wire format.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    BackendError, SecretBackend,
    fake::{Fake, Reply},
};
use crate::secret::{SecretName, SecretValue, SecretVersion};

/// What no error may show; put it into the bodies of refusals where a store might
/// repeat what was sent.
pub(crate) const CANARY: &str = "canary-2b7e15";

/// One row: what the store answers, the methods it applies to, and the kind of
/// error that must come of it ([`BackendError::kind`]).
pub(crate) struct Fault {
    pub(crate) name: &'static str,
    pub(crate) reply: Reply,
    pub(crate) on: &'static [Method],
    pub(crate) kind: &'static str,
    /// For `throttled`: the wait that the store asked for.
    pub(crate) retry_after: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    Get,
    List,
    Create,
    Update,
    Delete,
    Versions,
}

pub(crate) const ALL: &[Method] =
    &[Method::Get, Method::List, Method::Create, Method::Update, Method::Delete, Method::Versions];

// === impl Fault ===

impl Fault {
    /// A fault of every method.
    pub(crate) fn new(name: &'static str, reply: Reply, kind: &'static str) -> Self {
        Self { name, reply, on: ALL, kind, retry_after: None }
    }

    pub(crate) fn on(self, on: &'static [Method]) -> Self {
        Self { on, ..self }
    }

    pub(crate) fn retry_after(self, seconds: u64) -> Self {
        Self { retry_after: Some(Duration::from_secs(seconds)), ..self }
    }
}

/// Faults that look alike on every wire.
pub(crate) fn of_the_connection() -> Vec<Fault> {
    vec![
        Fault::new("connection reset", Reply::Reset, "unavailable"),
        Fault::new("answer cut short", Reply::Cut, "unavailable"),
        Fault::new("no answer", Reply::Hang, "timed_out"),
        Fault::new("bad gateway", Reply::new(502, "<html>bad gateway</html>"), "unavailable"),
        Fault::new("gateway timeout", Reply::new(504, ""), "timed_out"),
    ]
}

/// Runs every row on each of its methods. The backend's own timeout must be well
/// below a second, so that the table does not take long.
pub(crate) async fn check(
    backend: &dyn SecretBackend,
    fake: &Fake,
    name: &SecretName,
    faults: Vec<Fault>,
) {
    for Fault { name: row, reply, on, kind, retry_after } in faults {
        fake.always(reply);
        for method in on {
            fake.calls();
            let started = Instant::now();
            let error = call(backend, name, *method).await;
            let error = error.expect_err(&format!("{row}: {method:?} succeeded"));
            assert_eq!(error.kind(), kind, "{row}: {method:?}: {error:?}");
            assert!(started.elapsed() < Duration::from_secs(10), "{row}: {method:?} took long");
            assert!(!fake.calls().is_empty(), "{row}: {method:?} never reached the store");
            if let BackendError::Throttled { retry_after: asked } = &error {
                assert_eq!(*asked, retry_after, "{row}: {method:?}");
            }
            let mut shown = format!("{error:?} {error:#?} {error}");
            let mut source = std::error::Error::source(&error);
            while let Some(cause) = source {
                shown += &format!(" {cause} {cause:?}");
                source = cause.source();
            }
            assert!(!shown.contains(CANARY), "{row}: {method:?}: {shown}");
        }
    }
}

/// One call of a method, with a canary for a value.
pub(crate) async fn call(
    backend: &dyn SecretBackend,
    name: &SecretName,
    method: Method,
) -> Result<(), BackendError> {
    let value = SecretValue::new(CANARY);
    match method {
        Method::Get => backend.get(name, &SecretVersion::Latest).await.map(drop),
        Method::List => backend.list(None).await.map(drop),
        Method::Create => backend.create(name, &value).await.map(drop),
        Method::Update => backend.update(name, &value).await.map(drop),
        Method::Delete => backend.delete(name, false).await,
        Method::Versions => backend.versions(name).await.map(drop),
    }
}
