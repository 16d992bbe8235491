//! Two proofs of one caller, a certificate and a token: what they have to agree on, and
//! the policies that ask for both. What stands behind a caller arrives by grant wherever
//! a decision is made.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::{
    harness::{
        Client, Mesh, Received, Service,
        mint::{self, Mint},
        sized,
    },
    peers,
    tokens::{SECRETS, bearer, both_with, channel, check, issuer, question, status, stranger},
};

const API: &str = "spiffe://cluster.local/ns/prod/sa/api";
const REFERENCE: (&str, &str) = ("x-api-key", "{{secret://local/prod/key}}");

/// What `prod/api` may do with every proof, and what with any.
const POLICIES: &str = r#"
apiVersion: vaultmux.dev/v1alpha1
kind: AccessPolicy
metadata: {name: proven}
spec:
  effect: Allow
  from: [{serviceAccounts: [prod/api], require: [mtls, token], boundTo: pod}]
  to:
    - secrets: {prefixes: [prod/], verbs: [get, create]}
    - secrets: {prefixes: [prod/], verbs: [use], destinations: [{hosts: [api.stripe.test], clusters: [payment]}]}
    - http: {hosts: [app.test], paths: [/public/]}
---
apiVersion: vaultmux.dev/v1alpha1
kind: AccessPolicy
metadata: {name: anyhow}
spec:
  effect: Allow
  from: [{namespaces: [prod]}]
  to:
    - secrets: {prefixes: [free/], verbs: [create]}
    - http: {hosts: [api.stripe.test]}
"#;

fn bound() -> String {
    bearer(&issuer().token(json!({})))
}

/// As `kubectl create token` makes them.
fn unbound() -> String {
    bearer(&issuer().token(json!({"kubernetes.io": {"pod": null, "node": null}})))
}

async fn start() -> (Mesh, crate::harness::ApiServer) {
    let (mesh, server) = both_with(POLICIES).await;
    let line =
        r#"                  policy: "%DYNAMIC_METADATA(envoy.filters.http.ext_authz:policy)%""#;
    let proofs = line.replace("policy", "proofs");
    (mesh.edit(line, &format!("{line}\n{proofs}")).start().await, server)
}

