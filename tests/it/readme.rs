//! What README shows is what the program does.

use std::{fs, process::Command};

use crate::harness::repository;

/// The fenced blocks of a language, in order.
fn blocks(language: &str) -> Vec<String> {
    let readme = fs::read_to_string(repository("README.md")).expect("README.md");
    let fence = format!("```{language}\n");
    let mut found = Vec::new();
    let mut rest = readme.as_str();
    while let Some(start) = rest.find(&fence) {
        let block = &rest[start + fence.len()..];
        let end = block.find("```").expect("a closed block");
        found.push(block[..end].to_owned());
        rest = &block[end..];
    }
    found
}

/// README's configuration and policies, in files of their names.
fn directory() -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("make a directory");
    for block in blocks("yaml") {
        let first = block.lines().next().expect("a first line");
        let name = first.strip_prefix("# ").expect("a block starts with its file's name");
        fs::write(directory.path().join(name), &block).expect("write a file");
    }
    directory
}

#[test]
fn configuration_and_policies_pass_the_check() {
    let directory = directory();
    let output = Command::new(env!("CARGO_BIN_EXE_vaultmux-mesh"))
        .args(["check", "--config", "vaultmux.yaml"])
        .current_dir(directory.path())
        .output()
        .expect("the program runs");
    let said = String::from_utf8(output.stdout).expect("text");
    assert!(output.status.success(), "{said}");
    assert!(said.contains("ok, 1 backends, 2 policies"), "{said}");
}

#[test]
fn commands_print_what_is_shown() {
    let directory = directory();
    let session = blocks("console").concat();
    let mut commands = session.split("$ vaultmux-mesh ").skip(1).peekable();
    assert!(commands.peek().is_some());
    for command in commands {
        let (arguments, shown) = command.split_once('\n').expect("an answer");
        let output = Command::new(env!("CARGO_BIN_EXE_vaultmux-mesh"))
            .args(arguments.split_whitespace())
            .current_dir(directory.path())
            .output()
            .expect("the program runs");
        let said = String::from_utf8(output.stdout).expect("text");
        assert_eq!(said, shown, "{arguments}");
    }
}

#[test]
fn shell_commands_are_targets_of_the_makefile_or_run_the_program() {
    let makefile = fs::read_to_string(repository("Makefile")).expect("Makefile");
    for line in blocks("sh").concat().lines().filter(|line| !line.is_empty()) {
        match line.strip_prefix("make ") {
            Some(target) => {
                assert!(makefile.contains(&format!("\n{target}:")), "{line}");
            }
            None => assert!(
                [
                    "cargo run -- serve --dev",
                    "curl -s http://127.0.0.1:8080/v1/secrets/development/api-key",
                    // `conformance chart::cluster` installs it.
                    "helm install vaultmux-mesh charts/vaultmux-mesh --namespace vaultmux-system \
                     --create-namespace \\",
                    "  --values values.yaml",
                ]
                .contains(&line),
                "{line} is not run by any test"
            ),
        }
    }
}

/// `serve --dev`, and the request that README and the program itself suggest.
#[tokio::test(flavor = "multi_thread")]
async fn the_development_setup_answers_what_it_suggests() {
    use crate::harness::{Client, Process, default_ports};
    let _ports = default_ports().await;
    let program = env!("CARGO_BIN_EXE_vaultmux-mesh");
    let process = Process::start(program.as_ref(), &["serve", "--dev"]).await;
    process.wait_stderr("hint", |line| line.contains("Try:").then_some(())).await;
    let client = Client::plain("127.0.0.1:8080".parse().expect("an address"));
    let answer = client.get("127.0.0.1:8080", "/v1/secrets/development/api-key").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json::<serde_json::Value>()["value"], "not-a-real-key");
    assert_eq!(client.get("127.0.0.1:8080", "/v1/secrets/shared/stripe").await.status, 403);
    assert_eq!(client.get("127.0.0.1:8080", "/v1/secrets").await.status, 200);
}
