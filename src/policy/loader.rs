//! Policies from files, again and again: only what has changed is parsed anew.
//!
//! All files of one mounted `ConfigMap` are of one version of it. A mount is a
//! directory of links through `..data`, which is replaced to change them all at
//! once; read link by link, half of the old and half of the new could be taken for
//! a whole. So `..data` is followed once, and what was read counts only if nothing
//! has changed meanwhile.

use std::{
    collections::{BTreeMap, HashMap},
    ffi::OsStr,
    fs,
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    content::Digest,
    problem::{LoadFailure, PolicyProblem},
    source::{MAX_FILE, Parsed, Policies, too_large, unreadable},
    suite::Suite,
};
use crate::secret::Catalog;

/// How often files are read again that change while they are read.
const TRIES: usize = 5;
/// More than this of all files together is not read, in bytes.
const MAX_TOTAL: u64 = 256 * 1024 * 1024;
/// The link that the content of a mount is behind.
const DATA: &str = "..data";

/// Loads policies, and remembers what each file said.
#[derive(Debug, Default)]
pub struct Loader {
    catalog: Catalog,
    files: HashMap<PathBuf, Arc<Parsed>>,
}

/// A file to read: as it is named, and where that was found to lead.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Source {
    named: PathBuf,
    found: PathBuf,
}

/// Changes whenever a file does, as far as a file system tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    file: (u64, u64),
    size: u64,
    modified: (i64, i64),
}

/// What `..data` of each directory led to when it was first asked.
#[derive(Default)]
struct Mounts(HashMap<PathBuf, Option<PathBuf>>);

/// Loads files and directories: of a directory its `*.yaml` and `*.yml` files,
/// without those that start with a dot and without subdirectories. Symbolic
/// links are followed, since mounted `ConfigMap`s are made of them.
///
/// # Errors
/// [`LoadFailure`] holds every problem of every file.
pub fn load(paths: &[PathBuf], catalog: &Catalog) -> Result<Policies, LoadFailure> {
    Loader::default().load(paths, catalog)
}

/// Reads tables of cases: of a file as large as one of policies may be. It may be a pipe.
///
/// # Errors
/// As [`Suite::parse`], and where the file cannot be read.
pub fn load_suites(file: &Path) -> Result<Vec<Suite>, LoadFailure> {
    let failed = |message: &str| LoadFailure {
        problems: vec![unreadable(file, message)],
        denied: Vec::new(),
    };
    let mut bytes = Vec::new();
    let read =
        fs::File::open(file).and_then(|opened| opened.take(MAX_FILE + 1).read_to_end(&mut bytes));
    read.map_err(|error| failed(&error.to_string()))?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(failed(&too_large()));
    }
    let text = String::from_utf8(bytes).map_err(|_| failed("is not UTF-8 text"))?;
    Suite::parse(file, &text)
}

// === impl Loader ===

impl Loader {
    /// As [`load`]. Files that say what they said at the last call, for the same
    /// catalog, keep their policies.
    ///
    /// # Errors
    /// [`LoadFailure`] holds every problem of every file.
    pub fn load(&mut self, paths: &[PathBuf], catalog: &Catalog) -> Result<Policies, LoadFailure> {
        if self.catalog != *catalog {
            self.files.clear();
            self.catalog = catalog.clone();
        }
        let (texts, problems) = read(paths);
        let mut before = std::mem::take(&mut self.files);
        let mut files = Vec::with_capacity(texts.len());
        for (path, text) in &texts {
            let digest = Digest::of_text(text);
            let known = before.remove(path).filter(|known| known.digest == digest);
            let file = known.unwrap_or_else(|| Arc::new(Parsed::read(path, text, digest, catalog)));
            self.files.insert(path.clone(), Arc::clone(&file));
            files.push(file);
        }
        Policies::of_files(&files, problems)
    }
}

type Texts = (Vec<(PathBuf, String)>, Vec<PolicyProblem>);

/// Reads every file, all of them as they were at one time.
fn read(paths: &[PathBuf]) -> Texts {
    let mut found = sources(paths);
    for _ in 0..TRIES {
        let (sources, problems) = &found;
        let mut problems = problems.clone();
        if too_many(sources) {
            let message = format!("all files together are larger than {} MiB", MAX_TOTAL >> 20);
            let named = paths.first().map_or(Path::new(""), PathBuf::as_path);
            return (Vec::new(), [vec![unreadable(named, &message)], problems].concat());
        }
        let (mut texts, mut stamps) = (Vec::new(), Vec::new());
        for Source { named, found } in sources {
            match read_file(found) {
                Ok((text, stamp)) => {
                    texts.push((named.clone(), text));
                    stamps.push((found, stamp));
                }
                Err((line, message)) => {
                    problems.push(PolicyProblem { line, ..unreadable(named, &message) });
                }
            }
        }
        let unchanged = |(file, stamp): &(&PathBuf, Stamp)| {
            fs::metadata(file).is_ok_and(|metadata| Stamp::of(&metadata) == *stamp)
        };
        let settled = stamps.iter().all(unchanged);
        let again = self::sources(paths);
        if settled && again.0 == *sources {
            return (texts, problems);
        }
        found = again;
    }
    let named = paths.first().map_or(Path::new(""), PathBuf::as_path);
    (Vec::new(), vec![unreadable(named, "files keep changing while they are read")])
}

