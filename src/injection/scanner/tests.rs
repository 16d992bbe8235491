//! Texts cut anywhere, against looking at the whole byte by byte.

use proptest::prelude::*;

use super::*;
use crate::injection::{CLOSE, Encoding, OPEN};

const ALIAS: &str = "sk_live_4eC39HqLyjWDarjtT1";
const OTHER_ALIAS: &str = "xoxb-1234-567890";

fn finder(encoding: Encoding) -> Arc<Finder> {
    let aliases: Arc<[String]> = [ALIAS.to_owned(), OTHER_ALIAS.to_owned()].into();
    Arc::new(Finder::new(encoding, &aliases))
}

/// What the tests' references stand for: those to `local/` have a value, one that looks
/// like a reference itself among them.
fn resolution(text: &str) -> Resolution {
    match text {
        ALIAS => Resolution::Value(Bytes::from_static(b"<alias>")),
        "{{secret://local/nested}}" => {
            Resolution::Value(Bytes::from_static(b"{{secret://local/a}}"))
        }
        "{{secret://local/empty}}" => Resolution::Value(Bytes::new()),
        _ if text.starts_with("{{secret://local/") => {
            Resolution::Value(format!("<{}>", text.len()).into())
        }
        _ => Resolution::Inert,
    }
}

struct Scanned {
    text: Vec<u8>,
    /// Most that was held back after a chunk.
    held: usize,
    asked: usize,
    replaced: usize,
}

fn scan<'c>(encoding: Encoding, chunks: impl IntoIterator<Item = &'c [u8]>) -> Scanned {
    let mut scanner = Scanner::new(finder(encoding), false);
    let (mut out, mut held, mut asked) = (Vec::new(), 0, 0);
    let mut settle = |scanner: &mut Scanner, mut progress, out: &mut Vec<Bytes>| {
        while let Progress::Needs(needs) = progress {
            assert!(!needs.is_empty(), "it asks for something");
            asked += needs.len();
            let known: Vec<_> =
                needs.into_iter().map(|text| (text.clone(), resolution(&text))).collect();
            progress = scanner.resolved(known, out);
        }
        assert_eq!(progress, Progress::Idle);
    };
    for chunk in chunks {
        let progress = scanner.push(Bytes::copy_from_slice(chunk), &mut out);
        settle(&mut scanner, progress, &mut out);
        held = held.max(scanner.held());
    }
    for _ in 0..2 {
        let progress = scanner.finish(&mut out);
        settle(&mut scanner, progress, &mut out);
        assert_eq!(scanner.held(), 0);
    }
    Scanned { text: out.concat(), held, asked, replaced: scanner.replaced() }
}

fn whole(encoding: Encoding, text: &str) -> String {
    String::from_utf8(scan(encoding, [text.as_bytes()]).text).expect("text")
}

/// The same for plain text, as slowly and plainly as can be.
fn expected(text: &str) -> String {
    let mut out = String::new();
    let (mut rest, mut replaced) = (text, 0);
    while let Some(first) = rest.chars().next() {
        let reference = rest.strip_prefix(OPEN).and_then(|after| {
            let end = after.find(|c: char| c.is_ascii_control() || c == '{' || c == '}')?;
            let closed = after[end..].starts_with(CLOSE) && OPEN.len() + end + 2 <= 2 + 512 + 2;
            closed.then(|| &rest[..OPEN.len() + end + CLOSE.len()])
        });
        let alias = [ALIAS, OTHER_ALIAS].into_iter().find(|alias| rest.starts_with(alias));
        let (found, resolution) = match reference.or(alias) {
            Some(found) => (found, resolution(found)),
            None => (&rest[..first.len_utf8()], Resolution::Inert),
        };
        match resolution {
            Resolution::Value(value) if replaced < MAX_REPLACED => {
                replaced += 1;
                out.push_str(std::str::from_utf8(&value).expect("text"));
            }
            Resolution::Value(_) | Resolution::Inert => out.push_str(found),
        }
        rest = &rest[found.len()..];
    }
    out
}

