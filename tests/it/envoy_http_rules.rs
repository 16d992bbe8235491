//! Rules about mesh traffic, with a real Envoy that says what was asked: methods, paths,
//! and the workload that a request is for. Hosts and ambiguous paths are in `envoy_authz`.

use crate::harness::{Certificates, Client, Mesh};

const POLICIES: &str = "
apiVersion: vaultmux.dev/v1alpha1
kind: AccessPolicy
metadata: {name: rules}
spec:
  effect: Allow
  from: [{namespaces: [payments]}]
  to:
    - http: {hosts: [app.test], methods: [GET], paths: [/exact]}
    - http: {hosts: [app.test], paths: [/gateway/], destinations: [gateway/envoy]}
    - http: {hosts: [app.test], paths: [/orders/], destinations: [shop/orders]}
    - http: {hosts: [app.test], paths: [/guarded/]}
---
apiVersion: vaultmux.dev/v1alpha1
kind: AccessPolicy
metadata: {name: not-there}
spec:
  effect: Deny
  from: [{namespaces: [payments]}]
  to:
    - http: {paths: [/guarded/], destinations: [shop/orders]}
    - http: {paths: [/guarded/own], destinations: [gateway/envoy]}
";

async fn decided(client: &Client, rows: &[(&str, &str, u16)]) {
    for (method, path, status) in rows {
        let answer = client.request(method, "app.test", path, &[]).await;
        assert_eq!(answer.status, *status, "{method} {path}: {}", answer.text());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn methods_and_paths_are_compared_as_written() {
    let mesh = Mesh::builder().policies(POLICIES).start().await;
    let rows = [
        ("GET", "/exact", 200),
        ("GET", "/exact?a=/other", 200),
        ("GET", "/exact/", 403),
        ("GET", "/exactly", 403),
        ("GET", "/Exact", 403),
        ("GET", "/public", 403),
        ("GET", "/public/", 200),
        ("GET", "/public/a%20b", 200),
        ("GET", "/public/a%2Fb", 400),
        ("GET", "/publicly", 403),
        ("GET", "/x?/public/", 403),
        ("POST", "/exact", 403),
        ("HEAD", "/exact", 403),
    ];
    decided(&mesh.api(), &rows).await;
    decided(&mesh.api().http2(), &rows).await;
    // HTTP/2 carries any spelling; the parser of HTTP/1.1 refuses it by itself.
    for client in [mesh.api(), mesh.api().http2()] {
        let status = client.request("get", "app.test", "/exact", &[]).await.status;
        assert!((400..500).contains(&status), "{status}");
    }
    let arrived = mesh.app.received();
    assert!(arrived.iter().all(|one| one.method == "GET"), "{arrived:?}");
    mesh.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn destination_is_the_workload_of_the_proxy_that_asks() {
    let mesh = Mesh::builder().policies(POLICIES).start().await;
    let rows = [
        ("GET", "/gateway/x", 200),
        ("GET", "/orders/x", 403),
        ("GET", "/guarded/x", 200),
        ("GET", "/guarded/own", 403),
    ];
    decided(&mesh.api(), &rows).await;
    mesh.finish().await;
}

/// The proxy's certificate names no workload: an Allow that asks for one does not hold, and a
/// Deny does.
#[tokio::test(flavor = "multi_thread")]
async fn a_destination_that_is_not_told_satisfies_a_deny_and_no_allow() {
    let directory = tempfile::tempdir().expect("make a directory");
    let other = Certificates::create(directory.path());
    other.save("server", &other.with_dns(&["vaultmux.test"]));
    // What stood there goes on as a comment.
    let other_file = |key: &str, file: &str| {
        let path = directory.path().join(file);
        (format!("{key}: {{filename: "), format!("{key}: {{filename: {}}} # ", path.display()))
    };
    let (from, to) = other_file("certificate_chain", "server.crt");
    let (key_from, key_to) = other_file("private_key", "server.key");
    let mesh =
        Mesh::builder().policies(POLICIES).edit(&from, &to).edit(&key_from, &key_to).start().await;
    let identity = mesh.certificates.workload("payments", "api");
    let tls = mesh.certificates.client_trusting(&[&other], Some(identity));
    let api = Client::with_tls(mesh.envoy.address("edge"), tls);
    let rows = [
        ("GET", "/exact", 200),
        ("GET", "/public/", 200),
        ("GET", "/gateway/x", 403),
        ("GET", "/orders/x", 403),
        ("GET", "/guarded/x", 403),
        ("GET", "/guarded/own", 403),
    ];
    decided(&api, &rows).await;
    mesh.finish().await;
}
