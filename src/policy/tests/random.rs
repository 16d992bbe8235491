//! Random policies, as documents, and random requests: over an alphabet so small
//! that they often meet.

use proptest::{
    collection::vec,
    option::{self, weighted},
    prelude::*,
    sample::{select, subsequence},
};
use serde_json::{Map, Value, json};

use super::principal;
use crate::{
    identity::Principal,
    policy::{Destination, Verb},
    secret::{Catalog, NameEncoding, SecretField, SecretRef},
};

const NAMESPACES: &[&str] = &["a", "b", "a-b", "a--b"];
const ACCOUNTS: &[&str] = &["a/x", "a-b/x", "a/x.y", "b/x--y", "a--b/x"];
const PREFIXES: &[&str] = &["a-", "a--", "b-"];
const SERVICES: &[&str] = &["x", "x.y", "x--y"];
const DOMAINS: &[&str] = &["td", "ud"];
const NAMES: &[&str] = &[
    "k",
    "a/k",
    "A-K",
    "a-b-k",
    "{namespace}/k",
    "k/{namespace}",
    "{namespace}/{serviceAccount}",
    "{namespace}--k",
    "{namespace}--k--{serviceAccount}",
    "K-{serviceAccount}--k",
];
const NAME_PREFIXES: &[&str] = &[
    "a/",
    "a-",
    "A-",
    "a-b-",
    "a/k/",
    "{namespace}/",
    "{namespace}--",
    "{namespace}--k-",
    "{namespace}.",
    "{serviceAccount}--",
    "k/{namespace}/",
    "{namespace}/{serviceAccount}/",
    "{namespace}--{serviceAccount}--",
    "k_{serviceAccount}_",
];
const PIECES: &[&str] = &["a", "b", "a-b", "a--b", "k", "K", "A", "x", "x.y", "x--y"];
const FIELDS: &[&str] = &["f", "/f", "/f/0", "/g~1h", "g/h"];
const HOSTS: &[&str] = &["h", "i"];
const PORTS: &[&str] = &["443", "80"];
const SCHEMES: &[&str] = &["https", "http"];
const METHODS: &[&str] = &["GET", "POST"];
const PATHS: &[&str] = &["/p", "/p/", "/p/q", "/p/q/", "/r"];

/// What is asked, in owned form.
#[derive(Clone, Debug)]
pub(in crate::policy) enum Request {
    Secret { verb: Verb, secret: SecretRef, destination: Toward },
    Collection(Verb),
    Http { method: &'static str, host: &'static str, path: &'static str, to: Option<&'static str> },
    Connection(Option<&'static str>),
}

/// Cluster, route, server name, host, port, scheme, method and path.
pub(in crate::policy) type Toward = [Option<&'static str>; 8];

/// The same, with names.
pub(in crate::policy) fn destination(toward: &Toward) -> Destination<'static> {
    let [cluster, route, sni, host, port, scheme, method, path] = *toward;
    Destination { host, cluster, route, sni, port, scheme, method, path }
}

fn list(from: &'static [&'static str]) -> impl Strategy<Value = Value> {
    subsequence(from, 1..=from.len().min(3)).prop_map(|texts| json!(texts))
}

fn maybe(share: f64, from: &'static [&'static str]) -> impl Strategy<Value = Option<Value>> {
    weighted(share, list(from))
}

fn starred(share: f64, from: &'static [&'static str]) -> impl Strategy<Value = Option<Value>> {
    weighted(share, prop_oneof![3 => list(from), 1 => Just(json!(["*"]))])
}

fn object<const N: usize>(fields: [(&str, Option<Value>); N]) -> Value {
    let given = fields.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?)));
    Value::Object(given.collect::<Map<_, _>>())
}

