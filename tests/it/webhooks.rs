//! Notices of stores through the program: whom it hears, and what it then forgets.

use std::fs;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use crate::harness::{Answer, Service, mint, repository, sized};

/// What a notice is sent with, by name.
type Headers<'a> = &'a [(&'a str, &'a str)];

const CONFIG: &str = r#"
mode: development
listeners:
  grpc: {address: "127.0.0.1:0"}
  rest: {address: "127.0.0.1:0"}
  admin: {address: "127.0.0.1:0"}
identity:
  trust_domains: [cluster.local]
  local: {namespace: payments, service_account: api}
backends: {local: {type: file, path: "{directory}/secrets"}}
policies: [policies.yaml]
cache: {ttl: 1h}
limits: {request_body: 64KiB}
webhooks:
  aws:
    type: event_bridge
    backends: [local]
    header: x-api-key
    key: canary-key-of-aws-1
  aws-basic: {type: event_bridge, backends: [local], user: bridge, key_file: "{directory}/basic-keys"}
  azure: {type: event_grid, backends: [local], key: canary-key-of-azure}
  gcp:
    type: pub_sub
    backends: [local]
    audience: https://vaultmux.test/webhooks/gcp
    email: push@project.iam.gserviceaccount.com
    keys: "file:{directory}/google-keys.json"
"#;

const POLICIES: &str = r#"
apiVersion: vaultmux.dev/v1alpha1
kind: AccessPolicy
metadata: {name: own}
spec:
  effect: Allow
  from: [{namespaces: [payments]}]
  to: [{secrets: {prefixes: ["zq-"], verbs: [get]}}]
"#;

async fn start() -> (Service, mint::Mint) {
    let google = mint::Mint::rsa("google");
    let service = Service::start(&[
        ("config.yaml", CONFIG),
        ("policies.yaml", POLICIES),
        ("secrets/zq-db", "canary-0"),
        ("basic-keys", "# two, while they are exchanged\ncanary-password-1\ncanary-password-2\n"),
        ("google-keys.json", &google.jwks()),
    ])
    .await;
    (service, google)
}

/// A notice of EventBridge, as CloudTrail writes it.
fn put_secret_value(id: &str) -> Value {
    json!({
        "version": "0", "id": "37dbb1ba-1ae9-4b2a-b2ab-e6a1f2a4c001",
        "detail-type": "AWS API Call via CloudTrail", "source": "aws.secretsmanager",
        "account": "111122223333", "time": "2026-01-01T00:00:00Z", "region": "us-east-1",
        "resources": [],
        "detail": {
            "eventVersion": "1.09", "eventSource": "secretsmanager.amazonaws.com",
            "eventName": "PutSecretValue", "awsRegion": "us-east-1", "readOnly": false,
            "requestParameters": {"secretId": id, "clientRequestToken": "c"},
            "responseElements": {"arn": format!("arn:aws:secretsmanager:us-east-1:111122223333:secret:{id}-AbC12x")},
        },
    })
}

fn rotation_succeeded(name: &str) -> Value {
    let mut event = put_secret_value("x");
    event["detail-type"] = "AWS Service Event via CloudTrail".into();
    event["detail"] = json!({
        "eventSource": "secretsmanager.amazonaws.com", "eventName": "RotationSucceeded",
        "eventType": "AwsServiceEvent", "requestParameters": null, "responseElements": null,
        "additionalEventData": {
            "SecretId": format!("arn:aws:secretsmanager:us-east-1:111122223333:secret:{name}-AbC12x"),
        },
    });
    event
}

/// A CloudEvent of Key Vault.
fn new_version(name: &str) -> Value {
    json!({
        "id": "00eccf70-95a7-4e7c-8299-2eb17ee9ad64", "specversion": "1.0",
        "source": "/subscriptions/s/resourceGroups/g/providers/Microsoft.KeyVault/vaults/v",
        "subject": name, "type": "Microsoft.KeyVault.SecretNewVersionCreated",
        "time": "2026-01-01T00:00:00Z",
        "data": {
            "Id": format!("https://v.vault.azure.net/secrets/{name}/ee059b2bb5bc48398a53b168c6cdcb10"),
            "VaultName": "v", "ObjectType": "Secret", "ObjectName": name,
            "Version": "ee059b2bb5bc48398a53b168c6cdcb10", "NBF": null, "EXP": null,
        },
    })
}

/// What Pub/Sub pushes for Secret Manager.
fn version_added(name: &str) -> Value {
    json!({
        "message": {
            "attributes": {
                "dataFormat": "JSON_API_V1", "eventType": "SECRET_VERSION_ADD",
                "secretId": format!("projects/4711/secrets/{name}"),
                "versionId": format!("projects/4711/secrets/{name}/versions/2"),
                "timestamp": "2026-01-01T00:00:00.000000-00:00",
            },
            "data": "e30=", "messageId": "136969346945", "publishTime": "2026-01-01T00:00:00Z",
        },
        "subscription": "projects/p/subscriptions/vaultmux",
    })
}

