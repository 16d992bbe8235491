//! Aliases in header values become the references that they stand for, before references
//! are looked for.

use std::borrow::Cow;

use base64::{Engine, engine::general_purpose::STANDARD};

use super::Substitutions;

/// Headers by name, some with another value than they were sent with.
pub type Unaliased<'a> = Vec<(&'a str, Cow<'a, [u8]>)>;

/// The headers with references in place of aliases; none if there are no aliases to look
/// for. Those in `Basic` are found too.
pub fn without_aliases<'a>(
    substitutions: &Substitutions,
    headers: impl Iterator<Item = (&'a str, &'a [u8])>,
) -> Option<Unaliased<'a>> {
    if !substitutions.has_aliases() {
        return None;
    }
    let replaced = |value: &'a [u8]| {
        if let Some(replaced) = substitutions.without_aliases(value) {
            return Cow::Owned(replaced);
        }
        let basic = value.split_at_checked(6).filter(|(s, _)| s.eq_ignore_ascii_case(b"basic "));
        let credentials = basic.and_then(|(_, encoded)| STANDARD.decode(encoded.trim_ascii()).ok());
        match credentials.and_then(|plain| substitutions.without_aliases(&plain)) {
            Some(plain) => Cow::Owned(format!("Basic {}", STANDARD.encode(plain)).into_bytes()),
            None => Cow::Borrowed(value),
        }
    };
    Some(headers.map(|(name, value)| (name, replaced(value))).collect())
}
