//! The front proxy, its upstreams and the service, wired together.

use std::{net::SocketAddr, ops::Deref};

use tempfile::TempDir;

use super::{Certificates, Client, Edit, Envoy, Identity, Service, Upstream};

/// The front proxy of `envoy/front-proxy.yaml`, its upstreams, and the authority that
/// made the certificates.
pub(crate) struct Edge {
    pub(crate) certificates: Certificates,
    pub(crate) app: Upstream,
    pub(crate) payment: Upstream,
    pub(crate) envoy: Envoy,
    // Holds the certificates' files.
    _directory: TempDir,
}

/// An edge with the service behind it.
pub(crate) struct Mesh {
    pub(crate) service: Service,
    edge: Edge,
}

/// A mesh that is about to start.
pub(crate) struct MeshBuilder {
    config: String,
    policies: String,
    files: Vec<(String, String)>,
    edits: Vec<Edit>,
}

/// Every secret's value in the tests starts with the first of these and its name with
/// the second, and nothing else does.
const CANARIES: [&str; 2] = ["canary-", "zq-"];

const CONFIG: &str = r#"
mode: development
listeners:
  grpc: {address: "127.0.0.1:0"}
  rest: {address: "127.0.0.1:0"}
  admin: {address: "127.0.0.1:0"}
identity:
  trust_domains: [cluster.local]
  local: {namespace: payments, service_account: api}
backends:
  local:
    type: memory
    secrets:
      zq-orders: canary-orders-7Qx
      zq-stripe: canary-stripe-9Lm
      zq-team/db: canary-slash-3Vd
      zq-hidden: canary-hidden-5Zt
      zq-trailing: "canary-stripe-9Lm\n"
      zq-inner: "canary-stripe-9Lm\ncanary-orders-7Qx"
default_backend: local
policies: [policies]
secret_routes: [{hosts: [vaultmux.test], prefix: /v1/secrets}]
"#;

const POLICIES: &str = r#"
apiVersion: vaultmux.dev/v1alpha1
kind: AccessPolicy
metadata: {name: api-reads}
spec:
  effect: Allow
  from: [{serviceAccounts: [payments/api]}]
  to: [{secrets: {backends: [local], names: [zq-orders, zq-team/db, zq-missing], verbs: [get, list]}}]
---
apiVersion: vaultmux.dev/v1alpha1
kind: AccessPolicy
metadata: {name: api-uses}
spec:
  effect: Allow
  from: [{serviceAccounts: [payments/api]}]
  to:
    - secrets:
        backends: [local]
        names: [zq-stripe, zq-trailing, zq-inner]
        verbs: [use]
        destinations: [{hosts: [api.stripe.test], clusters: [payment]}]
---
apiVersion: vaultmux.dev/v1alpha1
kind: AccessPolicy
metadata: {name: traffic}
spec:
  effect: Allow
  from: [{namespaces: [payments]}]
  to:
    - http: {hosts: [app.test], paths: [/public/]}
    - http: {hosts: [api.stripe.test]}
"#;

// === impl Edge ===

impl Edge {
    /// Starts it in front of whatever speaks gRPC and HTTP there. The edits come on top
    /// of the ports and paths, the only differences to the file itself.
    pub(crate) async fn start(grpc: SocketAddr, rest: SocketAddr, edits: &[Edit]) -> Self {
        let directory = tempfile::tempdir().expect("make a directory");
        let certificates = Certificates::create(directory.path());
        let app = Upstream::start().await;
        let payment = Upstream::start_tls(certificates.server("api.stripe.test")).await;
        let mut all = vec![
            ("/etc/envoy/tls".to_owned(), certificates.directory().display().to_string()),
            port(9901, 0),
            port(8443, 0),
            port(9191, grpc.port()),
            port(8080, rest.port()),
            port(8000, app.address.port()),
            port(8444, payment.address.port()),
        ];
        all.extend_from_slice(edits);
        let envoy = Envoy::start(&Envoy::bootstrap("front-proxy.yaml", &all)).await;
        Self { certificates, app, payment, envoy, _directory: directory }
    }

    /// A client of the edge that shows a workload's certificate.
    pub(crate) fn client(&self, namespace: &str, service_account: &str) -> Client {
        self.client_with(self.certificates.workload(namespace, service_account))
    }

