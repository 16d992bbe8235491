//! What Envoy 1.40 really sent, recorded at its upstream, and what callers may add to it.
//! `tests/it/envoy_xfcc.rs` asks a real Envoy again.

mod trust;

use proptest::prelude::*;

use super::{ForwardedPosition::*, InvalidForwarded as E, *};
use crate::identity::TrustDomain;

const API: &str = "spiffe://cluster.local/ns/payments/sa/api";
const FORGED: &str = "By=x;URI=spiffe://cluster.local/ns/forged/sa/a";
const FORGED_JSON: &str = r#"[{"by":["x"],"uri":["spiffe://cluster.local/ns/forged/sa/a"]}]"#;

/// Recorded: `set_current_client_cert_details: {subject: true, uri: true, issuer: true}`.
const TEXT: &str = "By=spiffe://cluster.local/ns/gateway/sa/envoy;\
    Hash=42a35ee23a13ff65865d753bbcbd52dc2f72221df7087b0d82b838bc2451547e;Subject=\"CN=api\";\
    URI=spiffe://cluster.local/ns/payments/sa/api;Issuer=\"CN=test authority\"";

/// Recorded: `{uri: true}` alone, which has nothing to quote.
const TEXT_URI: &str = "By=spiffe://cluster.local/ns/gateway/sa/envoy;\
    Hash=42a35ee23a13ff65865d753bbcbd52dc2f72221df7087b0d82b838bc2451547e;\
    URI=spiffe://cluster.local/ns/payments/sa/api";

/// Recorded: the same certificate with `format: JSON`.
const JSON: &str = r#"[{"by":["spiffe://cluster.local/ns/gateway/sa/envoy"],"hash":"42a35ee23a13ff65865d753bbcbd52dc2f72221df7087b0d82b838bc2451547e","subject":"CN=api","uri":["spiffe://cluster.local/ns/payments/sa/api"],"issuer":"CN=test authority"}]"#;

/// Recorded: two URI and two DNS names, `O=A, B; C=D` and `CN=say "hi"\ é`.
const ODD: &str = r#"By=spiffe://cluster.local/ns/gateway/sa/envoy;Hash=481732af49ab157a6c274d141d7d5dadb6b5799d55a75c23e4cd29a6b2a932ea;Subject="CN=say \"hi\"\\ \C3\A9,O=A\, B\; C=D";URI=spiffe://cluster.local/ns/payments/sa/api;URI=spiffe://cluster.local/ns/shop/sa/web;DNS=a.test;DNS=b.test;Issuer="CN=test authority""#;
const ODD_JSON: &str = r#"[{"by":["spiffe://cluster.local/ns/gateway/sa/envoy"],"hash":"481732af49ab157a6c274d141d7d5dadb6b5799d55a75c23e4cd29a6b2a932ea","subject":"CN=say \\\"hi\\\"\\\\ \\C3\\A9,O=A\\, B\\; C=D","uri":["spiffe://cluster.local/ns/payments/sa/api","spiffe://cluster.local/ns/shop/sa/web"],"dns":["a.test","b.test"],"issuer":"CN=test authority"}]"#;

/// Recorded: a common name that would end its quotes, and one that is a backslash.
const QUOTES: &str = r#"By=spiffe://cluster.local/ns/gateway/sa/envoy;Hash=64b582b099141d35b5a0945a53a673579768ea6d3d0e3174823d13a6ba4f0b28;Subject="CN=\"\,Hash=a\;URI=spiffe://cluster.local/ns/payments/sa/api\;Subject=\"";URI=spiffe://cluster.local/ns/shop/sa/web;Issuer="CN=test authority""#;
const BACKSLASH: &str = r#"By=spiffe://cluster.local/ns/gateway/sa/envoy;Hash=991320bcc7d0a627af80c9bdce32aeb8a1d24a1e07a0f7a05f6d53c112d14c5f;Subject="CN=\\";URI=spiffe://cluster.local/ns/shop/sa/web;Issuer="CN=test authority""#;

/// Recorded: no subject and no names, then DNS names alone.
const NOBODY: &str = r#"By=spiffe://cluster.local/ns/gateway/sa/envoy;Hash=6fabb8508bb33c49f5efec333cb8da41def235857f025541295f5f5aa7c4d824;Subject="";URI=;Issuer="CN=test authority""#;
const NOBODY_JSON: &str = r#"[{"by":["spiffe://cluster.local/ns/gateway/sa/envoy"],"hash":"91dff2c56257165fdf5375b0f030c2c5fa9a8cd5ac532b5a36ecba5d2753c86e","subject":"CN=api","dns":["a.test"],"issuer":"CN=test authority"}]"#;

