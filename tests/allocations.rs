//! A decision allocates nothing, however many policies there are. A binary of its own,
//! because it counts what the whole process allocates.

#[path = "../benches/policy/sets.rs"]
mod sets;

use std::sync::Arc;

use allocation_counter::measure;
use sets::{KINDS, Question, namespace, principal};
use vaultmux_mesh::policy::{Connection, PolicySet, Verb};

/// How often something is allocated, once it has been done before.
fn allocations(mut what: impl FnMut()) -> u64 {
    what();
    measure(what).count_total
}

#[test]
fn what_allocates_is_counted() {
    assert_eq!(allocations(|| drop(std::hint::black_box(Box::new(1)))), 1);
}

#[test]
fn a_decision_allocates_nothing_however_many_policies_there_are() {
    for policies in [10, 500] {
        let set = sets::set(policies);
        for kind in &KINDS {
            for number in 0..sets::namespaces(policies) {
                let question = kind.of(&namespace(number));
                assert_eq!(question.ask(&set), kind.answer, "{}", kind.name);
                let found = allocations(|| _ = question.ask(&set));
                assert_eq!(found, 0, "{} of {policies} policies", kind.name);
            }
        }
    }
}

#[test]
fn long_names_and_paths_allocate_nothing() {
    let name = "a/".repeat(200);
    let from = "namespaces: ['*']";
    let documents = [
        sets::document(
            0,
            "Allow",
            from,
            &format!("secrets: {{prefixes: ['{name}'], verbs: [get]}}"),
        ),
        sets::document(1, "Deny", from, &format!("http: {{paths: ['/{name}']}}")),
    ];
    let set = sets::compile(&sets::files(documents.into_iter()));
    let path = format!("/{}", "a/".repeat(4000)).leak();
    for (question, allowed) in [
        (Question::get("team", "api", &format!("{name}k")), true),
        (Question::http("team", "api", path), false),
    ] {
        assert_eq!(question.ask(&set).is_none(), allowed);
        assert_eq!(allocations(|| _ = question.ask(&set)), 0);
    }
}

#[test]
fn collections_and_connections_allocate_nothing() {
    let from = "namespaces: [team]";
    let documents = [
        sets::document(0, "Allow", from, "secrets: {prefixes: ['{namespace}/'], verbs: [list]}"),
        sets::document(1, "Allow", from, "http: {destinations: [shop/db]}"),
    ];
    let set: Arc<PolicySet> = Arc::new(sets::compile(&sets::files(documents.into_iter())));
    let connection = |to| Connection { destination: to };
    let to = principal("shop", "db").service_account().clone();
    for (who, allowed) in [(principal("team", "api"), true), (principal("other", "api"), false)] {
        let list = || set.authorize_collection(&who, Verb::List).is_ok();
        assert_eq!(list(), allowed);
        assert_eq!(allocations(|| _ = list()), 0);
        let connect = |connection: &Connection| set.authorize_connection(&who, connection).is_ok();
        for (connection, allowed) in
            [(connection(Some(to.clone())), allowed), (connection(None), false)]
        {
            assert_eq!(connect(&connection), allowed);
            assert_eq!(allocations(|| _ = connect(&connection)), 0);
        }
    }
}
