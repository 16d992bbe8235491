//! The forms in which an upstream may give a value back: as it is, and as JSON, URLs,
//! forms, base64 and hex write it.

use std::fmt::Write as _;

use zeroize::Zeroizing;

/// Bytes that are wiped.
pub(super) type Form = Zeroizing<Vec<u8>>;

/// All forms of a value, each once.
pub(super) fn forms(value: &[u8]) -> Vec<Form> {
    let mut forms = vec![Zeroizing::new(value.to_vec())];
    if let Ok(text) = std::str::from_utf8(value) {
        for dialect in JSON {
            forms.push(dialect.escape(text));
        }
    }
    for kept in PERCENT {
        forms.push(percent(value, kept, false, b"0123456789ABCDEF"));
        forms.push(percent(value, kept, false, b"0123456789abcdef"));
    }
    for kept in [FORM, UNRESERVED] {
        forms.push(percent(value, kept, true, b"0123456789ABCDEF"));
        forms.push(percent(value, kept, true, b"0123456789abcdef"));
    }
    forms.push(hex(value, b"0123456789abcdef"));
    forms.push(hex(value, b"0123456789ABCDEF"));
    for before in 0..3 {
        forms.push(base64(value, before, b"+/"));
        forms.push(base64(value, before, b"-_"));
    }
    // Most values look the same in most of them.
    let mut at = 0;
    while at < forms.len() {
        match forms[..at].contains(&forms[at]) {
            true => drop(forms.swap_remove(at)),
            false => at += 1,
        }
    }
    forms
}

/// What a JSON writer escapes beyond what it must.
#[derive(Clone, Copy)]
struct Dialect {
    slash: bool,
    /// `<`, `>` and `&`, as Go does.
    markup: bool,
    /// All that is not ASCII.
    unicode: bool,
    capitals: bool,
}

const JSON: [Dialect; 6] = [
    Dialect { slash: false, markup: false, unicode: false, capitals: false },
    Dialect { slash: false, markup: true, unicode: false, capitals: false },
    Dialect { slash: false, markup: false, unicode: true, capitals: false },
    Dialect { slash: false, markup: false, unicode: true, capitals: true },
    Dialect { slash: true, markup: false, unicode: false, capitals: false },
    Dialect { slash: true, markup: false, unicode: true, capitals: false },
];

impl Dialect {
    fn escape(self, text: &str) -> Form {
        // The longest escape of one byte.
        let mut escaped = Zeroizing::new(String::with_capacity(6 * text.len()));
        for c in text.chars() {
            match c {
                '"' => escaped.push_str("\\\""),
                '\\' => escaped.push_str("\\\\"),
                '\n' => escaped.push_str("\\n"),
                '\r' => escaped.push_str("\\r"),
                '\t' => escaped.push_str("\\t"),
                '\u{8}' => escaped.push_str("\\b"),
                '\u{c}' => escaped.push_str("\\f"),
                '/' if self.slash => escaped.push_str("\\/"),
                '<' | '>' | '&' if self.markup => self.unit(c as u16, &mut escaped),
                '\0'..='\u{1f}' => self.unit(c as u16, &mut escaped),
                _ if self.unicode && !c.is_ascii() => {
                    c.encode_utf16(&mut [0; 2]).iter().for_each(|u| self.unit(*u, &mut escaped));
                }
                _ => escaped.push(c),
            }
        }
        Zeroizing::new(std::mem::take(&mut *escaped).into_bytes())
    }

    fn unit(self, unit: u16, escaped: &mut String) {
        // Writing to a string cannot fail.
        let _ = match self.capitals {
            true => write!(escaped, "\\u{unit:04X}"),
            false => write!(escaped, "\\u{unit:04x}"),
        };
    }
}

/// Kept by RFC 3986, beside letters and digits.
const UNRESERVED: &[u8] = b"-._~";
/// Kept by HTML forms.
const FORM: &[u8] = b"*-._";
/// What percent-encoders keep: only unreserved characters, JavaScript's two, and those
/// that may stand in a path and in a query.
const PERCENT: [&[u8]; 5] =
    [UNRESERVED, b"-_.!~*'()", b"-_.!~*'();/?:@&=+$,#", b"-._~!$&'()*+,;=:@", b"-._~!$'()*,;:@/?"];

fn percent(value: &[u8], kept: &[u8], plus: bool, digits: &[u8; 16]) -> Form {
    let mut encoded = Zeroizing::new(Vec::with_capacity(3 * value.len()));
    for byte in value {
        match byte {
            b' ' if plus => encoded.push(b'+'),
            _ if byte.is_ascii_alphanumeric() || kept.contains(byte) => encoded.push(*byte),
            _ => {
                encoded.push(b'%');
                push_hex(*byte, digits, &mut encoded);
            }
        }
    }
    encoded
}

fn hex(value: &[u8], digits: &[u8; 16]) -> Form {
    let mut encoded = Zeroizing::new(Vec::with_capacity(2 * value.len()));
    value.iter().for_each(|byte| push_hex(*byte, digits, &mut encoded));
    encoded
}

fn push_hex(byte: u8, digits: &[u8; 16], encoded: &mut Vec<u8>) {
    encoded.push(digits[usize::from(byte >> 4)]);
    encoded.push(digits[usize::from(byte & 15)]);
}

/// What base64 makes of the value after `before` other bytes, without the characters at
/// either end that depend on what stands beside it too.
fn base64(value: &[u8], before: usize, last: &[u8; 2]) -> Form {
    const FIRST: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    let skipped = [0, 2, 3][before % 3];
    let whole = (before + value.len()) * 8 / 6;
    let mut encoded = Zeroizing::new(Vec::with_capacity(whole));
    let byte = |at: usize| {
        let byte = at.checked_sub(before).and_then(|at| value.get(at));
        u16::from(byte.copied().unwrap_or_default())
    };
    for at in skipped..whole {
        let (first, shift) = (at * 6 / 8, 10 - at * 6 % 8);
        let pair = byte(first) << 8 | byte(first + 1);
        let digit = usize::from(pair >> shift & 63);
        encoded.push(*FIRST.get(digit).unwrap_or_else(|| &last[digit & 1]));
    }
    encoded
}
