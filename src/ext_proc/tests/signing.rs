//! Rules that sign, as a proxy sees them: headers that come with the first answer.

use http::HeaderName;

use super::*;
use crate::signing::{Digest, Encoding, Hmac, KeyEncoding, Message, Signer};

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
async fn a_body_that_is_not_there_is_signed_and_one_that_is_not_seen_is_refused() {
    let service = start(vec![hmac("x-signature", "{method}{body}")]).await;
    let answer = service.ask(end_of_stream(request("/inject", &[]))).await.expect("an answer");
    assert_eq!(mutated(&answer)[1], ("x-signature".to_owned(), expected("GET")));
    let answer = service.ask(request("/inject", &[])).await.expect("an answer");
    let (code, details, _) = status(&answer);
    assert_eq!((code, details), (500, "vaultmux_signing_refused:body_unseen"));
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
