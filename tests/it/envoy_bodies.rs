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

/// Nobody listens to the answers in this mode, so a reference stays a reference and
/// reads go on to REST.
#[tokio::test(flavor = "multi_thread")]
async fn observed_traffic_passes_as_it_is() {
    let mesh =
        Mesh::builder().edit("allow_mode_override: true", "observability_mode: true").start().await;
    let answer = mesh.api().request("GET", "api.stripe.test", "/", &[REFERENCE]).await;
    assert_eq!(answer.json::<Received>().header("x-api-key"), [REFERENCE.1]);
    let answer = post(&mesh.api(), "app.test", "length", "length").await;
    let received = mesh.app.received().pop().expect("arrived");
    assert_untouched("observed", &answer, &received, ("length", "length"));
    let secret = mesh.api().get("vaultmux.test", "/v1/secrets/zq-orders").await;
    assert_eq!(secret.json::<serde_json::Value>()["value"], "canary-orders-7Qx");
    assert_eq!(mesh.envoy.counter("ext_proc.spurious_msgs_received").await, 0);
    mesh.finish().await;
}

/// 4 MiB is over every limit on the way: Envoy's headers and buffers, gRPC messages.
#[tokio::test(flavor = "multi_thread")]
async fn oversized_requests_are_refused_or_pass_but_break_nothing() {
    const HUGE: usize = 4 << 20;
    for (body, status) in [
        ("NONE", 200),
        ("BUFFERED", 413),
        ("BUFFERED_PARTIAL", 200),
        ("STREAMED", 200),
        ("FULL_DUPLEX_STREAMED", 200),
    ] {
        let trailers = if body == "FULL_DUPLEX_STREAMED" { "SEND" } else { "SKIP" };
        let mesh = modes(body, trailers, false).start().await;
        let huge: Vec<u8> = Upstream::bytes().into_iter().cycle().take(HUGE).collect();
        let expected = sha256(&huge);
        for (version, client) in [("HTTP/1.1", mesh.api()), ("HTTP/2", mesh.api().http2())] {
            // A refusal may come while the body is still being sent.
            let sent = client.try_send("POST", "app.test", "/public/", &[], sized(huge.clone()));
            let got = sent.await.map_or(413, |answer| answer.status);
            assert_eq!(got, status, "{body}, {version}");
        }
        for received in mesh.app.received() {
            assert_eq!(
                (received.body_length, received.body_sha256.as_str()),
                (HUGE, &*expected),
                "{body}"
            );
        }
        let header = "x".repeat(HUGE);
        let headers = [("x-huge", header.as_str())];
        let answer = mesh.api().try_send("GET", "app.test", "/public/", &headers, sized("")).await;
        assert!(answer.is_err() || answer.is_ok_and(|answer| answer.status == 431), "{body}");
        // And then it works as before.
        assert_eq!(mesh.api().get("app.test", "/public/").await.status, 200, "{body}");
        mesh.finish().await;
    }
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
