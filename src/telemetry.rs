//! Logs: one JSON object a line on standard error, or text for people.

use tracing::Metadata;
use tracing_subscriber::{
    EnvFilter, Layer, filter::filter_fn, layer::SubscriberExt, reload, util::SubscriberInitExt,
};

use crate::config::{LogConfig, LogFormat};

/// Changes the log level while the service runs.
#[derive(Clone)]
pub struct LogLevel(reload::Handle<EnvFilter, tracing_subscriber::Registry>);

/// Log directives that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("log level {level:?} is neither a level nor a list of directives")]
pub struct InvalidLevel {
    level: String,
}

fn parse_level(level: &str) -> Result<EnvFilter, InvalidLevel> {
    EnvFilter::try_new(level).map_err(|_| InvalidLevel { level: level.to_owned() })
}

/// Whether something may be logged, whatever the level. The AWS SDK logs answers of STS
/// that it could not read as they are, keys included, at warn; their errors are logged
/// anyway, with the call that needed the credentials.
fn is_free_of_values(metadata: &Metadata<'_>) -> bool {
    let quotes = ["aws_config"];
    !quotes.iter().any(|target| metadata.target().starts_with(target))
}

/// Starts logging for the process.
///
/// # Errors
/// [`InvalidLevel`].
pub fn start(config: &LogConfig) -> Result<LogLevel, InvalidLevel> {
    let (filter, handle) = reload::Layer::new(parse_level(&config.level)?);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = match config.format {
        LogFormat::Json => {
            lines.json().flatten_event(true).with_current_span(false).with_span_list(false).boxed()
        }
        LogFormat::Text => {
            use std::io::IsTerminal;
            lines.with_ansi(std::io::stderr().is_terminal()).with_target(false).boxed()
        }
    };
    // A second start in one process keeps the first: only tests do that.
    let _ = tracing_subscriber::registry()
        .with(filter)
        .with(filter_fn(is_free_of_values))
        .with(lines)
        .try_init();
    Ok(LogLevel(handle))
}

impl LogLevel {
    /// Puts other directives in force.
    ///
    /// # Errors
    /// [`InvalidLevel`]; the old ones stay.
    pub fn set(&self, level: &str) -> Result<(), InvalidLevel> {
        let filter = parse_level(level)?;
        // Fails only when the subscriber is gone, and logging with it.
        let _ = self.0.reload(filter);
        Ok(())
    }
}
