//! Headers with secrets into header mutations, and HTTP responses into immediate
//! responses. Envoy reads `raw_value` alone.

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
    api::{self, Problem, ProblemCode},
    injection::{RenderedHeader, Rewrite, Unfit, render_headers},
    policy::DecisionId,
    secret::{SecretRef, SecretValue},
    signing::Signed,
};

/// Details end up in access logs.
const MAX_DETAILS: usize = 640;

/// Puts resolved secrets into headers.
pub(super) fn rewrite<'v>(
    rewrites: &[Rewrite<'_>],
    resolved: impl Fn(&SecretRef) -> Option<&'v SecretValue>,
) -> Result<HeaderMutation, Unfit> {
    Ok(write(render_headers(rewrites, resolved)?))
}

fn write(headers: Vec<RenderedHeader>) -> HeaderMutation {
    let mut mutation = HeaderMutation::default();
    for RenderedHeader { name, values } in headers {
        let values = values.into_iter().map(|mut value| std::mem::take(&mut *value));
        put(&mut mutation, name.as_str(), values.collect());
    }
    mutation
}

/// Sets a header to these values, in order and in place of all it has.
pub(super) fn put(mutation: &mut HeaderMutation, name: &str, mut values: Vec<Vec<u8>>) {
    match values.as_mut_slice() {
        [value] => mutation.set_headers.push(overwrite(name, std::mem::take(value))),
        // Overwriting would make one header of several. Envoy removes first.
        _ => {
            mutation.remove_headers.push(name.to_owned());
            let values = values.into_iter().map(|value| option(name, value, true));
            mutation.set_headers.extend(values);
        }
    }
}

/// A header, in place of all its values; also one that is no header to anyone but Envoy.
pub(super) fn overwrite(name: &str, value: Vec<u8>) -> HeaderValueOption {
    option(name, value, false)
}

/// The target that a request has after this mutation, if it changes.
pub(super) fn target_after(mutation: &HeaderMutation) -> Option<&str> {
    let mut set = mutation.set_headers.iter().rev().filter_map(|option| option.header.as_ref());
    let target = set.find(|header| header.key == ":path")?;
    std::str::from_utf8(&target.raw_value).ok()
}

/// Whether it sets `content-length`.
pub(super) fn is_length(option: &HeaderValueOption) -> bool {
    option.header.as_ref().is_some_and(|header| header.key == "content-length")
}

/// The length that a body is said to have after this mutation, if it says one.
pub(super) fn length_after(mutation: &HeaderMutation) -> Option<u64> {
    let option = mutation.set_headers.iter().rfind(|option| is_length(option))?;
    std::str::from_utf8(&option.header.as_ref()?.raw_value).ok()?.parse().ok()
}

/// Whether it changes this header.
pub(super) fn touches(mutation: &HeaderMutation, name: &str) -> bool {
    let mut set = mutation.set_headers.iter().filter_map(|option| option.header.as_ref());
    mutation.remove_headers.iter().any(|removed| removed == name)
        || set.any(|header| header.key == name)
}

/// The values that a header has after this mutation.
#[expect(deprecated, reason = "Envoy's ext_proc reads no other field")]
pub(super) fn values_after<'a>(
    name: &str,
    values: impl Iterator<Item = &'a [u8]>,
    mutation: &'a HeaderMutation,
) -> Vec<&'a [u8]> {
    let removed = mutation.remove_headers.iter().any(|removed| removed == name);
    let mut after: Vec<_> = if removed { Vec::new() } else { values.collect() };
    for option in &mutation.set_headers {
        let Some(header) = option.header.as_ref().filter(|header| header.key == name) else {
            continue;
        };
        if !option.append.as_ref().is_some_and(|append| append.value) {
            after.clear();
        }
        after.push(&header.raw_value);
    }
    after
}

/// The headers, without pseudo headers, that a request has after this mutation.
pub(super) fn headers_after<'a>(
    headers: impl Iterator<Item = (&'a str, &'a [u8])>,
    mutation: &'a HeaderMutation,
) -> Vec<(&'a str, &'a [u8])> {
    let set = mutation.set_headers.iter().filter_map(|option| option.header.as_ref());
    let kept = headers.filter(|(name, _)| !name.starts_with(':') && !touches(mutation, name));
    let set = set.filter(|header| !header.key.starts_with(':'));
    kept.chain(set.map(|header| (header.key.as_str(), header.raw_value.as_slice()))).collect()
}

/// Adds what a signer made. Its headers are set by nothing else.
#[expect(clippy::disallowed_methods, reason = "the headers that the credentials were made for")]
pub(super) fn sign(mutation: &mut HeaderMutation, signed: Signed) {
    for (name, value) in &signed.headers {
        put(mutation, name.as_str(), vec![value.expose_secret().to_vec()]);
    }
    mutation.remove_headers.extend(signed.removed.into_iter().map(ToOwned::to_owned));
    if let Some(target) = signed.target {
        mutation.set_headers.push(overwrite(":path", target.as_bytes().to_vec()));
    }
}

/// Envoy honours the deprecated `append` alone, other data planes
/// `append_action`: both say the same.
#[expect(deprecated, reason = "Envoy's ext_proc reads no other field")]
fn option(name: &str, raw_value: Vec<u8>, append: bool) -> HeaderValueOption {
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
        headers.set_headers.push(option(name.as_str(), value.as_bytes().to_vec(), repeated));
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

/// Ends an exchange over a body that nobody knows anything about but its length.
pub(super) fn too_large(of_response: bool, reason: &str) -> ImmediateResponse {
    let code = if of_response { ProblemCode::BackendRefused } else { ProblemCode::BodyTooLarge };
    let response = api::refuse(Problem::new(code), &DecisionId::next().to_string());
    immediate(response, &format!("vaultmux_{reason}"), false)
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
    use zeroize::Zeroizing;

    use super::*;

    fn written(values: &[&str]) -> HeaderMutation {
        let values = values.iter().map(|value| Zeroizing::new(value.as_bytes().to_vec()));
        let name = HeaderName::from_static("x-key");
        write(vec![RenderedHeader { name, values: values.collect() }])
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
    #[expect(deprecated, reason = "the field that Envoy reads")]
    fn both_append_fields_say_the_same() {
        let one = written(&["v"]);
        assert!(one.remove_headers.is_empty());
        assert_eq!(one.set_headers[0].append, Some(BoolValue { value: false }));
        let overwrite = i32::from(HeaderAppendAction::OverwriteIfExistsOrAdd);
        assert_eq!(one.set_headers[0].append_action, overwrite);

        let many = written(&["first", "v", "last"]);
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
