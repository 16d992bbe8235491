//! One row per rule of the schema.

use std::path::PathBuf;

use crate::policy::{
    LoadFailure, Policies, document,
    tests::{catalog, principal},
};

const SECRETS: &str = "secrets: {names: [a], verbs: [get]}";
const ANYONE: &str = "namespaces: ['*']";

fn load(text: &str) -> Result<Policies, LoadFailure> {
    let loaded = Policies::parse(&[(PathBuf::from("p.yaml"), text.to_owned())], &catalog());
    if loaded.is_ok() {
        assert_eq!(document::tests::refusal(text), None, "{text}");
    }
    loaded
}

fn problems(text: &str) -> Vec<String> {
    load(text)
        .err()
        .map_or(Vec::new(), |failure| failure.problems.iter().map(ToString::to_string).collect())
}

/// `from` stands on line 7, `to` on line 9.
fn policy(effect: &str, from: &str, to: &str) -> String {
    format!(
        "apiVersion: vaultmux.dev/v1alpha1\nkind: AccessPolicy\nmetadata: {{name: p}}\nspec:\n  \
         effect: {effect}\n  from:\n  - {{{from}}}\n  to:\n  - {{{to}}}\n"
    )
}

#[track_caller]
fn check(text: &str, line: u64, key: &str, message: &str) {
    let found = problems(text);
    let key = if key.is_empty() { String::new() } else { format!(" {key}:") };
    let [problem] = found.as_slice() else { panic!("not one problem: {found:#?}\n{text}") };
    let start = format!("p.yaml:{line}: policy \"p\":{key} ");
    assert!(
        problem.starts_with(&start) && problem.contains(message),
        "{problem}\n{start}{message}"
    );
    document::tests::agrees(text, problem);
}

#[test]
fn from_entries_that_mean_nothing_or_two_things_are_refused() {
    let from = |key| format!("spec.from[0]{key}");
    let cases = [
        ("trustDomains: [a]", "", "needs one of namespaces, serviceAccounts, namespacePrefixes"),
        ("", "", "needs one of namespaces"),
        ("namespaces: []", ".namespaces", "an empty list matches nothing"),
        ("namespaces: a", ".namespaces", "must be a list"),
        ("namespaces: [~]", ".namespaces[0]", "has no value"),
        ("namespaces: [12]", ".namespaces[0]", "must be text, not a number; quote it"),
        ("namespaces: [[a]]", ".namespaces[0]", "must be text, not a list"),
        ("namespaces: ['']", ".namespaces[0]", "must not be empty"),
        ("namespaces: [a, a]", ".namespaces[1]", "listed twice"),
        ("namespaces: ['*', a]", ".namespaces[0]", "must stand alone"),
        ("namespaces: [team-*]", ".namespaces[0]", "is not a namespace"),
        ("namespaces: [A]", ".namespaces[0]", "is not a namespace"),
        ("namespaces: [a.b]", ".namespaces[0]", "is not a namespace"),
        ("namespaces: [b], namespace: [a]", ".namespace", "unknown field"),
        ("serviceAccounts: [a]", ".serviceAccounts[0]", "written namespace/name"),
        ("serviceAccounts: [a/b/c]", ".serviceAccounts[0]", "written namespace/name"),
        ("serviceAccounts: [a/*]", ".serviceAccounts[0]", "written namespace/name"),
        ("namespacePrefixes: [team]", ".namespacePrefixes[0]", "must end in `-`"),
        ("namespacePrefixes: [team.]", ".namespacePrefixes[0]", "must end in `-`"),
        ("namespacePrefixes: ['-']", ".namespacePrefixes[0]", "can never match"),
        ("namespacePrefixes: [a_b-]", ".namespacePrefixes[0]", "can never match"),
        ("namespaces: [a], trustDomains: [A]", ".trustDomains[0]", "is not a trust domain"),
        (
            "namespaces: [a], require: [password]",
            ".require[0]",
            "known are mtls, waypoint, token, grant, local",
        ),
        (
            "namespaces: [a], require: [Token]",
            ".require[0]",
            "known are mtls, waypoint, token, grant, local",
        ),
        ("namespaces: [a], boundTo: node", ".boundTo", "\"node\" is not one of pod"),
        ("namespaces: [a], boundTo: Pod", ".boundTo", "is not one of pod"),
        ("namespaces: [a], boundTo: [pod]", ".boundTo", "must be text, not a list"),
        ("namespaces: [a], boundTo: ~", ".boundTo", "has no value"),
        ("namespaces: [a], boundTo: ''", ".boundTo", "must not be empty"),
        ("namespaces: [a], boundTo: true", ".boundTo", "must be text"),
        ("boundTo: pod", "", "needs one of namespaces, serviceAccounts, namespacePrefixes"),
        (
            "namespaces: [a], except: {namespaces: [b], boundTo: pod}",
            ".except.boundTo",
            "unknown field",
        ),
        ("namespaces: [a], except: {}", ".except", "needs one of"),
        ("namespaces: [a], except: {namespaces: [b], x: [a]}", ".except.x", "unknown field"),
        ("namespaces: [a], except: {namespaces: ['*']}", ".except.namespaces[0]", "everyone"),
        ("namespaces: [a], except: {namespaces: []}", ".except.namespaces", "an empty list"),
        ("namespaces: [a], except: {namespaces: [a]}", "", "can never match"),
        ("namespaces: [a], serviceAccounts: [b/c]", "", "can never match"),
        ("namespaces: [a], namespacePrefixes: [b-]", "", "can never match"),
        ("namespacePrefixes: [a-b-], except: {namespacePrefixes: [a-]}", "", "can never match"),
    ];
    for (entry, key, message) in cases {
        check(&policy("Allow", entry, SECRETS), 7, &from(key), message);
    }
    let require = policy("Deny", "namespaces: [a], require: [mtls]", SECRETS);
    check(&require, 7, "spec.from[0].require[0]", "a Deny cannot ask for proofs");
    let bound = policy("Deny", "namespaces: [a], boundTo: pod", SECRETS);
    check(&bound, 7, "spec.from[0].boundTo", "a Deny cannot ask for proofs");
    let allows = policy("Allow", "namespaces: [a], require: [mtls], boundTo: pod", SECRETS);
    assert_eq!(problems(&allows), [""; 0]);
}

