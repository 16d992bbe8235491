//! Where references may stand, what is done about one that may not be used there, and
//! how a value is written there. Pure.

use zeroize::Zeroizing;

use super::encoding::Encoding;

/// A place in a message. Whole header values are no such place: references in them are
/// always looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Surface {
    /// The value of a cookie.
    Cookie,
    /// The query of the target.
    Query,
    /// A segment of the target's path.
    Path,
    /// A JSON body.
    Json,
    /// A form: `application/x-www-form-urlencoded`.
    Form,
    /// A text body.
    Text,
}

/// What is done about a reference that may not be used where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Violation {
    /// It is text, and counted.
    Inert,
    /// It is text, and logged.
    Log,
    /// The message is refused.
    Deny,
}

/// The places in which references are looked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Surfaces([Option<Violation>; Surface::ALL.len()]);

/// A value that cannot be written there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unwritable {
    /// A character that would end the place it stands in.
    #[error("character")]
    Character,
    /// No UTF-8.
    #[error("not_text")]
    NotText,
    /// A segment that leads elsewhere.
    #[error("traversal")]
    Traversal,
    /// Nothing.
    #[error("empty")]
    Empty,
    /// More than a target or a cookie can hold.
    #[error("too_long")]
    TooLong,
    /// Not as long as the alias that it stands for, which was promised.
    #[error("length")]
    Length,
}

/// Longest value in the head of a request.
const MAX_HEAD_VALUE: usize = 8 * 1024;

// === impl Surface ===

impl Surface {
    /// Every surface, in the order of the documentation.
    pub const ALL: [Self; 6] =
        [Self::Cookie, Self::Query, Self::Path, Self::Json, Self::Form, Self::Text];

    /// The word in configuration, logs and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cookie => "cookie",
            Self::Query => "query",
            Self::Path => "path",
            Self::Json => "json",
            Self::Form => "form",
            Self::Text => "text",
        }
    }

    /// How text is written there.
    #[must_use]
    pub fn encoding(self) -> Encoding {
        match self {
            Self::Cookie | Self::Text => Encoding::Plain,
            Self::Query | Self::Path | Self::Form => Encoding::Percent,
            Self::Json => Encoding::Json,
        }
    }

    /// The surface that a body of this type is; none for those in which nothing is
    /// looked for.
    #[must_use]
    pub fn of_body(content_type: &str) -> Option<Self> {
        let essence = content_type.split(';').next().unwrap_or_default().trim();
        let is = |name: &str| essence.eq_ignore_ascii_case(name);
        let ends = |suffix: &str| {
            let at = essence.len().checked_sub(suffix.len())?;
            essence.get(at..).filter(|end| end.eq_ignore_ascii_case(suffix))
        };
        let text = essence.get(..5).is_some_and(|start| start.eq_ignore_ascii_case("text/"));
        if is("application/json") || ends("+json").is_some() {
            Some(Self::Json)
        } else if is("application/x-www-form-urlencoded") {
            Some(Self::Form)
        } else if text && essence.len() > 5 {
            Some(Self::Text)
        } else {
            None
        }
    }

    /// Writes a value as it has to stand there, without the one newline that files and
    /// `kubectl` leave at its end.
    ///
    /// # Errors
    /// [`Unwritable`].
    pub fn write(self, value: &[u8]) -> Result<Zeroizing<Vec<u8>>, Unwritable> {
        let value = value.strip_suffix(b"\n").map_or(value, |v| v.strip_suffix(b"\r").unwrap_or(v));
        if value.is_empty() {
            return Err(Unwritable::Empty);
        }
        match self {
            Self::Cookie | Self::Query | Self::Path if value.len() > MAX_HEAD_VALUE => {
                return Err(Unwritable::TooLong);
            }
            // RFC 6265, section 4.1.1.
            Self::Cookie
                if !value.iter().all(|b| b.is_ascii_graphic() && !b"\",;\\".contains(b)) =>
            {
                return Err(Unwritable::Character);
            }
            Self::Query if value.iter().any(u8::is_ascii_control) => {
                return Err(Unwritable::Character);
            }
            // Encoded or not: some upstreams decode before they split.
            Self::Path if value.iter().any(|b| b.is_ascii_control() || b"/\\?#%;".contains(b)) => {
                return Err(Unwritable::Character);
            }
            Self::Path if value == b"." || value == b".." => return Err(Unwritable::Traversal),
            _ => {}
        }
        self.encoding().encode(value).map_err(|_| Unwritable::NotText)
    }
}

// === impl Violation ===

impl Violation {
    /// The word in configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Inert => "inert",
            Self::Log => "log",
            Self::Deny => "deny",
        }
    }
}

// === impl Surfaces ===

