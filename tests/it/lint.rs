//! `lint` as an operator meets it; what each rule finds is tested beside the rules.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use serde_json::{Value, json};

use crate::harness::repository;

const BAD: &str = "\
extensionProviders:
- name: vaultmux
  envoyExtAuthzGrpc:
    timeout: 1s
    failOpen: true
pathNormalization: {normalization: MERGE_SLASHES}
";

fn lint(directory: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vaultmux-mesh"))
        .arg("lint")
        .args(arguments)
        .current_dir(directory)
        .stdin(Stdio::null())
        .output()
        .expect("the program runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("text")
}

fn directory(files: &[(&str, &str)]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("make a directory");
    for (name, text) in files {
        let path = directory.path().join(name);
        fs::create_dir_all(path.parent().expect("below it")).expect("make a directory");
        fs::write(path, text).expect("write a file");
    }
    directory
}

/// The fenced blocks of a language in the page.
fn blocks(language: &str) -> Vec<String> {
    let page = fs::read_to_string(repository("docs/lint.md")).expect("the page");
    let fence = format!("```{language}\n");
    let block = |rest: &str| rest.split("```").next().expect("a closed block").to_owned();
    page.split(&fence).skip(1).map(block).collect()
}

#[test]
fn our_own_files_are_clean() {
    let mut looked_at = 0;
    for name in ["envoy", "istio"] {
        let path = repository(name);
        if !holds_yaml(&path) {
            continue;
        }
        looked_at += 1;
        let output = lint(&repository("."), &[name, "--deny", "warnings"]);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stdout));
        // Each overlay by itself, as it is applied; files of the other directories are not there.
        for inner in fs::read_dir(&path).expect("readable").map(|entry| entry.expect("one").path())
        {
            if inner.extension().is_some_and(|end| end == "yaml") {
                let inner = inner.to_str().expect("a plain path");
                let output = lint(&repository("."), &[inner, "--deny", "warnings"]);
                assert_eq!(output.status.code(), Some(0), "{}", text(&output.stdout));
            }
        }
    }
    assert!(looked_at > 0);
}

fn holds_yaml(directory: &Path) -> bool {
    let Ok(entries) = fs::read_dir(directory) else { return false };
    entries.map(|entry| entry.expect("an entry").path()).any(|path: PathBuf| {
        path.extension().is_some_and(|end| end == "yaml") || (path.is_dir() && holds_yaml(&path))
    })
}

/// What is allowed in a comment is what the file is there to show.
#[test]
fn our_own_files_allow_little() {
    let allowed: &[(&str, &str)] = &[("shadow.yaml", "shadow-mode")];
    for entry in fs::read_dir(repository("envoy")).expect("readable") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            continue;
        }
        let file = path.file_name().expect("a name").to_str().expect("plain").to_owned();
        let bootstrap = fs::read_to_string(&path).expect("text");
        for line in bootstrap.lines() {
            let Some((_, rule)) = line.split_once("vaultmux-mesh lint: allow ") else { continue };
            assert!(allowed.contains(&(&file, rule.trim())), "{file}: {line}");
        }
    }
}

#[test]
fn findings_are_shown_where_they_are() {
    let directory = directory(&[("mesh.yaml", BAD)]);
    let output = lint(directory.path(), &["mesh.yaml"]);
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{said}");
    for shown in [
        "error[authz-fails-open]: ext_authz lets requests pass",
        " --> mesh.yaml:5\n",
        "5 |     failOpen: true\n",
        "  = why: ",
        "  = help: set `failure_mode_allow: false`",
        "warning[outage-looks-like-denial]: ",
        "\n1 error, 1 warning in 1 file\n",
    ] {
        assert!(said.contains(shown), "{shown:?} is not in\n{said}");
    }
    assert!(!said.contains('\x1b'), "colour is for terminals");
    // Warnings alone are no failure unless they are denied.
    let only_warnings = ["mesh.yaml", "--allow", "authz-fails-open"];
    assert_eq!(lint(directory.path(), &only_warnings).status.code(), Some(0));
    let denied = [&only_warnings[..], &["--deny", "warnings"]].concat();
    assert_eq!(lint(directory.path(), &denied).status.code(), Some(1));
}

