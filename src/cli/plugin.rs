//! `plugin test`: does a plugin do what every store must?

use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, Subcommand};
use serde_json::json;

use super::{Answer, Output, print};
use crate::backends::{
    conformance::{Check, Outcome},
    plugin::{PluginBackend, PluginSettings, Report, probe},
};

#[derive(Debug, Subcommand)]
pub(super) enum Plugin {
    /// Run every check over a plugin and print a table.
    ///
    /// It writes, if the plugin can: secrets below a prefix of their own, which it
    /// deletes.
    #[command(after_help = "\
Exit codes: 0 all checks passed or do not apply, 1 one failed, 2 the plugin cannot be asked.

Examples:
  vaultmux-mesh plugin test /run/vaultmux/plugins/hsm.sock
  vaultmux-mesh plugin test ./hsm.sock --allow-uid 1000 --prefix scratch/
  vaultmux-mesh plugin test ./hsm.sock --output json")]
    Test(Test),
}

#[derive(Debug, Args)]
pub(super) struct Test {
    /// The socket that the plugin listens on.
    socket: PathBuf,
    /// As whom the plugin may run; may be repeated. By default as root or as you.
    #[arg(long, value_name = "UID")]
    allow_uid: Vec<u32>,
    /// Goes before the names of the secrets that are made; a random one if not given.
    #[arg(long, default_value = "", hide_default_value = true)]
    prefix: String,
    /// How long one call may take.
    #[arg(long, value_name = "DURATION", default_value = "5s")]
    timeout: humantime::Duration,
    /// How to print the findings.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

// === impl Plugin ===

impl Plugin {
    pub(super) fn run(self) -> anyhow::Result<Answer> {
        let Self::Test(test) = self;
        test.run()
    }
}

// === impl Test ===

impl Test {
    fn run(self) -> anyhow::Result<Answer> {
        anyhow::ensure!(
            self.prefix.chars().all(|c| PluginBackend::GRAMMAR.allows(c))
                && self.prefix.len() <= 255,
            "--prefix {:?} is no part of a secret name",
            self.prefix
        );
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let settings = PluginSettings {
            socket: self.socket.clone(),
            allowed_uids: Some(self.allow_uid.clone()).filter(|uids| !uids.is_empty()),
            prefix: self.prefix.clone(),
        };
        let report = runtime.block_on(probe(settings, self.timeout.into()));
        let report = report.with_context(|| self.socket.display().to_string())?;
        match self.output {
            Output::Json => print(&as_json(&report).to_string()),
            Output::Text => print(&as_text(&report)),
        }
        let failed = |check: &Check| matches!(check.outcome, Outcome::Failed(_));
        Ok(if report.checks.iter().any(failed) { Answer::No } else { Answer::Yes })
    }
}

/// Passed, skipped, failed.
fn counts(report: &Report) -> [usize; 3] {
    let mut counts = [0; 3];
    for check in &report.checks {
        counts[match &check.outcome {
            Outcome::Passed => 0,
            Outcome::Skipped(_) => 1,
            Outcome::Failed(_) => 2,
        }] += 1;
    }
    counts
}

fn as_text(report: &Report) -> String {
    let Report { info, prefix, checks } = report;
    let (min, max) = info.protocols;
    let mut text = format!(
        "plugin        {} {}\nprotocol      {} (it speaks {min} to {max})\n\
         capabilities  {}\nvalues up to  {} bytes\nsecrets made  {prefix}*\n\n",
        info.name,
        info.version,
        info.protocol,
        info.capabilities.join(", "),
        info.max_value,
    );
    for check in checks {
        text += &format!("{check}\n");
    }
    let [passed, skipped, failed] = counts(report);
    text + &format!("\n{passed} passed, {skipped} skipped, {failed} failed")
}

fn as_json(report: &Report) -> serde_json::Value {
    let Report { info, prefix, checks } = report;
    let check = |check: &Check| {
        let (outcome, detail) = match &check.outcome {
            Outcome::Passed => ("passed", None),
            Outcome::Skipped(reason) => ("skipped", Some(*reason)),
            Outcome::Failed(seen) => ("failed", Some(seen.as_str())),
        };
        json!({"name": check.name, "outcome": outcome, "detail": detail})
    };
    let [passed, skipped, failed] = counts(report);
    json!({
        "plugin": {
            "name": info.name,
            "version": info.version,
            "protocol": info.protocol,
            "protocols": {"min": info.protocols.0, "max": info.protocols.1},
            "capabilities": info.capabilities,
            "max_value_bytes": info.max_value,
        },
        "prefix": prefix,
        "checks": checks.iter().map(check).collect::<Vec<_>>(),
        "passed": passed,
        "skipped": skipped,
        "failed": failed,
    })
}
