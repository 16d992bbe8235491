//! Changes, as a plugin tells them that can.

use std::{
    collections::VecDeque,
    path::PathBuf,
    sync::{Arc, Mutex as StdMutex, PoisonError},
    time::Duration,
};

use futures_util::stream;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout_at};
use tonic::{Request, Streaming, metadata::MetadataValue};

use super::{
    MAX_NAMES, MAX_TOKEN, PluginBackend,
    connection::Session,
    error::from_grpc,
    nonsense,
    proto::{WatchRequest, WatchResponse},
};
use crate::{
    backends::{BackendError, Change, Changes},
    secret::NameEncoding,
};

/// How often it is looked whether the socket still is that of the plugin that tells.
const LOOK: Duration = Duration::from_secs(5);

/// Where a watch can go on.
#[derive(Default)]
pub(super) struct Position(StdMutex<String>);

struct Watch {
    answers: Streaming<WatchResponse>,
    session: Arc<Session>,
    socket: PathBuf,
    prefix: String,
    position: Arc<Position>,
    request_id: String,
    /// Taken in, and not told yet.
    waiting: VecDeque<Change>,
    /// What the last answer called the place after these.
    reached: Option<String>,
}

// === impl Position ===

impl Position {
    fn get(&self) -> String {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, position: String) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = position;
    }
}

// === impl PluginBackend ===

impl PluginBackend {
    /// Begins a watch, and waits for its first answer, which comes at once.
    pub(super) async fn open_watch(&self) -> Result<Changes, BackendError> {
        let (deadline, request_id) = self.asked();
        let opened = timeout_at(deadline, async {
            let session = self.session(&request_id, deadline).await?;
            if !session.capabilities.watch {
                return Err(BackendError::Invalid("the plugin does not watch".to_owned()));
            }
            let position = self.position.get();
            let resumes = !position.is_empty();
            let message = WatchRequest { prefix: self.settings.prefix.clone(), position };
            let mut request = Request::new(message);
            if let Ok(id) = MetadataValue::try_from(&request_id) {
                request.metadata_mut().insert("x-request-id", id);
            }
            let failed = |status| from_grpc(&status, &request_id);
            let mut answers =
                session.client.clone().watch(request).await.map_err(failed)?.into_inner();
            let first = answers.message().await.map_err(failed)?;
            let first = first.ok_or_else(|| nonsense("a watch ended before it began"))?;
            let mut watch = Watch {
                answers,
                session,
                socket: self.settings.socket.clone(),
                prefix: self.settings.prefix.clone(),
                position: Arc::clone(&self.position),
                request_id: request_id.clone(),
                waiting: VecDeque::new(),
                reached: None,
            };
            watch.take(WatchResponse { resync: first.resync || !resumes, ..first })?;
            Ok(watch)
        });
        let watch = opened.await.unwrap_or(Err(BackendError::TimedOut))?;
        Ok(Box::pin(stream::unfold(Some(watch), |watch| async move {
            let mut watch = watch?;
            match watch.next().await? {
                Ok(change) => Some((Ok(change), Some(watch))),
                Err(error) => Some((Err(error), None)),
            }
        })))
    }
}

// === impl Watch ===

impl Watch {
    /// The next change; `None` once the plugin has ended the watch, or is another one.
    async fn next(&mut self) -> Option<Result<Change, BackendError>> {
        let mut look = interval_at(Instant::now() + LOOK, LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            if let Some(change) = self.waiting.pop_front() {
                return Some(Ok(change));
            }
            // All before it were told.
            if let Some(reached) = self.reached.take() {
                self.position.set(reached);
            }
            let answer = tokio::select! {
                answer = self.answers.message() => answer,
                _ = look.tick() => match self.session.is_of(&self.socket) {
                    true => continue,
                    false => return None,
                },
            };
            match answer {
                Ok(Some(answer)) => {
                    if let Err(error) = self.take(answer) {
                        return Some(Err(error));
                    }
                }
                Ok(None) => return None,
                Err(status) => return Some(Err(from_grpc(&status, &self.request_id))),
            }
        }
    }

    /// Looks at an answer, which is input like any other.
    fn take(&mut self, answer: WatchResponse) -> Result<(), BackendError> {
        if answer.names.len() > MAX_NAMES {
            return Err(nonsense("more names were told at once than a page may have"));
        }
        if answer.position.len() > MAX_TOKEN {
            return Err(nonsense("the position of a watch is too long"));
        }
        match answer.resync {
            true => self.waiting.push_back(Change::Any),
            // A sign of life.
            false if answer.names.is_empty() => self.waiting.push_back(Change::None),
            false => {}
        }
        let names = answer.names.iter().filter_map(|name| {
            let rest = name.strip_prefix(&self.prefix)?;
            PluginBackend::GRAMMAR.canonical(rest, NameEncoding::Plain).ok()
        });
        self.waiting.extend(names.map(Change::Secret));
        self.reached = Some(answer.position);
        Ok(())
    }
}
