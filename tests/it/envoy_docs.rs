//! `docs/envoy.md` lists the files that there are, and each of them is run.

use std::{collections::BTreeSet, fs};

use crate::harness::repository;

fn texts(directory: &str, end: &str) -> Vec<(String, String)> {
    let entries = fs::read_dir(repository(directory)).expect("readable");
    let files = entries.map(|entry| entry.expect("an entry").path());
    let files = files.filter(|path| path.extension().is_some_and(|is| is == end));
    let name = |path: &std::path::Path| path.file_name().expect("a name").display().to_string();
    files.map(|path| (name(&path), fs::read_to_string(&path).expect("text"))).collect()
}

#[test]
fn every_bootstrap_is_listed_says_what_it_is_for_and_is_run() {
    let page = fs::read_to_string(repository("docs/envoy.md")).expect("the page");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| [`")?.split('`').next());
    let listed: BTreeSet<_> = rows.map(str::to_owned).collect();
    let bootstraps = texts("envoy", "yaml");
    let there: BTreeSet<_> = bootstraps.iter().map(|(name, _)| name.clone()).collect();
    assert_eq!(listed, there);
    let tests = texts("tests/it", "rs");
    let harness = texts("tests/it/harness", "rs");
    for (name, text) in bootstraps {
        assert!(text.starts_with("# "), "{name} does not say what it is for");
        assert!(text.contains(&format!("#   envoy -c envoy/{name}\n")), "{name} does not say how");
        let quoted = format!("\"{name}\"");
        let used = tests.iter().chain(&harness).any(|(_, test)| test.contains(&quoted));
        assert!(used, "{name} is run by no test");
    }
}
