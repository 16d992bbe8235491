//! Policies from texts: every problem of every file, or the whole set. Files are the
//! loader's.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    content::Digest,
    index::Index,
    problem::{LoadFailure, MAX_KEPT, PolicyProblem, Subjects, shortened},
    request::Verb,
    rule::{HttpRule, Origin, Pattern, Policy, SecretRule, Shape, Subject, Target},
    schema, yaml,
};
use crate::{identity::ServiceAccount, secret::Catalog};

/// Larger files are refused unread.
pub(super) const MAX_FILE: u64 = 8 * 1024 * 1024;
/// The policy that stands for none in a sidecar.
const SIDECAR_DEFAULT: &str = "sidecar-default";

/// Validated policies, compiled; cheap to clone.
#[derive(Clone)]
pub struct Policies {
    /// By name.
    pub(super) policies: Arc<[Arc<Policy>]>,
    pub(super) index: Arc<Index>,
    files: Arc<[PolicyFile]>,
    digest: Digest,
    /// Of the digest.
    hash: Arc<str>,
}

/// A file that policies came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyFile {
    /// As it was named.
    pub path: PathBuf,
    /// Of its bytes: 16 digits of its SHA-256.
    pub hash: Arc<str>,
    /// How many policies it holds.
    pub policies: usize,
}

/// All that a file's text says, which is the same as long as text and catalog are.
#[derive(Debug)]
pub(super) struct Parsed {
    pub(super) path: PathBuf,
    /// Of the text.
    pub(super) digest: Digest,
    problems: Vec<PolicyProblem>,
    denied: Vec<Subjects>,
    named: Vec<Named>,
}

/// A document that bears a name.
#[derive(Debug)]
struct Named {
    name: String,
    line: u64,
    digest: Digest,
    policy: Option<Arc<Policy>>,
}

pub(super) fn too_large() -> String {
    format!("is larger than {} MiB", MAX_FILE >> 20)
}

pub(super) fn unreadable(file: &Path, message: &str) -> PolicyProblem {
    let message = format!("cannot be read: {message}");
    PolicyProblem { file: file.to_owned(), line: 0, policy: None, key: String::new(), message }
}

// === impl Parsed ===

impl Parsed {
    /// Validates a file's text; no I/O.
    pub(super) fn read(path: &Path, text: &str, digest: Digest, catalog: &Catalog) -> Self {
        let (problems, denied, named) = Default::default();
        let mut file = Self { path: path.to_owned(), digest, problems, denied, named };
        if text.len() as u64 > MAX_FILE {
            file.problems.push(unreadable(path, &too_large()));
            return file;
        }
        // Most often a file that is being written: not the same as no policy.
        if text.is_empty() {
            file.problems.push(unreadable(path, "is empty; remove it if it holds no policy"));
            return file;
        }
        let shared: Arc<Path> = path.into();
        for document in yaml::documents(text) {
            let node = match document {
                Ok(node) => node,
                Err(yaml::YamlError { line, message }) => {
                    if file.problems.len() < MAX_KEPT {
                        file.problems.push(PolicyProblem { line, message, ..unreadable(path, "") });
                    }
                    continue;
                }
            };
            let read = schema::read(&node, &shared, catalog, &mut file.problems);
            file.denied.extend(read.denied);
            if let Some((name, line)) = read.name {
                let (digest, policy) = (Digest::of_document(&node), read.policy.map(Arc::new));
                file.named.push(Named { name, line, digest, policy });
            }
        }
        file
    }

    fn to_policy_file(&self) -> PolicyFile {
        let policies = self.named.len();
        PolicyFile { path: self.path.clone(), hash: self.digest.short(), policies }
    }
}

// === impl Policies ===

impl Policies {
    /// No policies: everything is denied.
    #[must_use]
    pub fn empty() -> Self {
        let (policies, index, files) = ([].into(), Arc::default(), Arc::default());
        let digest = Digest::of_documents([].iter());
        Self { policies, index, files, hash: digest.short(), digest }
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
        let digest = Digest::of_text(&format!("{SIDECAR_DEFAULT} {account}"));
        Self::assemble(vec![Arc::new(policy)], digest, Arc::default())
            .expect("one rule is not many")
    }

    /// Policies that were read one by one, in the order of their names.
    #[cfg(test)]
    pub(super) fn of(policies: Vec<Arc<Policy>>) -> Self {
        Self::assemble(policies, Digest::of_documents([].iter()), Arc::default())
            .expect("few rules")
    }

