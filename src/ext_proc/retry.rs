//! What stood in a request's head before secrets did, for the next attempt.
//!
//! Among the upstream's filters this one runs for every attempt of a request, and Envoy keeps
//! what the first one made of its headers: instead of a reference the second sees the value,
//! by now perhaps an old one. So the first says to itself, by dynamic metadata, what the client
//! had sent. It is sealed, and to the very value that stands there now: whoever has no key
//! cannot make the service take one header for another, and what somebody else has changed
//! meanwhile stays. Everything is decided anew, as if the client had sent the reference again.
//!
//! The body that Envoy sends again is the client's, and its `content-length` that of the body
//! that the first attempt made of it. So that is kept too.

use std::collections::HashMap;

use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
use envoy_types::pb::{
    envoy::{config::core::v3::HeaderValue, service::ext_proc::v3::HeaderMutation},
    google::protobuf::{Struct, Value, value::Kind},
};

use super::{HeadersAnswer, RequestHeaders, attributes::string, mutation};
use crate::identity::Seals;

/// Where Envoy keeps it: in `receiving_namespaces` and `forwarding_namespaces` of the filter.
pub(super) const NAMESPACE: &str = "vaultmux.ext_proc";

const LENGTH: &str = "content-length";

/// What was put back, by name: as the client sent it.
#[derive(Default)]
pub(super) struct Restored(Vec<(String, Vec<Vec<u8>>)>);

/// What the client had sent in these headers, now that they are changed so, and the length of
/// its body, if that may change. None if nothing can be sealed.
pub(super) fn sealed<'a>(
    mut names: Vec<String>,
    changes_body: bool,
    headers: impl Iterator<Item = (&'a str, &'a [u8])> + Clone,
    mutation: &HeaderMutation,
    seals: &Seals,
) -> Option<Struct> {
    if changes_body && headers.clone().any(|(name, _)| name == LENGTH) {
        names.push(LENGTH.to_owned());
    }
    if names.is_empty() {
        return None;
    }
    let mut fields = HashMap::with_capacity(names.len());
    for name in names {
        let sent = headers.clone().filter(|(is, _)| *is == name).map(|(_, value)| value);
        let now = mutation::values_after(&name, sent.clone(), mutation);
        let text = written(sent);
        let sealed = seals.seal(&parts(&name, &now), &text)?;
        let kind = Some(Kind::StringValue(STANDARD_NO_PAD.encode(sealed)));
        fields.insert(name, Value { kind });
    }
    let fields = Some(Kind::StructValue(Struct { fields }));
    Some(Struct { fields: [(NAMESPACE.to_owned(), Value { kind: fields })].into() })
}

/// Puts back what the client had sent, where an earlier attempt has left its values.
pub(super) fn restore(request: &mut RequestHeaders, seals: &Seals) -> Restored {
    let metadata = request.metadata.as_ref();
    let Some(kept) = metadata.and_then(|data| data.filter_metadata.get(NAMESPACE)) else {
        return Restored::default();
    };
    let Some(headers) = &mut request.headers.headers else { return Restored::default() };
    let headers = &mut headers.headers;
    let mut restored = Vec::new();
    for (name, sealed) in &kept.fields {
        let now: Vec<&[u8]> =
            headers.iter().filter(|header| header.key == *name).map(value).collect();
        // Where none is said any more, none was sent on.
        if name == LENGTH && now.len() != 1 {
            continue;
        }
        let sealed = string(sealed).and_then(|sealed| STANDARD_NO_PAD.decode(sealed).ok());
        let sent = sealed.and_then(|sealed| seals.open(&parts(name, &now), &sealed));
        if let Some(sent) = sent.and_then(|sent| read(&sent)) {
            restored.push((name.clone(), sent));
        }
    }
    for (name, values) in &restored {
        if let ([length], LENGTH) = (&values[..], name.as_str()) {
            request.framing.length = std::str::from_utf8(length).ok().and_then(|l| l.parse().ok());
        }
        headers.retain(|header| header.key != *name);
        headers.extend(values.iter().map(|value| HeaderValue {
            key: name.clone(),
            value: String::new(),
            raw_value: value.clone(),
        }));
    }
    Restored(restored)
}

/// What a seal belongs to. What length a body will have nobody knows before it is there.
fn parts<'p>(name: &'p str, values: &[&'p [u8]]) -> Vec<&'p [u8]> {
    let values = if name == LENGTH { &[] } else { values };
    let purpose = [&b"retry"[..], name.as_bytes()];
    purpose.into_iter().chain(values.iter().copied()).collect()
}

fn written<'v>(values: impl Iterator<Item = &'v [u8]>) -> Vec<u8> {
    let mut written = Vec::new();
    for value in values {
        written.extend_from_slice(&(value.len() as u32).to_be_bytes());
        written.extend_from_slice(value);
    }
    written
}

fn read(mut written: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut values = Vec::new();
    while let Some((length, rest)) = written.split_first_chunk() {
        let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
        let (value, rest) = rest.split_at_checked(length)?;
        values.push(value.to_vec());
        written = rest;
    }
    written.is_empty().then_some(values)
}

/// Envoy fills `raw_value`; other data planes fill `value` for some.
fn value(header: &HeaderValue) -> &[u8] {
    match header.raw_value.as_slice() {
        [] => header.value.as_bytes(),
        raw => raw,
    }
}

// === impl Restored ===

impl Restored {
    /// The answer over the request as it was put back, for Envoy, which still has the values
    /// of the attempt before: what it does not set anew is set to what the client sent.
    pub(super) fn answer(self, answer: HeadersAnswer) -> HeadersAnswer {
        if self.0.is_empty() {
            return answer;
        }
        match answer {
            HeadersAnswer::Continue => {
                let mut mutation = HeaderMutation::default();
                self.complete(&mut mutation);
                HeadersAnswer::Mutate(mutation)
            }
            HeadersAnswer::Mutate(mut mutation) => {
                self.complete(&mut mutation);
                HeadersAnswer::Mutate(mutation)
            }
            HeadersAnswer::Proceed(mut proceed) => {
                self.complete(&mut proceed.work.mutation);
                HeadersAnswer::Proceed(proceed)
            }
            HeadersAnswer::Respond(response) => HeadersAnswer::Respond(response),
        }
    }

    fn complete(self, mutation: &mut HeaderMutation) {
        for (name, values) in self.0 {
            if !mutation::touches(mutation, &name) {
                mutation::put(mutation, &name, values);
            }
        }
    }
}
