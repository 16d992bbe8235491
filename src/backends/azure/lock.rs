//! One writer at a time for each name, within this process.

use std::hash::{BuildHasher, RandomState};

use tokio::sync::{Mutex, MutexGuard};

/// Two names rarely share one of these, and then only wait.
const LOCKS: usize = 64;

/// A fixed number of locks that names are spread over.
pub(super) struct NameLocks {
    locks: [Mutex<()>; LOCKS],
    hasher: RandomState,
}

// === impl NameLocks ===

impl NameLocks {
    pub(super) async fn lock(&self, name: &str) -> MutexGuard<'_, ()> {
        let at = self.hasher.hash_one(name) % LOCKS as u64;
        self.locks[at as usize].lock().await
    }
}

impl Default for NameLocks {
    fn default() -> Self {
        Self { locks: [const { Mutex::const_new(()) }; LOCKS], hasher: RandomState::new() }
    }
}
