//! The `ExternalProcessor` service: what Envoy shows of a request, answered.
//!
//! Translates between protobuf and the core; decides nothing. Three layers:
//! `stream` moves messages and sees to it that no stream ends well by
//! accident, `phase` knows which answer is due for which message, and
//! `request` asks the core about a request's headers. Secrets are put into
//! headers only; bodies and trailers pass through untouched, in every mode.
//!
//! A stream that ends with status OK makes Envoy let the request go on as it is,
//! whatever its failure mode. So every end but the client's own is an error.

mod attributes;
mod mutation;
mod phase;
pub mod redact;
mod request;
mod stream;
#[cfg(test)]
mod tests;

use std::{collections::HashMap, pin::Pin, sync::Arc, time::Duration};

use envoy_types::pb::{
    envoy::{
        config::core::v3::Metadata,
        service::ext_proc::v3::{
            HeaderMutation, HttpHeaders, ImmediateResponse, ProcessingRequest, ProcessingResponse,
            external_processor_server::{ExternalProcessor, ExternalProcessorServer},
        },
    },
    google::protobuf::Struct,
};
use futures_util::Stream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming, async_trait};

pub use self::request::SecretProcessor;
use crate::{identity::Peer, metrics::Metrics, snapshot::Current};

/// Longest message that is read. A buffered body is one message, and tonic's own
/// limit of 4 MiB is less than proxies are set to buffer.
const MAX_MESSAGE: usize = 16 * 1024 * 1024;

/// The ExternalProcessor service over a [`Processor`].
pub struct ExtProc<P = SecretProcessor> {
    processor: Arc<P>,
    metrics: Arc<Metrics>,
    mode_override: bool,
    shutdown: CancellationToken,
}

/// What an operator can set about the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExtProcSettings {
    /// How long the headers of a request may wait for secrets. Less than Envoy's
    /// `message_timeout` (200 ms unless set), so that the answer is ours.
    pub message_budget: Duration,
    /// Whether to ask Envoy, request by request, not to send what is not needed.
    /// Takes effect only where the filter has `allow_mode_override`.
    pub mode_override: bool,
}

/// Answers the headers of requests; everything else about a stream is done for it.
pub trait Processor: Send + Sync + 'static {
    /// Answers one request's headers. Must answer before Envoy's message timeout;
    /// a panic ends the stream with an error.
    fn on_request_headers(
        &self,
        request: RequestHeaders,
    ) -> impl Future<Output = HeadersAnswer> + Send;
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
}

/// What becomes of a request. Without `Debug`, since mutations carry secrets.
pub enum HeadersAnswer {
    /// It goes on as it is.
    Continue,
    /// It goes on with other headers.
    Mutate(HeaderMutation),
    /// It ends here, with this response.
    Respond(ImmediateResponse),
}

// === impl ExtProcSettings ===

impl Default for ExtProcSettings {
    fn default() -> Self {
        Self { message_budget: Duration::from_millis(150), mode_override: false }
    }
}

// === impl ExtProc ===

impl ExtProc {
    /// The service that resolves secrets.
    #[must_use]
    pub fn new(current: Current, metrics: Arc<Metrics>, settings: ExtProcSettings) -> Self {
        let processor =
            SecretProcessor::new(current, Arc::clone(&metrics), settings.message_budget);
        Self::with_processor(processor, metrics, settings.mode_override)
    }
}

impl<P: Processor> ExtProc<P> {
    /// The service over any processor.
    #[must_use]
    pub fn with_processor(processor: P, metrics: Arc<Metrics>, mode_override: bool) -> Self {
        let processor = Arc::new(processor);
        Self { processor, metrics, mode_override, shutdown: CancellationToken::new() }
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
            phase::Phases::new(self.mode_override),
            self.shutdown.clone(),
            Arc::clone(&self.metrics),
        );
        Ok(Response::new(Box::pin(driver.into_stream())))
    }
}
