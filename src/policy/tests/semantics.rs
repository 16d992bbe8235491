//! What policies mean, a table per sentence of the documentation.

use std::{path::PathBuf, sync::Arc};

use super::{bearer, catalog, principal};
use crate::{
    identity::{Principal, ServiceAccount},
    policy::{Attribute, Connection, Destination, HttpRequest, Policies, PolicySet, Reason, Verb},
    secret::SecretRef,
};

/// A set of `effect | from | to` lines; the policies are called `p0`, `p1`, …
pub(super) fn policies(lines: &[&str]) -> Policies {
    let document = |(n, line): (usize, &&str)| {
        let [effect, from, to] =
            line.split(" | ").collect::<Vec<_>>().try_into().expect("three parts");
        let (effect, mode) = effect.split_once(' ').unwrap_or((effect, "Enforce"));
        format!(
            "apiVersion: vaultmux.dev/v1alpha1\nkind: AccessPolicy\nmetadata: {{name: p{n}}}\n\
             spec: {{effect: {effect}, mode: {mode}, from: [{{{from}}}], to: [{{{to}}}]}}\n---\n"
        )
    };
    let text: String = lines.iter().enumerate().map(document).collect();
    let parsed = Policies::parse(&[(PathBuf::from("p.yaml"), text)], &catalog());
    parsed.map_err(|failure| failure.to_string()).expect("valid policies")
}

pub(super) fn compiled(lines: &[&str]) -> Arc<PolicySet> {
    Arc::new(PolicySet::compile(&policies(lines), 7))
}

pub(super) fn who(account: &str) -> Principal {
    principal("td", account, true)
}

pub(super) fn secret(reference: &str) -> SecretRef {
    catalog().parse_reference(&format!("secret://{reference}")).expect("a valid reference")
}

pub(super) fn get(set: &PolicySet, account: &str, reference: &str) -> Result<(), Reason> {
    let permit = set.authorize(&who(account), Verb::Get, &secret(reference));
    permit.map(drop).map_err(|denial| denial.reason)
}

pub(super) const NO_MATCH: Result<(), Reason> = Err(Reason::NoMatch);
const DENIED: Result<(), Reason> = Err(Reason::DeniedByPolicy);

#[track_caller]
fn check(lines: &[&str], cases: &[(&str, &str, Result<(), Reason>)]) {
    let set = compiled(lines);
    for (account, reference, expected) in cases {
        assert_eq!(get(&set, account, reference), *expected, "{account} gets {reference}");
    }
}

#[test]
fn nothing_is_allowed_by_default() {
    let sets = [PolicySet::deny_all(), PolicySet::compile(&Policies::empty(), 1)];
    for set in sets.map(Arc::new) {
        assert_eq!(get(&set, "a/x", "aws/k"), NO_MATCH);
        assert!(set.authorize_use(&who("a/x"), &secret("aws/k"), &Destination::default()).is_err());
        assert!(set.authorize_collection(&who("a/x"), Verb::List).is_err());
        assert!(set.authorize_connection(&who("a/x"), &Connection::default()).is_err());
        let request = HttpRequest::new("GET", "h", "/", None).expect("canonical");
        assert!(set.authorize_http(&who("a/x"), &request).is_err());
    }
}

#[test]
fn prefixes_end_at_separators() {
    check(
        &["Allow | namespaces: ['*'] | secrets: {prefixes: [test/, pay-], verbs: [get]}"],
        &[
            ("a/x", "aws/testing-prod", NO_MATCH),
            ("a/x", "aws/test", NO_MATCH),
            ("a/x", "aws/test-k", NO_MATCH),
            ("a/x", "aws/a/test/k", NO_MATCH),
            ("a/x", "aws/Test/k", NO_MATCH),
            ("a/x", "aws/pay", NO_MATCH),
            ("a/x", "aws/payroll", NO_MATCH),
            ("a/x", "aws/test/k", Ok(())),
            ("a/x", "aws/test/k/l", Ok(())),
            ("a/x", "azure/pay-k", Ok(())),
        ],
    );
}

