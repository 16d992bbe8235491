//! Signers against published vectors, and against servers that behave and that do not.

mod hmac;
mod issuers;
#[cfg(feature = "aws")]
mod sigv4;
mod tokens;

use std::time::{Duration, SystemTime};

use super::{AccessTokens, Body, Signed, Signer, SigningError, Unsigned};
use crate::{
    fixture::catalog,
    injection::Template,
    secret::{SecretRef, SecretValue},
};

const CANARY: &str = "canary-4711";

/// Text with references.
fn template(text: &str) -> Template {
    Template::parse(text, &catalog()).expect("valid")
}

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

/// A GET without body.
fn get<'a>(
    authority: &'a str,
    target: &'a str,
    headers: &'a [(&'a str, &'a [u8])],
) -> Unsigned<'a> {
    let (body, now) = (Body::Whole(&[]), at(1_700_000_000));
    Unsigned { method: "GET", target, authority, headers, body, now }
}

/// Signs with secrets by name; what comes out shows no value.
async fn sign(
    signer: &Signer,
    request: &Unsigned<'_>,
    secrets: &[(&str, &[u8])],
    tokens: &AccessTokens,
) -> Result<Signed, SigningError> {
    let values: Vec<_> =
        secrets.iter().map(|(name, value)| (*name, SecretValue::new(*value))).collect();
    let value = |secret: &SecretRef| value_of(&values, secret);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    let signed = signer.sign(request, &value, tokens, deadline).await;
    if let Err(error) = &signed {
        let shown = format!("{error} {error:?} {} {signer:?}", error.as_str());
        for (_, value) in secrets {
            let value = String::from_utf8_lossy(value);
            assert!(value.len() < 4 || !shown.contains(&*value), "{shown}");
        }
    }
    signed
}

fn value_of<'v>(values: &'v [(&str, SecretValue)], secret: &SecretRef) -> Option<&'v SecretValue> {
    let found = values.iter().find(|(name, _)| *name == secret.name.as_str());
    found.map(|(_, value)| value)
}

#[expect(clippy::disallowed_methods, reason = "what an upstream would see is what is tested")]
fn text(value: &SecretValue) -> String {
    String::from_utf8(value.expose_secret().to_vec()).expect("headers are text")
}

/// The headers that were set.
fn headers(signed: &Signed) -> Vec<(String, String)> {
    signed.headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect()
}

fn header(signed: &Signed, name: &str) -> Option<String> {
    headers(signed).into_iter().find(|(is, _)| is == name).map(|(_, value)| value)
}
