//! Values in headers: what is refused, and what is written.

use base64::{Engine, engine::general_purpose::STANDARD};

use super::*;
use crate::{
    fixture::{catalog, reference},
    injection::scan_headers,
};

const KEY: &str = "{{secret://local/key}}";

/// What `x-key: <header>` holds when every reference holds `secret`.
fn render_one(header: &str, secret: &[u8]) -> Result<Vec<u8>, UnfitReason> {
    let catalog = catalog();
    let headers = [("x-key", header.as_bytes())].into_iter();
    let rewrites = scan_headers(headers, |_| false, &catalog).expect("valid references");
    let secret = SecretValue::new(secret);
    let rendered = render_headers(&rewrites, |_| Some(&secret)).map_err(|unfit| {
        let named = unfit.secret.to_string();
        assert!(named.starts_with(&reference("secret://local/key").to_string()), "{named}");
        unfit.reason
    })?;
    let [RenderedHeader { name, values }] = rendered.as_slice() else { panic!("one header") };
    assert_eq!(name, "x-key");
    let [value] = values.as_slice() else { panic!("one value") };
    Ok(value.to_vec())
}

#[test]
fn values_that_no_header_can_hold_are_refused_by_name() {
    let long = "a".repeat(MAX_VALUE + 1);
    let bearer_long = "a".repeat(MAX_VALUE - 3);
    let base64_long = "a".repeat(MAX_VALUE * 3 / 4);
    let bearer = format!("Bearer {KEY}");
    let user = format!("Basic {}", STANDARD.encode(format!("{KEY}:x")));
    let cases: &[(&str, &[u8], UnfitReason)] = &[
        (KEY, b"a\nb", UnfitReason::Control),
        (KEY, b"a\rb", UnfitReason::Control),
        (KEY, b"a\r", UnfitReason::Control),
        (KEY, b"a\n\n", UnfitReason::Control),
        (KEY, b"a\r\n\r\n", UnfitReason::Control),
        (KEY, b"\na", UnfitReason::Control),
        (KEY, b"a\0", UnfitReason::Control),
        (KEY, b"\x01", UnfitReason::Control),
        (KEY, b"\x7f", UnfitReason::Control),
        (KEY, b"\x1b[0m", UnfitReason::Control),
        (&bearer, b"a\r\nx-admin: 1", UnfitReason::Control),
        (KEY, b"", UnfitReason::Empty),
        (KEY, b"\n", UnfitReason::Empty),
        (KEY, long.as_bytes(), UnfitReason::TooLong),
        (&bearer, bearer_long.as_bytes(), UnfitReason::TooLong),
        (&user, base64_long.as_bytes(), UnfitReason::TooLong),
        (&user, b"a\nb", UnfitReason::Control),
        (&user, b"admin:other", UnfitReason::Colon),
    ];
    for (header, secret, reason) in cases {
        assert_eq!(render_one(header, secret), Err(*reason), "{header} {secret:.20?}");
    }
}

#[test]
fn one_newline_at_the_end_is_left_out_and_all_else_kept() {
    let cases: &[(&str, &[u8], &[u8])] = &[
        (KEY, b"sk-1", b"sk-1"),
        (KEY, b"sk-1\n", b"sk-1"),
        (KEY, b"sk-1\r\n", b"sk-1"),
        (KEY, b"a\tb", b"a\tb"),
        (KEY, b"caf\xc3\xa9 \xff", b"caf\xc3\xa9 \xff"),
        ("Bearer {{secret://local/key}}", b"sk-1\n", b"Bearer sk-1"),
        (KEY, b"{{secret://local/key}}", b"{{secret://local/key}}"),
    ];
    for (header, secret, expected) in cases {
        assert_eq!(render_one(header, secret).as_deref(), Ok(*expected), "{header}");
    }
}

#[test]
fn basic_credentials_are_encoded_again() {
    for (plain, expected) in [
        ("user:{{secret://local/key}}", "user:s3:cret"),
        ("user:{{secret://local/key#p:w}}", "user:s3:cret"),
    ] {
        let header = format!("basic {}", STANDARD.encode(plain));
        let expected = format!("Basic {}", STANDARD.encode(expected));
        let rendered = render_one(&header, b"s3:cret\n");
        assert_eq!(rendered.as_deref(), Ok(expected.as_bytes()), "{plain}");
    }
}