#[test]
fn namespaces_keep_to_their_own_names() {
    check(
        &[
            "Allow | namespaces: ['*'] | secrets: {prefixes: ['{namespace}/'], verbs: [get]}",
            "Allow | namespaces: ['*'] | secrets: {backends: [azure], prefixes: \
             ['{namespace}--'], verbs: [get]}",
            "Allow | namespaces: ['*'] | secrets: {names: \
             ['sa/{namespace}/{serviceAccount}'], verbs: [get]}",
        ],
        &[
            ("pay/api", "aws/pay-roll/db", NO_MATCH),
            ("pay/api", "aws/pay-roll-db", NO_MATCH),
            ("pay/api", "aws/payroll/db", NO_MATCH),
            ("pay/api", "aws/x/pay/db", NO_MATCH),
            ("pay-roll/api", "aws/pay/db", NO_MATCH),
            ("pay/api", "azure/pay-roll--db", NO_MATCH),
            ("pay--roll/api", "azure/pay--roll--db", NO_MATCH),
            ("pay/cert-manager-io", "aws/sa/pay/cert-manager.io", NO_MATCH),
            ("pay/api", "aws/sa/pay/api/x", NO_MATCH),
            ("pay/api", "aws/pay--db", NO_MATCH),
            ("pay/api", "aws/pay/db", Ok(())),
            ("pay-roll/api", "aws/pay-roll/db", Ok(())),
            ("pay/api", "azure/Pay--DB", Ok(())),
            ("pay-roll/api", "azure/pay-roll--db", Ok(())),
            ("pay/cert-manager.io", "aws/sa/pay/cert-manager.io", Ok(())),
        ],
    );
}

#[test]
fn a_deny_is_expanded_for_callers_whom_an_allow_leaves_out() {
    check(
        &[
            "Allow | namespaces: ['*'] | secrets: {names: ['*'], verbs: [get]}",
            "Deny | namespaces: ['*'] | secrets: {prefixes: ['{namespace}--root-'], names: \
             ['{serviceAccount}--key'], verbs: [get]}",
        ],
        &[
            ("a/x", "azure/a--root-k", DENIED),
            ("a--b/x", "azure/a--b--root-k", DENIED),
            ("a--b/x", "azure/A--B--Root-k", DENIED),
            ("a--b/x", "aws/a--b--root-k", DENIED),
            ("a/x", "aws/x--key", DENIED),
            ("a/x--y", "aws/x--y--key", DENIED),
            ("a/x", "azure/a--b--root-k", Ok(())),
            ("a--b/x", "azure/a--root-k", Ok(())),
            ("a--b/x", "azure/a--b--other", Ok(())),
            ("a/x--y", "aws/x--key", Ok(())),
        ],
    );
}

#[test]
fn a_deny_of_a_field_denies_what_is_done_with_the_whole() {
    let lines = [
        "Allow | namespaces: ['*'] | secrets: {names: [k], verbs: ['*']}",
        "Deny | namespaces: ['*'] | secrets: {names: [k], fields: [f], verbs: [delete]}",
    ];
    let set = compiled(&lines);
    assert!(set.authorize(&who("a/x"), Verb::Delete, &secret("aws/k")).is_err());
    assert!(set.authorize(&who("a/x"), Verb::Update, &secret("aws/k")).is_ok());
}

#[test]
fn service_accounts_are_compared_as_they_are() {
    check(
        &[
            "Allow | serviceAccounts: [prod/cert-manager.io] | secrets: {names: [k], verbs: [get]}",
            "Allow | namespacePrefixes: [team-] | secrets: {names: [t], verbs: [get]}",
            "Allow | namespaces: [b], serviceAccounts: [b/x, c/x] | \
             secrets: {names: [b], verbs: [get]}",
        ],
        &[
            ("prod/cert-manager-io", "aws/k", NO_MATCH),
            ("prod/cert-managerxio", "aws/k", NO_MATCH),
            ("other/cert-manager.io", "aws/k", NO_MATCH),
            ("team/x", "aws/t", NO_MATCH),
            ("teamwork/x", "aws/t", NO_MATCH),
            ("c/x", "aws/b", NO_MATCH),
            ("b/y", "aws/b", NO_MATCH),
            ("prod/cert-manager.io", "aws/k", Ok(())),
            ("team-a/x", "aws/t", Ok(())),
            ("b/x", "aws/b", Ok(())),
        ],
    );
}

