//! Logins: how many, when, and what they say when they fail.

use futures_util::future::join_all;

use super::*;

/// Lets time pass at once.
pub(super) async fn later(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

/// Waits for what happens in the background.
async fn until(what: &str, holds: impl Fn() -> bool) {
    for _ in 0..2000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    panic!("{what}");
}

fn app_role(secret_id: &str) -> VaultAuth {
    VaultAuth::AppRole {
        mount: "approle".to_owned(),
        role_id: "role".to_owned(),
        secret_id: Some(credential(secret_id)),
        secret_id_file: None,
    }
}

fn with(fake: &Fake, auth: VaultAuth) -> VaultBackend {
    connect(VaultSettings { auth, ..settings(&fake.url) })
}

fn granted(token: &str, seconds: u64, renewable: bool) -> Reply {
    let auth = serde_json::json!({
        "auth": {"client_token": token, "lease_duration": seconds, "renewable": renewable}
    });
    Reply::json(200, auth.to_string())
}

/// A server of numbered tokens, which live for a minute; it holds nothing.
/// Tokens below `oldest` are not known (any more).
#[derive(Clone)]
struct Server {
    fake: Fake,
    logins: Arc<AtomicUsize>,
    oldest: Arc<AtomicUsize>,
}

impl Server {
    async fn start(renewable: bool) -> Self {
        let fake = Fake::start().await;
        let server = Self { fake, logins: Arc::default(), oldest: Arc::default() };
        let (logins, oldest) = (Arc::clone(&server.logins), Arc::clone(&server.oldest));
        server.fake.on(move |call| {
            let token = call.headers.get("x-vault-token").and_then(|token| token.to_str().ok());
            let known = token.and_then(|token| token.strip_prefix("token-")?.parse::<usize>().ok());
            let known = known.is_some_and(|known| known >= oldest.load(Ordering::Relaxed));
            match call.target.as_str() {
                "/v1/auth/approle/login" => {
                    let number = logins.fetch_add(1, Ordering::Relaxed) + 1;
                    granted(&format!("token-{number}"), 60, renewable)
                }
                _ if !known => errors(403, "permission denied"),
                "/v1/auth/token/renew-self" => granted(token.unwrap_or_default(), 60, renewable),
                "/v1/auth/token/lookup-self" => Reply::json(200, r#"{"data":{"ttl":60}}"#),
                "/v1/secret/data/denied" => errors(403, "1 error occurred: permission denied"),
                _ => missing(),
            }
        });
        server
    }

    fn backend(&self) -> VaultBackend {
        with(&self.fake, app_role("secret-id"))
    }

    /// The last parts of the paths called, since the last time.
    fn calls(&self) -> Vec<String> {
        let last = |call: Call| call.target.rsplit('/').next().unwrap_or_default().to_owned();
        self.fake.calls().into_iter().map(last).collect()
    }
}

#[tokio::test]
async fn nobody_logs_in_before_the_first_call_and_then_all_do_at_once() {
    let server = Server::start(true).await;
    let backend = server.backend();
    assert_eq!(backend.credentials_expire(), None);
    assert_eq!(server.calls(), [""; 0]);
    join_all((0..100).map(|_| get(&backend, "db"))).await;
    let calls = server.calls();
    assert_eq!(calls.iter().filter(|call| *call == "login").count(), 1);
    assert_eq!(calls.len(), 101);
    get(&backend, "db").await.expect_err("missing");
    assert_eq!(server.calls(), ["db"]);
    let left = backend.credentials_expire().expect("known").duration_since(SystemTime::now());
    assert!((50..=60).contains(&left.expect("not over").as_secs()));
}

#[tokio::test]
async fn a_caller_that_gives_up_does_not_end_the_login_of_others() {
    let server = Server::start(true).await;
    let backend = server.backend();
    let first = tokio::time::timeout(Duration::ZERO, get(&backend, "db")).await;
    first.expect_err("gave up");
    get(&backend, "db").await.expect_err("missing");
    assert_eq!(server.logins.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_token_is_renewed_in_the_background_from_two_thirds_of_its_life() {
    let server = Server::start(true).await;
    let backend = server.backend();
    get(&backend, "db").await.expect_err("missing");
    let before = backend.credentials_expire();
    later(Duration::from_secs(39)).await;
    get(&backend, "db").await.expect_err("missing");
    assert_eq!(server.calls(), ["login", "db", "db"]);
    later(Duration::from_secs(2)).await;
    join_all((0..10).map(|_| get(&backend, "db"))).await;
    until("it is renewed", || backend.credentials_expire() != before).await;
    let calls = server.calls();
    assert_eq!(calls.iter().filter(|call| *call == "renew-self").count(), 1, "{calls:?}");
    assert_eq!(calls.len(), 11);
    // It has another minute from then on.
    later(Duration::from_secs(39)).await;
    get(&backend, "db").await.expect_err("missing");
    assert_eq!(server.calls(), ["db"]);
}

#[tokio::test]
async fn nobody_waits_for_a_renewal_while_the_token_is_good() {
    let server = Server::start(true).await;
    let backend = server.backend();
    get(&backend, "db").await.expect_err("missing");
    server.fake.on(|call| match call.target.as_str() {
        "/v1/auth/token/renew-self" | "/v1/auth/approle/login" => Reply::Hang,
        _ => missing(),
    });
    server.calls();
    later(Duration::from_secs(45)).await;
    let before = tokio::time::Instant::now();
    for _ in 0..5 {
        let error = get(&backend, "db").await.expect_err("missing");
        assert_eq!(error.kind(), "not_found");
    }
    assert!(before.elapsed() < Duration::from_secs(10));
    until("a renewal is under way", || server.calls().iter().any(|call| call == "renew-self"))
        .await;
}

#[tokio::test]
async fn what_cannot_be_renewed_is_replaced_before_it_runs_out() {
    let server = Server::start(false).await;
    let backend = server.backend();
    get(&backend, "db").await.expect_err("missing");
    later(Duration::from_secs(41)).await;
    get(&backend, "db").await.expect_err("missing");
    until("a second login", || server.logins.load(Ordering::Relaxed) == 2).await;
    assert!(!server.calls().contains(&"renew-self".to_owned()));
    // The old one would be over by now.
    later(Duration::from_secs(25)).await;
    get(&backend, "db").await.expect_err("missing");
    let calls = server.fake.calls();
    assert_eq!(calls.len(), 1);
    assert_eq!(calls[0].headers["x-vault-token"], "token-2");
}

#[tokio::test]
async fn a_token_near_the_end_of_its_longest_life_is_replaced() {
    let fake = Fake::start().await;
    let logins = AtomicUsize::new(0);
    fake.on(move |call| match call.target.as_str() {
        "/v1/auth/approle/login" => {
            let number = logins.fetch_add(1, Ordering::Relaxed) + 1;
            granted(&format!("token-{number}"), 60, true)
        }
        "/v1/auth/token/renew-self" => granted("token-1", 5, true),
        _ => missing(),
    });
    let backend = with(&fake, app_role("secret-id"));
    get(&backend, "db").await.expect_err("missing");
    later(Duration::from_secs(41)).await;
    get(&backend, "db").await.expect_err("missing");
    let asked = std::cell::Cell::new(0);
    until("a second login", || {
        let logins = fake.calls().iter().filter(|call| call.target.ends_with("login")).count();
        asked.set(asked.get() + logins);
        asked.get() == 2
    })
    .await;
}

#[tokio::test]
async fn an_expired_token_is_not_used() {
    let server = Server::start(true).await;
    let backend = server.backend();
    get(&backend, "db").await.expect_err("missing");
    later(Duration::from_secs(61)).await;
    server.calls();
    join_all((0..10).map(|_| get(&backend, "db"))).await;
    let calls = server.calls();
    assert_eq!(calls.iter().filter(|call| *call == "login").count(), 1);
    assert_eq!(calls.len(), 11);
}

#[tokio::test]
async fn a_revoked_token_is_replaced_once_for_all() {
    let server = Server::start(true).await;
    let backend = server.backend();
    get(&backend, "db").await.expect_err("missing");
    server.oldest.store(2, Ordering::Relaxed);
    server.calls();
    // A young token is believed: a denied path makes for no login.
    assert_eq!(get(&backend, "db").await.expect_err("denied").kind(), "permission_denied");
    assert_eq!(server.calls(), ["db"]);
    later(Duration::from_secs(11)).await;
    assert_eq!(get(&backend, "db").await.expect_err("missing").kind(), "not_found");
    assert_eq!(server.calls(), ["db", "lookup-self", "login", "db"]);

    server.oldest.store(3, Ordering::Relaxed);
    later(Duration::from_secs(11)).await;
    for result in join_all((0..50).map(|_| get(&backend, "db"))).await {
        assert_eq!(result.expect_err("missing").kind(), "not_found");
    }
    let calls = server.calls();
    let count = |what: &str| calls.iter().filter(|call| *call == what).count();
    assert_eq!((count("lookup-self"), count("login")), (1, 1), "{calls:?}");
}

#[tokio::test]
async fn a_denied_path_makes_for_no_logins() {
    let server = Server::start(true).await;
    let backend = server.backend();
    get(&backend, "db").await.expect_err("missing");
    server.calls();
    let (mut lookups, mut logins) = (0, 0);
    // Three seconds apart for half a minute: the token is asked for every ten.
    for _ in 0..10 {
        later(Duration::from_secs(3)).await;
        let denied = get(&backend, "denied").await.expect_err("denied");
        assert_eq!(denied.kind(), "permission_denied");
        let calls = server.calls();
        assert_eq!(calls[0], "denied");
        lookups += calls.iter().filter(|call| *call == "lookup-self").count();
        logins += calls.iter().filter(|call| *call == "login").count();
    }
    assert!((1..=3).contains(&lookups), "{lookups}");
    assert_eq!(logins, 0);
}

#[tokio::test]
async fn failed_logins_are_sorted_shared_and_not_repeated_at_once() {
    for (reply, kind, hold) in [
        (errors(400, "invalid role or secret ID"), "permission_denied", 5),
        (errors(403, "permission denied"), "permission_denied", 5),
        (errors(404, "no handler for route"), "permission_denied", 5),
        (Reply::json(200, r#"{"auth":{"client_token":""}}"#), "permission_denied", 5),
        (Reply::json(200, r#"{"auth":null}"#), "permission_denied", 5),
        (Reply::json(200, "{"), "unavailable", 1),
        (errors(429, "quota").header("retry-after", "7"), "throttled", 7),
        (errors(503, "Vault is sealed"), "unavailable", 1),
        (Reply::new(307, "").header("location", "http://127.0.0.1:1/"), "unavailable", 1),
        (Reply::Reset, "unavailable", 1),
        (Reply::Cut, "unavailable", 1),
        (Reply::Hang, "timed_out", 1),
    ] {
        let fake = Fake::start().await;
        fake.always(reply.clone());
        let settings = VaultSettings { auth: app_role("secret-id"), ..settings(&fake.url) };
        let backend = VaultBackend::connect(settings, SHORT).expect("set up");
        for result in join_all((0..20).map(|_| get(&backend, "db"))).await {
            assert_eq!(result.expect_err("no token").kind(), kind, "{reply:?}");
        }
        assert_eq!(fake.calls().len(), 1, "{reply:?}");
        later(Duration::from_millis(hold * 1000 - 500)).await;
        get(&backend, "db").await.expect_err("no token");
        assert_eq!(fake.calls().len(), 0, "{reply:?}");
        later(Duration::from_secs(1)).await;
        get(&backend, "db").await.expect_err("no token");
        assert_eq!(fake.calls().len(), 1, "{reply:?}");
    }
}

#[tokio::test]
async fn credentials_are_never_shown() {
    let fake = Fake::start().await;
    let echo = |call: &Call| {
        let token = call.headers.get("x-vault-token").and_then(|token| token.to_str().ok());
        let said = format!("{} {}", String::from_utf8_lossy(&call.body), token.unwrap_or_default());
        errors(403, &said)
    };
    let dir = tempfile::tempdir().expect("temporary directory");
    let file = dir.path().join("token");
    std::fs::write(&file, CANARY).expect("written");
    for auth in [
        app_role(CANARY),
        VaultAuth::Token(credential(CANARY)),
        VaultAuth::TokenFile(file.clone()),
        VaultAuth::Jwt { mount: "jwt".into(), role: "r".into(), token_file: file },
    ] {
        let settings = VaultSettings { auth, ..settings(&fake.url) };
        let backend = connect(settings.clone());
        fake.on(echo);
        let error = get(&backend, "db").await.expect_err("denied");
        assert_eq!(error.kind(), "permission_denied");
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        let shown = format!("{settings:?} {backend:?} {error} {error:?} {cause:?}");
        assert!(!shown.contains(CANARY), "{shown}");
    }
    let harmless = errors(400, "invalid role or secret ID");
    fake.always(harmless);
    let error = get(&with(&fake, app_role(CANARY)), "db").await.expect_err("denied");
    let cause = std::error::Error::source(&error).expect("a cause").to_string();
    assert_eq!(cause, "status 400: invalid role or secret ID");
}

#[tokio::test]
async fn files_are_read_anew_for_every_login() {
    let server = Server::start(false).await;
    server.fake.on(|_| granted("token-1", 60, false));
    let dir = tempfile::tempdir().expect("temporary directory");
    let file = dir.path().join("jwt");
    let jwt = |mount: &str| (mount.to_owned(), "mesh".to_owned(), file.clone());
    let (mount, role, token_file) = jwt("kubernetes");
    let pod = with(&server.fake, VaultAuth::Kubernetes { mount, role, token_file });
    let (mount, role, token_file) = jwt("ci/jwt");
    let ci = with(&server.fake, VaultAuth::Jwt { mount, role, token_file });
    let role = with(
        &server.fake,
        VaultAuth::AppRole {
            mount: "approle".to_owned(),
            role_id: "role".to_owned(),
            secret_id: None,
            secret_id_file: Some(file.clone()),
        },
    );
    for backend in [&pod, &ci, &role] {
        let error = get(backend, "db").await.expect_err("no file");
        assert_eq!(error.kind(), "permission_denied");
        let cause = std::error::Error::source(&error).expect("a cause").to_string();
        assert!(cause.contains("/jwt: No such file"), "{cause}");
    }
    assert_eq!(server.calls(), [""; 0]);
    for token in ["first", "second"] {
        later(Duration::from_secs(70)).await;
        std::fs::write(&file, format!("{token}\n")).expect("written");
        for (backend, expected) in [
            (&pod, format!(r#"POST /v1/auth/kubernetes/login {{"role":"mesh","jwt":"{token}"}}"#)),
            (&ci, format!(r#"POST /v1/auth/ci/jwt/login {{"role":"mesh","jwt":"{token}"}}"#)),
            (
                &role,
                format!(
                    r#"POST /v1/auth/approle/login {{"role_id":"role","secret_id":"{token}"}}"#
                ),
            ),
        ] {
            let _ = get(backend, "db").await;
            assert_eq!(seen(&server.fake)[0], expected);
        }
    }
    std::fs::write(&file, " \n").expect("written");
    later(Duration::from_secs(70)).await;
    assert_eq!(get(&pod, "db").await.expect_err("empty").kind(), "permission_denied");
}

#[tokio::test]
async fn tokens_of_others_are_looked_up_and_only_configured_ones_renewed() {
    let fake = Fake::start().await;
    fake.on(|call| match call.target.as_str() {
        "/v1/auth/token/lookup-self" => Reply::json(200, r#"{"data":{"ttl":60,"renewable":true}}"#),
        "/v1/auth/token/renew-self" => granted("configured-token", 60, true),
        _ => missing(),
    });
    let dir = tempfile::tempdir().expect("temporary directory");
    let file = dir.path().join("token");
    std::fs::write(&file, "first").expect("written");
    let (configured, sink) =
        (connect(settings(&fake.url)), with(&fake, VaultAuth::TokenFile(file.clone())));
    for backend in [&configured, &sink] {
        get(backend, "db").await.expect_err("missing");
        assert_eq!(seen(&fake), ["GET /v1/auth/token/lookup-self", "GET /v1/secret/data/db"]);
    }
    std::fs::write(&file, "second").expect("written");
    later(Duration::from_secs(41)).await;
    for (backend, expected) in
        [(&configured, "/v1/auth/token/renew-self"), (&sink, "/v1/auth/token/lookup-self")]
    {
        get(backend, "db").await.expect_err("missing");
        let calls = Mutex::new(Vec::new());
        until(expected, || {
            let mut calls = calls.lock().unwrap();
            calls.extend(fake.calls());
            calls.iter().any(|call: &Call| call.target == expected)
        })
        .await;
    }
    later(Duration::from_secs(1)).await;
    get(&sink, "db").await.expect_err("missing");
    let last = fake.calls().pop().expect("a call");
    assert_eq!(last.headers["x-vault-token"], "second");
}

#[tokio::test]
async fn a_token_that_may_not_look_itself_up_is_used_all_the_same() {
    let fake = Fake::start().await;
    fake.on(|call| match call.target.starts_with("/v1/auth/") {
        true => errors(403, "permission denied"),
        false => missing(),
    });
    let backend = connect(settings(&fake.url));
    assert_eq!(get(&backend, "db").await.expect_err("missing").kind(), "not_found");
    assert_eq!(backend.credentials_expire(), None);
    assert_eq!(fake.calls().len(), 2);
    get(&backend, "db").await.expect_err("missing");
    assert_eq!(fake.calls().len(), 1);
}
