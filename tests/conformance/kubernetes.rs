//! Kubernetes Secrets over a real API server.

use std::{fs, path::Path, sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;
use vaultmux_mesh::{
    backends::{
        BackendError, SecretBackend, Store,
        conformance::Profile,
        kubernetes::{KubernetesBackend, KubernetesSettings, NamespaceScope, connect},
    },
    secret::{SecretName, SecretValue, SecretVersion},
};

use crate::{
    apiserver::ApiServer,
    servers::{self, Server, assert_conforms, documented, until},
};

const TIMEOUT: Duration = Duration::from_secs(20);

const PAGE: &str = "docs/stores/kubernetes.md";
/// Who the documented roles are for.
const ACCOUNT: &str =
    "{apiVersion: v1, kind: ServiceAccount, metadata: {name: vaultmux-mesh, namespace: vaultmux}}";

/// One test for all, so that the servers are started once and ended with it.
#[tokio::test(flavor = "multi_thread")]
async fn backend_agrees_with_a_real_api_server() {
    // Pages' snapshots are forgotten within seconds, to see what comes then.
    let api = ApiServer::start_with(&["--etcd-compaction-interval=1s"]).await;
    for namespace in ["shop", "team-a", "team-b", "vaultmux"] {
        api.create_namespace(namespace).await;
    }
    store_conforms(&api).await;
    versions_are_the_objects(&api).await;
    keys_of_one_object_do_not_disturb_each_other(&api).await;
    one_of_many_adds_a_key(&api).await;
    a_missing_key_is_not_made(&api).await;
    an_object_goes_with_its_last_key(&api).await;
    immutable_objects_are_only_read(&api).await;
    limits_are_those_of_the_server(&api).await;
    credentials_of_the_cluster_are_out_of_bounds(&api).await;
    namespaces_are_kept_apart(&api).await;
    a_listing_outlives_its_snapshot(&api).await;
    refused_credentials_are_a_denial(&api).await;
    documented_roles_allow_what_they_say(&api).await;
}

fn name(raw: &str) -> SecretName {
    servers::name(KubernetesBackend::GRAMMAR, raw)
}

async fn store(kubeconfig: &Path, namespace: &str) -> Store {
    let settings = KubernetesSettings {
        namespace: NamespaceScope::parse(namespace).expect("a namespace"),
        kubeconfig: Some(kubeconfig.to_owned()),
        context: None,
    };
    connect(settings, TIMEOUT).await.expect("connected")
}

/// The administrator's view of a namespace.
async fn within(api: &ApiServer, namespace: &str) -> Arc<dyn SecretBackend> {
    store(&api.kubeconfig, namespace).await.within("unused")
}

/// Makes a Secret past the backend.
async fn make(api: &ApiServer, namespace: &str, object: Value) {
    api.admin(Method::POST, &format!("/api/v1/namespaces/{namespace}/secrets"), object).await;
}

async fn remove(api: &ApiServer, namespace: &str, object: &str) {
    let path = format!("/api/v1/namespaces/{namespace}/secrets/{object}");
    api.admin(Method::DELETE, &path, Value::Null).await;
}

async fn read(backend: &dyn SecretBackend, raw: &str) -> Result<Vec<u8>, BackendError> {
    let found = backend.get(&name(raw), &SecretVersion::Latest).await?;
    #[expect(clippy::disallowed_methods, reason = "the checks compare plaintext")]
    Ok(found.value.expose_secret().to_vec())
}

fn kind<T>(result: &Result<T, BackendError>) -> &'static str {
    result.as_ref().err().map_or("ok", BackendError::kind)
}

async fn store_conforms(api: &ApiServer) {
    let profile = Profile {
        // An object for each name, so that a page is as many names. What all names of the
        // listing begin with is no name itself.
        join: |words| match words {
            [_, "list"] => words.join("-"),
            words => format!("{}/value", words.join("-")),
        },
        odd_names: &["a.b-c.d/.key", "0/_", "x/.dockerconfigjson", "x/K.e_y-1", "x/-"],
        history: false,
        max_value: 1 << 20,
        ..Profile::new(KubernetesBackend::GRAMMAR)
    };
    assert_conforms(&*within(api, "shop").await, profile).await;
    let callers = store(&api.kubeconfig, "{namespace}").await;
    assert!(callers.is_per_namespace());
    assert_conforms(&*callers.within("team-a"), profile).await;
    // All names as keys of one object: every change is one of the same object.
    let keys =
        Profile { join: |words| format!("all/{}", words.join("-")), pages: false, ..profile };
    assert_conforms(&*within(api, "shop").await, Profile { names: 40, ..keys }).await;
}

