//! Vault's KV engine and logins, on OpenBao.

mod logins;
mod policies;

use std::{
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::{Value, json};
use vaultmux_mesh::{
    backends::{
        BackendError, SecretBackend,
        conformance::Profile,
        vault::{Credential, KvVersion, VaultAuth, VaultBackend, VaultSettings},
    },
    secret::{SecretName, SecretRecord, SecretValue, SecretVersion},
};

use crate::servers::{self, Server};

const TIMEOUT: Duration = Duration::from_secs(20);
const LOGIN: u64 = 60;

/// An unsealed server with KV version 2 at `secret/` and 1 at `kv/`.
struct Bao {
    server: Server,
    url: String,
    http: reqwest::Client,
    /// For TLS.
    ca: Option<std::path::PathBuf>,
}

// === impl Bao ===

impl Bao {
    async fn start() -> Self {
        Self::start_with(false).await
    }

    async fn start_with(tls: bool) -> Self {
        let port = servers::free_port();
        let mut server = Server::start(&servers::program("bao"), |dir| {
            let mut arguments = vec![
                "server".to_owned(),
                "-dev".to_owned(),
                "-dev-root-token-id=root".to_owned(),
                "-dev-no-store-token".to_owned(),
                format!("-dev-listen-address=127.0.0.1:{port}"),
            ];
            if tls {
                arguments.push("-dev-tls".to_owned());
                arguments.push(format!("-dev-tls-cert-dir={}", dir.display()));
            }
            arguments
        });
        let dir = server.dir.path().to_owned();
        server.ready(async |log| log.contains("Root Token").then_some(())).await;
        let ca = tls.then(|| {
            let files = std::fs::read_dir(&dir).expect("readable");
            let mut paths = files.map(|file| file.expect("an entry").path());
            let is_ca = |path: &std::path::PathBuf| path.to_string_lossy().ends_with("-ca.pem");
            paths.find(is_ca).expect("the server made a certificate authority")
        });
        let mut http = reqwest::Client::builder().no_proxy();
        if let Some(ca) = &ca {
            let pem = std::fs::read(ca).expect("readable");
            let ca = reqwest::Certificate::from_pem(&pem).expect("a certificate");
            http = http.tls_certs_only([ca]);
        } else {
            http = http.tls_certs_only([]);
        }
        let scheme = if tls { "https" } else { "http" };
        let url = format!("{scheme}://127.0.0.1:{port}");
        let bao = Self { server, url, http: http.build().expect("a client"), ca };
        servers::until("unsealed", async || {
            let (status, _) = bao.try_call("GET", "sys/health", json!({})).await?;
            (status == 200).then_some(())
        })
        .await;
        bao.call("POST", "sys/mounts/kv", json!({"type": "kv", "options": {"version": "1"}})).await;
        bao
    }

    async fn try_call(&self, method: &str, path: &str, body: Value) -> Option<(u16, Value)> {
        let method = method.parse().expect("a method");
        let call = self.http.request(method, format!("{}/v1/{path}", self.url));
        let call = call.header("x-vault-token", "root").json(&body);
        let answer = call.send().await.ok()?;
        let status = answer.status().as_u16();
        Some((status, answer.json().await.unwrap_or_default()))
    }

    /// Does something as root.
    async fn call(&self, method: &str, path: &str, body: Value) -> Value {
        let (status, answer) = self.try_call(method, path, body).await.expect("an answer");
        assert!(status < 300, "{method} {path}: {status} {answer}");
        answer
    }

    async fn policy(&self, name: &str, hcl: &str) {
        self.call("PUT", &format!("sys/policies/acl/{name}"), json!({"policy": hcl})).await;
    }

    /// A token of these policies.
    async fn token(&self, policies: &[&str]) -> String {
        let asked = json!({"policies": policies, "ttl": "1h"});
        let made = self.call("POST", "auth/token/create", asked).await;
        made["auth"]["client_token"].as_str().expect("a token").to_owned()
    }

    fn settings(&self) -> VaultSettings {
        VaultSettings {
            address: self.url.clone(),
            namespace: None,
            mount: "secret".to_owned(),
            version: KvVersion::Two,
            prefix: String::new(),
            ca_file: self.ca.clone(),
            auth: token("root"),
        }
    }

    fn version_1(&self) -> VaultSettings {
        VaultSettings { mount: "kv".to_owned(), version: KvVersion::One, ..self.settings() }
    }

    /// An AppRole that may do everything, whose tokens live for a minute.
    async fn app_role(&self, namespace: &str, extra: Value) -> VaultAuth {
        self.call("POST", &format!("{namespace}sys/auth/approle"), json!({"type": "approle"}))
            .await;
        let all = r#"path "*" { capabilities = ["create", "read", "update", "delete", "list"] }"#;
        let path = format!("{namespace}sys/policies/acl/all");
        self.call("PUT", &path, json!({"policy": all})).await;
        let mut role = json!({"token_policies": ["all"], "token_ttl": LOGIN});
        role.as_object_mut()
            .expect("an object")
            .extend(extra.as_object().expect("an object").clone());
        let path = format!("{namespace}auth/approle/role/mesh");
        self.call("POST", &path, role).await;
        let role_id = self.call("GET", &format!("{path}/role-id"), json!({})).await;
        let secret_id = self.call("POST", &format!("{path}/secret-id"), json!({})).await;
        let text = |value: &Value| value.as_str().expect("text").to_owned();
        VaultAuth::AppRole {
            mount: "approle".to_owned(),
            role_id: text(&role_id["data"]["role_id"]),
            secret_id: Some(credential(&text(&secret_id["data"]["secret_id"]))),
            secret_id_file: None,
        }
    }

    /// The tokens that exist besides root's.
    async fn tokens(&self) -> Vec<Value> {
        let listed = self.call("GET", "auth/token/accessors?list=true", json!({})).await;
        let mut tokens = Vec::new();
        for accessor in listed["data"]["keys"].as_array().expect("a list") {
            let asked = json!({"accessor": accessor});
            let found = self.try_call("POST", "auth/token/lookup-accessor", asked).await;
            let (status, found) = found.expect("an answer");
            if status == 200 && found["data"]["display_name"] != "token" {
                tokens.push(found["data"].clone());
            }
        }
        tokens
    }
}

fn credential(text: &str) -> Credential {
    Credential::new(SecretValue::new(text))
}

fn token(text: &str) -> VaultAuth {
    VaultAuth::Token(credential(text))
}

fn name(raw: &str) -> SecretName {
    servers::name(VaultBackend::GRAMMAR, raw)
}

fn value(text: &str) -> SecretValue {
    SecretValue::new(text)
}

fn connect(settings: VaultSettings) -> VaultBackend {
    VaultBackend::connect(settings, TIMEOUT).expect("set up")
}

async fn get(backend: &VaultBackend, raw: &str) -> Result<SecretRecord, BackendError> {
    backend.get(&name(raw), &SecretVersion::Latest).await
}

#[expect(clippy::disallowed_methods, reason = "the tests compare plaintext")]
fn text(record: SecretRecord) -> String {
    String::from_utf8(record.value.expose_secret().to_vec()).expect("text")
}

fn kind<T>(result: Result<T, BackendError>) -> &'static str {
    result.err().map_or("ok", |error| error.kind())
}

