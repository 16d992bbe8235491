//! Check requests of every shape, and what Envoy is told.

use std::{collections::HashMap, sync::Arc};

use envoy_types::pb::{
    envoy::{
        config::core::v3::{HeaderMap, HeaderValue},
        service::auth::v3::{
            AttributeContext,
            attribute_context::{
                HttpRequest as HttpAttributes, Peer, Request as RequestAttributes,
            },
            check_response::HttpResponse,
        },
    },
    google::protobuf::value::Kind,
};

use futures_util::FutureExt as _;

use super::*;
use crate::{
    fixture,
    identity::{ForwardedClientCert, ForwardedPosition, PeerPatterns, SpiffeId},
};

mod ahead;
mod inject;

const API: &str = "spiffe://cluster.local/ns/prod/sa/api";

struct Case {
    attributes: AttributeContext,
}

#[derive(Debug, PartialEq)]
enum Answer {
    Ok,
    Denied(i32),
}

impl Case {
    fn http(method: &str, host: &str, path: &str) -> Self {
        let http = HttpAttributes {
            method: method.into(),
            host: host.into(),
            path: path.into(),
            ..HttpAttributes::default()
        };
        let request = RequestAttributes { http: Some(http), ..RequestAttributes::default() };
        let attributes = AttributeContext { request: Some(request), ..AttributeContext::default() };
        Self { attributes }.principal(API)
    }

    fn tcp() -> Self {
        Self { attributes: AttributeContext::default() }.principal(API)
    }

    fn principal(mut self, principal: &str) -> Self {
        let source = Peer { principal: principal.into(), ..Peer::default() };
        self.attributes.source = Some(source);
        self
    }

    fn destination(mut self, principal: &str) -> Self {
        let peer = Peer { principal: principal.into(), ..Peer::default() };
        self.attributes.destination = Some(peer);
        self
    }

    fn local(self) -> Self {
        self.extension("vaultmux.identity", "local")
    }

    fn extension(mut self, key: &str, value: &str) -> Self {
        self.attributes.context_extensions.insert(key.to_owned(), value.to_owned());
        self
    }

    fn fields(&mut self) -> &mut HttpAttributes {
        let request = self.attributes.request.as_mut().expect("http");
        request.http.as_mut().expect("http")
    }

    fn header(mut self, name: &str, value: &str) -> Self {
        self.fields().headers.insert(name.to_owned(), value.to_owned());
        self
    }

    fn raw_header(mut self, name: &str, value: &[u8]) -> Self {
        let header = HeaderValue {
            key: name.to_owned(),
            raw_value: value.to_vec(),
            ..HeaderValue::default()
        };
        self.fields().header_map.get_or_insert_with(HeaderMap::default).headers.push(header);
        self
    }

    fn check(self) -> CheckResponse {
        self.check_with(None)
    }

    fn check_with(self, local: Option<&str>) -> CheckResponse {
        let metrics = Arc::new(Metrics::default());
        let mut snapshot = fixture::snapshot(&metrics);
        snapshot.local = local.map(|id| SpiffeId::parse(id).expect("valid"));
        let service = ExtAuthz::new(Current::new(snapshot), metrics);
        ask(&service, Some(self.attributes))
    }
}

/// Without tokens nothing is waited for.
fn ask(service: &ExtAuthz, attributes: Option<AttributeContext>) -> CheckResponse {
    let request = CheckRequest { attributes };
    let answer = service.answer(&request, None, Instant::now()).now_or_never();
    answer.expect("nothing to wait for").expect("nobody to be unavailable")
}

fn answer(response: &CheckResponse) -> Answer {
    // Envoy allows whatever has no status or an OK one: both must say the same.
    let status = response.status.as_ref().expect("a status is always set");
    match response.http_response.as_ref().expect("an answer is always set") {
        HttpResponse::OkResponse(_) => {
            assert_eq!(status.code, 0);
            Answer::Ok
        }
        HttpResponse::DeniedResponse(denied) => {
            assert_ne!(status.code, 0);
            Answer::Denied(denied.status.as_ref().expect("an HTTP status").code)
        }
        HttpResponse::ErrorResponse(_) => panic!("never an error"),
    }
}

