//! One call for Secrets.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{Method, Request, header};
use zeroize::Zeroizing;

use super::error::{Answer, Refusal};
use crate::{
    apiserver::{ApiServer, CallError},
    backends::{BackendError, failure},
};

/// The longest answer, in bytes: a page full of the largest objects.
const MAX_ANSWER: usize = 16 << 20;

/// Objects without their values: what writes and watches are to answer with.
pub(super) const METADATA_ONLY: &str =
    "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";

/// The API server, and how long a method may take with all its calls.
pub(super) struct Cluster {
    pub(super) api: ApiServer,
    pub(super) timeout: Duration,
}

// === impl Cluster ===

impl Cluster {
    /// As [`crate::backends::SecretBackend::credentials_expire`].
    pub(super) fn credentials_expire(&self) -> Option<SystemTime> {
        self.api.credentials_expire()
    }

    /// Bounds a method with all its calls.
    pub(super) async fn in_time<T>(
        &self,
        method: impl Future<Output = Result<T, BackendError>>,
    ) -> Result<T, BackendError> {
        tokio::time::timeout(self.timeout, method).await.unwrap_or(Err(BackendError::TimedOut))
    }

    pub(super) async fn get(
        &self,
        target: &str,
        object: &str,
    ) -> Result<Zeroizing<Vec<u8>>, Refusal> {
        let request = request(Method::GET, target, "application/json", None);
        self.call(request, object, false).await
    }

    pub(super) async fn post(
        &self,
        collection: &str,
        object: &str,
        body: Bytes,
    ) -> Result<Zeroizing<Vec<u8>>, Refusal> {
        let target = format!("{collection}?fieldManager=vaultmux-mesh");
        let body = ("application/json", body);
        self.call(request(Method::POST, &target, METADATA_ONLY, Some(body)), object, true).await
    }

    /// Sends a change in the language of RFC 7396.
    pub(super) async fn patch(
        &self,
        path: &str,
        object: &str,
        patch: Bytes,
    ) -> Result<Zeroizing<Vec<u8>>, Refusal> {
        let target = format!("{path}?fieldManager=vaultmux-mesh");
        let body = ("application/merge-patch+json", patch);
        self.call(request(Method::PATCH, &target, METADATA_ONLY, Some(body)), object, true).await
    }

    pub(super) async fn delete(
        &self,
        path: &str,
        object: &str,
        precondition: Bytes,
    ) -> Result<(), Refusal> {
        let body = ("application/json", precondition);
        let request = request(Method::DELETE, path, METADATA_ONLY, Some(body));
        // Whatever it says, the object is gone or going.
        self.call(request, object, true).await.map(drop)
    }

    async fn call(
        &self,
        request: Result<Request<Bytes>, http::Error>,
        object: &str,
        write: bool,
    ) -> Result<Zeroizing<Vec<u8>>, Refusal> {
        let request = request
            .map_err(|_| BackendError::Invalid("the request could not be built".to_owned()))?;
        let answer = self.api.send(request, MAX_ANSWER).await.map_err(unanswered)?;
        if (200..300).contains(&answer.status) {
            return Ok(answer.body);
        }
        let answer = Answer {
            status: answer.status,
            retry_after: answer.retry_after.as_deref().and_then(failure::retry_after),
            audit_id: &answer.audit_id,
            body: &answer.body,
            write,
            object,
        };
        Err(answer.sort())
    }
}

fn request(
    method: Method,
    target: &str,
    accept: &str,
    body: Option<(&str, Bytes)>,
) -> Result<Request<Bytes>, http::Error> {
    let request = Request::builder().method(method).uri(target).header(header::ACCEPT, accept);
    match body {
        None => request.body(Bytes::new()),
        Some((kind, body)) => request.header(header::CONTENT_TYPE, kind).body(body),
    }
}

pub(super) fn unanswered(error: CallError) -> BackendError {
    match error {
        CallError::Credentials(text) => BackendError::PermissionDenied(Some(failure::cause(text))),
        CallError::Unreachable(text) => BackendError::Unavailable(Some(failure::cause(text))),
        CallError::TimedOut => BackendError::TimedOut,
        CallError::TooLong => BackendError::Invalid(error.to_string()),
    }
}
