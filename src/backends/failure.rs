//! What stores that speak HTTP have in common when they refuse: the text that goes
//! to the log, the time they ask to wait, the meaning of a bare status.

use std::{
    error::Error as StdError,
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::{BackendError, Cause};

/// Longest cause in bytes; what a store says is not to fill the log.
const MAX_CAUSE: usize = 1024;

/// No store means longer; nobody would wait for it.
pub(super) const LONGEST_WAIT: Duration = Duration::from_secs(3600);

/// What the store or the way to it said, for the log.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct StoreCause(String);

/// A store's text as a cause: one line of bounded length. Never hand it a body
/// that could hold a value.
pub(super) fn cause(mut text: String) -> Cause {
    text.truncate(text.floor_char_boundary(MAX_CAUSE));
    // One line, whatever the store says.
    Arc::new(StoreCause(text.replace(char::is_control, " ")))
}

/// The texts of an error and its causes; never their `Debug`.
pub(super) fn chain(error: &(dyn StdError + 'static)) -> Cause {
    let texts: Vec<_> = causes(error).map(ToString::to_string).collect();
    cause(texts.join(": "))
}

/// The error itself, then its causes.
pub(super) fn causes<'a>(
    error: &'a (dyn StdError + 'static),
) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |error: &&'a (dyn StdError + 'static)| (*error).source())
}

/// A `Retry-After` header: seconds, or a date (RFC 9110, section 10.2.3).
pub(super) fn retry_after(text: &str) -> Option<Duration> {
    let text = text.trim();
    let wait = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let date = httpdate::parse_http_date(text).ok()?;
            date.duration_since(SystemTime::now()).unwrap_or_default()
        }
    };
    Some(wait.min(LONGEST_WAIT))
}

/// An error code that may be shown: whatever else answers at the store's address
/// could put any text there.
pub(super) fn plain_code(code: &str) -> &str {
    let plain = (1..=64).contains(&code.len()) && code.bytes().all(|b| b.is_ascii_alphanumeric());
    if plain { code } else { "unknown error code" }
}

/// What a status means that comes without a code of the store: most often from a
/// gateway or proxy on the way.
pub(super) fn from_status(
    status: u16,
    retry_after: Option<Duration>,
    cause: Option<Cause>,
) -> BackendError {
    match status {
        429 => BackendError::Throttled { retry_after },
        401 | 403 | 407 => BackendError::PermissionDenied(cause),
        408 | 504 => BackendError::TimedOut,
        500.. => BackendError::Unavailable(cause),
        // A success that could not be read; its text may quote a value.
        ..=399 => BackendError::Unavailable(None),
        _ => BackendError::Invalid(format!("status {status}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_read_as_seconds_or_date() {
        assert_eq!(retry_after(" 7 "), Some(Duration::from_secs(7)));
        assert_eq!(retry_after("999999999"), Some(LONGEST_WAIT));
        let soon = SystemTime::now() + Duration::from_secs(90);
        let wait = retry_after(&httpdate::fmt_http_date(soon)).expect("a date");
        assert!((85..=90).contains(&wait.as_secs()), "{wait:?}");
        let past = "Wed, 21 Oct 2015 07:28:00 GMT";
        assert_eq!(retry_after(past), Some(Duration::ZERO));
        for text in ["", "-1", "1.5", "soon"] {
            assert_eq!(retry_after(text), None, "{text}");
        }
    }

    #[test]
    fn causes_are_one_short_line() {
        let cause = cause(format!("a\r\nb\0{}", "\u{e9}".repeat(2000))).to_string();
        assert!(cause.starts_with("a  b "), "{cause}");
        assert!(cause.len() <= MAX_CAUSE);
    }
}
