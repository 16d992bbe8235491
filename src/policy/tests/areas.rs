//! What is said of whole areas against what is decided: `reach`, `holders` and `diff`, on
//! random policies and requests.

use std::sync::Arc;

use proptest::{collection::vec, prelude::*, sample::subsequence};

use super::{
    catalog,
    differential::compile,
    random::{Request, caller, policy, request},
    semantics::{compiled, secret, who},
};
use crate::{
    identity::{Principal, ServiceAccount, TrustDomain},
    policy::{
        Ask, Change, Deed, Destination, HttpRequest, Piece, PolicySet, Span, Toward, Verb, Whom,
        diff, rule::FieldPath,
    },
    secret::{SecretField, SecretRef},
};

fn domains() -> [TrustDomain; 2] {
    ["td", "ud"].map(|domain| TrustDomain::parse(domain).expect("valid"))
}

fn ask(request: &Request) -> Ask {
    let workload = |to: &Option<&str>| to.map(|to| ServiceAccount::parse(to).expect("valid"));
    match request {
        Request::Secret { verb, secret, destination } => {
            let values = destination.map(|value| value.map(Arc::from));
            let [cluster, route, sni, host, port, scheme, method, path] = values;
            let paths = path.map_or(Span::Any, Span::One);
            let toward = Toward { cluster, route, port, sni, scheme, host, method, paths };
            Ask::Secret(*verb, Box::new(secret.clone()), toward)
        }
        Request::Collection(verb) => Ask::Collection(*verb),
        Request::Http { method, host, path, to } => Ask::Http {
            method: (*method).into(),
            host: (*host).into(),
            path: (*path).into(),
            destination: workload(to),
        },
        Request::Connection(to) => Ask::Connection(workload(to)),
    }
}

/// Whether a value is the given one. What is missing is enough for a Deny only.
fn is<T: PartialEq>(given: Option<&T>, value: Option<&T>, denies: bool) -> bool {
    given.is_none_or(|given| value.map_or(denies, |value| value == given))
}

fn related(given: &str, asked: Option<&SecretField>, denies: bool) -> bool {
    let path = |text: &str| FieldPath::new(&SecretField::parse(text).expect("valid")).inside("");
    let Some(asked) = asked else { return denies };
    let (given, asked) = (path(given), FieldPath::new(asked).inside(""));
    given == asked || denies && (given.starts_with(&asked) || asked.starts_with(&given))
}

/// Whether the piece speaks of what is asked.
fn speaks(piece: &Piece, ask: &Ask, who: &Principal, denies: bool) -> bool {
    match (piece, ask) {
        (Piece::Secret { backend, names, verb, field, toward }, Ask::Secret(asked, secret, to)) => {
            let fill = |text: &Arc<str>| {
                let text = text.replace("{namespace}", who.namespace());
                text.replace("{serviceAccount}", who.service_account().name()).into()
            };
            let names = match names {
                Span::Any => Span::Any,
                Span::Prefix(prefix) => Span::Prefix(fill(prefix)),
                Span::One(one) => Span::One(fill(one)),
            };
            let field =
                field.as_ref().is_none_or(|one| related(one, secret.field.as_ref(), denies));
            let path = match (&toward.paths, &to.paths) {
                (Span::Any, _) => true,
                (span, Span::One(path)) => span.contains(path),
                (_, Span::Any | Span::Prefix(_)) => denies,
            };
            let toward = [
                (&toward.cluster, &to.cluster),
                (&toward.route, &to.route),
                (&toward.sni, &to.sni),
                (&toward.host, &to.host),
                (&toward.port, &to.port),
                (&toward.scheme, &to.scheme),
                (&toward.method, &to.method),
            ];
            (verb, backend) == (asked, &secret.backend)
                && names.contains(secret.name.as_str())
                && field
                && path
                && toward.iter().all(|(given, to)| is(given.as_ref(), to.as_ref(), denies))
        }
        (Piece::Collection(verb) | Piece::Secret { verb, .. }, Ask::Collection(asked)) => {
            verb == asked
        }
        (
            Piece::Http { host, method, paths, destination },
            Ask::Http { host: h, method: m, path, destination: to },
        ) => {
            is(host.as_ref(), Some(h), denies)
                && is(method.as_ref(), Some(m), denies)
                && paths.contains(path)
                && is(destination.as_ref(), to.as_ref(), denies)
        }
        (Piece::Connection { destination }, Ask::Connection(to)) => {
            is(destination.as_ref(), to.as_ref(), denies)
        }
        _ => false,
    }
}

