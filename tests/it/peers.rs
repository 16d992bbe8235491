//! Who is at the other end: certificates of callers and proxies, networks, users of
//! unix sockets.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, sync::Arc};

use envoy_types::pb::envoy::service::{
    auth::v3::{CheckRequest, authorization_client::AuthorizationClient},
    ext_proc::v3::external_processor_client::ExternalProcessorClient,
};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tempfile::TempDir;
use tokio::{net::TcpStream, process::Command};
use tokio_rustls::TlsConnector;
use tonic::{
    Code,
    transport::{Channel, Endpoint, Uri},
};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::harness::{Certificates, Client, Identity, Service, sized};

pub(crate) const POLICY: &str = r#"apiVersion: vaultmux.dev/v1alpha1
kind: AccessPolicy
metadata: {name: own-namespace}
spec:
  effect: Allow
  from: [{namespaces: ["*"]}]
  to: [{secrets: {prefixes: ["{namespace}/"], verbs: [get]}}]
"#;

pub(crate) fn config(grpc: &str, rest: &str) -> String {
    format!(
        "mode: development\nlisteners:\n  grpc: {{{grpc}}}\n  rest: {{{rest}}}\n  \
         admin: {{address: '127.0.0.1:0'}}\n\
         backends: {{local: {{type: memory, secrets: {{prod/key: v1, other/key: v1}}}}}}\n\
         policies: [policies]\n"
    )
}

pub(crate) async fn start(config: &str) -> Service {
    Service::start(&[("config.yaml", config), ("policies/own.yaml", POLICY)]).await
}

pub(crate) const LOOPBACK: &str = "address: '127.0.0.1:0'";

/// A loopback listener that asks for certificates.
pub(crate) fn tls(directory: &Path, more: &str) -> String {
    let file = |name: &str| directory.join(name).display().to_string();
    let (cert, key, ca) = (file("tls.crt"), file("tls.key"), file("ca.crt"));
    let files = format!("cert_file: {cert}, key_file: {key}, client_ca_file: {ca}");
    format!("{LOOPBACK}, tls: {{{files}{more}}}")
}

pub(crate) fn authority() -> (TempDir, Certificates) {
    let directory = tempfile::tempdir().expect("make a directory");
    let certificates = Certificates::create(directory.path());
    (directory, certificates)
}

/// A gRPC connection over TLS; it is opened anew when it is lost.
pub(crate) async fn channel(service: &Service, mut tls: rustls::ClientConfig) -> Channel {
    tls.alpn_protocols = vec![b"h2".to_vec()];
    let connector = TlsConnector::from(Arc::new(tls));
    let address = service.grpc().to_owned();
    let connect = tower::service_fn(move |_: Uri| {
        let (connector, address) = (connector.clone(), address.clone());
        async move {
            let stream = TcpStream::connect(address).await?;
            let name = ServerName::try_from("vaultmux.test").expect("a name");
            connector.connect(name, stream).await.map(TokioIo::new)
        }
    });
    let endpoint = Endpoint::from_static("http://vaultmux.test");
    endpoint.connect_with_connector(connect).await.expect("connected")
}

async fn plain_channel(service: &Service) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{}", service.grpc())).expect("a URL");
    endpoint.connect().await.expect("connected")
}

async fn check(channel: &Channel) -> Result<(), Code> {
    let request = CheckRequest::default();
    let answer = AuthorizationClient::new(channel.clone()).check(request).await;
    answer.map(drop).map_err(|status| status.code())
}

async fn process(channel: &Channel) -> Result<(), Code> {
    let mut client = ExternalProcessorClient::new(channel.clone());
    // No message at all: a stream that is let in ends in peace.
    let mut answers = match client.process(tokio_stream::empty()).await {
        Ok(answers) => answers.into_inner(),
        Err(status) => return Err(status.code()),
    };
    answers.message().await.map(drop).map_err(|status| status.code())
}

pub(crate) async fn is_healthy(channel: &Channel) -> bool {
    let request = HealthCheckRequest::default();
    HealthClient::new(channel.clone()).check(request).await.is_ok()
}

pub(crate) async fn metric(service: &Service, name: &str) -> Option<i64> {
    let answer = service.admin_client().get("admin", "/metrics").await;
    let line = answer.text().lines().find_map(|line| line.strip_prefix(name)?.parse::<f64>().ok());
    line.map(|value| value as i64)
}

