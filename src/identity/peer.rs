//! Who is at the other end of a connection, as far as the transport tells, and the
//! patterns by which an operator says whose connections are trusted.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{
    certificate,
    evidence::{Evidence, IdentityError},
    spiffe::{SpiffeId, TrustDomain},
};

/// Who is at the other end of a connection.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Where it is.
    pub address: PeerAddress,
    certificate: PeerCertificate,
}

/// Where a peer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerAddress {
    /// Its IP address; an IPv4 address that is mapped into IPv6 is an IPv4 address.
    Ip(IpAddr),
    /// A process of this machine that the uid check of a unix listener let in.
    Unix {
        /// Whose process.
        uid: u32,
    },
}

/// What the leaf certificate says, whose chain the TLS handshake has validated.
#[derive(Clone, Debug)]
enum PeerCertificate {
    /// None was shown.
    Absent,
    /// It names a service account.
    Names(SpiffeId),
    /// It names none, or more than one.
    Unusable(IdentityError),
}

/// Peers by SPIFFE ID, network, or as local processes. Being one of them is enough.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerPatterns(Vec<PeerPattern>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum PeerPattern {
    Exact(SpiffeId),
    /// Every service account of a namespace.
    Namespace {
        trust_domain: TrustDomain,
        namespace: String,
    },
    Network(IpNet),
    Unix,
}

// === impl PeerAddress ===

impl PeerAddress {
    /// The address of a TCP connection. A socket for both families reports IPv4 peers
    /// as IPv6.
    #[must_use]
    pub fn of_ip(address: IpAddr) -> Self {
        Self::Ip(address.to_canonical())
    }
}

impl std::fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Unix { uid } => write!(f, "unix, uid {uid}"),
        }
    }
}

// === impl Peer ===

impl Peer {
    /// A peer whose certificate, if it showed one, was validated in the handshake; the
    /// DER is read once, here.
    #[must_use]
    pub fn new(address: PeerAddress, leaf_der: Option<&[u8]>) -> Self {
        let certificate = match leaf_der.map(certificate::spiffe_id) {
            None => PeerCertificate::Absent,
            Some(Ok(id)) => PeerCertificate::Names(id),
            Some(Err(error)) => PeerCertificate::Unusable(error),
        };
        let address = match address {
            PeerAddress::Ip(ip) => PeerAddress::of_ip(ip),
            unix @ PeerAddress::Unix { .. } => unix,
        };
        Self { address, certificate }
    }

    /// The service account that its certificate names: the only URI name in it.
    #[must_use]
    pub fn spiffe_id(&self) -> Option<&SpiffeId> {
        match &self.certificate {
            PeerCertificate::Names(id) => Some(id),
            PeerCertificate::Absent | PeerCertificate::Unusable(_) => None,
        }
    }

    /// Adds the certificate to what a request shows. One that was shown but names no
    /// single service account spoils the evidence.
    pub fn add_to(&self, evidence: &mut Evidence) {
        match &self.certificate {
            PeerCertificate::Absent => {}
            PeerCertificate::Names(id) => evidence.add_certificate(Ok(id.clone())),
            PeerCertificate::Unusable(error) => evidence.add_certificate(Err(*error)),
        }
    }
}

// === impl PeerPatterns ===

impl PeerPatterns {
    /// Reads SPIFFE IDs (whose service account may be `*`), networks, IP addresses and
    /// the word `unix`.
    ///
    /// # Errors
    /// What is wrong with the first entry that cannot be used.
    pub fn parse(entries: &[String]) -> Result<Self, String> {
        let parse =
            |entry: &String| PeerPattern::parse(entry).map_err(|why| format!("{entry:?} {why}"));
        entries.iter().map(parse).collect::<Result<_, _>>().map(Self)
    }

    /// Whether the peer is one of them.
    #[must_use]
    pub fn admits(&self, peer: &Peer) -> bool {
        self.0.iter().any(|pattern| pattern.admits(peer))
    }

    /// Whether a proxy with this identity is one of them, wherever it is.
    #[must_use]
    pub fn admit_id(&self, id: &SpiffeId) -> bool {
        self.0.iter().any(|pattern| pattern.admits_id(id))
    }

