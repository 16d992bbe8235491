//! The loop of one stream: reads messages, answers them in order, and ends well
//! only after the client did.
//!
//! Driven by whoever polls the response stream, without a task of its own, so
//! that nothing can be lost between the two. Knows nothing of secrets.

use std::{error::Error as _, panic::AssertUnwindSafe, sync::Arc};

use envoy_types::pb::envoy::service::ext_proc::v3::{
    ImmediateResponse, ProcessingRequest, ProcessingResponse,
};
use futures_util::{FutureExt as _, Stream, stream};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use super::{
    BodyRefusal, HeadersAnswer, Proceed, Processor, Session, mutation,
    patience::{Extension, Pending, Resolved},
    phase::{Echo, HeadersTurn, OutOfOrder, Phases, Side, Step},
};
use crate::{identity::Peer, injection::Resolution, metrics::Metrics};

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
    /// Knows what becomes of the request after its headers, if anything.
    session: Option<Box<dyn Session>>,
    /// What is left of an answer in several messages.
    echo: Option<Echo>,
    /// Whether the last word was said about a message that was not read.
    unread: bool,
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
    /// A bug.
    #[error("nobody knows what becomes of the body")]
    NoSession,
}

/// What came of asking.
enum Taken {
    Answer(Box<ProcessingResponse>),
    Step(Step),
}

/// What came of waiting.
enum Woken {
    Headers(HeadersTurn, HeadersAnswer),
    Body(Resolved),
}

/// Counts the stream when it is dropped, however that comes about.
struct End {
    metrics: Arc<Metrics>,
    failed: Option<&'static str>,
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
        let end = End { metrics, failed: None };
        Self {
            inbound,
            peer,
            processor,
            phases,
            extension,
            pending: None,
            session: None,
            echo: None,
            unread: false,
            shutdown,
            end,
        }
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
            if self.unread {
                return Err(Abort::Unreadable(tonic::Code::OutOfRange));
            }
            let mut step = match self.pending.take() {
                Some(pending) => match self.resume(pending).await? {
                    Taken::Answer(answer) => Step::Answer(answer),
                    Taken::Step(step) => step,
                },
                None => {
                    let message = tokio::select! {
                        biased;
                        () = self.shutdown.cancelled() => return Err(Abort::Shutdown),
                        message = self.inbound.message() => message,
                    };
                    let message = message.map_err(unreadable);
                    if let Err(Abort::Unreadable(tonic::Code::OutOfRange)) = message {
                        // Only its length was read, and Envoy waits for an answer about it.
                        if let Some(answer) = self.too_large() {
                            return Ok(Some(answer));
                        }
                    }
                    if !matches!(message, Ok(Some(_))) {
                        self.phases.end();
                        self.count();
                    }
                    let Some(message) = message? else { return Ok(None) };
                    let step = self.phases.next(message);
                    // Also of a message that ends the stream.
                    self.count();
                    step?
                }
            };
            let answer = loop {
                step = match step {
                    Step::Answer(answer) => break Some(*answer),
                    Step::Echo(echo) => {
                        self.echo = Some(echo);
                        break None;
                    }
                    Step::Nothing => break None,
                    step => match self.take(step).await? {
                        Taken::Answer(answer) => break Some(*answer),
                        Taken::Step(step) => step,
                    },
                };
            };
            self.count();
            if answer.is_some() {
                return Ok(answer);
            }
        }
    }

    /// Ends the exchange over a body that does not fit into a message.
    fn too_large(&mut self) -> Option<ProcessingResponse> {
        let side = self.phases.awaits_body()?;
        let refusal = BodyRefusal::TooLarge;
        self.end.metrics.ext_proc_body(refusal.as_str());
        self.unread = true;
        let response = match &mut self.session {
            Some(session) => session.refuse(refusal),
            None => mutation::too_large(side == Side::Response, refusal.as_str()),
        };
        Some(self.phases.immediate(response))
    }

    /// Counts what an operator should hear of.
    fn count(&mut self) {
        for note in self.phases.notes() {
            self.end.metrics.ext_proc_body(note.as_str());
        }
    }

    /// Asks those who know.
    async fn take(&mut self, step: Step) -> Result<Taken, Abort> {
        let extension = self.extension.filter(|_| !self.phases.is_patient());
        let session = self.session.as_mut().ok_or(Abort::NoSession);
        Ok(match step {
            Step::Observe(mut request) => {
                request.peer.clone_from(&self.peer);
                self.processor.on_observed(*request).await;
                Taken::Step(Step::Nothing)
            }
            Step::Process(turn, mut request) => {
                request.peer.clone_from(&self.peer);
                let Some(extension) = extension else {
                    let answer = self.processor.on_request_headers(*request).await;
                    return Ok(Taken::Answer(self.answer(turn, answer).into()));
                };
                let processor = Arc::clone(&self.processor);
                let answer = async move { processor.on_request_headers(*request).await };
                let mut answer = answer.boxed();
                let answer = match timeout(extension.after, &mut answer).await {
                    Ok(answer) => self.answer(turn, answer),
                    Err(_) => {
                        self.pending = Some(Pending::Headers(turn, answer));
                        extension.message()
                    }
                };
                Taken::Answer(answer.into())
            }
            Step::Resolve(references) => {
                let patient = self.phases.is_patient();
                let Some(extension) = extension else {
                    let resolved = session?.resolve(references, patient).await;
                    return Ok(self.resolved(resolved));
                };
                let mut session = self.session.take().ok_or(Abort::NoSession)?;
                let resolved = async move {
                    let resolved = session.resolve(references, patient).await;
                    (session, resolved)
                };
                let mut resolved = resolved.boxed();
                match timeout(extension.after, &mut resolved).await {
                    Ok(resolved) => self.resume_body(resolved),
                    Err(_) => {
                        self.pending = Some(Pending::Body(resolved));
                        Taken::Answer(extension.message().into())
                    }
                }
            }
            Step::Sign(body, changed) => Taken::Step(match session?.sign(body, changed).await {
                Ok(mutation) => self.phases.signed(mutation),
                Err(response) => Step::Answer(self.phases.immediate(response).into()),
            }),
            Step::Refuse(refusal) => {
                self.end.metrics.ext_proc_body(refusal.as_str());
                Taken::Answer(self.phases.immediate(session?.refuse(refusal)).into())
            }
            Step::Response(turn, headers) => {
                let answer = session?.on_response_headers(&headers);
                let answer = match answer {
                    Ok(answer) => self.phases.answer_response(turn, answer),
                    Err(response) => self.phases.immediate(response),
                };
                Taken::Answer(answer.into())
            }
            Step::ResponseTrailers(turn, trailers) => {
                let mutation = session?.on_response_trailers(&trailers);
                Taken::Step(self.phases.answer_trailers(turn, mutation)?)
            }
            step @ (Step::Answer(_) | Step::Echo(_) | Step::Nothing) => Taken::Step(step),
        })
    }
}