fn set_headers(response: &CheckResponse) -> HashMap<String, String> {
    let Some(HttpResponse::OkResponse(ok)) = &response.http_response else { panic!("not ok") };
    ok.headers
        .iter()
        .map(|option| {
            assert_eq!(option.append_action, 2, "overwrite if exists or add");
            let header = option.header.as_ref().expect("a header");
            assert!(header.raw_value.is_empty(), "ext_authz drops raw_value");
            (header.key.clone(), header.value.clone())
        })
        .collect()
}

fn removed(response: &CheckResponse) -> Vec<String> {
    let Some(HttpResponse::OkResponse(ok)) = &response.http_response else { panic!("not ok") };
    ok.headers_to_remove.clone()
}

fn metadata(response: &CheckResponse, key: &str) -> Option<String> {
    match &response.dynamic_metadata.as_ref()?.fields.get(key)?.kind {
        Some(Kind::StringValue(text)) => Some(text.clone()),
        _ => None,
    }
}

#[test]
fn callers_without_a_valid_identity_are_denied() {
    for principal in ["", "CN=api", "api.prod.svc"] {
        let case = Case::http("GET", "orders.test", "/orders/1").principal(principal);
        let expected = if principal.is_empty() { 401 } else { 403 };
        assert_eq!(answer(&case.check()), Answer::Denied(expected), "{principal:?}");
    }
    for principal in [
        "spiffe://other.td/ns/prod/sa/api",
        "spiffe://cluster.local/ns/prod/sa/api/",
        "spiffe://CLUSTER.local/ns/prod/sa/api",
    ] {
        let case = Case::http("GET", "orders.test", "/orders/1").principal(principal);
        assert_eq!(answer(&case.check()), Answer::Denied(403), "{principal:?}");
    }
}

#[test]
fn what_the_client_claims_is_no_identity() {
    let mut case = Case::http("GET", "orders.test", "/orders/1")
        .principal("")
        .header("x-vaultmux-principal", API)
        .header("x-forwarded-client-cert", &format!("By=x;URI={API}"));
    let source = case.attributes.source.as_mut().expect("source");
    source.service = "prod/api".into();
    assert_eq!(answer(&case.check()), Answer::Denied(401));
}

#[test]
fn ambiguous_requests_are_malformed() {
    let paths = [
        "",
        "*",
        "orders/1",
        "/orders/../admin",
        "/orders/./1",
        "//orders/1",
        "/orders//1",
        "/orders/%2e%2e/x",
        "/orders%2F1",
        "/orders%5C1",
        "/orders\\1",
        "/orders/%00",
        "/orders/%252F",
        "/orders/%c0%ae",
        "/orders;x/1",
        "/orders/..;/1",
        "/orders/1#x",
        "/v1/secrets/../orders",
        "/v1/secrets/prod%2F..%2Fother",
        "/v1/secrets//prod",
    ];
    for path in paths {
        for host in ["orders.test", "vaultmux.test"] {
            let found = answer(&Case::http("GET", host, path).check());
            assert_eq!(found, Answer::Denied(400), "{host}{path}");
        }
    }
    for (method, host) in
        [("", "orders.test"), ("GET ", "orders.test"), ("GET", ""), ("GET", "a b")]
    {
        let found = answer(&Case::http(method, host, "/orders/1").check());
        assert_eq!(found, Answer::Denied(400), "{method:?} {host:?}");
    }
}

