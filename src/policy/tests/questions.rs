//! One question, whoever asks it: an operation on secrets that a request in the mesh asks
//! for is decided by its name, and by the Deny policies for that request.

use std::borrow::Cow;

use super::semantics::{compiled, secret, who};
use crate::policy::{Connection, Destination, HttpRequest, Question, Reason, Verb};

#[test]
fn a_deny_for_http_covers_the_secret_operation_and_an_allow_does_not_matter() {
    let by = |path| HttpRequest::new("GET", "vault.test", path, None).expect("canonical");
    let one = |verb, by| Question::Secret {
        verb,
        secret: Cow::Owned(secret("aws/a/k")),
        destination: Destination::default(),
        by,
    };
    let reads = "Allow | namespaces: [a] | secrets: {names: [a/k], verbs: [get, list]}";
    let denies = "Deny | namespaces: ['*'] | http: {hosts: [vault.test], paths: [/v1/]}";
    let allows = "Allow | namespaces: ['*'] | http: {hosts: [vault.test]}";
    let (below, beside) = (by("/v1/secrets/a/k"), by("/v2/secrets/a/k"));
    let cases: &[(&[&str], Question<'_>, Result<&str, Reason>)] = &[
        (&[reads, denies], one(Verb::Get, Some(below.clone())), Err(Reason::DeniedByPolicy)),
        (&[reads, denies], one(Verb::Get, Some(beside)), Ok("p0")),
        (&[reads, denies], one(Verb::Get, None), Ok("p0")),
        (&[reads, allows], one(Verb::Delete, Some(below.clone())), Err(Reason::NoMatch)),
        (&[reads], one(Verb::Get, Some(below.clone())), Ok("p0")),
        (
            &[reads, denies],
            Question::Collection { verb: Verb::List, by: Some(below.clone()) },
            Err(Reason::DeniedByPolicy),
        ),
        (&[reads], Question::Collection { verb: Verb::List, by: Some(below.clone()) }, Ok("p0")),
        (&[reads], Question::Collection { verb: Verb::Create, by: None }, Err(Reason::NoMatch)),
        (&[reads, denies], Question::Http(below.clone()), Err(Reason::DeniedByPolicy)),
        (&[allows], Question::Http(below), Ok("p0")),
        (&[allows], Question::Connection(Connection::default()), Err(Reason::NoMatch)),
    ];
    for (lines, question, expected) in cases {
        let set = compiled(lines);
        let decided = set.decide(&who("a/x"), question);
        let explained = set.explain(&who("a/x"), question).outcome;
        for outcome in [&decided, &explained] {
            let outcome = outcome.as_ref().map(|decision| decision.policy.as_deref());
            let outcome = outcome.map_err(|denial| denial.reason);
            assert_eq!(outcome, expected.map(Some), "{lines:?} {question:?}");
        }
    }
}

#[test]
fn rules_are_found_where_they_are_written() {
    let set = compiled(&[
        "Allow | namespaces: [a] | secrets: {names: [k], verbs: [get]}",
        "Allow | namespaces: [a] | secrets: {names: [l], verbs: [get]}",
    ]);
    let permit = set.authorize(&who("a/x"), Verb::Get, &secret("aws/l")).expect("p1");
    let place = set.place(permit.decision()).expect("p1");
    assert_eq!(place.to_string(), "p.yaml:9");
    let explained =
        set.explain_secret(&who("a/x"), Verb::List, &secret("aws/k"), &Destination::default());
    assert_eq!(explained.nearest.expect("p0").place.to_string(), "p.yaml:4");
    let none = set.authorize(&who("b/x"), Verb::Get, &secret("aws/l")).expect_err("default deny");
    assert_eq!(set.place(&none.decision), None);
}
