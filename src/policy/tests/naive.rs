//! A second evaluator: reads the documents' own text and tries every rule, one
//! sentence of the documentation after the other. Shares no code with the first.

use serde_json::Value;

use crate::{
    identity::{Principal, ServiceAccount},
    policy::{Connection, Destination, HttpRequest, Verb},
    secret::SecretRef,
};

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub(super) enum Ask<'a> {
    Secret(Verb, &'a SecretRef, Destination<'a>),
    Collection(Verb),
    Http(&'a HttpRequest<'a>),
    Connection(&'a Connection),
}

/// Reason code (`allowed` for none), what decided, and audit matches.
pub(super) type Answer = (String, Option<(String, usize)>, Vec<(String, usize, bool)>);

/// Decides by trying everything.
pub(super) fn evaluate(policies: &[Value], principal: &Principal, ask: Ask<'_>) -> Answer {
    let (mut allows, mut denies, mut missing, mut audit) = (vec![], vec![], vec![], vec![]);
    for policy in policies {
        let name = policy["metadata"]["name"].as_str().expect("a name").to_owned();
        let spec = &policy["spec"];
        let allow = spec["effect"] == "Allow";
        if !items(&spec["from"]).iter().any(|from| covers(from, principal)) {
            continue;
        }
        for (rule, to) in items(&spec["to"]).iter().enumerate() {
            let id = (name.clone(), rule);
            if applies(to, principal, ask, allow, !allow) {
                match (spec["mode"] == "Audit", allow) {
                    (true, allow) => audit.push((name.clone(), rule, allow)),
                    (false, true) => allows.push(id),
                    (false, false) => denies.push(id),
                }
            } else if allow && spec["mode"] != "Audit" && applies(to, principal, ask, true, true) {
                let Ask::Secret(_, _, destination) = ask else { unreachable!("has destinations") };
                missing.push((id, first_missing(&to["secrets"], &destination)));
            }
        }
    }
    audit.sort();
    if let Some(id) = denies.into_iter().min() {
        return ("denied_by_policy".into(), Some(id), audit);
    }
    if let Some(id) = allows.into_iter().min() {
        return ("allowed".into(), Some(id), audit);
    }
    if let Some((id, attribute)) = missing.into_iter().min() {
        return (format!("missing_attribute {attribute}"), Some(id), audit);
    }
    ("no_match".into(), None, audit)
}

fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn texts(value: &Value) -> Vec<&str> {
    items(value).iter().filter_map(Value::as_str).collect()
}

/// Whether a list that may be absent has the text, or is `*`.
fn lists(list: &Value, text: &str) -> bool {
    list.is_null() || texts(list).contains(&text) || texts(list) == ["*"]
}

fn covers(from: &Value, principal: &Principal) -> bool {
    let (namespace, account) = (principal.namespace(), principal.service_account().to_string());
    let starts = |list: &Value| texts(list).iter().any(|prefix| namespace.starts_with(prefix));
    let except = &from["except"];
    let excepted = texts(&except["namespaces"]).contains(&namespace)
        || texts(&except["serviceAccounts"]).contains(&account.as_str())
        || starts(&except["namespacePrefixes"]);
    let proofs: Vec<&str> = principal.proofs().iter().map(|proof| proof.as_str()).collect();
    lists(&from["namespaces"], namespace)
        && lists(&from["serviceAccounts"], &account)
        && (from["namespacePrefixes"].is_null() || starts(&from["namespacePrefixes"]))
        && lists(&from["trustDomains"], principal.trust_domain().as_str())
        && texts(&from["require"]).iter().all(|proof| proofs.contains(proof))
        && (from["boundTo"].is_null() || principal.is_bound_to_pod())
        && !excepted
}

/// Whether a rule applies. `unsent` says what a destination attribute counts as
/// that was not sent; every other missing thing satisfies Deny rules alone.
fn applies(to: &Value, who: &Principal, ask: Ask<'_>, allow: bool, unsent: bool) -> bool {
    let (secrets, http) = (&to["secrets"], &to["http"]);
    match ask {
        Ask::Secret(verb, secret, destination) => {
            !secrets.is_null()
                && has_verb(secrets, verb)
                && lists(&secrets["backends"], secret.backend.as_str())
                && named(secrets, who, secret, allow)
                && has_field(&secrets["fields"], secret, allow)
                && (secrets["destinations"].is_null()
                    || items(&secrets["destinations"])
                        .iter()
                        .any(|entry| reaches(entry, &destination, unsent)))
        }
        Ask::Collection(verb) => {
            let some_name = texts(&secrets["names"])
                .iter()
                .chain(&texts(&secrets["prefixes"]))
                .any(|name| *name == "*" || expand(name, who, allow).is_some());
            let every_name = texts(&secrets["names"]) == ["*"] && secrets["backends"].is_null();
            !secrets.is_null()
                && has_verb(secrets, verb)
                && match (allow, verb) {
                    (true, Verb::Get) => some_name,
                    (true, _) => some_name && secrets["fields"].is_null(),
                    (false, Verb::Get) => every_name && secrets["fields"].is_null(),
                    (false, _) => every_name,
                }
        }
        Ask::Http(request) => {
            let path = |rule: &&str| match rule.ends_with('/') {
                true => request.path().starts_with(*rule),
                false => request.path() == *rule,
            };
            !http.is_null()
                && lists(&http["hosts"], request.host())
                && lists(&http["methods"], request.method())
                && (lists(&http["paths"], request.path()) || texts(&http["paths"]).iter().any(path))
                && workload(&http["destinations"], request.destination.as_ref(), allow)
        }
        Ask::Connection(connection) => {
            let http_only = ["hosts", "methods", "paths"].iter().any(|key| !http[key].is_null());
            !http.is_null()
                && (!allow || !http_only)
                && workload(&http["destinations"], connection.destination.as_ref(), allow)
        }
    }
}