async fn versions_are_the_objects(api: &ApiServer) {
    let backend = within(api, "shop").await;
    let before = std::time::SystemTime::now() - Duration::from_secs(2);
    let first = backend.create(&name("v/one"), &SecretValue::new("1")).await.expect("made");
    let found = backend.get(&name("v/one"), &SecretVersion::Latest).await.expect("there");
    assert_eq!(found.version, first);
    let made = found.created_at.expect("a time");
    assert!(before <= made && made <= std::time::SystemTime::now(), "{made:?}");
    // A neighbour's change changes it too.
    let second = backend.create(&name("v/two"), &SecretValue::new("2")).await.expect("added");
    assert_ne!(first, second);
    let get = async |version: &str| {
        let version = SecretVersion::parse(version).expect("valid");
        kind(&backend.get(&name("v/one"), &version).await)
    };
    assert_eq!((get(&first).await, get(&second).await), ("not_found", "ok"));
    let listed = backend.versions(&name("v/one")).await.expect("there");
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].id, second);
    // The same value again is no change.
    let again = backend.update(&name("v/two"), &SecretValue::new("2")).await.expect("updated");
    assert_eq!(again, second);
    remove(api, "shop", "v").await;
}

async fn keys_of_one_object_do_not_disturb_each_other(api: &ApiServer) {
    let backend = within(api, "shop").await;
    let names: Vec<_> = (0..8).map(|at| name(&format!("crowd/k{at}"))).collect();
    let value = SecretValue::new("x");
    let made = join_all(names.iter().map(|name| backend.create(name, &value))).await;
    assert!(made.iter().all(Result::is_ok), "{made:?}");
    let value = SecretValue::new("y");
    let updated = join_all(names.iter().map(|name| backend.update(name, &value))).await;
    assert!(updated.iter().all(Result::is_ok), "{updated:?}");
    for name in &names {
        assert_eq!(read(&*backend, name.as_str()).await.expect("there"), b"y");
    }
    // Each key twice at once: one finds it, one does not.
    let twice = names.iter().chain(&names).map(|name| backend.delete(name, false));
    let gone = join_all(twice).await;
    let count = |wanted| gone.iter().filter(|result| kind(result) == wanted).count();
    assert_eq!((count("ok"), count("not_found")), (8, 8), "{gone:?}");
    // The object went with the last of them.
    let path = "/api/v1/namespaces/shop/secrets/crowd";
    let (status, _) = api.call(api.admin_token, Method::GET, path, "", &Value::Null).await;
    assert_eq!(status, 404);
}

async fn one_of_many_adds_a_key(api: &ApiServer) {
    let backend = within(api, "shop").await;
    for round in 0..5 {
        make(api, "shop", json!({"metadata": {"name": "race"}, "data": {"other": "eA=="}})).await;
        let values: Vec<_> = (0..12).map(|at| SecretValue::new(format!("racer {at}"))).collect();
        let key = name("race/key");
        let made = join_all(values.iter().map(|value| backend.create(&key, value))).await;
        let winner = made.iter().position(Result::is_ok).expect("a winner");
        let lost = made.iter().filter(|result| kind(result) == "conflict").count();
        assert_eq!(lost, values.len() - 1, "round {round}: {made:?}");
        let kept = read(&*backend, "race/key").await.expect("there");
        assert_eq!(kept, format!("racer {winner}").into_bytes());
        assert_eq!(read(&*backend, "race/other").await.expect("there"), b"x");
        remove(api, "shop", "race").await;
    }
}

