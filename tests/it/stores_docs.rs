//! What `docs/stores/*.md` and other pages with configurations show is what the program
//! accepts.
//!
//! A fenced YAML block whose first line is `# vaultmux.yaml` is a whole configuration, and
//! must pass `check`. Blocks that begin with another file's name, as in `# policies.yaml`, lie
//! beside it, and a line `# needs: a.pem b.pem` makes files of these names; `tls.crt`,
//! `tls.key` and `ca.crt` are there. Variables are set to something. JSON blocks must be
//! JSON.

use std::{fs, path::PathBuf, process::Command};

use crate::harness::{Certificates, repository};

/// The pages, in order.
fn pages() -> Vec<PathBuf> {
    let stores = fs::read_dir(repository("docs/stores")).expect("docs/stores is there");
    let mut pages: Vec<_> = stores.map(|entry| entry.expect("an entry").path()).collect();
    pages.retain(|path| path.extension().is_some_and(|extension| extension == "md"));
    let others = [
        "docs/deploy-aks.md",
        "docs/deploy-eks.md",
        "docs/deploy-envoy-vm.md",
        "docs/deploy-gke.md",
        "docs/plugins.md",
        "docs/identity.md",
        "docs/http-ext-authz.md",
        "docs/limits.md",
        "docs/migrating-from-vaultmux-server.md",
        "docs/watch.md",
        "docs/webhooks.md",
    ];
    pages.extend(others.map(repository));
    pages.retain(|path| path.exists());
    pages.sort();
    pages
}

/// The fenced blocks of a language, in order.
fn blocks(page: &str, language: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        if let Some(info) = line.trim_start().strip_prefix("```") {
            let block: Vec<_> =
                lines.by_ref().take_while(|line| !line.trim_start().starts_with("```")).collect();
            if info.trim() == language {
                found.push(block.join("\n") + "\n");
            }
        }
    }
    found
}

/// The file that a block is, by its first line.
fn file_name(block: &str) -> Option<&str> {
    let name = block.lines().next()?.strip_prefix("# ")?;
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    let relative = !name.starts_with('/') && !name.contains("..");
    (name.ends_with(".yaml") && name.chars().all(plain) && relative).then_some(name)
}

/// The names of the variables that a configuration refers to.
fn variables(block: &str) -> Vec<&str> {
    let references = block.split("${").skip(1);
    let name = |rest: &'_ str| rest.find(|c: char| !c.is_alphanumeric() && c != '_');
    references.filter_map(|rest| Some(&rest[..name(rest)?])).collect()
}

/// Of a file that a page does not show. Keys are the only ones that the check reads.
fn content(name: &str) -> &'static str {
    match name {
        "grant-keys" => "one MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=\n",
        key if key.ends_with(".key") && key != "tls.key" => "0123456789abcdef-webhook\n",
        _ => "",
    }
}

#[test]
fn configurations_pass_the_check() {
    let mut checked = 0;
    for path in pages() {
        let page = fs::read_to_string(&path).expect("text");
        let yaml = blocks(&page, "yaml");
        for config in yaml.iter().filter(|block| file_name(block) == Some("vaultmux.yaml")) {
            let directory = tempfile::tempdir().expect("make a directory");
            Certificates::create(directory.path());
            let write = |name: &str, text: &str| {
                let file = directory.path().join(name);
                fs::create_dir_all(file.parent().expect("below it")).expect("make a directory");
                fs::write(file, text).expect("write a file");
            };
            for block in &yaml {
                match file_name(block) {
                    Some("vaultmux.yaml") | None => {}
                    Some(name) => write(name, block),
                }
            }
            for needed in config.lines().filter_map(|line| line.trim().strip_prefix("# needs: ")) {
                needed.split_whitespace().for_each(|name| write(name, content(name)));
            }
            write("vaultmux.yaml", config);
            let output = Command::new(env!("CARGO_BIN_EXE_vaultmux-mesh"))
                .args(["check", "--config", "vaultmux.yaml"])
                .current_dir(directory.path())
                .envs(variables(config).into_iter().map(|name| (name, "dummy")))
                .output()
                .expect("the program runs");
            let said = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success(), "{}: {said}\n{config}", path.display());
            checked += 1;
        }
    }
    assert!(checked > 0, "no configuration was found");
}

#[test]
fn every_page_shows_a_whole_configuration() {
    for path in pages() {
        let page = fs::read_to_string(&path).expect("text");
        let found = blocks(&page, "yaml").iter().any(|b| file_name(b) == Some("vaultmux.yaml"));
        assert!(found, "{} has no block that begins with `# vaultmux.yaml`", path.display());
    }
}

#[test]
fn documents_are_json() {
    for path in pages() {
        for block in blocks(&fs::read_to_string(&path).expect("text"), "json") {
            if let Err(error) = serde_json::from_str::<serde_json::Value>(&block) {
                panic!("{}: {error}\n{block}", path.display());
            }
        }
    }
}

#[test]
fn numbers_of_calls_name_tests_that_exist() {
    fn sources(directory: &std::path::Path, text: &mut String) {
        for entry in fs::read_dir(directory).expect("readable") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                sources(&path, text);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                text.push_str(&fs::read_to_string(path).expect("text"));
            }
        }
    }
    let mut code = String::new();
    for directory in ["src", "tests"] {
        sources(&repository(directory), &mut code);
    }
    let page = fs::read_to_string(repository("docs/calls.md")).expect("text");
    let cells = page.lines().filter_map(|line| line.strip_suffix(" |")?.rsplit("| ").next());
    let names = cells.flat_map(|cell| cell.split('`').skip(1).step_by(2));
    let names: Vec<_> = names.filter(|name| name.contains('_')).collect();
    assert!(names.len() > 8, "{names:?}");
    for name in names {
        assert!(code.contains(&format!("fn {name}(")), "{name} is no test");
    }
}
