//! Where the cluster is and who we are, by kubeconfig, over a fake API server.

use base64::{Engine, engine::general_purpose::STANDARD};

use super::*;
use crate::{
    backends::{
        SecretBackend, Store, conformance,
        fake::{Fake, Reply},
        kubernetes::{KubernetesBackend, KubernetesSettings, NamespaceScope, connect},
    },
    secret::{SecretName, SecretVersion},
};

const TIMEOUT: Duration = Duration::from_secs(20);
const TARGET: &str = "/api/v1/namespaces/shop/secrets/db";

async fn start() -> (Fake, String) {
    let (fake, ca) = Fake::start_tls().await;
    fake.always(not_found());
    (fake, ca)
}

fn not_found() -> Reply {
    Reply::json(404, r#"{"kind": "Status", "reason": "NotFound"}"#)
}

fn name() -> SecretName {
    conformance::name(KubernetesBackend::GRAMMAR, "db/password")
}

async fn read(store: &dyn SecretBackend) -> BackendError {
    store.get(&name(), &SecretVersion::Latest).await.expect_err("nothing is there")
}

/// Opens a store by a kubeconfig with these parts of cluster and user.
async fn by_kubeconfig(
    cluster: &str,
    user: &str,
    context: Option<&str>,
) -> (tempfile::TempDir, Result<Store, SetupError>) {
    let directory = tempfile::tempdir().expect("temporary directory");
    let path = directory.path().join("config");
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
         contexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n\
         clusters: [{{name: c, cluster: {{{cluster}}}}}]\nusers: [{{name: u, user: {{{user}}}}}]\n"
    );
    std::fs::write(&path, text).expect("written");
    std::fs::write(directory.path().join("token"), "from-file\n").expect("written");
    let settings = KubernetesSettings {
        namespace: NamespaceScope::parse("shop").expect("a namespace"),
        kubeconfig: Some(path),
        context: context.map(Into::into),
    };
    let opened = connect(settings, TIMEOUT).await;
    (directory, opened)
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
        let (_directory, store) = by_kubeconfig(&server, user, None).await;
        let store = store.expect(user).within("ignored");
        assert_eq!(fake.calls().len(), 0, "no call before the first");
        let error = read(&*store).await;
        assert!(matches!(error, BackendError::NotFound), "{error:?}");
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
        let (_directory, store) = by_kubeconfig(cluster, user, context).await;
        let error = store.map(drop).expect_err(expected).to_string();
        assert!(error.contains(expected), "{error}");
        assert!(!error.contains("canary") && !error.contains('\n'), "{error}");
    }
    let settings =
        KubernetesSettings { namespace: NamespaceScope::OfCaller, kubeconfig: None, context: None };
    let error = connect(settings, TIMEOUT).await.map(drop).expect_err("no pod");
    assert!(matches!(error, SetupError::NotInCluster(_)), "{error:?}");
}

#[tokio::test]
async fn the_servers_certificate_is_checked() {
    let (fake, ca) = start().await;
    let ca = STANDARD.encode(ca);
    let trusting = format!("server: \"{}\", certificate-authority-data: {ca}", fake.url);
    let (_directory, store) = by_kubeconfig(&trusting, "token: t", None).await;
    let store = store.expect("set up").within("shop");
    let error = read(&*store).await;
    assert!(matches!(error, BackendError::NotFound), "{error:?}");

    let (_other, other_ca) = Fake::start_tls().await;
    let ca = STANDARD.encode(other_ca);
    let wary = format!("server: \"{}\", certificate-authority-data: {ca}", fake.url);
    let (_directory, store) = by_kubeconfig(&wary, "token: t", None).await;
    let store = store.expect("set up").within("shop");
    fake.calls();
    let error = read(&*store).await;
    let BackendError::Unavailable(Some(cause)) = error else { panic!("{error:?}") };
    assert!(cause.to_string().contains("certificate"), "{cause}");
    assert_eq!(fake.calls().len(), 0, "no token went out");
}
