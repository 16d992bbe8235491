//! What every backend does, whatever its store: a suite that runs against a live
//! one and says what held.
//!
//! Tests run it over each backend of this crate; `vaultmux-mesh plugin test` runs
//! it over a plugin. It writes: give it a store that is empty, or a prefix of its
//! own. What it makes it deletes. Its names begin with `conformance`.

use std::{collections::BTreeSet, fmt, future::Future};

use futures_util::future::join_all;

use super::{BackendError, SecretBackend};
use crate::secret::{NameEncoding, NameGrammar, SecretName, SecretValue, SecretVersion};

/// What the store under test can do beyond the trait.
#[derive(Clone, Copy, Debug)]
pub struct Profile {
    /// Names it accepts.
    pub grammar: NameGrammar,
    /// Makes a name of the store's grammar out of words of letters and digits.
    pub join: fn(&[&str]) -> String,
    /// Names at the edge of the grammar, besides those that `join` makes.
    pub odd_names: &'static [&'static str],
    /// Whether older versions can be read by their id.
    pub history: bool,
    /// Whether the version before the current one is called `previous`.
    pub previous: bool,
    /// Whether it accepts a value without bytes.
    pub empty_values: bool,
    /// The longest value to try, in bytes.
    pub max_value: usize,
    /// Whether it lists names.
    pub lists: bool,
    /// How many names to list; take more than fit on one page.
    pub names: usize,
    /// Whether names are listed over more than one page.
    pub pages: bool,
    /// Whether a secret deleted without force can be neither read nor made anew.
    pub recoverable: bool,
    /// Whether it can create, update and delete at all.
    pub writable: bool,
}

/// One check and how it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What has to hold, as a sentence.
    pub name: &'static str,
    /// Whether it does.
    pub outcome: Outcome,
}

/// How a check ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It holds.
    Passed,
    /// It does not apply to this store; why.
    Skipped(&'static str),
    /// It does not hold; what was seen instead. Never a value.
    Failed(String),
}

pub(super) type Checked = Result<(), String>;

const CANARY: &str = "canary-58c1f0";

/// Fails a check unless a condition holds.
macro_rules! ensure {
    ($holds:expr, $($text:tt)+) => {
        if !$holds {
            return Err(format!($($text)+));
        }
    };
}

struct Suite<'a> {
    backend: &'a dyn SecretBackend,
    profile: Profile,
}

// === impl Profile ===

impl Profile {
    /// A writable store with slashes in its names that keeps a history: most are.
    #[must_use]
    pub fn new(grammar: NameGrammar) -> Self {
        Self {
            grammar,
            join: |words| words.join("/"),
            odd_names: &[],
            history: true,
            previous: true,
            empty_values: true,
            max_value: 60 << 10,
            lists: true,
            names: 105,
            pages: true,
            recoverable: false,
            writable: true,
        }
    }

    fn name(&self, words: &[&str]) -> Result<SecretName, String> {
        let raw = (self.join)(words);
        self.canonical(&raw)
    }

    fn canonical(&self, raw: &str) -> Result<SecretName, String> {
        self.grammar
            .canonical(raw, NameEncoding::Plain)
            .map_err(|error| format!("{raw:?} is not a name: {error}"))
    }
}

/// Runs every check, one after the other.
pub async fn run(backend: &dyn SecretBackend, profile: Profile) -> Vec<Check> {
    let suite = Suite { backend, profile };
    let writable = if profile.writable { Ok(()) } else { Err("the store is read-only") };
    let history = writable.and(if profile.history { Ok(()) } else { Err("no history is kept") });
    let recoverable =
        writable.and(if profile.recoverable { Ok(()) } else { Err("deletes are final") });
    let lists = writable.and(if profile.lists { Ok(()) } else { Err("the store does not list") });
    vec![
        check("a missing secret is not found", Ok(()), suite.missing_is_not_found()).await,
        check("missing secrets are not created by update or delete", writable, suite.no_upsert())
            .await,
        check("a secret is created, read, updated and deleted", writable, suite.life()).await,
        check("create keeps the old value", writable, suite.create_keeps_the_old_value()).await,
        check("of many concurrent creates one wins", writable, suite.one_create_wins()).await,
        check("values come back as they were", writable, suite.values_come_back()).await,
        check("odd names are names like any other", writable, suite.odd_names()).await,
        check("unknown versions are not found", writable, suite.unknown_versions()).await,
        check("older versions can be selected", history, suite.history()).await,
        check("deleted secrets are pending", recoverable, suite.pending_deletion()).await,
        check("every name is listed once, over all pages", lists, suite.listing()).await,
        check("nothing shows a value in its Debug", writable, suite.debug_shows_no_value()).await,
    ]
}