/// Status and code of a GET and of a POST that creates a secret, and of one toward a
/// destination that a secret is bound to.
async fn ways(client: &Client, token: Option<&str>) -> Vec<(u16, String)> {
    let token = token.map(|token| ("authorization", token));
    let headers: Vec<_> = token.into_iter().collect();
    let answer = async |answer: crate::harness::Answer| {
        let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        (answer.status, body["code"].as_str().unwrap_or_default().to_owned())
    };
    let with = |one: (&'static str, &'static str)| [&headers[..], &[one]].concat();
    let json = with(("content-type", "application/json"));
    let create = |name: &str| sized(json!({"name": name, "value": "canary-3"}).to_string());
    let path = "/v1/secrets";
    vec![
        answer(client.request("GET", "app.test", "/public/", &headers).await).await,
        answer(client.request("GET", SECRETS, "/v1/secrets/prod/key", &headers).await).await,
        answer(client.send("POST", SECRETS, path, &json, create("prod/new")).await).await,
        answer(client.send("POST", SECRETS, path, &json, create("free/new")).await).await,
        answer(client.request("GET", "api.stripe.test", "/", &with(REFERENCE)).await).await,
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_may_ask_for_certificate_and_token_of_a_pod() {
    let (mesh, _server) = start().await;
    let ok = |status: u16| (status, String::new());
    let forbidden = || (403, "forbidden".to_owned());
    // Neither proof alone, nor both without a pod. What needs no proofs is left: the
    // check lets these pass, and REST and ext_proc decide by the grant.
    let less = || vec![forbidden(), forbidden(), forbidden(), ok(201), forbidden()];
    let taken = || {
        let conflict = (409, "already_exists".to_owned());
        [&less()[..3], &[conflict], &less()[4..]].concat()
    };
    let api = || mesh.client("prod", "api");
    assert_eq!(ways(&api(), None).await, less(), "a certificate");
    assert_eq!(ways(&stranger(&mesh), Some(&bound())).await, taken(), "a token");
    assert_eq!(ways(&api(), Some(&unbound())).await, taken(), "a token of no pod");
    assert!(mesh.payment.received().is_empty() && mesh.app.received().is_empty());
    let all = ways(&api(), Some(&bound())).await;
    let conflict = (409, "already_exists".to_owned());
    assert_eq!(all, [ok(200), ok(200), ok(201), conflict, ok(200)]);
    let received: Vec<Received> = mesh.app.received();
    assert_eq!(received[0].header("x-vaultmux-principal"), [format!("{API};proofs=mtls+token")]);
    assert_eq!(mesh.payment.received()[0].header("x-api-key"), ["canary-1"]);
    // One line per request: the first of each round.
    for (line, proofs) in
        [(0, json!(["mtls"])), (5, json!(["token"])), (15, json!(["mtls", "token"]))]
    {
        let line = mesh.envoy.access(line).await;
        assert_eq!(line["proofs"], proofs, "{line}");
    }
    mesh.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn proofs_of_different_accounts_are_refused() {
    let (mesh, _server) = start().await;
    let refused = vec![(403, "invalid_identity".to_owned()); 5];
    let of = |account: &str| bearer(&issuer().token_for(account, json!({})));
    for (certificate, token) in [
        (("prod", "api"), of("other/api")),
        (("prod", "api"), of("prod/web")),
        (("prod", "web"), of("prod/api")),
        (("other", "api"), of("prod/api")),
    ] {
        let client = mesh.client(certificate.0, certificate.1);
        assert_eq!(ways(&client, Some(&token)).await, refused, "{certificate:?}");
    }
    // A bad token spoils a good certificate, as it would be one without it.
    let forged = bearer(&Mint::p256("other").with_id("issuer").token(json!({})));
    let spoilt = vec![(401, "invalid_token".to_owned()); 5];
    assert_eq!(ways(&mesh.client("prod", "api"), Some(&forged)).await, spoilt);
    assert!(mesh.payment.received().is_empty() && mesh.app.received().is_empty());
    mesh.finish().await;
}

/// What the metadata says, and what the grant in it is worth at REST.
#[tokio::test(flavor = "multi_thread")]
async fn proofs_are_told_and_travel_in_the_grant() {
    let (mesh, _server) = start().await;
    let grpc = channel(&mesh.service).await;
    let rest = mesh.service.rest_client();
    for (token, proofs, expected) in [
        (None, vec!["mtls"], 403),
        (Some(unbound()), vec!["mtls", "token"], 403),
        (Some(bound()), vec!["mtls", "token"], 201),
    ] {
        let values: Vec<&str> = token.iter().map(String::as_str).collect();
        let mut asked = question(SECRETS, "/v1/secrets", &values);
        let attributes = asked.attributes.as_mut().expect("set");
        attributes.source.get_or_insert_default().principal = API.into();
        let request = attributes.request.as_mut().expect("set");
        request.http.as_mut().expect("set").method = "POST".into();
        let answer = check(&grpc, asked).await.expect("answered");
        assert_eq!(status(&answer), 200);
        let metadata = answer.dynamic_metadata.expect("metadata").fields;
        assert_eq!(texts(&metadata["proofs"]), proofs);
        assert_eq!(texts(&metadata["principal"]), [API]);
        let grant = texts(&metadata["grant"]).remove(0);
        let headers = [("x-vaultmux-grant", &*grant), ("content-type", "application/json")];
        let body = sized(json!({"name": "prod/granted", "value": "canary-4"}).to_string());
        let answer = rest.send("POST", SECRETS, "/v1/secrets", &headers, body).await;
        assert_eq!(answer.status, expected, "{proofs:?}: {}", answer.text());
    }
    mesh.finish().await;
}

fn texts(value: &envoy_types::pb::google::protobuf::Value) -> Vec<String> {
    use envoy_types::pb::google::protobuf::value::Kind;
    match value.kind.as_ref().expect("a value") {
        Kind::StringValue(text) => vec![text.clone()],
        Kind::ListValue(list) => list.values.iter().flat_map(texts).collect(),
        other => panic!("{other:?}"),
    }
}

/// A grant proves nothing for longer than the token that it was made from.
#[tokio::test(flavor = "multi_thread")]
async fn a_grant_ends_with_its_token() {
    let (mesh, _server) = start().await;
    let grpc = channel(&mesh.service).await;
    let now = mint::now();
    for (left, expected) in [(12, 12..=12), (3600, 29..=40)] {
        let token = bearer(&issuer().token(json!({"exp": now + left})));
        let mut asked = question(SECRETS, "/v1/secrets/prod/key", &[&token]);
        let attributes = asked.attributes.as_mut().expect("set");
        attributes.source.get_or_insert_default().principal = API.into();
        let answer = check(&grpc, asked).await.expect("answered");
        assert_eq!(status(&answer), 200);
        let grant = texts(&answer.dynamic_metadata.expect("metadata").fields["grant"]).remove(0);
        let claims = URL_SAFE_NO_PAD.decode(grant.split('.').nth(1).expect("claims"));
        let claims: Value = serde_json::from_slice(&claims.expect("base64")).expect("JSON");
        let expires = claims["exp"].as_u64().expect("a number") - now;
        assert!(expected.contains(&expires), "{left}: {expires}");
    }
    mesh.finish().await;
}

/// Without a proxy: the connection's own certificate and a token.
#[tokio::test(flavor = "multi_thread")]
async fn rest_takes_both_proofs_itself() {
    let (directory, certificates) = peers::authority();
    let rest = peers::tls(directory.path(), "");
    let config = peers::config(peers::LOOPBACK, &rest);
    let config = format!(
        "{config}identity:\n  service_account_tokens:\n    audiences: [vaultmux]\n    \
         verify: jwks\n    jwks: {{issuer: '{}', source: 'file:jwks.json'}}\n",
        crate::harness::mint::ISSUER
    );
    let files =
        [("config.yaml", &*config), ("policies/a.yaml", POLICIES), ("jwks.json", &issuer().jwks())];
    let service = Service::start(&files).await;
    let client =
        Client::tls(service.rest(), &certificates, Some(certificates.workload("prod", "api")));
    let other = bearer(&issuer().token_for("prod/web", json!({})));
    for (token, expected) in
        [(None, 403), (Some(unbound()), 403), (Some(other), 403), (Some(bound()), 200)]
    {
        let token = token.as_deref().map(|token| ("authorization", token));
        let headers: Vec<_> = token.into_iter().collect();
        for client in [client.clone(), client.http2()] {
            let answer = client.request("GET", SECRETS, "/v1/secrets/prod/key", &headers).await;
            assert_eq!(answer.status, expected, "{}", answer.text());
        }
    }
}
