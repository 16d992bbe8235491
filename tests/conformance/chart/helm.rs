//! `helm`, with a home of its own, and what it renders.

use std::{path::PathBuf, process::Command};

use serde_json::Value;
use tempfile::TempDir;

use crate::{harness::repository, servers::program};

/// The chart, from the repository's root.
pub(super) const CHART: &str = "charts/vaultmux-mesh";
/// Where it is installed.
pub(super) const NAMESPACE: &str = "vaultmux-system";

/// The program, and a directory for its files.
pub(super) struct Helm {
    directory: TempDir,
}

/// Values under a name.
pub(super) struct Release {
    pub(super) name: String,
    pub(super) values: Value,
    /// What names them to helm.
    pub(super) arguments: Vec<String>,
    directory: TempDir,
}

/// How a command ended.
pub(super) struct Ended {
    command: String,
    good: bool,
    stdout: String,
    stderr: String,
}

// === impl Helm ===

impl Helm {
    pub(super) fn new() -> Self {
        Self { directory: tempfile::tempdir().expect("a directory") }
    }

    pub(super) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        std::fs::write(&path, text).expect("written");
        path
    }

    pub(super) fn run<A: AsRef<str>>(&self, arguments: &[A]) -> Ended {
        self.run_by("helm", arguments)
    }

    fn run_by<A: AsRef<str>>(&self, version: &str, arguments: &[A]) -> Ended {
        let arguments: Vec<_> = arguments.iter().map(AsRef::as_ref).collect();
        let output = Command::new(program(version))
            .args(&arguments)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .env("HOME", self.directory.path())
            .env_remove("KUBECONFIG")
            .output()
            .expect("helm runs");
        let text = |bytes| String::from_utf8(bytes).expect("text");
        Ended {
            command: arguments.join(" "),
            good: output.status.success(),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }

    pub(super) fn template(&self, release: &Release, kubernetes: &str) -> Ended {
        self.template_by("helm", release, kubernetes)
    }

    /// As [`Self::template`], by another program.
    pub(super) fn template_by(&self, version: &str, release: &Release, kubernetes: &str) -> Ended {
        let place = ["template", "vaultmux-mesh", CHART, "--namespace", NAMESPACE];
        let place = place.into_iter().chain(["--kube-version", kubernetes]);
        let arguments = place.chain(release.arguments.iter().map(String::as_str));
        self.run_by(version, &arguments.collect::<Vec<_>>())
    }
}

// === impl Release ===

impl Release {
    pub(super) fn new(name: &str, values: &str) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("values.yaml");
        std::fs::write(&file, values).expect("written");
        let values = serde_saphyr::from_str(values).unwrap_or_else(|e| panic!("{name}: {e}"));
        let arguments = vec!["--values".to_owned(), file.display().to_string()];
        Self { name: name.to_owned(), values, arguments, directory }
    }

    /// Adds policies as `--set-file` does.
    pub(super) fn policies(&mut self, text: &str) {
        let file = self.directory.path().join("policies.yaml");
        std::fs::write(&file, text).expect("written");
        self.arguments.push("--set-file".into());
        self.arguments.push(format!("policies.own\\.yaml={}", file.display()));
    }

    /// The values of a situation in the chart's `ci`.
    pub(super) fn ci(name: &str) -> Self {
        let path = repository(CHART).join("ci").join(format!("{name}-values.yaml"));
        Self::new(name, &std::fs::read_to_string(path).expect("text"))
    }

    pub(super) fn file(&self) -> &str {
        &self.arguments[1]
    }
}

// === impl Ended ===

impl Ended {
    pub(super) fn expect_good(self) -> String {
        assert!(self.good, "helm {}:\n{}{}", self.command, self.stdout, self.stderr);
        self.stdout
    }

    /// What was said to a command that has to fail.
    pub(super) fn expect_bad(self) -> String {
        assert!(!self.good, "helm {} did not fail:\n{}", self.command, self.stdout);
        self.stderr
    }
}

/// The objects of manifests, hooks included.
pub(super) fn documents(manifests: &str) -> Vec<Value> {
    let documents = manifests.split("\n---\n").map(|text| text.trim_start_matches("---\n"));
    let documents = documents.filter(|text| text.lines().any(|line| line.starts_with("kind:")));
    documents.map(|text| serde_saphyr::from_str(text).expect("YAML")).collect()
}

pub(super) fn object<'a>(objects: &'a [Value], kind: &str, name: &str) -> &'a Value {
    let is = |object: &&Value| object["kind"] == kind && object["metadata"]["name"] == name;
    objects.iter().find(is).unwrap_or_else(|| panic!("no {kind} {name}"))
}
