//! How text is written where it stands: as it is, percent-encoded, or in a JSON
//! string. Pure.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use zeroize::Zeroizing;

/// All but unreserved characters (RFC 3986, section 2.3).
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// How the text around a reference is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// As it is.
    Plain,
    /// Percent-encoded, as in URLs and forms.
    Percent,
    /// Inside a JSON string.
    Json,
}

/// One character, or a part of one, as it was meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    /// A byte, and whether it stood there as it is.
    Byte(u8, bool),
    /// A character that was escaped.
    Char(char),
    /// Cut off at the end.
    Partial,
    /// Nothing that can be part of a reference.
    Bad,
}

/// A value that cannot be written there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotText;

// === impl Encoding ===

impl Encoding {
    /// Longest that one byte gets.
    pub(super) const GROWTH: usize = 6;

    /// Reads one unit, and how long it is.
    pub(super) fn unit(self, bytes: &[u8]) -> (Unit, usize) {
        match (self, bytes) {
            (_, []) => (Unit::Partial, 0),
            (Self::Percent, [b'%', rest @ ..]) => match rest {
                [high, low, ..] => match (hex(*high), hex(*low)) {
                    (Some(high), Some(low)) => (Unit::Byte((high << 4 | low) as u8, false), 3),
                    _ => (Unit::Bad, 1),
                },
                [high] if hex(*high).is_none() => (Unit::Bad, 1),
                _ => (Unit::Partial, bytes.len()),
            },
            (Self::Json, [b'\\', rest @ ..]) => escape(rest),
            (_, [byte, ..]) => (Unit::Byte(*byte, true), 1),
        }
    }

    /// Writes a value.
    ///
    /// # Errors
    /// [`NotText`] if it is no text and has to be.
    pub fn encode(self, value: &[u8]) -> Result<Zeroizing<Vec<u8>>, NotText> {
        Ok(Zeroizing::new(match self {
            Self::Plain => value.to_vec(),
            Self::Percent => {
                // Once allocated, it never moves: nothing is left behind.
                let mut encoded = Vec::with_capacity(3 * value.len());
                percent_encode(value, RESERVED)
                    .for_each(|part| encoded.extend_from_slice(part.as_bytes()));
                encoded
            }
            Self::Json => {
                let text = std::str::from_utf8(value).map_err(|_| NotText)?;
                let mut encoded = Vec::with_capacity(Self::GROWTH * value.len());
                text.bytes().for_each(|byte| escape_byte(byte, &mut encoded));
                encoded
            }
        }))
    }
}

/// Reads what follows a backslash.
fn escape(rest: &[u8]) -> (Unit, usize) {
    match rest {
        [] => (Unit::Partial, 1),
        [byte @ (b'/' | b'"' | b'\\'), ..] => (Unit::Byte(*byte, false), 2),
        [b'u', digits @ ..] => {
            let digits = &digits[..digits.len().min(4)];
            let mut code = 0;
            for digit in digits {
                let Some(digit) = hex(*digit) else { return (Unit::Bad, 1) };
                code = code << 4 | digit;
            }
            match (digits.len(), char::from_u32(code)) {
                (4, Some(char)) => (Unit::Char(char), 6),
                (4, None) => (Unit::Bad, 1),
                _ => (Unit::Partial, 2 + digits.len()),
            }
        }
        _ => (Unit::Bad, 1),
    }
}

fn escape_byte(byte: u8, encoded: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    match byte {
        b'"' | b'\\' => encoded.extend_from_slice(&[b'\\', byte]),
        b'\n' => encoded.extend_from_slice(b"\\n"),
        b'\r' => encoded.extend_from_slice(b"\\r"),
        b'\t' => encoded.extend_from_slice(b"\\t"),
        0..0x20 => {
            let digits = [HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]];
            encoded.extend_from_slice(b"\\u00");
            encoded.extend_from_slice(&digits);
        }
        _ => encoded.push(byte),
    }
}

fn hex(digit: u8) -> Option<u32> {
    char::from(digit).to_digit(16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_written_so_that_they_are_read_back() {
        let all: Vec<u8> = (0..=255).collect();
        let text: String = (0..=0x2ff).filter_map(char::from_u32).collect();
        let cases: [&[u8]; 6] =
            [b"", b"plain", b"a\"b\\c/d\r\n\t\0\x7f", b"a b+c&d=e%f", &all, text.as_bytes()];
        for value in cases {
            let form = Encoding::Percent.encode(value).expect("any bytes");
            let read: Vec<u8> = percent_encoding::percent_decode(&form).collect();
            assert_eq!(read, value);
            let pair = [b"key=".as_slice(), &form].concat();
            let pairs: Vec<_> = form_urlencoded::parse(&pair).collect();
            assert_eq!(pairs.len(), 1, "{value:?}");
            assert_eq!(*Encoding::Plain.encode(value).expect("any bytes"), value);
            match (Encoding::Json.encode(value), std::str::from_utf8(value)) {
                (Ok(json), Ok(text)) => {
                    let json = [b"\"".as_slice(), &json, b"\""].concat();
                    assert_eq!(serde_json::from_slice::<String>(&json).expect("a string"), text);
                }
                (encoded, text) => assert!(encoded.is_err() && text.is_err()),
            }
        }
    }

    #[test]
    fn units_are_whole_cut_off_or_bad() {
        use Unit::{Bad, Byte, Char, Partial};
        let cases: [(Encoding, &[u8], (Unit, usize)); 20] = [
            (Encoding::Plain, b"%7B", (Byte(b'%', true), 1)),
            (Encoding::Plain, b"", (Partial, 0)),
            (Encoding::Percent, b"%7Bx", (Byte(b'{', false), 3)),
            (Encoding::Percent, b"%7bx", (Byte(b'{', false), 3)),
            (Encoding::Percent, b"%7", (Partial, 2)),
            (Encoding::Percent, b"%", (Partial, 1)),
            (Encoding::Percent, b"%z", (Bad, 1)),
            (Encoding::Percent, b"%7z", (Bad, 1)),
            (Encoding::Percent, b"\\u007b", (Byte(b'\\', true), 1)),
            (Encoding::Json, b"\\u007b", (Char('{'), 6)),
            (Encoding::Json, b"\\u007B", (Char('{'), 6)),
            (Encoding::Json, b"\\u00e9x", (Char('\u{e9}'), 6)),
            (Encoding::Json, b"\\u007", (Partial, 5)),
            (Encoding::Json, b"\\u", (Partial, 2)),
            (Encoding::Json, b"\\", (Partial, 1)),
            (Encoding::Json, b"\\/", (Byte(b'/', false), 2)),
            (Encoding::Json, b"\\n", (Bad, 1)),
            (Encoding::Json, b"\\uz", (Bad, 1)),
            (Encoding::Json, b"\\ud83d", (Bad, 1)),
            (Encoding::Json, b"%7B", (Byte(b'%', true), 1)),
        ];
        for (encoding, bytes, expected) in cases {
            assert_eq!(encoding.unit(bytes), expected, "{encoding:?} {bytes:?}");
        }
    }
}
