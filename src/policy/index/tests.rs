//! Sets that are made to be slow, or large.

use std::{fmt::Write, path::PathBuf, sync::Arc, thread};

use super::{Index, leaf::MAX_WEIGHT};
use crate::{
    identity::{Principal, ServiceAccount},
    policy::{
        HttpRequest, LoadFailure, Policies, PolicySet, Reason, Verb,
        request::canonical_path,
        tests::{catalog, principal},
    },
};

/// `effect | from | to` lines as policies `p00000`, `p00001`, …, a line of the file each.
fn load(lines: impl IntoIterator<Item = String>) -> Result<Policies, LoadFailure> {
    let mut text = String::new();
    for (n, line) in lines.into_iter().enumerate() {
        let [effect, from, to] =
            line.split(" | ").collect::<Vec<_>>().try_into().expect("three parts");
        let (effect, mode) = effect.split_once(' ').unwrap_or((effect, "Enforce"));
        let _ = writeln!(
            text,
            "--- {{apiVersion: vaultmux.dev/v1alpha1, kind: AccessPolicy, metadata: {{name: \
             p{n:05}}}, spec: {{effect: {effect}, mode: {mode}, from: [{{{from}}}], to: [{{{to}}}]}}}}"
        );
    }
    Policies::parse(&[(PathBuf::from("p.yaml"), text)], &catalog())
}

fn loaded(lines: impl IntoIterator<Item = String>) -> Policies {
    load(lines).map_err(|failure| failure.to_string()).expect("valid policies")
}

fn who() -> Principal {
    principal("td", "a/x", true)
}

/// How many rules a decision about this name looks at.
fn looked_at(index: &Index, name: &str) -> usize {
    asked(index, &who(), name).1
}

fn get(policies: &Policies, name: &str) -> Result<(String, u64), Reason> {
    let set = Arc::new(PolicySet::compile(policies, 1));
    let secret = catalog().parse_reference(&format!("secret://aws/{name}")).expect("valid");
    let permit = set.authorize(&who(), Verb::Get, &secret).map_err(|denial| denial.reason)?;
    let decision = permit.decision();
    Ok((decision.policy.as_deref().expect("a rule").to_owned(), decision.generation))
}

/// The questions that a decision about this name asks: subjects it falls under, and rules.
fn asked(index: &Index, who: &Principal, name: &str) -> (usize, usize) {
    let mut rules = 0;
    let mut subjects = 0;
    for bucket in index.subjects.of(who) {
        subjects += 1;
        if let Some(secrets) = &bucket.targets.secrets {
            secrets.visit(who, name, &mut |_| rules += 1);
        }
    }
    (subjects, rules)
}

#[test]
fn a_decision_looks_at_no_more_where_there_are_more_policies() {
    // Of each namespace the same, and one rule for everyone.
    let set = |namespaces: usize| {
        let own = (0..namespaces).flat_map(|n| {
            [
                format!("Allow | serviceAccounts: [n{n}/x] | secrets: {{names: [shared/n{n}], verbs: [get]}}"),
                format!("Deny | namespaces: [n{n}] | secrets: {{prefixes: [n{n}/root/], verbs: [get]}}"),
                format!("Allow | namespacePrefixes: [p{n}-] | secrets: {{prefixes: [p/{n}/], verbs: [get]}}"),
            ]
        });
        let all = "Allow | namespaces: ['*'] | secrets: {prefixes: ['{namespace}/'], verbs: [get]}";
        loaded(own.chain([all.to_owned()]))
    };
    let (few, many) = (set(3), set(400));
    for (account, name) in [
        ("n1/x", "n1/db"),
        ("n1/x", "n1/root/key"),
        ("n1/x", "shared/n1"),
        ("n1/x", "shared/n2"),
        ("n1/y", "elsewhere/db"),
        ("p1-a/x", "p/1/db"),
    ] {
        let who = principal("td", account, true);
        let [few, many] = [&few, &many].map(|set| asked(&set.index, &who, name));
        assert_eq!(few, many, "{account} {name}");
        assert!(few.0 <= 3 && few.1 <= 2, "{account} {name}: {few:?}");
    }
}

#[test]
fn rules_that_say_the_same_are_looked_at_once() {
    let same = "Allow | namespaces: ['*'] | secrets: {prefixes: [shared/], verbs: [get]}";
    let verbs = "Allow | namespaces: ['*'] | secrets: {prefixes: [shared/], verbs: [get, list]}";
    let mut lines = vec![same.to_owned(); 1000];
    lines.extend(vec![verbs.to_owned(); 1000]);
    let policies = loaded(lines);
    assert_eq!(looked_at(&policies.index, "shared/k"), 2);
    assert_eq!(get(&policies, "shared/k"), Ok(("p00000".to_owned(), 1)));
}

