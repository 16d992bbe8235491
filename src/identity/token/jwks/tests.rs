//! Key sets over a source that does what it is told, with paused time.

mod refresh;
mod sources;
mod verify;

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use tokio::time::Instant;

use super::*;
use crate::identity::token::{
    mint::{self, Mint},
    unverified,
};

/// What a source does.
#[derive(Clone)]
enum Act {
    Give(String),
    GiveAfter(Duration, String),
    Fail,
    Panic,
    Hang,
}

/// A source that counts.
struct Script {
    act: Mutex<Act>,
    issuer: Option<String>,
    calls: AtomicUsize,
}

struct Shared(Arc<Script>);

impl Script {
    fn new(act: Act) -> Arc<Self> {
        let issuer = Some(mint::ISSUER.to_owned());
        Arc::new(Self { act: Mutex::new(act), issuer, calls: AtomicUsize::new(0) })
    }

    fn now(&self, act: Act) {
        *self.act.lock().expect("not poisoned") = act;
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    fn set(self: &Arc<Self>) -> Arc<KeySet> {
        let audiences = [mint::AUDIENCE.to_owned()];
        Arc::new(KeySet::new(Box::new(Shared(Arc::clone(self))), None, audiences.into()))
    }
}

#[async_trait]
impl KeySource for Shared {
    async fn fetch(&self) -> Result<FetchedKeys, String> {
        self.0.calls.fetch_add(1, Ordering::SeqCst);
        let act = self.0.act.lock().expect("not poisoned").clone();
        let keys = match act {
            Act::Give(keys) => keys,
            Act::GiveAfter(wait, keys) => {
                tokio::time::sleep(wait).await;
                keys
            }
            Act::Fail => return Err("on purpose".to_owned()),
            Act::Panic => panic!("on purpose"),
            Act::Hang => std::future::pending().await,
        };
        Ok(FetchedKeys { issuer: self.0.issuer.clone(), keys: keys.into() })
    }
}

fn in_seconds(seconds: u64) -> Instant {
    Instant::now() + Duration::from_secs(seconds)
}

async fn verify(set: &Arc<KeySet>, token: &str) -> Result<(), TokenError> {
    let token = unverified::read(token)?.expect("a service account's");
    set.verify(&token, in_seconds(60)).await
}

fn refused(why: TokenRefusal) -> Result<(), TokenError> {
    Err(TokenError::Refused(why))
}
