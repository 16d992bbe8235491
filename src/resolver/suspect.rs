//! Versions that a destination has refused.
//!
//! A secret that was rotated is known here in its old version until its time is over. The
//! first destination that refuses it ends that time: the store is asked again, once, and
//! whoever comes next waits for the answer for a moment. A destination that refuses
//! everything gains nothing by it: one secret is asked for again every now and then only.

use std::time::Duration;

use super::{Resolver, share_of};
use crate::policy::Permit;

/// How long a secret is not suspected again, whoever refuses it. Tokens that are made of
/// secrets go by it too.
pub(crate) const INTERVAL: Duration = Duration::from_secs(30);

/// What came of a suspicion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suspicion {
    /// The store is being asked.
    Refreshing,
    /// Another version is known by now, or none: the next read is up to date anyway.
    Outdated,
    /// The secret was suspected a moment ago.
    Recent,
}

// === impl Suspicion ===

impl Suspicion {
    /// The word in metrics and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Refreshing => "refreshing",
            Self::Outdated => "outdated",
            Self::Recent => "recent",
        }
    }
}

// === impl Resolver ===

impl Resolver {
    /// Says that a destination refused what the permit was used for, in this version.
    /// Returns at once; the next read waits for the refresh that this may have started,
    /// and gets the old value only if the store cannot answer.
    pub fn suspect(&self, permit: &Permit, version: &str) -> Suspicion {
        let shared = &self.shared;
        let outcome = match shared.place_of(permit.principal(), permit.secret()) {
            Err(_) => Suspicion::Outdated,
            Ok((store, namespace)) => {
                let (key, epoch) = shared.cache.key(permit.secret(), store, namespace);
                let outcome = shared.cache.suspect(&key, epoch, version);
                if outcome == Suspicion::Refreshing {
                    let asked = || (None, share_of(permit.principal()));
                    shared.fetch(key, epoch, asked, true);
                }
                outcome
            }
        };
        shared.metrics.suspicion(outcome.as_str());
        outcome
    }
}
