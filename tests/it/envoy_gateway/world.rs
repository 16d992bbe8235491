//! All that stands around a gateway: the service as the chart configures it with
//! `docs/envoy-gateway.md`, an application, and a third party behind TLS.

use std::{any::Any, collections::HashMap, fs, net::SocketAddr, path::Path};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{
    Certificates, Client, Envoy, Service, Upstream,
    mint::{ISSUER, Mint, jwks},
    repository,
};

pub(crate) const ORDERS_KEY: &str = "canary-orders-4Tq";
pub(crate) const STRIPE_KEY: &str = "canary-stripe-9Lm";

/// The page whose YAML is run.
pub(crate) const PAGE: &str = "docs/envoy-gateway.md";
/// The service's name in its certificate.
const SERVICE: &str = "vaultmux-mesh.vaultmux-system.svc";
/// The gateways' own name.
const GATEWAY: &str = "spiffe://cluster.local/ns/envoy-gateway-system/sa/edge";

pub(crate) struct World {
    pub(crate) service: Service,
    pub(crate) app: Upstream,
    pub(crate) payment: Upstream,
    pub(crate) mint: Mint,
    pub(crate) certificates: Certificates,
    directory: TempDir,
}

/// A running gateway, and where its listeners are.
pub(crate) struct Gateway {
    addresses: HashMap<&'static str, SocketAddr>,
    _running: Box<dyn Any + Send>,
}

/// The block of YAML of [`PAGE`] that has this name in its first line.
pub(crate) fn block(name: &str) -> String {
    let page = fs::read_to_string(repository(PAGE)).expect("the page");
    let start = format!("```yaml\n# {name}\n");
    let (_, rest) = page.split_once(&start).unwrap_or_else(|| panic!("no {name}"));
    rest.split_once("```").expect("a closed block").0.to_owned()
}

// === impl World ===

impl World {
    pub(crate) async fn start() -> Self {
        let directory = tempfile::tempdir().expect("make a directory");
        let certificates = Certificates::create(directory.path());
        let issue = |uris: &[&str], names: &[&str]| certificates.with_names("test", uris, names);
        certificates.save("service", &issue(&[], &[SERVICE]));
        certificates.save("client", &issue(&[GATEWAY], &[]));
        certificates.save("gateway", &issue(&[], &["vaultmux.test", "stripe.egress.internal"]));
        let mint = Mint::rsa("k1");
        let service = Self::service(&certificates, &mint).await;
        let app = Upstream::start().await;
        let payment = Upstream::start_tls(certificates.server("api.stripe.com")).await;
        Self { service, app, payment, mint, certificates, directory }
    }

    /// The service with the chart's configuration, where a test can have it.
    async fn service(certificates: &Certificates, mint: &Mint) -> Service {
        let text = fs::read_to_string(repository("tests/it/envoy_gateway/vaultmux.yaml"));
        let mut config: Value = serde_saphyr::from_str(&text.expect("the file")).expect("YAML");
        config["mode"] = "development".into();
        for listener in ["grpc", "rest", "admin"] {
            config["listeners"][listener]["address"] = "127.0.0.1:0".into();
        }
        config["identity"]["service_account_tokens"]["jwks"] =
            json!({"issuer": ISSUER, "source": "file:{directory}/jwks"});
        let secrets = json!({"shared/orders": ORDERS_KEY, "shared/stripe": STRIPE_KEY});
        config["backends"]["aws-prod"] = json!({"type": "memory", "secrets": secrets});
        let config = config.to_string().replace("/etc/vaultmux/", "{directory}/");
        let pem = |name| fs::read_to_string(certificates.directory().join(name)).expect("made");
        Service::start(&[
            ("config.yaml", &config),
            ("policies/policies/policies.yaml", &block("policies.yaml")),
            ("tls/tls.crt", &pem("service.crt")),
            ("tls/tls.key", &pem("service.key")),
            ("client-ca/ca.crt", &pem("ca.crt")),
            ("grant/keys", "k1 MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=\n"),
            ("jwks", &jwks([mint])),
        ])
        .await
    }

    /// Where the certificates are.
    pub(crate) fn files(&self) -> &Path {
        self.directory.path()
    }

    /// Where the service's gRPC is, the application, and the third party.
    pub(crate) fn ports(&self) -> [u16; 3] {
        let grpc: SocketAddr = self.service.grpc().parse().expect("a port");
        [grpc.port(), self.app.address.port(), self.payment.address.port()]
    }

    /// A gateway with this configuration, whose ports and files are put in place.
    pub(crate) async fn gateway(&self, bootstrap: &str, listeners: &[&'static str]) -> Gateway {
        let mut text = bootstrap.to_owned();
        let [grpc, app, payment] = self.ports();
        let mut edit = |from: &str, to: &str| text = text.replace(from, to);
        for (name, file) in [
            ("edge.edge-tls", "gateway"),
            ("egress.egress-tls", "gateway"),
            ("envoy-gateway-system.edge-client", "client"),
            ("edge.callers.ca.crt", "ca"),
            ("egress.workloads.ca.crt", "ca"),
            ("vaultmux-mesh.vaultmux-system-ca", "ca"),
            ("system_ca_certificates", "ca"),
        ] {
            let file = self.files().join(file).display().to_string();
            edit(&format!("/etc/envoy/tls/{name}."), &format!("{file}."));
        }
        for (from, to) in [
            ("10080", 0),
            ("10443", 0),
            ("19003", 0),
            ("9191", grpc),
            ("8000", app),
            ("443", payment),
        ] {
            edit(&format!("\"portValue\": {from}\n"), &format!("\"portValue\": {to}\n"));
            edit(&format!("\"portValue\": {from},"), &format!("\"portValue\": {to},"));
        }
        edit("\"0.0.0.0\"", "\"127.0.0.1\"");
        edit("\"address\": \"api.stripe.com\"", "\"address\": \"127.0.0.1\"");
        let envoy = Envoy::start(&text).await;
        let addresses = listeners.iter().map(|name| (*name, envoy.address(name))).collect();
        Gateway::new(addresses, envoy)
    }

    /// A client that shows a workload's certificate to this listener.
    pub(crate) fn client(&self, gateway: &Gateway, listener: &str, account: &str) -> Client {
        let (namespace, account) = account.split_once('/').expect("namespace/name");
        let identity = self.certificates.workload(namespace, account);
        Client::tls(gateway.address(listener), &self.certificates, Some(identity))
    }

    /// The same without a certificate.
    pub(crate) fn stranger(&self, gateway: &Gateway, listener: &str) -> Client {
        Client::tls(gateway.address(listener), &self.certificates, None)
    }

    /// The header with the token of a service account.
    pub(crate) fn bearer(&self, account: &str) -> String {
        format!("Bearer {}", self.mint.token_for(account, json!({})))
    }

    /// Nothing that the service printed shows a value. Complete once it has ended.
    pub(crate) fn assert_silent(&self) {
        for line in self.service.logs().iter().chain(&self.service.stdout()) {
            assert!(!line.contains(ORDERS_KEY) && !line.contains(STRIPE_KEY), "{line}");
        }
    }
}

// === impl Gateway ===

impl Gateway {
    /// What runs ends with it.
    pub(crate) fn new(
        addresses: HashMap<&'static str, SocketAddr>,
        running: impl Any + Send,
    ) -> Self {
        Self { addresses, _running: Box::new(running) }
    }

    pub(crate) fn address(&self, listener: &str) -> SocketAddr {
        self.addresses[listener]
    }
}
