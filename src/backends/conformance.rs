//! Checks that every backend passes, whatever its store.
//!
//! The names used begin with `conformance/`; the store is empty at first and is
//! left empty.

use std::collections::BTreeSet;

use futures_util::future::join_all;

use super::{BackendError, SecretBackend};
use crate::secret::{NameEncoding, NameGrammar, SecretName, SecretValue, SecretVersion};

/// What the store under test can do beyond the trait.
#[derive(Clone, Copy)]
pub(crate) struct Suite {
    /// Names it accepts.
    pub(crate) grammar: NameGrammar,
    /// Whether it keeps the version before the current one.
    pub(crate) previous: bool,
    /// Whether it accepts a value without bytes.
    pub(crate) empty: bool,
    /// How many names to list; take more than fit on one page.
    pub(crate) names: usize,
}

const CANARY: &str = "canary-58c1f0";

/// The canonical form of a name that the test chose.
pub(crate) fn name(grammar: NameGrammar, raw: &str) -> SecretName {
    grammar.canonical(raw, NameEncoding::Plain).expect("valid name")
}

/// Runs every check.
pub(crate) async fn check(backend: &dyn SecretBackend, suite: Suite) {
    a_secret_lives_and_dies(backend, suite).await;
    missing_secrets_stay_missing(backend, suite).await;
    create_keeps_the_old_value(backend, suite).await;
    one_of_many_creates_wins(backend, suite).await;
    values_come_back_as_they_were(backend, suite).await;
    versions_are_selected(backend, suite).await;
    names_are_listed_over_pages(backend, suite).await;
    debug_shows_no_value(backend, suite).await;
}

#[expect(clippy::disallowed_methods, reason = "the checks compare plaintext")]
async fn read(backend: &dyn SecretBackend, name: &SecretName) -> Vec<u8> {
    let record = backend.get(name, &SecretVersion::Latest).await.expect("readable");
    assert!(!record.version.is_empty());
    record.value.expose_secret().to_vec()
}

async fn remove(backend: &dyn SecretBackend, name: &SecretName) {
    backend.delete(name, true).await.expect("deleted");
}

async fn a_secret_lives_and_dies(backend: &dyn SecretBackend, suite: Suite) {
    let name = name(suite.grammar, "conformance/life/of.a_secret+1=2@x-y");
    let first = backend.create(&name, &SecretValue::new("one")).await.expect("created");
    assert_eq!(read(backend, &name).await, b"one");
    let second = backend.update(&name, &SecretValue::new("two")).await.expect("updated");
    assert_ne!(first, second);
    let record = backend.get(&name, &SecretVersion::Latest).await.expect("readable");
    assert_eq!(record.version, second);
    assert!(record.created_at.is_some());
    assert_eq!(read(backend, &name).await, b"two");
    remove(backend, &name).await;
    let gone = backend.get(&name, &SecretVersion::Latest).await;
    assert!(matches!(gone, Err(BackendError::NotFound)), "{gone:?}");
}

async fn missing_secrets_stay_missing(backend: &dyn SecretBackend, suite: Suite) {
    let name = name(suite.grammar, "conformance/missing/one");
    let updated = backend.update(&name, &SecretValue::new("x")).await;
    assert!(matches!(updated, Err(BackendError::NotFound)), "{updated:?}");
    let read = backend.get(&name, &SecretVersion::Latest).await;
    assert!(matches!(read, Err(BackendError::NotFound)), "{read:?}");
    let deleted = backend.delete(&name, false).await;
    assert!(matches!(deleted, Err(BackendError::NotFound)), "{deleted:?}");
}

async fn create_keeps_the_old_value(backend: &dyn SecretBackend, suite: Suite) {
    let name = name(suite.grammar, "conformance/taken");
    backend.create(&name, &SecretValue::new("old")).await.expect("created");
    for value in ["new", "old"] {
        let again = backend.create(&name, &SecretValue::new(value)).await;
        assert!(matches!(again, Err(BackendError::Conflict)), "{again:?}");
    }
    assert_eq!(read(backend, &name).await, b"old");
    remove(backend, &name).await;
}

