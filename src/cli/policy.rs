//! `policy`: what can be asked of policies before they are in force.

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
}

// === impl Policy ===

impl Policy {
    pub(super) fn run(self) -> anyhow::Result<Answer> {
        match self {
            Self::Test(test) => test.run(),
        }
    }
}
