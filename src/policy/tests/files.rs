//! Loading from disk.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::symlink,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use super::catalog;
use crate::{
    policy::{Loader, Policies, load},
    secret::Catalog,
};

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
    let both = format!("# all\n{}---\n{}", policy("b"), policy("a").replace("[a]", " [ 'a' ]"));
    assert_eq!(one, parse(&[("all", both)]), "in one file, written in another way");
    assert_ne!(one, parse(&[("a", policy("a"))]));
    assert_ne!(one, parse(&[("a", policy("a")), ("b", policy("b").replace("/a", "/b"))]));
    assert_ne!(one, *Policies::empty().hash());
}

#[test]
fn only_what_changed_is_parsed_again() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    for name in ["a", "b"] {
        write(directory.path(), &format!("{name}.yaml"), policy(name).as_bytes());
    }
    let mut loader = Loader::default();
    let mut load = |catalog: &Catalog| {
        let policies = loader.load(&[directory.path().to_owned()], catalog).expect("valid");
        let by_name = policies.policies.iter().map(|policy| (policy.name.clone(), policy.clone()));
        by_name.collect::<BTreeMap<_, _>>()
    };
    let before = load(&catalog());
    write(directory.path(), "b.yaml", policy("b").replace("/a", "/b").as_bytes());
    let after = load(&catalog());
    let same = |name: &str, other: &BTreeMap<_, _>| Arc::ptr_eq(&after[name], &other[name]);
    assert_eq!((same("a", &before), same("b", &before)), (true, false));
    // Under another name it has another origin, and with other backends another meaning.
    fs::rename(directory.path().join("b.yaml"), directory.path().join("c.yaml")).expect("rename");
    let renamed = load(&catalog());
    assert_eq!((same("a", &renamed), same("b", &renamed)), (true, false));
    assert!(!same("a", &load(&Catalog::default())));
}

/// A directory that is updated as kubelet does it.
struct Mount<'d>(&'d Path);

impl Mount<'_> {
    fn swap(&self, version: &str, files: &[(&str, String)]) {
        let at = |name: &str| self.0.join(name);
        fs::create_dir(at(version)).expect("make");
        for (name, text) in files {
            write(&at(version), name, text.as_bytes());
        }
        let old = fs::read_link(at("..data"));
        symlink(version, at("..data_tmp")).expect("link");
        fs::rename(at("..data_tmp"), at("..data")).expect("swap");
        for (name, _) in files {
            if fs::symlink_metadata(at(name)).is_err() {
                symlink(Path::new("..data").join(name), at(name)).expect("link");
            }
        }
        for entry in fs::read_dir(self.0).expect("a directory") {
            let path = entry.expect("an entry").path();
            let name = path.file_name().expect("a name").to_str().expect("text");
            if !name.starts_with("..") && files.iter().all(|(file, _)| *file != name) {
                fs::remove_file(path).expect("remove");
            }
        }
        if let Ok(old) = old {
            fs::remove_dir_all(at(old.to_str().expect("text"))).expect("remove");
        }
    }
}

#[test]
fn a_mount_counts_as_its_data_even_before_its_links_do() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    Mount(directory.path()).swap("..1", &[("a.yaml", policy("a"))]);
    let names = || {
        let policies = load(&[directory.path().to_owned()], &catalog()).expect("valid").policies;
        policies.iter().map(|policy| policy.name.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(names(), ["a"]);
    // The new version is in place; the link to its new file and the end of the stale one are not.
    fs::create_dir(directory.path().join("..2")).expect("make");
    write(&directory.path().join("..2"), "b.yaml", policy("b").as_bytes());
    symlink("..2", directory.path().join("..data_tmp")).expect("link");
    fs::rename(directory.path().join("..data_tmp"), directory.path().join("..data")).expect("swap");
    assert_eq!(names(), ["b"]);
    // What else lies there is read as well, and a link past `..data` is a file like others.
    write(directory.path(), "c.yaml", policy("c").as_bytes());
    fs::create_dir(directory.path().join("..3")).expect("make");
    write(&directory.path().join("..3"), "d", policy("d").as_bytes());
    symlink("..3/d", directory.path().join("d.yaml")).expect("link");
    assert_eq!(names(), ["b", "c", "d"]);
}

/// Reads while files are replaced as fast as they can be, by directory and one by one.
#[test]
fn no_two_versions_of_a_mount_are_ever_mixed() {
    const FILES: [&str; 4] = ["a.yaml", "b.yaml", "c.yaml", "d.yaml"];
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mount = directory.path().join("mount");
    fs::create_dir(&mount).expect("make");
    let version =
        |number: usize| FILES.map(|file| (file, policy(&format!("{}{number}", &file[..1]))));
    Mount(&mount).swap("..v0", &version(0));
    symlink("mount", directory.path().join("link")).expect("link");
    let done = AtomicBool::new(false);
    let whole = directory.path().join("link");
    let single = FILES.map(|file| mount.join(file));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in (1..).take_while(|_| !done.load(Ordering::Relaxed)) {
                Mount(&mount).swap(&format!("..v{number}"), &version(number));
            }
        });
        let mut seen = BTreeMap::new();
        let mut tries = 0;
        while seen.len() < 40 && tries < 20_000 {
            tries += 1;
            let paths: &[_] = if tries % 2 == 0 { &single } else { std::slice::from_ref(&whole) };
            // Where there was no moment of rest it is refused, which changes nothing.
            let Ok(policies) = load(paths, &catalog()) else { continue };
            let numbers = policies.policies.iter().map(|policy| policy.name[1..].to_owned());
            let numbers: Vec<_> = numbers.collect();
            let mixed = numbers.iter().any(|number| *number != numbers[0]);
            if mixed || numbers.len() != FILES.len() {
                done.store(true, Ordering::Relaxed);
                panic!("{numbers:?}");
            }
            seen.insert(numbers[0].clone(), ());
        }
        done.store(true, Ordering::Relaxed);
        assert!(seen.len() >= 40, "{} versions in {tries} tries", seen.len());
    });
}