#[test]
fn proofs_and_trust_domains_are_conditions() {
    let set = compiled(&["Allow | namespaces: [a], trustDomains: [td], require: [mtls] | \
                          secrets: {names: [k], verbs: [get]}"]);
    let get = |who: &Principal| set.authorize(who, Verb::Get, &secret("aws/k")).is_ok();
    assert!(!get(&principal("ud", "a/x", true)));
    assert!(!get(&principal("td", "a/x", false)));
    assert!(get(&principal("td", "a/x", true)));
}

#[test]
fn a_binding_to_a_pod_is_a_condition_of_its_own() {
    let set = compiled(&[
        "Allow | namespaces: [a], boundTo: pod | secrets: {names: [k], verbs: [get]}",
        "Allow | namespaces: [a], require: [mtls], boundTo: pod | \
         secrets: {names: [l], verbs: [get]}",
        "Allow | namespaces: [b], boundTo: pod | secrets: {names: [m], verbs: [get]}",
        "Allow | namespaces: [b] | secrets: {names: [m], verbs: [get]}",
    ]);
    // Neither a certificate nor a listener of the pod's own is a token bound to it.
    for mtls in [true, false] {
        let who = principal("td", "a/x", mtls);
        for name in ["aws/k", "aws/l"] {
            assert!(set.authorize(&who, Verb::Get, &secret(name)).is_err(), "{name}, {mtls}");
        }
    }
    for (pod, expected) in [(None, false), (Some("uid"), true)] {
        let who = bearer("a/x", pod);
        for name in ["aws/k", "aws/l"] {
            let allowed = set.authorize(&who, Verb::Get, &secret(name)).is_ok();
            assert_eq!(allowed, expected, "{name}, {pod:?}");
        }
    }
    for mtls in [true, false] {
        // One entry's condition is no other's.
        assert!(set.authorize(&principal("td", "b/x", mtls), Verb::Get, &secret("aws/m")).is_ok());
    }
}

#[test]
fn except_narrows_the_entry_that_it_stands_in() {
    check(
        &[
            "Allow | namespaces: ['*'], except: {namespaces: [b], serviceAccounts: [a/y]} | \
             secrets: {names: [k, d], verbs: [get]}",
            "Deny | namespaces: ['*'], except: {namespacePrefixes: [ops-]} | \
             secrets: {names: [d], verbs: ['*']}",
        ],
        &[
            ("b/x", "aws/k", NO_MATCH),
            ("a/y", "aws/k", NO_MATCH),
            ("a/x", "aws/d", DENIED),
            ("b/x", "aws/d", DENIED),
            ("a/x", "aws/k", Ok(())),
            ("ops-1/x", "aws/d", Ok(())),
        ],
    );
}

#[test]
fn deny_overrides_allow_in_any_order() {
    let mut lines = [
        "Allow | namespaces: [a] | secrets: {names: ['*'], verbs: ['*']}",
        "Deny | namespaces: ['*'] | secrets: {prefixes: [a/], verbs: [get]}",
        "Allow | serviceAccounts: [a/x] | secrets: {names: [a/k], verbs: [get]}",
    ];
    for _ in 0..3 {
        lines.rotate_left(1);
        check(&lines, &[("a/x", "aws/a/k", DENIED), ("a/x", "aws/k", Ok(()))]);
    }
}

#[test]
fn case_matters_only_where_the_store_minds_it() {
    check(
        &["Allow | namespaces: [a] | secrets: {names: [My-Key], verbs: [get]}"],
        &[
            ("a/x", "aws/my-key", NO_MATCH),
            ("a/x", "aws/MY-KEY", NO_MATCH),
            ("a/x", "aws/My-Key", Ok(())),
            ("a/x", "azure/MY-KEY", Ok(())),
        ],
    );
}

