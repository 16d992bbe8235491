//! Changes of Secrets, as the API server tells them.
//!
//! It is asked for the objects' metadata alone, and of those only names are kept:
//! annotations may hold copies of values. A change is one of the whole object, so it is
//! told of all of its keys.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::stream;
use http::{Method, Request, header};
use serde::Deserialize;
use tokio::time::timeout;

use super::{
    client::{METADATA_ONLY, unanswered},
    error::Answer,
};
use crate::{
    apiserver::{ApiServer, Lines},
    backends::{BackendError, Change, Changes, failure},
};

/// The longest metadata of an object: 256 KiB of annotations, and managed fields.
const LONGEST: usize = 4 << 20;
/// After how many seconds the server ends a watch, at the earliest; clients differ, so that
/// not all come back at once.
const SECONDS: u64 = 300;
/// How much longer than that nothing has to come: the server sends bookmarks each minute.
const SILENCE: Duration = Duration::from_secs(60);

/// One watch after the other, each from where the last one ended.
struct Watch {
    api: ApiServer,
    /// `/api/v1/secrets`, or those of one namespace.
    collection: String,
    /// Whether names are told with their namespace.
    namespaced: bool,
    lines: Option<(Lines, Duration)>,
    /// Where to go on; none where that is not known.
    version: Option<String>,
}

/// A line of a watch.
#[derive(Deserialize)]
struct Event {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    object: Told,
}

/// What is read of an object, or of a status in its place.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Told {
    metadata: Metadata,
    code: u16,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Metadata {
    name: String,
    namespace: String,
    resource_version: String,
}

/// Watches all Secrets there, which takes the permission to `watch` them. Nothing is called
/// before the stream is polled.
pub(super) fn changes(api: ApiServer, collection: String, namespaced: bool) -> Changes {
    let watch = Watch { api, collection, namespaced, lines: None, version: None };
    Box::pin(stream::unfold(watch, |mut watch| async move {
        let change = watch.next().await;
        Some((change, watch))
    }))
}

// === impl Watch ===

impl Watch {
    /// The next change. After an error it begins anew, from where it was.
    async fn next(&mut self) -> Result<Change, BackendError> {
        loop {
            let Some((lines, silence)) = &mut self.lines else {
                let fresh = self.version.is_none();
                self.open().await?;
                return Ok(if fresh { Change::Any } else { Change::None });
            };
            let line = match timeout(*silence, lines.next()).await {
                Ok(Ok(Some(line))) => line,
                // As agreed, or as good as that.
                Ok(Ok(None)) | Err(_) => {
                    self.lines = None;
                    continue;
                }
                Ok(Err(error)) => {
                    self.lines = None;
                    return Err(unanswered(error));
                }
            };
            // Not the parser's text: it may quote the object.
            let Ok(event) = serde_json::from_slice::<Event>(&line) else {
                (self.lines, self.version) = (None, None);
                return Err(unread());
            };
            if let Some(change) = self.take(event)? {
                return Ok(change);
            }
        }
    }

    async fn open(&mut self) -> Result<(), BackendError> {
        let seconds = SECONDS + fastrand::u64(..SECONDS);
        // Without a version: from any that the server has at hand. It then tells of all
        // objects that there are, and of none too few.
        let version = self.version.as_deref().unwrap_or("0");
        let target = format!(
            "{}?watch=1&allowWatchBookmarks=true&timeoutSeconds={seconds}&resourceVersion={version}",
            self.collection
        );
        let request = Request::builder().method(Method::GET).uri(target);
        let request = request.header(header::ACCEPT, METADATA_ONLY).body(Bytes::new());
        let request = request
            .map_err(|_| BackendError::Invalid("the request could not be built".to_owned()))?;
        match self.api.lines(request, LONGEST).await.map_err(unanswered)? {
            Ok(lines) => {
                self.lines = Some((lines, Duration::from_secs(seconds) + SILENCE));
                Ok(())
            }
            Err(answer) => {
                if answer.status == 410 {
                    self.version = None;
                }
                let refused = Answer {
                    status: answer.status,
                    retry_after: answer.retry_after.as_deref().and_then(failure::retry_after),
                    audit_id: &answer.audit_id,
                    body: &answer.body,
                    write: false,
                    object: "",
                };
                Err(refused.sort().into())
            }
        }
    }

    /// What an event says, if it is a change.
    fn take(&mut self, event: Event) -> Result<Option<Change>, BackendError> {
        let Metadata { name, namespace, resource_version } = event.object.metadata;
        match event.kind.as_str() {
            "BOOKMARK" | "ADDED" | "MODIFIED" | "DELETED" => {}
            _ => {
                // The server no longer knows where we stood, or cannot go on.
                (self.lines, self.version) = (None, None);
                return match event.object.code {
                    410 => Ok(None),
                    code => Err(failure::from_status(code, None, None)),
                };
            }
        }
        // It goes into the next address, and names into nothing.
        if !resource_version.is_empty() && resource_version.bytes().all(|b| b.is_ascii_digit()) {
            self.version = Some(resource_version);
        }
        if event.kind == "BOOKMARK" || name.is_empty() {
            return Ok(None);
        }
        let namespace = self.namespaced.then(|| Arc::from(namespace));
        Ok(Some(Change::Segment { namespace, segment: name.into() }))
    }
}

fn unread() -> BackendError {
    BackendError::Unavailable(Some(failure::cause("an event could not be read".to_owned())))
}
