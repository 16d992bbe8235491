//! Rules that sign, as a proxy sees them: headers that come with the first answer.

use envoy_types::pb::envoy::{
    extensions::filters::http::ext_proc::v3::processing_mode::BodySendMode,
    service::ext_proc::v3::{HttpBody, ProtocolConfiguration, body_mutation::Mutation},
};
use http::HeaderName;

use super::*;
use crate::{
    injection::{Substitution, Substitutions, Surface, Surfaces, Violation},
    signing::{Digest, Encoding, Hmac, KeyEncoding, Message, Signer},
};

fn hmac(header: &'static str, message: &str) -> Signer {
    Signer::Hmac(Hmac {
        key: Template::parse("{{secret://local/use/key}}", &catalog()).expect("valid"),
        key_encoding: KeyEncoding::Raw,
        digest: Digest::Sha256,
        message: Message::parse(message).expect("valid"),
        header: HeaderName::from_static(header),
        prefix: "v1=".to_owned(),
        encoding: Encoding::Base64,
        timestamp: None,
    })
}

async fn start(signers: Vec<Signer>) -> Service {
    let change = |snapshot: &mut Snapshot| {
        let mut injection = snapshot.injections[0].clone();
        injection.signers = signers;
        snapshot.injections = Arc::new([injection]);
    };
    Service::start_with(change).await
}

fn expected(message: &str) -> String {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, CANARY.as_bytes());
    format!("v1={}", STANDARD.encode(aws_lc_rs::hmac::sign(&key, message.as_bytes())))
}

fn end_of_stream(mut message: ProcessingRequest) -> ProcessingRequest {
    if let Some(Request::RequestHeaders(headers)) = &mut message.request {
        headers.end_of_stream = true;
    }
    message
}

#[tokio::test]
async fn signatures_cover_the_request_as_the_upstream_gets_it() {
    let message = "{method} {host} {target} {header:authorization} {header:x-id}";
    let service = start(vec![hmac("x-signature", message)]).await;
    // The client's own signature is no concern, even if it looks like a reference.
    let sent = [("x-id", "7"), ("x-signature", "{{secret://nowhere/a}}"), ("authorization", "no")];
    let answer = service.ask(request("/inject?a=b", &sent)).await.expect("an answer");
    let signed = format!("GET api.stripe.com /inject?a=b Bearer {CANARY} 7");
    let set = [
        ("authorization".to_owned(), format!("Bearer {CANARY}")),
        ("x-signature".to_owned(), expected(&signed)),
    ];
    assert_eq!(mutated(&answer), set);
}

#[tokio::test]
async fn a_body_that_is_not_there_is_signed_and_one_that_cannot_be_had_is_refused() {
    let service = start(vec![hmac("x-signature", "{method}{body}")]).await;
    let answer = service.ask(end_of_stream(request("/inject", &[]))).await.expect("an answer");
    assert_eq!(mutated(&answer)[1], ("x-signature".to_owned(), expected("GET")));
    let upgrade = request("/inject", &[("upgrade", "websocket")]);
    let answer = service.ask(upgrade).await.expect("an answer");
    let (code, details, _) = status(&answer);
    assert_eq!((code, details), (500, "vaultmux_signing_refused:body_unseen"));
    // In none of these modes do headers wait for a body.
    for mode in [BodySendMode::Streamed, BodySendMode::FullDuplexStreamed] {
        let mut message = request("/inject", &[]);
        message.protocol_config = Some(ProtocolConfiguration {
            request_body_mode: mode.into(),
            send_body_without_waiting_for_header_response: true,
            ..ProtocolConfiguration::default()
        });
        let answer = service.ask(message).await.expect("an answer");
        assert_eq!(status(&answer).1, "vaultmux_signing_refused:body_unseen");
    }
}

/// What the answer to a body does: sets these headers, and replaces the body.
fn signed(answer: &ProcessingResponse) -> (Vec<(String, String)>, Option<Vec<u8>>) {
    let Some(Response::RequestBody(body)) = &answer.response else {
        panic!("not an answer to a body: {:?}", status(answer));
    };
    let common = body.response.as_ref().expect("something changes");
    let mutation = common.header_mutation.as_ref().expect("headers");
    let headers = mutation.set_headers.iter().filter_map(|option| option.header.as_ref());
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
    let headers = headers.map(|header| (header.key.clone(), text(&header.raw_value))).collect();
    let body = common.body_mutation.as_ref().and_then(|body| match &body.mutation {
        Some(Mutation::Body(body)) => Some(body.clone()),
        _ => None,
    });
    (headers, body)
}

