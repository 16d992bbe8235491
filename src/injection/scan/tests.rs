//! References in header values: what is refused, and what is rewritten.

use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use proptest::prelude::*;

use super::*;
use crate::{fixture::catalog, secret::InvalidName};

fn scan(value: &str) -> Result<Option<InjectedValue>, Refused> {
    scan_value(value.as_bytes(), &catalog())
}

fn basic_of(plain: &str) -> String {
    format!("Basic {}", STANDARD.encode(plain))
}

#[test]
fn references_out_of_place_are_refused() {
    use Refused as E;
    let long = format!("{{{{secret://local/{}}}}}", "a".repeat(600));
    let cases: &[(&str, Refused)] = &[
        ("x{{secret://local/a}}", E::Position),
        ("{{secret://local/a}}x", E::Position),
        (" {{secret://local/a}}", E::Position),
        ("{{secret://local/a}} ", E::Position),
        ("{{secret://local/a}}{{secret://local/b}}", E::Position),
        ("{{secret://local/a}} {{secret://local/b}}", E::Position),
        ("Bearer  {{secret://local/a}}", E::Position),
        ("Bearer\t{{secret://local/a}}", E::Position),
        ("Bearer {{secret://local/a}} x", E::Position),
        ("Bearer x {{secret://local/a}}", E::Position),
        ("Bea(rer {{secret://local/a}}", E::Position),
        ("session={{secret://local/a}}", E::Position),
        ("Bearer \"{{secret://local/a}}\"", E::Position),
        ("{{secret://local/a}}}", E::Position),
        ("{{{secret://local/a}}", E::Position),
        ("{{secret://local/a", E::Unclosed),
        ("{{secret://local/a}", E::Unclosed),
        ("Bearer {{secret://", E::Unclosed),
        ("{{secret://}}", E::Reference(InvalidReference::Shape)),
        ("{{secret://nowhere/a}}", E::Reference(InvalidReference::UnknownBackend)),
        ("{{secret://local/}}", E::Reference(InvalidName::Empty.into())),
        ("{{secret://local/../a}}", E::Reference(InvalidName::Traversal.into())),
        ("{{secret://local/a?x=1}}", E::Reference(InvalidReference::Parameter)),
        ("{{secret://local/a#}}", E::Reference(InvalidReference::Field)),
        (&long, E::Reference(InvalidReference::TooLong)),
        ("{{secret://local/{{secret://local/a}}", E::Nested),
        (&basic_of("user:x{{secret://local/a}}"), E::Position),
        (&basic_of("x{{secret://local/a}}:pass"), E::Position),
        (&basic_of("u:{{secret://local/a}}{{secret://local/b}}"), E::Position),
        (&basic_of("{{secret://local/a}}"), E::Position),
        ("Bearer %7B%7Bsecret%3A%2F%2Flocal%2Fa%7D%7D", E::Encoded),
        ("a=%7b{%73ecret://local/a}}", E::Encoded),
        (&basic_of("u:%7B%7Bsecret://local/a}}"), E::Encoded),
        (&basic_of("u:{{secret://local/a"), E::Unclosed),
        (&basic_of("{{secret://local/a:b"), E::Unclosed),
        (&basic_of("u\n:{{secret://local/a}}"), E::NotText),
        (&basic_of("u:{{secret://nowhere/a}}"), E::Reference(InvalidReference::UnknownBackend)),
    ];
    for (value, expected) in cases {
        assert_eq!(scan(value).as_ref(), Err(expected), "{value:?}");
    }
    let bytes = [b"\xff", OPEN.as_bytes(), b"local/a}}"].concat();
    assert_eq!(scan_value(&bytes, &catalog()), Err(Refused::NotText));
    let credentials = [b"caf\xe9:", OPEN.as_bytes(), b"local/a}}"].concat();
    let encoded = format!("Basic {}", STANDARD.encode(credentials));
    assert_eq!(scan(&encoded), Err(Refused::NotText));
}

