//! What a decision tells: which rule, audit matches, and why not.

use std::{borrow::Cow, path::PathBuf, sync::Arc};

use super::{
    catalog,
    semantics::{NO_MATCH, compiled, get, policies, secret, who},
};
use crate::{
    identity::ServiceAccount,
    policy::{
        Connection, Destination, HttpRequest, Policies, PolicySet, Question, Reason, Subjects, Verb,
    },
};

#[test]
fn audit_decides_nothing_and_is_told() {
    let set = compiled(&[
        "Deny Audit | namespaces: ['*'] | secrets: {names: ['*'], verbs: [get]}",
        "Allow | namespaces: [a] | secrets: {names: [k], verbs: [get]}",
        "Allow Audit | namespaces: ['*'] | secrets: {names: [k], verbs: [get]}",
    ]);
    let permit = set.authorize(&who("a/x"), Verb::Get, &secret("aws/k")).expect("p1 allows");
    let decision = permit.decision();
    let audit: Vec<_> = decision.audit.iter().map(|a| (&*a.policy, a.rule, a.allow)).collect();
    assert_eq!(audit, [("p0", 0, false), ("p2", 0, true)]);
    assert_eq!((decision.policy.as_deref(), decision.rule), (Some("p1"), Some(0)));
    let denial = set.authorize(&who("b/x"), Verb::Get, &secret("aws/k")).expect_err("audit only");
    assert_eq!((denial.reason, denial.decision.audit.len()), (Reason::NoMatch, 2));
}

#[test]
fn the_nearest_rule_is_one_that_has_the_verb() {
    let set = compiled(&[
        "Allow | namespaces: [a] | secrets: {names: [k], verbs: [get]}",
        "Allow | namespaces: [b], require: [token] | secrets: {names: [k], verbs: [delete]}",
        "Allow | namespaces: [b] | secrets: {names: [l], verbs: [use], destinations: \
         [{clusters: [c], hosts: [h]}]}",
        "Allow | namespaces: [a], require: [token, grant] | secrets: {names: [k], verbs: [list]}",
    ]);
    let key = secret("aws/k");
    let nearest = |verb| {
        let explained = set.explain_secret(&who("a/x"), verb, &key, &Destination::default());
        let nearest = explained.nearest.expect("there are rules");
        (nearest.policy.to_string(), nearest.unmet.len())
    };
    assert_eq!(nearest(Verb::Delete), ("p1".to_owned(), 2));
    assert_eq!(nearest(Verb::Use), ("p2".to_owned(), 4));
    assert_eq!(nearest(Verb::Update), ("p0".to_owned(), 1));
    let (verb, destination) = (Verb::List, Destination::default());
    let question = Question::Secret { verb, secret: Cow::Borrowed(&key), destination, by: None };
    let told = set.explain_to_caller(&who("a/x"), &question).nearest.expect("its own rules");
    assert_eq!((&*told.policy, told.unmet.len()), ("p3", 2));
}

#[test]
fn subjects_of_a_broken_deny_are_denied_everything() {
    let good = policies(&["Allow | namespaces: ['*'] | secrets: {names: ['*'], verbs: ['*']}"]);
    let broken = "apiVersion: vaultmux.dev/v1alpha1\nkind: AccessPolicy\nmetadata: {name: d}\n\
                  spec: {effect: Deny, from: [{namespaces: [a]}], to: [{secrets: {}}]}\n";
    let files = [(PathBuf::from("d.yaml"), broken.to_owned())];
    let failure = Policies::parse(&files, &catalog()).expect_err("broken");
    let set = Arc::new(PolicySet::compile_denying(&good, &failure.denied, 2));
    assert_eq!(get(&set, "a/x", "aws/k"), Err(Reason::PolicyInvalid));
    assert_eq!(get(&set, "b/x", "aws/k"), Ok(()));
    let list = set.authorize_collection(&who("a/x"), Verb::List).expect_err("denied");
    assert_eq!(list.reason, Reason::PolicyInvalid);
    let connection = set.authorize_connection(&who("a/x"), &Connection::default());
    assert_eq!(connection.expect_err("denied").reason, Reason::PolicyInvalid);
    let set = Arc::new(PolicySet::compile_denying(&good, &[Subjects::everyone()], 3));
    assert_eq!(get(&set, "b/x", "aws/k"), Err(Reason::PolicyInvalid));
}