/// The API server's `replace` makes what is missing, so this is not for it to keep.
async fn a_missing_key_is_not_made(api: &ApiServer) {
    let backend = within(api, "shop").await;
    make(api, "shop", json!({"metadata": {"name": "gap"}, "data": {"other": "eA=="}})).await;
    let value = SecretValue::new("x");
    assert_eq!(kind(&backend.update(&name("gap/key"), &value).await), "not_found");
    assert_eq!(kind(&backend.delete(&name("gap/key"), true).await), "not_found");
    assert_eq!(kind(&read(&*backend, "gap/key").await), "not_found");
    assert_eq!(kind(&backend.versions(&name("gap/key")).await), "not_found");
    assert_eq!(read(&*backend, "gap/other").await.expect("there"), b"x");
    remove(api, "shop", "gap").await;
}

async fn an_object_goes_with_its_last_key(api: &ApiServer) {
    let backend = within(api, "shop").await;
    // Not ours: it stays, empty.
    make(api, "shop", json!({"metadata": {"name": "theirs"}, "data": {"k": "eA=="}})).await;
    backend.delete(&name("theirs/k"), true).await.expect("deleted");
    let path = "/api/v1/namespaces/shop/secrets/theirs";
    assert_eq!(api.admin(Method::GET, path, Value::Null).await["data"], Value::Null);
    assert_eq!(kind(&backend.update(&name("theirs/k"), &SecretValue::new("x")).await), "not_found");
    assert_eq!(kind(&backend.delete(&name("theirs/k"), true).await), "not_found");
    backend.create(&name("theirs/k"), &SecretValue::new("new")).await.expect("added");
    assert_eq!(read(&*backend, "theirs/k").await.expect("there"), b"new");
    remove(api, "shop", "theirs").await;
    // Keys that their type needs.
    let data = json!({"tls.crt": "", "tls.key": "eA=="});
    make(
        api,
        "shop",
        json!({"metadata": {"name": "t"}, "type": "kubernetes.io/tls", "data": data}),
    )
    .await;
    assert_eq!(kind(&backend.delete(&name("t/tls.key"), true).await), "invalid");
    backend.update(&name("t/tls.key"), &SecretValue::new("new")).await.expect("updated");
    remove(api, "shop", "t").await;
}

async fn immutable_objects_are_only_read(api: &ApiServer) {
    let backend = within(api, "shop").await;
    let frozen = json!({"metadata": {"name": "ice"}, "immutable": true, "data": {"k": "eA=="}});
    make(api, "shop", frozen).await;
    assert_eq!(read(&*backend, "ice/k").await.expect("there"), b"x");
    let value = SecretValue::new("y");
    let attempts = [
        backend.update(&name("ice/k"), &value).await.map(drop),
        backend.create(&name("ice/other"), &value).await.map(drop),
        backend.delete(&name("ice/k"), true).await,
    ];
    for refused in attempts {
        let error = refused.expect_err("immutable").to_string();
        assert_eq!(error, "the store refused the request: the Secret is immutable");
    }
    assert_eq!(kind(&backend.create(&name("ice/k"), &value).await), "conflict");
    remove(api, "shop", "ice").await;
}

async fn limits_are_those_of_the_server(api: &ApiServer) {
    let backend = within(api, "shop").await;
    let half = SecretValue::new(vec![b'a'; 600 << 10]);
    backend.create(&name("big/one"), &half).await.expect("made");
    // Together they would be too long.
    let refused = backend.create(&name("big/two"), &half).await.expect_err("too long");
    assert_eq!(refused.to_string(), "the store refused the request: no valid Secret would be left");
    assert_eq!(read(&*backend, "big/one").await.expect("there").len(), 600 << 10);
    backend.delete(&name("big/one"), true).await.expect("deleted");
    // Nowhere to put it.
    let nowhere = within(api, "nowhere").await;
    assert_eq!(kind(&nowhere.create(&name("a/b"), &SecretValue::new("x")).await), "invalid");
    assert_eq!(kind(&read(&*nowhere, "a/b").await), "not_found");
    assert_eq!(kind(&backend.list(Some("nonsense")).await), "invalid");
}