impl<P> Driver<P> {
    /// Waits for what Envoy was asked for more time for.
    async fn resume(&mut self, pending: Pending) -> Result<Taken, Abort> {
        tokio::select! {
            biased;
            () = self.shutdown.cancelled() => Err(Abort::Shutdown),
            taken = async {
                match pending {
                    Pending::Headers(turn, answer) => Woken::Headers(turn, answer.await),
                    Pending::Body(resolved) => Woken::Body(resolved.await),
                }
            } => Ok(match taken {
                Woken::Headers(turn, answer) => Taken::Answer(self.answer(turn, answer).into()),
                Woken::Body(resolved) => self.resume_body(resolved),
            }),
        }
    }

    fn resume_body(&mut self, (session, resolved): Resolved) -> Taken {
        self.session = Some(session);
        self.resolved(resolved)
    }

    fn resolved(
        &mut self,
        resolved: Result<Vec<(String, Resolution)>, ImmediateResponse>,
    ) -> Taken {
        match resolved {
            Ok(resolutions) => Taken::Step(self.phases.resolved(resolutions)),
            Err(response) => Taken::Answer(self.phases.immediate(response).into()),
        }
    }

    fn answer(&mut self, turn: HeadersTurn, answer: HeadersAnswer) -> ProcessingResponse {
        if let HeadersAnswer::Proceed(proceed) = answer {
            let Proceed { session, work } = *proceed;
            self.session = Some(session);
            self.phases.proceed(turn, work)
        } else {
            self.phases.answer(turn, answer)
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

// === impl Abort ===

impl Abort {
    /// The word in metrics.
    fn reason(&self) -> &'static str {
        match self {
            Self::Reset => "reset",
            Self::Unreadable(tonic::Code::OutOfRange) => "too_large",
            Self::Unreadable(_) => "unreadable",
            Self::OutOfOrder(error) => error.reason(),
            Self::Shutdown => "shutdown",
            Self::NoSession => "internal",
        }
    }
}

// === impl End ===

impl End {
    fn abort(&mut self, abort: Abort) -> Status {
        let text = abort.to_string();
        let reason = abort.reason();
        let status = match abort {
            Abort::Reset => return Status::cancelled(text),
            Abort::Unreadable(code) => Status::new(code, text),
            Abort::OutOfOrder(_) => Status::failed_precondition(text),
            Abort::Shutdown => Status::unavailable(text),
            Abort::NoSession => Status::internal(text),
        };
        tracing::warn!(grpc.code = ?status.code(), "ext_proc stream ends with an error: {abort}");
        self.failed = Some(reason);
        status
    }

    fn panicked(&mut self) -> Status {
        tracing::error!("ext_proc stream ends with an error: panic");
        self.failed = Some("panic");
        Status::internal("internal error")
    }
}

impl Drop for End {
    fn drop(&mut self) {
        let panicked = std::thread::panicking().then_some("panic");
        self.metrics.ext_proc_stream(self.failed.or(panicked));
    }
}
