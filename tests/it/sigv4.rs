//! What AWS does with a signature: makes it again from what arrived, and compares.

use std::collections::BTreeMap;

use aws_lc_rs::hmac;

use crate::harness::{Received, sha256};

fn mac(key: &[u8], text: &str) -> Vec<u8> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    hmac::sign(&key, text.as_bytes()).as_ref().to_vec()
}

/// Checks a signature in the headers.
pub(crate) fn verify(received: &Received, id: &str, secret: &str) {
    let [authorization] = received.header("authorization")[..] else { panic!("one signature") };
    let fields = authorization.strip_prefix("AWS4-HMAC-SHA256 ").expect("the algorithm");
    let fields: BTreeMap<_, _> =
        fields.split(", ").map(|field| field.split_once('=').expect("name=value")).collect();
    let (path, query) = received.path.split_once('?').unwrap_or((&received.path, ""));
    let mut query: Vec<_> = query.split('&').filter(|piece| !piece.is_empty()).collect();
    query.sort_unstable();
    let content = received.header("x-amz-content-sha256")[0];
    let date = received.header("x-amz-date")[0];
    let signed = (fields["SignedHeaders"], content, date);
    let expected = sign(received, path, &query, signed, (fields["Credential"], id, secret));
    assert_eq!(fields["Signature"], expected, "{received:?}");
}

/// Checks a presigned URL.
pub(crate) fn verify_url(received: &Received, id: &str, secret: &str) {
    let (path, query) = received.path.split_once('?').expect("a query");
    let mut query: Vec<_> = query.split('&').collect();
    let value = |name: &str| {
        let found = query.iter().filter_map(|piece| piece.strip_prefix(name)?.strip_prefix('='));
        let [value] = found.collect::<Vec<_>>()[..] else { panic!("one {name}: {query:?}") };
        percent_encoding::percent_decode_str(value).decode_utf8().expect("text").into_owned()
    };
    let (signature, credential) = (value("X-Amz-Signature"), value("X-Amz-Credential"));
    let (names, date) = (value("X-Amz-SignedHeaders"), value("X-Amz-Date"));
    query.retain(|piece| !piece.starts_with("X-Amz-Signature="));
    query.sort_unstable();
    let signed = (names.as_str(), "UNSIGNED-PAYLOAD", date.as_str());
    let expected = sign(received, path, &query, signed, (&credential, id, secret));
    assert_eq!(signature, expected, "{received:?}");
}

/// The signature of Version 4, for S3: paths are not encoded again.
fn sign(
    received: &Received,
    path: &str,
    query: &[&str],
    (names, content, date): (&str, &str, &str),
    (credential, id, secret): (&str, &str, &str),
) -> String {
    let scope = credential.strip_prefix(&format!("{id}/")).expect("the real key's id");
    let query: Vec<_> = query
        .iter()
        .map(|piece| if piece.contains('=') { (*piece).to_owned() } else { format!("{piece}=") })
        .collect();
    let mut request = format!("{}\n{path}\n{}\n", received.method, query.join("&"));
    for name in names.split(';') {
        let value = match name {
            "host" => received.authority.clone(),
            name => received.header(name).join(","),
        };
        let value = value.split_whitespace().collect::<Vec<_>>().join(" ");
        request += &format!("{name}:{value}\n");
    }
    request += &format!("\n{names}\n{content}");
    let text = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{}", sha256(request.as_bytes()));
    let key =
        scope.split('/').fold(format!("AWS4{secret}").into_bytes(), |key, part| mac(&key, part));
    let signature = mac(&key, &text);
    signature.iter().map(|byte| format!("{byte:02x}")).collect()
}
