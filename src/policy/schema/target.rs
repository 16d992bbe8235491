//! The `to` entries: secrets and mesh traffic.

use std::sync::Arc;

use super::{
    keys::{DESTINATION, HTTP, SECRETS, TO},
    reader::{At, Fields, Report, parse_each},
};
use crate::{
    policy::{
        request::{Verb, canonical_host, canonical_method, canonical_path, canonical_port},
        rule::{
            Among, DestinationRule, FieldPath, HttpRule, Pattern, SecretRule, Shape, Target, Verbs,
        },
        template::{InvalidTemplate, Template},
    },
    secret::{BackendName, Catalog, CatalogEntry, SecretField},
};

/// Those of RFC 9110 and RFC 5789. Methods are compared as they are spelt.
const METHODS: [&str; 9] =
    ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];

/// Reads one entry. `allow` is unknown where the effect cannot be read.
pub(super) fn read(
    at: &At<'_>,
    allow: Option<bool>,
    catalog: &Catalog,
    report: &mut Report<'_>,
) -> Option<Target> {
    let fields = at.fields(&TO, report)?;
    match (fields.get("secrets"), fields.get("http")) {
        (Some(at), None) => secrets(&at, allow, catalog, report).map(Target::Secrets),
        (None, Some(at)) => http(&at, report).map(Target::Http),
        _ => {
            report.add(at, "needs exactly one of secrets, http");
            None
        }
    }
}

/// How many places of the index an entry takes.
pub(super) fn keys(target: &Target) -> usize {
    match target {
        Target::Secrets(rule) => rule.patterns.len(),
        Target::Http(rule) => {
            let lists =
                [rule.destinations.len(), rule.hosts.listed().len(), rule.paths.listed().len()];
            lists.into_iter().fold(1, |keys, list| keys.saturating_mul(list.max(1)))
        }
    }
}

fn secrets(
    at: &At<'_>,
    allow: Option<bool>,
    catalog: &Catalog,
    report: &mut Report<'_>,
) -> Option<SecretRule> {
    let fields = at.fields(&SECRETS, report)?;
    let backends = backends(&fields, catalog, report);
    let declared = fields.get("backends").is_some();
    let mut patterns = Vec::new();
    let names = fields.templates("names", report);
    if names.iter().any(|(_, name)| *name == "*") {
        if names.len() > 1 || fields.get("prefixes").is_some() {
            report.add(&names[0].0, "\"*\" must stand alone");
        }
        let backends = declared.then(|| backends.iter().map(|(name, _)| (*name).clone()).collect());
        patterns.push(Pattern { shape: Shape::Any, backends });
    } else {
        let make = (Template::name as fn(&str) -> _, Shape::Exact as fn(_) -> _, "");
        patterns.extend(spell(&names, make, &backends, declared, report));
    }
    let prefixes = fields.templates("prefixes", report);
    let make = (Template::prefix as fn(&str) -> _, Shape::Prefix as fn(_) -> _, "x");
    patterns.extend(spell(&prefixes, make, &backends, declared, report));
    if allow == Some(false) {
        patterns = patterns.into_iter().map(Pattern::unguarded).collect();
    }
    if fields.get("names").is_none() && fields.get("prefixes").is_none() {
        report.add(at, "needs names or prefixes; for every name, names: [\"*\"]");
    }
    let verbs = verbs(&fields, report);
    if let Some(at) = fields.get("fields")
        && allow == Some(true)
        && verbs != Verbs::default()
        && !verbs.iter().any(Verb::takes_part)
    {
        report.add(&at, "can never match: a field goes with get and use, and verbs has neither");
    }
    let field_texts = fields.texts("fields", report);
    Some(SecretRule {
        backends: declared.then(|| backends.iter().map(|(name, _)| (*name).clone()).collect()),
        patterns,
        fields: parse_each(&field_texts, report, |text| {
            SecretField::parse(text)
                .map(|field| FieldPath::new(&field))
                .map_err(|error| error.to_string())
        }),
        verbs,
        destinations: destinations(&fields, verbs, allow, report),
    })
}

