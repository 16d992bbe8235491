//! How service accounts' tokens are verified, in the configuration.

use std::{num::NonZeroU32, path::PathBuf, time::Duration};

use serde::Deserialize;
use serde_saphyr::Spanned;

use crate::{
    config::{
        error::{ConfigError, line},
        value::{Context, Period},
    },
    identity::{KeyLocation, TokenSettings, TokenVerification},
};

const KEY: &str = "identity.service_account_tokens";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TokensFile {
    audiences: Spanned<Vec<String>>,
    #[serde(default)]
    refuse_audiences: Vec<String>,
    #[serde(default)]
    verify: Verify,
    #[serde(default)]
    jwks: Option<Spanned<JwksFile>>,
    kubeconfig: Option<PathBuf>,
    context: Option<Spanned<String>>,
    #[serde(default)]
    cache: TokenCacheFile,
    max_token_lifetime: Option<Spanned<Period>>,
    reviews: Option<Spanned<ReviewsFile>>,
    watch: Option<bool>,
}

#[derive(Deserialize, Clone, Copy, Default, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
enum Verify {
    #[default]
    Both,
    TokenReview,
    Jwks,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct JwksFile {
    issuer: Option<String>,
    source: Option<String>,
    ca_file: Option<PathBuf>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct TokenCacheFile {
    ttl: Option<Spanned<Period>>,
    negative_ttl: Option<Period>,
    max_entries: Option<Spanned<u64>>,
    stale_if_unavailable: Option<Period>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReviewsFile {
    per_second: NonZeroU32,
    burst: NonZeroU32,
}

// === impl TokensFile ===

impl TokensFile {
    pub(super) fn check(self, context: &Context<'_>) -> Result<TokenSettings, ConfigError> {
        let refuse = |at, key: &str, why: &str| {
            Err(ConfigError::key(context.path, at, format!("{KEY}.{key}"), why))
        };
        let at_audiences = line(&self.audiences);
        let audiences = self.audiences.value;
        if audiences.is_empty() {
            let why = "at least one is needed: without, tokens for the API server would do";
            return refuse(at_audiences, "audiences", why);
        }
        let odd = |text: &String| text.is_empty() || text.chars().any(char::is_control);
        if audiences.iter().any(odd) {
            return refuse(
                at_audiences,
                "audiences",
                "an audience is a text, without control characters",
            );
        }
        if audiences.iter().any(|audience| self.refuse_audiences.contains(audience)) {
            let why = "an audience that is refused, too, makes every token useless";
            return refuse(at_audiences, "audiences", why);
        }
        let mut settings = TokenSettings::new(audiences);
        settings.refused_audiences = self.refuse_audiences;
        settings.verify = match self.verify {
            Verify::Both => TokenVerification::Both,
            Verify::TokenReview => TokenVerification::TokenReview,
            Verify::Jwks => TokenVerification::Jwks,
        };
        let at_jwks = self.jwks.as_ref().and_then(line);
        let jwks = self.jwks.map(|jwks| jwks.value).unwrap_or_default();
        let from_cluster = jwks.source.as_deref().is_none_or(|source| source == "cluster");
        if self.verify == Verify::TokenReview && (jwks.source.is_some() || jwks.ca_file.is_some()) {
            return refuse(at_jwks, "jwks.source", "no keys are used with verify: token_review");
        }
        settings.keys = match jwks.source {
            None => KeyLocation::Cluster,
            Some(source) => match (source.strip_prefix("file:"), &*source) {
                (_, "cluster") => KeyLocation::Cluster,
                (Some(path), _) if !path.is_empty() => KeyLocation::File(context.resolve(path)),
                (None, url) if url.starts_with("https://") || url.starts_with("http://") => {
                    let ca_file = jwks.ca_file.as_ref().map(|path| context.resolve(path));
                    match KeyLocation::https(url, ca_file) {
                        Ok(location) => location,
                        Err(why) => return refuse(at_jwks, "jwks.source", &why),
                    }
                }
                _ => {
                    let why = "is neither `cluster`, file:<path> nor https://<address>";
                    return refuse(at_jwks, "jwks.source", &format!("{source:?} {why}"));
                }
            },
        };
        if jwks.ca_file.is_some() && !matches!(settings.keys, KeyLocation::Https { .. }) {
            return refuse(at_jwks, "jwks.ca_file", "is for a source at https://<address> alone");
        }
        if jwks.issuer.is_none() && !from_cluster {
            let why = "is needed: only the cluster itself tells who issues its tokens";
            return refuse(at_jwks, "jwks.issuer", why);
        }
        settings.issuer = jwks.issuer;
        if let (Some(named), None) = (&self.context, &self.kubeconfig) {
            return refuse(line(named), "context", "is one of a kubeconfig, and none is named");
        }
        settings.kubeconfig = self.kubeconfig.map(|path| context.resolve(path));
        settings.context = self.context.map(|context| context.value);
        let cache = self.cache;
        if let Some(ttl) = cache.ttl {
            // A verdict must be told to those who wait for it.
            if ttl.value.0 < Duration::from_secs(1) || ttl.value.0 > Duration::from_secs(3600) {
                return refuse(line(&ttl), "cache.ttl", "must be from 1s to 1h");
            }
            settings.ttl = ttl.value.0;
        }
        if let Some(entries) = cache.max_entries {
            if entries.value == 0 {
                return refuse(line(&entries), "cache.max_entries", "must be at least 1");
            }
            settings.max_entries = entries.value;
        }
        settings.negative_ttl = cache.negative_ttl.map_or(settings.negative_ttl, |ttl| ttl.0);
        settings.stale_if_unavailable =
            cache.stale_if_unavailable.map_or(settings.stale_if_unavailable, |ttl| ttl.0);
        if let Some(longest) = self.max_token_lifetime {
            // The shortest that the API server issues.
            if longest.value.0 < Duration::from_secs(600) {
                return refuse(line(&longest), "max_token_lifetime", "must be at least 10m");
            }
            settings.max_lifetime = longest.value.0;
        }
        if let Some(reviews) = self.reviews {
            if self.verify == Verify::Jwks {
                let why = "there are none with verify: jwks";
                return refuse(line(&reviews), "reviews", why);
            }
            settings.reviews_per_second = reviews.value.per_second;
            settings.reviews_burst = reviews.value.burst;
        }
        // Where no API server is needed otherwise, none is looked for.
        let needs_server = self.verify != Verify::Jwks || from_cluster;
        settings.watch = self.watch.unwrap_or(needs_server);
        Ok(settings)
    }
}
