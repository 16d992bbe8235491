//! Values that an upstream gives back, in answers of every shape, and bodies that are too
//! large to be looked into: what the client of a real Envoy gets.

use std::convert::Infallible;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;

use crate::harness::{Answer, Mesh, MeshBuilder, Upstream, sized};

const HOST: &str = "api.stripe.test";
const REFERENCE: &str = "{{secret://local/zq-stripe}}";
const VALUE: &str = "canary-stripe-9Lm";
const KEY: (&str, &str) = ("x-api-key", REFERENCE);

const RULES: &str = r#"
ext_proc:
  substitutions:
    - name: payment
      match: {hosts: [api.stripe.test], clusters: [payment]}
      redact: true
      surfaces: {cookie: deny}
  mode_override: true
"#;

fn mesh(mode: &str, trailers: &str) -> MeshBuilder {
    Mesh::builder()
        .config(RULES)
        .edit("response_header_mode: SKIP", "response_header_mode: SEND")
        .edit("response_body_mode: NONE", &format!("response_body_mode: {mode}"))
        .edit("response_trailer_mode: SKIP", &format!("response_trailer_mode: {trailers}"))
}

async fn echo(mesh: &Mesh, how: &str) -> Answer {
    mesh.api().http2().request("GET", HOST, &format!("/public/echo?{how}"), &[KEY]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn values_are_taken_out_of_streams_large_bodies_and_trailers() {
    for (mode, trailers) in
        [("NONE", "SKIP"), ("STREAMED", "SEND"), ("FULL_DUPLEX_STREAMED", "SEND")]
    {
        let mesh = mesh(mode, trailers).start().await;
        for how in ["events", "large", "grpc", "plain"] {
            let answer = echo(&mesh, how).await;
            assert_eq!(answer.status, 200, "{mode} {how}: {}", answer.text());
            // Where lengths are told none changes.
            let masked = "*".repeat(VALUE.len());
            let expected = Upstream::echo(how, if how == "grpc" { &masked } else { REFERENCE });
            assert!(answer.body == expected, "{mode} {how}: {} bytes", answer.body.len());
            assert_eq!(answer.header("x-echo"), REFERENCE, "{mode} {how}");
            if matches!(how, "large" | "grpc") {
                assert_eq!(answer.trailers["x-end"], REFERENCE, "{mode} {how}");
            }
        }
        let received = mesh.payment.received();
        assert_eq!(received.len(), 4, "{mode}");
        assert!(received.iter().all(|got| got.header("x-api-key") == [VALUE]), "{mode}");
        assert_eq!(mesh.envoy.counter("ext_proc.spurious_msgs_received").await, 0, "{mode}");
        mesh.finish().await;
    }
}

/// What is shown in part is let through in no part.
#[tokio::test(flavor = "multi_thread")]
async fn answers_that_are_shown_in_part_are_refused() {
    let mesh = mesh("BUFFERED_PARTIAL", "SEND").start().await;
    let answer = echo(&mesh, "plain").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.body, Upstream::echo("plain", REFERENCE));
    let answer = echo(&mesh, "large").await;
    assert_eq!(answer.status, 502, "{} bytes", answer.body.len());
    assert!(!answer.text().contains(VALUE) && !answer.text().contains("no value"));
    let details = mesh.envoy.access(1).await["details"].to_string();
    assert!(details.contains("vaultmux_body_incomplete"), "{details}");
    mesh.finish().await;
}

/// The upstream answers while the request's body is on its way.
#[tokio::test(flavor = "multi_thread")]
async fn answers_that_come_early_are_looked_into() {
    for (mode, trailers) in [("NONE", "SKIP"), ("STREAMED", "SEND")] {
        let mesh = mesh(mode, trailers).start().await;
        let start = stream::iter([Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"first")))]);
        let body = BodyExt::boxed(StreamBody::new(start.chain(stream::pending())));
        let client = mesh.api().http2();
        let answer = client.send("POST", HOST, "/public/early", &[KEY], body).await;
        assert_eq!(answer.status, 200, "{mode}: {}", answer.text());
        assert_eq!(answer.body, Upstream::echo("", REFERENCE), "{mode}");
        mesh.finish().await;
    }
}

/// More than the service reads of one message is a 413 of its own, and nothing goes out.
#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_are_too_large_for_a_message_are_refused() {
    let mesh = Mesh::builder()
        .edit("request_body_mode: NONE", "request_body_mode: BUFFERED")
        .edit("allow_mode_override: true", "allow_mode_override: false")
        .edit("message_timeout: 1s", "message_timeout: 60s")
        .edit(
            "per_connection_buffer_limit_bytes: 1048576",
            "per_connection_buffer_limit_bytes: 50331648",
        )
        .start()
        .await;
    for headers in [&[KEY][..], &[]] {
        let body = sized(vec![b'a'; 17 << 20]);
        let answer = mesh.api().send("POST", HOST, "/public/", headers, body).await;
        assert_eq!(answer.status, 413, "{}", answer.text());
    }
    let details = mesh.envoy.access(0).await["details"].to_string();
    assert!(details.contains("vaultmux_body_too_large"), "{details}");
    assert!(mesh.payment.received().is_empty());
    mesh.finish().await;
}

/// A reference that percent-encoding hides is one all the same.
#[tokio::test(flavor = "multi_thread")]
async fn encoded_references_do_not_pass_as_text() {
    const ENCODED: &str = "%7B%7Bsecret%3A%2F%2Flocal%2Fzq-stripe%7D%7D";
    let mesh = mesh("NONE", "SKIP").start().await;
    let cookie = format!("a={ENCODED}");
    for (path, header, expected) in [
        (format!("/v1?key={ENCODED}"), None, "vaultmux_reference_refused:encoded"),
        ("/v1".into(), Some(("x-api-key", ENCODED)), "vaultmux_reference_refused:encoded"),
        ("/v1".into(), Some(("cookie", &cookie)), "vaultmux_not_rewritable:encoded"),
    ] {
        let headers: Vec<_> = header.into_iter().collect();
        let number = mesh.envoy.counter("ext_proc.streams_started").await;
        let answer = mesh.api().request("GET", HOST, &path, &headers).await;
        assert_eq!(answer.status, 400, "{path} {header:?}: {}", answer.text());
        let details = mesh.envoy.access(number as usize).await["details"].to_string();
        assert!(details.contains(expected), "{path} {header:?}: {details}");
    }
    assert!(mesh.payment.received().is_empty());
    mesh.finish().await;
}
