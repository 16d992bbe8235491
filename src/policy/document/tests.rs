//! The schema against the reader: what one has the other has, and what one refuses the other
//! does, where a schema can say it. The rows are those of [`crate::policy::schema`]'s tests.

use std::{collections::BTreeSet, fs, path::PathBuf, sync::LazyLock};

use serde_json::Value;

use crate::{
    json_schema::tests::{Editor, blocks},
    policy::{
        Policies,
        schema::keys::{DESTINATION, DOCUMENT, EXCEPT, FROM, HTTP, METADATA, SECRETS, SPEC, TO},
        tests::catalog,
    },
};

/// What no schema can say, by the reader's words, and why not.
const INEXPRESSIBLE: &[(&str, &str)] = &[
    ("can never match: its fields exclude", "it compares no values"),
    ("can never match: aws:", "what names there can be depends on the store"),
    ("can never match: azure:", "what names there can be depends on the store"),
    ("is not a backend", "which there are is for the configuration to say"),
    ("spec.<<: unknown field", "editors merge, as YAML 1.1 did"),
    ("split the policy", "it cannot multiply"),
];

/// What an editor would underline, if anything.
pub(in crate::policy) fn refusal(text: &str) -> Option<String> {
    static EDITOR: LazyLock<Editor> = LazyLock::new(|| Editor::new(&super::json_schema()));
    EDITOR.refusal(text)
}

/// An editor must say what the reader says, as far as it can.
#[track_caller]
pub(in crate::policy) fn agrees(text: &str, problem: &str) {
    let silent = INEXPRESSIBLE.iter().any(|(words, _)| problem.contains(words));
    let refusal = refusal(text);
    assert_eq!(refusal.is_none(), silent, "{problem}\n{refusal:?}\n{text}");
}

#[test]
fn fields_are_those_of_the_reader() {
    let schema = super::json_schema();
    let fields = |schema: &Value| -> BTreeSet<String> {
        schema["properties"].as_object().expect("a mapping").keys().cloned().collect()
    };
    let definition = |name: &str| &schema["definitions"][name];
    for (found, known) in [
        (&schema, &DOCUMENT[..]),
        (definition("Metadata"), &METADATA),
        (definition("Spec"), &SPEC),
        (definition("Callers"), &FROM),
        (definition("Except"), &EXCEPT),
        (definition("Target"), &TO),
        (definition("Secrets"), &SECRETS),
        (definition("Destination"), &DESTINATION),
        (definition("Http"), &HTTP),
    ] {
        let known: BTreeSet<String> = known.iter().map(|key| (*key).to_owned()).collect();
        assert_eq!(fields(found), known);
        assert_eq!(found["additionalProperties"], false);
    }
}

#[test]
fn policies_of_the_documentation_are_accepted() {
    let mut policies: Vec<_> = blocks("yaml");
    // Those within values of the chart are run by its own tests.
    policies.retain(|(_, block)| block.lines().any(|line| line == "kind: AccessPolicy"));
    assert!(policies.len() > 3, "{policies:?}");
    let development = "src/config/development-policies.yaml";
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(development);
    policies.push((path.clone(), fs::read_to_string(path).expect("text")));
    for (page, policy) in policies {
        // Some show what a mistake leads to.
        let mistaken = policy.contains("# a mistake");
        assert_eq!(refusal(&policy).is_some(), mistaken, "{}\n{policy}", page.display());
    }
}

#[test]
fn names_hosts_and_paths_have_the_forms_that_the_reader_takes() {
    let policy = |to: &str| {
        format!(
            "apiVersion: vaultmux.dev/v1alpha1\nkind: AccessPolicy\nmetadata: {{name: p}}\n\
             spec: {{effect: Allow, from: [{{namespaces: ['*']}}], to: [{to}]}}\n"
        )
    };
    let secrets = |field: &str| format!("{{secrets: {{{field}, verbs: [get]}}}}");
    let mut rows = Vec::new();
    for name in [
        "a",
        "a.b-c_d/e",
        "{namespace}",
        "{namespace}/x",
        "x{namespace}.y",
        "{namespace}--x",
        "{namespace}-x",
        "{serviceAccount}",
        "{serviceAccount}.x",
        "{serviceAccount}--x",
        "{namespace}{serviceAccount}",
        "{Namespace}",
        "{",
        "a}",
        "{namespace}x",
        "{serviceAccount}_{namespace}",
    ] {
        rows.push(secrets(&format!("names: ['{name}']")));
        for end in ["", "/", "-", "_", ".", "--", "+"] {
            rows.push(secrets(&format!("prefixes: ['{name}{end}']")));
        }
    }
    for field in ["f", "/f/0", "a b", "{x}", "x}", "\u{85}"] {
        rows.push(secrets(&format!("names: [a], fields: ['{field}']")));
    }
    for host in ["a", "A.b", ".a", "a.", "a..b", "a:80", "[::1]", "[::1]:80", "[x]", "a/b", "*a"] {
        rows.push(format!("{{http: {{hosts: ['{host}']}}}}"));
    }
    for path in [
        "/", "/a", "/a/", "/a/b", "/a//b", "//", "/.", "/..", "/...", "/.a", "/..a", "/a.", "/a/.",
        "/a/../b", "/a/./b", "a", "", "*", "/a?b", "/a;b", "/a#b", "/a b", "/a\\b", "/%20", "/%2F",
        "/%2f", "/%61", "/%7E", "/%41", "/%5c", "/%5B", "/%00", "/%7f", "/%c3%a4", "/%", "/%2",
        "/%zz", "/ä", "/{a}", "/a'", "/~a", "/%25", "/%3B", "/%3a", "/%21", "/.%20", "/..%20",
        "/a*", "/*", "/a/*", "/a/*/b", "/%2A",
    ] {
        rows.push(format!("{{http: {{paths: [{}]}}}}", serde_json::json!(path)));
    }
    for method in [
        "GET",
        "get",
        "Get",
        "gets",
        "PATCH",
        "patch",
        "Options",
        "m-search",
        "M-SEARCH",
        "G T",
        "*",
        "a\u{e4}",
        "(",
        "!#$%&'*+.^_`|~",
    ] {
        rows.push(format!("{{http: {{methods: [{}]}}}}", serde_json::json!(method)));
    }
    let mut valid = 0;
    for row in rows {
        let text = policy(&row);
        let read = Policies::parse(&[("p.yaml".into(), text.clone())], &catalog());
        match read {
            Ok(_) => {
                assert_eq!(refusal(&text), None, "{row}");
                valid += 1;
            }
            Err(failure) => agrees(&text, &failure.to_string()),
        }
    }
    assert!(valid > 50, "{valid}");
}
