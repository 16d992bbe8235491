//! Notices that a store has another version of a secret: who may send them, and which
//! secrets they are about.
//!
//! What a notice says is not believed: the secrets that it names are read anew when
//! somebody wants them, or watches them. One that comes twice costs a read, and one about
//! a secret that nobody knows costs nothing and is answered alike.

mod event_bridge;
mod event_grid;
mod pub_sub;

use std::{collections::BTreeMap, fmt, sync::Arc};

use aws_lc_rs::{constant_time::verify_slices_are_equal, digest};
use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderMap, HeaderName, header};
use tokio::time::Instant;

use crate::{
    identity::{Bearer, OidcSettings, OidcVerifier, TokenError, TokenSetupError},
    resolver::Resolver,
    secret::{BackendName, NameEncoding, NameGrammar},
};

/// Carries a key where a sender can set headers of its own.
pub const KEY: HeaderName = HeaderName::from_static("x-vaultmux-webhook-key");

/// All that are configured, by name.
#[derive(Default)]
pub struct Webhooks(BTreeMap<String, Arc<Webhook>>);

/// One sender.
pub struct Webhook {
    settings: WebhookSettings,
    /// Of a sender that shows tokens.
    tokens: Option<OidcVerifier>,
}

/// What is configured of one sender.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebhookSettings {
    /// Who it is, and how it shows that.
    pub sender: Sender,
    /// The stores that its notices are about.
    pub targets: Vec<Target>,
}

/// Who sends notices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sender {
    /// Amazon EventBridge, through an API destination.
    EventBridge(Credential),
    /// Azure Event Grid, with CloudEvents.
    EventGrid {
        /// Any of these, in a header or as parameter `key`.
        keys: Keys,
        /// Who may ask whether it may send.
        origins: Vec<String>,
    },
    /// Google Pub/Sub, by push with a token.
    PubSub(OidcSettings),
}

/// What an API destination shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credential {
    /// A key in a header of its choice.
    ApiKey {
        /// Which header.
        header: HeaderName,
        /// Any of these.
        keys: Keys,
    },
    /// User and password: `user:password`, any of these.
    Basic(Keys),
}

/// Shared secrets, of which only hashes are kept.
#[derive(Clone, PartialEq, Eq)]
pub struct Keys(Vec<Digest>);

/// A store that notices are about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its name here.
    pub backend: BackendName,
    /// What all names begin with in the store, and not here.
    pub prefix: String,
    /// Names that it can have.
    pub grammar: NameGrammar,
}

/// Why a notice is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WebhookError {
    /// It does not show that it is from whom it must be.
    #[error("the sender is not authenticated")]
    Unproven,
    /// Nobody can tell now whether it is.
    #[error("the sender cannot be verified now")]
    Unavailable,
    /// Not what this sender sends.
    #[error("not a notice of this sender")]
    Malformed,
}

/// What came of a notice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Effect {
    /// Names that will be read anew, in one store or another.
    pub invalidated: usize,
    /// Names that no store here could have.
    pub ignored: usize,
}

type Digest = [u8; digest::SHA256_OUTPUT_LEN];

// === impl Webhooks ===

impl Webhooks {
    /// Webhooks of these names; nobody is called. Those that were there `before` keep what
    /// they know of their sender.
    ///
    /// # Errors
    /// [`TokenSetupError`] for keys that must not be fetched from where they are.
    pub fn new(
        settings: BTreeMap<String, WebhookSettings>,
        before: Option<&Self>,
    ) -> Result<Self, TokenSetupError> {
        let webhook = |(name, settings): (String, WebhookSettings)| {
            let kept = before.and_then(|before| before.0.get(&name));
            if let Some(kept) = kept.filter(|kept| kept.settings == settings) {
                return Ok((name, Arc::clone(kept)));
            }
            let tokens = match &settings.sender {
                Sender::PubSub(of) => Some(OidcVerifier::new(of.clone())?),
                Sender::EventBridge(_) | Sender::EventGrid { .. } => None,
            };
            Ok((name, Arc::new(Webhook { settings, tokens })))
        };
        settings.into_iter().map(webhook).collect::<Result<_, _>>().map(Self)
    }

    /// Whether there are any.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether this origin may send to one of them, as CloudEvents' handshake asks. That
    /// gives it no right but to try.
    #[must_use]
    pub fn admit_origin(&self, origin: &str) -> bool {
        self.0.values().any(|webhook| webhook.admits_origin(origin))
    }

    /// The one of that name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Arc<Webhook>> {
        self.0.get(name)
    }
}

// === impl Webhook ===