fn has_verb(secrets: &Value, verb: Verb) -> bool {
    let verbs = texts(&secrets["verbs"]);
    verbs.contains(&verb.as_str()) || verbs == ["*"] && verb != Verb::Use
}

/// A name with its placeholders filled in; `--` after one in an Allow asks for values
/// without `--`.
fn expand(name: &str, who: &Principal, allow: bool) -> Option<String> {
    let mut text = name.to_owned();
    let account = who.service_account().name();
    for (hole, value) in [("{namespace}", who.namespace()), ("{serviceAccount}", account)] {
        if allow && value.contains("--") && name.contains(&format!("{hole}--")) {
            return None;
        }
        text = text.replace(hole, value);
    }
    Some(text)
}

fn named(secrets: &Value, who: &Principal, secret: &SecretRef, allow: bool) -> bool {
    // Azure ignores case; its names arrive in lower case.
    let spell = |text: String| match secret.backend.as_str() {
        "azure" => text.to_lowercase(),
        _ => text,
    };
    let asked = secret.name.as_str();
    let expanded = |list| texts(list).into_iter().filter_map(|t| expand(t, who, allow)).map(spell);
    texts(&secrets["names"]) == ["*"]
        || expanded(&secrets["names"]).any(|name| name == asked)
        || expanded(&secrets["prefixes"]).any(|prefix| asked.starts_with(&prefix))
}

fn has_field(fields: &Value, secret: &SecretRef, allow: bool) -> bool {
    let pointer = |text: &str| match text.starts_with('/') {
        true => format!("{text}/"),
        false => format!("/{}/", text.replace('~', "~0").replace('/', "~1")),
    };
    if fields.is_null() {
        return true;
    }
    let Some(asked) = &secret.field else { return !allow };
    let asked = pointer(asked.as_str());
    texts(fields).into_iter().map(pointer).any(|field| match allow {
        true => field == asked,
        false => field.starts_with(&asked) || asked.starts_with(&field),
    })
}

fn attributes<'a>(to: &Destination<'a>) -> [(&'static str, &'static str, Option<&'a str>); 8] {
    [
        ("clusters", "xds.cluster_name", to.cluster),
        ("routes", "xds.route_name", to.route),
        ("ports", "destination.port", to.port),
        ("snis", "connection.requested_server_name", to.sni),
        ("schemes", "request.scheme", to.scheme),
        ("hosts", "request.host", to.host),
        ("methods", "request.method", to.method),
        ("paths", "request.path", to.path),
    ]
}

fn reaches(entry: &Value, destination: &Destination<'_>, unsent: bool) -> bool {
    attributes(destination).into_iter().all(|(key, _, value)| match (&entry[key], value) {
        (Value::Null, _) => true,
        (_, None) => unsent,
        (list, Some(path)) if key == "paths" => {
            let below = |rule: &&str| rule.ends_with('/') && path.starts_with(*rule);
            lists(list, path) || texts(list).iter().any(below)
        }
        (list, Some(value)) => lists(list, value),
    })
}

fn first_missing(secrets: &Value, destination: &Destination<'_>) -> &'static str {
    let entries = items(&secrets["destinations"]);
    let near = entries.iter().find(|entry| reaches(entry, destination, true)).expect("one is");
    let missing = |(key, name, value): (&str, &'static str, Option<&str>)| {
        (!near[key].is_null() && value.is_none()).then_some(name)
    };
    attributes(destination).into_iter().find_map(missing).expect("one is")
}

fn workload(list: &Value, called: Option<&ServiceAccount>, allow: bool) -> bool {
    match called {
        _ if list.is_null() => true,
        None => !allow,
        Some(called) => texts(list).contains(&called.to_string().as_str()),
    }
}
