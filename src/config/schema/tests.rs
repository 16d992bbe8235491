//! The schema against the reader: see [`agrees`], which the configuration's tests hold every
//! row to.

use std::sync::LazyLock;

use crate::{
    config::{Config, DEVELOPMENT, Environment},
    json_schema::tests::{Editor, blocks},
};

/// What no schema can say, by the reader's words, and why not.
const INEXPRESSIBLE: &[(&str, &str)] = &[
    ("is not one of the backends", "it does not look up what stands elsewhere"),
    ("does not begin with one of the backends", "it does not look up what stands elsewhere"),
    ("unknown backend", "it does not look up what stands elsewhere"),
    ("is set twice", "it does not compare the names of headers"),
    ("is the signature's", "it does not compare the names of headers"),
    ("the message has no {timestamp}", "it does not look for a part of a text"),
    ("is there already", "it does not compare a list with its key"),
    ("an audience that is refused, too", "it does not compare lists"),
    ("before_last needs the SPIFFE ID", "a list that holds one such entry may hold a variable"),
    ("has bits set beyond its prefix length", "it cannot reckon"),
    ("could be forged on the way", "whether a host is this machine"),
    ("must be from 1s to", "it cannot reckon with durations"),
    ("must be 1s or longer", "it cannot reckon with durations"),
    ("must be at least 10m", "it cannot reckon with durations"),
    ("is longer than a year", "it cannot reckon with durations"),
    ("cannot be more than 15MiB", "it cannot reckon with sizes"),
    ("is a part of another", "it does not compare entries"),
    ("has this name", "it does not compare entries"),
    ("must be longer than message_budget", "it cannot reckon with durations"),
    ("secret name cannot contain '..'", "names are what the store takes"),
    ("there is no service account token at", "what is on the machine"),
    ("cannot be read: ", "what is on the machine"),
];

/// What an editor would underline, if anything.
fn refusal(text: &str) -> Option<String> {
    static EDITOR: LazyLock<Editor> = LazyLock::new(|| Editor::new(&super::json_schema()));
    EDITOR.refusal(text)
}

/// An editor must say what the reader says, as far as it can, and nothing else.
#[track_caller]
pub(in crate::config) fn agrees<E: ToString>(text: &str, read: Result<(), E>) {
    let refusal = refusal(text);
    let Err(error) = read else {
        assert_eq!(refusal, None, "{text}");
        return;
    };
    let error = error.to_string();
    let silent = INEXPRESSIBLE.iter().any(|(words, _)| error.contains(words));
    assert_eq!(refusal.is_none(), silent, "{error}\n{refusal:?}\n{text}");
}

fn read(text: &str, environment: &Environment) -> Result<Config, String> {
    let read = Config::parse(text, "vaultmux.yaml".as_ref(), environment);
    read.map_err(|error| error.to_string())
}

#[cfg(all(
    feature = "aws",
    feature = "azure",
    feature = "gcp",
    feature = "kubernetes",
    feature = "plugin",
    feature = "vault"
))]
#[test]
fn configurations_of_the_documentation_are_accepted() {
    let mut configurations = blocks("yaml");
    configurations.retain(|(_, block)| block.starts_with("# vaultmux.yaml\n"));
    assert!(configurations.len() > 6, "{configurations:?}");
    for (page, configuration) in configurations {
        assert_eq!(refusal(&configuration), None, "{}\n{configuration}", page.display());
    }
    assert_eq!(refusal(DEVELOPMENT), None);
}

/// One of each: number, duration, size, address, truth, word, name and text, and the `type`.
#[test]
fn a_value_may_be_a_variable() {
    let rows = [
        ("limits:\n  backend_concurrency: ${X}", "7"),
        ("limits:\n  backend_timeout: ${X}", "3s"),
        ("limits:\n  request_body: ${X:-1MiB}", "2MiB"),
        ("limits:\n  request_body: ${X}MiB", "2"),
        ("listeners:\n  grpc:\n    address: unix:${X}/s", "/run"),
        ("listeners:\n  rest:\n    require_request_header: ${X}", "true"),
        ("listeners:\n  grpc:\n    peer_uids:\n      - ${X}\n    address: ${Y}", "7"),
        ("telemetry:\n  log:\n    format: ${X}", "text"),
        ("telemetry:\n  log:\n    level: ${X}", "debug"),
        ("default_backend: ${X}", "local"),
        ("ext_proc:\n  mode_override: ${X}", "false"),
    ];
    for (yaml, value) in rows {
        let environment = Environment::from([("X", value), ("Y", "unix:s")]);
        let yaml = format!("mode: development\nbackends: {{local: {{type: memory}}}}\n{yaml}\n");
        read(&yaml, &environment).expect(&yaml);
        assert_eq!(refusal(&yaml), None, "{yaml}");
    }
    for (yaml, value) in [
        ("mode: ${X}\nbackends:\n  a:\n    type: memory\n", "development"),
        ("mode: development\nbackends:\n  a:\n    type: ${X}\n", "memory"),
    ] {
        read(yaml, &Environment::from([("X", value)])).expect(yaml);
        assert_eq!(refusal(yaml), None, "{yaml}");
    }
    let not_one = "backends:\n  a: {type: plugin, socket: s}\nlimits:\n  backend_concurrency: $X\n";
    assert!(refusal(not_one).is_some());
}