    /// `payments/api`, which the policies are about.
    pub(crate) fn api(&self) -> Client {
        self.client("payments", "api")
    }

    /// A client of the edge that shows this certificate.
    pub(crate) fn client_with(&self, identity: Identity) -> Client {
        Client::tls(self.envoy.address("edge"), &self.certificates, Some(identity))
    }
}

// === impl Mesh ===

impl Mesh {
    /// The mesh as the tests mostly need it: `payments/api` reads some secrets, may use
    /// one toward `api.stripe.test`, and may talk to the app.
    pub(crate) async fn start() -> Self {
        Self::builder().start().await
    }

    /// The same, to be changed first.
    pub(crate) fn builder() -> MeshBuilder {
        MeshBuilder::new(CONFIG, POLICIES)
    }

    /// Ends the service and checks what holds for every test: it stops when asked, and
    /// nothing it printed names a secret or shows a value.
    pub(crate) async fn finish(mut self) {
        self.service.terminate();
        assert_eq!(self.service.exit_code().await, 0, "exit code after SIGTERM");
        self.assert_silent();
    }

    /// Nothing that the service printed names a secret or shows a value. Complete once it
    /// has ended.
    pub(crate) fn assert_silent(&self) {
        for line in self.service.logs() {
            for canary in CANARIES {
                assert!(!line.contains(canary), "logged {canary}: {line}");
            }
        }
        // An audit stream names secrets, that is its purpose.
        for line in self.service.stdout() {
            assert!(!line.contains(CANARIES[0]), "printed a value: {line}");
        }
    }
}

impl Deref for Mesh {
    type Target = Edge;

    fn deref(&self) -> &Edge {
        &self.edge
    }
}

// === impl MeshBuilder ===

impl MeshBuilder {
    /// A mesh with this configuration, which loads policies from `policies/`.
    pub(crate) fn new(config: &str, policies: &str) -> Self {
        Self {
            config: config.into(),
            policies: policies.into(),
            files: Vec::new(),
            edits: Vec::new(),
        }
    }

    /// Appends to the service's configuration.
    pub(crate) fn config(mut self, more: &str) -> Self {
        self.config.push_str(more);
        self
    }

    /// Adds policy documents.
    pub(crate) fn policies(mut self, more: &str) -> Self {
        self.policies.push_str("\n---\n");
        self.policies.push_str(more);
        self
    }

    /// Adds a file beside the configuration.
    pub(crate) fn file(mut self, name: &str, text: &str) -> Self {
        self.files.push((name.into(), text.into()));
        self
    }

    /// Changes the bootstrap.
    pub(crate) fn edit(mut self, from: &str, to: &str) -> Self {
        self.edits.push((from.into(), to.into()));
        self
    }

    /// Starts everything.
    pub(crate) async fn start(self) -> Mesh {
        let policies = ("policies/test.yaml", self.policies.as_str());
        let config = encrypted(&self.config, "payment");
        let mut files = vec![("config.yaml", config.as_str()), policies];
        files.extend(self.files.iter().map(|(name, text)| (name.as_str(), text.as_str())));
        let service = Service::start(&files).await;
        let grpc = service.grpc().parse().expect("gRPC listens on a port");
        let edge = Edge::start(grpc, service.rest(), &self.edits).await;
        Mesh { service, edge }
    }
}

/// A configuration that says of these clusters that they are reached through TLS, as those of
/// the bootstraps are, unless it says what is.
pub(crate) fn encrypted(config: &str, clusters: &str) -> String {
    if config.contains("tls_clusters:") || config.contains("cleartext_clusters:") {
        return config.to_owned();
    }
    let line = format!("tls_clusters: [{clusters}]");
    for (section, with) in [
        ("\next_proc:\n", format!("\next_proc:\n  {line}\n")),
        ("\next_proc: {", format!("\next_proc: {{{line}, ")),
    ] {
        if config.contains(section) {
            return config.replace(section, &with);
        }
    }
    format!("{config}\next_proc: {{{line}}}\n")
}

fn port(from: u16, to: u16) -> Edit {
    (format!("port_value: {from}}}"), format!("port_value: {to}}}"))
}