#[test]
fn to_entries_that_mean_nothing_or_two_things_are_refused() {
    let get = "verbs: [get]";
    let cases = [
        (String::new(), "", "needs exactly one of secrets, http"),
        (format!("{SECRETS}, http: {{paths: [/a]}}"), "", "needs exactly one of secrets, http"),
        ("secrets: ~".into(), ".secrets", "must be a mapping"),
        (format!("secrets: {{{get}}}"), ".secrets", "needs names or prefixes"),
        (format!("secrets: {{names: [], {get}}}"), ".secrets.names", "an empty list"),
        (format!("secrets: {{names: ['*', a], {get}}}"), ".secrets.names[0]", "stand alone"),
        (
            format!("secrets: {{names: ['*'], prefixes: [a/], {get}}}"),
            ".secrets.names[0]",
            "must stand alone",
        ),
        (format!("secrets: {{names: [a/*], {get}}}"), ".secrets.names[0]", "can never match"),
        (format!("secrets: {{names: [a//b], {get}}}"), ".secrets.names[0]", "can never match"),
        (format!("secrets: {{names: [../b], {get}}}"), ".secrets.names[0]", "can never match"),
        (
            format!("secrets: {{backends: [azure], names: [a/b], {get}}}"),
            ".secrets.names[0]",
            "can never match: azure:",
        ),
        (
            format!("secrets: {{backends: [azure], prefixes: ['{{namespace}}/'], {get}}}"),
            ".secrets.prefixes[0]",
            "can never match: azure:",
        ),
        (format!("secrets: {{prefixes: [test], {get}}}"), ".secrets.prefixes[0]", "must end in"),
        (format!("secrets: {{prefixes: [/], {get}}}"), ".secrets.prefixes[0]", "never match"),
        (
            format!("secrets: {{prefixes: ['{{namespace}}-'], {get}}}"),
            ".secrets.prefixes[0]",
            "`pay-` would reach `pay-roll-db`",
        ),
        (
            format!("secrets: {{names: ['{{team}}/x'], {get}}}"),
            ".secrets.names[0]",
            "known are {namespace} and {serviceAccount}",
        ),
        (
            format!("secrets: {{names: ['${{HOME}}'], {get}}}"),
            ".secrets.names[0]",
            "unknown expression",
        ),
        (
            format!("secrets: {{backends: [gcp], names: [a], {get}}}"),
            ".secrets.backends[0]",
            "is not a backend, known are aws, azure",
        ),
        (format!("secrets: {{backends: [], names: [a], {get}}}"), ".secrets.backends", "empty"),
        ("secrets: {names: [a]}".into(), ".secrets.verbs", "is missing"),
        ("secrets: {names: [a], verbs: []}".into(), ".secrets.verbs", "an empty list"),
        ("secrets: {names: [a], verbs: [read]}".into(), ".secrets.verbs[0]", "one of get, list"),
        ("secrets: {names: [a], verbs: [Get]}".into(), ".secrets.verbs[0]", "is not one of"),
        ("secrets: {names: [a], verbs: ['*', use]}".into(), ".secrets.verbs[0]", "stand alone"),
        (format!("secrets: {{names: [a], fields: [], {get}}}"), ".secrets.fields", "empty list"),
        (format!("secrets: {{names: [a], fields: ['{{x}}'], {get}}}"), ".secrets.fields[0]", "{x}"),
        (
            "secrets: {names: [a], fields: [x], verbs: [list, delete]}".into(),
            ".secrets.fields",
            "can never match: a field goes with get and use, and verbs has neither",
        ),
        (format!("secrets: {{names: [a], field: [x], {get}}}"), ".secrets.field", "unknown"),
        (
            format!("secrets: {{names: [a], {get}, destinations: [{{clusters: [c]}}]}}"),
            ".secrets.destinations",
            "only for verbs: [use]",
        ),
        (
            "secrets: {names: [a], verbs: [get, use], destinations: [{clusters: [c]}]}".into(),
            ".secrets.destinations",
            "only for verbs: [use]",
        ),
        ("secrets: {names: [a], verbs: [use]}".into(), ".secrets.verbs", "needs destinations"),
        ("secrets: {names: [a], verbs: [get, use]}".into(), ".secrets.verbs", "destinations"),
        ("http: {}".into(), ".http", "needs one of"),
        ("http: {hosts: []}".into(), ".http.hosts", "an empty list"),
        ("http: {hosts: ['*.a']}".into(), ".http.hosts[0]", "is not a host"),
        ("http: {hosts: ['a:80']}".into(), ".http.hosts[0]", "has a port"),
        ("http: {hosts: [a.]}".into(), ".http.hosts[0]", "trailing dot, write a"),
        ("http: {hosts: ['*', a]}".into(), ".http.hosts[0]", "must stand alone"),
        ("http: {methods: ['G T']}".into(), ".http.methods[0]", "malformed method"),
        ("http: {methods: [get]}".into(), ".http.methods[0]", "never matches GET: the standard"),
        ("http: {methods: [GET, Patch]}".into(), ".http.methods[1]", "methods are in upper case"),
        (
            "http: {paths: ['/admin/*']}".into(),
            ".http.paths[0]",
            "is no pattern: a path that ends in / is a prefix, and \"*\" alone is every path",
        ),
        ("http: {paths: ['/*']}".into(), ".http.paths[0]", "a path that ends in / is a prefix"),
        ("http: {paths: ['/a*b']}".into(), ".http.paths[0]", "a path that ends in / is a prefix"),
        ("http: {paths: [/]}".into(), ".http.paths[0]", "write \"*\" for all"),
        ("http: {paths: [a]}".into(), ".http.paths[0]", "ambiguous path"),
        ("http: {paths: [/a//b]}".into(), ".http.paths[0]", "ambiguous path"),
        ("http: {paths: [/a/../b]}".into(), ".http.paths[0]", "ambiguous path"),
        ("http: {paths: ['/a?b']}".into(), ".http.paths[0]", "has a query"),
        ("http: {destinations: [shop]}".into(), ".http.destinations[0]", "namespace/name"),
        ("http: {destinations: ['*']}".into(), ".http.destinations[0]", "namespace/name"),
        ("grpc: {}, http: {paths: [/a]}".into(), ".grpc", "unknown field, expected one of"),
    ];
    for (entry, key, message) in cases {
        check(&policy("Allow", ANYONE, &entry), 9, &format!("spec.to[0]{key}"), message);
    }
}

