//! HMAC over parts of a request, as many APIs and webhooks ask for.

use std::{fmt::Write as _, time::SystemTime};

use aws_lc_rs::{digest, hmac};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use http::HeaderName;
use zeroize::Zeroizing;

use super::{Body, Signed, SigningError, Unsigned, Values, fill};
use crate::{injection::Template, operation::split_query, secret::SecretValue};

/// How to sign with a keyed hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hmac {
    /// One reference alone.
    pub key: Template,
    /// What the secret's bytes are.
    pub key_encoding: KeyEncoding,
    /// The hash.
    pub digest: Digest,
    /// What is signed.
    pub message: Message,
    /// The header with the signature.
    pub header: HeaderName,
    /// What stands before the signature in it.
    pub prefix: String,
    /// How the signature is written.
    pub encoding: Encoding,
    /// How `{timestamp}` is written, and the header that tells it.
    pub timestamp: Option<(Timestamp, Option<HeaderName>)>,
}

/// What a secret's bytes are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeyEncoding {
    /// The key itself.
    #[default]
    Raw,
    /// Its base64.
    Base64,
    /// Its hexadecimal digits.
    Hex,
}

/// Which hash.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Digest {
    /// HMAC-SHA-256.
    #[default]
    Sha256,
    /// HMAC-SHA-512.
    Sha512,
}

/// How bytes become text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encoding {
    /// Small hexadecimal digits.
    #[default]
    Hex,
    /// With padding.
    Base64,
    /// For URLs, without padding.
    Base64Url,
}

/// How the time is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Timestamp {
    /// Seconds since 1970.
    #[default]
    Seconds,
    /// Milliseconds since 1970.
    Milliseconds,
    /// As in `2026-01-31T12:00:00Z`.
    Rfc3339,
}

/// What is signed: text with names in braces for parts of the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Method,
    Host,
    Target,
    Path,
    Query,
    Timestamp,
    Body,
    BodySha256,
    Header(HeaderName),
}

/// Why a message was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidMessage {
    /// A brace without its other half.
    #[error("has a brace that is not closed")]
    Brace,
    /// No part of a request is called so.
    #[error(
        "{{{0}}} is none of {{method}}, {{host}}, {{target}}, {{path}}, {{query}}, {{timestamp}}, \
         {{body}}, {{body_sha256}} and {{header:<name>}}"
    )]
    Part(String),
    /// It would be the same for every request.
    #[error("signs nothing of the request")]
    Constant,
}

// === impl Message ===

impl Message {
    /// Parses text such as `{timestamp}.{body}`.
    ///
    /// # Errors
    /// [`InvalidMessage`].
    pub fn parse(text: &str) -> Result<Self, InvalidMessage> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            let (before, after) = rest.split_at(at);
            if !before.is_empty() {
                parts.push(Part::Text(before.to_owned()));
            }
            let inside = after.strip_prefix('{').ok_or(InvalidMessage::Brace)?;
            let (name, after) = inside.split_once('}').ok_or(InvalidMessage::Brace)?;
            parts.push(Part::parse(name)?);
            rest = after;
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        let constant = parts.iter().all(|part| matches!(part, Part::Text(_) | Part::Timestamp));
        if constant { Err(InvalidMessage::Constant) } else { Ok(Self(parts)) }
    }

    /// Whether the time is in it.
    #[must_use]
    pub fn has_timestamp(&self) -> bool {
        self.0.contains(&Part::Timestamp)
    }

    /// Whether it cannot be told before the body is seen.
    pub(super) fn covers_body(&self) -> bool {
        self.0.iter().any(|part| matches!(part, Part::Body | Part::BodySha256))
    }

    fn of(&self, request: &Unsigned<'_>, time: &str) -> Result<Vec<u8>, SigningError> {
        let (path, query) = split_query(request.target);
        let body = || match request.body {
            Body::Whole(body) => Ok(body),
            Body::Unseen => Err(SigningError::BodyUnseen),
        };
        let mut message = Vec::new();
        for part in &self.0 {
            match part {
                Part::Text(text) => message.extend_from_slice(text.as_bytes()),
                Part::Method => message.extend_from_slice(request.method.as_bytes()),
                Part::Host => message.extend_from_slice(request.authority.as_bytes()),
                Part::Target => message.extend_from_slice(request.target.as_bytes()),
                Part::Path => message.extend_from_slice(path.as_bytes()),
                Part::Query => message.extend_from_slice(query.unwrap_or_default().as_bytes()),
                Part::Timestamp => message.extend_from_slice(time.as_bytes()),
                Part::Body => message.extend_from_slice(body()?),
                Part::BodySha256 => {
                    let hash = digest::digest(&digest::SHA256, body()?);
                    message.extend_from_slice(hex(hash.as_ref()).as_bytes());
                }
                Part::Header(name) => {
                    let mut values = request.values(name.as_str());
                    message.extend_from_slice(values.next().ok_or(SigningError::MissingHeader)?);
                    if values.next().is_some() {
                        return Err(SigningError::Malformed);
                    }
                }
            }
        }
        Ok(message)
    }
}