#[test]
fn rules_on_one_chain_of_prefixes_are_looked_at_by_depth() {
    let prefix = |n: usize| "a/".repeat(n % 50 + 1);
    let lines = (0..2000).map(|n| {
        format!(
            "Allow | namespaces: ['*'] | secrets: {{prefixes: ['{}'], verbs: [get]}}",
            prefix(n)
        )
    });
    let policies = loaded(lines);
    let name = format!("{}k", "a/".repeat(50));
    assert_eq!(looked_at(&policies.index, &name), 50);
    assert_eq!(looked_at(&policies.index, "b/k"), 0);
    assert_eq!(get(&policies, "a/a/k"), Ok(("p00000".to_owned(), 1)));
}

#[test]
fn paths_as_long_as_allowed_are_decided_on_a_small_stack() {
    let path = |depth: usize| "/".to_owned() + &"a/".repeat(depth);
    let deepest = 4000;
    let lines = (1..=deepest)
        .step_by(8)
        .map(|depth| format!("Allow | namespaces: ['*'] | http: {{paths: ['{}']}}", path(depth)));
    let deny = format!("Deny | namespaces: ['*'] | http: {{paths: ['{}']}}", path(deepest));
    let lines: Vec<_> = lines.chain([deny]).collect();
    let decide = move || {
        let policies = loaded(lines);
        let set = PolicySet::compile(&policies, 1);
        let ask = |path: &str| {
            assert_eq!(canonical_path(path), Ok(path));
            let request = HttpRequest::new("GET", "h", path, None).expect("canonical");
            set.authorize_http(&who(), &request).map(drop).map_err(|denial| denial.reason)
        };
        assert_eq!(ask(&(path(deepest - 1) + "k")), Ok(()));
        assert_eq!(ask(&(path(deepest) + "k")), Err(Reason::DeniedByPolicy));
    };
    let thread = thread::Builder::new().stack_size(512 << 10).spawn(decide);
    thread.expect("a thread").join().expect("no overflow");
}

#[test]
fn namespaces_of_which_the_same_is_said_share_it() {
    let own = (0..2).map(|n| {
        format!(
            "Allow | namespaces: [n{n}], except: {{serviceAccounts: [n{n}/default, m/x]}} | \
             secrets: {{prefixes: ['{{namespace}}/'], verbs: [get]}}"
        )
    });
    let targets = |policies: &Policies, n: usize| {
        let who = principal("td", &format!("n{n}/x"), true);
        let bucket = policies.index.subjects.of(&who).next().expect("a bucket");
        bucket.targets.secrets.clone().expect("about secrets")
    };
    let policies = loaded(own);
    // What is excepted differs, so these do not share.
    assert!(!Arc::ptr_eq(&targets(&policies, 0), &targets(&policies, 1)));
    let plain = (0..200).map(|n| {
        format!(
            "Allow | namespaces: [n{n}] | secrets: {{prefixes: ['{{namespace}}/'], verbs: [get]}}"
        )
    });
    let policies = loaded(plain);
    let first = targets(&policies, 0);
    assert!((1..200).all(|n| Arc::ptr_eq(&first, &targets(&policies, n))));
}

#[test]
fn rules_that_would_make_decisions_slow_are_refused_where_they_stand() {
    let list = |letter: char, n: usize, len: usize| {
        (0..len).map(|m| format!("{letter}{n}x{m}")).collect::<Vec<_>>().join(", ")
    };
    // Each rule weighs 64: what it lists, and its condition, destination or audit mode.
    type Line<'a> = &'a dyn Fn(usize) -> String;
    let uses: Line<'_> = &|n| {
        let clusters = list('c', n, 63);
        let uses = "secrets: {names: [k], verbs: [use], destinations:";
        format!("Allow | namespaces: ['*'] | {uses} [{{clusters: [{clusters}]}}]}}")
    };
    let denies: Line<'_> = &|n| {
        let target =
            format!("secrets: {{names: [k], verbs: [get], fields: [{}]}}", list('f', n, 63));
        format!("Deny | namespaces: ['*'], except: {{namespaces: [n{n}]}} | {target}")
    };
    let audits: Line<'_> = &|n| {
        let target =
            format!("secrets: {{prefixes: [k/], verbs: [get], fields: [{}]}}", list('f', n, 63));
        format!("Deny Audit | namespaces: ['*'] | {target}")
    };
    let methods: Line<'_> = &|n| {
        format!(
            "Allow | namespaces: [a] | http: {{methods: [{}], destinations: [a/b]}}",
            list('M', n, 64)
        )
    };
    let anything: Line<'_> = &|n| {
        let target =
            format!("secrets: {{names: ['*'], verbs: [get], fields: [{}]}}", list('f', n, 64));
        format!("Allow | namespaces: ['*'] | {target}")
    };
    let templates: Line<'_> = &|n| {
        let names = "names: ['{namespace}/k']";
        format!(
            "Allow | namespaces: ['*'] | secrets: {{{names}, verbs: [get], fields: [{}]}}",
            list('f', n, 64)
        )
    };
    let fit = MAX_WEIGHT / 64;
    for (line, denied) in
        [(uses, 0), (denies, 1), (audits, 0), (methods, 0), (anything, 0), (templates, 0)]
    {
        assert!(load((0..fit).map(line)).is_ok(), "{}", line(0));
        let failure = load((0..=fit).map(line)).expect_err("one too many");
        let shown = failure.to_string();
        assert_eq!(failure.problems.len(), 1, "{shown}");
        let place = format!("p.yaml:{}: policy \"p{fit:05}\": spec.to[0]: is one rule", fit + 1);
        assert!(shown.starts_with(&place), "{shown}");
        // A Deny that is left out denies its subjects.
        assert_eq!(failure.denied.len(), denied, "{shown}");
    }
}

