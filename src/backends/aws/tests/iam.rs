//! The policy documents of `docs/stores/aws.md` are enough for their verb, and for
//! nothing else: the emulator enforces them.

use std::collections::BTreeMap;

use aws_credential_types::Credentials;

use super::{moto::Moto, *};

/// Methods in an order in which each finds what it needs.
const METHODS: [&str; 6] = ["get", "list", "versions", "create", "update", "delete"];

/// The JSON documents of the page, by the heading above them.
fn documents() -> BTreeMap<String, Vec<String>> {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/stores/aws.md");
    let page = std::fs::read_to_string(page).expect("the page is there");
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for section in page.split("\n### ").skip(1) {
        let (heading, text) = section.split_once('\n').expect("text");
        let text = text.split("\n## ").next().unwrap_or_default();
        for block in text.split("```json\n").skip(1) {
            let document = block.split("```").next().expect("a closed block");
            // The emulator's account.
            let document = document.replace("111122223333", "123456789012");
            found.entry(heading.to_owned()).or_default().push(document);
        }
    }
    found
}

/// A backend under a new user with one policy.
async fn user(moto: &Moto, name: &str, policy: &str, prefix: &str) -> AwsBackend {
    moto.enforce(false).await;
    moto.iam("CreateUser", &[("UserName", name)]).await;
    let put = [("UserName", name), ("PolicyName", "mesh"), ("PolicyDocument", policy)];
    moto.iam("PutUserPolicy", &put).await;
    let made = moto.iam("CreateAccessKey", &[("UserName", name)]).await;
    let part = |tag: &str| {
        let (_, rest) = made.split_once(&format!("<{tag}>")).expect("a key");
        rest.split('<').next().expect("a key").to_owned()
    };
    let key = Credentials::new(part("AccessKeyId"), part("SecretAccessKey"), None, None, "test");
    moto.enforce(true).await;
    configured(moto, key, prefix).await
}

async fn configured(moto: &Moto, key: Credentials, prefix: &str) -> AwsBackend {
    let config = base_as(&moto.url, key).await.into_builder();
    let config = config.region(Region::new("eu-central-1")).build();
    let settings = AwsSettings {
        prefix: prefix.to_owned(),
        tags: [("owner".to_owned(), "platform".to_owned())].into(),
        ..AwsSettings::default()
    };
    AwsBackend::new(config, settings, TIMEOUT).await.expect("set up")
}

async fn call(backend: &AwsBackend, method: &str, raw: &str) -> Result<(), BackendError> {
    let (name, value) = (name(raw), SecretValue::new("x"));
    match method {
        "get" => backend.get(&name, &SecretVersion::Latest).await.map(drop),
        "list" => backend.list(None).await.map(drop),
        "create" => backend.create(&super::name(&format!("{raw}/new")), &value).await.map(drop),
        "update" => backend.update(&name, &value).await.map(drop),
        "delete" => backend.delete(&name, false).await,
        "versions" => backend.versions(&name).await.map(drop),
        other => panic!("{other}"),
    }
}

/// One test for all, so that the server is started once and ended with it.
#[tokio::test]
async fn documents_allow_their_verb_and_nothing_else() {
    let moto = Moto::start_with_resources().await;
    let documents = documents();
    let root = Credentials::new("test", "test", None, None, "test");
    for verb in METHODS {
        for (prefix, allowed) in [("prod/", true), ("test/", false)] {
            moto.enforce(false).await;
            let owner = configured(&moto, root.clone(), prefix).await;
            owner.create(&name(verb), &SecretValue::new("x")).await.expect("created");
            let who = format!("{verb}-{allowed}");
            let backend = user(&moto, &who, &documents[verb][0], prefix).await;
            for method in METHODS {
                let result = call(&backend, method, verb).await;
                // Names are no resource.
                if method == verb && (allowed || method == "list") {
                    result.unwrap_or_else(|error| panic!("{who}: {method}: {error:?}"));
                } else {
                    let kind = result.expect_err(&format!("{who}: {method}")).kind();
                    assert_eq!(kind, "permission_denied", "{who}: {method}");
                }
            }
        }
    }
    one_secret_is_that_secret_alone(&moto, &documents["get"][1]).await;
    tags_need_their_own_action(&moto, &documents["create"][0]).await;
    deleting_for_good_is_denied(&moto, &documents["delete"][0]).await;
}

async fn one_secret_is_that_secret_alone(moto: &Moto, document: &str) {
    moto.enforce(false).await;
    let root = Credentials::new("test", "test", None, None, "test");
    let owner = configured(moto, root, "prod/").await;
    for made in ["db", "db-admin", "dbx"] {
        owner.create(&name(made), &SecretValue::new("x")).await.expect("created");
    }
    let backend = user(moto, "one", document, "prod/").await;
    get(&backend, "db").await.expect("allowed");
    for other in ["db-admin", "dbx", "missing"] {
        let error = get(&backend, other).await.expect_err(other);
        assert_eq!(error.kind(), "permission_denied", "{other}");
    }
}

async fn tags_need_their_own_action(moto: &Moto, document: &str) {
    let without = document.replace(", \"secretsmanager:TagResource\"", "");
    assert_ne!(without, document);
    let backend = user(moto, "untagged", &without, "prod/").await;
    let error = call(&backend, "create", "tags").await.expect_err("tagging is not allowed");
    assert_eq!(error.kind(), "permission_denied", "{error:?}");
}

async fn deleting_for_good_is_denied(moto: &Moto, document: &str) {
    moto.enforce(false).await;
    let root = Credentials::new("test", "test", None, None, "test");
    let owner = configured(moto, root, "prod/").await;
    owner.create(&name("kept"), &SecretValue::new("x")).await.expect("created");
    let backend = user(moto, "forceful", document, "prod/").await;
    let error = backend.delete(&name("kept"), true).await.expect_err("for good");
    assert_eq!(error.kind(), "permission_denied", "{error:?}");
    backend.delete(&name("kept"), false).await.expect("allowed");
}
