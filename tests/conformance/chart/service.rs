//! The service with what the chart renders: its configuration, its policies, and none.

use std::{path::Path, process::Command};

use envoy_types::pb::envoy::service::auth::v3::{
    AttributeContext, CheckRequest,
    attribute_context::{HttpRequest, Peer, Request},
    authorization_client::AuthorizationClient,
};
use serde_json::{Value, json};
use tonic::{Code, transport::Endpoint};

use super::{
    helm::{Helm, Release, documents, object},
    situations,
};
use crate::{
    harness::{Certificates, Service},
    servers::until,
};

/// The rendered configuration with its files, where a test may have them and on free ports.
fn files(manifests: &[Value]) -> (Vec<(String, String)>, Value) {
    let map = |name: &str| &object(manifests, "ConfigMap", name)["data"];
    let config = map("vaultmux-mesh")["vaultmux.yaml"].as_str().expect("text");
    let config: Value = serde_saphyr::from_str(config).expect("YAML");
    let config = config.to_string().replace("/etc/vaultmux/", "{directory}/");
    let mut config: Value = serde_json::from_str(&config).expect("JSON");
    let mut files = Vec::new();
    let mounted = config["policies"].as_array().cloned().unwrap_or_default();
    for directory in mounted.iter().map(|path| path.as_str().expect("a path")) {
        let directory = directory.trim_start_matches("{directory}/");
        if directory == "policies/chart" {
            for (name, text) in map("vaultmux-mesh-policies").as_object().expect("files") {
                let text = text.as_str().expect("text").to_owned();
                files.push((format!("{directory}/{name}"), text));
            }
        } else {
            files.push((format!("{directory}/team.yaml"), POLICY.to_owned()));
        }
    }
    files.push((
        "grant/keys".to_owned(),
        "k1 MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=\n".into(),
    ));
    let certificates = tempfile::tempdir().expect("a directory");
    Certificates::create(certificates.path());
    let pem = |name| std::fs::read_to_string(certificates.path().join(name)).expect("made");
    for (path, name) in [
        ("tls/tls.crt", "tls.crt"),
        ("tls/tls.key", "tls.key"),
        ("client-ca/ca.crt", "ca.crt"),
        ("client-ca/root-cert.pem", "ca.crt"),
    ] {
        files.push((path.to_owned(), pem(name)));
    }
    for listener in ["grpc", "rest", "admin"] {
        let address = &config["listeners"][listener]["address"];
        let at = address.as_str().expect("an address");
        let (host, port) = at.rsplit_once(':').expect("a port");
        let expected =
            if config["mode"] == "sidecar" { ["127.0.0.1"; 2] } else { ["0.0.0.0", "127.0.0.1"] };
        assert!(expected.contains(&host), "{listener} at {at}");
        let named = config["listeners"]["grpc"]["trusted_peers"].is_array();
        assert!(listener != "grpc" || named || host == "127.0.0.1", "open to whoever: {at}");
        assert_eq!(
            port,
            match listener {
                "grpc" => "9191",
                "rest" => "8080",
                _ => "9090",
            }
        );
        config["listeners"][listener]["address"] = "127.0.0.1:0".into();
    }
    // A pod's token would tell.
    if config["mode"] == "sidecar" {
        let pod = json!({"namespace": "payments", "service_account": "api"});
        config["identity"]["local"] = pod;
    }
    (files, config)
}

const POLICY: &str = "apiVersion: vaultmux.dev/v1alpha1\nkind: AccessPolicy\nmetadata: {name: team}\n\
    spec: {effect: Allow, from: [{namespaces: [team]}], to: [{secrets: {prefixes: [team/], verbs: [get]}}]}\n";

/// What the cloud's webhooks would set.
const VARIABLES: [(&str, &str); 4] = [
    ("AZURE_TENANT_ID", "00000000-0000-0000-0000-000000000000"),
    ("AZURE_CLIENT_ID", "00000000-0000-0000-0000-000000000000"),
    ("AZURE_FEDERATED_TOKEN_FILE", "{directory}/token"),
    ("NO_PROXY", "metadata.google.internal,169.254.169.254"),
];

