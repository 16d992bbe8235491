//! Senders that tell when a secret has changed.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use http::HeaderName;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_saphyr::Spanned;
use zeroize::Zeroizing;

use super::{
    BackendSettings, ConfigError, ConfiguredSecret,
    error::line,
    schema::{BackendName as NameText, HeaderText, SomeText, WebhookKey, WebhookKeys, by_sender},
    value::Context,
};
use crate::{
    identity::{KeyLocation, OidcSettings},
    json_schema::shape::NonEmpty,
    secret::BackendName,
    webhook::{Credential, Keys, Sender, Target, WebhookSettings},
};

/// Google's own, for all of its accounts.
const GOOGLE: &str = "https://accounts.google.com";
const GOOGLE_KEYS: &str = "https://www.googleapis.com/oauth2/v3/certs";
/// Who delivers for Event Grid.
const EVENT_GRID: &str = "eventgrid.azure.net";
/// A key that is shorter can be guessed.
const MIN_KEY: usize = 16;

type Backends = [(BackendName, BackendSettings)];

/// A webhook as configured; what its key file holds is read when it is built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebhookConfig {
    settings: WebhookSettings,
    /// Keys, a line each.
    pub key_file: Option<PathBuf>,
    /// What stands before each of them: the user of Basic credentials.
    user: String,
}

/// A sender that tells when a secret has changed. Which keys there are depends on its `type`.
#[derive(Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
#[schemars(rename = "Webhook", transform = by_sender)]
pub(super) enum WebhookFile {
    /// Amazon EventBridge, through an API destination.
    #[schemars(extend(
        "oneOf" = [{"required": ["key"]}, {"required": ["key_file"]}],
        "not" = {"required": ["header", "user"]}
    ))]
    EventBridge {
        /// The backends that its events are about.
        #[schemars(with = "NonEmpty<NameText>")]
        backends: Vec<String>,
        /// The header of an API key; without, user and password are asked for.
        #[schemars(with = "Option<HeaderText>")]
        header: Option<String>,
        /// The user, where there is no header; `vaultmux` by default.
        #[schemars(with = "Option<SomeText>")]
        user: Option<String>,
        /// The key or password, 16 characters or more.
        #[schemars(with = "Option<WebhookKey>")]
        key: Option<ConfiguredSecret>,
        /// A file with keys or passwords instead, one a line; each of them counts.
        key_file: Option<PathBuf>,
    },
    /// Azure Event Grid, with the CloudEvents schema.
    #[schemars(extend("oneOf" = [{"required": ["key"]}, {"required": ["key_file"]}]))]
    EventGrid {
        /// The backends that its events are about.
        #[schemars(with = "NonEmpty<NameText>")]
        backends: Vec<String>,
        /// The key, 16 characters or more: as header `x-vaultmux-webhook-key` or parameter
        /// `key`.
        #[schemars(with = "Option<WebhookKey>")]
        key: Option<ConfiguredSecret>,
        /// A file with keys instead, one a line; each of them counts.
        key_file: Option<PathBuf>,
        /// Origins that may ask whether they may send; `eventgrid.azure.net` by default.
        #[schemars(with = "Option<NonEmpty<SomeText>>")]
        origins: Option<Vec<String>>,
    },
    /// Google Pub/Sub, by authenticated push.
    PubSub {
        /// The backends that its messages are about.
        #[schemars(with = "NonEmpty<NameText>")]
        backends: Vec<String>,
        /// The audience of the tokens, as the subscription has it.
        #[schemars(with = "SomeText")]
        audience: String,
        /// The service account that the subscription pushes as.
        #[schemars(with = "SomeText")]
        email: String,
        /// Where the keys of the tokens' issuer are, `https://<address>` or `file:<path>`;
        /// Google's own by default.
        #[schemars(with = "Option<WebhookKeys>")]
        keys: Option<String>,
    },
}

/// What a sender shows, before its key file is read.
type Checked = (Sender, Option<PathBuf>, String);

pub(super) fn check(
    webhooks: BTreeMap<String, Spanned<WebhookFile>>,
    backends: &Backends,
    context: &Context<'_>,
) -> Result<BTreeMap<String, WebhookConfig>, ConfigError> {
    let check = |(name, webhook): (String, Spanned<WebhookFile>)| {
        let (at, key) = (line(&webhook), format!("webhooks.{name}"));
        let refuse = |message: String| ConfigError::key(context.path, at, &key, message);
        if BackendName::parse(&name).is_none() {
            let why = "a webhook's name is 1 to 63 lower-case letters, digits or hyphens";
            return Err(refuse(why.to_owned()));
        }
        let targets = targets(webhook.value.backends(), backends).map_err(&refuse)?;
        let (sender, key_file, user) = webhook.value.sender(context).map_err(&refuse)?;
        let settings = WebhookSettings { sender, targets };
        Ok((name, WebhookConfig { settings, key_file, user }))
    };
    webhooks.into_iter().map(check).collect()
}

