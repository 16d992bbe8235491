//! Azure Key Vault: our own server with Microsoft's types, and the SDK's real
//! credentials against the directory beside it.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant, SystemTime},
};

use futures_util::future::join_all;
use vaultmux_mesh::{
    backends::{
        BackendError, SecretBackend,
        azure::{AzureBackend, AzureCredential, AzureSettings, ClientSecret},
        conformance::Profile,
    },
    secret::{SecretName, SecretValue, SecretVersion},
};

use crate::servers::{Server, assert_conforms, name, program};

/// Longer than any method takes here.
const TIMEOUT: Duration = Duration::from_secs(20);
/// The one that the server's challenges name.
const TENANT: &str = "00000000-0000-0000-0000-000000000000";

struct Vault {
    server: Server,
    url: String,
    identity: String,
}

// === impl Vault ===

impl Vault {
    async fn start(options: &[&str]) -> Self {
        let mut server = Server::start(&program("azure-key-vault"), |dir| {
            let certificate = dir.join("ca.pem").display().to_string();
            let listen = ["-listen", "127.0.0.1:0", "-identity-listen", "127.0.0.1:0"];
            let arguments = ["-certificate", &certificate].into_iter().chain(listen);
            arguments.chain(options.iter().copied()).map(str::to_owned).collect()
        });
        let said = async |log: &str| {
            let after = |words: &str| {
                let line = log.lines().find_map(|line| line.strip_prefix(words))?;
                Some(line.trim().to_owned())
            };
            Some((after("listening on ")?, after("identity on ")?))
        };
        let (url, identity) = server.ready(said).await;
        Self { server, url, identity }
    }

    fn ca(&self) -> PathBuf {
        self.server.dir.path().join("ca.pem")
    }

    fn open(&self, prefix: &str, credential: AzureCredential) -> AzureBackend {
        let settings = AzureSettings {
            vault_url: self.url.clone(),
            prefix: prefix.to_owned(),
            credential,
            authority_host: Some(self.url.clone()),
            ca_file: Some(self.ca()),
            verify_challenge_resource: false,
        };
        AzureBackend::new(settings, TIMEOUT).expect("set up")
    }
}

fn by_secret() -> AzureCredential {
    AzureCredential::ClientSecret {
        tenant_id: Some(TENANT.to_owned()),
        client_id: Some("app".to_owned()),
        secret: Some(ClientSecret::Text(SecretValue::new("password"))),
    }
}

fn named(raw: &str) -> SecretName {
    name(AzureBackend::GRAMMAR, raw)
}

async fn read(backend: &AzureBackend, raw: &str) -> Result<Vec<u8>, BackendError> {
    let found = backend.get(&named(raw), &SecretVersion::Latest).await?;
    #[expect(clippy::disallowed_methods, reason = "the test compares plaintext")]
    let bytes = found.value.expose_secret().to_vec();
    Ok(bytes)
}

#[tokio::test]
async fn azure_conforms() {
    let vault = Vault::start(&[]).await;
    let neighbours = vault.open("", by_secret());
    for neighbour in ["other", "mesh", "mesh-", "MESH-Upper"] {
        let made = neighbours.create(&named(neighbour), &SecretValue::new("x")).await;
        made.expect(neighbour);
    }
    let longest = "z".repeat(122);
    let profile = Profile {
        join: |words| words.join("-"),
        odd_names: Box::leak(Box::new(["0", "-", "a--b", "Mixed-Case", &*longest.leak()])),
        previous: false,
        // 25 KB in base64.
        max_value: 18 << 10,
        recoverable: true,
        ..Profile::new(AzureBackend::GRAMMAR)
    };
    let backend = vault.open("mesh-", by_secret());
    assert_conforms(&backend, profile).await;
    let listed = backend.list(None).await.expect("listed");
    assert_eq!((listed.names, listed.cursor), (vec![named("upper")], None));
}

#[tokio::test]
async fn deletions_that_take_a_while_are_waited_for() {
    let vault = Vault::start(&["-settle", "1500ms"]).await;
    let backend = vault.open("", by_secret());
    let (db, value) = (named("db"), SecretValue::new("x"));
    backend.create(&db, &value).await.expect("created");
    let started = Instant::now();
    backend.delete(&db, true).await.expect("purged");
    assert!(started.elapsed() >= Duration::from_millis(1400), "{:?}", started.elapsed());
    backend.create(&db, &value).await.expect("the name is free");
    backend.delete(&db, false).await.expect("deleted");
    let under_way = backend.create(&db, &value).await;
    assert!(matches!(under_way, Err(BackendError::PendingDeletion)), "{under_way:?}");
    let again = backend.delete(&db, false).await;
    assert!(matches!(again, Err(BackendError::NotFound)), "{again:?}");
}

