//! References in header values: found, and refused where none can stand. Pure.
//!
//! A reference is the whole value, follows one scheme token (`Bearer {{…}}`), or
//! is the user or the password inside `Basic`. Anywhere else it would be sent
//! upstream as it is, so the request is refused. What a reference resolves to is
//! never looked at again.

use std::borrow::Cow;

use base64::{
    Engine,
    alphabet::STANDARD as ALPHABET,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use http::HeaderName;

use super::{CLOSE, InjectedValue, InvalidInjection, OPEN, Template, is_fixed};
use crate::{
    policy::is_token,
    secret::{Catalog, InvalidReference, SecretRef},
};

/// References in one request.
const MAX_REFERENCES: usize = 32;

/// Clients differ in whether they pad.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &ALPHABET,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A header that gets other values.
#[derive(Debug, PartialEq, Eq)]
pub struct Rewrite<'a> {
    /// Which header.
    pub name: HeaderName,
    /// All its values, in order.
    pub values: Vec<HeaderText<'a>>,
}

/// One value of a header.
#[derive(Debug, PartialEq, Eq)]
pub enum HeaderText<'a> {
    /// As the client sent it.
    Kept(&'a [u8]),
    /// With references to resolve.
    Resolved(Cow<'a, InjectedValue>),
}

/// Why a reference cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Inside other text, or in a header that is never rewritten.
    #[error("a secret reference cannot stand at this place of a header")]
    Position,
    /// Percent-encoded, which no header value is taken to be.
    #[error("a secret reference cannot stand percent-encoded in a header")]
    Encoded,
    /// Another one starts inside of it.
    #[error("a secret reference cannot hold another")]
    Nested,
    /// It starts but does not end.
    #[error("secret reference is not closed by }}}}")]
    Unclosed,
    /// The value around it is not text.
    #[error("a header value with a secret reference must be text")]
    NotText,
    /// It cannot be parsed.
    #[error(transparent)]
    Reference(InvalidReference),
    /// More than 32 in one request.
    #[error("a request cannot hold more than {MAX_REFERENCES} secret references")]
    TooMany,
}

/// Finds the headers with references, but for those that `overridden` says will
/// be replaced anyway.
pub fn scan_headers<'a>(
    headers: impl Iterator<Item = (&'a str, &'a [u8])> + Clone,
    overridden: impl Fn(&str) -> bool,
    catalog: &Catalog,
) -> Result<Vec<Rewrite<'a>>, Refused> {
    let mut rewrites: Vec<Rewrite<'a>> = Vec::new();
    let mut references = 0;
    for (name, value) in headers.clone().filter(|(name, _)| !overridden(name)) {
        let Some(found) = scan_value(value, catalog)? else { continue };
        references += found.references().count();
        if references > MAX_REFERENCES {
            return Err(Refused::TooMany);
        }
        if is_fixed(name) {
            return Err(Refused::Position);
        }
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| Refused::Position)?;
        if !rewrites.iter().any(|rewrite| rewrite.name == name) {
            rewrites.push(Rewrite { name, values: Vec::new() });
        }
    }
    if rewrites.is_empty() {
        return Ok(rewrites);
    }
    for (name, value) in headers {
        let rewrite = rewrites.iter_mut().find(|rewrite| is_same(&rewrite.name, name));
        if let Some(rewrite) = rewrite {
            let found = scan_value(value, catalog)?;
            rewrite.values.push(match found {
                Some(found) => HeaderText::Resolved(Cow::Owned(found)),
                None => HeaderText::Kept(value),
            });
        }
    }
    Ok(rewrites)
}

/// Whether a header as Envoy sends it has this name.
pub fn is_same(name: &HeaderName, sent: &str) -> bool {
    name.as_str().eq_ignore_ascii_case(sent)
}