#[test]
fn json_has_all_of_it() {
    let other = "apiVersion: apps/v1\nkind: Deployment\n";
    let directory = directory(&[("a/mesh.yaml", BAD), ("a/other.yml", other), ("a/b.txt", "a: [")]);
    let output = lint(directory.path(), &["a", "--output", "json"]);
    let found: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(output.status.code(), Some(1));
    assert_eq!((&found["errors"], &found["warnings"]), (&json!(1), &json!(1)));
    let first = &found["findings"][1];
    assert_eq!(first["rule"], "authz-fails-open");
    assert_eq!((&first["file"], &first["line"]), (&json!("a/mesh.yaml"), &json!(5)));
    assert_eq!(first["severity"], "error");
    for key in ["message", "why", "help"] {
        assert!(first[key].as_str().is_some_and(|text| !text.is_empty()), "{key}");
    }
    assert_eq!(found["notes"], json!(["a/other.yml:1: Deployment of apps/v1 is not looked at"]));
}

/// The members that the schema of SARIF 2.1.0 requires of what we write.
#[test]
fn sarif_has_what_its_schema_requires() {
    let text_object =
        json!({"type": "object", "required": ["text"], "properties": {"text": {"type": "string"}}});
    let level = json!({"enum": ["none", "note", "warning", "error"]});
    let rule = json!({
        "type": "object",
        "required": ["id"],
        "properties": {
            "shortDescription": text_object,
            "fullDescription": text_object,
            "help": text_object,
            "defaultConfiguration": {"properties": {"level": level}},
        },
    });
    let driver = json!({
        "type": "object",
        "required": ["name"],
        "properties": {"rules": {"type": "array", "uniqueItems": true, "items": rule}},
    });
    let notification = json!({
        "type": "object",
        "required": ["message"],
        "properties": {"message": text_object, "level": level},
    });
    let invocation = json!({
        "type": "object",
        "required": ["executionSuccessful"],
        "properties": {
            "executionSuccessful": {"type": "boolean"},
            "toolExecutionNotifications": {"type": "array", "items": notification},
        },
    });
    let place = json!({
        "required": ["artifactLocation", "region"],
        "properties": {
            "artifactLocation": {
                "required": ["uri"],
                "properties": {"uri": {"type": "string", "pattern": "^[^ \\\\#]+$"}},
            },
            "region": {
                "required": ["startLine"],
                "properties": {"startLine": {"type": "integer", "minimum": 1}},
            },
        },
    });
    let result = json!({
        "type": "object",
        "required": ["message", "ruleId", "ruleIndex", "level", "locations"],
        "properties": {
            "message": text_object,
            "ruleIndex": {"type": "integer", "minimum": 0},
            "level": level,
            "locations": {"minItems": 1, "items": {"properties": {"physicalLocation": place}}},
        },
    });
    let run = json!({
        "type": "object",
        "required": ["tool", "results"],
        "properties": {
            "tool": {"type": "object", "required": ["driver"], "properties": {"driver": driver}},
            "invocations": {"type": "array", "items": invocation},
            "results": {"type": "array", "items": result},
        },
    });
    let schema = json!({
        "type": "object",
        "required": ["version", "runs"],
        "properties": {
            "$schema": {"type": "string", "format": "uri"},
            "version": {"const": "2.1.0"},
            "runs": {"type": "array", "minItems": 1, "items": run},
        },
    });
    let schema = jsonschema::validator_for(&schema).expect("a schema");
    let directory = directory(&[
        ("my mesh#1.yaml", BAD),
        ("other.yaml", "kind: X\napiVersion: v1\n"),
        ("no.yaml", "a: ["),
    ]);
    let output = lint(directory.path(), &[".", "--output", "sarif"]);
    let log: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let errors: Vec<_> = schema.iter_errors(&log).map(|error| error.to_string()).collect();
    assert!(errors.is_empty(), "{errors:?}");
    // What could be read is reported although something could not.
    assert_eq!(output.status.code(), Some(2));
    let run = &log["runs"][0];
    let results = run["results"].as_array().expect("a list");
    assert_eq!(results.len(), 2);
    for result in results {
        let index = result["ruleIndex"].as_u64().expect("a number");
        let index = usize::try_from(index).expect("small");
        assert_eq!(run["tool"]["driver"]["rules"][index]["id"], result["ruleId"]);
        let place = &result["locations"][0]["physicalLocation"];
        assert_eq!(place["artifactLocation"]["uri"], "my%20mesh%231.yaml");
    }
    let invocation = &run["invocations"][0];
    assert_eq!(invocation["executionSuccessful"], false);
    assert_eq!(invocation["toolExecutionNotifications"].as_array().expect("a list").len(), 2);
}

