//! Tags: proofs that something came from a holder of the grant keys, for what is no
//! grant: cursors and entity tags.

use aws_lc_rs::{constant_time::verify_slices_are_equal, hmac};

/// What a tag is for. One never passes for the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TagPurpose {
    /// Where a listing goes on.
    Cursor,
    /// Which state of a secret was seen.
    Entity,
}

/// A tag: half of an HMAC-SHA256.
pub type Tag = [u8; 16];

/// The keys of tags, derived from those of grants: the first makes, all of them verify.
pub struct Tags(Vec<hmac::Key>);

// === impl Tags ===

impl Tags {
    pub(super) fn new<'a>(keys: impl Iterator<Item = &'a [u8]>) -> Self {
        let derived = |key: &[u8]| {
            let key = hmac::Key::new(hmac::HMAC_SHA256, key);
            let derived = hmac::sign(&key, b"vaultmux-mesh tags");
            hmac::Key::new(hmac::HMAC_SHA256, derived.as_ref())
        };
        Self(keys.map(derived).collect())
    }

    /// The tag of `parts`, none of which can pass for a part of its neighbour.
    #[must_use]
    pub fn make(&self, purpose: TagPurpose, parts: &[&[u8]]) -> Tag {
        self.all(purpose, parts).next().expect("there is at least one grant key")
    }

    /// Whether one of our keys made this tag of `parts`.
    #[must_use]
    pub fn verify(&self, purpose: TagPurpose, parts: &[&[u8]], tag: &[u8]) -> bool {
        self.all(purpose, parts).any(|own| verify_slices_are_equal(&own, tag).is_ok())
    }

    fn all(&self, purpose: TagPurpose, parts: &[&[u8]]) -> impl Iterator<Item = Tag> {
        let purpose = match purpose {
            TagPurpose::Cursor => 1_u8,
            TagPurpose::Entity => 2,
        };
        self.0.iter().map(move |key| {
            let mut context = hmac::Context::with_key(key);
            context.update(&[purpose]);
            for part in parts {
                context.update(&(part.len() as u64).to_be_bytes());
                context.update(part);
            }
            let whole = context.sign();
            let mut tag = Tag::default();
            tag.copy_from_slice(&whole.as_ref()[..size_of::<Tag>()]);
            tag
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_for_one_purpose_and_one_list_of_parts() {
        let (old, new) = ([1; 32], [2; 32]);
        let before = Tags::new([&old[..]].into_iter());
        let after = Tags::new([&new[..], &old[..]].into_iter());
        let parts: &[&[u8]] = &[b"ab", b"c"];
        let tag = before.make(TagPurpose::Cursor, parts);
        assert!(before.verify(TagPurpose::Cursor, parts, &tag));
        assert!(after.verify(TagPurpose::Cursor, parts, &tag), "keys are rotated");
        assert_ne!(after.make(TagPurpose::Cursor, parts), tag);
        assert!(!before.verify(TagPurpose::Entity, parts, &tag));
        let others: [&[&[u8]]; 3] = [&[b"a", b"bc"], &[b"abc"], &[b"ab", b"c", b""]];
        for other in others {
            assert!(!before.verify(TagPurpose::Cursor, other, &tag), "{other:?}");
        }
        assert!(!before.verify(TagPurpose::Cursor, parts, &tag[..8]));
        let foreign = Tags::new([&new[..]].into_iter());
        assert!(!foreign.verify(TagPurpose::Cursor, parts, &tag));
    }
}