#[test]
fn destinations_that_the_caller_chooses_alone_are_refused() {
    let to =
        |entry: &str| format!("secrets: {{names: [a], verbs: [use], destinations: [{entry}]}}");
    let cases = [
        ("", "", "an empty list"),
        ("{}", "[0]", "needs one of hosts, clusters, routes, snis, ports, schemes, methods, paths"),
        ("{hosts: [a]}", "[0]", "host and SNI are chosen by the caller and prove nothing"),
        ("{hosts: [a], snis: [a]}", "[0]", "must bind clusters or routes"),
        ("{ports: ['443'], paths: [/a]}", "[0]", "must bind clusters or routes"),
        ("{clusters: [a], schemes: [ftp]}", "[0].schemes[0]", "is not one of https, http"),
        ("{clusters: [a], ports: ['0443']}", "[0].ports[0]", "is a malformed port"),
        ("{clusters: [a], ports: ['65536']}", "[0].ports[0]", "is a malformed port"),
        ("{clusters: [a], ports: [443]}", "[0].ports[0]", "must be text, not a number; quote it"),
        ("{clusters: [a], methods: ['A B']}", "[0].methods[0]", "is a malformed method"),
        ("{clusters: [a], paths: [a]}", "[0].paths[0]", "is an ambiguous path"),
        ("{clusters: [a], methods: [post]}", "[0].methods[0]", "never matches POST"),
        ("{clusters: [a], paths: ['/v1/*']}", "[0].paths[0]", "that ends in / is a prefix"),
        ("{clusters: [a], paths: [/]}", "[0].paths[0]", "could mean one path or all"),
        ("{clusters: [a], paths: ['*']}", "[0].paths[0]", "not allowed in the destinations"),
        ("{clusters: ['*']}", "[0].clusters[0]", "not allowed in the destinations of an Allow"),
        ("{clusters: [c], hosts: ['*']}", "[0].hosts[0]", "not allowed"),
        ("{clusters: [c], hosts: [a/b]}", "[0].hosts[0]", "is not a host"),
        ("{clusters: []}", "[0].clusters", "an empty list"),
        ("{clusters: [c], port: ['1']}", "[0].port", "unknown field"),
    ];
    for (entry, key, message) in cases {
        let key = format!("spec.to[0].secrets.destinations{key}");
        check(&policy("Allow", ANYONE, &to(entry)), 9, &key, message);
    }
    for entry in ["{hosts: [A.test]}", "{snis: ['*']}", "{clusters: ['*'], hosts: ['*']}"] {
        assert_eq!(problems(&policy("Deny", ANYONE, &to(entry))), [""; 0], "{entry}");
    }
}

