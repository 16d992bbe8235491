//! The `ExternalProcessor` service: what Envoy shows of a request, answered.
//!
//! Translates between protobuf and the core; decides nothing. Three layers:
//! `stream` moves messages and sees to it that no stream ends well by
//! accident, `phase` knows which answer is due for which message, and
//! `request` asks the core about a request's headers, and `session` about what
//! comes after them. `transform` is what changes bodies as they pass.
//!
//! A stream that ends with status OK makes Envoy let the request go on as it is,
//! whatever its failure mode. So every end but the client's own is an error.

mod attributes;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod mutation;
mod patience;
mod phase;
pub mod redact;
mod request;
mod retry;
mod session;
mod stream;
mod surface;
mod suspects;
#[cfg(test)]
mod tests;
mod transform;

use std::{collections::HashMap, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use envoy_types::pb::{
    envoy::{
        config::core::v3::Metadata,
        service::ext_proc::v3::{
            HeaderMutation, HttpHeaders, HttpTrailers, ImmediateResponse, ProcessingRequest,
            ProcessingResponse,
            external_processor_server::{ExternalProcessor, ExternalProcessorServer},
        },
    },
    google::protobuf::Struct,
};
use futures_util::Stream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming, async_trait};

use self::patience::Extension;
pub use self::{
    phase::{BodyMode, Framing, Modes, PhaseSettings, Scan},
    request::SecretProcessor,
    transform::Transform,
};
use crate::{identity::Peer, injection::Resolution, metrics::Metrics, snapshot::Current};

/// Longest message that is read, and so the most that a stream takes of memory at once. A
/// buffered body is one message, and tonic's own limit of 4 MiB is less than proxies are set
/// to buffer. What is longer is not read, and answered as a body that is too large.
const MAX_MESSAGE: usize = 16 * 1024 * 1024;

/// The ExternalProcessor service over a [`Processor`].
pub struct ExtProc<P = SecretProcessor> {
    processor: Arc<P>,
    metrics: Arc<Metrics>,
    phases: PhaseSettings,
    extension: Option<Extension>,
    shutdown: CancellationToken,
}

/// What an operator can set about the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExtProcSettings {
    /// How long the headers of a request may wait for secrets. Less than Envoy's
    /// `message_timeout` (200 ms unless set), so that the answer is ours.
    pub message_budget: Duration,
    /// What Envoy's `max_message_timeout` is, so that it may be asked for more time once
    /// `message_budget` is over. None where Envoy grants none.
    pub max_message_timeout: Option<Duration>,
    /// How long a body may wait for secrets where Envoy does not wait at all, in duplex
    /// mode.
    pub duplex_budget: Duration,
    /// What is known of the filter. Overrides take effect only where it has
    /// `allow_mode_override`.
    pub phases: PhaseSettings,
}

/// Answers the headers of requests; everything else about a stream is done for it.
pub trait Processor: Send + Sync + 'static {
    /// Answers one request's headers. Must answer before Envoy's message timeout;
    /// a panic ends the stream with an error.
    fn on_request_headers(
        &self,
        request: RequestHeaders,
    ) -> impl Future<Output = HeadersAnswer> + Send;

    /// Looks at one request's headers that pass whatever it finds: Envoy reads no answers.
    fn on_observed(&self, request: RequestHeaders) -> impl Future<Output = ()> + Send {
        drop(request);
        std::future::ready(())
    }
}

/// The headers of a request, and what Envoy says about it. Without `Debug`, since
/// headers carry credentials.
#[derive(Clone, Default)]
pub struct RequestHeaders {
    /// As Envoy received them.
    pub headers: HttpHeaders,
    /// Envoy's attributes, by the name of the filter.
    pub attributes: HashMap<String, Struct>,
    /// What filters before this one said, by their names.
    pub metadata: Option<Metadata>,
    /// The proxy itself.
    pub peer: Option<Arc<Peer>>,
    /// What they say about the body.
    pub framing: Framing,
    /// Whether there is a body whose bytes can be replaced.
    pub request_body: bool,
    /// Whether there is a body that can be had as a whole, while the headers wait.
    pub whole_body: bool,
    /// Whether those of the response's body could be.
    pub response_body: bool,
}

/// What becomes of a request. Without `Debug`, since mutations carry secrets.
pub enum HeadersAnswer {
    /// It goes on as it is.
    Continue,
    /// It goes on with other headers.
    Mutate(HeaderMutation),
    /// It goes on with other headers, and there is more to be done about it.
    Proceed(Box<Proceed>),
    /// It ends here, with this response.
    Respond(ImmediateResponse),
}

/// What is to be done about a request after its headers. Without `Debug`, since it
/// holds secrets.
pub struct Proceed {
    /// Who knows about the rest.
    pub session: Box<dyn Session>,
    /// What the rest is.
    pub work: Rest,
}

/// What is to be done about a request.
#[derive(Default)]
pub struct Rest {
    /// Of its headers.
    pub mutation: HeaderMutation,
    /// What Envoy is to keep about it, by namespace.
    pub metadata: Option<Struct>,
    /// What to look for in its body, if anything.
    pub scan: Option<Scan>,
    /// Whether its headers wait for credentials that are made of the whole body.
    pub signs: bool,
    /// Whether the response's headers matter.
    pub response_headers: bool,
    /// Whether the response's body does.
    pub response_body: bool,
}

