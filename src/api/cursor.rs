//! Where a listing goes on: opaque to callers, and good only for the one that it was
//! given to.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

use crate::{
    identity::{Principal, Tag, TagPurpose, Tags},
    secret::BackendName,
};

/// How long a cursor is good.
const LIFE: Duration = Duration::from_secs(3600);
/// The longest one that is looked at.
const MAX_CURSOR: usize = 1024;

/// Whose listing, of what.
#[derive(Clone, Copy)]
pub(super) struct Listing<'a> {
    pub(super) principal: &'a Principal,
    pub(super) backend: &'a BackendName,
    pub(super) prefix: &'a str,
}

// === impl Listing ===

impl Listing<'_> {
    /// A cursor after `last`, a name that the caller has just been shown.
    pub(super) fn cursor(&self, tags: &Tags, last: &str, now: SystemTime) -> String {
        let expires = (seconds(now) + LIFE.as_secs()).to_be_bytes();
        let tag = self
            .with_parts(&expires, last.as_bytes(), |parts| tags.make(TagPurpose::Cursor, parts));
        URL_SAFE_NO_PAD.encode([&expires[..], &tag[..], last.as_bytes()].concat())
    }

    /// The name after which a cursor goes on; none if it was not made for this listing, or
    /// is too old.
    pub(super) fn open(&self, tags: &Tags, cursor: &str, now: SystemTime) -> Option<String> {
        if cursor.len() > MAX_CURSOR {
            return None;
        }
        let bytes = URL_SAFE_NO_PAD.decode(cursor).ok()?;
        let (expires, rest) = bytes.split_first_chunk::<{ size_of::<u64>() }>()?;
        let (tag, last) = rest.split_first_chunk::<{ size_of::<Tag>() }>()?;
        let ours =
            self.with_parts(expires, last, |parts| tags.verify(TagPurpose::Cursor, parts, tag));
        let good = ours && seconds(now) <= u64::from_be_bytes(*expires);
        good.then(|| String::from_utf8(last.to_vec()).ok()).flatten()
    }

    fn with_parts<T>(&self, expires: &[u8], last: &[u8], then: impl FnOnce(&[&[u8]]) -> T) -> T {
        let principal = self.principal.id().to_string();
        let backend = self.backend.as_str();
        then(&[principal.as_bytes(), backend.as_bytes(), self.prefix.as_bytes(), expires, last])
    }
}

fn seconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{fixture, identity::GrantKeys};

    #[test]
    fn a_cursor_is_good_for_one_caller_one_listing_and_one_hour() {
        let keys = GrantKeys::random(Duration::from_secs(1)).expect("random bytes");
        let (tags, now) = (keys.tags(), SystemTime::now());
        let (caller, other) = (fixture::principal("prod/api"), fixture::principal("prod/app"));
        let backend = fixture::local();
        let listing = Listing { principal: &caller, backend: &backend, prefix: "prod/" };
        let cursor = listing.cursor(tags, "prod/b", now);
        let open = |listing: Listing<'_>, cursor: &str, now| listing.open(tags, cursor, now);
        assert_eq!(open(listing, &cursor, now).as_deref(), Some("prod/b"));
        assert!(open(listing, &cursor, now + LIFE).is_some());

        assert_eq!(open(listing, &cursor, now + LIFE + Duration::from_secs(2)), None);
        assert_eq!(open(Listing { principal: &other, ..listing }, &cursor, now), None);
        assert_eq!(open(Listing { prefix: "prod", ..listing }, &cursor, now), None);
        let elsewhere = BackendName::parse("other").expect("valid");
        assert_eq!(open(Listing { backend: &elsewhere, ..listing }, &cursor, now), None);
        for at in 0..cursor.len() {
            let mut changed = cursor.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).expect("text");
            assert_eq!(open(listing, &changed, now), None, "{at}");
        }
        let long = cursor.repeat(100);
        for bad in ["", "A", "prod/b", &cursor[..cursor.len() - 4], &long] {
            assert_eq!(open(listing, bad, now), None, "{bad}");
        }
        let others = GrantKeys::random(Duration::from_secs(1)).expect("random bytes");
        assert_eq!(listing.open(others.tags(), &cursor, now), None);
    }
}