async fn upload(service: &Service, headers: &[(&str, &str)], body: &[u8]) -> ProcessingResponse {
    let mut exchange = service.open().await;
    exchange.send(request("/inject", headers)).await;
    let answer = exchange.answer().await.expect("an answer").expect("open");
    let mode = answer.mode_override.as_ref().expect("asks for the body");
    assert_eq!(mode.request_body_mode, i32::from(BodySendMode::Buffered));
    // Not before the body is there.
    assert!(mutated(&answer).iter().all(|(name, _)| name != "x-signature"));
    let body = HttpBody { body: body.to_vec(), end_of_stream: true, ..HttpBody::default() };
    let request = Some(Request::RequestBody(body));
    exchange.send(ProcessingRequest { request, ..ProcessingRequest::default() }).await;
    exchange.answer().await.expect("an answer").expect("open")
}

#[tokio::test]
async fn a_body_is_held_until_it_is_signed() {
    let message = "{method}{header:authorization}{header:content-length}{body}";
    let signer = || hmac("x-signature", message);
    let service = start(vec![signer()]).await;
    let long = "x".repeat(100_000);
    for body in ["hello", "", &long] {
        let length = body.len().to_string();
        let answer = upload(&service, &[("content-length", &length)], body.as_bytes()).await;
        let text = format!("GETBearer {CANARY}{length}{body}");
        assert_eq!(signed(&answer), (vec![("x-signature".into(), expected(&text))], None));
    }
    // Longer than is held.
    let answer = upload(&service, &[], &vec![0; (8 << 20) + 1]).await;
    assert_eq!((status(&answer).0, status(&answer).1), (413, "vaultmux_body_too_large"));
    // Only its beginning came.
    let answer = upload(&service, &[("content-length", "10")], b"").await;
    assert_eq!(status(&answer).0, 0, "an empty body that ends is the client's affair");

    // With secrets in it, as it goes on.
    let service = Service::start_with(|snapshot| {
        let mut injection = snapshot.injections[0].clone();
        injection.signers = vec![signer()];
        snapshot.injections = Arc::new([injection]);
        let mut surfaces = Surfaces::default();
        surfaces.add(Surface::Json, Violation::Deny);
        let matcher = InjectionMatch { paths: vec!["/inject".into()], ..InjectionMatch::default() };
        let name = "json".to_owned();
        let rule = Substitution { name, matcher, surfaces, required: false, redacts: false };
        snapshot.substitutions = Substitutions::new(vec![rule], vec![]).expect("valid");
    })
    .await;
    let sent = r#"["{{secret://local/use/key}}"]"#;
    let length = sent.len().to_string();
    let headers = [("content-type", "application/json"), ("content-length", length.as_str())];
    let goes_on = format!(r#"["{CANARY}"]"#);
    let length = goes_on.len().to_string();
    let text = format!("GETBearer {CANARY}{length}{goes_on}");
    let answer = upload(&service, &headers, sent.as_bytes()).await;
    let (headers, body) = signed(&answer);
    assert_eq!(body, Some(goes_on.into_bytes()));
    let set = [("x-signature".to_owned(), expected(&text)), ("content-length".to_owned(), length)];
    assert_eq!(headers, set);
}

#[tokio::test]
async fn requests_that_cannot_be_signed_do_not_go_on() {
    let service = start(vec![hmac("x-signature", "{header:x-id}")]).await;
    let answer = service.ask(request("/inject", &[])).await.expect("an answer");
    let (code, details, body) = status(&answer);
    assert_eq!((code, details), (400, "vaultmux_signing_refused:missing_header"));
    assert!(!body.contains(CANARY) && !body.contains("use/key"), "{body}");
}

/// A signer grants nothing: its secrets need the same permit for the same destination.
#[tokio::test]
async fn secrets_of_signers_need_a_permit() {
    let elsewhere = |secret: &str| {
        let Signer::Hmac(hmac) = hmac("x-signature", "{method}") else { panic!("it is") };
        let key = Template::parse(secret, &catalog()).expect("valid");
        Signer::Hmac(Hmac { key, ..hmac })
    };
    for secret in ["{{secret://local/readable}}", "{{secret://local/absent}}"] {
        let service = start(vec![elsewhere(secret)]).await;
        let answer = service.ask(request("/inject", &[])).await.expect("an answer");
        let (code, details, _) = status(&answer);
        assert_eq!((code, details), (403, "vaultmux_denied_no_match"), "{secret}");
    }
    let service = start(vec![hmac("x-signature", "{method}")]).await;
    let mut message = request("/inject", &[]);
    for attributes in message.attributes.values_mut() {
        attributes.fields.remove("xds.cluster_name");
    }
    let answer = service.ask(message).await.expect("an answer");
    assert_eq!(status(&answer).1, "binding_attribute_missing:xds.cluster_name");
}

#[tokio::test]
async fn of_several_rules_for_one_header_the_first_wins() {
    let signers =
        vec![hmac("authorization", "{host}"), hmac("x-one", "{host}"), hmac("x-one", "{path}")];
    let service = start(signers).await;
    let answer = service.ask(request("/inject", &[])).await.expect("an answer");
    let set = [
        ("authorization".to_owned(), format!("Bearer {CANARY}")),
        ("x-one".to_owned(), expected("api.stripe.com")),
    ];
    assert_eq!(mutated(&answer), set);
}