#[test]
fn documents_that_are_no_policy_are_refused() {
    let good = policy("Allow", ANYONE, SECRETS);
    let cases = [
        ("v1alpha1", "v1", 1, "apiVersion", "\"vaultmux.dev/v1\" is not one of"),
        ("kind: AccessPolicy", "kind: Policy", 2, "kind", "\"Policy\" is not one of AccessPolicy"),
        ("kind: AccessPolicy\n", "", 1, "kind", "is missing"),
        ("kind: AccessPolicy\n", "kind: AccessPolicy\nkind: AccessPolicy\n", 3, "kind", "twice"),
        ("{name: p}", "{name: p, labels: {}}", 3, "metadata.labels", "unknown field"),
        ("effect: Allow", "effect: allow", 5, "spec.effect", "not one of Allow, Deny"),
        ("effect: Allow", "effect: Allow\n  mode: Log", 6, "spec.mode", "Enforce, Audit"),
        ("effect: Allow", "effect: Allow\n  order: 1", 6, "spec.order", "unknown field"),
        ("effect: Allow", "effect: Allow\n  <<: {}", 6, "spec.<<", "unknown field"),
        ("effect: Allow", "effect: Allow\n  effect: Deny", 6, "spec.effect", "is given twice"),
        ("  effect: Allow\n", "", 5, "spec.effect", "is missing"),
        ("  - {namespaces: ['*']}", "    []", 7, "spec.from", "an empty list matches nothing"),
        ("  from:\n  - {namespaces: ['*']}\n", "", 5, "spec.from", "is missing"),
        ("spec:\n", "spec:\n  1: a\n", 5, "spec", "has a key that is not text"),
    ];
    assert_eq!(problems(&good), [""; 0]);
    for (old, new, line, key, message) in cases {
        assert!(good.contains(old), "{old}");
        check(&good.replace(old, new), line, key, message);
    }
    for (name, message) in [("A", "lower-case"), ("a b", "lower-case"), ("-a", "lower-case")] {
        let found = problems(&good.replace("{name: p}", &format!("{{name: {name}}}")));
        assert!(found[0].contains(message) && found[0].contains("metadata.name"), "{found:?}");
    }
    for text in ["- a\n", "a\n", "{}\n", "a: [\n", "\tx\n", "a: *b\n", "a: !!x b\n"] {
        assert!(!problems(text).is_empty(), "{text}");
    }
}