/// Knows what becomes of one request after its headers. Asked in the order of messages.
#[async_trait]
pub trait Session: Send + Sync {
    /// What these references in the request's body stand for. Must answer before Envoy's
    /// message timeout, unless Envoy is `patient`.
    ///
    /// # Errors
    /// The response that the request ends with.
    async fn resolve(
        &mut self,
        references: Vec<String>,
        patient: bool,
    ) -> Result<Vec<(String, Resolution)>, ImmediateResponse>;

    /// The headers that are made of the request's whole body, as it goes on: `changed` or
    /// not. Must answer before Envoy's message timeout.
    ///
    /// # Errors
    /// The response that the request ends with.
    async fn sign(
        &mut self,
        body: Bytes,
        changed: bool,
    ) -> Result<HeaderMutation, ImmediateResponse>;

    /// The response to a message whose body cannot be let through.
    fn refuse(&mut self, refusal: BodyRefusal) -> ImmediateResponse;

    /// What becomes of the response.
    ///
    /// # Errors
    /// The response that is sent in its place.
    fn on_response_headers(
        &mut self,
        headers: &HttpHeaders,
    ) -> Result<ResponseAnswer, ImmediateResponse>;

    /// What becomes of the response's trailers.
    fn on_response_trailers(&mut self, trailers: &HttpTrailers) -> HeaderMutation;
}

/// What becomes of a response. Without `Debug`, since it holds secrets.
#[derive(Default)]
pub struct ResponseAnswer {
    /// Of its headers.
    pub mutation: HeaderMutation,
    /// What changes its body, if anything.
    pub transform: Option<Box<dyn Transform>>,
}

/// Why a body is not let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyRefusal {
    /// It has to be taken as a whole, and is longer than allowed.
    TooLarge,
    /// Only its beginning was shown.
    Incomplete,
    /// Trailers came while bytes were held back that no answer can carry.
    Held,
    /// It has too many references.
    TooMany,
    /// It has one in JSON that stands in no string.
    Position,
    /// It has no reference, and neither had the headers.
    NoReference,
    /// It is a response whose headers, which say what it is, were not shown.
    Headless,
}

// === impl BodyRefusal ===

impl BodyRefusal {
    /// The word in details and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TooLarge => "body_too_large",
            Self::Incomplete => "body_incomplete",
            Self::Held => "body_held_at_trailers",
            Self::TooMany => "too_many_references",
            Self::Position => "reference_position",
            Self::NoReference => "reference_required",
            Self::Headless => "mode_unable:response_header_mode",
        }
    }
}

// === impl ExtProcSettings ===

impl Default for ExtProcSettings {
    fn default() -> Self {
        Self {
            message_budget: Duration::from_millis(150),
            max_message_timeout: None,
            duplex_budget: Duration::from_secs(5),
            phases: PhaseSettings::default(),
        }
    }
}

impl ExtProcSettings {
    fn extension(&self) -> Option<Extension> {
        Extension::new(self.message_budget, self.max_message_timeout)
    }

    /// How long one message may wait for secrets, where Envoy does not wait for ever.
    fn budget(&self) -> Duration {
        self.extension().map_or(self.message_budget, Extension::budget)
    }
}

// === impl ExtProc ===

impl ExtProc {
    /// The service that resolves secrets.
    #[must_use]
    pub fn new(current: Current, metrics: Arc<Metrics>, settings: ExtProcSettings) -> Self {
        let processor = SecretProcessor::new(current, Arc::clone(&metrics), settings);
        let service = Self::with_processor(processor, metrics, settings.phases);
        Self { extension: settings.extension(), ..service }
    }
}

impl<P: Processor> ExtProc<P> {
    /// The service over any processor.
    #[must_use]
    pub fn with_processor(processor: P, metrics: Arc<Metrics>, phases: PhaseSettings) -> Self {
        let processor = Arc::new(processor);
        let shutdown = CancellationToken::new();
        Self { processor, metrics, phases, extension: None, shutdown }
    }

    /// Ends open streams with `UNAVAILABLE` once the token is cancelled. Cancel it
    /// when the grace period is over: until then streams finish by themselves.
    #[must_use]
    pub fn ending_on(mut self, shutdown: CancellationToken) -> Self {
        self.shutdown = shutdown;
        self
    }

    /// The tonic service, with its limits set.
    #[must_use]
    pub fn into_server(self) -> ExternalProcessorServer<Self> {
        ExternalProcessorServer::new(self).max_decoding_message_size(MAX_MESSAGE)
    }
}

#[async_trait]
impl<P: Processor> ExternalProcessor for ExtProc<P> {
    type ProcessStream = Pin<Box<dyn Stream<Item = Result<ProcessingResponse, Status>> + Send>>;

    async fn process(
        &self,
        request: Request<Streaming<ProcessingRequest>>,
    ) -> Result<Response<Self::ProcessStream>, Status> {
        let peer = request.extensions().get::<Arc<Peer>>().cloned();
        let driver = stream::Driver::new(
            request.into_inner(),
            peer,
            Arc::clone(&self.processor),
            phase::Phases::new(self.phases),
            self.extension,
            self.shutdown.clone(),
            Arc::clone(&self.metrics),
        );
        Ok(Response::new(Box::pin(driver.into_stream())))
    }
}