/// What stores do that compare versions themselves. `name` is there, at its first version.
#[cfg(test)]
pub(crate) async fn conditional_writes(
    backend: &dyn SecretBackend,
    name: &SecretName,
    value: &SecretValue,
) {
    let current = async || {
        let record = backend.get(name, &SecretVersion::Latest).await;
        record.map(|record| record.version).expect("it is there")
    };
    let first = current().await;
    let second = backend.update_if(name, value, &first).await.expect("the first is current");
    assert_eq!(current().await, second);
    let stale = backend.update_if(name, value, &first).await;
    assert!(matches!(stale, Err(BackendError::Conflict)), "{stale:?}");
    let races = join_all((0..8).map(|_| backend.update_if(name, value, &second))).await;
    let won = races.iter().filter(|outcome| outcome.is_ok()).count();
    // Who writes what is there already changes nothing in a store without numbers.
    assert!(won == 1 || current().await == second, "{races:?}");
    let stale = backend.delete_if(name, false, "no-such-version").await;
    assert!(matches!(stale, Err(BackendError::Conflict)), "{stale:?}");
    let last = current().await;
    backend.delete_if(name, false, &last).await.expect("the last is current");
    let gone = backend.delete_if(name, false, &last).await;
    assert!(matches!(gone, Err(BackendError::NotFound)), "{gone:?}");
}

/// Panics with a table if any check failed: for tests.
#[cfg(test)]
pub(crate) async fn assert_conforms(backend: &dyn SecretBackend, profile: Profile) {
    let checks = run(backend, profile).await;
    let failed = checks.iter().any(|check| matches!(check.outcome, Outcome::Failed(_)));
    let table: Vec<_> = checks.iter().map(ToString::to_string).collect();
    assert!(!failed, "\n{}", table.join("\n"));
}

/// The canonical form of a name that a test chose.
#[cfg(test)]
pub(crate) fn name(grammar: NameGrammar, raw: &str) -> SecretName {
    grammar.canonical(raw, NameEncoding::Plain).expect("valid name")
}

pub(super) async fn check(
    name: &'static str,
    applies: Result<(), &'static str>,
    test: impl Future<Output = Checked>,
) -> Check {
    let outcome = match applies {
        Err(reason) => Outcome::Skipped(reason),
        Ok(()) => match test.await {
            Ok(()) => Outcome::Passed,
            Err(seen) => Outcome::Failed(seen),
        },
    };
    Check { name, outcome }
}

/// An unexpected error, with what was attempted.
fn failed(what: &str) -> impl Fn(BackendError) -> String {
    move |error| format!("{what}: {}: {error}", error.kind())
}

/// Asserts an error of one kind.
fn refused<T>(what: &str, kind: &str, result: Result<T, BackendError>) -> Checked {
    match result {
        Ok(_) => Err(format!("{what}: succeeded, {kind} was expected")),
        Err(error) if error.kind() == kind => Ok(()),
        Err(error) => Err(format!("{what}: {} instead of {kind}: {error}", error.kind())),
    }
}

// === impl Suite ===