#[test]
fn policies_decide_about_requests_in_the_mesh() {
    let cases = [
        ("GET", "orders.test", "/orders/1", Answer::Ok),
        ("GET", "ORDERS.test:8080", "/orders/1?x=/../y", Answer::Ok),
        ("GET", "orders.test.", "/orders/1", Answer::Ok),
        ("POST", "orders.test", "/orders/1", Answer::Denied(403)),
        ("get", "orders.test", "/orders/1", Answer::Denied(403)),
        ("GET", "orders.test", "/ordersx/1", Answer::Denied(403)),
        ("GET", "orders.test", "/", Answer::Denied(403)),
        ("GET", "other.test", "/orders/1", Answer::Denied(403)),
    ];
    for (method, host, path, expected) in cases {
        let found = answer(&Case::http(method, host, path).check());
        assert_eq!(found, expected, "{method} {host}{path}");
    }
    let override_header =
        Case::http("POST", "orders.test", "/orders/1").header("x-http-method-override", "GET");
    assert_eq!(answer(&override_header.check()), Answer::Denied(403));
    let rewritten = Case::http("GET", "orders.test", "/admin")
        .header("x-envoy-original-path", "/orders/1")
        .header("x-forwarded-uri", "/orders/1");
    assert_eq!(answer(&rewritten.check()), Answer::Denied(403));
}

#[test]
fn secret_operations_are_decided_by_name_and_verb() {
    let cases = [
        ("GET", "/v1/secrets/prod/key", Answer::Ok),
        ("GET", "/v1/secrets/prod%2Fkey?version=1", Answer::Ok),
        ("HEAD", "/v1/secrets/prod/key", Answer::Ok),
        ("PUT", "/v1/secrets/prod/key", Answer::Ok),
        ("DELETE", "/v1/secrets/prod/key", Answer::Ok),
        ("GET", "/v1/secrets", Answer::Ok),
        ("POST", "/v1/secrets", Answer::Ok),
        ("GET", "/v1/secrets/prod/missing", Answer::Ok),
        ("GET", "/v1/secrets/other/key", Answer::Denied(403)),
        ("GET", "/v1/secrets/other/missing", Answer::Denied(403)),
        ("GET", "/v1/secrets/production/key", Answer::Denied(403)),
        ("GET", "/v1/secrets/shared/stripe", Answer::Denied(403)),
        ("GET", "/v1/secrets/prod/key?backend=none", Answer::Denied(400)),
        ("PATCH", "/v1/secrets/prod/key", Answer::Denied(400)),
        ("GET", "/v1/secrets?limit=5&prefix=prod", Answer::Ok),
        ("GET", "/v1/secrets?limit=0", Answer::Denied(400)),
        // Its names are in the body; REST decides about each.
        ("POST", "/v1/secrets:batchGet", Answer::Ok),
        ("GET", "/v1/secrets:batchGet", Answer::Denied(400)),
        ("GET", "/v1/versions/prod/key", Answer::Ok),
        ("HEAD", "/v1/versions/prod%2Fkey", Answer::Ok),
        ("GET", "/v1/versions/other/key", Answer::Denied(403)),
        ("GET", "/v1/versions/shared/stripe", Answer::Denied(403)),
        ("GET", "/v1/versions/prod/../other/key", Answer::Denied(400)),
        ("GET", "/v1/versions", Answer::Denied(403)),
    ];
    for (method, path, expected) in cases {
        let found = answer(&Case::http(method, "vaultmux.test", path).check());
        assert_eq!(found, expected, "{method} {path}");
    }
}