#[test]
fn every_problem_of_every_document_is_reported_in_order() {
    let bad = policy("Allow", "namespaces: [A], require: [tokens]", "secrets: {names: [a]}");
    let text = format!("{bad}---\n{}", policy("Alow", "{}", "http: {}").replace("{{}}", "{}"));
    let found = problems(&text);
    let lines: Vec<&str> = found.iter().filter_map(|p| p.split(':').nth(1)).collect();
    assert_eq!(lines, ["7", "7", "9", "13", "15", "17", "19"], "{found:#?}");
}

#[test]
fn two_policies_with_one_name_are_refused() {
    let text = policy("Allow", ANYONE, SECRETS);
    let files = [("a.yaml", &text), ("b.yaml", &text)];
    let files = files.map(|(file, text)| (PathBuf::from(file), text.clone()));
    let failure = Policies::parse(&files, &catalog()).expect_err("one name");
    assert_eq!(
        failure.to_string(),
        "b.yaml:3: policy \"p\": metadata.name: another policy has this name, at a.yaml:3"
    );
    assert!(failure.denied.is_empty());
    let denies = text.replace("Allow", "Deny");
    assert_eq!(load(&format!("{denies}---\n{denies}")).expect_err("one name").denied.len(), 2);
}

#[test]
fn a_broken_deny_names_its_subjects_and_a_broken_allow_does_not() {
    let broken = "secrets: {names: [a], verb: [get]}";
    let subjects = |text: &str| -> Vec<bool> {
        let denied = load(text).expect_err("broken").denied;
        denied.iter().map(|d| d.0.iter().all(|from| from.namespaces.is_empty())).collect()
    };
    let deny = policy("Deny", "namespaces: [a]", broken);
    assert_eq!(subjects(&deny), [false]);
    assert_eq!(subjects(&deny.replace("Deny", "deny")), [false]);
    assert_eq!(subjects(&deny.replace("effect:", "efect:")), [false]);
    assert_eq!(subjects(&deny.replace("effect: Deny", "effect: Allow\n  effect: Deny")), [false]);
    for effect in ["[Deny]", "Denied", "denies", "' DENY '", "{Deny: yes}"] {
        assert_eq!(subjects(&deny.replace("effect: Deny", &format!("effect: {effect}"))), [false]);
    }
    assert_eq!(subjects(&deny.replace("effect: Deny", "Deny: true")), [false]);
    // Its subjects cannot be told then.
    assert_eq!(subjects(&deny.replace("spec:", "Spec:")), [true]);
    assert_eq!(subjects(&deny.replace("spec:", "SPEC:").replace("Deny", "deny")), [true]);
    let allow =
        policy("Allow", "namespaces: [denied]", broken).replace("{name: p}", "{name: deny}");
    assert_eq!(subjects(&allow), [false; 0]);
    assert_eq!(subjects(&policy("Deny", "namespaces: [A]", broken)), [true]);
    assert_eq!(subjects(&policy("Deny", "namespaces: [a], boundTo: pod", broken)), [true]);
    assert_eq!(subjects(&deny.replace("effect: Deny", "effect: Deny\n  mode: Audit")), [false; 0]);
    assert_eq!(subjects(&policy("Allow", ANYONE, broken)), [false; 0]);
    assert_eq!(subjects("spec: {effect: Deny\n"), [false; 0]);
}

