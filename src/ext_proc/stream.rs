//! The loop of one stream: reads messages, answers them in order, and ends well
//! only after the client did.
//!
//! Driven by whoever polls the response stream, without a task of its own, so
//! that nothing can be lost between the two. Knows nothing of secrets.

use std::{error::Error as _, panic::AssertUnwindSafe, sync::Arc};

use envoy_types::pb::envoy::service::ext_proc::v3::{
    ProcessingRequest, ProcessingResponse, processing_request::Request,
};
use futures_util::{FutureExt as _, Stream, stream};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use super::{
    HeadersAnswer, Processor, Watch,
    patience::{Extension, Pending},
    phase::{Echo, HeadersTurn, OutOfOrder, Phases, Step},
};
use crate::{identity::Peer, metrics::Metrics};

/// One stream's loop.
pub(super) struct Driver<P> {
    inbound: Streaming<ProcessingRequest>,
    peer: Option<Arc<Peer>>,
    processor: Arc<P>,
    phases: Phases,
    /// Whether Envoy may be asked for more time.
    extension: Option<Extension>,
    /// What Envoy was asked for more time for.
    pending: Option<Pending>,
    /// Who wants to see the response.
    watch: Option<Box<dyn Watch>>,
    /// What is left of an answer in several messages.
    echo: Option<Echo>,
    shutdown: CancellationToken,
    end: End,
}

/// Why a stream ends other than by half-close.
#[derive(Debug, thiserror::Error)]
enum Abort {
    /// Envoy's ordinary way to end a stream.
    #[error("stream was reset by the client")]
    Reset,
    /// Not a message, or one over the limit. The decoder's own words quote input.
    #[error("message cannot be read")]
    Unreadable(tonic::Code),
    #[error(transparent)]
    OutOfOrder(#[from] OutOfOrder),
    #[error("shutting down")]
    Shutdown,
}

/// Counts the stream when it is dropped, however that comes about.
struct End {
    metrics: Arc<Metrics>,
    failed: bool,
}

// === impl Driver ===

impl<P: Processor> Driver<P> {
    pub(super) fn new(
        inbound: Streaming<ProcessingRequest>,
        peer: Option<Arc<Peer>>,
        processor: Arc<P>,
        phases: Phases,
        extension: Option<Extension>,
        shutdown: CancellationToken,
        metrics: Arc<Metrics>,
    ) -> Self {
        let end = End { metrics, failed: false };
        let (pending, watch, echo) = (None, None, None);
        Self { inbound, peer, processor, phases, extension, pending, watch, echo, shutdown, end }
    }

    /// The answers. Whatever goes wrong, a panic included, is an error item; the
    /// stream is over without one only after the client's half-close.
    pub(super) fn into_stream(
        self,
    ) -> impl Stream<Item = Result<ProcessingResponse, Status>> + Send {
        stream::unfold(Some(self), |driver| async {
            let mut driver = driver?;
            // The driver is not used again after a panic, other than to be dropped.
            let outcome = AssertUnwindSafe(driver.next()).catch_unwind().await;
            let status = match outcome {
                Ok(Ok(Some(answer))) => return Some((Ok(answer), Some(driver))),
                Ok(Ok(None)) => return None,
                Ok(Err(abort)) => driver.end.abort(abort),
                Err(_) => driver.end.panicked(),
            };
            Some((Err(status), None))
        })
    }

    /// The next answer, or none after the client's half-close.
    async fn next(&mut self) -> Result<Option<ProcessingResponse>, Abort> {
        loop {
            if let Some(answer) = self.echo.as_mut().and_then(Iterator::next) {
                return Ok(Some(answer));
            }
            self.echo = None;
            if let Some(Pending { turn, answer }) = self.pending.take() {
                let answer = tokio::select! {
                    biased;
                    () = self.shutdown.cancelled() => return Err(Abort::Shutdown),
                    answer = answer => answer,
                };
                return Ok(Some(self.answer(turn, answer)));
            }
            let message = tokio::select! {
                biased;
                () = self.shutdown.cancelled() => return Err(Abort::Shutdown),
                message = self.inbound.message() => message,
            };
            let Some(message) = message.map_err(unreadable)? else {
                return Ok(None);
            };
            if let (Some(watch), Some(Request::ResponseHeaders(headers))) =
                (&mut self.watch, &message.request)
            {
                watch.on_response_headers(headers);
            }
            match self.phases.next(message)? {
                Step::Process(turn, mut request) => {
                    request.peer.clone_from(&self.peer);
                    let Some(extension) = self.extension else {
                        let answer = self.processor.on_request_headers(*request).await;
                        return Ok(Some(self.answer(turn, answer)));
                    };
                    let processor = Arc::clone(&self.processor);
                    let answer = async move { processor.on_request_headers(*request).await };
                    let mut answer = answer.boxed();
                    return Ok(Some(match timeout(extension.after, &mut answer).await {
                        Ok(answer) => self.answer(turn, answer),
                        Err(_) => {
                            self.pending = Some(Pending { turn, answer });
                            extension.message()
                        }
                    }));
                }
                Step::Answer(answer) => return Ok(Some(*answer)),
                Step::Echo(echo) => self.echo = Some(echo),
                Step::Nothing => {}
            }
        }
    }
}

impl<P> Driver<P> {
    fn answer(&mut self, turn: HeadersTurn, answer: HeadersAnswer) -> ProcessingResponse {
        match answer {
            HeadersAnswer::Watch(mutation, watch) => {
                self.watch = Some(watch);
                self.phases.answer_watching(turn, mutation)
            }
            answer @ (HeadersAnswer::Continue
            | HeadersAnswer::Mutate(_)
            | HeadersAnswer::Respond(_)) => self.phases.answer(turn, answer),
        }
    }
}

/// Tells a transport that broke, which has a cause, from a message that cannot be
/// decoded, which has none.
fn unreadable(status: Status) -> Abort {
    match status.source() {
        Some(_) => Abort::Reset,
        None => Abort::Unreadable(status.code()),
    }
}

// === impl End ===

impl End {
    fn abort(&mut self, abort: Abort) -> Status {
        let text = abort.to_string();
        let status = match abort {
            Abort::Reset => return Status::cancelled(text),
            Abort::Unreadable(code) => Status::new(code, text),
            Abort::OutOfOrder(_) => Status::failed_precondition(text),
            Abort::Shutdown => Status::unavailable(text),
        };
        tracing::warn!(grpc.code = ?status.code(), "ext_proc stream ends with an error: {abort}");
        self.failed = true;
        status
    }

    fn panicked(&mut self) -> Status {
        tracing::error!("ext_proc stream ends with an error: panic");
        self.failed = true;
        Status::internal("internal error")
    }
}

impl Drop for End {
    fn drop(&mut self) {
        self.metrics.ext_proc_stream(self.failed || std::thread::panicking());
    }
}
