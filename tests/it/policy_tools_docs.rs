//! What `docs/policy-tools.md` shows is what the program does.
//!
//! YAML blocks that begin with a file's name, as in `# vaultmux.yaml`, are files beside one
//! another; commands of console blocks print what is shown; JSON blocks are JSON, and those
//! that ask `/v1/authorize` are questions that it takes.

use std::{fs, process::Command};

use serde_json::Value;

use crate::harness::{Service, repository};

/// The fenced blocks of a language, in order.
fn blocks(language: &str) -> Vec<String> {
    let page = fs::read_to_string(repository("docs/policy-tools.md")).expect("the page");
    let fence = format!("```{language}\n");
    let block = |rest: &str| rest.split("```").next().expect("a closed block").to_owned();
    page.split(&fence).skip(1).map(block).collect()
}

fn directory() -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("make a directory");
    for block in blocks("yaml") {
        let first = block.lines().next().expect("a first line");
        let name = first.strip_prefix("# ").expect("a block starts with its file's name");
        let file = directory.path().join(name);
        fs::create_dir_all(file.parent().expect("below it")).expect("make a directory");
        fs::write(file, &block).expect("write a file");
    }
    directory
}

#[test]
fn commands_print_what_is_shown() {
    let directory = directory();
    let session = blocks("console").concat();
    let commands: Vec<_> = session.split("$ vaultmux-mesh ").skip(1).collect();
    assert!(!commands.is_empty());
    for command in commands {
        let (arguments, shown) = command.split_once('\n').expect("an answer");
        let output = Command::new(env!("CARGO_BIN_EXE_vaultmux-mesh"))
            .args(arguments.split_whitespace())
            .current_dir(directory.path())
            .output()
            .expect("the program runs");
        let said = String::from_utf8(output.stdout).expect("text");
        assert_eq!(said, shown, "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_are_answered_with_the_members_that_are_shown() {
    let config = r#"
mode: development
listeners:
  grpc: {address: "127.0.0.1:0"}
  rest: {address: "127.0.0.1:0"}
  admin: {address: "127.0.0.1:0"}
identity: {local: {namespace: payments, service_account: api}}
backends: {aws-prod: {type: memory}}
policies: [policies.yaml]
"#;
    let policies = fs::read_to_string(directory().path().join("policies.yaml")).expect("there");
    let service = Service::start(&[("config.yaml", config), ("policies.yaml", &policies)]).await;
    let mut shown = Vec::new();
    for block in blocks("json") {
        let document: Value = serde_json::from_str(&block).expect("JSON");
        if document.get("allowed").is_some() {
            shown.push(document);
            continue;
        }
        let body = crate::harness::sized(block.clone());
        let client = service.rest_client();
        let answer = client.try_send("POST", "a", "/v1/authorize", &[], body).await;
        let answer = answer.expect("an answer");
        assert_eq!(answer.status, 200, "{block}: {}", answer.text());
        let answer: Value = answer.json();
        let keys = |value: &Value| {
            let object = value.as_object().expect("an object");
            object.keys().cloned().collect::<std::collections::BTreeSet<_>>()
        };
        for example in blocks("json").iter().filter(|block| block.contains("\"allowed\"")) {
            let example: Value = serde_json::from_str(example).expect("JSON");
            assert_eq!(keys(&answer), keys(&example), "{block}");
        }
    }
    assert_eq!(shown.len(), 1, "an answer is shown");
}
