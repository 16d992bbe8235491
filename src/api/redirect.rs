//! Requests with which a proxy follows a redirect by itself.
//!
//! Envoy sends the headers of the first attempt once more, to where the upstream says. What
//! was put into them is still there, and nothing tells it from what the client sent: the
//! references are gone. So such a request is refused wherever there can be a secret in it.

use std::borrow::Cow;

use super::{Problem, ProblemCode, Refusal};
use crate::policy::{PolicySet, canonical_host, split_url};

/// Where Envoy says which URL was asked for first. It removes what clients from outside say.
pub const ORIGINAL_URL: &str = "x-envoy-original-url";

/// Refuses a request that was first made for this URL, if a secret may have been put into it
/// then. One that cannot be read may have been any.
///
/// # Errors
/// [`Refusal`].
pub fn not_redirected(original_url: &[u8], policies: &PolicySet) -> Result<(), Refusal> {
    let url = std::str::from_utf8(original_url).ok();
    let host = url.and_then(split_url).and_then(|(host, _)| canonical_host(host).ok());
    if !policies.may_use_toward(host.as_ref().map(Cow::as_ref)) {
        return Ok(());
    }
    let problem = Problem::new(ProblemCode::Forbidden);
    Err(Refusal { problem, details: "vaultmux_internal_redirect".to_owned() })
}
