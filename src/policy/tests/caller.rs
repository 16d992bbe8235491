//! What a caller is told about its own refusals, and what it must not learn.

use std::borrow::Cow;

use super::{
    bearer,
    semantics::{compiled, policies, secret, who},
};
use crate::{
    identity::{Principal, ServiceAccount},
    policy::{Destination, HttpRequest, PolicySet, Question, Verb},
};

fn ask<'a>(verb: Verb, reference: &str, destination: Destination<'a>) -> Question<'a> {
    Question::Secret { verb, secret: Cow::Owned(secret(reference)), destination, by: None }
}

fn get(reference: &str) -> Question<'static> {
    ask(Verb::Get, reference, Destination::default())
}

/// What the caller is told of the nearest rule.
fn told(
    lines: &[&str],
    caller: &Principal,
    question: &Question<'_>,
) -> Option<(String, Vec<String>)> {
    let explained = compiled(lines).explain_to_caller(caller, question);
    assert!(explained.outcome.is_err() || explained.nearest.is_none());
    explained.nearest.map(|near| (near.policy.to_string(), near.unmet))
}

#[test]
fn rules_about_others_are_never_told() {
    let api = who("prod/api");
    for line in [
        // Other subjects, however close.
        "Allow | serviceAccounts: [ops/root, ops/backup] | secrets: {names: [prod/key], verbs: [get]}",
        "Allow | namespaces: [ops] | secrets: {names: [prod/key], verbs: [get]}",
        "Allow | namespacePrefixes: [pro-] | secrets: {names: [prod/key], verbs: [get]}",
        "Allow | namespaces: ['*'], except: {namespaces: [prod]} | secrets: {names: [prod/key], verbs: [get]}",
        "Allow | namespaces: ['*'], except: {serviceAccounts: [prod/api, ops/root]} | secrets: {names: [prod/key], verbs: [list]}",
        "Allow | namespaces: [prod], trustDomains: [elsewhere] | secrets: {names: [prod/key], verbs: [list]}",
        // Other names, in other stores, of the caller's own rules.
        "Allow | namespaces: [prod] | secrets: {names: [ops/root-key], verbs: [get]}",
        "Allow | namespaces: [prod] | secrets: {prefixes: [ops/], verbs: [get]}",
        "Allow | namespaces: [prod] | secrets: {backends: [azure], names: ['*'], verbs: [get]}",
        // What is not in force, or allows nothing.
        "Allow Audit | namespaces: [prod] | secrets: {names: [prod/key], verbs: [list]}",
        "Deny | namespaces: [ops] | secrets: {names: [prod/key], verbs: [list]}",
        // Another kind.
        "Allow | namespaces: [prod] | http: {hosts: [ops.test], methods: [GET]}",
    ] {
        assert_eq!(told(&[line], &api, &get("aws/prod/key")), None, "{line}");
    }
}

#[test]
fn a_caller_is_told_what_its_own_rule_for_that_secret_misses() {
    let api = who("prod/api");
    let none = Destination::default();
    let evil = Destination { cluster: Some("evil"), ..none };
    let rule = |to: &str| {
        format!(
            "Allow | serviceAccounts: [prod/api, ops/root] | secrets: {{names: [prod/key, ops/hidden], {to}}}"
        )
    };
    for (to, question, unmet) in [
        ("verbs: [list, update]", get("aws/prod/key"), "verb get is not among list, update"),
        (
            "fields: [user], verbs: [get]",
            get("aws/prod/key"),
            "the whole secret is not among fields user",
        ),
        (
            "fields: [user], verbs: [get]",
            get("aws/prod/key#pass"),
            "field pass is not among fields user",
        ),
        (
            "verbs: [use], destinations: [{clusters: [stripe]}]",
            ask(Verb::Use, "aws/prod/key", none),
            "destination cluster is not known",
        ),
        (
            "verbs: [use], destinations: [{clusters: [stripe]}]",
            ask(Verb::Use, "aws/prod/key", evil),
            "destination cluster evil is not among stripe",
        ),
    ] {
        let line = rule(to);
        let expected = Some(("p0".to_owned(), vec![unmet.to_owned()]));
        assert_eq!(told(&[&line], &api, &question), expected, "{line}");
    }
    // Nothing is unmet where a Deny overrode the rule.
    let denied = [
        "Allow | namespaces: [prod] | secrets: {names: [prod/key], verbs: [get]}",
        "Deny | namespaces: ['*'] | secrets: {names: [prod/key], verbs: [get]}",
    ];
    assert_eq!(told(&denied, &api, &get("aws/prod/key")), Some(("p0".to_owned(), vec![])));
}

#[test]
fn missing_proofs_are_told_without_the_list_of_accounts() {
    let line = "Allow | serviceAccounts: [prod/api, ops/root], require: [mtls, token], boundTo: pod \
                | secrets: {prefixes: ['{namespace}/'], verbs: [get]}";
    let question = get("aws/prod/key");
    let token = "the identity is not proven by token".to_owned();
    let pod = "the identity is not proven by a token that is bound to a pod".to_owned();
    let unmet = |caller: &Principal| told(&[line], caller, &question).map(|(_, unmet)| unmet);
    assert_eq!(unmet(&who("prod/api")), Some(vec![token, pod.clone()]));
    assert_eq!(unmet(&bearer("prod/api", None)), Some(vec![pod]));
    assert_eq!(unmet(&bearer("prod/api", Some("a"))), None);
    assert_eq!(unmet(&who("prod/other")), None);
}

