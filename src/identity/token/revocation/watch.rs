//! A watch that never ends: kube lists, watches, resumes, and lists anew when the API
//! server no longer knows where the watch stood. Here is how long it waits after errors,
//! and what the log says of them.

use std::{fmt::Debug, pin::pin, sync::Arc, time::Duration};

use futures_util::StreamExt;
use kube::{
    Api, Resource,
    core::{PartialObjectMeta, Status},
    runtime::watcher::{self, DefaultBackoff, Error, Event},
};
use serde::de::DeserializeOwned;

use super::Revocations;
use crate::apiserver::CallError;

/// How soon it is tried again what we may not do.
const FORBIDDEN: Duration = Duration::from_secs(300);

/// The longest wait after other errors, should the backoff ever end.
const LONGEST: Duration = Duration::from_secs(30);

/// What was last said of the watch.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Starting,
    Watching,
    Forbidden,
    Failing,
}

/// Tells of one kind's deletions as long as it is polled.
pub(super) async fn follow<K>(revocations: Arc<Revocations>, client: kube::Client)
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    let kind = K::plural(&()).into_owned();
    let objects: Api<PartialObjectMeta<K>> = Api::all(client);
    let mut backoff = DefaultBackoff::default();
    let mut state = State::Starting;
    loop {
        let mut events = pin!(watcher::watcher(objects.clone(), watcher::Config::default()));
        while let Some(event) = events.next().await {
            let error = match event {
                Ok(event) => {
                    revocations.take(&event);
                    // Comes before the first call.
                    if !matches!(event, Event::Init) {
                        state.becomes(State::Watching, &kind, "");
                    }
                    continue;
                }
                Err(error) => error,
            };
            let status = status(&error);
            if status.is_some_and(|status| status.code == 403) {
                state.becomes(State::Forbidden, &kind, "");
                tokio::time::sleep(FORBIDDEN).await;
                continue;
            }
            state.becomes(State::Failing, &kind, &cause(&error));
            tokio::time::sleep(backoff.next().unwrap_or(LONGEST)).await;
            if matches!(error, Error::WatchStartFailed(_)) && status.is_some_and(is_gone) {
                // kube would ask again and again for what the server has forgotten.
                break;
            }
        }
    }
}

fn is_gone(status: &Status) -> bool {
    status.code == 410
}

/// The refusal, if the API server gave one.
fn status(error: &Error) -> Option<&Status> {
    match error {
        Error::WatchError(status) => Some(status),
        Error::InitialListFailed(kube::Error::Api(status))
        | Error::WatchStartFailed(kube::Error::Api(status))
        | Error::WatchFailed(kube::Error::Api(status)) => Some(status),
        Error::InitialListFailed(_)
        | Error::WatchStartFailed(_)
        | Error::WatchFailed(_)
        | Error::NoResourceVersion => None,
    }
}

/// What may be told of an error: nothing of an object, as parsers quote it.
fn cause(error: &Error) -> String {
    if let Some(status) = status(error) {
        return format!("status {}", status.code);
    }
    match error {
        Error::InitialListFailed(error)
        | Error::WatchStartFailed(error)
        | Error::WatchFailed(error) => match error {
            kube::Error::SerdeError(_) | kube::Error::FromUtf8(_) => {
                "the answer cannot be read".to_owned()
            }
            error => CallError::from(error).to_string(),
        },
        Error::WatchError(_) | Error::NoResourceVersion => error.to_string(),
    }
}

// === impl State ===

impl State {
    /// Says what has changed, once.
    fn becomes(&mut self, next: Self, kind: &str, cause: &str) {
        if *self == next {
            return;
        }
        match next {
            Self::Forbidden => tracing::info!(
                kind,
                "we may not list and watch these: after their deletion, tokens stay good for as \
                 long as verdicts are cached"
            ),
            Self::Failing => tracing::warn!(kind, cause, "deletions are not seen at present"),
            Self::Watching => tracing::info!(kind, "deletions revoke tokens at once"),
            Self::Starting => {}
        }
        *self = next;
    }
}