/// Lets time pass here, not in the server.
async fn later(seconds: u64) {
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(seconds)).await;
    tokio::time::resume();
}

fn profile() -> Profile {
    Profile {
        odd_names: &["a+b", "a=b", "a@b", "_.-", ".a/.b", "data/metadata/x", "a/b."],
        previous: false,
        recoverable: true,
        ..Profile::new(VaultBackend::GRAMMAR)
    }
}

#[tokio::test]
async fn version_2_conforms() {
    let bao = Bao::start_with(true).await;
    for path in ["outside", "mes", "mesh", "mesh2", "mesh/a%20b", "mesh/c~/d", "mesh/sub%3F/x"] {
        let data = json!({"data": {"canary": "x"}});
        bao.call("POST", &format!("secret/data/{path}"), data).await;
    }
    let backend = connect(VaultSettings { prefix: "mesh/".to_owned(), ..bao.settings() });
    servers::assert_conforms(&backend, profile()).await;
    assert_eq!(backend.list(None).await.expect("listed").names, []);
    // A prefix that ends within a segment.
    let backend = connect(VaultSettings { prefix: "half-".to_owned(), ..bao.settings() });
    servers::assert_conforms(&backend, Profile { names: 20, pages: false, ..profile() }).await;
}

#[tokio::test]
async fn version_2_that_asks_for_check_and_set_conforms() {
    let bao = Bao::start().await;
    bao.call("POST", "secret/config", json!({"cas_required": true})).await;
    let backend = connect(bao.settings());
    servers::assert_conforms(&backend, profile()).await;
}

#[tokio::test]
async fn version_1_conforms() {
    let bao = Bao::start().await;
    let backend = connect(VaultSettings { prefix: "mesh/".to_owned(), ..bao.version_1() });
    let profile = Profile { history: false, recoverable: false, ..profile() };
    servers::assert_conforms(&backend, profile).await;
}

