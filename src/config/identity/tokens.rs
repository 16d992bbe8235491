//! How service accounts' tokens are verified, in the configuration.

use std::{num::NonZeroU32, path::PathBuf, time::Duration};

use schemars::JsonSchema;
use serde::Deserialize;
use serde_saphyr::Spanned;

use crate::{
    config::{
        error::{ConfigError, line},
        schema::{self, KeySource, LongerThanZero, SomeText},
        value::{Context, Period},
    },
    identity::{KeyLocation, TokenSettings, TokenVerification},
    json_schema::shape::NonEmpty,
};

const KEY: &str = "identity.service_account_tokens";

/// How service accounts' tokens are verified.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(
    rename = "ServiceAccountTokens",
    extend("dependencies" = {"context": ["kubeconfig"]}, "allOf" = schema::by_verification())
)]
pub(super) struct TokensFile {
    /// Audiences of the service: a token must be for one of them. Choose one of its own, such
    /// as `vaultmux`, never the API server's.
    #[schemars(with = "NonEmpty<SomeText>")]
    audiences: Spanned<Vec<String>>,
    /// Audiences whose tokens are refused, whatever else they are for.
    #[serde(default)]
    refuse_audiences: Vec<String>,
    /// What verifies a token; `both` by default.
    #[serde(default)]
    verify: Verify,
    /// The issuer's keys. By default those that the cluster tells.
    #[serde(default)]
    #[schemars(with = "Option<JwksFile>")]
    jwks: Option<Spanned<JwksFile>>,
    /// How to reach the API server from outside the cluster. By default as a pod does.
    kubeconfig: Option<PathBuf>,
    /// Which context of `kubeconfig`; its current one by default.
    #[schemars(with = "Option<String>")]
    context: Option<Spanned<String>>,
    /// How long verdicts are kept.
    #[serde(default)]
    cache: TokenCacheFile,
    /// The longest time that a token may be valid, `10m` at least; `24h` by default.
    #[schemars(with = "Option<LongerThanZero>")]
    max_token_lifetime: Option<Spanned<Period>>,
    /// How often the API server is asked for reviews.
    #[schemars(with = "Option<ReviewsFile>")]
    reviews: Option<Spanned<ReviewsFile>>,
    /// Whether to watch for deleted service accounts and pods; by default where an API server
    /// is needed anyway.
    watch: Option<bool>,
}

#[derive(Deserialize, Clone, Copy, Default, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
enum Verify {
    /// The issuer's keys, and then the API server.
    #[default]
    Both,
    /// The API server alone.
    TokenReview,
    /// The issuer's keys alone: no API server is asked about a token.
    Jwks,
}

/// The keys of tokens' issuer.
#[derive(Deserialize, Default, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Jwks", extend("allOf" = schema::by_source()))]
struct JwksFile {
    /// Who issues the tokens, as in their `iss`. By default the cluster's own issuer.
    issuer: Option<String>,
    /// Where the keys are: `cluster` (the default), `file:<path>`, or `https://<address>`.
    #[schemars(with = "Option<KeySource>")]
    source: Option<String>,
    /// PEM certificates to trust besides the system's, for a source at `https://`.
    ca_file: Option<PathBuf>,
}

/// How long verdicts about tokens are kept.
#[derive(Deserialize, Default, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "TokenCache")]
struct TokenCacheFile {
    /// How long a token that was verified counts as verified, from `1s` to `1h`; `60s` by
    /// default.
    #[schemars(with = "Option<LongerThanZero>")]
    ttl: Option<Spanned<Period>>,
    /// How long a token that was refused counts as refused; `5s` by default.
    negative_ttl: Option<Period>,
    /// How many verdicts are kept; 100000 by default.
    #[schemars(with = "Option<schema::Between<1, { u64::MAX }>>")]
    max_entries: Option<Spanned<u64>>,
    /// How much longer a verdict counts while the API server cannot be asked; `0` by default.
    stale_if_unavailable: Option<Period>,
}

/// How often the API server is asked for reviews.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Reviews")]
struct ReviewsFile {
    /// Reviews a second in the long run; 50 by default.
    per_second: NonZeroU32,
    /// Reviews at once; 100 by default.
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