fn from(allow: bool) -> impl Strategy<Value = Value> {
    let except = (maybe(0.5, NAMESPACES), maybe(0.5, ACCOUNTS), maybe(0.3, PREFIXES)).prop_map(
        |(namespaces, accounts, prefixes)| {
            object([
                ("namespaces", namespaces),
                ("serviceAccounts", accounts),
                ("namespacePrefixes", prefixes),
            ])
        },
    );
    let fields = (
        starred(0.5, NAMESPACES),
        maybe(0.2, ACCOUNTS),
        maybe(0.2, PREFIXES),
        maybe(0.15, DOMAINS),
        maybe(0.1, &["mtls", "local"]),
        weighted(0.05, Just(json!("pod"))),
        weighted(0.15, except),
    );
    fields.prop_map(move |(namespaces, accounts, prefixes, domains, require, bound_to, except)| {
        let everyone = namespaces.is_none() && accounts.is_none() && prefixes.is_none();
        let namespaces = if everyone { Some(json!(["*"])) } else { namespaces };
        object([
            ("namespaces", namespaces),
            ("serviceAccounts", accounts),
            ("namespacePrefixes", prefixes),
            ("trustDomains", domains),
            ("require", require.filter(|_| allow)),
            ("boundTo", bound_to.filter(|_| allow)),
            ("except", except),
        ])
    })
}

fn secrets(allow: bool) -> impl Strategy<Value = Value> {
    let listed = move |share, from| match allow {
        true => maybe(share, from).boxed(),
        false => starred(share, from).boxed(),
    };
    let values = &["v", "w"];
    let proxy = (listed(0.7, values), listed(0.4, values), listed(0.3, values), listed(0.3, PORTS));
    let asked =
        (listed(0.4, HOSTS), listed(0.3, SCHEMES), listed(0.3, METHODS), listed(0.4, PATHS));
    let destination = (proxy, asked).prop_map(
        move |((clusters, routes, snis, ports), (hosts, schemes, methods, paths))| {
            let unbound = clusters.is_none() && routes.is_none() && (allow || snis.is_none());
            let clusters = if unbound { Some(json!(["v"])) } else { clusters };
            object([
                ("clusters", clusters),
                ("routes", routes),
                ("snis", snis),
                ("ports", ports),
                ("hosts", hosts),
                ("schemes", schemes),
                ("methods", methods),
                ("paths", paths),
            ])
        },
    );
    let using = vec(destination, 1..3).prop_map(|all| (json!(["use"]), Some(json!(all))));
    let verbs = prop_oneof![
        list(&["get", "list", "create", "update", "delete"]),
        Just(json!(["*"])),
        Just(if allow { json!(["get", "list"]) } else { json!(["get", "use"]) }),
    ];
    let fields = (
        weighted(0.3, prop_oneof![Just(json!(["aws"])), Just(json!(["azure", "aws"]))]),
        starred(0.7, NAMES),
        maybe(0.5, NAME_PREFIXES),
        maybe(0.25, FIELDS),
        prop_oneof![using, verbs.prop_map(|verbs| (verbs, None))],
    );
    fields.prop_map(|(backends, names, prefixes, fields, (verbs, destinations))| {
        let names = if prefixes.is_none() { Some(names.unwrap_or(json!(["k"]))) } else { names };
        let all = names == Some(json!(["*"]));
        object([
            ("backends", backends),
            ("names", names),
            ("prefixes", prefixes.filter(|_| !all)),
            ("fields", fields),
            ("verbs", Some(verbs)),
            ("destinations", destinations),
        ])
    })
}

fn http() -> impl Strategy<Value = Value> {
    let fields = (
        starred(0.4, HOSTS),
        starred(0.4, &["GET", "gets"]),
        starred(0.5, PATHS),
        maybe(0.4, ACCOUNTS),
    );
    fields.prop_map(|(hosts, methods, paths, destinations)| {
        let nothing = hosts.is_none() && methods.is_none() && destinations.is_none();
        let paths = if nothing { Some(paths.unwrap_or(json!(["*"]))) } else { paths };
        object([
            ("hosts", hosts),
            ("methods", methods),
            ("paths", paths),
            ("destinations", destinations),
        ])
    })
}

/// A policy without a name; not every one is valid.
pub(in crate::policy) fn policy() -> impl Strategy<Value = Value> {
    prop_oneof![3 => policy_of(true), 1 => policy_of(false)]
}

