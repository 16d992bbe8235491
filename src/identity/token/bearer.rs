//! The token in an `Authorization` header, and the headers that have none for us.

use super::TokenRefusal;

/// A bearer token as it was sent, not looked at. Without `Debug`: it is a credential.
#[derive(Clone, Copy)]
pub struct Bearer<'a>(&'a str);

// === impl Bearer ===

impl<'a> Bearer<'a> {
    /// The only bearer token among the values of `Authorization`. Other schemes are the
    /// application's business and no token.
    ///
    /// # Errors
    /// [`TokenRefusal::Ambiguous`] if upstreams could take different tokens from them:
    /// several values, or several credentials in one, as proxies join headers by commas.
    pub fn find(values: impl IntoIterator<Item = &'a [u8]>) -> Result<Option<Self>, TokenRefusal> {
        let mut values = values.into_iter();
        let Some(value) = values.next() else { return Ok(None) };
        let (mut found, mut several) = (has_bearer(value), false);
        for value in values {
            found |= has_bearer(value);
            several = true;
        }
        match (found, several) {
            (false, _) => return Ok(None),
            (true, true) => return Err(TokenRefusal::Ambiguous),
            (true, false) => {}
        }
        let value = std::str::from_utf8(value).map_err(|_| TokenRefusal::Ambiguous)?;
        let (scheme, token) = split_scheme(value);
        let token = token.trim_matches(BLANKS);
        // Also where the bearer token comes second: who reads the first part differs.
        if !is_bearer(scheme) || token.contains(',') || token.contains(BLANKS) {
            return Err(TokenRefusal::Ambiguous);
        }
        Ok(Some(token).filter(|token| !token.is_empty()).map(Self))
    }

    pub(super) fn as_str(self) -> &'a str {
        self.0
    }
}

const BLANKS: [char; 2] = [' ', '\t'];

fn split_scheme(value: &str) -> (&str, &str) {
    let value = value.trim_matches(BLANKS);
    value.split_once(BLANKS).unwrap_or((value, ""))
}

/// Schemes are case-insensitive (RFC 9110, section 11.1).
fn is_bearer(scheme: &str) -> bool {
    scheme.eq_ignore_ascii_case("bearer")
}

/// Whether any part of the value, of which there are several where headers were joined,
/// is a bearer token.
fn has_bearer(value: &[u8]) -> bool {
    value.split(|byte| *byte == b',').any(|part| {
        let part = part.trim_ascii_start();
        let end = part.iter().position(|byte| matches!(byte, b' ' | b'\t')).unwrap_or(part.len());
        part[..end].eq_ignore_ascii_case(b"bearer")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find<'a>(values: &[&'a str]) -> Result<Option<&'a str>, TokenRefusal> {
        let found = Bearer::find(values.iter().map(|value| value.as_bytes()))?;
        Ok(found.map(Bearer::as_str))
    }

    #[test]
    fn there_is_one_token_or_none_or_it_is_not_clear_which() {
        let ambiguous = Err(TokenRefusal::Ambiguous);
        for (values, expected) in [
            (&["Bearer a.b.c", "Bearer a.b.c"][..], ambiguous),
            (&["Bearer a.b.c,Bearer d.e.f"], ambiguous),
            (&["Bearer a.b.c, d.e.f"], ambiguous),
            (&["Bearer a.b.c,"], ambiguous),
            (&["Basic dTpw, Bearer a.b.c"], ambiguous),
            (&["Basic dTpw", "bearer a.b.c"], ambiguous),
            (&["Bearer a.b.c", "Basic dTpw"], ambiguous),
            (&["Basic dTpw", "Basic dTpx"], Ok(None)),
            (&["Bearer a b"], ambiguous),
            (&[], Ok(None)),
            (&[""], Ok(None)),
            (&["Bearer"], Ok(None)),
            (&["Bearer  "], Ok(None)),
            (&["Bearera.b.c"], Ok(None)),
            (&["Basic dTpw"], Ok(None)),
            (&["Digest username=\"bearer\", realm=\"r\""], Ok(None)),
            (&["Bearer a.b.c"], Ok(Some("a.b.c"))),
            (&["bearer a.b.c"], Ok(Some("a.b.c"))),
            (&["BEARER\ta.b.c"], Ok(Some("a.b.c"))),
            (&[" Bearer   a.b.c \t"], Ok(Some("a.b.c"))),
        ] {
            assert_eq!(find(values), expected, "{values:?}");
        }
        let bytes: [&[u8]; 1] = [b"Bearer \xff.b.c"];
        assert!(matches!(Bearer::find(bytes), Err(TokenRefusal::Ambiguous)));
    }
}