/// Finds the references in one header value; none if it holds none.
fn scan_value(value: &[u8], catalog: &Catalog) -> Result<Option<InjectedValue>, Refused> {
    if contains_open(value) {
        let text = std::str::from_utf8(value).map_err(|_| Refused::NotText)?;
        let reference = match text.split_once(' ') {
            Some((scheme, rest)) if is_token(scheme) => rest,
            _ => text,
        };
        is_reference(reference)?;
        return Ok(Some(InjectedValue::Text(template(text, catalog)?)));
    }
    if is_encoded(value) {
        return Err(Refused::Encoded);
    }
    let Some(credentials) = basic(value) else { return Ok(None) };
    if !contains_open(&credentials) {
        return if is_encoded(&credentials) { Err(Refused::Encoded) } else { Ok(None) };
    }
    let text = std::str::from_utf8(&credentials).map_err(|_| Refused::NotText)?;
    // RFC 7617: the first colon ends the user. One inside a reference does not.
    let after =
        if text.starts_with(OPEN) { text.find(CLOSE).ok_or(Refused::Unclosed)? } else { 0 };
    let colon = after + text[after..].find(':').ok_or(Refused::Position)?;
    let (username, password) = (&text[..colon], &text[colon + 1..]);
    for part in [username, password] {
        if part.contains(OPEN) {
            is_reference(part)?;
        }
    }
    let (username, password) = (template(username, catalog)?, template(password, catalog)?);
    let found = InjectedValue::Basic { username, password };
    // The colon was inside a reference that the user does not start with.
    if found.references().count() != text.matches(OPEN).count() {
        return Err(Refused::Position);
    }
    Ok(Some(found))
}

/// Whether the text is one reference and nothing else.
fn is_reference(text: &str) -> Result<(), Refused> {
    if !text.starts_with(OPEN) {
        return Err(Refused::Position);
    }
    match text.find(CLOSE) {
        None => Err(Refused::Unclosed),
        Some(at) if text[OPEN.len()..at].contains(OPEN) => Err(Refused::Nested),
        Some(at) if at + CLOSE.len() == text.len() => Ok(()),
        Some(_) => Err(Refused::Position),
    }
}

fn template(text: &str, catalog: &Catalog) -> Result<Template, Refused> {
    Template::parse(text, catalog).map_err(|error| match error {
        InvalidInjection::Unclosed => Refused::Unclosed,
        InvalidInjection::Reference(error) => Refused::Reference(error),
        InvalidInjection::Control => Refused::NotText,
        InvalidInjection::NoReference | InvalidInjection::Host(_) => Refused::Position,
    })
}

/// What stands in base64 after `Basic`.
fn basic(value: &[u8]) -> Option<Vec<u8>> {
    let (scheme, encoded) = value.split_at_checked(6)?;
    if !scheme.eq_ignore_ascii_case(b"basic ") {
        return None;
    }
    BASE64.decode(encoded.trim_ascii()).ok()
}

/// Whether there is the start of a reference that percent-encoding hides.
#[must_use]
pub fn is_encoded(text: &[u8]) -> bool {
    // Most values hold no percent sign at all.
    if !text.contains(&b'%') {
        return false;
    }
    let decoded: Vec<u8> = percent_encoding::percent_decode(text).collect();
    let starts = |text: &[u8]| text.windows(OPEN.len()).filter(|w| *w == OPEN.as_bytes()).count();
    starts(&decoded) > starts(text)
}

fn contains_open(value: &[u8]) -> bool {
    // Most values hold no brace at all, which is quickly seen.
    value.contains(&b'{') && value.windows(OPEN.len()).any(|window| window == OPEN.as_bytes())
}

// === impl Rewrite ===

impl Rewrite<'_> {
    /// The references in its values, in order.
    pub fn references(&self) -> impl Iterator<Item = &SecretRef> {
        let values = self.values.iter().filter_map(|value| match value {
            HeaderText::Resolved(value) => Some(value.references()),
            HeaderText::Kept(_) => None,
        });
        values.flatten()
    }
}

// === impl Refused ===

impl Refused {
    /// The word in response details.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Position => "position",
            Self::Encoded => "encoded",
            Self::Nested => "nested",
            Self::Unclosed => "unclosed",
            Self::NotText => "not_text",
            Self::Reference(_) => "invalid",
            Self::TooMany => "too_many",
        }
    }

    /// The word in metrics, which tells malformed references apart.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Reference(error) => error.as_str(),
            refused => refused.as_str(),
        }
    }
}

#[cfg(test)]
mod tests;
