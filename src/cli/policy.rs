//! `policy`: what can be asked of policies before they are in force.

mod diff;
mod replay;
mod test;

use clap::Subcommand;

use super::Answer;

#[derive(Debug, Subcommand)]
pub(super) enum Policy {
    /// Ask tables of cases whether policies decide as expected.
    #[command(after_help = "\
Exit codes: 0 all cases passed, 1 some failed, 2 something cannot be read.

Examples:
  vaultmux-mesh policy test payments.test.yaml
  vaultmux-mesh policy test tests/*.yaml --config vaultmux.yaml --junit report.xml
  vaultmux-mesh policy test tests/*.yaml --fail-uncovered --output json")]
    Test(test::Test),
    /// Ask other policies what a recorded audit stream says was asked.
    #[command(after_help = "\
Exit codes: 0 nothing would change, 1 something would, 2 something cannot be read.

Examples:
  vaultmux-mesh policy replay --audit audit.jsonl policies/ --config vaultmux.yaml
  vaultmux-mesh policy replay --audit audit.jsonl new.yaml --config vaultmux.yaml --output json")]
    Replay(replay::Replay),
    /// Tell who gains or loses which access by other policies.
    #[command(after_help = "\
Compares what both sets decide, not their texts: names, order, and rules that another
one says already make no difference. Every difference is told; each has an example in
the JSON output.

Exit codes: 0 no difference, 1 some, 2 something cannot be read or is too much.

Examples:
  vaultmux-mesh policy diff policies/ new-policies/ --config vaultmux.yaml
  vaultmux-mesh policy diff old.yaml new.yaml --config vaultmux.yaml --output json")]
    Diff(diff::Diff),
}

// === impl Policy ===

impl Policy {
    pub(super) fn run(self) -> anyhow::Result<Answer> {
        match self {
            Self::Test(test) => test.run(),
            Self::Replay(replay) => replay.run(),
            Self::Diff(diff) => diff.run(),
        }
    }
}
