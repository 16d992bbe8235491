//! Over a fake API server: what a deletion does, and what happens when it goes unseen.

use std::{convert::Infallible, sync::Mutex};

use bytes::Bytes;
use http::{Request, Response};
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::mpsc::UnboundedSender;
use tower::service_fn;

use super::*;
use crate::{
    apiserver::ApiServer,
    backends::fake::{Call, Fake, Reply},
};

const TIMEOUT: Duration = Duration::from_secs(20);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Path and query of a watch, and what to write to it with.
type Watch = (String, UnboundedSender<Bytes>);

/// An API server whose watches the test writes.
struct Cluster {
    fake: Fake,
    watches: Arc<Mutex<Vec<Watch>>>,
}

impl Cluster {
    async fn start() -> Self {
        let fake = Fake::start().await;
        let watches: Arc<Mutex<Vec<Watch>>> = Arc::default();
        let opened = Arc::clone(&watches);
        fake.on(move |call| {
            if !call.target.contains("watch=true") {
                return listed();
            }
            let (reply, sender) = Reply::open();
            opened.lock().expect("not poisoned").push((call.target.clone(), sender));
            reply
        });
        Self { fake, watches }
    }

    fn watch(&self) -> (Arc<Revocations>, WatchGuard) {
        let revocations = Arc::new(Revocations::new(DAY));
        let guard = revocations.watch(ApiServer::at(&self.fake.url, TIMEOUT).client());
        (revocations, guard)
    }

    /// The latest watch of one kind, once there is one.
    async fn watch_of(&self, kind: &str) -> UnboundedSender<Bytes> {
        let find = || {
            let watches = self.watches.lock().expect("not poisoned");
            let path = format!("/api/v1/{kind}?");
            let found = watches.iter().rposition(|(target, _)| target.starts_with(&path));
            found.map(|at| watches[at].1.clone()).filter(|watch| !watch.is_closed())
        };
        until(|| find().is_some()).await;
        find().expect("just seen")
    }
}

/// Two objects, at version 10.
fn listed() -> Reply {
    let list = json!({
        "kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1",
        "metadata": {"resourceVersion": "10"},
        "items": [object("u-1", "5"), object("u-2", "6")],
    });
    Reply::json(200, list.to_string())
}

fn object(uid: &str, version: &str) -> Value {
    json!({
        "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
        "metadata": {"name": uid, "namespace": "shop", "uid": uid, "resourceVersion": version},
    })
}

fn event(kind: &str, object: Value) -> Bytes {
    format!("{}\n", json!({"type": kind, "object": object})).into()
}

fn expired() -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": "too old resource version: 10 (99)", "reason": "Expired", "code": 410,
    })
}

