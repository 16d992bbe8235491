//! When the service is gone, slow to go, or cannot be asked: nothing passes.

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use futures_util::StreamExt;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use tokio_stream::wrappers::ReceiverStream;

use crate::harness::{Mesh, Upstream, sha256};

const REFERENCE: (&str, &str) = ("x-api-key", "{{secret://local/zq-stripe}}");

/// ext_proc's own service, behind the one that ext_authz uses too.
const PROCESSOR: &str =
    "# the stream lives as long as the request\n                envoy_grpc: {cluster_name: ";

#[tokio::test(flavor = "multi_thread")]
async fn killed_service_lets_nothing_pass() {
    let mut mesh = Mesh::start().await;
    assert_eq!(mesh.api().get("app.test", "/public/").await.status, 200);
    mesh.service.kill().await;
    for (host, path) in [
        ("app.test", "/public/"),
        ("api.stripe.test", "/"),
        ("vaultmux.test", "/v1/secrets/zq-orders"),
    ] {
        let answer = mesh.api().request("GET", host, path, &[REFERENCE]).await;
        assert_eq!(answer.status, 503, "{host}: {}", answer.text());
    }
    assert_eq!((mesh.app.received().len(), mesh.payment.received().len()), (1, 0));
    mesh.assert_silent();
}

/// ext_authz says yes, and then ext_proc cannot be reached.
#[tokio::test(flavor = "multi_thread")]
async fn unreachable_processor_lets_nothing_pass() {
    // A cluster that does not exist, and one that does not speak gRPC.
    for cluster in ["nowhere", "vaultmux-rest"] {
        let mesh = Mesh::builder()
            .edit(&format!("{PROCESSOR}vaultmux-grpc"), &format!("{PROCESSOR}{cluster}"))
            .start()
            .await;
        for host in ["app.test", "api.stripe.test"] {
            let answer = mesh.api().request("GET", host, "/public/", &[REFERENCE]).await;
            assert!((500..600).contains(&answer.status), "{cluster}: {}", answer.status);
        }
        assert!(mesh.app.received().is_empty() && mesh.payment.received().is_empty(), "{cluster}");
        mesh.finish().await;
    }
}

/// A body half way through the filter when the service is told to stop.
#[tokio::test(flavor = "multi_thread")]
async fn stopping_service_finishes_what_it_began() {
    for mode in ["STREAMED", "FULL_DUPLEX_STREAMED"] {
        let mut mesh = Mesh::builder()
            .edit("request_body_mode: NONE", &format!("request_body_mode: {mode}"))
            .edit("request_trailer_mode: SKIP", "request_trailer_mode: SEND")
            // So that the service has to see all of it.
            .edit("allow_mode_override: true", "allow_mode_override: false")
            .start()
            .await;
        let (sender, receiver) = tokio::sync::mpsc::channel::<Frame<Bytes>>(1);
        let frames = ReceiverStream::new(receiver).map(Ok::<_, Infallible>);
        let body = BodyExt::boxed(StreamBody::new(frames));
        let client = mesh.api();
        let request = tokio::spawn(async move {
            client.send("POST", "api.stripe.test", "/", &[REFERENCE], body).await
        });
        let bytes = Bytes::from(Upstream::bytes());
        let half = bytes.len() / 2;
        sender.send(Frame::data(bytes.slice(..half))).await.expect("the request runs");
        while mesh.envoy.counter("ext_proc.streams_started").await == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        mesh.service.terminate();
        // Its port is closed once it is stopping.
        let rest = mesh.service.rest();
        while tokio::net::TcpStream::connect(rest).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        sender.send(Frame::data(bytes.slice(half..))).await.expect("the request runs");
        drop(sender);
        let answer = request.await.expect("no panic");
        assert_eq!(answer.status, 200, "{mode}: {}", answer.text());
        let received = mesh.payment.received().pop().expect("arrived");
        assert_eq!(received.body_sha256, sha256(&bytes), "{mode}");
        assert_eq!(received.header("x-api-key"), ["canary-stripe-9Lm"], "{mode}");
        assert_eq!(mesh.service.exit_code().await, 0, "{mode}");
        mesh.assert_silent();
    }
}

