//! Who calls REST: a client certificate, a grant from our own `ext_authz`, or a process
//! of this pod.

use http::{HeaderName, header, request::Parts};

use crate::{
    identity::{Evidence, GrantKeys, GrantScope, Peer, SpiffeId},
    policy::{Denial, Reason},
};

/// A header that only a client of this API sends; its value does not matter.
pub(super) const REQUEST: HeaderName = HeaderName::from_static("x-vaultmux-request");

const GRANT: HeaderName = HeaderName::from_static("x-vaultmux-grant");

/// Collects what a request shows, and the connection that it came on: a certificate
/// and a grant must name the same service account. `local` is the identity of this listener's
/// callers, if it has one; it stands in only for requests that show nothing else
/// and did not pass a proxy, since behind a proxy everyone comes from loopback.
///
/// # Errors
/// A [`Denial`] for a grant that is not good for this request.
pub(super) fn evidence(
    head: &Parts,
    peer: Option<&Peer>,
    grants: &GrantKeys,
    local: Option<&SpiffeId>,
) -> Result<Evidence, Denial> {
    let mut evidence = Evidence::default();
    if let Some(peer) = peer {
        peer.add_to(&mut evidence);
    }
    let mut sent = head.headers.get_all(GRANT).iter();
    match (sent.next(), sent.next()) {
        (None, _) => {}
        (Some(grant), None) => {
            let refused = || Denial::new(Reason::InvalidIdentity);
            let grant = grant.to_str().map_err(|_| refused())?;
            let scope = GrantScope {
                method: head.method.as_str(),
                host: authority(head).ok_or_else(refused)?,
                path: head.uri.path(),
            };
            grants.open(grant, scope, &mut evidence).map_err(|_| refused())?;
        }
        (Some(_), Some(_)) => return Err(Denial::new(Reason::InvalidIdentity)),
    }
    if let Some(local) = local.filter(|_| evidence.is_empty() && !came_through_a_proxy(head)) {
        evidence.add_local(local.clone());
    }
    Ok(evidence)
}

/// The authority as the client sent it: HTTP/2 has it in the request line.
fn authority(head: &Parts) -> Option<&str> {
    match head.uri.authority() {
        Some(authority) => Some(authority.as_str()),
        None => head.headers.get(header::HOST)?.to_str().ok(),
    }
}

fn came_through_a_proxy(head: &Parts) -> bool {
    head.headers.keys().any(|name| {
        let name = name.as_str();
        name == "forwarded"
            || name == "via"
            || name.starts_with("x-forwarded-")
            || name.starts_with("x-envoy-")
    })
}
