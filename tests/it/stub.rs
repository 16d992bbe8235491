//! A stand-in for the service that answers whatever a test wants: it shows what Envoy
//! does with answers that our service never gives.

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex},
};

use envoy_types::pb::envoy::{
    config::core::v3::{HeaderValue, HeaderValueOption},
    service::{
        auth::v3::{
            CheckRequest, CheckResponse, OkHttpResponse,
            authorization_server::{Authorization, AuthorizationServer},
            check_response::HttpResponse,
        },
        ext_proc::v3::{
            BodyResponse, CommonResponse, HeaderMutation, HeadersResponse, ProcessingRequest,
            ProcessingResponse, TrailersResponse,
            external_processor_server::{ExternalProcessor, ExternalProcessorServer},
            processing_request::Request as Asked,
            processing_response::Response as Answered,
        },
    },
};
use futures_util::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming, transport::Server};

use crate::harness::{Edge, Edit};

/// What to answer to a check.
pub(crate) type Check = fn(&CheckRequest) -> Result<CheckResponse, Status>;
/// What to answer to a message; `None` ends the stream as if all were well.
pub(crate) type Process = fn(&ProcessingRequest) -> Option<Result<ProcessingResponse, Status>>;

/// A running stand-in and what it was asked.
#[derive(Clone)]
pub(crate) struct Stub {
    address: SocketAddr,
    check: Check,
    process: Process,
    checks: Arc<Mutex<Vec<CheckRequest>>>,
    messages: Arc<Mutex<Vec<ProcessingRequest>>>,
}

// === impl Stub ===

impl Stub {
    /// The stand-in behind the front proxy.
    pub(crate) async fn start(
        check: Check,
        process: Process,
        edits: &[(&str, &str)],
    ) -> (Self, Edge) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind a port");
        let address = listener.local_addr().expect("bound");
        let stub =
            Self { address, check, process, checks: Arc::default(), messages: Arc::default() };
        let server = Server::builder()
            .add_service(AuthorizationServer::new(stub.clone()))
            .add_service(ExternalProcessorServer::new(stub.clone()));
        let incoming =
            tonic::transport::server::TcpIncoming::from(listener).with_nodelay(Some(true));
        tokio::spawn(server.serve_with_incoming(incoming));
        let edits: Vec<Edit> =
            edits.iter().map(|(from, to)| ((*from).into(), (*to).into())).collect();
        let edge = Edge::start(stub.address, stub.address, &edits).await;
        (stub, edge)
    }

    /// All checks so far.
    pub(crate) fn checks(&self) -> Vec<CheckRequest> {
        self.checks.lock().expect("no panic while held").clone()
    }

    /// All messages so far, of all streams.
    pub(crate) fn messages(&self) -> Vec<ProcessingRequest> {
        self.messages.lock().expect("no panic while held").clone()
    }
}

#[tonic::async_trait]
impl Authorization for Stub {
    async fn check(
        &self,
        request: Request<CheckRequest>,
    ) -> Result<Response<CheckResponse>, Status> {
        let request = request.into_inner();
        self.checks.lock().expect("no panic while held").push(request.clone());
        (self.check)(&request).map(Response::new)
    }
}

#[tonic::async_trait]
impl ExternalProcessor for Stub {
    type ProcessStream = Pin<Box<dyn Stream<Item = Result<ProcessingResponse, Status>> + Send>>;

    async fn process(
        &self,
        request: Request<Streaming<ProcessingRequest>>,
    ) -> Result<Response<Self::ProcessStream>, Status> {
        let (process, messages) = (self.process, Arc::clone(&self.messages));
        let answers = request.into_inner().scan((), move |(), message| {
            let answer = message.ok().and_then(|message| {
                messages.lock().expect("no panic while held").push(message.clone());
                process(&message)
            });
            std::future::ready(answer)
        });
        Ok(Response::new(Box::pin(answers)))
    }
}

/// Allows.
pub(crate) fn allow(_: &CheckRequest) -> Result<CheckResponse, Status> {
    Ok(allow_with(OkHttpResponse::default()))
}

/// Allows, with this.
pub(crate) fn allow_with(ok: OkHttpResponse) -> CheckResponse {
    CheckResponse {
        status: Some(envoy_types::pb::google::rpc::Status::default()),
        http_response: Some(HttpResponse::OkResponse(ok)),
        ..CheckResponse::default()
    }
}

/// Lets everything pass as it is.
pub(crate) fn pass(request: &ProcessingRequest) -> Option<Result<ProcessingResponse, Status>> {
    Some(Ok(answer(request, None)))
}

/// The answer of the kind that `request` asks for.
pub(crate) fn answer(
    request: &ProcessingRequest,
    common: Option<CommonResponse>,
) -> ProcessingResponse {
    let headers = HeadersResponse { response: common.clone() };
    let body = BodyResponse { response: common };
    let answered = match request.request.as_ref().expect("a request has a kind") {
        Asked::RequestHeaders(_) => Answered::RequestHeaders(headers),
        Asked::ResponseHeaders(_) => Answered::ResponseHeaders(headers),
        Asked::RequestBody(_) => Answered::RequestBody(body),
        Asked::ResponseBody(_) => Answered::ResponseBody(body),
        Asked::RequestTrailers(_) => Answered::RequestTrailers(TrailersResponse::default()),
        Asked::ResponseTrailers(_) => Answered::ResponseTrailers(TrailersResponse::default()),
    };
    ProcessingResponse { response: Some(answered), ..ProcessingResponse::default() }
}

/// Sets one header.
pub(crate) fn set(header: HeaderValue) -> CommonResponse {
    CommonResponse {
        header_mutation: Some(HeaderMutation {
            set_headers: vec![HeaderValueOption {
                header: Some(header),
                ..HeaderValueOption::default()
            }],
            remove_headers: Vec::new(),
        }),
        ..CommonResponse::default()
    }
}

/// A header as text, or as bytes.
pub(crate) fn header(key: &str, value: &str, raw_value: &str) -> HeaderValue {
    HeaderValue { key: key.into(), value: value.into(), raw_value: raw_value.into() }
}
