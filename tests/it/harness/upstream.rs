//! An upstream that answers with what it received, and remembers it.

use std::{
    convert::Infallible,
    fmt::Write as _,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::{
    body::{Frame, Incoming},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

use super::client::{Body, chunked, sized, with_trailers};

/// Answers every request with JSON of [`Received`], over HTTP/1.1 and HTTP/2. `/public/bytes`
/// answers with [`Upstream::BYTES`] instead, framed as its query says: `length`,
/// `chunked` or `trailers`; `/public/redirect` with a redirect to what its query says, and
/// `/public/echo` with the `x-api-key` in what [`Upstream::echo`] says, `/public/early` without
/// having read the request's body, and
/// `/public/slow` with [`Upstream::SLOW`] chunks that hold the `x-api-key`. The status is 401 where `x-wants` names another `x-api-key` than
/// was sent.
pub(crate) struct Upstream {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    received: Arc<Mutex<Vec<Received>>>,
    task: tokio::task::JoinHandle<()>,
}

/// One request as it arrived.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Received {
    pub(crate) method: String,
    pub(crate) authority: String,
    pub(crate) path: String,
    pub(crate) version: String,
    /// Names and values in the order of arrival; bytes that are not UTF-8 are replaced.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body_length: usize,
    pub(crate) body_sha256: String,
    pub(crate) trailers: Vec<(String, String)>,
}

// === impl Upstream ===

impl Upstream {
    /// Size of the `/public/bytes` answer.
    pub(crate) const BYTES: usize = 200_000;
    /// Chunks of the `/public/slow` answer. It would take minutes.
    pub(crate) const SLOW: usize = 100_000;

    /// Listens in clear text.
    pub(crate) async fn start() -> Self {
        Self::listen(None).await
    }

    /// Listens behind TLS.
    pub(crate) async fn start_tls(tls: Arc<rustls::ServerConfig>) -> Self {
        Self::listen(Some(TlsAcceptor::from(tls))).await
    }

    async fn listen(tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind a port");
        let address = listener.local_addr().expect("bound");
        let received = Arc::new(Mutex::new(Vec::new()));
        let record = Arc::clone(&received);
        let task = tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                let (tls, record) = (tls.clone(), Arc::clone(&record));
                tokio::spawn(async move {
                    match tls {
                        None => serve(stream, record).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                serve(stream, record).await;
                            }
                        }
                    }
                });
            }
        });
        Self { address, received, task }
    }

    /// All requests so far.
    pub(crate) fn received(&self) -> Vec<Received> {
        self.received.lock().expect("no panic while held").clone()
    }

    /// What `/public/echo` answers to a request with this key: a stream of events, a body of
    /// more than a mebibyte, messages of gRPC.
    pub(crate) fn echo(how: &str, key: &str) -> Vec<u8> {
        match how {
            "events" => format!("data: {key}\n\n").repeat(20).into_bytes(),
            "large" => {
                let filler = "no value ".repeat(9_000);
                format!("{filler}{key}{filler}{key}").repeat(8).into_bytes()
            }
            "grpc" => {
                let mut frame = vec![0];
                frame.extend_from_slice(&(key.len() as u32 + 4).to_be_bytes());
                frame.extend_from_slice(format!("is {key}.").as_bytes());
                frame.repeat(5)
            }
            _ => format!("is {key}.").into_bytes(),
        }
    }

    /// What `/public/bytes` answers: no two chunks of it are alike.
    pub(crate) fn bytes() -> Vec<u8> {
        (0..Self::BYTES as u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

// === impl Received ===

impl Received {
    /// Every value of a header.
    pub(crate) fn header(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(is, _)| is == name).map(|(_, value)| value.as_str()).collect()
    }
}

async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    record: Arc<Mutex<Vec<Received>>>,
) {
    let service = service_fn(move |request| answer(request, Arc::clone(&record)));
    // The connection ends with the proxy; how is not the upstream's business.
    let _ = Builder::new(TokioExecutor::new())
        .http1()
        .max_buf_size(1 << 20)
        .http2()
        .max_header_list_size(1 << 20)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn answer(
    request: Request<Incoming>,
    record: Arc<Mutex<Vec<Received>>>,
) -> Result<Response<Body>, Infallible> {
    let (head, body) = request.into_parts();
    let key = head.headers.get("x-api-key").and_then(|key| key.to_str().ok()).unwrap_or_default();
    if head.uri.path() == "/public/early" {
        let early = sized(Upstream::echo("", key));
        // It goes on to read, so that nobody takes it for gone.
        tokio::spawn(body.collect());
        return Ok(Response::new(early));
    }
    // A request that the proxy cut off is not one that arrived.
    let Ok(body) = body.collect().await else {
        return Ok(Response::builder().status(400).body(sized("cut off")).expect("valid"));
    };
    let trailers = body.trailers().map(pairs).unwrap_or_default();
    let body = body.to_bytes();
    let headers = pairs(&head.headers);
    let host = head.headers.get("host").map(|host| String::from_utf8_lossy(host.as_bytes()));
    let authority = head.uri.authority().map(ToString::to_string);
    let received = Received {
        method: head.method.to_string(),
        authority: authority.or(host.map(Into::into)).unwrap_or_default(),
        path: head.uri.path_and_query().map(ToString::to_string).unwrap_or_default(),
        version: format!("{:?}", head.version),
        headers,
        body_length: body.len(),
        body_sha256: sha256(&body),
        trailers,
    };
    let echo = serde_json::to_vec(&received).expect("plain strings");
    record.lock().expect("no panic while held").push(received);
    let headers = &head.headers;
    let refuses = headers.get("x-wants").is_some_and(|key| headers.get("x-api-key") != Some(key));
    let response = Response::builder().status(if refuses { 401 } else { 200 });
    let response = match (head.uri.path(), head.uri.query()) {
        ("/public/bytes", Some("length")) => response.body(sized(Upstream::bytes())),
        ("/public/bytes", Some("chunked")) => response.body(chunked(Upstream::bytes(), 8_000)),
        ("/public/bytes", Some("trailers")) => {
            response.body(with_trailers(Upstream::bytes(), 8_000, "x-end", "of the answer"))
        }
        ("/public/echo", Some(how)) => {
            let kind = match how {
                "events" => "text/event-stream",
                "grpc" => "application/grpc",
                _ => "text/plain",
            };
            let body = Upstream::echo(how, key);
            let response = response.header("content-type", kind).header("x-echo", key);
            match how {
                "large" | "grpc" => response.body(with_trailers(body, 8_000, "x-end", key)),
                "events" => response.body(chunked(body, 5)),
                _ => response.body(sized(body)),
            }
        }
        ("/public/redirect", Some(location)) => {
            Response::builder().status(302).header("location", location).body(sized("elsewhere"))
        }
        ("/public/slow", _) => {
            let key = head.headers.get("x-api-key").map_or(&[][..], |key| key.as_bytes());
            let chunk = Bytes::from([b"data: ", key, b"\n\n"].concat());
            let chunks = stream::iter(0..Upstream::SLOW).then(move |_| {
                let chunk = chunk.clone();
                async move {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                    Ok::<_, Infallible>(Frame::data(chunk))
                }
            });
            response.body(BodyExt::boxed(StreamBody::new(chunks)))
        }
        _ if head.headers.get("content-type").is_some_and(|kind| kind == "application/grpc") => {
            response.header("content-type", "application/grpc").body(with_trailers(
                Bytes::new(),
                1,
                "grpc-status",
                "0",
            ))
        }
        _ => response.header("content-type", "application/json").body(sized(echo)),
    };
    Ok(response.expect("valid"))
}

fn pairs(headers: &http::HeaderMap) -> Vec<(String, String)> {
    headers
        .iter()
        .map(|(name, value)| {
            (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned())
        })
        .collect()
}

/// A fingerprint that is short enough to print.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    digest.as_ref().iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
