//! Loading from disk.

use std::{fs, path::Path};

use super::catalog;
use crate::policy::{Policies, load};

fn policy(name: &str) -> String {
    format!(
        "apiVersion: vaultmux.dev/v1alpha1\nkind: AccessPolicy\nmetadata: {{name: {name}}}\n\
         spec: {{effect: Allow, from: [{{namespaces: [a]}}], to: [{{http: {{paths: [/a]}}}}]}}\n"
    )
}

fn write(directory: &Path, name: &str, text: &[u8]) {
    fs::write(directory.join(name), text).expect("a writable directory");
}

#[test]
fn what_cannot_be_read_is_reported_all_at_once() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    write(directory.path(), "bad.yaml", b"\xff\xfe\xfd");
    write(directory.path(), "worse.yml", b"kind: [");
    let paths = [directory.path().to_owned(), directory.path().join("absent.yaml")];
    let failure = load(&paths, &catalog()).expect_err("nothing to read");
    let shown = failure.to_string();
    assert_eq!(failure.problems.len(), 3, "{shown}");
    for file in ["bad.yaml:1: cannot be read", "absent.yaml: cannot be read", "worse.yml:1: "] {
        assert!(shown.contains(file), "{shown}");
    }
}

#[test]
fn directories_are_read_as_config_maps_are_mounted() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let version = directory.path().join("..2026");
    fs::create_dir(&version).expect("a writable directory");
    write(&version, "b.yaml", policy("b").as_bytes());
    std::os::unix::fs::symlink("..2026", directory.path().join("..data")).expect("a link");
    std::os::unix::fs::symlink("..data/b.yaml", directory.path().join("b.yaml")).expect("a link");
    write(directory.path(), "a.yml", policy("a").as_bytes());
    write(directory.path(), ".hidden.yaml", b"[");
    write(directory.path(), "notes.txt", b"[");
    fs::create_dir(directory.path().join("sub.yaml")).expect("a writable directory");
    let policies = load(&[directory.path().to_owned()], &catalog()).expect("valid");
    let names: Vec<&str> = policies.policies.iter().map(|policy| &*policy.name).collect();
    assert_eq!(names, ["a", "b"]);
}

#[test]
fn the_hash_follows_the_content_alone() {
    let parse = |files: &[(&str, String)]| {
        let files: Vec<_> = files.iter().map(|(file, text)| (file.into(), text.clone())).collect();
        Policies::parse(&files, &catalog()).expect("valid").hash().clone()
    };
    let one = parse(&[("a", policy("a")), ("b", policy("b"))]);
    assert_eq!(one, parse(&[("x", policy("b")), ("y", policy("a"))]));
    assert_ne!(one, parse(&[("a", policy("a"))]));
    assert_ne!(one, *Policies::empty().hash());
}
