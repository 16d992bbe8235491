//! What fuzzers call. Panics where a promise is broken.

use std::sync::Arc;

use bytes::Bytes;

use super::{MIN_VALUE, NeedlesBuilder, Redactor};
use crate::secret::SecretValue;

/// Stands in no form of a value that is looked for in it.
const REPLACEMENT: &str = "\u{1}";

/// Takes values out of the rest of the bytes, as a whole and in chunks. The values are made
/// of the same bytes, so that they, or their beginnings, are there.
///
/// # Panics
/// If chunks make a difference, too much is held back, or a value is left.
pub fn redactor(data: &[u8]) {
    let [values, length, cut, rest @ ..] = data else { return };
    let length = MIN_VALUE + usize::from(length % 64);
    let mut builder = NeedlesBuilder::default();
    let mut text = rest;
    let mut plain = Vec::new();
    for _ in 0..=values % 4 {
        let Some((value, after)) = text.split_at_checked(length) else { break };
        builder.add_as(&SecretValue::new(value), REPLACEMENT);
        // The newline that files end with is no part of a value.
        let value = value.strip_suffix(b"\n").map_or(value, |v| v.strip_suffix(b"\r").unwrap_or(v));
        plain.push(value.to_vec());
        // The last one stays where it can be found.
        if after.is_empty() || values & 128 != 0 {
            break;
        }
        text = after;
    }
    let Some(needles) = builder.build().map(Arc::new) else { return };
    let text = rest;
    let run = |size: usize| {
        let mut redactor = Redactor::new(Arc::clone(&needles));
        let mut out = Vec::new();
        for chunk in text.chunks(size) {
            redactor.push(Bytes::copy_from_slice(chunk), &mut out);
            assert!(redactor.held() < needles.longest(), "{} bytes are held", redactor.held());
        }
        redactor.finish(&mut out);
        assert_eq!(redactor.held(), 0, "bytes are lost");
        assert!(out.iter().all(|piece| !piece.is_empty()), "an empty piece says nothing");
        (out.concat(), redactor.redacted())
    };
    let whole = needles.redact(text).unwrap_or_else(|| text.to_vec());
    let (chunked, count) = run(usize::from(*cut).max(1));
    assert!(chunked == whole, "chunks of {cut}");
    assert!(run(text.len().max(1)).0 == whole, "one chunk");
    assert_eq!(count == 0, whole == text, "what is replaced is counted");
    for value in plain.iter().filter(|value| value.len() >= MIN_VALUE && !value.contains(&1)) {
        assert!(!whole.windows(value.len()).any(|window| window == value), "a value is left");
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn promises_hold_for_random_bytes(
            data in proptest::collection::vec(any::<u8>(), 0..300),
            few in proptest::collection::vec(0_u8..3, 0..120),
        ) {
            super::redactor(&data);
            super::redactor(&few);
        }
    }
}
