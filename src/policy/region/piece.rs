//! What a rule speaks of, one value at a time.

use std::sync::Arc;

use super::{Piece, Span, TooMuch, Toward};
use crate::{
    policy::{
        request::{Attribute, Verb},
        rule::{Among, HttpRule, Pattern, SecretRule},
    },
    secret::{BackendName, Catalog, NameEncoding, NameGrammar},
};

/// Of one rule no more are told apart.
const MAX_PIECES: u64 = 200_000;

/// What a pattern of an Allow speaks of, its names being these: one piece for each backend that
/// they fit, verb, field and destination.
pub(in crate::policy) fn secret_pieces(
    rule: &SecretRule,
    pattern: &Pattern,
    names: &Span,
    fits: impl Fn(&NameGrammar) -> bool,
    catalog: &Catalog,
) -> Result<Vec<Piece>, TooMuch> {
    let has =
        |(name, grammar): &(&BackendName, &NameGrammar)| pattern.covers(name) && fits(grammar);
    let backends = catalog.backends().map(|(name, entry)| (name, &entry.grammar)).filter(has);
    let backends: Vec<_> = backends.map(|(name, _)| name).collect();
    let fields: Vec<_> = match rule.fields.as_slice() {
        [] => vec![None],
        fields => fields.iter().map(|field| Some(Arc::from(field.as_str()))).collect(),
    };
    let towards = towards(rule)?;
    let verbs: Vec<Verb> = rule.held_verbs().collect();
    bounded([backends.len(), verbs.len(), fields.len(), towards.len()])?;
    let mut pieces = Vec::new();
    for backend in backends {
        for verb in &verbs {
            for field in &fields {
                pieces.extend(towards.iter().map(|toward| Piece::Secret {
                    backend: backend.clone(),
                    names: names.clone(),
                    verb: *verb,
                    field: field.clone(),
                    toward: toward.clone(),
                }));
            }
        }
    }
    Ok(pieces)
}

/// Some name of the span that the grammar has, ending in `tail` if it may be continued.
pub(in crate::policy) fn a_name(names: &Span, grammar: &NameGrammar, tail: &str) -> Option<String> {
    let possible = |name: &str| {
        let canonical = grammar.canonical(name, NameEncoding::Plain);
        canonical.is_ok_and(|canonical| canonical.as_str() == name)
    };
    let start = match names {
        Span::One(one) => return possible(one).then(|| one.to_string()),
        Span::Prefix(prefix) => &**prefix,
        Span::Any => "",
    };
    // Where there is room for little more, any letter will do.
    let letters = ('a'..='z').chain('0'..='9').map(String::from);
    let tails = [tail.to_owned(), format!("{tail}/{tail}")].into_iter().chain(letters);
    tails.map(|tail| format!("{start}{tail}")).find(|name| possible(name))
}

fn towards(rule: &SecretRule) -> Result<Vec<Toward>, TooMuch> {
    if rule.destinations.is_empty() {
        return Ok(vec![Toward::default()]);
    }
    let mut all = Vec::new();
    for entry in &rule.destinations {
        bounded(Attribute::ALL.map(|attribute| entry.list(attribute).listed().len().max(1)))?;
        let values = |attribute| values(entry.list(attribute));
        all.extend(Toward::combined(values, &Span::of_paths(&entry.paths)));
        bounded([all.len()])?;
    }
    Ok(all)
}

/// The listed values, or one that stands for all.
fn values(list: &Among<Arc<str>>) -> Vec<Option<Arc<str>>> {
    match list {
        Among::Unset | Among::Any => vec![None],
        Among::OneOf(values) => values.iter().cloned().map(Some).collect(),
    }
}

/// What a rule about mesh traffic speaks of.
pub(in crate::policy) fn http_pieces(rule: &HttpRule) -> Result<Vec<Piece>, TooMuch> {
    let HttpRule { hosts, methods, paths, destinations } = rule;
    let mut pieces = Vec::new();
    let destinations: Vec<_> = match destinations.as_slice() {
        [] => vec![None],
        destinations => destinations.iter().cloned().map(Some).collect(),
    };
    let spans = Span::of_paths(paths);
    let (hosts_listed, methods_listed) = (values(hosts), values(methods));
    bounded([destinations.len(), spans.len(), hosts_listed.len(), methods_listed.len()])?;
    for destination in destinations {
        for paths in &spans {
            for host in &hosts_listed {
                pieces.extend(methods_listed.iter().map(|method| Piece::Http {
                    host: host.clone(),
                    method: method.clone(),
                    paths: paths.clone(),
                    destination: destination.clone(),
                }));
            }
        }
        // Of a connection nothing but its ends is known.
        if !(hosts.is_set() || methods.is_set() || paths.is_set()) {
            pieces.push(Piece::Connection { destination });
        }
    }
    Ok(pieces)
}

fn bounded<const N: usize>(lens: [usize; N]) -> Result<(), TooMuch> {
    let product = lens.iter().fold(1, |product: u64, len| product.saturating_mul(*len as u64));
    if product > MAX_PIECES { Err(TooMuch(MAX_PIECES)) } else { Ok(()) }
}
