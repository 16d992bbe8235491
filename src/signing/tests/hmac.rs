//! Keyed hashes: RFC 4231, what webhooks document, and requests that cannot be signed.

use http::HeaderName;

use super::*;
use crate::signing::{Digest, Encoding, Hmac, InvalidMessage, KeyEncoding, Message, Timestamp};

fn hmac(message: &str) -> Hmac {
    Hmac {
        key: template("{{secret://local/key}}"),
        key_encoding: KeyEncoding::Raw,
        digest: Digest::Sha256,
        message: Message::parse(message).expect("valid"),
        header: HeaderName::from_static("x-signature"),
        prefix: String::new(),
        encoding: Encoding::Hex,
        timestamp: None,
    }
}

async fn signature(hmac: Hmac, request: &Unsigned<'_>, key: &[u8]) -> Result<String, SigningError> {
    let tokens = AccessTokens::default();
    let signed = sign(&Signer::Hmac(hmac), request, &[("key", key)], &tokens).await?;
    Ok(header(&signed, "x-signature").expect("set"))
}

/// RFC 4231, cases 1, 2, 3 and 6; and GitHub's own example of a webhook.
#[tokio::test]
async fn signatures_are_those_of_published_vectors() {
    let rows: [(&[u8], &[u8], Digest, &str); 8] = [
        (
            &[0x0b; 20],
            b"Hi There",
            Digest::Sha256,
            "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7",
        ),
        (
            &[0x0b; 20],
            b"Hi There",
            Digest::Sha512,
            "87aa7cdea5ef619d4ff0b4241a1d6cb02379f4e2ce4ec2787ad0b30545e17cde\
             daa833b7d6b8a702038b274eaea3f4e4be9d914eeb61f1702e696c203a126854",
        ),
        (
            b"Jefe",
            b"what do ya want for nothing?",
            Digest::Sha256,
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
        ),
        (
            b"Jefe",
            b"what do ya want for nothing?",
            Digest::Sha512,
            "164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea250554\
             9758bf75c05a994a6d034f65f8f0e6fdcaeab1a34d4a6b4b636e070a38bce737",
        ),
        (
            &[0xaa; 20],
            &[0xdd; 50],
            Digest::Sha256,
            "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe",
        ),
        (
            &[0xaa; 131],
            b"Test Using Larger Than Block-Size Key - Hash Key First",
            Digest::Sha256,
            "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
        ),
        (
            &[0xaa; 131],
            b"Test Using Larger Than Block-Size Key - Hash Key First",
            Digest::Sha512,
            "80b24263c7c1a3ebb71493c1dd7be8b49b46d1f41b4aeec1121b013783f8f352\
             6b56d037e05f2598bd0fd2215d6a1e5295e64f73f63f0aec8b915a985d786598",
        ),
        (
            b"It's a Secret to Everybody",
            b"Hello, World!",
            Digest::Sha256,
            "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17",
        ),
    ];
    for (key, body, digest, expected) in rows {
        let request = Unsigned { body: Body::Whole(body), ..get("a.test", "/", &[]) };
        let signed = signature(Hmac { digest, ..hmac("{body}") }, &request, key).await;
        assert_eq!(signed.as_deref(), Ok(expected));
    }
}

#[tokio::test]
async fn keys_and_signatures_come_in_several_encodings() {
    let request =
        Unsigned { body: Body::Whole(b"what do ya want for nothing?"), ..get("a.test", "/", &[]) };
    for (key_encoding, key) in [
        (KeyEncoding::Raw, &b"Jefe\n"[..]),
        (KeyEncoding::Base64, b"SmVmZQ=="),
        (KeyEncoding::Hex, b"4A656665\r\n"),
    ] {
        for (encoding, prefix, expected) in [
            (
                Encoding::Hex,
                "sha256=",
                "sha256=5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
            ),
            (Encoding::Base64, "", "W9zBRr9gdU5qBCQmCJV1x1oAPwidJzmDnexYuWTsOEM="),
            (Encoding::Base64Url, "v1,", "v1,W9zBRr9gdU5qBCQmCJV1x1oAPwidJzmDnexYuWTsOEM"),
        ] {
            let prefix = prefix.to_owned();
            let hmac = Hmac { key_encoding, encoding, prefix, ..hmac("{body}") };
            assert_eq!(signature(hmac, &request, key).await.as_deref(), Ok(expected));
        }
    }
}