impl Suite<'_> {
    #[expect(clippy::disallowed_methods, reason = "the checks compare plaintext")]
    async fn reads(&self, name: &SecretName, expected: &[u8]) -> Checked {
        let found = self.backend.get(name, &SecretVersion::Latest).await.map_err(failed("get"))?;
        ensure!(!found.version.is_empty(), "get: the version is empty");
        let (len, wanted) = (found.value.len(), expected.len());
        ensure!(
            found.value.expose_secret() == expected,
            "get: {len} bytes that are not the {wanted} bytes written"
        );
        Ok(())
    }

    async fn create(&self, name: &SecretName, value: &str) -> Result<std::sync::Arc<str>, String> {
        self.backend.create(name, &SecretValue::new(value)).await.map_err(failed("create"))
    }

    async fn update(&self, name: &SecretName, value: &str) -> Result<std::sync::Arc<str>, String> {
        self.backend.update(name, &SecretValue::new(value)).await.map_err(failed("update"))
    }

    async fn remove(&self, name: &SecretName) -> Checked {
        self.backend.delete(name, true).await.map_err(failed("delete"))
    }

    async fn missing_is_not_found(&self) -> Checked {
        let name = self.profile.name(&["conformance", "missing"])?;
        refused("get", "not_found", self.backend.get(&name, &SecretVersion::Latest).await)
    }

    async fn no_upsert(&self) -> Checked {
        let name = self.profile.name(&["conformance", "upsert"])?;
        let value = SecretValue::new("x");
        refused("update", "not_found", self.backend.update(&name, &value).await)?;
        refused("delete", "not_found", self.backend.delete(&name, false).await)?;
        refused("get", "not_found", self.backend.get(&name, &SecretVersion::Latest).await)
    }

    async fn life(&self) -> Checked {
        let name = self.profile.name(&["conformance", "life"])?;
        let first = self.create(&name, "one").await?;
        self.reads(&name, b"one").await?;
        let second = self.update(&name, "two").await?;
        ensure!(first != second, "update: the version stayed {first}");
        let found = self.backend.get(&name, &SecretVersion::Latest).await.map_err(failed("get"))?;
        ensure!(found.version == second, "get: version {} after {second}", found.version);
        self.reads(&name, b"two").await?;
        let versions = self.backend.versions(&name).await.map_err(failed("versions"))?;
        ensure!(
            versions.iter().any(|entry| entry.id == second && entry.enabled),
            "versions: {second} is not among {versions:?}"
        );
        self.remove(&name).await?;
        refused("get", "not_found", self.backend.get(&name, &SecretVersion::Latest).await)
    }

    async fn create_keeps_the_old_value(&self) -> Checked {
        let name = self.profile.name(&["conformance", "taken"])?;
        self.create(&name, "old").await?;
        for value in ["new", "old"] {
            let value = SecretValue::new(value);
            refused("create again", "conflict", self.backend.create(&name, &value).await)?;
        }
        self.reads(&name, b"old").await?;
        self.remove(&name).await
    }

    async fn one_create_wins(&self) -> Checked {
        let name = self.profile.name(&["conformance", "race"])?;
        let values: Vec<_> = (0..16).map(|at| SecretValue::new(format!("racer {at}"))).collect();
        let made = join_all(values.iter().map(|value| self.backend.create(&name, value))).await;
        let winners: Vec<_> = (0..made.len()).filter(|at| made[*at].is_ok()).collect();
        ensure!(winners.len() == 1, "{} creates succeeded", winners.len());
        for lost in made.into_iter().filter(Result::is_err) {
            refused("create", "conflict", lost)?;
        }
        self.reads(&name, format!("racer {}", winners[0]).as_bytes()).await?;
        self.remove(&name).await
    }

    async fn values_come_back(&self) -> Checked {
        let max = self.profile.max_value;
        let mut values: Vec<Vec<u8>> = vec![
            vec![0],
            vec![0xff, 0xfe, 0, b'a'],
            (0..=255).collect(),
            b"line\r\nfeed \n".to_vec(),
            r#"{"key":"va\"lue","e":"\u00e9"}"#.as_bytes().to_vec(),
            r#"{"value":"x"}"#.as_bytes().to_vec(),
            r#""text""#.as_bytes().to_vec(),
            b"null".to_vec(),
            "\u{e9}".repeat(max / 2).into_bytes(),
            vec![0xaa; max],
        ];
        if self.profile.empty_values {
            values.push(Vec::new());
        }
        for (at, value) in values.into_iter().enumerate() {
            // Names of their own: a store may hold on to a deleted one for a while.
            let name = self.profile.name(&["conformance", "values", &at.to_string()])?;
            let first = if at % 2 == 0 { value.clone() } else { b"first".to_vec() };
            let made = self.backend.create(&name, &SecretValue::new(first)).await;
            made.map_err(failed("create"))?;
            if at % 2 == 1 {
                let made = self.backend.update(&name, &SecretValue::new(value.clone())).await;
                made.map_err(failed("update"))?;
            }
            let read = self.reads(&name, &value).await;
            read.map_err(|seen| format!("value {at}: {seen}"))?;
            self.remove(&name).await?;
        }
        Ok(())
    }

    async fn odd_names(&self) -> Checked {
        for raw in self.profile.odd_names {
            let name = self.profile.canonical(raw)?;
            self.create(&name, raw).await.map_err(|seen| format!("{raw}: {seen}"))?;
            self.reads(&name, raw.as_bytes()).await?;
            self.remove(&name).await?;
        }
        Ok(())
    }

    async fn unknown_versions(&self) -> Checked {
        let name = self.profile.name(&["conformance", "unknown"])?;
        self.create(&name, "x").await?;
        for selector in ["no-such-stage", "999999", "00000000000000000000000000004711"] {
            let version = SecretVersion::parse(selector).expect("valid selector");
            refused(selector, "not_found", self.backend.get(&name, &version).await)?;
        }
        self.remove(&name).await
    }

    #[expect(clippy::disallowed_methods, reason = "the checks compare plaintext")]
    async fn history(&self) -> Checked {
        let name = self.profile.name(&["conformance", "history"])?;
        let old = self.create(&name, "old").await?;
        let new = self.update(&name, "new").await?;
        let mut cases = vec![(&*old, "old"), (&*new, "new"), ("latest", "new")];
        if self.profile.previous {
            cases.push(("previous", "old"));
        }
        for (selector, expected) in cases {
            let version = SecretVersion::parse(selector)
                .map_err(|_| format!("{selector:?} cannot be selected"))?;
            let found = self.backend.get(&name, &version).await.map_err(failed(selector))?;
            ensure!(
                found.value.expose_secret() == expected.as_bytes(),
                "{selector}: not the {expected} value"
            );
        }
        let versions = self.backend.versions(&name).await.map_err(failed("versions"))?;
        let ids: Vec<_> = versions.iter().map(|entry| &*entry.id).collect();
        ensure!(ids.contains(&&*old) && ids.contains(&&*new), "versions: only {ids:?}");
        self.remove(&name).await
    }

    async fn pending_deletion(&self) -> Checked {
        let name = self.profile.name(&["conformance", "pending"])?;
        self.create(&name, "x").await?;
        self.backend.delete(&name, false).await.map_err(failed("delete"))?;
        let read = self.backend.get(&name, &SecretVersion::Latest).await;
        let kind = read.as_ref().err().map_or("none", BackendError::kind);
        ensure!(matches!(kind, "not_found" | "pending_deletion"), "get: {kind}");
        let made = self.backend.create(&name, &SecretValue::new("y")).await;
        refused("create", "pending_deletion", made)?;
        self.remove(&name).await
    }

    async fn listing(&self) -> Checked {
        let mut names = BTreeSet::new();
        for at in 0..self.profile.names {
            let (group, number) = ((at % 7).to_string(), at.to_string());
            names.insert(self.profile.name(&["conformance", "list", &group, &number])?);
        }
        for name in &names {
            self.create(name, "x").await?;
        }
        let (mut listed, mut pages, mut cursor) = (Vec::new(), 0, None::<String>);
        loop {
            let page = self.backend.list(cursor.as_deref()).await.map_err(failed("list"))?;
            pages += 1;
            listed.extend(page.names);
            ensure!(pages <= 10 * self.profile.names, "list: no end after {pages} pages");
            match page.cursor {
                Some(next) => cursor = Some(next),
                None => break,
            }
        }
        for name in &names {
            self.remove(name).await?;
        }
        ensure!(pages > 1 || !self.profile.pages, "list: one page held all");
        let ours = (self.profile.join)(&["conformance", "list"]);
        let ours: Vec<_> = listed.into_iter().filter(|n| n.as_str().starts_with(&ours)).collect();
        let unique: BTreeSet<_> = ours.iter().cloned().collect();
        ensure!(unique.len() == ours.len(), "list: a name came twice");
        ensure!(unique == names, "list: {} of {} names", unique.len(), names.len());
        Ok(())
    }

    async fn debug_shows_no_value(&self) -> Checked {
        let name = self.profile.name(&["conformance", "shown"])?;
        let value = SecretValue::new(CANARY);
        let mut shown = format!("{:?}", self.backend.create(&name, &value).await);
        shown += &format!("{:#?}", self.backend.get(&name, &SecretVersion::Latest).await);
        shown += &format!("{:?}", self.backend.create(&name, &value).await);
        shown += &format!("{:?}", self.backend.list(None).await);
        shown += &format!("{:?}", self.backend.versions(&name).await);
        self.remove(&name).await?;
        ensure!(!shown.contains(CANARY), "a value was shown");
        Ok(())
    }
}

// === impl Check ===

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.outcome {
            Outcome::Passed => write!(f, "passed   {}", self.name),
            Outcome::Skipped(reason) => write!(f, "skipped  {} ({reason})", self.name),
            Outcome::Failed(seen) => write!(f, "FAILED   {}: {seen}", self.name),
        }
    }
}