#[test]
fn a_deny_for_the_mesh_covers_secret_operations_too() {
    let denied = |paths: &str, path: &str| {
        let metrics = Arc::new(Metrics::default());
        let mut snapshot = fixture::snapshot(&metrics);
        let deny = format!(
            "{}---\napiVersion: vaultmux.dev/v1alpha1\nkind: AccessPolicy\n\
             metadata: {{name: stop}}\nspec:\n  effect: Deny\n  from: [{{namespaces: [prod]}}]\n  \
             to: [{{http: {{paths: [{paths}]}}}}]\n",
            fixture::POLICIES
        );
        snapshot.policies = Arc::new(fixture::policies(&fixture::config(fixture::CONFIG), &deny));
        let service = ExtAuthz::new(Current::new(snapshot), metrics);
        let case = Case::http("GET", "vaultmux.test", path);
        answer(&ask(&service, Some(case.attributes)))
    };
    for (paths, path, expected) in [
        ("\"*\"", "/v1/secrets/prod/key", Answer::Denied(403)),
        ("/v1/secrets/prod/", "/v1/secrets/prod/key", Answer::Denied(403)),
        ("/v1/secrets/prod/", "/v1/secrets/prod%2Fkey", Answer::Denied(403)),
        ("/v1/secrets", "/v1/secrets", Answer::Denied(403)),
        ("/orders/", "/v1/secrets/prod/key", Answer::Ok),
        ("/orders/", "/v1/secrets/prod%2Fkey", Answer::Ok),
        ("/v1/versions/", "/v1/versions/prod/key", Answer::Denied(403)),
    ] {
        assert_eq!(denied(paths, path), expected, "{paths} {path}");
    }
}

#[test]
fn connections_match_on_principal_and_destination_only() {
    let cases = [
        ("", Answer::Denied(403)),
        ("spiffe://cluster.local/ns/shop/sa/orders", Answer::Denied(403)),
        ("spiffe://other.test/ns/shop/sa/orders-db", Answer::Denied(403)),
        ("spiffe://cluster.local/ns/shop/sa/orders-db", Answer::Ok),
    ];
    for (destination, expected) in cases {
        assert_eq!(
            answer(&Case::tcp().destination(destination).check()),
            expected,
            "{destination}"
        );
    }
    assert_eq!(answer(&Case::tcp().principal("").check()), Answer::Denied(401));
}

#[test]
fn a_destination_of_a_foreign_trust_domain_is_unknown() {
    let metrics = Arc::new(Metrics::default());
    let mut snapshot = fixture::snapshot(&metrics);
    let policy = |name: &str, effect: &str, http: &str| {
        format!(
            "---\napiVersion: vaultmux.dev/v1alpha1\nkind: AccessPolicy\n\
             metadata: {{name: {name}}}\nspec:\n  effect: {effect}\n  \
             from: [{{namespaces: [prod]}}]\n  to: [{{http: {{{http}}}}}]\n"
        )
    };
    let policies = [
        policy("any", "Allow", "paths: [/any/]"),
        policy("one", "Allow", "paths: [/one/], destinations: [shop/orders]"),
        policy("stop", "Deny", "paths: [/any/], destinations: [shop/closed]"),
    ];
    let config = fixture::config(fixture::CONFIG);
    snapshot.policies = Arc::new(fixture::policies(&config, &policies.concat()));
    let service = ExtAuthz::new(Current::new(snapshot), metrics);
    for (path, destination, expected) in [
        ("/one/x", "spiffe://other.test/ns/shop/sa/orders", Answer::Denied(403)),
        ("/one/x", "", Answer::Denied(403)),
        ("/any/x", "spiffe://other.test/ns/shop/sa/orders", Answer::Denied(403)),
        ("/any/x", "spiffe://cluster.local/ns/shop/sa/closed", Answer::Denied(403)),
        ("/one/x", "spiffe://cluster.local/ns/shop/sa/orders", Answer::Ok),
        ("/any/x", "spiffe://cluster.local/ns/shop/sa/orders", Answer::Ok),
    ] {
        let case = Case::http("GET", "mesh.test", path).destination(destination);
        let found = answer(&ask(&service, Some(case.attributes)));
        assert_eq!(found, expected, "{path} {destination}");
    }
}

