//! Certificates that change while the service runs.

use std::{fs, path::Path, time::Duration};

use tempfile::TempDir;
use tokio::{sync::watch, time::timeout};

use crate::{
    harness::{Answer, Certificates, Client, Identity, Service, sized},
    peers::{LOOPBACK, POLICY, authority, channel, config, is_healthy, metric, start, tls},
};

/// Waits until it is so.
async fn until(what: &str, is_so: impl AsyncFn() -> bool) {
    let waited = timeout(Duration::from_secs(30), async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    assert!(waited.await.is_ok(), "never: {what}");
}

/// A directory of certificates that is updated as kubelet does it.
struct Volume(TempDir);

impl Volume {
    fn new(files: &[(&str, &[u8])]) -> Self {
        let volume = Self(tempfile::tempdir().expect("make a directory"));
        volume.swap("..1", files);
        for (name, _) in files {
            let target = Path::new("..data").join(name);
            std::os::unix::fs::symlink(target, volume.path().join(name)).expect("link");
        }
        volume
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// The new contents beside the old, then one rename.
    fn swap(&self, version: &str, files: &[(&str, &[u8])]) {
        fs::create_dir(self.path().join(version)).expect("make");
        for (name, text) in files {
            fs::write(self.path().join(version).join(name), text).expect("write");
        }
        let link = self.path().join("..tmp");
        std::os::unix::fs::symlink(version, &link).expect("link");
        fs::rename(link, self.path().join("..data")).expect("swap");
    }
}

fn read(certificates: &Certificates, name: &str) -> Vec<u8> {
    fs::read(certificates.directory().join(name)).expect("written")
}

/// Asks in a loop, each time on a new connection.
struct Load {
    client: watch::Sender<Client>,
    answered: watch::Receiver<usize>,
    task: tokio::task::JoinHandle<Result<(), String>>,
}

impl Load {
    fn start(client: Client) -> Self {
        let (client, current) = watch::channel(client);
        let (count, answered) = watch::channel(0);
        let task = tokio::spawn(async move {
            while current.has_changed().is_ok() {
                let client = current.borrow().clone();
                let path = "/v1/secrets/prod/key";
                match client.try_send("GET", "vaultmux.test", path, &[], sized("")).await {
                    Ok(Answer { status: 200, .. }) => count.send_modify(|count| *count += 1),
                    other => return Err(format!("{other:?}")),
                }
            }
            Ok(())
        });
        Self { client, answered, task }
    }

    /// Waits for some more answers.
    async fn goes_on(&mut self) {
        let enough = *self.answered.borrow() + 5;
        let waited = self.answered.wait_for(|answered| *answered >= enough);
        let waited = timeout(Duration::from_secs(30), waited).await;
        assert!(matches!(waited, Ok(Ok(_))), "a request failed");
    }

    async fn stop(self) {
        drop(self.client);
        let ended = timeout(Duration::from_secs(30), self.task).await.expect("ends");
        assert_eq!(ended.expect("does not panic"), Ok(()));
    }
}

/// How often a listener took certificates into use.
fn taken(service: &Service, listener: &str) -> usize {
    let listener = format!(r#""listener":"{listener}""#);
    let logs = service.logs();
    let taken = |line: &&String| line.contains("certificate in use") && line.contains(&listener);
    logs.iter().filter(taken).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_and_authorities_are_exchanged_under_load() {
    let (_old_directory, old) = authority();
    let (_new_directory, new) = authority();
    let [old_ca, new_ca] = [&old, &new].map(|of| read(of, "ca.crt"));
    let both_ca = [&old_ca[..], &new_ca].concat();
    let files = |of: &Certificates, ca: &[u8]| {
        [
            ("tls.crt", read(of, "tls.crt")),
            ("tls.key", read(of, "tls.key")),
            ("ca.crt", ca.to_vec()),
        ]
    };
    fn as_slices<'a>(files: &'a [(&'a str, Vec<u8>); 3]) -> [(&'a str, &'a [u8]); 3] {
        files.each_ref().map(|(name, text)| (*name, &text[..]))
    }
    let volume = Volume::new(&as_slices(&files(&old, &old_ca)));
    let both = tls(volume.path(), "");
    let service = start(&config(&both, &both)).await;
    assert_eq!((taken(&service, "grpc"), taken(&service, "rest")), (1, 1));

    let client = |identity: Identity| {
        Client::with_tls(service.rest(), old.client_trusting(&[&new], Some(identity)))
    };
    let old_client = client(old.workload("prod", "api"));
    let new_client = client(new.workload("prod", "api"));
    let ask = async |client: &Client| {
        let answer = client.try_send("GET", "vaultmux.test", "/health", &[], sized("")).await;
        answer.is_ok_and(|answer| answer.status == 200)
    };
    assert!(ask(&old_client).await && !ask(&new_client).await);
    let kept = channel(&service, old.client(Some(old.workload("prod", "api")))).await;
    assert!(is_healthy(&kept).await);
    let mut load = Load::start(old_client.clone());
    load.goes_on().await;

    // Both authorities, and a certificate of the new one.
    volume.swap("..2", &as_slices(&files(&new, &both_ca)));
    until("the listeners take them", async || {
        (taken(&service, "grpc"), taken(&service, "rest")) == (2, 2)
    })
    .await;
    load.goes_on().await;
    assert!(ask(&old_client).await && ask(&new_client).await);
    let of_old_server = Client::tls(service.rest(), &old, Some(old.workload("prod", "api")));
    assert!(!ask(&of_old_server).await, "the listener still shows the old certificate");

    // The new authority alone. The load has moved on by then, as clients do.
    load.client.send_replace(new_client.clone());
    load.goes_on().await;
    volume.swap("..3", &as_slices(&files(&new, &new_ca)));
    until("the listeners take them", async || {
        (taken(&service, "grpc"), taken(&service, "rest")) == (3, 3)
    })
    .await;
    load.goes_on().await;
    assert!(!ask(&old_client).await, "it may not resume its session either");
    assert!(ask(&new_client).await);
    assert!(is_healthy(&kept).await, "who has connected stays");
    load.stop().await;
    let name = r#"vaultmux_listener_certificate_expiry_timestamp_seconds{listener="rest"} "#;
    let expiry = metric(&service, name).await.expect("measured");
    let line = service.logged(&["certificate in use", r#""listener":"rest""#]).await;
    assert_eq!(line["expires"], "4096-01-01T00:00:00Z");
    assert_eq!(expiry, 67_090_118_400);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_broken_stays_out_and_the_rest_goes_in() {
    let (directory, certificates) = authority();
    let rest = tls(directory.path(), "");
    let service = start(&config(LOOPBACK, &rest)).await;
    let identity = || Some(certificates.workload("prod", "api"));
    let get = async |name: &str| {
        let client = Client::tls(service.rest(), &certificates, identity());
        client.get("vaultmux.test", &format!("/v1/secrets/{name}")).await.status
    };
    let refusals = || metric(&service, r#"vaultmux_reloads_total{result="error"} "#);
    let policy = |prefixes: &str| POLICY.replace(r#""{namespace}/""#, prefixes);
    let good = ["tls.crt", "tls.key", "ca.crt"].map(|name| (name, read(&certificates, name)));
    let (_elsewhere, other) = authority();
    // Policies that change at the same time take effect.
    let wide = (r#""prod/", "other/""#, 200);
    let narrow = (r#""prod/""#, 403);
    for (name, broken, expected, (prefixes, status)) in [
        ("tls.crt", b"garbage".to_vec(), "tls.crt: does not hold a certificate", wide),
        ("tls.key", read(&other, "tls.key"), "tls.crt: cannot be used", narrow),
        ("ca.crt", Vec::new(), "ca.crt: does not hold a certificate", wide),
    ] {
        let before = refusals().await.unwrap_or(0);
        fs::write(directory.path().join(name), broken).expect("write");
        fs::write(service.path("new"), policy(prefixes)).expect("write");
        fs::rename(service.path("new"), service.path("policies/own.yaml")).expect("move");
        until(expected, async || {
            let logs = service.logs();
            logs.iter().any(|line| line.contains("certificates refused") && line.contains(expected))
                && refusals().await.unwrap_or(0) > before
        })
        .await;
        until("the policies are in force", async || get("other/key").await == status).await;
        assert_eq!(get("prod/key").await, 200, "{name}");
        for (name, text) in &good {
            fs::write(directory.path().join(name), text).expect("write");
        }
    }
    assert_eq!(taken(&service, "rest"), 1, "nothing new came into use");

    // The reverse: policies that cannot be read beside certificates that can.
    fs::write(service.path("policies/broken.yaml"), "a: [").expect("write");
    service.logged(&["reload refused", "policies/broken.yaml"]).await;
    certificates.proxy("spiffe://cluster.local/ns/gateway/sa/next");
    service.hang_up();
    until("the certificate is in use", async || taken(&service, "rest") == 2).await;
    assert_eq!(get("prod/key").await, 200);

    // A listener that is configured otherwise needs a restart, and until then its files.
    fs::remove_file(service.path("policies/broken.yaml")).expect("remove");
    let moved = config(LOOPBACK, LOOPBACK);
    fs::write(service.path("config.yaml"), moved).expect("write");
    service.logged(&["need a restart"]).await;
    until("the configuration is in use", async || {
        metric(&service, "vaultmux_reload_problems ").await == Some(0)
    })
    .await;
    certificates.proxy("spiffe://cluster.local/ns/gateway/sa/last");
    until("the certificate is in use", async || taken(&service, "rest") >= 3).await;
    assert_eq!(get("prod/key").await, 200);
}
