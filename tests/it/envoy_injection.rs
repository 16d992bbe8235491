//! Secrets on the wire: resolved toward the bound destination, refused elsewhere.

use base64::{Engine, engine::general_purpose::STANDARD};

use crate::harness::{Answer, Mesh, Received};

const REFERENCE: &str = "{{secret://local/zq-stripe}}";
const VALUE: &str = "canary-stripe-9Lm";

async fn send(mesh: &Mesh, host: &str, headers: &[(&str, &str)]) -> Answer {
    mesh.api().request("GET", host, "/public/charges", headers).await
}

/// Refused, without a word about the secret, and nothing went out.
fn assert_refused(mesh: &Mesh, answer: &Answer, statuses: &[u16]) {
    assert!(statuses.contains(&answer.status), "{}: {}", answer.status, answer.text());
    for word in ["canary-", "zq-"] {
        assert!(!answer.text().contains(word), "{}", answer.text());
        let told =
            |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).contains(word);
        assert!(!answer.headers.values().any(told), "{:?}", answer.headers);
    }
    assert!(mesh.payment.received().is_empty(), "{:?}", mesh.payment.received());
    assert!(mesh.app.received().is_empty(), "{:?}", mesh.app.received());
}

#[tokio::test(flavor = "multi_thread")]
async fn references_arrive_as_values() {
    let mesh = Mesh::start().await;
    let basic = |text: &str| format!("Basic {}", STANDARD.encode(text));
    let rows = [
        ("x-api-key", REFERENCE.to_owned(), VALUE.to_owned()),
        ("authorization", format!("Bearer {REFERENCE}"), format!("Bearer {VALUE}")),
        ("authorization", format!("token {REFERENCE}"), format!("token {VALUE}")),
        ("authorization", basic(&format!("me:{REFERENCE}")), basic(&format!("me:{VALUE}"))),
        ("authorization", basic(&format!("{REFERENCE}:")), basic(&format!("{VALUE}:"))),
        // A newline at the end is how the value got into the store, not part of it.
        ("x-api-key", "{{secret://local/zq-trailing}}".to_owned(), VALUE.to_owned()),
    ];
    for client in [mesh.api(), mesh.api().http2()] {
        for (name, sent, arrives) in &rows {
            let headers = [(*name, sent.as_str()), ("x-other", "kept")];
            let answer =
                client.request("GET", "api.stripe.test", "/v1/charges?a=b", &headers).await;
            assert_eq!(answer.status, 200, "{name}: {sent}: {}", answer.text());
            let received: Received = answer.json();
            assert_eq!(received.header(name), [arrives.as_str()]);
            assert_eq!(received.header("x-other"), ["kept"]);
            assert_eq!(
                (received.method.as_str(), received.path.as_str()),
                ("GET", "/v1/charges?a=b")
            );
        }
    }
    mesh.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_destination_is_refused() {
    let mesh = Mesh::start().await;
    let bearer = format!("Bearer {REFERENCE}");
    for header in [("x-api-key", REFERENCE), ("authorization", bearer.as_str())] {
        assert_refused(&mesh, &send(&mesh, "app.test", &[header]).await, &[403]);
    }
    mesh.finish().await;
}

/// The host is right, but the proxy sends it elsewhere: a name proves nothing.
#[tokio::test(flavor = "multi_thread")]
async fn right_host_on_the_wrong_cluster_is_refused() {
    let mesh =
        Mesh::builder().edit("route: {cluster: payment}", "route: {cluster: app}").start().await;
    assert_refused(
        &mesh,
        &send(&mesh, "api.stripe.test", &[("x-api-key", REFERENCE)]).await,
        &[403],
    );
    mesh.finish().await;
}

/// A rule that asks for an attribute which the proxy was not told to send.
#[tokio::test(flavor = "multi_thread")]
async fn missing_attribute_is_refused() {
    let mesh = Mesh::builder().edit("              - xds.cluster_name\n", "").start().await;
    assert_refused(
        &mesh,
        &send(&mesh, "api.stripe.test", &[("x-api-key", REFERENCE)]).await,
        &[403],
    );
    mesh.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn references_one_may_not_use_are_refused() {
    let mesh = Mesh::start().await;
    let rows = [
        "{{secret://local/zq-hidden}}",
        "{{secret://local/zq-nothing}}",
        // Readable, but not to be sent there.
        "{{secret://local/zq-orders}}",
        "{{secret://elsewhere/zq-stripe}}",
        "{{secret://local/}}",
        "{{secret://local/../zq-stripe}}",
        "{{secret://local/zq-stripe",
    ];
    for reference in rows {
        for header in [("x-api-key", reference), ("authorization", &format!("Bearer {reference}"))]
        {
            let answer = send(&mesh, "api.stripe.test", &[header]).await;
            assert_refused(&mesh, &answer, &[400, 403]);
        }
    }
    let other = mesh.client("payments", "other");
    let answer = other.request("GET", "api.stripe.test", "/", &[("x-api-key", REFERENCE)]).await;
    assert_refused(&mesh, &answer, &[403]);
    mesh.finish().await;
}

/// It would split the header, so nothing goes out at all.
#[tokio::test(flavor = "multi_thread")]
async fn value_with_a_newline_inside_is_not_sent() {
    let mesh = Mesh::start().await;
    let header = ("x-api-key", "{{secret://local/zq-inner}}");
    let answer = send(&mesh, "api.stripe.test", &[header]).await;
    assert_refused(&mesh, &answer, &[500, 502, 503]);
    mesh.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_injects_without_a_reference() {
    let rules = r#"
ext_proc:
  injections:
    - name: bearer
      match: {hosts: [api.stripe.test], paths: [/bearer/], clusters: [payment], methods: [GET]}
      set_headers: [{name: authorization, value: "Bearer {{secret://local/zq-stripe}}"}]
    - name: basic
      match: {hosts: [api.stripe.test], paths: [/basic/]}
      basic: {username: me, password: "{{secret://local/zq-stripe}}"}
    - name: query
      match: {hosts: [api.stripe.test], paths: [/query/], schemes: [https]}
      query: {key: "{{secret://local/zq-stripe}}"}
    - name: elsewhere
      match: {hosts: [app.test]}
      set_headers: [{name: x-api-key, value: "{{secret://local/zq-stripe}}"}]
"#;
    let mesh = Mesh::builder()
        .config(rules)
        .edit("disallow_system: true", "disallow_system: false")
        .start()
        .await;
    let own = [("authorization", "Bearer mine")];
    let get = |path: &'static str| {
        let client = mesh.api();
        async move { client.request("GET", "api.stripe.test", path, &own).await.json::<Received>() }
    };
    assert_eq!(get("/bearer/x").await.header("authorization"), [format!("Bearer {VALUE}")]);
    let basic = format!("Basic {}", STANDARD.encode(format!("me:{VALUE}")));
    assert_eq!(get("/basic/x").await.header("authorization"), [basic]);
    let target = get("/query/x?a=b&key=mine").await.path;
    assert_eq!(target, format!("/query/x?a=b&key={VALUE}"));
    assert_eq!(get("/other").await.header("authorization"), ["Bearer mine"]);
    // A rule grants nothing: without `use` for that destination the request stops.
    let refused = send(&mesh, "app.test", &[]).await;
    assert_eq!(refused.status, 403, "{}", refused.text());
    assert!(mesh.app.received().is_empty());
    mesh.finish().await;
}

/// What the app may see of a secret is never more than the reference it sent.
#[tokio::test(flavor = "multi_thread")]
async fn refused_request_is_not_answered_with_the_value() {
    let mesh = Mesh::start().await;
    // Two references, one of them refused: neither goes out.
    let headers = [("x-api-key", REFERENCE), ("x-second", "{{secret://local/zq-hidden}}")];
    assert_refused(&mesh, &send(&mesh, "api.stripe.test", &headers).await, &[403]);
    mesh.finish().await;
}

/// A policy that binds more than where the proxy sends it: each has to be told and equal.
#[tokio::test(flavor = "multi_thread")]
async fn use_is_bound_to_port_scheme_method_and_path() {
    let policy = |port: u16, more: &str| {
        format!(
            "apiVersion: vaultmux.dev/v1alpha1
kind: AccessPolicy
metadata: {{name: bound}}
spec:
  effect: Allow
  from: [{{serviceAccounts: [payments/api]}}]
  to:
    - secrets:
        names: [zq-hidden]
        verbs: [use]
        destinations:
          - {{clusters: [payment], ports: ['{port}'], schemes: [https], methods: [GET], paths: [/v1/]{more}}}
"
        )
    };
    let told = (
        "              - xds.route_name\n",
        "              - xds.route_name\n              - destination.port\n",
    );
    let header = ("x-api-key", "{{secret://local/zq-hidden}}");
    for told in [Some(told), None] {
        let mut builder = Mesh::builder().file("policies/bound.yaml", &policy(1, ""));
        if let Some((from, to)) = told {
            builder = builder.edit(from, to);
        }
        let mesh = builder.start().await;
        let port = mesh.envoy.address("edge").port();
        let ask = |method: &'static str, path: &'static str| {
            let client = mesh.api();
            async move { client.request(method, "api.stripe.test", path, &[header]).await }
        };
        // Of another port.
        let answer = ask("GET", "/v1/charges").await;
        assert_refused(&mesh, &answer, &[403]);
        let details = mesh.envoy.access(0).await["details"].clone();
        let expected = match told {
            Some(_) => "vaultmux_denied_no_match",
            None => "binding_attribute_missing:destination.port",
        };
        assert_eq!(details, expected);
        std::fs::write(mesh.service.path("policies/bound.yaml"), policy(port, "")).expect("write");
        mesh.service.hang_up();
        mesh.service.reloaded(2).await;
        for (method, path) in
            [("POST", "/v1/charges"), ("GET", "/v1"), ("GET", "/v2/"), ("GET", "/v1/%2e%2e/a")]
        {
            assert_refused(&mesh, &ask(method, path).await, &[400, 403]);
        }
        let answer = ask("GET", "/v1/charges?a=b").await;
        match told {
            Some(_) => {
                assert_eq!(answer.json::<Received>().header("x-api-key"), ["canary-hidden-5Zt"]);
            }
            None => assert_refused(&mesh, &answer, &[403]),
        }
        mesh.finish().await;
    }
}

/// Envoy would send the value along, to wherever the destination says.
#[tokio::test(flavor = "multi_thread")]
async fn redirects_that_the_proxy_follows_take_no_value_along() {
    let follow = |cluster: &str| {
        (
            format!("route: {{cluster: {cluster}}}"),
            format!(
                "route: {{cluster: {cluster}, internal_redirect_policy: {{max_internal_redirects: 1}}}}"
            ),
        )
    };
    let (payment, app) = (follow("payment"), follow("app"));
    let mesh = Mesh::builder().edit(&payment.0, &payment.1).edit(&app.0, &app.1).start().await;
    for client in [mesh.api(), mesh.api().http2()] {
        let headers = [("x-api-key", REFERENCE)];
        let path = "/public/redirect?https://app.test/public/stolen";
        let answer = client.request("GET", "api.stripe.test", path, &headers).await;
        assert_eq!(answer.status, 403, "{}", answer.text());
        assert!(!answer.text().contains("canary-"), "{}", answer.text());
    }
    let first = mesh.payment.received();
    assert_eq!(first[0].header("x-api-key"), [VALUE]);
    assert!(mesh.app.received().is_empty(), "{:?}", mesh.app.received());
    assert_eq!(mesh.envoy.access(1).await["details"], "vaultmux_internal_redirect");
    // Where no secret is ever sent, they are followed.
    let path = "/public/redirect?https://app.test/public/moved";
    let answer = mesh.api().get("app.test", path).await;
    assert_eq!(answer.json::<Received>().path, "/public/moved");
    mesh.finish().await;
}
