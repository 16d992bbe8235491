//! Canonical secret names: the one function that turns a name from outside into
//! the form that policy, cache and store all see.

use std::{fmt, sync::Arc};

use percent_encoding::percent_decode_str;

/// A name that passed [`NameGrammar::canonical`]; it never holds `..`, an empty
/// segment, a backslash, a control byte or a percent sign.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SecretName(Arc<str>);

/// The characters and length that a store accepts in a secret name.
///
/// ASCII letters and digits are always allowed; `punctuation` lists the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NameGrammar {
    /// Allowed characters besides `[A-Za-z0-9]`.
    pub punctuation: &'static str,
    /// Longest name in bytes.
    pub max_len: usize,
    /// Whether the store ignores case; names are then lower-cased.
    pub lower_case: bool,
    /// Whether names are an object and one key in it, as `name/key`, where the
    /// object's name is a DNS subdomain (RFC 1123). So are Kubernetes Secrets.
    pub object_key: bool,
}

/// Whether a name from outside still carries percent-encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameEncoding {
    /// From a URL path or a reference: decoded exactly once.
    Percent,
    /// From a JSON body or a configuration file: taken as it is.
    Plain,
}

/// Why a name was refused. The texts of the first five kinds are those of
/// vaultmux-server, whose clients match on them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    /// No characters at all.
    #[error("secret name cannot be empty")]
    Empty,
    /// More bytes than the store accepts.
    #[error("secret name cannot exceed {max} characters")]
    TooLong {
        /// The store's limit in bytes.
        max: usize,
    },
    /// `..` anywhere in the name.
    #[error("secret name cannot contain '..' (path traversal)")]
    Traversal,
    /// `/` where the store has no hierarchy, or a backslash anywhere.
    #[error("secret name cannot contain '{0}' (path separator)")]
    Separator(char),
    /// A character outside the store's grammar.
    #[error("secret name can only contain alphanumeric characters{}", describe(.punctuation))]
    Character {
        /// What the store allows besides letters and digits.
        punctuation: &'static str,
    },
    /// `//`, a leading or trailing `/`, or a segment that is only a dot.
    #[error("secret name cannot contain empty or '.' path segments")]
    Segment,
    /// Not of the form `name/key`, or the first part is not a DNS subdomain.
    #[error("secret name must be of the form name/key, with the name in lower case")]
    ObjectKey,
    /// A percent sign that is not followed by two hexadecimal digits, or bytes
    /// that are not UTF-8 once decoded.
    #[error("secret name has invalid percent-encoding")]
    Encoding,
}

fn describe(punctuation: &str) -> String {
    match punctuation {
        "" => String::new(),
        "-_" | "_-" => ", hyphens, and underscores".to_owned(),
        "-" => " and hyphens".to_owned(),
        other => format!(" and any of {other}"),
    }
}

// === impl NameGrammar ===

impl NameGrammar {
    /// Letters, digits and `punctuation`, up to `max_len` bytes, case kept.
    #[must_use]
    pub const fn new(punctuation: &'static str, max_len: usize) -> Self {
        Self { punctuation, max_len, lower_case: false, object_key: false }
    }

    /// The same for a store that ignores case.
    #[must_use]
    pub const fn ignoring_case(mut self) -> Self {
        self.lower_case = true;
        self
    }

    /// The same for names of the form `name/key`.
    #[must_use]
    pub const fn of_object_keys(mut self) -> Self {
        self.object_key = true;
        self
    }

    /// Turns a name from outside into its canonical form.
    ///
    /// # Errors
    /// [`InvalidName`] says which rule the name breaks. Rules are tested in the
    /// order in which vaultmux-server tests them.
    pub fn canonical(&self, raw: &str, encoding: NameEncoding) -> Result<SecretName, InvalidName> {
        let decoded = match encoding {
            NameEncoding::Plain => raw.into(),
            NameEncoding::Percent => decode_once(raw)?,
        };
        let name: &str = &decoded;
        if name.is_empty() {
            return Err(InvalidName::Empty);
        }
        if name.len() > self.max_len {
            return Err(InvalidName::TooLong { max: self.max_len });
        }
        if name.contains("..") {
            return Err(InvalidName::Traversal);
        }
        if name.contains('/') && !self.punctuation.contains('/') {
            return Err(InvalidName::Separator('/'));
        }
        if name.contains('\\') {
            return Err(InvalidName::Separator('\\'));
        }
        if !name.chars().all(|c| self.allows(c)) {
            return Err(InvalidName::Character { punctuation: self.punctuation });
        }
        if name.split('/').any(|segment| segment.is_empty() || segment == ".") {
            return Err(InvalidName::Segment);
        }
        if self.object_key && !is_object_key(name) {
            return Err(InvalidName::ObjectKey);
        }
        if self.lower_case && name.bytes().any(|b| b.is_ascii_uppercase()) {
            return Ok(SecretName(name.to_ascii_lowercase().into()));
        }
        Ok(SecretName(name.into()))
    }

