//! List, read, create, update and delete.

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::{
    Recorder,
    problem::{Problem, ProblemCode},
};
use crate::{
    audit::Operation,
    identity::Principal,
    policy::{CollectionPermit, Denial, Permit, Verb},
    resolver::{self, BackendError, ResolveError},
    secret::{BackendName, NameEncoding, SecretRecord, SecretRef, SecretValue},
    snapshot::Snapshot,
};

/// One authenticated call.
pub(super) struct Call<'a> {
    pub(super) recorder: Recorder<'a>,
    pub(super) snapshot: &'a Snapshot,
    pub(super) principal: &'a Principal,
    pub(super) deadline: Instant,
    pub(super) request_id: &'a str,
}

#[derive(Serialize)]
struct Names {
    secrets: Vec<String>,
}

#[derive(Serialize)]
struct Secret<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_base64: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    encoding: Option<&'static str>,
    backend: &'a str,
    version: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    created_at: Option<String>,
}

#[derive(Serialize)]
struct Written<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<&'a str>,
}

#[derive(Deserialize)]
struct CreateBody {
    name: Option<String>,
    value: Option<Zeroizing<String>>,
    value_base64: Option<Zeroizing<String>>,
    backend: Option<String>,
}

#[derive(Deserialize)]
struct UpdateBody {
    value: Option<Zeroizing<String>>,
    value_base64: Option<Zeroizing<String>>,
}

// === impl Call ===

impl Call<'_> {
    pub(super) async fn list(
        &self,
        backend: Option<BackendName>,
    ) -> Result<Response<Bytes>, Problem> {
        let catalog = &self.snapshot.catalog;
        let permit = self.snapshot.policies.authorize_collection(self.principal, Verb::List);
        let backend = backend.or_else(|| catalog.default_backend().cloned());
        let asked = || Some(Operation::collection(Verb::List, backend.as_ref()));
        let decision = permit.as_ref().map(CollectionPermit::decision);
        self.recorder.record(decision, Some(self.principal), asked);
        let permit = permit?;
        let backend = backend.ok_or(crate::secret::InvalidReference::NoBackend)?;
        let names = self.snapshot.resolver.list(&permit, &backend, self.call()).await?;
        let secrets = names.iter().map(|name| name.as_str().to_owned()).collect();
        Ok(json(StatusCode::OK, &Names { secrets }))
    }

    pub(super) async fn create(&self, body: &[u8]) -> Result<Response<Bytes>, Problem> {
        let body: CreateBody = parse(body)?;
        let name = body.name.unwrap_or_default();
        if name.is_empty() {
            return Err(Problem::body("name is required"));
        }
        let value = plaintext(body.value, body.value_base64)?;
        let catalog = &self.snapshot.catalog;
        let secret = catalog.locate(&name, NameEncoding::Plain, body.backend.as_deref())?;
        let permit = self.authorize(Verb::Create, &secret)?;
        let created = self.snapshot.resolver.create(&permit, &value, self.call()).await;
        created.map_err(|error| match error {
            // The name cannot be had before the store has let go of it.
            ResolveError::Backend { error: BackendError::PendingDeletion, .. } => {
                Problem::new(ProblemCode::AlreadyExists)
            }
            error => error.into(),
        })?;
        Ok(json(StatusCode::CREATED, &Written { name: &name, version: None }))
    }

    pub(super) async fn get(
        &self,
        secret: &SecretRef,
        refresh: bool,
    ) -> Result<Response<Bytes>, Problem> {
        let permit = self.authorize(Verb::Get, secret)?;
        let resolver = &self.snapshot.resolver;
        let record = match refresh {
            false => resolver.resolve(&permit, self.call()).await?,
            true => resolver.refresh(&permit, self.call()).await?,
        };
        Ok(secret_response(secret, &record))
    }

    pub(super) async fn write(
        &self,
        verb: Verb,
        secret: &SecretRef,
        force: bool,
        body: &[u8],
    ) -> Result<Response<Bytes>, Problem> {
        let permit = self.authorize(verb, secret)?;
        let resolver = &self.snapshot.resolver;
        if verb == Verb::Delete {
            resolver.delete(&permit, force, self.call()).await?;
            let mut response = Response::new(Bytes::new());
            *response.status_mut() = StatusCode::NO_CONTENT;
            return Ok(response);
        }
        let body: UpdateBody = parse(body)?;
        let value = plaintext(body.value, body.value_base64)?;
        let version = resolver.update(&permit, &value, self.call()).await?;
        let name = secret.name.as_str();
        Ok(json(StatusCode::OK, &Written { name, version: Some(&version) }))
    }

    fn call(&self) -> resolver::Call {
        let request_id = Some(self.request_id.into());
        resolver::Call { deadline: self.deadline, request_id }
    }

    fn authorize(&self, verb: Verb, secret: &SecretRef) -> Result<Permit, Denial> {
        let outcome = self.snapshot.policies.authorize(self.principal, verb, secret);
        let asked = || Some(Operation::secret(verb, secret));
        let decision = outcome.as_ref().map(Permit::decision);
        self.recorder.record(decision, Some(self.principal), asked);
        outcome
    }
}

#[expect(clippy::disallowed_methods, reason = "the answer to a permitted read")]
fn secret_response(secret: &SecretRef, record: &SecretRecord) -> Response<Bytes> {
    let bytes = record.value.expose_secret();
    let text = std::str::from_utf8(bytes).ok();
    let encoded = text.is_none().then(|| Zeroizing::new(STANDARD.encode(bytes)));
    let created_at = record.created_at.and_then(super::rfc3339);
    json(
        StatusCode::OK,
        &Secret {
            name: secret.name.as_str(),
            value: text,
            value_base64: encoded.as_deref().map(String::as_str),
            encoding: encoded.as_ref().map(|_| "base64"),
            backend: secret.backend.as_str(),
            version: &record.version,
            created_at,
        },
    )
}

pub(super) fn json(status: StatusCode, body: &impl Serialize) -> Response<Bytes> {
    let body = serde_json::to_vec(body).expect("strings are always JSON");
    let mut response = Response::new(Bytes::from(body));
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/json; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

/// Parses a body. The parser's own words stay out of the answer: they quote the
/// input, and the input holds a secret.
pub(super) fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Problem> {
    if body.is_empty() {
        return Err(Problem::body("request body is required"));
    }
    serde_json::from_slice(body).map_err(|error| {
        use serde_json::error::Category;
        Problem::body(match error.classify() {
            Category::Data => "request body does not have the expected fields",
            Category::Io | Category::Syntax | Category::Eof => "request body is not valid JSON",
        })
    })
}

fn plaintext(
    value: Option<Zeroizing<String>>,
    value_base64: Option<Zeroizing<String>>,
) -> Result<SecretValue, Problem> {
    let bytes = match (value, value_base64) {
        (Some(text), None) => text.as_bytes().to_vec(),
        (None, Some(encoded)) => STANDARD
            .decode(encoded.as_bytes())
            .map_err(|_| Problem::body("value_base64 is not valid base64"))?,
        (None, None) => return Err(Problem::body("value is required")),
        (Some(_), Some(_)) => {
            return Err(Problem::body("value and value_base64 exclude each other"));
        }
    };
    // As vaultmux-server does; an empty value is most often a lost one.
    if bytes.is_empty() {
        return Err(Problem::body("value must not be empty"));
    }
    Ok(SecretValue::new(bytes))
}