fn check_reach(set: &Arc<PolicySet>, who: &Principal, ask: &Ask) -> Result<(), TestCaseError> {
    if matches!(ask, Ask::Collection(_)) {
        return Ok(());
    }
    let reach = set.reach(who, &catalog()).expect("few policies");
    let listed = reach.iter().any(|one| {
        one.needs.is_none()
            && speaks(&one.piece, ask, who, false)
            && !one.except.iter().any(|denied| speaks(&denied.piece, ask, who, true))
    });
    prop_assert_eq!(ask.decide(set, who).is_ok(), listed, "{} {}: {:?}", who, ask, reach);
    Ok(())
}

fn check_holders(set: &Arc<PolicySet>, who: &[Principal], ask: &Ask) -> Result<(), TestCaseError> {
    let (to, request);
    let deed = match ask {
        Ask::Secret(verb, secret, toward) => {
            to = toward.destination();
            Deed::Secret(*verb, secret, to)
        }
        Ask::Http { method, host, path, destination } => {
            request = HttpRequest::new(method, host, path, destination.clone()).expect("canonical");
            Deed::Http(&request)
        }
        Ask::Collection(_) | Ask::Connection(_) => return Ok(()),
    };
    let holders = set.holders(&deed, &catalog(), &domains()).expect("few policies");
    for who in who {
        let account = who.service_account();
        let among = |whoms: &[Whom]| whoms.iter().any(|whom| whom.contains(account));
        let listed = holders.iter().any(|holder| {
            holder.whom.contains(account)
                && holder.trust_domains.contains(who.trust_domain())
                && who.proofs().contains(holder.require)
                && (!holder.bound_to_pod || who.is_bound_to_pod())
                && !among(&holder.except)
                && !holder.denied.iter().any(|denied| {
                    denied.whom.contains(account)
                        && denied.trust_domains.contains(who.trust_domain())
                        && !among(&denied.except)
                })
        });
        prop_assert_eq!(ask.decide(set, who).is_ok(), listed, "{} {}: {:?}", who, ask, holders);
    }
    Ok(())
}

fn tells(change: &Change, gained: bool, who: &Principal, ask: &Ask) -> bool {
    change.gained == gained
        && change.whom.contains(who.service_account())
        && change.trust_domain == *who.trust_domain()
        && who.proofs().contains(change.proofs)
        && (!change.bound_to_pod || who.is_bound_to_pod())
        && speaks(&change.piece, ask, who, true)
}