    /// Checks what names may begin with, and brings it to their form. It needs no
    /// separator at its end; empty, it begins every name.
    ///
    /// # Errors
    /// [`InvalidName`] if no name begins with it.
    pub fn canonical_prefix(&self, prefix: &str) -> Result<String, InvalidName> {
        if prefix.len() > self.max_len {
            return Err(InvalidName::TooLong { max: self.max_len });
        }
        if prefix.contains("..") {
            return Err(InvalidName::Traversal);
        }
        if let Some(separator) = prefix.chars().find(|c| match c {
            '/' => !self.punctuation.contains('/'),
            c => *c == '\\',
        }) {
            return Err(InvalidName::Separator(separator));
        }
        if !prefix.chars().all(|c| self.allows(c)) {
            return Err(InvalidName::Character { punctuation: self.punctuation });
        }
        let mut segments = prefix.split('/').rev().skip(1);
        if segments.any(|segment| segment.is_empty() || segment == ".") {
            return Err(InvalidName::Segment);
        }
        Ok(match self.lower_case {
            true => prefix.to_ascii_lowercase(),
            false => prefix.to_owned(),
        })
    }

    /// The same grammar with room left for a prefix that is added later.
    #[must_use]
    pub fn with_prefix_len(mut self, prefix: usize) -> Self {
        self.max_len = self.max_len.saturating_sub(prefix);
        self
    }

    /// Whether `c` may stand in a name.
    #[must_use]
    pub fn allows(&self, c: char) -> bool {
        c.is_ascii_alphanumeric() || self.punctuation.contains(c)
    }
}

/// Whether a name is `name/key` with a DNS subdomain (RFC 1123) before the slash
/// and up to 253 bytes on each side.
fn is_object_key(name: &str) -> bool {
    let Some((object, key)) = name.split_once('/') else { return false };
    let label = |label: &str| {
        let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(inner)
    };
    object.len() <= 253 && key.len() <= 253 && !key.contains('/') && object.split('.').all(label)
}

/// Decodes percent-encoding once; refuses stray percent signs, which the
/// decoder would pass through.
fn decode_once(raw: &str) -> Result<std::borrow::Cow<'_, str>, InvalidName> {
    let bytes = raw.as_bytes();
    for (at, byte) in bytes.iter().enumerate() {
        let hex = |offset: usize| bytes.get(at + offset).is_some_and(u8::is_ascii_hexdigit);
        if *byte == b'%' && !(hex(1) && hex(2)) {
            return Err(InvalidName::Encoding);
        }
    }
    percent_decode_str(raw).decode_utf8().map_err(|_| InvalidName::Encoding)
}

// === impl SecretName ===

impl SecretName {
    /// The canonical text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SecretName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for SecretName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretName({})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLASHED: NameGrammar = NameGrammar::new("/_+=.@-", 512);
    const FLAT: NameGrammar = NameGrammar::new("-_", 255);
    const FOLDED: NameGrammar = NameGrammar::new("-", 127).ignoring_case();

    #[test]
    fn hostile_names_are_refused_before_any_store_sees_them() {
        use InvalidName as E;
        let long = "a".repeat(256);
        let wide = "é".repeat(128);
        let cases: &[(&NameGrammar, &str, E)] = &[
            (&FLAT, "", E::Empty),
            (&FLAT, &long, E::TooLong { max: 255 }),
            (&FLAT, &wide, E::TooLong { max: 255 }),
            (&FLAT, "../etc/passwd", E::Traversal),
            (&FLAT, "%2e%2e", E::Traversal),
            (&SLASHED, "foo/../bar", E::Traversal),
            (&SLASHED, "a..b", E::Traversal),
            (&FLAT, "my/secret", E::Separator('/')),
            (&FLAT, "a%2Fb", E::Separator('/')),
            (&SLASHED, r"foo\bar", E::Separator('\\')),
            (&SLASHED, "a%5Cb", E::Separator('\\')),
            (&SLASHED, "a%252Fb", E::Character { punctuation: "/_+=.@-" }),
            (&SLASHED, "a%00b", E::Character { punctuation: "/_+=.@-" }),
            (&SLASHED, "a\nb", E::Character { punctuation: "/_+=.@-" }),
            (&FLAT, "%C3%A9", E::Character { punctuation: "-_" }),
            (&FLAT, "a;b", E::Character { punctuation: "-_" }),
            (&FLAT, "my.secret", E::Character { punctuation: "-_" }),
            (&SLASHED, "a//b", E::Segment),
            (&SLASHED, "/a", E::Segment),
            (&SLASHED, "a/", E::Segment),
            (&SLASHED, "a/./b", E::Segment),
            (&SLASHED, "%zz", E::Encoding),
            (&SLASHED, "%4", E::Encoding),
            (&SLASHED, "%ff", E::Encoding),
        ];
        for (grammar, raw, expected) in cases {
            assert_eq!(
                grammar.canonical(raw, NameEncoding::Percent).as_ref(),
                Err(expected),
                "{raw:?}"
            );
        }
    }