fn policy_of(allow: bool) -> impl Strategy<Value = Value> {
    let to = prop_oneof![
        2 => secrets(allow).prop_map(|secrets| json!({"secrets": secrets})),
        1 => http().prop_map(|http| json!({"http": http})),
    ];
    let mode = weighted(0.4, prop_oneof![Just(json!("Enforce")), Just(json!("Audit"))]);
    (mode, vec(from(allow), 1..3), vec(to, 1..4)).prop_map(move |(mode, from, to)| {
        let spec = [
            ("effect", Some(json!(if allow { "Allow" } else { "Deny" }))),
            ("mode", mode),
            ("from", Some(json!(from))),
            ("to", Some(json!(to))),
        ];
        json!({
            "apiVersion": "vaultmux.dev/v1alpha1",
            "kind": "AccessPolicy",
            "metadata": {},
            "spec": object(spec),
        })
    })
}

/// Names near those of the rules: filled in for some principal, cut or extended.
fn name() -> impl Strategy<Value = String> {
    let separator = select(&["/", "-", "--", "_", "."][..]);
    let pieces = vec((separator, select(PIECES)), 1..4)
        .prop_map(|rest| rest.iter().flat_map(|(a, b)| [*b, *a]).collect::<String>() + "k");
    let pattern = prop_oneof![select(NAMES), select(NAME_PREFIXES)];
    let tail = select(&["", "", "k", "a/k", "-k", "x--k"][..]);
    let near = (pattern, select(NAMESPACES), select(SERVICES), tail).prop_map(
        |(pattern, namespace, account, tail)| {
            pattern.replace("{namespace}", namespace).replace("{serviceAccount}", account) + tail
        },
    );
    prop_oneof![1 => pieces, 4 => near]
}

/// A request about one of the random policies' things.
pub(in crate::policy) fn request(catalog: &Catalog) -> impl Strategy<Value = Request> + use<> {
    let catalog = catalog.clone();
    let field = weighted(0.4, select(FIELDS));
    let attribute = || weighted(0.8, select(&["v", "v", "v", "w", "x"][..]));
    let mostly = |values: &'static [&'static str]| weighted(0.8, select(values));
    let proxy = (attribute(), attribute(), attribute(), mostly(PORTS));
    let asked = (weighted(0.8, select(HOSTS)), mostly(SCHEMES), mostly(METHODS), mostly(PATHS));
    let destination = (proxy, asked);
    let verbs = [&Verb::ALL[..], &[Verb::Get, Verb::Use, Verb::Use]].concat();
    let backend = select(&["aws", "aws", "azure"][..]);
    let secret = (select(verbs), backend, name(), field, destination).prop_filter_map(
        "a name that the backend has",
        move |(verb, backend, name, field, (proxy, asked))| {
            let ((cluster, route, sni, port), (host, scheme, method, path)) = (proxy, asked);
            let mut secret = catalog.locate(&name, NameEncoding::Plain, Some(backend)).ok()?;
            // The service refuses the others with a field.
            let field = field.filter(|_| verb.takes_part());
            secret.field = field.map(|field| SecretField::parse(field).expect("valid"));
            let destination = [cluster, route, sni, host, port, scheme, method, path];
            Some(Request::Secret { verb, secret, destination })
        },
    );
    let verb = select(&Verb::ALL[..]);
    let to = || option::of(select(ACCOUNTS));
    let http = (select(&["GET", "get", "gets"][..]), select(HOSTS), select(PATHS), to());
    prop_oneof![
        4 => secret,
        1 => verb.prop_map(Request::Collection),
        2 => http.prop_map(|(method, host, path, to)| Request::Http { method, host, path, to }),
        1 => to().prop_map(Request::Connection),
    ]
}

/// One of the random policies' subjects.
pub(in crate::policy) fn caller() -> impl Strategy<Value = Principal> {
    let account = (select(NAMESPACES), select(SERVICES));
    (select(DOMAINS), account, any::<bool>()).prop_map(|(domain, (namespace, name), mtls)| {
        principal(domain, &format!("{namespace}/{name}"), mtls)
    })
}