impl Part {
    fn parse(name: &str) -> Result<Self, InvalidMessage> {
        Ok(match name {
            "method" => Self::Method,
            "host" => Self::Host,
            "target" => Self::Target,
            "path" => Self::Path,
            "query" => Self::Query,
            "timestamp" => Self::Timestamp,
            "body" => Self::Body,
            "body_sha256" => Self::BodySha256,
            _ => {
                let header = name.strip_prefix("header:").filter(|name| !name.starts_with(':'));
                let header = header.and_then(|name| name.parse().ok());
                Self::Header(header.ok_or_else(|| InvalidMessage::Part(name.to_owned()))?)
            }
        })
    }
}

// === impl Hmac ===

impl Hmac {
    pub(super) fn sign(
        &self,
        request: &Unsigned<'_>,
        values: Values<'_>,
    ) -> Result<Signed, SigningError> {
        let (secret, unfit) = fill::key(&self.key, values)?;
        let decoded = |decoded: Option<Vec<u8>>| match decoded {
            Some(key) if !key.is_empty() => Ok(Zeroizing::new(key)),
            _ => Err(unfit),
        };
        let key = match self.key_encoding {
            KeyEncoding::Raw => Zeroizing::new(secret.to_vec()),
            KeyEncoding::Base64 => decoded(STANDARD.decode(secret).ok())?,
            KeyEncoding::Hex => decoded(unhex(secret))?,
        };
        let algorithm = match self.digest {
            Digest::Sha256 => hmac::HMAC_SHA256,
            Digest::Sha512 => hmac::HMAC_SHA512,
        };
        let (form, header) = self.timestamp.clone().unwrap_or_default();
        let time = form.write(request.now)?;
        let message = Zeroizing::new(self.message.of(request, &time)?);
        let tag = hmac::sign(&hmac::Key::new(algorithm, &key), &message);
        let signature = match self.encoding {
            Encoding::Hex => hex(tag.as_ref()),
            Encoding::Base64 => STANDARD.encode(tag.as_ref()),
            Encoding::Base64Url => URL_SAFE_NO_PAD.encode(tag.as_ref()),
        };
        let signature = SecretValue::new(format!("{}{signature}", self.prefix));
        let mut headers = vec![(self.header.clone(), signature)];
        headers.extend(header.map(|header| (header, SecretValue::new(time))));
        Ok(Signed { headers, ..Signed::default() })
    }
}

// === impl Timestamp ===

impl Timestamp {
    fn write(self, now: SystemTime) -> Result<String, SigningError> {
        let since = now.duration_since(SystemTime::UNIX_EPOCH);
        let since = since.map_err(|_| SigningError::Internal)?;
        Ok(match self {
            Self::Seconds => since.as_secs().to_string(),
            Self::Milliseconds => since.as_millis().to_string(),
            Self::Rfc3339 => humantime::format_rfc3339_seconds(now).to_string(),
        })
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn unhex(text: &[u8]) -> Option<Vec<u8>> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16).map(|digit| digit as u8);
    let pairs = text.chunks(2).map(|pair| match pair {
        [high, low] => Some(digit(high)? << 4 | digit(low)?),
        _ => None,
    });
    pairs.collect()
}
