//! `envoy/egress-ext-authz.yaml`, and what `docs/injection.md` shows of it: secrets that
//! ext_authz puts into headers with its answer, without any other filter.

use std::fs;

use base64::{Engine, engine::general_purpose::STANDARD};
use tempfile::TempDir;

use crate::harness::{
    Answer, Certificates, Client, Envoy, Received, Service, Upstream, repository,
};

const HOST: &str = "api.stripe.test";
const KEY: &str = "{{secret://local/shared/stripe}}";
const VALUE: &str = "canary-stripe-9Lm";

/// The page's secret, and those that are to be refused.
const SECRETS: (&str, &str) = (
    "{shared/stripe: sk_live_example}",
    r#"{shared/stripe: canary-stripe-9Lm, shared/inner: "canary-stripe-9Lm\nx", hidden: canary-h}"#,
);

/// A gateway with the page's configuration behind it.
struct Gateway {
    service: Service,
    envoy: Envoy,
    payment: Upstream,
    certificates: Certificates,
    _directory: TempDir,
}

/// The page's blocks of YAML, by the file name in their first line.
fn blocks() -> Vec<(String, String)> {
    let page = fs::read_to_string(repository("docs/injection.md")).expect("docs/injection.md");
    let blocks = page.split("```yaml\n# ").skip(1).map(|block| {
        let block = block.split("```").next().expect("a block");
        let (name, text) = block.split_once('\n').expect("a first line");
        (name.to_owned(), text.to_owned())
    });
    blocks.collect()
}

fn block(name: &str) -> String {
    let found = blocks().into_iter().find(|(is, _)| is == name);
    found.unwrap_or_else(|| panic!("docs/injection.md has no {name}")).1
}

impl Gateway {
    /// With the page's configuration, of which `config` is changed, and the bootstrap with
    /// these changes.
    async fn start(config: &[(&str, &str)], edits: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().expect("make a directory");
        let certificates = Certificates::create(directory.path());
        let mut yaml = block("vaultmux.yaml");
        let fixed = [(":9191", ":0"), (":8080", ":0"), (":9090", ":0"), SECRETS];
        for (from, to) in fixed.iter().chain(config) {
            assert!(yaml.contains(from), "no {from}: {yaml}");
            yaml = yaml.replace(from, to);
        }
        let policies = block("policies/egress.yaml");
        let files = [("config.yaml", yaml.as_str()), ("policies/egress.yaml", policies.as_str())];
        let service = Service::start(&files).await;
        let payment = Upstream::start_tls(certificates.server(HOST)).await;
        let grpc: std::net::SocketAddr = service.grpc().parse().expect("a port");
        let port =
            |from: u16, to: u16| (format!("port_value: {from}}}"), format!("port_value: {to}}}"));
        let mut all = vec![
            ("/etc/envoy/tls".to_owned(), certificates.directory().display().to_string()),
            port(9901, 0),
            port(8443, 0),
            port(9191, grpc.port()),
            port(8444, payment.address.port()),
        ];
        all.extend(edits.iter().map(|(from, to)| ((*from).into(), (*to).into())));
        let envoy = Envoy::start(&Envoy::bootstrap("egress-ext-authz.yaml", &all)).await;
        Self { service, envoy, payment, certificates, _directory: directory }
    }

    fn client(&self, namespace: &str, name: &str) -> Client {
        let identity = self.certificates.workload(namespace, name);
        Client::tls(self.envoy.address("egress"), &self.certificates, Some(identity))
    }

    async fn send(&self, host: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.client("payments", "api").request("GET", host, path, headers).await
    }

