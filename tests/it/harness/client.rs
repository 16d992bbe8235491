//! A client that sends exactly what it is told, over HTTP/1.1 or HTTP/2.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, Request, header::HOST};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::body::Frame;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use super::certificates::{Certificates, Identity};

/// A request's or an answer's body.
pub(crate) type Body = BoxBody<Bytes, Infallible>;

/// Longer than any timeout on the way, so that theirs is what a test sees.
const PATIENCE: Duration = Duration::from_secs(20);

/// The name of servers that have no other.
const SERVER: &str = "vaultmux.test";

/// Opens one connection per request.
#[derive(Clone)]
pub(crate) struct Client {
    address: SocketAddr,
    tls: Option<rustls::ClientConfig>,
    http2: bool,
    /// The server's name in the handshake, and the one that its certificate must have.
    server: &'static str,
    /// Where a tunnel of the mesh ends, if it goes through one.
    tunnel: Option<&'static str>,
}

/// An answer, complete.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) trailers: HeaderMap,
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

// === impl Client ===

impl Client {
    /// Speaks clear-text HTTP/1.1.
    pub(crate) fn plain(address: SocketAddr) -> Self {
        Self { address, tls: None, http2: false, server: SERVER, tunnel: None }
    }

    /// Speaks TLS and shows a certificate, if given one.
    pub(crate) fn tls(
        address: SocketAddr,
        certificates: &Certificates,
        identity: Option<Identity>,
    ) -> Self {
        Self::with_tls(address, certificates.client(identity))
    }

    /// Speaks TLS as configured.
    pub(crate) fn with_tls(address: SocketAddr, tls: rustls::ClientConfig) -> Self {
        Self { address, tls: Some(tls), http2: false, server: SERVER, tunnel: None }
    }

    /// The same client, asking for a server of this name.
    pub(crate) fn named(self, server: &'static str) -> Self {
        Self { server, ..self }
    }

    /// The same client, through a tunnel to this destination, as ztunnel makes it.
    pub(crate) fn tunnelled(self, to: &'static str) -> Self {
        Self { tunnel: Some(to), ..self }
    }

    /// The same client, speaking HTTP/2.
    pub(crate) fn http2(&self) -> Self {
        Self { http2: true, ..self.clone() }
    }

    /// `GET https://{host}{path}`.
    pub(crate) async fn get(&self, host: &str, path: &str) -> Answer {
        self.request("GET", host, path, &[]).await
    }

