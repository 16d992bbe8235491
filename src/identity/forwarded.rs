//! Whose certificate a proxy says it saw: `x-forwarded-client-cert`, in Envoy's text form
//! and in the JSON form that it has since 1.38. Whether the proxy may say so is decided
//! elsewhere.
//!
//! Under `APPEND_FORWARD` all but the last element are the caller's own words, and the
//! form is too: Envoy appends in the form that it finds. So the whole header must be well
//! formed, or what the caller began could swallow what the proxy appended. A quote that
//! the caller left open ends at the proxy's first one, where the grammar allows neither
//! `CN=` nor `-----BEGIN`; JSON is read as one value that ends with the header.
//!
//! The text form cannot show everything: Envoy quotes neither `By`, `URI` nor `DNS`. An
//! authority that signs a URI name with `,` in it lets its holder add an element.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, Visitor},
};

use super::{
    evidence::{Evidence, IdentityError},
    peer::{Peer, PeerPatterns},
    spiffe::SpiffeId,
};

/// Longest header that is read. Envoy's own limit is 60 KiB for all headers together,
/// unless it is told otherwise.
const MAX_HEADER: usize = 64 * 1024;

/// Which element counts: each proxy on the way appends its own at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForwardedPosition {
    /// The last one: whom the proxy in front of us talked to.
    Last,
    /// The one before: whom that one's client talked to, which must itself be a trusted
    /// proxy by its certificate, or the caller would have written this element.
    BeforeLast,
    /// There must be one alone, as a proxy leaves that drops what it was sent.
    Only,
}

/// Whose `x-forwarded-client-cert` is believed, and which part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForwardedClientCert {
    /// Proxies that are known to drop or append, never to pass on what they were sent.
    pub trusted_proxies: PeerPatterns,
    /// Which element counts.
    pub position: ForwardedPosition,
}

/// Who brings the header.
#[derive(Clone, Copy, Debug)]
pub enum Messenger<'a> {
    /// The other end of the connection to us.
    Peer(&'a Peer),
    /// The client of the proxy that asks us, as that proxy has validated it.
    Id(&'a SpiffeId),
}

/// The header does not say who the client is, or says it in a way that may be a trick.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidForwarded {
    /// Neither of Envoy's two forms, or longer than 64 KiB.
    #[error("forwarded client certificate cannot be read")]
    Malformed,
    /// More than the one element that there may be.
    #[error("forwarded client certificate has {0} elements, exactly one is required")]
    Elements(usize),
    /// SPIFFE X509-SVID, section 2: exactly one URI SAN.
    #[error("forwarded client certificate has more than one URI name")]
    UriNames,
    /// The element before the last, written by somebody who is not trusted to.
    #[error("forwarded client certificate is the word of a proxy that is not trusted")]
    Untrusted,
}

/// The URI names in one element.
#[derive(Default)]
enum Uris<'h> {
    #[default]
    None,
    One(Cow<'h, str>),
    Several,
}

// === impl ForwardedClientCert ===

impl ForwardedClientCert {
    /// Adds the client that `messenger` speaks for, which sent us the request with these
    /// values of the header, and tells whether it is a trusted proxy. Such a proxy never
    /// speaks for itself: where it names nobody, nothing is added, or whoever comes
    /// without a certificate would have the proxy's rights.
    pub fn add_to<'h>(
        &self,
        evidence: &mut Evidence,
        messenger: Messenger<'_>,
        values: impl Iterator<Item = &'h [u8]>,
    ) -> bool {
        let trusted = match messenger {
            Messenger::Peer(peer) => self.trusted_proxies.admits(peer),
            Messenger::Id(id) => self.trusted_proxies.admit_id(id),
        };
        if !trusted {
            return false;
        }
        // Several headers are one that is joined by commas (RFC 9110, section 5.3).
        let joined = values.collect::<Vec<_>>().join(&b","[..]);
        let named = std::str::from_utf8(&joined)
            .map_err(|_| InvalidForwarded::Malformed)
            .and_then(|header| self.client(header));
        let claim = match named {
            Ok(None) => return true,
            Ok(Some(uri)) => SpiffeId::parse(&uri).map_err(IdentityError::from),
            Err(error) => Err(error.into()),
        };
        evidence.add_waypoint(claim);
        true
    }

    fn client<'h>(&self, header: &'h str) -> Result<Option<Cow<'h, str>>, InvalidForwarded> {
        let client = forwarded_client(header, self.position)?;
        match self.position {
            ForwardedPosition::Last | ForwardedPosition::Only => {}
            ForwardedPosition::BeforeLast => {
                let by = forwarded_client(header, ForwardedPosition::Last)?;
                let by = by.and_then(|uri| SpiffeId::parse(&uri).ok());
                let trusted = by.is_some_and(|id| self.trusted_proxies.admit_id(&id));
                if client.is_some() && !trusted {
                    return Err(InvalidForwarded::Untrusted);
                }
            }
        }
        Ok(client)
    }
}

