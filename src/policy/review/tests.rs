//! What is found, what is not, and that what is found is true.

use std::{fmt::Write, sync::Arc};

use super::{Finding, FindingKind, Surroundings};
use crate::{
    identity::{ProofKind, ProofSet, TrustDomain},
    policy::{
        Policies,
        rule::{FieldPath, Policy, Subject, Target},
        tests::catalog,
    },
    secret::SecretField,
};

mod sound;

/// A set of `effect | from | to` lines on lines of their own: `p0` on line 1.
fn policies(lines: &[String]) -> Policies {
    let mut text = String::new();
    for (n, line) in lines.iter().enumerate() {
        let [effect, from, to] =
            line.split(" | ").collect::<Vec<_>>().try_into().expect("three parts");
        let (effect, mode) = effect.split_once(' ').unwrap_or((effect, "Enforce"));
        let subjects: Vec<_> = from.split(" + ").map(|from| format!("{{{from}}}")).collect();
        let _ = writeln!(
            text,
            "{{apiVersion: vaultmux.dev/v1alpha1, kind: AccessPolicy, metadata: {{name: p{n}}}, \
             spec: {{effect: {effect}, mode: {mode}, from: [{}], to: [{{{to}}}]}}}}\n---",
            subjects.join(", ")
        );
    }
    let parsed = Policies::parse(&[("p.yaml".into(), text)], &catalog());
    parsed.map_err(|failure| failure.to_string()).expect("valid policies")
}

fn review(policies: &Policies, proofs: ProofSet) -> Vec<Finding> {
    let trust_domains = [TrustDomain::parse("td").expect("valid")];
    let bound_to_pod = proofs.contains(ProofKind::Token.into());
    let catalog = catalog();
    let around =
        Surroundings { catalog: &catalog, trust_domains: &trust_domains, proofs, bound_to_pod };
    policies.review(&around)
}

/// Findings as `policy code`.
fn found(lines: &[&str]) -> Vec<String> {
    let lines: Vec<_> = lines.iter().map(|line| (*line).to_owned()).collect();
    let proofs = [ProofKind::Mtls, ProofKind::Grant].into_iter().collect();
    let findings = review(&policies(&lines), proofs);
    let short = |one: &Finding| {
        let policy = one.place.policy.as_deref().unwrap_or("-");
        format!("{policy} {}", one.kind.as_str())
    };
    findings.iter().map(short).collect()
}

const GET_A: &str = "Allow | namespaces: [n] | secrets: {prefixes: [a/], verbs: [get]}";

#[test]
fn what_a_wider_rule_says_is_found() {
    let cases: &[(&str, &str, &str)] = &[
        // The second is the one that is found, unless it is the wider.
        (GET_A, GET_A, "p1 duplicate_rule"),
        (
            GET_A,
            "Allow | namespaces: [n] | secrets: {prefixes: [a/b/], verbs: [get]}",
            "p1 shadowed_rule",
        ),
        (
            "Allow | namespaces: [n] | secrets: {prefixes: [a/b/], verbs: [get]}",
            GET_A,
            "p0 shadowed_rule",
        ),
        (
            GET_A,
            "Allow | namespaces: [n] | secrets: {names: [a/b, a/c], verbs: [get]}",
            "p1 shadowed_rule",
        ),
        (
            GET_A,
            "Allow | serviceAccounts: [n/x] | secrets: {prefixes: [a/], verbs: [get]}",
            "p1 shadowed_rule",
        ),
        (
            GET_A,
            "Allow | namespaces: [n], require: [mtls] | secrets: {prefixes: [a/], verbs: [get]}",
            "p1 shadowed_rule",
        ),
        (
            GET_A,
            "Allow | namespaces: [n] | secrets: {backends: [aws], prefixes: [a/], verbs: [get]}",
            "p1 shadowed_rule",
        ),
        (
            GET_A,
            "Allow | namespaces: [n] | secrets: {prefixes: [a/], verbs: [get], fields: [f]}",
            "p1 shadowed_rule",
        ),
        (
            "Allow | namespaces: ['*'] | secrets: {prefixes: ['{namespace}/'], verbs: [get, list]}",
            "Allow | namespacePrefixes: [team-a-] | secrets: {prefixes: ['{namespace}/b/'], verbs: [list]}",
            "p1 shadowed_rule",
        ),
        (
            "Allow | namespacePrefixes: [team-] | http: {hosts: [h], paths: [/a/]}",
            "Allow | namespaces: [team-a] | http: {hosts: [h], paths: [/a/b, /a/c/], methods: [GET]}",
            "p1 shadowed_rule",
        ),
        (
            "Allow | namespaces: [n] | http: {destinations: [s/a, s/b]}",
            "Allow | namespaces: [n] | http: {destinations: [s/b]}",
            "p1 shadowed_rule",
        ),
        (
            "Deny | namespaces: ['*'] | secrets: {names: ['*'], verbs: ['*']}",
            GET_A,
            "p1 denied_rule",
        ),
        (
            "Deny | namespaces: ['*'], except: {namespaces: [m]} | secrets: {prefixes: [a/], verbs: [get]}",
            GET_A,
            "p1 denied_rule",
        ),
        (
            "Deny | namespaces: [n] | secrets: {prefixes: [a/], verbs: [get], fields: [f, g]}",
            "Allow | namespaces: [n] | secrets: {names: [a/b], verbs: [get], fields: [f]}",
            "p1 denied_rule",
        ),
        (
            "Deny | namespaces: [n] | secrets: {names: [k], verbs: [use], destinations: [{clusters: [c]}]}",
            "Allow | namespaces: [n] | secrets: {names: [k], verbs: [use], destinations: [{clusters: [c], hosts: [h]}]}",
            "p1 denied_rule",
        ),
        (
            "Deny Audit | namespaces: [n] | secrets: {prefixes: [a/], verbs: [get]}",
            "Deny Audit | namespaces: [n] | secrets: {names: [a/k], verbs: [get]}",
            "p1 shadowed_rule",
        ),
    ];
    for (first, second, expected) in cases {
        assert_eq!(found(&[first, second]), [*expected], "{first}\n{second}");
    }
}

