//! The index against the naive evaluator, on random policies and requests.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use proptest::{collection::vec, prelude::*, strategy::ValueTree, test_runner::TestRunner};
use serde_json::{Value, json};

use super::{
    catalog,
    naive::{self, Answer, Ask},
    random::{Request, caller, destination, policy, request},
};
use crate::{
    identity::{Principal, ServiceAccount},
    policy::{
        Connection, Decision, Denial, HttpRequest, Policies, PolicySet, Reason, Verb, schema,
        yaml::{self, Node},
    },
    secret::Catalog,
};

/// The tree of a JSON document, as if it had been read.
fn tree(value: &Value) -> Node {
    let text = |text: &String| Node { line: 1, value: yaml::Value::Text(text.clone()) };
    let value = match value {
        Value::String(string) => return text(string),
        Value::Array(items) => yaml::Value::List(items.iter().map(tree).collect()),
        Value::Object(map) => {
            yaml::Value::Map(map.iter().map(|(key, value)| (text(key), tree(value))).collect())
        }
        other => unreachable!("no policy has {other}"),
    };
    Node { line: 1, value }
}

/// Names the policies, in another order than that of their positions, and
/// compiles those that are valid. Parsing text would take most of the time.
pub(in crate::policy) fn compile(
    mut policies: Vec<Value>,
    catalog: &Catalog,
) -> (Vec<Value>, Arc<PolicySet>) {
    let mut read = Vec::new();
    let mut number = 3;
    let file: Arc<Path> = Path::new("p").into();
    policies.retain_mut(|policy| {
        number = (number + 5) % 97;
        policy["metadata"] = json!({"name": format!("p{number:02}")});
        let document = schema::read(&tree(policy), &file, catalog, &mut Vec::new());
        read.extend(document.policy.map(Arc::new));
        read.last().is_some_and(|last| *last.name == format!("p{number:02}"))
    });
    read.sort_by(|a, b| a.name.cmp(&b.name));
    (policies, Arc::new(PolicySet::compile(&Policies::of(read), 0)))
}

fn answer(outcome: Result<Decision, Denial>) -> Answer {
    let (reason, decision) = match outcome {
        Ok(decision) => ("allowed".to_owned(), decision),
        Err(Denial { reason: Reason::MissingAttribute(attribute), decision }) => {
            (format!("missing_attribute {}", attribute.as_str()), decision)
        }
        Err(Denial { reason, decision }) => (reason.as_str().to_owned(), decision),
    };
    let rule = decision.policy.map(|policy| policy.to_string()).zip(decision.rule);
    let audit = decision.audit.into_iter().map(|a| (a.policy.to_string(), a.rule, a.allow));
    (reason, rule, audit.collect())
}

fn decide(set: &Arc<PolicySet>, who: &Principal, ask: Ask<'_>) -> Answer {
    answer(match ask {
        Ask::Secret(Verb::Use, secret, destination) => {
            set.authorize_use(who, secret, &destination).map(|permit| permit.decision)
        }
        Ask::Secret(verb, secret, _) => set.authorize(who, verb, secret).map(|p| p.decision),
        Ask::Collection(verb) => set.authorize_collection(who, verb).map(|p| p.decision),
        Ask::Http(request) => set.authorize_http(who, request),
        Ask::Connection(connection) => set.authorize_connection(who, connection),
    })
}

fn compare_all(
    policies: &[Value],
    set: &Arc<PolicySet>,
    callers: &[Principal],
    requests: &[Request],
) -> Result<(), TestCaseError> {
    let each = callers.iter().flat_map(|who| requests.iter().map(move |request| (who, request)));
    each.into_iter().try_for_each(|(who, request)| compare(policies, set, who, request))
}