/// The service reads these; an editor asks to write them so that nobody can misread them.
#[test]
fn an_editor_is_stricter_about_quotes_truth_and_nothing() {
    let local = "mode: development\nbackends: {local: {type: memory}}\n";
    for (loose, strict) in [
        ("identity: {trust_domains: [1]}", "identity: {trust_domains: ['1']}"),
        ("ext_proc: {mode_override: yes}", "ext_proc: {mode_override: true}"),
        ("listeners: {rest: {tls: ~}}", "listeners: {rest: {}}"),
    ] {
        let [loose, strict] = [loose, strict].map(|rest| format!("{local}{rest}\n"));
        for yaml in [&loose, &strict] {
            read(yaml, &Environment::default()).expect(yaml);
        }
        assert!(refusal(&loose).is_some(), "{loose}");
        assert_eq!(refusal(&strict), None, "{strict}");
    }
}

/// Each row is right but for one word.
#[cfg(all(feature = "aws", feature = "azure", feature = "gcp", feature = "plugin"))]
#[test]
fn what_keys_say_about_each_other_is_refused_by_itself() {
    let plugin = "backends: {p: {type: plugin, socket: s}}\n";
    let local = "identity: {local: {namespace: a, service_account: b}}\n";
    let aws = "type: aws_secrets_manager, region: r, endpoint_url: 'http";
    let azure = "type: azure_key_vault, vault_url: 'https://v', verify_challenge_resource:";
    let gcp = "type: gcp_secret_manager, project: p, endpoint_url: 'http";
    let address = |text: &str| {
        format!("mode: sidecar\n{plugin}{local}listeners: {{admin: {{address: '{text}'}}}}\n")
    };
    let backend = |text: &str| format!("backends: {{a: {{{text}}}}}\n");
    let jwks = |text: &str| {
        format!("{plugin}identity: {{service_account_tokens: {{audiences: [a], {text}}}}}\n")
    };
    for (right, wrong) in [
        (format!("mode: development\n{plugin}{local}"), format!("mode: cluster\n{plugin}{local}")),
        (format!("mode: sidecar\n{plugin}{local}"), format!("{plugin}{local}")),
        (
            "mode: development\nbackends: {a: {type: memory}}\n".to_owned(),
            "mode: cluster\nbackends: {a: {type: memory}}\n".to_owned(),
        ),
        ("plugins: {directory: none}\nbackends: {}\n".to_owned(), "backends: {}\n".to_owned()),
        (address("127.0.0.1:1"), address("128.0.0.1:1")),
        (address("[::1]:1"), address("[::2]:1")),
        (address("unix:s"), address("0.0.0.0:1")),
        (backend(&format!("{aws}s://e'")), backend(&format!("{aws}://e'"))),
        (backend(&format!("{aws}://localhost:1'")), backend(&format!("{aws}://localhost.e:1'"))),
        (backend(&format!("{azure} true")), backend(&format!("{azure} false"))),
        (backend(&format!("{gcp}s://e'")), backend(&format!("{gcp}://e'"))),
        (
            backend(&format!("{gcp}://e', credentials: anonymous")),
            backend(&format!("{gcp}://e', credentials: default")),
        ),
        (
            jwks("verify: both, jwks: {source: cluster}"),
            jwks("verify: token_review, jwks: {source: cluster}"),
        ),
        (
            jwks("verify: both, reviews: {per_second: 1, burst: 1}"),
            jwks("verify: jwks, reviews: {per_second: 1, burst: 1}"),
        ),
        (jwks("jwks: {source: 'file:a', issuer: i}"), jwks("jwks: {source: 'file:a'}")),
        (jwks("jwks: {source: cluster}"), jwks("jwks: {source: cluster, ca_file: a}")),
    ] {
        let [right, wrong] = [right, wrong].map(|yaml| {
            let read = read(&yaml, &Environment::default());
            agrees(&yaml, read.as_ref().map(drop));
            (read.is_ok(), yaml)
        });
        assert!(right.0, "{}", right.1);
        assert!(!wrong.0, "{}", wrong.1);
    }
}

/// Of a backend the keys of its `type` alone are known, and what is missing is named.
#[cfg(all(feature = "aws", feature = "gcp", feature = "vault"))]
#[test]
fn keys_of_a_backend_are_those_of_its_type() {
    let backend = |rest: &str| refusal(&format!("backends:\n  a: {{{rest}}}\n"));
    for (rest, said) in [
        ("type: aws_secrets_manager, project: p", "('project' was unexpected)"),
        ("type: gcp_secret_manager", "/backends/a: \"project\" is a required property"),
        ("type: vault_kv, address: 'https://v', auth: {}", "/auth: {} has less than 1 property"),
        ("region: eu-central-1", "/backends/a: \"type\" is a required property"),
    ] {
        let found = backend(rest).expect(rest);
        assert!(found.contains(said), "{rest}: {found}");
    }
    assert_eq!(backend("type: gcp_secret_manager, project: p"), None);
}
