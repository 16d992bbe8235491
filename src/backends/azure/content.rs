//! Bytes as Azure's text, and what a new version keeps of the one before.

use azure_core::time::OffsetDateTime;
use azure_security_keyvault_secrets::models::{Secret, SecretAttributes, SetSecretParameters};
use base64::{Engine, prelude::BASE64_STANDARD};
use zeroize::Zeroizing;

use crate::{backends::BackendError, secret::SecretValue};

/// Says that a value is base64 of bytes that are not text. Azure gives the content
/// type no meaning; the parameter keeps others' types from being taken for it.
pub(super) const BINARY: &str = "application/octet-stream;base64";

/// The longest text that Azure stores.
const MAX_TEXT: usize = 25 << 10;

/// Whether a value can be stored. Counted in characters: whether Azure means these or
/// bytes is its to say.
#[expect(clippy::disallowed_methods, reason = "text is measured by what it says")]
pub(super) fn storable(value: &SecretValue) -> Result<(), BackendError> {
    let length = match str::from_utf8(value.expose_secret()) {
        Ok(text) => text.chars().count(),
        // Of its base64.
        Err(_) => value.len().div_ceil(3) * 4,
    };
    match length > MAX_TEXT {
        true => Err(BackendError::Invalid("it takes no value above 25 KB".to_owned())),
        false => Ok(()),
    }
}

/// The bytes of a version.
pub(super) fn value_of(found: Secret) -> Result<SecretValue, BackendError> {
    let text = found.value.ok_or(BackendError::NotFound)?;
    if found.content_type.as_deref() != Some(BINARY) {
        return Ok(SecretValue::new(text));
    }
    let text = Zeroizing::new(text);
    // The decoder's error would quote a character of the value.
    let bytes = BASE64_STANDARD.decode(text.as_bytes()).map_err(|_| {
        BackendError::Invalid(format!("the value has content type {BINARY} but is not base64"))
    })?;
    Ok(SecretValue::new(bytes))
}

/// The first version of a secret.
#[expect(clippy::disallowed_methods, reason = "this is where the value is sent to its store")]
pub(super) fn created(value: &SecretValue) -> SetSecretParameters {
    let (text, content_type) = match str::from_utf8(value.expose_secret()) {
        Ok(text) => (text.to_owned(), None),
        Err(_) => (BASE64_STANDARD.encode(value.expose_secret()), Some(BINARY.to_owned())),
    };
    SetSecretParameters { value: Some(text), content_type, ..SetSecretParameters::default() }
}

/// The next version of a secret. Azure would drop what is not sent with it.
pub(super) fn updated(value: &SecretValue, before: Secret) -> SetSecretParameters {
    let mut parameters = created(value);
    let kept = before.content_type.filter(|kept| kept != BINARY);
    parameters.content_type = parameters.content_type.or(kept);
    parameters.tags = before.tags;
    parameters.secret_attributes = before.attributes.map(|before| SecretAttributes {
        enabled: before.enabled,
        expires: before.expires.filter(|expires| *expires > OffsetDateTime::now_utc()),
        not_before: before.not_before,
        // All else is Azure's to say.
        ..SecretAttributes::default()
    });
    parameters
}

#[cfg(test)]
mod tests {
    use azure_core::time::Duration;

    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "the test compares plaintext")]
    fn only_our_own_content_type_is_decoded() {
        for (content_type, text, expected) in [
            (None, "AP8=", Some(&b"AP8="[..])),
            (Some("application/octet-stream"), "AP8=", Some(b"AP8=")),
            (Some("application/octet-stream; base64"), "AP8=", Some(b"AP8=")),
            (Some("text/plain"), "x", Some(b"x")),
            (Some(BINARY), "AP8=", Some(&[0, 0xff])),
            (Some(BINARY), "", Some(b"")),
            (Some(BINARY), "AP8", None),
            (Some(BINARY), "canary value", None),
        ] {
            let mut found = Secret::default();
            found.content_type = content_type.map(str::to_owned);
            found.value = Some(text.to_owned());
            match (value_of(found), expected) {
                (Ok(value), Some(expected)) => assert_eq!(value.expose_secret(), expected),
                (Err(error), None) => assert!(!format!("{error:?}").contains("canary"), "{error}"),
                (other, _) => panic!("{content_type:?} {text}: {other:?}"),
            }
        }
    }

    #[test]
    fn what_is_too_long_is_counted_as_it_is_stored() {
        for (value, fits) in [
            (vec![], true),
            (vec![b'a'; 25 << 10], true),
            (vec![b'a'; (25 << 10) + 1], false),
            ("\u{e9}".repeat(25 << 10).into_bytes(), true),
            (vec![0xff; 19_200], true),
            (vec![0xff; 19_201], false),
        ] {
            let length = value.len();
            assert_eq!(storable(&SecretValue::new(value)).is_ok(), fits, "{length}");
        }
    }

    #[test]
    fn new_version_keeps_what_azure_would_drop() {
        let now = OffsetDateTime::now_utc();
        let mut before = Secret::default();
        before.tags = Some([("team".to_owned(), "pay".to_owned())].into());
        before.content_type = Some("application/json".to_owned());
        before.attributes = Some(SecretAttributes {
            enabled: Some(true),
            expires: Some(now + Duration::days(1)),
            not_before: Some(now - Duration::days(1)),
            created: Some(now),
            ..SecretAttributes::default()
        });
        let sent = updated(&SecretValue::new("{}"), before.clone());
        assert_eq!(sent.tags, before.tags);
        assert_eq!(sent.content_type.as_deref(), Some("application/json"));
        let kept = sent.secret_attributes.expect("kept");
        assert_eq!(kept.expires, Some(now + Duration::days(1)));
        assert_eq!(kept.not_before, Some(now - Duration::days(1)));
        assert_eq!((kept.enabled, kept.created), (Some(true), None));

        before.attributes.as_mut().expect("set").expires = Some(now - Duration::days(1));
        let sent = updated(&SecretValue::new([0xff]), before.clone());
        assert_eq!(sent.secret_attributes.expect("kept").expires, None, "it has passed");
        assert_eq!(sent.content_type.as_deref(), Some(BINARY));

        before.content_type = Some(BINARY.to_owned());
        let sent = updated(&SecretValue::new("text"), before);
        assert_eq!(sent.content_type, None, "it is text now");
    }
}
