//! All that stands around a proxy of the mesh: the service as `istio/README.md` configures
//! it, an application, and a third party behind TLS.

use std::{fs, path::Path};

use tempfile::TempDir;

use crate::harness::{
    Certificates, Client, Envoy, Service, Upstream,
    mint::{ISSUER, Mint, jwks},
    repository,
};

pub(crate) const KEY: &str = "canary-stripe-9Lm";
pub(crate) const REFERENCE: &str = "Bearer {{secret://aws-prod/shared/stripe}}";

/// What stands in `services.yaml` and in the bootstraps for the service's gRPC and REST, the
/// application and the third party.
pub(crate) const PORTS: [u16; 4] = [19191, 18080, 18000, 18444];

/// Where proxies listen in `services.yaml` and in the bootstraps: in clear text, for TLS, and
/// for their own workload.
pub(crate) const HTTP: u16 = 18081;
pub(crate) const HTTPS: u16 = 18443;
pub(crate) const OUTBOUND: u16 = 15080;
/// Where waypoints do.
pub(crate) const HBONE: u16 = 15008;

/// One proxy and the manifests that make its configuration.
pub(crate) struct Situation {
    /// Its directory in `tests/it/istio`.
    pub(crate) name: &'static str,
    /// Directories of `istio/`.
    pub(crate) manifests: &'static [&'static str],
    /// Whose proxy it is: namespace and service account.
    pub(crate) account: (&'static str, &'static str),
    /// Whether it is a waypoint.
    pub(crate) ambient: bool,
}

pub(crate) const SIDECAR: Situation = Situation {
    name: "sidecar",
    manifests: &["service/own-tls", "overlays/namespace-sidecars", "overlays/inbound-injection"],
    account: ("shop", "orders"),
    ambient: false,
};
pub(crate) const GATEWAY: Situation = Situation {
    name: "gateway",
    manifests: &["service/own-tls", "overlays/gateway"],
    account: ("istio-ingress", "istio-ingressgateway"),
    ambient: false,
};
pub(crate) const GATEWAY_API: Situation = Situation {
    name: "gateway-api",
    manifests: &["service/own-tls", "overlays/gateway-api", "overlays/gateway-injection"],
    account: ("istio-ingress", "istio-ingressgateway"),
    ambient: false,
};
pub(crate) const EGRESS_GATEWAY: Situation = Situation {
    name: "egress-gateway",
    manifests: &["service/own-tls", "overlays/egress-gateway"],
    account: ("istio-egress", "egress-gateway"),
    ambient: false,
};
pub(crate) const EGRESS_SIDECAR: Situation = Situation {
    name: "egress-sidecar",
    manifests: &["service/own-tls", "overlays/egress-sidecar"],
    account: ("agents", "assistant"),
    ambient: false,
};

pub(crate) const WAYPOINT: Situation = Situation {
    name: "waypoint",
    manifests: &["service/own-tls", "overlays/ambient"],
    account: ("shop", "waypoint"),
    ambient: true,
};
pub(crate) const EGRESS_WAYPOINT: Situation = Situation {
    name: "egress-waypoint",
    manifests: &["service/own-tls", "overlays/ambient"],
    account: ("istio-egress", "egress"),
    ambient: true,
};

pub(crate) const LOCAL_SIDECAR: Situation = Situation {
    name: "local-sidecar",
    manifests: &["overlays/local-sidecar"],
    account: ("shop", "orders"),
    ambient: false,
};
pub(crate) const BEHIND_SIDECAR: Situation = Situation {
    name: "behind-sidecar",
    manifests: &["service/behind-sidecar"],
    account: ("vaultmux-system", "vaultmux-mesh"),
    ambient: false,
};

/// A running proxy, and at which ports it has its listeners.
pub(crate) struct Proxy {
    pub(crate) envoy: Envoy,
    pub(crate) http: u16,
    pub(crate) https: u16,
    pub(crate) outbound: u16,
}

pub(crate) struct World {
    pub(crate) service: Service,
    pub(crate) app: Upstream,
    pub(crate) payment: Upstream,
    pub(crate) mint: Mint,
    certificates: Certificates,
    directory: TempDir,
}

/// What the tests need beside the page's policies.
const POLICIES: &str = r#"
---
apiVersion: vaultmux.dev/v1alpha1
kind: AccessPolicy
metadata: {name: orders-get-keys}
spec:
  effect: Allow
  from: [{serviceAccounts: [shop/web]}]
  to: [{secrets: {names: [shared/stripe], verbs: [use], destinations: [{clusters: ["inbound|{port}||"]}, {clusters: ["outbound|80||orders.shop.svc.cluster.local"]}]}}]
"#;

