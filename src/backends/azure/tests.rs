//! Against the fake: the wire, and what no emulator shows.

mod identity;
mod lists;
mod writes;

use std::{io::Write, sync::Mutex};

use http::Method;
use serde_json::{Value, json};

use super::*;
use crate::backends::{
    conformance,
    fake::{Call, Fake, Reply},
    faults::{self, CANARY, Fault, Method as On},
};

/// Longer than any answer takes.
const TIMEOUT: Duration = Duration::from_secs(20);
const TENANT: &str = "11111111-2222-3333-4444-555555555555";
const TOKEN: &str = "canary-token-90ac";
const SECRET: &str = "canary-password-31fe";
const VERSION: &str = "0123456789abcdef0123456789abcdef";

/// A fake vault that issues its own tokens, and the CA to trust.
struct Vault {
    fake: Fake,
    ca: tempfile::NamedTempFile,
}

// === impl Vault ===

impl Vault {
    async fn start() -> Self {
        let (fake, pem) = Fake::start_tls().await;
        let mut ca = tempfile::NamedTempFile::new().expect("made");
        ca.write_all(pem.as_bytes()).expect("written");
        let vault = Self { fake, ca };
        vault.answers(|_| Reply::new(500, ""));
        vault
    }

    fn settings(&self) -> AzureSettings {
        AzureSettings {
            vault_url: self.fake.url.clone(),
            prefix: "mesh-".to_owned(),
            credential: AzureCredential::ClientSecret {
                tenant_id: Some(TENANT.to_owned()),
                client_id: Some("app".to_owned()),
                secret: Some(ClientSecret::Text(SecretValue::new(SECRET))),
            },
            authority_host: Some(self.fake.url.clone()),
            ca_file: Some(self.ca.path().to_owned()),
            verify_challenge_resource: false,
        }
    }

    fn backend(&self, timeout: Duration) -> AzureBackend {
        AzureBackend::new(self.settings(), timeout).expect("set up")
    }

    /// What the vault says to those who show a token; others are asked for one.
    fn answers(&self, reply: impl Fn(&Call) -> Reply + Send + Sync + 'static) {
        self.fake.on(move |call| {
            if is_exchange(call) {
                token_reply(3600)
            } else if !call.headers.contains_key("authorization") {
                challenge()
            } else {
                reply(call)
            }
        });
    }

    /// Calls to the vault with a token, as method and target without the API version.
    fn calls(&self) -> Vec<String> {
        let calls = self.fake.calls();
        let authorised = calls.iter().filter(|call| call.headers.contains_key("authorization"));
        authorised
            .map(|call| {
                let target = call.target.replace("api-version=2025-07-01", "");
                let target = target.replace("&&", "&").replace("?&", "?");
                format!("{} {}", call.method, target.trim_end_matches(['?', '&']))
            })
            .collect()
    }
}

fn is_exchange(call: &Call) -> bool {
    call.target == format!("/{TENANT}/oauth2/v2.0/token")
}

fn token_reply(lifetime: u32) -> Reply {
    let token = json!({"token_type": "Bearer", "expires_in": lifetime, "access_token": TOKEN});
    Reply::json(200, token.to_string())
}

fn challenge() -> Reply {
    let asked =
        r#"Bearer authorization="https://login.windows.net/t", resource="https://vault.azure.net""#;
    error(401, "Unauthorized", None, "no token").header("www-authenticate", asked)
}

fn error(status: u16, code: &str, inner: Option<&str>, message: &str) -> Reply {
    let mut error = json!({"code": code, "message": message});
    if let Some(inner) = inner {
        error["innererror"] = json!({"code": inner});
    }
    Reply::json(status, json!({ "error": error }).to_string())
}

fn missing() -> Reply {
    error(404, "SecretNotFound", None, "A secret with (name/id) x was not found.")
}

/// A version as Azure shows it.
fn shown(name: &str, rest: Value) -> Reply {
    let mut secret = json!({
        "id": format!("https://x.vault.azure.net/secrets/{name}/{VERSION}"),
        "attributes": {"enabled": true, "created": 1_700_000_000, "updated": 1_700_000_000},
    });
    for (key, value) in rest.as_object().expect("an object") {
        secret[key] = value.clone();
    }
    Reply::json(200, secret.to_string())
}