#[test]
fn standard_input_is_read_as_a_file() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_vaultmux-mesh"))
        .args(["lint", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program runs");
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(BAD.as_bytes()).expect("it reads");
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stdout).contains("--> <stdin>:5\n"), "{}", text(&output.stdout));
}

#[test]
fn bad_input_is_exit_code_2_and_names_the_place() {
    let directory = directory(&[
        ("bad.yaml", "a: 1\nb: [\n"),
        ("mesh.yaml", BAD),
        ("empty/readme.md", ""),
        ("chart/Chart.yaml", "apiVersion: v2\nname: x\n"),
        ("chart/templates/a.yaml", "{{ if x }}"),
    ]);
    fs::write(directory.path().join("latin.yaml"), b"a: \xe9\n").expect("write a file");
    for (arguments, error) in [
        (&["none.yaml"][..], "none.yaml: No such file"),
        (&["mesh.yaml", "bad.yaml"], "bad.yaml:"),
        (&["latin.yaml"], "latin.yaml: "),
        (&["empty"], "empty: holds no .yaml, .yml or .json file"),
        (&["mesh.yaml", "--allow", "none"], "--allow none: no such rule"),
        (&[], "required arguments"),
        (&["--rules", "mesh.yaml"], "cannot be used with"),
    ] {
        let output = lint(directory.path(), arguments);
        let errors = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {errors}");
        assert!(errors.starts_with("error: ") && errors.contains(error), "{errors}");
        assert!(!errors.contains("panicked"), "{errors}");
    }
    // The findings of the others are shown all the same.
    let output = lint(directory.path(), &["mesh.yaml", "bad.yaml"]);
    assert!(text(&output.stdout).contains("authz-fails-open"));
    // A chart's templates are no YAML yet.
    let output = lint(directory.path(), &["chart"]);
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("templates are not looked at"));
}

/// Silence about what was not understood would read as praise.
#[test]
fn files_without_anything_known_are_bad_input() {
    let directory = directory(&[
        ("deployment.yaml", "apiVersion: apps/v1\nkind: Deployment\n"),
        ("notes.yaml", "some: thing\n"),
        ("kustomization.yaml", "apiVersion: kustomize.config.k8s.io/v1\nkind: Kustomization\n"),
        ("empty.yaml", ""),
        ("settings.yaml", "apiVersion: v1\nkind: ConfigMap\ndata: {colour: red}\n"),
        ("namespace.yaml", "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n"),
    ]);
    let unknown =
        ["deployment.yaml", "notes.yaml", "kustomization.yaml", "empty.yaml", "settings.yaml"];
    for files in unknown.iter().map(std::slice::from_ref).chain([&unknown[..]]) {
        let answer = lint(directory.path(), files);
        let errors = text(&answer.stderr);
        assert_eq!(answer.status.code(), Some(2), "{files:?}: {errors}");
        assert!(errors.contains("is configuration that lint knows"), "{files:?}: {errors}");
    }
    for output in ["text", "json", "sarif"] {
        let arguments = [&unknown[..], &["--output", output]].concat();
        assert_eq!(lint(directory.path(), &arguments).status.code(), Some(2), "{output}");
        // One that is known is enough.
        let arguments = [&unknown[..], &["namespace.yaml", "--output", output]].concat();
        assert_eq!(lint(directory.path(), &arguments).status.code(), Some(0), "{output}");
    }
}

