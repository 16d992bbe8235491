//! Verdicts about tokens, over a stub of the API server.

mod cache;
mod deletions;
mod flood;
mod outages;
mod refusals;

use std::{num::NonZeroU32, sync::Mutex};

use async_trait::async_trait;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use super::*;
use crate::{
    backends::fake::{Call, Fake, Reply},
    identity::token::{
        TokenVerification,
        jwks::FetchedKeys,
        mint::{self, ACCOUNT_UID, AUDIENCE, ISSUER, Mint, POD_UID},
    },
};

/// Longer than anything takes here.
const TIMEOUT: Duration = Duration::from_secs(20);

type Found = Result<Option<Arc<TokenProof>>, TokenError>;

/// What the key source does.
#[derive(Clone)]
enum Keys {
    Give,
    GiveOthers,
    Fail,
    Hang,
}

/// An API server that says yes until told otherwise, and the keys of its tokens.
struct Cluster {
    fake: Fake,
    mint: Mint,
    keys: Arc<Mutex<(Keys, usize)>>,
}

struct Source {
    mint: Mint,
    keys: Arc<Mutex<(Keys, usize)>>,
}

#[async_trait]
impl KeySource for Source {
    async fn fetch(&self) -> Result<FetchedKeys, String> {
        let act = {
            let mut keys = self.keys.lock().expect("not poisoned");
            keys.1 += 1;
            keys.0.clone()
        };
        let keys = match act {
            Keys::Give => self.mint.jwks(),
            Keys::GiveOthers => self.mint.with_id("other").jwks(),
            Keys::Fail => return Err("on purpose".to_owned()),
            Keys::Hang => std::future::pending().await,
        };
        Ok(FetchedKeys { issuer: Some(ISSUER.to_owned()), keys: keys.into() })
    }
}

// === impl Cluster ===

impl Cluster {
    async fn start() -> Self {
        let fake = Fake::start().await;
        fake.on(|call| created(&review_of(call)));
        Self { fake, mint: Mint::p256("verifier"), keys: Arc::new(Mutex::new((Keys::Give, 0))) }
    }

    /// A verifier with what its settings ask for.
    fn make(&self, settings: TokenSettings) -> TokenVerifier {
        let source = Source { mint: self.mint.clone(), keys: Arc::clone(&self.keys) };
        let reviewer = settings.uses_reviews().then(|| {
            let settings = ReviewSettings {
                audiences: settings.audiences.iter().map(|it| it.as_str().into()).collect(),
                per_second: settings.reviews_per_second,
                burst: settings.reviews_burst,
                timeout: TIMEOUT,
            };
            Reviewer::new(ApiServer::at(&self.fake.url, TIMEOUT), settings)
        });
        let source = settings.uses_keys().then(|| Box::new(source) as Box<dyn KeySource>);
        let revocations = Arc::new(Revocations::new(settings.max_lifetime));
        let domain = TrustDomain::parse("cluster.local").expect("valid");
        let metrics = Arc::new(Metrics::default());
        TokenVerifier::new(settings, domain, source, reviewer, (revocations, None), metrics)
    }

    /// The same of the usual settings, with some changed.
    fn verifier(&self, change: impl FnOnce(&mut TokenSettings)) -> Arc<TokenVerifier> {
        let mut settings = settings();
        change(&mut settings);
        Arc::new(self.make(settings))
    }

    fn token(&self) -> String {
        self.mint.token(json!({}))
    }

    fn keys(&self, act: Keys) {
        self.keys.lock().expect("not poisoned").0 = act;
    }

    /// How often the API server was asked since the last time.
    fn reviews(&self) -> usize {
        self.fake.calls().len()
    }

    /// How often keys were fetched.
    fn fetches(&self) -> usize {
        self.keys.lock().expect("not poisoned").1
    }
}

fn settings() -> TokenSettings {
    let many = NonZeroU32::new(100_000).expect("not zero");
    TokenSettings {
        reviews_per_second: many,
        reviews_burst: many,
        watch: false,
        ..TokenSettings::new(vec![AUDIENCE.to_owned()])
    }
}

/// What an API server answers that finds the token good.
fn review_of(call: &Call) -> Value {
    let sent: Value = serde_json::from_slice(&call.body).expect("JSON");
    let token = sent["spec"]["token"].as_str().expect("a token");
    let payload = token.split('.').nth(1).expect("a payload");
    let payload = URL_SAFE_NO_PAD.decode(payload).expect("base64");
    let claims: Value = serde_json::from_slice(&payload).expect("JSON");
    let bound = &claims["kubernetes.io"];
    let namespace = bound["namespace"].as_str().expect("a namespace");
    let id = claims["jti"].as_str().expect("an id");
    json!({
        "kind": "TokenReview", "apiVersion": "authentication.k8s.io/v1",
        "status": {
            "authenticated": true,
            "audiences": sent["spec"]["audiences"],
            "user": {
                "username": claims["sub"],
                "uid": bound["serviceaccount"]["uid"],
                "groups": [format!("system:serviceaccounts:{namespace}")],
                "extra": {
                    "authentication.kubernetes.io/credential-id": [format!("JTI={id}")],
                    "authentication.kubernetes.io/node-name": [bound["node"]["name"]],
                    "authentication.kubernetes.io/pod-name": [bound["pod"]["name"]],
                    "authentication.kubernetes.io/pod-uid": [bound["pod"]["uid"]],
                },
            },
        },
    })
}

fn created(review: &Value) -> Reply {
    Reply::json(201, review.to_string())
}

/// What it answers of a token that is no good.
fn no() -> Reply {
    let status = json!({"error": "[invalid bearer token]"});
    created(&json!({"kind": "TokenReview", "status": status}))
}

async fn verify_by(verifier: &Arc<TokenVerifier>, token: &str, deadline: Instant) -> Found {
    let header = format!("Bearer {token}");
    let bearer = Bearer::find([header.as_bytes()]).expect("one token").expect("a token");
    verifier.verify(bearer, deadline).await
}

async fn verify(verifier: &Arc<TokenVerifier>, token: &str) -> Found {
    verify_by(verifier, token, Instant::now() + TIMEOUT).await
}

async fn good(verifier: &Arc<TokenVerifier>, token: &str) -> Arc<TokenProof> {
    verify(verifier, token).await.expect("a good token").expect("a service account's")
}

fn refused(why: TokenRefusal) -> Found {
    Err(TokenError::Refused(why))
}

/// Lets time pass at once. Not while calls are under way: they would time out.
async fn later(by: Duration) {
    tokio::time::pause();
    tokio::time::advance(by).await;
    tokio::time::resume();
}

/// Lets other tasks run until a condition holds.
async fn until(condition: impl Fn() -> bool) {
    let waited = tokio::time::timeout(TIMEOUT, async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    waited.await.expect("the condition holds in time");
}