#[test]
fn everyone_but_one_may_be_said_of_thousands() {
    // Only its own namespace, and that of the administrators, may go to each workload.
    let only = |n: usize| {
        format!(
            "Deny | namespaces: ['*'], except: {{namespaces: [n{n}], namespacePrefixes: [adm-], \
             serviceAccounts: [n9/reader]}} | http: {{destinations: [n{n}/svc]}}"
        )
    };
    let shapes: [&dyn Fn(usize) -> String; 3] = [
        &|n| only(n).replace(&format!("destinations: [n{n}/svc]"), &format!("hosts: [h{n}]")),
        &|n| {
            let target = "secrets: {names: [k], verbs: [get, list]}";
            format!("Allow | namespaces: ['*'], except: {{namespaces: [n{n}, m]}} | {target}")
        },
        &|n| {
            let target = format!("secrets: {{prefixes: [a{n}/], verbs: [get, list]}}");
            format!("Allow Audit | namespaces: ['*'] | {target}")
        },
    ];
    for shape in shapes {
        assert!(load((0..MAX_WEIGHT + 50).map(shape)).is_ok(), "{}", shape(0));
    }

    let allow = "Allow | namespaces: ['*'] | http: {paths: ['*']}".to_owned();
    let policies = loaded((0..MAX_WEIGHT + 50).map(only).chain([allow]));
    let set = PolicySet::compile(&policies, 1);
    let by = |account: &str, destination: Option<&str>| {
        let who = principal("td", account, true);
        let destination = destination.map(|it| ServiceAccount::parse(it).expect("valid"));
        let request = HttpRequest::new("GET", "h", "/", destination).expect("canonical");
        let decided = set.authorize_http(&who, &request);
        decided.err().map(|denial| denial.decision.policy.expect("a rule").to_string())
    };
    let denied_by = |n: usize| Some(format!("p{n:05}"));
    assert_eq!(by("n7/x", Some("n7/svc")), None);
    assert_eq!(by("n7/x", Some("n8/svc")), denied_by(8));
    assert_eq!(by("adm-1/x", Some("n8/svc")), None);
    assert_eq!(by("n9/reader", Some("n8/svc")), None);
    assert_eq!(by("n9/writer", Some("n8/svc")), denied_by(8));
    // A workload that is not shown could be any of them.
    assert_eq!(by("n7/x", None), denied_by(0));
    assert_eq!(by("n0/x", None), denied_by(1));
    assert_eq!(by("elsewhere/x", None), denied_by(0));
    assert_eq!(by("adm-1/x", None), None);
    assert_eq!(by("n9/reader", None), None);
    // Whoever asks, one entry says which of them.
    let mut met = 0;
    for account in ["n7/x", "adm-1/x", "elsewhere/x"] {
        let who = principal("td", account, true);
        let request = HttpRequest::new("GET", "h", "/", None).expect("canonical");
        for bucket in policies.index.subjects.of(&who) {
            let http = bucket.targets.http.as_ref().expect("about traffic");
            http.visit_request(&request, &mut |_| met += 1);
        }
    }
    assert_eq!(met, 3 * 2, "one of the Denies, and the Allow");
}

#[test]
fn what_prefixes_of_one_another_ask_adds_up() {
    let rule = |n: usize| {
        let prefix = "a/".repeat(n % 32 + 1);
        let fields = (0..64).map(|m| format!("f{n}x{m}")).collect::<Vec<_>>().join(", ");
        let target = format!("prefixes: ['{prefix}'], verbs: [get], fields: [{fields}]");
        format!("Allow | namespaces: ['*'] | secrets: {{{target}}}")
    };
    assert!(load((0..MAX_WEIGHT / 64).map(rule)).is_ok());
    assert!(load((0..=MAX_WEIGHT / 64).map(rule)).is_err());
}
