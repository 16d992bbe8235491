//! GCP Secret Manager: the backend against a server of Google's own wire format.

use std::time::Duration;

use vaultmux_mesh::{
    backends::{
        BackendError, SecretBackend,
        conformance::Profile,
        gcp::{GcpBackend, GcpCredentials, GcpSettings},
    },
    secret::{SecretValue, SecretVersion},
};

use crate::servers::{Server, assert_conforms, name, program};

const TIMEOUT: Duration = Duration::from_secs(10);

async fn start(arguments: &[&str]) -> (Server, String) {
    let arguments = [&["-listen", "127.0.0.1:0"], arguments].concat();
    let arguments = arguments.into_iter().map(str::to_owned).collect();
    let mut server = Server::start(&program("gcp-secret-manager"), |_| arguments);
    let url = server
        .ready(async |log| {
            let (_, url) = log.split_once("listening on ")?;
            Some(url.split_once('\n')?.0.to_owned())
        })
        .await;
    (server, url)
}

async fn backend(url: &str, location: Option<&str>, credentials: GcpCredentials) -> GcpBackend {
    let settings = GcpSettings {
        project: "my-project".to_owned(),
        location: location.map(str::to_owned),
        endpoint_url: Some(url.to_owned()),
        credentials,
        ..GcpSettings::default()
    };
    GcpBackend::connect(settings, TIMEOUT).await.expect("set up")
}

#[tokio::test]
async fn backend_conforms() {
    let (_server, url) = start(&[]).await;
    let odd_names = &["-", "_", "---___123___---", "Mixed_Case-7", "latest"];
    for location in [None, Some("europe-west3")] {
        let backend = backend(&url, location, GcpCredentials::Anonymous).await;
        let profile = Profile {
            join: |words| words.join("-"),
            odd_names,
            previous: false,
            max_value: 64 << 10,
            names: 260,
            ..Profile::new(GcpBackend::GRAMMAR)
        };
        assert_conforms(&backend, profile).await;
    }
}

#[tokio::test]
async fn longest_name_is_a_name_like_any_other() {
    let (_server, url) = start(&[]).await;
    let backend = backend(&url, None, GcpCredentials::Anonymous).await;
    let long = name(GcpBackend::GRAMMAR, &"a".repeat(255));
    backend.create(&long, &SecretValue::new("x")).await.expect("created");
    backend.get(&long, &SecretVersion::Latest).await.expect("readable");
    backend.delete(&long, false).await.expect("deleted");
}

#[tokio::test]
async fn a_token_that_the_store_does_not_know_is_a_denial() {
    let (_server, url) = start(&["-token", "the-only-one"]).await;
    let backend = backend(&url, None, GcpCredentials::Anonymous).await;
    let refused = backend.get(&name(GcpBackend::GRAMMAR, "db"), &SecretVersion::Latest).await;
    assert!(matches!(refused, Err(BackendError::PermissionDenied(Some(_)))), "{refused:?}");
}