    /// The one place where a set begins: valid policies in the order of their names.
    fn assemble(
        policies: Vec<Arc<Policy>>,
        digest: Digest,
        files: Arc<[PolicyFile]>,
    ) -> Result<Self, LoadFailure> {
        match Index::build(&policies) {
            Ok(index) => {
                let (policies, index) = (policies.into(), Arc::new(index));
                Ok(Self { policies, index, files, hash: digest.short(), digest })
            }
            Err(problems) => {
                let refused = |policy: &&Arc<Policy>| {
                    let name = Some(&*policy.name);
                    problems.iter().any(|problem| problem.policy.as_deref() == name)
                };
                let denies = policies.iter().filter(|policy| !policy.allow && !policy.audit);
                let denied = denies.filter(refused);
                let denied = denied.map(|policy| Subjects(policy.from.clone())).collect();
                Err(LoadFailure { problems, denied })
            }
        }
    }

    /// Validates the texts of files; no I/O.
    ///
    /// # Errors
    /// [`LoadFailure`] holds every problem of every file.
    pub fn parse(files: &[(PathBuf, String)], catalog: &Catalog) -> Result<Self, LoadFailure> {
        let read = |(path, text): &(PathBuf, String)| {
            Arc::new(Parsed::read(path, text, Digest::of_text(text), catalog))
        };
        Self::of_files(&files.iter().map(read).collect::<Vec<_>>(), Vec::new())
    }

    /// Makes one set of files, each of which may be good by itself. `unread` are
    /// problems with files that could not even be read.
    pub(super) fn of_files(
        files: &[Arc<Parsed>],
        unread: Vec<PolicyProblem>,
    ) -> Result<Self, LoadFailure> {
        let problems = files.iter().flat_map(|file| &file.problems);
        let mut problems: Vec<_> = problems.take(MAX_KEPT).cloned().collect();
        let mut denied: Vec<_> = files.iter().flat_map(|file| &file.denied).cloned().collect();
        let mut names: BTreeMap<&str, Vec<(&Path, &Named)>> = BTreeMap::new();
        for file in files {
            for named in &file.named {
                names.entry(&named.name).or_default().push((&file.path, named));
            }
        }
        let mut policies = Vec::with_capacity(names.len());
        let mut digests = Vec::with_capacity(names.len());
        for bearers in names.values() {
            if let [first, again @ ..] = bearers.as_slice()
                && !again.is_empty()
            {
                let room = MAX_KEPT.saturating_sub(problems.len());
                let repeats = again.iter().map(|(file, second)| second.repeats(file, *first));
                problems.extend(repeats.take(room));
                // Which of them is meant is unknown, so each Deny counts as invalid.
                denied.extend(bearers.iter().filter_map(|(_, named)| named.denied()));
            }
            policies.extend(bearers.iter().filter_map(|(_, named)| named.policy.clone()));
            digests.extend(bearers.iter().map(|(_, named)| &named.digest));
        }
        if !problems.is_empty() || !unread.is_empty() {
            let position: BTreeMap<&Path, usize> =
                files.iter().enumerate().map(|(at, file)| (&*file.path, at)).collect();
            problems.sort_by_key(|problem| (position.get(&*problem.file).copied(), problem.line));
            return Err(LoadFailure { problems: [unread, problems].concat(), denied });
        }
        let digest = Digest::of_documents(digests.into_iter());
        let files = files.iter().map(|file| file.to_policy_file()).collect();
        Self::assemble(policies, digest, files)
    }

    /// A hash of what the policies say: equal on replicas that hold the same,
    /// whatever the files are called and however they are written.
    #[must_use]
    pub fn hash(&self) -> &Arc<str> {
        &self.hash
    }

    /// Whether both say the same, so that by the same catalog they decide the same.
    #[must_use]
    pub fn say_the_same_as(&self, other: &Self) -> bool {
        self.digest == other.digest
    }

    /// The files that they came from, in the order of reading.
    #[must_use]
    pub fn files(&self) -> &Arc<[PolicyFile]> {
        &self.files
    }

    /// How many `to` entries there are.
    #[must_use]
    pub fn rules(&self) -> usize {
        self.policies.iter().map(|policy| policy.to.len()).sum()
    }

    /// How many are in audit mode.
    #[must_use]
    pub fn audited(&self) -> usize {
        self.policies.iter().filter(|policy| policy.audit).count()
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

// === impl Named ===

impl Named {
    fn repeats(&self, file: &Path, (first_file, first): (&Path, &Self)) -> PolicyProblem {
        let place = format!("{}:{}", first_file.display(), first.line);
        PolicyProblem {
            file: file.to_owned(),
            line: self.line,
            policy: Some(shortened(&self.name).into_owned()),
            key: "metadata.name".to_owned(),
            message: format!("another policy has this name, at {place}"),
        }
    }

    fn denied(&self) -> Option<Subjects> {
        let policy = self.policy.as_ref()?;
        (!policy.allow && !policy.audit).then(|| Subjects(policy.from.clone()))
    }
}
