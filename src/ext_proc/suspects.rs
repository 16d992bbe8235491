//! Secrets that went out with a request, to be suspected if the destination refuses them.

use std::sync::Arc;

use envoy_types::pb::envoy::service::ext_proc::v3::HttpHeaders;

use super::Watch;
use crate::{policy::Permit, resolver::Resolver};

/// What went out with one request.
pub(super) struct Suspects {
    pub(super) resolver: Resolver,
    /// What a destination answers to a credential that does not hold.
    pub(super) statuses: Arc<[u16]>,
    /// Permits, and the versions that were used.
    pub(super) used: Vec<(Permit, Arc<str>)>,
    pub(super) request_id: String,
}

// === impl Suspects ===

impl Watch for Suspects {
    fn on_response_headers(&mut self, headers: &HttpHeaders) {
        let Some(status) = status(headers).filter(|status| self.statuses.contains(status)) else {
            return;
        };
        for (permit, version) in self.used.drain(..) {
            let outcome = self.resolver.suspect(&permit, &version);
            tracing::info!(
                status,
                outcome = outcome.as_str(),
                secret.backend = %permit.secret().backend,
                request_id = self.request_id,
                "a destination refused a secret"
            );
        }
    }
}

/// Of the response; none if it is not one number.
fn status(headers: &HttpHeaders) -> Option<u16> {
    let map = headers.headers.iter().flat_map(|map| &map.headers);
    let mut sent = map.filter(|header| header.key == ":status");
    let only = sent.next().filter(|_| sent.next().is_none())?;
    let value = match only.raw_value.as_slice() {
        [] => only.value.as_bytes(),
        raw => raw,
    };
    std::str::from_utf8(value).ok()?.parse().ok()
}
