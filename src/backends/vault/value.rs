//! Values as Vault holds them: JSON objects.
//!
//! What is written comes back byte for byte, so text is stored as the object it
//! is only where Vault, which sorts keys and reads numbers as floating point,
//! gives back the same text. Everything else is wrapped in an object of two
//! keys, which is unwrapped when it is read.

use std::{fmt, io::Write as _, ops::Range};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor},
};
use zeroize::Zeroizing;

use super::buffer::Buffer;
use crate::secret::SecretValue;

/// Numbers below this are exact in floating point, and Go writes them without
/// an exponent.
const EXACT: u64 = 1_000_000_000_000_000;

/// A JSON object as compact text, its keys in the order in which they came.
pub(super) struct Object(Buffer);

/// The object that stands for a value that is none.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wrapper {
    value: Zeroizing<String>,
    encoding: Encoding,
}

#[derive(Clone, Copy, Deserialize)]
enum Encoding {
    #[serde(rename = "utf-8")]
    Utf8,
    #[serde(rename = "base64")]
    Base64,
}

/// Writes a JSON value out as it is read.
struct Transcode<'a> {
    out: &'a mut Buffer,
    /// Refuses what Vault would give back as another text.
    exact: bool,
}

/// The same for the key of an object; yields where it stands in `out`.
struct TranscodeKey<'a>(&'a mut Buffer);

/// The JSON object to store for a value.
#[expect(clippy::disallowed_methods, reason = "this is where the value is sent to its store")]
pub(super) fn to_object(value: &SecretValue) -> Buffer {
    let bytes = value.expose_secret();
    match comes_back(bytes) {
        true => Buffer::from(bytes),
        false => wrap(bytes),
    }
}

fn comes_back(bytes: &[u8]) -> bool {
    // An empty object is no secret to version 1.
    if !bytes.starts_with(b"{\"") || serde_json::from_slice::<Wrapper>(bytes).is_ok() {
        return false;
    }
    let mut text = Buffer::with_capacity(bytes.len());
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let read = Transcode { out: &mut text, exact: true }.deserialize(&mut json);
    read.is_ok() && text.as_slice() == bytes
}

fn wrap(bytes: &[u8]) -> Buffer {
    let escaped = |b: &u8| if *b < 0x20 { 5 } else { usize::from(matches!(b, b'"' | b'\\')) };
    let text = str::from_utf8(bytes).ok();
    let mut wrapped =
        Buffer::with_capacity(48 + bytes.len() * 4 / 3 + bytes.iter().map(escaped).sum::<usize>());
    wrapped.extend(b"{\"encoding\":");
    match text {
        Some(text) => {
            wrapped.extend(b"\"utf-8\",\"value\":");
            write_string(&mut wrapped, text);
        }
        None => {
            let text = Zeroizing::new(BASE64.encode(bytes));
            wrapped.extend(b"\"base64\",\"value\":");
            write_string(&mut wrapped, &text);
        }
    }
    wrapped.extend(b"}");
    wrapped
}

fn write_string(out: &mut Buffer, text: &str) {
    serde_json::to_writer(out, text).expect("a buffer takes all and text is JSON");
}

// === impl Object ===

impl Object {
    /// The value that it holds or stands for.
    pub(super) fn into_value(self) -> SecretValue {
        let wrapped = serde_json::from_slice::<Wrapper>(self.0.as_slice()).ok();
        let unwrapped = wrapped.and_then(|Wrapper { mut value, encoding }| match encoding {
            Encoding::Utf8 => Some(std::mem::take(&mut *value).into_bytes()),
            // Someone else's object that only looks like ours.
            Encoding::Base64 => BASE64.decode(value.as_bytes()).ok(),
        });
        SecretValue::new(unwrapped.unwrap_or_else(|| self.0.into_vec()))
    }
}

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut text = Buffer::with_capacity(256);
        Transcode { out: &mut text, exact: false }.deserialize(deserializer)?;
        match text.as_slice().first() {
            Some(b'{') => Ok(Self(text)),
            _ => Err(D::Error::custom("not an object")),
        }
    }
}

// === impl Transcode ===

impl Transcode<'_> {
    fn again(&mut self) -> Transcode<'_> {
        Transcode { out: self.out, exact: self.exact }
    }

    fn write<E: serde::de::Error>(self, text: impl fmt::Display) -> Result<(), E> {
        write!(self.out, "{text}").map_err(E::custom)
    }
}

