//! References and aliases in bytes, however these are written. Pure.

use std::sync::Arc;

use aho_corasick::{AhoCorasick, MatchKind};

use super::{
    CLOSE, OPEN,
    encoding::{Encoding, Unit},
};

/// Longest reference with its braces.
const MAX_TEXT: usize = OPEN.len() - "secret://".len() + 512 + CLOSE.len();
/// Longest start of a reference as it may be written.
const MAX_OPEN: usize = OPEN.len() * Encoding::GROWTH;

/// Finds what may have to be replaced, in one encoding.
#[derive(Debug)]
pub struct Finder {
    encoding: Encoding,
    automaton: AhoCorasick,
    /// The patterns of the automaton from here on are aliases.
    first_alias: usize,
    aliases: Arc<[String]>,
    /// Bytes that a match can start with.
    starts: [bool; 256],
    /// How far from the end something incomplete may start that was not found.
    tail: usize,
}

/// What stands at a position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) at: usize,
    pub(super) length: usize,
    /// The reference with its braces, or the alias, as it was meant.
    pub(super) text: String,
}

/// What a search ended with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Search {
    /// The first match.
    Found(Found),
    /// No match; from here on something may become one with more bytes.
    Held(usize),
}

#[derive(Debug, PartialEq, Eq)]
enum Reading {
    No,
    Partial,
    Whole(Found),
}

// === impl Finder ===

impl Finder {
    /// A finder of references, and of these aliases: letters, digits and `-._~` only,
    /// which are the same in every encoding, none the start of another.
    ///
    /// # Panics
    /// Never with aliases of a sane number and length.
    #[must_use]
    pub fn new(encoding: Encoding, aliases: &Arc<[String]>) -> Self {
        let braces: &[&str] = match encoding {
            Encoding::Plain => &[OPEN],
            Encoding::Percent => {
                &["{{", "{%7B", "{%7b", "%7B{", "%7b{", "%7B%7B", "%7B%7b", "%7b%7B", "%7b%7b"]
            }
            Encoding::Json => &["{{", "{\\u007b", "{\\u007B", "\\u007b", "\\u007B"],
        };
        let patterns = braces.iter().copied().chain(aliases.iter().map(String::as_str));
        let mut starts = [false; 256];
        patterns.clone().filter_map(|text| text.bytes().next()).for_each(|first| {
            starts[usize::from(first)] = true;
        });
        let automaton = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(patterns)
            .expect("patterns are far fewer than an automaton can hold");
        let longest = aliases.iter().map(String::len).max().unwrap_or_default();
        Self {
            encoding,
            automaton,
            first_alias: braces.len(),
            aliases: Arc::clone(aliases),
            starts,
            tail: longest.max(MAX_OPEN),
        }
    }

    /// The encoding that it reads.
    #[must_use]
    pub fn encoding(&self) -> Encoding {
        self.encoding
    }

    /// The first match from a position on.
    pub(super) fn search(&self, bytes: &[u8], from: usize) -> Search {
        let mut from = from;
        while let Some(candidate) = self.automaton.find(&bytes[from..]) {
            let at = from + candidate.start();
            let pattern = candidate.pattern().as_usize();
            if pattern >= self.first_alias {
                let text = self.aliases[pattern - self.first_alias].clone();
                return Search::Found(Found { at, length: text.len(), text });
            }
            match self.read(bytes, at) {
                Reading::Whole(found) => return Search::Found(found),
                Reading::Partial => return Search::Held(at),
                Reading::No => from = at + 1,
            }
        }
        let mut at = from.max(bytes.len().saturating_sub(self.tail));
        while at < bytes.len() && !self.may_start(bytes, at) {
            at += 1;
        }
        Search::Held(at)
    }

    /// Whether these last bytes may become a match.
    fn may_start(&self, bytes: &[u8], at: usize) -> bool {
        if !self.starts[usize::from(bytes[at])] {
            return false;
        }
        let rest = &bytes[at..];
        self.aliases.iter().any(|alias| alias.as_bytes().starts_with(rest))
            || self.read(bytes, at) == Reading::Partial
    }

    /// Reads a reference.
    fn read(&self, bytes: &[u8], start: usize) -> Reading {
        let mut text = Vec::new();
        let mut at = start;
        loop {
            let (unit, length) = self.encoding.unit(&bytes[at..]);
            at += length;
            let byte = match unit {
                Unit::Partial => return Reading::Partial,
                Unit::Bad => return Reading::No,
                Unit::Char(char) if !char.is_ascii() => {
                    if text.len() < OPEN.len() || char.is_control() {
                        return Reading::No;
                    }
                    text.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes());
                    continue;
                }
                Unit::Char(char) => char as u8,
                // Ends the string, or the pair, that it stands in.
                Unit::Byte(b'"', true) if self.encoding == Encoding::Json => return Reading::No,
                Unit::Byte(b'&', true) if self.encoding == Encoding::Percent => return Reading::No,
                Unit::Byte(byte, _) => byte,
            };
            match OPEN.as_bytes().get(text.len()) {
                Some(expected) if *expected != byte => return Reading::No,
                Some(_) => {}
                // No reference holds a brace, so one that is opened inside is looked at
                // for itself, and no text is read twice.
                None if byte == b'{' || byte.is_ascii_control() => return Reading::No,
                None if text.ends_with(b"}") && byte != b'}' => return Reading::No,
                None => {}
            }
            text.push(byte);
            if text.len() > MAX_TEXT {
                return Reading::No;
            }
            if text.len() > OPEN.len() && text.ends_with(CLOSE.as_bytes()) {
                let found = |text| Found { at: start, length: at - start, text };
                return String::from_utf8(text).map_or(Reading::No, |t| Reading::Whole(found(t)));
            }
        }
    }
}
