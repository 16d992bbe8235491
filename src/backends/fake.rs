//! A store that misbehaves on demand, over HTTP or HTTPS: for what no emulator
//! shows. It answers by a function of the call, and keeps a record of the calls.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use futures_util::StreamExt;
use http::{HeaderMap, Method, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::{body::Frame, body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
};
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::UnboundedReceiverStream;

/// A call as it arrived.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) method: Method,
    /// Path and query as sent, not decoded.
    pub(crate) target: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// What the store does with a call.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    /// A whole answer.
    Answer { status: u16, headers: Vec<(String, String)>, body: Bytes },
    /// Promises more body than comes.
    Cut,
    /// Closes the connection without a word.
    Reset,
    /// Never answers.
    Hang,
    /// A body without an end.
    Endless { status: u16 },
    /// A body that goes on while the test writes it.
    Open(Arc<Mutex<Option<UnboundedReceiver<Bytes>>>>),
}

/// The running server; ends with the test's runtime.
#[derive(Clone)]
pub(crate) struct Fake {
    calls: Arc<Mutex<Vec<Call>>>,
    reply: Arc<Mutex<Behaviour>>,
    pub(crate) url: String,
}

type Behaviour = Arc<dyn Fn(&Call) -> Reply + Send + Sync>;
type Body = BoxBody<Bytes, std::io::Error>;

// === impl Reply ===

impl Reply {
    pub(crate) fn new(status: u16, body: impl Into<Bytes>) -> Self {
        Self::Answer { status, headers: Vec::new(), body: body.into() }
    }

    pub(crate) fn json(status: u16, body: impl Into<Bytes>) -> Self {
        Self::new(status, body).header("content-type", "application/json")
    }

    /// An answer that the test writes piece by piece, once. The sender is closed when the
    /// caller has hung up.
    pub(crate) fn open() -> (Self, UnboundedSender<Bytes>) {
        let (sender, body) = unbounded_channel();
        (Self::Open(Arc::new(Mutex::new(Some(body)))), sender)
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        if let Self::Answer { headers, .. } = &mut self {
            headers.push((name.to_owned(), value.to_owned()));
        }
        self
    }
}

// === impl Fake ===

impl Fake {
    /// Listens for plain HTTP on loopback; hangs until told what to do.
    pub(crate) async fn start() -> Self {
        Self::listen(None).await
    }

    /// Listens for HTTPS as `localhost`; also returns the CA to trust, as PEM.
    pub(crate) async fn start_tls() -> (Self, String) {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".into()])
            .expect("certificate made");
        let chain = vec![made.cert.der().clone()];
        let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der())
            .expect("key made");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("protocol versions")
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .expect("certificate accepted");
        let fake = Self::listen(Some(TlsAcceptor::from(Arc::new(config)))).await;
        (fake, made.cert.pem())
    }

    async fn listen(tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address: SocketAddr = listener.local_addr().expect("bound");
        let url = match tls {
            None => format!("http://{address}"),
            Some(_) => format!("https://localhost:{}", address.port()),
        };
        let hang: Behaviour = Arc::new(|_: &Call| Reply::Hang);
        let fake = Self { calls: Arc::default(), reply: Arc::new(Mutex::new(hang)), url };
        let serving = fake.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (fake, tls) = (serving.clone(), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => fake.serve(stream).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                fake.serve(stream).await;
                            }
                        }
                    }
                });
            }
        });
        fake
    }

    /// Answers every call from now on by this function.
    pub(crate) fn on(&self, reply: impl Fn(&Call) -> Reply + Send + Sync + 'static) {
        *self.reply.lock().expect("not poisoned") = Arc::new(reply);
    }

    /// Answers every call alike from now on.
    pub(crate) fn always(&self, reply: Reply) {
        self.on(move |_| reply.clone());
    }

    /// The calls since the last time.
    pub(crate) fn calls(&self) -> Vec<Call> {
        std::mem::take(&mut *self.calls.lock().expect("not poisoned"))
    }

    async fn serve(&self, stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) {
        let fake = self.clone();
        let service = service_fn(move |request: http::Request<Incoming>| {
            let fake = fake.clone();
            async move { fake.call(request).await }
        });
        let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
        // Ends in an error whenever the test asks for one.
        let _ = server.http1_only().serve_connection(TokioIo::new(stream), service).await;
    }

    async fn call(
        &self,
        request: http::Request<Incoming>,
    ) -> Result<Response<Body>, std::io::Error> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.map_err(std::io::Error::other)?.to_bytes();
        let target = head.uri.path_and_query().map_or("/", |target| target.as_str());
        let call =
            Call { method: head.method, target: target.to_owned(), headers: head.headers, body };
        self.calls.lock().expect("not poisoned").push(call.clone());
        let behaviour = Arc::clone(&self.reply.lock().expect("not poisoned"));
        Self::answer(behaviour(&call)).await
    }

    async fn answer(reply: Reply) -> Result<Response<Body>, std::io::Error> {
        match reply {
            Reply::Hang => std::future::pending().await,
            Reply::Reset => Err(std::io::Error::other("reset")),
            Reply::Cut => {
                let half = futures_util::stream::iter([
                    Ok(Frame::data(Bytes::from_static(b"{\"half\":"))),
                    Err(std::io::Error::other("cut")),
                ]);
                Ok(Response::builder()
                    .header("content-type", "application/json")
                    .header("content-length", "4711")
                    .body(BodyExt::boxed(StreamBody::new(half)))
                    .expect("valid answer"))
            }
            Reply::Endless { status } => {
                let same = || Ok(Frame::data(Bytes::from_static(&[b' '; 64 << 10])));
                let body = futures_util::stream::repeat_with(same);
                let response = Response::builder().status(status);
                Ok(response.body(BodyExt::boxed(StreamBody::new(body))).expect("valid answer"))
            }
            Reply::Open(body) => {
                let body = body.lock().expect("not poisoned").take().expect("answered once");
                let body = UnboundedReceiverStream::new(body).map(|data| Ok(Frame::data(data)));
                Ok(Response::new(BodyExt::boxed(StreamBody::new(body))))
            }
            Reply::Answer { status, headers, body } => {
                let mut response =
                    Response::builder().status(StatusCode::from_u16(status).expect("valid status"));
                for (name, value) in headers {
                    response = response.header(name, value);
                }
                let body = Full::new(body).map_err(|never: Infallible| match never {});
                Ok(response.body(body.boxed()).expect("valid answer"))
            }
        }
    }
}