#[test]
fn rules_that_say_something_of_their_own_are_not_found() {
    let others = [
        "Allow | namespaces: [n] | secrets: {prefixes: [a/], verbs: [get, list]}",
        "Allow | namespaces: [n, m] | secrets: {names: [a/k], verbs: [get]}",
        "Allow | namespaces: [n] | secrets: {names: [a/k, b/k], verbs: [get]}",
        "Allow | namespaces: [n] | secrets: {prefixes: [ab/], verbs: [get]}",
        "Allow | namespaces: [n] | secrets: {names: [a], verbs: [get]}",
        "Allow Audit | namespaces: [n] | secrets: {prefixes: [a/], verbs: [get]}",
        "Deny | namespaces: [n] | secrets: {prefixes: [a/b/], verbs: [get]}",
        "Deny | namespaces: [n], trustDomains: [td] | secrets: {prefixes: [a/], verbs: [get]}",
        "Deny | namespaces: [n], except: {serviceAccounts: [n/x]} | secrets: {prefixes: [a/], verbs: [get]}",
        "Deny | namespaces: [n] | secrets: {backends: [aws], prefixes: [a/], verbs: [get]}",
        "Deny | namespaces: [n] | secrets: {prefixes: [a/], verbs: [get], fields: [f]}",
        "Deny Audit | namespaces: [n] | secrets: {prefixes: [a/], verbs: [get]}",
        "Allow | namespaces: [n] | http: {hosts: ['*']}",
        "Allow | namespaces: [team-a] | secrets: {prefixes: ['{namespace}/'], verbs: [get]}",
    ];
    for other in others {
        // Whatever is wider than GET_A makes that one needless, and nothing else.
        let mut findings = found(&[GET_A, other]);
        findings.retain(|finding| finding != "p0 shadowed_rule");
        assert_eq!(findings, [""; 0], "{other}");
    }
    let pairs = [
        // Where nothing is known of a connection, only what is not asked for holds.
        [
            "Allow | namespaces: [n] | http: {hosts: ['*'], destinations: [s/a]}",
            "Allow | namespaces: [n] | http: {destinations: [s/a]}",
        ],
        [
            "Allow | namespaces: [n] | http: {destinations: [s/a], hosts: [h]}",
            "Allow | namespaces: [n] | http: {hosts: [h], methods: [GET]}",
        ],
    ];
    assert_eq!(found(&pairs[0]), ["p0 shadowed_rule"]);
    assert_eq!(found(&pairs[1]), [""; 0]);
}

#[test]
fn entries_of_from_inside_others_are_found() {
    let cases = [
        ("namespaces: [n] + serviceAccounts: [n/x]", "p0 duplicate_subject"),
        ("serviceAccounts: [n/x] + namespaces: [n]", "p0 duplicate_subject"),
        ("namespaces: [n] + namespaces: [n]", "p0 duplicate_subject"),
        ("namespacePrefixes: [a-] + namespaces: [a-b]", "p0 duplicate_subject"),
        ("namespaces: [n] + namespaces: [m]", ""),
        ("namespaces: [n, m], require: [mtls] + namespaces: [n]", ""),
        ("namespaces: [n], except: {serviceAccounts: [n/x]} + serviceAccounts: [n/x]", ""),
    ];
    for (from, expected) in cases {
        let line = format!("Allow | {from} | secrets: {{names: [k], verbs: [get]}}");
        assert_eq!(found(&[&line]).join(", "), expected, "{from}");
    }
}