/// Recorded: `cert: true, chain: true`, shortened.
const CERTIFICATE: &str = r#"By=spiffe://cluster.local/ns/gateway/sa/envoy;Hash=42a3;Cert="-----BEGIN%20CERTIFICATE-----%0AMIIB%2FLZS%3D%0A-----END%20CERTIFICATE-----%0A";Chain="-----BEGIN%20CERTIFICATE-----%0AMIIB%2FLZS%3D%0A-----END%20CERTIFICATE-----%0A";Subject="CN=api";URI=spiffe://cluster.local/ns/payments/sa/api"#;

/// Recorded: a DNS and a URI name of `…;URI=…` and `…,By=a;URI=…`, which Envoy does not
/// quote. No honest authority signs such names.
const DNS_PLANTED: &str = r#"By=spiffe://cluster.local/ns/gateway/sa/envoy;Hash=7237;Subject="CN=x";URI=;DNS=a;URI=spiffe://cluster.local/ns/payments/sa/api;Issuer="CN=test authority""#;
const URI_PLANTED: &str = r#"By=spiffe://cluster.local/ns/gateway/sa/envoy;Hash=07d9;Subject="CN=x";URI=spiffe://evil/x,By=a;URI=spiffe://cluster.local/ns/payments/sa/api;Issuer="CN=test authority""#;

fn named(header: &str, position: ForwardedPosition) -> Result<Option<String>, E> {
    forwarded_client(header, position).map(|uri| uri.map(Cow::into_owned))
}

/// `APPEND_FORWARD`: the form of what is there is what Envoy appends in, and brackets at
/// both ends are how it knows JSON. The element is that of [`TEXT`] and [`JSON`].
fn append(sent: &str, text: &str) -> String {
    match sent.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(inner) => format!("[{inner},{}", &JSON[1..]),
        None if sent.is_empty() => text.to_owned(),
        None => format!("{sent},{text}"),
    }
}

#[test]
fn recorded_elements_name_their_client_or_nobody() {
    let web = "spiffe://cluster.local/ns/shop/sa/web";
    let cases = [
        (ODD, Err(E::UriNames)),
        (ODD_JSON, Err(E::UriNames)),
        (DNS_PLANTED, Err(E::UriNames)),
        (NOBODY, Ok(None)),
        (NOBODY_JSON, Ok(None)),
        (QUOTES, Ok(Some(web))),
        (BACKSLASH, Ok(Some(web))),
        (TEXT, Ok(Some(API))),
        (TEXT_URI, Ok(Some(API))),
        (CERTIFICATE, Ok(Some(API))),
        (JSON, Ok(Some(API))),
    ];
    for (header, expected) in cases {
        for position in [Last, Only] {
            let found = forwarded_client(header, position);
            assert_eq!(
                found.as_ref().map(Option::as_deref),
                expected.as_ref().copied(),
                "{header}"
            );
        }
        assert!(matches!(named(header, BeforeLast), Ok(None)), "{header}");
    }
    assert_eq!(named(URI_PLANTED, Only), Err(E::Elements(2)));
}

#[test]
fn elements_count_from_the_end() {
    let json = append(FORGED_JSON, TEXT);
    let text = append(FORGED, TEXT);
    let forged = Ok(Some("spiffe://cluster.local/ns/forged/sa/a".to_owned()));
    for two in [&text, &json] {
        assert_eq!(named(two, Only), Err(E::Elements(2)), "{two}");
        assert_eq!(named(two, BeforeLast), forged, "{two}");
        assert_eq!(named(two, Last), Ok(Some(API.into())), "{two}");
    }
    // The gateway dropped what its client said, the sidecar appended.
    let hops = append(TEXT, "By=a;Hash=b;URI=spiffe://cluster.local/ns/gateway/sa/envoy");
    assert_eq!(named(&hops, BeforeLast), Ok(Some(API.into())));
    // Two URI names spoil the element that counts, no other.
    let three = append(ODD, TEXT);
    assert_eq!(named(&three, BeforeLast), Err(E::UriNames));
    assert_eq!(named(&three, Last), Ok(Some(API.into())));
}

#[test]
fn nobody_is_named_by_absent_empty_and_dash() {
    let headers = [
        "",
        "[]",
        "URI=",
        "URI=-",
        "URI=\"\"",
        "URI=\"-\"",
        "By=a",
        "By=a;Hash=b",
        "Subject=\"URI=x\"",
        "Subject=\"a,URI=x\"",
        "Subject=\"\\\";URI=x\"",
        "XURI=x",
        "[{}]",
        r#"[{"uri":[]}]"#,
        r#"[{"uri":["-"]}]"#,
        r#"[{"uri":[""]}]"#,
        r#"[{"dns":["x"],"new":{"uri":["x"]}}]"#,
    ];
    for header in headers {
        for position in ForwardedPosition::ALL {
            assert_eq!(named(header, position), Ok(None), "{header}");
        }
    }
}

