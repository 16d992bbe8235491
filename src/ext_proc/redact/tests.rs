//! Any chunking gives what one piece gives, and that is what looking byte by byte gives.

use std::{collections::BTreeSet, sync::Arc};

use base64::{Engine, engine::general_purpose};
use bytes::Bytes;
use proptest::{collection::vec, prelude::*};

use super::{Needles, NeedlesBuilder, Redactor, is_readable, is_stale};
use crate::{
    fixture::{catalog, reference},
    secret::SecretValue,
};

const KEY: &str = "{{secret://local/key}}";

fn needles(values: &[(&[u8], &str)]) -> Arc<Needles> {
    let mut builder = NeedlesBuilder::default();
    for (value, name) in values {
        let secret = catalog().parse_reference(name).expect("valid");
        builder.add(&SecretValue::new(*value), &secret);
    }
    Arc::new(builder.build().expect("something to look for"))
}

fn key(value: &[u8]) -> Arc<Needles> {
    needles(&[(value, "secret://local/key")])
}

/// The needles as they are, each replaced by its number.
fn plain(forms: &[Vec<u8>]) -> Arc<Needles> {
    const NUMBERS: [&str; 8] = ["<0>", "<1>", "<2>", "<3>", "<4>", "<5>", "<6>", "<7>"];
    let mut builder = NeedlesBuilder::default();
    for (form, number) in forms.iter().zip(NUMBERS) {
        builder.add_form(form, number);
    }
    Arc::new(builder.build().expect("some"))
}

fn in_chunks<'c>(needles: &Arc<Needles>, chunks: impl IntoIterator<Item = &'c [u8]>) -> Vec<u8> {
    let mut redactor = Redactor::new(Arc::clone(needles));
    let mut out = Vec::new();
    for chunk in chunks {
        redactor.push(Bytes::copy_from_slice(chunk), &mut out);
        assert!(redactor.held() < needles.longest());
    }
    redactor.finish(&mut out);
    assert_eq!(redactor.held(), 0);
    assert!(out.iter().all(|piece| !piece.is_empty()), "an empty piece says nothing");
    out.concat()
}

fn at_once(needles: &Needles, text: &[u8]) -> Vec<u8> {
    needles.redact(text).unwrap_or_else(|| text.to_vec())
}

fn naive(forms: &[Vec<u8>], text: &[u8]) -> Vec<u8> {
    let (mut at, mut redacted) = (0, Vec::new());
    while at < text.len() {
        let found = forms.iter().enumerate().filter(|(_, form)| text[at..].starts_with(form));
        // The first of those that are longest.
        match found.max_by_key(|(number, form)| (form.len(), usize::MAX - number)) {
            Some((number, form)) => {
                redacted.extend_from_slice(format!("<{number}>").as_bytes());
                at += form.len();
            }
            None => {
                redacted.push(text[at]);
                at += 1;
            }
        }
    }
    redacted
}

/// Few letters, so that needles overlap, repeat and start each other.
fn letters(length: impl Into<proptest::collection::SizeRange>) -> impl Strategy<Value = Vec<u8>> {
    vec(prop_oneof![4 => Just(b'a'), 1 => Just(b'b'), 1 => Just(b'\n')], length)
}

