//! What is special about files, besides the shared checks.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
};

use tempfile::TempDir;

use super::*;
use crate::backends::conformance::{self, Profile};

fn opened() -> (TempDir, FileBackend) {
    let dir = TempDir::new().expect("temporary directory");
    let backend = FileBackend::open(dir.path()).expect("opened");
    (dir, backend)
}

fn name(raw: &str) -> SecretName {
    conformance::name(FileBackend::GRAMMAR, raw)
}

#[tokio::test]
async fn file_conforms() {
    let (dir, backend) = opened();
    let odd_names = &["of.a_secret+1=2@x-y", "a/b/c/d"];
    let profile = Profile { odd_names, history: false, ..Profile::new(FileBackend::GRAMMAR) };
    conformance::assert_conforms(&backend, profile).await;
    assert_eq!(fs::read_dir(dir.path()).expect("readable").count(), 0, "something was left behind");
}

#[tokio::test]
async fn conditional_writes_need_the_current_version() {
    let (_dir, backend) = opened();
    let (name, value) = (name("kept"), SecretValue::new("2"));
    backend.create(&name, &SecretValue::new("1")).await.expect("created");
    conformance::conditional_writes(&backend, &name, &value).await;
}

#[tokio::test]
async fn links_out_of_the_directory_are_refused() {
    let outside = TempDir::new().expect("temporary directory");
    fs::write(outside.path().join("secret"), "outside").expect("written");
    let (dir, backend) = opened();
    symlink(outside.path().join("secret"), dir.path().join("file")).expect("linked");
    symlink(outside.path(), dir.path().join("dir")).expect("linked");
    symlink(dir.path().join("gone"), dir.path().join("dangling")).expect("linked");
    for raw in ["file", "dir/secret"] {
        let name = name(raw);
        let read = backend.get(&name, &SecretVersion::Latest).await;
        assert!(matches!(read, Err(BackendError::Invalid(_))), "{raw}: {read:?}");
        let updated = backend.update(&name, &SecretValue::new("x")).await;
        assert!(matches!(updated, Err(BackendError::Invalid(_))), "{raw}: {updated:?}");
        let deleted = backend.delete(&name, true).await;
        assert!(matches!(deleted, Err(BackendError::Invalid(_))), "{raw}: {deleted:?}");
    }
    for raw in ["dir/new", "dir/deep/new"] {
        let created = backend.create(&name(raw), &SecretValue::new("x")).await;
        assert!(matches!(created, Err(BackendError::Invalid(_))), "{raw}: {created:?}");
    }
    assert_eq!(backend.list(None).await.expect("listed").names, []);
    assert_eq!(fs::read(outside.path().join("secret")).expect("still there"), b"outside");
    assert_eq!(fs::read_dir(outside.path()).expect("readable").count(), 1);
}

#[tokio::test]
async fn hidden_files_do_not_exist() {
    let (dir, backend) = opened();
    fs::write(dir.path().join(".hidden"), "x").expect("written");
    fs::create_dir(dir.path().join(".git")).expect("made");
    fs::write(dir.path().join(".git/config"), "x").expect("written");
    for raw in [".hidden", ".git/config", "a/.b"] {
        let read = backend.get(&name(raw), &SecretVersion::Latest).await;
        assert!(matches!(read, Err(BackendError::NotFound)), "{raw}: {read:?}");
        let created = backend.create(&name(raw), &SecretValue::new("x")).await;
        assert!(matches!(created, Err(BackendError::Invalid(_))), "{raw}: {created:?}");
    }
    assert_eq!(backend.list(None).await.expect("listed").names, []);
}

#[tokio::test]
async fn mounted_kubernetes_secrets_are_read_through_their_links() {
    let (dir, backend) = opened();
    fs::create_dir(dir.path().join("..2026_10_09")).expect("made");
    fs::write(dir.path().join("..2026_10_09/token"), "t").expect("written");
    symlink("..2026_10_09", dir.path().join("..data")).expect("linked");
    symlink("..data/token", dir.path().join("token")).expect("linked");
    let record = backend.get(&name("token"), &SecretVersion::Latest).await.expect("readable");
    assert_eq!(record.value.len(), 1);
    assert_eq!(backend.list(None).await.expect("listed").names, [name("token")]);
}

#[tokio::test]
async fn secrets_are_private_and_directories_are_no_secrets() {
    let (dir, backend) = opened();
    backend.create(&name("a/b"), &SecretValue::new("x")).await.expect("created");
    backend.update(&name("a/b"), &SecretValue::new("y")).await.expect("updated");
    let mode = |path: &str| {
        let metadata = fs::metadata(dir.path().join(path)).expect("there");
        metadata.permissions().mode() & 0o777
    };
    assert_eq!((mode("a"), mode("a/b")), (0o700, 0o600));
    let read = backend.get(&name("a"), &SecretVersion::Latest).await;
    assert!(matches!(read, Err(BackendError::NotFound)), "{read:?}");
    for raw in ["a", "a/b/c"] {
        let created = backend.create(&name(raw), &SecretValue::new("x")).await;
        assert!(matches!(created, Err(BackendError::Invalid(_))), "{raw}: {created:?}");
    }
    let long = name(&"n".repeat(300));
    let created = backend.create(&long, &SecretValue::new("x")).await;
    assert!(matches!(created, Err(BackendError::Invalid(_))), "{created:?}");
    backend.delete(&name("a/b"), false).await.expect("deleted");
    backend.create(&name("a"), &SecretValue::new("x")).await.expect("the directory is gone");
}

#[tokio::test]
async fn readers_see_whole_values_while_a_writer_replaces_them() {
    let (_dir, backend) = opened();
    let shared = name("whole");
    backend.create(&shared, &SecretValue::new(vec![b'0'; 50_000])).await.expect("created");
    let writer = tokio::spawn({
        let (backend, shared) = (backend.clone(), shared.clone());
        async move {
            for round in 0..50_u8 {
                let value = SecretValue::new(vec![b'0' + round % 10; 50_000]);
                backend.update(&shared, &value).await.expect("updated");
            }
        }
    });
    while !writer.is_finished() {
        let record = backend.get(&shared, &SecretVersion::Latest).await.expect("readable");
        assert_eq!(record.value.len(), 50_000);
    }
    writer.await.expect("wrote");
}

#[test]
fn only_an_existing_directory_opens() {
    let dir = TempDir::new().expect("temporary directory");
    fs::write(dir.path().join("file"), "x").expect("written");
    assert!(FileBackend::open(dir.path().join("missing")).is_err());
    assert!(FileBackend::open(dir.path().join("file")).is_err());
}
