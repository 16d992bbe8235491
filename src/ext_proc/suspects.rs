//! Whether a destination refused the secrets that went out with a request.

use envoy_types::pb::envoy::service::ext_proc::v3::HttpHeaders;

use super::request::Used;
use crate::{metrics::Metrics, signing::AccessTokens, snapshot::Snapshot};

/// Suspects what went out, if the response has one of the statuses that say so: secrets,
/// and tokens that were issued for them.
pub(super) fn suspect(
    headers: &HttpHeaders,
    used: &Used,
    snapshot: &Snapshot,
    tokens: (&AccessTokens, &Metrics),
    request_id: &str,
) {
    let statuses = &snapshot.suspect_statuses;
    let Some(status) = status(headers).filter(|status| statuses.contains(status)) else { return };
    for (permit, record) in &used.secrets {
        let outcome = snapshot.resolver.suspect(permit, &record.version);
        tracing::info!(
            status,
            outcome = outcome.as_str(),
            secret.backend = %permit.secret().backend,
            request_id,
            "a destination refused a secret"
        );
    }
    let (tokens, metrics) = tokens;
    for token in &used.issued {
        let outcome = tokens.suspect(token).as_str();
        metrics.suspicion(outcome);
        tracing::info!(status, outcome, request_id, "a destination refused an issued token");
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
