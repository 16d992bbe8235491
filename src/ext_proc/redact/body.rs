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

/// Whether a message with these values of `transfer-encoding` comes as it is, but for its chunks.
pub fn is_whole<'v>(transfer_encoding: impl IntoIterator<Item = &'v [u8]>) -> bool {
    let codings = transfer_encoding.into_iter().flat_map(|value| value.split(|b| *b == b','));
    let plain = |coding: &[u8]| {
        [&b""[..], b"chunked", b"identity"].iter().any(|plain| coding.eq_ignore_ascii_case(plain))
    };
    codings.map(<[u8]>::trim_ascii).all(plain)
}

/// A byte that stands for each byte of a value that is taken out where the parts of a body tell
/// their own lengths: its reference would break them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mask(pub(super) u8);

// === impl Mask ===

impl Mask {
    /// Of what is written in base64: it goes on being so.
    pub const BASE64: Self = Self(b'A');

    /// Of a body of one of these types; none where a length may change.
    #[must_use]
    pub fn of_body<'v>(content_types: impl IntoIterator<Item = &'v [u8]>) -> Option<Self> {
        let starts = |value: &[u8], with: &[u8]| {
            value.get(..with.len()).is_some_and(|start| start.eq_ignore_ascii_case(with))
        };
        let masks = content_types.into_iter().filter_map(|value| {
            let value = value.trim_ascii_start();
            match starts(value, b"application/grpc-web-text") {
                true => Some(Self::BASE64),
                // Messages with their length before them, of fields that have theirs.
                false => starts(value, b"application/grpc").then_some(Self(b'*')),
            }
        });
        // Where there are several nobody knows, and what suits the narrowest suits all.
        masks.max_by_key(|mask| *mask == Self::BASE64)
    }
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
