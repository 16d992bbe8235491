//! `envoy/mtls-spiffe-sds.yaml`: SPIFFE on every leg, with files that are exchanged while it
//! serves.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    time::Duration,
};

use tempfile::TempDir;

use crate::harness::{
    Certificates, Client, Edit, Envoy, Received, Service, Upstream, repository, sized,
};

const CONFIG: &str = r#"
mode: development
listeners:
  grpc:
    address: "127.0.0.1:0"
    tls: {cert_file: CERTS/service.crt, key_file: CERTS/service.key, client_ca_file: CERTS/both.crt}
    trusted_peers: ["spiffe://cluster.local/ns/shop/sa/orders"]
  rest: {address: "127.0.0.1:0"}
  admin: {address: "127.0.0.1:0"}
identity: {trust_domains: [cluster.local]}
backends: {local: {type: memory}}
policies: [policy.yaml]
"#;

const POLICY: &str = r#"
apiVersion: vaultmux.dev/v1alpha1
kind: AccessPolicy
metadata: {name: orders}
spec:
  effect: Allow
  from: [{serviceAccounts: [payments/api], require: [mtls]}]
  to: [{http: {methods: [GET], paths: [/orders/], destinations: [shop/orders]}}]
"#;

const ORDERS: &str = "spiffe://cluster.local/ns/shop/sa/orders";
const SERVICE: &str = "spiffe://cluster.local/ns/vaultmux-system/sa/vaultmux-mesh";

/// Two authorities, of which the second takes over.
struct Files {
    directory: TempDir,
    old: Certificates,
    new: Certificates,
}

// === impl Files ===

