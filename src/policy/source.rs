//! Policies from files. Reads everything and reports every problem; watching
//! and swapping are the caller's.

use std::{
    collections::BTreeMap,
    fmt, fs,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

use aws_lc_rs::digest::{Context, SHA256};

use super::{
    index::Index,
    problem::{LoadFailure, MAX_KEPT, PolicyProblem, Subjects, shortened},
    request::Verb,
    rule::{HttpRule, Origin, Pattern, Policy, SecretRule, Shape, Subject, Target},
    schema, yaml,
};
use crate::{identity::ServiceAccount, secret::Catalog};

/// Larger files are refused unread.
const MAX_FILE: u64 = 8 * 1024 * 1024;
/// So are all files, if together they are larger than that.
const MAX_TOTAL: u64 = 256 * 1024 * 1024;
/// The policy that stands for none in a sidecar.
const SIDECAR_DEFAULT: &str = "sidecar-default";

/// Validated policies, compiled; cheap to clone.
#[derive(Clone)]
pub struct Policies {
    /// By name.
    pub(super) policies: Arc<[Arc<Policy>]>,
    pub(super) index: Arc<Index>,
    hash: Arc<str>,
}

/// Loads files and directories: of a directory its `*.yaml` and `*.yml` files,
/// without those that start with a dot and without subdirectories. Symbolic
/// links are followed, since mounted `ConfigMap`s are made of them.
///
/// # Errors
/// [`LoadFailure`] holds every problem of every file.
pub fn load(paths: &[PathBuf], catalog: &Catalog) -> Result<Policies, LoadFailure> {
    let mut problems = Vec::new();
    let mut files = Vec::new();
    for path in paths {
        let found = match path.is_dir() {
            true => list(path),
            false => Ok(vec![path.clone()]),
        };
        match found {
            Ok(found) => files.extend(found),
            Err(error) => problems.push(unreadable(path, &error.to_string())),
        }
    }
    let size = |file: &PathBuf| fs::metadata(file).map_or(0, |metadata| metadata.len());
    // A file that is too large for itself is refused as such.
    let total: u64 = files.iter().map(size).filter(|size| *size <= MAX_FILE).sum();
    if let (true, Some(path)) = (total > MAX_TOTAL, paths.first()) {
        let message = format!("all files together are larger than {} MiB", MAX_TOTAL >> 20);
        problems.push(unreadable(path, &message));
        return Err(LoadFailure { problems, denied: Vec::new() });
    }
    let mut texts = Vec::new();
    for file in files {
        match read(&file) {
            Ok(text) => texts.push((file, text)),
            Err((line, message)) => {
                problems.push(PolicyProblem { line, ..unreadable(&file, &message) });
            }
        }
    }
    match Policies::parse(&texts, catalog) {
        Ok(policies) if problems.is_empty() => Ok(policies),
        Ok(_) => Err(LoadFailure { problems, denied: Vec::new() }),
        Err(mut failure) => {
            problems.append(&mut failure.problems);
            Err(LoadFailure { problems, ..failure })
        }
    }
}

fn list(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        let yaml = path.extension().is_some_and(|end| end == "yaml" || end == "yml");
        // A dangling link is no directory; reading it will say what is wrong.
        if yaml && !hidden && !path.is_dir() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// The text of a file, or the line where it stops to be one and what is wrong.
fn read(file: &Path) -> Result<String, (u64, String)> {
    let failed = |error: io::Error| (0, error.to_string());
    let check = |metadata: fs::Metadata| match metadata {
        // Opening a FIFO or a device could wait for ever.
        metadata if !metadata.is_file() => Err((0, "not a regular file".to_owned())),
        metadata if metadata.len() > MAX_FILE => Err((0, too_large())),
        _ => Ok(()),
    };
    check(fs::metadata(file).map_err(failed)?)?;
    let opened = fs::File::open(file).map_err(failed)?;
    check(opened.metadata().map_err(failed)?)?;
    let mut bytes = Vec::new();
    // One byte more than allowed tells a file that grew since.
    opened.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(failed)?;
    String::from_utf8(bytes).map_err(|error| {
        let text = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = 1 + text.iter().filter(|byte| **byte == b'\n').count() as u64;
        (line, "is not UTF-8 text".to_owned())
    })
}

fn too_large() -> String {
    format!("is larger than {} MiB", MAX_FILE >> 20)
}

fn unreadable(file: &Path, message: &str) -> PolicyProblem {
    let message = format!("cannot be read: {message}");
    PolicyProblem { file: file.to_owned(), line: 0, policy: None, key: String::new(), message }
}

// === impl Policies ===

impl Policies {
    /// No policies: everything is denied.
    #[must_use]
    pub fn empty() -> Self {
        Self { policies: [].into(), index: Arc::default(), hash: hash(&mut []) }
    }

    /// What a sidecar without policies allows: its own service account may do
    /// everything but `use` with every secret.
    #[must_use]
    pub fn sidecar_default(account: &ServiceAccount) -> Self {
        let rule = SecretRule {
            backends: None,
            patterns: vec![Pattern { shape: Shape::Any, backends: None }],
            fields: Vec::new(),
            verbs: Verb::ALL.into_iter().filter(|verb| *verb != Verb::Use).collect(),
            destinations: Vec::new(),
        };
        let from = Subject { accounts: vec![account.clone()], ..Subject::default() };
        let policy = Policy {
            name: SIDECAR_DEFAULT.into(),
            allow: true,
            audit: false,
            from: [from].into(),
            to: vec![Target::Secrets(rule)],
            origin: Origin {
                file: Path::new("(sidecar default)").into(),
                line: 0,
                from: vec![0],
                to: vec![0],
            },
        };
        let content = format!("{SIDECAR_DEFAULT} {account}");
        Self::assemble(vec![Arc::new(policy)], hash(&mut [&content])).expect("one rule is not many")
    }

    /// Policies that were read one by one, in the order of their names.
    #[cfg(test)]
    pub(super) fn of(policies: Vec<Arc<Policy>>) -> Self {
        Self::assemble(policies, hash(&mut [])).expect("few rules")
    }

    /// Compiles policies that are in the order of their names.
    fn assemble(policies: Vec<Arc<Policy>>, hash: Arc<str>) -> Result<Self, Vec<PolicyProblem>> {
        let index = Arc::new(Index::build(&policies)?);
        Ok(Self { policies: policies.into(), index, hash })
    }

    /// Validates the texts of files; no I/O.
    ///
    /// # Errors
    /// [`LoadFailure`] holds every problem of every file.
    pub fn parse(files: &[(PathBuf, String)], catalog: &Catalog) -> Result<Self, LoadFailure> {
        let mut problems = Vec::new();
        let mut denied = Vec::new();
        let mut named: BTreeMap<String, Vec<Named>> = BTreeMap::new();
        for (file, text) in files {
            if text.len() as u64 > MAX_FILE {
                problems.push(unreadable(file, &too_large()));
                continue;
            }
            // Most often a file that is being written: not the same as no policy.
            if text.is_empty() {
                problems.push(unreadable(file, "is empty; remove it if it holds no policy"));
                continue;
            }
            let shared: Arc<Path> = file.as_path().into();
            for document in yaml::documents(text) {
                let node = match document {
                    Ok(node) => node,
                    Err(yaml::YamlError { line, message }) => {
                        if problems.len() < MAX_KEPT {
                            problems.push(PolicyProblem { line, message, ..unreadable(file, "") });
                        }
                        continue;
                    }
                };
                let read = schema::read(&node, &shared, catalog, &mut problems);
                denied.extend(read.denied);
                if let Some((name, line)) = read.name {
                    let policy = read.policy.map(Arc::new);
                    named.entry(name).or_default().push(Named { file, line, policy });
                }
            }
        }
        let mut policies = Vec::with_capacity(named.len());
        for (name, bearers) in named {
            if let [_, again @ ..] = bearers.as_slice()
                && !again.is_empty()
            {
                let room = MAX_KEPT.saturating_sub(problems.len());
                let repeats = again.iter().map(|second| second.repeats(&bearers[0], &name));
                problems.extend(repeats.take(room));
                // Which of them is meant is unknown, so each Deny counts as invalid.
                denied.extend(bearers.iter().filter_map(Named::denied));
            }
            policies.extend(bearers.into_iter().filter_map(|bearer| bearer.policy));
        }
        if !problems.is_empty() {
            let position: BTreeMap<&Path, usize> =
                files.iter().enumerate().map(|(at, (file, _))| (file.as_path(), at)).collect();
            problems.sort_by_key(|problem| (position.get(&*problem.file).copied(), problem.line));
            return Err(LoadFailure { problems, denied });
        }
        let mut contents: Vec<&str> = files.iter().map(|(_, text)| text.as_str()).collect();
        let deniers: Vec<_> =
            policies.iter().filter(|policy| !policy.allow && !policy.audit).cloned().collect();
        Self::assemble(policies, hash(&mut contents)).map_err(|problems| {
            let refused = |policy: &&Arc<Policy>| {
                problems.iter().any(|problem| problem.policy.as_deref() == Some(&*policy.name))
            };
            let denied = deniers.iter().filter(refused);
            let denied = denied.map(|policy| Subjects(policy.from.clone())).collect();
            LoadFailure { problems, denied }
        })
    }

    /// A hash of the content: equal on replicas that hold the same files,
    /// whatever these are called.
    #[must_use]
    pub fn hash(&self) -> &Arc<str> {
        &self.hash
    }

    /// Every rule about secrets that can allow, in the order of reports.
    pub(super) fn secret_allows(&self) -> impl Iterator<Item = (&Policy, usize, &SecretRule)> {
        self.allows().filter_map(|(policy, at, target)| match target {
            Target::Secrets(target) => Some((policy, at, target)),
            Target::Http(_) => None,
        })
    }

    /// Every rule about mesh traffic that can allow, in the order of reports.
    pub(super) fn http_allows(&self) -> impl Iterator<Item = (&Policy, usize, &HttpRule)> {
        self.allows().filter_map(|(policy, at, target)| match target {
            Target::Http(target) => Some((policy, at, target)),
            Target::Secrets(_) => None,
        })
    }

    fn allows(&self) -> impl Iterator<Item = (&Policy, usize, &Target)> {
        let enforced = self.policies.iter().filter(|policy| policy.allow && !policy.audit);
        enforced.flat_map(|policy| {
            policy.to.iter().enumerate().map(move |(at, target)| (&**policy, at, target))
        })
    }

    /// The policy of that name.
    pub(super) fn named(&self, name: &str) -> Option<&Policy> {
        let at = self.policies.binary_search_by(|policy| (*policy.name).cmp(name)).ok()?;
        Some(&self.policies[at])
    }

    /// How many policies there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.policies.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.policies.is_empty()
    }
}

impl fmt::Debug for Policies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Policies")
            .field("policies", &self.policies.len())
            .field("hash", &self.hash)
            .finish_non_exhaustive()
    }
}

fn hash(contents: &mut [&str]) -> Arc<str> {
    contents.sort_unstable();
    let mut context = Context::new(&SHA256);
    for content in contents {
        // The length keeps `ab`, `c` apart from `a`, `bc`.
        context.update(&(content.len() as u64).to_be_bytes());
        context.update(content.as_bytes());
    }
    let digest = context.finish();
    digest.as_ref()[..8].iter().map(|byte| format!("{byte:02x}")).collect::<String>().into()
}

/// A document that bears a name.
struct Named<'f> {
    file: &'f Path,
    line: u64,
    policy: Option<Arc<Policy>>,
}

// === impl Named ===

impl Named<'_> {
    fn repeats(&self, first: &Self, name: &str) -> PolicyProblem {
        let place = format!("{}:{}", first.file.display(), first.line);
        PolicyProblem {
            file: self.file.to_owned(),
            line: self.line,
            policy: Some(shortened(name).into_owned()),
            key: "metadata.name".to_owned(),
            message: format!("another policy has this name, at {place}"),
        }
    }

    fn denied(&self) -> Option<Subjects> {
        let policy = self.policy.as_ref()?;
        (!policy.allow && !policy.audit).then(|| Subjects(policy.from.clone()))
    }
}
