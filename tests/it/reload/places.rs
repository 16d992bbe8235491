//! Wherever policies and configuration lie, and however they are replaced, it is noticed.

use std::{fs, os::unix::fs::symlink, path::Path, time::Duration};

use super::{CONFIG, allow, mount::Mount, read};
use crate::harness::Service;

/// Waits until `prod/key` may be read and `other/key` not, or the reverse.
async fn until_allowed(service: &Service, prefix: &str, when: &str) {
    let expected = if prefix == "prod/" { (200, 403) } else { (403, 200) };
    let so = async {
        while (read(service, "prod/key").await, read(service, "other/key").await) != expected {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(25), so).await;
    assert!(waited.is_ok(), "{when}: {prefix} never allowed:\n{}", service.logs().join("\n"));
}

/// Replaces `p.yaml` under the configured path, or the path itself, again and again. `replace`
/// is given the service's directory, the new text and the number of the change.
async fn replaced(configured: &str, file: &str, replace: impl Fn(&Path, &str, usize)) {
    let config = CONFIG.replace("[policies]", &format!("[{configured}]"));
    let text = allow("p", "prod/");
    let service = Service::start(&[("config.yaml", &config), (file, &text)]).await;
    let root = service.path("");
    for (at, prefix) in ["other/", "prod/", "other/", "prod/"].into_iter().enumerate() {
        replace(&root, &allow("p", prefix), at + 1);
        until_allowed(&service, prefix, &format!("{configured}, change {}", at + 1)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mounted_directory() {
    replaced("policies", "policies/p.yaml", |root, text, at| {
        // A file that moves to another name, as when keys of a ConfigMap are renamed.
        let name = format!("p{}.yaml", at % 2);
        let directory = root.join("policies");
        Mount(&directory).swap(at, &[(&name, text)]);
        let _ = fs::remove_file(directory.join("p.yaml"));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_a_mount() {
    let swap = |root: &Path, text: &str, at| {
        Mount(&root.join("mount")).swap(at, &[("p.yaml", text)]);
    };
    replaced("mount/p.yaml", "mount/p.yaml", swap).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_to_a_file_of_a_mount_elsewhere() {
    replaced("etc/p.yaml", "etc/p.yaml", |root, text, at| {
        fs::create_dir_all(root.join("elsewhere")).expect("make");
        Mount(&root.join("elsewhere")).swap(at, &[("text", text)]);
        if at == 1 {
            symlink("../elsewhere/text", root.join("etc/new")).expect("link");
            fs::rename(root.join("etc/new"), root.join("etc/p.yaml")).expect("rename");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_to_a_directory() {
    replaced("current", "current/p.yaml", |root, text, at| {
        let release = root.join(format!("release-{at}"));
        fs::create_dir(&release).expect("make");
        fs::write(release.join("p.yaml"), text).expect("write");
        if at == 1 {
            fs::rename(root.join("current"), root.join("release-0")).expect("rename");
        }
        symlink(&release, root.join("next")).expect("link");
        fs::rename(root.join("next"), root.join("current")).expect("rename");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_behind_a_link() {
    replaced("current", "current/p.yaml", |root, text, at| {
        if at == 1 {
            fs::rename(root.join("current"), root.join("release")).expect("rename");
            symlink("release", root.join("current")).expect("link");
        }
        // As editors save.
        fs::write(root.join("release/.p.yaml.swp"), text).expect("write");
        fs::rename(root.join("release/.p.yaml.swp"), root.join("release/p.yaml")).expect("rename");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_is_made_anew() {
    replaced("policies", "policies/p.yaml", |root, text, at| match at {
        1 | 3 => {
            fs::remove_dir_all(root.join("policies")).expect("remove");
            fs::create_dir(root.join("policies")).expect("make");
            fs::write(root.join("policies/p.yaml"), text).expect("write");
        }
        _ => fs::write(root.join("policies/p.yaml"), text).expect("write"),
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_is_gone_for_a_while() {
    let text = allow("p", "prod/");
    let service = Service::start(&[("config.yaml", CONFIG), ("policies/p.yaml", &text)]).await;
    fs::remove_dir_all(service.path("policies")).expect("remove");
    service.refused(1).await;
    until_allowed(&service, "prod/", "without a directory").await;
    fs::create_dir(service.path("policies")).expect("make");
    fs::write(service.path("policies/p.yaml"), allow("p", "other/")).expect("write");
    until_allowed(&service, "other/", "with a new directory").await;
    // It is this one that is watched now.
    fs::write(service.path("policies/p.yaml"), allow("p", "prod/")).expect("write");
    until_allowed(&service, "prod/", "in the new directory").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_in_a_mount() {
    replaced("p0.yaml", "p0.yaml", |root, text, at| {
        let name = format!("p{at}.yaml");
        fs::write(root.join(&name), text).expect("write");
        let config = CONFIG.replace("[policies]", &format!("[{name}]"));
        Mount(root).swap(at, &[("config.yaml", &config)]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_and_its_policies_in_one_mount() {
    replaced("p.yaml", "p.yaml", |root, text, at| {
        let name = format!("p{}.yaml", at % 2);
        let config = CONFIG.replace("[policies]", &format!("[{name}]"));
        Mount(root).swap(at, &[("config.yaml", &config), (&name, text)]);
    })
    .await;
}
