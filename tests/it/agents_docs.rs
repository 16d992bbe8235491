//! What `docs/agents.md` shows is what happens.

#![cfg(feature = "aws")]

use std::{fs, process::Command};

use crate::{egress_injection::Egress, harness::repository};

fn page() -> String {
    fs::read_to_string(repository("docs/agents.md")).expect("docs/agents.md")
}

/// The fenced blocks of a language, in order.
fn blocks(language: &str) -> Vec<String> {
    let page = page();
    let fence = format!("```{language}\n");
    let blocks = page.split(&fence).skip(1);
    blocks.map(|rest| rest.split("```").next().expect("a closed block").to_owned()).collect()
}

fn file(name: &str) -> String {
    let first = format!("# {name}\n");
    let block = blocks("yaml").into_iter().find(|block| block.starts_with(&first));
    block.unwrap_or_else(|| panic!("docs/agents.md does not show {name}"))
}

/// What a shell prints.
fn run(command: &str) -> String {
    let output = Command::new("sh").args(["-c", command]).output().expect("there is a shell");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command}: {said} (the walkthrough needs curl)");
    String::from_utf8(output.stdout).expect("text")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_walkthrough_goes_as_shown() {
    let config =
        ["9191", "8080", "9090"].into_iter().fold(file("vaultmux.yaml"), |config, port| {
            config.replace(&format!("127.0.0.1:{port}"), "127.0.0.1:0")
        });
    let egress = Egress::start(&config, &file("policies.yaml")).await;
    let ports = [
        ("127.0.0.1:10080", egress.envoy.address("egress")),
        ("127.0.0.1:8080", egress.service.rest()),
    ];
    let mut commands = 0;
    for command in blocks("console").concat().split("$ ").filter(|text| !text.is_empty()) {
        let (command, shown) = command.split_once('\n').expect("an answer");
        let command = ports
            .iter()
            .fold(command.to_owned(), |command, (from, to)| command.replace(from, &to.to_string()));
        assert_eq!(run(&command), shown, "{command}");
        commands += 1;
    }
    assert!(commands > 8, "{commands}");
    // What the APIs got, and that nobody else got anything.
    let payments = egress.payment.received();
    let keys: Vec<_> = payments.iter().flat_map(|got| got.header("authorization")).collect();
    assert_eq!(keys, ["Bearer sk_live_51Example", "Basic c2tfbGl2ZV81MUV4YW1wbGU6"]);
    let stored = egress.storage.received();
    let [stored] = &stored[..] else { panic!("{stored:?}") };
    crate::sigv4::verify(stored, "AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI-Example");
}

#[test]
fn rules_that_sign_pass_the_check() {
    let directory = tempfile::tempdir().expect("make a directory");
    fs::write(directory.path().join("signers.yaml"), file("signers.yaml")).expect("write a file");
    let output = Command::new(env!("CARGO_BIN_EXE_vaultmux-mesh"))
        .args(["check", "--config", "signers.yaml"])
        .current_dir(directory.path())
        .output()
        .expect("the program runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
}
