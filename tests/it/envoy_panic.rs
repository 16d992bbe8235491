//! A handler that panics under a real Envoy: the stream ends with an error, and the
//! request does not go on.

use std::{net::SocketAddr, sync::Arc};

use tonic::transport::{Server, server::TcpIncoming};
use vaultmux_mesh::{
    ext_proc::{ExtProc, HeadersAnswer, PhaseSettings, Processor, RequestHeaders},
    metrics::Metrics,
};

use crate::harness::{Edge, Edit};

/// Panics before or after its first await, or does nothing.
struct Panics;

impl Processor for Panics {
    async fn on_request_headers(&self, request: RequestHeaders) -> HeadersAnswer {
        let headers = request.headers.headers.unwrap_or_default().headers;
        let asked = |name: &str| headers.iter().any(|header| header.key == name);
        assert!(!asked("x-panic-now"), "as asked");
        tokio::task::yield_now().await;
        assert!(!asked("x-panic-later"), "as asked");
        HeadersAnswer::Continue
    }
}

async fn start(metrics: &Arc<Metrics>) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind a port");
    let address = listener.local_addr().expect("bound");
    let phases = PhaseSettings { mode_override: true, ..PhaseSettings::default() };
    let processor = ExtProc::with_processor(Panics, Arc::clone(metrics), phases);
    let server = Server::builder().add_service(processor.into_server());
    tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn panicking_handler_lets_nothing_pass() {
    let metrics = Arc::new(Metrics::default());
    let address = start(&metrics).await;
    let filter = "          - name: envoy.filters.http.ext_authz\n";
    let no_authz: Edit = (filter.into(), format!("{filter}            disabled: true\n"));
    let edge = Edge::start(address, address, &[no_authz]).await;
    let client = edge.api();
    for header in ["x-panic-now", "x-panic-later"] {
        let answer = client.request("GET", "app.test", "/public/", &[(header, "1")]).await;
        assert_eq!(answer.status, 500, "{header}: {}", answer.text());
    }
    assert!(edge.app.received().is_empty(), "nothing went on");
    // The connection that the panic happened on still serves others.
    assert_eq!(client.get("app.test", "/public/").await.status, 200);
    let text = metrics.encode().expect("text");
    assert!(
        text.contains(r#"vaultmux_ext_proc_streams_total{result="error",reason="panic"} 2"#),
        "{text}"
    );
}