fn check_diff(
    old: &Arc<PolicySet>,
    new: &Arc<PolicySet>,
    callers: &[Principal],
    asks: &[Ask],
) -> Result<(), TestCaseError> {
    let changes = diff(old, new, &catalog(), &domains(), |_, _| {}).expect("few policies");
    for Change { gained, witness: (who, ask), .. } in &changes {
        let (before, after) = (ask.decide(old, who).is_ok(), ask.decide(new, who).is_ok());
        prop_assert_eq!((before, after), (!gained, *gained), "{} {}", who, ask);
    }
    for (who, ask) in callers.iter().flat_map(|who| asks.iter().map(move |ask| (who, ask))) {
        // Several names are read at once by the right to each of them: where all are denied,
        // that one may ask is no change.
        if matches!(ask, Ask::Collection(Verb::Get)) {
            continue;
        }
        let (before, after) = (ask.decide(old, who).is_ok(), ask.decide(new, who).is_ok());
        if before != after {
            let told = changes.iter().any(|change| tells(change, after, who, ask));
            prop_assert!(told, "{} {} (gained: {}): {:?}", who, ask, after, changes);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn what_is_listed_is_what_is_allowed(
        policies in vec(policy(), 1..7),
        callers in vec(caller(), 3),
        requests in vec(request(&catalog()), 8),
    ) {
        let (_, set) = compile(policies, &catalog());
        for ask in requests.iter().map(ask) {
            for who in &callers {
                check_reach(&set, who, &ask)?;
            }
            check_holders(&set, &callers, &ask)?;
        }
    }

}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    /// Few policies differ, or all of them.
    #[test]
    fn no_difference_is_missed_and_none_is_made_up(
        shared in vec(policy(), 0..4),
        old in vec(policy(), 0..3),
        new in vec(policy(), 0..3),
        callers in vec(caller(), 8),
        requests in vec(request(&catalog()), 12),
    ) {
        let with = |more: &[_]| compile([&shared[..], more].concat(), &catalog()).1;
        let asks: Vec<_> = requests.iter().map(ask).collect();
        check_diff(&with(&old), &with(&new), &callers, &asks)?;
    }
}

/// Policies that differ for few callers: by exceptions, and by templates that meet.
const RARE: &[&str] = &[
    "Allow | namespaces: ['*'] | secrets: {prefixes: ['{namespace}/'], verbs: [get]}",
    "Allow | namespaces: ['*'] | secrets: {prefixes: ['{serviceAccount}/'], verbs: [get]}",
    "Allow | namespaces: ['*'] | secrets: {names: ['*'], verbs: [get]}",
    "Allow | namespaces: ['*'], except: {namespaces: [a]} | secrets: {names: ['*'], verbs: [get]}",
    "Allow | namespaces: ['*'], except: {serviceAccounts: [b/x]} | secrets: {prefixes: \
     ['{namespace}/'], verbs: [get]}",
    "Allow | namespaces: ['*'] | secrets: {prefixes: ['a-', '{namespace}--'], verbs: [get]}",
    "Deny | namespaces: ['*'] | secrets: {names: [a/k], verbs: [get]}",
    "Deny | namespaces: ['*'] | secrets: {prefixes: [a-b/], verbs: [get]}",
    "Deny | namespaces: ['*'] | secrets: {prefixes: ['{serviceAccount}/'], verbs: [get]}",
    "Deny | namespaces: ['*'] | secrets: {prefixes: ['{namespace}/'], verbs: [get]}",
    "Deny | namespaces: ['*'] | secrets: {prefixes: ['{namespace}--'], verbs: [get]}",
    "Deny | namespaces: ['*'] | secrets: {names: ['{serviceAccount}--k'], verbs: [get]}",
    "Deny | namespaces: ['*'], except: {namespaces: [a]} | secrets: {prefixes: [a/], verbs: [get]}",
    "Deny | namespaces: ['*'], except: {namespacePrefixes: [a-]} | secrets: {names: ['*'], \
     verbs: [get]}",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn differences_of_few_callers_are_not_missed(
        old in subsequence(RARE, 1..5),
        new in subsequence(RARE, 1..5),
    ) {
        let accounts = ["a", "b", "a-b", "a--b", "x"].map(|namespace| {
            ["a", "x", "a-b", "x--y"].map(|name| who(&format!("{namespace}/{name}")))
        });
        let names = [
            "a/k", "b/k", "a-b/k", "a--b/k", "x/k", "x--y/k", "a--k", "a--b--k", "x--y--k", "zz",
        ];
        let ask = |name: &&str| {
            let secret = Box::new(secret(&format!("aws/{name}")));
            Ask::Secret(Verb::Get, secret, Toward::default())
        };
        let asks: Vec<_> = names.iter().map(ask).collect();
        check_diff(&compiled(&old), &compiled(&new), &accounts.concat(), &asks)?;
    }
}

fn changes(old: &[&str], new: &[&str]) -> Vec<String> {
    let set = |lines: &[&str]| match lines {
        [] => Arc::new(PolicySet::deny_all()),
        lines => compiled(lines),
    };
    let (old, new) = (set(old), set(new));
    let domains = &domains()[..1];
    let changes = diff(&old, &new, &catalog(), domains, |_, _| {}).expect("few policies");
    let mut all: Vec<_> = changes
        .iter()
        .map(|change| {
            let sign = if change.gained { '+' } else { '-' };
            let what = match &change.piece {
                Piece::Secret { backend, names, verb, .. } => format!("{verb} {backend} {names}"),
                other => format!("{other:?}"),
            };
            let some = if change.only_some { "some of " } else { "" };
            format!("{sign} {some}{} {what}", change.whom)
        })
        .collect();
    all.sort();
    all.dedup();
    all
}

#[test]
fn differences_are_found_where_only_few_callers_have_them() {
    let own = "Allow | namespaces: ['*'] | secrets: {backends: [aws], prefixes: ['{namespace}/'], verbs: [get]}";
    let all = "Allow | namespaces: ['*'] | secrets: {backends: [aws], names: ['*'], verbs: [get]}";
    let cases: &[(&[&str], &[&str], &[&str])] = &[
        (&[own], &[own], &[]),
        (&[], &[own], &["+ everyone get aws {namespace}/*"]),
        // By another name, in another order, in more words: the same.
        (&[own, all], &[all, own], &[]),
        (
            &[own],
            &[own, "Deny | namespaces: ['*'] | secrets: {names: [zeta/db], verbs: [get]}"],
            &["- namespace zeta get aws zeta/db"],
        ),
        (
            &[own],
            &[
                own,
                "Deny | namespaces: ['*'] | secrets: {prefixes: ['{serviceAccount}/'], verbs: [get]}",
            ],
            &["- some of everyone get aws {namespace}/*"],
        ),
        (
            &[all, "Deny | namespaces: ['*'] | secrets: {prefixes: [a/], verbs: [get]}"],
            &[
                all,
                "Deny | namespaces: ['*'], except: {namespaces: [ops]} | secrets: {prefixes: [a/], verbs: [get]}",
            ],
            &["+ namespace ops get aws a/*"],
        ),
        (
            &[own],
            &[
                "Allow | namespaces: ['*'], except: {serviceAccounts: [a/x]} | secrets: {backends: [aws], prefixes: ['{namespace}/'], verbs: [get]}",
            ],
            &["- a/x get aws a/*"],
        ),
        // What everyone has is nothing new to some.
        (&[all], &[all, own], &[]),
        (&["Allow Audit | namespaces: [a] | secrets: {names: [k], verbs: [get]}"], &[], &[]),
    ];
    for (old, new, expected) in cases {
        assert_eq!(changes(old, new), *expected, "{old:?} to {new:?}");
    }
}

#[test]
fn verbs_that_never_go_with_fields_are_not_listed() {
    let some = "Allow | namespaces: [a] | secrets: {names: [k], fields: [f], verbs: ['*']}";
    let reach = compiled(&[some]).reach(&who("a/x"), &catalog()).expect("few");
    let verb = |one: &crate::policy::Reachable| match &one.piece {
        Piece::Secret { backend, verb, .. } => format!("{verb} {backend}"),
        other => format!("{other:?}"),
    };
    assert_eq!(reach.iter().map(verb).collect::<Vec<_>>(), ["get aws", "get azure"]);
    let get = "Allow | namespaces: [a] | secrets: {names: [k], fields: [f], verbs: [get]}";
    assert_eq!(changes(&[some], &[get]), [""; 0]);
    // An example can be asked as it is.
    let all = "Allow | namespaces: [a] | secrets: {names: [k], verbs: [delete]}";
    let deny = "Deny | namespaces: [a] | secrets: {names: [k], fields: [f], verbs: [delete]}";
    let found = diff(&compiled(&[all]), &compiled(&[all, deny]), &catalog(), &domains(), |_, _| {});
    let found = found.expect("few policies");
    assert!(!found.is_empty());
    for Change { witness: (_, ask), .. } in &found {
        let Ask::Secret(Verb::Delete, secret, _) = ask else { panic!("{ask}") };
        assert_eq!(secret.field, None);
    }
}

#[test]
fn what_is_wholly_denied_is_not_listed() {
    let names = |lines: &[&str]| -> Vec<_> {
        let reach = compiled(lines).reach(&who("a/x"), &catalog()).expect("few");
        let name = |one: &crate::policy::Reachable| match &one.piece {
            Piece::Secret { backend, names, .. } => {
                format!("{backend} {names} {}", one.except.len())
            }
            other => format!("{other:?}"),
        };
        reach.iter().map(name).collect()
    };
    let allow = "Allow | namespaces: [a] | secrets: {prefixes: [a-], verbs: [get]}";
    assert_eq!(names(&[allow]), ["aws a-* 0", "azure a-* 0"]);
    let part = "Deny | namespaces: [a] | secrets: {names: [a-k], verbs: [get]}";
    assert_eq!(names(&[allow, part]), ["aws a-* 1", "azure a-* 1"]);
    let one = "Deny | namespaces: [a] | secrets: {backends: [aws], names: ['*'], verbs: ['*']}";
    assert_eq!(names(&[allow, one]), ["azure a-* 0"]);
    let audit = "Deny Audit | namespaces: [a] | secrets: {names: ['*'], verbs: ['*']}";
    assert_eq!(names(&[allow, audit]).len(), 2);
    let other = "Allow Audit | namespaces: [a] | secrets: {names: ['*'], verbs: ['*']}";
    assert!(names(&[other]).is_empty());
}

#[test]
fn a_deny_takes_away_what_no_allow_of_the_same_text_gives() {
    let all =
        "Allow | namespaces: ['*'] | secrets: {backends: [azure], names: ['*'], verbs: [get]}";
    let own = "Allow | namespaces: ['*'] | secrets: {backends: [azure], prefixes: ['{namespace}--'], verbs: [get]}";
    let deny = "Deny | namespaces: ['*'] | secrets: {prefixes: ['{namespace}--'], verbs: [get]}";
    let except = |lines: &[&str]| -> Vec<_> {
        let reach = compiled(lines).reach(&who("a--b/x"), &catalog()).expect("few");
        let pieces = reach.iter().flat_map(|one| &one.except).map(|one| one.piece.clone());
        pieces.collect()
    };
    assert!(except(&[own]).is_empty());
    let [Piece::Secret { names, .. }] = &except(&[all, deny])[..] else { panic!("one") };
    assert_eq!(names.to_string(), "a--b--*");
    let root = secret("azure/a--b--k");
    let deed = Deed::Secret(Verb::Get, &root, Destination::default());
    let holders = compiled(&[all, deny]).holders(&deed, &catalog(), &domains()).expect("few");
    let denied: Vec<_> = holders[0].denied.iter().map(|one| one.whom.to_string()).collect();
    assert_eq!(denied, ["namespace a", "namespace a--b"]);
    assert_eq!(changes(&[all], &[all, deny]), ["- everyone get azure {namespace}--*"],);
}

#[test]
fn templates_tell_which_namespace_it_is() {
    let holders = |lines: &[&str], reference: &str| -> Vec<_> {
        let secret: SecretRef = secret(reference);
        let deed = Deed::Secret(Verb::Get, &secret, Destination::default());
        let holders = compiled(lines).holders(&deed, &catalog(), &domains()).expect("few");
        holders.iter().map(|one| format!("{} -{}", one.whom, one.denied.len())).collect()
    };
    let own = "Allow | namespaces: ['*'] | secrets: {prefixes: ['{namespace}/'], verbs: [get]}";
    let sa = "Allow | namespacePrefixes: [pay-] | secrets: {names: ['{namespace}/{serviceAccount}'], verbs: [get]}";
    assert_eq!(holders(&[own], "aws/payments/db"), ["namespace payments -0"]);
    assert_eq!(holders(&[sa], "aws/pay-roll/db.x"), ["pay-roll/db.x -0"]);
    assert!(holders(&[sa], "aws/payroll/db").is_empty());
    assert!(holders(&[own], "aws/A/db").is_empty());
    let deny = "Deny | namespaces: ['*'], except: {serviceAccounts: [payments/api]} | secrets: {names: ['*'], verbs: [get]}";
    assert_eq!(holders(&[own, deny], "aws/payments/db"), ["namespace payments -1"]);
    let rest = "Deny | serviceAccounts: [payments/api] | secrets: {names: ['*'], verbs: [get]}";
    assert!(holders(&[own, deny, rest], "aws/payments/db").is_empty());
}
