//! Bodies in every mode that Envoy can be set to: they pass untouched, whatever the
//! filter is told about them.

use crate::harness::{
    Answer, Body, Client, Mesh, MeshBuilder, Received, Upstream, chunked, sha256, sized,
    with_trailers,
};

const REFERENCE: (&str, &str) = ("x-api-key", "{{secret://local/zq-stripe}}");
const VALUE: &str = "canary-stripe-9Lm";

/// The front proxy with these modes, for both directions.
fn modes(body: &str, trailers: &str, allow_override: bool) -> MeshBuilder {
    Mesh::builder()
        .edit("response_header_mode: SKIP", "response_header_mode: SEND")
        .edit("request_body_mode: NONE", &format!("request_body_mode: {body}"))
        .edit("response_body_mode: NONE", &format!("response_body_mode: {body}"))
        .edit("request_trailer_mode: SKIP", &format!("request_trailer_mode: {trailers}"))
        .edit("response_trailer_mode: SKIP", &format!("response_trailer_mode: {trailers}"))
        .edit("allow_mode_override: true", &format!("allow_mode_override: {allow_override}"))
}

fn framed(framing: &str, bytes: Vec<u8>) -> Body {
    match framing {
        "length" => sized(bytes),
        "chunked" => chunked(bytes, 7_001),
        _ => with_trailers(bytes, 7_001, "x-end", "of the request"),
    }
}

async fn post(client: &Client, host: &str, framing: &str, answer: &str) -> Answer {
    // Only toward its destination: elsewhere a reference is refused.
    let headers: &[_] = if host == "api.stripe.test" { &[REFERENCE] } else { &[] };
    let body = framed(framing, Upstream::bytes());
    client.send("POST", host, &format!("/public/bytes?{answer}"), headers, body).await
}

fn assert_untouched(what: &str, answer: &Answer, received: &Received, framings: (&str, &str)) {
    assert_eq!(answer.status, 200, "{what}: {}", answer.text());
    assert_eq!(received.body_length, Upstream::BYTES, "{what}: request body");
    assert_eq!(received.body_sha256, sha256(&Upstream::bytes()), "{what}: request body");
    assert_eq!(answer.body.len(), Upstream::BYTES, "{what}: answer's body");
    assert_eq!(sha256(&answer.body), sha256(&Upstream::bytes()), "{what}: answer's body");
    if framings.0 == "trailers" {
        let trailer = ("x-end".to_owned(), "of the request".to_owned());
        assert_eq!(received.trailers, [trailer], "{what}: request trailers");
    }
    if framings.1 == "trailers" {
        assert_eq!(answer.trailers["x-end"], "of the answer", "{what}: answer's trailers");
    }
}