impl Files {
    /// The old authority has signed everything, and the service trusts both already.
    fn create(service: &str) -> Self {
        let directory = tempfile::tempdir().expect("make a directory");
        let certificates = |name: &str| {
            let certificates = Certificates::create_by(name, &directory.path().join(name));
            certificates.proxy(ORDERS);
            certificates
        };
        let files = Self { old: certificates("old"), new: certificates("new"), directory };
        files.old.save("service", &files.old.with_uris(&[service]));
        let both = [files.path("old/ca.crt"), files.path("new/ca.crt")]
            .map(|path| fs::read_to_string(path).expect("written before"));
        fs::write(files.path("old/both.crt"), both.concat()).expect("write the bundle");
        files.mount("first", "old/tls", &both[0]);
        for name in ["tls.crt", "tls.key", "ca.crt"] {
            symlink(format!("..data/{name}"), files.path("tls").join(name)).expect("link it");
        }
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// What the kubelet does with a mounted volume: a new directory, and a link to it that is
    /// renamed into place.
    fn mount(&self, version: &str, certificate: &str, bundle: &str) {
        let tls = self.path("tls");
        let inner = tls.join(format!("..{version}"));
        fs::create_dir_all(&inner).expect("make a directory");
        for end in ["crt", "key"] {
            let from = self.path(&format!("{certificate}.{end}"));
            fs::copy(from, inner.join(format!("tls.{end}"))).expect("copy it");
        }
        fs::write(inner.join("ca.crt"), bundle).expect("write the bundle");
        let link = tls.join("..data_tmp");
        symlink(format!("..{version}"), &link).expect("link it");
        fs::rename(link, tls.join("..data")).expect("rename it into place");
    }

    async fn service(&self) -> Service {
        let certificates = self.path("old").display().to_string();
        let config = CONFIG.replace("CERTS", &certificates);
        Service::start(&[("config.yaml", &config), ("policy.yaml", POLICY)]).await
    }

    async fn envoy(&self, service: &Service, app: &Upstream) -> Envoy {
        let (_, grpc) = service.grpc().rsplit_once(':').expect("a port");
        let tls: Edit = ("/etc/envoy/tls".into(), self.path("tls").display().to_string());
        let sds = self.path("sds");
        fs::create_dir_all(&sds).expect("make a directory");
        for name in ["svid.yaml", "bundle.yaml"] {
            let shipped = fs::read_to_string(repository("envoy/sds").join(name)).expect("shipped");
            assert!(shipped.contains(&tls.0));
            fs::write(sds.join(name), shipped.replace(&tls.0, &tls.1)).expect("write it");
        }
        let edits: Vec<Edit> = vec![
            ("/etc/envoy/sds".into(), shown(&sds)),
            // Long enough for a machine that is busy with other things.
            ("                timeout: 1s\n".into(), "                timeout: 15s\n".into()),
            ("port_value: 9901}".into(), "port_value: 0}".into()),
            ("port_value: 8443}".into(), "port_value: 0}".into()),
            ("port_value: 9191}".into(), format!("port_value: {grpc}}}")),
            ("port_value: 8000}".into(), format!("port_value: {}}}", app.address.port())),
        ];
        Envoy::start(&Envoy::bootstrap("mtls-spiffe-sds.yaml", &edits)).await
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

/// `payments/api` with a certificate of that authority, which trusts no other.
fn client(envoy: &Envoy, authority: &Certificates) -> Client {
    let identity = authority.workload("payments", "api");
    Client::tls(envoy.address("inbound"), authority, Some(identity))
}

#[tokio::test(flavor = "multi_thread")]
async fn another_authority_takes_over_without_a_restart() {
    let files = Files::create(SERVICE);
    let service = files.service().await;
    let app = Upstream::start().await;
    let envoy = files.envoy(&service, &app).await;
    let answer = client(&envoy, &files.old).get("orders", "/orders/1").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let received: Received = answer.json();
    let api = "spiffe://cluster.local/ns/payments/sa/api;proofs=mtls";
    assert_eq!(received.header("x-vaultmux-principal"), [api]);
    assert_eq!(client(&envoy, &files.old).get("orders", "/admin").await.status, 403);
    let of_new = client(&envoy, &files.new);
    let early = of_new.try_send("GET", "orders", "/orders/1", &[], sized("")).await;
    assert!(early.is_err(), "the new authority is not trusted yet: {early:?}");

    let bundle = fs::read_to_string(files.path("old/both.crt")).expect("written before");
    files.mount("second", "new/tls", &bundle);
    let mut last = String::new();
    let taken = async {
        loop {
            match of_new.try_send("GET", "orders", "/orders/1", &[], sized("")).await {
                Ok(answer) if answer.status == 200 => break answer,
                other => last = format!("{other:?}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let answer = tokio::time::timeout(Duration::from_secs(30), taken).await.ok();
    let received: Received = answer.unwrap_or_else(|| panic!("not in use: {last}")).json();
    assert_eq!(received.header("x-vaultmux-principal"), [api]);
    // The old one is no longer shown, and clients that it vouched for are still let in.
    let both =
        files.new.client_trusting(&[&files.old], Some(files.old.workload("payments", "api")));
    let of_both = Client::with_tls(envoy.address("inbound"), both);
    assert_eq!(of_both.get("orders", "/orders/1").await.status, 200);
    let of_old = client(&envoy, &files.old);
    let late = of_old.try_send("GET", "orders", "/orders/1", &[], sized("")).await;
    assert!(late.is_err(), "the old certificate is not shown any more: {late:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_else_can_pass_for_the_service() {
    let files = Files::create("spiffe://cluster.local/ns/vaultmux-system/sa/other");
    let service = files.service().await;
    let app = Upstream::start().await;
    let envoy = files.envoy(&service, &app).await;
    let answer = client(&envoy, &files.old).get("orders", "/orders/1").await;
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert!(app.received().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_of_other_trust_domains_do_not_get_in() {
    let files = Files::create(SERVICE);
    let service = files.service().await;
    let app = Upstream::start().await;
    let envoy = files.envoy(&service, &app).await;
    for identity in [
        Some(files.old.with_uris(&["spiffe://cluster.local.evil/ns/payments/sa/api"])),
        Some(files.old.with_dns(&["cluster.local"])),
        None,
    ] {
        let client = Client::tls(envoy.address("inbound"), &files.old, identity);
        let sent = client.try_send("GET", "orders", "/orders/1", &[], sized("")).await;
        assert!(sent.is_err(), "{sent:?}");
    }
    assert!(app.received().is_empty());
}
