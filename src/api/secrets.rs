//! List, read, create, update and delete; versions.

use std::time::SystemTime;

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::{
    Recorder,
    accept::Form,
    cursor::Listing,
    entity::{CACHE_STATUS, Preconditions, cache_headers, entity_tag},
    json::{json, parse},
    message::{
        CreateSecret, Created, Encoding, Secret, SecretNames, SecretVersions, UpdateSecret,
        Updated, VersionOfSecret,
    },
    problem::{Problem, ProblemCode},
};
use crate::{
    audit::Operation,
    identity::Principal,
    metrics::Edge,
    operation::{PageParameters, SECRETS_PATH},
    policy::{CollectionPermit, Denial, Permit, Verb},
    resolver::{self, BackendError, Page, ResolveError, Resolved, VersionEntry},
    secret::{
        BackendName, InvalidReference, NameEncoding, SecretName, SecretRecord, SecretRef,
        SecretValue,
    },
    snapshot::Snapshot,
};

/// The most names of a page where the caller gave a cursor and no limit.
const USUAL_LIMIT: usize = 1000;

/// One authenticated call.
pub(super) struct Call<'a> {
    pub(super) recorder: Recorder<'a>,
    pub(super) snapshot: &'a Snapshot,
    pub(super) principal: &'a Principal,
    pub(super) deadline: Instant,
    pub(super) request_id: &'a str,
}

// === impl Call ===

impl Call<'_> {
    pub(super) async fn list(
        &self,
        backend: Option<BackendName>,
        page: &PageParameters,
    ) -> Result<Response<Bytes>, Problem> {
        let catalog = &self.snapshot.catalog;
        let permit = self.snapshot.policies.authorize_collection(self.principal, Verb::List);
        let backend = backend.or_else(|| catalog.default_backend().cloned());
        let asked = || Some(Operation::collection(Verb::List, backend.as_ref()));
        let decision = permit.as_ref().map(CollectionPermit::decision);
        self.recorder.record(decision, Some(self.principal), asked);
        let permit = permit?;
        let backend = backend.ok_or(InvalidReference::NoBackend)?;
        let grammar = catalog.backend(backend.as_str()).map(|(_, entry)| entry.grammar);
        let prefix = match (&page.prefix, grammar) {
            (Some(prefix), Some(grammar)) => {
                grammar.canonical_prefix(prefix).map_err(InvalidReference::from)?
            }
            (None, _) | (_, None) => String::new(),
        };
        let resolver = &self.snapshot.resolver;
        let plain = |names: Vec<SecretName>| names.iter().map(ToString::to_string).collect();
        if page.limit.is_none() && page.cursor.is_none() {
            let names = resolver.list_under(&permit, &backend, &prefix, self.call()).await?;
            let secrets = plain(names);
            return Ok(json(StatusCode::OK, &SecretNames { secrets, next_cursor: None }));
        }
        let listing = Listing { principal: self.principal, backend: &backend, prefix: &prefix };
        let (tags, now) = (self.snapshot.grants.tags(), SystemTime::now());
        let open = |cursor: &String| {
            let after = listing.open(tags, cursor, now);
            after.ok_or_else(|| Problem::new(ProblemCode::InvalidCursor))
        };
        let after = page.cursor.as_ref().map(open).transpose()?;
        let limit = page.limit.unwrap_or(USUAL_LIMIT);
        let part = Page { prefix: &prefix, after: after.as_deref(), limit };
        let found = resolver.page(&permit, &backend, part, self.call()).await?;
        let last = found.names.last().filter(|_| found.more);
        let next_cursor = last.map(|last| listing.cursor(tags, last.as_str(), now));
        let secrets = plain(found.names);
        Ok(json(StatusCode::OK, &SecretNames { secrets, next_cursor }))
    }

    pub(super) async fn create(&self, body: &[u8]) -> Result<Response<Bytes>, Problem> {
        let body: CreateSecret = parse(body)?;
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
        let mut response = json(StatusCode::CREATED, &Created { name: &name });
        // A filter's path to the secrets may be another, which the filter knows.
        if self.recorder.edge == Edge::Rest
            && let Ok(location) = HeaderValue::try_from(location(&name, body.backend.as_deref()))
        {
            response.headers_mut().insert(header::LOCATION, location);
        }
        Ok(response)
    }

    pub(super) async fn get(
        &self,
        secret: &SecretRef,
        refresh: bool,
        headers: &HeaderMap,
    ) -> Result<Response<Bytes>, Problem> {
        let permit = self.authorize(Verb::Get, secret)?;
        let not_acceptable = || Problem::new(ProblemCode::NotAcceptable);
        let form = Form::accepted(headers).ok_or_else(not_acceptable)?;
        let Resolved { record, origin } =
            self.snapshot.resolver.read(&permit, refresh, self.call()).await?;
        let (keys, asked) = (&self.snapshot.grants, Preconditions::of(headers));
        if !asked.allow_read(keys, secret, &record, form) {
            return Err(Problem::new(ProblemCode::PreconditionFailed));
        }
        let mut response = match form {
            _ if asked.has(keys, secret, &record, form) => {
                let mut response = Response::new(Bytes::new());
                *response.status_mut() = StatusCode::NOT_MODIFIED;
                response
            }
            Form::Json => json(StatusCode::OK, &shown(secret, &record)),
            Form::Raw => raw(&record),
        };
        let headers = response.headers_mut();
        headers.insert(header::ETAG, entity_tag(keys, secret, &record, form));
        headers.insert(header::VARY, HeaderValue::from_static("accept"));
        let (age, status) = cache_headers(origin);
        headers.insert(header::AGE, age);
        headers.insert(CACHE_STATUS, status);
        Ok(response)
    }

    pub(super) async fn write(
        &self,
        verb: Verb,
        secret: &SecretRef,
        force: bool,
        (headers, body): (&HeaderMap, &[u8]),
    ) -> Result<Response<Bytes>, Problem> {
        let permit = self.authorize(verb, secret)?;
        let resolver = &self.snapshot.resolver;
        let condition = Preconditions::of(headers).of_write(&self.snapshot.grants, secret);
        if verb == Verb::Delete {
            resolver.delete_if(&permit, force, condition, self.call()).await?;
            let mut response = Response::new(Bytes::new());
            *response.status_mut() = StatusCode::NO_CONTENT;
            return Ok(response);
        }
        let body: UpdateSecret = parse(body)?;
        let value = plaintext(body.value, body.value_base64)?;
        let version = resolver.update_if(&permit, &value, condition, self.call()).await?;
        let name = secret.name.as_str();
        Ok(json(StatusCode::OK, &Updated { name, version: &version }))
    }

    pub(super) async fn versions(&self, secret: &SecretRef) -> Result<Response<Bytes>, Problem> {
        let permit = self.authorize(Verb::Get, secret)?;
        let found = self.snapshot.resolver.versions(&permit, self.call()).await?;
        let version = |entry: &VersionEntry| VersionOfSecret {
            version: entry.id.to_string(),
            stages: entry.stages.iter().map(ToString::to_string).collect(),
            created_at: entry.created_at.and_then(super::rfc3339),
            enabled: entry.enabled,
        };
        let versions = SecretVersions {
            name: secret.name.as_str(),
            backend: secret.backend.as_str(),
            versions: found.iter().map(version).collect(),
        };
        Ok(json(StatusCode::OK, &versions))
    }

    pub(super) fn call(&self) -> resolver::Call {
        let request_id = Some(self.request_id.into());
        resolver::Call { deadline: self.deadline, request_id }
    }

    /// Takes one more read from the caller's share.
    pub(super) fn share(&self) -> Result<(), Problem> {
        self.snapshot.shares.take(self.principal).map_err(|wait| {
            self.recorder.metrics.rate_limited();
            Problem::too_many(wait)
        })
    }

    pub(super) fn authorize(&self, verb: Verb, secret: &SecretRef) -> Result<Permit, Denial> {
        let outcome = self.snapshot.policies.authorize(self.principal, verb, secret);
        let asked = || Some(Operation::secret(verb, secret));
        let decision = outcome.as_ref().map(Permit::decision);
        self.recorder.record(decision, Some(self.principal), asked);
        outcome
    }
}

