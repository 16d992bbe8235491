//! Lines of every kind, asked again.

use std::path::PathBuf;

use super::*;
use crate::{
    audit::{AuditedPod, AuditedPrincipal},
    fixture,
    identity::ServiceAccount,
    metrics::Edge,
    policy::{Connection, Destination, HttpRequest, Policies, Question, Reason, Verb},
};

const CONFIG: &str = fixture::CONFIG;

fn set(yaml: &str) -> Arc<PolicySet> {
    let source = (PathBuf::from("new.yaml"), yaml.to_owned());
    let policies = Policies::parse(&[source], &fixture::config(CONFIG).catalog);
    Arc::new(PolicySet::compile(&policies.expect("valid policies"), 1))
}

/// What the fixture's policies decide, as a line.
fn line(account: &str, question: &Question<'_>, operation: Operation) -> AuditLine {
    let principal = fixture::principal(account);
    let outcome = set(fixture::POLICIES).decide(&principal, question);
    AuditLine::new(Edge::ExtAuthz, outcome.as_ref(), Some(&principal), Some(operation))
}

fn secret(account: &str, verb: Verb, name: &str, by: Option<HttpRequest<'_>>) -> AuditLine {
    let secret = fixture::config(CONFIG).catalog.parse_reference(&format!("secret://local/{name}"));
    let secret = secret.expect("valid");
    let operation = Operation::secret(verb, &secret).by(by.as_ref());
    let (secret, destination) = (std::borrow::Cow::Borrowed(&secret), Destination::default());
    line(account, &Question::Secret { verb, secret, destination, by }, operation)
}

fn used(cluster: &str) -> AuditLine {
    let secret = fixture::config(CONFIG).catalog.parse_reference("secret://local/shared/stripe");
    let secret = secret.expect("valid");
    let host = Some("api.stripe.test");
    let destination = Destination { host, cluster: Some(cluster), ..Destination::default() };
    let operation = Operation::used(&secret, &destination);
    let secret = std::borrow::Cow::Owned(secret);
    let question = Question::Secret { verb: Verb::Use, secret, destination, by: None };
    line("prod/api", &question, operation)
}

fn http(account: &str, path: &str) -> AuditLine {
    let request = HttpRequest::new("GET", "orders.test", path, None).expect("canonical");
    let operation = Operation::Http(AuditedHttp::from(&request));
    line(account, &Question::Http(request), operation)
}

fn connection() -> AuditLine {
    let destination = ServiceAccount::parse("shop/orders-db").ok();
    let operation = Operation::connection(destination.as_ref());
    line("prod/api", &Question::Connection(Connection { destination }), operation)
}

fn collection(by: Option<HttpRequest<'_>>) -> AuditLine {
    let operation = Operation::collection(Verb::List, None).by(by.as_ref());
    line("prod/api", &Question::Collection { verb: Verb::List, by }, operation)
}

fn refused() -> AuditLine {
    AuditLine::new(Edge::Rest, Err(&Denial::new(Reason::NoIdentity)), None, None)
}

fn text(lines: &[AuditLine]) -> String {
    let line = |line| serde_json::to_string(line).expect("JSON") + "\n";
    lines.iter().map(line).collect()
}