fn name(raw: &str) -> SecretName {
    conformance::name(AzureBackend::GRAMMAR, raw)
}

async fn get(backend: &AzureBackend) -> Result<SecretRecord, BackendError> {
    backend.get(&name("db"), &SecretVersion::Latest).await
}

#[tokio::test]
async fn first_call_learns_what_token_to_bring_and_later_ones_bring_it() {
    let vault = Vault::start().await;
    let backend = vault.backend(TIMEOUT);
    assert_eq!(backend.credentials_expire(), None);
    vault.answers(|call| match call.method {
        Method::GET => missing(),
        _ => shown("mesh-db", json!({})),
    });
    assert_eq!(vault.fake.calls().len(), 0, "nothing is called before it is asked for");
    backend.create(&name("db"), &SecretValue::new("plain")).await.expect("created");
    let calls = vault.fake.calls();
    let seen: Vec<_> = calls
        .iter()
        .map(|call| match call.headers.get("authorization") {
            Some(token) => {
                assert_eq!(token, &format!("Bearer {TOKEN}"));
                call.method.as_str()
            }
            None if is_exchange(call) => "exchange",
            None => "challenged",
        })
        .collect();
    assert_eq!(seen, ["challenged", "exchange", "GET", "PUT"]);
    let form: Vec<_> = form_urlencoded::parse(&calls[1].body).into_owned().collect();
    for (key, value) in [
        ("client_id", "app"),
        ("client_secret", SECRET),
        ("grant_type", "client_credentials"),
        ("scope", "https://vault.azure.net/.default"),
    ] {
        assert!(form.contains(&(key.to_owned(), value.to_owned())), "{key}");
    }
    for _ in 0..3 {
        get(&backend).await.expect_err("missing");
    }
    assert_eq!(vault.fake.calls().len(), 3, "neither challenge nor exchange again");
    let left = backend.credentials_expire().expect("known").duration_since(SystemTime::now());
    assert!((3500..=3600).contains(&left.expect("ahead").as_secs()));

    // The very first call of a client may be a write: its value waits for the token.
    let vault = Vault::start().await;
    vault.answers(|_| shown("mesh-db", json!({})));
    let parameters = content::created(&SecretValue::new(CANARY));
    vault.backend(TIMEOUT).set("mesh-db", parameters).await.expect("set");
    let calls = vault.fake.calls();
    assert_eq!((calls.len(), calls[0].body.len()), (3, 0));
    assert!(String::from_utf8_lossy(&calls[2].body).contains(CANARY));
}

#[tokio::test]
async fn each_method_makes_the_fewest_calls() {
    let vault = Vault::start().await;
    let backend = vault.backend(TIMEOUT);
    let db = name("DB");
    let value = SecretValue::new("x");
    vault.answers(|_| shown("mesh-db", json!({"value": "x"})));
    get(&backend).await.expect("readable");
    assert_eq!(vault.calls(), ["GET /secrets/mesh-db/"]);
    let version = SecretVersion::parse(&VERSION.to_uppercase()).expect("valid selector");
    backend.get(&db, &version).await.expect("readable");
    assert_eq!(vault.calls(), [format!("GET /secrets/mesh-db/{VERSION}")]);
    let taken = backend.create(&db, &value).await;
    assert!(matches!(taken, Err(BackendError::Conflict)), "{taken:?}");
    assert_eq!(vault.calls(), ["GET /secrets/mesh-db/"]);
    assert_eq!(&*backend.update(&db, &value).await.expect("updated"), VERSION);
    assert_eq!(vault.calls(), ["GET /secrets/mesh-db/", "PUT /secrets/mesh-db"]);
    backend.delete(&db, false).await.expect("deleted");
    assert_eq!(vault.calls(), ["DELETE /secrets/mesh-db"]);

    vault.answers(|call| match call.method {
        Method::GET => missing(),
        Method::PUT => shown("mesh-db", json!({})),
        _ => Reply::new(204, ""),
    });
    backend.create(&db, &value).await.expect("created");
    assert_eq!(vault.calls(), ["GET /secrets/mesh-db/", "PUT /secrets/mesh-db"]);
    let gone = backend.update(&db, &value).await;
    assert!(matches!(gone, Err(BackendError::NotFound)), "{gone:?}");
    assert_eq!(vault.calls(), ["GET /secrets/mesh-db/"]);
    vault.answers(|call| match call.target.starts_with("/deleted") {
        true => Reply::new(204, ""),
        false => shown("mesh-db", json!({})),
    });
    backend.delete(&db, true).await.expect("purged");
    assert_eq!(vault.calls(), ["DELETE /secrets/mesh-db", "DELETE /deletedsecrets/mesh-db"]);
    let empty = json!({"value": [], "nextLink": null}).to_string();
    vault.answers(move |_| Reply::json(200, empty.clone()));
    assert_eq!(backend.list(None).await.expect("listed"), SecretPage::default());
    assert_eq!(vault.calls(), ["GET /secrets?maxresults=25"]);
    let none = backend.versions(&db).await;
    assert!(matches!(none, Err(BackendError::NotFound)), "{none:?}");
    assert_eq!(vault.calls(), ["GET /secrets/mesh-db/versions?maxresults=25"]);
}