async fn credentials_of_the_cluster_are_out_of_bounds(api: &ApiServer) {
    let backend = within(api, "shop").await;
    let annotations = json!({"kubernetes.io/service-account.name": "default"});
    for (object, metadata, kind) in [
        (
            "sa",
            json!({"name": "sa", "annotations": annotations}),
            "kubernetes.io/service-account-token",
        ),
        ("boot", json!({"name": "boot"}), "bootstrap.kubernetes.io/token"),
        ("helm", json!({"name": "helm"}), "helm.sh/release.v1"),
        ("custom", json!({"name": "custom"}), "example.com/custom"),
    ] {
        if object == "sa" {
            let path = "/api/v1/namespaces/shop/serviceaccounts";
            api.admin(Method::POST, path, json!({"metadata": {"name": "default"}})).await;
        }
        let data = json!({"token": STANDARD.encode("t")});
        make(api, "shop", json!({"metadata": metadata, "type": kind, "data": data})).await;
        let raw = format!("{object}/token");
        let found = read(&*backend, &raw).await.is_ok();
        assert_eq!(found, object == "custom", "{kind}");
        if object != "custom" {
            cannot_be_changed(api, &*backend, object).await;
        }
        let page = backend.list(None).await.expect("listed");
        assert_eq!(page.names.contains(&name(&raw)), object == "custom", "{kind}");
        remove(api, "shop", object).await;
    }
}

/// Neither its keys nor what they hold, in whatever way it is written to.
async fn cannot_be_changed(api: &ApiServer, backend: &dyn SecretBackend, object: &str) {
    let path = format!("/api/v1/namespaces/shop/secrets/{object}");
    let before = api.admin(Method::GET, &path, Value::Null).await;
    let (token, value) = (name(&format!("{object}/token")), SecretValue::new("mine"));
    let added = name(&format!("{object}/added"));
    for (seen, expected) in [
        (kind(&backend.update(&token, &value).await), "not_found"),
        (kind(&backend.update(&added, &value).await), "not_found"),
        (kind(&backend.create(&token, &value).await), "conflict"),
        (kind(&backend.create(&added, &value).await), "conflict"),
        (kind(&backend.delete(&token, true).await), "not_found"),
        (kind(&backend.versions(&token).await), "not_found"),
    ] {
        assert_eq!(seen, expected, "{object}");
    }
    let after = api.admin(Method::GET, &path, Value::Null).await;
    assert_eq!(after["metadata"]["resourceVersion"], before["metadata"]["resourceVersion"]);
    assert_eq!(after["data"], before["data"], "{object}");
}

async fn namespaces_are_kept_apart(api: &ApiServer) {
    let callers = store(&api.kubeconfig, "{namespace}").await;
    let (a, b) = (callers.within("team-a"), callers.within("team-b"));
    a.create(&name("db/password"), &SecretValue::new("of a")).await.expect("made");
    assert_eq!(kind(&read(&*b, "db/password").await), "not_found");
    assert_eq!(kind(&b.update(&name("db/password"), &SecretValue::new("x")).await), "not_found");
    assert_eq!(kind(&b.delete(&name("db/password"), true).await), "not_found");
    assert_eq!(b.list(None).await.expect("listed").names, []);
    b.create(&name("db/password"), &SecretValue::new("of b")).await.expect("made");
    assert_eq!(read(&*a, "db/password").await.expect("there"), b"of a");
    assert_eq!(read(&*b, "db/password").await.expect("there"), b"of b");
    assert_eq!(a.list(None).await.expect("listed").names, [name("db/password")]);
    for backend in [a, b] {
        backend.delete(&name("db/password"), false).await.expect("deleted");
    }
}

async fn a_listing_outlives_its_snapshot(api: &ApiServer) {
    let backend = within(api, "team-b").await;
    let names: Vec<_> = (100..118).map(|at| name(&format!("s{at}/k"))).collect();
    for name in &names {
        backend.create(name, &SecretValue::new("x")).await.expect("made");
    }
    let first = backend.list(None).await.expect("listed");
    let cursor = first.cursor.expect("more");
    // What the cursor points into is gone once the API server itself says so.
    let query = format!("limit=10&continue={cursor}");
    until("compaction", async || {
        let marker = json!({"metadata": {"annotations": {"tick": fastrand::u64(..).to_string()}}});
        api.admin(Method::PATCH, "/api/v1/namespaces/team-b", marker).await;
        let path = format!("/api/v1/namespaces/team-b/secrets?{query}");
        let (status, _) = api.call(api.admin_token, Method::GET, &path, "", &Value::Null).await;
        (status == 410).then_some(())
    })
    .await;
    let second = backend.list(Some(&cursor)).await.expect("listed on");
    assert_eq!([first.names, second.names].concat(), names);
    for name in &names {
        backend.delete(name, true).await.expect("deleted");
    }
}

