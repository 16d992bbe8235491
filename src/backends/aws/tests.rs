//! Against an emulator for what AWS does, against a fake for what the emulator
//! never does.

mod iam;
mod identity;
mod moto;
mod store;
mod wire;

use aws_credential_types::{Credentials, provider::SharedCredentialsProvider};

use super::*;
use crate::backends::{
    conformance,
    fake::{Call, Fake, Reply},
};

/// Longer than any answer takes.
const TIMEOUT: Duration = Duration::from_secs(20);
const CANARY: &str = "canary-7d21";
const ROLE: &str = "arn:aws:iam::123456789012:role/mesh";

async fn base(url: &str) -> SdkConfig {
    base_as(url, Credentials::new("test", "test", None, None, "test")).await
}

async fn base_as(url: &str, key: Credentials) -> SdkConfig {
    let region = Region::new("us-east-1");
    let loader = loader().region(region).endpoint_url(url).credentials_provider(key);
    loader.load().await
}

/// The same, with credentials from somewhere else.
fn with_provider(base: SdkConfig, provider: SharedCredentialsProvider) -> SdkConfig {
    base.into_builder().credentials_provider(provider).build()
}

async fn backend(url: &str, prefix: &str, timeout: Duration) -> AwsBackend {
    let settings = AwsSettings { prefix: prefix.to_owned(), ..AwsSettings::default() };
    AwsBackend::new(base(url).await, settings, timeout).await.expect("set up")
}

fn name(raw: &str) -> SecretName {
    conformance::name(AwsBackend::GRAMMAR, raw)
}

async fn get(backend: &AwsBackend, raw: &str) -> Result<SecretRecord, BackendError> {
    backend.get(&name(raw), &SecretVersion::Latest).await
}

fn role() -> Option<AssumeRole> {
    Some(AssumeRole { role_arn: ROLE.to_owned(), ..AssumeRole::default() })
}

/// An address where nothing listens.
async fn closed() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
    format!("http://{}", listener.local_addr().expect("bound"))
}

/// An error as AWS says it: status 400 whatever it is, the code in the body.
fn error(code: &str, message: &str) -> Reply {
    let body = serde_json::json!({"__type": code, "message": message}).to_string();
    Reply::new(400, body).header("content-type", "application/x-amz-json-1.1")
}

/// The operation of a call to Secrets Manager; STS has no header for that.
fn operation(call: &Call) -> &str {
    let target = call.headers.get("x-amz-target").and_then(|target| target.to_str().ok());
    target.and_then(|target| target.rsplit('.').next()).unwrap_or("other")
}

/// The operations called since the last time.
fn operations(fake: &Fake) -> Vec<String> {
    fake.calls().iter().map(|call| operation(call).to_owned()).collect()
}

#[test]
fn selectors_are_stages_or_ids() {
    let id = "a1b2c3d4-5678-90ab-cdef-EXAMPLE11111";
    let long = "s".repeat(65);
    for (selector, expected) in [
        ("latest", Selector::Current),
        ("current", Selector::Stage("AWSCURRENT")),
        ("previous", Selector::Stage("AWSPREVIOUS")),
        ("pending", Selector::Stage("AWSPENDING")),
        ("AWSPENDING", Selector::Stage("AWSPENDING")),
        ("Previous", Selector::Stage("Previous")),
        ("7", Selector::Stage("7")),
        (&long, Selector::Stage(&long)),
        (id, Selector::Id(id)),
    ] {
        let version = SecretVersion::parse(selector).expect("valid selector");
        assert_eq!(Selector::of(&version), expected, "{selector}");
    }
}
