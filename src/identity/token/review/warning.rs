//! One line for an outage, not one for each caller.

use std::{
    fmt::Display,
    sync::{Mutex, PoisonError},
};

use tokio::time::{Duration, Instant};

/// How long further failures are only counted.
const QUIET: Duration = Duration::from_secs(10);

/// When it was last said why reviews fail, and how often they did since.
#[derive(Default)]
pub(super) struct Warning(Mutex<(Option<Instant>, u64)>);

// === impl Warning ===

impl Warning {
    pub(super) fn say(&self, cause: &impl Display) {
        if let Some(unsaid) = self.due() {
            tracing::warn!(%cause, unsaid, "tokens cannot be reviewed");
        }
    }

    /// How many failures were not told, if it is time to tell one.
    fn due(&self) -> Option<u64> {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, unsaid) = &mut *said;
        if at.is_some_and(|at| at.elapsed() < QUIET) {
            *unsaid += 1;
            return None;
        }
        *at = Some(Instant::now());
        Some(std::mem::take(unsaid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_outage_is_one_line_in_ten_seconds() {
        let warning = Warning::default();
        assert_eq!([(); 3].map(|()| warning.due()), [Some(0), None, None]);
        tokio::time::advance(QUIET).await;
        assert_eq!([(); 2].map(|()| warning.due()), [Some(2), None]);
        tokio::time::advance(QUIET).await;
        assert_eq!(warning.due(), Some(1));
    }
}
