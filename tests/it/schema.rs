//! `schema`, and what `docs/editors.md` shows.

use std::{fs, path::Path, process::Command};

use crate::harness::repository;

/// The fenced blocks of a language on the page, in order.
fn blocks(language: &str) -> Vec<String> {
    let page = fs::read_to_string(repository("docs/editors.md")).expect("docs/editors.md");
    let fence = format!("```{language}\n");
    let blocks = page.split(&fence).skip(1);
    blocks.map(|rest| rest.split("```").next().expect("a closed block").to_owned()).collect()
}

fn run(arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_vaultmux-mesh"))
        .args(arguments)
        .env_clear()
        .output()
        .expect("the program runs");
    (output.status.code(), String::from_utf8(output.stdout).expect("text"))
}

#[test]
fn commands_print_what_the_documentation_ships() {
    let commands = blocks("sh").concat();
    assert_eq!(commands.lines().count(), 2);
    for command in commands.lines() {
        let (command, file) = command.split_once(" > ").expect("a file");
        let arguments: Vec<_> = command.split(' ').skip(1).collect();
        let shipped = fs::read_to_string(repository("docs/schema").join(file)).expect("shipped");
        assert_eq!(run(&arguments), (Some(0), shipped), "{command}");
    }
    assert_eq!(run(&["schema", "policies"]).0, Some(2));
}

#[test]
fn settings_name_the_files_that_are_printed() {
    let commands = blocks("sh").concat();
    let [settings] = &blocks("json")[..] else { panic!("not one block") };
    let settings: serde_json::Value = serde_json::from_str(settings).expect("JSON");
    let schemas = settings["yaml.schemas"].as_object().expect("a mapping");
    let help = run(&["schema", "--help"]).1;
    for (schema, files) in schemas {
        let file = schema.strip_prefix("./").expect("beside the settings");
        assert!(commands.contains(&format!("> {file}\n")), "{file}");
        assert!(help.contains(&format!("\"{schema}\": {files}")), "{help}");
    }
}

#[test]
fn the_policy_is_one_and_names_its_schema() {
    let [policy] = &blocks("yaml")[..] else { panic!("not one block") };
    let first = policy.lines().next().expect("a line");
    let schema = first.strip_prefix("# yaml-language-server: $schema=./").expect("a modeline");
    assert!(repository("docs/schema").join(Path::new(schema)).exists());
    assert!(run(&["schema", "--help"]).1.contains(first));
    let directory = tempfile::tempdir().expect("a directory");
    let config = "mode: development\nbackends: {local: {type: memory}}\npolicies: [p.yaml]\n";
    fs::write(directory.path().join("p.yaml"), policy).expect("written");
    fs::write(directory.path().join("vaultmux.yaml"), config).expect("written");
    let path = directory.path().join("vaultmux.yaml");
    let (code, said) = run(&["check", "--config", path.to_str().expect("text")]);
    assert_eq!(code, Some(0), "{said}");
}
