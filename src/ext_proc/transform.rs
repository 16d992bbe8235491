//! What is done to a body while it passes. Pure: bytes in, bytes out.
//!
//! A transform holds back only what may still become a match, which is bounded by
//! its longest match and never by the body.

use bytes::Bytes;

/// Changes a body that comes in chunks, cut anywhere.
pub trait Transform: Send {
    /// Takes the next chunk, and appends what can go on. A chunk that goes on as it
    /// came is appended as it is, so that nobody copies it.
    fn push(&mut self, chunk: Bytes, out: &mut Vec<Bytes>);

    /// The body has ended: appends what was held back.
    fn finish(&mut self, out: &mut Vec<Bytes>);

    /// How many bytes are held back.
    fn held(&self) -> usize;
}

/// Tells whether a chunk went through as it was, without comparing bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    start: usize,
    length: usize,
}

// === impl Mark ===

impl Mark {
    pub(super) fn of(chunk: &Bytes) -> Self {
        Self { start: chunk.as_ptr().addr(), length: chunk.len() }
    }

    /// Whether these pieces are the marked chunk and nothing else.
    pub(super) fn is(self, pieces: &[Bytes]) -> bool {
        match pieces {
            [] => self.length == 0,
            [only] => Self::of(only) == self,
            _ => false,
        }
    }
}

/// One buffer of all pieces; without copying if there is only one.
pub(super) fn join(pieces: Vec<Bytes>) -> Vec<u8> {
    match <[Bytes; 1]>::try_from(pieces) {
        Ok([only]) => only.into(),
        Err(pieces) => pieces.concat(),
    }
}
