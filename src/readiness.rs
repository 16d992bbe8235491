//! Whether the service should get traffic.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

/// Shared by whoever decides and whoever tells.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<AtomicBool>);

impl Readiness {
    /// Whether all listeners are up and no shutdown has begun.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    /// All listeners are up.
    pub fn ready(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// A shutdown has begun.
    pub fn draining(&self) {
        self.0.store(false, Ordering::Release);
    }
}
