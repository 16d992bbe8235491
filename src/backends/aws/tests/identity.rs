//! Our own credentials: fetched once, their end known, and a clear kind of error
//! when there are none.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use aws_config::{
    imds::{self, credentials::ImdsCredentialsProvider},
    meta::credentials::CredentialsProviderChain,
    provider_config::ProviderConfig,
};
use aws_credential_types::provider::{ProvideCredentials, error::CredentialsError, future};

use super::*;

/// Hands out credentials that last so long, and counts; or none.
#[derive(Debug)]
struct Giving {
    lasting: Option<Duration>,
    asked: Arc<AtomicUsize>,
}

impl ProvideCredentials for Giving {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let end = self.lasting.map(|lasting| SystemTime::now() + lasting);
        let key = Credentials::new("AKIATEST", CANARY, None, end, "test");
        future::ProvideCredentials::ready(Ok(key))
    }

    fn fallback_on_interrupt(&self) -> Option<Credentials> {
        Some(Credentials::new("AKIAOLD", CANARY, None, None, "test"))
    }
}

#[derive(Debug)]
struct NoCredentials;

impl ProvideCredentials for NoCredentials {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::ready(Err(CredentialsError::not_loaded("none are configured")))
    }
}

/// Far less than what the SDK waits for credentials of its own accord.
const SOON: Duration = Duration::from_secs(5);