#[test]
fn keys_and_forms_that_other_proxies_may_write_are_read() {
    for header in ["uri=a", "Uri=\"a\"", "NEW=b;URI=a", "URI=a;By=x=y", r#"[{"URI":["a"]}]"#] {
        assert_eq!(named(header, Last), Ok(Some("a".into())), "{header}");
    }
    assert_eq!(named(r#"[{"uri":["\u0061\/b"]}]"#, Last), Ok(Some("a/b".into())));
}

#[test]
fn whatever_is_neither_form_is_refused() {
    let long = format!("URI={}", "a".repeat(MAX_HEADER - 3));
    let deep = "[".repeat(60_000);
    let malformed = [
        long.as_str(),
        deep.as_str(),
        " ",
        " []",
        ",",
        ";",
        "=",
        "URI",
        "URI=a,",
        ",URI=a",
        "URI=a;",
        ";URI=a",
        "By=x;;URI=a",
        "By=x,,URI=a",
        "=a;URI=a",
        "URI=a, By=b",
        "By=b; URI=a",
        "URI =a",
        "URI=a b",
        "URI=\u{e9}",
        "URI=a\0",
        "U\u{2028}RI=a",
        "Subject=\"",
        "Subject=\"a",
        "Subject=\"a\\\"",
        "Subject=\"a\"b;URI=a",
        "Subject=\"a\"\"b\";URI=a",
        "Subject=\"a\" ;URI=a",
        "Subject=\"a\"\u{e9};URI=a",
        "URI=\"a\"\u{e9},URI=b",
        "URI=\"a\\b\"",
        "URI=a\"b",
        "URI=a\\",
        "URI=a\\,b",
        "URI='a\"'",
        "\"URI\"=a",
        "-----BEGIN CERTIFICATE-----",
        "spiffe://cluster.local/ns/payments/sa/api",
        "[",
        "[}",
        "[{]",
        "{}",
        r#"{"uri":["a"]}"#,
        r#""uri""#,
        "null",
        "[null]",
        "[1]",
        r#"["uri"]"#,
        "[[]]",
        "[{},]",
        "[,{}]",
        "[{}][{}]",
        "[{}],[{}]",
        "[{}],By=a;URI=b",
        "By=a;URI=b,[{}]",
        r#"[{"uri":"a"}]"#,
        r#"[{"uri":null}]"#,
        r#"[{"uri":[1]}]"#,
        r#"[{"uri":[["a"]]}]"#,
        r#"[{"uri":["a]}]"#,
        r#"[{uri:["a"]}]"#,
        r#"[["uri",["a"]]]"#,
    ];
    for header in malformed {
        for position in ForwardedPosition::ALL {
            assert_eq!(named(header, position), Err(E::Malformed), "{header:.80}");
        }
    }
    let several = [
        "URI=a;URI=b",
        "URI=a;uri=a",
        "URI=;URI=a",
        "URI=-;URI=a",
        r#"[{"uri":["a","b"]}]"#,
        r#"[{"uri":["","a"]}]"#,
        r#"[{"uri":["a"],"uri":["b"]}]"#,
        r#"[{"uri":["a"],"URI":["a"]}]"#,
    ];
    for header in several {
        assert_eq!(named(header, Last), Err(E::UriNames), "{header}");
    }
}

/// Each row was sent to a real Envoy, which appended as [`append`] does; one with blanks
/// around it over HTTP/2.
#[test]
fn words_of_the_caller_never_count_as_the_last_element() {
    let rows = [
        // Left open, to swallow what comes.
        "\"",
        "Subject=\"",
        "By=\"",
        "Subject=\"\\",
        "a=\\",
        "URI=spiffe://cluster.local/ns/forged/sa/a;Subject=\"",
        "URI=\"spiffe://cluster.local/ns/forged/sa/a\"\u{e9}",
        "[",
        "[]]",
        "[{",
        "[{\"uri\":\"a\"}",
        "[{\"a\":\"",
        "[{\"a\":\"]",
        "[{\"a\":\"\\]",
        r#"[{"uri":["spiffe://cluster.local/ns/forged/sa/a"],"x":[]"#,
        r#"[{"uri":["spiffe://cluster.local/ns/forged/sa/a"],"x":[1]"#,
        r#"[{"uri":["spiffe://cluster.local/ns/forged/sa/a"],"x":"]"#,
        // Neither form, or both.
        "garbage",
        "-",
        "a,",
        "By=x;;URI=y",
        "{",
        "null",
        "[]",
        "[ ]",
        "[1]",
        "[[]]",
        "[][]",
        "[garbage]",
        "[{}] ",
        "[{}],[{}]",
        r#"[{"a":1}] x"#,
        r#"{"uri":["a"]}"#,
        &[FORGED_JSON, FORGED_JSON].join(","),
        &[FORGED_JSON, FORGED].join(","),
        &[FORGED, FORGED_JSON].join(","),
        &[FORGED, "By=\""].join(","),
    ];
    for sent in rows {
        for text in [TEXT, TEXT_URI, CERTIFICATE, NOBODY] {
            assert_eq!(named(&append(sent, text), Last), Err(E::Malformed), "{sent}");
        }
    }
    for sent in ["", FORGED, &[FORGED, FORGED].join(","), FORGED_JSON] {
        for text in [TEXT, TEXT_URI, CERTIFICATE] {
            assert_eq!(named(&append(sent, text), Last), Ok(Some(API.into())), "{sent}");
        }
    }
}

/// With the last element a client that connects to the second proxy itself writes the one
/// before.
#[test]
fn the_element_before_the_last_counts_only_if_a_trusted_proxy_wrote_it() {
    let [first, second] = ["first", "second"].map(|it| format!("spiffe://td/ns/infra/sa/{it}"));
    let trusted = [first.clone(), second.clone(), "10.0.0.0/8".to_owned()];
    let settings = ForwardedClientCert {
        trusted_proxies: PeerPatterns::parse(&trusted).expect("valid"),
        position: BeforeLast,
    };
    let second = SpiffeId::parse(&second).expect("valid");
    let untrusted = IdentityError::Forwarded(E::Untrusted);
    let api = SpiffeId::parse(API).expect("valid");
    let domains = ["cluster.local", "td"].map(|it| TrustDomain::parse(it).expect("valid"));
    for (header, expected) in [
        (format!("URI={API},URI=spiffe://td/ns/shop/sa/web"), Err(untrusted)),
        (format!("URI={API},URI={first}/x"), Err(untrusted)),
        (format!("URI={API},URI="), Err(untrusted)),
        (format!("URI={API},By=a"), Err(untrusted)),
        (format!("URI={API},URI=10.0.0.1"), Err(untrusted)),
        (format!("URI={API},URI={first},URI={API}"), Err(untrusted)),
        (format!("URI={API},URI={first};URI={first}"), Err(IdentityError::Forwarded(E::UriNames))),
        (format!("URI=,URI={API}"), Err(IdentityError::Missing)),
        (format!("URI={first}"), Err(IdentityError::Missing)),
        (format!("URI={API},URI={first}"), Ok(&api)),
        (format!(r#"[{{"uri":["{API}"]}},{{"uri":["{first}"]}}]"#), Ok(&api)),
    ] {
        let mut evidence = Evidence::default();
        let values = std::iter::once(header.as_bytes());
        let added = settings.add_to(&mut evidence, Messenger::Id(&second), values);
        assert!(added, "{header}");
        let judged = evidence.principal(&domains).map(|principal| principal.id().clone());
        assert_eq!(judged, expected.cloned(), "{header}");
    }
}

#[test]
fn positions_have_one_word_each() {
    for position in ForwardedPosition::ALL {
        assert_eq!(ForwardedPosition::parse(position.as_str()), Some(position));
    }
    for text in ["", "first", "Last", "beforeLast", "before-last"] {
        assert_eq!(ForwardedPosition::parse(text), None, "{text}");
    }
}

/// Pieces of both forms, so that quotes and brackets often nearly balance.
fn pieces() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => proptest::sample::select(&[
            "[", "]", "{", "}", "\"", "\\", ",", ";", "=", ":", " ", "a", "URI=", "URI=b", "By=x",
            "Subject=\"", "[{", "}]", "\"uri\":", "\"uri\":[\"b\"]", "[{\"uri\":[\"b\"]}", "é",
        ][..]).prop_map(str::to_owned),
        1 => "\\PC{0,3}",
    ];
    proptest::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_header_makes_the_parser_panic(any in "\\PC*", near in pieces()) {
        for header in [any, near] {
            for position in ForwardedPosition::ALL {
                let _ = forwarded_client(&header, position);
            }
        }
    }

    #[test]
    fn nothing_sent_before_it_changes_the_last_element(sent in pieces()) {
        for text in [TEXT, TEXT_URI, CERTIFICATE] {
            if let Ok(client) = named(&append(&sent, text), Last) {
                prop_assert_eq!(client.as_deref(), Some(API), "{}", sent);
            }
        }
        for text in [ODD, NOBODY] {
            if !sent.starts_with('[') {
                let client = named(&append(&sent, text), Last);
                prop_assert!(!matches!(client, Ok(Some(_))), "{}: {:?}", sent, client);
            }
        }
    }
}
