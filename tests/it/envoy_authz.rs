//! Who gets past the edge, and what the app then learns about them.

use serde_json::Value;

use crate::harness::{Client, Mesh, Received};

const API: &str = "spiffe://cluster.local/ns/payments/sa/api";

/// The request never reached an upstream, and the refusal says why and no more.
fn assert_refused(mesh: &Mesh, answer: &crate::harness::Answer, status: u16, code: &str) {
    assert_eq!(answer.status, status, "{}", answer.text());
    assert_eq!(answer.header("content-type"), "application/json");
    let body: Value = answer.json();
    assert_eq!(body["code"], code, "{body}");
    assert!(body["error"].as_str().is_some_and(|text| !text.is_empty()), "{body}");
    assert!(body["decision_id"].as_str().is_some_and(|id| !id.is_empty()), "{body}");
    assert_eq!(body.as_object().expect("an object").len(), 3, "{body}");
    assert!(mesh.app.received().is_empty(), "reached the app");
}

#[tokio::test(flavor = "multi_thread")]
async fn app_learns_the_principal_and_not_what_the_client_claims() {
    let mesh = Mesh::start().await;
    let claims = [
        ("x-vaultmux-principal", "spiffe://cluster.local/ns/kube-system/sa/root"),
        ("x-vaultmux-principal", "and again"),
        ("x-vaultmux-decision-id", "forged"),
        ("x-vaultmux-grant", "forged"),
        ("x-vaultmux-anything", "forged"),
        ("x-app", "kept"),
    ];
    for client in [mesh.api(), mesh.api().http2()] {
        let answer = client.request("GET", "app.test", "/public/", &claims).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let received: Received = answer.json();
        assert_eq!(received.header("x-vaultmux-principal"), [format!("{API};proofs=mtls")]);
        let [decision] = received.header("x-vaultmux-decision-id")[..] else {
            panic!("one decision id: {:?}", received.headers)
        };
        assert!(!decision.is_empty() && decision != "forged");
        assert!(received.header("x-vaultmux-anything").is_empty());
        assert!(received.header("x-vaultmux-grant").is_empty());
        assert_eq!(received.header("x-app"), ["kept"]);
    }
    mesh.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_policy_is_no_permission() {
    let mesh = Mesh::start().await;
    let other = mesh.client("shop", "web").get("app.test", "/public/").await;
    assert_refused(&mesh, &other, 403, "forbidden");
    let elsewhere = mesh.api().get("app.test", "/admin").await;
    assert_refused(&mesh, &elsewhere, 403, "forbidden");
    mesh.finish().await;
}

/// Envoy puts the first URI name, else the first DNS name, else the subject into one
/// field. Only one of the three is an identity, and only if it is alone.
#[tokio::test(flavor = "multi_thread")]
async fn certificates_that_are_no_service_account_are_refused() {
    let mesh = Mesh::start().await;
    let certificates = &mesh.certificates;
    let rows = [
        ("two URI names", certificates.with_uris(&[API, "spiffe://cluster.local/ns/shop/sa/web"])),
        ("the same URI name twice", certificates.with_uris(&[API, API])),
        ("a DNS name", certificates.with_dns(&["api.payments.svc"])),
        ("a subject that looks like one", certificates.with_subject(API)),
        (
            "another trust domain",
            certificates.with_uris(&["spiffe://other.local/ns/payments/sa/api"]),
        ),
        ("a longer path", certificates.with_uris(&["spiffe://cluster.local/ns/payments/sa/api/x"])),
        (
            "a trailing slash",
            certificates.with_uris(&["spiffe://cluster.local/ns/payments/sa/api/"]),
        ),
        (
            "an encoded letter",
            certificates.with_uris(&["spiffe://cluster.local/ns/payments/sa/%61pi"]),
        ),
        (
            "an upper-case scheme",
            certificates.with_uris(&["SPIFFE://cluster.local/ns/payments/sa/api"]),
        ),
        ("another scheme", certificates.with_uris(&["https://cluster.local/ns/payments/sa/api"])),
    ];
    for (name, identity) in rows {
        let client = mesh.client_with(identity);
        for (host, path) in [("app.test", "/public/"), ("vaultmux.test", "/v1/secrets/zq-orders")] {
            let answer = client.get(host, path).await;
            assert!(matches!(answer.status, 401 | 403), "{name}: {}", answer.status);
            let code = if answer.status == 401 { "no_identity" } else { "invalid_identity" };
            assert_refused(&mesh, &answer, answer.status, code);
        }
    }
    mesh.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_certificate_no_connection() {
    let mesh = Mesh::start().await;
    let client = Client::tls(mesh.envoy.address("edge"), &mesh.certificates, None);
    let body = crate::harness::sized("");
    assert!(client.try_send("GET", "app.test", "/public/", &[], body).await.is_err());
    mesh.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_that_claim_an_identity_prove_nothing() {
    let mesh = Mesh::start().await;
    let xfcc = format!("By=spiffe://cluster.local/ns/gateway/sa/envoy;URI={API}");
    let json = format!(r#"[{{"By":"x","URI":"{API}"}}]"#);
    let rows = [
        ("x-forwarded-client-cert", xfcc.as_str()),
        ("x-forwarded-client-cert", json.as_str()),
        ("x-forwarded-for", "127.0.0.1"),
        ("x-forwarded-host", "app.test"),
        ("x-forwarded-uri", "/public/"),
        ("x-original-uri", "/public/"),
        ("x-envoy-original-path", "/public/"),
        ("x-envoy-downstream-service-cluster", API),
        ("x-vaultmux-principal", API),
        ("x-http-method-override", "GET"),
        ("forwarded", "for=127.0.0.1;host=app.test"),
    ];
    let client = mesh.client("shop", "web");
    for row in rows {
        for (host, path) in [("app.test", "/public/"), ("vaultmux.test", "/v1/secrets/zq-orders")] {
            let answer = client.request("GET", host, path, &[row]).await;
            assert_refused(&mesh, &answer, 403, "forbidden");
        }
    }
    // `x_vaultmux_principal` and `x-vaultmux-principal` are one header to many frameworks.
    let underscores = [("x_vaultmux_principal", API)];
    assert_eq!(mesh.api().request("GET", "app.test", "/public/", &underscores).await.status, 400);
    mesh.finish().await;
}

/// Paths that one side could read as `/public/…` and the other as something else.
#[tokio::test(flavor = "multi_thread")]
async fn ambiguous_paths_never_reach_the_app() {
    let mesh = Mesh::start().await;
    let paths: [&[u8]; 28] = [
        b"/public/../admin",
        b"/public/./../admin",
        b"/public/%2e%2e/admin",
        b"/public/%2E%2E/admin",
        b"/public/.%2e/admin",
        b"/public/..%2Fadmin",
        b"/public/..%2fadmin",
        b"/public%2F..%2Fadmin",
        b"/public/%252e%252e/admin",
        b"/public/..%252Fadmin",
        b"/public/..;/admin",
        b"/public/.;/../admin",
        b"/public/..;x=y/admin",
        b"/public;x/admin",
        b"/public/a;b",
        b"/public/..\\admin",
        b"/public\\..\\admin",
        b"/public/..%5Cadmin",
        b"/public/%5C..%5Cadmin",
        b"//admin",
        b"/public/%00",
        b"/public/%0a",
        b"/public/\x00",
        b"/public/%c0%ae%c0%ae/admin",
        b"/public/#/../../admin",
        b"/public/%zz",
        b"public/",
        b"*",
    ];
    for path in paths {
        let mut request = b"GET ".to_vec();
        request.extend_from_slice(path);
        request.extend_from_slice(b" HTTP/1.1\r\nhost: app.test\r\nconnection: close\r\n\r\n");
        // No answer at all is a refusal too.
        let status = mesh.api().raw(&request).await.unwrap_or(0);
        let path = String::from_utf8_lossy(path);
        assert!(!(200..300).contains(&status), "{path}: {status}");
        assert!(mesh.app.received().is_empty(), "{path}: {status}, {:?}", mesh.app.received());
    }
    mesh.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ambiguous_requests_never_reach_the_app() {
    let mesh = Mesh::start().await;
    let rows: [(&str, &str); 11] = [
        ("no path", "OPTIONS * HTTP/1.1\r\nhost: app.test\r\n\r\n"),
        // Envoy joins them to one host, `app.test,vaultmux.test`, and would send that on.
        ("two hosts", "GET /public/ HTTP/1.1\r\nhost: app.test\r\nhost: vaultmux.test\r\n\r\n"),
        ("no host", "GET /public/ HTTP/1.1\r\n\r\n"),
        ("empty host", "GET /public/ HTTP/1.1\r\nhost:\r\n\r\n"),
        ("host with a user", "GET /public/ HTTP/1.1\r\nhost: a@app.test\r\n\r\n"),
        ("host with a space", "GET /public/ HTTP/1.1\r\nhost: app.test x\r\n\r\n"),
        (
            "another host in the line",
            "GET http://shop.test/public/ HTTP/1.1\r\nhost: app.test\r\n\r\n",
        ),
        (
            "dots in the line",
            "GET http://app.test/public/../admin HTTP/1.1\r\nhost: app.test\r\n\r\n",
        ),
        ("lower-case method", "get /admin HTTP/1.1\r\nhost: app.test\r\n\r\n"),
        ("tunnel", "CONNECT app.test:443 HTTP/1.1\r\nhost: app.test\r\n\r\n"),
        (
            "two lengths",
            "POST /public/ HTTP/1.1\r\nhost: app.test\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nxx",
        ),
    ];
    for (name, request) in rows {
        let status = mesh.api().raw(request.as_bytes()).await.unwrap_or(0);
        assert!(!(200..300).contains(&status), "{name}: {status}");
        assert!(mesh.app.received().is_empty(), "{name}: {status}");
    }
    mesh.finish().await;
}

/// What Envoy has made canonical is what is decided about and what the app gets.
#[tokio::test(flavor = "multi_thread")]
async fn app_gets_the_path_that_was_decided_about() {
    let mesh = Mesh::start().await;
    for (sent, arrives) in [
        ("/public/a/../b", "/public/b"),
        ("/public/./b", "/public/b"),
        ("/public//b", "/public/b"),
        // Dots go first: the empty segment is what they remove.
        ("/public//../b", "/public/b"),
        ("/public/%62", "/public/b"),
        ("/admin/../public/b", "/public/b"),
        ("/public/b?c=/../d", "/public/b?c=/../d"),
    ] {
        let request = format!("GET {sent} HTTP/1.1\r\nhost: app.test\r\nconnection: close\r\n\r\n");
        let status = mesh.api().raw(request.as_bytes()).await.expect("an answer");
        assert_eq!(status, 200, "{sent}");
        assert_eq!(mesh.app.received().pop().expect("arrived").path, arrives, "{sent}");
    }
    mesh.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn host_is_compared_without_case_port_and_final_dot() {
    let mesh = Mesh::start().await;
    for host in ["app.test", "APP.test", "app.test:8443", "app.test.", "app.test.:8443"] {
        let answer = mesh.api().get(host, "/public/").await;
        assert_eq!(answer.status, 200, "{host}: {}", answer.text());
    }
    for host in ["app.test.evil", "xapp.test", "app.testx"] {
        assert_eq!(mesh.api().get(host, "/public/").await.status, 403, "{host}");
    }
    mesh.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_grpc_call_ends_with_a_grpc_status() {
    let mesh = Mesh::start().await;
    let headers = [("content-type", "application/grpc"), ("te", "trailers")];
    let call = |client: Client, path: &'static str| async move {
        client.http2().request("POST", "app.test", path, &headers).await
    };
    let allowed = call(mesh.api(), "/public/Do").await;
    assert_eq!((allowed.status, allowed.trailers["grpc-status"].to_str().ok()), (200, Some("0")));
    let refused = call(mesh.api(), "/admin.Service/Do").await;
    // A call without answer has its trailers in the headers.
    assert_eq!((refused.status, refused.header("grpc-status")), (200, "7"));
    assert_eq!(mesh.app.received().len(), 1);
    mesh.finish().await;
}
