//! Where decisions are written, and which.

use schemars::JsonSchema;
use serde::Deserialize;
use serde_saphyr::Spanned;

use super::{
    error::{ConfigError, line},
    schema,
    value::Context,
};
use crate::audit::{AuditSettings, Decisions, Sink};

/// A stream of all decisions, one JSON object a line.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Audit")]
pub(super) struct AuditFile {
    /// Where it goes: `stdout`, or `file:<path>`, which is added to.
    #[schemars(with = "schema::Sink")]
    sink: Spanned<String>,
    /// Which decisions are written; `all` by default.
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