/// Requests keep coming while the service stops. Each one is either served or refused
/// as unavailable; none is let through, cut off or left hanging.
#[tokio::test(flavor = "multi_thread")]
async fn stopping_service_serves_or_refuses() {
    let mut mesh = Mesh::start().await;
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let mut workers = Vec::new();
    for _ in 0..8 {
        let (client, stopped) = (mesh.api().http2(), stopped.clone());
        workers.push(tokio::spawn(async move {
            let mut statuses = Vec::new();
            while !*stopped.borrow() {
                let answer = client.request("GET", "api.stripe.test", "/", &[REFERENCE]).await;
                statuses.push(answer.status);
            }
            statuses
        }));
    }
    while mesh.payment.received().len() < 20 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    mesh.service.terminate();
    assert_eq!(mesh.service.exit_code().await, 0);
    stop.send(true).expect("workers listen");
    let mut served = 0;
    for worker in workers {
        for status in worker.await.expect("no request failed") {
            // ext_authz unavailable is 503; ext_proc unavailable after it is 500.
            assert!(matches!(status, 200 | 500 | 503), "{status}");
            served += usize::from(status == 200);
        }
    }
    let received = mesh.payment.received();
    assert_eq!(received.len(), served);
    assert!(received.iter().all(|one| one.header("x-api-key") == ["canary-stripe-9Lm"]));
    mesh.assert_silent();
}

/// Envoy ends every stream by resetting it; that is no error and must not look like one.
#[tokio::test(flavor = "multi_thread")]
async fn ordinary_traffic_logs_no_warning() {
    let mesh = Mesh::start().await;
    for _ in 0..3 {
        let answer = mesh.api().request("GET", "api.stripe.test", "/", &[REFERENCE]).await;
        assert_eq!(answer.status, 200);
        assert_eq!(mesh.api().get("vaultmux.test", "/v1/secrets/zq-orders").await.status, 200);
        assert_eq!(mesh.api().get("vaultmux.test", "/v1/secrets/zq-hidden").await.status, 403);
    }
    // At start it warns of the mode that the tests run in.
    for line in mesh.service.logs().iter().filter(|line| !line.contains("DEVELOPMENT MODE")) {
        let line: serde_json::Value = serde_json::from_str(line).expect("JSON lines");
        assert!(!matches!(line["level"].as_str(), Some("WARN" | "ERROR")), "{line}");
    }
    for counter in [
        "spurious_msgs_received",
        "streams_failed",
        "message_timeouts",
        "rejected_header_mutations",
    ] {
        assert_eq!(mesh.envoy.counter(&format!("ext_proc.{counter}")).await, 0, "{counter}");
    }
    assert_eq!(mesh.envoy.counter("ext_authz.error").await, 0);
    mesh.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn service_behind_the_proxy_is_live_and_ready() {
    let mesh = Mesh::start().await;
    for path in ["/livez", "/readyz"] {
        assert_eq!(mesh.service.admin_client().get("admin", path).await.status, 200, "{path}");
    }
    mesh.finish().await;
}

/// Who, where, what and why, but neither paths nor headers: those name secrets.
#[tokio::test(flavor = "multi_thread")]
async fn access_log_gives_the_reason_and_no_secret() {
    let mesh = Mesh::start().await;
    let requests = [
        ("vaultmux.test", "/v1/secrets/zq-orders"),
        ("vaultmux.test", "/v1/secrets/zq-hidden"),
        ("api.stripe.test", "/"),
        ("app.test", "/public/"),
    ];
    for (number, (host, path)) in requests.into_iter().enumerate() {
        let answer = mesh.api().request("GET", host, path, &[REFERENCE]).await;
        let line = mesh.envoy.access(number).await;
        assert_eq!(line["status"], answer.status, "{line}");
        assert_eq!(line["peer"], "spiffe://cluster.local/ns/payments/sa/api", "{line}");
        assert!(line["decision"].as_str().is_some_and(|id| !id.is_empty()), "{line}");
        for word in ["canary-", "zq-"] {
            assert!(!line.to_string().contains(word), "{line}");
        }
    }
    assert_eq!(mesh.envoy.access(0).await["policy"], "api-reads");
    assert_eq!(mesh.envoy.access(1).await["reason"], "no_match");
    assert_eq!(mesh.envoy.access(2).await["policy"], "traffic");
    mesh.finish().await;
}
