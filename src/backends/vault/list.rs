//! Listing a tree of folders, page by page.
//!
//! Vault lists one folder with each call and knows no pages. The walk is depth
//! first in the order of names; a cursor is the last path that is done with, so a
//! page needs nothing but the cursor of the one before, and none makes more than
//! a bounded number of calls however the tree looks.

use crate::{
    backends::{BackendError, SecretPage},
    secret::{NameEncoding, NameGrammar, SecretName},
};

/// Names in one page of a listing.
const PAGE: usize = 100;

/// Calls for one page: one for each folder on it.
const CALLS: usize = 32;

/// In a cursor, after a folder's slash: all of it is done. Sorts after every
/// character that a name can have.
const DONE: &str = "~";

/// Where a walk stands. Paths are relative to the prefix; folders end in a slash.
struct Walk {
    /// Paths up to this one are done with.
    cursor: String,
    /// The folders that the walk is in, outermost first.
    folders: Vec<Folder>,
}

struct Folder {
    path: String,
    /// What is left of it, last first; `None` before it is listed.
    rest: Option<Vec<String>>,
}

/// What lists one folder.
pub(super) trait Folders {
    /// The names in a folder and, with a slash, its folders; none of a folder
    /// that does not exist.
    fn keys(&self, folder: &str) -> impl Future<Output = Result<Vec<String>, BackendError>> + Send;
}

/// Reads the page after `cursor`.
pub(super) async fn page(
    grammar: &NameGrammar,
    prefix: &str,
    cursor: Option<&str>,
    folders: &impl Folders,
) -> Result<SecretPage, BackendError> {
    let mut walk = Walk::resume(grammar, cursor.unwrap_or_default())?;
    let (mut names, mut calls) = (Vec::<SecretName>::new(), 0);
    while let Some(Folder { path, rest }) = walk.folders.last_mut() {
        let Some(rest) = rest else {
            if calls == CALLS {
                // A folder that was begun is known by the cursor in it.
                let begun = walk.cursor.starts_with(path.as_str());
                let cursor = if begun { walk.cursor } else { path.clone() };
                return Ok(SecretPage { names, cursor: Some(cursor) });
            }
            calls += 1;
            let found = folders.keys(&listed_path(prefix, path)).await?;
            let mut found: Vec<_> = found
                .iter()
                .filter_map(|key| relative(prefix, path, key))
                .filter(|found| is_name(grammar, found) && *found > walk.cursor)
                .collect();
            found.sort_unstable_by(|a, b| b.cmp(a));
            *rest = Some(found);
            continue;
        };
        match rest.pop() {
            None => {
                walk.cursor = format!("{path}{DONE}");
                walk.folders.pop();
            }
            Some(path) if path.ends_with('/') => walk.folders.push(Folder { path, rest: None }),
            Some(path) => {
                names.extend(grammar.canonical(&path, NameEncoding::Plain));
                walk.cursor = path;
                if names.len() == PAGE {
                    return Ok(SecretPage { names, cursor: Some(walk.cursor) });
                }
            }
        }
    }
    Ok(SecretPage { names, cursor: None })
}

/// The folder to list for a relative one. That of no name is where the prefix
/// begins to be a part of names.
fn listed_path(prefix: &str, folder: &str) -> String {
    match folder {
        "" => prefix[..prefix.rfind('/').map_or(0, |at| at + 1)].to_owned(),
        folder => format!("{prefix}{folder}"),
    }
}

/// The path of what a folder lists; `None` if it does not start with the prefix.
fn relative(prefix: &str, folder: &str, key: &str) -> Option<String> {
    let full = format!("{}{key}", listed_path(prefix, folder));
    full.strip_prefix(prefix).map(str::to_owned)
}

/// Whether it is the name of a secret, or could begin one.
fn is_name(grammar: &NameGrammar, path: &str) -> bool {
    let name = path.strip_suffix('/').unwrap_or(path);
    grammar.canonical(name, NameEncoding::Plain).is_ok()
}

// === impl Walk ===

impl Walk {
    fn resume(grammar: &NameGrammar, cursor: &str) -> Result<Self, BackendError> {
        let (begun, done) = match cursor.strip_suffix(DONE) {
            Some(folder) if folder.ends_with('/') => (folder, true),
            _ => (cursor, false),
        };
        if !begun.is_empty() && !is_name(grammar, begun) {
            return Err(BackendError::Invalid("unknown cursor".to_owned()));
        }
        let outer = begun.match_indices('/').map(|(at, _)| &begun[..=at]);
        let outer = outer.filter(|folder| !(done && *folder == begun));
        let folders = std::iter::once("").chain(outer);
        let folders = folders.map(|path| Folder { path: path.to_owned(), rest: None });
        Ok(Self { cursor: cursor.to_owned(), folders: folders.collect() })
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::{BTreeMap, BTreeSet},
        sync::Mutex,
    };

