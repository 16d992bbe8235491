//! What AWS does, as the emulator has it.

use super::{moto::Moto, *};
use crate::backends::conformance::Profile;

/// One test for all, so that the server is started once and ended with it.
#[tokio::test]
async fn backend_agrees_with_an_emulated_store() {
    let moto = Moto::start().await;
    deleted_secrets_are_pending(&moto).await;
    each_method_is_one_call(&moto).await;
    new_secrets_are_tagged_and_encrypted_as_configured(&moto).await;
    versions_tell_their_stages(&moto).await;
    roles_are_assumed_when_first_needed(&moto).await;
    store_conforms(&moto).await;
}

async fn store_conforms(moto: &Moto) {
    let backend = backend(&moto.url, "mesh/", TIMEOUT).await;
    // Neighbours: without the prefix, and with names that no caller may use.
    for neighbour in ["other", "mesh", "mesh/", "mesh//odd", "mesh/a..b"] {
        let call = backend.client.create_secret().name(neighbour).secret_string("x");
        call.send().await.expect("created");
    }
    let odd_names = &["of.a_secret+1=2@x-y", "a/b/c/d"];
    let profile = Profile { odd_names, empty_values: false, ..Profile::new(AwsBackend::GRAMMAR) };
    conformance::assert_conforms(&backend, profile).await;
}

async fn each_method_is_one_call(moto: &Moto) {
    let backend = backend(&moto.url, "counted/", TIMEOUT).await;
    let (name, value) = (name("a/b"), SecretValue::new("x"));
    moto.calls();
    backend.create(&name, &value).await.expect("created");
    assert_eq!(moto.calls(), ["CreateSecret"]);
    backend.create(&name, &value).await.expect_err("taken");
    assert_eq!(moto.calls(), ["CreateSecret"]);
    backend.update(&name, &value).await.expect("updated");
    assert_eq!(moto.calls(), ["PutSecretValue"]);
    for selector in ["latest", "previous", "AWSCURRENT"] {
        let version = SecretVersion::parse(selector).expect("valid selector");
        backend.get(&name, &version).await.expect("readable");
        assert_eq!(moto.calls(), ["GetSecretValue"], "{selector}");
    }
    backend.list(None).await.expect("listed");
    assert_eq!(moto.calls(), ["ListSecrets"]);
    backend.versions(&name).await.expect("listed");
    assert_eq!(moto.calls(), ["ListSecretVersionIds"]);
    backend.delete(&name, true).await.expect("deleted");
    assert_eq!(moto.calls(), ["DeleteSecret"]);
    get(&backend, "a/b").await.expect_err("gone");
    assert_eq!(moto.calls(), ["GetSecretValue"]);
    // AWS reports success for this too.
    backend.delete(&name, true).await.expect("nothing to delete");
    assert_eq!(moto.calls(), ["DeleteSecret"]);
}

async fn deleted_secrets_are_pending(moto: &Moto) {
    let backend = backend(&moto.url, "pending/", TIMEOUT).await;
    let name = name("db");
    backend.create(&name, &SecretValue::new("x")).await.expect("created");
    backend.delete(&name, false).await.expect("deleted");
    let read = get(&backend, "db").await;
    assert!(matches!(read, Err(BackendError::PendingDeletion)), "{read:?}");
    let again = backend.delete(&name, false).await;
    assert!(matches!(again, Err(BackendError::PendingDeletion)), "{again:?}");
    assert_eq!(backend.list(None).await.expect("listed").names, []);
    backend.client.restore_secret().secret_id("pending/db").send().await.expect("restored");
    get(&backend, "db").await.expect("readable");
    backend.delete(&name, true).await.expect("deleted");
}

async fn new_secrets_are_tagged_and_encrypted_as_configured(moto: &Moto) {
    let settings = AwsSettings {
        prefix: "tagged/".to_owned(),
        tags: [("team".to_owned(), "payments".to_owned())].into(),
        kms_key_id: Some("alias/mesh".to_owned()),
        recovery_window_days: Some(7),
        ..AwsSettings::default()
    };
    let backend = AwsBackend::new(base(&moto.url).await, settings, TIMEOUT).await.expect("set up");
    let name = name("db");
    backend.create(&name, &SecretValue::new("x")).await.expect("created");
    let describe = || backend.client.describe_secret().secret_id("tagged/db").send();
    let made = describe().await.expect("described");
    assert_eq!(made.kms_key_id(), Some("alias/mesh"));
    let tags: Vec<_> = made.tags().iter().map(|tag| (tag.key(), tag.value())).collect();
    assert_eq!(tags, [(Some("team"), Some("payments"))]);
    backend.delete(&name, false).await.expect("deleted");
    let gone = describe().await.expect("described").deleted_date.expect("a date");
    let in_a_week = SystemTime::now() + Duration::from_secs(7 * 24 * 3600);
    let gone = SystemTime::try_from(gone).expect("a date");
    assert!(gone < in_a_week + Duration::from_secs(24 * 3600), "{gone:?}");
    backend.delete(&name, true).await.expect("deleted");
}

async fn versions_tell_their_stages(moto: &Moto) {
    let backend = backend(&moto.url, "versions/", TIMEOUT).await;
    let name = name("db");
    let old = backend.create(&name, &SecretValue::new("old")).await.expect("created");
    let new = backend.update(&name, &SecretValue::new("new")).await.expect("updated");
    let versions = backend.versions(&name).await.expect("listed");
    let stages = |id: &str| {
        let entry = versions.iter().find(|entry| &*entry.id == id).expect("listed");
        entry.stages.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(stages(&new), ["AWSCURRENT"]);
    assert_eq!(stages(&old), ["AWSPREVIOUS"]);
    backend.delete(&name, true).await.expect("deleted");
}

async fn roles_are_assumed_when_first_needed(moto: &Moto) {
    let settings = AwsSettings { assume_role: role(), ..AwsSettings::default() };
    moto.calls();
    let backend = AwsBackend::new(base(&moto.url).await, settings, TIMEOUT).await.expect("set up");
    assert_eq!(moto.calls(), [""; 0]);
    assert_eq!(backend.credentials_expire(), None);
    for _ in 0..3 {
        get(&backend, "missing").await.expect_err("missing");
    }
    // STS has no target header.
    assert_eq!(moto.calls(), ["other", "GetSecretValue", "GetSecretValue", "GetSecretValue"]);
    let expire = backend.credentials_expire().expect("a role's credentials run out");
    let left = expire.duration_since(SystemTime::now()).expect("in the future");
    assert!((3000..=3600).contains(&left.as_secs()), "{left:?}");
}
