//! Seals: what we say to ourselves by way of a proxy, readable to holders of the grant keys
//! alone, and only where it belongs.

use aws_lc_rs::{
    aead::{AES_256_GCM_SIV, Aad, Nonce, RandomizedNonceKey},
    hmac,
};
use zeroize::Zeroizing;

/// What stands before the ciphertext.
const NONCE: usize = 12;

/// The keys of seals, derived from those of grants: the first seals, all of them open.
pub struct Seals(Vec<RandomizedNonceKey>);

// === impl Seals ===

impl Seals {
    pub(super) fn new<'a>(keys: impl Iterator<Item = &'a [u8]>) -> Self {
        let derived = |key: &[u8]| {
            let key = hmac::Key::new(hmac::HMAC_SHA256, key);
            let derived = hmac::sign(&key, b"vaultmux-mesh seals");
            // Keys live long, and random nonces may meet: then it shows that two texts are the
            // same, and nothing else.
            RandomizedNonceKey::new(&AES_256_GCM_SIV, derived.as_ref())
                .expect("an HMAC-SHA256 is as long as the key")
        };
        Self(keys.map(derived).collect())
    }

    /// Seals a text so that it opens where these parts are the same. None if there are no
    /// random bytes.
    #[must_use]
    pub fn seal(&self, parts: &[&[u8]], text: &[u8]) -> Option<Vec<u8>> {
        let mut sealed = text.to_vec();
        let where_it_belongs = joined(parts);
        let nonce =
            self.0.first()?.seal_in_place_append_tag(Aad::from(&**where_it_belongs), &mut sealed);
        Some([nonce.ok()?.as_ref().as_slice(), &sealed].concat())
    }

    /// Opens what one of our keys sealed with these parts.
    #[must_use]
    pub fn open(&self, parts: &[&[u8]], sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, sealed) = sealed.split_at_checked(NONCE)?;
        let where_it_belongs = joined(parts);
        self.0.iter().find_map(|key| {
            let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
            let mut text = sealed.to_vec();
            let text = key.open_in_place(nonce, Aad::from(&**where_it_belongs), &mut text).ok()?;
            Some(text.to_vec())
        })
    }
}

/// None of them can pass for a part of its neighbour.
fn joined(parts: &[&[u8]]) -> Zeroizing<Vec<u8>> {
    let length = parts.iter().map(|part| part.len() + 8).sum();
    let mut joined = Zeroizing::new(Vec::with_capacity(length));
    for part in parts {
        joined.extend_from_slice(&(part.len() as u64).to_be_bytes());
        joined.extend_from_slice(part);
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seal_opens_where_it_belongs_by_whoever_has_a_key() {
        let (old, new) = ([1; 32], [2; 32]);
        let before = Seals::new([&old[..]].into_iter());
        let after = Seals::new([&new[..], &old[..]].into_iter());
        let parts: &[&[u8]] = &[b"ab", b"c"];
        let sealed = before.seal(parts, b"text").expect("sealed");
        assert!(!sealed.windows(4).any(|window| window == b"text"));
        assert_eq!(before.open(parts, &sealed).as_deref(), Some(&b"text"[..]));
        assert_eq!(after.open(parts, &sealed).as_deref(), Some(&b"text"[..]), "keys are rotated");
        let later = after.seal(parts, b"text").expect("sealed");
        assert_eq!(before.open(parts, &later), None, "a key that it does not have");
        let others: [&[&[u8]]; 4] = [&[b"a", b"bc"], &[b"abc"], &[b"ab", b"c", b""], &[]];
        for other in others {
            assert_eq!(before.open(other, &sealed), None, "{other:?}");
        }
        for at in 0..sealed.len() {
            let mut forged = sealed.clone();
            forged[at] ^= 1;
            assert_eq!(before.open(parts, &forged), None, "byte {at}");
            assert_eq!(before.open(parts, &sealed[..at]), None, "{at} bytes");
        }
    }
}
