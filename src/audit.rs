//! The audit stream: who asked for what, what was decided and by which rule. One JSON
//! object a line, apart from the logs, and never a secret's value.
//!
//! A line holds all that a decision depended on, so that other policies can be asked the
//! same later. Writing never holds up a request: lines go through a bounded queue to one
//! thread, and those that find it full are dropped and counted.

mod line;
mod replay;
mod sink;
#[cfg(test)]
mod tests;
mod trace;
mod writer;

use std::{fmt, sync::Arc, time::Duration};

use self::writer::Writer;
pub use self::{
    line::{
        AuditLine, AuditedDestination, AuditedHttp, AuditedMatch, AuditedPod, AuditedPrincipal,
        Operation,
    },
    replay::{Change, Example, NotAsked, Replay, Verdict},
    sink::{InvalidSink, Sink},
    trace::trace_id,
};
use crate::metrics::Metrics;

/// How many lines wait for the sink before others are dropped.
const QUEUE: usize = 8192;

/// Where decisions are written, and which.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditSettings {
    /// Where to.
    pub sink: Sink,
    /// Which.
    pub decisions: Decisions,
}

/// Which decisions are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum Decisions {
    /// Every one.
    #[default]
    All,
    /// Those that denied.
    Denied,
}

/// The stream of one configuration; cheap to clone.
#[derive(Clone, Default)]
pub struct AuditLog {
    /// Started once and kept by all that follow: it is what a shutdown waits for.
    writer: Option<Arc<Writer>>,
    /// None: nothing is written.
    settings: Option<Arc<AuditSettings>>,
}

// === impl AuditLog ===

impl AuditLog {
    /// Writes nothing.
    #[must_use]
    pub fn off() -> Self {
        Self::default()
    }

    /// Opens the sink and starts writing; without settings, writes nothing.
    ///
    /// # Errors
    /// [`InvalidSink`].
    pub fn start(
        settings: Option<&AuditSettings>,
        metrics: &Arc<Metrics>,
    ) -> Result<Self, InvalidSink> {
        Self::off().succeeded_by(settings, metrics)
    }

    /// The stream for other settings. What is waiting to be written goes to the new sink.
    ///
    /// # Errors
    /// [`InvalidSink`]; the old sink stays in use.
    pub fn succeeded_by(
        &self,
        settings: Option<&AuditSettings>,
        metrics: &Arc<Metrics>,
    ) -> Result<Self, InvalidSink> {
        let Some(settings) = settings else {
            // Requests under way still have lines for the old sink.
            return Ok(Self { writer: self.writer.clone(), settings: None });
        };
        let same = self.settings.as_ref().is_some_and(|before| before.sink == settings.sink);
        let writer = match &self.writer {
            Some(writer) if same => Arc::clone(writer),
            Some(writer) => {
                writer.switch(settings.sink.open()?);
                Arc::clone(writer)
            }
            None => {
                let opened = settings.sink.open()?;
                let writer = Writer::start(opened, QUEUE, Arc::clone(metrics));
                Arc::new(writer.map_err(|error| InvalidSink::new(&settings.sink, &error))?)
            }
        };
        Ok(Self { writer: Some(writer), settings: Some(Arc::new(settings.clone())) })
    }

    /// Opens the file anew, for whoever renamed the old one.
    ///
    /// # Errors
    /// [`InvalidSink`]; the old file stays in use.
    pub fn reopen(&self) -> Result<(), InvalidSink> {
        if let (Some(writer), Some(settings)) = (&self.writer, &self.settings) {
            writer.switch(settings.sink.open()?);
        }
        Ok(())
    }

    /// Writes what `line` makes, if this decision is one to be written.
    pub fn write(&self, allowed: bool, line: impl FnOnce() -> AuditLine) {
        let (Some(writer), Some(settings)) = (&self.writer, &self.settings) else { return };
        if !allowed || settings.decisions == Decisions::All {
            writer.write(&line());
        }
    }

    /// Waits until all lines so far are with the sink.
    pub async fn flush(&self, patience: Duration) {
        let Some(writer) = &self.writer else { return };
        if tokio::time::timeout(patience, writer.flush()).await.is_err() {
            tracing::error!("the audit sink does not take what is left, lines are lost");
        }
    }
}

impl fmt::Debug for AuditLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuditLog").field("settings", &self.settings).finish_non_exhaustive()
    }
}