#[test]
fn a_sidecar_without_policies_serves_its_own_pod_alone() {
    let own = ServiceAccount::parse("a/x").expect("valid");
    let set = Arc::new(PolicySet::compile(&Policies::sidecar_default(&own), 1));
    assert_eq!(get(&set, "a/y", "aws/k"), NO_MATCH);
    assert!(set.authorize_use(&who("a/x"), &secret("aws/k"), &Destination::default()).is_err());
    let permit = set.authorize(&who("a/x"), Verb::Delete, &secret("aws/k")).expect("own pod");
    assert_eq!(permit.decision().policy.as_deref(), Some("sidecar-default"));
    assert!(set.authorize_collection(&who("a/x"), Verb::Create).is_ok());
}

#[test]
fn refusals_are_explained_by_the_nearest_rule() {
    let set = compiled(&[
        "Allow | namespaces: [z] | secrets: {names: [z], verbs: [delete]}",
        "Allow | namespaces: ['*'] | secrets: {backends: [aws], prefixes: ['{namespace}/'], \
         verbs: [get]}",
        "Allow | namespaces: ['*'] | secrets: {names: [k], verbs: [use], \
         destinations: [{clusters: [c], hosts: [h]}]}",
        "Allow | namespaces: ['*'] | http: {methods: [GET], paths: [/a/]}",
    ]);
    let explain = |verb, reference: &str, destination: Destination<'_>| {
        let explained = set.explain_secret(&who("a/x"), verb, &secret(reference), &destination);
        explained.nearest.map(|near| (near.policy.to_string(), near.unmet))
    };
    let none = Destination::default();
    let sentences = |policy: &str, all: &[&str]| {
        Some((policy.to_owned(), all.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>()))
    };
    assert_eq!(
        explain(Verb::List, "aws/a/k", none),
        sentences("p1", &["verb list is not among get"])
    );
    assert_eq!(
        explain(Verb::Get, "aws/other/x", none),
        sentences("p1", &["name other/x matches none of prefixes {namespace}/"])
    );
    let to = Destination { cluster: Some("c"), ..none };
    let unmet = ["destination host is not known"];
    assert_eq!(explain(Verb::Use, "aws/k", to), sentences("p2", &unmet));
    let to = Destination { cluster: Some("d"), host: Some("h"), ..none };
    let unmet = ["destination cluster d is not among c"];
    assert_eq!(explain(Verb::Use, "aws/k", to), sentences("p2", &unmet));
    assert_eq!(explain(Verb::Get, "aws/a/k", none), None);
    let request = HttpRequest::new("PUT", "h", "/b", None).expect("canonical");
    let near = set.explain_http(&who("a/x"), &request).nearest.expect("p3");
    assert_eq!(near.unmet, ["method PUT is not among GET", "path /b matches none of /a/"]);
}

#[test]
fn a_missing_binding_to_a_pod_is_explained() {
    let set = compiled(&[
        "Allow | namespaces: [a], boundTo: pod | secrets: {names: [k], verbs: [get]}",
        "Allow | namespaces: [z] | secrets: {names: [k], verbs: [list]}",
    ]);
    let (get, none) = (Verb::Get, Destination::default());
    let explained = set.explain_secret(&who("a/x"), get, &secret("aws/k"), &none);
    let near = explained.nearest.expect("p0");
    assert_eq!(&*near.policy, "p0");
    assert_eq!(near.unmet, ["the identity is not proven by a token that is bound to a pod"]);
}

#[test]
fn the_first_of_several_rules_is_reported() {
    let set = compiled(&[
        "Allow | namespaces: [a] | secrets: {names: [k], verbs: [get]}",
        "Allow | namespaces: ['*'] | secrets: {names: ['*'], verbs: ['*']}",
        "Deny | serviceAccounts: [b/x] | secrets: {names: ['*'], verbs: ['*']}",
        "Deny | namespaces: ['*'], except: {namespaces: [a]} | \
         secrets: {names: [k], verbs: ['*']}",
    ]);
    let allowed = set.authorize(&who("a/x"), Verb::Get, &secret("aws/k")).expect("allowed");
    assert_eq!(allowed.decision().policy.as_deref(), Some("p0"));
    let denied = set.authorize(&who("b/x"), Verb::Get, &secret("aws/k")).expect_err("denied");
    assert_eq!(denied.decision.policy.as_deref(), Some("p2"));
}