impl Surfaces {
    /// What is done about violations there, if references are looked for.
    #[must_use]
    pub fn get(&self, surface: Surface) -> Option<Violation> {
        self.0[surface as usize]
    }

    /// Looks for references there too. Of two answers to violations the stricter counts.
    pub fn add(&mut self, surface: Surface, violation: Violation) {
        let slot = &mut self.0[surface as usize];
        *slot = (*slot).max(Some(violation));
    }

    /// Looks for references in those places too.
    pub fn extend(&mut self, other: &Self) {
        for surface in Surface::ALL {
            if let Some(violation) = other.get(surface) {
                self.add(surface, violation);
            }
        }
    }

    /// Whether references are looked for nowhere.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(Option::is_none)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_would_break_out_are_refused() {
        use Surface::{Cookie, Form, Json, Path, Query, Text};
        let long = vec![b'a'; MAX_HEAD_VALUE + 1];
        let cases: &[(Surface, &[u8], Unwritable)] = &[
            (Cookie, b"a;b", Unwritable::Character),
            (Cookie, b"a b", Unwritable::Character),
            (Cookie, b"a,b", Unwritable::Character),
            (Cookie, b"a\"b", Unwritable::Character),
            (Cookie, b"a\r\nb", Unwritable::Character),
            (Cookie, "é".as_bytes(), Unwritable::Character),
            (Query, b"a\r\nb", Unwritable::Character),
            (Query, b"a\0", Unwritable::Character),
            (Path, b"a/b", Unwritable::Character),
            (Path, b"a\\b", Unwritable::Character),
            (Path, b"a?b", Unwritable::Character),
            (Path, b"a#b", Unwritable::Character),
            (Path, b"a%2fb", Unwritable::Character),
            (Path, b"a;b", Unwritable::Character),
            (Path, b"a\nb", Unwritable::Character),
            (Path, b"..", Unwritable::Traversal),
            (Path, b".", Unwritable::Traversal),
            (Path, b"..\n", Unwritable::Traversal),
            (Json, b"\xff", Unwritable::NotText),
            (Text, b"\n", Unwritable::Empty),
            (Form, b"", Unwritable::Empty),
            (Query, &long, Unwritable::TooLong),
            (Path, &long, Unwritable::TooLong),
            (Cookie, &long, Unwritable::TooLong),
        ];
        for (surface, value, expected) in cases {
            assert_eq!(surface.write(value).err(), Some(*expected), "{surface:?} {value:.20?}");
        }
    }

    #[test]
    fn values_are_written_as_their_surroundings_are() {
        use Surface::{Cookie, Form, Json, Path, Query, Text};
        for (surface, value, expected) in [
            (Cookie, "a=b/c\n", "a=b/c"),
            (Query, "a b&c=d+/é\r\n", "a%20b%26c%3Dd%2B%2F%C3%A9"),
            (Form, "a\nb", "a%0Ab"),
            (Path, "12:AB-_~", "12%3AAB-_~"),
            (Json, "a\"\\\n\u{1}é", "a\\\"\\\\\\n\\u0001é"),
            (Text, "a\"\r\nb\n\n", "a\"\r\nb\n"),
        ] {
            let written = surface.write(value.as_bytes()).expect("can stand there");
            assert_eq!(String::from_utf8_lossy(&written), expected, "{surface:?}");
        }
    }

    #[test]
    fn content_types_tell_the_surface() {
        for (content_type, expected) in [
            ("application/json", Some(Surface::Json)),
            ("Application/JSON; charset=utf-8", Some(Surface::Json)),
            ("application/vnd.api+json", Some(Surface::Json)),
            ("application/x-www-form-urlencoded", Some(Surface::Form)),
            ("text/plain; charset=utf-8", Some(Surface::Text)),
            ("TEXT/xml", Some(Surface::Text)),
            ("text/", None),
            ("", None),
            ("é", None),
            ("application/grpc+json", Some(Surface::Json)),
            ("application/grpc", None),
            ("multipart/form-data; boundary=x", None),
            ("application/octet-stream", None),
        ] {
            assert_eq!(Surface::of_body(content_type), expected, "{content_type}");
        }
    }

    #[test]
    fn the_stricter_of_two_rules_counts() {
        let mut surfaces = Surfaces::default();
        assert!(surfaces.is_empty());
        surfaces.add(Surface::Json, Violation::Log);
        let mut other = Surfaces::default();
        other.add(Surface::Json, Violation::Inert);
        other.add(Surface::Text, Violation::Deny);
        surfaces.extend(&other);
        assert_eq!(surfaces.get(Surface::Json), Some(Violation::Log));
        assert_eq!(surfaces.get(Surface::Text), Some(Violation::Deny));
        assert_eq!(surfaces.get(Surface::Form), None);
    }
}