async fn one_of_many_creates_wins(backend: &dyn SecretBackend, suite: Suite) {
    let name = name(suite.grammar, "conformance/race/won");
    let values: Vec<_> = (0..16).map(|at| SecretValue::new(format!("racer {at}"))).collect();
    let results = join_all(values.iter().map(|value| backend.create(&name, value))).await;
    let winners: Vec<_> = (0..16).filter(|at| results[*at].is_ok()).collect();
    assert_eq!(winners.len(), 1, "{results:?}");
    for lost in results.into_iter().filter_map(Result::err) {
        assert!(matches!(lost, BackendError::Conflict), "{lost:?}");
    }
    assert_eq!(read(backend, &name).await, format!("racer {}", winners[0]).as_bytes());
    remove(backend, &name).await;
}

async fn values_come_back_as_they_were(backend: &dyn SecretBackend, suite: Suite) {
    let name = name(suite.grammar, "conformance/values");
    let mut values: Vec<Vec<u8>> = vec![
        vec![0],
        vec![0xff, 0xfe, 0, b'a'],
        (0..=255).collect(),
        b"line\r\nfeed \n".to_vec(),
        r#"{"key":"va\"lue","e":"é"}"#.as_bytes().to_vec(),
        "é".repeat(30 << 10).into_bytes(),
        vec![0xaa; 60 << 10],
    ];
    if suite.empty {
        values.push(Vec::new());
    }
    backend.create(&name, &SecretValue::new("first")).await.expect("created");
    for value in values {
        let shown = value.len();
        backend.update(&name, &SecretValue::new(value.clone())).await.expect("updated");
        assert!(read(backend, &name).await == value, "value of {shown} bytes changed");
        remove(backend, &name).await;
        backend.create(&name, &SecretValue::new(value.clone())).await.expect("created");
        assert!(read(backend, &name).await == value, "value of {shown} bytes changed");
    }
    remove(backend, &name).await;
}

#[expect(clippy::disallowed_methods, reason = "the checks compare plaintext")]
async fn versions_are_selected(backend: &dyn SecretBackend, suite: Suite) {
    let name = name(suite.grammar, "conformance/versions");
    let old = backend.create(&name, &SecretValue::new("old")).await.expect("created");
    let new = backend.update(&name, &SecretValue::new("new")).await.expect("updated");
    let unknown = format!("{:032}", 4711);
    let mut cases = vec![(&*new, Some("new")), ("no-such-stage", None), (&*unknown, None)];
    let kept = suite.previous.then_some("old");
    cases.extend([("previous", kept), (&*old, kept)]);
    for (selector, expected) in cases {
        let version = SecretVersion::parse(selector).expect("valid selector");
        match (backend.get(&name, &version).await, expected) {
            (Ok(record), Some(value)) => {
                assert_eq!(record.value.expose_secret(), value.as_bytes(), "{selector}");
            }
            (Err(BackendError::NotFound), None) => {}
            (other, _) => panic!("{selector}: {other:?}"),
        }
    }
    remove(backend, &name).await;
}

async fn names_are_listed_over_pages(backend: &dyn SecretBackend, suite: Suite) {
    let names: BTreeSet<_> = (0..suite.names)
        .map(|at| name(suite.grammar, &format!("conformance/list/{}/{at}", at % 7)))
        .collect();
    for name in &names {
        backend.create(name, &SecretValue::new("x")).await.expect("created");
    }
    let (mut listed, mut pages, mut cursor) = (Vec::new(), 0, None);
    loop {
        let page = backend.list(cursor.as_deref()).await.expect("listed");
        pages += 1;
        listed.extend(page.names);
        cursor = page.cursor;
        if cursor.is_none() {
            break;
        }
    }
    assert!(pages > 1, "one page held all");
    assert_eq!(listed.len(), names.len(), "a name was listed twice or not at all");
    assert_eq!(listed.into_iter().collect::<BTreeSet<_>>(), names);
    for name in &names {
        remove(backend, name).await;
    }
    assert_eq!(backend.list(None).await.expect("listed").names, []);
}

async fn debug_shows_no_value(backend: &dyn SecretBackend, suite: Suite) {
    let name = name(suite.grammar, "conformance/canary");
    let value = SecretValue::new(CANARY);
    let mut shown = format!("{:?}", backend.create(&name, &value).await);
    shown += &format!("{:#?}", backend.get(&name, &SecretVersion::Latest).await);
    shown += &format!("{:?}", backend.create(&name, &value).await);
    shown += &format!("{:?}", backend.list(None).await);
    assert!(!shown.contains(CANARY), "{shown}");
    remove(backend, &name).await;
}