    use super::*;

    const GRAMMAR: NameGrammar = NameGrammar::new("/_+=.@-", 512);

    /// Full paths, as a mount holds them, and how often a folder was listed.
    struct Mount {
        paths: BTreeSet<String>,
        calls: Mutex<BTreeMap<String, usize>>,
    }

    impl Folders for Mount {
        async fn keys(&self, folder: &str) -> Result<Vec<String>, BackendError> {
            *self.calls.lock().unwrap().entry(folder.to_owned()).or_default() += 1;
            let below = self.paths.iter().filter_map(|path| path.strip_prefix(folder));
            let keys: BTreeSet<_> = below
                .map(|rest| {
                    rest.split_once('/').map_or(rest.to_owned(), |(dir, _)| format!("{dir}/"))
                })
                .collect();
            Ok(keys.into_iter().collect())
        }
    }

    impl Mount {
        fn of(paths: impl IntoIterator<Item = impl Into<String>>) -> Self {
            Self { paths: paths.into_iter().map(Into::into).collect(), calls: Mutex::default() }
        }

        /// All pages; checks the bounds of each.
        async fn walk(&self, prefix: &str) -> Vec<SecretPage> {
            let (mut pages, mut cursor) = (Vec::new(), None::<String>);
            loop {
                let page = page(&GRAMMAR, prefix, cursor.as_deref(), self).await.expect("listed");
                let calls = std::mem::take(&mut *self.calls.lock().unwrap());
                assert!(calls.values().all(|count| *count == 1), "{calls:?}");
                assert!(calls.len() <= CALLS && page.names.len() <= PAGE);
                assert!(pages.len() < 1000, "no end: {cursor:?}");
                cursor = page.cursor.clone();
                pages.push(page);
                if cursor.is_none() {
                    return pages;
                }
            }
        }

        async fn check(&self, prefix: &str, most_pages: usize) {
            let pages = self.walk(prefix).await;
            let listed: Vec<_> = pages.iter().flat_map(|page| &page.names).collect();
            let expected: Vec<_> = self
                .paths
                .iter()
                .filter_map(|path| path.strip_prefix(prefix))
                .filter_map(|path| GRAMMAR.canonical(path, NameEncoding::Plain).ok())
                .collect();
            assert_eq!(listed, expected.iter().collect::<Vec<_>>(), "{prefix}");
            assert!(pages.len() <= most_pages, "{} pages", pages.len());
        }
    }

    #[tokio::test]
    async fn every_name_comes_once_and_in_order() {
        let mount = Mount::of([
            "a",
            "a-b",
            "a/b",
            "a/b/c",
            "a/b/c/d",
            "a/b0",
            "a0",
            "b c",
            "b c/x",
            "mesh",
            "mesh-x",
            "mesh-x/y",
            "mesh-y/~/z",
            "mesh/a",
            "mesh/b/c",
            "z/~",
            "z/z",
            "~",
        ]);
        for prefix in ["", "a/", "mesh", "mesh/", "mesh-", "a/b", "none/", "n"] {
            mount.check(prefix, 1).await;
        }
        Mount::of([""; 0]).check("", 1).await;
    }

    #[tokio::test]
    async fn pages_and_calls_are_bounded_however_the_tree_looks() {
        // One folder; many of one secret each; one below the other.
        Mount::of((0..250).map(|at| format!("p/n{at}"))).check("p/", 3).await;
        Mount::of((0..100).map(|at| format!("p/d{at}/db"))).check("p/", 4).await;
        let deep = |depth: usize| format!("p/{}x", "d/".repeat(depth));
        Mount::of((0..200).map(deep)).check("p/", 20).await;
        Mount::of([deep(200)]).check("p/", 14).await;
        // Nothing that can be named.
        Mount::of((0..100).map(|at| format!("p/d{at}/a b"))).check("p/", 4).await;
    }

    #[tokio::test]
    async fn cursors_of_others_lead_nowhere() {
        for cursor in ["..", "a/../b", "/", "//", "a//b", "~", "a~", "a b", "/a", "%2e%2e/"] {
            let mount = Mount::of(["p/a"]);
            let page = page(&GRAMMAR, "p/", Some(cursor), &mount).await;
            assert!(matches!(page, Err(BackendError::Invalid(_))), "{cursor}: {page:?}");
            assert!(mount.calls.lock().unwrap().is_empty(), "{cursor}");
        }
    }
}
