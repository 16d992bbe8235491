//! What fuzzers call. Panics where a promise is broken.

use std::path::{Path, PathBuf};

use super::{Config, Environment};
use crate::policy::{Policies, PolicySet};

/// Reads a configuration and policies from a text. What is wrong with it is an error that
/// says where.
///
/// # Panics
/// If an error does not name the file.
pub fn settings(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    // Names of directories and sockets are looked up where they are.
    if !text.contains("plugin") {
        let config = Config::parse(text, Path::new("fuzzed.yaml"), &Environment::default());
        if let Err(error) = config {
            assert!(error.to_string().starts_with("fuzzed.yaml"), "{error}");
        }
    }
    let catalog = Config::development(&Environment::default()).catalog;
    let file = (PathBuf::from("fuzzed.yaml"), text.to_owned());
    match Policies::parse(&[file], &catalog) {
        Ok(policies) => drop(PolicySet::compile(&policies, 1)),
        Err(failure) => {
            assert!(!failure.problems.is_empty(), "it failed for some reason");
            for problem in &failure.problems {
                assert!(problem.to_string().starts_with("fuzzed.yaml"), "{problem}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    const WORDS: &str = "(mode|cluster|backends|policies|spec|effect|Allow|from|to|secrets|names|\
                         \\{|\\}|\\[|\\]|: |- |, |\n|  |'|\"|&a|\\*a|!!|\\$\\{X\\}|~|0|1s|null){0,40}";

    proptest! {
        #[test]
        fn promises_hold_for_random_text(text in WORDS, bytes in ".{0,60}") {
            super::settings(text.as_bytes());
            super::settings(bytes.as_bytes());
        }
    }
}
