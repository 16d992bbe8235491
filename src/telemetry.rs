//! Logs: one JSON object a line on standard error, or text for people.

mod seldom;

use tracing::Metadata;
use tracing_subscriber::{
    EnvFilter, Layer,
    filter::{LevelFilter, filter_fn},
    layer::SubscriberExt,
    reload,
    util::SubscriberInitExt,
};

pub use self::seldom::Seldom;
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

/// What the stores' SDKs say of every call: addresses, and secrets' names with them.
/// Only a directive that names an SDK shows more.
const QUIET: &str = "aws_=warn,azure_=warn,gaxi=warn,kube_=warn,reqwest=warn,typespec=warn";

fn parse_level(level: &str) -> Result<EnvFilter, InvalidLevel> {
    let strict = level.parse::<LevelFilter>().is_ok_and(|level| level <= LevelFilter::WARN);
    let directives = if strict { level.to_owned() } else { format!("{QUIET},{level}") };
    EnvFilter::try_new(directives).map_err(|_| InvalidLevel { level: level.to_owned() })
}

/// Whether something may be logged, whatever the level. Google's SDK, where
/// `GOOGLE_CLOUD_RUST_LOGGING` is set, logs requests and answers as they are, at debug,
/// and refusals with the bodies they came in, at warn. The AWS SDK logs answers of STS
/// that it could not read as they are, keys included, at warn; their errors are logged
/// anyway, with the call that needed the credentials. kube logs lists and events that it
/// could not read as they are, annotations included; what uses it logs its errors.
fn is_free_of_values(metadata: &Metadata<'_>) -> bool {
    let quotes =
        ["aws_config", "experimental.", "google_cloud_", "kube_client::client", "kube_runtime"];
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

#[cfg(test)]
mod tests {
    use std::{io, sync::Mutex};

    use super::*;

    /// What of four events is shown.
    fn shown(level: &str) -> Vec<String> {
        static LINES: Mutex<Vec<u8>> = Mutex::new(Vec::new());
        struct Lines;
        impl io::Write for Lines {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                LINES.lock().expect("not poisoned").extend_from_slice(bytes);
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let lines = tracing_subscriber::fmt::layer().with_writer(|| Lines).without_time();
        let filter = parse_level(level).expect("valid");
        let subscriber = tracing_subscriber::registry().with(filter).with(lines.with_ansi(false));
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(target: "azure_core::http", "sdk info");
            tracing::warn!(target: "azure_core::http", "sdk warn");
            tracing::debug!(target: "vaultmux_mesh", "our debug");
            tracing::info!(target: "vaultmux_mesh", "our info");
        });
        let text = std::mem::take(&mut *LINES.lock().expect("not poisoned"));
        let text = String::from_utf8(text).expect("text");
        text.lines().filter_map(|line| line.split(": ").last().map(str::to_owned)).collect()
    }

    #[test]
    fn stores_sdks_are_quiet_unless_named() {
        assert_eq!(shown("info"), ["sdk warn", "our info"]);
        assert_eq!(shown("debug"), ["sdk warn", "our debug", "our info"]);
        let named = ["sdk info", "sdk warn", "our info"];
        assert_eq!(shown("info,azure_core=info"), named);
        assert_eq!(shown("error"), [""; 0]);
    }
}
