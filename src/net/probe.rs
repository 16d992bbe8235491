//! One question to a listener, from the client's end: is it well?
//!
//! Nothing of the environment is used, such as proxies, and redirects are not followed: the
//! answer has to come from whom was asked.

use std::{
    error::Error,
    path::{Path, PathBuf},
    sync::Arc,
};

use http::{Request, StatusCode, Uri, header, uri::PathAndQuery};
use http_body_util::Empty;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tonic::Code;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use super::Io;

/// Whom to ask, and what.
#[derive(Debug)]
pub struct Target {
    tls: bool,
    question: Question,
    /// As in `host:port`, for the connection and as what the server is called.
    authority: String,
    host: String,
    port: u16,
}

#[derive(Debug)]
enum Question {
    /// `GET`.
    Http(PathAndQuery),
    /// gRPC's own health service, about the service of that name.
    Grpc(String),
}

/// How to reach the target.
#[derive(Debug, Default)]
pub struct Way {
    /// Connect to this unix socket instead of the target's host and port.
    pub unix_socket: Option<PathBuf>,
    /// Who vouches for the server; needed for TLS.
    pub ca_file: Option<PathBuf>,
    /// Our own certificate and its key.
    pub client: Option<(PathBuf, PathBuf)>,
    /// The name that the server's certificate must have, if not the target's host.
    pub server_name: Option<String>,
}

/// Ready to ask: everything that the caller may have got wrong is known to be right.
#[derive(Debug)]
pub struct Probe {
    target: Target,
    unix_socket: Option<PathBuf>,
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// Whether it is well.
    pub healthy: bool,
    /// What it said, or why nothing could be heard.
    pub found: String,
}

/// A question that cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// Not a URL of a kind that is known.
    #[error("{url:?} {why}")]
    Url {
        /// What was given.
        url: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A file that cannot be used.
    #[error("{path}: {why}", path = .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// No way to tell who answers.
    #[error("TLS needs --ca-file: who vouches for the server?")]
    NoAuthority,
    /// Certificate and key that do not go together.
    #[error("the client certificate cannot be used: {0}")]
    Client(rustls::Error),
    /// A name that no certificate has.
    #[error("{0:?} is no name that a server's certificate could have")]
    ServerName(String),
}

// === impl Target ===

impl Target {
    /// Reads `http://`, `https://`, `grpc://` and `grpcs://` URLs. The path of the latter two
    /// is the service that is asked about.
    ///
    /// # Errors
    /// [`ProbeError::Url`].
    pub fn parse(url: &str) -> Result<Self, ProbeError> {
        let refuse = |why| Err(ProbeError::Url { url: url.to_owned(), why });
        let Ok(uri) = url.parse::<Uri>() else { return refuse("is not a URL") };
        let (tls, grpc, default_port) = match uri.scheme_str() {
            Some("http") => (false, false, 80),
            Some("https") => (true, false, 443),
            Some("grpc") => (false, true, 80),
            Some("grpcs") => (true, true, 443),
            Some(_) => return refuse("is none of http://, https://, grpc:// and grpcs://"),
            None => return refuse("has no scheme: http://, https://, grpc:// or grpcs://"),
        };
        let Some(authority) = uri.authority() else { return refuse("has no host") };
        if authority.as_str().contains('@') {
            return refuse("has a user: nothing is sent but the question");
        }
        let host = authority.host();
        if host.is_empty() {
            return refuse("has no host");
        }
        // `Authority::port` takes a number that is none for no number.
        let port = match authority.as_str().get(host.len()..).unwrap_or_default() {
            "" => default_port,
            port => match port.trim_start_matches(':').parse() {
                Ok(port) => port,
                Err(_) => return refuse("has a port that is none"),
            },
        };
        let path = uri.path_and_query().cloned();
        let question = match grpc {
            false => Question::Http(path.unwrap_or_else(|| PathAndQuery::from_static("/"))),
            true if uri.query().is_some() => return refuse("has a query, which no service has"),
            true => Question::Grpc(uri.path().trim_start_matches('/').to_owned()),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        Ok(Self { tls, question, authority: authority.to_string(), host, port })
    }
}

// === impl Probe ===

impl Probe {
    /// Reads the files that are needed.
    ///
    /// # Errors
    /// [`ProbeError`].
    pub fn new(target: Target, way: Way) -> Result<Self, ProbeError> {
        let tls = match target.tls {
            false => None,
            true => Some(tls(&target, &way)?),
        };
        Ok(Self { target, unix_socket: way.unix_socket, tls })
    }

    /// Asks once. Nobody there, an answer that is none, and a bad answer are all unwell; how
    /// long that may take is the caller's to bound.
    pub async fn ask(self) -> Health {
        self.answer().await.unwrap_or_else(|error| Health { healthy: false, found: chain(&*error) })
    }

    async fn answer(self) -> Result<Health, Box<dyn Error + Send + Sync>> {
        let io = TokioIo::new(self.connect().await?);
        match &self.target.question {
            Question::Http(path) => {
                let (mut sender, connection) = http1::handshake(io).await?;
                tokio::spawn(connection);
                let request = Request::get(path.as_str())
                    .header(header::HOST, &self.target.authority)
                    .header(header::USER_AGENT, AGENT)
                    .body(Empty::<bytes::Bytes>::new())?;
                let status = sender.send_request(request).await?.status();
                Ok(Health { healthy: status.is_success(), found: http_status(status) })
            }
            Question::Grpc(service) => {
                let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
                tokio::spawn(connection);
                let channel =
                    tower::service_fn(move |request| sender.clone().send_request(request));
                let scheme = if self.target.tls { "https" } else { "http" };
                let origin = format!("{scheme}://{}", self.target.authority).parse()?;
                let request = HealthCheckRequest { service: service.clone() };
                let answer = HealthClient::with_origin(channel, origin).check(request).await;
                Ok(grpc_health(answer.map(|answer| answer.into_inner().status())))
            }
        }
    }