/// The block of YAML in `istio/README.md` that has this name in its first line.
fn block(name: &str) -> String {
    let page = fs::read_to_string(repository("istio/README.md")).expect("istio/README.md");
    let start = format!("```yaml\n# {name}\n");
    let (_, rest) = page.split_once(&start).unwrap_or_else(|| panic!("no {name}"));
    rest.split_once("```").expect("a closed block").0.to_owned()
}

// === impl World ===

impl World {
    /// With the page's configuration, changed so that it runs here, and in these places. The
    /// application's sidecar listens at this port.
    pub(crate) async fn start(changes: &[(&str, &str)], inbound: u16) -> Self {
        Self::with("vaultmux.yaml", changes, inbound).await
    }

    /// The same with this block of the page.
    pub(crate) async fn with(name: &str, changes: &[(&str, &str)], inbound: u16) -> Self {
        let directory = tempfile::tempdir().expect("make a directory");
        let certificates = Certificates::create(directory.path());
        certificates.save("vaultmux", &certificates.workload("vaultmux-system", "vaultmux-mesh"));
        let mint = Mint::rsa("k1");
        let keys = jwks([&mint]);
        let here = directory.path().display();
        let memory = format!("{{type: memory, secrets: {{shared/stripe: {KEY}}}}}");
        let mut config = block(name);
        let fixed = [
            ("mode: cluster", "mode: development"),
            ("mode: sidecar", "mode: development"),
            ("127.0.0.1:9191", "127.0.0.1:0"),
            ("127.0.0.1:8080", "127.0.0.1:0"),
            ("127.0.0.1:9090", "127.0.0.1:0"),
            ("0.0.0.0:9191", "127.0.0.1:0"),
            ("0.0.0.0:8080", "127.0.0.1:0"),
            ("0.0.0.0:9090", "127.0.0.1:0"),
            ("/etc/istio-certs/cert-chain.pem", &format!("{here}/vaultmux.crt")),
            ("/etc/istio-certs/key.pem", &format!("{here}/vaultmux.key")),
            ("/etc/istio-certs/root-cert.pem", &format!("{here}/ca.crt")),
            (
                "{source: cluster}",
                &format!("{{issuer: '{ISSUER}', source: 'file:{{directory}}/jwks'}}"),
            ),
            ("{type: aws_secrets_manager, region: us-east-1}", &memory),
        ];
        for (from, to) in fixed {
            config = config.replace(from, to);
        }
        // What the page's policies are not about, the tests' are.
        let also = format!(
            "ext_proc:\n  cleartext_clusters: ['inbound|{inbound}||', \
             'outbound|80||orders.shop.svc.cluster.local']"
        );
        config = config.replace("ext_proc:", &also);
        for (from, to) in changes {
            assert!(config.contains(from), "istio/README.md has no {from}");
            config = config.replace(from, to);
        }
        let policies = block("policies.yaml") + &POLICIES.replace("{port}", &inbound.to_string());
        let files = [("config.yaml", &*config), ("policies.yaml", &*policies), ("jwks", &*keys)];
        let service = Service::start(&files).await;
        let app = Upstream::start().await;
        let payment = Upstream::start_tls(certificates.server("api.stripe.com")).await;
        Self { service, app, payment, mint, certificates, directory }
    }

    /// Where the proxy's certificate is, by which it is this service account's.
    pub(crate) fn proxy_is(&self, (namespace, account): (&str, &str)) {
        let id = format!("spiffe://cluster.local/ns/{namespace}/sa/{account}");
        let names = ["vaultmux.test", "api.stripe.com"];
        self.certificates.save("tls", &self.certificates.with_names("proxy", &[&id], &names));
    }

    /// Its directory.
    pub(crate) fn tls(&self) -> &Path {
        self.directory.path()
    }

    /// What [`PORTS`] stand for.
    pub(crate) fn ports(&self) -> [u16; 4] {
        let grpc: std::net::SocketAddr = self.service.grpc().parse().expect("a port");
        [
            grpc.port(),
            self.service.rest().port(),
            self.app.address.port(),
            self.payment.address.port(),
        ]
    }

    /// A client that shows a workload's certificate, as its own sidecar would.
    pub(crate) fn client(&self, proxy: &Proxy, namespace: &str, account: &str) -> Client {
        let identity = self.certificates.workload(namespace, account);
        let address = proxy.envoy.listening(proxy.https).expect("it listens for TLS");
        Client::tls(address, &self.certificates, Some(identity))
    }

    /// The same without a certificate.
    pub(crate) fn stranger(&self, proxy: &Proxy) -> Client {
        let address = proxy.envoy.listening(proxy.https).expect("it listens for TLS");
        Client::tls(address, &self.certificates, None)
    }

    /// Nothing that the service printed shows a value. Complete once it has ended.
    pub(crate) fn assert_silent(&self) {
        for line in self.service.logs().iter().chain(&self.service.stdout()) {
            assert!(!line.contains(KEY), "{line}");
        }
    }
}
