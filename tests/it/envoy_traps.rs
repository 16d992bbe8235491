//! What Envoy does with answers that our service must never give, and what it really
//! sends. No test of the service: they say when a newer Envoy changes the ground that
//! the service stands on.

use envoy_types::pb::{
    envoy::{
        config::core::v3::{HeaderValueOption, header_value_option::HeaderAppendAction},
        service::{
            auth::v3::{
                CheckRequest, CheckResponse, DeniedHttpResponse, OkHttpResponse,
                attribute_context::Peer, check_response::HttpResponse,
            },
            ext_proc::v3::{
                BodyMutation, CommonResponse, ProcessingRequest, ProcessingResponse,
                body_mutation::Mutation, processing_request::Request as Asked,
            },
        },
    },
    google::protobuf::{Struct, Value, value::Kind},
};

use crate::{
    harness::{Received, sized},
    stub::{self, Check, Process, Stub, allow, allow_with, header, pass, set},
};

const API: &str = "spiffe://cluster.local/ns/payments/sa/api";

/// Sets nothing that counts: the header arrives, but empty.
#[tokio::test(flavor = "multi_thread")]
async fn header_in_the_wrong_field_arrives_empty() {
    // ext_authz reads `value`, ext_proc reads `raw_value`.
    let (_stub, edge) = Stub::start(
        |_| {
            let one = |name: &str, value: &str, raw: &str| HeaderValueOption {
                header: Some(header(name, value, raw)),
                ..HeaderValueOption::default()
            };
            let headers = vec![one("x-vaultmux-text", "a", ""), one("x-vaultmux-raw", "", "a")];
            Ok(allow_with(OkHttpResponse { headers, ..OkHttpResponse::default() }))
        },
        |request| {
            let mut common = set(header("x-text", "p", ""));
            let raw = set(header("x-raw", "", "p")).header_mutation.expect("just set");
            common.header_mutation.as_mut().expect("just set").set_headers.extend(raw.set_headers);
            Some(Ok(stub::answer(request, Some(common))))
        },
        &[],
    )
    .await;
    let received: Received = edge.api().get("app.test", "/").await.json();
    assert_eq!(received.header("x-vaultmux-text"), ["a"]);
    assert_eq!(received.header("x-vaultmux-raw"), [""]);
    assert_eq!(received.header("x-raw"), ["p"]);
    assert_eq!(received.header("x-text"), [""]);
}

