//! What a change is about, no wider than was asked.

use std::sync::Arc;

use super::Look;
use crate::{
    identity::Principal,
    policy::{
        region::{
            Ask, Cell, Piece, Sample, Span, TooMuch, Toward, What, Whom, http_pieces, secret_pieces,
        },
        request::Verb,
        rule::{FieldPath, Pattern, SecretRule, Shape},
    },
    secret::Catalog,
};

/// All that a cell speaks of; names may hold placeholders.
pub(super) fn pieces(cell: &Cell<'_>, catalog: &Catalog) -> Result<Vec<Piece>, TooMuch> {
    let (rule, pattern) = match cell.what {
        What::Http(rule) => return http_pieces(rule),
        What::Secrets(rule, pattern) => (rule, pattern),
    };
    let fits = |grammar: &_| match &pattern.shape {
        Shape::Any => true,
        Shape::Exact(template) => template.possible(grammar, "").is_ok(),
        Shape::Prefix(template) => template.possible(grammar, "x").is_ok(),
    };
    let mut pieces = secret_pieces(rule, pattern, &written(pattern, &cell.whom), fits, catalog)?;
    if rule.fields.is_empty() {
        let verbs = rule.verbs.iter().filter(|verb| matches!(verb, Verb::List | Verb::Create));
        pieces.extend(verbs.map(Piece::Collection));
    }
    Ok(pieces)
}

/// The names of a pattern, with what is known of the callers filled in.
fn written(pattern: &Pattern, whom: &Whom) -> Span {
    let fill = |text: String| {
        let mut text = text;
        if let Span::One(namespace) = &whom.namespace {
            text = text.replace("{namespace}", namespace);
        }
        if let Some(name) = &whom.name {
            text = text.replace("{serviceAccount}", name);
        }
        text.into()
    };
    match &pattern.shape {
        Shape::Any => Span::Any,
        Shape::Exact(template) => Span::One(fill(template.to_string())),
        Shape::Prefix(template) => Span::Prefix(fill(template.to_string())),
    }
}

/// What both rules speak of, as far as the question tells.
pub(super) fn narrowed(
    look: Look<'_, '_>,
    whom: &Whom,
    sample: &Sample<'_>,
    caller: &Principal,
    ask: &Ask,
) -> Piece {
    let mut piece = look.piece.clone();
    let Some(deny) = look.deny else {
        if let (Piece::Secret { names, .. }, What::Secrets(_, pattern)) =
            (&mut piece, look.allow.what)
        {
            *names = written(pattern, whom);
        }
        return piece;
    };
    match (&mut piece, ask, look.allow.what, deny.what) {
        (
            Piece::Secret { names, field, toward, .. },
            Ask::Secret(_, secret, asked),
            What::Secrets(_, ours),
            What::Secrets(rule, theirs),
        ) => {
            *names = narrower(ours, theirs, whom, caller);
            if field.is_none() {
                let asked = secret.field.as_ref().map(|field| field.as_str());
                *field = denied_field(rule, sample, asked);
            }
            *toward = known(asked, &toward.paths, rule, sample);
        }
        (
            Piece::Http { host, method, paths, destination },
            Ask::Http { host: asked_host, method: asked_method, path, destination: asked },
            _,
            What::Http(rule),
        ) => {
            *host = sample.known(asked_host);
            *method = sample.known(asked_method);
            if rule.paths.is_set() {
                let asked = paths.meet_paths(&rule.paths).into_iter();
                let asked = asked.into_iter().find(|span| span.contains(path));
                *paths = asked.unwrap_or(Span::One(path.clone()));
            }
            *destination = asked.clone().filter(|one| !sample.is_fresh_workload(one));
        }
        (Piece::Connection { destination }, Ask::Connection(asked), ..) => {
            *destination = asked.clone().filter(|one| !sample.is_fresh_workload(one));
        }
        _ => {}
    }
    piece
}

fn narrower(ours: &Pattern, theirs: &Pattern, whom: &Whom, caller: &Principal) -> Span {
    let of = |pattern: &Pattern| Span::of_shape(&pattern.shape, caller);
    match (of(ours), of(theirs)) {
        (Some(a), Some(d)) if a != d && a.covers(&d) => written(theirs, whom),
        _ => written(ours, whom),
    }
}

fn denied_field(rule: &SecretRule, sample: &Sample<'_>, asked: Option<&str>) -> Option<Arc<str>> {
    let asked = asked?;
    let is_asked = |field: &&FieldPath| field.inside(&sample.fresh(0)) == asked;
    rule.fields.iter().find(is_asked).map(|field| field.as_str().into())
}

fn known(asked: &Toward, within: &Span, rule: &SecretRule, sample: &Sample<'_>) -> Toward {
    let known = |attribute| vec![asked.get(attribute).and_then(|value| sample.known(value))];
    let met = |asked: &Arc<str>| {
        let mut met = rule.destinations.iter().flat_map(|entry| within.meet_paths(&entry.paths));
        met.find(|span| span.contains(asked))
    };
    let paths = match &asked.paths {
        Span::One(asked) => met(asked).unwrap_or_else(|| within.clone()),
        Span::Any | Span::Prefix(_) => within.clone(),
    };
    let mut all = Toward::combined(known, &[paths]);
    all.pop().unwrap_or_default()
}