/// The client that the chosen element names. `None`: there is no such element, or it
/// names nobody (its `URI` is absent, empty or `-`).
///
/// # Errors
/// [`InvalidForwarded`], whichever element is to blame.
pub fn forwarded_client(
    header: &str,
    position: ForwardedPosition,
) -> Result<Option<Cow<'_, str>>, InvalidForwarded> {
    if header.len() > MAX_HEADER {
        return Err(InvalidForwarded::Malformed);
    }
    let mut elements = match header.bytes().next() {
        None => Vec::new(),
        Some(b'[') => serde_json::from_str(header).map_err(|_| InvalidForwarded::Malformed)?,
        Some(_) => parse_text(header)?,
    };
    let last = elements.pop();
    let chosen = match position {
        ForwardedPosition::Only if !elements.is_empty() => {
            return Err(InvalidForwarded::Elements(elements.len() + 1));
        }
        ForwardedPosition::Last | ForwardedPosition::Only => last,
        ForwardedPosition::BeforeLast => elements.pop(),
    };
    match chosen.unwrap_or_default() {
        Uris::None => Ok(None),
        Uris::One(uri) => Ok(Some(uri).filter(|uri| !uri.is_empty() && uri != "-")),
        Uris::Several => Err(InvalidForwarded::UriNames),
    }
}

/// `By=a;URI=b,By=c;Subject="d"`: elements, each of them pairs.
fn parse_text(header: &str) -> Result<Vec<Uris<'_>>, InvalidForwarded> {
    let (mut elements, mut uris) = (Vec::new(), Uris::None);
    let mut rest = header;
    loop {
        let (key, after) = rest.split_once('=').ok_or(InvalidForwarded::Malformed)?;
        if key.is_empty() || !key.bytes().all(|b| b.is_ascii_alphabetic()) {
            return Err(InvalidForwarded::Malformed);
        }
        let (value, after) = parse_value(after)?;
        if key.eq_ignore_ascii_case("uri") {
            // No name that we could mean has anything to escape.
            if value.contains('\\') {
                return Err(InvalidForwarded::Malformed);
            }
            uris = uris.with(value.into());
        }
        rest = if let Some(next) = after.strip_prefix(';') {
            next
        } else if let Some(next) = after.strip_prefix(',') {
            elements.push(std::mem::take(&mut uris));
            next
        } else if after.is_empty() {
            elements.push(uris);
            return Ok(elements);
        } else {
            return Err(InvalidForwarded::Malformed);
        };
    }
}

/// Splits off a value, without its quotes. A backslash in quotes goes with whatever
/// follows it: subjects hold RFC 2253's escapes, `\\` before the closing quote included.
fn parse_value(text: &str) -> Result<(&str, &str), InvalidForwarded> {
    let Some(quoted) = text.strip_prefix('"') else {
        let (value, rest) = text.split_at(text.find([';', ',']).unwrap_or(text.len()));
        let plain = |b: u8| b.is_ascii_graphic() && b != b'"' && b != b'\\';
        return match value.bytes().all(plain) {
            true => Ok((value, rest)),
            false => Err(InvalidForwarded::Malformed),
        };
    };
    let mut escaped = false;
    let closes = |b: u8| {
        let closes = b == b'"' && !escaped;
        escaped = b == b'\\' && !escaped;
        closes
    };
    let end = quoted.bytes().position(closes).ok_or(InvalidForwarded::Malformed)?;
    Ok((&quoted[..end], &quoted[end + 1..]))
}

// === impl ForwardedPosition ===

impl ForwardedPosition {
    /// Every position.
    pub const ALL: [Self; 3] = [Self::Last, Self::BeforeLast, Self::Only];

    /// The word used in the configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Last => "last",
            Self::BeforeLast => "before_last",
            Self::Only => "only",
        }
    }

    /// The position of that name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|position| position.as_str() == text)
    }
}

// === impl Uris ===

impl<'h> Uris<'h> {
    /// An empty name counts: a name that says it is there, and one more, are two.
    fn with(self, uri: Cow<'h, str>) -> Self {
        match self {
            Self::None => Self::One(uri),
            Self::One(_) | Self::Several => Self::Several,
        }
    }
}

/// An element of the JSON form. A key that is given twice counts twice.
impl<'de> Deserialize<'de> for Uris<'_> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Element;

        impl<'de> Visitor<'de> for Element {
            type Value = Uris<'static>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an element")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut uris = Uris::None;
                while let Some(key) = map.next_key::<Cow<'_, str>>()? {
                    if key.eq_ignore_ascii_case("uri") {
                        let names: Vec<String> = map.next_value()?;
                        uris = names.into_iter().map(Cow::Owned).fold(uris, Uris::with);
                    } else {
                        map.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(uris)
            }
        }

        deserializer.deserialize_map(Element)
    }
}

#[cfg(test)]
mod tests;