#[tokio::test(flavor = "multi_thread")]
async fn check_response_without_status_allows() {
    let (_stub, edge) = Stub::start(|_| Ok(CheckResponse::default()), pass, &[]).await;
    assert_eq!(edge.api().get("app.test", "/").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn denied_response_with_ok_status_allows() {
    let (_stub, edge) = Stub::start(
        |_| {
            let denied = HttpResponse::DeniedResponse(DeniedHttpResponse::default());
            let mut response = allow_with(OkHttpResponse::default());
            response.http_response = Some(denied);
            Ok(response)
        },
        pass,
        &[],
    )
    .await;
    assert_eq!(edge.api().get("app.test", "/").await.status, 200);
}

/// The worst one: `failure_mode_allow: false` does not help.
#[tokio::test(flavor = "multi_thread")]
async fn stream_that_ends_cleanly_lets_the_request_pass() {
    let (stub, edge) = Stub::start(allow, |_| None, &[]).await;
    let answer = edge.api().get("app.test", "/").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(stub.messages().len(), 1);
    assert_eq!(edge.app.received().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn stream_that_ends_with_an_error_stops_the_request() {
    let unavailable = |_: &_| Some(Err(tonic::Status::unavailable("going away")));
    let (_stub, edge) = Stub::start(allow, unavailable, &[]).await;
    assert_eq!(edge.api().get("app.test", "/").await.status, 500);
    assert!(edge.app.received().is_empty());
}

/// A request without a route skips every filter. Those with a path all have one; those
/// without are refused by Envoy itself.
#[tokio::test(flavor = "multi_thread")]
async fn requests_are_checked_or_go_nowhere() {
    let (stub, edge) = Stub::start(allow, pass, &[]).await;
    for (line, host, checks) in [
        ("OPTIONS *", "app.test", 0),
        ("OPTIONS *", "vaultmux.test", 0),
        ("CONNECT app.test:443", "app.test:443", 0),
        ("CONNECT elsewhere:443", "elsewhere:443", 0),
        ("GET /elsewhere", "vaultmux.test", 1),
    ] {
        let request = format!("{line} HTTP/1.1\r\nhost: {host}\r\n\r\n");
        let status = edge.api().raw(request.as_bytes()).await.expect("an answer");
        assert_eq!((status, stub.checks().len()), (404, checks), "{line} {host}");
    }
}

/// The length that the client announced is held against the body that goes on.
#[tokio::test(flavor = "multi_thread")]
async fn changed_body_needs_its_length_in_the_same_answer() {
    let buffered = [("request_body_mode: NONE", "request_body_mode: BUFFERED")];
    let rows: [(Process, u16); 2] = [
        (|request| Some(Ok(shorter(request, CommonResponse::default()))), 500),
        (|request| Some(Ok(shorter(request, set(header("content-length", "", "3"))))), 200),
    ];
    for (process, status) in rows {
        let (_stub, edge) = Stub::start(allow, process, &buffered).await;
        let answer = edge.api().send("POST", "app.test", "/", &[], sized("longer")).await;
        assert_eq!(answer.status, status, "{}", answer.text());
        let received = edge.app.received().pop().map(|received| received.body_length);
        assert_eq!(received, (status == 200).then_some(3));
    }
}

/// The service gets the first URI name, whatever else the certificate says; only the
/// certificate itself shows the second.
#[tokio::test(flavor = "multi_thread")]
async fn principal_is_the_first_name_of_the_certificate() {
    let (stub, edge) = Stub::start(allow, pass, &[]).await;
    let (first, second) = ("spiffe://cluster.local/ns/a/sa/b", "spiffe://cluster.local/ns/c/sa/d");
    for (identity, principal) in [
        (edge.certificates.with_uris(&[first, second]), first),
        (edge.certificates.with_dns(&["a.b.svc"]), "a.b.svc"),
        (edge.certificates.with_subject("someone"), "CN=someone"),
    ] {
        assert_eq!(edge.client_with(identity).get("app.test", "/").await.status, 200);
        let source = source(&stub.checks().pop().expect("asked"));
        assert_eq!(source.principal, principal);
        assert!(source.certificate.starts_with("-----BEGIN%20CERTIFICATE-----%0A"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn duplicate_headers_stay_apart_and_bytes_stay_bytes() {
    let (stub, edge) = Stub::start(allow, pass, &[]).await;
    let headers = [("x-role", "user"), ("x-role", "admin"), ("x-name", "caf\u{e9}")];
    assert_eq!(edge.api().request("GET", "app.test", "/", &headers).await.status, 200);
    let check = stub.checks().pop().expect("asked");
    let http = check.attributes.and_then(|all| all.request).and_then(|request| request.http);
    let http = http.expect("an HTTP check");
    assert!(http.headers.is_empty());
    let sent = http.header_map.expect("raw headers").headers;
    let values = |name: &str| -> Vec<Vec<u8>> {
        sent.iter().filter(|one| one.key == name).map(|one| one.raw_value.clone()).collect()
    };
    assert_eq!(values("x-role"), [b"user".to_vec(), b"admin".to_vec()]);
    assert_eq!(values("x-name"), ["caf\u{e9}".as_bytes().to_vec()]);
}

/// What the service may bind a secret to, and who it can learn the caller from.
#[tokio::test(flavor = "multi_thread")]
async fn attributes_tell_where_and_who() {
    let (stub, edge) = Stub::start(allow_with_metadata, pass, &[]).await;
    assert_eq!(edge.api().get("api.stripe.test", "/v1/charges?a=b").await.status, 200);
    let message = stub.messages().pop().expect("asked");
    let attributes = &message.attributes["envoy.filters.http.ext_proc"].fields;
    let text = |name: &str| match attributes.get(name).and_then(|value| value.kind.clone()) {
        Some(Kind::StringValue(text)) => text,
        other => panic!("{name}: {other:?}"),
    };
    assert_eq!(text("xds.cluster_name"), "payment");
    assert_eq!(text("xds.route_name"), "payment");
    assert_eq!(text("connection.requested_server_name"), "vaultmux.test");
    assert_eq!(text("connection.uri_san_peer_certificate"), API);
    assert_eq!(attributes["connection.mtls"].kind, Some(Kind::BoolValue(true)));
    assert_eq!(text("request.host"), "api.stripe.test");
    // With the query, unlike its name elsewhere in Envoy.
    assert_eq!(text("request.path"), "/v1/charges?a=b");
    assert_eq!(text("request.method"), "GET");
    assert_eq!(attributes.len(), 8);
    // What ext_authz said about the request, under the name of its filter.
    let metadata = message.metadata_context.expect("metadata").filter_metadata;
    let grant = metadata["envoy.filters.http.ext_authz"].fields["grant"].kind.clone();
    assert_eq!(grant, Some(Kind::StringValue("sealed".into())));
    assert_eq!(
        stub.checks().pop().expect("asked").attributes.expect("some").tls_session.expect("TLS").sni,
        "vaultmux.test"
    );
}

/// Without the listener filter the name is there, and empty.
#[tokio::test(flavor = "multi_thread")]
async fn server_name_is_empty_without_the_inspector() {
    let inspector = r#"    listener_filters:
    - name: envoy.filters.listener.tls_inspector
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector
"#;
    let (stub, edge) = Stub::start(allow, pass, &[(inspector, "")]).await;
    assert_eq!(edge.api().get("app.test", "/").await.status, 200);
    let message = stub.messages().pop().expect("asked");
    let attributes = &message.attributes["envoy.filters.http.ext_proc"].fields;
    let name = attributes["connection.requested_server_name"].kind.clone();
    assert_eq!(name, Some(Kind::StringValue(String::new())));
}

/// The bootstraps let the service touch its own headers and the token, nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn mutations_outside_the_rules_stop_the_request() {
    // Allowed: what the service really does.
    let (_stub, edge) = Stub::start(
        |_| {
            let headers = vec![overwrite("x-vaultmux-principal", "ours")];
            let headers_to_remove = vec!["authorization".into(), "x-vaultmux-other".into()];
            Ok(allow_with(OkHttpResponse {
                headers,
                headers_to_remove,
                ..OkHttpResponse::default()
            }))
        },
        |request| Some(Ok(stub::answer(request, Some(set(header("x-api-key", "", "injected")))))),
        &[],
    )
    .await;
    let claims = [
        ("x-vaultmux-principal", "theirs"),
        ("x-vaultmux-other", "theirs"),
        ("authorization", "Bearer theirs"),
        ("x-api-key", "theirs"),
    ];
    let answer = edge.api().request("GET", "app.test", "/", &claims).await;
    let received: Received = answer.json();
    assert_eq!(received.header("x-vaultmux-principal"), ["ours"]);
    assert_eq!(received.header("x-api-key"), ["injected"]);
    assert!(received.header("x-vaultmux-other").is_empty());
    assert!(received.header("authorization").is_empty());

    // Refused: where the request goes, and who it is from.
    let checks: [Check; 3] = [
        |_| {
            Ok(allow_with(OkHttpResponse {
                headers: vec![overwrite(":path", "/x")],
                ..Default::default()
            }))
        },
        |_| {
            Ok(allow_with(OkHttpResponse {
                headers: vec![overwrite("host", "x")],
                ..Default::default()
            }))
        },
        |_| {
            Ok(allow_with(OkHttpResponse {
                headers: vec![overwrite("x-other", "x")],
                ..Default::default()
            }))
        },
    ];
    for (at, check) in checks.into_iter().enumerate() {
        let (_stub, edge) = Stub::start(check, pass, &[]).await;
        assert_eq!(edge.api().get("app.test", "/").await.status, 500, "check {at}");
        assert!(edge.app.received().is_empty(), "check {at}");
    }
    let processes: [Process; 3] = [
        |request| Some(Ok(stub::answer(request, Some(set(header(":path", "", "/x")))))),
        |request| Some(Ok(stub::answer(request, Some(set(header("host", "", "x")))))),
        |request| {
            Some(Ok(stub::answer(request, Some(set(header("x-vaultmux-principal", "", "x"))))))
        },
    ];
    for (at, process) in processes.into_iter().enumerate() {
        let (_stub, edge) = Stub::start(allow, process, &[]).await;
        assert_eq!(edge.api().get("app.test", "/").await.status, 500, "process {at}");
        assert!(edge.app.received().is_empty(), "process {at}");
    }
}

/// Replaces a body by three bytes.
fn shorter(request: &ProcessingRequest, mut common: CommonResponse) -> ProcessingResponse {
    let Some(Asked::RequestBody(_)) = request.request else { return stub::answer(request, None) };
    common.body_mutation = Some(BodyMutation { mutation: Some(Mutation::Body(b"new".into())) });
    stub::answer(request, Some(common))
}

fn overwrite(key: &str, value: &str) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(header(key, value, "")),
        append_action: HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
        ..HeaderValueOption::default()
    }
}

fn source(check: &CheckRequest) -> Peer {
    check.attributes.clone().and_then(|all| all.source).expect("a source")
}

fn allow_with_metadata(_: &CheckRequest) -> Result<CheckResponse, tonic::Status> {
    let mut response = allow_with(OkHttpResponse::default());
    let grant = Value { kind: Some(Kind::StringValue("sealed".into())) };
    response.dynamic_metadata = Some(Struct { fields: [("grant".into(), grant)].into() });
    Ok(response)
}

/// The upstream says where it goes, and everything that was put into it goes along. Only the
/// first URL tells the second pass that there was one.
#[tokio::test(flavor = "multi_thread")]
async fn internal_redirect_sends_what_was_put_into_the_first_attempt() {
    let follows = (
        "route: {cluster: payment}",
        "route: {cluster: payment, internal_redirect_policy: {max_internal_redirects: 1}}",
    );
    let (stub, edge) = Stub::start(
        allow,
        |request| {
            let first = match &request.request {
                Some(Asked::RequestHeaders(headers)) => headers
                    .headers
                    .iter()
                    .flat_map(|map| &map.headers)
                    .all(|header| header.key != "x-envoy-original-url"),
                _ => false,
            };
            let common = first.then(|| set(header("x-api-key", "", "secret")));
            Some(Ok(stub::answer(request, common)))
        },
        &[follows],
    )
    .await;
    let path = "/public/redirect?https://app.test/elsewhere";
    // What a client from outside says is removed.
    let said = [("x-envoy-original-url", "https://app.test/")];
    let answer = edge.api().request("GET", "api.stripe.test", path, &said).await;
    let received: Received = answer.json();
    assert_eq!((received.authority.as_str(), received.path.as_str()), ("app.test", "/elsewhere"));
    assert_eq!(received.header("x-api-key"), ["secret"]);
    let messages = stub.messages();
    let [_, Asked::RequestHeaders(second)] =
        [0, 1].map(|at| messages[at].request.clone().expect("a kind"))
    else {
        panic!("two passes")
    };
    let headers = second.headers.expect("some").headers;
    let values = |name: &str| -> Vec<String> {
        let named = headers.iter().filter(|header| header.key == name);
        named.map(|header| String::from_utf8_lossy(&header.raw_value).into_owned()).collect()
    };
    assert_eq!(values("x-envoy-original-url"), [format!("https://api.stripe.test{path}")]);
    assert_eq!(values("x-api-key"), ["secret"]);
    assert_eq!(stub.checks().len(), 2);
}
