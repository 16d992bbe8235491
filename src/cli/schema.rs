//! `schema`: what editors complete files from.

use clap::{Args, ValueEnum};

use super::{Answer, print};
use crate::{config, json_schema, policy};

#[derive(Debug, Args)]
pub(super) struct Schema {
    /// Of which file.
    of: File,
}

/// A file that people write.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum File {
    /// One document of a policy file.
    Policy,
    /// The configuration.
    Config,
}

// === impl Schema ===

impl Schema {
    pub(super) fn run(self) -> Answer {
        let schema = match self.of {
            File::Policy => policy::json_schema(),
            File::Config => config::json_schema(),
        };
        print(json_schema::print(&schema).trim_end());
        Answer::Yes
    }
}