/// Needles, and a text that is full of them and of pieces of them.
fn case() -> impl Strategy<Value = (Vec<Vec<u8>>, Vec<u8>)> {
    vec(letters(8..24), 1..8).prop_flat_map(|forms| {
        let pieces = forms.clone();
        let piece = (0..forms.len(), 0..24usize, 0..24usize).prop_map(move |(form, from, to)| {
            let form = &pieces[form];
            let (from, to) = (from.min(form.len()), to.min(form.len()));
            form[from.min(to)..from.max(to)].to_vec()
        });
        let whole = (0..forms.len()).prop_map({
            let forms = forms.clone();
            move |form| forms[form].clone()
        });
        let text = vec(prop_oneof![whole, piece, letters(0..12)], 0..24);
        (Just(forms), text.prop_map(|pieces| pieces.concat()))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn chunks_of_any_size_give_what_looking_byte_by_byte_gives(
        (forms, text) in case(),
        sizes in vec(1..40usize, 1..60),
    ) {
        let needles = plain(&forms);
        let expected = naive(&forms, &text);
        prop_assert_eq!(&at_once(&needles, &text), &expected);
        let mut rest = &text[..];
        let mut chunks = Vec::new();
        for size in sizes.iter().cycle().take_while(|_| !text.is_empty()) {
            let (chunk, after) = rest.split_at((*size).min(rest.len()));
            chunks.push(chunk);
            rest = after;
            if rest.is_empty() {
                break;
            }
        }
        prop_assert_eq!(&in_chunks(&needles, chunks), &expected);
        prop_assert_eq!(&in_chunks(&needles, text.chunks(1)), &expected);
        // Nothing is left that was looked for, and nothing is found in what came out.
        prop_assert!(needles.redact(&expected).is_none());
    }

    #[test]
    fn no_form_of_a_value_gets_through(
        value in "[ -~é😀]{8,40}",
        before in "[a-z]{0,5}",
        after in "[a-z]{0,5}",
        chunk in 1..50usize,
    ) {
        let needles = key(value.as_bytes());
        for (form, text) in encodings(&before, &value, &after) {
            let out = in_chunks(&needles, text.as_bytes().chunks(chunk));
            let out = String::from_utf8(out).expect("text");
            prop_assert!(out.contains(KEY), "{} {} {}", form, text, out);
            prop_assert!(!out.contains(&value), "{} {}", form, out);
        }
    }

    #[test]
    fn other_text_stays_as_it_is(text in vec(any::<u8>(), 0..2000), chunk in 1..700usize) {
        let needles = key(b"sk-canary-4711");
        prop_assert_eq!(in_chunks(&needles, text.chunks(chunk)), text);
    }
}

/// A value inside other text, as others write it.
fn encodings(before: &str, value: &str, after: &str) -> Vec<(&'static str, String)> {
    let whole = format!("{before}{value}{after}");
    let json = serde_json::to_string(&whole).expect("a string");
    let form: String =
        form_urlencoded::Serializer::new(String::new()).append_pair("k", &whole).finish();
    let percent = percent_encoding::utf8_percent_encode(&whole, percent_encoding::NON_ALPHANUMERIC);
    let strict = percent.to_string();
    let mut forms = vec![
        ("raw", whole.clone()),
        ("json", json),
        ("form", form),
        ("base64", general_purpose::STANDARD.encode(&whole)),
        ("base64 no padding", general_purpose::STANDARD_NO_PAD.encode(&whole)),
        ("base64url", general_purpose::URL_SAFE.encode(&whole)),
        ("hex", whole.bytes().map(|b| format!("{b:02x}")).collect()),
        ("HEX", whole.bytes().map(|b| format!("{b:02X}")).collect()),
    ];
    // This encoder escapes even what no URL has to.
    if !value.contains(['-', '.', '_', '~']) {
        forms.push(("percent", strict.clone()));
        // Its escapes alone are in small letters.
        let small = whole.bytes().map(|b| match b.is_ascii_alphanumeric() {
            true => char::from(b).to_string(),
            false => format!("%{b:02x}"),
        });
        forms.push(("percent small", small.collect()));
    }
    forms
}

#[test]
fn values_are_found_as_others_write_them() {
    let value = "a/b\"c\\d<é>&😀 +";
    let needles = key(value.as_bytes());
    let rows = [
        // Go, Python, PHP, JavaScript.
        r#"a/b\"c\\d\u003cé\u003e\u0026😀 +"#,
        r#"a/b\"c\\d<\u00e9>&\ud83d\ude00 +"#,
        r#"a/b\"c\\d<\u00E9>&\uD83D\uDE00 +"#,
        r#"a\/b\"c\\d<é>&😀 +"#,
        r#"a\/b\"c\\d<\u00e9>&\ud83d\ude00 +"#,
        // A query, a path, a whole URL, a form.
        "a%2Fb%22c%5Cd%3C%C3%A9%3E%26%F0%9F%98%80%20%2B",
        "a%2fb%22c%5cd%3c%c3%a9%3e%26%f0%9f%98%80%20%2b",
        "a/b%22c%5Cd%3C%C3%A9%3E&%F0%9F%98%80%20+",
        "a%2Fb%22c%5Cd%3C%C3%A9%3E&%F0%9F%98%80%20+",
        "a%2Fb%22c%5Cd%3C%C3%A9%3E%26%F0%9F%98%80+%2B",
    ];
    for row in rows {
        let out = at_once(&needles, format!("<{row}>").as_bytes());
        assert_eq!(String::from_utf8_lossy(&out), format!("<{KEY}>"), "{row}");
    }
}

#[test]
fn base64_of_a_value_is_found_at_every_alignment() {
    let value = "canary-4711";
    let needles = key(value.as_bytes());
    for before in ["", "m", "me", "me:", "user:"] {
        for after in ["", "x", "xy", "xyz"] {
            let text = general_purpose::STANDARD.encode(format!("{before}{value}{after}"));
            let out = String::from_utf8(at_once(&needles, text.as_bytes())).expect("text");
            assert!(out.contains(KEY), "{before} {after}: {out}");
            // What stands beside the value stays, but for the characters that they share.
            assert!(out.len() <= KEY.len() + 18, "{out}");
        }
    }
}

#[test]
fn short_values_stay_and_a_final_newline_does_not_count() {
    let mut builder = NeedlesBuilder::default();
    builder.add(&SecretValue::new("1234567"), &reference("secret://local/key"));
    builder.add(&SecretValue::new("1234567\r\n"), &reference("secret://local/key"));
    builder.add(&SecretValue::new(""), &reference("secret://local/key"));
    assert!(builder.build().is_none(), "found everywhere");
    let needles = key(b"12345678\n");
    assert_eq!(at_once(&needles, b"x12345678y"), format!("x{KEY}y").into_bytes());
    assert_eq!(needles.redact(b"1234567"), None);
}

#[test]
fn the_leftmost_and_then_the_longest_wins() {
    let needles =
        needles(&[(b"abcdefgh", "secret://local/a"), (b"abcdefghij", "secret://local/b")]);
    let rows: [(&str, &str); 5] = [
        ("abcdefghij", "{{secret://local/b}}"),
        ("abcdefghiX", "{{secret://local/a}}iX"),
        ("abcdefgh", "{{secret://local/a}}"),
        ("abcdefgabcdefghij", "abcdefg{{secret://local/b}}"),
        ("abcdefghabcdefgh", "{{secret://local/a}}{{secret://local/a}}"),
    ];
    for (text, expected) in rows {
        assert_eq!(at_once(&needles, text.as_bytes()), expected.as_bytes());
        for split in 0..text.len() {
            let (one, two) = text.as_bytes().split_at(split);
            assert_eq!(in_chunks(&needles, [one, two]), expected.as_bytes(), "{text} {split}");
        }
    }
}

#[test]
fn references_stay_json_text() {
    let needles = needles(&[(b"canary-4711", r#"secret://local/key#a"b\c"#)]);
    let body = br#"{"k":"canary-4711"}"#;
    let out: serde_json::Value =
        serde_json::from_slice(&at_once(&needles, body)).expect("still JSON");
    assert_eq!(out["k"], r#"{{secret://local/key#a"b\c}}"#);
}

/// Where nothing is found, chunks go on as they are, not as copies.
#[test]
fn untouched_chunks_are_not_copied() {
    let needles = key(b"canary-4711");
    let mut redactor = Redactor::new(needles);
    let chunk = Bytes::from(vec![b'x'; 70_000]);
    for _ in 0..3 {
        let mut out = Vec::new();
        redactor.push(chunk.clone(), &mut out);
        let [only] = out.as_slice() else { panic!("{} pieces", out.len()) };
        assert_eq!((only.as_ptr(), only.len()), (chunk.as_ptr(), chunk.len()));
    }
    // Beside what is found too.
    let text = [&b"start canary-4711 "[..], &[b'x'; 1000]].concat();
    let chunk = Bytes::from(text);
    let mut out = Vec::new();
    redactor.push(chunk.clone(), &mut out);
    assert_eq!(out.len(), 3);
    assert_eq!((out[0].as_ptr(), out[1].as_ref()), (chunk.as_ptr(), KEY.as_bytes()));
    assert_eq!(out[2].as_ptr(), chunk[17..].as_ptr());
    assert_eq!(redactor.redacted(), 1);
}

/// An event goes on when it is there, and only what may be a value waits for more.
#[test]
fn events_are_not_held_back() {
    let needles = key(b"canary-4711");
    let mut redactor = Redactor::new(needles);
    let rows = [
        ("data: one\n\n", "data: one\n\n"),
        ("data: canary-4711\n\n", "data: {{secret://local/key}}\n\n"),
        ("data: two can", "data: two "),
        ("\n\n", "can\n\n"),
        ("data: cana", "data: "),
        ("ry-4711\n\n", "{{secret://local/key}}\n\n"),
        ("data: c", "data: "),
    ];
    for (sent, expected) in rows {
        let mut out = Vec::new();
        redactor.push(Bytes::from_static(sent.as_bytes()), &mut out);
        assert_eq!(String::from_utf8_lossy(&out.concat()), expected, "{sent}");
    }
    assert_eq!(redactor.held(), 1);
    let mut out = Vec::new();
    redactor.finish(&mut out);
    assert_eq!(out.concat(), b"c");
}

#[test]
fn many_values_are_told_apart() {
    let values: Vec<_> = (0..100).map(|n| format!("canary-{n:04}-value")).collect();
    let names: Vec<_> = (0..100).map(|n| format!("secret://local/key-{n}")).collect();
    let pairs: Vec<_> =
        values.iter().zip(&names).map(|(v, n)| (v.as_bytes(), n.as_str())).collect();
    let needles = needles(&pairs);
    let text = values.join(" ");
    let expected: Vec<_> = names.iter().map(|name| format!("{{{{{name}}}}}")).collect();
    for size in [1, 7, 64, 5000] {
        let out = in_chunks(&needles, text.as_bytes().chunks(size));
        assert_eq!(String::from_utf8_lossy(&out), expected.join(" "));
    }
    assert_eq!(expected.iter().collect::<BTreeSet<_>>().len(), 100);
}

#[test]
fn compressed_bodies_cannot_be_looked_into() {
    let rows: [(&[&str], bool); 9] = [
        (&["gzip"], false),
        (&["br"], false),
        (&["identity, gzip"], false),
        (&["identity", "zstd"], false),
        (&["\u{fffd}"], false),
        (&[], true),
        (&[""], true),
        (&["Identity"], true),
        (&["identity, identity", " "], true),
    ];
    for (values, readable) in rows {
        let values = values.iter().map(|value| value.as_bytes());
        assert_eq!(is_readable(values), readable);
    }
}

#[test]
fn checksums_of_the_body_are_stale() {
    for name in ["content-md5", "Digest", "content-digest", "repr-digest", "x-amz-checksum-crc32"] {
        assert!(is_stale(name), "{name}");
    }
    for name in ["etag", "content-type", "x-amz-checksum", "x-amz-request-id"] {
        assert!(!is_stale(name), "{name}");
    }
}