#[test]
fn what_nobody_or_nothing_can_be_is_found() {
    let to = "secrets: {names: [k], verbs: [get]}";
    for (from, expected) in [
        ("namespaces: [n], trustDomains: [other]", "p0 unused_subject"),
        ("namespaces: [n], trustDomains: [other, td]", ""),
        ("namespaces: [n], require: [token]", "p0 unused_subject"),
        ("namespaces: [n], require: [mtls, waypoint]", "p0 unused_subject"),
        ("namespaces: [n], require: [local]", "p0 unused_subject"),
        ("namespaces: [n], boundTo: pod", "p0 unused_subject"),
        ("namespaces: [n], require: [mtls, grant]", ""),
    ] {
        assert_eq!(found(&[&format!("Allow | {from} | {to}")]).join(", "), expected, "{from}");
    }
    let lines = ["namespaces: [n], require: [token]", "namespaces: [n], boundTo: pod"];
    let lines = lines.map(|from| format!("Allow | {from} | {to}"));
    assert_eq!(review(&policies(&lines), ProofKind::ALL.into_iter().collect()).len(), 0);
    for (from, to, expected) in [
        ("namespaces: [a--b]", "prefixes: ['{namespace}--']", "p0 unused_pattern"),
        ("serviceAccounts: [a--b/x]", "names: ['{namespace}--k']", "p0 unused_pattern"),
        (
            "serviceAccounts: [a/x--y]",
            "names: ['{namespace}/{serviceAccount}--k']",
            "p0 unused_pattern",
        ),
        ("namespaces: [a--b, a]", "prefixes: ['{namespace}--']", ""),
        ("namespaces: [a--b]", "prefixes: ['{namespace}/']", ""),
        ("namespacePrefixes: [a--]", "prefixes: ['{namespace}--']", ""),
        ("namespaces: [n]", "backends: [aws, azure], prefixes: [a/]", "p0 unused_backend"),
        ("namespaces: [n]", "backends: [aws, azure], prefixes: [a/, a-]", ""),
        ("namespaces: [n]", "prefixes: [a/]", ""),
    ] {
        let line = format!("Allow | {from} | secrets: {{{to}, verbs: [get]}}");
        assert_eq!(found(&[&line]).join(", "), expected, "{from} {to}");
    }
    // Whoever is denied the whole secret is denied it in part, too.
    for (effect, to, expected) in [
        ("Allow", "fields: [f], verbs: [get, delete]", "p0 unused_verb"),
        ("Allow", "fields: [f], verbs: ['*']", "p0 unused_verb"),
        ("Allow", "fields: [f], verbs: [get]", ""),
        ("Allow", "verbs: [get, delete]", ""),
        ("Deny", "fields: [f], verbs: [delete]", ""),
    ] {
        let line = format!("{effect} | namespaces: [n] | secrets: {{names: [k], {to}}}");
        assert_eq!(found(&[&line]).join(", "), expected, "{effect} {to}");
    }
}

#[test]
fn grants_that_are_too_wide_are_found() {
    let cases = [
        ("namespaces: [n]", "names: ['*'], verbs: [create]", "p0 broad_write"),
        ("namespaces: ['*']", "names: ['*'], verbs: ['*']", "p0 broad_write"),
        (
            "namespacePrefixes: [n-]",
            "backends: [aws], names: ['*'], verbs: [delete]",
            "p0 broad_write",
        ),
        ("serviceAccounts: [n/x]", "names: ['*'], verbs: ['*']", ""),
        ("namespaces: ['*']", "names: ['*'], verbs: [get]", "p0 broad_read"),
        (
            "namespaces: ['*'], except: {namespaces: [n]}",
            "names: ['*'], verbs: [list]",
            "p0 broad_read",
        ),
        ("namespaces: [n]", "names: ['*'], verbs: [get]", ""),
        ("namespaces: ['*']", "prefixes: [shared/], verbs: [get, update]", "p0 broad_prefix"),
        ("namespaces: ['*']", "prefixes: [shared/], verbs: [get]", ""),
        // What is about fields changes nothing.
        ("namespaces: ['*']", "names: ['*'], fields: [f], verbs: [get]", ""),
        ("namespaces: ['*']", "prefixes: ['{namespace}/'], verbs: ['*']", ""),
        ("namespaces: ['*']", "prefixes: ['{serviceAccount}/'], verbs: [get]", "p0 shared_by_name"),
        ("namespaces: [n]", "prefixes: ['{serviceAccount}/'], verbs: [get]", ""),
        ("namespaces: ['*']", "prefixes: ['{namespace}/{serviceAccount}/'], verbs: ['*']", ""),
    ];
    for (from, to, expected) in cases {
        let rule = |effect: &str| format!("{effect} | {from} | secrets: {{{to}}}");
        assert_eq!(found(&[&rule("Allow")]).join(", "), expected, "{from} {to}");
        for effect in ["Allow Audit", "Deny"] {
            assert_eq!(found(&[&rule(effect)]), [""; 0], "{effect} {from} {to}");
        }
    }
}

