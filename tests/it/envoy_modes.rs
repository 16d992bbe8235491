//! `envoy/failure-modes.yaml`, `shadow.yaml` and `istio-shape.yaml`: a door that is not asked
//! about everything, or whose answers are not always there.

use std::time::Duration;

use tempfile::TempDir;

use crate::harness::{Answer, Certificates, Client, Edit, Envoy, Received, Service, Upstream};

const CONFIG: &str = r#"
mode: development
listeners:
  grpc: {address: "127.0.0.1:0"}
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
  from: [{serviceAccounts: [payments/api]}]
  to: [{http: {methods: [GET], paths: [/orders/]}}]
"#;

/// What the client claims to be; nobody may believe it.
const CLAIM: (&str, &str) = ("x-vaultmux-principal", "spiffe://cluster.local/ns/a/sa/admin");

/// Long enough for a machine that is busy with other things.
const PATIENT: Change = ("                timeout: 1s\n", "                timeout: 15s\n");
const HEALTH: Change = ("    - timeout: 1s\n", "    - timeout: 15s\n");

type Change = (&'static str, &'static str);

struct Door {
    envoy: Envoy,
    app: Upstream,
    certificates: Certificates,
    _directory: TempDir,
}

// === impl Door ===

impl Door {
    async fn start(file: &str, services: &[&Service], edits: &[Change]) -> Self {
        let directory = tempfile::tempdir().expect("make a directory");
        let certificates = Certificates::create(directory.path());
        let app = Upstream::start().await;
        let mut all: Vec<Edit> = vec![
            ("/etc/envoy/tls".into(), certificates.directory().display().to_string()),
            port(9901, "0"),
            port(8443, "0"),
            port(8000, &app.address.port().to_string()),
        ];
        for (service, from) in services.iter().zip([9191, 9192]) {
            let (_, to) = service.grpc().rsplit_once(':').expect("a port");
            all.push(port(from, to));
        }
        let edits = edits.iter().chain([&PATIENT]);
        all.extend(edits.map(|(from, to)| ((*from).to_owned(), (*to).to_owned())));
        let envoy = Envoy::start(&Envoy::bootstrap(file, &all)).await;
        Self { envoy, app, certificates, _directory: directory }
    }

    async fn get(&self, service_account: &str, path: &str) -> Answer {
        let identity = self.certificates.workload("payments", service_account);
        let client = Client::tls(self.envoy.address("inbound"), &self.certificates, Some(identity));
        client.request("GET", "orders", path, &[CLAIM]).await
    }
}

fn port(from: u16, to: &str) -> Edit {
    (format!("port_value: {from}}}"), format!("port_value: {to}}}"))
}