#[test]
fn a_missing_field_satisfies_deny_and_never_allow() {
    check(
        &[
            "Allow | namespaces: [a] | secrets: {names: [k], fields: [user], verbs: [get]}",
            "Allow | namespaces: [b] | secrets: {names: [k], verbs: [get]}",
            "Deny | namespaces: [b] | secrets: {names: [k], fields: [pass, /a/b], verbs: [get]}",
        ],
        &[
            ("a/x", "aws/k", NO_MATCH),
            ("a/x", "aws/k#pass", NO_MATCH),
            ("a/x", "aws/k#/user/0", NO_MATCH),
            ("b/x", "aws/k", DENIED),
            ("b/x", "aws/k#pass", DENIED),
            ("b/x", "aws/k#/pass", DENIED),
            ("b/x", "aws/k#/pass/0", DENIED),
            ("b/x", "aws/k#a", DENIED),
            ("b/x", "aws/k#/a/b/c", DENIED),
            ("a/x", "aws/k#user", Ok(())),
            ("a/x", "aws/k#/user", Ok(())),
            ("b/x", "aws/k#user", Ok(())),
            ("b/x", "aws/k#/a/c", Ok(())),
            ("b/x", "aws/k#passphrase", Ok(())),
        ],
    );
}

#[test]
fn use_is_bound_to_its_destination_and_is_not_reading() {
    let set = compiled(&[
        "Allow | namespaces: [a] | secrets: {names: [k], verbs: [use], destinations: \
         [{clusters: [c], hosts: [H.test], routes: [r], snis: [s.test]}]}",
        "Allow | namespaces: [b] | secrets: {names: [k], verbs: ['*']}",
        "Allow | namespaces: [d] | secrets: {names: [k], verbs: [use], \
         destinations: [{clusters: [c]}]}",
        "Deny | namespaces: [d] | secrets: {names: [k], verbs: [use], \
         destinations: [{hosts: [evil.test]}]}",
    ]);
    let all = Destination {
        cluster: Some("c"),
        route: Some("r"),
        sni: Some("S.test."),
        host: Some("h.test"),
        ..Destination::default()
    };
    let none = Destination::default();
    let missing = |attribute| Err(Reason::MissingAttribute(attribute));
    let cases = [
        ("a/x", none, missing(Attribute::Cluster)),
        ("a/x", Destination { route: None, sni: None, ..all }, missing(Attribute::Route)),
        ("a/x", Destination { sni: None, host: None, ..all }, missing(Attribute::Sni)),
        ("a/x", Destination { host: None, ..all }, missing(Attribute::Host)),
        ("a/x", Destination { host: None, cluster: Some("d"), ..all }, NO_MATCH),
        ("a/x", Destination { host: Some("h.test.evil"), ..all }, NO_MATCH),
        ("b/x", all, NO_MATCH),
        ("d/x", Destination { host: None, ..all }, DENIED),
        ("d/x", Destination { host: Some("evil.test"), ..all }, DENIED),
        ("a/x", all, Ok(())),
        ("d/x", all, Ok(())),
    ];
    for (account, destination, expected) in cases {
        let found = set.authorize_use(&who(account), &secret("aws/k"), &destination);
        let found = found.map(drop).map_err(|denial| denial.reason);
        assert_eq!(found, expected, "{account} {destination:?}");
        // What may still turn out to be permitted may be fetched, for nobody to see.
        let ahead = set.authorize_prefetch(&who(account), &secret("aws/k"), &destination);
        let may = matches!(expected, Ok(()) | Err(Reason::MissingAttribute(_)));
        assert_eq!(ahead.is_some(), may, "{account} {destination:?}");
    }
    assert_eq!(get(&set, "a/x", "aws/k"), NO_MATCH);
    let plain = set.authorize(&who("a/x"), Verb::Use, &secret("aws/k")).expect_err("no target");
    assert_eq!((plain.reason, plain.decision.generation), (Reason::NoMatch, 7));
}