fn targets(names: &[String], backends: &Backends) -> Result<Vec<Target>, String> {
    if names.is_empty() {
        return Err("backends must name at least one".to_owned());
    }
    let target = |name: &String| {
        let found = backends.iter().find(|(known, _)| known.as_str() == name);
        let (backend, settings) =
            found.ok_or_else(|| format!("{name:?} is not one of the backends"))?;
        if settings.is_per_namespace() {
            return Err(format!("{name} holds secrets of its callers' namespaces"));
        }
        let prefix = settings.prefix().to_owned();
        Ok(Target { backend: backend.clone(), prefix, grammar: settings.grammar() })
    };
    names.iter().map(target).collect()
}

// === impl WebhookFile ===

impl WebhookFile {
    fn backends(&self) -> &[String] {
        match self {
            Self::EventBridge { backends, .. }
            | Self::EventGrid { backends, .. }
            | Self::PubSub { backends, .. } => backends,
        }
    }

    fn sender(self, context: &Context<'_>) -> Result<Checked, String> {
        match self {
            Self::EventBridge { header: Some(_), user: Some(_), .. } => {
                Err("header and user exclude each other".to_owned())
            }
            Self::EventBridge { header, user, key, key_file, .. } => {
                let user = match &header {
                    Some(_) => String::new(),
                    None => format!("{}:", user.as_deref().unwrap_or("vaultmux")),
                };
                let (keys, key_file) = keys(key, key_file, &user, context)?;
                let credential = match header {
                    None => Credential::Basic(keys),
                    Some(header) => {
                        let header = HeaderName::from_bytes(header.as_bytes())
                            .map_err(|_| format!("header {header:?} is no name of a header"))?;
                        Credential::ApiKey { header, keys }
                    }
                };
                Ok((Sender::EventBridge(credential), key_file, user))
            }
            Self::EventGrid { key, key_file, origins, .. } => {
                let (keys, key_file) = keys(key, key_file, "", context)?;
                let origins = origins.unwrap_or_else(|| vec![EVENT_GRID.to_owned()]);
                Ok((Sender::EventGrid { keys, origins }, key_file, String::new()))
            }
            Self::PubSub { audience, email, keys, .. } => {
                if audience.is_empty() || email.is_empty() {
                    return Err("audience and email must not be empty".to_owned());
                }
                let keys = keys.as_deref().unwrap_or(GOOGLE_KEYS);
                let keys = match keys.strip_prefix("file:") {
                    Some("") => return Err("keys: file: has no path".to_owned()),
                    Some(path) => KeyLocation::File(context.resolve(path)),
                    None => KeyLocation::https(keys, None).map_err(|why| format!("keys: {why}"))?,
                };
                let issuer = GOOGLE.to_owned();
                let settings = OidcSettings { issuer, audience, email, keys };
                Ok((Sender::PubSub(settings), None, String::new()))
            }
        }
    }
}

/// One key, or where there are some.
#[expect(clippy::disallowed_methods, reason = "hashed, to be compared with what is sent")]
fn keys(
    key: Option<ConfiguredSecret>,
    key_file: Option<PathBuf>,
    user: &str,
    context: &Context<'_>,
) -> Result<(Keys, Option<PathBuf>), String> {
    match (key, key_file) {
        (None, None) => Err("a key or key_file is needed".to_owned()),
        (Some(_), Some(_)) => Err("key and key_file exclude each other".to_owned()),
        (None, Some(path)) => Ok((Keys::new([]), Some(context.resolve(path)))),
        (Some(key), None) if key.value().len() < MIN_KEY => {
            Err(format!("key must have {MIN_KEY} characters or more"))
        }
        (Some(key), None) => {
            let mut shown = Zeroizing::new(user.as_bytes().to_vec());
            shown.extend_from_slice(key.value().expose_secret());
            Ok((Keys::new([shown.as_slice()]), None))
        }
    }
}

// === impl WebhookConfig ===

impl WebhookConfig {
    /// The settings, with the keys of the file.
    ///
    /// # Errors
    /// The file, and why it cannot be used: never what it holds.
    pub fn settings(&self) -> Result<WebhookSettings, (&Path, String)> {
        let Some(path) = &self.key_file else { return Ok(self.settings.clone()) };
        let failed = |why: String| (path.as_path(), why);
        let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
        let text = Zeroizing::new(text);
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        let lines: Vec<_> = lines.filter(|line| !line.starts_with('#')).collect();
        if lines.is_empty() {
            return Err(failed("does not hold a key".to_owned()));
        }
        if lines.iter().any(|line| line.len() < MIN_KEY) {
            return Err(failed(format!("a key must have {MIN_KEY} characters or more")));
        }
        let shown = lines.iter().map(|key| Zeroizing::new(format!("{}{key}", self.user)));
        let shown: Vec<_> = shown.collect();
        let read = Keys::new(shown.iter().map(|key| key.as_bytes()));
        let mut settings = self.settings.clone();
        match &mut settings.sender {
            Sender::EventBridge(Credential::ApiKey { keys, .. } | Credential::Basic(keys))
            | Sender::EventGrid { keys, .. } => *keys = read,
            Sender::PubSub(_) => {}
        }
        Ok(settings)
    }
}