fn token(google: &mint::Mint, changes: Value) -> String {
    let mut claims = json!({
        "iss": "https://accounts.google.com", "aud": "https://vaultmux.test/webhooks/gcp",
        "sub": "113774264463038321964", "email": "push@project.iam.gserviceaccount.com",
        "email_verified": true, "iat": mint::now(), "exp": mint::now() + 3600,
    });
    for (key, value) in changes.as_object().expect("an object") {
        claims[key] = value.clone();
    }
    let header = json!({"alg": "RS256", "kid": "google", "typ": "JWT"}).to_string();
    format!("Bearer {}", google.sign(&header, &claims.to_string()))
}

async fn send(service: &Service, path: &str, headers: &[(&str, &str)], body: String) -> Answer {
    let client = service.rest_client();
    client.send("POST", "vaultmux.test", path, headers, sized(body)).await
}

async fn value(service: &Service) -> String {
    let answer = service.rest_client().get("vaultmux.test", "/v1/secrets/zq-db").await;
    answer.json::<Value>()["value"].as_str().expect("a value").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_notice_makes_its_secret_be_read_anew_and_no_stranger_can() {
    let (mut service, google) = start().await;
    assert_eq!(value(&service).await, "canary-0");
    let basic = |password: &str| format!("Basic {}", STANDARD.encode(format!("bridge:{password}")));
    let (first, second) = (basic("canary-password-1"), basic("canary-password-2"));
    let push = token(&google, json!({}));
    let put = put_secret_value("zq-db");
    let good: [(&str, Headers<'_>, Value); 7] = [
        ("/webhooks/aws", &[("x-api-key", "canary-key-of-aws-1")], put.clone()),
        ("/webhooks/aws-basic", &[("authorization", &first)], put.clone()),
        ("/webhooks/aws-basic", &[("authorization", &second)], rotation_succeeded("zq-db")),
        ("/webhooks/azure?key=canary-key-of-azure", &[], new_version("zq-db")),
        (
            "/webhooks/azure",
            &[("x-vaultmux-webhook-key", "canary-key-of-azure")],
            json!([new_version("zq-other"), new_version("zq-db")]),
        ),
        ("/webhooks/gcp", &[("authorization", &push)], version_added("zq-db")),
        // Once more the same: harmless.
        ("/webhooks/gcp", &[("authorization", &push)], version_added("zq-db")),
    ];
    for (round, (path, headers, notice)) in good.into_iter().enumerate() {
        let (old, new) = (value(&service).await, format!("canary-{}", round + 1));
        fs::write(service.path("secrets/zq-db"), &new).expect("rotated");
        assert_eq!(value(&service).await, old, "cached");
        let answer = send(&service, path, headers, notice.to_string()).await;
        assert_eq!((answer.status, answer.text().as_str()), (204, ""), "{path}");
        assert_eq!(value(&service).await, new, "{path}");
    }
    let last = value(&service).await;
    fs::write(service.path("secrets/zq-db"), "canary-unseen").expect("rotated");
    let (other, expired) =
        (token(&google, json!({"email": "other@p"})), token(&google, json!({"exp": 1})));
    let bad: [(&str, Headers<'_>, &Value); 10] = [
        ("/webhooks/aws", &[], &put),
        ("/webhooks/aws", &[("x-api-key", "canary-key-of-aws-2")], &put),
        ("/webhooks/aws", &[("authorization", &first)], &put),
        ("/webhooks/aws-basic", &[("x-api-key", "canary-key-of-aws-1")], &put),
        ("/webhooks/azure?key=canary-key-of-aws-1", &[], &put),
        ("/webhooks/azure", &[], &put),
        ("/webhooks/gcp", &[("authorization", &other)], &put),
        ("/webhooks/gcp", &[("authorization", &expired)], &put),
        ("/webhooks/none", &[("x-api-key", "canary-key-of-aws-1")], &put),
        ("/webhooks/", &[("x-api-key", "canary-key-of-aws-1")], &put),
    ];
    for (path, headers, notice) in bad {
        let answer = send(&service, path, headers, notice.to_string()).await;
        assert_eq!(answer.status, 401, "{path} {headers:?}");
        let body: Value = answer.json();
        assert_eq!(body["error"], "the sender is not authenticated", "{path}");
    }
    assert_eq!(value(&service).await, last, "nobody was heard");
    let refused = r#"vaultmux_webhook_notices_total{webhook="aws",result="refused"}"#;
    assert_eq!(service.metric(refused).await, Some(3.0));
    service.terminate();
    assert_eq!(service.exit_code().await, 0);
    for line in service.logs() {
        assert!(!line.contains("canary"), "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_exists_is_not_told_and_nonsense_is_refused() {
    let (service, _) = start().await;
    let key = [("x-api-key", "canary-key-of-aws-1")];
    let post = async |body: String| send(&service, "/webhooks/aws", &key, body).await;
    let there = post(put_secret_value("zq-db").to_string()).await;
    let missing = post(put_secret_value("zq-none").to_string()).await;
    let foreign = post(put_secret_value("no name/../here").to_string()).await;
    for answer in [&there, &missing, &foreign] {
        assert_eq!((answer.status, answer.body.len()), (204, 0));
    }
    let ignored = r#"vaultmux_webhook_notices_total{webhook="aws",result="ignored"}"#;
    assert!(service.metric(ignored).await.is_some_and(|count| count >= 1.0));
    for body in ["", "{", "[]", "null", "{\"source\":1}", "{\"source\":\"aws.secretsmanager\"}"] {
        assert_eq!(post(body.to_owned()).await.status, 400, "{body}");
    }
    assert_eq!(post("[".repeat(30_000)).await.status, 400, "as deep as it likes");
    assert_eq!(post(" ".repeat(100_000)).await.status, 413);
    let get = service.rest_client().get("vaultmux.test", "/webhooks/aws").await;
    assert_eq!((get.status, get.header("allow")), (405, "POST, OPTIONS"));
}

#[tokio::test(flavor = "multi_thread")]
async fn event_grid_asks_first_whether_it_may_send() {
    let (service, _) = start().await;
    let ask = async |path: &str, origin: &str| {
        let headers = [("webhook-request-origin", origin), ("webhook-request-rate", "120")];
        service.rest_client().request("OPTIONS", "vaultmux.test", path, &headers).await
    };
    // Alike for all names: the answer does not tell which of them there are.
    for path in ["/webhooks/azure", "/webhooks/aws", "/webhooks/none", "/webhooks/a/b"] {
        let answer = ask(path, "eventgrid.azure.net").await;
        assert_eq!(answer.status, 200, "{path}");
        assert_eq!(answer.header("allow"), "POST, OPTIONS", "{path}");
        assert_eq!(answer.header("webhook-allowed-origin"), "eventgrid.azure.net", "{path}");
        assert_eq!(answer.header("webhook-allowed-rate"), "*", "{path}");
        let answer = ask(path, "evil.test").await;
        assert_eq!(answer.status, 200, "{path}");
        assert_eq!(answer.header("webhook-allowed-origin"), "", "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_exchanged_without_a_restart() {
    let (service, _) = start().await;
    let ask = async |password: &str| {
        let basic = format!("Basic {}", STANDARD.encode(format!("bridge:{password}")));
        let body = put_secret_value("zq-db").to_string();
        send(&service, "/webhooks/aws-basic", &[("authorization", &basic)], body).await.status
    };
    assert_eq!(ask("canary-password-3").await, 401);
    fs::write(service.path("basic-keys"), "canary-password-2\ncanary-password-3\n")
        .expect("written");
    service.hang_up();
    service.reloaded(2).await;
    assert_eq!(ask("canary-password-1").await, 401);
    assert_eq!(ask("canary-password-2").await, 204);
    assert_eq!(ask("canary-password-3").await, 204);
    // One that cannot be used changes nothing.
    fs::write(service.path("basic-keys"), "short\n").expect("written");
    service.hang_up();
    service.refused(1).await;
    assert_eq!(ask("canary-password-3").await, 204);
    assert!(
        service.logs().iter().all(|line| !line.contains("canary") && !line.contains("short\""))
    );
}

/// The JSON blocks of `docs/webhooks.md`, in their order.
#[tokio::test(flavor = "multi_thread")]
async fn documented_notices_are_taken() {
    let (service, google) = start().await;
    let page = fs::read_to_string(repository("docs/webhooks.md")).expect("the page");
    let blocks = page.split("```json\n").skip(1).filter_map(|rest| rest.split("```").next());
    let blocks: Vec<_> = blocks.collect();
    let push = token(&google, json!({}));
    let senders: [(&str, &[(&str, &str)]); 3] = [
        ("/webhooks/aws", &[("x-api-key", "canary-key-of-aws-1")]),
        ("/webhooks/azure", &[("x-vaultmux-webhook-key", "canary-key-of-azure")]),
        ("/webhooks/gcp", &[("authorization", &push)]),
    ];
    assert_eq!(blocks.len(), senders.len());
    for (block, (path, headers)) in blocks.into_iter().zip(senders) {
        let old = value(&service).await;
        let new = format!("{old}+");
        fs::write(service.path("secrets/zq-db"), &new).expect("rotated");
        assert_eq!(send(&service, path, headers, block.to_owned()).await.status, 204, "{path}");
        assert_eq!(value(&service).await, new, "{path}");
    }
}