#[test]
fn requests_of_any_shape_get_an_answer() {
    let metrics = Arc::new(Metrics::default());
    let service = ExtAuthz::new(Current::new(fixture::snapshot(&metrics)), metrics);
    let empty = ask(&service, None);
    assert_eq!(answer(&empty), Answer::Denied(401));
    let no_request = AttributeContext::default();
    let no_request = ask(&service, Some(no_request));
    assert_eq!(answer(&no_request), Answer::Denied(401));
    let mut no_http = Case::tcp();
    no_http.attributes.request = Some(RequestAttributes::default());
    assert_eq!(answer(&no_http.check()), Answer::Denied(403));
    let huge = Case::http("GET", "orders.test", "/orders/1").header("x", &"a".repeat(4 << 20));
    assert_eq!(answer(&huge.check()), Answer::Ok);
    let long = Case::http("GET", "orders.test", &format!("/{}", "a".repeat(4 << 20)));
    assert_eq!(answer(&long.check()), Answer::Denied(400));
    let bytes = Case::http("GET", "orders.test", "/orders/1").raw_header("x", b"\xff\0\n");
    assert_eq!(answer(&bytes.check()), Answer::Ok);
}

#[test]
fn headers_in_either_map_lead_to_one_decision() {
    let own = ["x-vaultmux-principal", "X-Vaultmux-Other", "x_vaultmux_grant"];
    let plain = own.iter().fold(Case::http("GET", "orders.test", "/orders/1"), |case, name| {
        case.header(name, "forged")
    });
    let raw = own.iter().fold(Case::http("GET", "orders.test", "/orders/1"), |case, name| {
        case.raw_header(name, b"forged\xff")
    });
    let both = own.iter().fold(Case::http("GET", "orders.test", "/orders/1"), |case, name| {
        case.header(name, "forged").raw_header(name, b"forged")
    });
    for case in [plain, raw, both] {
        let response = case.check();
        assert_eq!(answer(&response), Answer::Ok);
        assert_eq!(set_headers(&response)["x-vaultmux-principal"], format!("{API};proofs=mtls"));
        assert_eq!(
            removed(&response),
            ["X-Vaultmux-Other", "x-vaultmux-grant", "x_vaultmux_grant"],
            "what we set ourselves is not removed"
        );
    }
}

#[test]
fn an_ok_answer_names_who_and_why() {
    let response = Case::http("GET", "vaultmux.test", "/v1/secrets/prod/key")
        .extension("vaultmux.grant", "forward")
        .check();
    let headers = set_headers(&response);
    assert_eq!(headers["x-vaultmux-principal"], format!("{API};proofs=mtls"));
    let id = headers["x-vaultmux-decision-id"].clone();
    assert_eq!(metadata(&response, "decision_id"), Some(id));
    assert_eq!(metadata(&response, "principal").as_deref(), Some(API));
    assert_eq!(metadata(&response, "namespace").as_deref(), Some("prod"));
    assert_eq!(metadata(&response, "service_account").as_deref(), Some("api"));
    assert_eq!(metadata(&response, "policy").as_deref(), Some("own-namespace"));
    let grant = metadata(&response, "grant").expect("a grant");
    assert_eq!(headers["x-vaultmux-grant"], grant, "the secrets API gets to see it");

    // The caller chooses the host: only a route can say that it leads to us.
    for elsewhere in [
        Case::http("GET", "vaultmux.test", "/v1/secrets/prod/key"),
        Case::http("GET", "vaultmux.test", "/v1/secrets/prod/key").extension("vaultmux.grant", "x"),
        Case::http("GET", "orders.test", "/orders/1").extension("vaultmux.grant", "forward"),
    ] {
        let elsewhere = elsewhere.check();
        assert!(!set_headers(&elsewhere).contains_key("x-vaultmux-grant"), "others do not");
        assert!(removed(&elsewhere).contains(&"x-vaultmux-grant".to_owned()));
        assert!(metadata(&elsewhere, "grant").is_some(), "ext_proc gets it past the upstream");
    }
}

