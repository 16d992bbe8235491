//! Service accounts' tokens as the only proof: at REST, at ext_authz, and through a real
//! Envoy, with the cluster's own API server and without.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use envoy_types::pb::envoy::{
    config::core::v3::{HeaderMap, HeaderValue},
    service::auth::v3::{
        AttributeContext, CheckRequest, CheckResponse,
        attribute_context::{self, HttpRequest},
        authorization_client::AuthorizationClient,
        check_response::HttpResponse,
    },
};
use serde_json::{Value, json};
use tonic::{
    Code, Request, Status,
    transport::{Channel, Endpoint},
};

use crate::{
    harness::{
        Answer, ApiServer, Client, Mesh, MeshBuilder, Received, Review, Service,
        mint::{self, Mint},
    },
    peers::metric,
};

pub(crate) const SECRETS: &str = "vaultmux.test";
pub(crate) const OWN: &str = "/v1/secrets/prod/key";
const OTHERS: &str = "/v1/secrets/other/key";
const API: &str = "spiffe://cluster.local/ns/prod/sa/api";

const CONFIG: &str = r#"
mode: development
listeners:
  grpc: {address: "127.0.0.1:0"}
  rest: {address: "127.0.0.1:0"}
  admin: {address: "127.0.0.1:0"}
telemetry: {log: {level: debug}}
backends: {local: {type: memory, secrets: {prod/key: canary-1, other/key: canary-2}}}
policies: [policies]
secret_routes: [{hosts: [vaultmux.test], prefix: /v1/secrets}]
identity:
  trust_domains: [cluster.local]
"#;

const POLICIES: &str = r#"
apiVersion: vaultmux.dev/v1alpha1
kind: AccessPolicy
metadata: {name: own-namespace}
spec:
  effect: Allow
  from: [{namespaces: ["*"]}]
  to:
    - secrets: {prefixes: ["{namespace}/"], verbs: [get]}
    - http: {hosts: [app.test], paths: [/public/]}
"#;

const BOTH: &str = "  service_account_tokens: {audiences: [vaultmux], kubeconfig: kubeconfig}\n";
const JWKS: &str = "  service_account_tokens:\n    audiences: [vaultmux]\n    verify: jwks\n    \
     jwks: {issuer: 'https://kubernetes.default.svc.cluster.local', source: 'file:jwks.json'}\n";

/// The key that the issuer signs with.
pub(crate) fn issuer() -> Mint {
    Mint::p256("issuer")
}

/// A mesh whose clients may show certificates, or none, with the API server behind it.
pub(crate) async fn both() -> (MeshBuilder, ApiServer) {
    both_with(POLICIES).await
}

/// The same with these policies instead.
pub(crate) async fn both_with(policies: &str) -> (MeshBuilder, ApiServer) {
    let server = ApiServer::start(issuer().jwks()).await;
    let mesh = MeshBuilder::new(CONFIG, policies).config(BOTH);
    (optional_certificates(mesh).file("kubeconfig", &server.kubeconfig()), server)
}

/// A mesh that knows the issuer's keys alone.
fn by_keys() -> MeshBuilder {
    let mesh = MeshBuilder::new(CONFIG, POLICIES).config(JWKS);
    optional_certificates(mesh).file("jwks.json", &issuer().jwks())
}

fn optional_certificates(mesh: MeshBuilder) -> MeshBuilder {
    mesh.edit("require_client_certificate: true", "require_client_certificate: false")
}

pub(crate) fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

/// A client of the edge without certificate.
pub(crate) fn stranger(mesh: &Mesh) -> Client {
    Client::tls(mesh.envoy.address("edge"), &mesh.certificates, None)
}

async fn get(client: &Client, host: &str, path: &str, values: &[&str]) -> Answer {
    let headers: Vec<_> = values.iter().map(|value| ("authorization", *value)).collect();
    client.request("GET", host, path, &headers).await
}

pub(crate) async fn channel(service: &Service) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{}", service.grpc())).expect("a URL");
    endpoint.connect().await.expect("connected")
}

/// What Envoy would ask about a GET with these values of `authorization`.
pub(crate) fn question(host: &str, path: &str, values: &[&str]) -> CheckRequest {
    let header = |value: &&str| HeaderValue {
        key: "authorization".into(),
        raw_value: value.as_bytes().to_vec(),
        ..HeaderValue::default()
    };
    let http = HttpRequest {
        method: "GET".into(),
        host: host.into(),
        path: path.into(),
        header_map: Some(HeaderMap { headers: values.iter().map(header).collect() }),
        ..HttpRequest::default()
    };
    let request = attribute_context::Request { http: Some(http), ..Default::default() };
    let attributes = AttributeContext { request: Some(request), ..AttributeContext::default() };
    CheckRequest { attributes: Some(attributes) }
}