#[test]
fn what_is_no_reference_stays_as_it_is() {
    let long = format!("{{{{secret://local/{}}}}}", "a".repeat(512));
    let unclosed = format!("{{{{secret://local/{}", "a".repeat(5000));
    for text in [
        "",
        "{",
        "{{",
        "{{secret://",
        "{{secret://local/a",
        "{{secret://local/a}",
        "{{secret://local/a} }",
        "{{secret:/local/a}}",
        "{{ secret://local/a}}",
        "{ {secret://local/a}}",
        "{{SECRET://local/a}}",
        "{{secret://local/a\n}}",
        "{{secret://foreign/a}}",
        "{{secret://}}",
        "sk_live_4eC39HqLyjWDarjtT",
        "xoxb-1234-567890",
        &long,
        &unclosed,
    ] {
        for encoding in [Encoding::Plain, Encoding::Percent, Encoding::Json] {
            assert_eq!(whole(encoding, text), text, "{encoding:?} {text:.40}");
        }
        assert_eq!(expected(text), text, "{text:.40}");
    }
    // Only as it has to be written there.
    assert_eq!(
        whole(Encoding::Plain, "%7B%7Bsecret://local/a%7D%7D"),
        "%7B%7Bsecret://local/a%7D%7D"
    );
    let quoted = r#"{"a":"{{secret://local/x"y}}"}"#;
    assert_eq!(whole(Encoding::Json, quoted), quoted);
    let pair = "a={{secret://local/x&b=y}}";
    assert_eq!(whole(Encoding::Percent, pair), pair);
}