#[test]
fn a_denial_says_nothing_about_what_exists() {
    let body = |path: &str| {
        let response = Case::http("GET", "vaultmux.test", path).check();
        let Some(HttpResponse::DeniedResponse(denied)) = response.http_response else {
            panic!("allowed")
        };
        let body: serde_json::Value = serde_json::from_str(&denied.body).expect("JSON");
        let object = body.as_object().expect("an object");
        let fields: Vec<&str> = object.keys().map(String::as_str).collect();
        assert_eq!(fields, ["code", "decision_id", "error"]);
        (denied.status.expect("status").code, body["error"].clone(), body["code"].clone())
    };
    assert_eq!(body("/v1/secrets/other/key"), body("/v1/secrets/other/missing"));
    assert_eq!(body("/v1/secrets/other/key").2, "forbidden");
}

#[test]
fn local_identity_needs_both_a_local_mode_and_a_route_that_says_so() {
    let request = || Case::http("GET", "orders.test", "/orders/1").principal("");
    assert_eq!(answer(&request().check_with(Some(API))), Answer::Denied(401));
    assert_eq!(answer(&request().local().check_with(None)), Answer::Denied(401));
    let response = request().local().check_with(Some(API));
    assert_eq!(set_headers(&response)["x-vaultmux-principal"], format!("{API};proofs=local"));
    let shown = "spiffe://cluster.local/ns/prod/sa/other";
    let other = request().local().principal(shown).check_with(Some(API));
    assert_eq!(answer(&other), Answer::Denied(403), "what a certificate shows goes first");
}

#[test]
fn the_proxys_patience_is_ours_less_a_tenth() {
    for (sent, expected) in [
        (None, 5_000_000),
        (Some("200m"), 180_000),
        (Some("1S"), 900_000),
        (Some("99999999H"), 5_000_000),
        (Some("1M"), 5_000_000),
        (Some("1000u"), 900),
        (Some("1000000n"), 900),
        (Some("0m"), 0),
        (Some("m"), 5_000_000),
        (Some(""), 5_000_000),
        (Some("123456789m"), 5_000_000),
        (Some("-1S"), 5_000_000),
        (Some("+1S"), 5_000_000),
        (Some("1s"), 5_000_000),
        (Some("1.5S"), 5_000_000),
    ] {
        let mut metadata = MetadataMap::new();
        if let Some(sent) = sent {
            metadata.insert("grpc-timeout", sent.parse().expect("a value"));
        }
        let found = patience(&metadata);
        assert_eq!(found, Duration::from_micros(expected), "{sent:?}");
    }
}

#[test]
fn a_proxys_certificate_is_looked_at_before_its_word_is_taken() {
    let gateway = "spiffe://cluster.local/ns/gateway/sa/envoy";
    let trusting = ForwardedClientCert {
        trusted_proxies: PeerPatterns::parse(&[gateway.to_owned()]).expect("valid"),
        position: ForwardedPosition::Last,
    };
    let status = |certificate: &str, forwarded: &str| {
        let metrics = Arc::new(Metrics::default());
        let mut snapshot = fixture::snapshot(&metrics);
        snapshot.forwarded = Some(trusting.clone());
        snapshot.local =
            Some(SpiffeId::parse("spiffe://cluster.local/ns/prod/sa/api").expect("valid"));
        let service = ExtAuthz::new(Current::new(snapshot), metrics);
        let mut case = Case::http("GET", "vaultmux.test", "/v1/secrets/prod/key")
            .principal(gateway)
            .header("x-forwarded-client-cert", forwarded)
            .local();
        let source = case.attributes.source.as_mut().expect("a principal");
        source.certificate = certificate.to_owned();
        answer(&ask(&service, Some(case.attributes)))
    };
    let api = "URI=spiffe://cluster.local/ns/prod/sa/api";
    assert_eq!(status("of somebody else", api), Answer::Denied(403));
    // Whom it does not name is neither the proxy nor the pod.
    assert_eq!(status("", "URI="), Answer::Denied(401));
    assert_eq!(status("", api), Answer::Ok);
}
