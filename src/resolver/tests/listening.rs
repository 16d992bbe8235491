//! Stores that tell of changes: what is forgotten, what is not, and how one goes on listening.

use std::{
    collections::VecDeque,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use futures_util::StreamExt;
use tokio::{
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    time::sleep,
};
use tokio_stream::wrappers::UnboundedReceiverStream;

use super::{
    outages::{Scripted, opened, permit},
    *,
};
use crate::{
    backends::{Change, Changes, SecretPage},
    secret::{NameEncoding, NameGrammar, SecretVersion},
};

const SECOND: Duration = Duration::from_secs(1);

type Told = Result<Change, BackendError>;
type Watch = Result<Option<UnboundedReceiver<Told>>, BackendError>;

/// A store that tells what a test writes, in one stream after the other.
struct Telling {
    inner: Arc<dyn SecretBackend>,
    watches: Mutex<VecDeque<Watch>>,
    asked: AtomicUsize,
}

impl Telling {
    fn new(store: &Arc<Scripted>, watches: Vec<Watch>) -> Arc<Self> {
        let inner = opened(store).within("");
        let (watches, asked) = (Mutex::new(watches.into()), AtomicUsize::new(0));
        Arc::new(Self { inner, watches, asked })
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl SecretBackend for Telling {
    async fn get(
        &self,
        name: &SecretName,
        version: &SecretVersion,
    ) -> Result<SecretRecord, BackendError> {
        self.inner.get(name, version).await
    }

    async fn list(&self, cursor: Option<&str>) -> Result<SecretPage, BackendError> {
        self.inner.list(cursor).await
    }

    async fn create(
        &self,
        name: &SecretName,
        value: &SecretValue,
    ) -> Result<Arc<str>, BackendError> {
        self.inner.create(name, value).await
    }

    async fn update(
        &self,
        name: &SecretName,
        value: &SecretValue,
    ) -> Result<Arc<str>, BackendError> {
        self.inner.update(name, value).await
    }

    async fn delete(&self, name: &SecretName, force: bool) -> Result<(), BackendError> {
        self.inner.delete(name, force).await
    }

    async fn versions(&self, name: &SecretName) -> Result<Vec<VersionEntry>, BackendError> {
        self.inner.versions(name).await
    }

    async fn watch(&self) -> Result<Option<Changes>, BackendError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let next = self.watches.lock().expect("not poisoned").pop_front();
        let Some(next) = next else { return std::future::pending().await };
        Ok(next?.map(|told| UnboundedReceiverStream::new(told).boxed()))
    }
}

fn resolver_of(store: &Arc<Telling>) -> Resolver {
    let store = Store::Shared(Arc::clone(store) as Arc<dyn SecretBackend>);
    let stores = HashMap::from([(fixture::local(), store)]);
    Resolver::new(stores, ResolverSettings::default(), Arc::new(Metrics::default()))
}

fn name(raw: &str) -> SecretName {
    let grammar = NameGrammar::new("/_+=.@-", 512);
    grammar.canonical(raw, NameEncoding::Plain).expect("valid")
}

fn stream() -> (UnboundedSender<Told>, Watch) {
    let (sender, told) = unbounded_channel();
    (sender, Ok(Some(told)))
}

/// Tells, and lets the listener take it in.
async fn tell(sender: &UnboundedSender<Told>, told: Told) {
    sender.send(told).expect("somebody listens");
    sleep(Duration::from_millis(1)).await;
}

async fn read(resolver: &Resolver, name: &str) -> String {
    text(resolver.resolve(&permit("local", name), soon()).await)
}

#[tokio::test(start_paused = true)]
async fn what_a_store_tells_is_read_anew_and_nothing_else_is() {
    let store = Scripted::new(|call| Ok(format!("v{call}")));
    let (sender, watch) = stream();
    let telling = Telling::new(&store, vec![watch]);
    let resolver = resolver_of(&telling);
    sleep(SECOND).await;
    assert_eq!(telling.asked(), 0, "no store is called before somebody uses it");
    for (name, value) in [("db/a", "v1"), ("db/b", "v2"), ("dbase", "v3"), ("other", "v4")] {
        assert_eq!(read(&resolver, name).await, value);
    }
    sleep(Duration::from_millis(1)).await;
    assert_eq!(telling.asked(), 1);
    tell(&sender, Ok(Change::None)).await;
    tell(&sender, Ok(Change::Secret(name("db/none")))).await;
    assert_eq!(read(&resolver, "db/a").await, "v1");
    tell(&sender, Ok(Change::Secret(name("db/a")))).await;
    assert_eq!(read(&resolver, "db/a").await, "v5");
    assert_eq!(read(&resolver, "db/b").await, "v2");
    tell(&sender, Ok(Change::Segment { namespace: None, segment: "db".into() })).await;
    assert_eq!(read(&resolver, "dbase").await, "v3");
    assert_eq!(read(&resolver, "db/a").await, "v6");
    assert_eq!(read(&resolver, "db/b").await, "v7");
    // Of another namespace, which this store does not have.
    let elsewhere = Change::Segment { namespace: Some("prod".into()), segment: "db".into() };
    tell(&sender, Ok(elsewhere)).await;
    assert_eq!(read(&resolver, "db/b").await, "v7");
    tell(&sender, Ok(Change::Any)).await;
    for (name, value) in [("db/a", "v8"), ("dbase", "v9"), ("other", "v10")] {
        assert_eq!(read(&resolver, name).await, value);
    }
    // What was under way when it was told is nobody else's value.
    store.takes(SECOND);
    let early = tokio::spawn({
        let resolver = resolver.clone();
        async move { read(&resolver, "late").await }
    });
    until(|| store.calls() == 11).await;
    tell(&sender, Ok(Change::Secret(name("late")))).await;
    assert_eq!(read(&resolver, "late").await, "v12");
    assert_eq!(early.await.expect("no panic"), "v11");
    assert_eq!(read(&resolver, "late").await, "v12");
}

#[tokio::test(start_paused = true)]
async fn one_listens_again_after_failures_and_seldom_to_what_is_refused() {
    let store = Scripted::new(|call| Ok(format!("v{call}")));
    let (first, watch) = stream();
    let (second, again) = stream();
    let down = || Err(BackendError::Unavailable(None));
    let denied = || Err(BackendError::PermissionDenied(None));
    let telling = Telling::new(&store, vec![down(), down(), denied(), watch, again, Ok(None)]);
    let resolver = resolver_of(&telling);
    read(&resolver, "db").await;
    // One second at most after the first failure, two after the second.
    sleep(4 * SECOND).await;
    assert_eq!(telling.asked(), 3);
    sleep(100 * SECOND).await;
    assert_eq!(telling.asked(), 3, "refused: nobody asks all the time");
    sleep(250 * SECOND).await;
    assert_eq!(telling.asked(), 4);
    // An error within a stream is waited out; the stream may go on.
    tell(&first, Err(BackendError::Unavailable(None))).await;
    sleep(60 * SECOND).await;
    assert_eq!(telling.asked(), 4);
    let before = store.calls();
    tell(&first, Ok(Change::Any)).await;
    read(&resolver, "db").await;
    assert_eq!(store.calls(), before + 1);
    drop(first);
    sleep(60 * SECOND).await;
    assert_eq!(telling.asked(), 5);
    // A reload with another store, or the end: nobody listens to this one any more.
    assert!(!second.is_closed());
    drop(resolver);
    sleep(SECOND).await;
    assert!(second.is_closed());
}

#[tokio::test(start_paused = true)]
async fn a_store_that_never_can_is_asked_once() {
    let store = Scripted::new(|call| Ok(format!("v{call}")));
    let telling = Telling::new(&store, vec![Ok(None)]);
    let resolver = resolver_of(&telling);
    for name in ["a", "b"] {
        read(&resolver, name).await;
        sleep(1000 * SECOND).await;
    }
    assert_eq!(telling.asked(), 1);
}