/// What istiod itself makes of our manifests, with the errors that docs/lint.md explains.
#[test]
fn what_istiod_writes_has_no_errors_but_those_explained() {
    let explained: &[(&str, &str)] = &[("egress-gateway", "no-catch-all-domain")];
    let mut looked_at = 0;
    for entry in fs::read_dir(repository("tests/it/istio")).expect("readable") {
        let path = entry.expect("an entry").path().join("bootstrap.yaml");
        if !path.exists() {
            continue;
        }
        looked_at += 1;
        let name = path.parent().and_then(Path::file_name).expect("a name");
        let name = name.to_str().expect("plain");
        let path = path.to_str().expect("a plain path");
        let output = lint(&repository("."), &[path, "--output", "json"]);
        let found: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let mut errors: Vec<_> = found["findings"]
            .as_array()
            .expect("a list")
            .iter()
            .filter(|it| it["severity"] == "error")
            .map(|it| (name, it["rule"].as_str().expect("text")))
            .collect();
        errors.dedup();
        let expected: Vec<_> = explained.iter().filter(|it| it.0 == name).copied().collect();
        assert_eq!(errors, expected, "{}", text(&output.stdout));
    }
    assert!(looked_at > 5, "only {looked_at} bootstraps");
}

#[test]
fn the_page_lists_the_rules_that_there_are() {
    let output = lint(&repository("."), &["--rules", "--output", "json"]);
    let rules: Vec<Value> = serde_json::from_slice(&output.stdout).expect("JSON");
    let row = |rule: &Value| {
        let [id, severity, what] =
            ["rule", "severity", "what"].map(|key| rule[key].as_str().expect("text"));
        format!("| `{id}` | {severity} | {what} |")
    };
    let rows: Vec<_> = rules.iter().map(row).collect();
    let page = fs::read_to_string(repository("docs/lint.md")).expect("the page");
    let shown: Vec<_> = page.lines().filter(|line| line.starts_with("| `")).collect();
    assert_eq!(shown, rows, "put these rows into docs/lint.md:\n{}", rows.join("\n"));
    let listed = text(&lint(&repository("."), &["--rules"]).stdout);
    assert_eq!(listed.lines().count(), rules.len());
}

#[test]
fn the_page_shows_what_the_program_prints() {
    let files: Vec<_> = blocks("yaml");
    let directory = tempfile::tempdir().expect("make a directory");
    for file in &files {
        let first = file.lines().next().expect("a first line");
        let name = first.strip_prefix("# ").expect("a block starts with its file's name");
        fs::write(directory.path().join(name), file).expect("write a file");
    }
    let session = blocks("console").concat();
    let commands: Vec<_> = session.split("$ vaultmux-mesh lint ").skip(1).collect();
    assert_eq!(commands.len(), 2);
    for command in commands {
        let (arguments, shown) = command.split_once('\n').expect("an answer");
        let arguments: Vec<_> = arguments.split_whitespace().collect();
        assert_eq!(text(&lint(directory.path(), &arguments).stdout), shown, "{arguments:?}");
    }
    let allowed = lint(directory.path(), &["allowed.yaml", "--deny", "warnings"]);
    assert_eq!(allowed.status.code(), Some(0), "{}", text(&allowed.stdout));
}