#[tokio::test]
async fn only_ids_of_versions_and_values_that_fit_are_sent() {
    let vault = Vault::start().await;
    let backend = vault.backend(TIMEOUT);
    for selector in [
        "previous",
        "current",
        "7",
        "versions",
        "../other",
        "..",
        "/",
        "../../deletedsecrets/other",
        &VERSION[1..],
        &format!("{VERSION}0"),
        &format!("{}/", &VERSION[1..]),
        "zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz",
    ] {
        let version = SecretVersion::parse(selector).expect("valid selector");
        let found = backend.get(&name("db"), &version).await;
        assert!(matches!(found, Err(BackendError::NotFound)), "{selector}: {found:?}");
        assert!(!backend.can_have(&version), "{selector}");
    }
    for selector in ["latest", VERSION, &VERSION.to_uppercase()] {
        let version = SecretVersion::parse(selector).expect("valid selector");
        assert!(backend.can_have(&version), "{selector}");
    }
    let long = SecretValue::new(vec![b'x'; (25 << 10) + 1]);
    for refused in [
        backend.accepts(&long),
        backend.create(&name("db"), &long).await.map(drop),
        backend.update(&name("db"), &long).await.map(drop),
    ] {
        assert!(matches!(refused, Err(BackendError::Invalid(_))), "{refused:?}");
    }
    assert_eq!(vault.fake.calls().len(), 0);
    for raw in ["a/b", "../x", "a%2fb", "a_b", "a.b", "", "ä", &"a".repeat(128)] {
        for encoding in [NameEncoding::Plain, NameEncoding::Percent] {
            assert!(AzureBackend::GRAMMAR.canonical(raw, encoding).is_err(), "{raw}");
        }
    }
    assert_eq!(name("Stripe-KEY").as_str(), "stripe-key");
}

#[tokio::test]
async fn what_is_not_the_secret_asked_for_is_refused() {
    let vault = Vault::start().await;
    let backend = vault.backend(TIMEOUT);
    for id in [
        json!(format!("https://x.vault.azure.net/secrets/mesh-other/{VERSION}")),
        json!(format!("https://x.vault.azure.net/keys/mesh-db/{VERSION}")),
        json!("https://x.vault.azure.net/secrets/mesh-db"),
        json!("https://x.vault.azure.net/secrets/mesh-db/7"),
        json!("canary-2b7e15"),
        Value::Null,
    ] {
        let body = json!({"id": id, "value": CANARY});
        vault.answers(move |_| shown("mesh-db", body.clone()));
        let found = get(&backend).await.expect_err("another secret");
        assert!(matches!(found, BackendError::Invalid(_)), "{found:?}");
        assert!(!format!("{found:?}").contains(CANARY), "{found:?}");
    }
    let version = SecretVersion::parse(&"f".repeat(32)).expect("valid selector");
    vault.answers(|_| shown("MESH-Db", json!({"value": "x"})));
    let found = backend.get(&name("db"), &version).await;
    assert!(matches!(found, Err(BackendError::Invalid(_))), "{found:?}");
    let found = get(&backend).await.expect("Azure keeps the case of the first write");
    assert_eq!(&*found.version, VERSION);
    assert_eq!(found.created_at, Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000)));
}