/// Every framing of request and answer, over HTTP/2 (which has trailers) and HTTP/1.1.
async fn check(builder: MeshBuilder) {
    let mesh = builder.start().await;
    for framing in ["length", "chunked", "trailers"] {
        for answered in ["length", "chunked", "trailers"] {
            let what = format!("HTTP/2 {framing}, answer {answered}");
            let answer = post(&mesh.api().http2(), "api.stripe.test", framing, answered).await;
            let received = mesh
                .payment
                .received()
                .pop()
                .unwrap_or_else(|| panic!("{what}: {} {}", answer.status, answer.text()));
            assert_untouched(&what, &answer, &received, (framing, answered));
            assert_eq!(received.header("x-api-key"), [VALUE], "{what}");
        }
    }
    for framing in ["length", "chunked"] {
        for answered in ["length", "chunked"] {
            let what = format!("HTTP/1.1 {framing}, answer {answered}");
            let answer = post(&mesh.api(), "app.test", framing, answered).await;
            let received = mesh
                .app
                .received()
                .pop()
                .unwrap_or_else(|| panic!("{what}: {} {}", answer.status, answer.text()));
            assert_untouched(&what, &answer, &received, (framing, answered));
        }
    }
    // A request without a body has no body phase to wait for.
    let answer = mesh.api().request("GET", "api.stripe.test", "/", &[REFERENCE]).await;
    assert_eq!(answer.json::<Received>().header("x-api-key"), [VALUE]);
    let secret = mesh.api().get("vaultmux.test", "/v1/secrets/zq-orders").await;
    assert_eq!(secret.json::<serde_json::Value>()["value"], "canary-orders-7Qx");
    mesh.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_pass_in_none() {
    check(modes("NONE", "SKIP", true)).await;
    check(modes("NONE", "SEND", false)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_pass_in_buffered() {
    check(modes("BUFFERED", "SKIP", true)).await;
    check(modes("BUFFERED", "SKIP", false)).await;
    check(modes("BUFFERED", "SEND", false)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_pass_in_buffered_partial() {
    check(modes("BUFFERED_PARTIAL", "SKIP", true)).await;
    check(modes("BUFFERED_PARTIAL", "SKIP", false)).await;
    check(modes("BUFFERED_PARTIAL", "SEND", false)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_pass_in_streamed() {
    check(modes("STREAMED", "SKIP", true)).await;
    check(modes("STREAMED", "SKIP", false)).await;
    check(modes("STREAMED", "SEND", false)).await;
}

/// This mode needs the trailers and cannot be overridden.
#[tokio::test(flavor = "multi_thread")]
async fn bodies_pass_in_full_duplex_streamed() {
    check(modes("FULL_DUPLEX_STREAMED", "SEND", true)).await;
    check(modes("FULL_DUPLEX_STREAMED", "SEND", false)).await;
}

/// Phases in which the service has nothing to do are switched off: Envoy then sends
/// one message for a request where it would send more.
#[tokio::test(flavor = "multi_thread")]
async fn phases_without_work_are_overridden_away() {
    for (allowed, messages) in [(true, 1), (false, 3)] {
        let mesh = modes("STREAMED", "SKIP", allowed).start().await;
        let answer = mesh.api().send("POST", "app.test", "/public/", &[], sized("body")).await;
        assert_eq!(answer.status, 200);
        let sent = mesh.envoy.counter("ext_proc.stream_msgs_sent").await;
        assert!(if allowed { sent == messages } else { sent >= messages }, "{allowed}: {sent}");
        mesh.finish().await;
    }
}

/// Nobody listens to the answers in this mode, so a reference stays a reference and
/// reads go on to REST.
#[tokio::test(flavor = "multi_thread")]
async fn observed_traffic_passes_as_it_is() {
    let mesh =
        Mesh::builder().edit("allow_mode_override: true", "observability_mode: true").start().await;
    let answer = mesh.api().request("GET", "api.stripe.test", "/", &[REFERENCE]).await;
    assert_eq!(answer.json::<Received>().header("x-api-key"), [REFERENCE.1]);
    // The other one goes where it may not.
    mesh.api().request("GET", "app.test", "/public/", &[REFERENCE]).await;
    let line = mesh.service.logged(&["would refuse"]).await;
    assert_eq!(line["message"], "ext_proc", "{line}");
    for result in ["would_inject", "would_refuse"] {
        let series = format!(r#"vaultmux_ext_proc_observed_total{{result="{result}"}}"#);
        assert_eq!(mesh.service.metric(&series).await, Some(1.0), "{result}");
    }
    let answer = post(&mesh.api(), "app.test", "length", "length").await;
    let received = mesh.app.received().pop().expect("arrived");
    assert_untouched("observed", &answer, &received, ("length", "length"));
    let secret = mesh.api().get("vaultmux.test", "/v1/secrets/zq-orders").await;
    assert_eq!(secret.json::<serde_json::Value>()["value"], "canary-orders-7Qx");
    assert_eq!(mesh.envoy.counter("ext_proc.spurious_msgs_received").await, 0);
    mesh.finish().await;
}

const HUGE: usize = 4 << 20;

/// Sends 4 MiB to the app, over HTTP/1.1 and HTTP/2, and returns what came back: a status,
/// or 0 for a connection that was cut.
async fn send_huge(mesh: &Mesh) -> Vec<u16> {
    let huge: Vec<u8> = Upstream::bytes().into_iter().cycle().take(HUGE).collect();
    let mut statuses = Vec::new();
    for client in [mesh.api(), mesh.api().http2()] {
        let body = sized(huge.clone());
        statuses.push(match client.try_send("POST", "app.test", "/public/", &[], body).await {
            Ok(answer) => answer.status,
            Err(error) if error.is::<tokio::time::error::Elapsed>() => panic!("no answer"),
            Err(_) => 0,
        });
    }
    for received in mesh.app.received() {
        let arrived = (received.body_length, received.body_sha256);
        assert_eq!(arrived, (HUGE, sha256(&huge)));
    }
    statuses
}

/// Over the limits of one gRPC message and of Envoy's buffers.
#[tokio::test(flavor = "multi_thread")]
async fn huge_bodies_pass_where_nobody_holds_them() {
    for body in ["NONE", "BUFFERED_PARTIAL", "STREAMED", "FULL_DUPLEX_STREAMED"] {
        let trailers = if body == "FULL_DUPLEX_STREAMED" { "SEND" } else { "SKIP" };
        let mesh = modes(body, trailers, false).start().await;
        assert_eq!(send_huge(&mesh).await, [200, 200], "{body}");
        assert_eq!(mesh.app.received().len(), 2, "{body}");
        mesh.finish().await;
    }
}

/// A body that Envoy is told to hold and cannot never reaches the app. Where it fills the
/// buffer while ext_authz is still thinking, Envoy neither refuses nor reads on: only the
/// idle timeout ends that.
#[tokio::test(flavor = "multi_thread")]
async fn huge_bodies_that_are_to_be_buffered_are_refused() {
    let mesh = modes("BUFFERED", "SKIP", false)
        .edit("stream_idle_timeout: 300s", "stream_idle_timeout: 1s")
        .start()
        .await;
    for status in send_huge(&mesh).await {
        assert!(matches!(status, 0 | 408 | 413), "{status}");
    }
    assert!(mesh.app.received().is_empty());
    // And then it works as before.
    assert_eq!(mesh.api().get("app.test", "/public/").await.status, 200);
    mesh.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn huge_header_is_refused() {
    let mesh = Mesh::start().await;
    let header = "x".repeat(HUGE);
    for client in [mesh.api(), mesh.api().http2()] {
        let headers = [("x-huge", header.as_str())];
        let answer = client.try_send("GET", "app.test", "/public/", &headers, sized("")).await;
        assert!(answer.as_ref().map_or(true, |answer| answer.status == 431), "{answer:?}");
    }
    assert!(mesh.app.received().is_empty());
    assert_eq!(mesh.api().get("app.test", "/public/").await.status, 200);
    mesh.finish().await;
}

/// As much as Envoy takes by default, in one header and in many.
#[tokio::test(flavor = "multi_thread")]
async fn large_headers_pass() {
    let mesh = Mesh::start().await;
    let value = "y".repeat(50_000);
    let large = [REFERENCE, ("x-large", value.as_str())];
    let answer = mesh.api().request("GET", "api.stripe.test", "/", &large).await;
    let received: Received = answer.json();
    assert_eq!((received.header("x-api-key")[0], received.header("x-large")[0]), (VALUE, &*value));
    let names: Vec<String> = (0..60).map(|at| format!("x-many-{at}")).collect();
    let mut many: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "z")).collect();
    many.push(REFERENCE);
    let answer = mesh.api().request("GET", "api.stripe.test", "/", &many).await;
    assert_eq!(answer.json::<Received>().header("x-api-key"), [VALUE]);
    mesh.finish().await;
}
