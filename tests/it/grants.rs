//! Grants among replicas: one seals, another opens, and the keys that they share change
//! under way. What a grant is not good for.

use std::{
    fs,
    path::Path,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use envoy_types::pb::{
    envoy::{
        config::core::v3::{HeaderMap, HeaderValue, Metadata},
        service::ext_proc::v3::{
            HttpHeaders, ProcessingRequest, external_processor_client::ExternalProcessorClient,
            processing_request::Request, processing_response::Response,
        },
    },
    google::protobuf::{Struct, Value, value::Kind},
};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::json;
use tonic::transport::Channel;

use crate::{
    harness::{Edge, Edit, Service, mint, sized},
    tokens::{channel, check, question, status},
};

const HOST: &str = "vaultmux.test";
const PATH: &str = "/v1/secrets/prod/key";
const API: &str = "spiffe://cluster.local/ns/prod/sa/api";
const SHOW: &str = "x-vaultmux-grant";

const POLICY: &str = r#"
apiVersion: vaultmux.dev/v1alpha1
kind: AccessPolicy
metadata: {name: own}
spec:
  effect: Allow
  from: [{namespaces: [prod]}]
  to: [{secrets: {prefixes: [prod/], verbs: [get, create, delete]}}]
"#;

/// A replica whose keys are in that file.
async fn replica(keys: &Path) -> Service {
    let keys = keys.display();
    let config = format!(
        "mode: development\nlisteners:\n  grpc: {{address: '127.0.0.1:0'}}\n  \
         rest: {{address: '127.0.0.1:0'}}\n  admin: {{address: '127.0.0.1:0'}}\n\
         backends: {{local: {{type: memory, secrets: {{prod/key: v1, prod/two: v2}}}}}}\n\
         policies: [policies]\nidentity: {{grant: {{key_file: '{keys}'}}}}\n\
         secret_routes: [{{hosts: [{HOST}, other.test], prefix: /v1/secrets}}]\n"
    );
    Service::start(&[("config.yaml", &config), ("policies/own.yaml", POLICY)]).await
}

fn key(name: &str) -> [u8; 32] {
    let mut key = [7; 32];
    key[..name.len()].copy_from_slice(name.as_bytes());
    key
}

/// Replaces the file as a whole, as a mounted Secret changes.
fn write_keys(path: &Path, names: &[&str]) {
    let line = |name: &&str| format!("{name} {}\n", STANDARD.encode(key(name)));
    let text: String = names.iter().map(line).collect();
    let next = path.with_extension("next");
    fs::write(&next, text).expect("write");
    fs::rename(next, path).expect("replace");
}

/// The front proxy asks one replica whether a request may pass, and leaves secrets to the
/// other. Neither learns of the certificate but by grant.
async fn edge(authz: &Service, other: &Service) -> Edge {
    let port = |service: &Service| {
        service.grpc().rsplit_once(':').expect("a port").1.parse::<u16>().expect("a port")
    };
    let stream = "timeout: 0s  # the stream lives as long as the request\n                \
                  envoy_grpc: {cluster_name: vaultmux-grpc}";
    let rest = "  - name: vaultmux-rest\n";
    let cluster = format!(
        "  - name: other\n    type: STATIC\n    typed_extension_protocol_options:\n      \
         envoy.extensions.upstreams.http.v3.HttpProtocolOptions:\n        \
         \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions\n        \
         explicit_http_config: {{http2_protocol_options: {{}}}}\n    load_assignment:\n      \
         cluster_name: other\n      endpoints: [{{lb_endpoints: [{{endpoint: {{address: \
         {{socket_address: {{address: 127.0.0.1, port_value: {}}}}}}}}}]}}]\n\n{rest}",
        port(other)
    );
    let edits: [Edit; 3] = [
        (stream.to_owned(), stream.replace("vaultmux-grpc", "other")),
        ("              - connection.uri_san_peer_certificate\n".to_owned(), String::new()),
        (rest.to_owned(), cluster),
    ];
    let grpc = authz.grpc().parse().expect("gRPC listens on a port");
    Edge::start(grpc, other.rest(), &edits).await
}

/// What ext_authz seals for GET of this path.
async fn sealed(authz: &Channel, path: &str) -> String {
    let mut asked = question(HOST, path, &[]);
    let attributes = asked.attributes.as_mut().expect("set");
    attributes.source.get_or_insert_default().principal = API.into();
    let answer = check(authz, asked).await.expect("answered");
    assert_eq!(status(&answer), 200);
    let metadata = answer.dynamic_metadata.expect("metadata").fields;
    match metadata["grant"].kind.as_ref() {
        Some(Kind::StringValue(grant)) => grant.clone(),
        other => panic!("{other:?}"),
    }
}

/// What REST says to a request with this grant.
async fn rest(service: &Service, method: &str, host: &str, path: &str, grant: &str) -> u16 {
    service.rest_client().request(method, host, path, &[(SHOW, grant)]).await.status
}

/// What ext_proc says to it.
async fn ext_proc(channel: &Channel, method: &str, host: &str, path: &str, grant: &str) -> i32 {
    let header = |(key, value): (&str, &str)| HeaderValue {
        key: key.into(),
        raw_value: value.as_bytes().to_vec(),
        ..HeaderValue::default()
    };
    let headers = [(":method", method), (":authority", host), (":path", path)].map(header);
    let headers = HeaderMap { headers: headers.into() };
    let value = Value { kind: Some(Kind::StringValue(grant.into())) };
    let authz = Struct { fields: [("grant".to_owned(), value)].into() };
    let filter_metadata = [("envoy.filters.http.ext_authz".to_owned(), authz)].into();
    let message = ProcessingRequest {
        request: Some(Request::RequestHeaders(HttpHeaders {
            headers: Some(headers),
            end_of_stream: true,
            ..HttpHeaders::default()
        })),
        metadata_context: Some(Metadata { filter_metadata, ..Metadata::default() }),
        ..ProcessingRequest::default()
    };
    let mut client = ExternalProcessorClient::new(channel.clone());
    let answers = client.process(tokio_stream::iter([message])).await.expect("a stream");
    let answer = answers.into_inner().message().await.expect("no error").expect("an answer");
    match answer.response.expect("a response") {
        Response::ImmediateResponse(answer) => answer.status.expect("a status").code,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_with_the_same_keys_believe_each_other() {
    let directory = tempfile::tempdir().expect("make a directory");
    let (shared, foreign) = (directory.path().join("shared"), directory.path().join("foreign"));
    write_keys(&shared, &["a"]);
    // The same id is not the same key.
    fs::write(&foreign, format!("a {}\n", STANDARD.encode(key("b")))).expect("write");
    for (keys, read, created) in [(&shared, 200, 201), (&foreign, 403, 403)] {
        let (authz, other) = (replica(&shared).await, replica(keys).await);
        let edge = edge(&authz, &other).await;
        let client = edge.client("prod", "api");
        let answer = client.get(HOST, PATH).await;
        assert_eq!(answer.status, read, "{}", answer.text());
        let json = [("content-type", "application/json")];
        let body = sized(json!({"name": "prod/new", "value": "v3"}).to_string());
        let answer = client.send("POST", HOST, "/v1/secrets", &json, body).await;
        assert_eq!(answer.status, created, "{}", answer.text());
        let grant = sealed(&channel(&authz).await, PATH).await;
        assert_eq!(rest(&other, "GET", HOST, PATH, &grant).await, read);
        let got = ext_proc(&channel(&other).await, "GET", HOST, PATH, &grant).await;
        assert_eq!(got, i32::from(read));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_rotated_without_a_failed_request() {
    static DONE: AtomicBool = AtomicBool::new(false);
    static ANSWERED: AtomicU64 = AtomicU64::new(0);
    let directory = tempfile::tempdir().expect("make a directory");
    let keys = directory.path().join("keys");
    write_keys(&keys, &["old"]);
    let (authz, other) = (replica(&keys).await, replica(&keys).await);
    let edge = edge(&authz, &other).await;
    let sealing = channel(&authz).await;
    let old = sealed(&sealing, PATH).await;
    let client = edge.client("prod", "api");
    // Both ways without a pause: ext_proc reads, REST has nothing to delete.
    let load = tokio::spawn(async move {
        while !DONE.load(Ordering::SeqCst) {
            let answer = client.get(HOST, PATH).await;
            assert_eq!(answer.status, 200, "{}", answer.text());
            let answer = client.request("DELETE", HOST, "/v1/secrets/prod/none", &[]).await;
            assert_eq!(answer.status, 404, "{}", answer.text());
            ANSWERED.fetch_add(1, Ordering::SeqCst);
        }
    });
    // Requests that began after this point have been answered.
    let answered = async || {
        let before = ANSWERED.load(Ordering::SeqCst);
        while ANSWERED.load(Ordering::SeqCst) < before + 3 && !load.is_finished() {
            tokio::task::yield_now().await;
        }
    };
    let steps: [(&[&str], u16); 3] =
        [(&["old", "new"], 200), (&["new", "old"], 200), (&["new"], 403)];
    for (at, (names, expected)) in steps.into_iter().enumerate() {
        answered().await;
        write_keys(&keys, names);
        for service in [&authz, &other] {
            service.reloaded(at + 2).await;
        }
        answered().await;
        assert_eq!(rest(&other, "GET", HOST, PATH, &old).await, expected, "{names:?}");
        let new = sealed(&sealing, PATH).await;
        assert_eq!(rest(&other, "GET", HOST, PATH, &new).await, 200, "{names:?}");
    }
    DONE.store(true, Ordering::SeqCst);
    load.await.expect("no request failed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_is_good_for_its_own_request_while_it_lasts() {
    let directory = tempfile::tempdir().expect("make a directory");
    let keys = directory.path().join("keys");
    write_keys(&keys, &["a", "b"]);
    let (authz, other) = (replica(&keys).await, replica(&keys).await);
    let grant = sealed(&channel(&authz).await, PATH).await;
    let grpc = channel(&other).await;
    let both = async |method: &str, host: &str, path: &str, grant: &str| {
        let streamed = ext_proc(&grpc, method, host, path, grant).await;
        (rest(&other, method, host, path, grant).await, streamed)
    };
    for (method, host, path) in [
        ("GET", HOST, "/v1/secrets/prod/two"),
        ("GET", HOST, "/v1/secrets/prod%2Fkey"),
        ("GET", HOST, "/v1/secrets"),
        ("GET", HOST, "/v1/secrets?x=/v1/secrets/prod/key"),
        ("GET", "other.test", PATH),
        ("GET", "VAULTMUX.test", PATH),
        ("GET", "vaultmux.test:80", PATH),
    ] {
        assert_eq!(both(method, host, path, &grant).await, (403, 403), "{method} {host}{path}");
    }
    // ext_proc leaves what is no read to REST.
    for method in ["HEAD", "DELETE", "POST", "PUT"] {
        assert_eq!(rest(&other, method, HOST, PATH, &grant).await, 403, "{method}");
    }
    assert_eq!(ext_proc(&grpc, "HEAD", HOST, PATH, &grant).await, 403);
    assert_eq!(both("GET", HOST, PATH, &grant).await, (200, 200));

    let forge = |kid: Option<&str>, with: &str, changes: serde_json::Value| {
        let mut claims = json!({
            "iss": "vaultmux-mesh", "sub": API, "exp": mint::now() + 20, "proofs": ["mtls"],
            "method": "GET", "host": HOST, "path": PATH,
        });
        for (name, value) in changes.as_object().expect("an object") {
            claims[name] = value.clone();
        }
        let header = Header { kid: kid.map(str::to_owned), ..Header::new(Algorithm::HS256) };
        let secret = EncodingKey::from_secret(&key(with));
        jsonwebtoken::encode(&header, &claims, &secret).expect("signed")
    };
    let refused = [
        ("over", forge(Some("a"), "a", json!({"exp": mint::now() - 60}))),
        ("without end", forge(Some("a"), "a", json!({"exp": null}))),
        ("without a key's id", forge(None, "a", json!({}))),
        ("of an unknown key", forge(Some("c"), "a", json!({}))),
        ("of another key", forge(Some("a"), "b", json!({}))),
        ("by someone else", forge(Some("a"), "a", json!({"iss": "other"}))),
        ("of unknown proofs", forge(Some("a"), "a", json!({"proofs": ["word"]}))),
        ("of nobody", forge(Some("a"), "a", json!({"sub": "prod/api"}))),
        ("of another trust domain", {
            forge(Some("a"), "a", json!({"sub": "spiffe://other.td/ns/prod/sa/api"}))
        }),
        ("twice", format!("{grant},{grant}")),
        ("empty", String::new()),
    ];
    for (name, forged) in refused {
        assert_eq!(both("GET", HOST, PATH, &forged).await, (403, 403), "{name}");
    }
    // The same by hand, with either key: what was wrong above is what was changed.
    for kid in ["a", "b"] {
        let good = forge(Some(kid), kid, json!({}));
        assert_eq!(both("GET", HOST, PATH, &good).await, (200, 200), "{kid}");
    }
}
