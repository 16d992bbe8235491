//! What senders show, and which secrets their notices name.

use serde_json::json;

use super::*;

fn name_of(sender: &str, notice: &serde_json::Value) -> Option<Vec<String>> {
    match sender {
        "aws" => event_bridge::names(notice),
        "azure" => event_grid::names(notice),
        _ => pub_sub::names(notice),
    }
}

#[test]
fn notices_name_secrets_as_their_stores_do() {
    let aws = |detail: serde_json::Value| json!({"source": "aws.secretsmanager", "detail": detail});
    let arn = "arn:aws:secretsmanager:us-east-1:111122223333:secret:prod/db-AbC12x";
    let grid = |kind: &str, data: serde_json::Value| json!({"specversion": "1.0", "type": kind, "subject": "from-subject", "data": data});
    let pushed = |attributes: serde_json::Value| json!({"message": {"attributes": attributes}});
    let put = "Microsoft.KeyVault.SecretNewVersionCreated";
    let cases: Vec<(&str, serde_json::Value, Option<&[&str]>)> = vec![
        ("aws", json!({}), None),
        ("aws", json!({"source": 1, "detail": {}}), None),
        ("aws", json!({"source": "aws.secretsmanager"}), None),
        ("aws", json!([]), None),
        (
            "aws",
            json!({"source": "aws.ec2", "detail": {"requestParameters": {"secretId": "a"}}}),
            Some(&[]),
        ),
        (
            "aws",
            aws(json!({"eventName": "GetSecretValue", "requestParameters": {"secretId": "a"}})),
            Some(&[]),
        ),
        (
            "aws",
            aws(
                json!({"eventName": "X", "readOnly": true, "requestParameters": {"secretId": "a"}}),
            ),
            Some(&[]),
        ),
        ("aws", aws(json!({"eventName": "PutSecretValue"})), Some(&[])),
        ("aws", aws(json!({"requestParameters": {"secretId": ["a"]}})), Some(&[])),
        (
            "aws",
            aws(json!({"requestParameters": {"secretId": "arn:aws:s3:::secret:x"}})),
            Some(&[]),
        ),
        (
            "aws",
            aws(
                json!({"eventName": "PutSecretValue", "requestParameters": {"secretId": "prod/db"}}),
            ),
            Some(&["prod/db"]),
        ),
        (
            "aws",
            aws(json!({"eventName": "UpdateSecret", "responseElements": {"aRN": arn}})),
            Some(&["prod/db", "prod/db-AbC12x"]),
        ),
        (
            "aws",
            aws(
                json!({"eventName": "RotationSucceeded", "additionalEventData": {"SecretId": arn}}),
            ),
            Some(&["prod/db", "prod/db-AbC12x"]),
        ),
        (
            "aws",
            aws(json!({"eventName": "CreateSecret", "requestParameters": {"name": "new"}})),
            Some(&["new"]),
        ),
        ("azure", json!({"type": put, "data": {"ObjectName": "a"}}), None),
        ("azure", json!({"specversion": "0.3", "type": put, "data": {}}), None),
        ("azure", json!([{"eventType": put, "data": {"ObjectName": "a"}}]), None),
        ("azure", json!("x"), None),
        (
            "azure",
            grid("Microsoft.KeyVault.KeyNewVersionCreated", json!({"ObjectName": "k"})),
            Some(&[]),
        ),
        (
            "azure",
            grid(put, json!({"ObjectName": "db-password", "Version": "1"})),
            Some(&["db-password"]),
        ),
        ("azure", grid(put, json!(null)), Some(&["from-subject"])),
        (
            "azure",
            json!([grid(put, json!({"ObjectName": "a"})), grid(put, json!({"ObjectName": "b"}))]),
            Some(&["a", "b"]),
        ),
        ("gcp", json!({}), None),
        ("gcp", json!({"message": 1}), None),
        ("gcp", pushed(json!({"secretId": "prod-db"})), None),
        ("gcp", pushed(json!({"secretId": 1})), None),
        ("gcp", pushed(json!({"eventType": "TOPIC_CONFIGURED"})), Some(&[])),
        ("gcp", json!({"message": {"data": "e30="}}), Some(&[])),
        (
            "gcp",
            pushed(
                json!({"eventType": "SECRET_VERSION_ADD", "secretId": "projects/1/secrets/prod-db"}),
            ),
            Some(&["prod-db"]),
        ),
        (
            "gcp",
            pushed(json!({"secretId": "projects/1/locations/eu/secrets/prod-db/versions/2"})),
            Some(&["prod-db"]),
        ),
    ];
    for (sender, notice, expected) in cases {
        let found = name_of(sender, &notice);
        let found =
            found.as_ref().map(|names| names.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(found.as_deref(), expected, "{sender} {notice}");
    }
}

fn webhook(sender: Sender) -> Webhook {
    Webhook { settings: WebhookSettings { sender, targets: Vec::new() }, tokens: None }
}

async fn shows(webhook: &Webhook, headers: &[(&str, &str)], query: &str) -> bool {
    let mut sent = HeaderMap::new();
    for (name, value) in headers {
        let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
        sent.append(name, value.parse().expect("a value"));
    }
    let shown = webhook.authenticate(&sent, Some(query), Instant::now()).await;
    assert!(shown != Err(WebhookError::Unavailable));
    shown.is_ok()
}

#[tokio::test]
async fn only_whoever_knows_the_key_is_heard() {
    let keys = || Keys::new([b"first-key".as_slice(), b"second-key"]);
    let header = HeaderName::from_static("x-api-key");
    let bridge = webhook(Sender::EventBridge(Credential::ApiKey { header, keys: keys() }));
    for (headers, expected) in [
        (&[][..], false),
        (&[("x-api-key", "")], false),
        (&[("x-api-key", "first-ke")], false),
        (&[("x-api-key", "first-key ")], true),
        (&[("x-api-key", "first-key"), ("x-api-key", "first-key")], false),
        (&[("authorization", "first-key")], false),
        (&[("x-api-key", "first-key")], true),
        (&[("x-api-key", "second-key")], true),
    ] {
        // Blanks around a value are not part of it.
        let trimmed: Vec<_> = headers.iter().map(|(name, value)| (*name, value.trim())).collect();
        assert_eq!(shows(&bridge, &trimmed, "").await, expected, "{headers:?}");
    }
    let basic = Keys::new([b"aws:pass:word".as_slice()]);
    let basic = webhook(Sender::EventBridge(Credential::Basic(basic)));
    let encoded = STANDARD.encode("aws:pass:word");
    for (value, expected) in [
        (format!("Bearer {encoded}"), false),
        (format!("Basic {}", STANDARD.encode("aws:pass")), false),
        ("Basic !".to_owned(), false),
        (format!("Basic {encoded}"), true),
        (format!("basic {encoded}"), true),
    ] {
        assert_eq!(shows(&basic, &[("authorization", &value)], "").await, expected, "{value}");
    }
    let origins = vec!["eventgrid.azure.net".to_owned()];
    let grid = webhook(Sender::EventGrid { keys: keys(), origins });
    let header = ("x-vaultmux-webhook-key", "first-key");
    for (headers, query, expected) in [
        (&[][..], "", false),
        (&[], "key=", false),
        (&[], "key=other", false),
        (&[], "key=first-key&key=first-key", false),
        (&[header], "key=first-key", false),
        (&[header, header], "", false),
        (&[], "key=first-key", true),
        (&[], "a=b&key=first%2Dkey", true),
        (&[header], "", true),
    ] {
        assert_eq!(shows(&grid, headers, query).await, expected, "{headers:?} {query}");
    }
    assert!(grid.admits_origin("eventgrid.azure.net"));
    assert!(!grid.admits_origin("evil.test") && !bridge.admits_origin("eventgrid.azure.net"));
    assert!(!format!("{:?}", grid.settings).contains("key-"));
}