    /// Whether they admit nobody.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether any of them needs a client certificate.
    #[must_use]
    pub fn name_certificates(&self) -> bool {
        let of_certificate =
            |one: &_| matches!(one, PeerPattern::Exact(_) | PeerPattern::Namespace { .. });
        self.0.iter().any(of_certificate)
    }

    /// Whether any of them is a network or an IP address.
    #[must_use]
    pub fn name_networks(&self) -> bool {
        self.0.iter().any(|pattern| matches!(pattern, PeerPattern::Network(_)))
    }

    /// Whether local processes are among them.
    #[must_use]
    pub fn name_unix(&self) -> bool {
        self.0.contains(&PeerPattern::Unix)
    }
}

// === impl PeerPattern ===

impl PeerPattern {
    fn parse(text: &str) -> Result<Self, &'static str> {
        const FORM: &str = "is neither a SPIFFE ID (its service account may be `*`), a network, \
                            an IP address nor `unix`";
        if text == "unix" {
            return Ok(Self::Unix);
        }
        if text.starts_with("spiffe:") {
            return Self::parse_id(text);
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Self::network(IpNet::from(address));
        }
        text.parse().map_err(|_| FORM).and_then(Self::network)
    }

    fn parse_id(text: &str) -> Result<Self, &'static str> {
        const WILDCARD: &str = "has `*` elsewhere than as its whole service account";
        const NOT_ONE: &str = "is not of the form spiffe://<trust domain>/ns/<namespace>/sa/\
                               <service account, or `*`>";
        match text.strip_suffix("/*") {
            Some(rest) if rest.contains('*') => Err(WILDCARD),
            Some(rest) => {
                // Any name will do to have the others checked as those of an identity.
                let id = SpiffeId::parse(&format!("{rest}/any")).map_err(|_| NOT_ONE)?;
                let namespace = id.service_account.namespace().to_owned();
                Ok(Self::Namespace { trust_domain: id.trust_domain, namespace })
            }
            None if text.contains('*') => Err(WILDCARD),
            None => SpiffeId::parse(text).map(Self::Exact).map_err(|_| NOT_ONE),
        }
    }

    fn network(network: IpNet) -> Result<Self, &'static str> {
        if network.addr() != network.network() {
            return Err("has bits set beyond its prefix length");
        }
        // Peers are compared by their canonical address, which this could never be.
        match network.addr().to_canonical() == network.addr() {
            true => Ok(Self::Network(network)),
            false => Err("is an IPv4 network in IPv6 notation: write it as IPv4"),
        }
    }

    fn admits(&self, peer: &Peer) -> bool {
        match self {
            Self::Exact(_) | Self::Namespace { .. } => {
                peer.spiffe_id().is_some_and(|id| self.admits_id(id))
            }
            Self::Network(network) => match peer.address {
                PeerAddress::Ip(address) => network.contains(&address),
                PeerAddress::Unix { .. } => false,
            },
            Self::Unix => matches!(peer.address, PeerAddress::Unix { .. }),
        }
    }

    fn admits_id(&self, id: &SpiffeId) -> bool {
        match self {
            Self::Exact(expected) => id == expected,
            Self::Namespace { trust_domain, namespace } => {
                id.trust_domain == *trust_domain && id.service_account.namespace() == namespace
            }
            Self::Network(_) | Self::Unix => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, SanType};

    use super::*;
    use crate::identity::{CertificateError, InvalidSpiffeId, Principal, ProofKind};

    const API: &str = "spiffe://cluster.local/ns/prod/sa/api";

    fn der(uris: &[&str], dns: &[&str]) -> Vec<u8> {
        let as_uri = |name: &&str| SanType::URI((*name).try_into().expect("ASCII name"));
        let as_dns = |name: &&str| SanType::DnsName((*name).try_into().expect("ASCII name"));
        let mut params = CertificateParams::default();
        params.subject_alt_names = uris.iter().map(as_uri).chain(dns.iter().map(as_dns)).collect();
        let key = KeyPair::generate().expect("key");
        params.self_signed(&key).expect("certificate").der().to_vec()
    }

    fn at(address: &str) -> PeerAddress {
        PeerAddress::Ip(address.parse().expect("an IP address"))
    }

    fn patterns(entries: &[&str]) -> Result<PeerPatterns, String> {
        PeerPatterns::parse(&entries.iter().map(|&entry| entry.to_owned()).collect::<Vec<_>>())
    }

    fn judge(peer: &Peer) -> Result<Principal, IdentityError> {
        let mut evidence = Evidence::default();
        peer.add_to(&mut evidence);
        evidence.principal(&[TrustDomain::parse("cluster.local").expect("valid")])
    }

    #[test]
    fn a_certificate_names_one_service_account_or_nobody() {
        let uri_names = |count| IdentityError::Certificate(CertificateError::UriNames(count));
        let unreadable = IdentityError::Certificate(CertificateError::Unreadable);
        let malformed = IdentityError::Malformed(InvalidSpiffeId);
        let other = "spiffe://cluster.local/ns/prod/sa/other";
        let mut trailing = der(&[API], &[]);
        trailing.push(0);
        for (leaf, expected) in [
            (None, IdentityError::Missing),
            (Some(der(&[], &[])), uri_names(0)),
            (Some(der(&[], &["api.prod.svc"])), uri_names(0)),
            (Some(der(&[], &[API])), uri_names(0)),
            (Some(der(&[API, other], &[])), uri_names(2)),
            (Some(der(&[API, API], &[])), uri_names(2)),
            (Some(der(&["https://cluster.local/"], &[])), malformed),
            (Some(der(&["spiffe://cluster.local/gateway"], &[])), malformed),
            (
                Some(der(&["spiffe://other.td/ns/prod/sa/api"], &[])),
                IdentityError::ForeignTrustDomain,
            ),
            (Some(b"not a certificate".to_vec()), unreadable),
            (Some(trailing), unreadable),
            (Some(Vec::new()), unreadable),
        ] {
            let peer = Peer::new(at("10.0.0.1"), leaf.as_deref());
            assert_eq!(judge(&peer), Err(expected), "{peer:?}");
        }
        let peer = Peer::new(at("10.0.0.1"), Some(&der(&[API], &["api.prod.svc"])));
        assert_eq!(peer.spiffe_id().map(ToString::to_string).as_deref(), Some(API));
        let principal = judge(&peer).expect("names one");
        assert_eq!(principal.to_string(), API);
        assert_eq!(principal.proofs(), ProofKind::Mtls.into());
    }

    #[test]
    fn a_bad_certificate_spoils_other_proofs() {
        let mut evidence = Evidence::default();
        evidence.add_mtls(API, "");
        Peer::new(at("10.0.0.1"), Some(&der(&[API, API], &[]))).add_to(&mut evidence);
        let domains = [TrustDomain::parse("cluster.local").expect("valid")];
        assert!(evidence.principal(&domains).is_err());
    }

    #[test]
    fn entries_that_are_not_exactly_a_pattern_are_refused() {
        let (form, wildcard) = ("is neither a SPIFFE ID", "has `*` elsewhere");
        let not_one = "is not of the form spiffe://";
        for (entry, expected) in [
            ("", form),
            ("*", form),
            ("Unix", form),
            ("localhost", form),
            ("10.0.0.0/33", form),
            ("10.0.0/8", form),
            ("10.0.0.1:9191", form),
            ("fe80::1%eth0", form),
            ("10.0.0.0/8 ", form),
            ("SPIFFE://cluster.local/ns/a/sa/b", form),
            ("10.1.2.3/8", "has bits set beyond"),
            ("fd00::1/8", "has bits set beyond"),
            ("::ffff:10.0.0.0/104", "IPv4 network in IPv6 notation"),
            ("::ffff:10.0.0.1", "IPv4 network in IPv6 notation"),
            ("spiffe://cluster.local/ns/istio-system/sa/ist*", wildcard),
            ("spiffe://cluster.local/ns/istio-system/sa/**", wildcard),
            ("spiffe://cluster.local/ns/*/sa/*", wildcard),
            ("spiffe://cluster.local/ns/*/sa/istiod", wildcard),
            ("spiffe://*/ns/istio-system/sa/istiod", wildcard),
            ("spiffe://*/ns/istio-system/sa/*", wildcard),
            ("spiffe://cluster.local/ns/istio-system/sa/*/", wildcard),
            ("spiffe://cluster.local/ns/istio-system/sa/*/*", wildcard),
            ("spiffe://cluster.local/ns/istio-system/*", not_one),
            ("spiffe://cluster.local/ns/*", not_one),
            ("spiffe://cluster.local/*", not_one),
            ("spiffe:///*", not_one),
            ("spiffe://*", not_one),
            ("spiffe://cluster.local/ns/istio-system/sa/a/*", not_one),
            ("spiffe://cluster.local/ns//sa/*", not_one),
            ("spiffe://CLUSTER.local/ns/istio-system/sa/*", not_one),
            ("spiffe://cluster.local/ns/istio-system/sa/", not_one),
            ("spiffe:*", wildcard),
        ] {
            let refused = patterns(&["10.0.0.0/8", entry]).expect_err(entry);
            assert!(refused.starts_with(&format!("{entry:?} ")), "{refused}");
            assert!(refused.contains(expected), "{entry}: {refused}");
        }
    }

    #[test]
    fn peers_are_admitted_by_identity_network_or_as_local_processes() {
        let named = |uri: &str| Peer::new(at("192.0.2.1"), Some(&der(&[uri], &[])));
        let from = |address: &str| Peer::new(at(address), None);
        let local = Peer::new(PeerAddress::Unix { uid: 1337 }, None);
        let two = Peer::new(at("192.0.2.1"), Some(&der(&[API, API], &[])));
        let any = "spiffe://cluster.local/ns/prod/sa/*";
        for (pattern, peer, expected) in [
            (API, named("spiffe://cluster.local/ns/prod/sa/api2"), false),
            (API, named("spiffe://other.td/ns/prod/sa/api"), false),
            (API, from("192.0.2.1"), false),
            (API, two.clone(), false),
            (API, local.clone(), false),
            (API, named(API), true),
            (any, named("spiffe://cluster.local/ns/prod2/sa/api"), false),
            (any, named("spiffe://cluster.local/ns/pro/sa/api"), false),
            (any, named("spiffe://other.td/ns/prod/sa/api"), false),
            (any, named("spiffe://cluster.local/ns/prod/sa/api/more"), false),
            (any, two, false),
            (any, from("192.0.2.1"), false),
            (any, named(API), true),
            (any, named("spiffe://cluster.local/ns/prod/sa/a.b"), true),
            ("10.0.0.0/8", from("11.0.0.0"), false),
            ("10.0.0.0/8", from("::ffff:11.0.0.1"), false),
            ("10.0.0.0/8", from("::10.0.0.1"), false),
            ("10.0.0.0/8", local.clone(), false),
            ("10.0.0.0/8", named(API), false),
            ("10.0.0.0/8", from("10.255.255.255"), true),
            ("10.0.0.0/8", from("::ffff:10.1.2.3"), true),
            ("10.0.0.1", from("10.0.0.2"), false),
            ("10.0.0.1", from("10.0.0.1"), true),
            ("fd00::/8", from("fe00::1"), false),
            ("fd00::/8", from("fd12::1"), true),
            ("::/0", from("10.0.0.1"), false),
            ("::/0", from("::ffff:10.0.0.1"), false),
            ("0.0.0.0/0", from("10.0.0.1"), true),
            ("unix", from("127.0.0.1"), false),
            ("unix", local, true),
        ] {
            let admitted = patterns(&[pattern]).expect(pattern).admits(&peer);
            assert_eq!(admitted, expected, "{pattern} {peer:?}");
        }
        let several = patterns(&["unix", API, "10.0.0.0/8"]).expect("valid");
        assert!(several.admits(&from("10.0.0.1")) && several.admits(&named(API)));
        let nobody = PeerPatterns::default();
        assert!(nobody.is_empty() && !nobody.admits(&named(API)));
    }
}
