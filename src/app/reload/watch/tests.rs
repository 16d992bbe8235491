//! Which changes are noticed.

use std::{os::unix::fs::symlink, path::Path};

use notify::event::{AccessKind, AccessMode, CreateKind, Flag, ModifyKind, RemoveKind, RenameMode};
use tokio::time::timeout;

use super::*;

fn files(paths: &[&Path]) -> Files {
    Files { paths: paths.iter().map(|path| (*path).to_owned()).collect(), plugins: None }
}

#[test]
fn only_files_that_are_read_matter() {
    let files = Files { plugins: Some("/run/plugins".into()), ..Files::default() };
    let names = BTreeSet::from(["config".into(), "policies".into()]);
    let touched = EventKind::Modify(ModifyKind::Any);
    let made = EventKind::Create(CreateKind::Any);
    let moved = EventKind::Modify(ModifyKind::Name(RenameMode::To));
    for (path, kind, expected) in [
        ("/etc/vm/config", touched, true),
        ("/etc/vm/policies", EventKind::Remove(RemoveKind::Folder), true),
        ("/etc/vm/policies/a.yaml", touched, true),
        ("/etc/vm/policies/..data", moved, true),
        ("/etc/vm/service.log", touched, false),
        ("/etc/vm/policies/a.yaml.swp", made, false),
        ("/run/plugins/hsm.sock", made, true),
        ("/run/plugins/hsm.sock", moved, true),
        ("/run/plugins/hsm.sock", EventKind::Remove(RemoveKind::Any), true),
        ("/run/plugins/hsm.sock", touched, false),
        ("/run/plugins/hsm.db", touched, false),
    ] {
        assert_eq!(files.matters(&names, path.as_ref(), &kind), expected, "{path} {kind:?}");
    }
}

#[test]
fn reading_a_file_is_no_change() {
    for kind in [AccessKind::Read, AccessKind::Open(AccessMode::Read), AccessKind::Any] {
        assert!(!is_change(&EventKind::Access(kind)), "{kind:?}");
    }
    for kind in [
        EventKind::Create(CreateKind::File),
        EventKind::Modify(ModifyKind::Name(RenameMode::To)),
        EventKind::Remove(RemoveKind::File),
    ] {
        assert!(is_change(&kind), "{kind:?}");
    }
}

#[test]
fn lost_events_count_as_a_change() {
    let files = Files::default();
    let lost = notify::Event::new(EventKind::Other).set_flag(Flag::Rescan);
    assert!(files.matter(&BTreeSet::new(), &lost));
    assert!(!files.matter(&BTreeSet::new(), &notify::Event::new(EventKind::Other)));
}

#[test]
fn every_link_on_the_way_is_watched_where_it_stands() {
    let directory = tempfile::tempdir().expect("make a directory");
    let root = directory.path().canonicalize().expect("a real path");
    let below = |name: &str| root.join(name);
    for name in ["etc", "mount/..v1/sub", "releases/one"] {
        fs::create_dir_all(below(name)).expect("make");
    }
    fs::write(below("mount/..v1/p.yaml"), "").expect("write");
    symlink("..v1", below("mount/..data")).expect("link");
    symlink("..data/p.yaml", below("mount/p.yaml")).expect("link");
    symlink(below("mount/p.yaml"), below("etc/p.yaml")).expect("link");
    symlink("one", below("releases/current")).expect("link");
    for (path, directories, names) in [
        ("etc/p.yaml", &["etc", "mount"][..], &["..data", "p.yaml"][..]),
        ("mount/p.yaml", &["mount"], &["..data", "p.yaml"]),
        ("mount", &["", "mount"], &["mount"]),
        ("releases/current", &["releases", "releases/current"], &["current"]),
        ("absent/p.yaml", &[], &["p.yaml"]),
        ("etc/absent", &["etc"], &["absent"]),
    ] {
        let watched = files(&[&below(path)]).watched();
        let expected: Vec<_> = directories
            .iter()
            .map(|name| if name.is_empty() { root.clone() } else { below(name) })
            .collect();
        assert_eq!(watched.directories.into_iter().collect::<Vec<_>>(), expected, "{path}");
        assert!(names.iter().all(|name| watched.names.contains(OsStr::new(name))), "{path}");
    }
}

#[test]
fn links_in_a_circle_end() {
    let directory = tempfile::tempdir().expect("make a directory");
    let at = |name: &str| directory.path().join(name);
    symlink("b", at("a")).expect("link");
    symlink("a", at("b")).expect("link");
    assert!(replaceable(&at("a/p.yaml")).len() <= MAX_LINKS);
}

/// Time passes only while nothing else is to be done.
#[tokio::test(start_paused = true)]
async fn what_the_kernel_does_not_tell_is_seen_all_the_same() {
    let directory = tempfile::tempdir().expect("make a directory");
    let policies = directory.path().join("policies");
    fs::create_dir(&policies).expect("make");
    fs::write(policies.join("a.yaml"), "1").expect("write");
    let mut watch = Watch::of(files(&[&policies]));
    let changes: [(&str, &dyn Fn()); 5] = [
        ("other content", &|| fs::write(policies.join("a.yaml"), "12").expect("write")),
        ("another file", &|| fs::write(policies.join("b.yml"), "1").expect("write")),
        ("a file less", &|| fs::remove_file(policies.join("a.yaml")).expect("remove")),
        ("a mount", &|| symlink("..v1", policies.join("..data")).expect("link")),
        ("no directory", &|| fs::remove_dir_all(&policies).expect("remove")),
    ];
    for (what, change) in changes {
        watch.renew();
        // As where the file system has no events.
        watch.watcher = None;
        while watch.changes.try_recv().is_ok() {}
        let quiet = timeout(10 * LOOK, watch.changed()).await;
        assert!(quiet.is_err(), "before {what}");
        let before = Instant::now();
        change();
        timeout(10 * LOOK, watch.changed()).await.expect(what);
        assert!(before.elapsed() <= LOOK + QUIET, "{what}");
    }
}
