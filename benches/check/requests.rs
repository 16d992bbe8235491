//! Check requests as Envoy sends them, with tokens good and bad.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use envoy_types::pb::envoy::{
    config::core::v3::{Address, SocketAddress, address, socket_address::PortSpecifier},
    service::auth::v3::{
        AttributeContext, CheckRequest,
        attribute_context::{HttpRequest, Peer, Request},
    },
};
use serde_json::json;

use crate::mint::{self, Mint};

/// What shows who calls.
pub(crate) enum Proof<'a> {
    /// A certificate that Envoy validated. A cookie makes up for the token's length.
    Certificate { padding: usize },
    /// A service account's token.
    Token(&'a str),
}

/// Tokens that prove nothing.
#[derive(Clone, Copy)]
pub(crate) enum Garbage {
    /// All is right, but for the signature.
    WrongSignature,
    /// The same, of a key that nobody has.
    UnknownKey,
    /// Three segments of random bytes.
    Random,
}

/// A GET for a path that the policy allows, as the sidecar of a workload would ask.
pub(crate) fn check(proof: &Proof<'_>) -> CheckRequest {
    let (name, value) = match proof {
        Proof::Certificate { padding } => ("cookie", format!("session={}", "c".repeat(*padding))),
        Proof::Token(token) => ("authorization", format!("Bearer {token}")),
    };
    let headers = [
        (":authority", "app.test"),
        (":method", "GET"),
        (":path", "/public/orders/4711?expand=lines"),
        (":scheme", "https"),
        ("accept", "application/json"),
        ("accept-encoding", "gzip, deflate, br"),
        ("content-type", "application/json"),
        ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
        ("user-agent", "orders/1.42 (linux; amd64) http-client/5.3"),
        ("x-envoy-internal", "true"),
        ("x-forwarded-for", "10.244.1.17"),
        ("x-forwarded-proto", "https"),
        ("x-request-id", "8f0b7b3e-5a52-4f0e-8f0f-3f1f5f8f2b02"),
        (name, &value),
    ];
    let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let http = HttpRequest {
        id: "1234567890123456789".to_owned(),
        method: "GET".to_owned(),
        host: "app.test".to_owned(),
        path: "/public/orders/4711?expand=lines".to_owned(),
        scheme: "https".to_owned(),
        protocol: "HTTP/2".to_owned(),
        headers,
        ..HttpRequest::default()
    };
    let principal = match proof {
        Proof::Certificate { .. } => "spiffe://cluster.local/ns/prod/sa/api",
        Proof::Token(_) => "",
    };
    CheckRequest {
        attributes: Some(AttributeContext {
            source: Some(peer("10.244.1.17", 41_234, principal)),
            destination: Some(peer("10.244.2.9", 8443, "spiffe://cluster.local/ns/shop/sa/app")),
            request: Some(Request { http: Some(http), ..Request::default() }),
            ..AttributeContext::default()
        }),
    }
}

/// The same of each token.
pub(crate) fn checks<'t>(tokens: impl IntoIterator<Item = &'t String>) -> Vec<CheckRequest> {
    tokens.into_iter().map(|token| check(&Proof::Token(token))).collect()
}

fn peer(address: &str, port: u32, principal: &str) -> Peer {
    let socket = SocketAddress {
        address: address.to_owned(),
        port_specifier: Some(PortSpecifier::PortValue(port)),
        ..SocketAddress::default()
    };
    Peer {
        address: Some(Address { address: Some(address::Address::SocketAddress(socket)) }),
        principal: principal.to_owned(),
        ..Peer::default()
    }
}

/// Different good tokens, signed on every core.
pub(crate) fn tokens(mint: &Mint, count: usize) -> Vec<String> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let shares = (0..cores).map(|core| {
            let share = count / cores + usize::from(core < count % cores);
            scope.spawn(move || (0..share).map(|_| mint.token(json!({}))).collect::<Vec<_>>())
        });
        let shares: Vec<_> = shares.collect();
        shares.into_iter().flat_map(|share| share.join().expect("signed")).collect()
    })
}

// === impl Garbage ===

impl Garbage {
    pub(crate) const ALL: [Self; 3] = [Self::WrongSignature, Self::UnknownKey, Self::Random];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::WrongSignature => "wrong signature",
            Self::UnknownKey => "unknown key id",
            Self::Random => "random bytes",
        }
    }

    /// A token that was never seen before.
    pub(crate) fn token(self, known_key: &str) -> String {
        let random = |bytes: usize| {
            let mut random = vec![0; bytes];
            fastrand::fill(&mut random);
            random
        };
        let mut signature = random(256);
        // Less than the modulus: greater ones are refused before any arithmetic.
        signature[0] = 0;
        let key = match self {
            Self::WrongSignature => known_key.to_owned(),
            Self::UnknownKey => URL_SAFE_NO_PAD.encode(random(32)),
            Self::Random => return segments([&random(64), &random(640), &signature]),
        };
        let header = json!({"alg": "RS256", "kid": key}).to_string();
        let claims = mint::claims(mint::ACCOUNT).to_string();
        segments([header.as_bytes(), claims.as_bytes(), &signature])
    }
}

fn segments(parts: [&[u8]; 3]) -> String {
    parts.map(|part| URL_SAFE_NO_PAD.encode(part)).join(".")
}
