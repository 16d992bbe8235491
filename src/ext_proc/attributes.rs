//! From Envoy's description of a request to the core's: method, target and
//! headers, where it goes, and the evidence of who sent it.
//!
//! Identity comes from what Envoy itself states (attributes) or what our own
//! `ext_authz` sealed (a grant), never from a header. An attribute of a type that
//! it should not have counts as one that was not sent.

use std::borrow::Cow;

use envoy_types::pb::{
    envoy::config::core::v3::HeaderValue,
    google::protobuf::{Struct, Value, value::Kind},
};

use super::RequestHeaders;
use crate::{
    api,
    identity::{Evidence, GrantError, GrantScope, IdentityError, InvalidSpiffeId, Principal},
    injection::is_pathless,
    operation::split_query,
    policy::{Destination, Reason, canonical_host, canonical_path},
    snapshot::Snapshot,
};

/// Under this name Envoy sends attributes, whatever the filter is called.
const ATTRIBUTES: &str = "envoy.filters.http.ext_proc";
/// Under this name our `ext_authz` leaves its dynamic metadata.
const AUTHZ_METADATA: &str = "envoy.filters.http.ext_authz";
const GRANT: &str = "grant";
/// `envoy.config.core.v3.TrafficDirection` of the listener, as a number.
const DIRECTION: &str = "xds.listener_direction";
const OUTBOUND: f64 = 2.0;

/// A request as the core sees it. What is repeated or not text is left out: it
/// matches nothing.
pub(super) struct Head<'a> {
    pub(super) method: &'a str,
    /// As sent, with query.
    pub(super) target: &'a str,
    pub(super) authority: &'a str,
    /// The authority in canonical form, if it has one.
    host: Option<Cow<'a, str>>,
    /// The path without query, if it has one reading.
    path: Option<Cow<'a, str>>,
    /// As the client asked, if it did so once.
    scheme: Option<&'a str>,
    /// That the client's connection was made to, if Envoy says so.
    port: Option<String>,
    /// The URL that was asked for first, if Envoy follows a redirect: empty if there are
    /// several.
    pub(super) original_url: Option<&'a [u8]>,
    pub(super) request_id: Option<&'a str>,
    pub(super) traceparent: Option<&'a str>,
    /// Whether errors have to be gRPC statuses.
    pub(super) grpc: bool,
    headers: &'a [HeaderValue],
    attributes: Option<&'a Struct>,
}

