//! References in bodies, targets and cookies, and values taken out of what comes back:
//! byte for byte at the upstream and at the client, in every mode of a real Envoy.

use std::{convert::Infallible, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;

use crate::harness::{
    Answer, Body, Mesh, MeshBuilder, Received, chunked, sha256, sized, with_trailers,
};

const HOST: &str = "api.stripe.test";
const REFERENCE: &str = "{{secret://local/zq-stripe}}";
const VALUE: &str = "canary-stripe-9Lm";
const ALIAS: &str = "sk_live_4eC39HqLyjWDarjtT1";
/// As long as the value.
const SAME: &str = "sk_test_9LmQ-7531";

const RULES: &str = r#"
ext_proc:
  substitutions:
    - name: payment
      match: {hosts: [api.stripe.test], clusters: [payment]}
      surfaces: {json: inert, form: deny, text: log, cookie: deny, query: deny, path: deny}
  aliases:
    - {alias: sk_live_4eC39HqLyjWDarjtT1, reference: "secret://local/zq-stripe"}
    - {alias: sk_test_9LmQ-7531, reference: "secret://local/zq-stripe", same_length: true}
    - {alias: sk_hidden_4eC39HqLyjWD, reference: "secret://local/zq-hidden"}
"#;

fn mesh(rules: &str) -> MeshBuilder {
    // Targets may be changed where a rule says so.
    Mesh::builder().config(rules).edit("disallow_system: true", "disallow_system: false")
}

/// The filter with these modes, for requests and for responses.
fn modes(builder: MeshBuilder, body: &str, trailers: &str, allow_override: bool) -> MeshBuilder {
    builder
        .edit("response_header_mode: SKIP", "response_header_mode: SEND")
        .edit("request_body_mode: NONE", &format!("request_body_mode: {body}"))
        .edit("response_body_mode: NONE", &format!("response_body_mode: {body}"))
        .edit("request_trailer_mode: SKIP", &format!("request_trailer_mode: {trailers}"))
        .edit("response_trailer_mode: SKIP", &format!("response_trailer_mode: {trailers}"))
        .edit("allow_mode_override: true", &format!("allow_mode_override: {allow_override}"))
}

async fn post(mesh: &Mesh, http2: bool, kind: &str, body: Body) -> Answer {
    let client = if http2 { mesh.api().http2() } else { mesh.api() };
    client.send("POST", HOST, "/public/", &[("content-type", kind)], body).await
}

fn last(mesh: &Mesh, answer: &Answer, what: &str) -> Received {
    let received = mesh.payment.received().pop();
    received.unwrap_or_else(|| panic!("{what}: {} {}", answer.status, answer.text()))
}

/// A JSON body with references in some places, and what has to arrive.
fn document(size: usize) -> (String, String) {
    let filler = |from: usize| -> String {
        (from..from + size / 4).map(|at| char::from(b'a' + (at * 7 % 26) as u8)).collect()
    };
    let write = |reference: &str, escaped: &str, alias: &str, same: &str| {
        format!(
            r#"{{"key":"{reference}","a":"{}","nested":{{"k":"{escaped}"}},"b":"{}","alias":"{alias}","same":"{same}","c":"{}","not":"{{{{secret://local/zq-hidden}}}} {{{{secret://x}}}} {{{{sec","last":"{reference}"}}"#,
            filler(0),
            filler(11),
            filler(5),
        )
    };
    let escaped = r"\u007b\u007Bsecret:\/\/local\/zq-stripe}\u007d";
    (write(REFERENCE, escaped, ALIAS, SAME), write(VALUE, VALUE, VALUE, VALUE))
}

async fn check_uploads(builder: MeshBuilder, partial: bool) {
    let mesh = builder.start().await;
    for http2 in [true, false] {
        for (framing, size, frame) in [
            ("length", 100, 1000),
            ("length", 120_000, 1000),
            ("chunked", 100, 1),
            ("chunked", 120_000, 7001),
            ("trailers", 120_000, 5003),
        ] {
            if framing == "trailers" && !http2 {
                continue;
            }
            let (sent, expected) = document(size);
            let body = match framing {
                "length" => sized(sent.clone()),
                "chunked" => chunked(sent.clone(), frame),
                _ => with_trailers(sent.clone(), frame, "x-end", "of the request"),
            };
            let what = format!("HTTP/2 {http2}, {framing}, {size}");
            let answer = post(&mesh, http2, "application/json", body).await;
            let received = last(&mesh, &answer, &what);
            assert_eq!(answer.status, 200, "{what}: {}", answer.text());
            // Trailers look as if more of it followed: then nothing is replaced.
            let expected = if partial && framing == "trailers" { &sent } else { &expected };
            assert_eq!(received.body_length, expected.len(), "{what}");
            assert_eq!(received.body_sha256, sha256(expected.as_bytes()), "{what}");
            if framing == "trailers" {
                let trailer = ("x-end".to_owned(), "of the request".to_owned());
                assert_eq!(received.trailers, [trailer], "{what}");
            }
            // A length that is announced is the right one.
            for length in received.header("content-length") {
                assert_eq!(length, expected.len().to_string(), "{what}");
            }
        }
    }
    assert_eq!(mesh.envoy.counter("ext_proc.spurious_msgs_received").await, 0);
    mesh.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_are_substituted_where_none_were_to_be_sent() {
    check_uploads(mesh(RULES), false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_are_substituted_in_buffered() {
    check_uploads(modes(mesh(RULES), "BUFFERED", "SKIP", true), false).await;
    check_uploads(modes(mesh(RULES), "BUFFERED", "SEND", false), false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_are_substituted_in_buffered_partial() {
    check_uploads(modes(mesh(RULES), "BUFFERED_PARTIAL", "SKIP", false), true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_are_substituted_in_streamed() {
    check_uploads(modes(mesh(RULES), "STREAMED", "SKIP", true), false).await;
    let declared = "  mode_override: false\n  modes: {request_trailers: true}\n";
    let rules = format!("{RULES}{declared}");
    check_uploads(modes(mesh(&rules), "STREAMED", "SEND", false), false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_are_substituted_in_full_duplex_streamed() {
    check_uploads(modes(mesh(RULES), "FULL_DUPLEX_STREAMED", "SEND", true), false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_of_all_kinds_are_written_as_they_have_to_be() {
    let mesh = mesh(RULES).start().await;
    for (kind, sent, expected) in [
        (
            "application/x-www-form-urlencoded",
            "a=b&key=%7B%7Bsecret%3A%2F%2Flocal%2Fzq-stripe%7D%7D",
            "a=b&key=canary-stripe-9Lm",
        ),
        (
            "application/x-www-form-urlencoded",
            "key={{secret://local/zq-inner}}",
            "key=canary-stripe-9Lm%0Acanary-orders-7Qx",
        ),
        (
            "application/vnd.api+json",
            r#"["{{secret://local/zq-inner}}"]"#,
            r#"["canary-stripe-9Lm\ncanary-orders-7Qx"]"#,
        ),
        (
            "text/plain",
            "x {{secret://local/zq-inner}} {{secret://local/zq-hidden}}",
            "x canary-stripe-9Lm\ncanary-orders-7Qx {{secret://local/zq-hidden}}",
        ),
        // Nobody asked for these.
        ("application/octet-stream", REFERENCE, REFERENCE),
        ("multipart/form-data; boundary=x", REFERENCE, REFERENCE),
    ] {
        for body in [sized(sent), chunked(sent, 3)] {
            let answer = post(&mesh, false, kind, body).await;
            let received = last(&mesh, &answer, sent);
            assert_eq!(received.body_sha256, sha256(expected.as_bytes()), "{kind} {sent}");
        }
    }
    // Elsewhere the same references are text, and so they are for others.
    let (sent, _) = document(100);
    let json = [("content-type", "application/json")];
    let answer = mesh.api().send("POST", "app.test", "/public/", &json, sized(sent.clone())).await;
    assert_eq!(answer.json::<Received>().body_sha256, sha256(sent.as_bytes()));
    let other = mesh.client("payments", "other");
    let answer = other.send("POST", HOST, "/public/", &json, sized(sent.clone())).await;
    assert_eq!(answer.json::<Received>().body_sha256, sha256(sent.as_bytes()));
    mesh.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn targets_and_cookies_are_substituted() {
    let mesh = mesh(RULES).start().await;
    let basic = |text: &str| format!("Basic {}", STANDARD.encode(text));
    let rows: Vec<Row> = vec![
        (format!("/v1?a=b&key={REFERENCE}"), vec![], format!("/v1?a=b&key={VALUE}"), vec![]),
        (
            "/v1?key=%7B%7Bsecret%3A%2F%2Flocal%2Fzq-inner%7D%7D".into(),
            vec![],
            "refused".into(),
            vec![],
        ),
        (
            format!("/bot{ALIAS}/send?x={ALIAS}"),
            vec![],
            format!("/bot{VALUE}/send?x={VALUE}"),
            vec![],
        ),
        (
            "/v1".into(),
            vec![("cookie", format!("a=b; session={REFERENCE}; c=d"))],
            "/v1".into(),
            vec![("cookie", format!("a=b; session={VALUE}; c=d"))],
        ),
        (
            "/v1".into(),
            vec![("x-api-key", ALIAS.into())],
            "/v1".into(),
            vec![("x-api-key", VALUE.into())],
        ),
        (
            "/v1".into(),
            vec![("authorization", format!("Bearer {ALIAS}"))],
            "/v1".into(),
            vec![("authorization", format!("Bearer {VALUE}"))],
        ),
        (
            "/v1".into(),
            vec![("authorization", basic(&format!("{ALIAS}:")))],
            "/v1".into(),
            vec![("authorization", basic(&format!("{VALUE}:")))],
        ),
    ];
    for (target, headers, expected, arrive) in &rows {
        let headers: Vec<_> = headers.iter().map(|(n, v)| (*n, v.as_str())).collect();
        for client in [mesh.api(), mesh.api().http2()] {
            let before = mesh.payment.received().len();
            let answer = client.request("GET", HOST, target, &headers).await;
            if expected == "refused" {
                assert_eq!(answer.status, 502, "{target}: {}", answer.text());
                assert_eq!(mesh.payment.received().len(), before);
                continue;
            }
            assert_eq!(answer.status, 200, "{target}: {}", answer.text());
            let received: Received = answer.json();
            assert_eq!(received.path, *expected);
            for (name, value) in arrive {
                assert_eq!(received.header(name), [value.as_str()], "{target}");
            }
        }
    }
    // What may not be used ends these requests, before the upstream hears of them.
    let before = mesh.payment.received().len();
    for (target, cookie) in [
        ("/v1?key={{secret://local/zq-hidden}}", "a=b"),
        ("/v1?key={{secret://local/}}", "a=b"),
        ("/v1/sk_hidden_4eC39HqLyjWD", "a=b"),
        ("/v1", "a={{secret://local/zq-hidden}}"),
    ] {
        let answer = mesh.api().request("GET", HOST, target, &[("cookie", cookie)]).await;
        assert!(matches!(answer.status, 400 | 403), "{target}: {}", answer.status);
        assert!(!answer.text().contains("zq-"), "{}", answer.text());
    }
    assert_eq!(mesh.payment.received().len(), before);
    mesh.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn violations_are_what_the_rule_says() {
    let mesh = mesh(RULES).start().await;
    let form = "application/x-www-form-urlencoded";
    for body in [
        sized("key={{secret://local/zq-hidden}}"),
        // Long enough to come in chunks: some of it was let go before.
        chunked(format!("{}&key={{{{secret://local/zq-hidden}}}}", "a=b&".repeat(20_000)), 900),
    ] {
        let answer = post(&mesh, true, form, body).await;
        assert_eq!(answer.status, 403, "{}", answer.text());
        assert!(!answer.text().contains("zq-"), "{}", answer.text());
    }
    assert!(mesh.payment.received().is_empty());
    // Too many references are no attack where they are text.
    let many = format!("[{}\"\"]", format!("\"{REFERENCE}\",").repeat(40));
    let answer = post(&mesh, true, "application/json", sized(many.clone())).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let expected = many.replacen(REFERENCE, VALUE, 32);
    assert_eq!(last(&mesh, &answer, "many").body_sha256, sha256(expected.as_bytes()));
    // A digest says how the body was, so it stays as it was.
    let headers = [("content-type", "application/json"), ("content-digest", "sha-256=:x:")];
    let sent = format!("[\"{REFERENCE}\"]");
    let answer = mesh.api().send("POST", HOST, "/public/", &headers, sized(sent.clone())).await;
    assert_eq!(last(&mesh, &answer, "digest").body_sha256, sha256(sent.as_bytes()));
    // And what is compressed cannot be looked into.
    let headers = [("content-type", form), ("content-encoding", "gzip")];
    let answer = mesh.api().send("POST", HOST, "/public/", &headers, sized(REFERENCE)).await;
    assert_eq!(answer.status, 400, "{}", answer.text());
    let text = |surface, result| {
        format!(r#"vaultmux_ext_proc_surfaces_total{{surface="{surface}",result="{result}"}}"#)
    };
    assert_eq!(mesh.service.metric(&text("form", "denied")).await, Some(2.0));
    assert_eq!(mesh.service.metric(&text("json", "digest")).await, Some(1.0));
    mesh.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn alias_keeps_the_length_it_promises() {
    let rules = r#"
ext_proc:
  substitutions:
    - {name: payment, match: {clusters: [payment]}, surfaces: {json: inert}}
  aliases:
    - {alias: sk_live_much_longer_than_it, reference: "secret://local/zq-stripe", same_length: true}
"#;
    let mesh = mesh(rules).start().await;
    let answer =
        post(&mesh, false, "application/json", sized("\"sk_live_much_longer_than_it\"")).await;
    assert_eq!(answer.status, 502, "{}", answer.text());
    let details = mesh.envoy.access(0).await["details"].to_string();
    assert!(details.contains("vaultmux_value_unfit:length"), "{details}");
    assert!(mesh.payment.received().is_empty());
    mesh.finish().await;
}

/// A stolen credential is not let through where references are the rule.
#[tokio::test(flavor = "multi_thread")]
async fn requests_without_a_required_reference_are_refused() {
    let rules = r#"
ext_proc:
  substitutions:
    - name: payment
      match: {hosts: [api.stripe.test], clusters: [payment]}
      surfaces: {json: inert}
      require: true
"#;
    let mesh = mesh(rules).start().await;
    let stolen = [("authorization", "Bearer sk_live_stolen")];
    let answer = mesh.api().request("GET", HOST, "/v1", &stolen).await;
    assert_eq!(answer.status, 403, "{}", answer.text());
    let details = mesh.envoy.access(0).await["details"].to_string();
    assert!(details.contains("vaultmux_reference_required"), "{details}");
    for body in [sized("{\"a\": 1}"), chunked("{\"a\": 1}".repeat(20_000), 999)] {
        let answer = post(&mesh, true, "application/json", body).await;
        assert_eq!(answer.status, 403, "{}", answer.text());
    }
    assert!(mesh.payment.received().is_empty());
    let reference = [("authorization", "Bearer {{secret://local/zq-stripe}}")];
    let answer = mesh.api().request("GET", HOST, "/v1", &reference).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let body = chunked(format!("[\"{REFERENCE}\"]"), 2);
    assert_eq!(post(&mesh, true, "application/json", body).await.status, 200);
    // Others go on as they did.
    assert_eq!(mesh.api().get("app.test", "/public/").await.status, 200);
    mesh.finish().await;
}

/// What is sent, target and headers, and what arrives.
type Row = (String, Vec<(&'static str, String)>, String, Vec<(&'static str, String)>);

const REDACTED: &str = r#"
ext_proc:
  substitutions:
    - name: payment
      match: {hosts: [api.stripe.test], clusters: [payment]}
      surfaces: {json: inert}
      redact: true
  mode_override: true
"#;

async fn check_redaction(builder: MeshBuilder) {
    let mesh = builder.start().await;
    let headers = [
        ("authorization", "Bearer {{secret://local/zq-stripe}}"),
        ("accept-encoding", "gzip, br"),
        ("range", "bytes=1-5"),
    ];
    for client in [mesh.api(), mesh.api().http2()] {
        // It answers with the headers that it got.
        let answer = client.request("GET", HOST, "/v1", &headers).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert!(!answer.text().contains(VALUE), "{}", answer.text());
        let received: Received = answer.json();
        assert_eq!(received.header("authorization"), [headers[0].1]);
        assert_eq!(received.header("accept-encoding"), ["identity"]);
        assert!(received.header("range").is_empty());
        assert_eq!(
            answer.header("content-length").parse().unwrap_or(answer.body.len()),
            answer.body.len()
        );
        // And the upstream did get it.
        let received = last(&mesh, &answer, "redacted");
        assert_eq!(received.header("authorization"), [format!("Bearer {VALUE}")]);
        // All else comes back as it was.
        for framing in ["length", "chunked", "trailers"] {
            let target = format!("/public/bytes?{framing}");
            let answer = client.request("GET", HOST, &target, &headers).await;
            assert_eq!(
                sha256(&answer.body),
                sha256(&crate::harness::Upstream::bytes()),
                "{framing}"
            );
        }
    }
    assert_eq!(mesh.envoy.counter("ext_proc.spurious_msgs_received").await, 0);
    mesh.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn values_are_taken_out_of_answers() {
    check_redaction(mesh(REDACTED)).await;
    check_redaction(modes(mesh(REDACTED), "BUFFERED", "SKIP", true)).await;
    check_redaction(modes(mesh(REDACTED), "STREAMED", "SEND", true)).await;
    check_redaction(modes(mesh(REDACTED), "FULL_DUPLEX_STREAMED", "SEND", true)).await;
}

/// Where the answer cannot be looked into, the request is not sent.
#[tokio::test(flavor = "multi_thread")]
async fn redaction_that_the_modes_forbid_is_refused() {
    let rules = REDACTED.replace("mode_override: true", "mode_override: false");
    let mesh =
        mesh(&rules).edit("allow_mode_override: true", "allow_mode_override: false").start().await;
    let header = [("authorization", "Bearer {{secret://local/zq-stripe}}")];
    let answer = mesh.api().request("GET", HOST, "/v1", &header).await;
    assert_eq!(answer.status, 500, "{}", answer.text());
    let details = mesh.envoy.access(0).await["details"].to_string();
    assert!(details.contains("vaultmux_mode_unable:response_body_mode"), "{details}");
    assert!(mesh.payment.received().is_empty());
    // Without a secret there is nothing to take out.
    assert_eq!(mesh.api().get(HOST, "/v1").await.status, 200);
    mesh.finish().await;
}

/// The service dies while a body is on its way: nothing of it is taken for whole.
#[tokio::test(flavor = "multi_thread")]
async fn service_that_dies_in_the_middle_ends_the_request() {
    for body in ["NONE", "BUFFERED", "STREAMED", "FULL_DUPLEX_STREAMED"] {
        let trailers = if body == "FULL_DUPLEX_STREAMED" { "SEND" } else { "SKIP" };
        let mut mesh = modes(mesh(RULES), body, trailers, true).start().await;
        let (go, gone) = tokio::sync::oneshot::channel::<()>();
        let first = Bytes::from(format!("[\"{}\",", "x".repeat(50_000)));
        let second = Bytes::from(format!("\"{REFERENCE}\"]"));
        let chunks = stream::iter([first]).chain(stream::once(async move {
            let _ = gone.await;
            second
        }));
        let frames = chunks.map(|chunk| Ok::<_, Infallible>(Frame::data(chunk)));
        let sent = BodyExt::boxed(StreamBody::new(frames));
        let client = mesh.api().http2();
        let headers = [("content-type", "application/json")];
        let request = tokio::spawn(async move {
            client
                .try_send("POST", HOST, "/public/", &headers, sent)
                .await
                .map(|answer| answer.status)
        });
        // Once the service was asked about it.
        while mesh.envoy.counter("ext_proc.stream_msgs_sent").await == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        mesh.service.kill().await;
        let _ = go.send(());
        let status = request.await.expect("no panic");
        assert!(status.as_ref().map_or(true, |status| *status >= 500), "{body}: {status:?}");
        assert!(mesh.payment.received().is_empty(), "{body}");
    }
}

/// It dies while an answer is on its way: the client never takes a part of it for whole, and
/// none of it has the value.
#[tokio::test(flavor = "multi_thread")]
async fn service_that_dies_in_the_middle_cuts_the_answer_off() {
    for body in ["NONE", "BUFFERED", "STREAMED", "FULL_DUPLEX_STREAMED"] {
        let trailers = if body == "FULL_DUPLEX_STREAMED" { "SEND" } else { "SKIP" };
        for http2 in [true, false] {
            let mut mesh = modes(mesh(REDACTED), body, trailers, true).start().await;
            let client = if http2 { mesh.api().http2() } else { mesh.api() };
            let answer = tokio::spawn(async move {
                let headers = [("x-api-key", REFERENCE)];
                client.try_send("GET", HOST, "/public/slow", &headers, sized("")).await
            });
            // Once the answer is under way. A body that is held as a whole is not shown.
            let under_way = if body == "BUFFERED" { 2 } else { 5 };
            while mesh.envoy.counter("ext_proc.stream_msgs_sent").await < under_way {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            mesh.service.kill().await;
            match answer.await.expect("no panic") {
                Ok(answer) => {
                    assert!(answer.status >= 500, "{body} {http2}: {}", answer.status);
                    assert!(!answer.text().contains(VALUE), "{body} {http2}");
                }
                Err(error) => {
                    let late = error.is::<tokio::time::error::Elapsed>();
                    assert!(!late, "{body} {http2}: it was not cut off");
                }
            }
        }
    }
}

/// The client waits to be told to go on before it sends the body: Envoy tells it, whatever
/// the mode, and the reference in the body is found.
#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_wait_for_100_continue_are_substituted() {
    for mode in ["NONE", "BUFFERED", "STREAMED"] {
        let mesh = modes(mesh(RULES), mode, "SKIP", true).start().await;
        let body = format!("[\"{REFERENCE}\"]");
        let request = format!(
            "POST /public/ HTTP/1.1\r\nhost: {HOST}\r\ncontent-type: application/json\r\n\
             expect: 100-continue\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len(),
        );
        let answer = mesh.api().converse(request.as_bytes()).await.expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 100 Continue\r\n"), "{mode}: {answer}");
        assert!(answer.contains("HTTP/1.1 200 OK\r\n"), "{mode}: {answer}");
        let received = mesh.payment.received().pop().expect("arrived");
        let expected = format!("[\"{VALUE}\"]");
        assert_eq!(received.body_sha256, sha256(expected.as_bytes()), "{mode}");
        mesh.finish().await;
    }
}

/// What follows is another protocol: nothing waits for a body, whatever a rule looks for.
#[tokio::test(flavor = "multi_thread")]
async fn upgrades_are_answered_at_once() {
    let app = "    - {name: app, match: {hosts: [app.test]}, surfaces: {json: deny}}\n  aliases:";
    let rules = RULES.replace("  aliases:", app);
    for mode in ["NONE", "BUFFERED", "STREAMED"] {
        let mesh = modes(mesh(&rules), mode, "SKIP", true)
            .edit(
                "codec_type: AUTO",
                "codec_type: AUTO\n          upgrade_configs: [{upgrade_type: websocket}]",
            )
            .start()
            .await;
        let request = "GET /public/ HTTP/1.1\r\nhost: app.test\r\n\
                       content-type: application/json\r\nconnection: upgrade\r\n\
                       upgrade: websocket\r\n\r\n";
        // The upstream speaks none, and says so.
        let status = mesh.api().raw(request.as_bytes()).await.expect("an answer");
        assert_eq!(status, 200, "{mode}");
        let received = mesh.app.received().pop().expect("arrived");
        assert_eq!(received.header("upgrade"), ["websocket"], "{mode}");
        mesh.finish().await;
    }
}
