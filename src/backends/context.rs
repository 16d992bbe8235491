//! For whom a call to a store is made, where the store's own protocol can tell it.

use std::sync::Arc;

use tokio::time::Instant;

tokio::task_local! {
    static CONTEXT: CallContext;
}

/// What a call carries besides its arguments.
#[derive(Clone, Debug)]
pub struct CallContext {
    /// Ties the store's log to ours.
    pub request_id: Option<Arc<str>>,
    /// When nobody waits for the answer any more.
    pub deadline: Instant,
}

// === impl CallContext ===

impl CallContext {
    /// Runs a call in this context.
    pub async fn scope<F: Future>(self, call: F) -> F::Output {
        CONTEXT.scope(self, call).await
    }

    /// The context of the call that is running, if it has one.
    #[must_use]
    pub fn current() -> Option<Self> {
        CONTEXT.try_with(Clone::clone).ok()
    }
}
