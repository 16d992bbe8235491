//! The proxy that the environment names: HTTPS goes through it, and nothing else.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Response, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;

use crate::harness::{Answer, Certificates, Service, sized};

/// A proxy that answers for whatever it is asked to connect to.
#[derive(Clone, Default)]
struct Proxy {
    /// The heads of requests, in order.
    asked: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    /// Also returns its address.
    async fn start(certificates: &Certificates) -> (Self, String) {
        let proxy = Self::default();
        let tls = TlsAcceptor::from(certificates.server("vaultmux.test"));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind a port");
        let address = listener.local_addr().expect("bound").to_string();
        let serving = proxy.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (proxy, tls) = (serving.clone(), tls.clone());
                tokio::spawn(async move { proxy.serve(stream, tls).await });
            }
        });
        (proxy, address)
    }

    async fn serve(&self, stream: TcpStream, tls: TlsAcceptor) {
        let mut stream = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if stream.read_line(&mut head).await.unwrap_or(0) == 0 {
                return;
            }
        }
        self.asked.lock().expect("held").push(head);
        stream.write_all(b"HTTP/1.1 200 Connected\r\n\r\n").await.expect("written");
        let Ok(stream) = tls.accept(stream).await else { return };
        let secret = service_fn(|_| async {
            let body = r#"{"Name":"db","VersionId":"1","SecretString":"canary-value"}"#;
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(body.as_bytes()))))
        });
        let server = auto::Builder::new(TokioExecutor::new());
        let _ = server.serve_connection(TokioIo::new(stream), secret).await;
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock().expect("held"))
    }
}

// No name server knows it: who connects to it went through the proxy.
const CONFIG: &str = r#"
mode: sidecar
listeners:
  grpc: {address: "127.0.0.1:0"}
  rest: {address: "127.0.0.1:0", require_request_header: false}
  admin: {address: "127.0.0.1:0"}
identity: {local: {namespace: default, service_account: default}}
backends:
  aws: {type: aws_secrets_manager, region: us-east-1, endpoint_url: "https://vaultmux.test:8443"}
cache: {ttl: 0, negative_ttl: 0}
telemetry: {log: {level: debug}}
"#;

async fn start(certificates: &Certificates, variables: &[(&str, &str)]) -> Service {
    let authority = certificates.directory().join("ca.crt");
    let mut all = vec![
        ("SSL_CERT_FILE", authority.to_str().expect("a plain path")),
        ("AWS_ACCESS_KEY_ID", "test"),
        ("AWS_SECRET_ACCESS_KEY", "canary-key"),
    ];
    all.extend(variables);
    Service::start_with(&[("config.yaml", CONFIG)], &all).await
}

async fn get(service: &Service) -> Answer {
    service.rest_client().send("GET", "localhost", "/v1/secrets/db", &[], sized("")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn https_goes_through_the_proxy_unless_excepted() {
    let directory = tempfile::tempdir().expect("make a directory");
    let certificates = Certificates::create(directory.path());
    let (proxy, address) = Proxy::start(&certificates).await;
    let url = format!("http://mesh:canary-password@{address}");

    for variable in ["HTTPS_PROXY", "ALL_PROXY"] {
        let service = start(&certificates, &[(variable, &url)]).await;
        assert_eq!(proxy.asked(), [""; 0], "{variable}: before the first request");
        let answer = get(&service).await;
        assert_eq!(answer.status, 200, "{variable}: {}", answer.text());
        let asked = proxy.asked();
        assert_eq!(asked.len(), 1, "{variable}");
        assert!(asked[0].starts_with("CONNECT vaultmux.test:8443 "), "{variable}: {}", asked[0]);
        // mesh:canary-password
        let authorization = "basic bwvzadpjyw5hcnktcgfzc3dvcmq=";
        assert!(asked[0].to_ascii_lowercase().contains(authorization), "{variable}: {}", asked[0]);
        for line in service.logs() {
            assert!(!line.contains("canary") && !line.contains("Y2FuYXJ5"), "{line}");
        }
    }

    for excepted in [
        &[("HTTPS_PROXY", url.as_str()), ("NO_PROXY", "other.test,.vaultmux.test")][..],
        &[("HTTP_PROXY", url.as_str())],
    ] {
        let service = start(&certificates, excepted).await;
        assert_eq!(get(&service).await.status, 503, "{excepted:?}: the name has no address");
        assert_eq!(proxy.asked(), [""; 0], "{excepted:?}");
    }
}
