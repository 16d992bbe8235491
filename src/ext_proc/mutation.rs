//! Secrets into header mutations, and HTTP responses into immediate responses.
//!
//! Envoy reads `raw_value` alone and fails a whole mutation over one bad byte, so
//! values are checked here, and the reference, never the value, is named.

use bytes::Bytes;
use envoy_types::pb::{
    envoy::{
        config::core::v3::{
            HeaderValue, HeaderValueOption, header_value_option::HeaderAppendAction,
        },
        service::ext_proc::v3::{GrpcStatus, HeaderMutation, ImmediateResponse},
        r#type::v3::HttpStatus,
    },
    google::protobuf::BoolValue,
};
use http::{HeaderName, Response, StatusCode};
use tonic::Code;

use crate::{
    injection::{HeaderText, InjectedValue, Part, Rewrite, Template},
    secret::{SecretRef, SecretValue},
    signing::Signed,
};

/// Envoy's limit for one header value in a mutation.
const MAX_VALUE: usize = 16 * 1024;
/// Details end up in access logs.
const MAX_DETAILS: usize = 640;

/// A secret that cannot be put where its reference stands.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{secret} cannot be put into a header: {reason}")]
pub(super) struct Unfit {
    pub(super) secret: SecretRef,
    pub(super) reason: UnfitReason,
}

/// What is wrong with a value, without showing it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum UnfitReason {
    /// CR, LF, NUL or another control character, beyond one newline at the end.
    #[error("control_character")]
    Control,
    /// More than 16 KiB, together with what is around it.
    #[error("too_long")]
    TooLong,
    /// A header without value is most often a credential that got lost.
    #[error("empty")]
    Empty,
    /// A colon in the user of `Basic`, where it would move the rest to the password.
    #[error("colon_in_username")]
    Colon,
    /// Not among what was resolved.
    #[error("unresolved")]
    Unresolved,
}

/// Puts resolved secrets into headers.
pub(super) fn rewrite<'v>(
    rewrites: &[Rewrite<'_>],
    resolved: impl Fn(&SecretRef) -> Option<&'v SecretValue>,
) -> Result<HeaderMutation, Unfit> {
    let mut mutation = HeaderMutation::default();
    for Rewrite { name, values } in rewrites {
        let values = values.iter().map(|value| match value {
            HeaderText::Kept(value) => Ok(value.to_vec()),
            HeaderText::Resolved(value) => render(value, &resolved),
        });
        let mut values: Vec<_> = values.collect::<Result<_, _>>()?;
        match values.as_mut_slice() {
            [value] => set(&mut mutation, name, std::mem::take(value)),
            // Overwriting would make one header of several. Envoy removes first.
            _ => {
                mutation.remove_headers.push(name.as_str().to_owned());
                values.into_iter().for_each(|value| append(&mut mutation, name, value));
            }
        }
    }
    Ok(mutation)
}

/// The headers, without pseudo headers, that a request has after this mutation.
pub(super) fn headers_after<'a>(
    headers: impl Iterator<Item = (&'a str, &'a [u8])>,
    mutation: &'a HeaderMutation,
) -> Vec<(&'a str, &'a [u8])> {
    let set = || mutation.set_headers.iter().filter_map(|option| option.header.as_ref());
    let changed = |name: &str| {
        let removed = mutation.remove_headers.iter().any(|removed| removed == name);
        removed || set().any(|header| header.key == name)
    };
    let kept = headers.filter(|(name, _)| !name.starts_with(':') && !changed(name));
    kept.chain(set().map(|header| (header.key.as_str(), header.raw_value.as_slice()))).collect()
}

/// Adds what a signer made. Its headers are set by nothing else.
#[expect(clippy::disallowed_methods, reason = "the headers that the credentials were made for")]
pub(super) fn sign(mutation: &mut HeaderMutation, signed: Signed) {
    for (name, value) in &signed.headers {
        set(mutation, name, value.expose_secret().to_vec());
    }
    mutation.remove_headers.extend(signed.removed.into_iter().map(ToOwned::to_owned));
    if let Some(target) = signed.target {
        mutation.set_headers.push(named(":path", target.as_bytes().to_vec(), false));
    }
}