/// A secret as JSON shows it.
#[expect(clippy::disallowed_methods, reason = "the answer to a permitted read")]
pub(super) fn shown<'a>(secret: &'a SecretRef, record: &'a SecretRecord) -> Secret<'a> {
    let bytes = record.value.expose_secret();
    let text = std::str::from_utf8(bytes).ok();
    let encoded = text.is_none().then(|| Zeroizing::new(STANDARD.encode(bytes)));
    Secret {
        name: secret.name.as_str(),
        value: text,
        encoding: encoded.as_ref().map(|_| Encoding::Base64),
        value_base64: encoded,
        backend: secret.backend.as_str(),
        version: &record.version,
        created_at: record.created_at.and_then(super::rfc3339),
    }
}

/// A secret's bytes.
#[expect(clippy::disallowed_methods, reason = "the answer to a permitted read")]
fn raw(record: &SecretRecord) -> Response<Bytes> {
    let mut response = Response::new(Bytes::copy_from_slice(record.value.expose_secret()));
    let bytes = HeaderValue::from_static(Form::Raw.media_type());
    response.headers_mut().insert(header::CONTENT_TYPE, bytes);
    response
}

/// Where a secret is that was made.
fn location(name: &str, backend: Option<&str>) -> String {
    match backend {
        Some(backend) => format!("{SECRETS_PATH}/{name}?backend={backend}"),
        None => format!("{SECRETS_PATH}/{name}"),
    }
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