#[tokio::test]
async fn namespaces_are_apart() {
    let bao = Bao::start().await;
    bao.call("POST", "sys/namespaces/team", json!({})).await;
    bao.call("POST", "team/sys/mounts/secret", json!({"type": "kv-v2"})).await;
    let auth = bao.app_role("team/", json!({})).await;
    let team = VaultSettings { namespace: Some("team".to_owned()), auth, ..bao.settings() };
    let inside = connect(team.clone());
    servers::assert_conforms(&inside, Profile { names: 20, pages: false, ..profile() }).await;
    inside.create(&name("db"), &value("inside")).await.expect("created");
    let outside = connect(bao.settings());
    assert_eq!(kind(get(&outside, "db").await), "not_found");
    assert_eq!(text(get(&inside, "db").await.expect("found")), "inside");
    let elsewhere = connect(VaultSettings { namespace: None, ..team });
    assert_eq!(kind(get(&elsewhere, "db").await), "permission_denied");
}

#[tokio::test]
async fn values_of_others_are_read_and_theirs_can_be() {
    let bao = Bao::start().await;
    let backend = connect(bao.settings());
    let data = json!({"data": {"username": "u", "password": "<p>&\u{2028}", "n": 7, "z": {}}});
    bao.call("POST", "secret/data/db", data).await;
    let found = get(&backend, "db").await.expect("found");
    assert_eq!(text(found), "{\"n\":7,\"password\":\"<p>&\u{2028}\",\"username\":\"u\",\"z\":{}}");

    for (at, written) in [
        r#"{"password":"p","username":"u"}"#,
        "{\"a\":[1,-7,null,true,\"<&>\",{}],\"b\":{\"c\":\"\\n\\t\\\"\\\\\\u001f\u{2028}é😀\"},\"n\":999999999999999}",
    ]
    .into_iter()
    .enumerate()
    {
        for (settings, path, data) in [
            (bao.settings(), "secret/data", "/data/data"),
            (bao.version_1(), "kv", "/data"),
        ] {
            let (backend, raw) = (connect(settings), format!("native-{at}"));
            backend.create(&name(&raw), &value(written)).await.expect("created");
            assert_eq!(text(get(&backend, &raw).await.expect("found")), written);
            let held = bao.call("GET", &format!("{path}/{raw}"), json!({})).await;
            let expected: Value = serde_json::from_str(written).expect("JSON");
            assert_eq!(held.pointer(data), Some(&expected), "others see its fields");
        }
    }
    backend.create(&name("text"), &value("plain")).await.expect("created");
    let held = bao.call("GET", "secret/data/text", json!({})).await;
    assert_eq!(held["data"]["data"], json!({"encoding": "utf-8", "value": "plain"}));
}

#[tokio::test]
async fn deleted_secrets_come_back_and_destroyed_ones_can_be_made_anew() {
    let bao = Bao::start().await;
    let backend = connect(bao.settings());
    let (secret, one) = (name("db"), SecretVersion::parse("1").expect("valid"));
    backend.create(&secret, &value("1")).await.expect("created");
    backend.update(&secret, &value("2")).await.expect("updated");
    backend.delete(&secret, false).await.expect("deleted");
    assert_eq!(kind(get(&backend, "db").await), "pending_deletion");
    assert_eq!(kind(backend.update(&secret, &value("3")).await), "pending_deletion");
    assert_eq!(kind(backend.delete(&secret, false).await), "pending_deletion");
    assert_eq!(kind(backend.create(&secret, &value("3")).await), "pending_deletion");
    backend.get(&secret, &one).await.expect("only the newest is deleted");
    let enabled = async || {
        let versions = backend.versions(&secret).await.expect("listed");
        versions.iter().map(|entry| (entry.id.to_string(), entry.enabled)).collect::<Vec<_>>()
    };
    assert_eq!(enabled().await, [("2".to_owned(), false), ("1".to_owned(), true)]);
    bao.call("POST", "secret/undelete/db", json!({"versions": [2]})).await;
    assert_eq!(text(get(&backend, "db").await.expect("back")), "2");

    bao.call("PUT", "secret/destroy/db", json!({"versions": [1, 2]})).await;
    assert_eq!(kind(get(&backend, "db").await), "not_found");
    assert_eq!(kind(backend.get(&secret, &one).await), "not_found");
    assert_eq!(kind(backend.update(&secret, &value("3")).await), "not_found");
    assert_eq!(kind(backend.delete(&secret, false).await), "not_found");
    assert_eq!(&*backend.create(&secret, &value("3")).await.expect("made anew"), "3");
    assert_eq!(text(get(&backend, "db").await.expect("found")), "3");

    // Only described so far: there is nothing to read or to update.
    bao.call("POST", "secret/metadata/later", json!({"max_versions": 3})).await;
    assert_eq!(kind(get(&backend, "later").await), "not_found");
    assert_eq!(kind(backend.update(&name("later"), &value("1")).await), "not_found");
    backend.create(&name("later"), &value("1")).await.expect("created");
    backend.delete(&name("later"), true).await.expect("deleted");
    assert_eq!(kind(backend.versions(&name("later")).await), "not_found");
}