#[test]
fn use_is_bound_to_port_scheme_method_and_path() {
    let set = compiled(&[
        "Allow | namespaces: [a] | secrets: {names: [k], verbs: [use], destinations: \
         [{clusters: [c], ports: ['443'], schemes: [https], methods: [POST], paths: [/v1/, /x]}]}",
        "Allow | namespaces: [b] | secrets: {names: [k], verbs: [use], \
         destinations: [{clusters: [c]}]}",
        "Deny | namespaces: [b] | secrets: {names: [k], verbs: [use], \
         destinations: [{methods: [DELETE]}, {paths: [/admin/]}, {ports: ['*']}]}",
    ]);
    let all = Destination {
        cluster: Some("c"),
        port: Some("443"),
        scheme: Some("https"),
        method: Some("POST"),
        path: Some("/v1/charges"),
        ..Destination::default()
    };
    let missing = |attribute| Err(Reason::MissingAttribute(attribute));
    let cases = [
        ("a/x", Destination { port: None, method: None, ..all }, missing(Attribute::Port)),
        ("a/x", Destination { scheme: None, path: None, ..all }, missing(Attribute::Scheme)),
        ("a/x", Destination { method: None, path: None, ..all }, missing(Attribute::Method)),
        ("a/x", Destination { path: None, ..all }, missing(Attribute::Path)),
        ("a/x", Destination { port: Some("80"), ..all }, NO_MATCH),
        ("a/x", Destination { port: Some("80"), path: None, ..all }, NO_MATCH),
        ("a/x", Destination { scheme: Some("http"), ..all }, NO_MATCH),
        ("a/x", Destination { method: Some("post"), ..all }, NO_MATCH),
        ("a/x", Destination { path: Some("/v1"), ..all }, NO_MATCH),
        ("a/x", Destination { path: Some("/v1x"), ..all }, NO_MATCH),
        ("a/x", Destination { path: Some("/x/"), ..all }, NO_MATCH),
        ("b/x", Destination { method: Some("DELETE"), ..all }, DENIED),
        ("b/x", Destination { path: Some("/admin/keys"), ..all }, DENIED),
        // What is not known satisfies a Deny.
        ("b/x", Destination { path: None, ..all }, DENIED),
        ("b/x", all, DENIED),
        ("a/x", all, Ok(())),
        ("a/x", Destination { path: Some("/x"), ..all }, Ok(())),
    ];
    for (account, destination, expected) in cases {
        let found = set.authorize_use(&who(account), &secret("aws/k"), &destination);
        let found = found.map(drop).map_err(|denial| denial.reason);
        assert_eq!(found, expected, "{account} {destination:?}");
    }
}

#[test]
fn collections_need_some_name_and_are_filtered_by_name() {
    let set = compiled(&[
        "Allow | namespaces: [a, b, c, d--e] | \
         secrets: {prefixes: ['{namespace}--'], verbs: [list]}",
        "Deny | namespaces: [b] | secrets: {names: ['*'], verbs: [list]}",
        "Deny | namespaces: [c] | secrets: {backends: [aws], names: ['*'], verbs: [list]}",
        "Deny | namespaces: [a] | secrets: {names: [a--d], verbs: ['*']}",
        "Allow | namespaces: [f] | secrets: {names: ['*'], fields: [x], verbs: [get, list]}",
        "Allow | namespaces: [g, h, i] | secrets: {names: [k], fields: [x], verbs: [get]}",
        "Deny | namespaces: [h] | secrets: {names: ['*'], fields: [y], verbs: [get]}",
        "Deny | namespaces: [i] | secrets: {names: ['*'], verbs: [get]}",
    ]);
    let list = |account: &str, verb| set.authorize_collection(&who(account), verb);
    let reason = |account, verb| list(account, verb).expect_err("denied").reason;
    assert_eq!(reason("b/x", Verb::List), Reason::DeniedByPolicy);
    assert_eq!(reason("z/x", Verb::List), Reason::NoMatch);
    assert_eq!(reason("d--e/x", Verb::List), Reason::NoMatch);
    assert_eq!(reason("f/x", Verb::List), Reason::NoMatch);
    for verb in [Verb::Get, Verb::Create, Verb::Update, Verb::Delete, Verb::Use] {
        assert_eq!(reason("a/x", verb), Reason::NoMatch, "{verb}");
    }
    // To get a field is to get something.
    for account in ["g/x", "h/x"] {
        assert!(list(account, Verb::Get).is_ok(), "{account}");
    }
    assert_eq!(reason("i/x", Verb::Get), Reason::DeniedByPolicy);
    assert_eq!(reason("g/x", Verb::List), Reason::NoMatch);
    let admits = |account: &str, reference: &str| {
        let SecretRef { backend, name, .. } = secret(reference);
        list(account, Verb::List).expect("allowed").admits(&backend, &name)
    };
    assert!(!admits("a/x", "aws/a--d"));
    assert!(!admits("a/x", "aws/b--k"));
    assert!(!admits("c/x", "aws/c--k"));
    assert!(admits("a/x", "aws/a--k"));
    assert!(admits("c/x", "azure/c--k"));
}