#[test]
fn a_deny_that_cannot_be_read_asks_for_no_proofs() {
    let text = policy("deny", "namespaces: [a], require: [mtls], boundTo: pod", SECRETS);
    let denied = load(&text).expect_err("no effect").denied;
    assert!(denied[0].0[0].matches(&principal("td", "a/x", false)), "{denied:?}");
    assert!(!denied[0].0[0].matches(&principal("td", "b/x", true)), "{denied:?}");
}

#[test]
fn the_environment_is_not_expanded() {
    let text = policy("Allow", "namespaces: ['${HOME}']", SECRETS);
    assert!(problems(&text)[0].contains("\"${HOME}\" is not a namespace"));
}

#[test]
fn huge_policies_are_refused() {
    let list = |n: usize| (0..n).map(|n| format!("a{n}")).collect::<Vec<_>>().join(", ");
    let from = format!("namespaces: [{}]", list(1100));
    let to = format!("secrets: {{names: [{}], verbs: [get]}}", list(1000));
    check(&policy("Allow", &from, &to), 5, "spec", "split the policy");
    let large = "# ".repeat(5 << 20);
    assert!(problems(&large)[0].contains("p.yaml: cannot be read: is larger than 8 MiB"));
}

#[test]
fn a_valid_deny_beside_a_broken_allow_is_not_a_broken_deny() {
    let target = "secrets: {names: [a], verbs: [get]}";
    let deny = policy("Deny", "namespaces: [prod]", target);
    let broken = policy("Allow", "namespaces: [prod]", "secrets: {names: [], verbs: [get]}")
        .replace("name: p", "name: q");
    let failure = load(&format!("{deny}\n---\n{broken}")).expect_err("the Allow is broken");
    assert_eq!(failure.problems.len(), 1, "{failure}");
    assert!(failure.denied.is_empty(), "nobody is to be denied more than before");
    let twice = load(&format!("{deny}\n---\n{deny}")).expect_err("one name twice");
    assert!(!twice.denied.is_empty(), "which of the two is meant is unknown");
}

#[test]
fn an_empty_file_is_not_taken_for_no_policy() {
    assert!(problems("")[0].contains("p.yaml: cannot be read: is empty"));
    assert!(problems("# none yet\n").is_empty());
}

#[test]
fn the_example_of_the_documentation_is_valid() {
    let text = "\
apiVersion: vaultmux.dev/v1alpha1
kind: AccessPolicy
metadata: {name: own-namespace-secrets}
spec:
  effect: Allow
  mode: Enforce
  from:
    - namespaces: [\"*\"]
      require: [mtls]
      except: {serviceAccounts: [kube-system/default]}
  to:
    - secrets:
        backends: [aws]
        prefixes: [\"{namespace}/\"]
        verbs: [get, list]
    - secrets:
        names: [\"shared/stripe\"]
        verbs: [use]
        destinations: [{hosts: [\"api.stripe.com\"], clusters: [\"outbound|443||api.stripe.com\"]}]
    - http: {hosts: [\"*\"], methods: [GET], paths: [\"/orders/\", \"/health\"], destinations: [shop/orders]}
";
    let policies = load(text).map_err(|failure| failure.to_string()).expect("valid");
    assert_eq!((policies.len(), policies.hash().len()), (1, 16));
}
