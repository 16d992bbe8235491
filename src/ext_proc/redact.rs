//! Values that were put into a request, taken out of what comes back: each becomes
//! the reference that it came from. Pure.
//!
//! A value is found in every form of `forms`, in headers at once and in bodies however
//! they are cut into chunks. What might be the start of one is held back until more of
//! the body tells, and nothing else is, so that an event stream loses no time. Values
//! shorter than [`MIN_VALUE`] bytes are left alone: they would be found everywhere.

mod body;
mod forms;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod needles;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use bytes::Bytes;
use zeroize::{Zeroize, Zeroizing};

use self::needles::{Piece, in_place};
pub use self::{
    body::{ACCEPT_ENCODING, Mask, is_readable, is_stale, is_whole},
    needles::{MIN_VALUE, Needles, NeedlesBuilder},
};

/// One body on its way back. Without `Debug`, since it holds parts of values.
pub struct Redactor {
    needles: Arc<Needles>,
    /// The end of what came, if it may be the start of a needle.
    held: Zeroizing<Vec<u8>>,
    redacted: usize,
    /// What takes the place of a value, where no length may change.
    mask: Option<Mask>,
}

// === impl Redactor ===

impl Redactor {
    /// Takes these needles out of one body.
    #[must_use]
    pub fn new(needles: Arc<Needles>) -> Self {
        Self { needles, held: Zeroizing::default(), redacted: 0, mask: None }
    }

    /// As many of these bytes take a value's place as it had, if one is given.
    #[must_use]
    pub fn masked(self, mask: Option<Mask>) -> Self {
        Self { mask, ..self }
    }

    /// Takes the next chunk and adds to `out` what can go on: slices of the chunk where
    /// nothing was found. What is held back is shorter than the longest needle.
    pub fn push(&mut self, chunk: Bytes, out: &mut Vec<Bytes>) {
        if chunk.is_empty() {
            return;
        }
        let start = match self.held.is_empty() {
            true => 0,
            false => match self.join(&chunk, out) {
                Some(start) => start,
                None => return,
            },
        };
        let Self { needles, held, redacted, mask } = self;
        let hold = needles.scan(&chunk, start, false, |piece| match piece {
            Piece::Kept(kept) => out.push(chunk.slice(kept)),
            Piece::Replaced(replacement, length) => {
                *redacted += 1;
                out.push(in_place(replacement, length, *mask));
            }
        });
        if hold < chunk.len() {
            // Once for the body: growing would leave copies behind.
            held.reserve_exact(2 * needles.longest());
            held.extend_from_slice(&chunk[hold..]);
        }
    }

    /// Decides about what is held, now that more is known, and tells where to go on in
    /// the chunk; nowhere if all of it was needed.
    fn join(&mut self, chunk: &Bytes, out: &mut Vec<Bytes>) -> Option<usize> {
        let Self { needles, held, redacted, mask } = self;
        let seam = held.len();
        // As far as a needle can reach that starts in what is held.
        let reach = chunk.len().min(needles.longest() - 1);
        held.extend_from_slice(&chunk[..reach]);
        let whole = reach == chunk.len();
        let mut emit = |piece: Piece<'_>| match piece {
            Piece::Kept(kept) => out.push(Bytes::copy_from_slice(&held[kept])),
            Piece::Replaced(replacement, length) => {
                *redacted += 1;
                out.push(in_place(replacement, length, *mask));
            }
        };
        if whole {
            let hold = needles.scan(held, 0, false, &mut emit);
            held.copy_within(hold.., 0);
            let left = held.len() - hold;
            held[left..].zeroize();
            held.truncate(left);
            return None;
        }
        let end = needles.scan_starts(held, seam, &mut emit);
        wipe(held);
        Some(end - seam)
    }

    /// Ends the body: what was held back goes on.
    pub fn finish(&mut self, out: &mut Vec<Bytes>) {
        let Self { needles, held, redacted, mask } = self;
        needles.scan(held, 0, true, |piece| match piece {
            Piece::Kept(kept) => out.push(Bytes::copy_from_slice(&held[kept])),
            Piece::Replaced(replacement, length) => {
                *redacted += 1;
                out.push(in_place(replacement, length, *mask));
            }
        });
        wipe(held);
    }

    /// How many bytes are held back.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// How many values were taken out so far.
    #[must_use]
    pub fn redacted(&self) -> usize {
        self.redacted
    }
}

/// Empties it, for the next bytes of the same body.
fn wipe(held: &mut Vec<u8>) {
    held.as_mut_slice().zeroize();
    held.clear();
}
