//! What fuzzers call. Panics where a promise is broken.

use std::sync::Arc;

use bytes::Bytes;

use super::{Encoding, Finder, Progress, Resolution, Scanner};
use crate::secret::{BackendName, Catalog, CatalogEntry, NameGrammar};

const ALIAS: &str = "sk_live_4eC39HqLyjWDarjtT1";
/// Longest reference, with every byte of it escaped, and the escape that follows it.
const BOUND: usize = 516 * 6 + 6;

/// Replaces references in the rest of the bytes, as a whole and in chunks.
///
/// # Panics
/// If chunks make a difference, or too much is held back.
pub fn scanner(data: &[u8]) {
    let [how, cut, text @ ..] = data else { return };
    let encoding = [Encoding::Plain, Encoding::Percent, Encoding::Json][usize::from(how % 3)];
    let finder = Arc::new(Finder::new(encoding, &Arc::from([ALIAS.to_owned()])));
    let scan = |size: usize, value: &'static [u8]| {
        let mut scanner = Scanner::new(Arc::clone(&finder), false);
        let mut out = Vec::new();
        for chunk in text.chunks(size) {
            let progress = scanner.push(Bytes::copy_from_slice(chunk), &mut out);
            settle(&mut scanner, progress, value, &mut out);
            assert!(scanner.held() <= BOUND + size, "{} bytes are held back", scanner.held());
        }
        let progress = scanner.finish(&mut out);
        settle(&mut scanner, progress, value, &mut out);
        assert_eq!(scanner.held(), 0, "bytes are lost");
        out.concat()
    };
    let size = usize::from(*cut).max(1);
    assert_eq!(scan(size, b"value"), scan(text.len().max(1), b"value"), "chunks of {size}");
    // Where nothing has a value, everything stays.
    assert_eq!(scan(size, b""), text);
}

fn settle(scanner: &mut Scanner, progress: Progress, value: &'static [u8], out: &mut Vec<Bytes>) {
    let mut progress = progress;
    while let Progress::Needs(needs) = progress {
        assert!(!needs.is_empty(), "it waits for nothing");
        let resolve = |text: String| {
            let resolution = match value {
                b"" => Resolution::Inert,
                value => Resolution::Value(Bytes::from_static(value)),
            };
            (text, resolution)
        };
        progress = scanner.resolved(needs.into_iter().map(resolve), out);
    }
    assert_eq!(progress, Progress::Idle, "it is not strict");
}

/// Reads a reference, and prints what it read.
///
/// # Panics
/// If that is read as something else, or the catalog cannot be built.
pub fn reference(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let backend = BackendName::parse("local").expect("valid");
    let grammar = NameGrammar::new("/_+=.@-", 512);
    let backends = [(backend.clone(), CatalogEntry { grammar })];
    let catalog = Catalog::new(backends.into(), Some(backend), vec![]).expect("valid");
    for text in [text.to_owned(), format!("secret://local/{text}")] {
        let Ok(secret) = catalog.parse_reference(&text) else { continue };
        assert_eq!(catalog.parse_reference(&secret.to_string()).as_ref(), Ok(&secret), "{text}");
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn promises_hold_for_random_bytes(
            data in proptest::collection::vec(any::<u8>(), 0..200),
            text in "[{}%\\\\u07bBsecrt:/loa#?.-]{0,80}",
        ) {
            super::scanner(&data);
            super::reference(&data);
            super::reference(text.as_bytes());
            for how in 0..3 {
                super::scanner(&[&[how, 3], text.as_bytes()].concat());
            }
        }
    }
}
