//! A bearer token in a file that somebody renews, as the kubelet does.

use std::{
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::HeaderValue;
use serde::Deserialize;
use zeroize::Zeroizing;

use super::CallError;

/// How long a token is used before its file is read again; the kubelet renews one at
/// four fifths of its life.
const FRESH: Duration = Duration::from_secs(60);

/// The file and what it last held.
pub(super) struct TokenFile {
    path: PathBuf,
    held: Mutex<Option<Held>>,
}

struct Held {
    header: HeaderValue,
    read_at: Instant,
    expires: Option<SystemTime>,
}

// === impl TokenFile ===

impl TokenFile {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, held: Mutex::default() }
    }

    /// The value of the `authorization` header. A file that cannot be read any more
    /// leaves the last token in use.
    pub(super) async fn header(&self) -> Result<HeaderValue, CallError> {
        if let Some(held) = self.held().as_ref().filter(|held| held.read_at.elapsed() < FRESH) {
            return Ok(held.header.clone());
        }
        let read = tokio::fs::read_to_string(&self.path).await.map(Zeroizing::new);
        let read = read.map_err(|error| error.to_string()).and_then(|text| Held::parse(&text));
        let mut held = self.held();
        match (read, held.as_mut()) {
            (Ok(new), _) => Ok(held.insert(new).header.clone()),
            (Err(_), Some(old)) => {
                old.read_at = Instant::now();
                Ok(old.header.clone())
            }
            (Err(error), None) => {
                let text = format!("token file {}: {error}", self.path.display());
                Err(CallError::Credentials(text))
            }
        }
    }

    /// Has the file read again before the next call: the token was refused.
    pub(super) fn doubt(&self) {
        if let Some(held) = self.held().as_mut() {
            held.read_at = held.read_at.checked_sub(FRESH).unwrap_or(held.read_at);
        }
    }

    pub(super) fn expires(&self) -> Option<SystemTime> {
        self.held().as_ref()?.expires
    }

    fn held(&self) -> MutexGuard<'_, Option<Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Held ===

impl Held {
    fn parse(text: &str) -> Result<Self, String> {
        let token = text.trim();
        if token.is_empty() {
            return Err("is empty".to_owned());
        }
        let header = Zeroizing::new(format!("Bearer {token}"));
        let mut header = HeaderValue::from_str(&header).map_err(|_| "holds no token".to_owned())?;
        header.set_sensitive(true);
        Ok(Self { header, read_at: Instant::now(), expires: expiry(token) })
    }
}

/// When a JWT says that it ends. Our own token, sent to its issuer: nothing depends on
/// whether that is true.
fn expiry(token: &str) -> Option<SystemTime> {
    #[derive(Deserialize)]
    struct Claims {
        exp: u64,
    }
    let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    let claims: Claims = serde_json::from_slice(&payload).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(claims.exp))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(exp: &str) -> String {
        format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(format!(r#"{{"exp":{exp}}}"#)))
    }

    #[tokio::test]
    async fn file_is_read_again_after_a_minute_or_a_refusal() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("token");
        let file = TokenFile::new(path.clone());
        let error = file.header().await.expect_err("no file");
        assert!(matches!(error, CallError::Credentials(_)), "{error:?}");
        assert_eq!(file.expires(), None);

        std::fs::write(&path, format!("{}\n", token("4102444800"))).expect("written");
        let first = file.header().await.expect("token");
        assert_eq!(first, format!("Bearer {}", token("4102444800")));
        assert!(first.is_sensitive());
        let year_2100 = SystemTime::UNIX_EPOCH + Duration::from_secs(4_102_444_800);
        assert_eq!(file.expires(), Some(year_2100));

        std::fs::write(&path, "second").expect("written");
        assert_eq!(file.header().await.expect("token"), first);
        file.doubt();
        assert_eq!(file.header().await.expect("token"), "Bearer second");
        assert_eq!(file.expires(), None);

        std::fs::remove_file(&path).expect("removed");
        file.doubt();
        assert_eq!(file.header().await.expect("the last one"), "Bearer second");
    }

    #[test]
    fn odd_tokens_have_no_expiry_and_odd_files_no_token() {
        for odd in ["opaque", "a.b", "a.%.c", &token("-1"), &token("\"soon\"")] {
            assert_eq!(expiry(odd), None, "{odd}");
        }
        for odd in ["", " \n", "a\nb"] {
            let error = Held::parse(odd).map(drop).expect_err(odd);
            assert!(!error.contains('a') || !error.contains('b'), "{error}");
        }
    }
}
