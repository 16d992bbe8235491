//! The JSON Schema accepts whatever the loader accepts, on random policies.

use proptest::{
    strategy::{Strategy, ValueTree},
    test_runner::TestRunner,
};
use serde_json::json;

use super::{catalog, random};
use crate::policy::{
    Policies,
    document::tests::{agrees, refusal},
};

#[test]
fn random_policies_are_judged_as_the_loader_judges_them() {
    let mut runner = TestRunner::deterministic();
    let strategy = random::policy();
    let mut valid = 0;
    for _ in 0..2_000 {
        let mut policy = strategy.new_tree(&mut runner).expect("a policy").current();
        policy["metadata"] = json!({"name": "p"});
        let text = policy.to_string();
        match Policies::parse(&[("p.yaml".into(), text.clone())], &catalog()) {
            Ok(_) => {
                assert_eq!(refusal(&text), None, "{text}");
                valid += 1;
            }
            Err(failure) if failure.problems.len() == 1 => agrees(&text, &failure.to_string()),
            Err(_) => {}
        }
    }
    assert!(valid > 500, "{valid}");
}
