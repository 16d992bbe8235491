//! What to look for, and the search for all of it at once.
//!
//! The search is Wu and Manber's: the last three bytes of a window as long as the
//! shortest needle tell how far the window can move without passing a needle. It is
//! written out here because the tables of a library would keep values in memory after
//! their last use, and could not be wiped.

use std::ops::Range;

use bytes::Bytes;
use zeroize::Zeroizing;

use super::{
    body::Mask,
    forms::{Form, forms},
};
use crate::secret::{SecretRef, SecretValue};

/// The shortest value that is looked for.
pub const MIN_VALUE: usize = 8;
/// Bytes of a needle by which it is looked up. No form is shorter than its value.
const HEAD: usize = MIN_VALUE;
/// Bytes that tell how far to move.
const BLOCK: usize = 3;
/// Beyond this a longer window gains little, and fills the table.
const MAX_WINDOW: usize = 48;

/// Values to look for. Built once for all bodies that may hold them; wiped when dropped.
/// Without `Debug`.
pub struct Needles {
    /// All needles, one after the other.
    text: Zeroizing<Vec<u8>>,
    /// By their heads, and longer ones first where heads are alike.
    needles: Vec<Needle>,
    heads: Zeroizing<Vec<u64>>,
    /// By a hash of a block: how far the window can move.
    shifts: Zeroizing<Vec<u8>>,
    /// By a hash of the first block: whether a needle may start so.
    starts: Zeroizing<Vec<bool>>,
    bits: u32,
    window: usize,
    longest: usize,
    replacements: Vec<Bytes>,
}

/// Where one needle is, and what takes its place.
#[derive(Clone, Copy)]
struct Needle {
    at: usize,
    length: usize,
    replacement: usize,
}

/// What was put into one request. Without `Debug`.
#[derive(Default)]
pub struct NeedlesBuilder {
    entries: Vec<(Form, usize)>,
    replacements: Vec<Bytes>,
}

/// A piece of redacted text.
pub(super) enum Piece<'n> {
    /// Stands as it did.
    Kept(Range<usize>),
    /// Takes the place of a needle of this length.
    Replaced(&'n Bytes, usize),
}

// === impl NeedlesBuilder ===

impl NeedlesBuilder {
    /// Looks for a secret's value in all forms; it becomes its reference again.
    pub fn add(&mut self, value: &SecretValue, reference: &SecretRef) {
        self.add_as(value, &format!("{{{{{reference}}}}}"));
    }

    /// Looks for a value in all forms; it becomes `replacement`. For what was made from
    /// secrets: rendered credentials, tokens.
    #[expect(clippy::disallowed_methods, reason = "looked for, so that nobody else sees it")]
    pub fn add_as(&mut self, value: &SecretValue, replacement: &str) {
        let value = value.expose_secret();
        // It was sent without the newline that files end with.
        let value = value.strip_suffix(b"\n").map_or(value, |v| v.strip_suffix(b"\r").unwrap_or(v));
        if value.len() < MIN_VALUE {
            return;
        }
        let at = self.replacements.len();
        // Where a value stood without escapes its replacement must need none either, should
        // that have been a JSON text.
        let replacement = replacement.replace('\\', "\\\\").replace('"', "\\\"");
        self.replacements.push(replacement.into());
        self.entries.extend(forms(value).into_iter().map(|form| (form, at)));
    }

