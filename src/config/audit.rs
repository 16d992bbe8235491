//! Where decisions are written, and which.

use serde::Deserialize;
use serde_saphyr::Spanned;

use super::{
    error::{ConfigError, line},
    value::Context,
};
use crate::audit::{AuditSettings, Decisions, Sink};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AuditFile {
    sink: Spanned<String>,
    #[serde(default)]
    decisions: Decisions,
}

// === impl AuditFile ===

impl AuditFile {
    pub(super) fn check(self, context: &Context<'_>) -> Result<AuditSettings, ConfigError> {
        let text = &self.sink.value;
        let path = text.strip_prefix("file:").filter(|path| !path.is_empty());
        let sink = match path {
            Some(path) => Sink::File(context.resolve(path)),
            None if text == "stdout" => Sink::Stdout,
            None => {
                let message = format!("{text:?} is neither stdout nor file:/PATH");
                let at = line(&self.sink);
                return Err(ConfigError::key(context.path, at, "audit.sink", message));
            }
        };
        Ok(AuditSettings { sink, decisions: self.decisions })
    }
}