#[tokio::test(flavor = "multi_thread")]
async fn only_trusted_certificates_may_ask_but_health_is_for_all() {
    let (directory, certificates) = authority();
    let trusted = "trusted_peers: ['spiffe://cluster.local/ns/gateway/sa/*', '10.0.0.0/8']";
    let grpc = format!("{}, {trusted}", tls(directory.path(), ""));
    let service = start(&config(&grpc, LOOPBACK)).await;
    let denied = Err(Code::PermissionDenied);
    let own = "spiffe://cluster.local/ns/gateway/sa/envoy";
    let cases = [
        (certificates.workload("prod", "api"), denied),
        (certificates.workload("gateway-2", "envoy"), denied),
        (certificates.with_uris(&["spiffe://other.td/ns/gateway/sa/envoy"]), denied),
        (certificates.with_uris(&[own, "spiffe://cluster.local/ns/gateway/sa/b"]), denied),
        (certificates.with_dns(&["envoy.gateway.svc"]), denied),
        (certificates.with_subject(own), denied),
        (certificates.workload("gateway", "envoy"), Ok(())),
    ];
    let mut refused = 0;
    for (at, (identity, expected)) in cases.into_iter().enumerate() {
        let channel = channel(&service, certificates.client(Some(identity))).await;
        assert!(is_healthy(&channel).await, "{at}");
        assert_eq!(check(&channel).await, expected, "{at}");
        assert_eq!(process(&channel).await, expected, "{at}");
        refused += if expected.is_err() { 2 } else { 0 };
    }
    assert_eq!(metric(&service, "vaultmux_peers_refused_total ").await, Some(refused));
    let line = service.logged(&["call refused"]).await;
    assert_eq!(line["level"], "WARN");
    assert_eq!(line["address"], "127.0.0.1");
    assert_eq!(line["spiffe_id"], "spiffe://cluster.local/ns/prod/sa/api");
    let lines = service.logs().iter().filter(|line| line.contains("call refused")).count();
    assert!((1..refused as usize).contains(&lines), "{lines} lines");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_trusted_networks_may_ask() {
    for (listen, trusted, expected) in [
        ("127.0.0.1:0", "10.0.0.0/8", Err(Code::PermissionDenied)),
        ("127.0.0.1:0", "::/0", Err(Code::PermissionDenied)),
        ("127.0.0.1:0", "127.0.0.0/8", Ok(())),
        // Its peers have their IPv4 addresses in IPv6 notation.
        ("[::ffff:127.0.0.1]:0", "::/0", Err(Code::PermissionDenied)),
        ("[::ffff:127.0.0.1]:0", "127.0.0.1", Ok(())),
    ] {
        let grpc = format!("address: '{listen}', trusted_peers: ['{trusted}']");
        let service = start(&config(&grpc, LOOPBACK)).await;
        let channel = plain_channel(&service).await;
        assert!(is_healthy(&channel).await, "{listen} {trusted}");
        assert_eq!(check(&channel).await, expected, "{listen} {trusted}");
        assert_eq!(process(&channel).await, expected, "{listen} {trusted}");
    }
}

#[test]
fn a_grpc_listener_that_anyone_may_ask_is_warned_of() {
    let (directory, _certificates) = authority();
    let open = |listener: &str| listener.replace("127.0.0.1", "0.0.0.0");
    let asking = open(&tls(directory.path(), ""));
    let without_ca = asking.split(", client_ca_file").next().expect("a part").to_owned() + "}";
    let optional = open(&tls(directory.path(), ", client_certificate: optional"));
    let anyone = "whoever reaches it can claim any identity";
    let workloads = "every workload with a certificate of tls.client_ca_file can claim any";
    for (grpc, expected) in [
        (open(LOOPBACK), Some(anyone)),
        (without_ca, Some(anyone)),
        (optional, Some(anyone)),
        (asking.clone(), Some(workloads)),
        (format!("{asking}, trusted_peers: ['spiffe://a/ns/b/sa/*']"), None),
        (
            format!("{}, trusted_peers: [10.0.0.0/8]", open(LOOPBACK)),
            Some("trusts addresses alone: whoever has one of them can claim any identity"),
        ),
        (LOOPBACK.to_owned(), None),
        ("address: 'unix:grpc.sock'".to_owned(), None),
    ] {
        let directory = tempfile::tempdir().expect("make a directory");
        let path = directory.path().join("config.yaml");
        fs::create_dir(directory.path().join("policies")).expect("make");
        fs::write(directory.path().join("policies/own.yaml"), POLICY).expect("write");
        fs::write(&path, config(&grpc, LOOPBACK)).expect("write");
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_vaultmux-mesh"))
            .args(["check".as_ref(), "--config".as_ref(), path.as_os_str()])
            .output()
            .expect("the program runs");
        let output = String::from_utf8(output.stdout).expect("text");
        assert!(output.contains(": ok, 1 backends"), "{grpc}: {output}");
        let warnings: Vec<_> =
            output.lines().filter(|line| line.starts_with("warning: ")).collect();
        match expected {
            None => assert_eq!(warnings, [""; 0], "{grpc}"),
            Some(words) => {
                assert_eq!(warnings.len(), 1, "{grpc}: {output}");
                assert!(warnings[0].contains("listeners.grpc"), "{grpc}: {output}");
                assert!(warnings[0].contains(words), "{grpc}: {output}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rest_caller_is_who_its_certificate_says() {
    let (directory, certificates) = authority();
    let local = "identity: {local: {namespace: prod, service_account: local}}\n";
    let rest = tls(directory.path(), "");
    // With a local identity too, which must not stand in for a certificate.
    for local in ["", local] {
        let service = start(&format!("{}{local}", config(LOOPBACK, &rest))).await;
        let get = async |identity: Identity, name: &str, headers: &[(&str, &str)]| {
            let client = Client::tls(service.rest(), &certificates, Some(identity));
            let path = format!("/v1/secrets/{name}");
            let answer = client.request("GET", "vaultmux.test", &path, headers).await;
            let code: serde_json::Value = answer.json();
            (answer.status, code["code"].as_str().unwrap_or_default().to_owned())
        };
        let refused = (403, "invalid_identity".to_owned());
        let api = "spiffe://cluster.local/ns/prod/sa/api";
        let other = "spiffe://cluster.local/ns/other/sa/api";
        for identity in [
            certificates.with_uris(&[api, other]),
            certificates.with_uris(&[api, api]),
            certificates.with_uris(&["spiffe://other.td/ns/prod/sa/api"]),
            certificates.with_uris(&["https://prod/api"]),
            certificates.with_dns(&["api.prod.svc"]),
            certificates.with_subject(api),
        ] {
            assert_eq!(get(identity, "prod/key", &[]).await, refused);
        }
        let own = || certificates.workload("prod", "api");
        let forged = [("x-vaultmux-grant", "forged")];
        assert_eq!(get(own(), "prod/key", &forged).await, refused);
        assert_eq!(get(own(), "other/key", &[]).await.0, 403);
        assert_eq!(get(certificates.workload("other", "api"), "prod/key", &[]).await.0, 403);
        assert_eq!(get(own(), "prod/key", &[]).await.0, 200);
        let client = Client::tls(service.rest(), &certificates, Some(own())).http2();
        assert_eq!(client.get("vaultmux.test", "/v1/secrets/prod/key").await.status, 200);
        assert_eq!(client.get("vaultmux.test", "/v1/secrets/other/key").await.status, 403);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_is_optional_must_still_be_good() {
    let (directory, certificates) = authority();
    let (_elsewhere, strangers) = authority();
    let rest = tls(directory.path(), ", client_certificate: optional");
    let service = start(&config(LOOPBACK, &rest)).await;
    let get = async |identity: Option<Identity>| -> anyhow::Result<u16> {
        let client = Client::tls(service.rest(), &certificates, identity);
        let path = "/v1/secrets/prod/key";
        let answer = client.try_send("GET", "vaultmux.test", path, &[], sized("")).await?;
        Ok(answer.status)
    };
    assert_eq!(get(None).await.expect("answered"), 401);
    assert_eq!(get(Some(certificates.workload("prod", "api"))).await.expect("answered"), 200);
    assert!(get(Some(strangers.workload("prod", "api"))).await.is_err());
}

/// Asks `/health` over a unix socket as another user, and returns what curl says.
async fn as_another_user(uid: u32, socket: &Path) -> std::process::Output {
    // Root may become anyone; others ask sudo, and fail here where it refuses.
    let own = fs::metadata(socket).expect("bound");
    let is_root = std::os::unix::fs::MetadataExt::uid(&own) == 0;
    let mut command = match is_root {
        true => Command::new("curl"),
        false => Command::new("sudo"),
    };
    match is_root {
        true => command.uid(uid),
        false => command.args(["-n", "-u", &format!("#{uid}"), "curl"]),
    };
    let command = command.current_dir("/").args(["-sS", "--max-time", "20", "--unix-socket"]);
    let output = command.arg(socket).arg("http://localhost/health").output().await;
    output.expect("run curl as another user: install curl, and sudo without password or be root")
}

#[tokio::test(flavor = "multi_thread")]
async fn unix_sockets_are_for_named_users() {
    const NOBODY: u32 = 65_534;
    for (uids, mode) in
        [("", 0o600), (", peer_uids: [1337]", 0o666), (", peer_uids: [1337, 65534]", 0o666)]
    {
        let config = config(LOOPBACK, &format!("address: 'unix:rest.sock'{uids}"));
        let service = start(&config).await;
        let socket = service.path("rest.sock");
        let found = fs::metadata(&socket).expect("bound").permissions().mode() & 0o777;
        assert_eq!(found, mode, "{uids:?}");
        // Neither directory nor mode keeps anyone out: the uid alone is to decide.
        let open = fs::Permissions::from_mode(0o755);
        fs::set_permissions(service.path(""), open).expect("ours");
        fs::set_permissions(&socket, fs::Permissions::from_mode(0o666)).expect("ours");
        let mut own = Command::new("curl");
        own.args(["-sS", "--unix-socket"]).arg(&socket).arg("http://localhost/health");
        let own = own.output().await.expect("curl is installed");
        assert!(text(&own.stdout).contains("healthy"), "{uids:?}: {own:?}");
        let other = as_another_user(NOBODY, &socket).await;
        if uids.contains("65534") {
            assert!(text(&other.stdout).contains("healthy"), "{uids:?}: {other:?}");
            continue;
        }
        // That it got that far is what the log line shows.
        assert!(!other.status.success() && other.stdout.is_empty(), "{uids:?}: {other:?}");
        let line = service.logged(&["connection refused"]).await;
        assert_eq!(line["level"], "WARN");
        assert_eq!(line["uid"], "65534");
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