/// Lets other tasks run until a condition holds.
async fn until(condition: impl Fn() -> bool) {
    let waited = tokio::time::timeout(TIMEOUT, async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    waited.await.expect("the condition holds in time");
}

#[tokio::test]
async fn deletions_revoke_and_nothing_else_does() {
    let cluster = Cluster::start().await;
    let (revocations, _guard) = cluster.watch();
    for (kind, uid) in [("pods", "u-1"), ("serviceaccounts", "u-2")] {
        let watch = cluster.watch_of(kind).await;
        watch.send(event("ADDED", object("u-3", "11"))).expect("open");
        watch.send(event("MODIFIED", object("u-3", "12"))).expect("open");
        watch.send(event("DELETED", object(uid, "13"))).expect("open");
        until(|| revocations.is_revoked(uid)).await;
    }
    for uid in ["u-3", "u-", "", "U-1"] {
        assert!(!revocations.is_revoked(uid), "{uid}");
    }
    assert_eq!(revocations.uids.iter().count(), 2, "what is there is not kept");
    assert_eq!(revocations.epoch(), 2, "each kind was listed once");
    let unknown = json!({
        "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
        "metadata": {"name": "u-4", "namespace": "shop", "resourceVersion": "14"},
    });
    cluster.watch_of("pods").await.send(event("DELETED", unknown)).expect("open");
    until(|| revocations.epoch() == 3).await;
    for call in cluster.fake.calls() {
        let accept = call.headers["accept"].to_str().expect("text");
        assert!(accept.contains("as=PartialObjectMetadata"), "{}: {accept}", call.target);
    }
}

#[tokio::test]
async fn a_watch_goes_on_where_it_stood_or_says_that_it_cannot() {
    let cluster = Cluster::start().await;
    let (revocations, _guard) = cluster.watch();
    cluster.watch_of("serviceaccounts").await;
    let first = cluster.watch_of("pods").await;
    until(|| revocations.epoch() == 2).await;
    first.send(event("MODIFIED", object("u-1", "21"))).expect("open");

    // The server ends each watch some time.
    cluster.watches.lock().expect("not poisoned").clear();
    drop(first);
    let second = cluster.watch_of("pods").await;
    assert_eq!(revocations.epoch(), 2, "nothing went unseen");
    let resumed = |call: &Call| {
        call.target.starts_with("/api/v1/pods?") && call.target.contains("resourceVersion=21")
    };
    assert_eq!(cluster.fake.calls().iter().filter(|call| resumed(call)).count(), 1);

    second.send(event("ERROR", expired())).expect("open");
    until(|| revocations.epoch() == 3).await;
    let third = cluster.watch_of("pods").await;
    third.send(event("DELETED", object("u-2", "30"))).expect("open");
    until(|| revocations.is_revoked("u-2")).await;
}

#[tokio::test]
async fn a_watch_that_cannot_start_where_it_stood_lists_anew() {
    let fake = Fake::start().await;
    fake.on(|call| match call.target.contains("watch=true") {
        false => listed(),
        true => Reply::json(410, expired().to_string()),
    });
    let revocations = Arc::new(Revocations::new(DAY));
    let _guard = revocations.watch(ApiServer::at(&fake.url, TIMEOUT).client());
    until(|| revocations.epoch() >= 3).await;
}

#[tokio::test]
async fn the_watch_ends_with_its_guard() {
    let cluster = Cluster::start().await;
    let (revocations, guard) = cluster.watch();
    let watches = [cluster.watch_of("pods").await, cluster.watch_of("serviceaccounts").await];
    until(|| revocations.epoch() == 2).await;
    drop(guard);
    for watch in watches {
        tokio::time::timeout(TIMEOUT, watch.closed()).await.expect("hung up");
    }
    until(|| Arc::strong_count(&revocations) == 1).await;
}

/// Counts the calls to an API server that answers all alike, without a connection: the
/// clock can stand still.
fn counting(status: u16, body: Value) -> (Arc<Mutex<Vec<String>>>, kube::Client) {
    let calls: Arc<Mutex<Vec<String>>> = Arc::default();
    let counted = Arc::clone(&calls);
    let service = service_fn(move |request: Request<Body>| {
        counted.lock().expect("not poisoned").push(request.uri().path().to_owned());
        let answer =
            Response::builder().status(status).body(Body::from(body.to_string().into_bytes()));
        std::future::ready(Ok::<_, Infallible>(answer.expect("valid answer")))
    });
    (calls, kube::Client::new(service, "default"))
}

#[tokio::test(start_paused = true)]
async fn what_we_may_not_watch_is_asked_for_every_few_minutes() {
    let forbidden = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": "pods is forbidden", "reason": "Forbidden", "code": 403,
    });
    for (status, body, least, most) in [
        (403, forbidden, 3, 3),
        // A proxy on the way, and a server that is down: at most every 30 seconds.
        (403, json!("no"), 3, 3),
        (500, json!({}), 15, 60),
        // An answer that cannot be read.
        (200, json!({"kind": "Other"}), 15, 60),
    ] {
        let (calls, client) = counting(status, body);
        let revocations = Arc::new(Revocations::new(DAY));
        let guard = revocations.watch(client);
        tokio::time::sleep(Duration::from_secs(2 * 300 + 10)).await;
        drop(guard);
        let pods = calls
            .lock()
            .expect("not poisoned")
            .iter()
            .filter(|path| *path == "/api/v1/pods")
            .count();
        assert!((least..=most).contains(&pods), "{status}: {pods}");
        assert_eq!(revocations.epoch(), 0);
    }
}

#[tokio::test]
async fn what_was_deleted_long_ago_is_forgotten() {
    let short = Revocations::new(Duration::from_millis(20));
    let long = Revocations::new(Duration::MAX);
    for revocations in [&short, &long] {
        revocations.uids.insert("u-1".into(), ());
    }
    until(|| !short.is_revoked("u-1")).await;
    assert!(long.is_revoked("u-1"));
}

#[test]
fn the_last_deletions_are_kept_however_many_there_are() {
    let revocations = Revocations::new(DAY);
    for number in 0..MAX_UIDS + 1000 {
        revocations.uids.insert(number.to_string().into(), ());
    }
    revocations.uids.run_pending_tasks();
    assert!(revocations.uids.entry_count() <= MAX_UIDS);
    assert!(revocations.is_revoked(&(MAX_UIDS + 999).to_string()));
    assert!(!revocations.is_revoked("0"));
}
