//! Who calls REST: a client certificate, our own or one that a trusted proxy saw, a
//! service account's token, a grant from our own `ext_authz`, or a process of this pod.

use http::{HeaderName, header, request::Parts};

use tokio::time::Instant;

use crate::{
    identity::{Evidence, GrantScope, Messenger, Peer, SpiffeId},
    policy::{Denial, Reason},
    snapshot::{IdentityUnavailable, Snapshot},
};

/// A header that only a client of this API sends; its value does not matter.
pub(super) const REQUEST: HeaderName = HeaderName::from_static("x-vaultmux-request");

const GRANT: HeaderName = HeaderName::from_static("x-vaultmux-grant");
const FORWARDED: HeaderName = HeaderName::from_static("x-forwarded-client-cert");

/// Why there is no evidence to judge.
#[derive(Debug)]
pub(super) enum CallerError {
    /// A grant that is not good for this request.
    Denied(Denial),
    /// Nobody could tell whether a token is good.
    Unavailable(IdentityUnavailable),
}

/// Collects what a request shows, and the connection that it came on: all of it must
/// name the same service account. The certificate of a trusted proxy is not its clients',
/// and proves nothing. `local` is the identity of this
/// listener's callers, if it has one; it stands in only for requests that show nothing
/// else and did not pass a proxy, since behind a proxy everyone comes from loopback.
///
/// # Errors
/// [`CallerError`], before `deadline`.
pub(super) async fn evidence(
    head: &Parts,
    peer: Option<&Peer>,
    snapshot: &Snapshot,
    local: Option<&SpiffeId>,
    deadline: Instant,
) -> Result<Evidence, CallerError> {
    let proxy = proxy(peer, snapshot);
    let mut evidence = match proxy {
        Some(proxy) => shown_by_proxy(head, proxy, snapshot, deadline).await?.0,
        None => {
            let mut evidence = Evidence::default();
            if let Some(peer) = peer {
                peer.add_to(&mut evidence);
            }
            add_token(head, &mut evidence, snapshot, deadline).await?;
            evidence
        }
    };
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
            snapshot.grants.open(grant, scope, &mut evidence).map_err(|_| refused())?;
        }
        (Some(_), Some(_)) => return Err(Denial::new(Reason::InvalidIdentity).into()),
    }
    if let Some(local) =
        local.filter(|_| evidence.is_empty() && proxy.is_none() && !came_through_a_proxy(head))
    {
        evidence.add_local(local.clone());
    }
    Ok(evidence)
}

/// The peer, if it is a proxy that may speak for its clients.
pub(super) fn proxy<'p>(peer: Option<&'p Peer>, snapshot: &Snapshot) -> Option<&'p Peer> {
    peer.filter(|peer| {
        snapshot.forwarded.as_ref().is_some_and(|it| it.trusted_proxies.admits(peer))
    })
}

/// What a proxy's client shows: the certificate that the proxy saw, and its token; and
/// whether there is one. A grant is none of it.
///
/// # Errors
/// [`IdentityUnavailable`], before `deadline`.
pub(super) async fn shown_by_proxy(
    head: &Parts,
    proxy: &Peer,
    snapshot: &Snapshot,
    deadline: Instant,
) -> Result<(Evidence, bool), IdentityUnavailable> {
    let mut evidence = Evidence::default();
    if let Some(forwarded) = &snapshot.forwarded {
        let values = head.headers.get_all(FORWARDED).iter().map(|value| value.as_bytes());
        forwarded.add_to(&mut evidence, Messenger::Peer(proxy), values);
    }
    let has_token = add_token(head, &mut evidence, snapshot, deadline).await?;
    Ok((evidence, has_token))
}

async fn add_token(
    head: &Parts,
    evidence: &mut Evidence,
    snapshot: &Snapshot,
    deadline: Instant,
) -> Result<bool, IdentityUnavailable> {
    let tokens = head.headers.get_all(header::AUTHORIZATION).iter().map(|value| value.as_bytes());
    snapshot.add_token(evidence, tokens, deadline).await
}

/// The authority as the client sent it: HTTP/2 has it in the request line. None where it
/// was sent more than once.
pub(super) fn authority(head: &Parts) -> Option<&str> {
    let mut hosts = head.headers.get_all(header::HOST).iter();
    let (host, another) = (hosts.next(), hosts.next().is_some());
    let host = host.map(|host| host.to_str()).transpose().ok()?;
    match (head.uri.authority(), host) {
        _ if another => None,
        (Some(authority), None) => Some(authority.as_str()),
        (Some(authority), Some(host)) if authority.as_str() == host => Some(host),
        (Some(_), Some(_)) => None,
        (None, host) => host,
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

// === impl CallerError ===

impl From<Denial> for CallerError {
    fn from(denial: Denial) -> Self {
        Self::Denied(denial)
    }
}

impl From<IdentityUnavailable> for CallerError {
    fn from(unavailable: IdentityUnavailable) -> Self {
        Self::Unavailable(unavailable)
    }
}