fn sources(paths: &[PathBuf]) -> (Vec<Source>, Vec<PolicyProblem>) {
    let (mut sources, mut problems) = (Vec::new(), Vec::new());
    let mut mounts = Mounts::default();
    for path in paths {
        let found = match fs::canonicalize(path) {
            Ok(real) if real.is_dir() => list(path, &real, &mut mounts),
            Ok(real) => {
                let found = mounts.below(path).unwrap_or(real);
                Ok(vec![Source { named: path.clone(), found }])
            }
            Err(error) => Err(error),
        };
        match found {
            Ok(found) => sources.extend(found),
            Err(error) => problems.push(unreadable(path, &error.to_string())),
        }
    }
    (sources, problems)
}

/// The policy files of a directory, by name.
fn list(named: &Path, real: &Path, mounts: &mut Mounts) -> io::Result<Vec<Source>> {
    let data = mounts.data(real);
    let mut found: BTreeMap<_, PathBuf> = BTreeMap::new();
    // Links and `..data` do not change at once: in a mount its content is what counts.
    for directory in [Some(real), data.as_deref()].into_iter().flatten() {
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            let Some(name) = path.file_name().filter(|name| is_policy_file(name)) else { continue };
            let mounted = data.is_some() && directory == real && through_data(&path).is_some();
            // A dangling link is no directory; reading it will say what is wrong.
            if !mounted && !path.is_dir() {
                found.insert(name.to_owned(), path);
            }
        }
    }
    let source = |(name, found)| Source { named: named.join(name), found };
    Ok(found.into_iter().map(source).collect())
}

fn is_policy_file(name: &OsStr) -> bool {
    let hidden = name.as_encoded_bytes().starts_with(b".");
    let extension = Path::new(name).extension();
    !hidden && extension.is_some_and(|end| end == "yaml" || end == "yml")
}

/// What follows `..data` in a link that goes through it.
fn through_data(link: &Path) -> Option<PathBuf> {
    fs::read_link(link).ok()?.strip_prefix(DATA).ok().map(Path::to_owned)
}

/// The text of a file, or the line where it stops to be one and what is wrong.
fn read_file(file: &Path) -> Result<(String, Stamp), (u64, String)> {
    let failed = |error: io::Error| (0, error.to_string());
    let check = |metadata: &fs::Metadata| match metadata {
        // Opening a FIFO or a device could wait for ever.
        metadata if !metadata.is_file() => Err((0, "not a regular file".to_owned())),
        metadata if metadata.len() > MAX_FILE => Err((0, too_large())),
        _ => Ok(()),
    };
    check(&fs::metadata(file).map_err(failed)?)?;
    let opened = fs::File::open(file).map_err(failed)?;
    let metadata = opened.metadata().map_err(failed)?;
    check(&metadata)?;
    let mut bytes = Vec::new();
    // One byte more than allowed tells a file that grew since.
    opened.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(failed)?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let text = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = 1 + text.iter().filter(|byte| **byte == b'\n').count() as u64;
        (line, "is not UTF-8 text".to_owned())
    })?;
    Ok((text, Stamp::of(&metadata)))
}

/// Whether all files together are more than is read. One that is too large for itself is
/// refused as such.
fn too_many(sources: &[Source]) -> bool {
    let size = |source: &Source| fs::metadata(&source.found).map_or(0, |metadata| metadata.len());
    sources.iter().map(size).filter(|size| *size <= MAX_FILE).sum::<u64>() > MAX_TOTAL
}

// === impl Stamp ===

impl Stamp {
    fn of(metadata: &fs::Metadata) -> Self {
        Self {
            file: (metadata.dev(), metadata.ino()),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        }
    }
}

// === impl Mounts ===

impl Mounts {
    fn data(&mut self, directory: &Path) -> Option<PathBuf> {
        let look = || {
            let link = directory.join(DATA);
            // In a mount it is a link; a directory of that name means nothing.
            fs::read_link(&link).ok()?;
            fs::canonicalize(&link).ok().filter(|data| data.is_dir())
        };
        self.0.entry(directory.to_owned()).or_insert_with(look).clone()
    }

    /// Where a link of a mount leads by the same `..data` as its neighbours.
    fn below(&mut self, link: &Path) -> Option<PathBuf> {
        let rest = through_data(link)?;
        let directory = match link.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let directory = fs::canonicalize(directory).ok()?;
        Some(self.data(&directory)?.join(rest))
    }
}