    /// The service printed no value, and the gateway neither.
    async fn finish(mut self) {
        self.service.terminate();
        assert_eq!(self.service.exit_code().await, 0);
        for line in self.service.logs().iter().chain(&self.service.stdout()) {
            assert!(!line.contains("canary-") && !line.contains("shared/"), "{line}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_arrive_with_the_answer_and_nothing_else_does() {
    let gateway = Gateway::start(&[], &[]).await;
    let basic = |text: &str| format!("Basic {}", STANDARD.encode(text));
    let bearer = format!("Bearer {VALUE}");
    let rows: Vec<(&str, &str, &str, String, String)> = vec![
        ("a reference", "/v1/charges?a=b", "x-api-key", KEY.into(), VALUE.into()),
        ("bearer", "/v1/x", "authorization", format!("Bearer {KEY}"), bearer.clone()),
        (
            "basic",
            "/v1/x",
            "authorization",
            basic(&format!("me:{KEY}")),
            basic(&format!("me:{VALUE}")),
        ),
        ("a rule", "/v2/charges", "authorization", "Bearer mine".into(), bearer),
        ("no reference", "/v1/x", "x-api-key", "plain".into(), "plain".into()),
    ];
    for http2 in [false, true] {
        for (name, path, header, sent, arrives) in &rows {
            let client = gateway.client("payments", "api");
            let client = if http2 { client.http2() } else { client };
            let claims = [
                (*header, sent.as_str()),
                ("x-vaultmux-principal", "spiffe://cluster.local/ns/other/sa/x"),
                ("x-vaultmux-grant", "forged"),
                ("x-forwarded-client-cert", "URI=spiffe://cluster.local/ns/other/sa/x"),
                ("x-other", "kept"),
            ];
            let answer = client.request("GET", HOST, path, &claims).await;
            assert_eq!(answer.status, 200, "{name}: {}", answer.text());
            let received: Received = answer.json();
            assert_eq!(received.header(header), [arrives.as_str()], "{name}");
            assert_eq!(received.header("x-other"), ["kept"], "{name}");
            assert_eq!(received.path, *path, "{name}");
            let own = ["x-vaultmux-", "x-forwarded-"];
            let told = received.headers.iter().filter(|(name, _)| {
                own.iter().any(|own| name.starts_with(own)) && name != "x-forwarded-proto"
            });
            assert_eq!(told.count(), 0, "{name}: {:?}", received.headers);
        }
    }
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_goes_nowhere_and_the_log_says_why() {
    let gateway = Gateway::start(&[], &[]).await;
    let reference = [("x-api-key", KEY)];
    let rows: Vec<(Answer, u16, &str)> = vec![
        (
            gateway.client("payments", "other").request("GET", HOST, "/", &reference).await,
            403,
            "no_match",
        ),
        (gateway.send("other.test", "/", &reference).await, 403, "no_match"),
        (
            gateway.send(HOST, "/", &[("x-api-key", "{{secret://local/hidden}}")]).await,
            403,
            "vaultmux_denied_no_match",
        ),
        (
            gateway.send(HOST, "/", &[("x-api-key", "{{secret://local/shared/none}}")]).await,
            502,
            "vaultmux_backend_not_found",
        ),
        (
            gateway.send(HOST, "/", &[("x-api-key", "{{secret://local/shared/inner}}")]).await,
            502,
            "vaultmux_value_unfit:control_character:secret://local/shared/inner",
        ),
        (
            gateway.send(HOST, "/", &[("x-api-key", "a {{secret://local/shared/stripe")]).await,
            400,
            "vaultmux_reference_refused:unclosed",
        ),
        (
            gateway.send(HOST, "/", &[("x-api-key", "a"), ("x-api-key", KEY)]).await,
            400,
            "vaultmux_reference_refused:position",
        ),
        // The proxy may set three headers, and this is none of them: its own check.
        (gateway.send(HOST, "/", &[("x-strange", KEY)]).await, 500, ""),
    ];
    for (number, (answer, status, reason)) in rows.iter().enumerate() {
        assert_eq!(answer.status, *status, "{reason}: {}", answer.text());
        assert!(!answer.text().contains("canary"), "{}", answer.text());
        let line = gateway.envoy.access(number).await;
        if !reason.is_empty() {
            assert_eq!(line["reason"], *reason, "{line}");
            assert!(answer.text().contains("decision_id"), "{}", answer.text());
        }
        assert!(!line.to_string().contains("canary"), "{line}");
    }
    assert!(gateway.payment.received().is_empty(), "{:?}", gateway.payment.received());
    gateway.finish().await;
}

/// What the route says of itself binds a secret, and nothing that the client says.
#[tokio::test(flavor = "multi_thread")]
async fn only_the_routes_own_words_or_the_configurations_bind_a_secret() {
    const SAYS: &str = "vaultmux.cluster: payment";
    let envoy = "spiffe://cluster.local/ns/gateway/sa/envoy";
    let stated = |proxy: &str, host: &str| {
        format!(
            "ext_authz:\n  destinations:\n    - {{proxies: ['{proxy}'], hosts: ['{host}'], \
             cluster: payment}}\n"
        )
    };
    let rows = [
        ("nothing is said", String::new(), "vaultmux.other: payment", 403),
        ("another cluster", String::new(), "vaultmux.cluster: elsewhere", 403),
        ("of another proxy", stated(&format!("{envoy}2"), HOST), "vaultmux.other: x", 403),
        ("of another host", stated(envoy, "api.test"), "vaultmux.other: x", 403),
        ("over the route", stated(envoy, HOST), "vaultmux.cluster: elsewhere", 403),
        ("of this proxy", stated(envoy, HOST), "vaultmux.other: x", 200),
        ("left to others", String::new(), "vaultmux.cluster: payment, vaultmux.inject: 'off'", 200),
    ];
    for (name, config, extension, expected) in rows {
        let config = match config.as_str() {
            "" => vec![],
            config => vec![("ext_authz:\n", config)],
        };
        let gateway = Gateway::start(&config, &[(SAYS, extension)]).await;
        let claims = [("x-api-key", KEY), ("vaultmux.cluster", "payment")];
        let answer = gateway.send(HOST, "/", &claims).await;
        assert_eq!(answer.status, expected, "{name}: {}", answer.text());
        match expected {
            200 => {
                let arrived = if name == "left to others" { KEY } else { VALUE };
                assert_eq!(answer.json::<Received>().header("x-api-key"), [arrived], "{name}");
            }
            _ => {
                let reason = &gateway.envoy.access(0).await["reason"];
                let expected = match extension {
                    "vaultmux.cluster: elsewhere" => "vaultmux_denied_no_match",
                    _ => "binding_attribute_missing:vaultmux.cluster",
                };
                assert_eq!(reason, expected, "{name}");
                assert!(gateway.payment.received().is_empty(), "{name}");
            }
        }
        gateway.finish().await;
    }
}

#[test]
fn the_pages_files_pass_the_check() {
    let directory = tempfile::tempdir().expect("make a directory");
    fs::create_dir(directory.path().join("policies")).expect("make a directory");
    let mut configurations = Vec::new();
    for (name, text) in blocks() {
        if name.starts_with("vaultmux") {
            configurations.push(name.clone());
        }
        if name.starts_with("vaultmux") || name.starts_with("policies/") {
            fs::write(directory.path().join(name), text).expect("write a file");
        }
    }
    assert!(configurations.len() >= 2, "{configurations:?}");
    for name in configurations {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_vaultmux-mesh"))
            .args(["check", "--config", &name])
            .current_dir(directory.path())
            .output()
            .expect("the program runs");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{name}: {said}");
    }
}

/// Where a rule opens them, and with nothing but the answer to a check.
#[tokio::test(flavor = "multi_thread")]
async fn cookies_are_given_values_where_a_rule_opens_them() {
    let rule = "ext_proc:\n  substitutions:\n    - {name: c, match: {hosts: [api.stripe.test], \
                clusters: [payment]}, surfaces: {cookie: deny}}\n";
    let gateway = Gateway::start(&[("ext_proc:\n", rule)], &[]).await;
    let cookie = format!("lang=en; session={KEY}");
    let answer = gateway.send(HOST, "/v1/x", &[("cookie", &cookie)]).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let received: Received = answer.json();
    assert_eq!(received.header("cookie"), [format!("lang=en; session={VALUE}")]);
    for hidden in ["a={{secret://local/hidden}}", "a=%7B%7Bsecret://local/shared/stripe}}"] {
        let answer = gateway.send(HOST, "/v1/x", &[("cookie", hidden)]).await;
        assert!(matches!(answer.status, 400 | 403), "{hidden}: {}", answer.status);
    }
    assert_eq!(gateway.payment.received().len(), 1);
    gateway.finish().await;
}
