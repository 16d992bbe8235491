//! Answers to requests that no router sees: those that the service must not take, and those
//! that the HTTP library could not read and would answer by itself, without a word.

use bytes::Bytes;
use http::{HeaderMap, Method, Response};

/// Why a request is refused before it is routed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It is not HTTP.
    Malformed,
    /// Its end would be seen in different places.
    Ambiguous,
    /// It names no host, or more than one, or none that could be.
    Host,
    /// It has too many headers, or too long ones.
    HeadTooLarge,
}

/// Words such answers, and counts them.
pub trait Refusals: Send + Sync {
    /// The answer; `head` is what could be read of the request.
    fn refuse(&self, refused: Refused, head: Option<(&Method, &HeaderMap)>) -> Response<Bytes>;
}

/// An answer of the HTTP library's own, as we word it. Nothing comes after it.
pub(super) fn instead_of(written: &[u8], refusals: &dyn Refusals) -> Option<Vec<u8>> {
    let line = written.strip_prefix(b"HTTP/1.")?;
    let refused = match line.get(2..5)? {
        b"431" | b"414" => Refused::HeadTooLarge,
        _ => Refused::Malformed,
    };
    let answer = refusals.refuse(refused, None);
    let status = answer.status();
    let reason = status.canonical_reason().unwrap_or_default();
    let mut text = format!("HTTP/1.1 {} {reason}\r\n", status.as_u16()).into_bytes();
    for (name, value) in answer.headers() {
        text.extend_from_slice(name.as_str().as_bytes());
        text.extend_from_slice(b": ");
        text.extend_from_slice(value.as_bytes());
        text.extend_from_slice(b"\r\n");
    }
    let mut lines = written.split_inclusive(|byte| *byte == b'\n');
    let date = lines.find(|line| line.len() > 5 && line[..5].eq_ignore_ascii_case(b"date:"));
    text.extend_from_slice(date.unwrap_or_default());
    let length = answer.body().len();
    let last = format!("content-length: {length}\r\nconnection: close\r\n\r\n");
    text.extend_from_slice(last.as_bytes());
    text.extend_from_slice(answer.body());
    Some(text)
}