type Backends<'c> = Vec<(&'c BackendName, &'c CatalogEntry)>;

fn backends<'c>(
    fields: &Fields<'_>,
    catalog: &'c Catalog,
    report: &mut Report<'_>,
) -> Backends<'c> {
    if fields.get("backends").is_none() {
        return catalog.backends().collect();
    }
    let texts = fields.texts("backends", report);
    parse_each(&texts, report, |text| {
        catalog.backend(text).ok_or_else(|| {
            let known: Vec<_> = catalog.backends().map(|(name, _)| name.as_str()).collect();
            format!("is not a backend, known are {}", known.join(", "))
        })
    })
}

type Make = (fn(&str) -> Result<Template, InvalidTemplate>, fn(Template) -> Shape, &'static str);

/// Names or prefixes as the rule's backends spell them; refuses those that no
/// name of any of these backends can match.
fn spell(
    texts: &[(At<'_>, &str)],
    (parse, shape, tail): Make,
    backends: &Backends<'_>,
    declared: bool,
    report: &mut Report<'_>,
) -> Vec<Pattern> {
    let pairs = parse_each(texts, report, |text| {
        let template = parse(text).map_err(|error| format!("is refused: {error}"))?;
        let mut refusal = "no backend is configured".to_owned();
        let (mut exact, mut folded) = (Vec::new(), Vec::new());
        for (name, entry) in backends {
            match template.possible(&entry.grammar, tail) {
                Ok(()) if entry.grammar.lower_case => folded.push((*name).clone()),
                Ok(()) => exact.push((*name).clone()),
                Err(error) => refusal = format!("{name}: {error}"),
            }
        }
        // After an unknown backend there may be none left; that is reported already.
        if exact.is_empty() && folded.is_empty() && !(declared && backends.is_empty()) {
            return Err(format!("can never match: {refusal}"));
        }
        let lower = template.to_lower_case();
        if lower == template || folded.is_empty() {
            let all = declared.then(|| backends.iter().map(|(name, _)| (*name).clone()).collect());
            return Ok([Some(Pattern { shape: shape(template), backends: all }), None]);
        }
        let spelt = |template, backends: Vec<BackendName>| {
            let some = !backends.is_empty();
            some.then(|| Pattern { shape: shape(template), backends: Some(backends.into()) })
        };
        Ok([spelt(template, exact), spelt(lower, folded)])
    });
    pairs.into_iter().flatten().flatten().collect()
}

fn verbs(fields: &Fields<'_>, report: &mut Report<'_>) -> Verbs {
    let Some(at) = fields.required("verbs", report) else { return Verbs::default() };
    let texts = at.texts(report);
    if texts.iter().any(|(_, text)| *text == "*") {
        if texts.len() > 1 {
            report.add(&texts[0].0, "\"*\" must stand alone; it does not include use");
        }
        return Verb::ALL.into_iter().filter(|verb| *verb != Verb::Use).collect();
    }
    let parse = |text: &str| {
        Verb::parse(text)
            .ok_or_else(|| format!("is not one of {}", Verb::ALL.map(Verb::as_str).join(", ")))
    };
    parse_each(&texts, report, parse).into_iter().collect()
}

fn destinations(
    fields: &Fields<'_>,
    verbs: Verbs,
    allow: Option<bool>,
    report: &mut Report<'_>,
) -> Vec<DestinationRule> {
    let given = fields.get("destinations");
    let uses = verbs.contains(Verb::Use);
    let only_use = uses && verbs.iter().count() == 1;
    match &given {
        Some(at) if !only_use => {
            report.add(at, "is only for verbs: [use]; give other verbs an entry of their own");
        }
        None if uses && allow == Some(true) => {
            let at = fields.get("verbs").unwrap_or_else(|| fields.at().clone());
            let message = "an Allow of use needs destinations, in an entry with no other verb";
            report.add(&at, message);
        }
        _ => {}
    }
    let Some(at) = given else { return Vec::new() };
    let items = at.items(report).into_iter();
    items.filter_map(|at| destination(&at, allow == Some(true), report)).collect()
}

fn destination(at: &At<'_>, allow: bool, report: &mut Report<'_>) -> Option<DestinationRule> {
    let known = DESTINATION;
    let fields = at.fields(&known, report)?;
    if known.iter().all(|key| fields.get(key).is_none()) {
        report.add(at, format!("needs one of {}", known.join(", ")));
    } else if allow && fields.get("clusters").is_none() && fields.get("routes").is_none() {
        report.add(
            at,
            "must bind clusters or routes: host and SNI are chosen by the caller and prove \
             nothing about where the secret goes",
        );
    }
    let as_is = |text: &str| Ok(text.into());
    let star = !allow;
    Some(DestinationRule {
        hosts: among(&fields, "hosts", star, report, host),
        clusters: among(&fields, "clusters", star, report, as_is),
        routes: among(&fields, "routes", star, report, as_is),
        snis: among(&fields, "snis", star, report, host),
        ports: among(&fields, "ports", star, report, |text| {
            canonical_port(text).map(Arc::from).map_err(|error| format!("is a {error}"))
        }),
        schemes: among(&fields, "schemes", star, report, |text| match text {
            "https" | "http" => Ok(text.into()),
            _ => Err("is not one of https, http".to_owned()),
        }),
        methods: among(&fields, "methods", star, report, method),
        paths: among(&fields, "paths", star, report, path),
    })
}

fn http(at: &At<'_>, report: &mut Report<'_>) -> Option<HttpRule> {
    let known = HTTP;
    let fields = at.fields(&known, report)?;
    if known.iter().all(|key| fields.get(key).is_none()) {
        report.add(at, format!("needs one of {}", known.join(", ")));
    }
    Some(HttpRule {
        hosts: among(&fields, "hosts", true, report, host),
        methods: among(&fields, "methods", true, report, method),
        paths: among(&fields, "paths", true, report, path),
        destinations: super::accounts(&fields, "destinations", report),
    })
}

fn among(
    fields: &Fields<'_>,
    key: &str,
    star: bool,
    report: &mut Report<'_>,
    parse: impl FnMut(&str) -> Result<Arc<str>, String>,
) -> Among<Arc<str>> {
    if fields.get(key).is_none() {
        return Among::Unset;
    }
    let texts = fields.texts(key, report);
    match texts.iter().find(|(_, text)| *text == "*") {
        Some((at, _)) if !star => {
            report.add(at, "\"*\" is not allowed in the destinations of an Allow");
            Among::Unset
        }
        Some((at, _)) => {
            if texts.len() > 1 {
                report.add(at, "\"*\" must stand alone");
            }
            Among::Any
        }
        None => Among::OneOf(parse_each(&texts, report, parse)),
    }
}

fn host(text: &str) -> Result<Arc<str>, String> {
    let refused = "is not a host; there are no wildcards but \"*\" alone";
    let host = canonical_host(text).map_err(|_| refused.to_owned())?;
    match host.eq_ignore_ascii_case(text) {
        true => Ok(host.into()),
        false => Err(format!("has a port or a trailing dot, write {host}")),
    }
}

fn method(text: &str) -> Result<Arc<str>, String> {
    let method = canonical_method(text).map_err(|error| format!("is a {error}"))?;
    let upper = method.to_ascii_uppercase();
    match method != upper && METHODS.contains(&upper.as_str()) {
        true => Err(format!("never matches {upper}: the standard methods are in upper case")),
        false => Ok(method.into()),
    }
}

fn path(text: &str) -> Result<Arc<str>, String> {
    if text == "/" {
        return Err("could mean one path or all: write \"*\" for all, or name a path".to_owned());
    }
    if text.contains('*') {
        return Err("is no pattern: a path that ends in / is a prefix, and \"*\" alone is every \
                    path"
            .to_owned());
    }
    match canonical_path(text) {
        Ok(path) if path == text => Ok(path.into()),
        Ok(_) => Err("has a query, which no rule matches on".to_owned()),
        Err(error) => Err(format!("is an {error}")),
    }
}