fn compare(
    policies: &[Value],
    set: &Arc<PolicySet>,
    who: &Principal,
    request: &Request,
) -> Result<(), TestCaseError> {
    let workload = |to: &Option<&str>| to.map(|to| ServiceAccount::parse(to).expect("valid"));
    let check = |ask: Ask<'_>| {
        let expected = naive::evaluate(policies, who, ask);
        prop_assert_eq!(decide(set, who, ask), expected, "{} asks {:?}", who, ask);
        Ok(())
    };
    match request {
        Request::Secret { verb, secret, destination: toward } => {
            let destination = destination(toward);
            check(Ask::Secret(*verb, secret, destination))?;
            let explained = set.explain_secret(who, *verb, secret, &destination);
            if let (Err(denial), Some(nearest)) = (explained.outcome, explained.nearest) {
                let overridden = denial.reason == Reason::DeniedByPolicy;
                prop_assert!(overridden || !nearest.unmet.is_empty(), "{:?}", nearest);
            }
        }
        Request::Collection(verb @ (Verb::List | Verb::Create | Verb::Get)) => {
            check(Ask::Collection(*verb))?;
        }
        Request::Collection(verb) => {
            prop_assert!(set.authorize_collection(who, *verb).is_err());
        }
        Request::Http { method, host, path, to } => {
            let request = HttpRequest::new(method, host, path, workload(to)).expect("canonical");
            check(Ask::Http(&request))?;
        }
        Request::Connection(to) => {
            check(Ask::Connection(&Connection { destination: workload(to) }))?;
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn the_index_decides_as_the_sentences_say(
        policies in vec(policy(), 1..6),
        callers in vec(caller(), 4),
        requests in vec(request(&catalog()), 6),
    ) {
        let (policies, set) = compile(policies, &catalog());
        compare_all(&policies, &set, &callers, &requests)?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    /// So many that most say what others say already.
    #[test]
    fn rules_that_are_left_out_never_decided(
        policies in vec(policy(), 30..60),
        callers in vec(caller(), 4),
        requests in vec(request(&catalog()), 8),
    ) {
        let (policies, set) = compile(policies, &catalog());
        compare_all(&policies, &set, &callers, &requests)?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 50, ..ProptestConfig::default() })]

    #[test]
    fn files_in_any_order_decide_alike(
        policies in vec(policy(), 1..6),
        callers in vec(caller(), 4),
        requests in vec(request(&catalog()), 6),
    ) {
        let (policies, _) = compile(policies, &catalog());
        let mut files: Vec<(PathBuf, String)> =
            policies.iter().map(|policy| ("p.yaml".into(), policy.to_string())).collect();
        for _ in 0..2 {
            files.reverse();
            let loaded = Policies::parse(&files, &catalog()).expect("valid as a tree");
            let set = Arc::new(PolicySet::compile(&loaded, 0));
            compare_all(&policies, &set, &callers, &requests)?;
        }
    }

    #[test]
    fn no_text_makes_the_loader_panic(text in "\\PC*", at in 0usize..400, yaml in policy()) {
        let parse = |text: String| Policies::parse(&[("p.yaml".into(), text)], &catalog()).map(drop);
        let _ = parse(text.clone());
        let mut broken = yaml.to_string();
        let at = (0..=at.min(broken.len())).rev().find(|at| broken.is_char_boundary(*at));
        broken.insert_str(at.unwrap_or_default(), &text);
        let _ = parse(broken).map_err(|failure| failure.to_string());
    }
}

/// A comparison of answers that are all alike would prove little.
#[test]
fn random_requests_meet_every_outcome() {
    let mut runner = TestRunner::deterministic();
    let mut outcomes = BTreeMap::<String, u32>::new();
    let catalog = catalog();
    let case = (vec(policy(), 5), vec(caller(), 4), vec(request(&catalog), 6));
    for _ in 0..900 {
        let (policies, callers, requests) = case.new_tree(&mut runner).expect("a case").current();
        let (_, set) = compile(policies, &catalog);
        for (who, request) in callers.iter().flat_map(|who| requests.iter().map(move |r| (who, r)))
        {
            let Request::Secret { verb, secret, destination: toward } = request else {
                continue;
            };
            let destination = destination(toward);
            let (outcome, _, audit) = decide(&set, who, Ask::Secret(*verb, secret, destination));
            *outcomes.entry(outcome).or_default() += 1;
            *outcomes.entry("audit".to_owned()).or_default() += u32::from(!audit.is_empty());
        }
    }
    let count = |outcome: &str| outcomes.get(outcome).copied().unwrap_or_default();
    for (outcome, least) in [("allowed", 200), ("denied_by_policy", 100), ("audit", 50)] {
        assert!(count(outcome) > least, "{outcomes:?}");
    }
    let missing = outcomes.keys().filter(|outcome| outcome.starts_with("missing_attribute "));
    assert_eq!(missing.count(), 8, "{outcomes:?}");
}