/// Starts the service as the release would, with a kubeconfig in place of the pod's own token.
async fn serve(manifests: &[Value], kubeconfig: &Path) -> Service {
    let (mut files, mut config) = files(manifests);
    let kubeconfig = kubeconfig.display().to_string();
    if !config["identity"]["service_account_tokens"].is_null() {
        config["identity"]["service_account_tokens"]["kubeconfig"] = kubeconfig.clone().into();
    }
    for (_, backend) in config["backends"].as_object_mut().expect("backends") {
        if backend["type"] == "kubernetes_secrets" {
            backend["kubeconfig"] = kubeconfig.clone().into();
        }
    }
    files.push(("config.yaml".to_owned(), config.to_string()));
    let files: Vec<_> = files.iter().map(|(name, text)| (&**name, &**text)).collect();
    Service::start_with(&files, &VARIABLES).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_accepts_and_runs_every_configuration() {
    let helm = Helm::new();
    let kubeconfig = helm.write(
        "kubeconfig",
        "apiVersion: v1\nkind: Config\ncurrent-context: a\n\
         contexts: [{name: a, context: {cluster: a, user: a}}]\n\
         clusters: [{name: a, cluster: {server: 'https://127.0.0.1:1'}}]\n\
         users: [{name: a, user: {token: none}}]\n",
    );
    for release in situations() {
        let manifests = documents(&helm.template(&release, "1.36").expect_good());
        check(&release, &manifests);
        let service = serve(&manifests, &kubeconfig).await;
        // It is ready some moments after it listens.
        for path in ["/livez", "/readyz"] {
            until(&format!("{}: {path}", release.name), async || {
                let answer = service.admin_client().get("admin", path).await;
                (answer.status == 200).then_some(())
            })
            .await;
        }
    }
}

/// `vaultmux-mesh check` on exactly what is rendered, but for where files are.
fn check(release: &Release, manifests: &[Value]) {
    let directory = tempfile::tempdir().expect("a directory");
    let (files, mut config) = files(manifests);
    // The address that is rendered: what is open to others is warned of.
    let rendered =
        object(manifests, "ConfigMap", "vaultmux-mesh")["data"]["vaultmux.yaml"].as_str();
    let rendered: Value = serde_saphyr::from_str(rendered.expect("text")).expect("YAML");
    config["listeners"]["grpc"]["address"] = rendered["listeners"]["grpc"]["address"].clone();
    let here = directory.path().display().to_string();
    for (name, text) in files {
        let path = directory.path().join(name);
        std::fs::create_dir_all(path.parent().expect("below it")).expect("made");
        std::fs::write(path, text).expect("written");
    }
    let file = directory.path().join("config.yaml");
    std::fs::write(&file, config.to_string().replace("{directory}", &here)).expect("written");
    let output = Command::new(env!("CARGO_BIN_EXE_vaultmux-mesh"))
        .args(["check", "--output", "json", "--config"])
        .arg(&file)
        .output()
        .expect("it runs");
    let said: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(said["valid"], true, "{}: {said}", release.name);
    // Everything that is warned of is in the notes, or in a comment of the values.
    for warning in said["warnings"].as_array().expect("a list") {
        let known = [
            "no policies are configured",
            // A sidecar of Istio's, which says who may ask.
            "trusts addresses alone",
        ];
        let warning = warning.as_str().expect("text");
        assert!(known.iter().any(|known| warning.contains(known)), "{}: {warning}", release.name);
    }
}

/// What is lost easily between YAML, JSON and YAML again.
#[test]
fn variables_and_long_numbers_survive() {
    let helm = Helm::new();
    let release = Release::new(
        "variables",
        "config:\n  identity: {service_account_tokens: {audiences: [vaultmux], cache: {max_entries: \
         100000000}}}\n  backends: {aws: {type: aws_secrets_manager, endpoint_url: '${ENDPOINT}'}}\n",
    );
    for version in ["helm", "helm3"] {
        let manifests = documents(&helm.template_by(version, &release, "1.36").expect_good());
        let config = &object(&manifests, "ConfigMap", "vaultmux-mesh")["data"]["vaultmux.yaml"];
        let config = config.as_str().expect("text");
        let keys = helm.write("keys", "k1 MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=\n");
        let keys = keys.display().to_string();
        let file = helm.write("vaultmux.yaml", &config.replace("/etc/vaultmux/grant/keys", &keys));
        for (endpoint, code) in [("https://vpce.example.com", 0), ("http://vpce.example.com", 1)] {
            let output = Command::new(env!("CARGO_BIN_EXE_vaultmux-mesh"))
                .args(["check", "--config"])
                .arg(&file)
                .env("ENDPOINT", endpoint)
                .output()
                .expect("it runs");
            let said = String::from_utf8_lossy(&output.stdout);
            assert_eq!(output.status.code(), Some(code), "{version}: {endpoint}: {said}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_policies_everything_is_denied() {
    let helm = Helm::new();
    let release = Release::ci("no-policies");
    let manifests = documents(&helm.template(&release, "1.36").expect_good());
    let service = serve(&manifests, Path::new("/nonexistent")).await;
    let endpoint = Endpoint::from_shared(format!("http://{}", service.grpc())).expect("a URL");
    let mut client = AuthorizationClient::new(endpoint.connect().await.expect("connected"));
    for (principal, path, code) in [
        ("spiffe://cluster.local/ns/payments/sa/api", "/", Code::PermissionDenied),
        ("", "/", Code::Unauthenticated),
    ] {
        let http = HttpRequest {
            method: "GET".into(),
            host: "app.test".into(),
            path: path.into(),
            ..HttpRequest::default()
        };
        let attributes = AttributeContext {
            source: Some(Peer { principal: principal.into(), ..Peer::default() }),
            request: Some(Request { http: Some(http), ..Request::default() }),
            ..AttributeContext::default()
        };
        let answer = client.check(CheckRequest { attributes: Some(attributes) }).await;
        let status = answer.expect("an answer").into_inner().status.expect("a status");
        assert_eq!(status.code, code as i32, "{principal:?} {path}");
    }
    let rest = service.rest_client().get("vaultmux.test", "/v1/secrets/any").await;
    assert_eq!(rest.status, 401);
}