#[test]
fn references_are_found_however_they_are_written() {
    use Encoding::{Json, Percent, Plain};
    for (encoding, text, expected) in [
        (Plain, "a {{secret://local/a}} b", "a <20> b"),
        (Plain, "{{{{secret://local/a}}}}", "{{<20>}}"),
        (Plain, "{{secret://local/a{{secret://local/a}}", "{{secret://local/a<20>"),
        (Plain, "{{secret://local/a}}{{secret://local/a}}", "<20><20>"),
        (Plain, "{{secret://local/nested}}", "{{secret://local/a}}"),
        (Plain, "{{secret://local/empty}}x", "x"),
        (Plain, "{{secret://local/a?version=2#b c}}", "<34>"),
        (Plain, "{{secret://local/é}}", "<21>"),
        (Plain, "a=sk_live_4eC39HqLyjWDarjtT1;", "a=<alias>;"),
        (Plain, "{{secret://x sk_live_4eC39HqLyjWDarjtT1", "{{secret://x <alias>"),
        (Percent, "k=%7B%7Bsecret%3A%2F%2Flocal%2Fa%7D%7D&b=c", "k=<20>&b=c"),
        (Percent, "k=%7b%7bsecret://local/a%7d%7d", "k=<20>"),
        (Percent, "k={%7Bsecret://local%2fa}%7D", "k=<20>"),
        (Percent, "k={{%73ecret://local/a}}", "k=<20>"),
        (Percent, "{{secret://local/a}}", "<20>"),
        (Json, r#"{"k":"{{secret://local/a}}"}"#, r#"{"k":"<20>"}"#),
        (Json, r#"{"k":"\u007b\u007Bsecret:\/\/local\/a\u007d}"}"#, r#"{"k":"<20>"}"#),
        (Json, r#"{"k":"{\u007bsecret://local/a}\u007d"}"#, r#"{"k":"<20>"}"#),
        (Json, r#"{"k":"{{secret://local/a#\u00e9\"}}"}"#, r#"{"k":"<24>"}"#),
        (Json, r#"{"k":"sk_live_4eC39HqLyjWDarjtT1"}"#, r#"{"k":"<alias>"}"#),
        // In no string, whatever stands before it.
        (Json, r#"{"k":{{secret://local/a}}}"#, r#"{"k":{{secret://local/a}}}"#),
        (Json, r#"["\"",{{secret://local/a}}]"#, r#"["\"",{{secret://local/a}}]"#),
        (Json, r#"["\\",{{secret://local/a}}]"#, r#"["\\",{{secret://local/a}}]"#),
        (Json, r#"["\"{{secret://local/a}}"]"#, r#"["\"<20>"]"#),
        (Json, r#"["{{secret://local/a}}","{{secret://local/a}}"]"#, r#"["<20>","<20>"]"#),
    ] {
        assert_eq!(whole(encoding, text), expected, "{encoding:?} {text}");
        for at in 0..=text.len() {
            let (one, other) = text.as_bytes().split_at(at);
            let split = scan(encoding, [one, other]).text;
            assert_eq!(String::from_utf8_lossy(&split), expected, "{encoding:?} {text} at {at}");
        }
        let bytes = scan(encoding, text.as_bytes().chunks(1)).text;
        assert_eq!(String::from_utf8_lossy(&bytes), expected, "{encoding:?} {text} byte by byte");
    }
}

/// Memory is bounded by the longest reference as it may be written, not by the text.
#[test]
fn little_is_held_back() {
    let plain = "abc {{secret://local/".to_owned() + &"a".repeat(100_000);
    let escaped: String =
        "{{secret://local/".bytes().chain([b'a'; 20_000]).map(|b| format!("\\u{b:04x}")).collect();
    let nothing = "{\"key\": [1, 2, 3]}".repeat(1000);
    for (encoding, text, bound) in [
        (Encoding::Plain, &plain, 520),
        (Encoding::Percent, &plain, 520),
        (Encoding::Json, &escaped, 3110),
        (Encoding::Json, &nothing, 1),
        (Encoding::Plain, &nothing, 1),
    ] {
        for size in [1, 100, 4096] {
            let held = scan(encoding, text.as_bytes().chunks(size)).held;
            assert!(held <= bound + size, "{encoding:?} {size}: {held}");
        }
        assert!(scan(encoding, text.as_bytes().chunks(1)).held <= bound, "{encoding:?}");
    }
}

#[test]
fn chunks_without_a_match_are_not_copied() {
    let mut scanner = Scanner::new(finder(Encoding::Json), false);
    let chunk = Bytes::from(vec![b'a'; 1 << 20]);
    let mut out = Vec::new();
    assert_eq!(scanner.push(chunk.clone(), &mut out), Progress::Idle);
    assert_eq!((out.len(), out[0].as_ptr()), (1, chunk.as_ptr()));
}

#[test]
fn each_text_is_asked_about_once_and_only_so_many() {
    let repeated = "{{secret://local/a}} {{secret://foreign/a}} ".repeat(100);
    let scanned = scan(Encoding::Plain, repeated.as_bytes().chunks(7));
    assert_eq!((scanned.asked, scanned.replaced), (2, MAX_REPLACED));
    assert_eq!(String::from_utf8_lossy(&scanned.text), expected(&repeated));
    let many: String = (0..500).map(|at| format!("{{{{secret://foreign/{at}}}}}")).collect();
    let scanned = scan(Encoding::Plain, [many.as_bytes()]);
    assert_eq!(scanned.asked, MAX_ASKED);
    assert_eq!(scanned.text, many.as_bytes());

    // Where a violation ends the request, too many are one.
    let mut scanner = Scanner::new(finder(Encoding::Plain), true);
    let known = [("{{secret://local/a}}".to_owned(), resolution("{{secret://local/a}}"))];
    scanner.push(Bytes::from(repeated), &mut Vec::new());
    assert_eq!(
        scanner.resolved(known, &mut Vec::new()),
        Progress::Needs(vec!["{{secret://foreign/a}}".to_owned()])
    );
    let known = [("{{secret://foreign/a}}".to_owned(), Resolution::Inert)];
    assert_eq!(scanner.resolved(known, &mut Vec::new()), Progress::TooMany);
}

fn fragment() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => "[ -~]{0,12}",
        2 => Just("{{secret://local/a}}".to_owned()),
        1 => Just("{{secret://local/nested}}".to_owned()),
        1 => Just("{{secret://local/empty}}".to_owned()),
        1 => Just("{{secret://foreign/key#f}}".to_owned()),
        1 => Just(ALIAS.to_owned()),
        1 => Just(OTHER_ALIAS.to_owned()),
        2 => (0..OPEN.len()).prop_map(|at| OPEN[..at].to_owned()),
        1 => (0..ALIAS.len()).prop_map(|at| ALIAS[..at].to_owned()),
        1 => (0..ALIAS.len()).prop_map(|at| ALIAS[at..].to_owned()),
        1 => Just("}}".to_owned()),
        1 => Just("{{".to_owned()),
        1 => Just("é\n".to_owned()),
        1 => (495_usize..520).prop_map(|n| format!("{{{{secret://local/{}}}}}", "n".repeat(n - 15))),
    ]
}

/// Writes every character of a reference in one of the ways in which it may be written.
fn written(text: &str, encoding: Encoding, how: u64) -> String {
    let mut how = how;
    let escape = |c: char, how: u64| match (encoding, how % 3) {
        (Encoding::Percent, 1) => c.to_string().bytes().map(|b| format!("%{b:02X}")).collect(),
        (Encoding::Percent, 2) => c.to_string().bytes().map(|b| format!("%{b:02x}")).collect(),
        (Encoding::Json, 1) => format!("\\u{:04x}", c as u32),
        (Encoding::Json, 2) => format!("\\u{:04X}", c as u32),
        _ => c.to_string(),
    };
    let char = |c| {
        how = how.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        escape(c, how >> 33)
    };
    text.chars().map(char).collect()
}

proptest! {
    #[test]
    fn any_chunks_of_any_text_become_what_they_should(
        fragments in proptest::collection::vec(fragment(), 0..12),
        cuts in proptest::collection::vec(1_usize..40, 1..40),
    ) {
        let text = fragments.concat();
        let mut chunks = Vec::new();
        let mut rest = text.as_bytes();
        for size in cuts.into_iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (chunk, after) = rest.split_at(size.min(rest.len()));
            chunks.push(chunk);
            rest = after;
        }
        let plain = scan(Encoding::Plain, chunks.iter().copied());
        prop_assert_eq!(String::from_utf8_lossy(&plain.text), expected(&text));
        for encoding in [Encoding::Percent, Encoding::Json] {
            let one = scan(encoding, [text.as_bytes()]).text;
            prop_assert_eq!(scan(encoding, chunks.iter().copied()).text, one);
        }
    }

    #[test]
    fn any_way_to_write_a_reference_is_found(
        how: u64,
        at in 0_usize..200,
        name in "[a-zé/_.-]{1,30}",
    ) {
        let reference = format!("{{{{secret://local/{name}}}}}");
        let value = format!("<{}>", reference.len());
        for encoding in [Encoding::Percent, Encoding::Json] {
            let text = format!("\"x={}&y\"", written(&reference, encoding, how));
            let (one, other) = text.as_bytes().split_at(at.min(text.len()));
            let found = scan(encoding, [one, other]).text;
            prop_assert_eq!(String::from_utf8_lossy(&found), format!("\"x={value}&y\""));
        }
    }

    #[test]
    fn any_bytes_pass(bytes in proptest::collection::vec(any::<u8>(), 0..300), size in 1_usize..50) {
        for encoding in [Encoding::Plain, Encoding::Percent, Encoding::Json] {
            prop_assert_eq!(&scan(encoding, bytes.chunks(size)).text, &bytes);
        }
    }
}