async fn service() -> Service {
    Service::start(&[("config.yaml", CONFIG), ("policy.yaml", POLICY)]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn one_replica_is_not_missed_and_without_any_nothing_passes() {
    let (mut first, mut second) = (service().await, service().await);
    let door = Door::start("failure-modes.yaml", &[&first, &second], &[HEALTH]).await;
    for _ in 0..4 {
        assert_eq!(door.get("api", "/orders/1").await.status, 200);
        assert_eq!(door.get("other", "/orders/1").await.status, 403);
    }
    let passed = door.app.received().len();
    assert_eq!(passed, 4);

    // Without warning, and before a health check could have noticed.
    first.kill().await;
    for _ in 0..10 {
        assert_eq!(door.get("api", "/orders/1").await.status, 200, "asked elsewhere");
        assert_eq!(door.get("other", "/orders/1").await.status, 403);
    }
    let passed = door.app.received().len();
    second.kill().await;
    for _ in 0..4 {
        for service_account in ["api", "other"] {
            let answer = door.get(service_account, "/orders/1").await;
            assert_eq!(answer.status, 503, "an outage is no denial: {}", answer.text());
        }
    }
    assert_eq!(door.app.received().len(), passed, "nothing passed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_says_it_stops_is_asked_no_more() {
    let (first, second) = (service().await, service().await);
    let door = Door::start(
        "failure-modes.yaml",
        &[&first, &second],
        &[HEALTH, ("interval: 2s", "interval: 0.1s")],
    )
    .await;
    second.terminate();
    for _ in 0..20 {
        assert_eq!(door.get("api", "/orders/1").await.status, 200);
    }
    // Its port is closed in the end, and health checks have seen it by then or soon after.
    let gone = async {
        while door.envoy.counter("cluster.vaultmux-grpc.membership_healthy").await != 1 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), gone).await.expect("it is seen to be gone");
    let failed = door.envoy.counter("ext_authz.error").await;
    for _ in 0..10 {
        assert_eq!(door.get("api", "/orders/1").await.status, 200);
    }
    assert_eq!(door.envoy.counter("ext_authz.error").await, failed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_is_refused_before_anyone_is_asked() {
    let (first, second) = (service().await, service().await);
    let bucket = "max_tokens: 1000, tokens_per_fill: 1000, fill_interval: 1s";
    let small = "max_tokens: 2, tokens_per_fill: 2, fill_interval: 3600s";
    let door =
        Door::start("failure-modes.yaml", &[&first, &second], &[HEALTH, (bucket, small)]).await;
    let mut statuses = Vec::new();
    for _ in 0..4 {
        statuses.push(door.get("api", "/orders/1").await.status);
    }
    assert_eq!(statuses, [200, 200, 429, 429]);
    assert_eq!(door.envoy.counter("http.inbound.ext_authz.ok").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn in_shadow_everything_passes_and_the_log_says_what_would_not() {
    let mut service = service().await;
    let door = Door::start("shadow.yaml", &[&service], &[]).await;
    for (number, (service_account, path, decision, reason)) in [
        ("api", "/orders/1", "OK", None),
        ("api", "/admin", "DENIED", Some("no_match")),
        ("other", "/orders/1", "DENIED", Some("no_match")),
    ]
    .into_iter()
    .enumerate()
    {
        let answer = door.get(service_account, path).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        let received: Received = answer.json();
        // Neither what the client claims, nor what is not in force yet.
        assert!(received.header("x-vaultmux-principal").is_empty(), "{received:?}");
        let access = door.envoy.access(number).await;
        assert_eq!(access["would"]["check_result"], decision, "{access}");
        assert_eq!(access["reason"].as_str(), reason, "{access}");
    }
    assert_eq!(door.envoy.counter("ext_authz.shadow_denied").await, 2);
    // Even without an answer, which is why it protects nothing.
    service.kill().await;
    assert_eq!(door.get("other", "/admin").await.status, 200);
    assert_eq!(door.envoy.access(3).await["would"]["check_result"], "ERROR");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_custom_policy_leaves_out_is_not_asked_about() {
    let mut service = service().await;
    let door = Door::start("istio-shape.yaml", &[&service], &[]).await;
    for (path, status) in [
        ("/orders/1", 200),
        ("/admin", 403),
        ("/healthz/x", 403),
        ("/healthzx", 403),
        ("/assets", 403),
        // One form before anyone looks at it.
        ("/assets/../admin", 403),
        ("//healthz/../admin", 403),
        ("/assets/%2e%2e/admin", 403),
        ("/assets/..%2fadmin", 400),
    ] {
        let answer = door.get("api", path).await;
        assert_eq!(answer.status, status, "{path}: {}", answer.text());
    }
    let asked = door.envoy.counter("http.inbound.ext_authz.denied").await;
    let principal = |answer: Answer| {
        let received: Received = answer.json();
        received.header("x-vaultmux-principal").iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    // Anyone may, and is nobody.
    for path in ["/healthz", "/assets/app.js"] {
        let answer = door.get("other", path).await;
        assert_eq!(answer.status, 200, "{path}");
        assert!(principal(answer).is_empty(), "what the client claims is taken away");
    }
    assert_eq!(door.envoy.counter("http.inbound.ext_authz.denied").await, asked);
    let known = principal(door.get("api", "/orders/1").await);
    assert_eq!(known, ["spiffe://cluster.local/ns/payments/sa/api;proofs=mtls"]);

    service.kill().await;
    assert_eq!(door.get("api", "/orders/1").await.status, 503);
    assert_eq!(door.get("other", "/healthz").await.status, 200);
}
