//! Signatures over bodies, through a real Envoy: made once the body is there, and over what
//! arrives.

use base64::{Engine, engine::general_purpose::STANDARD};

use crate::harness::{Body, Mesh, MeshBuilder, chunked, sha256, sized, with_trailers};

const HOST: &str = "api.stripe.test";
const VALUE: &str = "canary-stripe-9Lm";

const RULES: &str = r#"
ext_proc:
  body_limit: 256KiB
  injections:
    - name: partner
      match: {hosts: [api.stripe.test], clusters: [payment]}
      hmac:
        key: "{{secret://local/zq-stripe}}"
        message: "{method}.{target}.{body}"
        header: x-signature
        encoding: base64
  substitutions:
    - name: payment
      match: {hosts: [api.stripe.test], clusters: [payment]}
      surfaces: {json: deny}
"#;

fn mesh(mode: &str, allowed: bool) -> MeshBuilder {
    let more = if allowed { "" } else { "  mode_override: false\n" };
    Mesh::builder()
        .config(&format!("{RULES}{more}"))
        .edit("request_body_mode: NONE", &format!("request_body_mode: {mode}"))
        .edit("allow_mode_override: true", &format!("allow_mode_override: {allowed}"))
}

fn signature(target: &str, body: &str) -> String {
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, VALUE.as_bytes());
    let message = format!("POST.{target}.{body}");
    STANDARD.encode(aws_lc_rs::hmac::sign(&key, message.as_bytes()))
}

fn framed(framing: &str, body: &str) -> Body {
    match framing {
        "length" => sized(body.to_owned()),
        "chunked" => chunked(body.to_owned(), 7_001),
        _ => with_trailers(body.to_owned(), 7_001, "x-end", "of the request"),
    }
}

async fn check(builder: MeshBuilder) {
    let mesh = builder.start().await;
    let json = [("content-type", "application/json"), ("x-signature", "the client's")];
    for http2 in [true, false] {
        let client = if http2 { mesh.api().http2() } else { mesh.api() };
        for framing in ["length", "chunked", "trailers"] {
            for size in [0, 10, 100_000] {
                if framing == "trailers" && (!http2 || size == 0) {
                    continue;
                }
                let what = format!("{framing} {size}, HTTP/2: {http2}");
                let padding = "x".repeat(size);
                let write = |key: &str| format!(r#"{{"key":"{key}","more":"{padding}"}}"#);
                let (sent, expected) = match size {
                    0 => (String::new(), String::new()),
                    _ => (write("{{secret://local/zq-stripe}}"), write(VALUE)),
                };
                let answer =
                    client.send("POST", HOST, "/v1?a=b", &json, framed(framing, &sent)).await;
                assert_eq!(answer.status, 200, "{what}: {}", answer.text());
                let received = mesh.payment.received().pop().expect("it arrived");
                assert_eq!(received.body_sha256, sha256(expected.as_bytes()), "{what}");
                let signature = signature("/v1?a=b", &expected);
                assert_eq!(received.header("x-signature"), [signature], "{what}");
                for length in received.header("content-length") {
                    assert_eq!(length, expected.len().to_string(), "{what}");
                }
            }
        }
    }
    // More than is held here, and less than Envoy would hold.
    let before = mesh.payment.received().len();
    let text = [("content-type", "text/plain")];
    for body in [sized("x".repeat(300_000)), chunked("x".repeat(300_000), 7_001)] {
        let answer = mesh.api().http2().send("POST", HOST, "/v1", &text, body).await;
        assert_eq!(answer.status, 413, "{}", answer.text());
    }
    assert_eq!(mesh.payment.received().len(), before);
    assert_eq!(mesh.envoy.counter("ext_proc.spurious_msgs_received").await, 0);
    mesh.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_are_signed_in_buffered() {
    check(mesh("BUFFERED", false)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_are_signed_in_modes_that_can_be_overridden() {
    check(mesh("NONE", true)).await;
    check(mesh("STREAMED", true)).await;
}

/// Envoy asks about no body then, and headers can no longer be changed.
#[tokio::test(flavor = "multi_thread")]
async fn trailers_without_a_body_are_not_signed_and_do_not_go_on() {
    let mesh = mesh("NONE", true).start().await;
    let body = framed("trailers", "");
    let kind = [("content-type", "application/octet-stream")];
    let answer = mesh.api().http2().send("POST", HOST, "/v1", &kind, body).await;
    assert_eq!(answer.status, 500, "{}", answer.text());
    assert_eq!(mesh.envoy.access(0).await["details"], "vaultmux_body_held_at_trailers");
    assert!(mesh.payment.received().is_empty());
    mesh.finish().await;
}

/// A filter that does not heed the override shows no body: then the answer is not let through.
#[tokio::test(flavor = "multi_thread")]
async fn unsigned_requests_do_not_end_well() {
    let mesh = Mesh::builder()
        .config(RULES)
        .edit("response_header_mode: SKIP", "response_header_mode: SEND")
        .edit("allow_mode_override: true", "allow_mode_override: false")
        .start()
        .await;
    for body in [sized("x".repeat(100_000)), chunked("x".repeat(100_000), 7_001)] {
        let text = [("content-type", "text/plain")];
        let answer = mesh.api().http2().send("POST", HOST, "/v1", &text, body).await;
        assert_eq!(answer.status, 500, "{}", answer.text());
    }
    let series = r#"vaultmux_ext_proc_bodies_total{result="mode_override_ignored"}"#;
    assert_eq!(mesh.service.metric(series).await, Some(2.0));
    mesh.finish().await;
}
