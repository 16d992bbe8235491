//! From a check request to evidence and a subject.
//!
//! Trusted: what Envoy computed (`source.principal`, `destination.principal`,
//! context extensions). Not trusted as identity: anything that the client chose,
//! among it `source.service`, which is a request header.

use envoy_types::pb::envoy::{
    config::core::v3::{address::Address, socket_address::PortSpecifier},
    service::auth::v3::{CheckRequest, attribute_context},
};

use crate::{
    api::check::{Http, Subject, is_own_header},
    identity::{
        Evidence, ForwardedClientCert, Messenger, Peer, ServiceAccount, SpiffeId, TrustDomain,
        certified,
    },
    policy::Connection,
};

/// A route's context extension that says: who comes this way is the pod's own
/// workload. Set it on outbound listeners of a sidecar only; an inbound request
/// without certificate would otherwise pass for the pod itself.
const LOCAL_EXTENSION: (&str, &str) = ("vaultmux.identity", "local");

/// Likewise, where the workload is whom the proxy's own certificate names: the one
/// with which it connects to us.
const PEER_EXTENSION: (&str, &str) = ("vaultmux.identity", "peer");

/// A route's context extension that says: the upstream may see the caller's token, and
/// could use it wherever it is accepted, for as long as it lives.
const TOKEN_EXTENSION: (&str, &str) = ("vaultmux.token", "forward");

/// A route's context extension that says: this leads to our own REST, which may
/// see the grant. Anyone else could use it, for as long as it lives.
const GRANT_EXTENSION: (&str, &str) = ("vaultmux.grant", "forward");

/// Route's context extensions that say where it leads: the cluster and the route as
/// policies name them. A secret goes into a request only where one of them binds it.
const CLUSTER_EXTENSION: &str = "vaultmux.cluster";
const ROUTE_EXTENSION: &str = "vaultmux.route";

/// A route's context extension that says: secrets are put into its requests by another
/// filter, or by none.
const INJECT_EXTENSION: (&str, &str) = ("vaultmux.inject", "off");

/// Credentials of any scheme.
pub(super) const AUTHORIZATION: &str = "authorization";
/// Whom a proxy saw, by its own account.
const FORWARDED: &str = "x-forwarded-client-cert";

/// What a check request asks, and what it shows about the caller.
pub(super) struct Check<'a> {
    pub(super) evidence: Evidence,
    pub(super) subject: Subject<'a>,
    /// The workload that the request is for, where the proxy has a certificate of a trust
    /// domain that counts. Policies name no trust domain of workloads: a foreign one's is
    /// unknown.
    pub(super) destination: Option<ServiceAccount>,
    /// Whether the route says that the grant may be sent on.
    pub(super) forward_grant: bool,
    /// Whether it says so of the caller's token.
    pub(super) forward_token: bool,
    /// Who the route says is calling where the request itself shows nothing.
    pub(super) fallback: Option<Fallback>,
    /// What the proxy says of where the request goes.
    pub(super) route: Route<'a>,
}

/// What a proxy says of where a request goes; nothing of it is chosen by the client but
/// server name and scheme.
#[derive(Clone)]
pub(super) struct Route<'a> {
    pub(super) cluster: Option<&'a str>,
    pub(super) route: Option<&'a str>,
    /// Of the downstream TLS handshake.
    pub(super) sni: Option<&'a str>,
    /// That the client's connection was made to.
    pub(super) port: Option<String>,
    /// As the client asked.
    pub(super) scheme: Option<&'a str>,
    /// Whether secrets may be put into its requests here.
    pub(super) inject: bool,
    /// Which proxy says so: by its certificate toward us, or else the one it shows its
    /// clients.
    pub(super) proxy: Option<SpiffeId>,
}

/// Who calls where a request shows nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fallback {
    /// The pod's own workload.
    Local,
    /// The workload whose proxy asks.
    Peer,
}

// === impl Check ===