/// Why a caller is not known.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallerError {
    /// A grant that is not good for this request.
    #[error(transparent)]
    Grant(#[from] GrantError),
    /// No evidence, or evidence that does not hold.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

// === impl Head ===

impl<'a> Head<'a> {
    pub(super) fn new(request: &'a RequestHeaders) -> Self {
        let headers = request.headers.headers.as_ref().map_or(&[][..], |map| &map.headers);
        let mut head = Self {
            method: "",
            target: "",
            authority: "",
            host: None,
            path: None,
            scheme: None,
            port: None,
            original_url: None,
            request_id: None,
            traceparent: None,
            grpc: false,
            headers,
            attributes: request.attributes.get(ATTRIBUTES),
        };
        let (mut method, mut target, mut authority) = (Once::Unset, Once::Unset, Once::Unset);
        let (mut traceparent, mut scheme) = (Once::Unset, Once::Unset);
        for (name, value) in head.headers() {
            match name {
                ":method" => method.set(value),
                ":path" => target.set(value),
                ":authority" => authority.set(value),
                "x-request-id" => {
                    head.request_id = api::request_id(std::str::from_utf8(value).ok());
                }
                ":scheme" => scheme.set(value),
                api::ORIGINAL_URL => {
                    let first = head.original_url.is_none();
                    head.original_url = Some(if first { value } else { &[] });
                }
                "traceparent" => traceparent.set(value),
                "content-type" => head.grpc = is_grpc(value),
                _ => {}
            }
        }
        // The filter may be set to hide headers, not its attributes.
        head.method = method.text_or(head.text("request.method"));
        head.target = target.text_or(head.text("request.path"));
        head.authority = authority.text_or(head.text("request.host"));
        head.traceparent = Some(traceparent.text()).filter(|text| !text.is_empty());
        head.host = canonical_host(head.authority).ok();
        let scheme = scheme.text_or(head.text("request.scheme"));
        head.scheme = Some(scheme).filter(|scheme| !scheme.is_empty());
        head.port = head.number("destination.port").map(|port| port.to_string());
        head.path = canonical_path(head.target).ok().map(Cow::Borrowed);
        head
    }

    /// The same as rules see it: without the references in its path.
    pub(super) fn ruled_by(mut self, snapshot: &Snapshot) -> Self {
        let path = split_query(self.target).0;
        if let Some(path) = snapshot.substitutions.plain_path(path) {
            self.path = canonical_path(&path).ok().map(|path| Cow::Owned(path.to_owned()));
        }
        self
    }

    /// All headers in order, pseudo headers included.
    pub(super) fn headers(&self) -> impl Iterator<Item = (&'a str, &'a [u8])> + Clone + use<'a> {
        self.headers.iter().map(|header| {
            // Envoy fills `raw_value`; other data planes fill `value` for some.
            let value = match header.raw_value.as_slice() {
                [] => header.value.as_bytes(),
                raw => raw,
            };
            (header.key.as_str(), value)
        })
    }

    /// The host in canonical form.
    pub(super) fn host(&self) -> Option<&str> {
        self.host.as_deref()
    }

    /// The path without query, if it has one reading.
    pub(super) fn path(&self) -> Option<&str> {
        self.path.as_deref()
    }

    /// The same for rules that restrict: a target without a path is in none of theirs, and is
    /// told from one of more than one reading.
    pub(super) fn path_or_none(&self) -> Option<&str> {
        self.path().or_else(|| is_pathless(self.method, self.target).then_some(""))
    }

    /// Where the request goes.
    pub(super) fn destination(&self) -> Destination<'_> {
        Destination {
            host: self.host(),
            cluster: self.text("xds.cluster_name"),
            route: self.text("xds.route_name"),
            sni: self.text("connection.requested_server_name"),
            port: self.port.as_deref(),
            scheme: self.scheme,
            method: Some(self.method).filter(|method| !method.is_empty()),
            path: self.path(),
        }
    }

    /// Who sent it. A grant and a certificate must name the same workload, unless the
    /// certificate is that of a proxy that is trusted to speak for others. Where
    /// neither is shown, the workload is the one whose proxy asks, if proxies are
    /// sidecars by configuration and Envoy says that the listener is outbound: neither
    /// an inbound caller nor a gateway's client must pass for the proxy's workload.
    /// A local identity comes by grant alone.
    pub(super) fn caller(
        &self,
        request: &RequestHeaders,
        snapshot: &Snapshot,
    ) -> Result<Principal, CallerError> {
        let mut evidence = Evidence::default();
        let metadata = request.metadata.as_ref();
        let grant = metadata
            .and_then(|metadata| metadata.filter_metadata.get(AUTHZ_METADATA))
            .and_then(|authz| authz.fields.get(GRANT));
        if let Some(grant) = grant {
            let scope = GrantScope {
                method: self.method,
                host: self.authority,
                path: split_query(self.target).0,
            };
            // What is not text is no grant, which is refused like any bad one.
            let grant = string(grant).unwrap_or_default();
            snapshot.grants.open(grant, scope, &mut evidence)?;
        }
        let mtls = matches!(self.attribute("connection.mtls"), Some(Kind::BoolValue(true)));
        if mtls {
            match self.text("connection.uri_san_peer_certificate") {
                // A trusted proxy speaks for its clients; for whom, the grant says.
                Some(id) if snapshot.trusts_proxy(id) => {}
                Some(id) => evidence.add_mtls(id, ""),
                // The name may not have been sent; `ext_authz` has judged it then.
                None if !evidence.is_empty() => {}
                None => evidence.add_certificate(Err(InvalidSpiffeId.into())),
            }
        }
        if let Some(peer) = &request.peer
            && snapshot.proxies_are_workloads
            && evidence.is_empty()
            && !mtls
            && matches!(self.attribute(DIRECTION), Some(Kind::NumberValue(OUTBOUND)))
        {
            peer.add_to(&mut evidence);
        }
        Ok(snapshot.principal(evidence)?)
    }

    fn attribute(&self, name: &str) -> Option<&'a Kind> {
        self.attributes?.fields.get(name)?.kind.as_ref()
    }

    /// A port; Envoy sends all numbers as doubles.
    fn number(&self, name: &str) -> Option<u16> {
        match self.attribute(name)? {
            Kind::NumberValue(number) if number.fract() == 0.0 => {
                (1.0..=65535.0).contains(number).then_some(*number as u16)
            }
            _ => None,
        }
    }

    fn text(&self, name: &str) -> Option<&'a str> {
        let value = self.attributes?.fields.get(name)?;
        string(value).filter(|text| !text.is_empty())
    }
}

/// As Envoy sees it; `application/grpc-web` is something else.
fn is_grpc(content_type: &[u8]) -> bool {
    let rest = content_type.strip_prefix(b"application/grpc");
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

pub(super) fn string(value: &Value) -> Option<&str> {
    match value.kind.as_ref()? {
        Kind::StringValue(text) => Some(text),
        Kind::NullValue(_)
        | Kind::NumberValue(_)
        | Kind::BoolValue(_)
        | Kind::StructValue(_)
        | Kind::ListValue(_) => None,
    }
}

/// A header that may come once.
enum Once<'a> {
    Unset,
    Set(&'a [u8]),
    Repeated,
}

impl<'a> Once<'a> {
    fn set(&mut self, value: &'a [u8]) {
        *self = match self {
            Self::Unset => Self::Set(value),
            Self::Set(_) | Self::Repeated => Self::Repeated,
        };
    }

    /// Where the header did not come, the other.
    fn text_or(self, other: Option<&'a str>) -> &'a str {
        match self {
            Self::Unset => other.unwrap_or_default(),
            Self::Set(_) | Self::Repeated => self.text(),
        }
    }

    fn text(self) -> &'a str {
        match self {
            Self::Set(value) => std::str::from_utf8(value).unwrap_or_default(),
            Self::Unset | Self::Repeated => "",
        }
    }
}

// === impl CallerError ===

impl CallerError {
    /// Why the caller is denied.
    pub(super) fn reason(&self) -> Reason {
        match self {
            Self::Grant(_) => Reason::InvalidIdentity,
            Self::Identity(error) => api::identity_reason(*error),
        }
    }
}
