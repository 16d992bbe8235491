//! Files that somebody may believe to be in force.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{Finding, FindingKind};
use crate::policy::problem::PolicyProblem;

/// What looks like policies in the directories among `paths` and is not read: files that
/// end in another spelling of `.yaml` or `.yml`, and subdirectories with such files. What
/// cannot be listed is not looked into.
#[must_use]
pub fn unread_files(paths: &[PathBuf]) -> Vec<Finding> {
    let directories = paths.iter().filter(|path| path.is_dir());
    let mut findings: Vec<_> =
        directories.filter_map(|path| entries(path).ok()).flatten().filter_map(finding).collect();
    findings.sort_by(|a, b| a.place.file.cmp(&b.place.file));
    findings
}

/// What is not hidden.
fn entries(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let paths = fs::read_dir(directory)?.map(|entry| entry.map(|entry| entry.path()));
    let mut paths = paths.collect::<io::Result<Vec<_>>>()?;
    let hidden = |path: &PathBuf| {
        path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."))
    };
    paths.retain(|path| !hidden(path));
    Ok(paths)
}

fn finding(path: PathBuf) -> Option<Finding> {
    let message = if path.is_dir() {
        let holds_policies = entries(&path).ok()?.iter().any(|path| ends_like_yaml(path));
        holds_policies.then_some(
            "is not read: directories in a policy directory are not looked into; name it under \
             policies",
        )?
    } else {
        let read = path.extension().is_some_and(|end| end == "yaml" || end == "yml");
        (!read && ends_like_yaml(&path))
            .then_some("is not read: only names that end in .yaml or .yml are; rename it")?
    };
    let place = PolicyProblem {
        file: path,
        line: 0,
        policy: None,
        key: String::new(),
        message: message.to_owned(),
    };
    Some(Finding { kind: FindingKind::UnreadFile, place, rule: None })
}

/// Whether the name ends in `.yaml` or `.yml` in any case.
fn ends_like_yaml(path: &Path) -> bool {
    let end = path.extension().unwrap_or_default();
    ["yaml", "yml"].iter().any(|yaml| end.eq_ignore_ascii_case(yaml))
}