    /// The needles; none if there is nothing to look for.
    #[must_use]
    pub fn build(self) -> Option<Needles> {
        let Self { mut entries, replacements } = self;
        // Of two values that look alike in some form the first counts.
        entries.sort_by(|(one, a), (other, b)| {
            let longer = other.len().cmp(&one.len());
            head(one).cmp(&head(other)).then(longer).then_with(|| one.cmp(other)).then(a.cmp(b))
        });
        entries.dedup_by(|(later, _), (earlier, _)| later == earlier);
        let longest = entries.iter().map(|(form, _)| form.len()).max()?;
        let shortest = entries.iter().map(|(form, _)| form.len()).min()?;
        let window = shortest.min(MAX_WINDOW);
        // One slot in sixteen used, so that most blocks are in none.
        let slots = (entries.len() * window * 16).next_power_of_two().clamp(1 << 10, 1 << 16);
        let mut needles = Needles {
            text: Zeroizing::new(Vec::with_capacity(entries.iter().map(|(f, _)| f.len()).sum())),
            needles: Vec::with_capacity(entries.len()),
            heads: Zeroizing::new(Vec::with_capacity(entries.len())),
            shifts: Zeroizing::new(vec![(window - BLOCK + 1) as u8; slots]),
            starts: Zeroizing::new(vec![false; slots]),
            bits: slots.trailing_zeros(),
            window,
            longest,
            replacements,
        };
        entries.iter().for_each(|(form, replacement)| needles.add(form, *replacement));
        Some(needles)
    }

    #[cfg(test)]
    pub(super) fn add_form(&mut self, form: &[u8], replacement: &'static str) {
        self.entries.push((Zeroizing::new(form.to_vec()), self.replacements.len()));
        self.replacements.push(Bytes::from_static(replacement.as_bytes()));
    }
}

/// What takes the place of a needle.
pub(super) fn in_place(with: &Bytes, length: usize, mask: Option<Mask>) -> Bytes {
    match mask {
        None => with.clone(),
        Some(Mask(byte)) => vec![byte; length].into(),
    }
}

/// The first bytes as a number that sorts as they do.
fn head(text: &[u8]) -> u64 {
    let bytes = text[..HEAD].try_into();
    u64::from_be_bytes(bytes.expect("no needle is shorter"))
}

// === impl Needles ===

impl Needles {
    fn add(&mut self, form: &[u8], replacement: usize) {
        self.needles.push(Needle { at: self.text.len(), length: form.len(), replacement });
        self.heads.push(head(form));
        self.text.extend_from_slice(form);
        for end in BLOCK..=self.window {
            let slot = self.slot(&form[end - BLOCK..end]);
            let shift = (self.window - end) as u8;
            self.shifts[slot] = self.shifts[slot].min(shift);
        }
        let slot = self.slot(&form[..BLOCK]);
        self.starts[slot] = true;
    }

    /// The longest needle's length.
    #[must_use]
    pub fn longest(&self) -> usize {
        self.longest
    }

    /// A header's value, or another short text, without the values; none if it holds none.
    #[must_use]
    pub fn redact(&self, text: &[u8]) -> Option<Vec<u8>> {
        self.redact_by(text, None)
    }

    /// The same, with as many of these bytes in place of a value as it had, if one is given.
    #[must_use]
    pub fn redact_by(&self, text: &[u8], mask: Option<Mask>) -> Option<Vec<u8>> {
        let mut redacted: Option<Vec<u8>> = None;
        let mut kept = 0;
        self.scan(text, 0, true, |piece| match piece {
            Piece::Kept(range) => {
                kept = range.end;
                if let Some(redacted) = &mut redacted {
                    redacted.extend_from_slice(&text[range]);
                }
            }
            Piece::Replaced(with, length) => {
                let redacted = redacted.get_or_insert_with(|| text[..kept].to_vec());
                redacted.extend_from_slice(&in_place(with, length, mask));
            }
        });
        redacted
    }

    /// Takes the text from `at` on apart, and tells where it has to stop: at what may be
    /// the start of a needle, unless this is the `last` text.
    pub(super) fn scan<'n>(
        &'n self,
        text: &[u8],
        mut at: usize,
        last: bool,
        mut emit: impl FnMut(Piece<'n>),
    ) -> usize {
        let hold_from = |at| if last { text.len() } else { self.pending(text, at) };
        let mut hold = hold_from(at);
        loop {
            // A longer needle may come of what a shorter one starts or stands in.
            let found = self.find(text, at, hold);
            let (start, needle) = match found {
                Some(found) => found,
                None => {
                    if at < hold {
                        emit(Piece::Kept(at..hold));
                    }
                    return hold;
                }
            };
            if at < start {
                emit(Piece::Kept(at..start));
            }
            emit(Piece::Replaced(&self.replacements[needle.replacement], needle.length));
            at = start + needle.length;
            if at > hold {
                hold = hold_from(at);
            }
        }
    }