#[test]
fn http_and_connections() {
    let set = compiled(&[
        "Allow | namespaces: [a] | http: {hosts: [Shop.test], methods: [GET], \
         paths: [/orders/, /health], destinations: [shop/orders]}",
        "Allow | namespaces: [b] | http: {destinations: [shop/orders]}",
        "Allow | namespaces: [c] | http: {paths: ['*']}",
        "Allow | namespaces: [d] | http: {paths: ['*'], destinations: [shop/orders]}",
        "Deny | namespaces: [b] | http: {paths: [/admin/]}",
        "Deny | namespaces: [c] | http: {destinations: [shop/orders]}",
    ]);
    let orders = || Some(ServiceAccount::parse("shop/orders").expect("valid"));
    let pay = || Some(ServiceAccount::parse("shop/pay").expect("valid"));
    let cases = [
        ("a", "GET", "shop.test", "/orders", orders(), NO_MATCH),
        ("a", "GET", "shop.test", "/ordersx/1", orders(), NO_MATCH),
        ("a", "GET", "shop.test", "/health/1", orders(), NO_MATCH),
        ("a", "get", "shop.test", "/orders/1", orders(), NO_MATCH),
        ("a", "GET", "shop.test.evil", "/orders/1", orders(), NO_MATCH),
        ("a", "GET", "shop.test", "/orders/1", pay(), NO_MATCH),
        ("a", "GET", "shop.test", "/orders/1", None, NO_MATCH),
        ("b", "GET", "h", "/admin/1", orders(), DENIED),
        ("b", "GET", "h", "/x", None, NO_MATCH),
        ("c", "GET", "h", "/x", orders(), DENIED),
        ("c", "GET", "h", "/x", None, DENIED),
        ("a", "GET", "SHOP.test:443", "/orders/1?q=/../", orders(), Ok(())),
        ("a", "GET", "shop.test", "/health", orders(), Ok(())),
        ("b", "PUT", "h", "/x", orders(), Ok(())),
        ("c", "GET", "h", "/", pay(), Ok(())),
    ];
    for (namespace, method, host, path, to, expected) in cases {
        let request = HttpRequest::new(method, host, path, to).expect("canonical");
        let found = set.authorize_http(&who(&format!("{namespace}/x")), &request);
        let found = found.map(drop).map_err(|denial| denial.reason);
        assert_eq!(found, expected, "{namespace} {request:?}");
    }
    // The Deny of a path covers what shows no path; an Allow of paths does not.
    let cases = [
        ("a", orders(), NO_MATCH),
        ("b", orders(), DENIED),
        ("c", pay(), NO_MATCH),
        ("c", None, DENIED),
        ("d", orders(), NO_MATCH),
    ];
    for (namespace, destination, expected) in cases {
        let connection = Connection { destination };
        let found = set.authorize_connection(&who(&format!("{namespace}/x")), &connection);
        assert_eq!(found.map(drop).map_err(|denial| denial.reason), expected, "{namespace}");
    }
    let set = compiled(&["Allow | namespaces: [b] | http: {destinations: [shop/orders]}"]);
    let connect =
        |destination| set.authorize_connection(&who("b/x"), &Connection { destination }).is_ok();
    assert!(!connect(None) && !connect(pay()) && connect(orders()));
}
