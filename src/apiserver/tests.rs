//! Where the cluster is, who we are, and what answers are, over a fake API server.

use base64::{Engine, engine::general_purpose::STANDARD};

use super::*;
use crate::backends::fake::{Fake, Reply};

const TIMEOUT: Duration = Duration::from_secs(20);
const TARGET: &str = "/api/v1/namespaces/shop/secrets/db";
const LONGEST: usize = 1 << 20;

fn not_found() -> Reply {
    Reply::json(404, r#"{"kind": "Status", "reason": "NotFound"}"#)
}

async fn get(api: &ApiServer) -> Result<Answer, CallError> {
    let request = Request::get(TARGET).body(Bytes::new()).expect("a request");
    api.send(request, LONGEST).await
}

/// Reads a kubeconfig with these parts of cluster and user.
async fn by_kubeconfig(
    cluster: &str,
    user: &str,
    context: Option<&str>,
) -> (tempfile::TempDir, Result<ApiServer, SetupError>) {
    let directory = tempfile::tempdir().expect("temporary directory");
    let path = directory.path().join("config");
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
         contexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n\
         clusters: [{{name: c, cluster: {{{cluster}}}}}]\nusers: [{{name: u, user: {{{user}}}}}]\n"
    );
    std::fs::write(&path, text).expect("written");
    std::fs::write(directory.path().join("token"), "from-file\n").expect("written");
    let api = ApiServer::connect(Some(path), context.map(Into::into), TIMEOUT).await;
    (directory, api)
}

#[tokio::test]
async fn a_kubeconfig_says_where_and_who() {
    let fake = Fake::start().await;
    fake.always(not_found());
    let server = format!("server: \"{}/behind/a/path\"", fake.url);
    for (user, expected) in [
        ("token: inline", Some("Bearer inline")),
        ("tokenFile: token", Some("Bearer from-file")),
        ("token: inline, tokenFile: token", Some("Bearer inline")),
        ("username: u, password: p", Some("Basic dTpw")),
        ("", None),
    ] {
        let (_directory, api) = by_kubeconfig(&server, user, None).await;
        let api = api.expect(user);
        assert_eq!(fake.calls().len(), 0, "no call before the first");
        assert_eq!(get(&api).await.expect("an answer").status, 404);
        let [call] = &fake.calls()[..] else { panic!("not one call") };
        assert_eq!(call.target, format!("/behind/a/path{TARGET}"));
        let sent = call.headers.get("authorization").map(|value| value.to_str().expect("text"));
        assert_eq!(sent, expected, "{user}");
    }
}

#[tokio::test]
async fn kubeconfigs_that_cannot_work_are_refused_without_quoting_them() {
    let server = "server: \"https://127.0.0.1:1\"";
    let insecure = format!("{server}, insecure-skip-tls-verify: true");
    let proxy = format!("{server}, proxy-url: \"http://proxy:1\"");
    let exec = "exec: {apiVersion: client.authentication.k8s.io/v1, command: \"false\"}";
    for (cluster, user, context, expected) in [
        (server, "token: canary", Some("other"), "failed to load current context"),
        (server, "token: [canary]", None, "is not a kubeconfig"),
        ("", "token: canary", None, "cluster url is missing"),
        (&insecure, "token: canary", None, "insecure-skip-tls-verify"),
        (&proxy, "token: canary", None, "proxy"),
        (server, exec, None, "plugin"),
        (server, "auth-provider: {name: oidc, config: {id-token: canary}}", None, "plugin"),
        (server, "client-certificate: missing, client-key: missing", None, "client certificate"),
    ] {
        let (_directory, api) = by_kubeconfig(cluster, user, context).await;
        let error = api.map(drop).expect_err(expected).to_string();
        assert!(error.contains(expected), "{error}");
        assert!(!error.contains("canary") && !error.contains('\n'), "{error}");
    }
    let error = ApiServer::connect(None, None, TIMEOUT).await.map(drop).expect_err("no pod");
    assert!(matches!(error, SetupError::NotInCluster(_)), "{error:?}");
}

#[tokio::test]
async fn no_token_goes_to_another_machine_in_the_clear() {
    for (server, refused) in [
        ("http://127.0.0.1:1", false),
        ("http://[::1]:1", false),
        ("http://localhost:1", false),
        ("https://api.example:6443", false),
        ("http://api.example:6443", true),
        ("http://localhost.example:1", true),
        ("http://10.0.0.1:1", true),
    ] {
        let (_directory, api) = by_kubeconfig(&format!("server: \"{server}\""), "", None).await;
        let error = api.map(drop).err();
        assert_eq!(error, refused.then_some(SetupError::InTheClear), "{server}");
    }
}

