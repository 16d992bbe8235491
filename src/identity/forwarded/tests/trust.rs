//! Whose word about its client is believed.

use rcgen::{CertificateParams, KeyPair, SanType};

use super::*;
use crate::identity::{InvalidSpiffeId, PeerAddress, ProofKind, TrustDomain};

const GATEWAY: &str = "spiffe://cluster.local/ns/gateway/sa/envoy";

fn at(address: &str) -> PeerAddress {
    PeerAddress::Ip(address.parse().expect("an IP address"))
}

fn named_by_certificate(uri: &str) -> Peer {
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(uri.try_into().expect("ASCII name"))];
    let key = KeyPair::generate().expect("key");
    let certificate = params.self_signed(&key).expect("certificate");
    Peer::new(at("192.0.2.1"), Some(certificate.der()))
}

fn id(text: &str) -> SpiffeId {
    SpiffeId::parse(text).expect("valid")
}

fn trusting(pattern: &str, position: ForwardedPosition) -> ForwardedClientCert {
    let trusted_proxies = PeerPatterns::parse(&[pattern.to_owned()]).expect("valid");
    ForwardedClientCert { trusted_proxies, position }
}

/// Who is proven by these headers alone; `None` if they count for nothing.
fn judge(
    forwarded: &ForwardedClientCert,
    messenger: Messenger<'_>,
    values: &[&[u8]],
) -> Option<Result<String, IdentityError>> {
    let mut evidence = Evidence::default();
    let added = forwarded.add_to(&mut evidence, messenger, values.iter().copied());
    assert!(added || evidence.is_empty());
    added.then(|| {
        let domains = [TrustDomain::parse("cluster.local").expect("valid")];
        let principal = evidence.principal(&domains)?;
        assert_eq!(principal.proofs(), ProofKind::Waypoint.into());
        Ok(principal.to_string())
    })
}

#[test]
fn only_trusted_proxies_are_believed() {
    let (near, far) = (Peer::new(at("10.0.0.1"), None), Peer::new(at("11.0.0.1"), None));
    let unix = Peer::new(PeerAddress::Unix { uid: 1337 }, None);
    let (gateway, web) = (named_by_certificate(GATEWAY), named_by_certificate(API));
    let (gateway_id, web_id) = (id(GATEWAY), id(API));
    let any = "spiffe://cluster.local/ns/gateway/sa/*";
    for (pattern, messenger, expected) in [
        ("10.0.0.0/8", Messenger::Peer(&far), false),
        ("10.0.0.0/8", Messenger::Peer(&gateway), false),
        ("10.0.0.0/8", Messenger::Peer(&unix), false),
        ("10.0.0.0/8", Messenger::Id(&gateway_id), false),
        ("10.0.0.0/8", Messenger::Peer(&near), true),
        (GATEWAY, Messenger::Peer(&near), false),
        (GATEWAY, Messenger::Peer(&unix), false),
        (GATEWAY, Messenger::Peer(&web), false),
        (GATEWAY, Messenger::Id(&web_id), false),
        (GATEWAY, Messenger::Peer(&gateway), true),
        (GATEWAY, Messenger::Id(&gateway_id), true),
        (any, Messenger::Id(&web_id), false),
        (any, Messenger::Id(&gateway_id), true),
        ("unix", Messenger::Peer(&near), false),
        ("unix", Messenger::Id(&gateway_id), false),
        ("unix", Messenger::Peer(&unix), true),
    ] {
        let forwarded = trusting(pattern, Last);
        let found = judge(&forwarded, messenger, &[TEXT.as_bytes()]);
        assert_eq!(found, expected.then(|| Ok(API.to_owned())), "{pattern} {messenger:?}");
        // Whom nobody believes cannot spoil the evidence either.
        let found = judge(&forwarded, messenger, &[b"garbage"]);
        assert_eq!(found, expected.then_some(Err(E::Malformed.into())), "{pattern} {messenger:?}");
    }
    let nobody = ForwardedClientCert { trusted_proxies: PeerPatterns::default(), position: Last };
    for messenger in [Messenger::Peer(&near), Messenger::Peer(&unix), Messenger::Id(&gateway_id)] {
        assert_eq!(judge(&nobody, messenger, &[TEXT.as_bytes()]), None);
    }
}

