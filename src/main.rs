//! The `vaultmux-mesh` program.

use std::process::ExitCode;

use clap::Parser;
use vaultmux_mesh::cli::Cli;

fn main() -> ExitCode {
    Cli::parse().run()
}