#[tokio::test]
async fn the_servers_certificate_is_checked() {
    let (fake, ca) = Fake::start_tls().await;
    fake.always(not_found());
    let ca = STANDARD.encode(ca);
    let trusting = format!("server: \"{}\", certificate-authority-data: {ca}", fake.url);
    let (_directory, api) = by_kubeconfig(&trusting, "token: t", None).await;
    assert_eq!(get(&api.expect("set up")).await.expect("an answer").status, 404);

    let (_other, other_ca) = Fake::start_tls().await;
    let ca = STANDARD.encode(other_ca);
    let wary = format!("server: \"{}\", certificate-authority-data: {ca}", fake.url);
    let (_directory, api) = by_kubeconfig(&wary, "token: t", None).await;
    fake.calls();
    let error = get(&api.expect("set up")).await.map(drop).expect_err("not trusted");
    let CallError::Unreachable(cause) = error else { panic!("{error:?}") };
    assert!(cause.contains("certificate"), "{cause}");
    assert_eq!(fake.calls().len(), 0, "no token went out");
}

#[tokio::test]
async fn a_refused_token_is_read_again_on_every_way() {
    let fake = Fake::start().await;
    fake.always(Reply::new(401, ""));
    let server = format!("server: \"{}\"", fake.url);
    let (directory, api) = by_kubeconfig(&server, "tokenFile: token", None).await;
    let api = api.expect("set up");
    assert_eq!(get(&api).await.expect("an answer").status, 401);
    std::fs::write(directory.path().join("token"), "renewed").expect("written");
    let raw = Request::get(TARGET).body(Vec::new()).expect("a request");
    api.client().request_text(raw).await.expect_err("refused");
    let sent = |call: &crate::backends::fake::Call| call.headers["authorization"].clone();
    let sent: Vec<_> = fake.calls().iter().map(sent).collect();
    assert_eq!(sent, ["Bearer from-file", "Bearer renewed"]);
}

#[tokio::test]
async fn every_status_is_an_answer_and_no_answer_has_a_kind() {
    let fake = Fake::start().await;
    let api = ApiServer::at(&fake.url, TIMEOUT);
    let throttled = Reply::new(429, "slow").header("retry-after", "7").header("audit-id", "a1");
    fake.always(throttled);
    let answer = get(&api).await.expect("an answer");
    assert_eq!((answer.status, answer.retry_after.as_deref()), (429, Some("7")));
    assert_eq!((&*answer.audit_id, &answer.body[..]), ("a1", &b"slow"[..]));
    let [call] = &fake.calls()[..] else { panic!("not one call") };
    assert!(call.headers["user-agent"].to_str().expect("text").starts_with("vaultmux-mesh/"));

    // Refusals are told from their status alone, where the rest does not come.
    for (status, whole) in [(200, false), (503, true)] {
        fake.always(Reply::Endless { status });
        let answer = get(&api).await.map(|answer| answer.body.len());
        assert_eq!(answer, if whole { Ok(0) } else { Err(CallError::TooLong) }, "{status}");
    }
    for reply in [Reply::Cut, Reply::Reset] {
        fake.always(reply);
        let error = get(&api).await.map(drop).expect_err("broken");
        assert!(matches!(error, CallError::Unreachable(_)), "{error:?}");
    }
    fake.always(Reply::Hang);
    let error = get(&ApiServer::at(&fake.url, Duration::from_millis(50))).await.map(drop);
    assert_eq!(error, Err(CallError::TimedOut));
}

#[tokio::test]
async fn without_the_named_token_nothing_is_sent() {
    let fake = Fake::start().await;
    fake.always(not_found());
    let server = format!("server: \"{}\"", fake.url);
    let (directory, api) = by_kubeconfig(&server, "tokenFile: token", None).await;
    std::fs::remove_file(directory.path().join("token")).expect("removed");
    let error = get(&api.expect("set up")).await.map(drop).expect_err("no token");
    assert!(matches!(error, CallError::Credentials(_)), "{error:?}");
    assert_eq!(fake.calls().len(), 0);
}
