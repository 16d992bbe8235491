//! What a check request asked for, as the audit stream tells it.

use std::borrow::Cow;

use super::{attributes::Http, plain_path};
use crate::{
    audit::{AuditedHttp, Operation},
    identity::ServiceAccount,
    operation::SecretOperation,
    policy::HttpRequest,
};

/// What was asked for; filled while it is decided.
#[derive(Default)]
pub(super) struct Asked<'a> {
    /// None for TCP.
    pub(super) http: Option<Http<'a>>,
    /// The workload that the request is for.
    pub(super) destination: Option<ServiceAccount>,
    /// What the request is under a secret route.
    pub(super) secrets: Option<SecretOperation>,
}

// === impl Asked ===

impl Asked<'_> {
    /// For the audit stream; none where the request has more than one reading.
    pub(super) fn operation(&self) -> Option<Operation> {
        let Some(http) = self.http else {
            return Some(Operation::connection(self.destination.as_ref()));
        };
        let path = match &self.secrets {
            Some(_) => plain_path(http.path),
            None => Cow::Borrowed(http.path),
        };
        let request = HttpRequest::new(http.method, http.host, &path, self.destination.clone());
        let request = request.ok();
        match &self.secrets {
            Some(operation) => Some(Operation::from(operation).by(request.as_ref())),
            None => Some(Operation::Http(AuditedHttp::from(request.as_ref()?))),
        }
    }
}
