//! Resolved secrets as values of headers. Pure.
//!
//! A proxy fails a whole mutation over one bad byte, so values are checked here, and
//! the reference, never the value, is named.

use http::HeaderName;
use zeroize::Zeroizing;

use super::{HeaderText, InjectedValue, Part, Rewrite, Template};
use crate::secret::{SecretRef, SecretValue};

/// Envoy's limit for one header value in a mutation.
const MAX_VALUE: usize = 16 * 1024;

/// A secret that cannot be put where its reference stands.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{secret} cannot be put into a header: {reason}")]
pub struct Unfit {
    /// The reference.
    pub secret: SecretRef,
    /// What is wrong with its value.
    pub reason: UnfitReason,
}

/// What is wrong with a value, without showing it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnfitReason {
    /// CR, LF, NUL or another control character, beyond one newline at the end.
    #[error("control_character")]
    Control,
    /// More than 16 KiB, together with what is around it.
    #[error("too_long")]
    TooLong,
    /// A header without value is most often a credential that got lost.
    #[error("empty")]
    Empty,
    /// A colon in the user of `Basic`, where it would move the rest to the password.
    #[error("colon_in_username")]
    Colon,
    /// Not text, where the proxy takes nothing else.
    #[error("not_text")]
    NotText,
    /// Not among what was resolved.
    #[error("unresolved")]
    Unresolved,
}

/// A header with its values, as they go to the upstream. Without `Debug`, and wiped when
/// it is dropped.
pub struct RenderedHeader {
    /// Which header.
    pub name: HeaderName,
    /// All its values, in order.
    pub values: Vec<Zeroizing<Vec<u8>>>,
}

/// Puts resolved secrets where their references stand.
///
/// # Errors
/// [`Unfit`] if a value cannot stand in a header.
pub fn render_headers<'v>(
    rewrites: &[Rewrite<'_>],
    resolved: impl Fn(&SecretRef) -> Option<&'v SecretValue>,
) -> Result<Vec<RenderedHeader>, Unfit> {
    let header = |Rewrite { name, values }: &Rewrite<'_>| {
        let values = values.iter().map(|value| match value {
            HeaderText::Kept(value) => Ok(Zeroizing::new(value.to_vec())),
            HeaderText::Resolved(value) => render(value, &resolved),
        });
        Ok(RenderedHeader { name: name.clone(), values: values.collect::<Result<_, _>>()? })
    };
    rewrites.iter().map(header).collect()
}

fn render<'v>(
    value: &InjectedValue,
    resolved: &impl Fn(&SecretRef) -> Option<&'v SecretValue>,
) -> Result<Zeroizing<Vec<u8>>, Unfit> {
    let unfit = |reason| {
        let secret = value.references().next().cloned();
        secret.map(|secret| Unfit { secret, reason })
    };
    let rendered = match value {
        InjectedValue::Text(text) => fill(text, resolved)?,
        InjectedValue::Basic { username, password } => {
            let mut credentials = fill(username, resolved)?;
            if let (true, Some(unfit)) = (credentials.contains(&b':'), unfit(UnfitReason::Colon)) {
                return Err(unfit);
            }
            credentials.push(b':');
            credentials.extend_from_slice(&fill(password, resolved)?);
            basic(&credentials)
        }
    };
    let reason = match rendered.len() {
        0 => Some(UnfitReason::Empty),
        1..=MAX_VALUE => None,
        _ => Some(UnfitReason::TooLong),
    };
    match reason.and_then(unfit) {
        Some(unfit) => Err(unfit),
        None => Ok(rendered),
    }
}

fn basic(credentials: &[u8]) -> Zeroizing<Vec<u8>> {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let mut value = String::from("Basic ");
    STANDARD.encode_string(credentials, &mut value);
    Zeroizing::new(value.into_bytes())
}

#[expect(clippy::disallowed_methods, reason = "the header that the secret was permitted for")]
fn fill<'v>(
    template: &Template,
    resolved: &impl Fn(&SecretRef) -> Option<&'v SecretValue>,
) -> Result<Zeroizing<Vec<u8>>, Unfit> {
    let mut filled = Zeroizing::new(Vec::new());
    for part in template.parts() {
        match part {
            Part::Literal(text) => filled.extend_from_slice(text.as_bytes()),
            Part::Reference(secret) => {
                let unfit = |reason| Unfit { secret: secret.clone(), reason };
                let value = resolved(secret).ok_or_else(|| unfit(UnfitReason::Unresolved))?;
                filled.extend_from_slice(header_text(value.expose_secret()).map_err(unfit)?);
            }
        }
    }
    Ok(filled)
}

/// A secret's bytes as a header can hold them: without the one newline that
/// files and `kubectl` leave at the end.
fn header_text(value: &[u8]) -> Result<&[u8], UnfitReason> {
    let value = value.strip_suffix(b"\n").map_or(value, |v| v.strip_suffix(b"\r").unwrap_or(v));
    if value.len() > MAX_VALUE {
        return Err(UnfitReason::TooLong);
    }
    match value.iter().any(|b| b.is_ascii_control() && *b != b'\t') {
        true => Err(UnfitReason::Control),
        false => Ok(value),
    }
}

#[cfg(test)]
mod tests;
