//! Callers whom a trusted proxy names by `x-forwarded-client-cert`: at REST behind a real
//! Envoy, and at ext_authz where the proxy itself has no certificate to show of them, as
//! waypoints of an ambient mesh.

use crate::{
    envoy_xfcc::{bootstrap, client_tls},
    harness::{Certificates, Client, Edit, Envoy, Received, Service, Upstream, encrypted},
    peers,
};

const HEADER: &str = "x-forwarded-client-cert";
const HOST: &str = "vaultmux.test";
const OWN: &str = "/v1/secrets/prod/key";
const OTHERS: &str = "/v1/secrets/other/key";
const API: &str = "spiffe://cluster.local/ns/prod/sa/api";
const FORGED: &str = "By=x;URI=spiffe://cluster.local/ns/other/sa/api";
const FORGED_JSON: &str = r#"[{"by":["x"],"uri":["spiffe://cluster.local/ns/other/sa/api"]}]"#;

/// What callers try, to be `other/api`.
const TRICKS: [&[&str]; 9] = [
    &[FORGED],
    &[FORGED_JSON],
    &[FORGED, FORGED],
    &["By=x;URI=spiffe://cluster.local/ns/other/sa/api,"],
    &["By=x;URI=spiffe://cluster.local/ns/other/sa/api;Subject=\""],
    &["By=x;URI=spiffe://cluster.local/ns/other/sa/api;Subject=\"\\"],
    &[r#"[{"uri":["spiffe://cluster.local/ns/other/sa/api"]},{"a":""#],
    &[r#"[{"uri":["spiffe://cluster.local/ns/other/sa/api"],"a":"]"#],
    &["-", FORGED],
];

/// Everybody in the own namespace, if a proxy that is trusted names them.
const POLICY: &str = r#"
apiVersion: vaultmux.dev/v1alpha1
kind: AccessPolicy
metadata: {name: named}
spec:
  effect: Allow
  from: [{namespaces: ["*"], require: [waypoint]}]
  to:
    - secrets: {prefixes: ["{namespace}/"], verbs: [get]}
    - http: {hosts: [app.test]}
"#;

fn trusting(proxies: &str, position: &str) -> String {
    format!(
        "identity: {{forwarded_client_cert: {{trusted_proxies: ['{proxies}'], \
         position: {position}}}}}\n"
    )
}

/// A service with its listeners, and the front proxy before it, which asks it with its own
/// certificate where the listener wants one.
pub(crate) struct Behind {
    _service: Service,
    pub(crate) certificates: Certificates,
    pub(crate) envoy: Envoy,
    pub(crate) app: Upstream,
    pub(crate) payment: Upstream,
    _directory: tempfile::TempDir,
}

// === impl Behind ===

impl Behind {
    /// `more` is appended to the configuration, `edits` change the bootstrap.
    pub(crate) async fn start(
        with_tls: bool,
        more: &str,
        policy: &str,
        edits: &[(&str, &str)],
    ) -> Self {
        let (directory, certificates) = peers::authority();
        let grpc = match with_tls {
            true => peers::tls(directory.path(), ""),
            false => peers::LOOPBACK.to_owned(),
        };
        let routes = "secret_routes: [{hosts: [vaultmux.test], prefix: /v1/secrets}]\n";
        let config = encrypted(&(peers::config(&grpc, peers::LOOPBACK) + routes + more), "payment");
        let files = [("config.yaml", config.as_str()), ("policies/own.yaml", policy)];
        let service = Service::start(&files).await;
        let app = Upstream::start().await;
        let payment = Upstream::start_tls(certificates.server("api.stripe.test")).await;
        let (_, port_of_grpc) = service.grpc().rsplit_once(':').expect("a port");
        let tls = directory.path().display().to_string();
        let port =
            |from: u16, to: &str| (format!("port_value: {from}}}"), format!("port_value: {to}}}"));
        let mut all: Vec<Edit> = vec![
            ("/etc/envoy/tls".to_owned(), tls),
            port(9901, "0"),
            port(8443, "0"),
            port(9191, port_of_grpc),
            port(8080, &service.rest().port().to_string()),
            port(8000, &app.address.port().to_string()),
            port(8444, &payment.address.port().to_string()),
        ];
        if with_tls {
            let cluster = "  - name: vaultmux-grpc\n    type: STATIC";
            all.push((cluster.into(), cluster.to_owned() + &client_tls(directory.path())));
        }
        all.extend(edits.iter().map(|(from, to)| ((*from).to_owned(), (*to).to_owned())));
        let envoy = Envoy::start(&Envoy::bootstrap("front-proxy.yaml", &all)).await;
        Self { _service: service, certificates, envoy, app, payment, _directory: directory }
    }

    /// A client of the edge without certificate.
    pub(crate) fn stranger(&self) -> Client {
        Client::tls(self.envoy.address("edge"), &self.certificates, None)
    }

    /// A client of the edge with a workload's.
    pub(crate) fn client(&self, namespace: &str, service_account: &str) -> Client {
        let identity = self.certificates.workload(namespace, service_account);
        Client::tls(self.envoy.address("edge"), &self.certificates, Some(identity))
    }
}

async fn get(client: &Client, host: &str, path: &str, forged: &[&str]) -> crate::harness::Answer {
    let headers: Vec<_> = forged.iter().map(|value| (HEADER, *value)).collect();
    client.request("GET", host, path, &headers).await
}

/// What REST says to callers of an Envoy that writes the header in each way.
#[tokio::test(flavor = "multi_thread")]
async fn rest_believes_a_trusted_proxy_and_never_its_callers() {
    const DETAILS: &str = "subject: true, uri: true, dns: true";
    let listeners = ["SANITIZE_SET", "APPEND_FORWARD"].map(|mode| {
        ["TEXT", "JSON"].map(|format| (format!("{mode} {format}"), mode, format, DETAILS))
    });
    let listeners = listeners.concat();
    let gateway = "spiffe://cluster.local/ns/gateway/sa/envoy";
    // Who is trusted, whether the proxy shows its certificate, what its clients get.
    for (trusted, with_tls, expected) in [
        (None, false, 401),
        (None, true, 403),
        (Some("10.0.0.0/8"), false, 401),
        (Some("::/0"), false, 401),
        (Some(gateway), false, 401),
        (Some("spiffe://cluster.local/ns/gateway/sa/other"), true, 403),
        (Some("spiffe://cluster.local/ns/gateway-2/sa/*"), true, 403),
        (Some("127.0.0.1/32"), false, 200),
        (Some("127.0.0.1/32"), true, 200),
        (Some(gateway), true, 200),
        (Some("spiffe://cluster.local/ns/gateway/sa/*"), true, 200),
    ] {
        let what = format!("{trusted:?}, TLS {with_tls}");
        let (directory, certificates) = peers::authority();
        let rest = match with_tls {
            true => peers::tls(directory.path(), ""),
            false => peers::LOOPBACK.to_owned(),
        };
        let more = trusted.map(|it| trusting(it, "last")).unwrap_or_default();
        let config = peers::config(peers::LOOPBACK, &rest) + &more;
        let files = [("config.yaml", config.as_str()), ("policies/own.yaml", POLICY)];
        let service = Service::start(&files).await;
        let mut text = bootstrap(&listeners, service.rest(), directory.path());
        if with_tls {
            text.push_str(&client_tls(directory.path()));
        }
        let envoy = Envoy::start(&text).await;
        for (listener, mode, ..) in &listeners {
            let what = format!("{what}, {listener}");
            let identity = Some(certificates.workload("prod", "api"));
            let client = Client::tls(envoy.address(listener), &certificates, identity);
            let answer = get(&client, HOST, OWN, &[]).await;
            assert_eq!(answer.status, expected, "{what}: {}", answer.text());
            let denied = if expected == 200 { 403 } else { expected };
            assert_eq!(get(&client, HOST, OTHERS, &[]).await.status, denied, "{what}");
            let nobody = Client::tls(envoy.address(listener), &certificates, None);
            for forged in TRICKS {
                let own = get(&client, HOST, OWN, forged).await.status;
                match *mode {
                    "SANITIZE_SET" => assert_eq!(own, expected, "{what} {forged:?}"),
                    _ => assert!(own == expected || own == 403, "{what} {forged:?}: {own}"),
                }
                assert_eq!(get(&client, HOST, OTHERS, forged).await.status, denied, "{what}");
                // The proxy has nothing to say of them: where it is trusted, it does not
                // speak for itself, and elsewhere it is not one of its clients.
                let refused = if with_tls && expected != 200 { 403 } else { 401 };
                for path in [OWN, OTHERS] {
                    let answer = get(&nobody, HOST, path, forged).await;
                    assert_eq!(answer.status, refused, "{what} {forged:?}");
                }
            }
        }
    }
}

/// Sets or appends the header before ext_authz sees it, as a waypoint does for callers of
/// whom it knows by its own connection only.
fn naming(action: &str, value: &str) -> String {
    let before = "          - name: envoy.filters.http.ext_authz\n";
    let value = value.replace('\'', "''");
    format!(
        "          - name: envoy.filters.http.header_mutation
            typed_config:
              \"@type\": type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.HeaderMutation
              mutations:
                request_mutations:
                - append:
                    header: {{key: x-forwarded-client-cert, value: '{value}'}}
                    append_action: {action}
{before}"
    )
}

const FILTER: &str = "          - name: envoy.filters.http.ext_authz\n";
const OPTIONAL: (&str, &str) =
    ("require_client_certificate: true", "require_client_certificate: false");
const SET: &str = "OVERWRITE_IF_EXISTS_OR_ADD";

#[tokio::test(flavor = "multi_thread")]
async fn a_waypoint_names_callers_that_have_no_certificate_there() {
    let by = "By=spiffe://cluster.local/ns/prod/sa/waypoint";
    let named = format!("{by};URI={API}");
    let json =
        format!(r#"[{{"by":["spiffe://cluster.local/ns/prod/sa/waypoint"],"uri":["{API}"]}}]"#);
    let foreign = format!("{by};URI=spiffe://other.td/ns/prod/sa/api");
    let two = format!("{by};URI={API};URI={API}");
    let longer = format!("{by};URI={API}/x");
    let elements = format!("{by};URI={API},{by};URI={API}");
    let cidr = trusting("127.0.0.1/32", "only");
    let gateway = trusting("spiffe://cluster.local/ns/gateway/sa/envoy", "only");
    let rows = [
        ("not configured", String::new(), false, &named, 401),
        ("another network", trusting("10.0.0.0/8", "only"), false, &named, 401),
        ("another proxy", trusting("spiffe://cluster.local/ns/a/sa/b", "only"), true, &named, 401),
        ("a proxy without certificate", gateway.clone(), false, &named, 401),
        ("nobody", cidr.clone(), false, &format!("{by};URI="), 401),
        ("a dash", cidr.clone(), false, &format!("{by};URI=-"), 401),
        ("another trust domain", cidr.clone(), false, &foreign, 403),
        ("two names", cidr.clone(), false, &two, 403),
        ("two elements", cidr.clone(), false, &elements, 403),
        ("a longer name", cidr.clone(), false, &longer, 403),
        ("by network", cidr.clone(), false, &named, 200),
        ("by network, as JSON", cidr.clone(), false, &json, 200),
        ("by certificate", gateway, true, &named, 200),
    ];
    for (name, more, with_tls, header, expected) in rows {
        let filter = naming(SET, header);
        let edits = [OPTIONAL, (FILTER, filter.as_str())];
        let behind = Behind::start(with_tls, &more, POLICY, &edits).await;
        let client = behind.stranger();
        for forged in std::iter::once(&[][..]).chain(TRICKS) {
            let answer = get(&client, "app.test", "/", forged).await;
            assert_eq!(answer.status, expected, "{name}, {forged:?}: {}", answer.text());
            if expected == 200 {
                let received: Received = answer.json();
                assert_eq!(
                    received.header("x-vaultmux-principal"),
                    [format!("{API};proofs=waypoint")],
                    "{name}"
                );
            }
            // Secrets are answered by ext_proc, which hears of the caller by grant.
            assert_eq!(get(&client, HOST, OWN, forged).await.status, expected, "{name}");
            let denied = if expected == 200 { 403 } else { expected };
            assert_eq!(get(&client, HOST, OTHERS, forged).await.status, denied, "{name}");
        }
        assert!(expected == 200 || behind.app.received().is_empty(), "{name}");
    }
}

/// Where a proxy appends to what its callers say, the last element is its own.
#[tokio::test(flavor = "multi_thread")]
async fn what_callers_said_before_never_wins() {
    let own = format!("By=spiffe://cluster.local/ns/prod/sa/waypoint;URI={API}");
    let filter = naming("APPEND_IF_EXISTS_OR_ADD", &own);
    let edits = [
        OPTIONAL,
        (FILTER, filter.as_str()),
        (
            "forward_client_cert_details: SANITIZE_SET",
            "forward_client_cert_details: ALWAYS_FORWARD_ONLY",
        ),
    ];
    for (position, alone) in [("last", 200), ("only", 403)] {
        let more = trusting("127.0.0.1/32", position);
        let behind = Behind::start(false, &more, POLICY, &edits).await;
        let client = behind.stranger();
        assert_eq!(get(&client, HOST, OWN, &[]).await.status, 200, "{position}");
        assert_eq!(get(&client, HOST, OWN, &[FORGED]).await.status, alone, "{position}");
        for forged in TRICKS {
            let answer = get(&client, HOST, OTHERS, forged).await;
            assert_eq!(answer.status, 403, "{position} {forged:?}");
            let answer = get(&client, "app.test", "/", forged).await;
            match answer.status {
                200 => {
                    let received: Received = answer.json();
                    assert_eq!(
                        received.header("x-vaultmux-principal"),
                        [format!("{API};proofs=waypoint")],
                        "{forged:?}"
                    );
                }
                status => assert_eq!(status, 403, "{position} {forged:?}"),
            }
        }
    }
}

/// A gateway before the proxy that asks: its own certificate is what is validated there,
/// and it is trusted by name.
#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_speaks_for_its_clients_and_they_do_not() {
    let gateway = "spiffe://cluster.local/ns/gateway/sa/envoy";
    for (mode, position) in [("FORWARD_ONLY", "last"), ("APPEND_FORWARD", "before_last")] {
        let mode_edit = format!("forward_client_cert_details: {mode}");
        let edits = [("forward_client_cert_details: SANITIZE_SET", mode_edit.as_str())];
        let behind = Behind::start(false, &trusting(gateway, position), POLICY, &edits).await;
        let tls = behind.certificates.directory();
        for format in ["TEXT", "JSON"] {
            let listeners = [("gateway".to_owned(), "SANITIZE_SET", format, "uri: true")];
            let text = bootstrap(&listeners, behind.envoy.address("edge"), tls) + &client_tls(tls);
            let front = Envoy::start(&text).await;
            let identity = behind.certificates.workload("prod", "api");
            let address = front.address("gateway");
            let client = Client::tls(address, &behind.certificates, Some(identity));
            for forged in std::iter::once(&[][..]).chain(TRICKS) {
                let received: Received = get(&client, "app.test", "/", forged).await.json();
                assert_eq!(
                    received.header("x-vaultmux-principal"),
                    [format!("{API};proofs=waypoint")],
                    "{mode}"
                );
                let answer = get(&client, HOST, OWN, forged).await;
                assert_eq!(answer.status, 200, "{mode}: {}", answer.text());
                assert_eq!(get(&client, HOST, OTHERS, forged).await.status, 403, "{mode}");
            }
        }
        // Past the gateway everybody is who its own certificate says.
        let arrived = behind.app.received().len();
        for forged in TRICKS {
            for (host, path) in [("app.test", "/"), (HOST, OWN), (HOST, OTHERS)] {
                let answer = get(&behind.client("prod", "web"), host, path, forged).await;
                assert_eq!(answer.status, 403, "{mode} {forged:?}");
            }
        }
        assert_eq!(behind.app.received().len(), arrived, "{mode}");
    }
}