    /// A request without a body.
    pub(crate) async fn request(
        &self,
        method: &str,
        host: &str,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Answer {
        self.send(method, host, path, headers, sized("")).await
    }

    /// A request that is expected to be answered.
    pub(crate) async fn send(
        &self,
        method: &str,
        host: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Body,
    ) -> Answer {
        match self.try_send(method, host, path, headers, body).await {
            Ok(answer) => answer,
            Err(error) => panic!("{method} {host}{path}: {error}"),
        }
    }

    /// A request; an error is a connection that failed, refused or cut off.
    pub(crate) async fn try_send(
        &self,
        method: &str,
        host: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Body,
    ) -> anyhow::Result<Answer> {
        let mut request = Request::builder().method(method);
        request = if self.http2 {
            request.uri(format!("https://{host}{path}"))
        } else {
            request.uri(path).header(HOST, host)
        };
        for (name, value) in headers {
            // Obsolete text: bytes above 0x7f are legal on the wire.
            request = request.header(*name, http::HeaderValue::from_bytes(value.as_bytes())?);
        }
        let answer = timeout(PATIENCE, self.exchange(request.body(body)?)).await??;
        super::openapi::check(method, path, &answer);
        Ok(answer)
    }

    async fn exchange(&self, request: Request<Body>) -> anyhow::Result<Answer> {
        let stream = TokioIo::new(self.connect().await?);
        let response = if self.http2 {
            let (mut sender, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await?;
            tokio::spawn(connection);
            sender.send_request(request).await?
        } else {
            let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await?;
            tokio::spawn(connection);
            sender.send_request(request).await?
        };
        let (head, body) = response.into_parts();
        let body = body.collect().await?;
        let trailers = body.trailers().cloned().unwrap_or_default();
        Ok(Answer {
            status: head.status.as_u16(),
            headers: head.headers,
            body: body.to_bytes(),
            trailers,
        })
    }

    /// Sends bytes as they are, for what no client library would send, and returns the
    /// status line's code.
    pub(crate) async fn raw(&self, request: &[u8]) -> anyhow::Result<u16> {
        let mut stream = self.connect().await?;
        stream.write_all(request).await?;
        let mut answer = Vec::new();
        let mut buffer = [0; 4096];
        while !answer.windows(2).any(|two| two == b"\r\n") {
            let read = timeout(PATIENCE, stream.read(&mut buffer)).await??;
            anyhow::ensure!(read > 0, "connection closed without an answer");
            answer.extend_from_slice(&buffer[..read]);
        }
        let line = String::from_utf8_lossy(&answer);
        let code = line.split(' ').nth(1).and_then(|code| code.parse().ok());
        code.ok_or_else(|| anyhow::anyhow!("no status line: {line}"))
    }

    /// The same, and returns all that comes until the connection ends.
    pub(crate) async fn converse(&self, request: &[u8]) -> anyhow::Result<String> {
        let mut stream = self.connect().await?;
        stream.write_all(request).await?;
        let mut answer = Vec::new();
        // How a connection ends does not matter.
        let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }

    async fn connect(&self) -> anyhow::Result<Box<dyn Stream>> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let Some(mut config) = self.tls.clone() else { return Ok(Box::new(stream)) };
        let http2 = self.http2 || self.tunnel.is_some();
        config.alpn_protocols = vec![if http2 { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
        let name = ServerName::try_from(self.server)?;
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
        let Some(to) = self.tunnel else { return Ok(Box::new(stream)) };
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                .await?;
        tokio::spawn(connection);
        let response = sender.send_request(Request::connect(to).body(sized(""))?).await?;
        anyhow::ensure!(response.status() == 200, "no tunnel: {}", response.status());
        Ok(Box::new(TokioIo::new(hyper::upgrade::on(response).await?)))
    }
}

// === impl Answer ===

impl Answer {
    /// The body as JSON.
    pub(crate) fn json<T: serde::de::DeserializeOwned>(&self) -> T {
        match serde_json::from_slice(&self.body) {
            Ok(value) => value,
            Err(error) => {
                panic!("{} with a body that is not it ({error}): {}", self.status, self.text())
            }
        }
    }

    /// The body as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// One header's value; empty if absent.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

/// A body whose length is announced.
pub(crate) fn sized(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).boxed()
}

/// A body whose length is not announced, in frames of at most `size` bytes.
pub(crate) fn chunked(bytes: impl Into<Bytes>, size: usize) -> Body {
    StreamBody::new(stream::iter(frames(&bytes.into(), size).map(Ok))).boxed()
}

/// A body that ends with a trailer.
pub(crate) fn with_trailers(
    bytes: impl Into<Bytes>,
    size: usize,
    name: &'static str,
    value: &str,
) -> Body {
    let mut trailers = HeaderMap::new();
    trailers.insert(name, http::HeaderValue::from_str(value).expect("a header's value"));
    let frames = frames(&bytes.into(), size).chain([Frame::trailers(trailers)]);
    StreamBody::new(stream::iter(frames.map(Ok))).boxed()
}

fn frames(bytes: &Bytes, size: usize) -> impl Iterator<Item = Frame<Bytes>> + use<> {
    let bytes = bytes.clone();
    (0..bytes.len())
        .step_by(size)
        .map(move |at| Frame::data(bytes.slice(at..bytes.len().min(at + size))))
}