#[test]
fn references_in_place_are_found() {
    let template = |text: &str| Template::parse(text, &catalog()).expect("valid");
    for value in [
        "{{secret://local/a}}",
        "{{secret://local/a?version=3#key}}",
        "{{secret://local/a#a key with spaces}}",
        "Bearer {{secret://local/a}}",
        "token {{secret://local/a#some key}}",
        "Basic {{secret://local/a}}",
    ] {
        assert_eq!(scan(value), Ok(Some(InjectedValue::Text(template(value)))), "{value}");
    }
    for (username, password) in [
        ("user", "{{secret://local/a}}"),
        ("{{secret://local/a}}", "pass"),
        ("{{secret://local/a}}", ""),
        ("", "{{secret://local/a}}"),
        ("{{secret://local/a#x:y}}", "{{secret://local/b}}"),
        ("user", "{{secret://local/a#x:y}}"),
    ] {
        let found =
            InjectedValue::Basic { username: template(username), password: template(password) };
        let plain = format!("{username}:{password}");
        assert_eq!(scan(&basic_of(&plain)), Ok(Some(found.clone())), "{plain}");
        let unpadded = format!("bAsIc {}", STANDARD_NO_PAD.encode(&plain));
        assert_eq!(scan(&unpadded), Ok(Some(found)), "{plain}");
    }
}

#[test]
fn other_values_hold_no_reference() {
    for value in [
        "",
        "plain",
        "{{",
        "{{secret:/local/a}}",
        "{{SECRET://local/a}}",
        "{secret://local/a}",
        "secret://local/a",
        "%7B%7Bsecret:/local/a}}",
        "Basic",
        "Basic ",
        "Basic !!!",
        &basic_of("user:pass"),
        &basic_of(""),
    ] {
        assert_eq!(scan(value), Ok(None), "{value:?}");
    }
}

fn rewrites<'a>(headers: &'a [(&'a str, &'a str)]) -> Result<Vec<Rewrite<'a>>, Refused> {
    let headers = headers.iter().map(|(name, value)| (*name, value.as_bytes()));
    scan_headers(headers, |name| name == "x-set", &catalog())
}

#[test]
fn headers_that_route_or_frame_are_never_rewritten() {
    for name in [
        ":path",
        ":authority",
        ":method",
        "host",
        "Host",
        "content-length",
        "transfer-encoding",
        "x-envoy-original-path",
        "X-Envoy-Retry-On",
        "",
        "no header",
    ] {
        let found = [(name, "{{secret://local/a}}")];
        assert_eq!(rewrites(&found), Err(Refused::Position), "{name:?}");
    }
    let path = [(":path", "/a?key={{secret://local/a}}")];
    assert_eq!(rewrites(&path), Err(Refused::Position));
}

#[test]
fn references_are_counted_over_the_whole_request() {
    let many = vec![("x-key", "{{secret://local/a}}"); MAX_REFERENCES];
    assert_eq!(rewrites(&many).map(|found| found[0].values.len()), Ok(MAX_REFERENCES));
    let more = [many, vec![("x-other", "{{secret://local/a}}")]].concat();
    assert_eq!(rewrites(&more), Err(Refused::TooMany));
}

#[test]
fn all_values_of_a_rewritten_header_are_kept_in_order() {
    let headers = [
        ("x-plain", "a"),
        ("x-key", "first"),
        ("X-Key", "{{secret://local/a}}"),
        ("x-set", "x{{secret://local/a}}"),
        ("x-key", "last"),
    ];
    let found = rewrites(&headers).expect("valid");
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].name, "x-key");
    let kept = |at: usize| matches!(found[0].values[at], HeaderText::Kept(_));
    assert_eq!((found[0].values.len(), kept(0), kept(1), kept(2)), (3, true, false, true));
}

proptest! {
    #[test]
    fn no_bytes_panic(value in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = scan_value(&value, &catalog());
        let _ = scan_value(format!("Basic {}", STANDARD.encode(&value)).as_bytes(), &catalog());
    }

    #[test]
    fn no_text_with_a_reference_passes_as_inert(
        before in "[ -~]{0,12}",
        middle in "[ -~]{0,12}",
        after in "[ -~]{0,12}",
    ) {
        let text = format!("{before}{OPEN}{middle}{after}");
        for value in [&text, &basic_of(&text)] {
            prop_assert_ne!(scan(value), Ok(None));
            if let Ok(Some(found)) = scan(value) {
                prop_assert_eq!(found.references().count(), text.matches(OPEN).count());
            }
        }
    }
}