#[tokio::test]
async fn every_part_of_a_request_can_be_signed() {
    let headers: [(&str, &[u8]); 2] = [("X-Id", b"7"), ("x-other", b"8")];
    let request = Unsigned {
        method: "POST",
        body: Body::Whole(b"{}"),
        ..get("a.test:8443", "/v1/x%20y?b=2&a=1", &headers)
    };
    let rows = [
        ("{method} {target}", "POST /v1/x%20y?b=2&a=1"),
        ("{path}\n{query}", "/v1/x%20y\nb=2&a=1"),
        ("{host};{header:x-id}", "a.test:8443;7"),
        ("{body_sha256}", "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"),
    ];
    for (message, plain) in rows {
        let whole = Unsigned { body: Body::Whole(plain.as_bytes()), ..get("", "/", &[]) };
        let expected = signature(hmac("{body}"), &whole, b"key").await;
        assert_eq!(signature(hmac(message), &request, b"key").await, expected, "{message}");
    }
}

#[tokio::test]
async fn the_time_is_signed_and_told() {
    let rows = [
        (Timestamp::Seconds, "1700000000"),
        (Timestamp::Milliseconds, "1700000000000"),
        (Timestamp::Rfc3339, "2023-11-14T22:13:20Z"),
    ];
    for (form, expected) in rows {
        let told = HeaderName::from_static("x-timestamp");
        let hmac =
            Hmac { timestamp: Some((form, Some(told.clone()))), ..hmac("{timestamp}.{method}") };
        let signer = Signer::Hmac(hmac);
        assert_eq!(signer.headers(), [HeaderName::from_static("x-signature"), told]);
        let tokens = AccessTokens::default();
        let signed = sign(&signer, &get("a.test", "/", &[]), &[("key", b"key")], &tokens).await;
        let signed = signed.expect("signed");
        assert_eq!(header(&signed, "x-timestamp").as_deref(), Some(expected));
        let plain = format!("{expected}.GET");
        let whole = Unsigned { body: Body::Whole(plain.as_bytes()), ..get("", "/", &[]) };
        let expected = signature(super::hmac::hmac("{body}"), &whole, b"key").await;
        assert_eq!(header(&signed, "x-signature"), expected.ok());
    }
}

#[tokio::test]
async fn what_cannot_be_signed_is_refused() {
    let twice: [(&str, &[u8]); 2] = [("x-id", b"7"), ("x-id", b"8")];
    let unseen = || Unsigned { body: Body::Unseen, ..get("a.test", "/", &[]) };
    let unfit = SigningError::Unfit(crate::fixture::reference("secret://local/key"));
    let hex = || Hmac { key_encoding: KeyEncoding::Hex, ..hmac("{method}") };
    let base64 = || Hmac { key_encoding: KeyEncoding::Base64, ..hmac("{method}") };
    let rows = [
        (hmac("{body}"), unseen(), CANARY, SigningError::BodyUnseen),
        (hmac("{method}{body_sha256}"), unseen(), CANARY, SigningError::BodyUnseen),
        (hmac("{header:x-id}"), get("a.test", "/", &[]), CANARY, SigningError::MissingHeader),
        (hmac("{header:x-id}"), get("a.test", "/", &twice), CANARY, SigningError::Malformed),
        (hmac("{method}"), get("a.test", "/", &[]), "", unfit.clone()),
        (hmac("{method}"), get("a.test", "/", &[]), "\n", unfit.clone()),
        (hex(), get("a.test", "/", &[]), CANARY, unfit.clone()),
        (hex(), get("a.test", "/", &[]), "abc", unfit.clone()),
        (base64(), get("a.test", "/", &[]), CANARY, unfit),
    ];
    for (hmac, request, key, expected) in rows {
        assert_eq!(signature(hmac, &request, key.as_bytes()).await, Err(expected));
    }
    for (message, needs) in [("{method}", false), ("{body}", true), ("{path}{body_sha256}", true)] {
        assert_eq!(Signer::Hmac(hmac(message)).needs_body(&unseen()), needs, "{message}");
    }
}

#[test]
fn messages_that_say_nothing_are_refused() {
    let rows = [
        ("", InvalidMessage::Constant),
        ("text", InvalidMessage::Constant),
        ("{timestamp}", InvalidMessage::Constant),
        ("{method", InvalidMessage::Brace),
        ("method}", InvalidMessage::Brace),
        ("{nonce}", InvalidMessage::Part("nonce".to_owned())),
        ("{header:}", InvalidMessage::Part("header:".to_owned())),
        ("{header::path}", InvalidMessage::Part("header::path".to_owned())),
        ("{{method}}", InvalidMessage::Part("{method".to_owned())),
    ];
    for (text, expected) in rows {
        assert_eq!(Message::parse(text), Err(expected), "{text}");
    }
}
