//! What `docs/policies.md` shows is what the program accepts and prints.

use std::{fs, path::Path, process::Command};

use tempfile::TempDir;

use crate::harness::repository;

fn page() -> String {
    fs::read_to_string(repository("docs/policies.md")).expect("docs/policies.md")
}

/// The fenced blocks of a language, in order.
fn blocks(language: &str) -> Vec<String> {
    let page = page();
    let blocks = page.split("```").skip(1).step_by(2);
    blocks
        .filter_map(|block| block.strip_prefix(&format!("{language}\n")))
        .map(str::to_owned)
        .collect()
}

/// The blocks of YAML whose file names are wanted, as files.
fn directory(wanted: impl Fn(&str) -> bool) -> TempDir {
    let directory = tempfile::tempdir().expect("make a directory");
    fs::create_dir(directory.path().join("policies")).expect("make a directory");
    for block in blocks("yaml") {
        let first = block.lines().next().and_then(|line| line.strip_prefix("# "));
        let name = first.expect("a block starts with its file's name");
        if wanted(name) {
            fs::write(directory.path().join(name), &block).expect("write a file");
        }
    }
    directory
}

fn check(directory: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_vaultmux-mesh"))
        .args(arguments)
        .current_dir(directory)
        .output()
        .expect("the program runs");
    (output.status.code(), String::from_utf8(output.stdout).expect("text"))
}

#[test]
fn policies_pass_the_check_without_a_warning() {
    let directory = directory(|name| name != "policies/findings.yaml");
    let arguments = ["check", "--config", "vaultmux.yaml", "--deny-warnings"];
    let (code, said) = check(directory.path(), &arguments);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("ok, 1 backends, 5 policies"), "{said}");
}

#[test]
fn findings_are_printed_as_shown() {
    let directory = directory(|name| !name.starts_with("policies/") || name.contains("findings"));
    let console = blocks("console").concat();
    let (command, shown) = console.split_once('\n').expect("a command and its answer");
    let arguments = command.strip_prefix("$ vaultmux-mesh ").expect("our own command");
    let arguments: Vec<_> = arguments.split_whitespace().collect();
    let (code, said) = check(directory.path(), &arguments);
    assert_eq!(said, shown);
    assert_eq!(code, Some(0));
}
