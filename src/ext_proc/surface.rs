//! References outside of header values: in cookies, in the target, and which bodies are
//! looked into.

use bytes::Bytes;
use envoy_types::pb::envoy::service::ext_proc::v3::HeaderMutation;

use super::{RequestHeaders, attributes::Head, mutation, redact, session::Place, transform::join};
use crate::{
    api::ProblemCode,
    injection::{
        OPEN, Part, Progress, Refused, Resolution, Scanner, Substitutions, Surface, Surfaces,
        Target, Template, Unwritable, Violation, is_encoded,
    },
    operation::split_query,
    secret::{SecretRef, SecretValue},
};

const PATH: &str = ":path";
const COOKIE: &str = "cookie";

/// A text in the head of a request, with references in it.
pub(super) struct Piece<'a> {
    pub(super) place: Place,
    text: &'a [u8],
    scanner: Scanner,
    out: Vec<Bytes>,
}

/// A secret that cannot be put where its reference stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unfit {
    pub(super) secret: SecretRef,
    pub(super) reason: Unwritable,
}

/// A body that cannot be looked into, and should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unseen {
    pub(super) reason: &'static str,
    pub(super) code: ProblemCode,
    /// Whether the request ends over it.
    pub(super) strict: bool,
}

/// Whether references in this header are looked for here, and not among header values.
pub(super) fn takes(surfaces: &Surfaces, name: &str) -> bool {
    let on = |surface| surfaces.get(surface).is_some();
    match name {
        PATH => on(Surface::Path) || on(Surface::Query),
        COOKIE => on(Surface::Cookie),
        _ => false,
    }
}

/// The texts outside of header values that have references.
///
/// # Errors
/// A reference in the part of the target in which none are looked for.
pub(super) fn pieces<'a>(
    substitutions: &Substitutions,
    surfaces: &Surfaces,
    head: &Head<'a>,
) -> Result<Vec<Piece<'a>>, Refused> {
    let mut pieces = Vec::new();
    let mut add = |surface: Surface, text: &'a [u8]| {
        let Some(violation) = surfaces.get(surface) else {
            // Elsewhere in the target they would be sent on as they are.
            let other = surface != Surface::Cookie && takes(surfaces, PATH);
            let found = text.windows(OPEN.len()).any(|window| window == OPEN.as_bytes());
            return match other {
                true if found => Err(Refused::Position),
                true if is_encoded(text) => Err(Refused::Encoded),
                _ => Ok(()),
            };
        };
        if surface == Surface::Cookie && is_encoded(text) {
            // Found, and never replaced: no cookie is decoded that way by everybody.
            let finder = substitutions.finder(Surface::Query);
            let scanner = Scanner::new(finder, violation == Violation::Deny);
            let place = Place { surface, violation, frozen: Some("encoded") };
            pieces.push(Piece { place, text, scanner, out: Vec::new() });
            return Ok(());
        }
        let scanner = Scanner::new(substitutions.finder(surface), violation == Violation::Deny);
        if scanner.suspects(text) {
            let place = Place { surface, violation, frozen: None };
            pieces.push(Piece { place, text, scanner, out: Vec::new() });
        }
        Ok(())
    };
    let (path, query) = split_query(head.target);
    add(Surface::Path, path.as_bytes())?;
    add(Surface::Query, query.unwrap_or_default().as_bytes())?;
    if takes(surfaces, COOKIE) {
        for (_, value) in head.headers().filter(|(name, _)| *name == COOKIE) {
            add(Surface::Cookie, value)?;
        }
    }
    Ok(pieces)
}

/// Writes what became of the pieces.
pub(super) fn put(pieces: Vec<Piece<'_>>, head: &Head<'_>, mutation: &mut HeaderMutation) {
    if pieces.iter().all(|piece| !piece.replaced()) {
        return;
    }
    let (mut path, mut query) = split_query(head.target);
    let mut texts: Vec<(Surface, &[u8], Vec<u8>)> = Vec::new();
    for piece in pieces {
        texts.push((piece.place.surface, piece.text, join(piece.out)));
    }
    let text = |surface| {
        let found = texts.iter().find(|(of, _, _)| *of == surface);
        found.and_then(|(_, _, text)| std::str::from_utf8(text).ok())
    };
    if text(Surface::Path).is_some() || text(Surface::Query).is_some() {
        path = text(Surface::Path).unwrap_or(path);
        query = text(Surface::Query).or(query);
        let target = query.map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"));
        mutation.set_headers.push(mutation::overwrite(PATH, target.into_bytes()));
    }
    if texts.iter().any(|(surface, _, _)| *surface == Surface::Cookie) {
        let values = head.headers().filter(|(name, _)| *name == COOKIE).map(|(_, value)| {
            let is = |(of, was, _): &&(Surface, &[u8], Vec<u8>)| {
                *of == Surface::Cookie && was.as_ptr() == value.as_ptr()
            };
            texts.iter().find(is).map_or_else(|| value.to_vec(), |(_, _, text)| text.clone())
        });
        mutation::put(mutation, COOKIE, values.collect());
    }
}