#[test]
fn a_finding_names_both_rules_and_their_lines() {
    let lines = [GET_A.to_owned(), GET_A.replace("a/", "a/b/")];
    let findings = review(&policies(&lines), ProofSet::default());
    let [finding] = findings.as_slice() else { panic!("{findings:?}") };
    assert_eq!(
        finding.to_string(),
        "p.yaml:3: policy \"p1\": spec.to[0]: changes nothing: it is inside policy \"p0\", \
         spec.to[0], at p.yaml:1, which is wider; remove one of them [shadowed_rule]"
    );
    assert_eq!((finding.rule, finding.place.line), (Some(0), 3));
}

#[test]
fn the_page_about_policies_explains_every_code() {
    let page = include_str!("../../../docs/policies.md");
    for kind in FindingKind::ALL {
        let row = format!("| `{}` | ", kind.as_str());
        assert!(page.contains(&row), "{row}");
    }
}

#[test]
fn codes_are_distinct() {
    let mut codes = FindingKind::ALL.map(FindingKind::as_str).to_vec();
    codes.sort_unstable();
    codes.dedup();
    assert_eq!(codes.len(), FindingKind::ALL.len());
}

/// Each with each would be billions of comparisons.
#[test]
fn large_sets_are_compared_through_maps() {
    let base = policies(&[GET_A.to_owned(), GET_A.replace("verbs", "fields: [f], verbs")]);
    let own = |n: usize| {
        let mut policy = (*base.policies[0]).clone();
        policy.from =
            [Subject { namespaces: vec![format!("n{n}").into()], ..Subject::default() }].into();
        policy
    };
    // All of one place: names and subjects are the same.
    let one_place = |n: usize| {
        let mut policy = (*base.policies[1]).clone();
        let Target::Secrets(rule) = &mut policy.to[0] else { unreachable!("as written") };
        rule.fields = vec![FieldPath::new(&SecretField::parse(&format!("f{n}")).expect("valid"))];
        policy
    };
    let kinds = |mut all: Vec<Policy>| -> Vec<_> {
        for (n, policy) in all.iter_mut().enumerate() {
            policy.origin.to = vec![n as u64];
        }
        let all: Vec<_> = all.into_iter().map(Arc::new).collect();
        super::repeats::findings(&all).iter().map(|finding| finding.kind).collect()
    };
    let mut all: Vec<_> = (0..50_000).map(own).chain((0..1_000).map(one_place)).collect();
    all.extend([own(17), one_place(999)]);
    assert_eq!(kinds(all), [FindingKind::DuplicateRule; 2], "and none that says it gave up");
    // So many of one place are each with each.
    let mut all: Vec<_> = (0..20_000).map(one_place).collect();
    all.push(one_place(19_999));
    assert_eq!(kinds(all), [FindingKind::DuplicateRule, FindingKind::NotCompared]);
}

#[test]
fn rules_are_found_however_many_others_share_their_place() {
    let alike = |n: usize| {
        format!("Allow | namespaces: [n] | secrets: {{names: [k], fields: [f{n}], verbs: [get]}}")
    };
    let list = (0..40).map(|n| format!("f{n}")).collect::<Vec<_>>().join(", ");
    let wide = format!(
        "Allow | namespaces: [n] | secrets: {{names: [k], fields: [{list}], verbs: [get]}}"
    );
    let lines: Vec<_> = (0..40).map(alike).chain([wide]).collect();
    let lines: Vec<_> = lines.iter().map(String::as_str).collect();
    let expected: Vec<_> = (0..40).map(|n| format!("p{n} shadowed_rule")).collect();
    assert_eq!(found(&lines), expected);
    let from: Vec<_> = (0..40).map(|n| format!("namespaces: [n], trustDomains: [d{n}]")).collect();
    let from = format!("{} + namespaces: [n]", from.join(" + "));
    let line = format!("Deny | {from} | secrets: {{names: [k], verbs: [get]}}");
    let inside = found(&[&line]);
    let inside = inside.iter().filter(|one| *one == "p0 duplicate_subject");
    assert_eq!(inside.count(), 40);
}

#[test]
fn a_set_that_is_too_large_to_compare_says_so() {
    let list = |n: usize| (0..n).map(|n| format!("k{n}")).collect::<Vec<_>>().join(", ");
    let line = format!(
        "Allow | namespaces: [{}] | secrets: {{names: [{}], verbs: [get]}}",
        list(100),
        list(100)
    );
    assert_eq!(found(&[&line]), ["p0 not_compared"]);
}