async fn refused_credentials_are_a_denial(api: &ApiServer) {
    let kubeconfig = api.kubeconfig_of("nobody", "not-a-token");
    let backend = store(&kubeconfig, "shop").await.within("unused");
    assert_eq!(kind(&read(&*backend, "a/b").await), "permission_denied");
    assert_eq!(kind(&backend.list(None).await), "permission_denied");
}

/// What each documented role allows, and that it allows nothing else.
async fn documented_roles_allow_what_they_say(api: &ApiServer) {
    api.apply(ACCOUNT).await;
    let token = api.token("vaultmux", "vaultmux-mesh", &[]).await;
    let kubeconfig = api.kubeconfig_of("mesh", &token);
    let opened = store(&kubeconfig, "shop").await;
    let mesh = opened.within("unused");
    assert_eq!(opened.credentials_expire(), None, "nothing was called yet");
    for (file, allowed) in [
        ("rbac-get.yaml", &["get", "versions"][..]),
        ("rbac-list.yaml", &["list"]),
        ("rbac-create.yaml", &["create"]),
        ("rbac-add-key.yaml", &["get", "versions", "create", "add", "update", "delete"]),
        ("rbac-update.yaml", &["get", "versions", "update", "delete"]),
        ("rbac-delete.yaml", &["get", "versions", "update", "delete", "delete last"]),
    ] {
        let data = json!({"password": "eA==", "user": "eA=="});
        make(api, "shop", json!({"metadata": {"name": "db"}, "data": data})).await;
        let labels = json!({"app.kubernetes.io/managed-by": "vaultmux-mesh"});
        let ours =
            json!({"metadata": {"name": "stripe", "labels": labels}, "data": {"key": "eA=="}});
        make(api, "shop", ours.clone()).await;
        make(api, "shop", json!({"metadata": {"name": "other"}, "data": {"k": "eA=="}})).await;
        let role = documented(PAGE, file);
        api.apply(&role).await;
        let value = SecretValue::new("new");
        let mut seen = Vec::new();
        // The authoriser learns of a role some moments after it was made.
        until(file, async || {
            seen.clear();
            let mut attempt = |what: &'static str, kind: &'static str| {
                assert!(matches!(kind, "ok" | "permission_denied"), "{file}: {what}: {kind}");
                if kind == "ok" {
                    seen.push(what);
                }
            };
            attempt("get", kind(&read(&*mesh, "db/password").await));
            attempt("versions", kind(&mesh.versions(&name("db/password")).await));
            attempt("list", kind(&mesh.list(None).await));
            let new = format!("new-{}/k", fastrand::u64(..));
            attempt("create", kind(&mesh.create(&name(&new), &value).await));
            let key = format!("db/k{}", fastrand::u64(..));
            attempt("add", kind(&mesh.create(&name(&key), &value).await));
            attempt("update", kind(&mesh.update(&name("db/password"), &value).await));
            let deleted = mesh.delete(&name("db/user"), true).await;
            attempt("delete", kind(&deleted));
            let last = mesh.delete(&name("stripe/key"), true).await;
            attempt("delete last", kind(&last));
            // Back, for the case that it is tried once more.
            if deleted.is_ok() {
                let path = "/api/v1/namespaces/shop/secrets/db";
                api.admin(Method::PATCH, path, json!({"data": {"user": "eA=="}})).await;
            }
            if last.is_ok() {
                make(api, "shop", ours.clone()).await;
            }
            (seen == allowed).then_some(())
        })
        .await;
        // No other name where the role names some.
        if matches!(file, "rbac-get.yaml" | "rbac-update.yaml" | "rbac-delete.yaml") {
            assert_eq!(kind(&read(&*mesh, "other/k").await), "permission_denied", "{file}");
            let refused = mesh.update(&name("other/k"), &value).await;
            assert_eq!(kind(&refused), "permission_denied", "{file}");
            let refused = mesh.delete(&name("other/k"), true).await;
            assert_eq!(kind(&refused), "permission_denied", "{file}");
        }
        api.remove(&role).await;
        for object in ["db", "stripe", "other"] {
            remove(api, "shop", object).await;
        }
        // Nobody is told what is missing but the log.
        until("the role to be gone", async || {
            (kind(&read(&*mesh, "db/password").await) == "permission_denied"
                && kind(&mesh.list(None).await) == "permission_denied")
                .then_some(())
        })
        .await;
    }
    let expire = opened.credentials_expire().expect("a token was used");
    let left = expire.duration_since(std::time::SystemTime::now()).expect("not yet");
    assert!(left > Duration::from_secs(3000) && left < Duration::from_secs(3700), "{left:?}");
}