#[test]
fn what_a_trusted_proxy_says_names_one_client_or_nobody_or_is_refused() {
    let gateway = id(GATEWAY);
    let (text, json, forged) = (TEXT.as_bytes(), JSON.as_bytes(), FORGED.as_bytes());
    let not_one = Err(IdentityError::Malformed(InvalidSpiffeId));
    let missing = || Some(Err(IdentityError::Missing));
    let proxy = format!("By=x;URI={GATEWAY}");
    let malformed = || Some(Err(E::Malformed.into()));
    let api = || Some(Ok(API.to_owned()));
    let victim = || Some(Ok("spiffe://cluster.local/ns/forged/sa/a".to_owned()));
    for (position, values, expected) in [
        // It does not speak for itself then: its clients are not it.
        (Last, &[] as &[&[u8]], missing()),
        (Last, &[b""], missing()),
        (Last, &[NOBODY.as_bytes()], missing()),
        (BeforeLast, &[text], missing()),
        (BeforeLast, &[text, b"By=x;URI=y"], Some(Err(E::Untrusted.into()))),
        (Last, &[b"\xff"], malformed()),
        (Last, &[text, b"\xff"], malformed()),
        (Last, &[b"By=x;Subject=\"\xff\";URI=y"], malformed()),
        (Last, &[b"", text], malformed()),
        (Last, &[text, b""], malformed()),
        (Last, &[json, json], malformed()),
        (Last, &[b"By=\"", text], malformed()),
        (Only, &[text, text], Some(Err(E::Elements(2).into()))),
        (Only, &[forged, text], Some(Err(E::Elements(2).into()))),
        (Last, &[ODD.as_bytes()], Some(Err(E::UriNames.into()))),
        (Last, &[b"URI=spiffe://cluster.local/gateway"], Some(not_one.clone())),
        (Last, &[b"URI=SPIFFE://cluster.local/ns/a/sa/b"], Some(not_one.clone())),
        (Last, &[b"URI=https://cluster.local/ns/a/sa/b"], Some(not_one)),
        (Last, &[b"URI=spiffe://other.td/ns/a/sa/b"], Some(Err(IdentityError::ForeignTrustDomain))),
        // What the caller sent itself does not count, in a header of its own or in front.
        (Last, &[forged, text], api()),
        (BeforeLast, &[forged, text, proxy.as_bytes()], api()),
        (BeforeLast, &[text, proxy.as_bytes()], api()),
        (Last, &[text], api()),
        (Last, &[json], api()),
        (Only, &[text], api()),
        // Which is why a proxy that passes the header on must not be trusted.
        (Last, &[forged], victim()),
    ] {
        let shown: Vec<_> = values.iter().map(|value| String::from_utf8_lossy(value)).collect();
        let found = judge(&trusting(GATEWAY, position), Messenger::Id(&gateway), values);
        assert_eq!(found, expected, "{position:?} {shown:?}");
    }
}

#[test]
fn a_forwarded_client_must_agree_with_other_proofs() {
    let gateway = id(GATEWAY);
    for (other, agrees) in [(GATEWAY, false), (API, true)] {
        let mut evidence = Evidence::default();
        evidence.add_local(id(other));
        let forwarded = trusting(GATEWAY, Last);
        forwarded.add_to(&mut evidence, Messenger::Id(&gateway), [TEXT.as_bytes()].into_iter());
        let domains = [TrustDomain::parse("cluster.local").expect("valid")];
        assert_eq!(evidence.principal(&domains).is_ok(), agrees, "{other}");
    }
}
