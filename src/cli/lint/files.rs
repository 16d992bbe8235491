//! What to look at: files, what is in directories, standard input.

use std::{
    fs,
    io::Read as _,
    path::{Path, PathBuf},
};

use anyhow::Context;

use crate::lint::Source;

/// More than the config dump of a large mesh.
const LARGEST: u64 = 256 << 20;

/// What was read.
pub(super) struct Read {
    pub(super) sources: Vec<Source>,
    /// What was left out, and why.
    pub(super) notes: Vec<String>,
}

pub(super) fn read(paths: &[PathBuf]) -> anyhow::Result<Read> {
    let mut read = Read { sources: Vec::new(), notes: Vec::new() };
    for path in paths {
        if path.as_os_str() == "-" {
            let text = limited(std::io::stdin()).context("standard input")?;
            read.sources.push(Source { name: "<stdin>".to_owned(), text });
        } else if path.is_dir() {
            let before = read.sources.len();
            walk(path, &mut read)?;
            let found = read.sources.len() > before || !read.notes.is_empty();
            anyhow::ensure!(found, "{}: holds no .yaml, .yml or .json file", path.display());
        } else {
            read.sources.push(file(path)?);
        }
    }
    Ok(read)
}

/// All files below a directory, in the order of their names.
fn walk(directory: &Path, read: &mut Read) -> anyhow::Result<()> {
    let entries = fs::read_dir(directory).with_context(|| directory.display().to_string())?;
    let mut paths = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<Vec<_>, _>>()
        .with_context(|| directory.display().to_string())?;
    paths.sort();
    for path in paths {
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if hidden {
            continue;
        }
        if path.is_dir() {
            // Templates are no YAML before they are rendered.
            if path.ends_with("templates") && directory.join("Chart.yaml").exists() {
                read.notes.push(format!(
                    "{}: templates are not looked at: pipe `helm template` into `lint -`",
                    path.display()
                ));
            } else if !path.is_symlink() {
                walk(&path, read)?;
            }
        } else if ["yaml", "yml", "json"].iter().any(|end| path.extension() == Some(end.as_ref())) {
            read.sources.push(file(&path)?);
        }
    }
    Ok(())
}

fn file(path: &Path) -> anyhow::Result<Source> {
    let name = path.display().to_string();
    let text = fs::File::open(path).map_err(anyhow::Error::from).and_then(limited);
    Ok(Source { text: text.with_context(|| name.clone())?, name })
}

fn limited(input: impl std::io::Read) -> anyhow::Result<String> {
    let mut text = String::new();
    input.take(LARGEST + 1).read_to_string(&mut text)?;
    anyhow::ensure!(text.len() as u64 <= LARGEST, "is larger than {} MiB", LARGEST >> 20);
    Ok(text)
}
