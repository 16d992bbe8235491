//! The Helm chart: rendered, checked against Kubernetes' schemas, run by the service, and
//! installed into a real API server.

mod cluster;
mod helm;
mod sidecar;

use std::{
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

use envoy_types::pb::envoy::service::auth::v3::{
    AttributeContext, CheckRequest,
    attribute_context::{HttpRequest, Peer, Request},
    authorization_client::AuthorizationClient,
};
use serde_json::{Value, json};
use tonic::{Code, transport::Endpoint};

use self::helm::{Helm, Release, documents, object};
use crate::{
    harness::{Certificates, Service, repository},
    servers::{program, until},
};

/// Pages that show values.
const PAGES: [&str; 4] = [
    "charts/vaultmux-mesh/README.md",
    "docs/deploy-eks.md",
    "docs/deploy-gke.md",
    "docs/deploy-aks.md",
];
/// The releases of Kubernetes that manifests are checked for.
const KUBERNETES: [&str; 4] = ["1.30", "1.33", "1.34", "1.36"];
/// Groups of custom resources: the schemas of Kubernetes do not know them.
const CUSTOM: [&str; 6] = [
    "cert-manager.io/",
    "gateway.envoyproxy.io/",
    "gateway.networking.k8s.io/",
    "monitoring.coreos.com/",
    "networking.istio.io/",
    "security.istio.io/",
];

/// All values that are shown somewhere: those in `ci`, and those on pages.
fn situations() -> Vec<Release> {
    let ci = std::fs::read_dir(repository("charts/vaultmux-mesh/ci")).expect("ci is there");
    let mut found: Vec<_> = ci
        .map(|entry| {
            let path = entry.expect("an entry").path();
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            Release::new(&name, &std::fs::read_to_string(&path).expect("text"))
        })
        .collect();
    for page in PAGES {
        let text = std::fs::read_to_string(repository(page));
        let text = text.unwrap_or_else(|error| panic!("{page}: {error}"));
        let blocks = text.split("```yaml\n# ").skip(1);
        let blocks = blocks.map(|rest| rest.split("```").next().expect("a closed block"));
        let blocks: Vec<_> = blocks.filter_map(|block| block.split_once('\n')).collect();
        let policies = blocks.iter().find(|(name, _)| *name == "policies.yaml");
        let before = found.len();
        for (name, values) in &blocks {
            if name.ends_with("values.yaml") || *name == "sidecar.yaml" {
                let mut release = Release::new(&format!("{page}: {name}"), values);
                if let (Some((_, policies)), "values.yaml") = (policies, *name) {
                    release.policies(policies);
                }
                found.push(release);
            }
        }
        assert!(found.len() > before, "{page} shows no values");
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

/// Whether the release needs an API server that adds containers.
fn is_for(kubernetes: &str, release: &Release) -> bool {
    let policy = json!(true);
    let enabled = release.values.pointer("/sidecar/mutatingAdmissionPolicy/enabled");
    let adds = release.values["mode"] == "sidecar" && enabled.unwrap_or(&policy) == &policy;
    !adds || kubernetes >= "1.34"
}

#[test]
fn every_situation_renders_for_every_kubernetes() {
    let helm = Helm::new();
    let validate = program("kubernetes-validate");
    for release in situations() {
        let lint = ["lint".to_owned(), "--strict".into(), helm::CHART.into()];
        helm.run(&[&lint[..], &release.arguments].concat()).expect_good();
        for kubernetes in KUBERNETES {
            if !is_for(kubernetes, &release) {
                let refused = helm.template(&release, kubernetes).expect_bad();
                assert!(refused.contains("needs Kubernetes 1.34"), "{refused}");
                continue;
            }
            let manifests = helm.template(&release, kubernetes).expect_good();
            let file = helm.write("rendered.yaml", &manifests);
            let output = Command::new(&validate)
                .args(["--strict", "-k", kubernetes])
                .arg(file)
                .output()
                .expect("it runs");
            let said = [output.stdout, output.stderr].concat();
            let said = String::from_utf8_lossy(&said);
            assert!(output.status.success(), "{} on {kubernetes}: {said}", release.name);
            for warning in said.lines().filter(|line| line.starts_with("WARN")) {
                let custom = CUSTOM.iter().any(|group| warning.contains(group));
                assert!(custom, "{} on {kubernetes}: {warning}", release.name);
            }
        }
    }
}

#[test]
fn helm_3_renders_the_same() {
    let helm = Helm::new();
    for release in situations() {
        let of_4 = documents(&helm.template(&release, "1.36").expect_good());
        let of_3 = documents(&helm.template_by("helm3", &release, "1.36").expect_good());
        assert_eq!(of_3.len(), of_4.len(), "{}", release.name);
        for mut object in of_4 {
            let same = |other: &&Value| {
                let names = ["kind", "metadata"].map(|key| other[key] == object[key]);
                names == [true; 2]
            };
            let mut other = of_3.iter().find(same).expect("the same object").clone();
            // Random keys.
            if object["kind"] == "Secret" {
                object["data"] = Value::Null;
                other["data"] = Value::Null;
            }
            assert_eq!(other, object, "{}", release.name);
        }
    }
}

#[test]
fn only_what_needs_it_restarts_pods_or_gets_tokens() {
    let helm = Helm::new();
    let pod = |name: &str, set: &[&str]| {
        let mut release = Release::ci(name);
        release.arguments.extend(set.iter().flat_map(|it| ["--set".to_owned(), (*it).to_owned()]));
        let manifests = documents(&helm.template(&release, "1.36").expect_good());
        object(&manifests, "Deployment", "vaultmux-mesh")["spec"]["template"].clone()
    };
    let first = pod("tokens", &[]);
    for (set, restarts) in [
        ("config.cache.ttl=30s", true),
        ("listeners.admin.port=9999", true),
        (r"policies.tokens\.yaml[0].metadata.name=other", false),
        ("replicaCount=5", false),
    ] {
        assert_eq!(pod("tokens", &[set]) != first, restarts, "{set}");
    }
    let without = ["restartOnConfigChange=false"];
    let both = ["restartOnConfigChange=false", "config.cache.ttl=30s"];
    assert_eq!(pod("tokens", &without), pod("tokens", &both));

    let tokens = |name: &str, set: &[&str]| -> Vec<Value> {
        let pod = pod(name, set);
        let volumes = pod["spec"]["volumes"].as_array().expect("volumes");
        let sources =
            volumes.iter().filter_map(|it| it["projected"]["sources"].as_array()).flatten();
        let tokens = sources.map(|source| source["serviceAccountToken"].clone());
        tokens.filter(|token| !token.is_null()).collect()
    };
    let own = json!({"path": "token", "expirationSeconds": 3607});
    let vault = json!({"path": "token", "audience": "vault", "expirationSeconds": 3600});
    for (name, set, expected) in [
        ("aws", vec![], vec![]),
        ("aws", vec!["kubernetesApi.token=always"], vec![&own]),
        ("tokens", vec![], vec![&own]),
        ("tokens", vec!["kubernetesApi.token=never"], vec![]),
        ("kubernetes", vec![], vec![&own]),
        ("envoy-gateway", vec![], vec![&vault]),
    ] {
        let found = tokens(name, &set);
        assert_eq!(found.iter().collect::<Vec<_>>(), expected, "{name} {set:?}");
    }
}

#[test]
fn custom_resources_have_no_fields_but_their_owners() {
    let helm = Helm::new();
    let mut seen = std::collections::BTreeSet::new();
    for release in situations() {
        let manifests = documents(&helm.template(&release, "1.36").expect_good());
        let custom: Vec<_> = manifests.iter().filter(|object| is_custom(object)).collect();
        let (good, said) = read_strictly(&custom);
        assert!(good, "{}: {said}", release.name);
        assert_eq!(said.lines().count(), custom.len(), "{said}");
        seen.extend(custom.iter().map(|object| object["kind"].to_string()));
    }
    assert_eq!(seen.len(), 10, "{seen:?}");
    for (kind, version, spec) in [
        ("AuthorizationPolicy", "security.istio.io/v1", json!({"action": "CUSTOM", "providr": {}})),
        ("SecurityPolicy", "gateway.envoyproxy.io/v1alpha1", json!({"extAuth": {"failOpn": true}})),
        ("Certificate", "cert-manager.io/v1", json!({"issuer": {}})),
    ] {
        let object =
            json!({"apiVersion": version, "kind": kind, "metadata": {"name": "a"}, "spec": spec});
        let (good, said) = read_strictly(&[&object]);
        assert!(!good && said.contains("unknown field"), "{kind}: {said}");
    }
}

fn is_custom(object: &Value) -> bool {
    let version = object["apiVersion"].as_str().expect("a version");
    CUSTOM.iter().any(|group| version.starts_with(group))
}

/// Whether custom resources are what their owners' types say, and what was said of them.
fn read_strictly(objects: &[&Value]) -> (bool, String) {
    let mut reader = Command::new(program("resources"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it runs");
    let mut stdin = reader.stdin.take().expect("piped");
    for object in objects {
        writeln!(stdin, "---\n{object}").expect("written");
    }
    drop(stdin);
    let output = reader.wait_with_output().expect("it ends");
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(said).expect("text"))
}

#[test]
fn wrong_values_are_refused_with_their_place() {
    let helm = Helm::new();
    let good = Release::new("good", "config: {backends: {aws: {type: aws_secrets_manager}}}\n");
    helm.template(&good, "1.36").expect_good();
    for (values, expected) in [
        ("replicas: 3", "at '': additional properties 'replicas' not allowed"),
        ("mode: development", "at '/mode': value must be one of 'cluster', 'sidecar'"),
        ("config: {cache: {ttl: soon}}", "at '/config/cache/ttl'"),
        ("config: {chache: {}}", "at '/config': additional properties 'chache' not allowed"),
        ("config: {mode: sidecar}", "at '/config': additional properties 'mode' not allowed"),
        ("config: {backends: {aws: {regoin: x}}}", "additional properties 'regoin' not allowed"),
        ("config: {backends: {m: {type: memory}}}", "at '/config/backends/m/type'"),
        ("config: {identity: {grant: {key_file: a}}}", "additional properties 'key_file'"),
        (
            "config: {backends: {aws: {type: aws_secrets_manager, endpoint_url: 'http://a'}}}",
            "at '/config/backends/aws/endpoint_url'",
        ),
        ("config: {backends: null}", "config.backends needs at least one store"),
        ("config: {backends: {aws: null}}", "at '/config/backends/aws': got null, want object"),
        ("policies: {own.txt: [{}]}", "'own.txt' does not match pattern"),
        ("policies: {own.yaml: [{kind: AccessPolicy}]}", "missing properties"),
        ("policies: {own.yaml: []}", "at '/policies/own.yaml': minItems"),
        ("image: {digest: abc}", "at '/image/digest': 'abc' does not match pattern"),
        ("networkPolicy: {grpcFrom: [{}]}", "at '/networkPolicy/grpcFrom/0': minProperties"),
        ("listeners: {grpc: {port: 80}}", "at '/listeners/grpc/port': minimum: got 80"),
        ("listeners: {grpc: {trustedPeers: [everybody]}}", "at '/listeners/grpc/trustedPeers/0'"),
        ("podDisruptionBudget: {minAvailable: 1, maxUnavailable: 1}", "at '/podDisruptionBudget/"),
        ("tls: {clientCa: {configMap: a, secret: b}}", "at '/tls/clientCa/secret'"),
        ("cloudIdentity: {aws: {roleArn: mesh}}", "at '/cloudIdentity/aws/roleArn'"),
        ("cloudIdentity: {azure: {clientId: mesh}}", "at '/cloudIdentity/azure/clientId'"),
        (
            "istio: {protect: [{name: a, namespace: b, selector: {a: b}, targetRefs: [{}]}]}",
            "targetRefs",
        ),
        ("istio: {provider: My_Provider}", "at '/istio/provider'"),
        // What a schema cannot say.
        ("listeners: {rest: {tls: true}}", "needs tls.secretName or tls.certManager.enabled"),
        ("tls: {certManager: {enabled: true}}", "tls.certManager.issuerRef is needed"),
        ("envoyGateway: {enabled: true}", "envoyGateway.namespace is needed"),
        ("serviceAccount: {create: false}", "serviceAccount.name is needed"),
        (
            "{listeners: {grpc: {tls: true}}, tls: {secretName: a}, envoyGateway: {enabled: true, \
             namespace: a, targetRefs: [{kind: Gateway, name: a}]}}",
            "envoyGateway.caCertificateRefs is needed",
        ),
    ] {
        let bad = helm.write("bad.yaml", values);
        let both = ["--values", good.file(), "--values", &bad.display().to_string()];
        let refused = helm.run(&[&["template", "x", helm::CHART][..], &both].concat()).expect_bad();
        assert!(refused.contains(expected), "{values}: {refused}");
    }
    let refused = helm.run(&["template", "x", helm::CHART]).expect_bad();
    assert!(refused.contains("config.backends needs at least one store"), "{refused}");
}

#[test]
fn notes_say_what_is_missing() {
    let helm = Helm::new();
    let notes = |name: &str, more: &[&str]| {
        let file = format!("charts/vaultmux-mesh/ci/{name}-values.yaml");
        let file = repository(&file).display().to_string();
        let install = ["install", "x", helm::CHART, "--dry-run=client", "--values", &file];
        let said = helm.run(&[&install[..], more].concat()).expect_good();
        said.split_once("\nNOTES:\n").expect("notes").1.to_owned()
    };
    let said = notes("no-policies", &[]);
    assert!(said.contains("THERE ARE NO POLICIES: EVERYTHING IS DENIED"), "{said}");
    assert!(said.contains("service: x-vaultmux-mesh.default.svc.cluster.local"), "{said}");
    assert!(said.contains("failOpen: false"), "{said}");
    assert!(said.contains("only the NetworkPolicy keeps others away"), "{said}");
    assert!(said.contains("REST answers in the clear"), "{said}");
    let said = notes("no-policies", &["--set", "networkPolicy.enabled=false"]);
    assert!(said.contains("nothing keeps others away"), "{said}");
    let said = notes("envoy-gateway", &[]);
    for wrong in ["NO POLICIES", "keeps others away", "in the clear"] {
        assert!(!said.contains(wrong), "{said}");
    }
    assert!(notes("sidecar", &[]).contains("whatever its cloud identity may"));
}

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
    // The addresses that are rendered: what is open to others is warned of.
    if config["mode"] == "cluster" {
        config["listeners"]["grpc"]["address"] = "0.0.0.0:9191".into();
    }
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
            "listeners.grpc is open beyond",
            "trusts addresses alone",
        ];
        let warning = warning.as_str().expect("text");
        assert!(known.iter().any(|known| warning.contains(known)), "{}: {warning}", release.name);
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