    async fn connect(&self) -> Result<Box<dyn Io + Unpin>, Box<dyn Error + Send + Sync>> {
        let stream: Box<dyn Io + Unpin> = match &self.unix_socket {
            Some(path) => Box::new(UnixStream::connect(path).await.map_err(|e| at(path, &e))?),
            None => {
                let stream = TcpStream::connect((&*self.target.host, self.target.port)).await?;
                stream.set_nodelay(true)?;
                Box::new(stream)
            }
        };
        Ok(match &self.tls {
            None => stream,
            Some((config, name)) => {
                let connector = TlsConnector::from(Arc::clone(config));
                Box::new(connector.connect(name.clone(), stream).await?)
            }
        })
    }
}

const AGENT: &str = concat!("vaultmux-mesh-probe/", env!("CARGO_PKG_VERSION"));

fn at(path: &Path, error: &std::io::Error) -> String {
    format!("{}: {error}", path.display())
}

fn tls(target: &Target, way: &Way) -> Result<(Arc<ClientConfig>, ServerName<'static>), ProbeError> {
    let ca_file = way.ca_file.as_deref().ok_or(ProbeError::NoAuthority)?;
    let mut roots = RootCertStore::empty();
    for certificate in certificates(ca_file)? {
        roots.add(certificate).map_err(|error| unusable(ca_file, &error))?;
    }
    let config = ClientConfig::builder().with_root_certificates(roots);
    let mut config = match &way.client {
        None => config.with_no_client_auth(),
        Some((chain, key)) => {
            let private =
                PrivateKeyDer::from_pem_file(key).map_err(|error| unusable(key, &error))?;
            config
                .with_client_auth_cert(certificates(chain)?, private)
                .map_err(ProbeError::Client)?
        }
    };
    let protocol: &[u8] = match target.question {
        Question::Http(_) => b"http/1.1",
        Question::Grpc(_) => b"h2",
    };
    config.alpn_protocols = vec![protocol.to_vec()];
    let name = way.server_name.as_ref().unwrap_or(&target.host);
    let server = ServerName::try_from(name.clone());
    Ok((Arc::new(config), server.map_err(|_| ProbeError::ServerName(name.clone()))?))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, ProbeError> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<_, _>>);
    let read: Vec<_> = read.map_err(|error| unusable(path, &error))?;
    match read.is_empty() {
        true => Err(ProbeError::File { path: path.to_owned(), why: "holds no certificate".into() }),
        false => Ok(read),
    }
}

fn unusable(path: &Path, error: &dyn Error) -> ProbeError {
    ProbeError::File { path: path.to_owned(), why: chain(error) }
}

fn http_status(status: StatusCode) -> String {
    format!("answered {status}")
}

fn grpc_health(answer: Result<ServingStatus, tonic::Status>) -> Health {
    match answer {
        Ok(ServingStatus::Serving) => Health { healthy: true, found: "answered SERVING".into() },
        Ok(other) => Health { healthy: false, found: format!("answered {}", other.as_str_name()) },
        Err(status) if status.code() == Code::NotFound => {
            Health { healthy: false, found: "knows no such service".into() }
        }
        Err(status) => {
            Health { healthy: false, found: format!("failed: {}", status.code().description()) }
        }
    }
}

/// An error with its causes, in one line.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Some errors print their cause, too.
        if !text.contains(&cause_text) {
            text += &format!(": {cause_text}");
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_that_cannot_be_asked_are_refused() {
        for (url, why) in [
            ("", "is not a URL"),
            ("127.0.0.1:9090", "has no scheme"),
            ("/livez", "has no scheme"),
            ("ftp://127.0.0.1/", "is none of"),
            ("unix:/run/grpc.sock", "is not a URL"),
            ("http://user:word@127.0.0.1/", "has a user"),
            ("http://:80/", "has no host"),
            ("http://127.0.0.1:99999/", "has a port that is none"),
            ("grpc://[::1]:65536", "has a port that is none"),
            ("grpc://127.0.0.1:9191/?service=x", "has a query"),
        ] {
            let error = Target::parse(url).expect_err(url).to_string();
            assert!(error.contains(why), "{url}: {error}");
        }
    }

    #[test]
    fn urls_say_whom_to_ask_and_what() {
        let read = |url| Target::parse(url).expect(url);
        let target = read("http://[::1]:9090");
        assert_eq!((target.host.as_str(), target.port), ("::1", 9090));
        assert!(matches!(target.question, Question::Http(ref path) if path == "/"));
        assert!(!target.tls);
        let target = read("https://vaultmux.test/readyz?verbose");
        assert!(target.tls && target.port == 443);
        assert!(matches!(target.question, Question::Http(ref path) if path == "/readyz?verbose"));
        let target = read("grpc://127.0.0.1:9191/envoy.service.auth.v3.Authorization");
        let Question::Grpc(service) = target.question else { panic!("not gRPC") };
        assert_eq!(service, "envoy.service.auth.v3.Authorization");
        let target = read("grpcs://vaultmux.test:9191");
        assert!(
            target.tls && matches!(target.question, Question::Grpc(ref name) if name.is_empty())
        );
    }
}
