//! Which bodies can be redacted, and what has to change around one that is.

/// What to ask the upstream for, in place of what the client asked: a compressed body
/// cannot be looked into.
pub const ACCEPT_ENCODING: (&str, &str) = ("accept-encoding", "identity");

/// Whether a body with these values of `content-encoding` can be looked into. If not, the
/// answer must not reach the client: it may hold a value.
pub fn is_readable<'v>(content_encoding: impl IntoIterator<Item = &'v [u8]>) -> bool {
    let codings = content_encoding.into_iter().flat_map(|value| value.split(|b| *b == b','));
    codings
        .map(<[u8]>::trim_ascii)
        .all(|coding| coding.is_empty() || coding.eq_ignore_ascii_case(b"identity"))
}

/// Whether a header tells the body's bytes, and so is wrong once they have changed. Such
/// headers go before the body is seen, so they are removed wherever it may change.
#[must_use]
pub fn is_stale(name: &str) -> bool {
    const STALE: [&str; 4] = ["content-digest", "content-md5", "digest", "repr-digest"];
    const CHECKSUM: &[u8] = b"x-amz-checksum-";
    STALE.iter().any(|stale| name.eq_ignore_ascii_case(stale))
        || name
            .as_bytes()
            .get(..CHECKSUM.len())
            .is_some_and(|head| head.eq_ignore_ascii_case(CHECKSUM))
}