impl Webhook {
    /// Whether a request is from its sender. Its body is not looked at.
    ///
    /// # Errors
    /// [`WebhookError::Unproven`] or, before `deadline`, [`WebhookError::Unavailable`].
    pub async fn authenticate(
        &self,
        headers: &HeaderMap,
        query: Option<&str>,
        deadline: Instant,
    ) -> Result<(), WebhookError> {
        let proven = match &self.settings.sender {
            Sender::EventBridge(Credential::ApiKey { header, keys }) => {
                only(headers, header).is_some_and(|key| keys.has(key))
            }
            Sender::EventBridge(Credential::Basic(keys)) => only(headers, &header::AUTHORIZATION)
                .and_then(basic)
                .is_some_and(|it| keys.has(&it)),
            Sender::EventGrid { keys, .. } => match parameter(query, "key") {
                Ok(Some(key)) => keys.has(key.as_bytes()) && !headers.contains_key(KEY),
                Ok(None) => only(headers, &KEY).is_some_and(|key| keys.has(key)),
                Err(()) => false,
            },
            Sender::PubSub(_) => {
                let values = headers.get_all(header::AUTHORIZATION).iter();
                let bearer = Bearer::find(values.map(|value| value.as_bytes()));
                match (bearer, &self.tokens) {
                    (Ok(Some(bearer)), Some(tokens)) => {
                        match tokens.verify(bearer, deadline).await {
                            Ok(()) => true,
                            Err(TokenError::Refused(refusal)) => {
                                tracing::debug!(token.refusal = refusal.as_str(), "token refused");
                                false
                            }
                            Err(TokenError::Unavailable) => return Err(WebhookError::Unavailable),
                        }
                    }
                    _ => false,
                }
            }
        };
        if proven { Ok(()) } else { Err(WebhookError::Unproven) }
    }

    fn admits_origin(&self, origin: &str) -> bool {
        match &self.settings.sender {
            Sender::EventGrid { origins, .. } => origins.iter().any(|known| known == origin),
            Sender::EventBridge(_) | Sender::PubSub(_) => false,
        }
    }

    /// Makes what is cached of the secrets that a notice names unreachable, at once.
    ///
    /// # Errors
    /// [`WebhookError::Malformed`].
    pub fn take(&self, body: &[u8], resolver: &Resolver) -> Result<Effect, WebhookError> {
        let notice: serde_json::Value =
            serde_json::from_slice(body).map_err(|_| WebhookError::Malformed)?;
        let names = match &self.settings.sender {
            Sender::EventBridge(_) => event_bridge::names(&notice),
            Sender::EventGrid { .. } => event_grid::names(&notice),
            Sender::PubSub(_) => pub_sub::names(&notice),
        };
        let mut effect = Effect::default();
        for name in names.ok_or(WebhookError::Malformed)? {
            let mut known = false;
            for Target { backend, prefix, grammar } in &self.settings.targets {
                let rest = name.get(..prefix.len()).filter(|start| match grammar.lower_case {
                    true => start.eq_ignore_ascii_case(prefix),
                    false => start == prefix,
                });
                let rest = rest.map(|start| &name[start.len()..]);
                let rest = rest.and_then(|rest| grammar.canonical(rest, NameEncoding::Plain).ok());
                if let Some(name) = rest {
                    resolver.invalidate(backend, None, &name);
                    known = true;
                }
            }
            match known {
                true => effect.invalidated += 1,
                false => effect.ignored += 1,
            }
        }
        Ok(effect)
    }
}

// === impl Keys ===

impl Keys {
    /// Keeps the hashes of these.
    pub fn new<'a>(keys: impl IntoIterator<Item = &'a [u8]>) -> Self {
        Self(keys.into_iter().map(hash).collect())
    }

    /// In a time that depends on the length of what was sent, and nothing else.
    fn has(&self, sent: &[u8]) -> bool {
        let sent = hash(sent);
        let equal = |key: &Digest| verify_slices_are_equal(key, &sent).is_ok();
        self.0.iter().fold(false, |found, key| found | equal(key))
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").finish_non_exhaustive()
    }
}

fn hash(bytes: &[u8]) -> Digest {
    let mut found = Digest::default();
    found.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    found
}

/// A header that was sent once.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a [u8]> {
    let mut sent = headers.get_all(name).iter();
    let only = sent.next().filter(|_| sent.next().is_none())?;
    Some(only.as_bytes())
}

/// User and password of Basic credentials.
fn basic(value: &[u8]) -> Option<Vec<u8>> {
    let value = std::str::from_utf8(value).ok()?;
    let (scheme, encoded) = value.split_once(' ')?;
    let encoded = scheme.eq_ignore_ascii_case("basic").then_some(encoded.trim())?;
    STANDARD.decode(encoded).ok()
}

/// A parameter that stands once in the query.
fn parameter(query: Option<&str>, name: &str) -> Result<Option<String>, ()> {
    let mut found = None;
    for (key, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
        if key == name && found.replace(value.into_owned()).is_some() {
            return Err(());
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests;
