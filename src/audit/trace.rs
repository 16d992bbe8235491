//! The trace that a request belongs to (W3C Trace Context, level 1, section 3.2).

/// The trace id of a `traceparent` header, if the header is valid.
#[must_use]
pub fn trace_id(traceparent: &str) -> Option<&str> {
    let (version, rest) = field(traceparent, 2)?;
    let (trace, rest) = field(rest.strip_prefix('-')?, 32)?;
    let (parent, rest) = field(rest.strip_prefix('-')?, 16)?;
    let (_, rest) = field(rest.strip_prefix('-')?, 2)?;
    // Version 0 has no more fields; later ones may, after a dash.
    let ends = rest.is_empty() || (version != "00" && rest.starts_with('-'));
    let zero = |text: &str| text.bytes().all(|digit| digit == b'0');
    (ends && version != "ff" && !zero(trace) && !zero(parent)).then_some(trace)
}

/// So many lower-case hexadecimal digits, and what follows.
fn field(text: &str, digits: usize) -> Option<(&str, &str)> {
    let (field, rest) = text.split_at_checked(digits)?;
    let digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    field.bytes().all(digit).then_some((field, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    #[test]
    fn only_a_valid_traceparent_has_a_trace() {
        let with = |version: &str, rest: &str| format!("{version}-{TRACE}-00f067aa0ba902b7-{rest}");
        let zero = "0".repeat(32);
        for invalid in [
            "",
            "00",
            TRACE,
            "é0-",
            &with("00", "1"),
            &with("00", "0g"),
            &with("00", "01-"),
            &with("00", "01-more"),
            &with("00", "01,00"),
            &with("cc", "01more"),
            &with("ff", "01"),
            &with("0", "01"),
            &with("00", "01").to_uppercase(),
            &format!("00-{zero}-00f067aa0ba902b7-01"),
            &format!("00-{TRACE}-{}-01", &zero[..16]),
            &format!("00-{TRACE}\n-00f067aa0ba902b7-01"),
            &format!(" {}", with("00", "01")),
        ] {
            assert_eq!(trace_id(invalid), None, "{invalid:?}");
        }
        for valid in [with("00", "01"), with("00", "ff"), with("01", "01"), with("cc", "01-more")] {
            assert_eq!(trace_id(&valid), Some(TRACE), "{valid}");
        }
    }
}