impl<'de> DeserializeSeed<'de> for Transcode<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Transcode<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<(), E> {
        self.write("null")
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<(), E> {
        self.write(value)
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<(), E> {
        if self.exact && value.unsigned_abs() >= EXACT {
            return Err(E::custom("not exact"));
        }
        self.write(value)
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<(), E> {
        if self.exact && value >= EXACT {
            return Err(E::custom("not exact"));
        }
        self.write(value)
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<(), E> {
        if self.exact {
            return Err(E::custom("not exact"));
        }
        serde_json::to_writer(self.out, &value).map_err(E::custom)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<(), E> {
        write_string(self.out, text);
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<(), A::Error> {
        self.out.extend(b"[");
        let start = self.out.as_slice().len();
        loop {
            let at = self.out.as_slice().len();
            if at > start {
                self.out.extend(b",");
            }
            if seq.next_element_seed(self.again())?.is_none() {
                self.out.truncate(at);
                break;
            }
        }
        self.out.extend(b"]");
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        self.out.extend(b"{");
        let mut last: Option<Range<usize>> = None;
        loop {
            let at = self.out.as_slice().len();
            if last.is_some() {
                self.out.extend(b",");
            }
            let Some(key) = map.next_key_seed(TranscodeKey(self.out))? else {
                self.out.truncate(at);
                break;
            };
            let text = self.out.as_slice();
            // Compared as they are written, so none may have an escape.
            let out_of_order = last.is_some_and(|last| text[last] >= text[key.clone()]);
            if self.exact && (out_of_order || text[key.clone()].contains(&b'\\')) {
                return Err(A::Error::custom("not in order"));
            }
            last = Some(key);
            self.out.extend(b":");
            map.next_value_seed(self.again())?;
        }
        self.out.extend(b"}");
        Ok(())
    }
}

// === impl TranscodeKey ===

impl<'de> DeserializeSeed<'de> for TranscodeKey<'_> {
    type Value = Range<usize>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for TranscodeKey<'_> {
    type Value = Range<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    /// The text between the quotes.
    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
        let start = self.0.as_slice().len();
        write_string(self.0, text);
        Ok(start + 1..self.0.as_slice().len() - 1)
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "the tests compare plaintext")]
mod tests {
    use super::*;

    fn stored(value: impl Into<Vec<u8>>) -> String {
        let object = to_object(&SecretValue::new(value.into()));
        String::from_utf8(object.into_vec()).expect("JSON is text")
    }

    fn read(object: &str) -> Vec<u8> {
        let object: Object = serde_json::from_str(object).expect(object);
        object.into_value().expose_secret().to_vec()
    }

    #[test]
    fn objects_that_would_change_are_wrapped() {
        for text in [
            "",
            "text",
            "{}",
            "{",
            "{\"a\":1",
            "[1]",
            r#" {"a":1}"#,
            r#"{"a":1} "#,
            r#"{"a": 1}"#,
            r#"{"b":1,"a":2}"#,
            r#"{"a":{"c":1,"b":2}}"#,
            r#"{"a":1,"a":2}"#,
            r#"{"a":1.5}"#,
            r#"{"a":1e3}"#,
            r#"{"a":-0}"#,
            r#"{"a":1000000000000000}"#,
            r#"{"a":-1000000000000000}"#,
            r#"{"a":18446744073709551616}"#,
            r#"{"a":"\u0041"}"#,
            r#"{"a":"\/"}"#,
            r#"{"a":"\ud800"}"#,
            r#"{"a\"":1}"#,
            r#"{"a":1}{"b":2}"#,
            r#"{"encoding":"utf-8","value":"x"}"#,
            r#"{"encoding":"base64","value":"!"}"#,
            "{\"a\":\"\u{1}\"}",
        ] {
            assert!(stored(text).starts_with(r#"{"encoding":"utf-8","value":""#), "{text}");
            assert_eq!(read(&stored(text)), text.as_bytes(), "{text}");
        }
        let deep = format!("{}1{}", r#"{"a":"#.repeat(200), "}".repeat(200));
        assert_eq!(read(&stored(deep.as_str())), deep.as_bytes());
    }

    #[test]
    fn objects_that_stay_are_stored_as_they_are() {
        for text in [
            r#"{"password":"p","username":"u"}"#,
            r#"{"A":1,"a":-7,"b":[],"c":[1,"x",null,true,false],"d":{},"e":{"f":{"g":""}}}"#,
            r#"{"a":"<b>&c","n":"line\nfeed\ttab \"quote\" \\ \u001f é 😀","z":999999999999999}"#,
            r#"{"value":"x"}"#,
            r#"{"encoding":"latin-1","value":"x"}"#,
            r#"{"encoding":"utf-8","value":1}"#,
            r#"{"encoding":"utf-8","type":"x","value":"x"}"#,
        ] {
            assert_eq!(stored(text), text);
            assert_eq!(read(text), text.as_bytes());
        }
    }

    #[test]
    fn bytes_come_back() {
        for bytes in [vec![0xff], (0..=255).collect(), vec![0], b"\"\\\x01\x7f".to_vec()] {
            assert_eq!(read(&stored(bytes.clone())), bytes);
        }
    }

    #[test]
    fn objects_of_others_keep_their_keys_and_order() {
        for (object, expected) in [
            (r#"{ "b" : 1.50, "a" : "\u003cx\u003e" }"#, r#"{"b":1.5,"a":"<x>"}"#),
            (r#"{"encoding":"base64","value":"!"}"#, r#"{"encoding":"base64","value":"!"}"#),
            (r#"{"value":"eA==","encoding":"base64"}"#, "x"),
            ("{}", "{}"),
        ] {
            assert_eq!(read(object), expected.as_bytes(), "{object}");
        }
        for object in ["null", "1", "[]", "\"x\"", "{\"a\":}"] {
            assert!(serde_json::from_str::<Object>(object).is_err(), "{object}");
        }
    }
}