#[tokio::test]
async fn large_values_are_refused_and_the_old_one_stays() {
    let vault = Vault::start(&[]).await;
    let backend = vault.open("", by_secret());
    backend.create(&named("db"), &SecretValue::new("old")).await.expect("created");
    for value in [vec![b'a'; (25 << 10) + 1], vec![0xaa; 19_300]] {
        let refused = backend.update(&named("db"), &SecretValue::new(value)).await;
        assert!(matches!(refused, Err(BackendError::Invalid(_))), "{refused:?}");
    }
    assert_eq!(read(&backend, "db").await.expect("readable"), b"old");
}

#[tokio::test]
async fn tokens_are_renewed_when_they_run_out() {
    let vault = Vault::start(&["-token-lifetime", "1s"]).await;
    let token = vault.server.dir.path().join("token");
    fs::write(&token, "of the kubelet").expect("written");
    let credential = AzureCredential::WorkloadIdentity {
        tenant_id: Some(TENANT.to_owned()),
        client_id: Some("identity".to_owned()),
        token_file: Some(token),
    };
    let backend = vault.open("", credential);
    assert_eq!(backend.credentials_expire(), None);
    backend.create(&named("db"), &SecretValue::new("x")).await.expect("created");
    let first = backend.credentials_expire().expect("known");
    assert!(first <= SystemTime::now() + Duration::from_secs(1));
    tokio::time::sleep(Duration::from_millis(1200)).await;
    let reads = join_all((0..20).map(|_| read(&backend, "db"))).await;
    assert!(reads.iter().all(Result::is_ok), "{reads:?}");
    assert!(backend.credentials_expire().expect("known") > first);
}

/// The whole service with a machine's identity, as App Service and Container Apps
/// give it: by variables, and nothing about it in the configuration.
#[tokio::test]
async fn managed_identity_comes_from_the_environment() {
    let vault = Vault::start(&[]).await;
    let backend = vault.open("", by_secret());
    backend.create(&named("db"), &SecretValue::new("from the vault")).await.expect("created");
    let dir = tempfile::tempdir().expect("made");
    let config = format!(
        "mode: development\n\
         listeners: {{grpc: {{address: 'unix:grpc.sock'}}, rest: {{address: '127.0.0.1:0'}}, admin: {{address: '127.0.0.1:0'}}}}\n\
         identity: {{local: {{namespace: pay, service_account: api}}}}\n\
         backends:\n  azure: {{type: azure_key_vault, vault_url: '{}', ca_file: '{}', verify_challenge_resource: false}}\n\
         policies: [policies.yaml]\n",
        vault.url,
        vault.ca().display(),
    );
    let policies = "apiVersion: vaultmux.dev/v1alpha1\nkind: AccessPolicy\nmetadata: {name: all}\n\
                    spec: {effect: Allow, from: [{namespaces: [pay]}], to: [{secrets: {names: ['*'], verbs: [get]}}]}\n";
    fs::write(dir.path().join("config.yaml"), config).expect("written");
    fs::write(dir.path().join("policies.yaml"), policies).expect("written");
    let identity = format!("IDENTITY_ENDPOINT={}", vault.identity);
    let mut service = Server::start_in(dir, "/usr/bin/env".as_ref(), |dir| {
        let config = dir.join("config.yaml").display().to_string();
        let service = env!("CARGO_BIN_EXE_vaultmux-mesh");
        let arguments =
            ["-i", &identity, "IDENTITY_HEADER=x", service, "serve", "--config", &config];
        arguments.map(str::to_owned).into()
    });
    let listening = async |log: &str| {
        let lines = log.lines().filter_map(|line| serde_json::from_str(line).ok());
        let mut rest = lines.filter(|line: &serde_json::Value| {
            line["message"] == "listening" && line["listener"] == "rest"
        });
        rest.next()?["address"].as_str().map(str::to_owned)
    };
    let rest = service.ready(listening).await;
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    let url = format!("http://{rest}/v1/secrets/db");
    let answer = client.get(url).send().await.expect("answered");
    let (status, body) = (answer.status(), answer.text().await.expect("text"));
    assert!(
        status.is_success() && body.contains("from the vault"),
        "{status} {body}\n{}",
        service.log()
    );
    assert!(!service.log().contains("from the vault"));
}