#[test]
fn requests_in_the_mesh_are_told_of_method_and_proofs_alone() {
    let api = who("prod/api");
    let told = |to: &str, url: &str, workload: Option<&str>| {
        let workload = workload.map(|text| ServiceAccount::parse(text).expect("valid"));
        let (host, path) = url.split_once('/').expect("a path");
        let path = format!("/{path}");
        let request = HttpRequest::new("POST", host, &path, workload).expect("canonical");
        let line = format!("Allow | namespaces: [prod] | http: {{{to}}}");
        told(&[&line], &api, &Question::Http(request)).map(|(_, unmet)| unmet)
    };
    let method = || Some(vec!["method POST is not among GET".to_owned()]);
    let rule =
        "hosts: [a.test], methods: [GET], paths: [/x/], destinations: [shop/orders, ops/root]";
    let unknown = "the destination workload is not known".to_owned();
    let mut both = method().expect("one");
    both.push(unknown);
    assert_eq!(told(rule, "a.test/x/1", None), Some(both));
    assert_eq!(told(rule, "a.test/x/1", Some("shop/orders")), method());
    assert_eq!(told(rule, "a.test/x/1", Some("shop/other")), None);
    assert_eq!(told(rule, "a.test/y", None), None);
    assert_eq!(told(rule, "b.test/x/1", None), None);
    assert_eq!(told("methods: [GET]", "b.test/x/1", None), method());
}

#[test]
fn the_nearest_of_several_is_the_first_by_name() {
    let lines = [
        "Allow | namespaces: [prod], require: [token] | secrets: {names: [prod/key], verbs: [list]}",
        "Allow | namespaces: ['*'] | secrets: {names: [prod/key], verbs: [list]}",
        "Allow | serviceAccounts: [prod/api] | secrets: {names: [prod/key], verbs: [update]}",
    ];
    let told = told(&lines, &who("prod/api"), &get("aws/prod/key"));
    assert_eq!(told.map(|(policy, _)| policy).as_deref(), Some("p1"));
}

#[test]
fn the_work_is_bounded_however_many_rules_there_are() {
    let far = "Allow | namespaces: ['*'] | secrets: {names: [a, b, c, d, e, f, g, h, i, j], verbs: [get]}";
    let near = "Allow | namespaces: ['*'] | secrets: {names: [prod/key], verbs: [list]}";
    let names: Vec<_> = (0..5_000).map(|n| format!("n{n}")).collect();
    let long = format!(
        "Allow | namespaces: ['*'] | secrets: {{names: [{}, prod/key], verbs: [list]}}",
        names.join(", ")
    );
    let (api, question) = (who("prod/api"), get("aws/prod/key"));
    // The nearest comes last by name.
    let mut lines = vec![far; 99];
    lines.push(near);
    assert!(told(&lines, &api, &question).is_some());
    let mut lines = vec![far; 999];
    lines.push(near);
    assert_eq!(told(&lines, &api, &question), None, "given up");
    assert_eq!(told(&[&long], &api, &question), None, "not looked at");
    assert!(told(&[&long, near], &api, &question).is_some());
    // Rules about others cost nothing.
    let other = "Allow | namespaces: [other] | secrets: {names: [prod/key], verbs: [list]}";
    let mut lines = vec![other; 999];
    lines.push(near);
    assert!(told(&lines, &api, &question).is_some());
}

#[test]
fn whom_an_entry_may_name_is_found_and_nobody_else() {
    let lines = [
        "Allow | namespaces: ['*']",
        "Allow | namespaces: [a-b-c, other]",
        "Allow | namespacePrefixes: [a-, a-b-, b-]",
        "Allow | serviceAccounts: [a-b-c/x, a-b-c/y]",
        "Deny | namespaces: ['*']",
        "Allow Audit | namespaces: ['*']",
        "Allow | namespacePrefixes: [a-b-c-]",
    ]
    .map(|line| format!("{line} | secrets: {{names: [k], verbs: [get]}}"));
    let lines: Vec<_> = lines.iter().map(String::as_str).collect();
    let policies = policies(&lines);
    let of = |account: &str| {
        let who = who(account);
        let rules: Vec<_> =
            policies.index.rules_of(&who).map(|(policy, _)| &*policy.name).collect();
        rules.join(" ")
    };
    assert_eq!(of("a-b-c/x"), "p3 p1 p2 p2 p0 p4 p5");
    assert_eq!(of("a-b-c/z"), "p1 p2 p2 p0 p4 p5");
    assert_eq!(of("a/x"), "p0 p4 p5");
    assert_eq!(of("b-q/x"), "p2 p0 p4 p5");
}

#[test]
fn a_set_that_denies_everything_tells_nothing() {
    let set = std::sync::Arc::new(PolicySet::deny_all());
    let explained = set.explain_to_caller(&who("prod/api"), &get("aws/prod/key"));
    assert!(explained.outcome.is_err() && explained.nearest.is_none());
}