    #[test]
    fn objects_and_keys_are_told_apart() {
        const KEYED: NameGrammar = NameGrammar::new("/-_.", 507).of_object_keys();
        for raw in ["db/password", "a.b-c/tls.crt", "0/_", "db/Key_1"] {
            assert!(KEYED.canonical(raw, NameEncoding::Plain).is_ok(), "{raw}");
        }
        let long = format!("{}/k", "a".repeat(254));
        for raw in ["db", "db/a/b", "Db/a", "-db/a", "db-/a", "a..b/c", "a./c", "a_b/c", &long] {
            assert!(KEYED.canonical(raw, NameEncoding::Plain).is_err(), "{raw}");
        }
    }

    #[test]
    fn prefixes_are_beginnings_of_names() {
        use InvalidName as E;
        for (grammar, prefix, expected) in [
            (&SLASHED, "", Ok("")),
            (&SLASHED, "prod", Ok("prod")),
            (&SLASHED, "prod/", Ok("prod/")),
            (&SLASHED, "prod/.", Ok("prod/.")),
            (&FOLDED, "Prod-", Ok("prod-")),
            (&SLASHED, "/", Err(E::Segment)),
            (&SLASHED, "a//", Err(E::Segment)),
            (&SLASHED, "./", Err(E::Segment)),
            (&SLASHED, "a/../b", Err(E::Traversal)),
            (&SLASHED, r"a\", Err(E::Separator('\\'))),
            (&FLAT, "a/", Err(E::Separator('/'))),
            (&FLAT, "a%2F", Err(E::Character { punctuation: "-_" })),
            (&FLAT, "a\0", Err(E::Character { punctuation: "-_" })),
        ] {
            let expected = expected.map(str::to_owned);
            assert_eq!(grammar.canonical_prefix(prefix), expected, "{prefix:?}");
        }
        let long = "a".repeat(256);
        assert_eq!(FLAT.canonical_prefix(&long), Err(E::TooLong { max: 255 }));
    }

    #[test]
    fn percent_sign_in_a_plain_name_is_a_character_like_any_other() {
        assert_eq!(
            FLAT.canonical("secret%20", NameEncoding::Plain),
            Err(InvalidName::Character { punctuation: "-_" })
        );
    }

    #[test]
    fn names_of_one_secret_have_one_form() {
        for raw in ["pay/db", "pay%2Fdb", "pay%2fdb", "%70ay/db"] {
            let name = SLASHED.canonical(raw, NameEncoding::Percent).expect(raw);
            assert_eq!(name.as_str(), "pay/db");
        }
        for raw in ["Stripe-Key", "stripe-key", "STRIPE-KEY"] {
            let name = FOLDED.canonical(raw, NameEncoding::Plain).expect(raw);
            assert_eq!(name.as_str(), "stripe-key");
        }
        for raw in ["my-secret", "secret_123", "MySecret", "a", "-", "_", "---___123___---"] {
            assert!(FLAT.canonical(raw, NameEncoding::Percent).is_ok(), "{raw}");
        }
    }

    #[test]
    fn texts_are_those_that_vaultmux_server_clients_know() {
        let text =
            |raw: &str| FLAT.canonical(raw, NameEncoding::Plain).expect_err("refused").to_string();
        assert_eq!(text("a/b"), "secret name cannot contain '/' (path separator)");
        assert_eq!(text(r"a\b"), r"secret name cannot contain '\' (path separator)");
        assert_eq!(
            text("a b"),
            "secret name can only contain alphanumeric characters, hyphens, and underscores"
        );
        assert_eq!(text(&"a".repeat(256)), "secret name cannot exceed 255 characters");
    }
}