/// Where references are looked for in the body of a request, if it has one.
///
/// # Errors
/// [`Unseen`] if it should be looked into, and cannot.
pub(super) fn body(
    surfaces: &Surfaces,
    request: &RequestHeaders,
    head: &Head<'_>,
) -> Result<Option<Place>, Unseen> {
    if surfaces.is_empty() || request.framing.ends || request.framing.tunnel {
        return Ok(None);
    }
    let bodies = [Surface::Json, Surface::Form, Surface::Text].map(|surface| surfaces.get(surface));
    let Some(strictest) = bodies.into_iter().flatten().max().filter(|_| !head.grpc) else {
        return Ok(None);
    };
    let mut types = head.headers().filter(|(name, _)| *name == "content-type");
    let content_type = match (types.next(), types.next()) {
        (Some((_, value)), None) => one_type(value),
        _ => None,
    };
    let Some(content_type) = content_type else {
        if request.framing.length == Some(0) {
            return Ok(None);
        }
        // What the upstream takes it for nobody knows.
        let (strict, code) = (strictest == Violation::Deny, ProblemCode::InvalidBody);
        return Err(Unseen { reason: "body_untyped", code, strict });
    };
    let surface = Surface::of_body(content_type);
    let found = surface.and_then(|surface| Some((surface, surfaces.get(surface)?)));
    let Some((surface, violation)) = found else { return Ok(None) };
    let strict = violation == Violation::Deny;
    let encodings = head.headers().filter(|(name, _)| *name == "content-encoding");
    if !redact::is_readable(encodings.map(|(_, value)| value)) {
        let code = ProblemCode::InvalidBody;
        return Err(Unseen { reason: "body_encoded", code, strict });
    }
    if !request.request_body {
        let code = ProblemCode::Internal;
        return Err(Unseen { reason: "mode_unable:request_body_mode", code, strict });
    }
    Ok(Some(Place { surface, violation, frozen: frozen(head) }))
}

/// The type of a body, if it has one. Of several headers Envoy makes one, with commas.
fn one_type(value: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(value).ok().filter(|text| !text.trim().is_empty())?;
    let unquoted = text.split('"').step_by(2);
    (!unquoted.into_iter().any(|part| part.contains(','))).then_some(text)
}

/// What about a request would be wrong once its body has changed.
fn frozen(head: &Head<'_>) -> Option<&'static str> {
    let is_frozen = |(name, value): (&str, &[u8])| match name {
        "x-amz-content-sha256" => !value.starts_with(b"UNSIGNED-PAYLOAD"),
        // Signed over it, or in a part of it.
        "content-range" | "signature-input" => true,
        name => redact::is_stale(name),
    };
    head.headers().any(is_frozen).then_some("digest")
}

/// A value as it is to stand in place of what was found.
#[expect(clippy::disallowed_methods, reason = "the place that the secret was permitted for")]
pub(super) fn write(
    surface: Surface,
    target: &Target,
    value: &SecretValue,
) -> Result<Bytes, Unfit> {
    let unfit = |reason| Unfit { secret: target.secret.clone(), reason };
    let written = surface.write(value.expose_secret()).map_err(unfit)?;
    if target.length.is_some_and(|length| length != written.len()) {
        return Err(unfit(Unwritable::Length));
    }
    Ok(Bytes::from_owner(written))
}

/// The target with these parameters at the end of its query, in place of all of their names.
#[expect(clippy::disallowed_methods, reason = "the query that the secret was permitted for")]
pub(super) fn with_query<'v>(
    target: &str,
    parameters: &[(&str, &Template)],
    value: impl Fn(&SecretRef) -> Option<&'v SecretValue>,
) -> Result<Vec<u8>, Unfit> {
    let (path, query) = split_query(target);
    let is_set = |parameter: &&str| {
        let name = parameter.split('=').next().unwrap_or_default();
        let name = percent_encoding::percent_decode_str(name);
        parameters.iter().any(|(set, _)| name.clone().eq(set.bytes()))
    };
    let kept = query.into_iter().flat_map(|query| query.split('&')).filter(|one| !is_set(one));
    let mut written = path.as_bytes().to_vec();
    let mut separator = b'?';
    for parameter in kept.filter(|parameter| !parameter.is_empty()) {
        written.push(std::mem::replace(&mut separator, b'&'));
        written.extend_from_slice(parameter.as_bytes());
    }
    for (name, template) in parameters {
        written.push(std::mem::replace(&mut separator, b'&'));
        written.extend_from_slice(name.as_bytes());
        written.push(b'=');
        for part in template.parts() {
            match part {
                // Text is what it was checked to be.
                Part::Literal(text) => written.extend_from_slice(text.as_bytes()),
                Part::Reference(secret) => {
                    let unfit = |reason| Unfit { secret: secret.clone(), reason };
                    let value = value(secret).ok_or_else(|| unfit(Unwritable::Empty))?;
                    let value = Surface::Query.write(value.expose_secret()).map_err(unfit)?;
                    written.extend_from_slice(&value);
                }
            }
        }
    }
    Ok(written)
}

// === impl Piece ===

impl Piece<'_> {
    pub(super) fn start(&mut self) -> Progress {
        let progress = self.scanner.push(Bytes::copy_from_slice(self.text), &mut self.out);
        self.end(progress)
    }

    pub(super) fn resolved(&mut self, resolutions: Vec<(String, Resolution)>) -> Progress {
        let progress = self.scanner.resolved(resolutions, &mut self.out);
        self.end(progress)
    }

    fn end(&mut self, progress: Progress) -> Progress {
        match progress {
            Progress::Idle => self.scanner.finish(&mut self.out),
            Progress::Needs(_) | Progress::TooMany | Progress::Misplaced => progress,
        }
    }

    /// References that were one too many, and stay.
    pub(super) fn too_many(&mut self) -> usize {
        self.scanner.skipped().too_many
    }

    /// The header that it is a part of.
    pub(super) fn header(&self) -> &'static str {
        match self.place.surface {
            Surface::Cookie => COOKIE,
            _ => PATH,
        }
    }

    pub(super) fn replaced(&self) -> bool {
        self.scanner.replaced() > 0
    }
}
