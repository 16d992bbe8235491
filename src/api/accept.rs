//! The form of a secret that a caller accepts.

use http::{HeaderMap, header};

/// How a secret is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// With its name and version.
    Json,
    /// Its bytes alone.
    Raw,
}

// === impl Form ===

impl Form {
    pub(super) fn media_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Raw => "application/octet-stream",
        }
    }

    /// The form that the caller likes best, JSON where it likes both; none if it accepts
    /// neither. Who says nothing that can be read accepts all (RFC 9110, section 12.5.1).
    pub(super) fn accepted(headers: &HeaderMap) -> Option<Self> {
        let values = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
        let ranges: Vec<_> =
            values.flat_map(|value| value.split(',')).filter_map(Range::parse).collect();
        if ranges.is_empty() {
            return Some(Self::Json);
        }
        let liking = |form: Self| {
            let matching = ranges.iter().filter_map(|range| {
                range.specificity(form.media_type()).map(|specificity| (specificity, range.quality))
            });
            matching.max().map_or(0, |(_, quality)| quality)
        };
        match (liking(Self::Json), liking(Self::Raw)) {
            (0, 0) => None,
            (json, raw) if raw > json => Some(Self::Raw),
            _ => Some(Self::Json),
        }
    }
}

/// A media range with its weight in thousandths.
struct Range<'a> {
    main: &'a str,
    sub: &'a str,
    quality: u16,
}

// === impl Range ===

impl<'a> Range<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let mut parts = text.split(';').map(str::trim);
        let (main, sub) = parts.next()?.split_once('/')?;
        let mut quality = 1000;
        for parameter in parts {
            if let Some((name, value)) = parameter.split_once('=')
                && name.trim().eq_ignore_ascii_case("q")
            {
                quality = thousandths(value.trim())?;
            }
        }
        let known = !main.is_empty() && !sub.is_empty() && (main != "*" || sub == "*");
        known.then_some(Self { main, sub, quality })
    }

    fn specificity(&self, media_type: &str) -> Option<u8> {
        let (main, sub) = media_type.split_once('/')?;
        match () {
            () if self.main == "*" => Some(0),
            () if !self.main.eq_ignore_ascii_case(main) => None,
            () if self.sub == "*" => Some(1),
            () => self.sub.eq_ignore_ascii_case(sub).then_some(2),
        }
    }
}

/// `0`, `1`, or either with up to three decimals.
fn thousandths(text: &str) -> Option<u16> {
    let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
    let digits = decimals.len() <= 3 && decimals.bytes().all(|b| b.is_ascii_digit());
    let decimals = digits.then(|| format!("{decimals:0<3}").parse::<u16>().ok()).flatten()?;
    match whole {
        "0" => Some(decimals),
        "1" if decimals == 0 => Some(1000),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_is_the_one_that_is_liked_best() {
        let (json, raw) = (Some(Form::Json), Some(Form::Raw));
        let cases: &[(&[&str], Option<Form>)] = &[
            (&["text/html"], None),
            (&["application/json;q=0"], None),
            (&["*/*;q=0"], None),
            (&["application/*;q=0, text/plain"], None),
            (&["application/json;q=0, application/octet-stream;q=0.000, */*;q=1"], None),
            (&[], json),
            (&[""], json),
            (&["json"], json),
            (&["*/json"], json),
            (&["*/*"], json),
            (&["application/*"], json),
            (&["APPLICATION/JSON"], json),
            (&["application/json; charset=utf-8"], json),
            (&["application/octet-stream, application/json"], json),
            (&["application/octet-stream;q=0.5, */*;q=0.6"], json),
            (&["application/octet-stream"], raw),
            (&["application/json;q=0.5, application/octet-stream"], raw),
            (&["application/json;q=0.5", "application/octet-stream;q=0.501"], raw),
            (&["application/json;q=0.2, */*;q=0.3"], raw),
            (&["application/json;q=2, application/octet-stream;q=0.1"], raw),
            (&["application/octet-stream; q=1.000"], raw),
        ];
        for (values, expected) in cases {
            let mut headers = HeaderMap::new();
            for value in *values {
                headers.append(header::ACCEPT, value.parse().expect("a value"));
            }
            assert_eq!(Form::accepted(&headers), *expected, "{values:?}");
        }
    }
}
