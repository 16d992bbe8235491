//! How tokens are verified.

use std::{num::NonZeroU32, path::PathBuf, time::Duration};

use super::jwks::HttpsSource;

/// How tokens are verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenSettings {
    /// A token must be for one of these; at least one.
    pub audiences: Vec<String>,
    /// A token that is for one of these too is refused: whoever receives it could use it
    /// there.
    pub refused_audiences: Vec<String>,
    /// Who is asked.
    pub verify: TokenVerification,
    /// Who issues tokens; the key source is asked if it is not given.
    pub issuer: Option<String>,
    /// Where the issuer's keys are.
    pub keys: KeyLocation,
    /// Where the API server is; the pod's own without.
    pub kubeconfig: Option<PathBuf>,
    /// A context of the kubeconfig other than its current one.
    pub context: Option<String>,
    /// How long a verdict holds.
    pub ttl: Duration,
    /// How long the API server's refusal holds.
    pub negative_ttl: Duration,
    /// How many good tokens are remembered.
    pub max_entries: u64,
    /// How long beyond `ttl` a good verdict holds while the API server cannot answer.
    pub stale_if_unavailable: Duration,
    /// The longest life of a token, from `iat` to `exp`.
    pub max_lifetime: Duration,
    /// The API server's share of reviews from here.
    pub reviews_per_second: NonZeroU32,
    /// How many reviews may come at once.
    pub reviews_burst: NonZeroU32,
    /// Whether deletions of service accounts and pods are watched for.
    pub watch: bool,
}

/// Who is asked whether a token is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenVerification {
    /// The issuer's keys first, so that garbage costs the API server nothing, then the
    /// API server, which knows what was deleted.
    Both,
    /// The API server alone.
    TokenReview,
    /// The issuer's keys alone. A deleted pod's token is good until it expires, unless
    /// deletions are watched for.
    Jwks,
}

/// Where the issuer's keys are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyLocation {
    /// At the API server.
    Cluster,
    /// In a file, a JWK set.
    File(PathBuf),
    /// At an address that answers with a JWK set.
    Https {
        /// The address.
        url: String,
        /// PEM; the system's authorities without.
        ca_file: Option<PathBuf>,
    },
}

// === impl KeyLocation ===

impl KeyLocation {
    /// A key set at an address.
    ///
    /// # Errors
    /// Why keys must not be fetched from there, without what the address holds of
    /// credentials.
    pub fn https(url: &str, ca_file: Option<PathBuf>) -> Result<Self, String> {
        HttpsSource::new(url, None).map_err(|error| error.to_string())?;
        Ok(Self::Https { url: url.to_owned(), ca_file })
    }
}

// === impl TokenSettings ===

impl TokenSettings {
    /// What is asked of everyone who leaves the rest out.
    #[must_use]
    pub fn new(audiences: Vec<String>) -> Self {
        const FIFTY: NonZeroU32 = NonZeroU32::new(50).expect("not zero");
        const HUNDRED: NonZeroU32 = NonZeroU32::new(100).expect("not zero");
        Self {
            audiences,
            refused_audiences: Vec::new(),
            verify: TokenVerification::Both,
            issuer: None,
            keys: KeyLocation::Cluster,
            kubeconfig: None,
            context: None,
            ttl: Duration::from_secs(60),
            negative_ttl: Duration::from_secs(5),
            max_entries: 100_000,
            stale_if_unavailable: Duration::ZERO,
            max_lifetime: Duration::from_secs(24 * 3600),
            reviews_per_second: FIFTY,
            reviews_burst: HUNDRED,
            watch: true,
        }
    }

    /// Whether one of the audiences looks like the API server's own, for which every pod
    /// has a token by default.
    #[must_use]
    pub fn names_api_server(&self) -> bool {
        self.audiences.iter().any(|audience| {
            let host = audience.strip_prefix("https://").unwrap_or(audience);
            // Unless it is told otherwise, its audience is its issuer.
            self.issuer.as_ref() == Some(audience)
                || host == "kubernetes.default"
                || host.starts_with("kubernetes.default.svc")
        })
    }

    pub(super) fn uses_keys(&self) -> bool {
        self.verify != TokenVerification::TokenReview
    }

    pub(super) fn uses_reviews(&self) -> bool {
        self.verify != TokenVerification::Jwks
    }

    /// Whether an API server is needed at all.
    pub(super) fn uses_api_server(&self) -> bool {
        self.watch || self.uses_reviews() || (self.uses_keys() && self.keys == KeyLocation::Cluster)
    }
}