fn found() -> Reply {
    Reply::json(200, r#"{"Name":"db","VersionId":"1","SecretString":"x"}"#)
}

/// A backend whose credentials come from `provider`, over a store at `url`.
async fn from(
    url: &str,
    provider: impl ProvideCredentials + 'static,
    timeout: Duration,
) -> AwsBackend {
    let config = with_provider(base(url).await, SharedCredentialsProvider::new(provider));
    AwsBackend::new(config, AwsSettings::default(), timeout).await.expect("set up")
}

/// A backend that assumes a role at `sts`, over a store at `url`.
async fn assuming(url: &str, sts: &str, timeout: Duration) -> AwsBackend {
    let settings = AwsSettings {
        endpoint_url: Some(url.to_owned()),
        assume_role: role(),
        ..AwsSettings::default()
    };
    let config = base(sts).await.into_builder().retry_config(RetryConfig::disabled()).build();
    AwsBackend::new(config, settings, timeout).await.expect("set up")
}

#[tokio::test]
async fn credentials_are_fetched_once_and_their_end_is_known() {
    let fake = Fake::start().await;
    fake.always(found());
    for (lasting, calls_per_fetch) in [(Some(3600), 5), (None, 5), (Some(5), 1)] {
        let asked = Arc::new(AtomicUsize::new(0));
        let lasting = lasting.map(Duration::from_secs);
        let giving = Giving { lasting, asked: Arc::clone(&asked) };
        let backend = from(&fake.url, giving, TIMEOUT).await;
        assert_eq!(backend.credentials_expire(), None, "nothing was fetched yet");
        for _ in 0..5 {
            get(&backend, "db").await.expect("found");
        }
        // Those that are about to run out are fetched anew.
        assert_eq!(asked.load(Ordering::SeqCst), 5 / calls_per_fetch, "{lasting:?}");
        let left = backend.credentials_expire().map(|end| {
            end.duration_since(SystemTime::now()).unwrap_or_default().as_secs().next_multiple_of(60)
        });
        assert_eq!(left, lasting.map(|lasting| lasting.as_secs().next_multiple_of(60)));
        assert!(!format!("{backend:?}").contains(CANARY));
    }
}

#[tokio::test]
async fn old_credentials_are_still_at_hand_when_fetching_is_cut_off() {
    let giving = Giving { lasting: None, asked: Arc::default() };
    let config =
        with_provider(base("http://127.0.0.1:1").await, SharedCredentialsProvider::new(giving));
    let provider = credentials::provider(&config, None, Expiry::default()).await.expect("there");
    let old = provider.as_ref().fallback_on_interrupt().expect("passed on");
    assert_eq!(old.access_key_id(), "AKIAOLD");
}

#[tokio::test]
async fn a_role_is_assumed_as_configured() {
    let (store, sts) = (Fake::start().await, Fake::start().await);
    store.always(found());
    sts.always(Reply::new(
        403,
        "<ErrorResponse><Error><Code>AccessDenied</Code></Error></ErrorResponse>",
    ));
    for (external_id, session_name, expected) in [
        (None, None, vec!["RoleSessionName=vaultmux-mesh"]),
        (
            Some("their:4711"),
            Some("eu@mesh"),
            vec!["ExternalId=their%3A4711", "RoleSessionName=eu%40mesh"],
        ),
    ] {
        let role = AssumeRole {
            role_arn: ROLE.to_owned(),
            external_id: external_id.map(str::to_owned),
            session_name: session_name.map(str::to_owned),
        };
        let settings = AwsSettings {
            endpoint_url: Some(store.url.clone()),
            assume_role: Some(role),
            ..AwsSettings::default()
        };
        let config = base(&sts.url).await;
        let backend = AwsBackend::new(config, settings, TIMEOUT).await.expect("set up");
        get(&backend, "db").await.expect_err("refused");
        let calls = sts.calls();
        let asked = String::from_utf8_lossy(&calls[0].body).into_owned();
        for part in expected {
            assert!(asked.split('&').any(|pair| pair == part), "{part}: {asked}");
        }
        assert_eq!(asked.contains("ExternalId"), external_id.is_some(), "{asked}");
    }
    assert_eq!(operations(&store), [""; 0], "nobody was let in");
}

#[tokio::test]
async fn a_refusal_of_sts_is_a_denial_and_its_failure_an_outage() {
    let (store, sts) = (Fake::start().await, Fake::start().await);
    let backend = assuming(&store.url, &sts.url, TIMEOUT).await;
    let said = |code: &str| {
        let message = format!("<Message>about {ROLE}</Message>");
        format!(
            "<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code>{message}</Error></ErrorResponse>"
        )
    };
    for (status, body, kind) in [
        (403, said("AccessDenied"), "permission_denied"),
        (403, said("ExpiredToken"), "permission_denied"),
        (403, said("InvalidClientTokenId"), "permission_denied"),
        (403, said("SignatureDoesNotMatch"), "permission_denied"),
        (403, said("RegionDisabledException"), "permission_denied"),
        (400, said("ValidationError"), "permission_denied"),
        (400, said("InvalidIdentityToken"), "permission_denied"),
        (403, String::new(), "permission_denied"),
        (404, String::new(), "permission_denied"),
        (400, said("IDPCommunicationError"), "unavailable"),
        (500, said("InternalFailure"), "unavailable"),
        (503, said("ServiceUnavailable"), "unavailable"),
        (502, "<html>bad gateway</html>".to_owned(), "unavailable"),
        (504, String::new(), "timed_out"),
        (400, said("Throttling"), "throttled"),
        (429, String::new(), "throttled"),
        (200, "<html>welcome</html>".to_owned(), "unavailable"),
    ] {
        sts.always(Reply::new(status, body.clone()).header("content-type", "text/xml"));
        let error = get(&backend, "db").await.expect_err("no credentials");
        assert_eq!(error.kind(), kind, "{status} {body}: {error:?}");
        assert_eq!(sts.calls().len(), 1, "{status} {body}");
        if let BackendError::PermissionDenied(cause) = error {
            let cause = cause.expect("a cause").to_string();
            assert!(cause.contains("credentials"), "{cause}");
            assert!(
                body.is_empty() || cause.contains(ROLE) || cause.contains("unhandled"),
                "{cause}"
            );
        }
    }
    assert_eq!(operations(&store), [""; 0], "nobody was let in");
}

#[tokio::test]
async fn an_endpoint_that_hangs_costs_no_more_than_the_timeout() {
    let (store, hanging) = (Fake::start().await, Fake::start().await);
    store.always(found());
    let short = Duration::from_millis(400);
    let role = assuming(&store.url, &hanging.url, short).await;
    let instance = from(&store.url, metadata(&hanging.url), short).await;
    for (who, backend) in [("STS", role), ("instance metadata", instance)] {
        let started = Instant::now();
        let error = get(&backend, "db").await.expect_err(who);
        assert!(matches!(error, BackendError::TimedOut), "{who}: {error:?}");
        assert!(started.elapsed() < SOON, "{who}: {:?}", started.elapsed());
        assert!(!hanging.calls().is_empty(), "{who} was not asked");
        // Many at once do not wait for each other's attempt.
        let started = Instant::now();
        let calls = (0..8).map(|_| get(&backend, "db"));
        for result in futures_util::future::join_all(calls).await {
            assert!(matches!(result, Err(BackendError::TimedOut)), "{who}: {result:?}");
        }
        assert!(started.elapsed() < SOON, "{who}: {:?}", started.elapsed());
        hanging.calls();
    }
    assert_eq!(operations(&store), [""; 0], "nobody was let in");
}

/// The chain as it ends on an instance: its metadata is what is left.
fn metadata(url: &str) -> CredentialsProviderChain {
    let config = ProviderConfig::without_region().with_http_client(http::client());
    let client = imds::Client::builder().configure(&config).endpoint(url).expect("valid URL");
    let provider = ImdsCredentialsProvider::builder()
        .configure(&config)
        .imds_client(client.max_attempts(1).build())
        .build();
    CredentialsProviderChain::first_try("None", NoCredentials).or_else("Instance", provider)
}

#[tokio::test]
async fn metadata_that_cannot_be_had_is_an_outage_and_no_role_a_denial() {
    let (store, instance) = (Fake::start().await, Fake::start().await);
    let backend = from(&store.url, metadata(&instance.url), TIMEOUT).await;
    let token = |reply: Reply| {
        move |call: &Call| match (call.method.as_str(), call.target.as_str()) {
            ("PUT", "/latest/api/token") => {
                Reply::new(200, "token").header("x-aws-ec2-metadata-token-ttl-seconds", "21600")
            }
            _ => reply.clone(),
        }
    };
    for (status, kind) in [
        (404, "permission_denied"),
        (403, "permission_denied"),
        (500, "unavailable"),
        (503, "unavailable"),
    ] {
        instance.on(token(Reply::new(status, "")));
        let error = get(&backend, "db").await.expect_err("no credentials");
        assert_eq!(error.kind(), kind, "{status}: {error:?}");
    }
    let gone = from(&store.url, metadata(&closed().await), TIMEOUT).await;
    let error = get(&gone, "db").await.expect_err("no credentials");
    assert_eq!(error.kind(), "unavailable", "{error:?}");
    let nothing = from(&store.url, NoCredentials, TIMEOUT).await;
    let error = get(&nothing, "db").await.expect_err("no credentials");
    assert_eq!(error.kind(), "permission_denied", "{error:?}");
    assert_eq!(operations(&store), [""; 0], "nobody was let in");
}

#[tokio::test]
async fn sts_that_is_not_reached_is_an_outage() {
    let store = Fake::start().await;
    let backend = assuming(&store.url, &closed().await, TIMEOUT).await;
    let error = get(&backend, "db").await.expect_err("no credentials");
    assert!(matches!(error, BackendError::Unavailable(Some(_))), "{error:?}");
    // It is the innermost failure that counts: no credentials to assume a role with.
    let config =
        with_provider(base(&store.url).await, SharedCredentialsProvider::new(NoCredentials));
    let settings = AwsSettings { assume_role: role(), ..AwsSettings::default() };
    let backend = AwsBackend::new(config, settings, TIMEOUT).await.expect("set up");
    let error = get(&backend, "db").await.expect_err("no credentials");
    assert_eq!(error.kind(), "permission_denied", "{error:?}");
    assert_eq!(operations(&store), [""; 0], "nobody was let in");
}