#[track_caller]
fn replayed(policies: &str, text: &str, check: impl FnOnce(&Replay<'_>)) {
    let config = fixture::config(CONFIG);
    let mut replay = Replay::new(set(policies), &config.catalog, &config.identity.trust_domains);
    let mut bytes = 0;
    replay.read(text.as_bytes(), |read| bytes += read).expect("text");
    assert_eq!(bytes, text.len() as u64, "progress is whole");
    check(&replay);
}

fn every_kind() -> Vec<AuditLine> {
    let by = || HttpRequest::new("GET", "vaultmux.test", "/v1/secrets/prod/key", None).ok();
    vec![
        secret("prod/api", Verb::Get, "prod/key", by()),
        secret("prod/api", Verb::Get, "other/key", None),
        secret("prod/api", Verb::Delete, "prod/key#field", None),
        used("stripe"),
        used("evil"),
        collection(by()),
        collection(None),
        http("prod/api", "/orders/1"),
        http("other/app", "/orders/1"),
        connection(),
    ]
}

#[test]
fn the_same_policies_change_nothing() {
    let lines = every_kind();
    let outcomes: Vec<_> = lines.iter().map(|line| line.allowed).collect();
    let expected = [true, false, true, true, false, true, true, true, false, true];
    assert_eq!(outcomes, expected, "the lines are of both outcomes");
    replayed(fixture::POLICIES, &text(&lines), |replay| {
        let seen = (replay.lines, replay.asked, replay.changed, replay.by_another_rule);
        assert_eq!(seen, (10, 10, 0, 0), "{replay:?}");
    });
}

#[test]
fn a_deny_for_http_covers_recorded_secret_operations_as_it_does_live() {
    let deny = r"
---
apiVersion: vaultmux.dev/v1alpha1
kind: AccessPolicy
metadata: {name: closed}
spec:
  effect: Deny
  from: [{namespaces: [prod]}]
  to: [{http: {hosts: [vaultmux.test]}}]
";
    replayed(&format!("{}{deny}", fixture::POLICIES), &text(&every_kind()), |replay| {
        let denied: Vec<_> = replay.changes.keys().map(|change| &*change.operation).collect();
        // The same operations go on where no request in the mesh asked for them. A Deny covers
        // the connection too, which does not show its host.
        let expected = ["connect of shop/orders-db", "get secret://local/prod/key", "list secrets"];
        assert_eq!(denied, expected);
        assert!(replay.changes.values().all(|example| example.count == 1), "{replay:?}");
        assert!(replay.changes.keys().all(|change| !change.allows), "{replay:?}");
        assert!(replay.changes.keys().all(|change| change.now.policy.as_deref() == Some("closed")));
    });
}

#[test]
fn changes_are_grouped_with_an_example() {
    let mut lines = vec![
        http("prod/api", "/orders/1"),
        http("prod/api", "/orders/2"),
        http("other/app", "/orders/3"),
        secret("prod/api", Verb::Get, "prod/key", None),
    ];
    lines[0].decision_id = "first".into();
    let new = r"
apiVersion: vaultmux.dev/v1alpha1
kind: AccessPolicy
metadata: {name: orders}
spec:
  effect: Allow
  from: [{namespaces: [other]}]
  to: [{http: {hosts: [orders.test]}}]
---
apiVersion: vaultmux.dev/v1alpha1
kind: AccessPolicy
metadata: {name: other-name}
spec:
  effect: Allow
  from: [{namespaces: [prod]}]
  to: [{secrets: {prefixes: [prod/], verbs: [get]}}]
";
    replayed(new, &text(&lines), |replay| {
        assert_eq!((replay.asked, replay.changed, replay.by_another_rule), (4, 3, 1));
        let seen: Vec<_> = replay
            .changes
            .iter()
            .map(|(change, example)| {
                let place = example.place.as_ref().map(ToString::to_string);
                (change.was.to_string(), change.now.to_string(), example.count, example.line, place)
            })
            .collect();
        let verdict = str::to_owned;
        let expected = [
            (
                verdict("allowed by policy orders, spec.to[0]"),
                verdict("denied: no_match"),
                2,
                1,
                None,
            ),
            (
                verdict("denied: no_match"),
                verdict("allowed by policy orders, spec.to[0]"),
                1,
                3,
                Some("new.yaml:8".to_owned()),
            ),
        ];
        assert_eq!(seen, expected);
        let (change, example) = replay.changes.first_key_value().expect("two");
        assert_eq!(change.operation, "GET http://orders.test");
        assert_eq!((change.principal.as_str(), change.proofs.as_str()), (API, "mtls"));
        assert_eq!((&*example.decision_id, example.path.as_deref()), ("first", Some("/orders/1")));
    });
}

const API: &str = "spiffe://cluster.local/ns/prod/sa/api";

#[test]
fn proofs_count_as_they_were_recorded() {
    let new = r"
apiVersion: vaultmux.dev/v1alpha1
kind: AccessPolicy
metadata: {name: own}
spec:
  effect: Allow
  from: [{namespaces: [prod], require: [token], boundTo: pod}]
  to: [{secrets: {prefixes: [prod/], verbs: [get]}}]
";
    let with = |proofs: &[&str], pod: bool| {
        let mut line = secret("prod/api", Verb::Get, "prod/key", None);
        let principal: &mut AuditedPrincipal = line.principal.as_mut().expect("one");
        principal.proofs = proofs.iter().map(|proof| (*proof).to_owned()).collect();
        principal.pod = pod.then(|| AuditedPod { name: "a".into(), uid: "b".into() });
        line
    };
    let lines = [
        with(&["mtls"], false),
        with(&["mtls", "token"], false),
        with(&["mtls", "token"], true),
        with(&["token", "grant"], true),
    ];
    replayed(new, &text(&lines), |replay| {
        let denied: Vec<_> = replay.changes.keys().map(|change| &*change.proofs).collect();
        assert_eq!(denied, ["mtls", "mtls+token"]);
    });
}

#[test]
fn what_cannot_be_asked_again_is_counted_with_its_first_line() {
    let edited = |edit: fn(&mut AuditLine)| {
        let mut line = http("prod/api", "/orders/1");
        edit(&mut line);
        line
    };
    let of = |edit: fn(&mut Operation)| {
        let mut line = secret("prod/api", Verb::Get, "prod/key", None);
        edit(line.operation.as_mut().expect("one"));
        line
    };
    let lines = [
        refused(),
        http("prod/api", &format!("/orders/{}", "a".repeat(2000))),
        edited(|line| line.principal.as_mut().expect("one").trust_domain = "other.test".into()),
        edited(|line| line.principal.as_mut().expect("one").proofs = vec!["dna".into()]),
        edited(|line| line.principal.as_mut().expect("one").proofs.clear()),
        edited(|line| line.principal.as_mut().expect("one").namespace = "A".into()),
        edited(|line| line.generation = 0),
        edited(|line| line.operation = None),
        of(|operation| {
            let Operation::Secret { backend, .. } = operation else { panic!("a secret") };
            *backend = "gone".into();
        }),
        of(|operation| {
            let Operation::Secret { secret, .. } = operation else { panic!("a secret") };
            *secret = "../key".into();
        }),
        of(|operation| {
            let Operation::Secret { verb, .. } = operation else { panic!("a secret") };
            *verb = "steal".into();
        }),
    ];
    replayed(fixture::POLICIES, &text(&lines), |replay| {
        let seen: Vec<_> =
            replay.not_asked.iter().map(|(why, seen)| (why.as_str(), *seen)).collect();
        let expected = [
            ("no_policy_asked", (3, 1)),
            ("foreign_trust_domain", (1, 3)),
            ("unknown_backend", (1, 9)),
            ("invalid_name", (1, 10)),
            ("path_cut", (1, 2)),
            ("unknown", (4, 4)),
        ];
        assert_eq!(seen, expected);
        assert_eq!((replay.lines, replay.asked, replay.unreadable), (11, 0, 0));
    });
}

#[test]
fn lines_that_are_none_are_counted_and_named() {
    let good = text(&[http("prod/api", "/orders/1")]);
    let long = format!("{{\"time\":\"{}\"}}\n", "a".repeat(3 << 20));
    let cut = &good[..good.len() / 2];
    let all = format!("{good}\n\nnot JSON\n[]\n{{}}\n{long}{good}{{\"kind\":1}}\n\u{7f}\n{cut}");
    replayed(fixture::POLICIES, &all, |replay| {
        assert_eq!((replay.lines, replay.asked, replay.unreadable), (9, 2, 7));
        let numbers: Vec<_> = replay.named.iter().map(|(number, _)| *number).collect();
        assert_eq!(numbers, [4, 5, 6, 7, 9, 10, 11]);
        assert_eq!(replay.named[3].1, "longer than 1048576 bytes");
    });
    let many = "x\n".repeat(1000);
    replayed(fixture::POLICIES, &many, |replay| {
        assert_eq!((replay.unreadable, replay.named.len()), (1000, NAMED));
    });
}

#[test]
fn what_is_kept_is_bounded() {
    let mut all = Vec::new();
    let mut line = http("prod/api", "/orders/1");
    for number in 0..MAX_CHANGES + 5 {
        let Some(Operation::Http(http)) = &mut line.operation else { panic!("a request") };
        http.host = format!("h{number}.test");
        serde_json::to_writer(&mut all, &line).expect("JSON");
        all.push(b'\n');
    }
    let text = String::from_utf8(all).expect("text");
    replayed(fixture::POLICIES, &text, |replay| {
        let kept = (replay.changed, replay.changes.len(), replay.beyond);
        assert_eq!(kept, (MAX_CHANGES as u64 + 5, MAX_CHANGES, 5));
    });
}
