//! What the compiler does not check: which layer may use what.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

fn sources() -> Vec<(PathBuf, String)> {
    fn walk(directory: &Path, found: &mut Vec<(PathBuf, String)>) {
        for entry in fs::read_dir(directory).expect("src is readable") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("text");
                found.push((path, text));
            }
        }
    }
    let mut found = Vec::new();
    walk(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
    found
}

/// The module at the top: `src/policy/rule.rs` belongs to `policy`.
fn module(path: &Path) -> String {
    let relative = path.strip_prefix(env!("CARGO_MANIFEST_DIR")).expect("inside the crate");
    let first = relative.components().nth(1).expect("below src").as_os_str();
    first.to_string_lossy().trim_end_matches(".rs").to_owned()
}

fn is_test(path: &Path) -> bool {
    path.components().any(|part| {
        let part = part.as_os_str().to_string_lossy();
        ["tests", "tests.rs", "fixture.rs", "fake.rs", "faults.rs"].contains(&&*part)
    })
}

/// The code of a file: no comments, nothing from its test module on.
fn code(text: &str) -> String {
    let end = text.find("#[cfg(test)]\nmod tests {").unwrap_or(text.len());
    let lines = text[..end].lines().filter(|line| !line.trim_start().starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

/// Our own modules that the code names: `x` of `crate::x` and `crate::{x, y::z}`.
fn used_modules(code: &str) -> BTreeSet<String> {
    let word = |text: &str| {
        let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
        text[..end].to_owned()
    };
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        let Some(list) = rest.strip_prefix('{') else {
            found.insert(word(rest));
            continue;
        };
        let mut depth = 0;
        let mut item = 0;
        for (at, c) in list.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => {
                    found.insert(word(list[item..at].trim_start()));
                    break;
                }
                '}' => depth -= 1,
                ',' if depth == 0 => {
                    found.insert(word(list[item..at].trim_start()));
                    item = at + 1;
                }
                _ => {}
            }
        }
    }
    found
}

#[test]
fn calls_go_down_only() {
    // Each layer with the modules of ours that it must not name.
    let edges = ["ext_authz", "ext_proc", "rest", "admin", "cli"];
    let above_core =
        ["ext_authz", "ext_proc", "rest", "admin", "cli", "api", "app", "config", "net"];
    let mut forbidden: Vec<(&str, Vec<&str>)> = vec![
        ("secret", vec!["identity", "policy", "resolver", "backends", "operation", "snapshot"]),
        ("identity", vec!["secret", "policy", "resolver", "backends", "operation", "snapshot"]),
        ("audit", vec!["resolver", "backends", "snapshot"]),
        ("policy", vec!["resolver", "backends", "operation", "snapshot"]),
        ("backends", vec!["identity", "policy", "resolver", "operation", "snapshot", "metrics"]),
        ("api", vec!["ext_authz", "ext_proc", "rest", "admin", "cli", "app", "config", "backends"]),
    ];
    for core in [
        "audit",
        "secret",
        "identity",
        "policy",
        "resolver",
        "operation",
        "injection",
        "signing",
        "snapshot",
        "webhook",
        "backends",
    ] {
        forbidden.push((core, above_core.to_vec()));
    }
    let modules = sources().iter().map(|(path, _)| module(path)).collect::<BTreeSet<_>>();
    for leaf in ["apiserver", "issuer", "lint"] {
        let all_but_itself = modules.iter().map(|name| &**name).filter(|name| *name != leaf);
        forbidden.push((leaf, all_but_itself.collect()));
    }
    for edge in edges {
        let others = edges.into_iter().filter(|other| *other != edge).collect();
        forbidden.push((edge, others));
        forbidden.push((edge, vec!["apiserver"]));
        if edge != "cli" {
            forbidden.push((edge, vec!["app", "config", "backends"]));
        }
    }
    for (path, text) in sources().iter().filter(|(path, _)| !is_test(path)) {
        let code = code(text);
        for (layer, names) in &forbidden {
            if module(path) != *layer {
                continue;
            }
            let used = used_modules(&code);
            for name in names {
                assert!(!used.contains(*name), "{} uses {name}", path.display());
            }
        }
    }
}

#[test]
fn wire_types_and_sdks_stay_in_their_layer() {
    let allowed: &[(&str, &[&str])] = &[
        ("envoy_types", &["ext_authz", "ext_proc", "app"]),
        ("tonic", &["ext_authz", "ext_proc", "app", "net", "backends"]),
        ("axum", &["rest", "admin", "app", "net"]),
        ("aws_config", &["backends"]),
        ("aws_sdk_secretsmanager", &["backends"]),
        ("aws_sdk_sts", &["backends"]),
        ("aws_smithy_http_client", &["backends"]),
        ("aws_smithy_runtime_api", &["backends"]),
        ("azure_core", &["backends"]),
        ("azure_identity", &["backends"]),
        ("azure_security_keyvault_secrets", &["backends"]),
        ("google_cloud_auth", &["backends"]),
        ("google_cloud_gax", &["backends"]),
        ("google_cloud_secretmanager_v1", &["backends"]),
        ("k8s_openapi", &["backends", "identity"]),
        ("kube", &["apiserver", "identity"]),
        ("prost", &["backends"]),
        ("quick_junit", &["cli"]),
        ("utoipa", &["api"]),
        ("utoipa_swagger_ui", &["rest"]),
        ("tonic_prost", &["backends"]),
        ("aws_credential_types", &["backends", "signing"]),
        ("aws_sigv4", &["signing"]),
        ("reqwest", &["backends", "issuer"]),
        ("governor", &["identity", "rate"]),
        ("jsonwebtoken", &["identity"]),
        ("clap", &["cli", "main"]),
        ("schemars", &["json_schema", "config", "policy", "audit"]),
        ("serde_saphyr", &["config", "lint", "policy"]),
        ("prometheus_client", &["metrics"]),
        ("moka", &["identity", "resolver", "signing"]),
    ];
    for (path, text) in sources().iter().filter(|(path, _)| !is_test(path)) {
        let code = code(text);
        for (name, modules) in allowed {
            let used =
                code.contains(&format!("use {name}::")) || code.contains(&format!("{name}::"));
            assert!(!used || modules.contains(&&*module(path)), "{} uses {name}", path.display());
        }
    }
}

#[test]
fn every_source_file_is_a_module_and_says_what_it_is() {
    for (path, text) in sources() {
        assert!(text.starts_with("//!"), "{} has no module documentation", path.display());
        assert!(path.file_name().is_some_and(|name| name != "mod.rs"), "{}", path.display());
        let stem = path.file_stem().expect("a name").to_string_lossy().into_owned();
        if stem == "lib" || stem == "main" {
            continue;
        }
        let parent = path.parent().expect("a parent");
        let declaring = match parent.ends_with("src") {
            true => parent.join("lib.rs"),
            false => parent.with_extension("rs"),
        };
        let declaring = fs::read_to_string(&declaring)
            .unwrap_or_else(|_| panic!("{} is not there", declaring.display()));
        assert!(declaring.contains(&format!("mod {stem};")), "{} is not declared", path.display());
    }
}