const POLICIES: &str = "\
apiVersion: vaultmux.dev/v1alpha1
kind: AccessPolicy
metadata: {name: own-namespace}
spec:
  effect: Allow
  from: [{namespaces: ['*']}]
  to: [{secrets: {backends: [k8s], names: [db/password, db/absent, hidden/k], verbs: [get]}}]
";

/// The built program, with get-only permissions, for a caller of each namespace.
#[tokio::test(flavor = "multi_thread")]
async fn the_program_serves_each_caller_its_own_namespace() {
    let api = ApiServer::start().await;
    for namespace in ["team-a", "team-b", "vaultmux"] {
        api.create_namespace(namespace).await;
    }
    api.apply(ACCOUNT).await;
    let roles = documented(PAGE, "rbac-own-namespace.yaml");
    api.apply(&roles).await;
    let token = api.token("vaultmux", "vaultmux-mesh", &[]).await;
    let kubeconfig = api.kubeconfig_of("program", &token);
    for (namespace, value) in [("team-a", "canary-of-a"), ("team-b", "canary-of-b")] {
        let data = json!({"password": STANDARD.encode(value)});
        make(&api, namespace, json!({"metadata": {"name": "db"}, "data": data})).await;
    }
    for (namespace, expected) in [("team-a", "canary-of-a"), ("team-b", "")] {
        let directory = TempDir::new().expect("temporary directory");
        let config = format!(
            "mode: development\n\
             listeners:\n  grpc: {{address: '127.0.0.1:0'}}\n  rest: {{address: '127.0.0.1:0'}}\n  \
             admin: {{address: '127.0.0.1:0'}}\n\
             identity: {{local: {{namespace: {namespace}, service_account: api}}}}\n\
             backends: {{k8s: {{type: kubernetes_secrets, namespace: '{{namespace}}', kubeconfig: {}}}}}\n\
             policies: [policies.yaml]\ntelemetry: {{log: {{level: debug}}}}\n",
            kubeconfig.display()
        );
        fs::write(directory.path().join("vaultmux.yaml"), config).expect("written");
        fs::write(directory.path().join("policies.yaml"), POLICIES).expect("written");
        let program = Path::new(env!("CARGO_BIN_EXE_vaultmux-mesh"));
        let mut service = Server::start_in(directory, program, |_| {
            ["serve", "--config", "vaultmux.yaml"].map(str::to_owned).into()
        });
        let rest = service
            .ready(async |log| {
                log.lines().find_map(|line| {
                    let line: Value = serde_json::from_str(line).ok()?;
                    let rest = line["message"] == "listening" && line["listener"] == "rest";
                    rest.then(|| line["address"].as_str().map(str::to_owned)).flatten()
                })
            })
            .await;
        let get = async |secret: &str| {
            let url = format!("http://{rest}/v1/secrets/{secret}");
            let client = reqwest::Client::builder().no_proxy().build().expect("a client");
            let answer = client.get(url).send().await.expect("answered");
            let status = answer.status().as_u16();
            (status, answer.json::<Value>().await.expect("JSON"))
        };
        if !expected.is_empty() {
            until("the role", async || (get("db/password").await.0 == 200).then_some(())).await;
        }
        // The documented binding is for team-a alone.
        let (status, answer) = get("db/password").await;
        match expected {
            "" => assert_eq!(status, 502, "{answer}"),
            value => assert_eq!((status, answer["value"].as_str()), (200, Some(value)), "{answer}"),
        }
        assert!(!answer.to_string().contains("serviceaccount"), "{answer}");
        let absent = get("db/absent").await.0;
        assert_eq!(absent, if expected.is_empty() { 502 } else { 404 });
        assert_eq!(get("db/other").await.0, 403);
        let log = service.log();
        assert!(!log.contains("canary-of"), "{log}");
        assert!(!log.contains(&token), "the token was logged");
    }
}
