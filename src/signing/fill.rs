//! Templates with the values in them.

use zeroize::Zeroizing;

use super::{SigningError, Values};
use crate::{
    injection::{Part, Template},
    secret::SecretValue,
};

/// Longer is no credential.
const MAX: usize = 16 * 1024;

/// Text on one line: for what ends in a header, a form or a key.
pub(super) fn fill(
    template: &Template,
    values: Values<'_>,
) -> Result<Zeroizing<String>, SigningError> {
    let mut parts = Vec::with_capacity(template.parts().len());
    for part in template.parts() {
        parts.push(match part {
            Part::Literal(literal) => literal.as_str(),
            Part::Reference(secret) => {
                let unfit = || SigningError::Unfit(secret.clone());
                let value = trimmed(values(secret).ok_or(SigningError::Internal)?);
                let value = std::str::from_utf8(value).map_err(|_| unfit())?;
                if value.is_empty() || value.len() > MAX || value.contains(char::is_control) {
                    return Err(unfit());
                }
                value
            }
        });
    }
    // Allocates once: growing would leave copies behind.
    Ok(Zeroizing::new(parts.concat()))
}

/// The bytes of what is one reference alone: keys in any form.
pub(super) fn key<'v>(
    template: &Template,
    values: Values<'v>,
) -> Result<(&'v [u8], SigningError), SigningError> {
    let (Some(secret), 1) = (template.references().next(), template.parts().len()) else {
        return Err(SigningError::Internal);
    };
    let value = trimmed(values(secret).ok_or(SigningError::Internal)?);
    let unfit = SigningError::Unfit(secret.clone());
    if value.is_empty() { Err(unfit) } else { Ok((value, unfit)) }
}

/// Without the one newline that files and `kubectl` leave at the end.
#[expect(clippy::disallowed_methods, reason = "what signs the request it was permitted for")]
fn trimmed(value: &SecretValue) -> &[u8] {
    let value = value.expose_secret();
    value.strip_suffix(b"\n").map_or(value, |v| v.strip_suffix(b"\r").unwrap_or(v))
}
