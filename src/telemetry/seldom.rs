//! Log lines that strangers can cause at will.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// How often such a line is written at most.
const PERIOD: Duration = Duration::from_secs(10);

/// Lets one line of a kind through now and then.
#[derive(Debug, Default)]
pub struct Seldom(Mutex<Lines>);

#[derive(Debug, Default)]
struct Lines {
    last: Option<Instant>,
    left_out: u64,
}

// === impl Seldom ===

impl Seldom {
    /// Whether to write the line, and how many were left out since the last one.
    pub fn permit(&self) -> Option<u64> {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if lines.last.is_some_and(|last| now.duration_since(last) < PERIOD) {
            lines.left_out = lines.left_out.saturating_add(1);
            return None;
        }
        lines.last = Some(now);
        Some(std::mem::take(&mut lines.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_flood_is_one_line_and_a_count() {
        let seldom = Seldom::default();
        assert_eq!(seldom.permit(), Some(0));
        for _ in 0..1000 {
            assert_eq!(seldom.permit(), None);
        }
        tokio::time::advance(PERIOD).await;
        assert_eq!(seldom.permit(), Some(1000));
        assert_eq!(seldom.permit(), None);
    }
}