#[tokio::test]
async fn refusals_and_failures_are_sorted() {
    let vault = Vault::start().await;
    let backend = vault.backend(Duration::from_millis(500));
    vault.answers(|_| missing());
    // From here on the client has its token.
    get(&backend).await.expect_err("missing");
    let forbidden = |inner| error(403, "Forbidden", Some(inner), "Caller is not authorized");
    let conflict = |inner| error(409, "Conflict", Some(inner), CANARY);
    let throttled = || error(429, "Throttled", None, CANARY);
    // A delete's answer is not read.
    const READING: &[On] = &[On::Get, On::List, On::Create, On::Update, On::Versions];
    const ONE: &[On] = &[On::Get, On::Update, On::Delete, On::Versions];
    let quoting = format!(r#"{{"value":"{CANARY}","attributes":"{CANARY}","nextLink":[]}}"#);
    let mut table = faults::of_the_connection();
    table.extend([
        Fault::new("throttled", throttled().header("retry-after", "7"), "throttled").retry_after(7),
        Fault::new("throttled, no time", throttled(), "throttled"),
        Fault::new("missing", missing(), "not_found").on(ONE),
        Fault::new("404 of something else", Reply::new(404, "<html>"), "invalid"),
        Fault::new("disabled", forbidden("SecretDisabled"), "disabled").on(&[On::Get, On::Update]),
        Fault::new("disabled is there", forbidden("SecretDisabled"), "conflict").on(&[On::Create]),
        Fault::new("role", forbidden("ForbiddenByRbac"), "permission_denied"),
        Fault::new("policy", forbidden("ForbiddenByPolicy"), "permission_denied"),
        Fault::new("firewall", forbidden("ForbiddenByFirewall"), "permission_denied"),
        Fault::new("403 of something else", Reply::new(403, "<html>"), "permission_denied"),
        Fault::new("deleted", conflict("ObjectIsDeletedButRecoverable"), "pending_deletion"),
        Fault::new("being deleted", conflict("ObjectIsBeingDeleted"), "pending_deletion"),
        Fault::new("being recovered", conflict("ObjectIsBeingRecovered"), "pending_deletion"),
        Fault::new("conflict", error(409, "Conflict", None, CANARY), "conflict"),
        Fault::new("bad parameter", error(400, "BadParameter", None, CANARY), "invalid"),
        Fault::new("odd code", error(400, CANARY, None, CANARY), "invalid"),
        Fault::new("too large", Reply::new(413, CANARY), "invalid"),
        Fault::new("401", error(401, "Unauthorized", None, "AKV10032"), "permission_denied"),
        Fault::new("500", error(500, "InternalServerError", None, "x"), "unavailable"),
        Fault::new("503", Reply::new(503, CANARY), "unavailable"),
        Fault::new("redirect", Reply::new(307, "").header("location", "/x"), "unavailable"),
        Fault::new("no JSON", Reply::new(200, CANARY), "unavailable").on(READING),
        Fault::new("other JSON", Reply::json(200, quoting), "unavailable").on(READING),
    ]);
    faults::check(&backend, &vault.fake, &name("db"), table).await;
}

#[tokio::test]
async fn nothing_is_called_twice_and_the_reason_of_a_denial_is_told() {
    let vault = Vault::start().await;
    let backend = vault.backend(TIMEOUT);
    vault.answers(|_| error(429, "Throttled", None, "slow down"));
    get(&backend).await.expect_err("throttled");
    assert_eq!(vault.calls().len(), 1);
    for inner in ["ForbiddenByRbac", "ForbiddenByPolicy", "ForbiddenByFirewall"] {
        vault.answers(move |_| error(403, "Forbidden", Some(inner), "not allowed"));
        let Err(BackendError::PermissionDenied(Some(cause))) = get(&backend).await else {
            panic!("{inner} is a denial");
        };
        assert!(cause.to_string().contains(inner), "{cause}");
        assert_eq!(vault.calls().len(), 1);
    }
}

#[tokio::test]
async fn unreachable_vaults_are_outages() {
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let address = closed.local_addr().expect("bound");
    drop(closed);
    let vault = Vault::start().await;
    let settings = AzureSettings { vault_url: format!("https://{address}"), ..vault.settings() };
    let backend = AzureBackend::new(settings, TIMEOUT).expect("set up");
    let failed = get(&backend).await.expect_err("closed");
    assert!(matches!(failed, BackendError::Unavailable(Some(_))), "{failed:?}");

    // A certificate that nobody vouched for.
    let settings = AzureSettings { ca_file: None, ..vault.settings() };
    let backend = AzureBackend::new(settings, TIMEOUT).expect("set up");
    let failed = get(&backend).await.expect_err("not trusted");
    let BackendError::Unavailable(Some(cause)) = failed else { panic!("{failed:?}") };
    assert!(cause.to_string().contains("certificate"), "{cause}");
    assert_eq!(vault.fake.calls().len(), 0);
}

#[tokio::test]
async fn settings_that_cannot_work_are_refused() {
    let vault = Vault::start().await;
    let refused = |change: fn(&mut AzureSettings)| {
        let mut settings = vault.settings();
        change(&mut settings);
        AzureBackend::new(settings, TIMEOUT).expect_err("refused").to_string()
    };
    for (change, expected) in [
        (
            (|s| s.vault_url = "http://x.vault.azure.net".into()) as fn(&mut AzureSettings),
            "vault_url",
        ),
        (|s| s.vault_url = "https://x.vault.azure.net/secrets".into(), "vault_url"),
        (|s| s.vault_url = "https://u:p@x.vault.azure.net".into(), "vault_url"),
        (|s| s.vault_url = "nonsense".into(), "vault_url"),
        (|s| s.prefix = "a_".into(), "prefix \"a_\""),
        (|s| s.prefix = "a".repeat(127), "prefix"),
        (|s| s.ca_file = Some("/nowhere/ca.pem".into()), "ca_file /nowhere/ca.pem: "),
        (|s| s.ca_file = Some("/dev/null".into()), "ca_file /dev/null: holds no certificate"),
        (|s| s.authority_host = Some("http://login".into()), "credential: authority host"),
        (
            |s| {
                s.credential = AzureCredential::WorkloadIdentity {
                    tenant_id: Some(TENANT.into()),
                    client_id: None,
                    token_file: Some("/token".into()),
                };
            },
            "no Azure client: set `client_id` or AZURE_CLIENT_ID",
        ),
        (
            |s| {
                s.credential = AzureCredential::ClientSecret {
                    tenant_id: Some("../common".into()),
                    client_id: Some("a".into()),
                    secret: Some(ClientSecret::Text(SecretValue::new(SECRET))),
                };
            },
            "credential: invalid tenant ID",
        ),
    ] {
        let said = refused(change);
        assert!(said.starts_with(expected), "{said}");
        assert!(!said.contains("canary"), "{said}");
    }
    let shown = format!("{:?} {:?}", vault.settings(), vault.backend(TIMEOUT));
    assert!(!shown.contains("canary"), "{shown}");
}

/// Where a test's log goes.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("not poisoned").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn neither_values_nor_tokens_are_logged_by_the_sdk() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    // While there is but one, what another test's thread logs first is off for all threads.
    let _second = tracing::Dispatch::new(tracing_subscriber::registry());
    let _guard = tracing::subscriber::set_default(subscriber);
    let vault = Vault::start().await;
    let backend = vault.backend(TIMEOUT);
    let value = SecretValue::new(CANARY);
    vault.answers(|_| shown("mesh-db", json!({"value": CANARY, "tags": {"k": CANARY}})));
    get(&backend).await.expect("read");
    backend.update(&name("db"), &value).await.expect("updated");
    backend.delete(&name("db"), false).await.expect("deleted");
    vault.answers(|_| error(400, "BadParameter", None, CANARY));
    backend.update(&name("db"), &value).await.expect_err("refused");
    vault.answers(|_| Reply::Cut);
    get(&backend).await.expect_err("cut");
    let log = String::from_utf8_lossy(&log.0.lock().expect("not poisoned")).into_owned();
    assert!(log.contains("typespec_client_core"), "the SDK's log is seen: {log}");
    for canary in [CANARY, TOKEN, SECRET] {
        assert!(!log.contains(canary), "{log}");
    }
}