pub(crate) async fn check(
    channel: &Channel,
    question: CheckRequest,
) -> Result<CheckResponse, Status> {
    let answer = AuthorizationClient::new(channel.clone()).check(question).await;
    answer.map(tonic::Response::into_inner)
}

/// The HTTP status that the client would see.
pub(crate) fn status(response: &CheckResponse) -> i32 {
    match response.http_response.as_ref().expect("an answer") {
        HttpResponse::OkResponse(_) => 200,
        HttpResponse::DeniedResponse(denied) => denied.status.as_ref().expect("a status").code,
        HttpResponse::ErrorResponse(_) => panic!("never sent"),
    }
}

async fn metrics(service: &Service) -> String {
    service.admin_client().get("admin", "/metrics").await.text()
}

/// No part of these tokens is anywhere that people look.
async fn assert_silent(mesh: &Mesh, tokens: &[String]) {
    let metrics = metrics(&mesh.service).await;
    for line in mesh.service.logs().iter().map(String::as_str).chain(metrics.lines()) {
        assert!(!line.contains(ApiServer::OWN_TOKEN), "{line}");
        for token in tokens {
            for part in token.split('.').filter(|part| part.len() > 20) {
                // All tokens of a key begin alike, and the beginning is no secret.
                let part = &part[part.len() - 20..];
                assert!(!line.contains(part), "{line}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_reads_its_own_namespace_and_the_upstream_never_sees_it() {
    let (both, server) = both().await;
    for mesh in [both, by_keys()] {
        let forward = "              - name: forward\n                \
             match: {prefix: /public/forward}\n                route: {cluster: app}\n                \
             typed_per_filter_config:\n                  envoy.filters.http.ext_authz:\n                    \
             \"@type\": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute\n                    \
             check_settings: {context_extensions: {vaultmux.token: forward}}\n";
        let route = "              - {name: app, match: {prefix: /}, route: {cluster: app}}";
        let mesh = mesh.edit(route, &format!("{forward}{route}")).start().await;
        let token = issuer().token(json!({}));
        let sent = bearer(&token);
        let (edge, rest) = (stranger(&mesh), mesh.service.rest_client());
        for client in [edge.clone(), edge.http2(), rest] {
            assert_eq!(get(&client, SECRETS, OWN, &[&sent]).await.status, 200);
            let refused = get(&client, SECRETS, OTHERS, &[&sent]).await;
            assert_eq!(refused.status, 403, "{}", refused.text());
        }
        let grpc = channel(&mesh.service).await;
        for (path, expected) in [(OWN, 200), (OTHERS, 403)] {
            let answer = check(&grpc, question(SECRETS, path, &[&sent])).await.expect("answered");
            assert_eq!(status(&answer), expected, "{path}");
        }
        let received: Received = get(&edge, "app.test", "/public/", &[&sent]).await.json();
        assert_eq!(received.header("x-vaultmux-principal"), [format!("{API};proofs=token")]);
        assert!(received.header("authorization").is_empty(), "{received:?}");
        let received: Received = get(&edge, "app.test", "/public/forward", &[&sent]).await.json();
        assert_eq!(received.header("authorization"), [sent.as_str()]);
        assert_silent(&mesh, &[token]).await;
        mesh.finish().await;
    }
    assert_eq!((server.reviews(), server.key_fetches()), (1, 1));
}

/// Beside a certificate, what users show is between them and the app.
#[tokio::test(flavor = "multi_thread")]
async fn a_users_own_token_passes_untouched() {
    let (mesh, server) = both().await;
    let mesh = mesh.start().await;
    let users = issuer().token(json!({"sub": "alice", "iss": "https://login.test"}));
    for sent in [bearer(&users), bearer("opaque"), "Basic dTpw".to_owned(), bearer("a.b.c")] {
        let answer = get(&mesh.client("prod", "api"), "app.test", "/public/", &[&sent]).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let received: Received = answer.json();
        assert_eq!(received.header("authorization"), [sent.as_str()]);
        assert_eq!(received.header("x-vaultmux-principal"), [format!("{API};proofs=mtls")]);
        // Alone it is nobody.
        for (client, host, path) in [
            (stranger(&mesh), "app.test", "/public/"),
            (stranger(&mesh), SECRETS, OWN),
            (mesh.service.rest_client(), SECRETS, OWN),
        ] {
            let answer = get(&client, host, path, &[&sent]).await;
            let body: Value = answer.json();
            assert_eq!((answer.status, &body["code"]), (401, &"no_identity".into()), "{sent}");
        }
    }
    assert_eq!(server.reviews(), 0);
    mesh.finish().await;
}

/// Every kind of token that is no good, as the values of `authorization`.
fn bad_tokens() -> Vec<(&'static str, Vec<String>)> {
    let issuer = issuer();
    let one = |changes: Value| vec![bearer(&issuer.token(changes))];
    let header = |header: Value| vec![bearer(&issuer.token_with_header(header, json!({})))];
    let good = issuer.token(json!({}));
    let (start, signature) = good.rsplit_once('.').expect("a JWT");
    let other = Mint::p256("other").with_id("issuer");
    let now = mint::now();
    let rsa = Mint::rsa("issuer");
    vec![
        ("signed by another key", vec![bearer(&other.token(json!({})))]),
        ("signed by an unknown key", vec![bearer(&Mint::p256("unknown").token(json!({})))]),
        ("another kind of key", vec![bearer(&rsa.token(json!({})))]),
        ("no signature", vec![bearer(&format!("{start}."))]),
        ("two parts", vec![bearer(start)]),
        ("four parts", vec![bearer(&format!("{good}.{signature}"))]),
        ("a longer signature", vec![bearer(&format!("{good}AAAA"))]),
        ("wrong audience", one(json!({"aud": ["elsewhere"]}))),
        ("wrong audience as text", one(json!({"aud": "elsewhere"}))),
        ("the API server's audience", one(json!({"aud": [mint::ISSUER]}))),
        ("no audience", one(json!({"aud": null}))),
        ("an empty list of audiences", one(json!({"aud": []}))),
        ("an audience that begins like ours", one(json!({"aud": ["vaultmux2"]}))),
        ("another issuer", one(json!({"iss": "https://elsewhere"}))),
        ("expired", one(json!({"exp": now - 60, "iat": now - 3600}))),
        ("exp as text", one(json!({"exp": (now + 3600).to_string()}))),
        ("no exp", one(json!({"exp": null}))),
        ("a year", one(json!({"exp": now + 365 * 24 * 3600}))),
        ("no iat", one(json!({"iat": null}))),
        ("iat in the future", one(json!({"iat": now + 600}))),
        ("nbf in the future", one(json!({"nbf": now + 600}))),
        ("nbf as text", one(json!({"nbf": now.to_string()}))),
        (
            "legacy",
            one(json!({"iss": "kubernetes/serviceaccount", "exp": null, "aud": null, "iat": null})),
        ),
        ("a subject in upper case", one(json!({"sub": "system:serviceaccount:PROD:api"}))),
        ("a subject that goes on", one(json!({"sub": "system:serviceaccount:prod:api:x"}))),
        ("a subject that stops", one(json!({"sub": "system:serviceaccount:prod"}))),
        ("a subject of elsewhere", one(json!({"sub": "system:serviceaccount:other:api"}))),
        ("alg none", header(json!({"alg": "none"}))),
        ("alg None", header(json!({"alg": "None"}))),
        ("the public key as secret", header(json!({"alg": "HS256"}))),
        ("the secret of an RSA key", {
            let header = json!({"alg": "HS256"});
            vec![bearer(&rsa.token_with_header(header, json!({})))]
        }),
        ("another alg than the key's", header(json!({"alg": "ES384"}))),
        ("an address of keys", header(json!({"jku": "https://elsewhere/keys"}))),
        ("a key of its own", header(json!({"jwk": other.jwk()}))),
        ("a certificate of its own", header(json!({"x5c": ["MII="]}))),
        ("a critical extension", header(json!({"crit": ["b64"]}))),
        ("twice", vec![bearer(&good), bearer(&good)]),
        ("two", vec![bearer(&good), bearer(&issuer.token(json!({})))]),
        ("joined", vec![format!("{0},{0}", bearer(&good))]),
        ("joined with another scheme", vec![format!("Basic dTpw, {}", bearer(&good))]),
        ("beside another scheme", vec!["Basic dTpw".into(), bearer(&good)]),
        ("16 KiB", vec![bearer(&"a".repeat(16 << 10))]),
        ("16 KiB of claims", one(json!({"x": "a".repeat(12 << 10)}))),
        ("not text", vec!["Bearer \u{ff}.b.c".into()]),
        ("not JSON", vec![bearer(&issuer.sign("no", "no"))]),
        ("nothing", vec!["Bearer".into()]),
        ("no scheme", vec![good.clone()]),
        ("another scheme", vec![format!("Token {good}")]),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_that_are_no_good_are_refused_at_no_cost() {
    let (both, server) = both().await;
    for mesh in [both, by_keys()] {
        let mesh = mesh.start().await;
        let grpc = channel(&mesh.service).await;
        let (edge, rest) = (stranger(&mesh), mesh.service.rest_client());
        let mut tokens = Vec::new();
        for (name, values) in [("none", Vec::new())].into_iter().chain(bad_tokens()) {
            let sent: Vec<&str> = values.iter().map(String::as_str).collect();
            let ways = [
                ("app", get(&edge, "app.test", "/public/", &sent).await),
                ("secrets", get(&edge, SECRETS, OWN, &sent).await),
                ("REST", get(&rest, SECRETS, OWN, &sent).await),
            ];
            for (way, answer) in ways {
                let body = answer.text();
                assert_eq!(answer.status, 401, "{name}, {way}: {body}");
                let challenge = answer.header("www-authenticate");
                assert!(challenge.starts_with("Bearer realm="), "{name}, {way}: {challenge}");
                for token in &values {
                    let end = &token[token.len().saturating_sub(20)..];
                    assert!(end.len() < 20 || !body.contains(end), "{name}, {way}: {body}");
                }
            }
            let answer = check(&grpc, question(SECRETS, OWN, &sent)).await.expect("answered");
            assert_eq!(status(&answer), 401, "{name}");
            tokens.extend(values);
        }
        assert!(mesh.app.received().is_empty(), "{:?}", mesh.app.received());
        assert_silent(&mesh, &tokens).await;
        let reviews = metrics(&mesh.service).await;
        let reviews = reviews.lines().filter(|line| line.starts_with("vaultmux_token_reviews_"));
        assert_eq!(reviews.count(), 0);
        mesh.finish().await;
    }
    assert_eq!(server.reviews(), 0, "it would have said yes");
}

/// Signed, and still no good: the API server knows more.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_api_server_does_not_confirm_is_refused() {
    let (mesh, server) = both().await;
    let mesh = mesh.start().await;
    let grpc = channel(&mesh.service).await;
    let (edge, rest) = (stranger(&mesh), mesh.service.rest_client());
    for (at, review) in [
        Review::Refused,
        Review::ForeignAudiences,
        Review::User("alice"),
        Review::User("system:node:node-a"),
        Review::User("system:serviceaccount:other:api"),
    ]
    .into_iter()
    .enumerate()
    {
        server.say(review);
        let sent = bearer(&issuer().token(json!({})));
        for client in [&edge, &rest] {
            let answer = get(client, SECRETS, OWN, &[&sent]).await;
            let body: Value = answer.json();
            assert_eq!((answer.status, &body["code"]), (401, &"invalid_token".into()));
            let challenge = answer.header("www-authenticate");
            assert!(challenge.contains("error=\"invalid_token\""), "{challenge}");
        }
        let answer = check(&grpc, question(SECRETS, OWN, &[&sent])).await.expect("answered");
        assert_eq!(status(&answer), 401, "{review:?}");
        assert_eq!(server.reviews(), at as u64 + 1, "asked once each");
    }
    mesh.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_requests_with_a_new_token_are_one_review() {
    const REQUESTS: usize = 1000;
    static STARTED: AtomicUsize = AtomicUsize::new(0);
    let (mesh, server) = both().await;
    let mesh = mesh.start().await;
    let sent = bearer(&issuer().token(json!({})));
    let grpc = channel(&mesh.service).await;
    server.say(Review::Hang);
    let mut requests = tokio::task::JoinSet::new();
    for at in 0..REQUESTS {
        let (grpc, sent, rest) = (grpc.clone(), sent.clone(), mesh.service.rest_client());
        requests.spawn(async move {
            STARTED.fetch_add(1, Ordering::SeqCst);
            match at % 4 {
                0 => i32::from(get(&rest, SECRETS, OWN, &[&sent]).await.status),
                _ => {
                    let answer = check(&grpc, question(SECRETS, OWN, &[&sent])).await;
                    status(&answer.expect("answered"))
                }
            }
        });
    }
    server.wait_reviews(1).await;
    while STARTED.load(Ordering::SeqCst) < REQUESTS {
        tokio::task::yield_now().await;
    }
    server.say(Review::Good);
    while let Some(answer) = requests.join_next().await {
        assert_eq!(answer.expect("no panic"), 200);
    }
    assert_eq!(server.reviews(), 1);
    let counter = "vaultmux_token_reviews_total{result=\"authenticated\"} ";
    assert_eq!(metric(&mesh.service, counter).await, Some(1));
    mesh.finish().await;
}

/// Whoever asked first may go away; those who wait for the same answer get it.
#[tokio::test(flavor = "multi_thread")]
async fn a_review_outlives_the_request_that_began_it() {
    let (mesh, server) = both().await;
    let mesh = mesh.start().await;
    let grpc = channel(&mesh.service).await;
    let sent = bearer(&issuer().token(json!({})));
    server.say(Review::Hang);
    let first = {
        let (rest, sent) = (mesh.service.rest_client(), sent.clone());
        tokio::spawn(async move { get(&rest, SECRETS, OWN, &[&sent]).await })
    };
    server.wait_reviews(1).await;
    let second = tokio::spawn(async move {
        check(&grpc, question(SECRETS, OWN, &[&sent])).await.map(|answer| status(&answer))
    });
    first.abort();
    assert!(first.await.is_err_and(|error| error.is_cancelled()));
    server.say(Review::Good);
    assert_eq!(second.await.expect("no panic").expect("answered"), 200);
    assert_eq!(server.reviews(), 1);
    mesh.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_forged_tokens_costs_the_api_server_nothing() {
    const FORGED: usize = 1000;
    let (mesh, server) = both().await;
    let mesh = mesh.start().await;
    let grpc = channel(&mesh.service).await;
    let known = bearer(&issuer().token(json!({})));
    let ask = async |sent: &str| {
        let answer = check(&grpc, question(SECRETS, OWN, &[sent])).await;
        status(&answer.expect("answered"))
    };
    assert_eq!(ask(&known).await, 200);
    let other = Mint::p256("other");
    for at in 0..FORGED {
        let kid = if at % 2 == 0 { "issuer".to_owned() } else { format!("unknown-{at}") };
        assert_eq!(ask(&bearer(&other.with_id(&kid).token(json!({})))).await, 401, "{kid}");
    }
    assert_eq!(ask(&known).await, 200);
    assert_eq!(server.reviews(), 1, "that of the good one");
    // A key may be new, so unknown ones are looked for, though not each time.
    assert!(server.key_fetches() < 10, "{}", server.key_fetches());
    let cached = "vaultmux_token_verifications_total{result=\"cached\"} ";
    assert_eq!(metric(&mesh.service, cached).await, Some(1));
    mesh.finish().await;
}

/// Neither allowed nor denied, and said before the proxy gives up.
#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_the_api_server_is_an_outage() {
    let (mesh, server) = both().await;
    let mesh = mesh.start().await;
    let grpc = channel(&mesh.service).await;
    let (edge, rest) = (stranger(&mesh), mesh.service.rest_client());
    let mut tokens = Vec::new();
    let mut new = || {
        tokens.push(issuer().token(json!({})));
        bearer(tokens.last().expect("just pushed"))
    };
    let known = new();
    assert_eq!(get(&rest, SECRETS, OWN, &[&known]).await.status, 200);
    for review in [Review::Status(500), Review::Hang, Review::Status(403), Review::Status(429)] {
        server.say(review);
        let sent = new();
        let mut asked = Request::new(question(SECRETS, OWN, &[&sent]));
        asked.set_timeout(Duration::from_millis(800));
        let start = Instant::now();
        let error = AuthorizationClient::new(grpc.clone()).check(asked).await.expect_err("down");
        assert_eq!(error.code(), Code::Unavailable, "{review:?}: {error}");
        assert!(start.elapsed() < Duration::from_millis(800), "{review:?}: {:?}", start.elapsed());
        assert_eq!(error.message(), "the identity cannot be verified now");
        for (host, path) in [("app.test", "/public/"), (SECRETS, OWN)] {
            let answer = get(&edge, host, path, &[&sent]).await;
            assert_eq!(answer.status, 503, "{review:?}: {}", answer.text());
        }
        let answer = get(&rest, SECRETS, OWN, &[&sent]).await;
        let body: Value = answer.json();
        assert_eq!((answer.status, &body["code"]), (503, &"identity_unavailable".into()));
        assert_eq!(answer.header("retry-after"), "1");
        // Who was known before is still known.
        assert_eq!(get(&rest, SECRETS, OWN, &[&known]).await.status, 200);
        assert_eq!(get(&edge, SECRETS, OWN, &[&known]).await.status, 200);
    }
    assert!(mesh.app.received().is_empty());
    server.say(Review::Good);
    // REST has the patience to wait until the server may be asked again.
    assert_eq!(get(&rest, SECRETS, OWN, &[&new()]).await.status, 200);
    assert_silent(&mesh, &tokens).await;
    mesh.finish().await;
}