fn render<'v>(
    value: &InjectedValue,
    resolved: &impl Fn(&SecretRef) -> Option<&'v SecretValue>,
) -> Result<Vec<u8>, Unfit> {
    let unfit = |reason| {
        let secret = value.references().next().cloned();
        secret.map(|secret| Unfit { secret, reason })
    };
    let rendered = match value {
        InjectedValue::Text(text) => fill(text, resolved)?,
        InjectedValue::Basic { username, password } => {
            let mut credentials = fill(username, resolved)?;
            if let (true, Some(unfit)) = (credentials.contains(&b':'), unfit(UnfitReason::Colon)) {
                return Err(unfit);
            }
            credentials.push(b':');
            credentials.extend(fill(password, resolved)?);
            basic(&credentials)
        }
    };
    let reason = match rendered.len() {
        0 => Some(UnfitReason::Empty),
        1..=MAX_VALUE => None,
        _ => Some(UnfitReason::TooLong),
    };
    match reason.and_then(unfit) {
        Some(unfit) => Err(unfit),
        None => Ok(rendered),
    }
}

fn basic(credentials: &[u8]) -> Vec<u8> {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let mut value = String::from("Basic ");
    STANDARD.encode_string(credentials, &mut value);
    value.into_bytes()
}

#[expect(clippy::disallowed_methods, reason = "the header that the secret was permitted for")]
fn fill<'v>(
    template: &Template,
    resolved: &impl Fn(&SecretRef) -> Option<&'v SecretValue>,
) -> Result<Vec<u8>, Unfit> {
    let mut filled = Vec::new();
    for part in template.parts() {
        match part {
            Part::Literal(text) => filled.extend_from_slice(text.as_bytes()),
            Part::Reference(secret) => {
                let unfit = |reason| Unfit { secret: secret.clone(), reason };
                let value = resolved(secret).ok_or_else(|| unfit(UnfitReason::Unresolved))?;
                filled.extend_from_slice(header_text(value.expose_secret()).map_err(unfit)?);
            }
        }
    }
    Ok(filled)
}

/// A secret's bytes as a header can hold them: without the one newline that
/// files and `kubectl` leave at the end.
fn header_text(value: &[u8]) -> Result<&[u8], UnfitReason> {
    let value = value.strip_suffix(b"\n").map_or(value, |v| v.strip_suffix(b"\r").unwrap_or(v));
    if value.len() > MAX_VALUE {
        return Err(UnfitReason::TooLong);
    }
    match value.iter().any(|b| b.is_ascii_control() && *b != b'\t') {
        true => Err(UnfitReason::Control),
        false => Ok(value),
    }
}

/// Sets a header, replacing all its values.
fn set(mutation: &mut HeaderMutation, name: &HeaderName, value: Vec<u8>) {
    mutation.set_headers.push(option(name, value, false));
}

fn append(mutation: &mut HeaderMutation, name: &HeaderName, value: Vec<u8>) {
    mutation.set_headers.push(option(name, value, true));
}

fn option(name: &HeaderName, raw_value: Vec<u8>, append: bool) -> HeaderValueOption {
    named(name.as_str(), raw_value, append)
}

/// Envoy honours the deprecated `append` alone, other data planes
/// `append_action`: both say the same.
#[expect(deprecated, reason = "Envoy's ext_proc reads no other field")]
fn named(name: &str, raw_value: Vec<u8>, append: bool) -> HeaderValueOption {
    let action = match append {
        true => HeaderAppendAction::AppendIfExistsOrAdd,
        false => HeaderAppendAction::OverwriteIfExistsOrAdd,
    };
    let key = name.to_owned();
    HeaderValueOption {
        header: Some(HeaderValue { key, value: String::new(), raw_value }),
        append: Some(BoolValue { value: append }),
        append_action: action.into(),
        keep_empty_value: false,
    }
}

/// Ends the request with this response. An error becomes a gRPC status where the
/// request is gRPC.
pub(super) fn immediate(response: Response<Bytes>, details: &str, grpc: bool) -> ImmediateResponse {
    let (parts, body) = response.into_parts();
    let mut headers = HeaderMutation::default();
    let mut seen: Vec<&HeaderName> = Vec::new();
    for (name, value) in &parts.headers {
        let repeated = seen.contains(&name);
        headers.set_headers.push(option(name, value.as_bytes().to_vec(), repeated));
        seen.push(name);
    }
    let is_error = parts.status.is_client_error() || parts.status.is_server_error();
    ImmediateResponse {
        status: Some(HttpStatus { code: i32::from(parts.status.as_u16()) }),
        headers: Some(headers),
        body: body.to_vec(),
        grpc_status: (grpc && is_error).then(|| GrpcStatus { status: grpc_code(parts.status) }),
        details: sanitize(details),
    }
}

fn grpc_code(status: StatusCode) -> u32 {
    let code = match status {
        StatusCode::BAD_REQUEST => Code::InvalidArgument,
        StatusCode::UNAUTHORIZED => Code::Unauthenticated,
        StatusCode::FORBIDDEN => Code::PermissionDenied,
        StatusCode::NOT_FOUND => Code::NotFound,
        StatusCode::METHOD_NOT_ALLOWED => Code::Unimplemented,
        StatusCode::SERVICE_UNAVAILABLE => Code::Unavailable,
        StatusCode::GATEWAY_TIMEOUT => Code::DeadlineExceeded,
        _ => Code::Internal,
    };
    code as u32
}

