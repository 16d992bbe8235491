//! Random sets: without what is found to decide nothing, they decide the same.

use std::sync::Arc;

use proptest::{collection::vec, prelude::*};
use serde_json::Value;

use super::super::{Finding, FindingKind, repeats};
use crate::{
    identity::{Principal, ServiceAccount},
    policy::{
        Connection, HttpRequest, Policies, PolicySet, Verb,
        tests::{
            catalog,
            differential::compile,
            random::{Request, caller, destination, policy, request},
        },
    },
};

fn allows(set: &Arc<PolicySet>, who: &Principal, request: &Request) -> bool {
    let workload = |to: &Option<&str>| to.map(|to| ServiceAccount::parse(to).expect("valid"));
    match request {
        Request::Secret { verb, secret, destination: toward } => {
            let destination = destination(toward);
            match verb {
                Verb::Use => set.authorize_use(who, secret, &destination).is_ok(),
                verb => set.authorize(who, *verb, secret).is_ok(),
            }
        }
        Request::Collection(verb) => set.authorize_collection(who, *verb).is_ok(),
        Request::Http { method, host, path, to } => {
            let request = HttpRequest::new(method, host, path, workload(to)).expect("canonical");
            set.authorize_http(who, &request).is_ok()
        }
        Request::Connection(to) => {
            set.authorize_connection(who, &Connection { destination: workload(to) }).is_ok()
        }
    }
}

/// The policies without the rules and entries that were found.
fn without(policies: &Policies, findings: &[Finding]) -> Policies {
    let left = policies.policies.iter().map(|policy| {
        let mut policy = (**policy).clone();
        let name = policy.name.to_string();
        let found = |key: String| {
            let here = |one: &&Finding| one.place.policy.as_deref() == Some(&*name);
            findings.iter().filter(here).any(|one| one.place.key == key)
        };
        let mut at = 0..;
        policy.to.retain(|_| !found(format!("spec.to[{}]", at.next().expect("endless"))));
        let from = policy.from.iter().enumerate();
        let from = from.filter(|(at, _)| !found(format!("spec.from[{at}]")));
        policy.from = from.map(|(_, subject)| subject.clone()).collect();
        Arc::new(policy)
    });
    Policies::of(left.collect())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    #[test]
    fn nothing_changes_without_what_was_found(
        policies in vec(policy(), 2..7),
        callers in vec(caller(), 4),
        requests in vec(request(&catalog()), 12),
    ) {
        let (_, set) = compile(policies, &catalog());
        let findings = repeats::findings(&set.policies.policies);
        // An Allow whose names are all denied still lets its subjects ask for a list of none.
        let denied = findings.iter().any(|one| one.kind == FindingKind::DeniedRule);
        let left = Arc::new(PolicySet::compile(&without(&set.policies, &findings), 0));
        for who in &callers {
            for request in &requests {
                if denied && matches!(request, Request::Collection(_)) {
                    continue;
                }
                let (before, after) = (allows(&set, who, request), allows(&left, who, request));
                prop_assert_eq!(before, after, "{} asks {:?}: {:?}", who, request, findings);
            }
        }
    }
}

/// Without findings the property above would prove nothing.
#[test]
fn random_sets_have_every_kind_of_repetition() {
    use proptest::{strategy::ValueTree, test_runner::TestRunner};
    let mut runner = TestRunner::deterministic();
    let mut kinds = std::collections::BTreeSet::new();
    for _ in 0..1500 {
        let policies = vec(policy(), 2..7).new_tree(&mut runner).expect("a case").current();
        let (_, set) = compile(Vec::<Value>::clone(&policies), &catalog());
        kinds.extend(repeats::findings(&set.policies.policies).into_iter().map(|one| one.kind));
    }
    for kind in [FindingKind::DuplicateSubject, FindingKind::ShadowedRule, FindingKind::DeniedRule]
    {
        assert!(kinds.contains(&kind), "{kinds:?}");
    }
}