impl<'a> Check<'a> {
    /// Reads a request of any shape that `peer` sent; what is missing is empty.
    pub(super) fn from_request(
        request: &'a CheckRequest,
        peer: Option<&Peer>,
        forwarded: Option<&ForwardedClientCert>,
        trust_domains: &[TrustDomain],
    ) -> Self {
        let attributes = request.attributes.as_ref();
        let mut evidence = Evidence::default();
        let source = attributes.and_then(|a| a.source.as_ref());
        let (principal, certificate) =
            source.map_or(("", ""), |source| (&*source.principal, &*source.certificate));
        // Whose client it is that the header names: that of the proxy that asks, unless
        // its own client is a proxy that speaks for another.
        let shown = match (principal, certificate) {
            ("", "") => None,
            _ => Some(certified(principal, certificate)),
        };
        let messenger = match &shown {
            None => peer.map(Messenger::Peer),
            Some(id) => id.as_ref().ok().map(Messenger::Id),
        };
        let spoken_for = forwarded.zip(messenger).is_some_and(|(forwarded, messenger)| {
            forwarded.add_to(&mut evidence, messenger, values(request, FORWARDED))
        });
        if let Some(claim) = shown.filter(|_| !spoken_for) {
            evidence.add_certificate(claim);
        }
        let says = |(key, wanted): (&str, &str)| {
            let value = attributes.and_then(|a| a.context_extensions.get(key));
            value.is_some_and(|value| value == wanted)
        };
        let fallback = match () {
            // A client whom a trusted proxy did not name is nobody.
            () if spoken_for => None,
            () if says(LOCAL_EXTENSION) => Some(Fallback::Local),
            () if says(PEER_EXTENSION) => Some(Fallback::Peer),
            () => None,
        };
        let served = attributes
            .and_then(|a| a.destination.as_ref())
            .and_then(|peer| SpiffeId::parse(&peer.principal).ok());
        let extension = |key: &str| {
            let value = attributes.and_then(|a| a.context_extensions.get(key));
            value.map(String::as_str).filter(|value| !value.is_empty())
        };
        let sni = attributes.and_then(|a| a.tls_session.as_ref()).map(|tls| tls.sni.as_str());
        let route = Route {
            cluster: extension(CLUSTER_EXTENSION),
            route: extension(ROUTE_EXTENSION),
            sni: sni.filter(|sni| !sni.is_empty()),
            port: attributes.and_then(|a| a.destination.as_ref()).and_then(port),
            scheme: http(request)
                .map(|http| http.scheme.as_str())
                .filter(|scheme| !scheme.is_empty()),
            inject: !says(INJECT_EXTENSION),
            proxy: peer.and_then(Peer::spiffe_id).or(served.as_ref()).cloned(),
        };
        let destination = served
            .filter(|id| trust_domains.contains(&id.trust_domain))
            .map(|id| id.service_account);
        let subject = match http(request) {
            Some(http) => {
                Subject::Http(Http { method: &http.method, host: &http.host, path: &http.path })
            }
            None => Subject::Connection(Connection { destination: destination.clone() }),
        };
        Self {
            evidence,
            subject,
            destination,
            forward_grant: says(GRANT_EXTENSION),
            forward_token: says(TOKEN_EXTENSION),
            fallback,
            route,
        }
    }
}

/// That of an address.
fn port(peer: &attribute_context::Peer) -> Option<String> {
    match peer.address.as_ref()?.address.as_ref()? {
        Address::SocketAddress(socket) => match socket.port_specifier.as_ref()? {
            PortSpecifier::PortValue(port) => Some(port.to_string()),
            PortSpecifier::NamedPort(_) => None,
        },
        Address::Pipe(_) | Address::EnvoyInternalAddress(_) => None,
    }
}

/// The values of a header, as far as Envoy tells them apart: joined by commas in one
/// map, one by one in the other, by its configuration.
pub(super) fn values<'a>(
    request: &'a CheckRequest,
    name: &'a str,
) -> impl Iterator<Item = &'a [u8]> {
    let http = http(request);
    let apart = http.and_then(|http| http.header_map.as_ref()).map_or(&[][..], |map| &map.headers);
    let joined = match apart {
        [] => http.and_then(|http| http.headers.get(name)),
        _ => None,
    };
    let apart = apart.iter().filter(move |header| header.key.eq_ignore_ascii_case(name));
    apart
        .map(|header| match header.raw_value.as_slice() {
            [] => header.value.as_bytes(),
            raw => raw,
        })
        .chain(joined.map(String::as_bytes))
}

/// The request's headers: each value apart, or joined by commas, by the proxy's
/// configuration.
pub(super) fn headers(request: &CheckRequest) -> impl Iterator<Item = (&str, &[u8])> + Clone {
    let http = http(request);
    let apart = http.and_then(|http| http.header_map.as_ref()).map_or(&[][..], |map| &map.headers);
    let joined = http.map(|http| &http.headers).filter(|_| apart.is_empty());
    let apart = apart.iter().map(|header| {
        let value = match header.raw_value.as_slice() {
            [] => header.value.as_bytes(),
            raw => raw,
        };
        (header.key.as_str(), value)
    });
    let joined = joined.into_iter().flatten();
    apart.chain(joined.map(|(name, value)| (name.as_str(), value.as_bytes())))
}

/// The names of our own headers that the client sent, in any spelling that an
/// upstream could take for them. Envoy puts headers into one map or the other,
/// by its configuration.
pub(super) fn own_headers(request: &CheckRequest) -> Vec<String> {
    let Some(http) = http(request) else { return Vec::new() };
    let raw = http.header_map.iter().flat_map(|map| &map.headers).map(|header| &header.key);
    let mut names: Vec<String> =
        http.headers.keys().chain(raw).filter(|name| is_own_header(name)).cloned().collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// A header that was sent once, if it is text. Envoy joins what was sent twice, or leaves
/// it apart, by its configuration.
pub(super) fn header<'a>(request: &'a CheckRequest, name: &'a str) -> Option<&'a str> {
    let mut sent = values(request, name);
    let only = sent.next().filter(|_| sent.next().is_none())?;
    std::str::from_utf8(only).ok()
}

fn http(request: &CheckRequest) -> Option<&attribute_context::HttpRequest> {
    request.attributes.as_ref()?.request.as_ref()?.http.as_ref()
}