    /// As [`Self::scan`], for the needles that start before `seam`, of which none is cut
    /// off by the text's end. Tells where the last of them ends, at `seam` or behind it.
    pub(super) fn scan_starts<'n>(
        &'n self,
        text: &[u8],
        seam: usize,
        mut emit: impl FnMut(Piece<'n>),
    ) -> usize {
        let mut at = 0;
        while let Some((start, needle)) = self.find(text, at, seam) {
            if at < start {
                emit(Piece::Kept(at..start));
            }
            emit(Piece::Replaced(&self.replacements[needle.replacement], needle.length));
            at = start + needle.length;
        }
        if at < seam {
            emit(Piece::Kept(at..seam));
        }
        at.max(seam)
    }

    /// The leftmost needle from `at` on that starts before `limit`, and the longest of
    /// those that start there.
    fn find(&self, text: &[u8], at: usize, limit: usize) -> Option<(usize, Needle)> {
        let mut end = at + self.window;
        let last = text.len().min(limit.saturating_add(self.window - 1));
        while end <= last {
            let shift = self.shifts[self.slot(&text[end - BLOCK..end])];
            if shift > 0 {
                end += usize::from(shift);
                continue;
            }
            let start = end - self.window;
            if let Some(needle) = self.at(&text[start..]) {
                return Some((start, needle));
            }
            end += 1;
        }
        None
    }

    /// The longest needle that the text starts with.
    fn at(&self, text: &[u8]) -> Option<Needle> {
        let needles = self.with_head(head(text), HEAD);
        needles.iter().copied().find(|needle| text.starts_with(self.text_of(*needle)))
    }

    /// From where on the text may be the start of a needle that goes on behind it.
    fn pending(&self, text: &[u8], at: usize) -> usize {
        let first = at.max((text.len() + 1).saturating_sub(self.longest));
        (first..text.len()).find(|at| self.could_begin(&text[*at..])).unwrap_or(text.len())
    }

    fn could_begin(&self, text: &[u8]) -> bool {
        if text.len() >= BLOCK && !self.starts[self.slot(&text[..BLOCK])] {
            return false;
        }
        let known = text.len().min(HEAD);
        let mut start = Zeroizing::new([0; HEAD]);
        start[..known].copy_from_slice(&text[..known]);
        let needles = self.with_head(u64::from_be_bytes(*start), known);
        match known < HEAD {
            true => !needles.is_empty(),
            false => needles.iter().any(|needle| {
                needle.length > text.len() && self.text_of(*needle).starts_with(text)
            }),
        }
    }

    /// The needles that start with the first `known` bytes of `head`, whose others are 0.
    fn with_head(&self, head: u64, known: usize) -> &[Needle] {
        let unknown = 8 * (HEAD - known) as u32;
        let after = head | u64::MAX.checked_shr(64 - unknown).unwrap_or_default();
        let first = self.heads.partition_point(|is| *is < head);
        let count = self.heads[first..].partition_point(|is| *is <= after);
        &self.needles[first..first + count]
    }

    fn text_of(&self, needle: Needle) -> &[u8] {
        &self.text[needle.at..needle.at + needle.length]
    }

    fn slot(&self, block: &[u8]) -> usize {
        let [a, b, c] = [block[0], block[1], block[2]].map(u32::from);
        let hash = (a | b << 8 | c << 16).wrapping_mul(0x9e37_79b1);
        (hash >> (32 - self.bits)) as usize
    }
}