#[tokio::test]
async fn quotas_missing_mounts_and_a_sealed_server_are_told_apart() {
    let bao = Bao::start().await;
    let auth = bao.app_role("", json!({})).await;
    let backend = connect(VaultSettings { auth: auth.clone(), ..bao.settings() });
    assert_eq!(kind(get(&backend, "db").await), "not_found");
    let nowhere = VaultSettings { mount: "nowhere".to_owned(), ..bao.settings() };
    assert_eq!(kind(get(&connect(nowhere.clone()), "db").await), "invalid");
    let hidden = bao.token(&["default"]).await;
    let hidden = connect(VaultSettings { auth: token(&hidden), ..nowhere });
    assert_eq!(kind(get(&hidden, "db").await), "permission_denied");
    let crossed = VaultSettings { version: KvVersion::One, ..bao.settings() };
    assert_eq!(kind(get(&connect(crossed), "db").await), "invalid");
    let crossed = VaultSettings { version: KvVersion::Two, ..bao.version_1() };
    let made = connect(crossed).create(&name("db"), &value("x")).await;
    assert_eq!(kind(made), "invalid");

    let headers = json!({"enable_rate_limit_response_headers": true});
    bao.call("POST", "sys/quotas/config", headers).await;
    let quota = json!({"rate": 1, "interval": "1m", "path": "secret/"});
    bao.call("POST", "sys/quotas/rate-limit/slow", quota).await;
    let mut seen = Vec::new();
    for _ in 0..5 {
        seen.push(get(&backend, "db").await.expect_err("missing"));
    }
    let throttled = seen.iter().find_map(|error| match error {
        BackendError::Throttled { retry_after } => Some(*retry_after),
        _ => None,
    });
    let wait = throttled.unwrap_or_else(|| panic!("{seen:?}")).expect("Retry-After");
    assert!(wait <= Duration::from_secs(60), "{wait:?}");
    bao.call("DELETE", "sys/quotas/rate-limit/slow", json!({})).await;

    bao.call("PUT", "sys/seal", json!({})).await;
    let late = connect(VaultSettings { auth, ..bao.settings() });
    let value = value("x");
    for error in [
        get(&backend, "db").await.expect_err("sealed"),
        backend.create(&name("db"), &value).await.expect_err("sealed"),
        get(&late, "db").await.expect_err("sealed"),
    ] {
        assert!(matches!(&error, BackendError::Unavailable(Some(_))), "{error:?}");
        let cause = std::error::Error::source(&error).expect("a cause").to_string();
        assert_eq!(cause, "status 503: Vault is sealed");
    }
    drop(bao);
    assert_eq!(kind(get(&backend, "db").await), "unavailable");
}

/// Collects what is logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("not poisoned").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Over HTTP/2, whose crate logs frames.
#[tokio::test]
async fn no_token_and_no_value_is_logged() {
    let bao = Bao::start_with(true).await;
    bao.policy("all", r#"path "*" { capabilities = ["create", "read", "update"] }"#).await;
    let secret = bao.token(&["all"]).await;
    let backend = connect(VaultSettings { auth: token(&secret), ..bao.settings() });
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    let guard = tracing::subscriber::set_default(subscriber);
    backend.create(&name("db"), &value("canary-8d41")).await.expect("created");
    backend.update(&name("db"), &value("canary-8d42")).await.expect("updated");
    get(&backend, "db").await.expect("found");
    drop(guard);
    let log = String::from_utf8_lossy(&log.0.lock().expect("not poisoned")).into_owned();
    assert!(log.contains("h2::"), "something was logged: {log}");
    assert!(!log.contains("canary-8d4") && !log.contains(&secret), "{log}");
}

#[tokio::test]
async fn updates_from_many_writers_lose_none() {
    let bao = Bao::start().await;
    let backend = Arc::new(connect(bao.settings()));
    let secret = name("db");
    backend.create(&secret, &value("0")).await.expect("created");
    let values: Vec<_> = (0..8).map(|at| value(&at.to_string())).collect();
    let writes = values.iter().map(|value| backend.update(&secret, value));
    let written = futures_util::future::join_all(writes).await;
    let mut ids: Vec<_> = written.iter().filter_map(|id| id.as_deref().ok()).collect();
    let lost = |error: &BackendError| matches!(error, BackendError::Unavailable(Some(_)));
    assert!(written.iter().all(|id| id.as_ref().err().is_none_or(lost)), "{written:?}");
    let won = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), won, "no two writes are one version");
    assert_eq!(backend.versions(&secret).await.expect("listed").len(), 1 + won);
}