/// Details are one word of an access log line.
fn sanitize(details: &str) -> String {
    let graphic = |c: char| if c.is_ascii_graphic() { c } else { '_' };
    details.chars().take(MAX_DETAILS).map(graphic).collect()
}

#[cfg(test)]
mod tests {
    use base64::{Engine, engine::general_purpose::STANDARD};

    use super::*;
    use crate::{
        fixture::{catalog, reference},
        injection::scan_headers,
    };

    const KEY: &str = "{{secret://local/key}}";

    /// What becomes of `x-key: <header>` when every reference holds `secret`.
    fn mutate(headers: &[&str], secret: &[u8]) -> Result<HeaderMutation, UnfitReason> {
        let headers = headers.iter().map(|value| ("x-key", value.as_bytes()));
        let catalog = catalog();
        let rewrites = scan_headers(headers, |_| false, &catalog).expect("valid references");
        let secret = SecretValue::new(secret);
        rewrite(&rewrites, |_| Some(&secret)).map_err(|unfit| {
            assert_eq!(unfit.secret, reference("secret://local/key"));
            unfit.reason
        })
    }

    fn values(mutation: &HeaderMutation) -> Vec<&[u8]> {
        let headers = mutation.set_headers.iter().filter_map(|option| option.header.as_ref());
        headers
            .map(|header| {
                assert_eq!(header.value, "", "only raw_value reaches the upstream");
                header.raw_value.as_slice()
            })
            .collect()
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
            assert_eq!(mutate(&[header], secret), Err(*reason), "{header} {secret:.20?}");
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
            let mutation = mutate(&[header], secret).expect("fits");
            assert_eq!(values(&mutation), [*expected], "{header}");
        }
    }

    #[test]
    fn basic_credentials_are_encoded_again() {
        for (plain, expected) in [
            ("user:{{secret://local/key}}", "user:s3:cret"),
            ("user:{{secret://local/key#p:w}}", "user:s3:cret"),
        ] {
            let header = format!("basic {}", STANDARD.encode(plain));
            let catalog = catalog();
            let headers = [("authorization", header.as_bytes())].into_iter();
            let rewrites = scan_headers(headers, |_| false, &catalog).expect("valid");
            let secret = SecretValue::new("s3:cret\n");
            let mutation = rewrite(&rewrites, |_| Some(&secret)).expect("fits");
            let expected = format!("Basic {}", STANDARD.encode(expected));
            assert_eq!(values(&mutation), [expected.as_bytes()], "{plain}");
        }
    }

    #[test]
    #[expect(deprecated, reason = "the field that Envoy reads")]
    fn both_append_fields_say_the_same() {
        let one = mutate(&[KEY], b"v").expect("fits");
        assert!(one.remove_headers.is_empty());
        assert_eq!(one.set_headers[0].append, Some(BoolValue { value: false }));
        let overwrite = i32::from(HeaderAppendAction::OverwriteIfExistsOrAdd);
        assert_eq!(one.set_headers[0].append_action, overwrite);

        let many = mutate(&["first", KEY, "last"], b"v").expect("fits");
        assert_eq!(many.remove_headers, ["x-key"]);
        assert_eq!(values(&many), [&b"first"[..], b"v", b"last"]);
        for option in &many.set_headers {
            assert_eq!(option.append, Some(BoolValue { value: true }));
            assert_eq!(option.append_action, i32::from(HeaderAppendAction::AppendIfExistsOrAdd));
        }
    }

    #[test]
    fn immediate_responses_keep_status_headers_and_body() {
        let cases = [(401, 16), (403, 7), (400, 3), (502, 13), (503, 14), (504, 4), (500, 13)];
        for (status, code) in cases {
            let response = || {
                let response = Response::builder().status(status).header("content-type", "a/b");
                response.body(Bytes::from_static(b"{}")).expect("valid")
            };
            let plain = immediate(response(), "a b\nc", false);
            assert_eq!(plain.status, Some(HttpStatus { code: i32::from(status) }));
            assert_eq!((plain.body.as_slice(), plain.details.as_str()), (&b"{}"[..], "a_b_c"));
            assert_eq!(values(plain.headers.as_ref().expect("some")), [b"a/b"]);
            assert!(plain.grpc_status.is_none());
            let grpc = immediate(response(), "", true);
            assert_eq!(grpc.grpc_status, Some(GrpcStatus { status: code }));
        }
        assert_eq!(immediate(Response::new(Bytes::new()), "", true).grpc_status, None);
    }
}
