//! A text that comes in chunks, with its references replaced. Pure: what a reference
//! stands for is asked of the caller, who may take its time.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;

use super::{
    encoding::Encoding,
    finder::{Finder, Search},
};

/// References that are replaced in one text.
const MAX_REPLACED: usize = 32;
/// Different references that are asked about; more is text that talks of references.
const MAX_ASKED: usize = 64;

/// Replaces references in one text. A value is never looked at again. Without `Debug`,
/// since it holds values.
pub struct Scanner {
    finder: Arc<Finder>,
    strict: bool,
    known: HashMap<String, Resolution>,
    /// Not let go yet.
    input: Bytes,
    /// How much of it was looked at and cannot be the start of a match.
    seen: usize,
    ended: bool,
    replaced: usize,
    skipped: Skipped,
    /// Where strings start and end, as far as `read`.
    strings: Strings,
    /// How much of the input has told that.
    read: usize,
}

/// References that were left as they are though nobody said so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Skipped {
    /// Those that were too many.
    pub too_many: usize,
    /// Those in no string of a JSON text.
    pub position: usize,
}

/// Whether a JSON text is inside of a string.
#[derive(Clone, Copy, Default)]
struct Strings {
    inside: bool,
    escaped: bool,
}

/// What a reference stands for.
#[derive(Clone)]
pub enum Resolution {
    /// Replaced by this, which is written as its surroundings are.
    Value(Bytes),
    /// Just text.
    Inert,
}

/// How far the scanner got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It needs more text, or has had all.
    Idle,
    /// It needs to know what these stand for.
    Needs(Vec<String>),
    /// More references than one text may hold.
    TooMany,
    /// A reference in a JSON text that stands in no string.
    Misplaced,
}

// === impl Scanner ===

impl Scanner {
    /// A scanner of one text. A strict one refuses a text with too many references;
    /// else what is too many stays as it is.
    #[must_use]
    pub fn new(finder: Arc<Finder>, strict: bool) -> Self {
        Self {
            finder,
            strict,
            known: HashMap::new(),
            input: Bytes::new(),
            seen: 0,
            ended: false,
            replaced: 0,
            skipped: Skipped::default(),
            strings: Strings::default(),
            read: 0,
        }
    }

    /// Takes the next chunk, and appends what can go on.
    pub fn push(&mut self, chunk: Bytes, out: &mut Vec<Bytes>) -> Progress {
        self.input = match self.input.is_empty() {
            true => chunk,
            false => [self.input.as_ref(), &chunk].concat().into(),
        };
        self.scan(out)
    }

    /// Takes the last chunk: where nothing is replaced it goes on as one piece.
    pub fn push_last(&mut self, chunk: Bytes, out: &mut Vec<Bytes>) -> Progress {
        self.ended = true;
        self.push(chunk, out)
    }

    /// The text has ended.
    pub fn finish(&mut self, out: &mut Vec<Bytes>) -> Progress {
        self.ended = true;
        self.scan(out)
    }

    /// Goes on, now that this is known.
    pub fn resolved(
        &mut self,
        resolutions: impl IntoIterator<Item = (String, Resolution)>,
        out: &mut Vec<Bytes>,
    ) -> Progress {
        self.known.extend(resolutions);
        self.scan(out)
    }

    /// Bytes that are held back.
    #[must_use]
    pub fn held(&self) -> usize {
        self.input.len()
    }

    /// References that were replaced.
    #[must_use]
    pub fn replaced(&self) -> usize {
        self.replaced
    }

    /// References that were left as they are, since the last call.
    pub fn skipped(&mut self) -> Skipped {
        std::mem::take(&mut self.skipped)
    }

    /// Whether there is a reference in this text, or the start of one at its end.
    #[must_use]
    pub fn suspects(&self, text: &[u8]) -> bool {
        self.finder.search(text, 0) != Search::Held(text.len())
    }

    fn scan(&mut self, out: &mut Vec<Bytes>) -> Progress {
        loop {
            match self.finder.search(&self.input, self.seen) {
                Search::Held(at) if self.ended && at < self.input.len() => self.seen = at + 1,
                Search::Held(at) => {
                    self.read_to(at);
                    emit(self.take(at), out);
                    // The chunk itself may go: what is held is short.
                    self.input = Bytes::copy_from_slice(&self.input);
                    self.seen = 0;
                    return Progress::Idle;
                }
                Search::Found(found) => {
                    self.read_to(found.at);
                    if self.finder.encoding() == Encoding::Json && !self.strings.inside {
                        if self.strict {
                            return Progress::Misplaced;
                        }
                        self.skipped.position += 1;
                        self.seen = found.at + found.length;
                        continue;
                    }
                    let value = match self.known.get(&found.text) {
                        Some(Resolution::Value(value)) => Some(value.clone()),
                        Some(Resolution::Inert) => None,
                        None if self.known.len() >= MAX_ASKED => {
                            self.skipped.too_many += 1;
                            None
                        }
                        None => return Progress::Needs(self.needs()),
                    };
                    let Some(value) = value else {
                        // No match starts inside: that would have needed a brace.
                        self.seen = found.at + found.length;
                        continue;
                    };
                    if self.replaced >= MAX_REPLACED {
                        if self.strict {
                            return Progress::TooMany;
                        }
                        self.skipped.too_many += 1;
                        self.seen = found.at + found.length;
                        continue;
                    }
                    emit(self.take(found.at), out);
                    // A reference neither starts nor ends a string.
                    let _ = self.take(found.length);
                    emit(value, out);
                    self.seen = 0;
                    self.replaced += 1;
                }
            }
        }
    }

    /// Learns of strings up to here.
    fn read_to(&mut self, at: usize) {
        if self.finder.encoding() == Encoding::Json && self.read < at {
            self.strings.read(&self.input[self.read..at]);
            self.read = at;
        }
    }

    fn take(&mut self, length: usize) -> Bytes {
        self.read = self.read.saturating_sub(length);
        self.input.split_to(length)
    }

    /// All that is unknown so far, so that it is fetched at once.
    fn needs(&self) -> Vec<String> {
        let mut needs: Vec<String> = Vec::new();
        let mut from = self.seen;
        while let Search::Found(found) = self.finder.search(&self.input, from) {
            from = found.at + found.length;
            if !self.known.contains_key(&found.text) && !needs.contains(&found.text) {
                needs.push(found.text);
            }
            if self.known.len() + needs.len() >= MAX_ASKED {
                break;
            }
        }
        needs
    }
}

// === impl Strings ===

impl Strings {
    fn read(&mut self, bytes: &[u8]) {
        for byte in bytes {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' if self.inside => self.escaped = true,
                b'"' => self.inside = !self.inside,
                _ => {}
            }
        }
    }
}

fn emit(bytes: Bytes, out: &mut Vec<Bytes>) {
    if !bytes.is_empty() {
        out.push(bytes);
    }
}

#[cfg(test)]
mod tests;
